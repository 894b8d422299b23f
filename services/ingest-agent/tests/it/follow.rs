//! `--follow`: what is committed is seen, without a gap or a repetition, until somebody ends it.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    thread,
    time::Duration,
};

use crate::{
    run::{ask, on},
    shop::{Shop, insert},
};

/// Longer than any machine needs to show a line.
const DEADLINE: Duration = Duration::from_secs(30);

struct Follower {
    child: Child,
    lines: Receiver<String>,
}

impl Follower {
    fn start(store: &Path, args: &[&str]) -> Self {
        let mut command = on(store, args);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        let (send, lines) = sync_channel(1_000);
        thread::spawn(move || {
            out.lines()
                .map_while(Result::ok)
                .try_for_each(|line| send.send(line))
        });
        Self { child, lines }
    }

    /// The next line's key.
    #[track_caller]
    fn id(&self) -> i64 {
        let line = self.lines.recv_timeout(DEADLINE).expect("a line");
        serde_json::from_str::<serde_json::Value>(&line).expect("JSON")["key"]["id"]
            .as_i64()
            .expect("an id")
    }

    /// Sends the signal, and gives what was still said and how it ended.
    fn end(mut self, signal: &str) -> (Vec<String>, i32) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", signal, &pid])
                .status()
                .expect("kill(1)")
                .success()
        );
        let mut rest = Vec::new();
        loop {
            match self.lines.recv_timeout(DEADLINE) {
                Ok(line) => rest.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it goes on"),
            }
        }
        (
            rest,
            self.child.wait().expect("ended").code().expect("not killed"),
        )
    }
}

#[test]
fn new_commits_are_printed_as_they_come_and_once() {
    for signal in ["INT", "TERM"] {
        let mut shop = Shop::mariadb();
        shop.commits(&[insert((1, "new", None)), insert((2, "new", None))]);
        shop.sync();
        let follower = Follower::start(
            &shop.path(),
            &["changes", "shop.orders", "--follow", "--format", "ndjson"],
        );
        assert_eq!([follower.id(), follower.id()], [1, 2]);
        for id in 3..10 {
            shop.commits(&[insert((id, "new", None))]);
            shop.sync();
            assert_eq!(follower.id(), i64::from(id));
        }
        assert_eq!(follower.end(signal), (Vec::new(), 0));
    }
}

#[test]
fn following_begins_with_the_last_ten_or_as_asked() {
    let mut shop = Shop::mysql();
    let mut times = Vec::new();
    for id in 0..30 {
        times.push(shop.commits(&[insert((id, "new", None))]).time.to_string());
    }
    shop.sync();
    for (args, first) in [
        (&[][..], 20),
        (&["--limit", "3"], 27),
        (&["--since", &times[5]], 5),
        (&["--limit", "all"], 0),
    ] {
        let mut all = vec!["changes", "--follow", "--format", "ndjson"];
        all.extend(args);
        let follower = Follower::start(&shop.path(), &all);
        for id in first..30 {
            assert_eq!(follower.id(), id, "{args:?}");
        }
        assert_eq!(follower.end("INT"), (Vec::new(), 0));
    }
}

#[test]
fn a_filter_holds_while_following() {
    let mut shop = Shop::mariadb();
    shop.commits(&[insert((1, "new", None))]);
    shop.sync();
    let follower = Follower::start(
        &shop.path(),
        &["history", "shop.orders", "7", "--follow", "--format", "ndjson"],
    );
    for id in [5, 6, 7, 8] {
        shop.commits(&[insert((id, "new", None))]);
        shop.sync();
    }
    assert_eq!(follower.id(), 7);
    assert_eq!(follower.end("INT"), (Vec::new(), 0));
}

#[test]
fn what_cannot_be_followed_is_refused() {
    let store = Shop::mariadb().close();
    ask(&store.path(), &["changes", "--follow", "--format", "json"]).fails(2, &["ndjson"]);
    ask(&store.path(), &["changes", "--follow", "--order", "newest"]).fails(2, &["--order newest"]);
    ask(&store.path(), &["changes", "--follow", "--until", "2026-11-21"]).fails(2, &["--until"]);
}
