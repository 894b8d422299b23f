//! The same question to the store and to the mesh has the same answer.

use std::sync::atomic::Ordering;

use super::{
    Mesh, SERVER,
    door::{Forgery, locked},
};
use crate::{
    run::{ask, end},
    shop::{Shop, accident, delete, insert, update},
};

/// Questions, and that each is asked of both.
const QUESTIONS: &[&[&str]] = &[
    &["changes"],
    &["changes", "--format", "json"],
    &["changes", "--format", "ndjson", "--order", "oldest"],
    &["changes", "--format", "csv"],
    &["changes", "--limit", "2"],
    &["changes", "--limit", "0"],
    &["changes", "shop.orders", "--op", "delete", "--op", "insert"],
    &[
        "changes",
        "shop.orders",
        "--key",
        "1",
        "--key",
        "3",
        "--format",
        "ndjson",
    ],
    &["changes", "shop.orders", "--column", "status"],
    &[
        "changes",
        "--since",
        "2026-11-21T10:00:01Z",
        "--until",
        "2026-11-21T10:00:02Z",
    ],
    &["changes", "--gtid", "0-1-3"],
    &["changes", "--gtid", "0-1-99"],
    &["history", "shop.orders", "1"],
    &[
        "history",
        "shop.orders",
        "1",
        "--format",
        "json",
        "--order",
        "oldest",
    ],
    &["history", "shop.orders", "2", "--limit", "1"],
    &["txn", "0-1-3"],
    &["txn", "0-1-3", "--format", "json"],
    &["txn", "0-1-3", "--order", "newest"],
    &["txn", "0-1-3", "shop.orders", "--op", "delete"],
    &["txn", "0-1-3", "--op", "insert"],
    &["txn", "0-1-3", "--limit", "1"],
    &["tables"],
    &["tables", "--format", "json"],
    &["coverage"],
    &["coverage", "--format", "ndjson"],
];

#[test]
fn every_question_has_the_answer_that_the_store_gives() {
    let (store, _) = accident();
    let mesh = Mesh::over(&store);
    for question in QUESTIONS {
        let (near, far) = (ask(&store.path(), question), mesh.ask(question));
        assert_eq!(far.out, near.out, "{question:?}\n{}", far.err);
        assert_eq!(far.err, near.err, "{question:?}");
        assert_eq!(far.status, near.status, "{question:?}");
    }
}

#[test]
fn what_is_missing_is_told_and_is_status_three() {
    let mut shop = Shop::mariadb();
    shop.commits(&[insert((1, "new", None))]);
    shop.loses("the source purged its logs");
    shop.commits(&[update((1, "new", None), (1, "paid", None))]);
    let store = shop.close();
    let mesh = Mesh::over(&store);
    for question in [
        &["changes"][..],
        &["history", "shop.orders", "1"],
        &["txn", "0-1-77"],
        &["tables"],
        &["coverage"],
    ] {
        let (near, far) = (ask(&store.path(), question), mesh.ask(question));
        assert_eq!(
            (far.status, &far.out, &far.err),
            (3, &near.out, &near.err),
            "{question:?}"
        );
    }
}

#[test]
fn statements_stand_between_the_changes_as_they_do_at_home() {
    let mut shop = Shop::mariadb();
    shop.commits(&[insert((1, "new", None))]);
    shop.runs(
        binlog::Statement::Truncate,
        Some("orders"),
        "TRUNCATE shop.orders",
    );
    shop.commits(&[insert((2, "new", None)), insert((3, "new", None))]);
    shop.runs(
        binlog::Statement::Alter,
        Some("orders"),
        "ALTER TABLE shop.orders COMMENT 'x'",
    );
    let store = shop.close();
    let mesh = Mesh::over(&store);
    for question in [
        &["changes"][..],
        &["changes", "--order", "oldest"],
        &["changes", "--limit", "2"],
        &["changes", "--limit", "3"],
        &["changes", "shop.orders", "--since", "2026-11-21T10:00:02Z"],
        &["changes", "--op", "insert"],
    ] {
        let (near, far) = (ask(&store.path(), question), mesh.ask(question));
        assert_eq!(
            (&far.out, &far.err, far.status),
            (&near.out, &near.err, near.status),
            "{question:?}"
        );
    }
    let schema = mesh.ask(&["schema", "shop.orders"]).ends_with(0);
    assert!(schema.out.contains("TRUNCATE shop.orders"), "{}", schema.out);
    assert!(schema.out.contains("columns: id, status, note"), "{}", schema.out);
}

