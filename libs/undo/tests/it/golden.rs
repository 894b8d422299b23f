//! Whole scripts, to be read by people. After a deliberate change run the tests with `GOLDEN=write` and read the difference.

use std::path::Path;

use binlog::{Charset, ColumnType};
use undo::{Dialect, Mode, Plan};

use crate::fixture::{Log, V, column, int, int_type, order, orders, table, text, text_type};

fn check(name: &str, plan: &Plan) {
    let (mut script, mut redo) = (Vec::new(), Vec::new());
    plan.write_script(&mut script).expect("written");
    plan.write_redo(&mut redo).expect("written");
    for (kind, found) in [("undo", script), ("redo", redo)] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/it/golden/{name}.{kind}.sql"));
        if std::env::var_os("GOLDEN").is_some() {
            std::fs::write(&path, &found).expect("written");
        }
        let wanted = std::fs::read(&path).expect("a golden script");
        let (wanted, found) = (String::from_utf8_lossy(&wanted), String::from_utf8_lossy(&found));
        assert!(wanted == found, "{name}.{kind}.sql is another one now:\n{found}");
        check_digest(&found, plan, kind);
    }
}

/// What the header says about the digest is so.
fn check_digest(script: &str, plan: &Plan, kind: &str) {
    let digest = if kind == "undo" {
        plan.digest()
    } else {
        plan.redo_digest()
    };
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(script.contains(&format!("--   {hex}\n")));
    let length: usize = script
        .split_once("below line ")
        .and_then(|(_, rest)| rest.split_once(','))
        .and_then(|(number, _)| number.parse().ok())
        .expect("a line number");
    let below: String = script.split_inclusive('\n').skip(length).collect();
    assert!(below.starts_with("SET NAMES"));
    assert_eq!(
        ring::digest::digest(&ring::digest::SHA256, below.as_bytes()).as_ref(),
        digest
    );
}

/// An accident over four orders, and what others did meanwhile.
fn accident(mut log: Log) -> Plan {
    for id in 1..5 {
        log.bad(
            Some(&order(id, "paid", "by card", 10 * id)),
            Some(&order(id, "void", "by card", 10 * id)),
        );
    }
    log.good(
        Some(&order(2, "void", "by card", 20)),
        Some(&order(2, "void", "called twice", 20)),
    );
    log.good(
        Some(&order(3, "void", "by card", 30)),
        Some(&order(3, "sent", "by card", 30)),
    );
    log.bad(Some(&order(4, "void", "by card", 40)), None);
    log.bad(None, Some(&order(5, "test", "it's a test", 0)));
    log.plan()
}

#[test]
fn an_accident_among_other_work() {
    check(
        "accident_safe",
        &accident(Log::with(&orders(), Dialect::Mariadb, Mode::Safe)),
    );
    check(
        "accident_force",
        &accident(Log::with(&orders(), Dialect::Mysql, Mode::Force)),
    );
}

#[test]
fn values_that_are_hard_to_write() {
    let columns = vec![
        column("id", int_type()),
        column("plain", text_type()),
        column("Größe\n", text_type()),
        column(
            "back`tick",
            ColumnType::Varchar {
                bytes: 20,
                charset: Charset::new(8),
            },
        ),
        column(
            "bytes",
            ColumnType::Varchar {
                bytes: 20,
                charset: Charset::BINARY,
            },
        ),
        column("real", ColumnType::Float),
        column("bits", ColumnType::Bit { bits: 9 }),
        column(
            "kind",
            ColumnType::Enum {
                bytes: 1,
                labels: vec!["a".into(), "ü".into(), "it's".into()],
            },
        ),
        column("stamp", ColumnType::Timestamp { fsp: 3 }),
        column("document", ColumnType::Json { length: 4 }),
        column("spot", ColumnType::Geometry { length: 4 }),
    ];
    let bytes = |bytes: &[u8]| V::Text(bytes.into());
    let before = [
        int(1),
        text("*/ DROP TABLE t; -- "),
        text("new\nline"),
        bytes(b"caf\xE9"),
        bytes(b"\0\xFF'"),
        bytes(&0.1_f32.to_le_bytes()),
        bytes(&[1, 5]),
        bytes(&[2]),
        bytes(&[0x69, 0x20, 0, 0, 0x04, 0xCE]),
        bytes(b"\x03\0\0\0\x05\x2A\0"),
        bytes(b"\x19\0\0\0\xE6\x10\0\0\x01\x01\0\0\0\0\0\0\0\0\0\xF0\x3F\0\0\0\0\0\0\0\x40"),
    ];
    let mut after = before.clone();
    after[1..].fill(V::Null);
    // The ENUM error value can only be written without strict mode.
    after[7] = bytes(&[0]);
    let mut log = Log::with(&table("t", 1, columns), Dialect::Mysql, Mode::Safe);
    log.bad(Some(&before), Some(&after));
    log.bad(Some(&after), None);
    check("hard_values", &log.plan());
}

#[test]
fn nothing_to_undo() {
    check("empty", &Log::new(&orders()).plan());
}
