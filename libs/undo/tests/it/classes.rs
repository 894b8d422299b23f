//! What later changes make of a selected one.

use binlog::ColumnType;
use undo::{Class, Error, Gap};

use crate::fixture::{
    Log, V, body, change, column, int, int_type, order, orders, redo_body, rows, statements, table, text,
    text_type,
};

#[test]
fn an_untouched_update_is_taken_back() {
    let mut log = Log::new(&orders());
    log.bad(Some(&order(1, "paid", "x", 5)), Some(&order(1, "void", "x", 5)));
    let plan = log.plan();
    assert_eq!(rows(&plan)[0].class, Class::Clean);
    assert_eq!(
        statements(&body(&plan)),
        [
            "UPDATE `shop`.`orders` SET `status` = 'paid' WHERE `id` = 1 AND CAST(`status` AS BINARY) <=> 'void' AND @trail_done = 0;"
        ]
    );
    assert_eq!(
        statements(&redo_body(&plan)),
        [
            "UPDATE `shop`.`orders` SET `status` = 'void' WHERE `id` = 1 AND CAST(`status` AS BINARY) <=> 'paid' AND @trail_done = 0;"
        ]
    );
}

#[test]
fn changes_of_other_columns_survive() {
    let mut log = Log::new(&orders());
    log.bad(Some(&order(1, "paid", "x", 5)), Some(&order(1, "void", "x", 5)));
    log.good(
        Some(&order(1, "void", "x", 5)),
        Some(&order(1, "void", "called", 5)),
    );
    let plan = log.plan();
    assert_eq!(rows(&plan)[0].class, Class::Disjoint);
    assert!(rows(&plan)[0].by.is_some());
    assert_eq!(statements(&body(&plan)).len(), 1);
    assert!(!body(&plan).contains("note"));
}

#[test]
fn a_later_change_of_the_same_column_is_shown_with_both_values() {
    let history = |mut log: Log| {
        log.bad(Some(&order(1, "paid", "x", 5)), Some(&order(1, "void", "x", 9)));
        log.good(Some(&order(1, "void", "x", 9)), Some(&order(1, "sent", "x", 9)));
        log.plan()
    };
    let plan = history(Log::new(&orders()));
    let row = &rows(&plan)[0];
    assert_eq!((row.class, row.included), (Class::Overlap, false));
    assert_eq!(row.conflicts.len(), 1);
    let conflict = &row.conflicts[0];
    assert_eq!(
        (&*conflict.column, &*conflict.wanted, &*conflict.found),
        ("status", "\"paid\"", "\"sent\"")
    );
    assert_eq!(conflict.by.as_ref().map(|by| by.position.at.offset), Some(200));
    assert!(statements(&body(&plan)).is_empty());

    let plan = history(Log::forced(&orders()));
    assert!(rows(&plan)[0].included);
    assert_eq!(
        statements(&body(&plan)),
        [
            "UPDATE `shop`.`orders` SET `status` = 'paid', `total` = 5 WHERE `id` = 1 AND CAST(`status` AS BINARY) <=> 'sent' AND `total` <=> 9 AND @trail_done = 0;"
        ]
    );
}

#[test]
fn a_kept_change_keeps_what_it_was_built_on() {
    // The first is not undone, because the last one holds its column; neither is the one before it.
    let mut log = Log::new(&orders());
    log.bad(Some(&order(1, "a", "x", 5)), Some(&order(1, "b", "x", 5)));
    log.bad(Some(&order(1, "b", "x", 5)), Some(&order(1, "c", "x", 6)));
    log.good(Some(&order(1, "c", "x", 6)), Some(&order(1, "c", "x", 7)));
    let plan = log.plan();
    let classes: Vec<Class> = rows(&plan).iter().map(|row| row.class).collect();
    assert_eq!(classes, [Class::Overlap, Class::Overlap]);
    assert_eq!(rows(&plan)[1].conflicts[0].found, "\"c\"");
}

