//! `trail index --schema-from`: logs that do not name columns, read with a live server's definitions as far as those are good.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde_json::Value;
use testkit::{Engine, Server};

use crate::run::{Run, ask, end, on};

#[path = "../../../../libs/binlog/tests/it/workload.rs"]
mod workload;

/// A server with the metadata it logs by default, which a system without our advice has.
fn server(engine: Engine, folder: &Path) -> Server {
    start(engine, folder, &[])
}

/// The same, which also compresses what it logs.
fn compressing(engine: Engine, folder: &Path) -> Server {
    let options: &[&str] = if engine.is_mariadb() {
        &["--log-bin-compress=ON", "--log-bin-compress-min-len=10"]
    } else {
        &["--binlog-transaction-compression=ON"]
    };
    start(engine, folder, options)
}

fn start(engine: Engine, folder: &Path, options: &[&str]) -> Server {
    static STARTING: Mutex<()> = Mutex::new(());
    let metadata = if engine.is_mariadb() { "NO_LOG" } else { "MINIMAL" };
    let metadata = format!("--binlog-row-metadata={metadata}");
    // Data folders are made one after the other: on a busy machine several at once run into each other's limits.
    let _alone = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    Server::private(engine, &folder.join("server"), &[&[&*metadata], options].concat())
}

/// What `script` logs, in a file that nothing else is in.
fn record(server: &Server, script: &str) -> PathBuf {
    server.record(script).0
}

fn index(server: &Server, store: &Path, files: &[&Path]) -> Run {
    let files = files.iter().map(|file| file.to_str().expect("a path"));
    let args: Vec<&str> = ["index", "--schema-from", &server.repl_url]
        .into_iter()
        .chain(files)
        .collect();
    let mut command = on(store, &args);
    command.env("TRAIL_SOURCE_PASSWORD", &server.repl_password);
    end(command)
}

/// All changes of a store, without what differs between two runs of the same statements.
fn changes(store: &Path) -> Vec<Value> {
    let mut all = ask(store, &["changes", "--format", "ndjson", "--order", "oldest"])
        .ends_with(0)
        .ndjson();
    for change in &mut all {
        let change = change.as_object_mut().expect("an object");
        for name in [
            "position",
            "gtid",
            "commit_time",
            "thread_id",
            "schema",
            "schema_version",
            "query",
        ] {
            assert!(change.remove(name).is_some(), "{name}");
        }
    }
    all
}

/// The mixed workload without the statement in its middle that defines a table anew, and what it does not have.
fn mixed(engine: Engine, schema: &str) -> String {
    let all = workload::sql(engine, schema);
    let kept = all
        .lines()
        .filter(|line| !line.contains("ALTER TABLE child") && !line.contains("UPDATE child SET note"))
        .collect::<Vec<_>>()
        .join("\n");
    format!(
        "{kept}
CREATE TABLE odd (a VARCHAR(20) CHARACTER SET latin1, B TEXT NOT NULL, hidden INT INVISIBLE DEFAULT 7,
  e ENUM('back\\\\slash','two\\nlines','it''s','a,b)','ünï') CHARACTER SET latin1, s SET('x y','(z)') CHARACTER SET utf8mb4 NOT NULL,
  z INT(5) UNSIGNED ZEROFILL, u VARCHAR(9) COLLATE utf8mb4_unicode_ci, d DECIMAL(7,3) UNSIGNED, PRIMARY KEY (B(5), a));
INSERT INTO odd VALUES ('k1', 'text one', 'back\\\\slash', '(z)', 4294967295, 'u', 9.5), ('k2', 'text two', 'two\\nlines', '', 0, NULL, 1);
UPDATE odd SET e = 'it''s', hidden = 8; UPDATE odd SET e = 'a,b)'; UPDATE odd SET e = 'ünï', s = 'x y,(z)'; DELETE FROM odd WHERE a = 'k2';
"
    )
}

#[test]
fn rows_are_those_of_a_log_that_names_columns() {
    for engine in Engine::ALL {
        let folder = tempfile::tempdir().expect("a folder");
        let server = server(engine, folder.path());
        let (nameless, full) = (folder.path().join("nameless"), folder.path().join("full"));
        let without = record(
            &server,
            &format!("CREATE DATABASE a CHARACTER SET utf8mb4;{}", mixed(engine, "a")),
        );
        server.sql("SET GLOBAL binlog_row_metadata = FULL");
        let with = record(
            &server,
            &format!("CREATE DATABASE b CHARACTER SET utf8mb4;{}", mixed(engine, "b")),
        );
        let refused = end(on(&nameless, &["index", without.to_str().expect("a path")]));
        refused.fails(64, &["does not name the columns", "--schema-from"]);
        index(&server, &nameless, &[&without]).ends_with(0);
        end(on(&full, &["index", with.to_str().expect("a path")])).ends_with(0);
        let (one, other) = (changes(&nameless), changes(&full));
        assert!(one.len() > 400, "{}", one.len());
        for (one, other) in one.iter().zip(&other) {
            assert_eq!(one, other, "{}", engine.name());
        }
        assert_eq!(one.len(), other.len());
        // Where the log names columns, the server is not asked.
        let store = folder.path().join("named");
        let run = index(&server, &store, &[&with]).ends_with(0);
        assert!(!run.err.contains("warning"), "{}", run.err);
        assert_eq!(changes(&store), other);
    }
}

