//! Files that are cut, changed, swapped or gone.

use std::{fs, path::Path};

use binlog::{Change, LogPos};
use trail::{Error, Filter, Options, Reader, Recovered, Writer, verify};

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

/// That the store holds the first few transactions, and that the end of its tail passes for a write that was cut off.
fn assert_torn(dir: &Path, what: &str) -> usize {
    let stored = all(dir);
    assert_eq!(stored, expected(stored.len() as u64), "{what}");
    let whole = verify(dir, &mut |_| {});
    assert!(
        whole.is_ok_and(|verified| verified.changes == stored.len() as u64),
        "{what}"
    );
    let coverage = Reader::open(dir).unwrap().coverage();
    assert!(coverage.complete, "{what}: {:?}", coverage.because);
    stored.len()
}

/// That the store holds the first few transactions, and that everybody is told that there were more.
fn assert_damaged(dir: &Path, what: &str) -> usize {
    let stored = all(dir);
    assert_eq!(stored, expected(stored.len() as u64), "{what}");
    assert_names(dir, "tail-1.log", what);
    let coverage = Reader::open(dir).unwrap().coverage();
    let because = coverage.because.unwrap_or_default();
    assert!(
        !coverage.complete && because.contains("tail-1.log is damaged at byte"),
        "{what}: {because:?}"
    );
    stored.len()
}

/// That the next writer goes on from what is good, keeps the rest, and says so if it is damage.
fn assert_heals(dir: &Path, damaged: bool, what: &str) {
    let tail = fs::read(dir.join("tail-1.log")).unwrap();
    let mut writer = Writer::open(dir, Options::default()).unwrap();
    assert_eq!(writer.recovered().is_some(), damaged, "{what}");
    if let Some(Recovered { file: Some(file), .. }) = writer.recovered() {
        let kept = fs::read(dir.join(file)).unwrap();
        assert!(!kept.is_empty() && tail.ends_with(&kept), "{what}");
    }
    let resume = writer.resume().unwrap();
    writer.start(start_at(0, &resume.at)).unwrap();
    ((resume.at.offset - 4) / 100..TXNS)
        .for_each(|number| feed(&mut writer, &simple(&orders(), number)).unwrap());
    writer.sync().unwrap();
    drop(writer);
    assert_eq!(all(dir), expected(TXNS), "{what}");
    assert_eq!(verified(dir).torn, 0, "{what}");
    assert!(Reader::open(dir).unwrap().coverage().complete, "{what}");
    let again = Writer::open(dir, Options::default()).unwrap();
    assert_eq!(again.recovered(), None, "{what}");
}

/// Puts the store back as it was: its manifest and its tail.
fn put_back(dir: &Path, manifest: &[u8], tail: &[u8]) {
    fs::write(dir.join("manifest.json"), manifest).unwrap();
    fs::write(dir.join("tail-1.log"), tail).unwrap();
}

#[test]
fn a_synced_tail_that_is_cut_or_changed_anywhere_is_damaged_and_heals() {
    let dir = tempfile::tempdir().unwrap();
    let tail = dir.path().join(store_with_a_tail(dir.path()));
    let manifest = fs::read(dir.path().join("manifest.json")).unwrap();
    let bytes = fs::read(&tail).unwrap();
    let (mut cut_before, mut flipped_before) = (0, 0);
    for at in start_of_body(&bytes)..bytes.len() {
        let cut = &bytes[..at];
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        for (what, bytes, before) in [
            (format!("cut to {at} bytes"), cut, &mut cut_before),
            (format!("byte {at}"), &*flipped, &mut flipped_before),
        ] {
            put_back(dir.path(), &manifest, bytes);
            let stored = assert_damaged(dir.path(), &what);
            assert!((stored as u64) < TXNS && stored >= *before, "{what}: {stored}");
            *before = stored;
            if at % 41 == 0 {
                assert_heals(dir.path(), true, &what);
            }
        }
    }
    assert_eq!((cut_before as u64, flipped_before as u64), (TXNS - 1, TXNS - 1));
}

