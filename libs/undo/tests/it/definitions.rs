//! What changes of the table itself make of a selected change, and what its definition forbids.

use binlog::Statement;
use undo::Class;

use crate::fixture::{
    Log, V, body, column, int, int_type, order, orders, redo_body, rows, table, text, text_type,
};

#[test]
fn emptied_tables_have_no_rows_to_restore() {
    for (kind, text) in [
        (Statement::Truncate, "TRUNCATE orders"),
        (Statement::Drop, "DROP TABLE orders"),
        (Statement::Create, "CREATE OR REPLACE TABLE orders (id INT)"),
    ] {
        let mut log = Log::new(&orders());
        log.bad(Some(&order(1, "a", "x", 5)), None);
        log.ddl(kind, text);
        log.bad(None, Some(&order(2, "a", "x", 5)));
        let plan = log.plan();
        let found = rows(&plan);
        assert_eq!(
            (found[0].class, found[1].class),
            (Class::Clean, Class::Vanished),
            "{text}"
        );
    }
}

#[test]
fn definitions_that_changed_are_seen_through() {
    let wide = |names: &[(&str, bool)]| {
        let mut columns = vec![column("id", int_type())];
        columns.extend(
            names
                .iter()
                .map(|(name, is_int)| column(name, if *is_int { int_type() } else { text_type() })),
        );
        table("orders", 1, columns)
    };
    let old = orders();
    for (new, class, why) in [
        (
            wide(&[
                ("note", false),
                ("extra", true),
                ("status", false),
                ("total", true),
            ]),
            Class::Clean,
            "",
        ),
        (
            wide(&[("note", false), ("state", false), ("total", true)]),
            Class::Unknown,
            "status is no longer there",
        ),
        (
            wide(&[("status", true), ("note", false), ("total", true)]),
            Class::Unknown,
            "status has another type now",
        ),
    ] {
        let mut log = Log::new(&old);
        log.bad(Some(&order(1, "a", "x", 5)), Some(&order(1, "b", "x", 5)));
        log.ddl(Statement::Alter, "ALTER TABLE orders …");
        log.latest = Some(new);
        let plan = log.plan();
        let row = &rows(&plan)[0];
        assert_eq!(row.class, class, "{}", row.why);
        assert!(row.why.contains(why), "{}", row.why);
    }
}

#[test]
fn an_alter_whose_outcome_is_not_known_makes_rows_unknown() {
    for (text, class) in [
        ("ALTER TABLE orders ADD x INT", Class::Unknown),
        ("ALTER TABLE orders TRUNCATE PARTITION p1", Class::Unknown),
        ("CREATE INDEX i ON orders (note)", Class::Clean),
    ] {
        let mut log = Log::new(&orders());
        log.bad(Some(&order(1, "a", "x", 5)), Some(&order(1, "b", "x", 5)));
        log.ddl(Statement::Alter, text);
        log.latest = Some(orders());
        assert_eq!(rows(&log.plan())[0].class, class, "{text}");
    }
}

#[test]
fn partial_images_are_used_as_far_as_they_go() {
    let mut log = Log::new(&orders());
    // binlog_row_image=MINIMAL: the key before, the changed columns after.
    log.bad(
        Some(&[int(1), V::Absent, V::Absent, V::Absent]),
        Some(&[V::Absent, text("b"), V::Absent, V::Absent]),
    );
    // NOBLOB with all that is needed.
    log.bad(
        Some(&[int(2), text("a"), V::Absent, int(5)]),
        Some(&[int(2), text("b"), V::Absent, int(5)]),
    );
    log.bad(Some(&[int(3), text("a"), V::Absent, int(5)]), None);
    let plan = log.plan();
    let classes: Vec<Class> = rows(&plan).iter().map(|row| row.class).collect();
    assert_eq!(classes, [Class::Unknown, Class::Clean, Class::Unknown]);
}

#[test]
fn generated_columns_are_never_written() {
    let mut twice = column("twice", int_type());
    twice.generated = Some(true);
    let columns = vec![column("id", int_type()), column("n", int_type()), twice];
    let mut log = Log::new(&table("t", 1, columns));
    log.bad(Some(&[int(1), int(1), int(2)]), Some(&[int(1), int(2), int(4)]));
    log.bad(Some(&[int(1), int(2), int(4)]), None);
    log.bad(None, Some(&[int(5), int(5), int(10)]));
    let plan = log.plan();
    for script in [body(&plan), redo_body(&plan)] {
        assert!(!script.contains("twice"), "{script}");
    }
    assert!(plan.notes().is_empty());
}

#[test]
fn a_table_whose_generated_columns_nobody_looked_up_is_noted() {
    let mut unknown = column("n", int_type());
    unknown.generated = None;
    let mut log = Log::new(&table("t", 1, vec![column("id", int_type()), unknown]));
    log.bad(Some(&[int(1), int(1)]), Some(&[int(1), int(2)]));
    assert!(log.plan().notes()[0].contains("shop.t"));
}

#[test]
fn a_column_is_followed_only_while_its_name_is_its_own() {
    let mut columns = orders().columns.clone();
    columns.push(column("extra", int_type()));
    for (text, class) in [
        (
            "ALTER TABLE orders ADD COLUMN extra INT, DROP INDEX i, ADD INDEX j (note)",
            Class::Clean,
        ),
        (
            "ALTER TABLE orders ADD extra INT, RENAME COLUMN status TO note, RENAME COLUMN note TO status",
            Class::Unknown,
        ),
        (
            "ALTER TABLE orders CHANGE status note TEXT, CHANGE note status TEXT, ADD extra INT",
            Class::Unknown,
        ),
        (
            "alter table orders drop column `status`, add column if not exists `status` text, add extra int",
            Class::Unknown,
        ),
    ] {
        let mut log = Log::new(&orders());
        log.bad(Some(&order(1, "a", "x", 5)), Some(&order(1, "b", "x", 5)));
        log.ddl(Statement::Alter, text);
        log.latest = Some(table("orders", 1, columns.clone()));
        assert_eq!(rows(&log.plan())[0].class, class, "{text}");
    }
}

#[test]
fn a_row_is_not_deleted_with_a_column_that_cannot_be_compared() {
    let mut columns = orders().columns.clone();
    columns[2].ty = int_type();
    let mut log = Log::new(&orders());
    log.bad(None, Some(&order(1, "a", "5", 5)));
    log.ddl(Statement::Alter, "ALTER TABLE orders MODIFY note INT");
    log.table = table("orders", 1, columns);
    let row = |note| [int(1), text("a"), int(note), int(5)];
    log.good(Some(&row(5)), Some(&row(6)));
    let plan = log.plan();
    assert_eq!(rows(&plan)[0].class, Class::Unknown, "{}", rows(&plan)[0].why);
}
