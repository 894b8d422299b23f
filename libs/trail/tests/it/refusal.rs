//! Folders that are not what they should be.

use std::fs;

use trail::{Error, Reader, Source, Start, Writer, verify};
use types::Fault;

use crate::{
    basics::tiny,
    fixture::{TxnSpec, feed, orders, simple, source, start_at},
};
use binlog::LogPos;
use types::Micros;

#[test]
fn a_folder_without_a_store_is_told_from_an_empty_store() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("none");
    assert!(matches!(Reader::open(&missing), Err(Error::NoStore { .. })));
    assert!(matches!(
        verify(dir.path(), &mut |_| {}),
        Err(Error::NoStore { .. })
    ));
    drop(Writer::open(&missing.join("deeper"), tiny()).unwrap());
    let reader = Reader::open(&missing.join("deeper")).unwrap();
    assert_eq!(reader.status().changes, 0);
    assert_eq!(
        reader.coverage().because.as_deref(),
        Some("nothing has been read yet")
    );
    assert!(!reader.coverage().complete);
}

#[test]
fn other_peoples_files_are_neither_adopted_nor_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let theirs = dir.path().join("tail-1.log");
    fs::write(&theirs, "a diary").unwrap();
    let refused = Writer::open(dir.path(), tiny());
    assert!(matches!(&refused, Err(Error::NotAStore { found, .. }) if found == "tail-1.log"));
    assert_eq!(fs::read_to_string(&theirs).unwrap(), "a diary");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    fs::remove_file(&theirs).unwrap();
    drop(Writer::open(dir.path(), tiny()).unwrap());
    fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    fs::write(dir.path().join("seg-9-0.parquet"), "what a crash left").unwrap();
    drop(Writer::open(dir.path(), tiny()).unwrap());
    assert!(dir.path().join("notes.txt").exists());
    assert!(!dir.path().join("seg-9-0.parquet").exists());
}

#[test]
fn a_store_of_a_later_release_is_refused_as_that() {
    let dir = tempfile::tempdir().unwrap();
    drop(Writer::open(dir.path(), tiny()).unwrap());
    let manifest = dir.path().join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replacen("\"format\":1", "\"format\":2", 1)).unwrap();
    for refused in [
        Reader::open(dir.path()).err(),
        Writer::open(dir.path(), tiny()).err(),
        verify(dir.path(), &mut |_| {}).err(),
    ] {
        let refused = refused.unwrap();
        assert!(
            matches!(
                refused,
                Error::NewerVersion {
                    found: 2,
                    known: 1,
                    ..
                }
            ),
            "{refused}"
        );
        assert_eq!(refused.reason(), "STORE_NEWER");
    }
}

#[test]
fn a_store_follows_one_source() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path(), tiny()).unwrap();
    let at = LogPos::new("binlog.000001", 4);
    writer.start(start_at(0, &at)).unwrap();
    feed(&mut writer, &simple(&orders(), 0)).unwrap();
    let other = |server: &str| Start {
        source: Source {
            server: server.into(),
            ..source()
        },
        ..start_at(0, &LogPos::new("binlog.000001", 104))
    };
    assert!(matches!(
        writer.start(other("another")),
        Err(Error::OtherSource { .. })
    ));
    // A bare file does not say whose it is, and a new epoch says that the source was replaced.
    writer.start(other("")).unwrap();
    writer
        .start(Start {
            epoch: 1,
            ..other("another")
        })
        .unwrap();
    assert_eq!(writer.source().unwrap().server, "another");
}

#[test]
fn another_log_with_the_same_names_is_noticed() {
    let other_gtid = "8a1fa47a-71ca-11e1-9e33-c80aa9429562:1".parse().ok();
    let at = LogPos::new("binlog.000001", 4);
    let same = simple(&orders(), 0);
    let others = [
        (
            "it ends beyond what was read",
            TxnSpec {
                gtid: None,
                end: LogPos::new("binlog.000001", 1_150),
                ..same.clone()
            },
        ),
        (
            "its GTID is another server's",
            TxnSpec {
                gtid: other_gtid,
                ..same.clone()
            },
        ),
        (
            "it was committed at another time",
            TxnSpec {
                gtid: None,
                time: Micros(same.time.0 + 1),
                ..same.clone()
            },
        ),
        (
            "it begins within another",
            TxnSpec {
                gtid: None,
                at: LogPos::new("binlog.000001", 50),
                ..same
            },
        ),
    ];
    for (what, other) in others {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir.path(), tiny()).unwrap();
        writer.start(start_at(0, &at)).unwrap();
        (0..10).for_each(|number| feed(&mut writer, &simple(&orders(), number)).unwrap());
        writer.start(start_at(0, &at)).unwrap();
        let refused = feed(&mut writer, &other).unwrap_err();
        assert!(matches!(refused, Error::OtherLog { .. }), "{what}: {refused}");
        assert!(
            refused
                .to_string()
                .contains("another log under the name binlog.000001"),
            "{refused}"
        );
        // What it should have been is taken as known.
        writer.start(start_at(0, &at)).unwrap();
        (0..10).for_each(|number| feed(&mut writer, &simple(&orders(), number)).unwrap());
        assert_eq!(writer.skipped_transactions(), 10, "{what}");
    }
}