#[test]
fn an_undo_from_such_a_store_applies() {
    for engine in Engine::ALL {
        let folder = tempfile::tempdir().expect("a folder");
        let server = server(engine, folder.path());
        let (store, script) = (folder.path().join("store"), folder.path().join("undo.sql"));
        let before = "SELECT id, v, e, amount, w FROM s.t ORDER BY id";
        let accident = record(
            &server,
            "CREATE DATABASE s CHARACTER SET utf8mb4; CREATE TABLE s.t (id INT UNSIGNED PRIMARY KEY, v VARCHAR(20), e ENUM('new','it''s'), amount DECIMAL(9,2), \
               w BIGINT GENERATED ALWAYS AS (id * 2) STORED, at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6)); \
             INSERT INTO s.t (id, v, e, amount) VALUES (1, 'one', 'new', 1.5), (4294967295, 'two', 'it''s', -2), (3, NULL, NULL, NULL); \
             CREATE TABLE s.good AS SELECT * FROM s.t; UPDATE s.t SET v = 'void', e = 'new'; DELETE FROM s.t WHERE id = 3",
        );
        let good = server.sql("SELECT id, v, e, amount, w FROM s.good ORDER BY id");
        assert_ne!(server.sql(before), good);
        index(&server, &store, &[&accident]).ends_with(0);
        let path = script.to_str().expect("a path");
        ask(
            &store,
            &["undo", "s.t", "--op", "update", "--op", "delete", "-o", path],
        )
        .ends_with(0);
        let text = std::fs::read(&script).expect("a script");
        let applied = server.run(&text, &[]);
        assert!(
            applied.status.success(),
            "{}",
            String::from_utf8_lossy(&applied.stderr)
        );
        assert_eq!(server.sql(before), good, "{}", engine.name());
        // What the catalogue adds is in the store as if the server had been followed.
        let schema = ask(&store, &["schema", "s.t", "--format", "json"])
            .ends_with(0)
            .out;
        assert!(
            schema.contains("generated") && schema.contains("on_update"),
            "{schema}"
        );
    }
}

#[test]
fn rows_before_a_statement_about_their_table_are_refused() {
    for engine in Engine::ALL {
        let folder = tempfile::tempdir().expect("a folder");
        let server = compressing(engine, folder.path());
        server.sql(
            "CREATE DATABASE s; CREATE TABLE s.t (id INT PRIMARY KEY, a INT, e ENUM('x')); CREATE TABLE s.u (id INT PRIMARY KEY)",
        );
        let before = record(
            &server,
            "INSERT INTO s.u VALUES (1); INSERT INTO s.t VALUES (1, 2, 'x')",
        );
        let mut nth = 0;
        let mut store = || {
            nth += 1;
            folder.path().join(format!("store{nth}"))
        };
        let rename = if engine.is_mariadb() {
            "SET STATEMENT max_statement_time=60 FOR ALTER TABLE s.t RENAME COLUMN a TO b"
        } else {
            "ALTER TABLE s.t RENAME COLUMN a TO b"
        };
        for ddl in [
            rename,
            "ALTER TABLE s.t MODIFY e ENUM('x','y')",
            "USE s; ALTER TABLE t MODIFY b INT UNSIGNED",
            "RENAME TABLE s.t TO s.gone; CREATE TABLE s.t (id INT PRIMARY KEY, b INT UNSIGNED, e ENUM('x','y')); INSERT INTO s.t SELECT * FROM s.gone",
            "DROP DATABASE s; CREATE DATABASE s; CREATE TABLE s.u (id INT PRIMARY KEY); CREATE TABLE s.t (id INT PRIMARY KEY, b INT, e ENUM('x')); INSERT INTO s.t VALUES (1, 1, 'x')",
        ] {
            let altered = record(
                &server,
                &format!(
                    "{ddl}; INSERT INTO s.t VALUES (2, 3, 'x'); UPDATE s.t SET e = 'x', b = 9 WHERE id = 2; DELETE FROM s.t WHERE id = 2"
                ),
            );
            let name = altered
                .file_name()
                .and_then(|name| name.to_str())
                .expect("a name");
            index(&server, &store(), &[&before, &altered]).fails(
                64,
                &[
                    "does not name the columns of s.",
                    "the statement at",
                    &format!("{name}:"),
                    "index only the files after",
                ],
            );
            let after = store();
            index(&server, &after, &[&altered]).ends_with(0);
            assert!(
                changes(&after).iter().any(|change| change["after"]["b"] == 9),
                "{ddl}"
            );
        }
        // TRUNCATE leaves the definition; rows of a table that is not there any more are nobody's.
        let truncated = record(
            &server,
            "INSERT INTO s.t VALUES (7, 1, 'x'); TRUNCATE s.t; INSERT INTO s.t VALUES (8, 1, 'x')",
        );
        index(&server, &store(), &[&truncated]).ends_with(0);
        server.sql("DROP TABLE s.t");
        index(&server, &store(), &[&truncated]).fails(64, &["s.t", "does not have this table any more"]);
    }
}

