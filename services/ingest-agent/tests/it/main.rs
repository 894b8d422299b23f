//! The binary `trail` as a person or a script uses it: real stores, real processes, real pipes.

mod answers;
mod engine;
mod faults;
mod filters;
mod follow;
mod foreign;
mod formats;
mod index;
mod live;
mod mesh;
mod reads_only;
mod refusals;
mod reports;
mod run;
mod schema_from;
mod serve;
mod shop;
mod source;
mod terminal;
mod undo;
