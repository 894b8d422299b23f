//! What the questions answer: which changes, in which order, and what the answer covers.

use binlog::Statement;
use serde_json::json;

use crate::{
    run::ask,
    shop::{Shop, accident, insert, update},
};

/// `table:op:id` of each NDJSON line, for comparing lists.
fn outline(lines: &[serde_json::Value]) -> Vec<String> {
    lines
        .iter()
        .map(|line| format!("{} {}", line["op"].as_str().unwrap_or("?"), line["key"]["id"]))
        .collect()
}

#[test]
fn one_change_is_exactly_the_documented_object() {
    let (store, transactions) = accident();
    let run = ask(
        &store.path(),
        &["txn", &transactions[1].gtid, "--format", "ndjson"],
    )
    .ends_with(0);
    assert_eq!(
        run.ndjson(),
        [json!({
            "position": {"epoch": 0, "file": "binlog.000003", "offset": 1004, "ordinal": 0},
            "gtid": "0-1-2", "commit_time": "2026-11-21T10:00:01Z", "thread_id": 8,
            "schema": "shop", "table": "orders", "op": "update", "key": {"id": 1},
            "before": {"id": 1, "status": "new", "note": null},
            "after": {"id": 1, "status": "paid", "note": null},
            "changed": ["status"], "query": null, "schema_version": run.ndjson()[0]["schema_version"],
        })]
    );
}

#[test]
fn changes_come_newest_first_and_transactions_in_their_own_order() {
    let (store, transactions) = accident();
    let all = ask(&store.path(), &["changes", "--format", "ndjson"]).ends_with(0);
    assert_eq!(
        outline(&all.ndjson()),
        [
            "update 2", "update 1", "delete 3", "update 2", "update 1", "update 1", "insert 3", "insert 2",
            "insert 1"
        ]
    );
    let oldest = ask(
        &store.path(),
        &["changes", "--format", "ndjson", "--order", "oldest"],
    )
    .ends_with(0);
    let mut reversed = all.ndjson();
    reversed.reverse();
    assert_eq!(oldest.ndjson(), reversed);
    for name in [&transactions[2].gtid, &transactions[2].at] {
        let run = ask(&store.path(), &["txn", name, "--format", "ndjson"]).ends_with(0);
        assert_eq!(
            outline(&run.ndjson()),
            ["update 1", "update 2", "delete 3"],
            "{name}"
        );
    }
}

#[test]
fn history_is_one_row_only_under_every_spelling_of_its_key() {
    let (store, _) = accident();
    for key in ["1", "id=1", "{\"id\":1}", "[1]", " 1 "] {
        let run = ask(
            &store.path(),
            &["history", "shop.orders", key, "--format", "ndjson"],
        )
        .ends_with(0);
        assert_eq!(
            outline(&run.ndjson()),
            ["update 1", "update 1", "update 1", "insert 1"],
            "{key}"
        );
    }
    let none = ask(&store.path(), &["history", "shop.orders", "99"]).ends_with(0);
    assert_eq!(none.out, "");
    assert!(none.err.contains("note: no change matches"), "{}", none.err);
}

#[test]
fn a_row_is_found_by_its_old_key_and_by_its_new_one() {
    let mut shop = Shop::mysql();
    shop.commits(&[insert((1, "new", None))]);
    shop.commits(&[update((1, "new", None), (7, "new", None))]);
    shop.commits(&[update((7, "new", None), (7, "paid", None))]);
    let store = shop.close();
    let history = |key| {
        outline(
            &ask(
                &store.path(),
                &["history", "shop.orders", key, "--format", "ndjson"],
            )
            .ends_with(0)
            .ndjson(),
        )
    };
    assert_eq!(history("1"), ["update 1", "insert 1"]);
    assert_eq!(history("7"), ["update 7", "update 1"]);
}

#[test]
fn every_answer_says_what_it_covers() {
    let (store, transactions) = accident();
    for format in ["table", "json", "ndjson", "csv"] {
        let run = ask(&store.path(), &["changes", "--format", format]).ends_with(0);
        let told =
            "complete: binlog.000003:4 … binlog.000003:5004 (2026-11-21T10:00:00Z … 2026-11-21T10:00:04Z)";
        assert_eq!(run.err.trim_end(), told, "{format}");
    }
    let one = ask(&store.path(), &["txn", &transactions[2].gtid]).ends_with(0);
    assert!(one.err.starts_with("complete: "), "{}", one.err);
}

