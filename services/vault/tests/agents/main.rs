//! Agents and what they open, as it is: the vault and service tenant as in production, over mutual TLS, with a real PostgreSQL.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as loudly as tests")]
#![allow(clippy::too_many_lines, reason = "a list of cases is read from top to bottom")]

mod authorities;
mod certificates;
mod credentials;
mod enrolment;
mod following;
mod opening;
mod world;
