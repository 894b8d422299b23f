//! Data that wants to be SQL.

use binlog::{Charset, ColumnType};
use undo::{Dialect, Error, Mode};

use crate::fixture::{Log, V, column, int, int_type, table, text_type};

const HOSTILE: [&str; 12] = [
    "\n; DROP TABLE t; -- ",
    "*/ DROP TABLE t; /*",
    "`; DROP TABLE t; #",
    "'); DROP TABLE t; -- ",
    "\\'; DROP TABLE t; -- ",
    "\"",
    "\u{2028}",
    "\r",
    "\u{1a}",
    "größe",
    "\\",
    "/*!50000 DROP TABLE t */",
];

fn scripts(log: Log) -> [String; 2] {
    let plan = log.plan();
    let (mut script, mut redo) = (Vec::new(), Vec::new());
    plan.write_script(&mut script).expect("written");
    plan.write_redo(&mut redo).expect("written");
    [script, redo].map(|bytes| String::from_utf8(bytes).expect("UTF-8"))
}

/// The statements of a script with everything between backticks and between single quotes taken out, as every client and server reads
/// them: inside backticks only a backtick is special; between quotes there is plain ASCII without quotes and backslashes.
fn bones(script: &str) -> String {
    let mut bones = String::new();
    let mut within = None;
    for c in script.chars() {
        match within {
            None if c == '`' || c == '\'' => within = Some(c),
            None => bones.push(c),
            Some(quote) if c == quote => within = None,
            Some('\'') => assert!((' '..='~').contains(&c) && c != '\\', "{c:?}"),
            Some(_) => {}
        }
    }
    assert_eq!(within, None);
    bones
}

#[test]
fn values_stay_values() {
    for value in HOSTILE {
        for charset in [8, 28, 33, 45, 63] {
            let columns = vec![
                column(
                    "id",
                    ColumnType::Varchar {
                        bytes: 400,
                        charset: Charset::new(charset),
                    },
                ),
                column(
                    "v",
                    ColumnType::Varchar {
                        bytes: 400,
                        charset: Charset::new(charset),
                    },
                ),
            ];
            let row = |text: &[u8]| vec![V::Text(text.into()), V::Text([text, b"\xFF\0"].concat())];
            let mut log = Log::with(&table("t", 1, columns), Dialect::Mysql, Mode::Safe);
            log.bad(Some(&row(value.as_bytes())), Some(&row(b"\xFF' harmless")));
            log.bad(None, Some(&row(value.as_bytes())));
            for script in scripts(log) {
                assert!(script.is_ascii());
                assert!(!bones(&script).contains("DROP"), "{script}");
            }
        }
    }
}

#[test]
fn names_stay_names_and_never_stand_in_comments() {
    for name in HOSTILE {
        let name = format!("secret{name}");
        let mut log = Log::new(&table(
            &name,
            1,
            vec![column(&name, int_type()), column("v", text_type())],
        ));
        log.bad(
            Some(&[int(1), V::Text(name.clone().into())]),
            Some(&[int(1), V::Null]),
        );
        for script in scripts(log) {
            assert!(!bones(&script).contains("secret"), "{script}");
            assert!(!bones(&script).contains("DROP"), "{script}");
            let header = script.split("SET NAMES").next().expect("a header");
            let plain = |c: char| c.is_ascii_alphanumeric() || " \n.,:()[]-_<=+|".contains(c);
            assert!(header.chars().all(plain), "{header}");
            assert!(header.lines().all(|line| line.starts_with("--")));
            assert!(!header.contains("secret") && !header.contains("binlog"));
        }
    }
}

#[test]
fn names_that_cannot_be_written_are_refused() {
    for name in ["a\0b", "a\r\nb", "", "a\u{FFFD}"] {
        let mut log = Log::new(&table(
            "t",
            1,
            vec![column("id", int_type()), column(name, int_type())],
        ));
        log.bad(Some(&[int(1), int(1)]), Some(&[int(1), int(2)]));
        let refused = log.finish().expect_err("no plan");
        assert!(matches!(refused, Error::Name { .. }), "{refused}");
        assert!(!refused.to_string().contains('\0'));
    }
}
