//! The filters of the command line made into [`trail::Filter`], held against what the store knows.

use binlog::{KeyError, Op, RowKey};
use trail::{Filter, Reader, TableFilter};
use types::{Code, Micros};

use super::{
    args::{Filters, OpName},
    names::{Tables, Transaction},
};
use crate::{error::Error, render::text::visible};

/// What is asked for, before the store is looked at.
pub(super) struct Question<'a> {
    pub(super) tables: &'a [Tables],
    pub(super) keys: &'a [String],
    pub(super) filters: &'a Filters,
    pub(super) transaction: Option<&'a Transaction>,
}

impl Question<'_> {
    /// The filter, in the order of the log and without a limit. Everything that can be wrong with it is told here.
    pub(super) fn filter(&self, reader: &Reader) -> Result<Filter, Error> {
        let Filters {
            ops,
            since,
            until,
            gtid,
            column,
        } = self.filters;
        if let (Some(since), Some(until)) = (since, until)
            && since > until
        {
            return Err(Error::new(
                Code::Invalid,
                "--since",
                format!("{since} is after --until {until}, so nothing can match"),
            ));
        }
        for table in self.tables {
            exists(reader, table)?;
        }
        if let Some(column) = column {
            self.column_exists(reader, column)?;
        }
        let mut filter = Filter {
            tables: self.tables.iter().map(Tables::filter).collect(),
            keys: self.row_keys(reader)?,
            ops: ops.iter().map(|op| op.op()).collect(),
            since: *since,
            // The store's bound is exclusive, a person's is not.
            until: until.map(|until| Micros(until.0.saturating_add(1))),
            gtid: gtid.clone(),
            column: column.clone(),
            ..Filter::default()
        };
        match self.transaction {
            None => {}
            Some(Transaction::At(at)) => filter.transaction = Some(at.clone()),
            Some(Transaction::Gtid(wanted)) => {
                if gtid.as_ref().is_some_and(|gtid| gtid != wanted) {
                    return Err(Error::new(
                        Code::Invalid,
                        "--gtid",
                        "it names another transaction than the one asked for",
                    ));
                }
                filter.gtid = Some(wanted.clone());
            }
        }
        Ok(filter)
    }

    /// Every identity the keys have under any definition of the table: `INT` and `VARCHAR` spell 42 differently.
    fn row_keys(&self, reader: &Reader) -> Result<Vec<RowKey>, Error> {
        if self.keys.is_empty() {
            return Ok(Vec::new());
        }
        let [
            Tables {
                schema,
                table: Some(table),
            },
        ] = self.tables
        else {
            return Err(Error::new(Code::Invalid, "--key", "a key belongs to one table")
                .hint("name exactly one table, as in: trail changes shop.orders --key 42"));
        };
        let versions = reader.versions(schema, table);
        let mut found: Vec<RowKey> = Vec::new();
        for text in self.keys {
            let mut wrong: Option<KeyError> = None;
            let before = found.len();
            // The newest definition comes first, so that its complaint is the one that is told.
            for (_, version) in versions.iter().rev() {
                match RowKey::parse(version, text) {
                    Ok(key) => found.push(key),
                    Err(error) => wrong = wrong.or(Some(error)),
                }
            }
            if let Some(error) = wrong.filter(|_| found.len() == before) {
                return Err(key_error(&error, schema, table, text));
            }
        }
        found.sort();
        found.dedup();
        Ok(found)
    }

    fn column_exists(&self, reader: &Reader, column: &str) -> Result<(), Error> {
        let mut known: Vec<String> = Vec::new();
        for named in self.tables {
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
        Err(Error::new(
            Code::Invalid,
            "--column",
            format!("there is no column {column} in {}", list(self.tables)),
        )
        .hint(format!("the columns are {}", known.join(", "))))
    }
}

fn list(tables: &[Tables]) -> String {
    tables
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

fn key_error(error: &KeyError, schema: &str, table: &str, text: &str) -> Error {
    let hint = match error {
        KeyError::NoKey(_) => format!(
            "choose its rows by time or transaction instead: trail changes {schema}.{table} --since 1h"
        ),
        _ => format!(
            "see trail schema {schema}.{table}; JSON works for values with commas: '{{\"column\":\"a,b\"}}'"
        ),
    };
    Error::new(Code::Invalid, format!("the key {text}"), error).hint(hint)
}

/// Refuses a table the store has never seen, and says which one may have been meant.
pub(super) fn exists(reader: &Reader, named: &Tables) -> Result<(), Error> {
    let fault = |error: trail::Error| Error::from_fault("the store", &error);
    if let Some(table) = &named.table
        && !reader.versions(&named.schema, table).is_empty()
    {
        return Ok(());
    }
    let known = reader.tables().map_err(fault)?;
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
    if !reader.schema_changes(&statements).map_err(fault)?.is_empty() {
        return Ok(());
    }
    let wanted = named.to_string().to_lowercase();
    let close = |name: &String| strsim::damerau_levenshtein(&name.to_lowercase(), &wanted);
    let names = known
        .iter()
        .map(|summary| format!("{}.{}", summary.schema, summary.table));
    let nearest = names.filter(|name| close(name) <= 3).min_by_key(close);
    Err(
        Error::new(Code::Missing, named, "the store holds no change of it").hint(match nearest {
            Some(name) => format!("did you mean {}? trail tables lists all", visible(&name)),
            None => "trail tables lists what it has seen, trail coverage from when on".to_owned(),
        }),
    )
}

impl Tables {
    /// As the store wants it.
    pub(super) fn filter(&self) -> TableFilter {
        TableFilter {
            schema: self.schema.clone(),
            table: self.table.clone(),
        }
    }
}

impl OpName {
    fn op(self) -> Op {
        match self {
            Self::Insert => Op::Insert,
            Self::Update => Op::Update,
            Self::Delete => Op::Delete,
        }
    }
}
