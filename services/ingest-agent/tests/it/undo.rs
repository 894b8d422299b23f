//! `undo`: which rows the script takes back, what is told about the others, and where the script goes.

use std::{fs, os::unix::fs::PermissionsExt};

use binlog::{ColumnType, Statement};

use crate::{
    run::ask,
    shop::{Shop, accident, insert, int, table, text, update},
};

/// Statements that change rows of the shop.
fn statements(script: &str) -> Vec<&str> {
    let writes = |line: &&str| {
        ["UPDATE `shop`", "INSERT INTO `shop`", "DELETE FROM `shop`"]
            .iter()
            .any(|verb| line.starts_with(verb))
    };
    script.lines().filter(writes).collect()
}

#[test]
fn later_edits_of_other_columns_stay_and_conflicts_are_left_out() {
    let (store, transactions) = accident();
    for name in [&transactions[2].gtid, &transactions[2].at] {
        let run = ask(&store.path(), &["undo", "--txn", name]).ends_with(0);
        let script = statements(&run.out);
        assert_eq!(script.len(), 2, "{}", run.out);
        assert!(
            script[0].starts_with("INSERT INTO `shop`.`orders`"),
            "the last change is undone first: {script:?}"
        );
        assert!(
            script[1].starts_with("UPDATE `shop`.`orders` SET `status`")
                && !script[1].contains("SET `status`='paid',"),
            "{script:?}"
        );
        assert!(run.out.contains("COMMIT"), "{}", run.out);
        // Row 2 was shipped later: both values and who did it.
        for words in [
            "undo of 3 changes in shop.orders, mode safe",
            "clean",
            "disjoint",
            "overlap",
            "2 in the script, 1 left out",
            "{\"id\":2}",
            "new",
            "shipped",
            "0-1-5",
            "sha256 ",
            "mariadb … < FILE",
            "complete: ",
        ] {
            assert!(run.err.contains(words), "{words}\n{}", run.err);
        }
    }
}

#[test]
fn force_takes_back_what_was_overwritten_later() {
    let (store, _) = accident();
    let run = ask(&store.path(), &["undo", "--txn", "0-1-3", "--mode", "force"]).ends_with(0);
    assert_eq!(statements(&run.out).len(), 3, "{}", run.out);
    assert!(
        run.err.contains("mode force") && run.err.contains("3 in the script, 0 left out"),
        "{}",
        run.err
    );
}

#[test]
fn explain_tells_every_row() {
    let (store, _) = accident();
    let run = ask(&store.path(), &["undo", "--txn", "0-1-3", "--explain"]).ends_with(0);
    for words in [
        "delete shop.orders {\"id\":3}  clean, in the script",
        "update shop.orders {\"id\":1}  disjoint, in the script",
        "update shop.orders {\"id\":2}  overlap, left out",
    ] {
        assert!(run.err.contains(words), "{words}\n{}", run.err);
    }
}

#[test]
fn every_filter_chooses_what_is_undone() {
    let (store, transactions) = accident();
    let time = transactions[2].time.to_string();
    let chosen = |args: &[&str]| {
        let mut all = vec!["undo"];
        all.extend(args);
        let run = ask(&store.path(), &all);
        run.err.lines().next().unwrap_or_default().to_owned()
    };
    assert_eq!(
        chosen(&["shop.orders", "--key", "3", "--op", "delete"]),
        "undo of 1 change in shop.orders, mode safe"
    );
    assert_eq!(
        chosen(&["--since", &time, "--until", &time, "--op", "update"]),
        "undo of 2 changes in shop.orders, mode safe"
    );
    assert_eq!(
        chosen(&["--gtid", "0-1-4", "--column", "note"]),
        "undo of 1 change in shop.orders, mode safe"
    );
    assert_eq!(chosen(&["shop.*"]), "undo of 9 changes in shop.orders, mode safe");
}

#[test]
fn the_script_speaks_the_sources_dialect() {
    let mut shop = Shop::mysql();
    shop.commits(&[insert((1, "new", None))]);
    let store = shop.close();
    let run = ask(&store.path(), &["undo", "shop.orders"]).ends_with(0);
    assert!(run.err.contains("mysql … < FILE"), "{}", run.err);
    assert_eq!(statements(&run.out).len(), 1, "{}", run.out);
}

