//! Every filter, alone and together.

use binlog::{Charset, ColumnType};

use crate::{
    run::{ask, end, on},
    shop::{Shop, accident, insert, int, table, text, update},
};

/// Offset and ordinal of each change found, in the order of the log.
fn found(store: &std::path::Path, filters: &[&str]) -> Vec<(u64, u64)> {
    let mut args = vec!["changes", "--format", "ndjson", "--order", "oldest"];
    args.extend(filters);
    let place = |line: &serde_json::Value| {
        let number = |name: &str| line["position"][name].as_u64().expect("a number");
        (number("offset"), number("ordinal"))
    };
    ask(store, &args)
        .ends_with(0)
        .ndjson()
        .iter()
        .map(place)
        .collect()
}

#[test]
fn each_filter_chooses_what_it_says() {
    let (store, _) = accident();
    let find = |filters: &[&str]| found(&store.path(), filters);
    assert_eq!(find(&["--op", "delete"]), [(2004, 2)]);
    assert_eq!(find(&["--op", "insert,delete"]).len(), 4);
    assert_eq!(find(&["--op", "insert", "--op", "delete"]).len(), 4);
    assert_eq!(find(&["--gtid", "0-1-3"]), [(2004, 0), (2004, 1), (2004, 2)]);
    assert_eq!(find(&["--column", "note"]), [(3004, 0)]);
    assert_eq!(find(&["--column", "STATUS"]).len(), 4);
    assert_eq!(
        find(&["shop.orders", "--key", "2"]),
        [(4, 1), (2004, 1), (4004, 0)]
    );
    assert_eq!(find(&["shop.orders", "--key", "2", "--key", "id=3"]).len(), 5);
    assert_eq!(find(&["shop.*", "--op", "delete"]), [(2004, 2)]);
    assert_eq!(find(&["`shop`.`orders`", "--op", "delete"]), [(2004, 2)]);
    assert_eq!(
        find(&[
            "shop.orders",
            "--key",
            "1",
            "--op",
            "update",
            "--column",
            "status",
            "--gtid",
            "0-1-3"
        ]),
        [(2004, 0)]
    );
}

#[test]
fn both_ends_of_a_time_belong_to_it() {
    let (store, transactions) = accident();
    let time = transactions[2].time.to_string();
    let find = |filters: &[&str]| found(&store.path(), filters);
    assert_eq!(find(&["--since", &time, "--until", &time]).len(), 3);
    assert_eq!(find(&["--since", "2026-11-21 10:00:03"]), [(3004, 0), (4004, 0)]);
    assert_eq!(
        find(&[
            "--since",
            "2026-11-21T12:00:03+02:00",
            "--until",
            "2026-11-21T10:00:03Z"
        ]),
        [(3004, 0)]
    );
    assert_eq!(find(&["--until", "2026-11-21T10:00:01Z"]).len(), 4);
}

#[test]
fn a_limit_counts_from_the_end_that_comes_first() {
    let (store, _) = accident();
    let find = |filters: &[&str]| found(&store.path(), filters);
    assert_eq!(find(&["--limit", "2"]), [(4, 0), (4, 1)]);
    assert_eq!(find(&["--limit", "0"]), []);
    let newest = ask(&store.path(), &["changes", "--format", "ndjson", "--limit", "1"]).ends_with(0);
    assert_eq!(newest.ndjson()[0]["position"]["offset"], 4004);
}

#[test]
fn a_key_is_searched_under_every_definition_the_table_had() {
    let mut shop = Shop::mariadb();
    shop.commits(&[insert((42, "new", None))]);
    // The key column becomes text: 42 is now spelled '42'.
    let orders = table(
        "orders",
        vec![("id", text(), false), ("status", text(), false)],
        &[0],
    );
    let mut image = vec![0, 0, 2];
    image.extend(b"42");
    image.push(4);
    image.extend(b"paid");
    shop.defines(orders.clone());
    shop.commits_raw(&orders, &[(None, Some(image))]);
    let store = shop.close();
    assert_eq!(found(&store.path(), &["shop.orders", "--key", "42"]).len(), 2);
    // Only the newer definition has such a key at all.
    assert_eq!(found(&store.path(), &["shop.orders", "--key", "x"]).len(), 0);
}

