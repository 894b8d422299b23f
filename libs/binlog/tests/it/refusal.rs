//! What cannot be decoded is refused with the remedy, and never skipped.

use testkit::{Engine, Server};

use crate::collect::{Collected, read};

/// Decodes what `script` logs on the shared server of `engine`; with it what was decoded before an error.
fn decode(engine: Engine, script: &str) -> (Result<(), String>, Collected) {
    let server = Server::shared(engine);
    let schema = server.schema("refusal");
    server.sql(&format!(
        "CREATE TABLE `{}`.t (id INT PRIMARY KEY, v VARCHAR(2000), j TEXT)",
        schema.name
    ));
    let (path, _) = server.record(&format!("USE `{}`; {script}", schema.name));
    let file = path
        .file_name()
        .and_then(|name| name.to_str())
        .expect("a file name");
    let bytes = std::fs::read(&path).expect("the log is readable");
    let mut sink = Collected::default();
    let outcome = read(file, &bytes[..], &mut sink).map(|_| ());
    sink.rows.retain(|row| row.table.schema == schema.name);
    (outcome, sink)
}

#[test]
fn statement_logging_is_refused() {
    for engine in Engine::ALL {
        let (outcome, sink) = decode(
            engine,
            "INSERT INTO t VALUES (1, 'row', NULL); SET binlog_format = 'STATEMENT'; INSERT INTO t VALUES (2, 'statement', NULL)",
        );
        let message = outcome.expect_err("a statement is no row");
        assert!(message.contains("binlog_format=ROW"), "{message}");
        assert_eq!(sink.rows.len(), 1);
    }
}

#[test]
fn statements_that_change_rows_are_refused_in_every_guise() {
    let fills = "SET binlog_format = 'STATEMENT'; CREATE TABLE filled AS SELECT 1 AS one";
    let guises = [
        (Engine::Mysql8, fills),
        (Engine::Mysql9, fills),
        (Engine::Mariadb, fills),
        (
            Engine::Mariadb,
            "SET binlog_format = 'STATEMENT'; SET STATEMENT sort_buffer_size = 100000 FOR INSERT INTO t VALUES (2, 'x', NULL)",
        ),
        (
            Engine::Mariadb,
            "INSERT INTO t VALUES (1, 'x', NULL); SET binlog_format = 'STATEMENT'; ANALYZE UPDATE t SET v = 'y'",
        ),
    ];
    for (engine, script) in guises {
        let (outcome, _) = decode(engine, script);
        let Err(message) = outcome else {
            panic!("{} took {script}", engine.name());
        };
        assert!(message.contains("binlog_format=ROW"), "{script}: {message}");
    }
    // Logging rows, the same statements leave rows.
    for engine in Engine::ALL {
        let (outcome, sink) = decode(engine, "CREATE TABLE filled AS SELECT 1 AS one");
        outcome.expect("it decodes");
        assert_eq!(sink.rows.len(), 1, "{}", engine.name());
    }
}

#[test]
fn old_times_of_mariadb_are_refused_because_their_length_is_unknown() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::private(Engine::Mariadb, folder.path(), &["--mysql56-temporal-format=OFF"]);
    let (path, _) = server.record(
        "CREATE DATABASE s; CREATE TABLE s.t (id INT PRIMARY KEY, t TIMESTAMP(2), n TINYINT); INSERT INTO s.t VALUES (1, '2026-01-02 03:04:05.00', 7)",
    );
    let bytes = std::fs::read(path).expect("the log is readable");
    let message = read("binlog.000002", &bytes[..], &mut Collected::default()).expect_err("no length");
    assert!(message.contains("mysql56_temporal_format=ON"), "{message}");
}

#[test]
fn a_row_of_defaults_without_any_image_is_refused() {
    let (outcome, _) = decode(
        Engine::Mysql9,
        "CREATE TABLE d (a INT DEFAULT 1, b INT DEFAULT 2); SET binlog_row_image = 'MINIMAL'; INSERT INTO d VALUES ()",
    );
    let message = outcome.expect_err("there is nothing to keep");
    assert!(message.contains("binlog_row_image=FULL"), "{message}");
}

#[test]
fn columns_that_mariadb_hides_are_marked_as_its_own() {
    let (outcome, sink) = decode(
        Engine::Mariadb,
        "CREATE TABLE u (id INT PRIMARY KEY, b BLOB, UNIQUE (b)); INSERT INTO u VALUES (1, 'x')",
    );
    outcome.expect("it decodes");
    let table = &sink.rows[0].table;
    let hidden: Vec<&str> = table
        .columns
        .iter()
        .filter(|c| c.generated == Some(true) && c.invisible)
        .map(|c| c.name.as_str())
        .collect();
    assert_eq!(hidden, ["DB_ROW_HASH_1"]);
}

