//! Memory that does not grow with what passes through, and a disk that is full.

use std::fs;

use binlog::{LogPos, Sink};
use trail::{Error, Filter, Options, Order, Reader, Writer};
use types::{Code, Fault};

use crate::{
    child::{self, Running},
    fixture::{
        Act, Int, RowSpec, TxnSpec, all, changes_of, feed, feed_part, orders, simple, start_at, text,
        verified,
    },
};

const MIB: u64 = 1 << 20;
/// Rows of about 300 bytes in the one transaction: 96 MiB in all.
const ROWS: i32 = 320_000;

fn small() -> Options {
    Options {
        tail_bytes_max: MIB,
        chunk_bytes_max: 4 * MIB,
        ..Options::default()
    }
}

/// The most memory this process ever had, in bytes (proc(5), `VmHWM`).
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// The child's work: one transaction of many times the memory it may take.
#[test]
fn child_writes_a_huge_transaction() {
    let Some(dir) = child::dir() else { return };
    let (table, filler) = (orders(), "x".repeat(190));
    let mut writer = Writer::open(&dir, small()).unwrap();
    writer
        .start(start_at(0, &LogPos::new("binlog.000001", 4)))
        .unwrap();
    let before = peak();
    let txn = TxnSpec {
        acts: Vec::new(),
        ..simple(&table, 0)
    };
    feed_part(&mut writer, &txn, false).unwrap();
    let mut row = RowSpec::insert(&table, &[Int(0), text(&filler), Int(0)]);
    for id in 0..ROWS {
        row.after.as_mut().unwrap()[0] = Int(id);
        let bytes = crate::fixture::image(row.after.as_ref().unwrap(), false);
        let image = Some(binlog::Image::from_bytes(&bytes, &table).unwrap());
        writer
            .row(&binlog::RowChange {
                op: binlog::Op::Insert,
                table: &table,
                before: None,
                after: image,
                query: None,
                flags: 0,
            })
            .unwrap();
    }
    writer
        .commit(&binlog::Commit {
            end: txn.end,
            time: txn.time,
        })
        .unwrap();
    writer.finish().unwrap();
    child::say(&format!("{}", peak() - before));
}

#[test]
fn a_huge_transaction_needs_no_huge_memory() {
    let dir = tempfile::tempdir().unwrap();
    let mut running = Running::start("bounds::child_writes_a_huge_transaction", dir.path(), None);
    let grown: u64 = running.hear().unwrap().parse().unwrap();
    running.wait();
    // The bound is on a chunk; sorting, encoding and the allocator take their share beside it.
    assert!(grown < 24 * MIB, "{} MiB", grown / MIB);
    let reader = Reader::open(dir.path()).unwrap();
    assert_eq!(reader.status().changes, ROWS as u64);
    assert!(reader.status().segments > 16, "{}", reader.status().segments);
    let last = Filter {
        order: Order::Newest,
        limit: Some(1),
        ..Filter::default()
    };
    let newest = reader.find(&last).unwrap().next().unwrap().unwrap();
    assert_eq!(newest.position.ordinal, ROWS as u64 - 1);
}

/// The child's work: writes until it may not, and says what was durable and how it ended.
#[test]
fn child_fills_the_disk() {
    let Some(dir) = child::dir() else { return };
    let mut writer = Writer::open(
        &dir,
        Options {
            buffer_bytes_max: 1_000,
            ..Options::default()
        },
    )
    .unwrap();
    let at = writer
        .resume()
        .map_or_else(|| LogPos::new("binlog.000001", 4), |resume| resume.at);
    writer.start(start_at(0, &at)).unwrap();
    let mut durable = (at.offset - 4) / 100;
    let error = loop {
        let written = feed(&mut writer, &simple(&orders(), durable)).and_then(|()| writer.sync());
        match written {
            Ok(_) => durable += 1,
            Err(e) => break e,
        }
    };
    child::say(&format!("{durable} {} {:?}", error.reason(), error.code()));
    let next = simple(&orders(), durable + 1);
    assert!(matches!(feed(&mut writer, &next), Err(Error::Poisoned)));
    assert!(matches!(writer.sync(), Err(Error::Poisoned)));
}

#[test]
fn a_full_disk_tears_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut before = 0;
    // Each time a little more room, so that the limit falls on different places of a record.
    for limit in [32, 33, 34, 35].map(|blocks| blocks * 512) {
        let mut running = Running::start("bounds::child_fills_the_disk", dir.path(), Some(limit));
        let said = running.hear().unwrap();
        running.wait();
        let (durable, how) = said.split_once(' ').unwrap();
        assert_eq!(how, format!("STORE_FULL {:?}", Code::Exhausted));
        let durable: u64 = durable.parse().unwrap();
        assert!(durable > before, "{durable} after {before}");
        let expected: Vec<_> = (0..durable)
            .flat_map(|number| changes_of(0, &simple(&orders(), number)))
            .collect();
        assert_eq!(all(dir.path()), expected);
        assert_eq!(verified(dir.path()).changes, durable);
        before = durable;
    }
}

#[test]
fn a_transaction_is_seen_from_its_commit_on() {
    let dir = tempfile::tempdir().unwrap();
    let table = orders();
    let mut writer = Writer::open(
        dir.path(),
        Options {
            buffer_bytes_max: 100,
            ..Options::default()
        },
    )
    .unwrap();
    writer
        .start(start_at(0, &LogPos::new("binlog.000001", 4)))
        .unwrap();
    let rows = (0..50).map(|id| Act::Row(RowSpec::insert(&table, &[Int(id), text("new"), Int(1)])));
    let txn = TxnSpec {
        acts: rows.collect(),
        ..simple(&table, 0)
    };
    feed_part(&mut writer, &txn, false).unwrap();
    let resume = writer.sync().unwrap().unwrap();
    assert_eq!(resume.at, txn.at);
    assert!(fs::metadata(dir.path().join("tail-1.log")).unwrap().len() > 1_000);
    assert_eq!(all(dir.path()), []);
    writer
        .commit(&binlog::Commit {
            end: txn.end.clone(),
            time: txn.time,
        })
        .unwrap();
    writer.sync().unwrap();
    assert_eq!(all(dir.path()), changes_of(0, &txn));
}