#[test]
fn nothing_chosen_writes_nothing_and_fails() {
    let (store, _) = accident();
    let file = store.beside().join("undo.sql");
    let path = file.to_str().expect("UTF-8");
    let run = ask(
        &store.path(),
        &[
            "undo",
            "shop.orders",
            "--op",
            "delete",
            "--column",
            "note",
            "-o",
            path,
        ],
    )
    .ends_with(1);
    assert!(
        run.out.is_empty() && run.err.contains("nothing to undo"),
        "{}",
        run.err
    );
    assert!(!file.exists());
}

#[test]
fn files_are_private_whole_and_never_overwritten_unasked() {
    let (store, _) = accident();
    let (file, redo) = (store.beside().join("undo.sql"), store.beside().join("redo.sql"));
    let (path, redo_path) = (file.to_str().expect("UTF-8"), redo.to_str().expect("UTF-8"));
    let args = ["undo", "--txn", "0-1-3", "-o", path, "--redo", redo_path];
    let run = ask(&store.path(), &args).ends_with(0);
    assert!(run.out.is_empty(), "{}", run.out);
    assert!(run.err.contains(&format!("mariadb … < {path}")), "{}", run.err);
    let script = ask(&store.path(), &["undo", "--txn", "0-1-3"]).ends_with(0).out;
    assert_eq!(fs::read_to_string(&file).expect("the script"), script);
    for made in [&file, &redo] {
        assert_eq!(
            fs::metadata(made).expect("a file").permissions().mode() & 0o777,
            0o600,
            "{made:?}"
        );
    }
    let back = fs::read_to_string(&redo).expect("the redo script");
    assert!(back.contains("DELETE FROM `shop`.`orders`"), "{back}");

    fs::write(&file, "mine").expect("written");
    fs::remove_file(&redo).expect("removed");
    ask(&store.path(), &args).fails(1, &[path, "exists", "--overwrite"]);
    assert_eq!(fs::read_to_string(&file).expect("read"), "mine");
    assert!(!redo.exists(), "neither file or both");
    let mut over = args.to_vec();
    over.push("--overwrite");
    ask(&store.path(), &over).ends_with(0);
    assert_eq!(fs::read_to_string(&file).expect("read"), script);
    let left: Vec<_> = fs::read_dir(store.beside())
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(left.len(), 3, "no temporary file stays: {left:?}");
}

#[test]
fn the_command_that_applies_it_can_be_pasted() {
    let (store, _) = accident();
    let file = store.beside().join("it's mine.sql");
    let path = file.to_str().expect("UTF-8");
    let run = ask(&store.path(), &["undo", "--txn", "0-1-3", "-o", path]).ends_with(0);
    assert!(
        run.err
            .contains(&format!("mariadb … < '{}'", path.replace('\'', "'\\''"))),
        "{}",
        run.err
    );
}

#[test]
fn impossible_outputs_are_refused_before_any_work() {
    let (store, _) = accident();
    let folder = store.beside().to_str().expect("UTF-8");
    let undo = |more: &[&str]| {
        let mut args = vec!["undo", "--txn", "0-1-3"];
        args.extend(more);
        ask(&store.path(), &args)
    };
    undo(&["-o", folder]).fails(1, &[folder]);
    undo(&["-o", "/nonexistent/undo.sql"]).fails(1, &["/nonexistent/undo.sql"]);
    undo(&["-o", "x.sql", "--redo", "x.sql"]).fails(2, &["--redo", "same file"]);
    undo(&["--redo", "-"]).fails(2, &["--redo"]);
    assert_eq!(statements(&undo(&["-o", "-"]).ends_with(0).out).len(), 2);
}

#[test]
fn a_gap_after_the_chosen_changes_makes_them_unknown() {
    let mut shop = Shop::mariadb();
    shop.commits(&[insert((1, "new", None))]);
    let accident = shop.commits(&[update((1, "new", None), (1, "cancelled", None))]);
    shop.loses("the server had purged this log");
    shop.commits(&[insert((2, "new", None))]);
    let store = shop.close();
    let run = ask(&store.path(), &["undo", "--txn", &accident.gtid]).ends_with(3);
    assert!(
        run.err.contains("unknown") && run.err.contains("INCOMPLETE: "),
        "{}",
        run.err
    );
    assert_eq!(statements(&run.out).len(), 0, "{}", run.out);
    // What was chosen after the gap does not suffer from it.
    ask(
        &store.path(),
        &["undo", "shop.orders", "--key", "2", "--gtid", "0-1-3"],
    )
    .ends_with(0);
}