#[test]
fn several_changes_of_a_row_are_taken_back_one_by_one() {
    let mut log = Log::new(&orders());
    log.bad(Some(&order(1, "a", "x", 5)), Some(&order(1, "b", "x", 5)));
    log.good(Some(&order(1, "b", "x", 5)), Some(&order(1, "b", "y", 5)));
    log.bad(Some(&order(1, "b", "y", 5)), Some(&order(1, "c", "y", 5)));
    log.bad(Some(&order(1, "c", "y", 5)), None);
    let plan = log.plan();
    let classes: Vec<Class> = rows(&plan).iter().map(|row| row.class).collect();
    assert_eq!(classes, [Class::Clean, Class::Clean, Class::Disjoint]);
    assert_eq!(
        statements(&body(&plan)),
        [
            "INSERT INTO `shop`.`orders` (`id`, `status`, `note`, `total`) SELECT 1, 'c', 'y', 5 FROM DUAL WHERE @trail_done = 0;",
            "UPDATE `shop`.`orders` SET `status` = 'b' WHERE `id` = 1 AND CAST(`status` AS BINARY) <=> 'c' AND @trail_done = 1;",
            "UPDATE `shop`.`orders` SET `status` = 'a' WHERE `id` = 1 AND CAST(`status` AS BINARY) <=> 'b' AND @trail_done = 2;",
        ]
    );
}

#[test]
fn an_inserted_row_goes_unless_somebody_wrote_to_it() {
    let mut log = Log::new(&orders());
    log.bad(None, Some(&order(1, "new", "x", 5)));
    log.bad(None, Some(&order(2, "new", "x", 5)));
    log.good(Some(&order(2, "new", "x", 5)), Some(&order(2, "paid", "x", 5)));
    let plan = log.plan();
    let found = rows(&plan);
    assert_eq!((found[0].class, found[1].class), (Class::Overlap, Class::Clean));
    assert_eq!(
        (&*found[0].conflicts[0].wanted, &*found[0].conflicts[0].found),
        ("", "\"paid\"")
    );
    assert_eq!(
        statements(&body(&plan)),
        [
            "DELETE FROM `shop`.`orders` WHERE `id` = 1 AND CAST(`status` AS BINARY) <=> 'new' AND CAST(`note` AS BINARY) <=> 'x' AND `total` <=> 5 AND @trail_done = 0;"
        ]
    );
}

#[test]
fn a_deleted_row_does_not_come_back_over_another() {
    let mut log = Log::new(&orders());
    log.bad(Some(&order(1, "a", "x", 5)), Some(&order(1, "b", "x", 5)));
    log.bad(Some(&order(1, "b", "x", 5)), None);
    log.good(None, Some(&order(1, "c", "x", 5)));
    log.good(Some(&order(1, "c", "x", 5)), Some(&order(1, "d", "x", 5)));
    let plan = log.plan();
    let found = rows(&plan);
    assert_eq!((found[0].class, found[1].class), (Class::Reborn, Class::Reborn));
    assert_eq!(found[0].conflicts.len(), 1);
    assert_eq!(
        (&*found[0].conflicts[0].wanted, &*found[0].conflicts[0].found),
        ("\"b\"", "\"d\"")
    );
    assert!(statements(&body(&plan)).is_empty());
}

#[test]
fn a_row_that_others_deleted_stays_deleted() {
    let mut log = Log::new(&orders());
    log.bad(Some(&order(1, "a", "x", 5)), Some(&order(1, "b", "x", 5)));
    log.good(Some(&order(1, "b", "x", 5)), None);
    log.bad(None, Some(&order(2, "a", "x", 5)));
    log.good(Some(&order(2, "a", "x", 5)), None);
    let plan = log.plan();
    let found = rows(&plan);
    assert_eq!(
        (found[0].class, found[1].class),
        (Class::Vanished, Class::Vanished)
    );
    assert_eq!(
        (&*found[1].conflicts[0].wanted, &*found[1].conflicts[0].found),
        ("\"a\"", "")
    );
}

