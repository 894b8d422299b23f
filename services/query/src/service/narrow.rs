//! What of a question is put to the source. A question by something that the caller does not see is refused: what it counts, finds or leaves
//! out would tell about it.

use proto::{
    agent::v1::{TableColumns, TablesResponse},
    change::v1::{Filter, TableFilter, TableSummary},
};

use super::{error::Error, inquiry::Inquiry};
use crate::redact::Sight;

/// Tables in one filter.
const TABLES: usize = 64;

/// Keys in one filter.
const KEYS: usize = 1_000;

/// Tables in one filter that an agent is asked by.
const ASKED: usize = 10_000;

/// Positions in one filter.
const POSITIONS: usize = 10_000;

/// What is asked in place of a question.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Narrowed {
    /// Filters for tables that the caller sees; together they ask for everything that they may be told. None: there is nothing to ask for.
    pub(super) filters: Vec<Filter>,
    /// How many tables within the question's reach are hidden from the caller.
    pub(super) hidden: u32,
}

impl Narrowed {
    /// The one filter that asks for everything. Of more tables than one filter has room for, all changes are asked for, and sieved here.
    pub(super) fn one(self, asked: &Filter) -> Option<Filter> {
        let mut filters = self.filters;
        match filters.len() {
            0 => None,
            1 => filters.pop(),
            _ => Some(asked.clone()),
        }
    }
}

/// Refuses more of something than a question may have.
pub(super) fn bounded(filter: &Filter) -> Result<(), Error> {
    let bound = |count: usize, most: usize, field: &'static str, problem: &'static str| {
        if count > most {
            return Err(Error::filter(field, problem));
        }
        Ok(())
    };
    bound(
        filter.tables.len(),
        TABLES,
        "filter.tables",
        "more than 64 tables",
    )?;
    bound(filter.keys.len(), KEYS, "filter.keys", "more than 1,000 keys")?;
    bound(
        filter.positions.len(),
        POSITIONS,
        "filter.positions",
        "more than 10,000 positions",
    )?;
    if filter.tables.iter().any(|table| table.schema.is_empty()) {
        return Err(Error::filter("filter.tables", "a table needs its schema"));
    }
    let one = matches!(filter.tables.as_slice(), [table] if !table.table.is_empty());
    if !filter.keys.is_empty() && !one {
        return Err(Error::filter("filter.keys", "keys need exactly one table"));
    }
    Ok(())
}

/// Refuses what a caller names and does not see: a table, a column, a key with one.
pub(super) async fn permit(inquiry: &mut Inquiry, filter: &Filter) -> Result<(), Error> {
    bounded(filter)?;
    if !inquiry.restricted() {
        return Ok(());
    }
    // By the names that they have, before anybody is asked; then by all that they had.
    named(&inquiry.sight, filter)?;
    inquiry.learn().await?;
    named(&inquiry.sight, filter)?;
    let Some(table) = keyed(filter) else {
        return Ok(());
    };
    let held = inquiry.tables().await?;
    by_key(&inquiry.sight, &held, table)
}

/// The same once more of a question whose answer has come, with what is known by then: an answer about what is hidden now is none, not even one that
/// has nothing in it.
pub(super) fn permit_as_of(sight: &Sight, held: &TablesResponse, filter: &Filter) -> Result<(), Error> {
    named(sight, filter)?;
    keyed(filter).map_or(Ok(()), |table| by_key(sight, held, table))
}

/// The table of a question by keys.
fn keyed(filter: &Filter) -> Option<&TableFilter> {
    match (filter.tables.as_slice(), filter.keys.is_empty()) {
        ([table], false) => Some(table),
        _ => None,
    }
}

fn named(sight: &Sight, filter: &Filter) -> Result<(), Error> {
    for table in &filter.tables {
        let view = sight.table(&table.schema, &table.table);
        if view.is_hidden() {
            return Err(Error::TableDenied);
        }
        if !table.table.is_empty() && !filter.column.is_empty() && !view.shows(&filter.column) {
            return Err(Error::ColumnDenied);
        }
    }
    Ok(())
}

/// Refuses a question by the keys of a table of which the caller does not see a column that is or once was part of its key, also where it is not
/// known which these are.
fn by_key(sight: &Sight, held: &TablesResponse, table: &TableFilter) -> Result<(), Error> {
    let view = sight.table(&table.schema, &table.table);
    if view.is_whole() {
        return Ok(());
    }
    // By names as a server compares them that ignores their case.
    let same = |one: &str, other: &str| one.to_lowercase() == other.to_lowercase();
    let is = |held: &&TableColumns| same(&held.schema, &table.schema) && same(&held.table, &table.table);
    let mut known = held.keys.iter().filter(is).peekable();
    let sees_all = |held: &TableColumns| held.columns.iter().all(|column| view.shows(column));
    if known.peek().is_none() || !known.all(sees_all) {
        return Err(Error::ColumnDenied);
    }
    Ok(())
}

/// What to ask for in place of `filter`. What is named was permitted before.
pub(super) async fn narrow(inquiry: &mut Inquiry, filter: &Filter) -> Result<Narrowed, Error> {
    permit(inquiry, filter).await?;
    let named = !filter.tables.is_empty() && filter.tables.iter().all(|table| !table.table.is_empty());
    if !inquiry.restricted() || named {
        return Ok(Narrowed {
            filters: vec![filter.clone()],
            hidden: 0,
        });
    }
    let held = inquiry.tables().await?;
    let (mut seen, mut hidden): (Vec<TableFilter>, u32) = (Vec::new(), 0);
    for held in held.tables.iter().filter(|held| reaches(filter, held)) {
        let view = inquiry.sight.table(&held.schema, &held.table);
        if view.is_hidden() {
            hidden = hidden.saturating_add(1);
            continue;
        }
        if !filter.column.is_empty() && !view.shows(&filter.column) {
            let column = filter.column.to_lowercase();
            if held.columns.iter().any(|name| name.to_lowercase() == column) {
                return Err(Error::ColumnDenied);
            }
            continue;
        }
        seen.push(TableFilter {
            schema: held.schema.clone(),
            table: held.table.clone(),
        });
    }
    let of = |tables: &[TableFilter]| Filter {
        tables: tables.to_vec(),
        ..filter.clone()
    };
    Ok(Narrowed {
        filters: seen.chunks(ASKED).map(of).collect(),
        hidden,
    })
}

/// Whether a question is about a table too.
fn reaches(filter: &Filter, held: &TableSummary) -> bool {
    let is = |asked: &TableFilter| {
        asked.schema == held.schema && (asked.table.is_empty() || asked.table == held.table)
    };
    filter.tables.is_empty() || filter.tables.iter().any(is)
}
