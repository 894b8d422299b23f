//! Statements whose quotes end where the session's `sql_mode` says.

use binlog::{Descended, descents};
use testkit::{Engine, Server};

use crate::collect::{Collected, read_file};

/// Runs them in turn in a new schema, which is their default one.
fn run(engine: Engine, statements: &str) -> Collected {
    let server = Server::shared(engine);
    let schema = server.schema("quotes");
    let name = &schema.name;
    let tables = "CREATE TABLE pay (id INT PRIMARY KEY); CREATE TABLE wages (id INT PRIMARY KEY)";
    let (path, _) = server.record(&format!("USE `{name}`; {tables}; {statements}"));
    let mut log = read_file(&path);
    // The shared server's other schemas are other tests'.
    let mine: Vec<bool> = log
        .targets
        .iter()
        .map(|targets| !targets.is_empty() && targets.iter().all(|target| target.schema == *name))
        .collect();
    let mut nth = mine.iter();
    log.statements.retain(|_| *nth.next().expect("a statement"));
    log.targets
        .retain(|targets| !targets.is_empty() && targets[0].schema == *name);
    log
}

/// The tables that the last statement is about, by the decoder; and what came from what, by the text alone.
fn last(log: &Collected) -> (Vec<&str>, Vec<(String, String)>) {
    let named = log.targets.last().expect("a statement").iter();
    let told = descents(log.statements.last().expect("a statement"), "");
    let rows = told
        .expect("a statement")
        .into_iter()
        .filter(|one| one.what == Descended::Rows);
    (
        named
            .map(|target| target.table.as_deref().expect("a statement"))
            .collect(),
        rows.map(|one| (one.from.1, one.to.1)).collect(),
    )
}

/// The statement, past a client that would end its quotes elsewhere.
fn prepared(text: &str) -> String {
    let hex: String = text.bytes().map(|byte| format!("{byte:02X}")).collect();
    format!("SET @s = CONVERT(X'{hex}' USING utf8mb4); PREPARE p FROM @s; EXECUTE p;")
}

fn pair(from: &str, to: &str) -> (String, String) {
    (from.to_owned(), to.to_owned())
}

#[test]
fn a_rename_behind_a_literal_backslash_is_seen_and_one_within_quotes_is_not() {
    for engine in Engine::ALL {
        let log = run(
            engine,
            r"SET sql_mode = 'NO_BACKSLASH_ESCAPES'; ALTER TABLE pay COMMENT='C:\', RENAME TO pay2",
        );
        let expected = (vec!["pay", "pay2"], vec![pair("pay", "pay2")]);
        assert_eq!(last(&log), expected, "{}", engine.name());
        let log = run(
            engine,
            r"SET sql_mode = 'STRICT_TRANS_TABLES'; ALTER TABLE pay COMMENT='it\', RENAME TO pay2'",
        );
        assert_eq!(last(&log), (vec!["pay"], vec![]), "{}", engine.name());
        let log = run(
            engine,
            &format!(
                r"SET sql_mode = 'ANSI_QUOTES'; {} {}",
                prepared(r#"CREATE TABLE "a\" (id INT PRIMARY KEY)"#),
                prepared(r#"RENAME TABLE "a\" TO b, wages TO "c\""#)
            ),
        );
        let expected = (
            vec![r"a\", "b", "wages", r"c\"],
            vec![pair(r"a\", "b"), pair("wages", r"c\")],
        );
        assert_eq!(last(&log), expected, "{}", engine.name());
    }
}
