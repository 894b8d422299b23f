//! `trail index`: real files, whole, cut, grown, missing and wrong.

use std::{
    fs,
    path::{Path, PathBuf},
};

use testkit::{Engine, Server};

use crate::{
    run::{Run, ask, end, on},
    source::changes_of,
};

/// Three consecutive logs of the shared server, ten inserts of one schema in each, copied to a folder under their own names.
struct Logs {
    folder: tempfile::TempDir,
    files: Vec<PathBuf>,
    schema: String,
}

impl Logs {
    fn make(engine: Engine) -> Self {
        let server = Server::shared(engine);
        let schema = server.schema("index");
        let inserts = |from: u32| {
            (from..from + 10)
                .map(|id| format!("INSERT INTO `{}`.t VALUES ({id});", schema.name))
                .collect::<String>()
        };
        server.sql(&format!("CREATE TABLE `{}`.t (id INT PRIMARY KEY)", schema.name));
        let script = format!(
            "{} FLUSH BINARY LOGS; {} FLUSH BINARY LOGS; {}",
            inserts(0),
            inserts(10),
            inserts(20)
        );
        let (first, _) = server.record(&script);
        let folder = tempfile::tempdir().expect("a folder");
        let mut name = binlog::FileName::new(first.to_str().expect("a path"));
        let mut files = Vec::new();
        for _ in 0..3 {
            let copy = folder.path().join(name.as_str());
            fs::copy(server.binlog(name.as_str()), &copy).expect("a copy");
            files.push(copy);
            name = name.successor().expect("a number");
        }
        Self {
            folder,
            files,
            schema: schema.name.clone(),
        }
    }

    fn store(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn index(store: &Path, files: &[&Path]) -> Run {
    let paths = files.iter().map(|file| file.to_str().expect("a path"));
    let args: Vec<&str> = std::iter::once("index").chain(paths).collect();
    end(on(store, &args))
}

/// The keys in the order of the log.
fn ids(logs: &Logs, store: &Path) -> Vec<u64> {
    let change = |line: &String| {
        serde_json::from_str::<serde_json::Value>(line).expect("JSON")["key"]["id"]
            .as_u64()
            .expect("a key")
    };
    changes_of(store, &logs.schema).iter().map(change).collect()
}

#[test]
fn files_are_read_in_the_order_of_their_numbers_however_they_are_given() {
    for engine in Engine::ALL {
        let logs = Logs::make(engine);
        let [a, b, c] = [&logs.files[0], &logs.files[1], &logs.files[2]].map(PathBuf::as_path);
        let store = logs.store("shuffled");
        index(&store, &[c, a, b]).ends_with(0);
        assert_eq!(ids(&logs, &store), (0..30).collect::<Vec<_>>());
        ask(&store, &["coverage"]).ends_with(0);
        // By folder, and one after the other, it is the same; what is there already is passed over.
        let folder = logs.folder.path().to_str().expect("a path");
        let by_folder = logs.store("by-folder");
        end(on(&by_folder, &["index", "--dir", folder])).ends_with(0);
        let one_by_one = logs.store("one-by-one");
        for file in [a, b, b, c] {
            index(&one_by_one, &[file]).ends_with(0);
        }
        let again = index(&one_by_one, &[a, b, c]).ends_with(0);
        assert!(again.err.contains("were in the store already"), "{}", again.err);
        assert_eq!(
            changes_of(&by_folder, &logs.schema),
            changes_of(&store, &logs.schema)
        );
        assert_eq!(
            changes_of(&one_by_one, &logs.schema),
            changes_of(&store, &logs.schema)
        );
        for store in [by_folder, one_by_one] {
            ask(&store, &["verify"]).ends_with(0);
            ask(&store, &["changes"]).ends_with(0);
        }
    }
}

#[test]
fn a_file_left_out_is_a_gap_until_it_is_given() {
    for engine in Engine::ALL {
        let logs = Logs::make(engine);
        let store = logs.store("gap");
        index(&store, &[&logs.files[0]]).ends_with(0);
        index(&store, &[&logs.files[2]]).ends_with(0);
        let middle = logs.files[1]
            .file_name()
            .and_then(|name| name.to_str())
            .expect("a name");
        let run = ask(&store, &["changes"]).ends_with(3);
        assert!(
            run.err.contains("INCOMPLETE") && run.err.contains(middle),
            "{}",
            run.err
        );
        index(&store, &[&logs.files[1]]).ends_with(0);
        ask(&store, &["changes"]).ends_with(0);
        assert_eq!(
            ids(&logs, &store),
            (0..30).collect::<Vec<_>>(),
            "{}",
            engine.name()
        );
    }
}

#[test]
fn a_file_that_grew_is_read_on() {
    for engine in Engine::ALL {
        let logs = Logs::make(engine);
        let store = logs.store("grown");
        let whole = fs::read(&logs.files[0]).expect("the log");
        // The log as it was when its server had written half of it: cut between two events.
        let mut at = 4;
        while at < whole.len() / 2 {
            at += u32::from_le_bytes(whole[at + 9..at + 13].try_into().expect("four bytes")) as usize;
        }
        fs::write(&logs.files[0], &whole[..at]).expect("half a log");
        let run = index(&store, &[&logs.files[0]]).ends_with(0);
        assert!(run.err.contains("still written"), "{}", run.err);
        let half = ids(&logs, &store).len();
        assert!((1..10).contains(&half), "{half}");
        fs::write(&logs.files[0], &whole).expect("the log");
        index(&store, &[&logs.files[0], &logs.files[1]]).ends_with(0);
        assert_eq!(
            ids(&logs, &store),
            (0..20).collect::<Vec<_>>(),
            "{}",
            engine.name()
        );
        ask(&store, &["coverage"]).ends_with(0);
    }
}

#[test]
fn a_damaged_file_says_where_and_what_came_before_is_kept() {
    let logs = Logs::make(Engine::Mysql8);
    let whole = fs::read(&logs.files[0]).expect("the log");
    let mut flipped = whole.clone();
    let at = whole.len() * 3 / 4;
    flipped[at] ^= 0x10;
    for (name, bytes, words) in [
        (
            "cut",
            &whole[..at],
            ["in the middle of an event", "copy the file again"],
        ),
        ("flipped", &flipped[..], ["damaged here", "copy the file again"]),
    ] {
        fs::write(&logs.files[0], bytes).expect("a damaged log");
        let store = logs.store(name);
        index(&store, &[&logs.files[0]]).fails(1, &words);
        let kept = ids(&logs, &store);
        assert!(!kept.is_empty() && kept.len() < 10, "{name}: {kept:?}");
        assert_eq!(kept, (0..kept.len() as u64).collect::<Vec<_>>());
        ask(&store, &["verify"]).ends_with(0);
        // The good copy completes it.
        fs::write(&logs.files[0], &whole).expect("the log");
        index(&store, &[&logs.files[0]]).ends_with(0);
        assert_eq!(ids(&logs, &store).len(), 10);
    }
}

#[test]
fn a_log_that_a_crash_ended_is_followed_by_the_next_in_another_command() {
    for engine in [Engine::Mysql8, Engine::Mysql9] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut server = Server::private(engine, &folder.path().join("server"), &[]);
        server.sql("CREATE DATABASE s; CREATE TABLE s.t (id INT PRIMARY KEY); INSERT INTO s.t VALUES (1)");
        let (first, _) = server.position();
        server.kill();
        server.start_again(&[]);
        server.sql("INSERT INTO s.t VALUES (2)");
        let (second, _) = server.position();
        assert_ne!(first, second, "a server that starts begins a log");
        let store = folder.path().join("store");
        let index = |name: &str| index(&store, &[&server.binlog(name)]);
        let run = index(&first).ends_with(0);
        assert!(run.err.contains("its server crashed"), "{}", run.err);
        index(&second).ends_with(0);
        // PREVIOUS_GTIDS of the second log proves that nothing lies between.
        ask(&store, &["coverage"]).ends_with(0);
        assert_eq!(changes_of(&store, "s").len(), 2, "{}", engine.name());
        index(&first).ends_with(0);
        index(&second).ends_with(0);
        ask(&store, &["verify"]).ends_with(0);
    }
}

#[test]
fn a_damaged_tail_is_told_and_heals_when_the_log_is_read_again() {
    let logs = Logs::make(Engine::Mariadb);
    let store = logs.store("damaged");
    let log = &[logs.files[0].as_path()];
    index(&store, log).ends_with(0);
    let tail = fs::read_dir(&store)
        .expect("the store")
        .map(|entry| entry.expect("a file").path())
        .find(|path| path.extension().is_some_and(|extension| extension == "log"))
        .expect("a tail");
    let mut bytes = fs::read(&tail).expect("the tail");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&tail, bytes).expect("damage");
    let name = tail.file_name().and_then(|name| name.to_str()).expect("a name");
    ask(&store, &["verify"]).fails(1, &[name, "at byte", "on disk already"]);
    for question in ["changes", "coverage", "tables"] {
        let run = ask(&store, &[question]).ends_with(3);
        assert!(
            run.err.contains("INCOMPLETE") && run.err.contains(name),
            "{}",
            run.err
        );
    }
    let run = index(&store, log).ends_with(0);
    assert!(
        run.err.contains("was damaged at byte") && run.err.contains("are kept in damaged-"),
        "{}",
        run.err
    );
    assert_eq!(ids(&logs, &store).len(), 10);
    ask(&store, &["verify"]).ends_with(0);
    ask(&store, &["coverage"]).ends_with(0);
    assert!(!index(&store, log).ends_with(0).err.contains("damaged"));
}

