//! Readers beside a writer.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use binlog::{Commit, LogPos, Sink};
use trail::{Error, Filter, Options, Reader, Writer};

use crate::{
    basics::tiny,
    fixture::{Int, Null, changes_of, feed, feed_part, found, key, orders, simple, start_at},
};

const TXNS: u64 = 400;

/// Asks until the writer is done; each answer must be whole transactions from the first on, and never less than before.
fn ask(dir: &Path, done: &AtomicBool, renew: impl Fn(Option<Reader>) -> Reader) -> usize {
    let (mut reader, mut before, mut answers) = (None, 0, 0);
    loop {
        let last_round = done.load(Ordering::Acquire);
        let now = renew(reader.take());
        let changes = found(&now, &Filter::default());
        let count = changes.len() as u64;
        let expected: Vec<_> = (0..count)
            .flat_map(|number| changes_of(0, &simple(&orders(), number)))
            .collect();
        assert!(
            changes == expected && count >= before,
            "{count} changes after {before}, in {}",
            dir.display()
        );
        let status = now.status();
        assert_eq!((status.changes, status.transactions), (count, count));
        let one = Filter {
            keys: vec![key(&orders(), &[Int(3), Null, Null])],
            ..Filter::default()
        };
        assert_eq!(
            found(&now, &one),
            expected
                .iter()
                .filter(|c| c.key == one.keys[0])
                .cloned()
                .collect::<Vec<_>>()
        );
        (before, answers, reader) = (count, answers + 1, Some(now));
        if last_round {
            assert_eq!(count, TXNS);
            return answers;
        }
    }
}

#[test]
fn readers_beside_a_sealing_writer_see_a_growing_prefix() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path(), tiny()).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let fresh = scope.spawn(|| ask(dir.path(), &done, |_| Reader::open(dir.path()).unwrap()));
        let renewed = scope.spawn(|| {
            ask(dir.path(), &done, |reader| {
                let mut reader = reader.unwrap_or_else(|| Reader::open(dir.path()).unwrap());
                reader.refresh().unwrap();
                reader
            })
        });
        writer
            .start(start_at(0, &LogPos::new("binlog.000001", 4)))
            .unwrap();
        for number in 0..TXNS {
            feed(&mut writer, &simple(&orders(), number)).unwrap();
            if number % 10 == 9 {
                writer.sync().unwrap();
            }
        }
        writer.finish().unwrap();
        done.store(true, Ordering::Release);
        assert!(fresh.join().unwrap() > 1 && renewed.join().unwrap() > 1);
    });
}

#[test]
fn an_answer_is_of_the_moment_the_reader_was_opened() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path(), tiny()).unwrap();
    writer
        .start(start_at(0, &LogPos::new("binlog.000001", 4)))
        .unwrap();
    (0..5).for_each(|number| feed(&mut writer, &simple(&orders(), number)).unwrap());
    writer.sync().unwrap();
    let mut reader = Reader::open(dir.path()).unwrap();
    let answer = reader.find(&Filter::default()).unwrap();
    (5..100).for_each(|number| feed(&mut writer, &simple(&orders(), number)).unwrap());
    writer.finish().unwrap();
    // The tail that the answer comes from was sealed and deleted meanwhile.
    assert_eq!(answer.map(Result::unwrap).count(), 5);
    assert_eq!(found(&reader, &Filter::default()).len(), 5);
    assert!(reader.refresh().unwrap());
    assert_eq!(found(&reader, &Filter::default()).len(), 100);
    assert!(!reader.refresh().unwrap());
}

#[test]
fn a_second_writer_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Writer::open(dir.path(), tiny()).unwrap();
    assert!(matches!(
        Writer::open(dir.path(), tiny()),
        Err(Error::Locked { .. })
    ));
    drop(writer);
    assert!(Writer::open(dir.path(), tiny()).is_ok());
}

#[test]
fn a_transaction_that_was_seen_half_is_read_again_when_it_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let table = orders();
    let mut writer = Writer::open(dir.path(), Options::default()).unwrap();
    writer
        .start(start_at(0, &LogPos::new("binlog.000001", 4)))
        .unwrap();
    feed(&mut writer, &simple(&table, 0)).unwrap();
    let half = simple(&table, 1);
    feed_part(&mut writer, &half, false).unwrap();
    writer.sync().unwrap();
    let mut reader = Reader::open(dir.path()).unwrap();
    assert_eq!(found(&reader, &Filter::default()).len(), 1);
    writer
        .commit(&Commit {
            end: half.end,
            time: half.time,
        })
        .unwrap();
    feed(&mut writer, &simple(&table, 2)).unwrap();
    writer.sync().unwrap();
    assert!(reader.refresh().unwrap());
    for number in 0..3 {
        let keys = vec![key(&table, &[Int(number), Null, Null])];
        let expected = changes_of(0, &simple(&table, number as u64));
        assert_eq!(
            found(
                &reader,
                &Filter {
                    keys,
                    ..Filter::default()
                }
            ),
            expected
        );
    }
}