#[test]
fn what_was_not_acknowledged_may_be_cut_or_changed_anywhere_and_is_torn() {
    const SYNCED: u64 = 8;
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        buffer_bytes_max: 1,
        ..Options::default()
    };
    let mut writer = Writer::open(dir.path(), options).unwrap();
    writer
        .start(start_at(0, &LogPos::new("binlog.000001", 4)))
        .unwrap();
    let mut add = |number| feed(&mut writer, &simple(&orders(), number)).unwrap();
    (0..SYNCED).for_each(&mut add);
    writer.sync().unwrap();
    let tail = dir.path().join("tail-1.log");
    let acknowledged = fs::metadata(&tail).unwrap().len() as usize;
    (SYNCED..TXNS).for_each(|number| feed(&mut writer, &simple(&orders(), number)).unwrap());
    // As a killed process leaves it: written, not synced.
    let bytes = fs::read(&tail).unwrap();
    drop(writer);
    let manifest = fs::read(dir.path().join("manifest.json")).unwrap();
    for at in acknowledged..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        for (what, bytes) in [
            (format!("cut to {at}"), &bytes[..at]),
            (format!("byte {at}"), &flipped),
        ] {
            put_back(dir.path(), &manifest, bytes);
            assert!(assert_torn(dir.path(), &what) as u64 >= SYNCED, "{what}");
            if at % 41 == 0 {
                assert_heals(dir.path(), false, &what);
            }
        }
    }
    // One byte before, and it is damage.
    put_back(dir.path(), &manifest, &bytes[..acknowledged - 1]);
    assert_eq!(assert_damaged(dir.path(), "acknowledged") as u64, SYNCED - 1);
}

#[test]
fn an_answer_that_damage_does_not_touch_is_complete() {
    let dir = tempfile::tempdir().unwrap();
    let tail = dir.path().join(store_with_a_tail(dir.path()));
    let mut bytes = fs::read(&tail).unwrap();
    let middle = bytes.len() * 3 / 4;
    bytes[middle] ^= 1;
    fs::write(&tail, &bytes).unwrap();
    let reader = Reader::open(dir.path()).unwrap();
    let complete = |filter| reader.coverage_of(&filter).complete;
    let until = |number| Filter {
        until: Some(simple(&orders(), number).time),
        ..Filter::default()
    };
    let transaction = |number| Filter {
        transaction: Some(simple(&orders(), number).at),
        ..Filter::default()
    };
    assert!(complete(until(3)) && !complete(until(TXNS - 1)));
    assert!(complete(transaction(3)) && !complete(transaction(TXNS - 1)));
    assert!(!complete(Filter::default()));
}

#[test]
fn a_damaged_mark_is_named_and_the_other_one_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let tail = dir.path().join(store_with_a_tail(dir.path()));
    let bytes = fs::read(&tail).unwrap();
    for at in start_of_body(&bytes) - MARKS..start_of_body(&bytes) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        fs::write(&tail, &damaged).unwrap();
        let what = format!("byte {at}");
        assert_names(dir.path(), "tail-1.log", &what);
        assert_eq!(all(dir.path()), expected(TXNS), "{what}");
        drop(Writer::open(dir.path(), Options::default()).unwrap());
        assert_eq!(verified(dir.path()).changes, TXNS, "{what}");
    }
}

/// Bytes of the two marks that end a tail's head.
const MARKS: usize = 2 * 17;

/// Where the records after the head begin: the header, the start and two marks are written before a tail is in use.
fn start_of_body(bytes: &[u8]) -> usize {
    let length = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize + 8;
    let second = length(0);
    second + length(second) + MARKS
}

#[test]
fn a_tail_that_is_damaged_at_its_head_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let tail = dir.path().join(store_with_a_tail(dir.path()));
    let bytes = fs::read(&tail).unwrap();
    for at in 0..start_of_body(&bytes) - MARKS {
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

/// Someone who takes a segment away and makes the manifest whole again cannot hide it from the chain.
#[test]
fn a_segment_taken_out_of_the_chain_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    store_of_segments(dir.path());
    let path = dir.path().join("manifest.json");
    let text = fs::read_to_string(&path).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
    manifest["segments"].as_array_mut().unwrap().remove(1);
    manifest.as_object_mut().unwrap().remove("sha256");
    let body = manifest.to_string();
    let digest = ring::digest::digest(&ring::digest::SHA256, body.as_bytes());
    let sum: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(
        &path,
        format!("{},\"sha256\":\"{sum}\"}}\n", &body[..body.len() - 1]),
    )
    .unwrap();
    match verify(dir.path(), &mut |_| {}) {
        Err(Error::Corrupt { what, .. }) => assert!(what.contains("chain"), "{what}"),
        other => panic!("{other:?}"),
    }
}
