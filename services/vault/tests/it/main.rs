//! Service vault as its neighbours see it: started as in production, over mutual TLS, with a real PostgreSQL.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as loudly as tests")]
#![allow(clippy::too_many_lines, reason = "a list of cases is read from top to bottom")]

mod child;
mod heads;
mod kms;
mod rotation;
mod seals;
mod shredding;
mod world;