#[test]
fn a_key_is_followed_and_restored() {
    let mut log = Log::new(&orders());
    log.bad(Some(&order(1, "a", "x", 5)), Some(&order(1, "b", "x", 5)));
    log.bad(Some(&order(1, "b", "x", 5)), Some(&order(9, "b", "x", 5)));
    log.good(Some(&order(9, "b", "x", 5)), Some(&order(9, "b", "y", 5)));
    let plan = log.plan();
    assert_eq!(
        statements(&body(&plan)),
        [
            "UPDATE `shop`.`orders` SET `id` = 1 WHERE `id` = 9 AND @trail_done = 0;",
            "UPDATE `shop`.`orders` SET `status` = 'a' WHERE `id` = 1 AND CAST(`status` AS BINARY) <=> 'b' AND @trail_done = 1;",
        ]
    );
}

#[test]
fn a_row_is_found_under_the_key_that_others_gave_it() {
    let mut log = Log::new(&orders());
    log.bad(Some(&order(1, "a", "x", 5)), Some(&order(1, "b", "x", 5)));
    log.good(Some(&order(1, "b", "x", 5)), Some(&order(9, "b", "x", 5)));
    let plan = log.plan();
    assert_eq!(rows(&plan)[0].class, Class::Disjoint);
    assert!(statements(&body(&plan))[0].contains("WHERE `id` = 9 AND"));
}

#[test]
fn a_key_that_others_use_now_is_not_taken_from_them() {
    let mut log = Log::forced(&orders());
    log.bad(Some(&order(1, "a", "x", 5)), Some(&order(9, "a", "x", 5)));
    log.good(None, Some(&order(1, "other", "x", 5)));
    // Moved onto the key, instead of inserted.
    log.bad(Some(&order(2, "a", "x", 5)), Some(&order(8, "a", "x", 5)));
    log.good(Some(&order(7, "other", "x", 5)), Some(&order(2, "other", "x", 5)));
    let plan = log.plan();
    let found = rows(&plan);
    assert_eq!(found[0].class, Class::KeyTaken);
    assert_eq!(
        (&*found[0].conflicts[0].wanted, &*found[0].conflicts[0].found),
        ("2", "8")
    );
    assert_eq!(found[1].class, Class::Reborn);
    assert!(statements(&body(&plan)).is_empty());
}

#[test]
fn rows_that_swapped_keys_swap_back() {
    let mut log = Log::new(&orders());
    log.bad(Some(&order(1, "a", "x", 5)), Some(&order(3, "a", "x", 5)));
    log.bad(Some(&order(2, "b", "x", 5)), Some(&order(1, "b", "x", 5)));
    log.bad(Some(&order(3, "a", "x", 5)), Some(&order(2, "a", "x", 5)));
    let plan = log.plan();
    assert!(rows(&plan).iter().all(|row| row.class == Class::Clean));
    assert_eq!(plan.summary().statements, 3);
}

#[test]
fn history_that_cannot_be_followed_makes_rows_unknown() {
    let mut log = Log::new(&orders());
    log.bad(Some(&order(1, "a", "x", 5)), Some(&order(1, "b", "x", 5)));
    let at = log.position();
    log.planner().gap(Gap {
        at,
        table: None,
        reason: "two log files are missing".into(),
    });
    log.bad(Some(&order(2, "a", "x", 5)), Some(&order(2, "b", "x", 5)));
    let plan = log.plan();
    let found = rows(&plan);
    assert_eq!((found[0].class, found[1].class), (Class::Clean, Class::Unknown));
    assert!(found[1].why.contains("two log files are missing"));
}

#[test]
fn a_change_the_log_does_not_tell_is_noticed() {
    let mut log = Log::new(&orders());
    log.bad(Some(&order(1, "a", "x", 5)), Some(&order(1, "b", "x", 5)));
    log.good(Some(&order(1, "b", "x", 7)), Some(&order(1, "b", "y", 7)));
    // A row that comes to be where one was: the deletion was not logged.
    log.bad(Some(&order(2, "a", "x", 5)), Some(&order(2, "b", "x", 5)));
    log.good(None, Some(&order(2, "c", "x", 5)));
    let plan = log.plan();
    assert!(
        rows(&plan).iter().all(|row| row.class == Class::Unknown),
        "{:?}",
        rows(&plan)
    );
}