#[test]
fn a_truncate_after_the_chosen_changes_makes_them_vanish() {
    let mut shop = Shop::mariadb();
    shop.commits(&[insert((1, "new", None))]);
    let accident = shop.commits(&[update((1, "new", None), (1, "cancelled", None))]);
    shop.runs(Statement::Truncate, Some("orders"), "TRUNCATE TABLE orders");
    let store = shop.close();
    let run = ask(&store.path(), &["undo", "--txn", &accident.gtid]).ends_with(0);
    assert!(
        run.err.contains("vanished") && run.err.contains("the script changes nothing"),
        "{}",
        run.err
    );
}

#[test]
fn who_wants_to_undo_a_truncate_hears_why_not() {
    let mut shop = Shop::mariadb();
    shop.commits(&[insert((1, "new", None))]);
    let truncate = shop.runs(Statement::Truncate, Some("orders"), "TRUNCATE TABLE\n orders");
    let store = shop.close();
    let run = ask(&store.path(), &["undo", "--txn", &truncate.gtid]).ends_with(1);
    assert!(
        run.out.is_empty() && run.err.contains("TRUNCATE TABLE orders at binlog.000003:1004"),
        "{}",
        run.err
    );
    assert!(
        run.err.contains("restore a backup up to that place"),
        "{}",
        run.err
    );
}

#[test]
fn columns_the_server_sets_need_not_stand_in_the_way() {
    let stamp = ColumnType::DateTime { fsp: 0 };
    let people = table(
        "people",
        vec![
            ("id", int(), false),
            ("name", text(), false),
            ("updated_at", stamp, false),
        ],
        &[0],
    );
    let image = |id: i32, name: &str, second: u8| {
        let mut raw = vec![0, 0];
        raw.extend(id.to_le_bytes());
        raw.push(u8::try_from(name.len()).expect("short"));
        raw.extend(name.as_bytes());
        // 2026-11-21 10:00:SS as the server packs it.
        let packed =
            0x80_0000_0000_u64 + ((((2026 * 13 + 11) << 5 | 21) << 17) | (10 << 12) | u64::from(second));
        raw.extend(&packed.to_be_bytes()[3..]);
        Some(raw)
    };
    let mut shop = Shop::mariadb();
    shop.commits_raw(&people, &[(None, image(1, "Ada", 0))]);
    let accident = shop.commits_raw(&people, &[(image(1, "Ada", 0), image(1, "", 1))]);
    // Somebody saves the row later without a change of theirs: the server stamps it all the same.
    shop.commits_raw(&people, &[(image(1, "", 1), image(1, "", 2))]);
    let store = shop.close();
    let plain = ask(&store.path(), &["undo", "--txn", &accident.gtid]).ends_with(0);
    assert!(plain.err.contains("0 in the script, 1 left out"), "{}", plain.err);
    assert!(plain.err.contains("--auto-column updated_at"), "{}", plain.err);
    let told = ask(
        &store.path(),
        &["undo", "--txn", &accident.gtid, "--auto-column", "updated_at"],
    )
    .ends_with(0);
    assert!(told.err.contains("1 in the script, 0 left out"), "{}", told.err);
    ask(
        &store.path(),
        &["undo", "--txn", &accident.gtid, "--auto-column", "changed_at"],
    )
    .fails(2, &["changed_at"]);
}

#[test]
fn hostile_data_reaches_neither_the_terminal_nor_a_comment() {
    let hostile = "x\u{1b}[31m\n-- */ ; DROP TABLE orders; \u{202e}";
    let mut shop = Shop::mariadb();
    shop.commits(&[insert((1, "new", None))]);
    let accident = shop.commits(&[update((1, "new", None), (1, hostile, None))]);
    shop.commits(&[update((1, hostile, None), (1, "other", None))]);
    let store = shop.close();
    let run = ask(
        &store.path(),
        &["undo", "--txn", &accident.gtid, "--explain", "--mode", "force"],
    )
    .ends_with(0);
    assert!(!run.err.contains(['\u{1b}', '\u{202e}']), "{}", run.err);
    assert!(
        !run.out.contains("DROP TABLE") && !run.out.contains('\u{1b}'),
        "{}",
        run.out
    );
}
