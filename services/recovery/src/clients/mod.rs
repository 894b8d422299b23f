//! Neighbours' methods in our own words.

pub(crate) mod directory;
pub(crate) mod hub;
