//! `trail watch` for tests: a server to follow, and the process that follows it.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use testkit::{Server, eventually};

use crate::run::{Run, ask, end, on};

/// A call that follows `server` into `store`.
pub(crate) fn watch(server: &Server, store: &Path, args: &[&str]) -> Command {
    let mut command = on(store, &[&["watch", &server.repl_url], args].concat());
    command.env("TRAIL_SOURCE_PASSWORD", &server.repl_password);
    command
}

/// Stores everything the server has now; further `args` go to `trail watch`.
pub(crate) fn catch_up(server: &Server, store: &Path, args: &[&str]) -> Run {
    end(watch(server, store, &[&["--until-caught-up"], args].concat()))
}

/// Where the server's log ends, as `--start` takes it.
pub(crate) fn here(server: &Server) -> String {
    let (file, offset) = server.position();
    format!("{file}:{offset}")
}

/// The changes of one schema as the store gives them, as text.
pub(crate) fn changes_of(store: &Path, schema: &str) -> Vec<String> {
    let run = ask(store, &["changes", "--format", "ndjson", "--order", "oldest"]);
    let mark = format!("\"schema\":\"{schema}\"");
    run.out
        .lines()
        .filter(|line| line.contains(&mark))
        .map(str::to_owned)
        .collect()
}

/// A running `trail watch`.
pub(crate) struct Watching {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
    listener: Option<JoinHandle<()>>,
}

impl Watching {
    /// Starts it.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let said = Arc::new(Mutex::new(Vec::new()));
        let heard = said.clone();
        let listener = std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                heard.lock().expect("no panic").push(line);
            }
        });
        Self {
            child,
            said,
            listener: Some(listener),
        }
    }

    /// Everything said so far.
    pub(crate) fn said(&self) -> Vec<String> {
        self.said.lock().expect("no panic").clone()
    }

    /// Waits until `count` lines with `word` were said.
    pub(crate) fn says(&self, word: &str, count: usize) {
        eventually(&format!("{count} × {word:?}"), || {
            let said = self.said();
            (said.iter().filter(|line| line.contains(word)).count() >= count).then_some(())
        });
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .expect("kill runs")
                .success()
        );
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.signal("-9");
        self.child.wait().expect("it is gone");
    }

    /// Asks it to end, and gives its exit status and what it said.
    pub(crate) fn stop(mut self, signal: &str) -> (Option<i32>, Vec<String>) {
        self.signal(signal);
        let status = self.child.wait().expect("it ends");
        self.listener.take().map(JoinHandle::join);
        (status.code(), self.said())
    }

    /// Waits for it to end by itself.
    pub(crate) fn ends(mut self) -> (Option<i32>, Vec<String>) {
        let status = eventually("the end of trail watch", || {
            self.child.try_wait().expect("it can be asked")
        });
        self.listener.take().map(JoinHandle::join);
        (status.code(), self.said())
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // Already gone in every test that went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
