//! From the bytes of a log to a store: on a thread that may block, one event at a time.

use std::{
    io::{self, Read},
    sync::Arc,
};

use binlog::{
    Begin, Commit, Ddl, Decoder, FeedError, GtidSet, LogPos, Problem, RowChange, Sink,
    event::{Event, FormatDescription, Header, Limits, kind},
    file::{ReadError, Reader},
};
use trail::{Options, Source, Start, Writer};

use super::{error::Error, folder::Shelf, store::Outcome, upload::Upload};

/// Two tails may be in memory at once, and the rows of one that is being sealed.
const SIZES: Options = Options {
    tail_bytes_max: 8 << 20,
    chunk_bytes_max: 16 << 20,
    buffer_bytes_max: 256 << 10,
    zstd_level: 1,
};

/// Where the first event begins.
const FIRST: u64 = 4;

/// Bytes of one event: a replica reads for all tenants, and holds an event and what it opens to.
const EVENT_BYTES_MAX: u64 = 64 << 20;

/// Bytes of the GTIDs that a file states, which stay in memory while it is asked.
const GTIDS_BYTES_MAX: u64 = 16 << 20;

/// Bytes of a table map.
const MAP_BYTES_MAX: u64 = 4 << 20;

/// What a file may open to, and what is kept of it, is so many times its own length, and so many bytes more: the database is everybody's.
const OPENED: (u64, u64) = (20, 64 << 20);

fn limits(upload: &Upload) -> Limits {
    Limits {
        event_bytes_max: EVENT_BYTES_MAX,
        gtids_bytes_max: GTIDS_BYTES_MAX,
        map_bytes_max: MAP_BYTES_MAX,
        opened_bytes_max: upload.bytes.saturating_mul(OPENED.0).saturating_add(OPENED.1),
    }
}

/// Why the file was not read further.
enum Halt {
    /// Something is wrong with the file.
    File(binlog::Error),
    /// Something is wrong with a row of it.
    Row(trail::Error),
    /// Something else is.
    Other(Error),
}

impl From<ReadError> for Halt {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Log(error) => Self::File(error),
            ReadError::Io { source, .. } => Self::Other(ours(source)),
        }
    }
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<trail::Error> for Halt {
    fn from(error: trail::Error) -> Self {
        match error {
            // All that comes is the file's; that it comes in its order is too, if the file is called what it is.
            trail::Error::Row { .. } | trail::Error::Order { .. } => Self::Row(error),
            other => Self::Other(of_store(other)),
        }
    }
}

/// What stands behind an error of input.
fn ours(error: io::Error) -> Error {
    error.downcast().unwrap_or(Error::Broken)
}

/// What stands behind an error of the store: mostly one of ours, when its folder could not do what it should.
pub(super) fn of_store(error: trail::Error) -> Error {
    match error {
        trail::Error::Io { source, path } => source
            .downcast()
            .unwrap_or_else(|source| Error::Trail(trail::Error::Io { path, source })),
        other => Error::Trail(other),
    }
}

/// The first event, which must say what the others are like.
struct First {
    format: FormatDescription,
    header: Header,
    body: Vec<u8>,
}

fn first<R: Read>(reader: &mut Reader<R>) -> Result<Option<First>, Halt> {
    let Some((_, event)) = reader.next_event()? else {
        return Ok(None);
    };
    if event.header.kind != kind::FORMAT_DESCRIPTION {
        return Ok(None);
    }
    let first = FormatDescription::parse(event.body).map(|format| First {
        format,
        header: event.header,
        body: event.body.to_vec(),
    });
    Ok(first.ok())
}

/// What was executed before the file; empty if it does not say.
fn previous(second: Option<&(u64, Event<'_>)>) -> GtidSet {
    match second {
        Some((_, event)) if matches!(event.header.kind, kind::PREVIOUS_GTIDS | kind::MARIADB_GTID_LIST) => {
            GtidSet::stated_by(event).unwrap_or_default()
        }
        _ => GtidSet::default(),
    }
}

/// Counts what passes on its way to the store.
struct Counting<'a> {
    writer: &'a mut Writer,
    transactions: u64,
    changes: u64,
    /// Those of the transaction that is open.
    pending: u64,
}

impl Sink for Counting<'_> {
    type Error = trail::Error;

    fn begin(&mut self, begin: &Begin) -> Result<(), trail::Error> {
        self.pending = 0;
        self.writer.begin(begin)
    }

    fn row(&mut self, row: &RowChange<'_>) -> Result<(), trail::Error> {
        self.pending += 1;
        self.writer.row(row)
    }

    fn ddl(&mut self, ddl: &Ddl<'_>) -> Result<(), trail::Error> {
        self.writer.ddl(ddl)
    }

    fn commit(&mut self, commit: &Commit) -> Result<(), trail::Error> {
        self.transactions += 1;
        self.changes += std::mem::take(&mut self.pending);
        self.writer.commit(commit)
    }

    fn rollback(&mut self, end: &LogPos) -> Result<(), trail::Error> {
        self.pending = 0;
        self.writer.rollback(end)
    }

    fn position(&mut self, next: &LogPos) -> Result<(), trail::Error> {
        self.writer.position(next)
    }

    fn previous(&mut self, gtids: &GtidSet) -> Result<(), trail::Error> {
        self.writer.previous(gtids)
    }
}