#[test]
fn what_disagrees_with_the_log_is_refused_and_what_was_not_looked_at_is_told() {
    for engine in Engine::ALL {
        let folder = tempfile::tempdir().expect("a folder");
        let server = server(engine, folder.path());
        let table = "id INT PRIMARY KEY, a INT, v VARCHAR(10) CHARACTER SET latin1, d DECIMAL(9,2), t DATETIME(3), e ENUM('x'), b BLOB, n INT NOT NULL";
        server.sql(&format!("CREATE DATABASE s; CREATE TABLE s.t ({table})"));
        let rows = record(
            &server,
            "INSERT INTO s.t VALUES (1, 2, 'v', 1.5, '2026-11-21 10:00:00.5', 'x', 'b', 3)",
        );
        let store = folder.path().join("store");
        for (change, word) in [
            ("MODIFY a BIGINT", "(a) is bigint"),
            ("MODIFY a INT NOT NULL", "may be NULL"),
            (
                "MODIFY v VARCHAR(11) CHARACTER SET latin1",
                "varchar or varbinary of 10 bytes",
            ),
            (
                "MODIFY v VARCHAR(10) CHARACTER SET utf8mb4",
                "varchar or varbinary of 10 bytes",
            ),
            ("MODIFY d DECIMAL(9,3)", "decimal(9,2)"),
            ("MODIFY d DECIMAL(10,2)", "decimal(9,2)"),
            ("MODIFY t DATETIME", "datetime(3)"),
            ("MODIFY e SET('x')", "an enum of 1 bytes"),
            ("MODIFY b LONGBLOB", "a length of 2 bytes"),
            ("MODIFY n INT NULL", "may not be NULL"),
            ("ADD extra INT", "the log has 8 columns, the server 9"),
        ] {
            server.sql(&format!("ALTER TABLE s.t {change}"));
            index(&server, &store, &[&rows]).fails(64, &["s.t", "was altered since", word]);
            server.sql(&format!("DROP TABLE s.t; CREATE TABLE s.t ({table})"));
        }
        // MySQL logs signs and collations, MariaDB does not; where nothing shows it, the warning is what there is.
        for (change, word) in [
            ("MODIFY a INT UNSIGNED", "is signed"),
            ("MODIFY d DECIMAL(9,2) UNSIGNED", "is signed"),
            ("MODIFY v VARCHAR(10) CHARACTER SET latin2", "collation number 8"),
        ] {
            server.sql(&format!("ALTER TABLE s.t {change}"));
            if !engine.is_mariadb() {
                index(&server, &store, &[&rows]).fails(64, &["s.t", "was altered since", word]);
            }
            server.sql(&format!("DROP TABLE s.t; CREATE TABLE s.t ({table})"));
        }
        let run = index(&server, &store, &[&rows]).ends_with(0);
        assert!(
            run.err.contains("warning: the log of") && run.err.contains("was not looked at"),
            "{}",
            run.err
        );
        // Another server's: told by its engine, or by its files.
        let other = Server::shared(if engine.is_mariadb() {
            Engine::Mysql8
        } else {
            Engine::Mariadb
        });
        index(other, &folder.path().join("other"), &[&rows])
            .fails(64, &["it is a log of", "must name the server that wrote"]);
        let copy = folder.path().join("elsewhere.000001");
        std::fs::copy(&rows, &copy).expect("a copy");
        let run = index(&server, &folder.path().join("elsewhere"), &[&copy]).ends_with(0);
        assert!(run.err.contains("none of the given files"), "{}", run.err);
        // The whole log up to now leaves nothing to warn of.
        let last = server.binlog(&server.position().0);
        server.sql("INSERT INTO s.t VALUES (3, 2, 'v', 1.5, '2026-11-21 10:00:00.5', 'x', 'b', 3)");
        let run = index(&server, &folder.path().join("whole"), &[&last]).ends_with(0);
        assert!(!run.err.contains("warning"), "{}", run.err);
    }
}
