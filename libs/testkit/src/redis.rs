//! Redis.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::dev::{dev, dev_variables, running, signal};

/// A running Redis server.
#[derive(Debug)]
pub struct Redis {
    /// URL without TLS, with the password.
    pub url: String,
    /// URL with TLS, with the password.
    pub tls_url: String,
    /// The authority that signed its certificate.
    pub ca: PathBuf,
    /// Where a private server lives, and its process; it is stopped when dropped.
    private: Option<(PathBuf, String)>,
}

impl Redis {
    /// The server that all tests of a run share; each test has a [`prefix`](Self::prefix) of its own.
    pub fn shared() -> &'static Self {
        static SERVER: OnceLock<Redis> = OnceLock::new();
        SERVER.get_or_init(|| Self::from(&running("redis"), None))
    }

    /// A server of its own in `folder`, to be killed or paused.
    pub fn private(folder: &Path) -> Self {
        let path = folder.to_str().expect("a UTF-8 path");
        Self::from(
            &dev_variables(&["server", "start", "redis", path]),
            Some(folder.to_owned()),
        )
    }

    fn from(variables: &HashMap<String, String>, private: Option<PathBuf>) -> Self {
        let get = |name: &str| variables[&format!("TRAILMESH_TEST_REDIS_{name}")].clone();
        Self {
            url: get("URL"),
            tls_url: get("TLS_URL"),
            ca: get("CA").into(),
            private: private.map(|folder| (folder, get("PID"))),
        }
    }

    /// A prefix for keys that no other test has.
    pub fn prefix() -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        format!(
            "test-{}-{}-{}:",
            now.as_micros(),
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        )
    }

    /// Sends a signal such as `-STOP`, `-CONT` or `-KILL` to a private server.
    pub fn signal(&self, name: &str) {
        let (_, pid) = self.private.as_ref().expect("a private server");
        signal(pid, name);
    }

    /// Starts a private server again on its old port; it has forgotten everything.
    pub fn start_again(&mut self) {
        let (folder, _) = self.private.take().expect("a private server");
        let old = self.url.clone();
        *self = Self::private(&folder);
        assert_eq!(self.url, old, "the server has its old port");
    }

    /// Everything in the server, as its own dump: for searching it. Texts are as they are, not compressed.
    pub fn dump(&self) -> Vec<u8> {
        self.command(&["config", "set", "rdbcompression", "no"]);
        let dump = self.command(&["--rdb", "-"]);
        // Before it there are words of redis-cli.
        assert!(dump.windows(9).any(|bytes| bytes == b"REDIS0010"), "no dump");
        dump
    }

    /// What redis-cli prints. It takes a password without a name only from its environment.
    fn command(&self, arguments: &[&str]) -> Vec<u8> {
        let url = url::Url::parse(&self.url).expect("a URL");
        let output = Command::new("redis-cli")
            .env("REDISCLI_AUTH", url.password().unwrap_or_default())
            .args(["-h", url.host_str().expect("a host")])
            .args(["-p", &url.port().unwrap_or(6379).to_string()])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("redis-cli runs");
        assert!(
            output.status.success() && !output.stdout.starts_with(b"NOAUTH"),
            "redis-cli: {output:?}"
        );
        output.stdout
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some((folder, pid)) = &self.private {
            // A paused server would not hear the request to stop.
            let _ = Command::new("kill")
                .args(["-CONT", pid])
                .stderr(Stdio::null())
                .status();
            let stopped = Command::new(dev())
                .args(["server", "stop"])
                .arg(folder)
                .stdin(Stdio::null())
                .output();
            if !std::thread::panicking() {
                assert!(
                    stopped.is_ok_and(|output| output.status.success()),
                    "./dev server stop failed"
                );
            }
        }
    }
}
