//! Plans: what the terminal writes, again to the byte, and watched.

use std::time::Duration;

use binlog::{Charset, ColumnType};
use proto::{
    agent::v1::{self as pb, plan_undo_response::Part},
    change::v1::{self as change_pb, Filter, UndoMode},
};
use ring::digest::{SHA256, digest};
use tonic::Code;

use super::Scene;
use crate::{
    run::ask,
    shop::{self, Shop, delete, insert, update},
};

struct Told {
    head: pb::PlanHead,
    conflicts: Vec<change_pb::UndoConflict>,
    script: Vec<u8>,
    end: pb::PlanEnd,
}

impl Scene {
    async fn plan(&mut self, request: pb::PlanUndoRequest) -> Told {
        let request = pb::PlanUndoRequest {
            server_id: self.server.to_string(),
            ..request
        };
        let request = self.ask("PlanUndo", request);
        let mut stream = self
            .client
            .plan_undo(request)
            .await
            .expect("an answer")
            .into_inner();
        let (mut head, mut conflicts, mut script) = (None, Vec::new(), Vec::new());
        while let Some(message) = stream.message().await.expect("a part") {
            match message.part.expect("one") {
                Part::Head(told) => head = Some(told),
                Part::Conflict(conflict) => conflicts.push(conflict),
                Part::Script(piece) => script.extend(piece),
                Part::End(end) => {
                    return Told {
                        head: head.expect("a head"),
                        conflicts,
                        script,
                        end,
                    };
                }
            }
        }
        panic!("the plan has no end");
    }

    async fn watch(
        &mut self,
        filter: Filter,
        until: &change_pb::Position,
    ) -> tonic::Streaming<pb::WatchUndoResponse> {
        let request = pb::WatchUndoRequest {
            server_id: self.server.to_string(),
            filter: Some(filter),
            mode: UndoMode::Safe.into(),
            until: Some(until.clone()),
        };
        let request = self.ask("WatchUndo", request);
        let mut stream = self
            .client
            .watch_undo(request)
            .await
            .expect("an answer")
            .into_inner();
        let first = stream.message().await.expect("a message").expect("one");
        assert_eq!(first.stale_since, None);
        stream
    }
}

