//! What is wrong with a call is told in words that say what to do.

use std::fs;

use crate::{
    run::{ask, end, on, trail},
    shop::{Shop, accident, insert, int, table},
};

#[test]
fn wrong_words_are_usage_errors() {
    let (store, _) = accident();
    let ask = |args: &[&str], words: &[&str]| ask(&store.path(), args).fails(2, words);
    ask(&["chagnes"], &["chagnes", "changes"]);
    ask(&["changes", "orders"], &["schema.table"]);
    ask(&["changes", "--since", "2026-02-30"], &["not a time"]);
    ask(&["changes", "--since", "yesterday"], &["not a time"]);
    ask(
        &["changes", "--since", "2026-11-22", "--until", "2026-11-21"],
        &["--since", "--until"],
    );
    ask(&["changes", "--op", "replace"], &["replace", "insert"]);
    ask(&["changes", "--format", "xml"], &["xml", "ndjson"]);
    ask(&["changes", "--limit", "-1"], &["--limit"]);
    ask(&["changes", "--gtid", "twenty-three"], &["not a GTID"]);
    ask(&["changes", "--key", "1"], &["--key", "one table"]);
    ask(&["changes", "shop.*", "--key", "1"], &["--key", "one table"]);
    ask(&["changes", "shop.orders", "--key", "one"], &["id", "int"]);
    ask(
        &["changes", "shop.orders", "--column", "colour"],
        &["colour", "id, status, note"],
    );
    ask(&["history", "shop.orders", "1,2"], &["id"]);
    ask(&["history", "shop.orders"], &["KEY"]);
    ask(&["txn", "binlog"], &["GTID", "FILE:POS"]);
    ask(&["txn", "0-1-3", "--gtid", "0-1-4"], &["--gtid"]);
    ask(&["undo"], &["everything", "--txn"]);
    ask(&["undo", "--op", "delete"], &["everything"]);
    ask(&["undo", "shop.orders", "--mode", "fast"], &["fast"]);
    ask(&["schema", "shop.*"], &["one table"]);
    ask(&["index"], &["FILE"]);
    ask(&["watch"], &["URL"]);
    ask(&["completions"], &["SHELL"]);
}

#[test]
fn a_table_nobody_has_seen_is_named_with_the_one_that_was_meant() {
    let (store, _) = accident();
    for args in [
        &["changes", "shop.ordrs"][..],
        &["history", "shop.ordrs", "1"],
        &["schema", "shop.ordrs"],
        &["undo", "shop.ordrs"],
    ] {
        ask(&store.path(), args).fails(1, &["shop.ordrs", "hint: did you mean shop.orders?"]);
    }
    ask(&store.path(), &["changes", "SHOP.ORDERS"]).fails(1, &["shop.orders"]);
    ask(&store.path(), &["changes", "other.*"]).fails(1, &["other.*", "trail tables"]);
}

#[test]
fn a_transaction_nobody_has_seen_is_an_error() {
    let (store, _) = accident();
    ask(&store.path(), &["txn", "binlog.000003:1005"]).fails(1, &["binlog.000003:1005", "begins"]);
    let run = ask(&store.path(), &["txn", "0-1-99"]);
    assert!(run.status == 1 || run.status == 3, "{run:?}");
    ask(&store.path(), &["txn", "binlog.000009:4"]).ends_with(3);
    let filtered = ask(&store.path(), &["txn", "0-1-3", "--op", "insert"]).ends_with(0);
    assert!(
        filtered.err.contains("no change of this transaction matches"),
        "{}",
        filtered.err
    );
}

#[test]
fn no_store_is_told_with_what_makes_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = folder.path().join("none");
    for args in [
        &["changes"][..],
        &["history", "a.b", "1"],
        &["txn", "0-1-1"],
        &["undo", "a.b"],
        &["tables"],
        &["schema", "a.b"],
        &["coverage"],
        &["status"],
        &["verify"],
    ] {
        ask(&missing, args).fails(1, &["no store", "trail watch", "hint: "]);
    }
    assert!(!missing.exists(), "asking makes no folder");
    fs::write(folder.path().join("letter.txt"), "hello").expect("written");
    ask(folder.path(), &["changes"]).fails(1, &["no store"]);
}

