//! Reading binary log files into the store.

mod present;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use binlog::{
    Begin, Commit, Ddl, Decoder, End, FeedError, FileName, GtidSet, LogPos, Present, Problem, RowChange,
    Sink,
    event::{FormatDescription, kind},
    file::{ReadError, Reader},
};
use trail::{Options, Source, Start, Writer};
use types::{Code, Fault};

use crate::{error::Error, options::Index};

/// What a person is told while files are read.
#[derive(Clone, Copy, Debug)]
pub enum Report<'a> {
    /// How far the work is.
    Progress {
        /// Bytes read of all files.
        bytes: u64,
        /// Bytes of all files.
        bytes_all: u64,
    },
    /// Works, but rests on something that was not looked at.
    Warning(&'a str),
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexed {
    /// Files read.
    pub files: usize,
    /// Bytes read.
    pub bytes: u64,
    /// Row changes read, those included that were in the store already.
    pub changes: u64,
    /// Transactions read, likewise.
    pub transactions: u64,
    /// Transactions that were in the store already.
    pub skipped_transactions: u64,
    /// Files that do not say that another one follows.
    pub unfinished: Vec<String>,
}

/// Counts what passes on its way to the store.
struct Counting<'a> {
    writer: &'a mut Writer,
    done: &'a mut Indexed,
}

impl Sink for Counting<'_> {
    type Error = trail::Error;

    fn begin(&mut self, begin: &Begin) -> Result<(), trail::Error> {
        self.writer.begin(begin)
    }

    fn row(&mut self, row: &RowChange<'_>) -> Result<(), trail::Error> {
        self.done.changes += 1;
        self.writer.row(row)
    }

    fn ddl(&mut self, ddl: &Ddl<'_>) -> Result<(), trail::Error> {
        self.writer.ddl(ddl)
    }

    fn commit(&mut self, commit: &Commit) -> Result<(), trail::Error> {
        self.done.transactions += 1;
        self.writer.commit(commit)
    }

    fn rollback(&mut self, end: &LogPos) -> Result<(), trail::Error> {
        self.writer.rollback(end)
    }

    fn position(&mut self, next: &LogPos) -> Result<(), trail::Error> {
        self.writer.position(next)
    }

    fn previous(&mut self, gtids: &GtidSet) -> Result<(), trail::Error> {
        self.writer.previous(gtids)
    }
}

/// Bytes between two reports of progress.
const REPORT_BYTES: u64 = 1 << 20;

/// A file to read, looked at but not read.
struct Candidate {
    path: PathBuf,
    bytes: u64,
    format: FormatDescription,
    /// What its head says was executed before it; none if it does not say.
    previous: Option<GtidSet>,
}

