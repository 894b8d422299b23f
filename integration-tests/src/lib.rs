//! Tests of the house as one system, from outside; this crate has no code of its own.
