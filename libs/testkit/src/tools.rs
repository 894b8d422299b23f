//! Programs of other languages: where `./dev tools` installed them, and clients written in them.

use std::{
    collections::HashMap,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use crate::dev::dev_variables;

/// The interpreter of the virtual environment with what `dev.d/python.txt` names.
pub fn python() -> PathBuf {
    tool("TRAILMESH_TEST_PYTHON")
}

/// The folder whose `node_modules` has what `dev.d/node` names.
pub fn node_home() -> PathBuf {
    tool("TRAILMESH_TEST_NODE_HOME")
}

/// From the environment when `./dev test` set it, else by `./dev tools`.
pub(crate) fn tool(name: &str) -> PathBuf {
    static INSTALLED: OnceLock<HashMap<String, String>> = OnceLock::new();
    if let Some(path) = std::env::var_os(name) {
        return path.into();
    }
    let installed = INSTALLED.get_or_init(|| dev_variables(&["tools"]));
    installed[name].clone().into()
}

const GO_CLIENT: &str = "TRAILMESH_TEST_GO_CLIENT";
const JAVA_CLIENT: &str = "TRAILMESH_TEST_JAVA_CLIENT";

/// Who wrote a gRPC client that nobody here wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// Python's grpcio, on gRPC's C core.
    Python,
    /// Node's grpc-js.
    Node,
    /// grpc-go.
    Go,
    /// grpc-java.
    Java,
}

impl Foreign {
    /// Those that can run here: Python and Node always, the others where `./dev tools` could compile them. Who cannot is told of on
    /// standard error, also when the test passes.
    ///
    /// # Panics
    /// When standard error is closed.
    pub fn here() -> Vec<Self> {
        let mut here = vec![Self::Python, Self::Node];
        for (who, variable) in [(Self::Go, GO_CLIENT), (Self::Java, JAVA_CLIENT)] {
            if tool(variable).as_os_str().is_empty() {
                // Not by eprintln, which tests that pass keep for themselves.
                writeln!(
                    std::io::stderr(),
                    "DID NOT RUN: the {who:?} client, whose toolchain is not here; ./dev tools says more"
                )
                .expect("somewhere to say it");
            } else {
                here.push(who);
            }
        }
        here
    }

    /// Runs a script of `integration-tests/clients` with `task` (JSON) and gives what it prints (JSON too). Blocks, for at most two minutes.
    /// Go and Java have one only, `job`.
    pub fn run(self, script: &str, task: &str) -> String {
        let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../integration-tests/clients");
        let mut command = Command::new("timeout");
        command.arg("120");
        match self {
            Self::Python => command
                .arg(python())
                .arg("-B")
                .arg(clients.join(format!("python/{script}.py"))),
            Self::Node => command
                .arg("node")
                .arg(clients.join(format!("node/{script}.js")))
                .env("TRAILMESH_TEST_NODE_HOME", node_home()),
            Self::Go => command.arg(tool(GO_CLIENT)),
            Self::Java => command.arg(tool(JAVA_CLIENT)),
        };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("timeout starts");
        let mut input = child.stdin.take().expect("a pipe");
        input
            .write_all(task.as_bytes())
            .expect("a script that reads its task");
        drop(input);
        let output = child.wait_with_output().expect("an end");
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "{self:?} {script}: {}\n{}{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stdout)
    }
}
