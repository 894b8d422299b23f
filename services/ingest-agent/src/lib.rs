//! The agent beside the database, and `trail`, the tool for one machine.
//!
//! What it is: a process that reads MySQL's or MariaDB's binary log as a replica does, or from files, keeps every row change in a
//! store of its own ([`trail`]), answers what changed, when and by which transaction, and writes the SQL that would undo it
//! ([`undo`]). What it is not: a way to change a database. No path leads from here to a statement that writes; a plan is text that a
//! person reads and runs. `tests/it/reads_only.rs` keeps that.
//!
//! A run of `trail` is one of three things, and each has its place:
//!
//! * `cli`: the words of the command line become a question ([`options`] for the two engines, [`trail::Filter`] for the store) or
//!   a refusal, before anything is opened. Then one module per group of commands asks it.
//! * `render`: an answer becomes text. Data is hostile there: what goes to a terminal is escaped, what goes to a program is exact.
//! * the engines: live replication and file reading feed [`trail::Writer`].
//!
//! Standard output carries the answer and nothing else; what it covers, notes, progress and errors go to standard error. The exit
//! status says how it ended ([`exit`]), and an answer that the store cannot vouch for is given, but never with status 0.

pub mod agent;
mod cli;
pub mod error;
pub mod exit;
pub mod index;
pub mod options;
mod remote;
mod render;
pub mod serve;
pub mod source;

pub use cli::main;
