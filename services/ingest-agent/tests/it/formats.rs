//! The forms of an answer hold the same changes.

use serde_json::Value;

use crate::{
    run::ask,
    shop::{Shop, accident, insert, update},
};

#[test]
fn json_is_the_array_of_the_ndjson_lines() {
    let (store, _) = accident();
    let lines = ask(&store.path(), &["changes", "--format", "ndjson"])
        .ends_with(0)
        .ndjson();
    let array = ask(&store.path(), &["changes", "--format", "json"])
        .ends_with(0)
        .json();
    assert_eq!(array, Value::Array(lines));
    let none = ask(
        &store.path(),
        &[
            "changes", "--format", "json", "--op", "delete", "--column", "note",
        ],
    )
    .ends_with(0);
    assert_eq!(none.json(), Value::Array(Vec::new()));
}

#[test]
fn csv_holds_the_same_values_in_a_fixed_order() {
    let (store, _) = accident();
    let lines = ask(&store.path(), &["changes", "--format", "ndjson"])
        .ends_with(0)
        .ndjson();
    let run = ask(&store.path(), &["changes", "--format", "csv"]).ends_with(0);
    let mut reader = csv::Reader::from_reader(run.out.as_bytes());
    let head: Vec<String> = reader
        .headers()
        .expect("a header")
        .iter()
        .map(Into::into)
        .collect();
    assert_eq!(
        head.join(","),
        "epoch,file,offset,ordinal,gtid,commit_time,thread_id,schema,table,op,key,changed,before,after,query,schema_version"
    );
    let records: Vec<csv::StringRecord> = reader.records().map(|record| record.expect("a record")).collect();
    assert_eq!(records.len(), lines.len());
    for (record, line) in records.iter().zip(&lines) {
        let field = |name: &str| {
            record
                .get(head.iter().position(|known| known == name).expect("a column"))
                .expect("a field")
        };
        for name in ["epoch", "file", "offset", "ordinal"] {
            assert_eq!(
                field(name),
                line["position"][name].to_string().trim_matches('"'),
                "{name}"
            );
        }
        for name in [
            "gtid",
            "commit_time",
            "thread_id",
            "schema",
            "table",
            "op",
            "query",
            "schema_version",
        ] {
            let expected = if line[name].is_null() {
                String::new()
            } else {
                line[name].to_string()
            };
            assert_eq!(field(name), expected.trim_matches('"'), "{name}");
        }
        for name in ["key", "changed", "before", "after"] {
            let text = if field(name).is_empty() {
                "null"
            } else {
                field(name)
            };
            assert_eq!(
                serde_json::from_str::<Value>(text).expect("JSON"),
                line[name],
                "{name}"
            );
        }
    }
    let empty = ask(&store.path(), &["changes", "--format", "csv", "--limit", "0"]).ends_with(0);
    assert_eq!(
        empty.out.lines().count(),
        1,
        "the header is there even if nothing follows"
    );
}

#[test]
fn a_table_tells_the_difference_column_by_column() {
    let (store, transactions) = accident();
    let run = ask(&store.path(), &["txn", &transactions[2].gtid]).ends_with(0);
    let expected = "\
2026-11-21T10:00:02Z  0-1-3  binlog.000003:2004  thread 8
  statement: UPDATE orders SET status = 'cancelled'
  update  shop.orders  id=1  status: 'paid' → 'cancelled'
  update  shop.orders  id=2  status: 'new' → 'cancelled'
  delete  shop.orders  id=3  status: 'new', note: 'gift'
";
    assert_eq!(run.out, expected);
}

#[test]
fn data_of_every_kind_survives_every_form() {
    let hostile = "a,b\"c\"\r\n'; DROP TABLE t; -- \u{1b}[31m\u{0} \u{202e} 日本語 😀";
    let mut shop = Shop::mysql();
    shop.query("INSERT INTO orders /* \u{1b}]0;x\u{7} */ VALUES (…)");
    shop.commits(&[insert((1, hostile, None))]);
    shop.commits(&[update((1, hostile, None), (1, "", Some("NULL")))]);
    let store = shop.close();
    let lines = ask(
        &store.path(),
        &["changes", "--format", "ndjson", "--order", "oldest"],
    )
    .ends_with(0)
    .ndjson();
    assert_eq!(lines[0]["after"]["status"], hostile);
    assert_eq!(lines[1]["before"]["status"], hostile);
    assert_eq!(lines[1]["after"]["note"], "NULL");
    let run = ask(
        &store.path(),
        &["changes", "--format", "csv", "--order", "oldest"],
    )
    .ends_with(0);
    let mut reader = csv::Reader::from_reader(run.out.as_bytes());
    let after = reader.records().next().expect("a record").expect("a record")[13].to_owned();
    assert_eq!(
        serde_json::from_str::<Value>(&after).expect("JSON")["status"],
        hostile
    );
    let table = ask(&store.path(), &["changes"]).ends_with(0);
    assert!(
        !table.out.contains(['\u{1b}', '\u{7}', '\u{202e}', '\r', '\0']),
        "{}",
        table.out
    );
    assert!(
        table.out.contains("\\x1b[31m") && table.out.contains("日本語 😀"),
        "{}",
        table.out
    );
}
