//! Filters made into [`trail::Filter`], held against what the store knows.

use std::{
    collections::{BTreeSet, HashSet},
    fmt,
};

use binlog::{Change, Gtid, KeyError, Op, Position, RowKey};
use trail::{Filter, Reader, TableFilter};
use types::Micros;

use crate::names::{Tables, Transaction};

/// So many tables are looked for one by one; of more, all that there are are listed first.
const FEW: usize = 16;

/// What is asked for, before the store is looked at.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// Of these tables; all if empty.
    pub tables: Vec<Tables>,
    /// Of the rows with these keys, as people write them; all if empty.
    pub keys: Vec<String>,
    /// Of these kinds; all if empty.
    pub ops: Vec<Op>,
    /// Committed at this time or later.
    pub since: Option<Micros>,
    /// Committed at this time or earlier.
    pub until: Option<Micros>,
    /// Of this transaction.
    pub gtid: Option<Gtid>,
    /// Updates that changed this column.
    pub column: Option<String>,
    /// Of this transaction, by GTID or place.
    pub transaction: Option<Transaction>,
    /// Of this timeline.
    pub epoch: Option<u32>,
    /// Only these; all if empty.
    pub positions: BTreeSet<Position>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Refused {
    /// Something is wrong with the question.
    Wrong(Box<Wrong>),
    /// The store cannot tell.
    Store(trail::Error),
}

/// What is wrong with a question.
#[derive(Debug)]
pub enum Wrong {
    /// Nothing can be committed in a time that ends before it begins.
    Times {
        /// Its beginning.
        since: Micros,
        /// Its end.
        until: Micros,
    },
    /// The GTID is of another transaction than the one that is asked for.
    OtherTransaction,
    /// Keys without the one table that they are of.
    KeyOfNoTable,
    /// A key that no definition of its table can have.
    Key {
        /// Its table.
        table: Tables,
        /// As it was written.
        text: String,
        /// Why.
        error: KeyError,
    },
    /// None of the tables ever had the column.
    NoColumn {
        /// Its name.
        column: String,
        /// The tables.
        tables: Vec<Tables>,
        /// The columns that they had.
        known: Vec<String>,
    },
    /// The store has never seen the table.
    NoTable {
        /// It.
        table: Tables,
        /// One that the store has seen and whose name is much like it.
        nearest: Option<String>,
    },
}

impl Wrong {
    /// The field of `trailmesh.change.v1.Filter`.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Times { .. } => "since",
            Self::OtherTransaction => "gtid",
            Self::KeyOfNoTable | Self::Key { .. } => "keys",
            Self::NoColumn { .. } => "column",
            Self::NoTable { .. } => "tables",
        }
    }

    /// What it is about: a field, or what stands in it.
    pub fn what(&self) -> String {
        match self {
            Self::Key { text, .. } => format!("the key {text}"),
            Self::NoTable { table, .. } => table.to_string(),
            _ => self.field().to_owned(),
        }
    }

    /// The reason. It does not tell what the store holds.
    pub fn why(&self) -> String {
        match self {
            Self::Times { since, until } => {
                format!("{since} is after the end, {until}, so nothing can match")
            }
            Self::OtherTransaction => "it names another transaction than the one asked for".to_owned(),
            Self::KeyOfNoTable => "a key belongs to one table".to_owned(),
            Self::Key { error, .. } => error.to_string(),
            Self::NoColumn { column, tables, .. } => {
                let tables: Vec<String> = tables.iter().map(ToString::to_string).collect();
                format!("there is no column {column} in {}", tables.join(", "))
            }
            Self::NoTable { .. } => "the store holds no change of it".to_owned(),
        }
    }
}

impl From<trail::Error> for Refused {
    fn from(error: trail::Error) -> Self {
        Self::Store(error)
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what(), self.why())
    }
}

fn wrong<T>(wrong: Wrong) -> Result<T, Refused> {
    Err(Refused::Wrong(Box::new(wrong)))
}

/// Which changes: what the store finds by itself, and of that perhaps only some.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// What the store finds. Its limit counts before `only`.
    pub filter: Filter,
    /// Only these; all if empty.
    pub only: BTreeSet<Position>,
}

impl Choice {
    /// The chosen changes, in the filter's order.
    pub fn find(
        &self,
        reader: &Reader,
    ) -> Result<impl Iterator<Item = Result<Change, trail::Error>> + use<>, trail::Error> {
        let only = self.only.clone();
        Ok(reader.find(&self.filter)?.filter(move |change| {
            only.is_empty()
                || change
                    .as_ref()
                    .map_or(true, |change| only.contains(&change.position))
        }))
    }
}

impl Question {
    /// The filter, in the order of the log and without a limit, and which of its changes count. Everything that can be wrong is told here.
    pub fn choice(&self, reader: &Reader) -> Result<Choice, Refused> {
        let mut filter = self.filter(reader)?;
        if let (Some(first), Some(last)) = (self.positions.first(), self.positions.last()) {
            filter.after = just_before(first);
            filter.before = Some(Position {
                ordinal: last.ordinal.saturating_add(1),
                ..last.clone()
            });
        }
        Ok(Choice {
            filter,
            only: self.positions.clone(),
        })
    }