#[test]
fn an_answer_that_breaks_off_is_taken_up_where_it_broke() {
    let (store, _) = accident();
    let mesh = Mesh::over(&store);
    for (frames, order) in [(1, "newest"), (2, "oldest"), (3, "newest")] {
        mesh.door.state.breaks.store(frames, Ordering::SeqCst);
        let question = ["changes", "--format", "ndjson", "--order", order];
        let (near, far) = (ask(&store.path(), &question), mesh.ask(&question).ends_with(0));
        assert_eq!(far.out, near.out, "after {frames} frames");
    }
    let asked = locked(&mesh.door.state.asked).len();
    assert!(asked > 9, "{asked} streams");
}

#[test]
fn what_access_rules_took_out_is_said() {
    let (store, _) = accident();
    let mesh = Mesh::over(&store);
    *locked(&mesh.door.state.hidden) = Some("status".to_owned());
    let run = mesh.ask(&["changes"]).ends_with(0);
    assert!(run.out.contains("(redacted: status, query)"), "{}", run.out);
    assert!(!run.out.contains("cancelled") && !run.err.contains("cancelled"));
    assert!(
        run.err
            .contains("note: redacted for your role: shop.orders.query, shop.orders.status"),
        "{}",
        run.err
    );
    let lines = mesh.ask(&["changes", "--format", "ndjson"]).ends_with(0).ndjson();
    assert_eq!(lines[0]["redacted"][0], "status");
    assert_eq!(lines[0]["after"]["id"], 2);
}

#[test]
fn a_server_that_nobody_knows_is_told_as_such() {
    let (store, _) = accident();
    let mesh = Mesh::over(&store);
    let mut command = mesh.with_key(&["changes"]);
    command.env("TRAIL_SERVER", "nowhere");
    end(command).fails(
        1,
        &[
            "server nowhere: there is no such server",
            "hint: trail servers lists those you may see",
        ],
    );
    let mut command = mesh.with_key(&["txn", "0-1-3"]);
    command.env("TRAIL_SERVER", "nowhere");
    end(command).fails(1, &["server nowhere: there is no such server"]);
    mesh.ask(&["changes", "shop.ordres"]).fails(1, &["shop.ordres"]);
    mesh.ask(&["changes", "shop.orders", "--key", "a,b,c"])
        .fails(2, &["hint: "]);
    mesh.ask(&["txn", "0-1-99"]).fails(
        1,
        &[
            "transaction 0-1-99: the store holds no change by it",
            "hint: trail coverage",
        ],
    );
    mesh.ask(&["changes", "--since", "1h", "--until", "2h"])
        .fails(2, &["nothing can match"]);
}

#[test]
fn a_mesh_that_is_not_there_or_not_to_be_trusted_is_69() {
    let (store, _) = accident();
    let mesh = Mesh::over(&store);
    let free = testkit::free_port();
    let mut command = mesh.with_key(&["changes", "--server", SERVER]);
    command.env("TRAIL_MESH", format!("https://localhost:{free}"));
    end(command).fails(69, &["the mesh at https://localhost:", "refused", "hint: "]);
    let other = Mesh::over(&store);
    let mut command = mesh.with_key(&["changes", "--server", SERVER]);
    command.env("TRAIL_CA", &other.door.ca);
    end(command).fails(69, &["certificate", "--ca FILE"]);
    let mut command = mesh.with_key(&["changes", "--server", SERVER]);
    command.env("TRAIL_API_KEY", "tm_live_of_nobody");
    end(command).fails(64, &["the credential does not count", "TRAIL_API_KEY"]);
}

