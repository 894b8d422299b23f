//! Service recovery as its neighbours see it: started as in production, over mutual TLS, with a real PostgreSQL and a real service tenant. Histories
//! come from real servers of MariaDB and MySQL and are read by the agent's own code; only the connections of agents are left out: what stands
//! for service query calls the agent in this process.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as loudly as tests")]
#![allow(clippy::too_many_lines, reason = "a list of cases is read from top to bottom")]

mod hub;
mod keep;
mod lists;
mod nothing_runs;
mod plans;
mod redaction;
mod rights;
mod scripts;
mod shop;
mod watching;
mod world;
