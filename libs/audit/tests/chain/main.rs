//! Chains that are whole, and chains that somebody has been at: what was touched is named, and where it begins.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as loudly as tests")]

mod export;
mod forged;
mod made;
mod records;