#[test]
fn what_is_no_log_is_refused_before_anything_is_read() {
    let logs = Logs::make(Engine::Mariadb);
    let write = |name: &str, bytes: &[u8]| {
        let path = logs.store(name);
        fs::write(&path, bytes).expect("a file");
        path
    };
    let store = logs.store("none");
    for (path, words) in [
        (
            write("text.000001", b"hello, this is no log"),
            ["text.000001", "not a binary log"],
        ),
        (write("empty.000001", b""), ["empty.000001", "not a binary log"]),
        (
            write("encrypted.000001", b"\xfdbin0000"),
            ["encrypted.000001", "encrypted"],
        ),
        (
            write("unnumbered", &fs::read(&logs.files[0]).expect("the log")),
            ["unnumbered", "number"],
        ),
        (logs.store("missing.000001"), ["missing.000001", "No such file"]),
    ] {
        let run = index(&store, &[&logs.files[0], &path]);
        assert!(run.status == 1 || run.status == 2 || run.status == 64, "{run:?}");
        let status = run.status;
        run.fails(status, &words);
        assert!(!store.exists(), "a wrong file costs nothing");
    }
    let empty = logs.store("folder");
    fs::create_dir(&empty).expect("a folder");
    end(on(&store, &["index", "--dir", empty.to_str().expect("a path")])).fails(1, &["no binary log"]);
}

#[test]
fn logs_of_another_kind_of_server_are_refused() {
    let (mariadb, mysql) = (Logs::make(Engine::Mariadb), Logs::make(Engine::Mysql9));
    let store = mariadb.store("mixed");
    index(&store, &[&mariadb.files[0]]).ends_with(0);
    index(&store, &[&mysql.files[0]]).fails(64, &["a log of mysql", "another --store"]);
    assert_eq!(ids(&mariadb, &store).len(), 10);
}
