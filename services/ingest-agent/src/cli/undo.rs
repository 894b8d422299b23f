//! `undo`: chosen changes become a plan, the plan becomes a script. Nothing here, or anywhere in `trail`, runs it.

use std::{
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use answer::undo::{Failed, Making, Selection, latest, plan};
use binlog::{SchemaChange, Statement};
use trail::{Filter, Reader};
use types::Code;
use undo::Mode;

use super::{
    args::{self, ModeName},
    cover,
    files::NewFile,
    list::store_fault,
    note,
    question::question,
    undo_summary,
    verify::bar_of_changes,
};
use crate::{error::Error, exit::Exit, render::text::one_line};

/// `trail undo`.
pub(super) fn undo(store: &Path, args: &args::Undo) -> Result<Exit, Error> {
    is_bounded(args)?;
    let outputs = Outputs::create(args)?;
    let reader = super::open(store)?;
    let question = question(&args.tables, &args.rows.keys, &args.filters, args.txn.as_ref());
    let choice = question.choice(&reader)?;
    let filter = &choice.filter;
    let Some(selection) = Selection::find(&reader, &choice, |_| Ok::<(), Failed>(()))? else {
        return nothing(&reader, filter);
    };
    let making = Making {
        mode: match args.mode {
            ModeName::Safe => Mode::Safe,
            ModeName::Force => Mode::Force,
        },
        auto_columns: &args.auto_columns,
        until: None,
    };
    let bar = bar_of_changes(
        selection
            .history_at_most(&reader)
            .map_err(|error| store_fault(&error))?,
    );
    let plan = plan(&reader, &choice, &selection, &making, |_, _| {
        bar.inc(1);
        Ok::<(), Failed>(())
    })?;
    bar.finish_and_clear();
    outputs.write(|out| plan.write_script(out), |out| plan.write_redo(out))?;
    let latest = |schema: &str, table: &str| latest(&reader, schema, table, None);
    undo_summary::tell(&plan, &reader.status(), &selection.tables, &latest, args);
    // What was chosen must be whole, and so must what came after it, for it is what the plan protects.
    let later = reader.coverage_of(&selection.judged(None));
    let mut chosen = reader.coverage_of(filter);
    if filter.gtid.is_some() || filter.transaction.is_some() {
        // A transaction is stored whole or not at all.
        chosen = reader.coverage_of(&Filter {
            transaction: Some(selection.first.at.clone()),
            epoch: Some(selection.first.epoch),
            ..Filter::default()
        });
    }
    Ok(if chosen.complete {
        cover::tell(&reader, &later)
    } else {
        cover::tell(&reader, &chosen)
    })
}

/// Nothing was chosen. If that is because a statement removed rows without logging them, its name is what the person looks for.
fn nothing(reader: &Reader, filter: &Filter) -> Result<Exit, Error> {
    let exit = cover::tell(reader, &reader.coverage_of(filter));
    note::note("no change matches, so there is nothing to undo; no script was written");
    let rows = filter.ops.is_empty() && filter.column.is_none();
    let statements = reader
        .schema_changes(filter)
        .map_err(|error| store_fault(&error))?;
    let emptied = |change: &SchemaChange| {
        change
            .targets
            .iter()
            .any(|target| matches!(target.kind, Statement::Truncate | Statement::Drop))
    };
    for change in statements.iter().filter(|change| rows && emptied(change)) {
        note::note(&format!(
            "{} at {} ({}) logged no rows and cannot be undone from the log: restore a backup up to that place, then go on from there",
            one_line(&change.text),
            change.position.at,
            change.commit_time
        ));
    }
    Ok(if exit == Exit::Done { Exit::Failed } else { exit })
}

/// Refuses to undo the whole store by an oversight.
pub(super) fn is_bounded(args: &args::Undo) -> Result<(), Error> {
    let filters = &args.filters;
    let bounded = !args.tables.is_empty()
        || !args.rows.keys.is_empty()
        || args.txn.is_some()
        || filters.gtid.is_some()
        || filters.since.is_some()
        || filters.until.is_some();
    if bounded {
        return Ok(());
    }
    Err(Error::new(
        Code::Invalid,
        "undo",
        "without a filter it would undo everything the store holds",
    )
    .hint("name a transaction (--txn), a table, a row (--key) or a time (--since, --until)"))
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Store(error) => store_fault(&error),
            Failed::Plan(error) => Self::from_fault("the plan", &error),
            Failed::NoSuchColumn(name) => Self::new(
                Code::Invalid,
                "--auto-column",
                format!("none of the tables to be undone has a column {name}"),
            )
            .hint("trail schema SCHEMA.TABLE lists a table's columns"),
        }
    }
}

/// Where the scripts go.
pub(super) struct Outputs {
    script: Option<NewFile>,
    redo: Option<NewFile>,
}

impl Outputs {
    pub(super) fn create(args: &args::Undo) -> Result<Self, Error> {
        let file = |path: &Option<PathBuf>| {
            let path = path.as_deref().filter(|path| *path != Path::new("-"));
            path.map(|path| NewFile::create(path, args.overwrite)).transpose()
        };
        if args.redo.is_some() && args.redo == args.output {
            return Err(Error::new(
                Code::Invalid,
                "--redo",
                "it names the same file as --output",
            ));
        }
        if args.redo.as_deref() == Some(Path::new("-")) {
            return Err(Error::new(
                Code::Invalid,
                "--redo",
                "it must be a file: standard output is for the script",
            ));
        }
        Ok(Self {
            script: file(&args.output)?,
            redo: file(&args.redo)?,
        })
    }

    /// Both files appear together, or neither.
    pub(super) fn write(
        mut self,
        script: impl FnOnce(&mut dyn Write) -> io::Result<()>,
        redo: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Error> {
        if let Some(file) = &mut self.redo {
            file.write(redo)?;
        }
        match &mut self.script {
            Some(file) => file.write(script)?,
            None => {
                let mut out = BufWriter::new(io::stdout());
                script(&mut out)
                    .and_then(|()| out.flush())
                    .map_err(|error| Error::from_output(&error))?;
            }
        }
        for file in [self.redo, self.script].into_iter().flatten() {
            file.publish()?;
        }
        Ok(())
    }
}
