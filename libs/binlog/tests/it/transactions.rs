//! What stands around the rows: GTIDs, times, connections, statements, and where transactions begin and end.

use binlog::GtidSet;
use testkit::{Engine, Server};

use crate::collect::read_file;

#[test]
fn transactions_carry_what_the_server_says_of_them() {
    for engine in Engine::ALL {
        let server = Server::shared(engine);
        let schema = server.schema("tx");
        server.sql(&format!(
            "CREATE TABLE `{}`.t (id INT PRIMARY KEY, v INT)",
            schema.name
        ));
        server.rotate();
        let (file, _) = server.position();
        let gtid = if engine.is_mariadb() {
            "@@last_gtid"
        } else {
            "@@gtid_executed"
        };
        let script = format!(
            "USE `{}`; INSERT INTO t VALUES (1, 1); INSERT INTO t VALUES (2, 2), (3, 3); UPDATE t SET v = 9; SELECT {gtid}, CONNECTION_ID(), UNIX_TIMESTAMP(NOW(6))",
            schema.name
        );
        let told = server.sql(&script);
        server.rotate();
        let told: Vec<&str> = told.trim_end().split('\t').collect();
        let log = read_file(&server.binlog(&file));
        let rows: Vec<_> = log
            .rows
            .iter()
            .filter(|row| row.table.schema == schema.name)
            .collect();
        assert_eq!(rows.len(), 6);
        assert_eq!(
            rows[1].query.as_deref(),
            Some("INSERT INTO t VALUES (2, 2), (3, 3)"),
            "{}",
            engine.name()
        );
        // Transactions are whole, in order and without overlap.
        assert_eq!(log.begins.len(), log.commits.len());
        for (begin, commit) in log.begins.iter().zip(&log.commits) {
            assert!(begin.at < commit.end);
            let now: f64 = told[2].parse().expect("a time");
            assert!(
                (commit.time.0 as f64 / 1e6 - now).abs() < 120.0,
                "{} is far from {now}",
                commit.time
            );
        }
        assert!(log.begins.windows(2).all(|pair| pair[0].at < pair[1].at));
        let gtids: Vec<_> = log.begins.iter().filter_map(|begin| begin.gtid.clone()).collect();
        assert_eq!(gtids.len(), log.begins.len(), "every transaction has a GTID");
        if engine.is_mariadb() {
            assert!(gtids.iter().any(|gtid| gtid.to_string() == told[0]));
            assert!(
                log.previous[0].contains(&"0-1-1".parse().expect("a gtid")) || !log.previous[0].is_empty()
            );
        } else {
            // What preceded the file and what stands in it is what the server has executed.
            let executed: GtidSet = told[0].replace("\\n", "").parse().expect("a set");
            assert!(
                log.begins
                    .iter()
                    .any(|begin| begin.thread_id.map(|id| id.to_string()).as_deref() == Some(told[1]))
            );
            assert!(gtids.iter().filter(|gtid| executed.contains(gtid)).count() >= 3);
            assert!(gtids.iter().all(|gtid| !log.previous[0].contains(gtid)));
            assert!(
                log.commits.iter().any(|commit| commit.time.0 % 1_000_000 != 0),
                "MySQL logs microseconds"
            );
        }
        let successor = log.positions.last().expect("the file was rotated");
        assert_eq!(successor.offset, 4);
        assert!(binlog::FileName::new(&file).is_followed_by(&successor.file));
    }
}

#[test]
fn a_transaction_rolled_back_leaves_nothing() {
    let server = Server::shared(Engine::Mysql8);
    let schema = server.schema("rollback");
    server.rotate();
    let (file, _) = server.position();
    server.sql(&format!(
        "USE `{}`; CREATE TABLE t (id INT PRIMARY KEY); START TRANSACTION; INSERT INTO t VALUES (1); ROLLBACK; INSERT INTO t VALUES (2)",
        schema.name
    ));
    server.rotate();
    let log = read_file(&server.binlog(&file));
    assert_eq!(
        log.rows
            .iter()
            .filter(|row| row.table.schema == schema.name)
            .count(),
        1
    );
    assert!(
        log.statements
            .iter()
            .any(|text| text.starts_with("CREATE TABLE t"))
    );
}
