//! Width, colours, closed pipes.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use crate::{
    run::{ask, end, on},
    shop::{Shop, accident, insert},
};

/// Runs `trail` on a pseudo-terminal (script(1) of Debian's essential bsdutils) and returns all it wrote there.
fn on_a_terminal(store: &std::path::Path, arguments: &str, environment: &[(&str, &str)]) -> String {
    let line = format!("{} {arguments}", env!("CARGO_BIN_EXE_trail"));
    let mut command = Command::new("script");
    command
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .stdin(Stdio::null());
    command
        .env("TRAIL_STORE", store)
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .env("COLUMNS", "80");
    for (name, value) in environment {
        command.env(name, value);
    }
    let output = command.output().expect("script(1)");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let (store, _) = accident();
    assert!(on_a_terminal(&store.path(), "changes", &[]).contains("\u{1b}[3"));
    assert!(!on_a_terminal(&store.path(), "changes", &[("NO_COLOR", "1")]).contains('\u{1b}'));
    assert!(!on_a_terminal(&store.path(), "changes", &[("TERM", "dumb")]).contains('\u{1b}'));
    let pipe = ask(&store.path(), &["changes"]).ends_with(0);
    assert!(!pipe.out.contains('\u{1b}') && !pipe.err.contains('\u{1b}'));
}

#[test]
fn lines_fit_the_columns_there_are() {
    let mut shop = Shop::mysql();
    let long = "日本語 ".repeat(12);
    shop.query(&format!("INSERT INTO orders VALUES {}", "(…), ".repeat(40)));
    shop.commits(&[insert((1, "new", Some(&long))), insert((2, &long, None))]);
    let store = shop.close();
    for columns in ["60", "80", "200"] {
        let mut command = on(&store.path(), &["changes"]);
        command.env("COLUMNS", columns);
        let run = end(command).ends_with(0);
        for line in run.out.lines() {
            let width = unicode_width::UnicodeWidthStr::width(line);
            assert!(
                width <= columns.parse().expect("a number"),
                "{width} > {columns}: {line}"
            );
        }
    }
    let pipe = ask(&store.path(), &["changes"]).ends_with(0);
    assert!(
        pipe.out.contains(long.trim_end()) && !pipe.out.contains("日…"),
        "a pipe limits nothing"
    );
}

#[test]
fn a_reader_that_has_read_enough_is_no_error() {
    let mut shop = Shop::mariadb();
    for _ in 0..40 {
        let orders: Vec<_> = (0..500)
            .map(|id| insert((id, "new", Some("a note that fills the pipe"))))
            .collect();
        shop.commits(&orders);
    }
    let store = shop.close();
    for format in ["table", "ndjson", "json", "csv"] {
        let mut command = on(&store.path(), &["changes", "--limit", "all", "--format", format]);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let mut first = String::new();
        let mut reader = BufReader::new(child.stdout.take().expect("a pipe"));
        reader.read_line(&mut first).expect("a line");
        drop(reader);
        let output = child.wait_with_output().expect("ended");
        assert_eq!(output.status.code(), Some(0), "{format}: {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{format}");
    }
}

#[test]
fn a_full_disk_under_the_answer_is_an_error() {
    let (store, _) = accident();
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .expect("/dev/full");
    let mut command = on(&store.path(), &["changes"]);
    command.stdout(full).stderr(Stdio::piped());
    let output = command
        .spawn()
        .expect("started")
        .wait_with_output()
        .expect("ended");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&output.stderr).starts_with("trail: standard output: "),
        "{output:?}"
    );
}

#[test]
fn completions_are_there_for_three_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let run = end(crate::run::trail(&["completions", shell])).ends_with(0);
        assert!(
            run.out.contains("history") && run.out.contains("--since") || run.out.contains("since"),
            "{shell}"
        );
    }
    end(crate::run::trail(&["completions", "tcsh"])).fails(2, &["tcsh", "bash"]);
}

#[test]
fn help_and_version_are_answers() {
    for args in [&["--help"][..], &["changes", "--help"], &["--version"]] {
        let run = end(crate::run::trail(args)).ends_with(0);
        assert!(!run.out.is_empty() && run.err.is_empty());
    }
    let run = end(crate::run::trail(&[])).ends_with(2);
    assert!(run.err.contains("Usage: trail"), "{}", run.err);
}
