//! The table map event.
