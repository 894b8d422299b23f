//! Whoever reads says how much memory a log may ask for. These logs are made by hand, because no server writes them.

use std::{fmt::Write as _, io::Write as _};

use binlog::{
    Decoder, FeedError,
    event::{Limits, kind},
    file::Reader,
};
use flate2::{Compression, write::ZlibEncoder};

use crate::collect::Collected;

const LIMITS: Limits = Limits {
    event_bytes_max: 64 << 10,
    gtids_bytes_max: 16 << 10,
    map_bytes_max: 4 << 10,
    opened_bytes_max: 1 << 20,
};

/// An event without checksum.
fn event(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut event = vec![0; 4];
    event.push(kind);
    event.extend(1_u32.to_le_bytes());
    event.extend(
        u32::try_from(19 + body.len())
            .expect("a short event")
            .to_le_bytes(),
    );
    event.extend([0; 6]);
    event.extend(body);
    event
}

/// A log of MySQL 8 without checksums that goes on with these events.
fn log(events: &[Vec<u8>]) -> Vec<u8> {
    let mut format = vec![4, 0];
    let mut version = b"8.0.45".to_vec();
    version.resize(50, 0);
    format.extend(version);
    format.extend([0, 0, 0, 0, 19]);
    format.extend([0; 41]);
    // Algorithm "none", and the place of a checksum.
    format.extend([0; 5]);
    let mut log = b"\xfebin".to_vec();
    log.extend(event(kind::FORMAT_DESCRIPTION, &format));
    log.extend(events.concat());
    log
}

/// A transaction payload of zstd that opens to these events. A decoder has to hold what the encoder may look back to.
fn payload_looking_back(window_log: u32, events: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).expect("an encoder");
    encoder.window_log(window_log).expect("a window");
    encoder.write_all(events).expect("written");
    // Compression: zstd; then the end of the fields.
    let mut body = vec![2, 1, 0, 0];
    body.extend(encoder.finish().expect("a frame"));
    event(kind::TRANSACTION_PAYLOAD, &body)
}

fn payload(events: &[u8]) -> Vec<u8> {
    payload_looking_back(16, events)
}

fn read_all(log: &[u8], limits: Limits) -> Result<Collected, String> {
    let mut sink = Collected::default();
    let mut reader = Reader::new("binlog.000001", log)
        .map_err(|error| error.to_string())?
        .with_limits(limits);
    let mut decoder = Decoder::new("binlog.000001").with_limits(limits);
    while let Some((at, event)) = reader.next_event().map_err(|error| error.to_string())? {
        decoder
            .feed(at, &event, &mut sink)
            .map_err(|error: FeedError<_>| error.to_string())?;
    }
    Ok(sink)
}

/// Whether the log is refused, with the bound and the remedy in the words; and whether it is not refused by who takes all that servers write.
#[track_caller]
fn refused(log: &[u8], most: u64) {
    let words = read_all(log, LIMITS).err().expect("too much");
    assert!(
        words.contains(&most.to_string()) && words.contains("let the agent beside the server read this log"),
        "{words}"
    );
    if let Err(words) = read_all(log, Limits::default()) {
        assert!(!words.contains("let the agent"), "{words}");
    }
}

#[test]
fn a_long_event_is_refused_before_it_is_read() {
    refused(&log(&[event(kind::IGNORABLE, &vec![0; 65_536])]), 65_536);
    read_all(&log(&[event(kind::IGNORABLE, &vec![0; 65_536 - 19])]), LIMITS).expect("it fits");
    // Not a byte of it is there.
    let mut cut = log(&[event(kind::IGNORABLE, &vec![0; 65_536])]);
    cut.truncate(cut.len() - 65_536);
    refused(&cut, 65_536);
}

#[test]
fn what_takes_many_times_its_length_has_bounds_of_its_own() {
    refused(&log(&[event(kind::PREVIOUS_GTIDS, &vec![0; 16 << 10])]), 16 << 10);
    refused(
        &log(&[event(kind::MARIADB_GTID_LIST, &vec![0; 16 << 10])]),
        16 << 10,
    );
    refused(&log(&[event(kind::TABLE_MAP, &vec![0; 4 << 10])]), 4 << 10);
    // Inside of a payload too.
    refused(
        &log(&[payload(&event(kind::PREVIOUS_GTIDS, &vec![0; 16 << 10]))]),
        16 << 10,
    );
}

#[test]
fn no_format_description_is_longer_than_a_mebibyte() {
    let mut huge = b"\xfebin".to_vec();
    huge.extend(event(kind::FORMAT_DESCRIPTION, &vec![0; 1 << 20]));
    let words = read_all(&huge, Limits::default()).err().expect("too long");
    assert!(words.contains("which no server writes"), "{words}");
}

#[test]
fn zeros_in_a_payload_that_open_to_a_long_event_are_refused() {
    let zeros = payload(&event(kind::IGNORABLE, &vec![0; 64 << 20]));
    assert!(zeros.len() < 64 << 10, "{}", zeros.len());
    refused(&log(&[zeros]), 65_536);
}

#[test]
fn a_payload_that_takes_much_memory_to_decompress_is_refused() {
    let log = log(&[payload_looking_back(27, &event(kind::IGNORABLE, b"small"))]);
    let words = read_all(&log, LIMITS).err().expect("too much");
    assert!(
        words.contains("more memory to decompress") && words.contains("let the agent beside the server"),
        "{words}"
    );
    read_all(&log, Limits::default()).expect("any server's is read");
}

#[test]
fn many_events_in_payloads_are_counted_together() {
    let inner = event(kind::IGNORABLE, &[0; 1_000]).repeat(600);
    let one = payload(&inner);
    read_all(&log(std::slice::from_ref(&one)), LIMITS).expect("one fits");
    refused(&log(&[one.clone(), one]), 1 << 20);
}

/// What MariaDB compresses.
fn packed(plain: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(plain).expect("written");
    let mut packed = vec![0x84];
    packed.extend(u32::try_from(plain.len()).expect("a length").to_be_bytes());
    packed.extend(encoder.finish().expect("a frame"));
    packed
}

#[test]
fn what_mariadb_compressed_is_bounded_too() {
    let query = |text: &str| {
        let mut body = vec![0; 13];
        body.push(0);
        body.extend(packed(text.as_bytes()));
        event(kind::MARIADB_QUERY_COMPRESSED, &body)
    };
    let mut text = "CREATE TABLE s.t (a INT) COMMENT '".to_owned();
    write!(text, "{}'", "x".repeat(40 << 10)).unwrap();
    let one = query(&text);
    read_all(&log(std::slice::from_ref(&one)), LIMITS).expect("one fits");
    refused(&log(&one_of(&one, 30)), 1 << 20);
    text.push_str(&" ".repeat(64 << 10));
    refused(&log(&[query(&text)]), 65_536);
}

fn one_of(event: &[u8], times: usize) -> Vec<Vec<u8>> {
    vec![event.to_vec(); times]
}
