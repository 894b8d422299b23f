//! Real servers, folders and waiting for tests. Never part of a product.
//!
//! [`Server::shared`] gives one of the servers of `./dev up`: from the environment when `./dev test` set it, else by running `./dev up`
//! itself, so that a bare `cargo test` works too. Tests of one run share those servers and therefore work in a schema of their own
//! ([`Server::schema`]). A test that must restart, kill or misconfigure a server takes one to itself with [`Server::private`].
//!
//! Nothing here returns an error: a test that cannot have its server fails with the reason.

mod server;

use std::time::{Duration, Instant};

pub use server::{Engine, Schema, Server};

/// Asks `probe` again and again until it gives a value, for at most a minute. `what` is what the test was waiting for.
///
/// # Panics
/// When the minute is over.
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited a minute for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
