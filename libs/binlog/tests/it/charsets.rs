//! Every character of every character set that is shown as text, against the server's own conversion.

use std::fmt::Write;

use binlog::Charset;
use testkit::{Engine, Server};

/// Character sets with a decoder here, by a collation of each, and the longest sequence to try.
const CHARSETS: [(&str, u16, usize); 24] = [
    ("latin1", 8, 1),
    ("latin2", 9, 1),
    ("latin5", 30, 1),
    ("latin7", 41, 1),
    ("cp1250", 26, 1),
    ("cp1251", 51, 1),
    ("cp1256", 57, 1),
    ("cp1257", 59, 1),
    ("cp866", 36, 1),
    ("koi8r", 7, 1),
    ("koi8u", 22, 1),
    ("greek", 25, 1),
    ("hebrew", 16, 1),
    ("tis620", 18, 1),
    ("macroman", 39, 1),
    ("ascii", 11, 1),
    ("big5", 1, 2),
    ("gbk", 28, 2),
    ("gb2312", 24, 2),
    ("euckr", 19, 2),
    ("sjis", 13, 2),
    ("cp932", 95, 2),
    ("ujis", 12, 3),
    ("eucjpms", 97, 3),
];

/// All sequences of one byte, of two that can be a character, and of three after the lead byte of JIS X 0212.
fn sequences(longest: usize) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    if longest > 1 {
        all.extend((0x81..=0xFE).flat_map(|lead| (0x40..=0xFE).map(move |trail| vec![lead, trail])));
    }
    if longest > 2 {
        all.extend((0xA1..=0xFE).flat_map(|lead| (0xA1..=0xFE).map(move |trail| vec![0x8F, lead, trail])));
    }
    all
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02X}");
        out
    })
}

#[test]
fn what_is_shown_as_text_is_what_the_server_reads() {
    let server = Server::shared(Engine::Mysql8);
    let schema = server.schema("charsets");
    let mut script = format!(
        "USE `{}`; SET sql_log_bin = 0; CREATE TABLE n (b VARBINARY(3) PRIMARY KEY, l INT); START TRANSACTION;",
        schema.name
    );
    for chunk in sequences(3).chunks(5_000) {
        let values: Vec<String> = chunk
            .iter()
            .map(|bytes| format!("(X'{}',{})", hex(bytes), bytes.len()))
            .collect();
        let _ = write!(script, "INSERT INTO n VALUES {};", values.join(","));
    }
    server.sql(&format!("{script} COMMIT"));
    for (name, collation, longest) in CHARSETS {
        let converted = server.sql(&format!(
            "USE `{}`; SELECT HEX(b), HEX(CONVERT(CONVERT(b USING {name}) USING utf8mb4)) FROM n WHERE l <= {longest}",
            schema.name
        ));
        let mut wrong = Vec::new();
        let mut shown = 0;
        for line in converted.lines() {
            let (bytes, server_says) = line.split_once('\t').expect("two columns");
            let raw: Vec<u8> = (0..bytes.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&bytes[at..at + 2], 16).expect("hex"))
                .collect();
            if let Some(text) = Charset::new(collation).decode(&raw) {
                shown += 1;
                if hex(text.as_bytes()) != server_says {
                    wrong.push(bytes.to_owned());
                }
            }
        }
        assert!(shown >= 128, "{name} shows {shown} characters only");
        assert!(
            wrong.is_empty(),
            "{name}: {} of {shown} are not what the server reads: {}",
            wrong.len(),
            wrong.join(" ")
        );
    }
}
