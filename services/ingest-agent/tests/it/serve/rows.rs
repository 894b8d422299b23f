//! Rows: the same as on the terminal, one by one.

use prost::Message as _;
use prost_types::Timestamp;
use proto::{
    agent::v1 as pb,
    change::v1::{self as change_pb, Filter, TableFilter},
};
use testkit::{Engine, Server};
use tonic::{Code, Streaming};
use types::Micros;

use super::Scene;
use crate::{
    run::ask,
    shop::{self, Shop, insert, update},
    source::catch_up,
};

/// The lines of `trail`, in which every change is an object.
fn printed(store: &std::path::Path, args: &[&str]) -> Vec<String> {
    let run = ask(store, &[args, &["--format", "ndjson"]].concat());
    run.out.lines().map(str::to_owned).collect()
}

fn lines(changes: &[change_pb::Change]) -> Vec<String> {
    let line = |change| {
        let mut line = String::new();
        change::write_change(change, &mut line);
        line
    };
    changes.iter().map(line).collect()
}

async fn all(mut stream: Streaming<pb::ChangesResponse>) -> (Vec<change_pb::Change>, pb::End) {
    let mut changes = Vec::new();
    while let Some(frame) = stream.message().await.expect("a frame") {
        changes.extend(frame.changes);
        if let Some(end) = frame.end {
            assert!(stream.message().await.expect("the end").is_none());
            return (changes, end);
        }
    }
    panic!("the answer has no end");
}

impl Scene {
    async fn changes(&mut self, request: pb::ChangesRequest) -> (Vec<change_pb::Change>, pb::End) {
        let request = pb::ChangesRequest {
            server_id: self.server.to_string(),
            ..request
        };
        let request = self.ask("Changes", request);
        all(self
            .client
            .changes(request)
            .await
            .expect("an answer")
            .into_inner())
        .await
    }

    async fn refused(&mut self, filter: Filter) -> (Code, String) {
        let request = pb::ChangesRequest {
            server_id: self.server.to_string(),
            filter: Some(filter),
            ..Default::default()
        };
        let request = self.ask("Changes", request);
        let status = match self.client.changes(request).await {
            Ok(stream) => stream.into_inner().message().await.expect_err("a refusal"),
            Err(status) => status,
        };
        (status.code(), status.message().to_owned())
    }
}

fn tables(name: &str) -> Vec<TableFilter> {
    vec![TableFilter {
        schema: "shop".into(),
        table: name.into(),
    }]
}

fn at(time: Micros) -> Option<Timestamp> {
    Some(Timestamp {
        seconds: time.0 / 1_000_000,
        nanos: 0,
    })
}

/// What is asked of the accident, on the terminal and on the wire.
fn questions(third: &shop::Transaction) -> Vec<(Vec<String>, Filter)> {
    let of = |words: &str, change: &dyn Fn(&mut Filter)| {
        let mut filter = Filter::default();
        change(&mut filter);
        (words.split(' ').map(str::to_owned).collect(), filter)
    };
    let orders = |filter: &mut Filter| filter.tables = tables("orders");
    let (time, gtid) = (third.time, &third.gtid);
    vec![
        of("changes", &|_| ()),
        of("changes shop.*", &|filter| filter.tables = tables("")),
        of("changes shop.orders --key 1", &|filter| {
            orders(filter);
            filter.keys = vec!["1".into()];
        }),
        of("changes --op delete", &|filter| {
            filter.ops = vec![change_pb::Op::Delete.into()];
        }),
        of(&format!("changes --since {time}"), &|filter| {
            filter.since = at(time)
        }),
        of(&format!("changes --until {time}"), &|filter| {
            filter.until = at(time)
        }),
        of(&format!("changes --gtid {gtid}"), &|filter| {
            filter.gtid.clone_from(gtid);
        }),
        of("changes shop.orders --column note", &|filter| {
            orders(filter);
            filter.column = "note".into();
        }),
        of(&format!("txn {}", third.at), &|filter| {
            filter.transaction.clone_from(&third.at);
        }),
    ]
}

/// Asks in pages of two.
async fn in_pages(scene: &mut Scene, request: &pb::ChangesRequest) -> Vec<change_pb::Change> {
    let mut pages: Vec<change_pb::Change> = Vec::new();
    loop {
        let page = pb::ChangesRequest {
            after: pages.last().and_then(|change| change.position.clone()),
            limit: 2,
            ..request.clone()
        };
        let (page, end) = scene.changes(page).await;
        assert!(page.len() <= 2);
        pages.extend(page);
        if !end.more {
            return pages;
        }
    }
}

