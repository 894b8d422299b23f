//! Values and decisions: no I/O, no clock.

pub(crate) mod choice;
pub(crate) mod page;
pub(crate) mod plan;
pub(crate) mod redact;
pub(crate) mod sight;