#[test]
fn a_two_phase_xa_transaction_is_refused() {
    for engine in Engine::ALL {
        let (outcome, sink) = decode(
            engine,
            "XA START 'x'; INSERT INTO t VALUES (1, 'x', NULL); XA END 'x'; XA PREPARE 'x'; XA COMMIT 'x'",
        );
        let message = outcome.expect_err("it cannot be followed yet");
        assert!(message.contains("XA transaction in two phases"), "{message}");
        let ended = sink.commits.len() + sink.rollbacks;
        assert!(
            sink.begins.len() > ended || sink.rows.is_empty(),
            "what was prepared must not count as committed"
        );
    }
}

#[test]
fn a_one_phase_xa_transaction_is_a_transaction() {
    for engine in Engine::ALL {
        let (outcome, sink) = decode(
            engine,
            "XA START 'x'; INSERT INTO t VALUES (1, 'x', NULL); XA END 'x'; XA COMMIT 'x' ONE PHASE",
        );
        outcome.expect("it decodes");
        assert_eq!((sink.rows.len(), sink.begins.len()), (1, sink.commits.len()));
    }
}

#[test]
fn partial_json_is_refused() {
    let (outcome, _) = decode(
        Engine::Mysql8,
        "ALTER TABLE t ADD COLUMN d JSON; INSERT INTO t VALUES (1, 'x', NULL, CONCAT('{\"a\": \"', REPEAT('x', 1000), '\", \"b\": 1}')); \
         SET binlog_row_value_options = 'PARTIAL_JSON'; UPDATE t SET d = JSON_SET(d, '$.b', 2)",
    );
    let message = outcome.expect_err("a part is not a document");
    assert!(message.contains("binlog_row_value_options=''"), "{message}");
}

#[test]
fn partial_images_tell_absent_from_null() {
    for engine in Engine::ALL {
        let (outcome, sink) = decode(
            engine,
            "INSERT INTO t VALUES (1, 'x', NULL); SET binlog_row_image = 'MINIMAL'; UPDATE t SET v = NULL WHERE id = 1",
        );
        outcome.expect("it decodes");
        let update = &sink.rows[1];
        let cells = |stored: &Option<Vec<u8>>| {
            let stored = stored.as_deref().expect("an image");
            let image = binlog::Image::from_bytes(stored, &update.table).expect("an image");
            let cells = image.to_cells(&update.table).expect("cells");
            cells
                .iter()
                .map(|cell| match cell {
                    binlog::Cell::Absent => 'a',
                    binlog::Cell::Null => 'n',
                    binlog::Cell::Value(_) => 'v',
                })
                .collect::<String>()
        };
        assert_eq!(
            (cells(&update.before).as_str(), cells(&update.after).as_str()),
            ("vaa", "ana"),
            "{}",
            engine.name()
        );
    }
}

#[test]
fn rows_without_column_names_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::private(
        Engine::Mariadb,
        folder.path(),
        &[
            "--binlog-row-metadata=NO_LOG",
            "--log-bin-compress=ON",
            "--log-bin-compress-min-len=10",
        ],
    );
    let (file, _) = server.position();
    server.sql("CREATE DATABASE s; CREATE TABLE s.t (id INT PRIMARY KEY); INSERT INTO s.t VALUES (1)");
    let refused = std::fs::read(server.binlog(&file)).expect("the log is readable");
    let message = read(&file, &refused[..], &mut Collected::default()).expect_err("no names");
    assert!(
        message.contains("s.t") && message.contains("binlog_row_metadata=FULL"),
        "{message}"
    );
    // The remedy works without a restart, and MariaDB's compressed events are read.
    server.sql("SET GLOBAL binlog_row_metadata = FULL");
    server.rotate();
    let (file, _) = server.position();
    server.sql(&format!("INSERT INTO s.t VALUES (2); CREATE TABLE s.wide (id INT PRIMARY KEY, v TEXT); INSERT INTO s.wide VALUES (1, REPEAT('compress me ', 500)); UPDATE s.wide SET v = '{}'; DELETE FROM s.wide", "y".repeat(3_000)));
    let bytes = std::fs::read(server.binlog(&file)).expect("the log is readable");
    assert!(
        !bytes.windows(24).any(|part| part == b"compress me compress me "),
        "the log is compressed"
    );
    let mut sink = Collected::default();
    read(&file, &bytes[..], &mut sink).expect("it decodes");
    assert_eq!(
        sink.rows.iter().map(|row| row.op.as_str()).collect::<Vec<_>>(),
        ["insert", "insert", "update", "delete"]
    );
    assert_eq!(sink.rows[2].before, sink.rows[1].after);
    assert!(
        sink.statements
            .iter()
            .any(|text| text.starts_with("CREATE TABLE s.wide"))
    );
}
