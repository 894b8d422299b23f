//! The record of actions: entries, their chain, its proof, and the forms in which it is exported. Pure.
//!
//! A tenant's log is a chain of [`Record`]s: JSON bodies, numbered from 1, each with the hash of the one before ([`link`]). An action that
//! came through the gateway is an intent and, later, a result; what a service tells is one event; [`Entry`] puts them together. The vault
//! signs the last hash now and then ([`SignedHead`]). [`Verifier`] reads a chain from the front and names the first record that is not as
//! it was written.

mod chain;
mod event;
pub mod format;
mod head;
pub mod native;
mod record;
mod verify;

pub use chain::{Hash, genesis, link};
pub use event::{Actor, Event, Kind, Outcome};
pub use head::{Head, HeadError, Keys, SignedHead};
pub use record::{Call, Entry, Record};
pub use verify::{Finding, Link, Report, Verifier};
