//! Chosen changes become a plan. Nothing here, or anywhere in `trail`, runs it.

use std::{
    collections::BTreeSet,
    iter::{self, Peekable},
    sync::Arc,
    vec,
};

use binlog::{Change, Position, SchemaChange, Table};
use trail::{Filter, Order, Reader, TableFilter};
use undo::{Dialect, Mode, Plan, Planner};

use crate::question::{Choice, just_before};

/// Why there is no plan.
#[derive(Debug)]
pub enum Failed {
    /// The store cannot be read.
    Store(trail::Error),
    /// The planner refuses.
    Plan(undo::Error),
    /// None of the tables has the column that is said to set itself.
    NoSuchColumn(String),
}

impl From<trail::Error> for Failed {
    fn from(error: trail::Error) -> Self {
        Self::Store(error)
    }
}

impl From<undo::Error> for Failed {
    fn from(error: undo::Error) -> Self {
        Self::Plan(error)
    }
}

/// How a plan is to be made.
#[derive(Clone, Debug)]
pub struct Making<'a> {
    /// What to do about later changes.
    pub mode: Mode,
    /// Columns that the server sets by itself.
    pub auto_columns: &'a [String],
    /// History counts up to here and no further; none for all there is.
    pub until: Option<&'a Position>,
}

/// What is to be undone, in outline.
#[derive(Clone, Debug)]
pub struct Selection {
    /// The earliest chosen change.
    pub first: Position,
    /// The tables with chosen changes: schema and name.
    pub tables: BTreeSet<(String, String)>,
}