/// Reads the files in the order of their numbers. What stands before an error is kept, and the error says where it is.
pub fn index(index: &Index, report: &mut dyn FnMut(Report<'_>)) -> Result<Indexed, Error> {
    let candidates = candidates(&index.files)?;
    let present = match &index.schema_from {
        Some(server) => present::present(server, &candidates, report)?,
        None => None,
    };
    let mut writer =
        Writer::open(&index.store, Options::default()).map_err(|error| store_error(&index.store, &error))?;
    if let Some(recovered) = writer.recovered() {
        report(Report::Warning(&recovered.to_string()));
    }
    let mut run = Run {
        index,
        bytes_all: candidates.values().map(|c| c.bytes).sum(),
        done: Indexed::default(),
        present,
        report,
    };
    let outcome = candidates
        .iter()
        .try_for_each(|(name, candidate)| run.file(&mut writer, name, candidate));
    let skipped_transactions = writer.skipped_transactions();
    let finished = writer.finish().map_err(|error| store_error(&index.store, &error));
    outcome.and(finished).map(|()| Indexed {
        skipped_transactions,
        ..run.done
    })
}

fn store_error(store: &Path, error: &trail::Error) -> Error {
    Error::from_fault(store.display(), error)
}

fn read_error(path: &Path, error: ReadError) -> Error {
    match error {
        ReadError::Log(error) => log_error(path, &error),
        ReadError::Io { at, source } => {
            Error::from_io(format!("{} at {}", path.display(), at.offset), &source)
        }
    }
}

fn log_error(path: &Path, error: &binlog::Error) -> Error {
    let told = Error::new(
        error.code(),
        format!("{} at {}", path.display(), error.at.offset),
        &error.problem,
    );
    match error.code() {
        Code::Corrupt => told.hint("everything committed before that place is in the store; copy the file again, or read it from the server with `trail watch`"),
        _ => told,
    }
}

/// Looks at every file before the first one is read, so that a wrong one costs nothing.
fn candidates(files: &[PathBuf]) -> Result<BTreeMap<FileName, Candidate>, Error> {
    let mut found = BTreeMap::new();
    for path in files {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or_else(|| Error::new(Code::Invalid, path.display(), "its name is not valid UTF-8"))?;
        let name = FileName::new(name);
        if name.number().is_none() {
            return Err(Error::new(
                Code::Invalid,
                path.display(),
                "its name does not end with a number, which gives logs their order",
            )
            .hint("keep the server's own names, such as binlog.000042"));
        }
        let candidate = look(path)?;
        if let Some(other) = found.insert(name.clone(), candidate) {
            return Err(Error::new(
                Code::Invalid,
                path.display(),
                format!("{} is given twice, also as {}", name, other.path.display()),
            )
            .hint("use one store for each server"));
        }
    }
    Ok(found)
}

fn look(path: &Path) -> Result<Candidate, Error> {
    let failed = |error: &io::Error| Error::from_io(path.display(), error);
    let file = File::open(path).map_err(|error| failed(&error))?;
    let bytes = file.metadata().map_err(|error| failed(&error))?.len();
    let mut reader = Reader::new("head", BufReader::new(file)).map_err(|error| read_error(path, error))?;
    let (mut format, mut previous) = (None, None);
    for _ in 0..2 {
        let Some((_, event)) = reader.next_event().map_err(|error| read_error(path, error))? else {
            break;
        };
        match event.header.kind {
            kind::FORMAT_DESCRIPTION => format = FormatDescription::parse(event.body).ok(),
            kind::PREVIOUS_GTIDS | kind::MARIADB_GTID_LIST => previous = GtidSet::stated_by(&event).ok(),
            _ => {}
        }
    }
    let format = format.ok_or_else(|| {
        Error::new(
            Code::Invalid,
            path.display(),
            "it has no format description: it is empty, or from a server before MySQL 5.0",
        )
    })?;
    Ok(Candidate {
        path: path.to_owned(),
        bytes,
        format,
        previous,
    })
}

struct Run<'a> {
    index: &'a Index,
    bytes_all: u64,
    done: Indexed,
    /// For tables whose columns the files do not name.
    present: Option<Arc<Present>>,
    report: &'a mut dyn FnMut(Report<'_>),
}

