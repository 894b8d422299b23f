//! Against a real PostgreSQL, and pgbouncer in transaction mode.

mod bouncer;
mod calls;
mod fixture;
mod isolation;
mod life;
mod migrations;
mod server;
mod tls;
mod transactions;
