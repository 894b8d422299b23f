//! The one process that appends.

mod feed;
mod known;
mod recover;
mod sink;

use std::{io, path::Path, sync::Arc};

use binlog::{Begin, GtidSet, LogPos};
use serde::{Deserialize, Serialize};

use crate::{
    Error, Interval,
    catalogue::Catalogue,
    coverage::join,
    folder::{Directory, Files, Folder, Lock},
    manifest::{MANIFEST, Manifest, Span, TailEntry, check_empty, link, tail_name},
    record::{Record, RunStart},
    run::Run,
    seal::{Job, Sealed, Sealing},
    tail::Appender,
};

pub use recover::Recovered;

/// The server whose log a store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// `mysql` or `mariadb`.
    pub engine: String,
    /// Its version as it says it.
    pub version: String,
    /// Its identity: MySQL's `server_uuid`, MariaDB's server id. Empty if not known, as in a bare file.
    pub server: String,
    /// Where it was reached; none for files.
    pub host: Option<String>,
}

/// Where reading begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// What is read.
    pub source: Source,
    /// Its timeline; see [`binlog::Position::epoch`].
    pub epoch: u32,
    /// The place from which every transaction will come.
    pub at: LogPos,
    /// What the source had executed before, as far as it is known.
    pub gtids_before: GtidSet,
    /// If this does not continue what is in the store: why, for people. Ignored if it does.
    pub reason: Option<String>,
}

/// Where to go on reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    /// The timeline.
    pub epoch: u32,
    /// The place.
    pub at: LogPos,
    /// Everything the source has executed up to there, as far as it is known.
    pub gtids: GtidSet,
    /// The source.
    pub source: Source,
}

/// Sizes. The defaults are made for an agent that must stay within 128 MB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes after which a tail is sealed, between two transactions.
    pub tail_bytes_max: u64,
    /// Bytes of memory for rows that are sorted at once and become one segment; at most 1 GiB. One row may be larger.
    pub chunk_bytes_max: u64,
    /// Bytes held back before they are written to the tail; one row may be larger.
    pub buffer_bytes_max: usize,
    /// zstd's level for segments.
    pub zstd_level: i32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tail_bytes_max: 16 << 20,
            chunk_bytes_max: 32 << 20,
            buffer_bytes_max: 1 << 20,
            zstd_level: 1,
        }
    }
}

/// A tail is worth a segment at the end of writing if it has this share of [`Options::tail_bytes_max`]: readers scan tails whole.
const WORTH_SEALING: u64 = 8;

/// Appends transactions to a store. There is one per store, in one process.
///
/// What is fed between a transaction's begin and its commit goes to the tail as it comes, so memory does not grow with transactions;
/// it counts from its commit. After an error of the disk the writer takes nothing more: only opening the store again finds out what
/// reached the disk.
#[derive(Debug)]
pub struct Writer {
    files: Files,
    options: Options,
    /// As it is on disk.
    manifest: Manifest,
    catalogue: Catalogue,
    tail: Option<Appender>,
    sealing: Option<Sealing>,
    /// Everything from the start up to here has been fed; none before the first start.
    cursor: Option<Cursor>,
    txn: Txn,
    skipped: u64,
    /// How many known transactions will still be held against the store's since the last start.
    compare: u32,
    recovered: Option<Recovered>,
    poisoned: bool,
    scratch: sink::Scratch,
    /// Holds the lock; last, so that it goes last.
    _lock: Lock,
}

#[derive(Debug)]
struct Cursor {
    epoch: u32,
    at: LogPos,
    /// Seen too, but not recorded: most positions are overtaken by the next commit.
    ahead: Option<LogPos>,
    source: Source,
}

/// The transaction that is being fed.
#[derive(Debug)]
enum Txn {
    None,
    /// The store has it already, or so its place says.
    Known {
        begin: Begin,
        /// Whether it does something that the store keeps.
        acts: bool,
    },
    New {
        begin: Begin,
        query: Option<Arc<str>>,
    },
}

impl Writer {
    /// Opens the store in `dir` for writing, and makes one if `dir` is missing or empty. What a crash left behind is put right.
    pub fn open(dir: &Path, options: Options) -> Result<Self, Error> {
        let folder = Directory::new(dir);
        folder.make().map_err(|e| Error::io(dir, e))?;
        Self::open_in(Arc::new(folder), options)
    }