#[test]
fn a_gap_is_told_and_makes_the_status_3() {
    let mut shop = Shop::mariadb();
    let first = shop.commits(&[insert((1, "new", None))]);
    shop.loses("the server had purged this log");
    let second = shop.commits(&[insert((2, "new", None))]);
    let third = shop.commits(&[insert((3, "new", None))]);
    let store = shop.close();
    for format in ["table", "json", "ndjson", "csv"] {
        let run = ask(&store.path(), &["changes", "--format", format]).ends_with(3);
        assert!(run.err.starts_with("INCOMPLETE: "), "{}", run.err);
        assert!(run.err.contains("the server had purged this log"), "{}", run.err);
        assert!(!run.out.is_empty(), "the answer is given all the same");
    }
    // Nothing can be missing from a transaction that was read, nor from what lies after the gap.
    for transaction in [&first, &second] {
        ask(&store.path(), &["txn", &transaction.gtid]).ends_with(0);
    }
    ask(&store.path(), &["changes", "--limit", "1"]).ends_with(0);
    ask(&store.path(), &["changes", "--since", &third.time.to_string()]).ends_with(0);
}

#[test]
fn history_does_not_reach_back_further_than_it_does() {
    let (store, _) = accident();
    let run = ask(
        &store.path(),
        &["changes", "shop.orders", "--since", "2026-11-20"],
    )
    .ends_with(3);
    assert!(
        run.err
            .contains("INCOMPLETE: history begins at 2026-11-21T10:00:00Z"),
        "{}",
        run.err
    );
}

#[test]
fn a_person_gets_100_changes_and_hears_of_more() {
    let mut shop = Shop::mariadb();
    for id in 0..120 {
        shop.commits(&[insert((id, "new", None))]);
    }
    let store = shop.close();
    let rows = |text: &str| text.lines().filter(|line| line.starts_with("  insert")).count();
    let table = ask(&store.path(), &["changes"]).ends_with(0);
    assert_eq!(rows(&table.out), 100);
    assert!(table.err.contains("--limit"), "{}", table.err);
    assert_eq!(
        rows(
            &ask(&store.path(), &["changes", "--limit", "all"])
                .ends_with(0)
                .out
        ),
        120
    );
    let three = ask(&store.path(), &["changes", "--limit", "3", "--format", "ndjson"]).ends_with(0);
    assert_eq!(
        outline(&three.ndjson()),
        ["insert 119", "insert 118", "insert 117"]
    );
    assert_eq!(
        ask(&store.path(), &["changes", "--format", "ndjson"])
            .ends_with(0)
            .ndjson()
            .len(),
        120
    );
    let exact = ask(&store.path(), &["changes", "--limit", "120"]).ends_with(0);
    assert!(!exact.err.contains("--limit"), "{}", exact.err);
}

#[test]
fn who_looks_for_lost_rows_sees_the_truncate() {
    let mut shop = Shop::mariadb();
    shop.commits(&[insert((1, "new", None))]);
    let truncate = shop.runs(Statement::Truncate, Some("orders"), "TRUNCATE TABLE\n  orders");
    shop.commits(&[insert((2, "new", None))]);
    let store = shop.close();
    for args in [
        &["changes"][..],
        &["history", "shop.orders", "1"],
        &["txn", &truncate.gtid],
    ] {
        let run = ask(&store.path(), args).ends_with(0);
        assert!(
            run.out.contains("  schema  TRUNCATE TABLE orders\n"),
            "{args:?}\n{}",
            run.out
        );
    }
    let lines = ask(&store.path(), &["changes", "--format", "ndjson"])
        .ends_with(0)
        .ndjson();
    assert_eq!(outline(&lines), ["insert 2", "insert 1"]);
    let deletes = ask(&store.path(), &["changes", "--op", "delete"]).ends_with(0);
    assert_eq!(deletes.out, "");
}
