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
mod reads_only;
mod refusals;
mod reports;
mod run;
mod schema_from;
mod shop;
mod source;
mod terminal;
mod undo;