    /// The same for a store in any folder, which must be there.
    pub fn open_in(folder: Arc<dyn Folder>, options: Options) -> Result<Self, Error> {
        let files = Files::new(folder);
        match files.open(MANIFEST) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => check_empty(&files)?,
            // Whatever else is wrong with it shows when it is read.
            _ => {}
        }
        let lock = files.lock()?;
        let manifest = match Manifest::load(&files) {
            Err(Error::NoStore { .. }) => {
                let mut new = Manifest::new(files.place())?;
                new.store(&files)?;
                new
            }
            other => other?,
        };
        manifest.sweep(&files)?;
        let mut catalogue = Catalogue::default();
        for schemas in &manifest.schemas {
            catalogue.load(&files, &schemas.file, &schemas.sha256)?;
        }
        let mut writer = Self {
            files,
            options: Options {
                chunk_bytes_max: options.chunk_bytes_max.clamp(1, 1 << 30),
                ..options
            },
            manifest,
            catalogue,
            tail: None,
            sealing: None,
            cursor: None,
            txn: Txn::None,
            skipped: 0,
            compare: 0,
            recovered: None,
            poisoned: false,
            scratch: sink::Scratch::default(),
            _lock: lock,
        };
        writer.recover()?;
        Ok(writer)
    }

    /// The damage that was found when the store was opened, if there was any. People should know.
    pub fn recovered(&self) -> Option<&Recovered> {
        self.recovered.as_ref()
    }

    /// Where to go on reading: the end of the latest interval. None before the first [`Writer::start`].
    pub fn resume(&self) -> Option<Resume> {
        let intervals = self.intervals();
        let last = intervals.last()?;
        Some(Resume {
            epoch: last.epoch,
            at: last.to.clone(),
            gtids: last.executed(),
            source: self.source()?.clone(),
        })
    }

    /// What this store follows; none before the first [`Writer::start`].
    pub fn source(&self) -> Option<&Source> {
        self.tail
            .as_ref()
            .map(|tail| &tail.run.source)
            .or(self.manifest.source.as_ref())
    }

    /// How many transactions were ignored because the store has them already.
    pub fn skipped_transactions(&self) -> u64 {
        self.skipped
    }

    /// Puts on disk all that was committed so far, and says up to where that is. None before the first [`Writer::start`].
    pub fn sync(&mut self) -> Result<Option<Resume>, Error> {
        self.guarded(|writer| {
            writer.settle()?;
            writer.collect(false)?;
            if let Some(tail) = &mut writer.tail {
                tail.sync()?;
            }
            Ok(writer.resume())
        })
    }

    /// Syncs, waits for what is being sealed, and seals the rest if it is worth a segment. A transaction that has no end yet is dropped.
    pub fn finish(mut self) -> Result<(), Error> {
        self.guarded(|writer| {
            writer.abandon()?;
            writer.settle()?;
            if let Some(tail) = &mut writer.tail {
                tail.finish()?;
                if tail.len() >= writer.options.tail_bytes_max / WORTH_SEALING {
                    writer.turn()?;
                }
            }
            writer.collect(true)
        })
    }

    /// Does the same, and seals all there is, however little: the manifest names no tail then. For folders that keep none, and for stores
    /// that are complete. Another writer may go on with it all the same.
    pub fn finish_sealed(mut self) -> Result<(), Error> {
        self.guarded(|writer| {
            writer.abandon()?;
            writer.settle()?;
            writer.collect(true)?;
            if let Some(mut tail) = writer.tail.take() {
                tail.finish()?;
                let mut manifest = writer.manifest.clone();
                manifest.source = Some(tail.run.source.clone());
                if let Some(entry) = manifest.tails.last_mut() {
                    entry.length = Some(tail.len());
                }
                manifest.store(&writer.files)?;
                writer.manifest = manifest;
                writer.seal(tail.number, tail.into_run())?;
            }
            writer.collect(true)
        })
    }

    /// Runs `act`. If the disk fails it, nothing is taken from then on.
    fn guarded<T>(&mut self, act: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        if self.poisoned {
            return Err(Error::Poisoned);
        }
        let done = act(self);
        self.poisoned = matches!(
            done,
            Err(Error::Io { .. } | Error::Full { .. } | Error::Corrupt { .. } | Error::Poisoned)
        );
        done
    }

    /// Everything that is covered, joined.
    fn intervals(&self) -> Vec<Interval> {
        join(self.pieces().cloned().collect())
    }

    /// Everything that is covered, in pieces. Few: those of the manifest are joined, and there are at most two tails.
    fn pieces(&self) -> impl Iterator<Item = &Interval> {
        let sealing = self.sealing.as_ref().map(|sealing| &sealing.run().interval);
        let tail = self.tail.as_ref().map(|tail| &tail.run.interval);
        self.manifest.intervals.iter().chain(sealing).chain(tail)
    }

    /// Ends the tail, begins the next one where it ended, and has the old one sealed.
    fn turn(&mut self) -> Result<(), Error> {
        let Some(tail) = &self.tail else { return Ok(()) };
        let start = RunStart {
            source: tail.run.source.clone(),
            epoch: tail.run.interval.epoch,
            at: tail.run.interval.to.clone(),
            gtids_before: tail.run.interval.executed(),
            reason: None,
            apart: false,
        };
        self.begin_tail(&start)
    }

    /// Begins a tail at `start`, and has the one before it sealed.
    fn begin_tail(&mut self, start: &RunStart) -> Result<(), Error> {
        // One tail is sealed at a time: a writer that is faster than that waits here.
        self.collect(true)?;
        let number = self.manifest.next_tail;
        let new = Appender::create(
            &self.files,
            &self.manifest.store,
            number,
            start,
            self.options.buffer_bytes_max,
        )?;
        let mut manifest = self.manifest.clone();
        manifest.next_tail += 1;
        manifest.source = Some(start.source.clone());
        let old = self.tail.as_mut();
        let worthless = old.as_ref().is_some_and(|tail| tail.run.is_worthless());
        if let (Some(old), Some(entry)) = (old, manifest.tails.last_mut()) {
            old.sync()?;
            entry.length = Some(old.len());
        }
        if worthless {
            manifest.tails.pop();
        }
        manifest.tails.push(TailEntry { number, length: None });
        manifest.store(&self.files)?;
        self.manifest = manifest;
        match self.tail.replace(new) {
            Some(old) if worthless => self.files.remove(&tail_name(old.number)),
            Some(old) => self.seal(old.number, old.into_run()),
            None => Ok(()),
        }
    }

    fn seal(&mut self, number: u64, run: Run) -> Result<(), Error> {
        let job = Job {
            files: self.files.clone(),
            number,
            run,
            catalogue: self.catalogue.clone(),
            options: self.options,
        };
        self.sealing = Some(Sealing::start(job)?);
        Ok(())
    }

    /// Makes what was sealed a part of the store, and its tail not; if it is not ready, waits for it or leaves it, as `wait` says.
    fn collect(&mut self, wait: bool) -> Result<(), Error> {
        let Some(mut sealing) = self.sealing.take_if(|sealing| wait || sealing.is_finished()) else {
            return Ok(());
        };
        let Sealed { segments, schemas } = sealing.wait()?;
        let mut manifest = self.manifest.clone();
        for mut segment in segments {
            segment.chain = link(manifest.chain_head(), &segment.sha256);
            manifest.segments.push(segment);
        }
        manifest.schemas.extend(schemas);
        for (version, usage) in &sealing.run().usage {
            let span = manifest.usage.entry(*version);
            let span = span.or_insert_with(|| Span {
                first: usage.first.clone(),
                last: usage.last.clone(),
            });
            span.extend(&usage.first, &usage.last);
        }
        manifest.intervals.push(sealing.run().interval.clone());
        manifest.intervals = join(manifest.intervals);
        manifest.tails.retain(|tail| tail.number != sealing.number());
        manifest.store(&self.files)?;
        self.manifest = manifest;
        self.files.remove(&tail_name(sealing.number()))
    }

    /// Appends to the tail.
    fn append(&mut self, record: &Record<'_>) -> Result<(), Error> {
        self.tail.as_mut().map_or(Ok(()), |tail| tail.append(record))
    }
}
