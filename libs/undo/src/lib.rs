//! Row changes into a plan that undoes them, and the plan into SQL.
//!
//! This crate is pure: changes go in, a plan and two SQL texts come out. It opens no connection and no file, and nothing in it can
//! run a statement; a person reads the script and runs it with the server's own client.
//!
//! [`Planner`] is fed every change of the affected tables from the first change to be undone up to now, in the order of the log. It
//! follows the rows that have a selected change, through changes of their key. [`Planner::finish`] then goes backwards through the
//! selected changes and gives each a [`Class`]: whether later changes that were *not* selected let it be undone without losing them.
//! What may be undone becomes a statement; the rest is listed with the value to restore and the value that is there now.
//!
//! What must hold:
//! 1. A later write that was not selected survives, unless [`Mode::Force`] was asked for and the plan shows both values.
//! 2. A statement finds exactly the row state the plan was made for, or the whole script is rolled back: every UPDATE and DELETE
//!    compares the values it replaces, and every statement is followed by a row count assertion.
//! 3. No data in comments, and nothing of the data is ever parsed as SQL: what is not plain ASCII is written in hexadecimal.
//! 4. Generated columns are never written.

mod backward;
mod dialect;
mod error;
mod explain;
mod history;
mod plan;
mod planner;
mod sql;
mod target;
mod transition;
mod value;
mod verdict;

pub use dialect::{Dialect, Mode};
pub use error::Error;
pub use plan::{By, Class, Conflict, Plan, PlannedChange, Summary};
pub use planner::{Gap, Planner};