#[test]
fn a_store_on_the_command_line_counts_for_more_than_a_server_in_the_environment() {
    let (store, _) = accident();
    let mesh = Mesh::over(&store);
    let path = store.path();
    let path = path.to_str().expect("UTF-8");
    let run = mesh.ask(&["changes", "--store", path]).ends_with(0);
    assert_eq!(run.out, ask(&store.path(), &["changes"]).out);
    assert!(locked(&mesh.door.state.asked).is_empty());
    mesh.ask(&["changes", "--store", path, "--server", SERVER])
        .fails(2, &["--store and --server"]);
}

#[test]
fn a_script_is_that_of_the_store_and_only_if_it_has_its_digest() {
    let (store, transactions) = accident();
    let mesh = Mesh::over(&store);
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let (near, far) = (file("near.sql"), file("far.sql"));
    let gtid = transactions[2].gtid.as_str();
    let at_home = ask(&store.path(), &["undo", "--txn", gtid, "-o", &near]).ends_with(0);
    let run = mesh.ask(&["undo", "--txn", gtid, "-o", &far]).ends_with(0);
    let read = |path: &str| std::fs::read_to_string(path).expect("a script");
    assert_eq!(read(&far), read(&near));
    assert_eq!(
        std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&far).expect("a file")) & 0o777,
        0o600
    );
    for line in at_home
        .err
        .lines()
        .filter(|line| line.starts_with("undo of") || line.starts_with("  "))
    {
        assert!(
            run.err.contains(line.split(", by ").next().expect("a line")),
            "{line}\n{}",
            run.err
        );
    }
    assert!(
        run.err
            .contains("note: meanwhile a change at binlog.000003:2004 touched one of its rows"),
        "{}",
        run.err
    );
    let on_stdout = mesh.ask(&["undo", "--txn", gtid]).ends_with(0);
    assert_eq!(on_stdout.out, read(&near));
    mesh.ask(&["undo", "--txn", gtid, "-o", &far])
        .fails(1, &["the file exists already"]);
    for forgery in [Forgery::Bytes, Forgery::Header, Forgery::Trailer] {
        *locked(&mesh.door.state.forges) = Some(forgery);
        let path = file("forged.sql");
        let run = mesh
            .ask(&["undo", "--txn", gtid, "-o", &path])
            .fails(1, &["does not have the digest of its plan"]);
        assert!(
            run.out.is_empty() && !std::path::Path::new(&path).exists(),
            "{forgery:?}"
        );
        assert!(mesh.ask(&["undo", "--txn", gtid]).ends_with(1).out.is_empty());
    }
}

#[test]
fn undo_refuses_what_a_mesh_cannot_do_and_says_when_there_is_nothing() {
    let (store, _) = accident();
    let mesh = Mesh::over(&store);
    mesh.ask(&["undo"]).fails(2, &["without a filter"]);
    mesh.ask(&["undo", "--gtid", "0-1-3", "--redo", "redo.sql"])
        .fails(2, &["--redo: it works on a store only"]);
    mesh.ask(&["undo", "--gtid", "0-1-3", "--auto-column", "x"])
        .fails(2, &["--auto-column"]);
    let question = ["undo", "shop.orders", "--key", "77"];
    let (near, far) = (ask(&store.path(), &question), mesh.ask(&question));
    assert_eq!((far.status, &far.out, &far.err), (1, &near.out, &near.err));
}

