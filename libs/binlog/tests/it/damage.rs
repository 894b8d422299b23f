//! Bytes that no server wrote: cut, flipped, foreign. Always an error that says where, never a panic.

use testkit::{Engine, Server};

use crate::collect::{Collected, Row, read};

/// A short log with every kind of event the shared server writes.
fn log(engine: Engine) -> Vec<u8> {
    let server = Server::shared(engine);
    let schema = server.schema("damage");
    let (path, _) = server.record(&format!(
        "USE `{}`; CREATE TABLE t (id INT PRIMARY KEY, a VARCHAR(20), b DECIMAL(10,2), c DATETIME(3), d ENUM('x','y'), e JSON, f TIME(2), g BIT(9)); \
         CREATE TABLE one (a INT); CREATE TABLE two (a INT, b TEXT); \
         CREATE TABLE nine (id INT PRIMARY KEY, b INT, c INT, d INT, e INT, f INT, g INT, h SET('p','q'), i GEOMETRY); \
         INSERT INTO t VALUES (1, 'one', 1.5, NOW(3), 'x', '{{\"a\": [1, {{\"b\": 2.5}}]}}', '-10:00:01.5', 257), (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL); \
         UPDATE t SET a = 'uno' WHERE id = 1; DELETE FROM t; INSERT INTO one VALUES (1), (NULL); UPDATE one SET a = 2; INSERT INTO two VALUES (1, 'x'); DELETE FROM two; \
         INSERT INTO nine VALUES (1, 2, 3, 4, 5, 6, 7, 'p', ST_GeomFromText('POINT(1 2)')); UPDATE nine SET b = 9",
        schema.name
    ));
    std::fs::read(path).expect("the log is readable")
}

/// Events of a log as ranges of its bytes.
fn events(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut found = Vec::new();
    let mut at = 4;
    while at < bytes.len() {
        let size = u32::from_le_bytes(bytes[at + 9..at + 13].try_into().expect("four bytes")) as usize;
        found.push(at..at + size);
        at += size;
    }
    found
}

/// A small generator of its own, so that every run tries the same damage.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
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
        assert!(whole < 100, "{whole} of {} cuts went unnoticed", bytes.len());
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

#[test]
fn damage_that_carries_a_good_checksum_never_panics() {
    let mut dice = Dice(1);
    for engine in Engine::ALL {
        let bytes = log(engine);
        let (mut refused, mut taken) = (0, 0);
        for event in events(&bytes) {
            let body = event.start + 19..event.end - 4;
            for _ in 0..300 {
                let mut damaged = bytes.clone();
                for _ in 0..=dice.roll(3) {
                    if !body.is_empty() {
                        damaged[body.start + dice.roll(body.len())] =
                            [0, 1, 0x7F, 0xFF, dice.roll(256) as u8][dice.roll(5)];
                    }
                }
                let checksum = crc32fast::hash(&damaged[event.start..event.end - 4]).to_le_bytes();
                damaged[event.end - 4..event.end].copy_from_slice(&checksum);
                let mut sink = Collected::default();
                let decoded = read("binlog.000001", &damaged[..], &mut sink);
                sink.rows.iter().for_each(decode_every_value);
                *(if decoded.is_ok() { &mut taken } else { &mut refused }) += 1;
            }
        }
        assert!(
            refused > 100 && taken > 100,
            "{refused} refused, {taken} taken: the dice are loaded"
        );
    }
}

fn decode_every_value(row: &Row) {
    for stored in [&row.before, &row.after].into_iter().flatten() {
        let Ok(cells) =
            binlog::Image::from_bytes(stored, &row.table).and_then(|image| image.to_cells(&row.table))
        else {
            continue;
        };
        for (column, cell) in row.table.columns.iter().zip(cells) {
            if let Ok(Some(value)) = column.value(cell) {
                value.to_json();
            }
        }
    }
}