#[test]
fn a_password_in_the_url_is_refused_and_not_repeated() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = ask(
        &folder.path().join("store"),
        &["watch", "mysql://trail:hunter2@127.0.0.1:1/"],
    )
    .fails(
        64,
        &[
            "password",
            "history",
            "process list",
            "TRAIL_SOURCE_PASSWORD",
            "TRAIL_SOURCE_PASSWORD_FILE",
        ],
    );
    assert!(!run.err.contains("hunter2"));
}

#[test]
fn what_watch_is_told_is_checked_before_anything_is_opened() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = folder.path().join("store");
    let watch = |args: &[&str]| {
        let mut all = vec!["watch"];
        all.extend(args);
        on(&store, &all)
    };
    let url = "mysql://trail@127.0.0.1:1/";
    let mut both = watch(&[url]);
    both.env("TRAIL_SOURCE_PASSWORD", "a")
        .env("TRAIL_SOURCE_PASSWORD_FILE", "/dev/null");
    end(both).fails(64, &["TRAIL_SOURCE_PASSWORD and TRAIL_SOURCE_PASSWORD_FILE"]);
    let mut file = watch(&[url]);
    file.env("TRAIL_SOURCE_PASSWORD_FILE", "/nonexistent/password");
    end(file).fails(64, &["/nonexistent/password"]);
    for (args, words) in [
        (&["http://trail@db1/"][..], &["mysql://"][..]),
        (&["mysql://db1/"], &["user"]),
        (&["mysql://trail@db1/shop"], &["database"]),
        (&["mysql://trail@db1/?ssl=1"], &["ssl"]),
        (&[url, "--start", "tomorrow"], &["--start", "oldest"]),
        (&[url, "--tls-mode", "strict"], &["strict"]),
        (&[url, "--tls-cert", "/dev/null"], &["--tls-key"]),
        (
            &[url, "--tls-mode", "disabled", "--tls-ca", "/dev/null"],
            &["--tls-ca", "disabled"],
        ),
        (&[url, "--server-id", "0"], &["--server-id"]),
    ] {
        end(watch(args)).fails(2, words);
    }
    end(watch(&[url, "--tls-ca", "/nonexistent/ca.pem"])).fails(64, &["/nonexistent/ca.pem"]);
    assert!(!store.exists(), "a wrong call leaves nothing behind");
}

#[test]
fn a_store_of_a_later_release_is_left_alone() {
    let mut shop = Shop::mariadb();
    shop.commits(&[insert((1, "new", None))]);
    let store = shop.close();
    let manifest = store.path().join("manifest.json");
    let text = fs::read_to_string(&manifest).expect("a manifest");
    let newer = text.replacen("\"format\":1,", "\"format\":2,", 1);
    assert_ne!(text, newer, "the manifest names its format");
    fs::write(&manifest, &newer).expect("written");
    for question in ["status", "changes", "verify"] {
        ask(&store.path(), &[question]).fails(64, &["format 2", "use the release that wrote it"]);
    }
    assert_eq!(
        fs::read_to_string(&manifest).expect("read"),
        newer,
        "asking changes nothing"
    );
}

#[test]
fn a_row_without_a_key_cannot_be_named() {
    let mut shop = Shop::mariadb();
    let log = table("log", vec![("line", int(), false)], &[]);
    let mut image = vec![0, 0];
    image.extend(7_i32.to_le_bytes());
    shop.commits_raw(&log, &[(None, Some(image))]);
    let store = shop.close();
    ask(&store.path(), &["history", "shop.log", "7"]).fails(2, &["shop.log has no primary key", "hint: "]);
    let run = ask(&store.path(), &["changes", "shop.log"]).ends_with(0);
    assert!(
        run.out.contains("insert  shop.log  (no key)  line: 7"),
        "{}",
        run.out
    );
}

#[test]
fn hostile_names_stay_names() {
    let (store, _) = accident();
    let run = ask(&store.path(), &["changes", "shop.\u{1b}[31morders\n"]).fails(1, &["\\x1b[31morders\\n"]);
    assert!(!run.err.contains('\u{1b}'));
    end(trail(&[
        "changes",
        "shop.orders",
        "--store",
        "/nonexistent\u{1b}[2J/x",
    ]))
    .fails(1, &["\\x1b[2J"]);
}
