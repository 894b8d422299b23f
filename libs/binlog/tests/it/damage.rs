//! Bytes that no server wrote: cut, flipped, foreign. Always an error that says where, never a panic.

use testkit::{Engine, Server};

use crate::collect::{Collected, read};

/// A short log with every kind of event the shared server writes.
fn log(engine: Engine) -> Vec<u8> {
    let server = Server::shared(engine);
    let schema = server.schema("damage");
    server.rotate();
    let (file, _) = server.position();
    server.sql(&format!(
        "USE `{}`; CREATE TABLE t (id INT PRIMARY KEY, a VARCHAR(20), b DECIMAL(10,2), c DATETIME(3), d ENUM('x','y')); \
         INSERT INTO t VALUES (1, 'one', 1.5, NOW(3), 'x'), (2, NULL, NULL, NULL, NULL); UPDATE t SET a = 'uno' WHERE id = 1; DELETE FROM t;",
        schema.name
    ));
    server.rotate();
    std::fs::read(server.binlog(&file)).expect("the log is readable")
}

fn outcome(bytes: &[u8]) -> Result<usize, String> {
    let mut sink = Collected::default();
    read("binlog.000001", bytes, &mut sink).map(|_| sink.rows.len())
}

#[test]
fn every_cut_is_noticed_unless_it_falls_between_events() {
    for engine in Engine::ALL {
        let bytes = log(engine);
        let mut whole = 0;
        for length in 4..bytes.len() {
            match outcome(&bytes[..length]) {
                Ok(_) => whole += 1,
                Err(message) => assert!(message.contains("in the middle of an event"), "{message}"),
            }
        }
        assert!(whole < 60, "{whole} of {} cuts went unnoticed", bytes.len());
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    for engine in Engine::ALL {
        let bytes = log(engine);
        for at in 4..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            // The first flag of a format description says that the file is open; it is not part of the checksum.
            let in_use = at == 21 && at % 8 == 5;
            assert!(
                in_use || outcome(&flipped).is_err(),
                "{}: a flipped bit at {at} went unnoticed",
                engine.name()
            );
        }
    }
}

#[test]
fn what_is_no_log_is_named_so() {
    assert!(outcome(b"").is_err_and(|message| message.contains("not a binary log")));
    assert!(outcome(b"PK\x03\x04 something else").is_err_and(|message| message.contains("not a binary log")));
    assert!(outcome(b"\xfdbin and more").is_err_and(|message| message.contains("encrypted")));
    assert_eq!(outcome(b"\xfebin"), Ok(0));
}