fn hex(bytes: &[u8]) -> String {
    digest(&SHA256, bytes)
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn of(gtid: &str) -> Filter {
    Filter {
        gtid: gtid.into(),
        ..Filter::default()
    }
}

#[tokio::test]
async fn a_plan_is_what_the_terminal_writes_with_its_conflicts() {
    let (store, transactions) = shop::accident();
    let mut scene = Scene::over(&store.path()).await;
    for (mode, word) in [(UndoMode::Safe, "safe"), (UndoMode::Force, "force")] {
        let told = scene
            .plan(pb::PlanUndoRequest {
                filter: Some(of(&transactions[2].gtid)),
                mode: mode.into(),
                script: true,
                conflicts: 100,
                ..Default::default()
            })
            .await;
        let run = ask(
            &store.path(),
            &["undo", "--gtid", &transactions[2].gtid, "--mode", word],
        )
        .ends_with(0);
        assert_eq!(String::from_utf8(told.script.clone()).expect("UTF-8"), run.out);
        assert_eq!(
            (&*told.head.digest, &*told.end.digest),
            (&*hex(&told.script), &*hex(&told.script))
        );
        assert_eq!(
            (&*told.head.dialect, told.head.script_bytes),
            ("mariadb", told.script.len() as u64)
        );
        assert!(told.head.coverage.expect("coverage").complete);
        let summary = told.head.summary.expect("a summary");
        assert_eq!(
            (summary.changes, summary.included),
            (3, if mode == UndoMode::Safe { 2 } else { 3 })
        );
        let [conflict] = &told.conflicts[..] else {
            panic!("{:?}", told.conflicts)
        };
        let column = &conflict.columns[0];
        assert_eq!(
            (&*conflict.key, conflict.class()),
            (r#"{"id":2}"#, change_pb::UndoClass::Overlap)
        );
        assert_eq!(
            (&*column.column, &*column.wanted, &*column.found),
            ("status", r#""new""#, r#""shipped""#)
        );
        assert_eq!(conflict.included, mode == UndoMode::Force);
        let columns = &told.head.columns[0];
        assert_eq!(
            (&*columns.table, &*columns.columns),
            ("orders", &["id", "note", "status"].map(str::to_owned)[..])
        );
        let none = scene
            .plan(pb::PlanUndoRequest {
                filter: Some(of(&transactions[2].gtid)),
                mode: mode.into(),
                ..Default::default()
            })
            .await;
        assert!(none.script.is_empty() && none.conflicts.is_empty());
        assert_eq!(
            (none.end.conflicts_left_out, none.head.digest),
            (1, told.head.digest)
        );
    }
}

#[tokio::test]
async fn a_plan_is_made_again_to_the_byte_and_says_when_it_went_stale() {
    let mut shop = Shop::mariadb();
    shop.commits(&[
        insert((1, "new", None)),
        insert((2, "new", None)),
        insert((3, "new", None)),
    ]);
    let accident = shop.commits(&[
        update((1, "new", None), (1, "lost", None)),
        delete((2, "new", None)),
    ]);
    shop.sync();
    let mut scene = Scene::over(&shop.path()).await;
    let first = scene
        .plan(pb::PlanUndoRequest {
            filter: Some(of(&accident.gtid)),
            script: true,
            ..Default::default()
        })
        .await;
    let until = first
        .head
        .summary
        .as_ref()
        .and_then(|summary| summary.until.clone())
        .expect("a position");
    assert_eq!(first.head.stale_since, None);
    let again = pb::PlanUndoRequest {
        filter: Some(of(&accident.gtid)),
        until: Some(until.clone()),
        script: true,
        ..Default::default()
    };
    // Another row of the same table: the plan stands.
    shop.commits(&[update((3, "new", None), (3, "paid", None))]);
    shop.sync();
    let second = scene.plan(again.clone()).await;
    assert_eq!(
        (second.head.stale_since.clone(), &second.script),
        (None, &first.script)
    );
    assert_eq!(second.head.summary, first.head.summary);
    // One of its rows: it is stale, and still the same to the byte.
    let touch = shop.commits(&[
        insert((9, "new", None)),
        update((1, "lost", None), (1, "shipped", None)),
    ]);
    shop.sync();
    let third = scene.plan(again.clone()).await;
    let stale = third.head.stale_since.clone().expect("a position");
    assert_eq!(format!("{}:{}", stale.file, stale.offset), touch.at);
    assert_eq!(
        (stale.ordinal, &third.script, &third.head.digest),
        (1, &first.script, &first.head.digest)
    );
    assert_eq!(third.head.summary, first.head.summary);
    // Without an end it is another plan.
    let anew = scene
        .plan(pb::PlanUndoRequest {
            until: None,
            ..again.clone()
        })
        .await;
    assert_ne!(anew.head.digest, first.head.digest);
}

#[tokio::test]
async fn a_statement_about_its_tables_and_a_hole_in_the_log_make_a_plan_stale_and_leave_its_script() {
    let mut shop = Shop::mariadb();
    shop.commits(&[insert((1, "new", None))]);
    shop.sync();
    let mut scene = Scene::over(&shop.path()).await;
    for break_it in [true, false] {
        let accident = shop.commits(&[insert((50 + i32::from(break_it), "new", None))]);
        shop.sync();
        let request = pb::PlanUndoRequest {
            filter: Some(of(&accident.gtid)),
            script: true,
            ..Default::default()
        };
        let first = scene.plan(request.clone()).await;
        if break_it {
            shop.runs(
                binlog::Statement::Alter,
                Some("orders"),
                "ALTER TABLE orders ADD COLUMN x INT",
            );
        } else {
            shop.loses("it was purged");
            shop.commits(&[insert((70, "new", None))]);
        }
        shop.sync();
        let until = first.head.summary.and_then(|summary| summary.until);
        let second = scene.plan(pb::PlanUndoRequest { until, ..request }).await;
        assert!(second.head.stale_since.is_some());
        assert_eq!(second.script, first.script);
    }
}

#[tokio::test]
async fn a_watched_plan_goes_stale_with_the_first_change_of_its_rows() {
    let mut shop = Shop::mariadb();
    shop.commits(&[insert((1, "new", None)), insert((2, "new", None))]);
    let accident = shop.commits(&[update((1, "new", None), (1, "lost", None))]);
    // The row moves on under another key before the plan is made.
    shop.commits(&[update((1, "lost", None), (7, "lost", None))]);
    shop.sync();
    let mut scene = Scene::over(&shop.path()).await;
    let plan = scene
        .plan(pb::PlanUndoRequest {
            filter: Some(of(&accident.gtid)),
            ..Default::default()
        })
        .await;
    let until = plan
        .head
        .summary
        .and_then(|summary| summary.until)
        .expect("a position");
    let mut watched = scene.watch(of(&accident.gtid), &until).await;
    shop.commits(&[update((2, "new", None), (2, "paid", None))]);
    shop.sync();
    let quiet = tokio::time::timeout(Duration::from_millis(600), watched.message()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    let touch = shop.commits(&[update((7, "lost", None), (7, "found", None))]);
    shop.sync();
    let stale = watched.message().await.expect("a message").expect("one");
    let stale = stale.stale_since.expect("a position");
    assert_eq!(format!("{}:{}", stale.file, stale.offset), touch.at);
    assert!(watched.message().await.expect("the end").is_none());
    // Who comes too late is told at once.
    let mut late = scene.watch(of(&accident.gtid), &until).await;
    assert_eq!(
        late.message().await.expect("a message").expect("one").stale_since,
        Some(stale)
    );
}

#[tokio::test]
async fn a_plan_over_everything_is_refused_and_one_over_nothing_is_empty() {
    let (store, _) = shop::accident();
    let mut scene = Scene::over(&store.path()).await;
    let request = scene.ask(
        "PlanUndo",
        pb::PlanUndoRequest {
            server_id: scene.server.to_string(),
            ..Default::default()
        },
    );
    let mut stream = scene
        .client
        .plan_undo(request)
        .await
        .expect("an answer")
        .into_inner();
    let status = stream.message().await.expect_err("a refusal");
    assert_eq!(status.code(), Code::InvalidArgument);
    let filter = Filter {
        ops: vec![change_pb::Op::Insert.into()],
        gtid: "0-1-3".into(),
        ..Filter::default()
    };
    let empty = scene
        .plan(pb::PlanUndoRequest {
            filter: Some(filter),
            script: true,
            ..Default::default()
        })
        .await;
    assert_eq!((empty.head.script_bytes, empty.script.len()), (0, 0));
    assert_eq!(
        (empty.head.summary.expect("a summary").changes, empty.head.digest),
        (0, hex(b""))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_that_nobody_reads_lets_others_plan_and_goes_on_to_the_byte() {
    let mut shop = Shop::mariadb();
    let note = "a note ".repeat(30);
    let rows = (0..4_000).map(|id| (id, "new", Some(&*note)));
    let rows: Vec<_> = rows.map(|row| update(row, (row.0, "lost", row.2))).collect();
    let large = shop.commits(&rows);
    let small = shop.commits(&[delete((1, "lost", Some(&*note)))]);
    shop.sync();
    let mut scene = Scene::over(&shop.path()).await;
    let request = pb::PlanUndoRequest {
        server_id: scene.server.to_string(),
        filter: Some(of(&large.gtid)),
        mode: UndoMode::Force.into(),
        script: true,
        ..Default::default()
    };
    let asked = scene.ask("PlanUndo", request);
    let answer = scene.client.plan_undo(asked).await.expect("an answer");
    let mut slow = answer.into_inner();
    let head = match slow.message().await.expect("a part").expect("one").part {
        Some(Part::Head(head)) => head,
        other => panic!("{other:?}"),
    };
    assert!(head.script_bytes > 600 << 10, "{}", head.script_bytes);
    // Twice: the first may find it not at rest yet.
    for _ in 0..2 {
        let other = scene
            .plan(pb::PlanUndoRequest {
                filter: Some(of(&small.gtid)),
                script: true,
                ..Default::default()
            })
            .await;
        assert_eq!(other.head.digest, hex(&other.script));
    }
    // What came since is no part of it.
    shop.commits(&[update((2, "lost", Some(&*note)), (2, "found", Some(&*note)))]);
    shop.sync();
    let mut script = Vec::new();
    while let Some(message) = slow.message().await.expect("a part") {
        match message.part.expect("one") {
            Part::Script(piece) => script.extend(piece),
            Part::End(end) => assert_eq!(end.digest, head.digest),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(hex(&script), head.digest);
}

#[tokio::test]
async fn what_is_too_large_for_a_plan_is_not_watched_either() {
    let mut shop = Shop::mariadb();
    let files = shop::table(
        "files",
        vec![
            ("id", shop::int(), false),
            (
                "content",
                ColumnType::Blob {
                    length: 4,
                    charset: Charset::new(63),
                },
                false,
            ),
        ],
        &[0],
    );
    let row = |id: i32| {
        let mut raw = vec![0, 0];
        raw.extend(id.to_le_bytes());
        raw.extend((1_u32 << 20).to_le_bytes());
        raw.resize(raw.len() + (1 << 20), b'x');
        (None, Some(raw))
    };
    let rows: Vec<_> = (0..26).map(row).collect();
    let large = shop.commits_raw(&files, &rows);
    shop.sync();
    let mut scene = Scene::over(&shop.path()).await;
    let (file, offset) = large.at.split_once(':').expect("a place");
    let request = pb::WatchUndoRequest {
        server_id: scene.server.to_string(),
        filter: Some(of(&large.gtid)),
        mode: UndoMode::Safe.into(),
        until: Some(change_pb::Position {
            file: file.into(),
            offset: offset.parse::<u64>().expect("a number") + 999,
            ..Default::default()
        }),
    };
    let request = scene.ask("WatchUndo", request);
    let answer = scene.client.watch_undo(request).await.expect("an answer");
    let refused = answer.into_inner().message().await.expect_err("too large");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(String::from_utf8_lossy(refused.details()).contains("PLAN_TOO_LARGE"));
}
