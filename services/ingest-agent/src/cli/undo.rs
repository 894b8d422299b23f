//! `undo`: chosen changes become a plan, the plan becomes a script. Nothing here, or anywhere in `trail`, runs it.

use std::{
    collections::BTreeSet,
    io::{self, BufWriter, Write},
    iter::Peekable,
    path::{Path, PathBuf},
    sync::Arc,
    vec,
};

use binlog::{Position, SchemaChange, Statement, Table};
use trail::{Changes, Filter, Order, Reader, TableFilter};
use types::Code;
use undo::{Dialect, Mode, Plan, Planner};

use super::{
    args::{self, ModeName},
    cover,
    files::NewFile,
    list::store_fault,
    note,
    question::Question,
    undo_summary::{self, Latest},
    verify::bar_of_changes,
};
use crate::{error::Error, exit::Exit, render::text::one_line};

/// `trail undo`.
pub(super) fn undo(store: &Path, args: &args::Undo) -> Result<Exit, Error> {
    is_bounded(args)?;
    let outputs = Outputs::create(args)?;
    let reader = super::open(store)?;
    let question = Question {
        tables: &args.tables,
        keys: &args.rows.keys,
        filters: &args.filters,
        transaction: args.txn.as_ref(),
    };
    let filter = Filter {
        order: Order::Oldest,
        ..question.filter(&reader)?
    };
    let Some(selection) = Selection::find(&reader, &filter)? else {
        return nothing(&reader, &filter);
    };
    let latest =
        |schema: &str, table: &str| -> Option<Arc<Table>> { Some(reader.versions(schema, table).pop()?.1) };
    let plan = plan(&reader, &filter, &selection, &latest, args)?;
    outputs.write(&plan)?;
    undo_summary::tell(&plan, &reader.status(), &selection.tables, &latest, args);
    // What was chosen must be whole, and so must what came after it, for it is what the plan protects.
    let later = reader.coverage_of(&selection.judged());
    let mut chosen = reader.coverage_of(&filter);
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
fn is_bounded(args: &args::Undo) -> Result<(), Error> {
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

/// What is to be undone, in outline.
struct Selection {
    first: Position,
    tables: BTreeSet<(String, String)>,
}

impl Selection {
    /// How many changes the store holds of the affected tables; those before the first chosen one need not be read.
    fn history_at_most(&self, reader: &Reader) -> Result<u64, Error> {
        let tables = reader.tables().map_err(|error| store_fault(&error))?;
        let ours = tables
            .iter()
            .filter(|known| self.tables.contains(&(known.schema.clone(), known.table.clone())));
        Ok(ours
            .map(|known| known.inserts + known.updates + known.deletes)
            .sum())
    }

    /// None if nothing matches.
    fn find(reader: &Reader, filter: &Filter) -> Result<Option<Self>, Error> {
        let mut selection: Option<Self> = None;
        for change in reader.find(filter).map_err(|error| store_fault(&error))? {
            let change = change.map_err(|error| store_fault(&error))?;
            let selection = selection.get_or_insert_with(|| Self {
                first: change.position.clone(),
                tables: BTreeSet::new(),
            });
            let known = selection
                .tables
                .iter()
                .any(|(schema, table)| *schema == change.table.schema && *table == change.table.name);
            if !known {
                selection
                    .tables
                    .insert((change.table.schema.clone(), change.table.name.clone()));
            }
        }
        Ok(selection)
    }

    /// All history of the affected tables from the first chosen change to the present.
    fn since_first(&self) -> Filter {
        let tables = self.tables.iter().map(|(schema, table)| TableFilter {
            schema: schema.clone(),
            table: Some(table.clone()),
        });
        Filter {
            tables: tables.collect(),
            after: Some(just_before(&self.first)),
            order: Order::Oldest,
            ..Filter::default()
        }
    }

    /// The same for the judgement whether it was read without a gap: what lies before the first chosen change does not count.
    fn judged(&self) -> Filter {
        Filter {
            after: Some(self.first.clone()),
            ..self.since_first()
        }
    }
}

/// The greatest position before `position` that a filter can name.
fn just_before(position: &Position) -> Position {
    let mut before = position.clone();
    if position.ordinal > 0 {
        before.ordinal -= 1;
    } else {
        before.at.offset = before.at.offset.saturating_sub(1);
        before.ordinal = u64::MAX;
    }
    before
}

/// Feeds the planner everything that happened to the affected tables, in the order of the log.
fn plan(
    reader: &Reader,
    filter: &Filter,
    selection: &Selection,
    latest: Latest<'_>,
    args: &args::Undo,
) -> Result<Plan, Error> {
    let engine = reader.status().source.map(|source| source.engine);
    let dialect = if engine.as_deref() == Some("mariadb") {
        Dialect::Mariadb
    } else {
        Dialect::Mysql
    };
    let mode = match args.mode {
        ModeName::Safe => Mode::Safe,
        ModeName::Force => Mode::Force,
    };
    let mut planner = Planner::new(dialect, mode);
    auto_columns(&mut planner, selection, latest, &args.auto_columns)?;
    let history = selection.since_first();
    let statements = reader
        .schema_changes(&history)
        .map_err(|error| store_fault(&error))?;
    let gaps = reader.coverage_of(&history).gaps;
    let mut feed = Feed {
        planner,
        statements: statements.into_iter().peekable(),
        gaps: gaps.into_iter().peekable(),
    };
    let chosen = reader.find(filter).map_err(|error| store_fault(&error))?;
    let mut chosen = Chosen {
        changes: chosen.peekable(),
    };
    let bar = bar_of_changes(selection.history_at_most(reader)?);
    for change in reader.find(&history).map_err(|error| store_fault(&error))? {
        let change = change.map_err(|error| store_fault(&error))?;
        bar.inc(1);
        feed.up_to(Some(&change.position))?;
        let selected = chosen.contains(&change.position)?;
        feed.planner
            .change(&change, selected)
            .map_err(|error| plan_fault(&error))?;
    }
    bar.finish_and_clear();
    feed.up_to(None)?;
    feed.planner.finish(latest).map_err(|error| plan_fault(&error))
}

fn plan_fault(error: &undo::Error) -> Error {
    Error::from_fault("the plan", error)
}

/// Tells the planner which columns of which tables the server sets by itself. A name that fits no table is a slip of the pen.
fn auto_columns(
    planner: &mut Planner,
    selection: &Selection,
    latest: Latest<'_>,
    names: &[String],
) -> Result<(), Error> {
    let mut unused: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    for (schema, table) in &selection.tables {
        let Some(known) = latest(schema, table) else {
            continue;
        };
        let named =
            |column: &binlog::Column| names.iter().any(|name| name.eq_ignore_ascii_case(&column.name));
        let here: Vec<&str> = known
            .columns
            .iter()
            .filter(|column| column.on_update == Some(true) || named(column))
            .map(|column| column.name.as_str())
            .collect();
        unused.retain(|name| known.column(name).is_none());
        if !here.is_empty() {
            planner.self_updating(schema, table, &here);
        }
    }
    match unused.first() {
        None => Ok(()),
        Some(name) => Err(Error::new(
            Code::Invalid,
            "--auto-column",
            format!("none of the tables to be undone has a column {name}"),
        )
        .hint("trail schema SCHEMA.TABLE lists a table's columns")),
    }
}

/// The chosen changes, walked beside all of them.
struct Chosen {
    changes: Peekable<Changes>,
}

impl Chosen {
    /// Whether the change at `position` is one. Positions must come in the order of the log.
    fn contains(&mut self, position: &Position) -> Result<bool, Error> {
        match self.changes.next_if(|change| {
            change
                .as_ref()
                .map_or(true, |change| change.position == *position)
        }) {
            None => Ok(false),
            Some(change) => change.map(|_| true).map_err(|error| store_fault(&error)),
        }
    }
}

/// The planner, and what else it has to be told in order.
struct Feed {
    planner: Planner,
    statements: Peekable<vec::IntoIter<SchemaChange>>,
    gaps: Peekable<vec::IntoIter<trail::Gap>>,
}

impl Feed {
    /// Tells everything that stands before `position`, or all that is left.
    fn up_to(&mut self, position: Option<&Position>) -> Result<(), Error> {
        loop {
            let gap_at = self
                .gaps
                .peek()
                .map(|gap| (gap.before.epoch, gap.before.at.clone()));
            let is_due =
                |at: &(u32, binlog::LogPos)| position.is_none_or(|next| *at <= (next.epoch, next.at.clone()));
            let statement_at = self.statements.peek().map(|change| change.position.clone());
            let statement_is_due = statement_at
                .as_ref()
                .is_some_and(|at| position.is_none_or(|next| at < next));
            let gap_first = match (&gap_at, &statement_at) {
                (Some(gap), Some(statement)) if statement_is_due => {
                    *gap <= (statement.epoch, statement.at.clone())
                }
                (Some(gap), _) => is_due(gap),
                (None, _) => false,
            };
            if gap_first && let Some(gap) = self.gaps.next() {
                let at = Position {
                    epoch: gap.after.epoch,
                    at: gap.after.at,
                    ordinal: 0,
                };
                self.planner.gap(undo::Gap {
                    at,
                    table: None,
                    reason: gap.reason,
                });
            } else if statement_is_due && let Some(change) = self.statements.next() {
                self.planner
                    .schema_change(&change)
                    .map_err(|error| plan_fault(&error))?;
            } else {
                return Ok(());
            }
        }
    }
}

/// Where the scripts go.
struct Outputs {
    script: Option<NewFile>,
    redo: Option<NewFile>,
}

impl Outputs {
    fn create(args: &args::Undo) -> Result<Self, Error> {
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
    fn write(mut self, plan: &Plan) -> Result<(), Error> {
        if let Some(redo) = &mut self.redo {
            redo.write(|out| plan.write_redo(out))?;
        }
        match &mut self.script {
            Some(script) => script.write(|out| plan.write_script(out))?,
            None => {
                let mut out = BufWriter::new(io::stdout());
                plan.write_script(&mut out)
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
