//! A replica in a process of its own, to be killed at any moment. The child is this test binary again, told by an environment variable to run the
//! one test that is a service; without the variable that test does nothing.

use std::{
    fs::OpenOptions,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use crate::world::{World, bind, serve};

const CHILD: &str = "TRAILMESH_TEST_QUERY_CHILD";

#[test]
fn query_of_a_child() {
    let Ok(flags) = std::env::var(CHILD) else {
        return;
    };
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (mesh, own) = flags.split_once("\n\n").unwrap();
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let runtime = bind(lines(mesh)).await;
        let mut out = std::io::stdout().lock();
        writeln!(out, "\n@{}", runtime.address()).unwrap();
        out.flush().unwrap();
        drop(out);
        serve(lines(own), runtime).await;
    });
}

/// A child at work. Dropped, it is killed.
pub(crate) struct Running {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Running {
    /// Starts a replica.
    pub(crate) fn start(world: &World) -> Self {
        let (mesh, own) = world.replica_flags();
        let flags = format!("{}\n\n{}", mesh.join("\n"), own.join("\n"));
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(world.folder.path().join("child.log"))
            .unwrap();
        // Not by its path, under which a build may put another program while this one runs (proc(5), `/proc/pid/exe`).
        let mut child = Command::new(format!("/proc/{}/exe", std::process::id()))
            .args([
                "--exact",
                "child::query_of_a_child",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(CHILD, flags)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let said = out
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix('@').and_then(|address| address.parse().ok()));
        let address = said.expect("the child says where it listens");
        Self { child, address }
    }

    /// The most memory that it had at a time, in KiB (proc(5), `VmHWM`).
    pub(crate) fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = line.and_then(|line| line.split_whitespace().next()).unwrap();
        peak.parse().unwrap()
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
