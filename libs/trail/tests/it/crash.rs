//! `kill -9` at any moment: no change lost, none doubled.

use binlog::{Change, LogPos};
use trail::{Options, Writer};

use crate::{
    child::{self, Running},
    fixture::{
        Act, Int, Null, RowSpec, TxnSpec, all, changes_of, feed, orders, simple, start_at, text, verified,
    },
};

fn options() -> Options {
    Options {
        tail_bytes_max: 6_000,
        chunk_bytes_max: 4_000,
        buffer_bytes_max: 500,
        ..Options::default()
    }
}

/// Transaction `number`: one to nine rows, now and then a rollback.
fn transaction(number: u64) -> TxnSpec {
    let table = orders();
    let mut txn = simple(&table, number);
    let more = (0..number % 9).map(|n| {
        Act::Row(RowSpec::insert(
            &table,
            &[Int(n as i32), text(&format!("{number}.{n}")), Null],
        ))
    });
    txn.acts.extend(more);
    txn.committed = number % 11 != 3;
    txn
}

/// The child's work: goes on where the store is, and says what is durable.
#[test]
fn child_writes_until_it_is_killed() {
    let Some(dir) = child::dir() else { return };
    let mut writer = Writer::open(&dir, options()).unwrap();
    let at = writer
        .resume()
        .map_or_else(|| LogPos::new("binlog.000001", 4), |resume| resume.at);
    writer.start(start_at(0, &at)).unwrap();
    let first = (at.offset - 4) / 100;
    child::say(&format!("{first}"));
    for number in first..first + 5_000 {
        feed(&mut writer, &transaction(number)).unwrap();
        if number % 7 == 6 {
            writer.sync().unwrap();
            child::say(&format!("{}", number + 1));
        }
    }
}

#[test]
fn a_killed_writer_loses_nothing_and_doubles_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = numbers();
    let mut before = 0;
    for round in 0..25 {
        let mut running = Running::start("crash::child_writes_until_it_is_killed", dir.path(), None);
        let patience = random() % 8;
        let mut acknowledged = 0;
        for _ in 0..=patience {
            acknowledged = running.hear().unwrap().parse().unwrap();
        }
        // So that the blow falls anywhere between two acknowledgements, not just after one.
        std::hint::black_box((0..random() % 2_000_000).fold(0, |sum, n| sum ^ std::hint::black_box(n)));
        running.kill();
        let stored = all(dir.path());
        let whole = number_of_transactions(&stored);
        assert!(
            whole >= acknowledged && acknowledged >= before,
            "round {round}: {whole} < {acknowledged} or {acknowledged} < {before}"
        );
        let expected: Vec<Change> = (0..whole)
            .flat_map(|number| changes_of(0, &transaction(number)))
            .collect();
        assert_eq!(stored, expected, "round {round}");
        assert_eq!(verified(dir.path()).changes, expected.len() as u64);
        before = acknowledged;
    }
    assert!(before > 100, "the child hardly got to work: {before}");
}

/// The same numbers every time, with no pattern to speak of (Knuth's MMIX generator).
fn numbers() -> impl FnMut() -> u64 {
    let mut state = 3_u64;
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    }
}

/// How many transactions the changes come from; a rollback at the end leaves no trace, and is counted as not seen.
fn number_of_transactions(changes: &[Change]) -> u64 {
    let last = changes
        .last()
        .map_or(0, |change| (change.position.at.offset - 4) / 100 + 1);
    if transaction(last).committed {
        last
    } else {
        last + 1
    }
}
