//! A question over a store, and the messages that answer it.
//!
//! What it is: everything between a request of `trailmesh.agent.v1.AgentService` and the encoded messages of its answer. Whoever holds a store
//! links it: the agent beside a database, and query for logs that were uploaded, which therefore answer alike. What it is not: a server. It knows
//! no connection, no delegation and no list of servers; it is given a [`Store`] and says what it holds.
//!
//! * [`names`], [`question`], [`undo`], [`follow`]: from the words of a question to the changes it chooses, and from those to a plan. The command
//!   line of `trail` takes the same way. Nothing here knows of a terminal.
//! * [`Request`] and [`answer`]: a message becomes a question, and a question a stream of messages. Reading happens on blocking threads, in slices,
//!   with bounded channels between them and whoever takes (`pump`, `turns`); a stream that is dropped stops its reading, also where nothing matches.
//!   Answers with changes are encoded as they are read (`frame`).
//! * [`Budget`]: what all answers share, so that neither their number nor their size is the machine's trouble.

mod budget;
mod error;
mod filter;
pub mod follow;
mod frame;
pub mod names;
mod plan;
mod pump;
pub mod question;
mod reports;
mod request;
mod rows;
mod store;
mod touched;
mod turns;
pub mod undo;
mod watch;
mod wire;

pub use budget::{Budget, Limits};
pub use error::Error;
pub use reports::statistics;
pub use request::{Messages, Method, Request, answer};
pub use store::{Still, Store};
pub use wire::descent;
