//! Stores in folders that are no directory, and folders that fail.

use std::{
    io::{self, ErrorKind, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use binlog::{Change, LogPos};
use trail::{
    Directory, Error, FileKind, Filter, Folder, Lock, Memory, Options, ReadAt, Reader, Stop, WriteAt,
    WriteOnce, Writer, verify_in,
};

use crate::{
    basics::tiny,
    fixture::{
        Act, Int, Null, all_in, changes_of, feed, found, key, orders, reader_in, simple, start_at,
        statements_of, verified_in,
    },
};

fn expected(transactions: u64) -> Vec<Change> {
    (0..transactions)
        .flat_map(|number| changes_of(0, &simple(&orders(), number)))
        .collect()
}

/// Feeds the transactions from where the store stands up to this one.
fn feed_until(writer: &mut Writer, number: u64) -> Result<(), Error> {
    let at = writer
        .resume()
        .map_or_else(|| LogPos::new("binlog.000001", 4), |resume| resume.at);
    writer.start(start_at(0, &at))?;
    ((at.offset - 4) / 100..number).try_for_each(|number| feed(writer, &simple(&orders(), number)))
}

fn tails_of(folder: &dyn Folder) -> Vec<String> {
    let mut names = folder.list().unwrap();
    names.retain(|name| FileKind::of(name).is_some_and(FileKind::is_temporary));
    names
}

#[test]
fn a_store_in_memory_is_written_sealed_and_gone_on_with() {
    let memory = Arc::new(Memory::new("upload 7"));
    let folder: Arc<dyn Folder> = memory.clone();
    assert!(matches!(
        Reader::open_in(Arc::clone(&folder), Stop::default()),
        Err(Error::NoStore { dir }) if dir == Path::new("upload 7")
    ));
    for until in [40, 41, 120] {
        let mut writer = Writer::open_in(Arc::clone(&folder), tiny()).unwrap();
        assert!(matches!(
            Writer::open_in(Arc::clone(&folder), tiny()),
            Err(Error::Locked { .. })
        ));
        feed_until(&mut writer, until).unwrap();
        writer.finish_sealed().unwrap();
        assert_eq!(tails_of(&*folder), [""; 0]);
        assert_eq!(all_in(&folder), expected(until));
        assert_eq!(verified_in(&folder).changes, until);
        let reader = reader_in(&folder);
        let (status, coverage) = (reader.status(), reader.coverage());
        assert_eq!((status.changes, status.tail_bytes), (until, 0));
        assert_eq!(status.bytes, memory.bytes());
        assert_eq!((coverage.intervals.len(), coverage.complete), (1, true));
    }
    assert_eq!(reader_in(&folder).status().source, Some(crate::fixture::source()));
}

/// A file without a transaction was read too, and that must not be forgotten.
#[test]
fn what_is_sealed_without_a_change_is_covered_all_the_same() {
    let folder: Arc<dyn Folder> = Arc::new(Memory::default());
    let mut writer = Writer::open_in(Arc::clone(&folder), Options::default()).unwrap();
    feed_until(&mut writer, 0).unwrap();
    writer.finish_sealed().unwrap();
    let reader = reader_in(&folder);
    assert_eq!((reader.status().segments, reader.status().changes), (0, 0));
    assert_eq!(reader.coverage().intervals.len(), 1);
    assert!(reader.coverage().complete);
    assert_eq!(tails_of(&*folder), [""; 0]);
}

fn copy(from: &dyn Folder, to: &dyn Folder) {
    for name in from.list().unwrap() {
        let bytes = from.read(&name).unwrap();
        if FileKind::of(&name) == Some(FileKind::Manifest) {
            to.replace(&name, &bytes).unwrap();
        } else {
            let mut file = to.create(&name).unwrap();
            file.write_all(&bytes).unwrap();
            file.finish().unwrap();
        }
    }
    to.sync().unwrap();
}

#[test]
fn a_store_that_is_copied_file_by_file_answers_the_same() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let directory = Directory::new(dir.path());
    let memory: Arc<dyn Folder> = Arc::new(Memory::default());
    let back: Arc<dyn Folder> = Arc::new(Directory::new(other.path()));
    let mut writer = Writer::open(dir.path(), tiny()).unwrap();
    feed_until(&mut writer, 150).unwrap();
    writer.sync().unwrap();
    drop(writer);
    // Once with a tail, which a new writer goes on with in memory, and once without.
    for until in [150, 200] {
        copy(&directory, &*memory);
        let there = Reader::open(dir.path()).unwrap();
        let here = reader_in(&memory);
        for filter in [
            Filter::default(),
            Filter {
                keys: vec![key(&orders(), &[Int(7), Null, Null])],
                ..Filter::default()
            },
        ] {
            assert_eq!(found(&here, &filter), found(&there, &filter));
            assert_eq!(here.coverage_of(&filter), there.coverage_of(&filter));
        }
        assert_eq!(here.tables().unwrap(), there.tables().unwrap());
        assert_eq!(here.status(), there.status());
        let mut writer = Writer::open(dir.path(), tiny()).unwrap();
        feed_until(&mut writer, 200).unwrap();
        writer.finish_sealed().unwrap();
        let mut writer = Writer::open_in(Arc::clone(&memory), tiny()).unwrap();
        feed_until(&mut writer, 200).unwrap();
        writer.finish_sealed().unwrap();
        assert_eq!(all_in(&memory), expected(200), "from {until}");
        assert_eq!(verified_in(&memory).changes, 200);
    }
    copy(&*memory, &*back);
    assert_eq!(all_in(&back), expected(200));
    assert_eq!(verified_in(&back).torn, 0);
}

#[test]
fn readers_of_memory_beside_a_sealing_writer_see_a_growing_prefix() {
    const TXNS: u64 = 300;
    let folder: Arc<dyn Folder> = Arc::new(Memory::default());
    let mut writer = Writer::open_in(Arc::clone(&folder), tiny()).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let (mut reader, mut before) = (reader_in(&folder), 0);
            loop {
                let last = done.load(Ordering::Acquire);
                reader.refresh().unwrap();
                let changes = found(&reader, &Filter::default());
                assert!(changes.len() >= before);
                assert_eq!(changes, expected(changes.len() as u64));
                before = changes.len();
                if last {
                    return before as u64;
                }
            }
        });
        for until in 1..=TXNS {
            feed_until(&mut writer, until).unwrap();
            writer.sync().unwrap();
        }
        writer.finish_sealed().unwrap();
        done.store(true, Ordering::Release);
        assert_eq!(asking.join().unwrap(), TXNS);
    });
}