fn feed(decoder: &mut Decoder, at: u64, event: &Event<'_>, sink: &mut Counting<'_>) -> Result<(), Halt> {
    decoder.feed(at, event, sink).map_err(|error| match error {
        FeedError::Log(error) => Halt::File(error),
        FeedError::Sink(error) => error.into(),
    })
}

fn start(upload: &Upload, format: &FormatDescription, previous: GtidSet) -> Start {
    let engine = match format.is_mariadb() {
        true => "mariadb",
        false => "mysql",
    };
    Start {
        source: Source {
            engine: engine.to_owned(),
            version: format.server_version.clone(),
            server: String::new(),
            host: None,
        },
        epoch: 0,
        at: LogPos {
            file: binlog::FileName::new(&upload.file),
            offset: FIRST,
        },
        gtids_before: previous,
        reason: None,
    }
}

/// What came of it, with the names of files that are no part of the store.
type Done = (Outcome, Vec<String>);

fn through(upload: &Upload, shelf: &Shelf, input: impl Read, keep: bool) -> Result<Done, Halt> {
    let limits = limits(upload);
    shelf.give_room(limits.opened_bytes_max);
    let mut reader = Reader::new(&upload.file, input)?.with_limits(limits);
    let Some(First { format, header, body }) = first(&mut reader)? else {
        let words = "it has no format description: it is empty, or from a server before MySQL 5.0";
        return Ok((Outcome::Damaged(words.to_owned()), Vec::new()));
    };
    let second = reader.next_event()?;
    let mut writer = Writer::open_in(Arc::new(shelf.clone()), SIZES)?;
    writer.start(start(upload, &format, previous(second.as_ref())))?;
    let mut sink = Counting {
        writer: &mut writer,
        transactions: 0,
        changes: 0,
        pending: 0,
    };
    let mut decoder = Decoder::new(&upload.file).with_limits(limits);
    let body = Event { header, body: &body };
    let mut end = feed(&mut decoder, FIRST, &body, &mut sink);
    if let (Ok(()), Some((at, event))) = (&end, second) {
        end = feed(&mut decoder, at, &event, &mut sink);
    }
    let end = end.and_then(|()| {
        while let Some((at, event)) = reader.next_event()? {
            feed(&mut decoder, at, &event, &mut sink)?;
        }
        Ok(())
    });
    let (transactions, changes) = (sink.transactions, sink.changes);
    let problem = match end {
        Ok(()) => String::new(),
        // What came before is whole.
        Err(Halt::File(error)) if keep => error.to_string(),
        Err(Halt::Row(error)) if keep => of_file(upload, &error),
        Err(halt) => return Err(halt),
    };
    writer.finish_sealed()?;
    let temporary = shelf.publish().map_err(ours)?;
    let ready = Outcome::Ready {
        transactions,
        changes,
        problem,
    };
    Ok((ready, temporary))
}

/// What is wrong with a file that the store does not take.
fn of_file(upload: &Upload, error: &trail::Error) -> String {
    match error {
        trail::Error::Order { .. } => format!(
            "{error}; if {} is not what its server calls this log, upload it under the server's own name",
            upload.file
        ),
        other => other.to_string(),
    }
}

/// Reads the file into the folder, and gives what came of it with the names of files that are no part of the store.
///
/// # Errors
/// What is not the file's fault: then another attempt may come further.
pub(super) fn decode(upload: &Upload, shelf: &Shelf, input: impl Read, keep: bool) -> Result<Done, Error> {
    let halt = match through(upload, shelf, input, keep) {
        Ok(done) => return Ok(done),
        Err(halt) => halt,
    };
    let outcome = match halt {
        Halt::File(error) if matches!(error.problem, Problem::Cut { .. }) => {
            Outcome::Incomplete(error.to_string())
        }
        Halt::File(error) => Outcome::Damaged(error.to_string()),
        Halt::Row(error) => Outcome::Damaged(of_file(upload, &error)),
        Halt::Other(Error::OpensTooFar) => Outcome::Damaged(format!(
            "what this file opens to takes more than {} bytes, and no more are kept for a file of {} bytes; let the agent beside the server read this log",
            limits(upload).opened_bytes_max,
            upload.bytes
        )),
        Halt::Other(error) => return Err(error),
    };
    Ok((outcome, Vec::new()))
}