#[test]
fn a_follower_sees_what_comes_through_broken_streams() {
    use std::{io::BufRead, process::Stdio};
    let mut shop = Shop::mariadb();
    shop.commits(&[insert((1, "new", None)), insert((2, "new", None))]);
    shop.sync();
    let (door, home) = (
        super::Door::open(&shop.path()),
        tempfile::tempdir().expect("a folder"),
    );
    let mesh = Mesh { door, home };
    mesh.door.state.breaks.store(2, Ordering::SeqCst);
    let mut command = mesh.with_key(&["changes", "--server", SERVER, "--follow", "--limit", "1"]);
    command
        .args(["--format", "ndjson"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("started");
    let mut lines = std::io::BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut notes = std::io::BufReader::new(child.stderr.take().expect("a pipe")).lines();
    let mut next = || -> serde_json::Value {
        serde_json::from_str(&lines.next().expect("a line").expect("text")).expect("JSON")
    };
    assert_eq!(next()["key"]["id"], 2);
    for id in 3..9 {
        shop.commits(&[insert((id, "new", None))]);
        shop.sync();
        assert_eq!(next()["key"]["id"], id);
    }
    // The agent goes for a while: who follows waits for it.
    mesh.door.state.away.store(true, Ordering::SeqCst);
    shop.commits(&[
        insert((9, "new", None)),
        insert((10, "new", None)),
        insert((11, "new", None)),
    ]);
    shop.sync();
    let away = |line: &String| line.contains("no agent that follows the server is connected; trying again");
    assert!(
        notes
            .by_ref()
            .map(|line| line.expect("text"))
            .any(|line| away(&line))
    );
    mesh.door.state.away.store(false, Ordering::SeqCst);
    for id in 9..12 {
        assert_eq!(next()["key"]["id"], id);
    }
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&child),
        rustix::process::Signal::INT,
    )
    .expect("a signal");
    assert_eq!(child.wait().expect("ended").code(), Some(0));
}

#[test]
fn a_follower_who_has_seen_nothing_misses_nothing_either() {
    use std::{io::BufRead, process::Stdio};
    /// More than a stream begins with.
    const MANY: i32 = 1_200;
    let mut shop = Shop::mariadb();
    shop.commits(&[insert((1, "new", None))]);
    shop.sync();
    let (door, home) = (
        super::Door::open(&shop.path()),
        tempfile::tempdir().expect("a folder"),
    );
    let mesh = Mesh { door, home };
    // Each stream breaks after its first message.
    mesh.door.state.breaks.store(1, Ordering::SeqCst);
    let question = [
        "changes",
        "shop.orders",
        "--op",
        "delete",
        "--server",
        SERVER,
        "--follow",
    ];
    let mut command = mesh.with_key(&question);
    command
        .args(["--limit", "0", "--format", "ndjson"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("started");
    let notes = std::io::BufReader::new(child.stderr.take().expect("a pipe")).lines();
    testkit::eventually("a stream", || {
        (mesh.door.state.followed.load(Ordering::SeqCst) > 1).then_some(())
    });
    mesh.door.state.away.store(true, Ordering::SeqCst);
    let mut away = notes.map(|line| line.expect("text"));
    assert!(away.any(|line| line.contains("trying again")));
    let gone: Vec<_> = (1..=MANY).map(|id| delete((id, "new", None))).collect();
    shop.commits(&gone);
    shop.sync();
    mesh.door.state.breaks.store(0, Ordering::SeqCst);
    mesh.door.state.away.store(false, Ordering::SeqCst);
    let lines = std::io::BufReader::new(child.stdout.take().expect("a pipe")).lines();
    for (id, line) in (1..=MANY).zip(lines) {
        let line: serde_json::Value = serde_json::from_str(&line.expect("text")).expect("JSON");
        assert_eq!(line["key"]["id"], id);
    }
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&child),
        rustix::process::Signal::INT,
    )
    .expect("a signal");
    assert_eq!(child.wait().expect("ended").code(), Some(0));
}

#[test]
fn an_agent_that_is_away_is_unreachable() {
    let (store, _) = accident();
    let mesh = Mesh::over(&store);
    mesh.door.state.away.store(true, Ordering::SeqCst);
    for question in [
        &["changes"][..],
        &["changes", "--follow"],
        &["undo", "--gtid", "0-1-3"],
    ] {
        mesh.ask(question).fails(
            69,
            &["server orders-primary: no agent", "hint: start trail agent run"],
        );
    }
    mesh.ask(&["changes", "--follow", "--limit", "1001"])
        .fails(2, &["--limit", "--since"]);
}
