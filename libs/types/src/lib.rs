//! The words of Trailmesh.
//!
//! Every crate may depend on this one and it depends on none of them: no I/O, no async, no framework. A word belongs here when
//! two crates must mean exactly the same by it.
//!
//! * [`Code`] and [`Fault`]: what went wrong, free of any transport; the edges map a code to an exit status, a gRPC status or an
//!   HTTP status in one place each.
//! * [`Secret`]: a value that is never printed and is wiped when dropped.
//! * [`Micros`]: an instant in microseconds, as binary logs carry it.

mod code;
mod micros;
mod secret;

pub use code::{Code, Fault, chain};
pub use micros::{Micros, MicrosError};
pub use secret::Secret;