impl Selection {
    /// Goes through the chosen changes; none if nothing matches. Each is shown to `see`, which may end it.
    pub fn find<E: From<trail::Error>>(
        reader: &Reader,
        choice: &Choice,
        mut see: impl FnMut(&Change) -> Result<(), E>,
    ) -> Result<Option<Self>, E> {
        let mut selection: Option<Self> = None;
        for change in choice.find(reader)? {
            let change = change?;
            see(&change)?;
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

    /// How many changes the store holds of the affected tables; those before the first chosen one need not be read.
    pub fn history_at_most(&self, reader: &Reader) -> Result<u64, trail::Error> {
        let tables = reader.tables()?;
        let ours = tables
            .iter()
            .filter(|known| self.tables.contains(&(known.schema.clone(), known.table.clone())));
        Ok(ours
            .map(|known| known.inserts + known.updates + known.deletes)
            .sum())
    }

    /// The affected tables.
    pub fn table_filters(&self) -> Vec<TableFilter> {
        let tables = self.tables.iter().map(|(schema, table)| TableFilter {
            schema: schema.clone(),
            table: Some(table.clone()),
        });
        tables.collect()
    }

    /// All history of the affected tables from the first chosen change on.
    fn since_first(&self, until: Option<&Position>) -> Filter {
        Filter {
            tables: self.table_filters(),
            after: just_before(&self.first),
            before: until.map(just_after),
            order: Order::Oldest,
            ..Filter::default()
        }
    }

    /// The same for the judgement whether it was read without a gap: what lies before the first chosen change does not count.
    pub fn judged(&self, until: Option<&Position>) -> Filter {
        Filter {
            after: Some(self.first.clone()),
            ..self.since_first(until)
        }
    }
}

/// The least position after `position`.
pub fn just_after(position: &Position) -> Position {
    let mut after = position.clone();
    match position.ordinal.checked_add(1) {
        Some(ordinal) => after.ordinal = ordinal,
        None => {
            after.at.offset = position.at.offset.saturating_add(1);
            after.ordinal = 0;
        }
    }
    after
}

/// The newest definition of a table, of those that were in use up to `until`.
pub fn latest(reader: &Reader, schema: &str, table: &str, until: Option<&Position>) -> Option<Arc<Table>> {
    let versions = match until {
        Some(until) => reader.versions_until(schema, table, until),
        None => reader.versions(schema, table),
    };
    Some(versions.into_iter().next_back()?.1)
}

/// Whose SQL a store's scripts speak.
pub fn dialect(reader: &Reader) -> Dialect {
    let engine = reader.status().source.map(|source| source.engine);
    if engine.as_deref() == Some("mariadb") {
        Dialect::Mariadb
    } else {
        Dialect::Mysql
    }
}

/// Feeds the planner everything that happened to the affected tables, in the order of the log. `seen` is told of every change, and whether it
/// is chosen.
pub fn plan<E: From<Failed>>(
    reader: &Reader,
    choice: &Choice,
    selection: &Selection,
    making: &Making<'_>,
    mut seen: impl FnMut(&Change, bool) -> Result<(), E>,
) -> Result<Plan, E> {
    let failed = |error: trail::Error| E::from(Failed::Store(error));
    let planned = |error: undo::Error| E::from(Failed::Plan(error));
    let latest = |schema: &str, table: &str| latest(reader, schema, table, making.until);
    let mut planner = Planner::new(dialect(reader), making.mode);
    auto_columns(&mut planner, selection, &latest, making.auto_columns)?;
    let history = selection.since_first(making.until);
    let mut feed = Feed {
        planner,
        statements: reader
            .schema_changes(&history)
            .map_err(failed)?
            .into_iter()
            .peekable(),
        gaps: reader.coverage_of(&history).gaps.into_iter().peekable(),
    };
    let mut chosen = Chosen {
        changes: choice.find(reader).map_err(failed)?.peekable(),
    };
    for change in reader.find(&history).map_err(failed)? {
        let change = change.map_err(failed)?;
        feed.up_to(Some(&change.position)).map_err(planned)?;
        let selected = chosen.contains(&change.position).map_err(failed)?;
        seen(&change, selected)?;
        feed.planner.change(&change, selected).map_err(planned)?;
    }
    feed.up_to(None).map_err(planned)?;
    feed.planner.finish(&latest).map_err(planned)
}

/// Shows everything that happened to the affected tables, in the order of the log, and whether it is chosen. `see` may end it.
pub fn history<E: From<trail::Error>>(
    reader: &Reader,
    choice: &Choice,
    selection: &Selection,
    until: Option<&Position>,
    mut see: impl FnMut(&Change, bool) -> Result<(), E>,
) -> Result<(), E> {
    let mut chosen = Chosen {
        changes: choice.find(reader)?.peekable(),
    };
    for change in reader.find(&selection.since_first(until))? {
        let change = change?;
        let selected = chosen.contains(&change.position)?;
        see(&change, selected)?;
    }
    Ok(())
}

/// Tells the planner which columns of which tables the server sets by itself. A name that fits no table is a slip of the pen.
fn auto_columns(
    planner: &mut Planner,
    selection: &Selection,
    latest: &dyn Fn(&str, &str) -> Option<Arc<Table>>,
    names: &[String],
) -> Result<(), Failed> {
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
        Some(name) => Err(Failed::NoSuchColumn((*name).to_owned())),
    }
}

/// The chosen changes, walked beside all of them.
struct Chosen<I: Iterator<Item = Result<Change, trail::Error>>> {
    changes: iter::Peekable<I>,
}

impl<I: Iterator<Item = Result<Change, trail::Error>>> Chosen<I> {
    /// Whether the change at `position` is one. Positions must come in the order of the log.
    fn contains(&mut self, position: &Position) -> Result<bool, trail::Error> {
        match self.changes.next_if(|change| {
            change
                .as_ref()
                .map_or(true, |change| change.position == *position)
        }) {
            None => Ok(false),
            Some(change) => change.map(|_| true),
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
    fn up_to(&mut self, position: Option<&Position>) -> Result<(), undo::Error> {
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
                self.planner.schema_change(&change)?;
            } else {
                return Ok(());
            }
        }
    }
}
