//! Service tenant as its neighbours see it: started as in production, over mutual TLS, with a real PostgreSQL.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as loudly as tests")]
#![allow(clippy::too_many_lines, reason = "a list of cases is read from top to bottom")]

mod access_rules;
mod agents;
mod audit;
mod audit_inbox;
mod audit_proof;
mod audit_read;
mod audit_whole;
mod billing;
mod bounds;
mod concurrency;
mod directory;
mod hostile;
mod invitations;
mod isolation;
mod life;
mod matrix;
mod members;
mod own_calls;
#[cfg(test)]
mod plans;
mod pools;
mod receivers;
mod rpc;
mod schema;
mod secrets;
mod servers;
mod sinks;
mod standing;
mod stripe;
mod tenants;
mod vault;
mod world;