/// A folder whose operations fail, all of them from one on, as when a database is gone.
#[derive(Clone, Debug)]
struct Failing {
    memory: Arc<Memory>,
    /// Operations that still work.
    left: Arc<AtomicUsize>,
    /// What counts as one.
    counts: Counts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counts {
    /// Reads by place, of files that were opened.
    Reads,
    /// Everything.
    All,
}

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("the database has gone away")]
struct Gone;

impl Failing {
    fn new(memory: &Arc<Memory>, left: usize, counts: Counts) -> Arc<Self> {
        Arc::new(Self {
            memory: Arc::clone(memory),
            left: Arc::new(AtomicUsize::new(left)),
            counts,
        })
    }

    fn count(&self) -> io::Result<()> {
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .map(|_| ())
            .map_err(|_| io::Error::other(Gone))
    }

    fn other(&self) -> io::Result<()> {
        match self.counts {
            Counts::Reads => Ok(()),
            Counts::All => self.count(),
        }
    }

    fn handle<T>(&self, inner: T) -> Handle<T> {
        Handle {
            folder: self.clone(),
            inner,
        }
    }
}

#[derive(Debug)]
struct Handle<T> {
    folder: Failing,
    inner: T,
}

impl Folder for Failing {
    fn place(&self) -> &Path {
        self.memory.place()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.other().and_then(|()| self.memory.list())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn ReadAt>> {
        self.other()?;
        Ok(Arc::new(self.handle(self.memory.open(name)?)))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn WriteOnce>> {
        self.other()?;
        Ok(Box::new(self.handle(self.memory.create(name)?)))
    }

    fn create_tail(&self, name: &str) -> io::Result<Box<dyn WriteAt>> {
        self.other()?;
        Ok(Box::new(self.handle(self.memory.create_tail(name)?)))
    }

    fn open_tail(&self, name: &str) -> io::Result<Box<dyn WriteAt>> {
        self.other()?;
        Ok(Box::new(self.handle(self.memory.open_tail(name)?)))
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.other().and_then(|()| self.memory.replace(name, bytes))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.other().and_then(|()| self.memory.remove(name))
    }

    fn sync(&self) -> io::Result<()> {
        self.other().and_then(|()| self.memory.sync())
    }

    fn lock(&self, name: &str) -> io::Result<Lock> {
        self.other().and_then(|()| self.memory.lock(name))
    }
}

impl ReadAt for Handle<Arc<dyn ReadAt>> {
    fn length(&self) -> io::Result<u64> {
        self.folder.other().and_then(|()| self.inner.length())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.folder
            .count()
            .and_then(|()| self.inner.read_exact_at(buffer, offset))
    }
}

impl Write for Handle<Box<dyn WriteOnce>> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.folder.other().and_then(|()| self.inner.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl WriteOnce for Handle<Box<dyn WriteOnce>> {
    fn finish(self: Box<Self>) -> io::Result<()> {
        self.folder.other().and_then(|()| self.inner.finish())
    }
}

impl WriteAt for Handle<Box<dyn WriteAt>> {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.folder
            .other()
            .and_then(|()| self.inner.write_all_at(bytes, offset))
    }

    fn set_length(&mut self, length: u64) -> io::Result<()> {
        self.folder.other().and_then(|()| self.inner.set_length(length))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.folder.other().and_then(|()| self.inner.sync())
    }
}

/// That an error says which file could not be used, and is the folder's own; `named` is told the file.
fn assert_names(error: Error, nth: usize, named: impl Fn(&str) -> bool) {
    let Error::Io { path, source } = error else {
        panic!("operation {nth}: {error:?}");
    };
    let file = path.strip_prefix("a database").map(|file| file.to_str().unwrap());
    assert!(file.is_ok_and(named), "operation {nth}: {}", path.display());
    let own = source.get_ref().and_then(|own| own.downcast_ref::<Gone>());
    assert_eq!(own, Some(&Gone), "operation {nth}: {source:?}");
}

/// Everything a reader can be asked.
fn ask(folder: Arc<dyn Folder>) -> Result<(), Error> {
    let reader = Reader::open_in(Arc::clone(&folder), Stop::default())?;
    for filter in [
        Filter::default(),
        Filter {
            keys: vec![key(&orders(), &[Int(7), Null, Null])],
            ..Filter::default()
        },
    ] {
        reader.find(&filter)?.try_for_each(|change| change.map(|_| ()))?;
    }
    assert_eq!(reader.schema_changes(&Filter::default())?.len(), 1);
    verify_in(folder, &mut |_| {}).map(|_| ())
}

#[test]
fn a_read_that_fails_anywhere_names_the_file_and_is_no_damage() {
    let memory = Arc::new(Memory::new("a database"));
    let mut writer = Writer::open_in(memory.clone(), tiny()).unwrap();
    feed_until(&mut writer, 60).unwrap();
    let mut last = simple(&orders(), 60);
    last.acts.push(Act::Ddl("alter table orders".to_owned()));
    assert_eq!(statements_of(0, &last).len(), 1);
    feed(&mut writer, &last).unwrap();
    (61..70).for_each(|number| feed(&mut writer, &simple(&orders(), number)).unwrap());
    writer.sync().unwrap();
    drop(writer);
    let mut failed = 0;
    loop {
        match ask(Failing::new(&memory, failed, Counts::Reads)) {
            Ok(()) => break,
            Err(e) => assert_names(e, failed, |file| FileKind::of(file).is_some()),
        }
        failed += 1;
    }
    assert!(failed > 100, "only {failed} reads");
}

/// Writes a store, as far as it goes, and says whether it came to the end.
fn write(folder: Arc<dyn Folder>) -> Result<(), Error> {
    let mut writer = Writer::open_in(folder, tiny())?;
    let done = feed_until(&mut writer, 60).and_then(|()| writer.sync().map(|_| ()));
    if let Err(e) = done {
        assert!(matches!(writer.sync(), Err(Error::Poisoned)));
        return Err(e);
    }
    writer.finish_sealed()
}

#[test]
fn a_store_whose_folder_fails_anywhere_says_where_and_is_gone_on_with() {
    let mut failed = 0;
    loop {
        let memory = Arc::new(Memory::new("a database"));
        let folder: Arc<dyn Folder> = memory.clone();
        let done = write(Failing::new(&memory, failed, Counts::All));
        let Err(error) = done else { break };
        // The folder itself is listed and synced, which is about no file.
        assert_names(error, failed, |file| {
            file.is_empty() || FileKind::of(file).is_some()
        });
        write(Arc::clone(&folder)).unwrap();
        assert_eq!(all_in(&folder), expected(60), "operation {failed}");
        assert_eq!(verified_in(&folder).changes, 60, "operation {failed}");
        let left = tails_of(&*folder);
        assert!(left.is_empty(), "operation {failed}: {left:?}");
        failed += 1;
    }
    assert!(failed > 50, "only {failed} operations");
}

#[test]
fn a_folder_that_is_full_says_so() {
    /// Takes no tails.
    #[derive(Debug)]
    struct Full(Memory);

    #[derive(Debug)]
    struct NoRoom(Box<dyn WriteAt>);

    impl WriteAt for NoRoom {
        fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
            if offset + bytes.len() as u64 > 3_000 {
                return Err(ErrorKind::QuotaExceeded.into());
            }
            self.0.write_all_at(bytes, offset)
        }

        fn set_length(&mut self, length: u64) -> io::Result<()> {
            self.0.set_length(length)
        }

        fn sync(&mut self) -> io::Result<()> {
            self.0.sync()
        }
    }

    impl Folder for Full {
        fn place(&self) -> &Path {
            self.0.place()
        }

        fn list(&self) -> io::Result<Vec<String>> {
            self.0.list()
        }

        fn open(&self, name: &str) -> io::Result<Arc<dyn ReadAt>> {
            self.0.open(name)
        }

        fn create(&self, name: &str) -> io::Result<Box<dyn WriteOnce>> {
            self.0.create(name)
        }

        fn create_tail(&self, name: &str) -> io::Result<Box<dyn WriteAt>> {
            Ok(Box::new(NoRoom(self.0.create_tail(name)?)))
        }

        fn open_tail(&self, name: &str) -> io::Result<Box<dyn WriteAt>> {
            self.0.open_tail(name)
        }

        fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
            self.0.replace(name, bytes)
        }

        fn remove(&self, name: &str) -> io::Result<()> {
            self.0.remove(name)
        }

        fn sync(&self) -> io::Result<()> {
            self.0.sync()
        }

        fn lock(&self, name: &str) -> io::Result<Lock> {
            self.0.lock(name)
        }
    }

    let options = Options {
        buffer_bytes_max: 300,
        ..Options::default()
    };
    let mut writer = Writer::open_in(Arc::new(Full(Memory::new("a database"))), options).unwrap();
    let refused = feed_until(&mut writer, 100).unwrap_err();
    assert!(
        matches!(&refused, Error::Full { path, .. } if path == Path::new("a database/tail-1.log")),
        "{refused:?}"
    );
}
