//! `tables`, `schema`, `coverage`, `status`, `verify`.

use std::fs;

use binlog::Statement;
use serde_json::json;

use crate::{
    run::{ask, end, on},
    shop::{Shop, accident, insert, int, table, text},
};

#[test]
fn tables_are_counted() {
    let (store, _) = accident();
    let run = ask(&store.path(), &["tables"]).ends_with(0);
    let lines: Vec<Vec<&str>> = run
        .out
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        lines[1],
        [
            "shop.orders",
            "3",
            "5",
            "1",
            "2026-11-21T10:00:00Z",
            "2026-11-21T10:00:04Z"
        ]
    );
    let json = ask(&store.path(), &["tables", "--format", "json"])
        .ends_with(0)
        .json();
    assert_eq!(json[0]["schema"], "shop");
    assert_eq!(
        [&json[0]["inserts"], &json[0]["updates"], &json[0]["deletes"]],
        [3, 5, 1]
    );
}

#[test]
fn who_sets_the_format_of_changes_for_good_still_gets_reports() {
    let (store, _) = accident();
    for args in [
        &["tables"][..],
        &["status"],
        &["coverage"],
        &["verify"],
        &["schema", "shop.orders"],
    ] {
        let mut command = on(&store.path(), args);
        command.env("TRAIL_FORMAT", "ndjson");
        assert_eq!(end(command).ends_with(0).ndjson().len(), 1, "{args:?}");
    }
}

#[test]
fn a_schema_tells_how_it_came_to_be() {
    let mut shop = Shop::mariadb();
    shop.commits(&[insert((1, "new", None))]);
    shop.runs(
        Statement::Alter,
        Some("orders"),
        "ALTER TABLE orders ADD total INT NOT NULL, DROP note",
    );
    let orders = table(
        "orders",
        vec![
            ("id", int(), false),
            ("status", text(), false),
            ("total", int(), false),
        ],
        &[0],
    );
    let mut image = vec![0, 0, 2, 0, 0, 0, 3];
    image.extend(b"new");
    image.extend(9_i32.to_le_bytes());
    shop.commits_raw(&orders, &[(None, Some(image))]);
    let store = shop.close();
    let run = ask(&store.path(), &["schema", "shop.orders"]).ends_with(0);
    for part in [
        "total   int",
        "primary key: id",
        "+ total int not null",
        "- note varchar(50) utf8mb4",
        "ALTER TABLE orders ADD total",
    ] {
        assert!(run.out.contains(part), "{part}\n{}", run.out);
    }
    let json = ask(&store.path(), &["schema", "shop.orders", "--format", "json"])
        .ends_with(0)
        .json();
    assert_eq!(json["versions"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        json["versions"][1]["columns"][2],
        json!({"name": "total", "type": "int", "nullable": false, "invisible": false, "generated": false, "on_update": false})
    );
    assert_eq!(json["versions"][1]["key"], json!(["id"]));
    assert_eq!(json["statements"][0]["commit_time"], "2026-11-21T10:00:01Z");
}

#[test]
fn coverage_lists_what_was_read_and_what_was_not() {
    let mut shop = Shop::mariadb();
    shop.commits(&[insert((1, "new", None))]);
    shop.loses("the server had purged this log");
    shop.commits(&[insert((2, "new", None))]);
    let store = shop.close();
    let run = ask(&store.path(), &["coverage"]).ends_with(3);
    assert!(
        run.out
            .contains("gap: nothing was read between binlog.000003:1004"),
        "{}",
        run.out
    );
    let json = ask(&store.path(), &["coverage", "--format", "json"])
        .ends_with(3)
        .json();
    assert_eq!(json["complete"], false);
    assert_eq!(json["intervals"].as_array().map(Vec::len), Some(2));
    assert_eq!(json["gaps"][0]["reason"], "the server had purged this log");
    assert_eq!(
        json["gaps"][0]["after"],
        json!({"epoch": 0, "file": "binlog.000003", "offset": 1004})
    );
    let (whole, _) = accident();
    let json = ask(&whole.path(), &["coverage", "--format", "json"])
        .ends_with(0)
        .json();
    assert_eq!(json["complete"], true);
    assert_eq!(json["intervals"][0]["gtids"], "0-1-5");
}

#[test]
fn status_says_where_the_store_stands() {
    let (store, _) = accident();
    let json = ask(&store.path(), &["status", "--format", "json"])
        .ends_with(0)
        .json();
    assert_eq!(json["source"]["engine"], "mariadb");
    assert_eq!(
        json["position"],
        json!({"epoch": 0, "file": "binlog.000003", "offset": 5004})
    );
    assert_eq!([&json["transactions"], &json["changes"]], [5, 9]);
    assert_eq!(json["last_commit"], "2026-11-21T10:00:04Z");
    let run = ask(&store.path(), &["status"]).ends_with(0);
    assert!(
        run.out.contains("mariadb 10.11.6-MariaDB 1 db1:3306"),
        "{}",
        run.out
    );
}

#[test]
fn verify_finds_a_flipped_bit_wherever_it_is() {
    let mut shop = Shop::sealing();
    for id in 0..200 {
        shop.commits(&[insert((id, "new", None))]);
    }
    let store = shop.close();
    let run = ask(&store.path(), &["verify"]).ends_with(0);
    assert!(run.out.starts_with("ok: "), "{}", run.out);
    assert_eq!(
        ask(&store.path(), &["verify", "--format", "json"])
            .ends_with(0)
            .json()["ok"],
        true
    );
    let mut damaged = 0;
    for entry in walk(&store.path()) {
        let whole = fs::read(&entry).expect("read");
        if whole.is_empty() {
            continue;
        }
        let mut bytes = whole.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&entry, &bytes).expect("written");
        let name = entry.file_name().expect("a name").to_string_lossy().into_owned();
        ask(&store.path(), &["verify"]).fails(1, &[&name]);
        let report = ask(&store.path(), &["verify", "--format", "json"])
            .ends_with(1)
            .json();
        assert_eq!(report["ok"], false);
        fs::write(&entry, &whole).expect("written");
        damaged += 1;
    }
    assert!(damaged >= 2, "the store has a manifest and data");
    ask(&store.path(), &["verify"]).ends_with(0);
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path());
    entries
        .flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] })
        .collect()
}
