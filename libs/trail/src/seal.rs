//! A finished tail into segments, on a thread of its own: encoding and compression are most of the work, and the writer goes on
//! meanwhile.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use crate::{
    Error, Options,
    catalogue::{self, Catalogue},
    codec::Malformed,
    folder::Files,
    manifest::{SchemaFile, Segment, tail_name},
    record::Record,
    run::Run,
    segment::{chunk::Chunk, write},
    tail::{Frame, Frames},
};

/// What sealing a tail gave. The files are on disk, and not part of the store until a manifest names them.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) segments: Vec<Segment>,
    pub(crate) schemas: Option<SchemaFile>,
}

/// What is needed to seal a tail.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) files: Files,
    pub(crate) number: u64,
    pub(crate) run: Run,
    pub(crate) catalogue: Catalogue,
    pub(crate) options: Options,
}

/// A tail that is being sealed.
#[derive(Debug)]
pub(crate) struct Sealing {
    job: Arc<Job>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Sealed, Error>>>,
}

impl Sealing {
    pub(crate) fn start(job: Job) -> Result<Self, Error> {
        let job = Arc::new(job);
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new().name("seal".to_owned()).spawn({
            let (job, stop) = (Arc::clone(&job), Arc::clone(&stop));
            move || job.seal(&stop)
        });
        let thread = Some(thread.map_err(|e| Error::io(job.files.place(), e))?);
        Ok(Self { job, stop, thread })
    }

    /// The run of the tail.
    pub(crate) fn run(&self) -> &Run {
        &self.job.run
    }

    pub(crate) fn number(&self) -> u64 {
        self.job.number
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the end.
    pub(crate) fn wait(&mut self) -> Result<Sealed, Error> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(sealed)) => sealed,
            _ => Err(Error::Poisoned),
        }
    }
}

impl Drop for Sealing {
    /// Nothing may write to the store's folder once its lock is given up.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Job {
    fn seal(&self, stop: &AtomicBool) -> Result<Sealed, Error> {
        let name = tail_name(self.number);
        let (path, file) = (self.files.path(&name), self.files.open(&name)?);
        let damaged = |Malformed| Error::corrupt(&path, "a record cannot be read");
        let mut frames = Frames::new(&*file, &path, self.run.body, self.run.visible);
        let mut filling = Filling {
            job: self,
            chunk: Chunk::default(),
            segments: Vec::new(),
            nth: 0,
            state: None,
            last_query: None,
        };
        while let Some(Frame { payload, .. }) = frames.next()? {
            filling.take(payload, Record::parse(payload).map_err(damaged)?)?;
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Poisoned);
            }
        }
        if let Some((at, what)) = frames.damage() {
            return Err(Error::corrupt(&path, format!("at byte {at} {what}")));
        }
        filling.write()?;
        let segments = filling.segments;
        let schemas = self.schemas()?;
        self.files.sync()?;
        Ok(Sealed { segments, schemas })
    }

    fn schemas(&self) -> Result<Option<SchemaFile>, Error> {
        if self.run.definitions.is_empty() {
            return Ok(None);
        }
        let file = format!("schemas-{}.json", self.number);
        let sha256 = catalogue::save(&self.files, &file, &self.run.definitions)?;
        Ok(Some(SchemaFile { file, sha256 }))
    }
}

/// The chunk that is being filled, and the transaction that fills it.
struct Filling<'a> {
    job: &'a Job,
    chunk: Chunk,
    segments: Vec<Segment>,
    /// Transactions begun.
    nth: usize,
    /// The transaction that the next rows belong to and the next row's number; none if it did not take effect.
    state: Option<(binlog::Begin, u64)>,
    last_query: Option<String>,
}

impl Filling<'_> {
    fn take(&mut self, payload: &[u8], record: Record<'_>) -> Result<(), Error> {
        match record {
            Record::Begin(begin) => {
                if let Some(time) = self.job.run.outcomes.get(self.nth).copied().flatten() {
                    self.chunk.begin(&begin, time);
                    self.state = Some((begin, 0));
                    self.last_query = None;
                }
                self.nth += 1;
            }
            Record::Commit { .. } | Record::Rollback { .. } | Record::Abort => self.state = None,
            Record::Query(text) if self.state.is_some() => {
                self.chunk.query(text);
                self.last_query = Some(text.to_owned());
            }
            Record::Row(row) => {
                if let Some((_, ordinal)) = &mut self.state {
                    self.chunk.row(payload, &row, *ordinal);
                    *ordinal += 1;
                }
            }
            Record::Ddl(_) => {
                if let Some((_, ordinal)) = &mut self.state {
                    self.chunk.ddl(payload, *ordinal);
                    *ordinal += 1;
                }
            }
            _ => {}
        }
        if self.chunk.size() >= self.job.options.chunk_bytes_max {
            self.write()
        } else {
            Ok(())
        }
    }

    /// Writes what there is as a segment, and goes on with an empty chunk in the same transaction.
    fn write(&mut self) -> Result<(), Error> {
        let mut chunk = std::mem::take(&mut self.chunk);
        if let Some((begin, _)) = &self.state {
            // Its outcome is known, or its rows would not have been taken.
            let time = self
                .job
                .run
                .outcomes
                .get(self.nth - 1)
                .copied()
                .flatten()
                .unwrap_or_default();
            self.chunk.begin(begin, time);
            if let Some(text) = &self.last_query {
                self.chunk.query(text);
            }
        }
        if chunk.is_empty() {
            return Ok(());
        }
        let Job {
            files,
            number,
            run,
            catalogue,
            options,
        } = self.job;
        let name = format!("seg-{number}-{}.parquet", self.segments.len());
        chunk.sort(catalogue).map_err(|Malformed| {
            Error::corrupt(&files.path(&name), "a row uses a definition that is not known")
        })?;
        self.segments.push(write::write(
            files,
            &name,
            run.interval.epoch,
            &chunk,
            options.zstd_level,
        )?);
        Ok(())
    }
}