impl Run<'_> {
    fn file(&mut self, writer: &mut Writer, name: &FileName, candidate: &Candidate) -> Result<(), Error> {
        let store = |error: &trail::Error| store_error(&self.index.store, error);
        let start = start(writer, name, candidate)?;
        writer.start(start).map_err(|error| store(&error))?;
        let path = &candidate.path;
        let file = File::open(path).map_err(|error| Error::from_io(path.display(), &error))?;
        // A file that is still written is read up to its length when we looked.
        let input = BufReader::with_capacity(1 << 20, file.take(candidate.bytes));
        let mut reader = Reader::new(name.as_str(), input).map_err(|error| read_error(path, error))?;
        let mut decoder = Decoder::new(name.as_str()).with_present(self.present.clone());
        let mut reported = 0;
        while let Some((at, event)) = reader.next_event().map_err(|error| read_error(path, error))? {
            decoder
                .feed(
                    at,
                    &event,
                    &mut Counting {
                        writer: &mut *writer,
                        done: &mut self.done,
                    },
                )
                .map_err(|error| match error {
                    FeedError::Log(error) => nameless_hint(
                        log_error(path, &error),
                        &error.problem,
                        self.index.schema_from.is_some(),
                    ),
                    FeedError::Sink(error) => store(&error),
                })?;
            if at - reported >= REPORT_BYTES {
                reported = at;
                (self.report)(Report::Progress {
                    bytes: self.done.bytes + at,
                    bytes_all: self.bytes_all,
                });
            }
        }
        // A transaction without its end is not in the store, and neither is what may follow.
        if *decoder.end() == End::Open {
            self.done.unfinished.push(name.to_string());
        }
        self.done.files += 1;
        self.done.bytes += candidate.bytes;
        (self.report)(Report::Progress {
            bytes: self.done.bytes,
            bytes_all: self.bytes_all,
        });
        writer
            .sync()
            .map(|_| ())
            .map_err(|error| store_error(&self.index.store, &error))
    }
}

/// What to do about columns that the log does not name.
fn nameless_hint(told: Error, problem: &Problem, asked: bool) -> Error {
    match problem {
        Problem::NoNames { .. } if asked => told.hint(
            "the server of --schema-from does not have this table any more, or its user may not see it (GRANT SELECT)",
        ),
        Problem::NoNames { .. } => told.hint(
            "for logs that are written already, --schema-from URL takes the columns from the live server, as far as that is safe",
        ),
        Problem::DefinedLater { at, .. } => told.hint(format!(
            "index only the files after {}, or files written with binlog_row_metadata=FULL",
            at.file
        )),
        Problem::Altered { .. } => {
            told.hint("index only files written after the table was altered, or with binlog_row_metadata=FULL")
        }
        _ => told,
    }
}

/// What the store is told of a file. It goes on with what is there if the file before was read to its end, or if the GTIDs at the head
/// of this one show that nothing lies between.
fn start(writer: &mut Writer, name: &FileName, candidate: &Candidate) -> Result<Start, Error> {
    let engine = if candidate.format.is_mariadb() {
        "mariadb"
    } else {
        "mysql"
    };
    let version = candidate.format.server_version.clone();
    let resume = writer.resume();
    let source = match &resume {
        Some(resume) if resume.source.engine != engine => {
            let why = format!(
                "it is a log of {engine}, but the store holds one of {}",
                resume.source.engine
            );
            return Err(Error::new(Code::Refused, candidate.path.display(), why)
                .hint("use another --store for this server"));
        }
        Some(resume) => resume.source.clone(),
        None => Source {
            engine: engine.into(),
            version,
            server: String::new(),
            host: None,
        },
    };
    let at = LogPos {
        file: name.clone(),
        offset: 4,
    };
    let previous = candidate.previous.clone().unwrap_or_default();
    let mut reason = None;
    if let Some(resume) = &resume
        && resume.at != at
        && resume.at.file != *name
    {
        let follows =
            resume.at.file.is_followed_by(name) && !previous.is_empty() && resume.gtids.includes(&previous);
        if follows {
            // The file before may have been read by another process, and may have ended within a transaction.
            let end = Start {
                source: source.clone(),
                epoch: resume.epoch,
                at: resume.at.clone(),
                gtids_before: GtidSet::default(),
                reason: None,
            };
            writer
                .start(end)
                .and_then(|()| binlog::Sink::position(writer, &at))
                .map_err(|error| store_error(&candidate.path, &error))?;
        } else {
            reason = Some(format!(
                "{} was not read to an end that says {name} follows",
                resume.at.file
            ));
        }
    }
    Ok(Start {
        source,
        epoch: resume.map_or(0, |resume| resume.epoch),
        at,
        gtids_before: previous,
        reason,
    })
}
