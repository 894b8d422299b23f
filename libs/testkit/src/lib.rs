//! Real servers, folders and waiting for tests. Never part of a product.
//!
//! [`Server::shared`] gives one of the servers of `./dev up`: from the environment when `./dev test` set it, else by running `./dev up`
//! itself, so that a bare `cargo test` works too. Tests of one run share those servers and therefore work in a schema of their own
//! ([`Server::schema`]). A test that must restart, kill or misconfigure a server takes one to itself with [`Server::private`].
//!
//! [`Postgres`] gives each test a database of its own, copied from a template; [`Redis`] a prefix; both, like [`Server`], also private
//! ones to kill or pause. [`Authority`] signs certificates, [`ChaosProxy`] spoils connections.
//!
//! [`python`] and [`node_home`] are programs of other languages, with the packages that `./dev` pins; [`Foreign`] runs clients in them.
//!
//! Nothing here returns an error: a test that cannot have its server fails with the reason.

mod authority;
mod chaos;
mod dev;
mod leftover;
mod place;
mod postgres;
mod redis;
mod rsyslog;
mod server;
mod tools;

use std::{
    hash::{BuildHasher as _, RandomState},
    net::TcpListener,
    path::{Path, PathBuf},
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

pub use authority::{Authority, Identity};
pub use chaos::ChaosProxy;
pub use place::folder;
pub use postgres::{Database, Pgbouncer, Postgres};
pub use redis::Redis;
pub use rsyslog::Rsyslog;
pub use server::{Engine, Schema, Server};
pub use tools::{Foreign, node_home, python};

/// A file of test data made by others, for example `wycheproof/json_web_signature_test.json`: from the folder that
/// `TRAILMESH_TEST_DATA` names, or `../shared/data` beside the checkout. None, said aloud, where there is no such folder.
#[expect(clippy::print_stderr, reason = "a skipped check must be seen")]
pub fn data(name: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let folder = std::env::var_os("TRAILMESH_TEST_DATA").map_or(beside, PathBuf::from);
    if !folder.is_dir() {
        eprintln!(
            "SKIPPED: no folder {} with {name}; TRAILMESH_TEST_DATA names it",
            folder.display()
        );
        return None;
    }
    Some(folder.join(name))
}

/// A port of loopback that nobody listens on, given once by this process. It is below those that the kernel gives away for connections and for
/// port 0, so that nobody has it before it is used, and below those of `./dev`'s servers.
///
/// # Panics
/// When all are taken.
pub fn free_port() -> u16 {
    // Programs begin in different places.
    static NEXT: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(RandomState::new().hash_one(()) >> 1));
    (0..10_000)
        .map(|_| 10_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 10_000)
        .filter_map(|port| u16::try_from(port).ok())
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

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