#[test]
fn rows_without_a_key_are_found_by_all_their_values() {
    let columns = vec![column("a", int_type()), column("b", text_type())];
    let mut log = Log::new(&table("log", 0, columns));
    log.bad(Some(&[int(1), V::Null]), Some(&[int(2), V::Null]));
    log.bad(None, Some(&[int(7), text("x")]));
    let plan = log.plan();
    assert_eq!(
        statements(&body(&plan)),
        [
            "DELETE FROM `shop`.`log` WHERE `a` <=> 7 AND CAST(`b` AS BINARY) <=> 'x' AND @trail_done = 0 LIMIT 1;",
            "UPDATE `shop`.`log` SET `a` = 1 WHERE `a` <=> 2 AND `b` IS NULL AND @trail_done = 1 LIMIT 1;",
        ]
    );
    assert_eq!(plan.notes().len(), 1);
}

#[test]
fn equal_rows_without_a_key_come_back_as_often_as_they_went() {
    let columns = vec![column("a", int_type())];
    let mut log = Log::new(&table("log", 0, columns));
    for _ in 0..3 {
        log.bad(Some(&[int(1)]), None);
    }
    let plan = log.plan();
    assert_eq!(plan.summary().statements, 3);
}

#[test]
fn a_key_of_several_columns_is_one_value() {
    let columns = vec![
        column("a", int_type()),
        column("b", int_type()),
        column("n", int_type()),
    ];
    for mut log in [Log::new, Log::forced].map(|log| log(&table("pairs", 2, columns.clone()))) {
        log.bad(Some(&[int(1), int(1), int(5)]), Some(&[int(2), int(1), int(5)]));
        log.good(Some(&[int(2), int(1), int(5)]), Some(&[int(2), int(7), int(5)]));
        let plan = log.plan();
        // Restoring `a` alone would make the key (1, 7), which nobody ever gave a row.
        let row = &rows(&plan)[0];
        assert_eq!((row.class, row.included), (Class::Overlap, false));
    }
}

#[test]
fn a_column_that_the_server_sets_is_no_reason_to_leave_a_change() {
    let columns = || {
        let stamp = ColumnType::DateTime { fsp: 0 };
        vec![
            column("id", int_type()),
            column("n", int_type()),
            column("m", int_type()),
            column("changed", stamp),
        ]
    };
    let stamp = |second: u8| V::Text(vec![0x99, 0xB2, 0xEA, 0xA0, second]);
    let row = |n, m, second| vec![int(1), int(n), int(m), stamp(second)];
    let history = |told: bool| {
        let mut log = Log::new(&table("t", 1, columns()));
        if told {
            log.planner().self_updating("shop", "t", &["changed"]);
        }
        log.bad(Some(&row(1, 1, 1)), Some(&row(2, 1, 2)));
        log.good(Some(&row(2, 1, 2)), Some(&row(2, 9, 3)));
        log.plan()
    };
    assert_eq!(rows(&history(false))[0].class, Class::Overlap);
    let plan = history(true);
    assert_eq!(rows(&plan)[0].class, Class::Disjoint);
    assert_eq!(
        statements(&body(&plan)),
        [
            "UPDATE `shop`.`t` SET `n` = 1, `changed` = `changed` WHERE `id` = 1 AND `n` <=> 2 AND @trail_done = 0;"
        ]
    );
}

#[test]
fn the_feed_must_be_in_order() {
    let mut log = Log::new(&orders());
    let (first, second) = (log.position(), log.position());
    let row = order(1, "a", "x", 5);
    let table = orders();
    let planner = log.planner();
    planner
        .change(&change(&table, second, None, Some(&row)), true)
        .expect("the first");
    assert!(matches!(
        planner.change(&change(&table, first, Some(&row), None), true),
        Err(Error::Order { .. })
    ));
}
