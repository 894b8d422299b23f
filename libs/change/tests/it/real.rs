//! Changes that real servers logged: every type at its limits, every shape of transaction.

use binlog::{Change, LogPos, Position, RowKey};
use testkit::{Engine, Server};
use types::Micros;

use super::{both, collect::read_file, workload};

#[test]
fn the_json_of_a_message_is_that_of_the_change_that_a_server_logged() {
    for engine in [Engine::Mariadb, Engine::Mysql8] {
        let server = Server::shared(engine);
        let schema = server.schema("change");
        let (path, _) = server.record(&workload::sql(engine, &schema.name));
        let mut rows = read_file(&path).rows;
        rows.retain(|row| row.table.schema == schema.name);
        assert!(rows.len() > 400, "{}: {} rows", engine.name(), rows.len());
        for (ordinal, row) in (0..).zip(rows) {
            let change = Change {
                position: Position {
                    epoch: 0,
                    at: LogPos::new("binlog.000001", 4),
                    ordinal,
                },
                gtid: None,
                commit_time: Micros(0),
                thread_id: None,
                schema_version: 1,
                op: row.op,
                key: RowKey(Vec::new()),
                new_key: None,
                before: row.before,
                after: row.after,
                query: row.query.map(Into::into),
                table: row.table,
            };
            let (stored, sent) = both(&change);
            assert_eq!(sent, stored, "{}, {}", engine.name(), change.table.full_name());
            assert!(sent.is_ok(), "{sent:?}");
        }
    }
}
