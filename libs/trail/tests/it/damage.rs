//! Files that are cut, changed, swapped or gone.

use std::{fs, path::Path};

use binlog::{Change, LogPos};
use trail::{Error, Filter, Options, Reader, Writer, verify};

use crate::{
    basics::tiny,
    fixture::{all, changes_of, feed, orders, simple, start_at, unversioned, verified},
};

const TXNS: u64 = 12;

/// A store whose transactions are all in one tail, and the tail's name.
fn store_with_a_tail(dir: &Path) -> String {
    let mut writer = Writer::open(dir, Options::default()).unwrap();
    writer
        .start(start_at(0, &LogPos::new("binlog.000001", 4)))
        .unwrap();
    (0..TXNS).for_each(|number| feed(&mut writer, &simple(&orders(), number)).unwrap());
    writer.sync().unwrap();
    "tail-1.log".to_owned()
}

/// A store of several segments, and their names in order.
fn store_of_segments(dir: &Path) -> Vec<String> {
    let mut writer = Writer::open(dir, tiny()).unwrap();
    writer
        .start(start_at(0, &LogPos::new("binlog.000001", 4)))
        .unwrap();
    (0..120).for_each(|number| feed(&mut writer, &simple(&orders(), number)).unwrap());
    writer.finish().unwrap();
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.retain(|name| name.starts_with("seg-"));
    names.sort_by_key(|name| {
        name.trim_end_matches(".parquet")
            .split('-')
            .skip(1)
            .map(|n| n.parse().unwrap())
            .collect::<Vec<u32>>()
    });
    names
}

fn expected(transactions: u64) -> Vec<Change> {
    (0..transactions)
        .flat_map(|number| changes_of(0, &simple(&orders(), number)))
        .collect()
}

/// That the store holds the first few transactions, and takes the others again.
fn assert_prefix(dir: &Path, what: &str) -> usize {
    let stored = all(dir);
    assert_eq!(stored, expected(stored.len() as u64), "{what}");
    let whole = verify(dir, &mut |_| {});
    assert!(
        whole.is_ok_and(|verified| verified.changes == stored.len() as u64),
        "{what}"
    );
    stored.len()
}

fn assert_heals(dir: &Path, what: &str) {
    let mut writer = Writer::open(dir, Options::default()).unwrap();
    let resume = writer.resume().unwrap();
    writer.start(start_at(0, &resume.at)).unwrap();
    ((resume.at.offset - 4) / 100..TXNS)
        .for_each(|number| feed(&mut writer, &simple(&orders(), number)).unwrap());
    writer.sync().unwrap();
    assert_eq!(all(dir), expected(TXNS), "{what}");
    assert_eq!(verified(dir).torn, 0, "{what}");
}

#[test]
fn a_tail_cut_anywhere_holds_the_transactions_before_the_cut() {
    let dir = tempfile::tempdir().unwrap();
    let tail = dir.path().join(store_with_a_tail(dir.path()));
    let bytes = fs::read(&tail).unwrap();
    let begin = start_of_body(&bytes);
    let mut before = 0;
    for length in begin..bytes.len() {
        fs::write(&tail, &bytes[..length]).unwrap();
        let what = format!("cut to {length} bytes");
        let stored = assert_prefix(dir.path(), &what);
        assert!(stored >= before, "{what}");
        before = stored;
        if length % 41 == 0 {
            assert_heals(dir.path(), &what);
        }
    }
    assert_eq!(before as u64, TXNS - 1);
}

#[test]
fn a_bit_flipped_anywhere_in_a_tail_hides_only_what_comes_after() {
    let dir = tempfile::tempdir().unwrap();
    let tail = dir.path().join(store_with_a_tail(dir.path()));
    let bytes = fs::read(&tail).unwrap();
    let begin = start_of_body(&bytes);
    let mut before = 0;
    for at in begin..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(&tail, &damaged).unwrap();
        let what = format!("byte {at}");
        let stored = assert_prefix(dir.path(), &what);
        assert!((stored as u64) < TXNS && stored >= before, "{what}: {stored}");
        before = stored;
        if at % 41 == 0 {
            assert_heals(dir.path(), &what);
        }
    }
}

/// Where the third record begins: the header and the start are written before a tail is in use.
fn start_of_body(bytes: &[u8]) -> usize {
    let length = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize + 8;
    let second = length(0);
    second + length(second)
}

#[test]
fn a_tail_that_is_damaged_at_its_head_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let tail = dir.path().join(store_with_a_tail(dir.path()));
    let bytes = fs::read(&tail).unwrap();
    for at in 0..start_of_body(&bytes) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        fs::write(&tail, &damaged).unwrap();
        assert!(
            matches!(Reader::open(dir.path()), Err(Error::Corrupt { path, .. }) if path == tail),
            "byte {at}"
        );
        assert!(
            matches!(Writer::open(dir.path(), Options::default()), Err(Error::Corrupt { path, .. }) if path == tail),
            "byte {at}"
        );
    }
}

fn assert_names(dir: &Path, file: &str, what: &str) {
    match verify(dir, &mut |_| {}) {
        Err(Error::Corrupt { path, .. }) if path.ends_with(file) => {}
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn a_changed_byte_in_a_segment_is_named_and_never_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let segments = store_of_segments(dir.path());
    assert_eq!(verified(dir.path()).segments, segments.len() as u64);
    let victim = dir.path().join(&segments[2]);
    let bytes = fs::read(&victim).unwrap();
    for at in (0..bytes.len()).step_by(23) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(&victim, &damaged).unwrap();
        assert_names(dir.path(), &segments[2], &format!("byte {at}"));
        // A search finds it out too, or does not come by.
        let reader = Reader::open(dir.path()).unwrap();
        let answer: Result<Vec<Change>, Error> = reader.find(&Filter::default()).unwrap().collect();
        match answer {
            Ok(changes) => assert_eq!(unversioned(changes), expected(120), "byte {at}"),
            Err(Error::Corrupt { path, .. }) => assert_eq!(path, victim, "byte {at}"),
            Err(e) => panic!("byte {at}: {e}"),
        }
    }
}

#[test]
fn swapped_and_missing_segments_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let segments = store_of_segments(dir.path());
    let (a, b) = (dir.path().join(&segments[1]), dir.path().join(&segments[3]));
    let (first, second) = (fs::read(&a).unwrap(), fs::read(&b).unwrap());
    fs::write(&a, &second).unwrap();
    fs::write(&b, &first).unwrap();
    assert_names(dir.path(), &segments[1], "swapped");
    fs::write(&a, &first).unwrap();
    assert_names(dir.path(), &segments[3], "one in two places");
    fs::remove_file(&b).unwrap();
    assert_names(dir.path(), &segments[3], "missing");
    let found = Reader::open(dir.path())
        .unwrap()
        .find(&Filter::default())
        .unwrap()
        .find_map(Result::err);
    assert!(matches!(found, Some(Error::Corrupt { path, .. }) if path == b));
}

#[test]
fn a_changed_byte_in_the_manifest_or_the_definitions_is_named() {
    let dir = tempfile::tempdir().unwrap();
    store_of_segments(dir.path());
    for name in ["manifest.json", "schemas-1.json"] {
        let path = dir.path().join(name);
        let bytes = fs::read(&path).unwrap();
        for at in (20..bytes.len()).step_by(97) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).unwrap();
            assert_names(dir.path(), name, &format!("byte {at}"));
        }
        fs::write(&path, &bytes).unwrap();
    }
    verified(dir.path());
}