#[tokio::test]
async fn every_filter_finds_what_the_terminal_finds() {
    let (store, transactions) = shop::accident();
    let mut scene = Scene::over(&store.path()).await;
    for (args, filter) in questions(&transactions[2]) {
        for (name, order) in [
            ("oldest", change_pb::Order::Oldest),
            ("newest", change_pb::Order::Newest),
        ] {
            let mut words: Vec<&str> = args.iter().map(String::as_str).collect();
            words.extend(["--order", name]);
            let wanted = printed(&store.path(), &words);
            assert!(!wanted.is_empty(), "{words:?}");
            let request = pb::ChangesRequest {
                filter: Some(filter.clone()),
                order: order.into(),
                ..Default::default()
            };
            let (found, end) = scene.changes(request.clone()).await;
            assert_eq!(lines(&found), wanted, "{words:?}");
            assert!(!end.more && end.coverage.expect("coverage").complete, "{words:?}");
            let pages = in_pages(&mut scene, &request).await;
            assert_eq!(lines(&pages), wanted, "{words:?} in pages");
            // Single changes of it, chosen by their places.
            let chosen: Vec<_> = found.iter().step_by(2).cloned().collect();
            let positions = chosen.iter().filter_map(|change| change.position.clone());
            let some = pb::ChangesRequest {
                filter: Some(Filter {
                    positions: positions.collect(),
                    ..filter.clone()
                }),
                ..request
            };
            assert_eq!(scene.changes(some).await.0, chosen, "{words:?} by place");
        }
    }
}