    /// The same without regard to single positions.
    pub fn filter(&self, reader: &Reader) -> Result<Filter, Refused> {
        if let (Some(since), Some(until)) = (self.since, self.until)
            && since > until
        {
            return wrong(Wrong::Times { since, until });
        }
        let known: HashSet<(String, String)> = if self.tables.len() > FEW {
            let all = reader.tables()?.into_iter();
            all.map(|summary| (summary.schema, summary.table)).collect()
        } else {
            HashSet::new()
        };
        let is_known = |named: &Tables| {
            let name = named
                .table
                .as_ref()
                .map(|table| (named.schema.clone(), table.clone()));
            name.is_some_and(|name| known.contains(&name))
        };
        for table in self.tables.iter().filter(|named| !is_known(named)) {
            exists(reader, table)?;
        }
        if let Some(column) = &self.column {
            self.column_exists(reader, column)?;
        }
        let mut filter = Filter {
            tables: self.tables.iter().map(Tables::filter).collect(),
            keys: self.row_keys(reader)?,
            ops: self.ops.clone(),
            since: self.since,
            // The store's bound is exclusive, a person's is not.
            until: self.until.map(|until| Micros(until.0.saturating_add(1))),
            gtid: self.gtid.clone(),
            column: self.column.clone(),
            epoch: self.epoch,
            ..Filter::default()
        };
        match &self.transaction {
            None => {}
            Some(Transaction::At(at)) => filter.transaction = Some(at.clone()),
            Some(Transaction::Gtid(wanted)) => {
                if self.gtid.as_ref().is_some_and(|gtid| gtid != wanted) {
                    return wrong(Wrong::OtherTransaction);
                }
                filter.gtid = Some(wanted.clone());
            }
        }
        Ok(filter)
    }

    /// Every identity the keys have under any definition of the table: `INT` and `VARCHAR` spell 42 differently.
    fn row_keys(&self, reader: &Reader) -> Result<Vec<RowKey>, Refused> {
        if self.keys.is_empty() {
            return Ok(Vec::new());
        }
        let [
            named @ Tables {
                schema,
                table: Some(table),
            },
        ] = &*self.tables
        else {
            return wrong(Wrong::KeyOfNoTable);
        };
        let versions = reader.versions(schema, table);
        let mut found: Vec<RowKey> = Vec::new();
        for text in &self.keys {
            let mut told: Option<KeyError> = None;
            let before = found.len();
            // The newest definition comes first, so that its complaint is the one that is told.
            for (_, version) in versions.iter().rev() {
                match RowKey::parse(version, text) {
                    Ok(key) => found.push(key),
                    Err(error) => told = told.or(Some(error)),
                }
            }
            if let Some(error) = told.filter(|_| found.len() == before) {
                return wrong(Wrong::Key {
                    table: named.clone(),
                    text: text.clone(),
                    error,
                });
            }
        }
        found.sort();
        found.dedup();
        Ok(found)
    }

    fn column_exists(&self, reader: &Reader, column: &str) -> Result<(), Refused> {
        let mut known: Vec<String> = Vec::new();
        for named in &self.tables {
            let Tables {
                schema,
                table: Some(table),
            } = named
            else {
                return Ok(());
            };
            for (_, version) in reader.versions(schema, table) {
                if version.column(column).is_some() {
                    return Ok(());
                }
                known.extend(
                    version
                        .columns
                        .iter()
                        .map(|column| column.name.clone())
                        .filter(|name| !known.contains(name))
                        .collect::<Vec<_>>(),
                );
            }
        }
        if self.tables.is_empty() {
            return Ok(());
        }
        wrong(Wrong::NoColumn {
            column: column.to_owned(),
            tables: self.tables.clone(),
            known,
        })
    }
}

/// The greatest position before `position` that a filter can name; none if nothing is before it.
pub fn just_before(position: &Position) -> Option<Position> {
    let mut before = position.clone();
    if position.ordinal > 0 {
        before.ordinal -= 1;
    } else {
        before.at.offset = position.at.offset.checked_sub(1)?;
        before.ordinal = u64::MAX;
    }
    Some(before)
}

/// Refuses a table the store has never seen, and says which one may have been meant.
pub fn exists(reader: &Reader, named: &Tables) -> Result<(), Refused> {
    if let Some(table) = &named.table
        && !reader.versions(&named.schema, table).is_empty()
    {
        return Ok(());
    }
    let known = reader.tables()?;
    if known
        .iter()
        .any(|summary| named.filter().matches(&summary.schema, &summary.table))
    {
        return Ok(());
    }
    let statements = Filter {
        tables: vec![named.filter()],
        limit: Some(1),
        ..Filter::default()
    };
    if !reader.schema_changes(&statements)?.is_empty() {
        return Ok(());
    }
    let wanted = named.to_string().to_lowercase();
    let close = |name: &String| strsim::damerau_levenshtein(&name.to_lowercase(), &wanted);
    let names = known
        .iter()
        .map(|summary| format!("{}.{}", summary.schema, summary.table));
    let nearest = names.filter(|name| close(name) <= 3).min_by_key(close);
    wrong(Wrong::NoTable {
        table: named.clone(),
        nearest,
    })
}

impl Tables {
    /// As the store wants it.
    pub fn filter(&self) -> TableFilter {
        TableFilter {
            schema: self.schema.clone(),
            table: self.table.clone(),
        }
    }
}
