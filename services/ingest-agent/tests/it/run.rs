//! Runs the binary and takes what it says.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

/// What a run said and how it ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A call of `trail` in an environment that holds nothing of the one the tests run in.
pub(crate) fn trail(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trail"));
    for (name, _) in std::env::vars() {
        if name.starts_with("TRAIL_")
            || ["COLUMNS", "NO_COLOR", "TERM", "HOME", "XDG_DATA_HOME"].contains(&&*name)
        {
            command.env_remove(name);
        }
    }
    command.args(args).stdin(Stdio::null());
    command
}

/// The same on a store.
pub(crate) fn on(store: &Path, args: &[&str]) -> Command {
    let mut command = trail(args);
    command.env("TRAIL_STORE", store);
    command
}

/// Runs it to its end.
pub(crate) fn end(mut command: Command) -> Run {
    let output = command.output().expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Run {
        status: output.status.code().expect("no signal ended it"),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

/// Runs a question about a store.
pub(crate) fn ask(store: &Path, args: &[&str]) -> Run {
    end(on(store, args))
}

impl Run {
    /// Every line of standard output as JSON.
    pub(crate) fn ndjson(&self) -> Vec<Value> {
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.out.lines().map(parse).collect()
    }

    /// Standard output as one JSON value.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }

    /// Asserts the exit status, showing everything if it is another.
    #[track_caller]
    pub(crate) fn ends_with(self, status: i32) -> Self {
        assert_eq!(
            self.status, status,
            "\n--- stdout\n{}\n--- stderr\n{}",
            self.out, self.err
        );
        self
    }

    /// Asserts that a failure is told as the house wants it: one line, a hint at most, nothing of Rust.
    #[track_caller]
    pub(crate) fn fails(self, status: i32, words: &[&str]) -> Self {
        let run = self.ends_with(status);
        assert!(
            run.err.lines().any(|line| line.starts_with("trail: ")),
            "{}",
            run.err
        );
        for word in words {
            assert!(run.err.contains(word), "{word:?} is not in: {}", run.err);
        }
        for internal in ["panicked", "Some(", "Err(", "Custom {", "Os {"] {
            assert!(!run.err.contains(internal), "{}", run.err);
        }
        run
    }
}