#[test]
fn a_composite_key_is_named_in_order_or_by_column() {
    let mut shop = Shop::mariadb();
    let code = ColumnType::Varchar {
        bytes: 80,
        charset: Charset::new(45),
    };
    let lines = table(
        "lines",
        vec![
            ("order_id", int(), false),
            ("code", code, false),
            ("n", int(), false),
        ],
        &[0, 1],
    );
    let image = |id: i32, code: &str, n: i32| {
        let mut raw = vec![0, 0];
        raw.extend(id.to_le_bytes());
        raw.push(u8::try_from(code.len()).expect("short"));
        raw.extend(code.as_bytes());
        raw.extend(n.to_le_bytes());
        Some(raw)
    };
    shop.commits_raw(
        &lines,
        &[
            (None, image(7, "a,b", 1)),
            (None, image(7, "x", 1)),
            (None, image(8, "x", 1)),
        ],
    );
    let store = shop.close();
    for key in [
        "7,x",
        "order_id=7,code=x",
        "{\"order_id\":7,\"code\":\"x\"}",
        "[7,\"x\"]",
    ] {
        assert_eq!(
            found(&store.path(), &["shop.lines", "--key", key]),
            [(4, 1)],
            "{key}"
        );
    }
    assert_eq!(
        found(&store.path(), &["shop.lines", "--key", "[7,\"a,b\"]"]),
        [(4, 0)]
    );
    let run = ask(&store.path(), &["history", "shop.lines", "7"]).fails(2, &["order_id, code"]);
    assert!(run.err.contains("hint: "), "{}", run.err);
}

#[test]
fn flags_can_come_from_the_environment_and_win_over_it() {
    let (store, _) = accident();
    let mut command = on(&store.path(), &["changes", "--order", "oldest"]);
    command
        .env("TRAIL_FORMAT", "ndjson")
        .env("TRAIL_OP", "insert,delete")
        .env("TRAIL_ORDER", "newest");
    assert_eq!(
        end(command)
            .ends_with(0)
            .ndjson()
            .iter()
            .map(|line| line["op"].clone())
            .collect::<Vec<_>>(),
        ["insert", "insert", "insert", "delete"]
    );
    let mut command = on(&store.path(), &["changes"]);
    command.env("TRAIL_FORMAT", "xml");
    end(command).fails(2, &["xml", "--format"]);
}

#[test]
fn the_store_is_found_by_flag_then_variable_then_data_folder() {
    let (store, _) = accident();
    let elsewhere = tempfile::tempdir().expect("a folder");
    let mut command = on(elsewhere.path(), &["status", "--store"]);
    command.arg(store.path());
    end(command).ends_with(0);
    let home = store.beside().join("home");
    std::fs::create_dir_all(home.join(".local/share/trail")).expect("folders");
    std::fs::rename(store.path(), home.join(".local/share/trail/default")).expect("moved");
    let mut command = crate::run::trail(&["status"]);
    command.env("HOME", &home);
    end(command).ends_with(0);
    let mut command = crate::run::trail(&["status"]);
    command
        .env("HOME", "/nonexistent")
        .env("XDG_DATA_HOME", home.join(".local/share"));
    end(command).ends_with(0);
    end(crate::run::trail(&["status"])).fails(64, &["HOME", "--store"]);
}

#[test]
fn an_unchanged_column_is_no_change_of_it() {
    let mut shop = Shop::mariadb();
    shop.commits(&[insert((1, "new", None))]);
    shop.commits(&[update((1, "new", None), (1, "new", Some("x")))]);
    let store = shop.close();
    assert_eq!(found(&store.path(), &["shop.orders", "--column", "status"]), []);
    assert_eq!(found(&store.path(), &["--column", "note"]).len(), 1);
}
