//! `watch` and `index`: the engines, and what they say while they work.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use types::Code;

use super::{
    args,
    note::{line, note, raw},
    stop::Stop,
    verify::bar,
};
use crate::{
    error::{Error, Failure},
    exit::Exit,
    index::{self, Indexed, Report},
    options,
    render::{screen::Style, text::visible},
    source::{self, Notice},
};

/// `trail watch`: until a signal, or until it has caught up.
pub(super) fn watch(watch: &options::Watch) -> Result<Exit, Error> {
    let stop = Stop::listen()?;
    let mut notify = told;
    stop.run(|wanted| source::watch(watch, &mut notify, wanted))?;
    let status = super::open(&watch.store)?.status();
    if let Some(place) = status.position {
        let last = status
            .last_commit
            .map(|time| format!(", last commit {time}"))
            .unwrap_or_default();
        raw(&visible(&format!("stored up to {place}{last}")));
    }
    Ok(Exit::Done)
}

fn told(notice: Notice<'_>) {
    match notice {
        Notice::Following { source, from } => {
            let server = if source.server.is_empty() {
                String::new()
            } else {
                format!(", server {}", source.server)
            };
            let host = source.host.as_deref().unwrap_or("the source");
            let text = format!(
                "following {host} ({} {}{server}) from {from}",
                source.engine, source.version
            );
            raw(&visible(&text));
        }
        Notice::Stored { .. } => {}
        Notice::Warning(text) => line("warning", Style::Yellow, text),
        Notice::Gap(text) => line(
            "GAP",
            Style::Red,
            &format!("{text}; what happened in between is not in the store"),
        ),
        Notice::Waiting { why, pause } => {
            let why = match why {
                Error::Closed => String::from("the connection was closed"),
                Error::Failed(failure) => sentence(failure),
            };
            line(
                "waiting",
                Style::Yellow,
                &format!("{why}; trying again in {:.1} s", pause.as_secs_f64()),
            );
        }
    }
}

fn sentence(failure: &Failure) -> String {
    format!("{}: {}", failure.what, failure.why)
}

/// `trail index`.
pub(super) fn index(args: &args::Index, store: PathBuf) -> Result<Exit, Error> {
    let files = match &args.dir {
        Some(dir) => logs_in(dir)?,
        None => args.files.clone(),
    };
    let schema_from = match &args.schema_from {
        Some(url) => Some(super::source::server(url, &args.tls)?),
        None => None,
    };
    let options = options::Index {
        files,
        store,
        schema_from,
    };
    let bar = bar();
    let begin = Instant::now();
    let outcome = index::index(&options, &mut |report| match report {
        Report::Progress { bytes, bytes_all } => {
            bar.set_length(bytes_all);
            bar.set_position(bytes);
        }
        Report::Warning(text) => bar.suspend(|| line("warning", Style::Yellow, text)),
    });
    bar.finish_and_clear();
    let Indexed {
        files,
        bytes,
        changes,
        transactions,
        skipped_transactions,
        unfinished,
    } = outcome?;
    let seconds = begin.elapsed().as_secs_f64();
    raw(&format!(
        "indexed {files} file{}, {}: {changes} changes in {transactions} transactions, {seconds:.1} s",
        if files == 1 { "" } else { "s" },
        super::report::size(bytes)
    ));
    if skipped_transactions > 0 {
        note(&format!(
            "{skipped_transactions} transactions were in the store already and were passed over"
        ));
    }
    for file in unfinished {
        note(&format!(
            "{file} does not end with a word about the next file: it is still written, or its server crashed; index it again when it has grown"
        ));
    }
    Ok(Exit::Done)
}

/// The binary logs in a folder: files of one name that end with a number. Indexes, relay logs beside them and the like are no logs of
/// this kind; two kinds in one folder are not guessed between.
fn logs_in(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |error: &std::io::Error| Error::from_io(dir.display(), error);
    let mut files = Vec::new();
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir).map_err(|error| failed(&error))? {
        let path = entry.map_err(|error| failed(&error))?.path();
        let Some((base, number)) = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.rsplit_once('.'))
        else {
            continue;
        };
        if number.len() >= 6 && number.bytes().all(|b| b.is_ascii_digit()) && path.is_file() {
            names.insert(base.to_owned());
            files.push(path);
        }
    }
    match names.len() {
        0 => Err(Error::new(
            Code::Missing,
            dir.display(),
            "it holds no binary log, no file whose name ends with a number such as binlog.000001",
        )),
        1 => Ok(files),
        _ => Err(Error::new(
            Code::Invalid,
            dir.display(),
            format!(
                "it holds logs of several names: {}",
                names.into_iter().collect::<Vec<_>>().join(", ")
            ),
        )
        .hint("name the files instead, such as DIR/binlog.*[0-9]")),
    }
}