/// Holds the bytes of every change against those of its message.
fn encodes_as_prost_does(store: &std::path::Path) {
    let mut encoder = change::Encoder::default();
    let reader = trail::Reader::open(store).expect("a store");
    for change in reader.find(&trail::Filter::default()).expect("changes") {
        let change = change.expect("a change");
        let message = change::message(&change).expect("a message").encode_to_vec();
        assert_eq!(
            encoder.encode(&change).expect("bytes"),
            message,
            "{}",
            change.table.name
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_both_servers_are_those_of_the_terminal() {
    for engine in [Engine::Mariadb, Engine::Mysql8] {
        let folder = tempfile::tempdir().expect("a folder");
        let store = folder.path().join("store");
        let written = tokio::task::spawn_blocking({
            let store = store.clone();
            move || {
                let server = Server::shared(engine);
                let schema = server.schema("served");
                let start = crate::source::here(server);
                server.sql(&format!(
                    "CREATE TABLE {name}.t (id BIGINT UNSIGNED PRIMARY KEY, a DECIMAL(20,5), b DOUBLE, f FLOAT, d DATE, t TIME(3), dt DATETIME(6), ts TIMESTAMP NULL,
                     y YEAR, e ENUM('x','y'), s SET('p','q'), bt BIT(9), txt TEXT CHARACTER SET utf8mb4, l VARCHAR(20) CHARACTER SET latin1, bin VARBINARY(30), j JSON, g GEOMETRY);
                     INSERT INTO {name}.t VALUES (18446744073709551615, 12.5, 1e300, 0.1, '2026-02-03', '-12:30:01.5', '2026-01-02 03:04:05.678901', '2026-05-06 07:08:09',
                       2026, 'y', 'p,q', b'101', 'räksmörgås 🦐', 'é', x'00ff', '{{\"a\":[1,2.5,null]}}', ST_GeomFromText('POINT(1 2)')), (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
                     UPDATE {name}.t SET a = a + 1, txt = 'y' WHERE id > 2; DELETE FROM {name}.t WHERE id = 2; CREATE TABLE {name}.free (v INT); INSERT INTO {name}.free VALUES (-3), (-3)",
                    name = schema.name
                ));
                catch_up(server, &store, &["--start", &start]).ends_with(0);
                schema.name.clone()
            }
        });
        let schema = written.await.expect("a store");
        let wanted = printed(&store, &["changes", "--order", "oldest"]);
        assert!(wanted.len() >= 6, "{wanted:?}");
        let mut scene = Scene::over(&store).await;
        let (found, _) = scene.changes(pb::ChangesRequest::default()).await;
        assert_eq!(lines(&found), wanted, "{}", engine.name());
        encodes_as_prost_does(&store);
        let request = scene.ask(
            "History",
            pb::HistoryRequest {
                server_id: scene.server.to_string(),
                table: Some(TableFilter {
                    schema: schema.clone(),
                    table: "t".into(),
                }),
                key: "18446744073709551615".into(),
                ..Default::default()
            },
        );
        let mut stream = scene
            .client
            .history(request)
            .await
            .expect("an answer")
            .into_inner();
        let frame = stream.message().await.expect("a frame").expect("one");
        let table = format!("{schema}.t");
        let wanted = printed(&store, &["history", &table, "18446744073709551615"]);
        assert_eq!((lines(&frame.changes), wanted.len()), (wanted.clone(), 2));
        let tables = scene.ask(
            "Tables",
            pb::TablesRequest {
                server_id: scene.server.to_string(),
                ..pb::TablesRequest::default()
            },
        );
        let tables = scene
            .client
            .tables(tables)
            .await
            .expect("an answer")
            .into_inner()
            .tables;
        let t = tables.iter().find(|known| known.table == "t").expect("the table");
        assert_eq!((t.inserts, t.updates, t.deletes), (2, 1, 1));
        assert_eq!((t.columns.len(), &*t.key), (17, &["id".to_owned()][..]));
    }
}

#[tokio::test]
async fn a_transaction_comes_with_its_statements_and_an_unknown_one_is_not_found() {
    let mut shop = Shop::mariadb();
    let first = shop.commits(&[insert((1, "new", None)), insert((2, "new", None))]);
    let second = shop.runs(binlog::Statement::Truncate, Some("orders"), "TRUNCATE orders");
    let store = shop.close();
    let mut scene = Scene::over(&store.path()).await;
    for (name, rows, statements) in [(&first.gtid, 2, 0), (&first.at, 2, 0), (&second.gtid, 0, 1)] {
        let request = pb::TransactionRequest {
            server_id: scene.server.to_string(),
            transaction: name.clone(),
            ..Default::default()
        };
        let request = scene.ask("Transaction", request);
        let mut stream = scene
            .client
            .transaction(request)
            .await
            .expect("an answer")
            .into_inner();
        let frame = stream.message().await.expect("a frame").expect("one");
        assert_eq!(
            (frame.changes.len(), frame.schema_changes.len()),
            (rows, statements),
            "{name}"
        );
        assert!(frame.end.and_then(|end| end.coverage).expect("coverage").complete);
    }
    let request = pb::TransactionRequest {
        server_id: scene.server.to_string(),
        transaction: "binlog.000003:5".into(),
        ..Default::default()
    };
    let request = scene.ask("Transaction", request);
    let mut stream = scene
        .client
        .transaction(request)
        .await
        .expect("an answer")
        .into_inner();
    let status = stream.message().await.expect_err("nothing");
    assert_eq!(status.code(), Code::NotFound);
    assert!(String::from_utf8_lossy(status.details()).contains("TRANSACTION_NOT_FOUND"));
}

#[tokio::test]
async fn large_answers_come_in_frames_and_end_where_the_bytes_do() {
    let mut shop = Shop::sealing();
    let text = "x".repeat(150);
    for id in 0..3_000 {
        shop.commits(&[insert((id, &text, None))]);
    }
    shop.sync();
    let mut scene = Scene::over(&shop.path()).await;
    let request = scene.ask(
        "Changes",
        pb::ChangesRequest {
            server_id: scene.server.to_string(),
            ..Default::default()
        },
    );
    let mut stream = scene
        .client
        .changes(request)
        .await
        .expect("an answer")
        .into_inner();
    let (mut frames, mut rows) = (0, 0);
    while let Some(frame) = stream.message().await.expect("a frame") {
        let size = frame.encoded_len();
        assert!(size < 70_000, "{size}");
        frames += 1;
        rows += frame.changes.len();
    }
    assert_eq!(rows, 3_000);
    assert!((8..30).contains(&frames), "{frames}");
    let (some, end) = scene
        .changes(pb::ChangesRequest {
            max_bytes: 100_000,
            ..Default::default()
        })
        .await;
    assert!(
        end.more && some.len() > 100 && some.len() < 1_000,
        "{}",
        some.len()
    );
    let mut all = some;
    let rest = pb::ChangesRequest {
        after: all.last().and_then(|change| change.position.clone()),
        ..Default::default()
    };
    all.extend(scene.changes(rest).await.0);
    assert_eq!(all.len(), 3_000);
}

/// Filters that no answer can be given to, and a word of what is said.
fn wrong_filters() -> Vec<(Filter, &'static str)> {
    let of = |name: &str, change: &dyn Fn(&mut Filter)| {
        let mut filter = Filter {
            tables: if name.is_empty() { Vec::new() } else { tables(name) },
            ..Filter::default()
        };
        change(&mut filter);
        filter
    };
    vec![
        (of("order", &|_| ()), "shop.order"),
        (
            of("orders", &|filter| filter.column = "not".into()),
            "no column not",
        ),
        (of("", &|filter| filter.keys = vec!["1".into()]), "one table"),
        (
            of("orders", &|filter| filter.keys = vec!["x".into()]),
            "not a value",
        ),
        (of("", &|filter| filter.ops = vec![9]), "kind"),
        (of("", &|filter| filter.gtid = "nonsense".into()), "GTID"),
        (
            of("", &|filter| filter.transaction = "0-1-1".into()),
            "FILE:OFFSET",
        ),
        (
            of("", &|filter| {
                filter.tables = vec![tables("orders").remove(0); 10_001]
            }),
            "10000 is the most",
        ),
    ]
}

#[tokio::test]
async fn what_is_wrong_with_a_filter_is_told_by_its_field_and_names_nothing_else() {
    let (store, _) = shop::accident();
    let mut scene = Scene::over(&store.path()).await;
    for (filter, word) in wrong_filters() {
        let (code, message) = scene.refused(filter).await;
        assert_eq!(code, Code::InvalidArgument, "{message}");
        assert!(message.contains(word), "{message} has no {word}");
        for secret in ["shop.orders?", "status", "note", "did you mean"] {
            assert!(!message.contains(secret), "{message}");
        }
    }
}

#[tokio::test]
async fn a_server_without_a_store_yet_has_empty_answers_and_a_foreign_one_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut scene = Scene::over(&folder.path().join("none")).await;
    let (found, end) = scene.changes(pb::ChangesRequest::default()).await;
    let coverage = end.coverage.expect("coverage");
    assert!(found.is_empty() && !coverage.complete);
    assert_eq!(coverage.because, "nothing has been read yet");
    let status = scene.ask(
        "Status",
        pb::StatusRequest {
            server_id: scene.server.to_string(),
        },
    );
    let status = scene.client.status(status).await.expect("an answer").into_inner();
    assert_eq!(status.state.expect("a state").changes, 0);
    let other = types::ServerId::fresh();
    let foreign = pb::StatusRequest {
        server_id: other.to_string(),
    };
    let delegation = scene.delegation_about(other, "Status");
    let status = scene
        .client
        .status(super::with(foreign.clone(), &delegation))
        .await;
    assert_eq!(status.expect_err("a refusal").code(), Code::NotFound);
    // Nor is anything told of it to who may ask about another one.
    let status = scene.client.status(scene.ask("Status", foreign)).await;
    assert_eq!(status.expect_err("a refusal").code(), Code::Unauthenticated);
    scene.stores.remove(scene.server);
    let gone = scene.ask(
        "Coverage",
        pb::CoverageRequest {
            server_id: scene.server.to_string(),
        },
    );
    assert_eq!(
        scene.client.coverage(gone).await.expect_err("a refusal").code(),
        Code::NotFound
    );
}

#[tokio::test]
async fn following_begins_with_the_last_ones_and_goes_on_with_what_is_committed() {
    let mut shop = Shop::mariadb();
    for id in 0..20 {
        shop.commits(&[insert((id, "new", None))]);
    }
    shop.sync();
    let mut scene = Scene::over(&shop.path()).await;
    let request = pb::ChangesRequest {
        server_id: scene.server.to_string(),
        follow: true,
        last: Some(3),
        ..Default::default()
    };
    let request = scene.ask("Changes", request);
    let mut stream = scene
        .client
        .changes(request)
        .await
        .expect("an answer")
        .into_inner();
    let first = stream.message().await.expect("a frame").expect("one");
    let keys = |changes: &[change_pb::Change]| {
        let id = |change: &change_pb::Change| {
            let mut text = String::new();
            change::write_row(change.key.as_ref().expect("a key"), &mut text);
            text
        };
        changes.iter().map(id).collect::<Vec<_>>()
    };
    assert_eq!(
        keys(&first.changes),
        [r#"{"id":17}"#, r#"{"id":18}"#, r#"{"id":19}"#]
    );
    assert!(first.end.is_some());
    for id in 20..23 {
        shop.commits(&[
            insert((id, "new", None)),
            update((1, "new", None), (1, "paid", None)),
        ]);
        shop.sync();
        let next = stream.message().await.expect("a frame").expect("one");
        assert_eq!(
            keys(&next.changes),
            [format!(r#"{{"id":{id}}}"#), r#"{"id":1}"#.to_owned()]
        );
        assert_eq!(
            next.end
                .and_then(|end| end.coverage)
                .expect("coverage")
                .gaps
                .len(),
            0
        );
    }
    shop.loses("the server was away");
    shop.commits(&[insert((30, "new", None))]);
    shop.sync();
    let next = stream.message().await.expect("a frame").expect("one");
    assert_eq!(
        next.end
            .and_then(|end| end.coverage)
            .expect("coverage")
            .gaps
            .len(),
        1
    );
}

#[tokio::test]
async fn counting_counts_by_table_and_kind_up_to_a_limit() {
    let (store, _) = shop::accident();
    let mut scene = Scene::over(&store.path()).await;
    for (limit, more, numbers) in [(0, false, (3, 5, 1)), (4, true, (3, 1, 0))] {
        let request = pb::CountRequest {
            server_id: scene.server.to_string(),
            limit,
            ..Default::default()
        };
        let request = scene.ask("Count", request);
        let answer = scene.client.count(request).await.expect("an answer").into_inner();
        let table = &answer.tables[0];
        assert_eq!((table.inserts, table.updates, table.deletes), numbers);
        assert_eq!(answer.more, more);
    }
}
