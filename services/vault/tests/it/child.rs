//! A vault in a process of its own, to be killed at any moment. The child is this test binary again, told by an environment variable to run the
//! one test that is a service; without the variable that test does nothing.

use std::{
    fs::{self, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Stdio},
};

use chassis::{Runtime, Settings};
use clap::Parser;

use crate::world::{World, config, signer};

const CHILD: &str = "TRAILMESH_TEST_VAULT_CHILD";

#[derive(Parser)]
struct Bare {
    #[command(flatten)]
    settings: Settings,
}

#[test]
fn vault_of_a_child() {
    let Ok(flags) = std::env::var(CHILD) else {
        return;
    };
    let (mesh, own) = flags.split_once("\n\n").unwrap();
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let settings = Bare::parse_from([vec!["vault".to_owned()], lines(mesh)].concat()).settings;
    let own = config(lines(own));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let runtime = Runtime::bind("vault", &settings, proto::DESCRIPTOR_SET)
            .await
            .unwrap();
        runtime.publish_keys(vec![signer().verifying_key()]);
        let mut out = std::io::stdout().lock();
        writeln!(out, "\n@{}", runtime.address()).unwrap();
        out.flush().unwrap();
        drop(out);
        vault::start(own, runtime).await.unwrap();
    });
}

/// A child at work. Dropped, it is killed.
pub(crate) struct Running {
    child: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Running {
    /// Starts a vault with these flags.
    pub(crate) fn start(world: &World, more: &[&str]) -> Self {
        let mesh = world.mesh_flags("vault", &[]).join("\n");
        let flags = format!("{mesh}\n\n{}", world.flags(more).join("\n"));
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(world.folder.path().join("child.log"))
            .unwrap();
        // Not by its path, under which a build may put another program while this one runs (proc(5), `/proc/pid/exe`).
        let mut child = Command::new(format!("/proc/{}/exe", std::process::id()))
            .args([
                "--exact",
                "child::vault_of_a_child",
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
            .find(|line| line.starts_with('@'));
        let running = Self { child };
        assert!(said.is_some(), "{}", running.log(world));
        running
    }

    /// What children of this world have said when they failed.
    pub(crate) fn log(&self, world: &World) -> String {
        fs::read_to_string(world.folder.path().join("child.log")).unwrap()
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
