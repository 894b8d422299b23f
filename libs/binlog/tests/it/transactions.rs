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
        let gtid = if engine.is_mariadb() {
            "@@last_gtid"
        } else {
            "@@gtid_executed"
        };
        let script = format!(
            "USE `{}`; INSERT INTO t VALUES (1, 1); INSERT INTO t VALUES (2, 2), (3, 3); UPDATE t SET v = 9; SELECT {gtid}, CONNECTION_ID(), UNIX_TIMESTAMP(NOW(6))",
            schema.name
        );
        let (path, told) = server.record(&script);
        let told: Vec<&str> = told.trim_end().split('\t').collect();
        let log = read_file(&path);
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
        assert!(binlog::FileName::new(path.to_str().expect("a UTF-8 path")).is_followed_by(&successor.file));
    }
}

#[test]
fn a_transaction_rolled_back_leaves_nothing() {
    let server = Server::shared(Engine::Mysql8);
    let schema = server.schema("rollback");
    let (path, _) = server.record(&format!(
        "USE `{}`; CREATE TABLE t (id INT PRIMARY KEY); START TRANSACTION; INSERT INTO t VALUES (1); ROLLBACK; INSERT INTO t VALUES (2)",
        schema.name
    ));
    let log = read_file(&path);
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

#[test]
fn tagged_gtids_are_read_in_events_and_at_the_head_of_a_file() {
    let server = Server::shared(Engine::Mysql9);
    let schema = server.schema("tagged");
    let (path, executed) = server.record(&format!(
        "USE `{}`; CREATE TABLE t (id INT PRIMARY KEY); SET gtid_next = 'AUTOMATIC:nightly'; INSERT INTO t VALUES (1); \
         SET gtid_next = 'AUTOMATIC'; SELECT @@global.gtid_executed",
        schema.name
    ));
    let executed: GtidSet = executed.replace("\\n", "").trim().parse().expect("a set");
    let gtid = |text: &str| text.parse::<binlog::Gtid>().expect("a gtid");
    let log = read_file(&path);
    let tagged = log
        .begins
        .iter()
        .filter_map(|begin| begin.gtid.clone())
        .find(|gtid| gtid.to_string().contains(":nightly:"));
    let tagged = tagged.expect("a tagged transaction");
    assert!(executed.contains(&tagged) && !executed.contains(&gtid(&format!("{}:999999", tagged.source()))));
    // The next file begins with what was executed before it.
    let next = server.binlog(log.positions.last().expect("a rotation").file.as_str());
    let previous = &read_file(&next).previous[0];
    assert!(previous.contains(&tagged) && previous.includes(&executed));
}
