//! Writers in processes of their own, so that they can be killed or starved. A child is this test binary again, told by an environment
//! variable to run one test that is the child's work; without the variable that test does nothing.

use std::{
    io::{BufRead, BufReader, Lines, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

const DIR: &str = "TRAIL_TEST_CHILD_DIR";

/// The folder a child shall work in; none in the tests' own process.
pub(crate) fn dir() -> Option<PathBuf> {
    std::env::var_os(DIR).map(PathBuf::from)
}

/// Tells the parent something.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    // The parent may be gone, or about to kill.
    let _ = writeln!(out, "\n@{text}").and_then(|()| out.flush());
}

/// A child at work.
pub(crate) struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// Starts the test called `test` in a process of its own, with a limit on the size of its files if there is one.
    pub(crate) fn start(test: &str, dir: &Path, file_bytes_max: Option<u64>) -> Self {
        // Not by its path, under which a build may put another program while this one runs (proc(5), `/proc/pid/exe`).
        let program = format!("/proc/{}/exe", std::process::id());
        let mut command = Command::new("sh");
        // A shell that ignores the signal hands that on, so that the limit shows as an error and not as a death.
        let limit = file_bytes_max.map_or_else(String::new, |bytes| {
            format!("trap '' XFSZ; ulimit -f {};", bytes / 512)
        });
        command
            .args(["-c", &format!("{limit} exec \"$0\" \"$@\"")])
            .arg(program);
        command
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(DIR, dir)
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// What the child says next; none when it has ended.
    pub(crate) fn hear(&mut self) -> Option<String> {
        self.lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix('@').map(str::to_owned))
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn wait(mut self) {
        while self.hear().is_some() {}
        assert!(self.child.wait().unwrap().success());
    }
}
