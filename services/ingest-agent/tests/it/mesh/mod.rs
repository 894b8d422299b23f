//! `trail` against a mesh: a real gRPC server behind TLS that asks a real agent's answers over a real store. The gateway and the services have
//! tests of their own, and the whole mesh is in `integration-tests`.

mod answers;
mod door;
mod people;
mod questions;
mod sessions;
mod uploads;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use self::door::Door;
use crate::{
    run::{Run, end, trail},
    shop::Closed,
};

/// The server that the mesh knows.
pub(crate) const SERVER: &str = "orders-primary";
const EMAIL: &str = "ada@example.com";
const PASSWORD: &str = "correct horse battery staple";
const KEY: &str = "tm_live_0123456789";

/// A mesh over one store, and the home of a person.
struct Mesh {
    door: Door,
    home: TempDir,
}

impl Mesh {
    fn over(store: &Closed) -> Self {
        Self {
            door: Door::open(&store.path()),
            home: tempfile::tempdir().expect("a folder"),
        }
    }

    /// A call of `trail` in that person's home, logged in or not.
    fn trail(&self, args: &[&str]) -> Command {
        let mut command = trail(args);
        command
            .env("XDG_CONFIG_HOME", self.home.path())
            .env("TRAIL_CA", &self.door.ca);
        for proxy in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"] {
            command.env_remove(proxy);
        }
        command
    }

    /// The same for a program with an API key.
    fn with_key(&self, args: &[&str]) -> Command {
        let mut command = self.trail(args);
        command
            .env("TRAIL_API_KEY", KEY)
            .env("TRAIL_MESH", &self.door.url);
        command
    }

    /// Asks about the server with the key.
    fn ask(&self, args: &[&str]) -> Run {
        let mut command = self.with_key(args);
        command.env("TRAIL_SERVER", SERVER);
        end(command)
    }

    fn profile(&self) -> PathBuf {
        self.home.path().join("trail/profiles/default.json")
    }

    /// Logs in as a script does.
    fn log_in(&self, more: &[&str]) -> Run {
        let mut args = vec!["login", "--mesh", &self.door.url, "--email", EMAIL];
        args.extend(more);
        let mut command = self.trail(&args);
        command.stdin(stdin(PASSWORD, self.home.path()));
        end(command)
    }
}

/// Standard input with one line.
fn stdin(line: &str, folder: &Path) -> std::fs::File {
    let path = folder.join("stdin");
    std::fs::write(&path, format!("{line}\n")).expect("written");
    std::fs::File::open(path).expect("a file")
}
