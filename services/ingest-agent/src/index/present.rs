//! `--schema-from`: a live server's definitions for files that do not name columns, and how far they can be trusted.
//!
//! Every given file is read once for statements that define a table anew before anything is decoded; rows before such a statement are
//! refused. What the server logged after the given files, or between them, nobody looked at; that is told as a warning.

use std::{collections::BTreeMap, fs::File, io::BufReader, io::Read, sync::Arc};

use binlog::{
    FileName, LogPos, Present, Problem, Survey,
    file::{ReadError, Reader},
};
use tokio::runtime::Builder;
use types::Code;

use super::{Candidate, Report, read_error};
use crate::{
    error::Error,
    options::Server,
    source::{self, Catalogue},
};

type Candidates = BTreeMap<FileName, Candidate>;

/// The present definitions of the tables whose columns the files do not name; none if they name all.
pub(super) fn present(
    server: &Server,
    candidates: &Candidates,
    report: &mut dyn FnMut(Report<'_>),
) -> Result<Option<Arc<Present>>, Error> {
    let mut survey = Survey::default();
    for (name, candidate) in candidates {
        read(&mut survey, name, candidate, candidate.bytes)?;
    }
    if survey.nameless().next().is_none() {
        return Ok(None);
    }
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::from_io("the runtime", &error))?;
    let catalogue = runtime.block_on(source::definitions(server, survey.nameless()))?;
    same_engine(&catalogue, candidates)?;
    // The definitions were asked before the logs: what the last file holds up to the length told since is all that can matter.
    if let (Some((name, last)), Some(end)) = (candidates.last_key_value(), catalogue.logs.last())
        && *name == end.file
        && last.bytes < end.offset
    {
        read(&mut survey, name, last, end.offset)?;
    }
    for warning in unseen(&catalogue, candidates) {
        report(Report::Warning(&warning));
    }
    Ok(Some(Arc::new(Present::new(survey, catalogue.definitions))))
}

/// Looks through the first `length` bytes of a file. One that is cut ends there; that is told when it is decoded.
fn read(survey: &mut Survey, name: &FileName, candidate: &Candidate, length: u64) -> Result<(), Error> {
    let path = &candidate.path;
    let file = File::open(path).map_err(|error| Error::from_io(path.display(), &error))?;
    let input = BufReader::with_capacity(1 << 20, file.take(length));
    let mut reader = Reader::new(name.as_str(), input).map_err(|error| read_error(path, error))?;
    loop {
        match reader.next_event() {
            Ok(Some((offset, event))) => {
                let at = LogPos {
                    file: name.clone(),
                    offset,
                };
                survey
                    .event(&at, &event)
                    .map_err(|error| read_error(path, error.into()))?;
            }
            Ok(None) => return Ok(()),
            Err(ReadError::Log(error)) if matches!(error.problem, Problem::Cut { .. }) => return Ok(()),
            Err(error) => return Err(read_error(path, error)),
        }
    }
}

fn same_engine(catalogue: &Catalogue, candidates: &Candidates) -> Result<(), Error> {
    let name = |is_mariadb| if is_mariadb { "MariaDB" } else { "MySQL" };
    match candidates
        .values()
        .find(|candidate| candidate.format.is_mariadb() != catalogue.is_mariadb)
    {
        Some(other) => Err(Error::new(
            Code::Refused,
            other.path.display(),
            format!(
                "it is a log of {}, but {} is {}",
                name(other.format.is_mariadb()),
                catalogue.what,
                name(catalogue.is_mariadb)
            ),
        )
        .hint("--schema-from must name the server that wrote the files")),
        None => Ok(()),
    }
}

/// What stands between the rows and the definitions that nobody looked at, in sentences.
fn unseen(catalogue: &Catalogue, candidates: &Candidates) -> Vec<String> {
    let Catalogue { what, logs, .. } = catalogue;
    let as_of_now =
        "the definitions are those of now, and a table altered there unseen would be read wrongly";
    let (Some((last, last_file)), Some(end)) = (candidates.last_key_value(), logs.last()) else {
        return vec![format!(
            "{what} writes no binary log now, so nobody knows what happened since; {as_of_now}"
        )];
    };
    let mut warnings = Vec::new();
    for (before, after) in candidates.keys().zip(candidates.keys().skip(1)) {
        if !before.is_followed_by(after) {
            warnings.push(format!(
                "the logs between {before} and {after} were not looked at; {as_of_now}"
            ));
        }
    }
    if !logs.iter().any(|log| candidates.contains_key(&log.file)) {
        warnings.push(format!(
            "none of the given files is among the logs of {what}: they are another server's, or it has purged them"
        ));
    }
    for log in logs {
        if let Some(given) = candidates.get(&log.file)
            && (given.bytes > log.offset || given.bytes < log.offset && log.file != end.file)
        {
            warnings.push(format!(
                "{} has {} bytes here and {} on {what}: it is not whole, or another server's",
                log.file, given.bytes, log.offset
            ));
        }
    }
    let here = File::open(&last_file.path)
        .and_then(|file| file.metadata())
        .map_or(last_file.bytes, |now| now.len());
    if end.file > *last || end.file == *last && here < end.offset {
        warnings.push(format!(
            "the log of {what} goes on to {end}, and what follows {last}:{} was not looked at; {as_of_now}",
            last_file.bytes
        ));
    }
    warnings
}
