//! The rows of a plan, and whether something happened to them.

use std::{
    collections::{BTreeSet, HashSet},
    hash::{BuildHasher as _, RandomState},
};

use binlog::{Change, Position, RowKey, SchemaChange, Statement};
use trail::{Filter, Reader};

use crate::{error::Error, undo::Selection};

/// So many rows are looked up by their keys; of more, everything that is new in their tables is looked at.
const LOOKED_UP: usize = 1_000;

/// Rows by hashes of their tables and keys. Two that collide make a plan stale too early, no more.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    hasher: RandomState,
    rows: HashSet<u64>,
    /// The keys themselves, while they are few.
    keys: BTreeSet<RowKey>,
}

impl Touched {
    /// Takes in a change of the plan's history, in the order of the log; whether it is of one of the rows.
    pub(crate) fn see(&mut self, change: &Change, chosen: bool) -> bool {
        if !chosen && !self.concerns(change) {
            return false;
        }
        for key in [Some(&change.key), change.new_key.as_ref()].into_iter().flatten() {
            let row = self.row(change, key);
            self.rows.insert(row);
            if self.keys.len() <= LOOKED_UP && !self.keys.contains(key) {
                self.keys.insert(key.clone());
            }
        }
        true
    }

    /// How many rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows.len()
    }

    fn row(&self, change: &Change, key: &RowKey) -> u64 {
        self.hasher
            .hash_one((&change.table.schema, &change.table.name, key))
    }

    fn concerns(&self, change: &Change) -> bool {
        self.rows.contains(&self.row(change, &change.key))
            || change
                .new_key
                .as_ref()
                .is_some_and(|key| self.rows.contains(&self.row(change, key)))
    }

    /// The first thing after `until` that may have touched one of the rows: a change of it, a statement about its table, or a part of the log
    /// that was not read.
    pub(crate) fn first_after(
        &self,
        reader: &Reader,
        selection: &Selection,
        until: &Position,
    ) -> Result<Option<Position>, Error> {
        let filter = Filter {
            tables: selection.table_filters(),
            after: Some(until.clone()),
            ..Filter::default()
        };
        let gaps = reader.coverage_of(&filter).gaps.into_iter();
        let gap = gaps
            .map(|gap| Position {
                epoch: gap.before.epoch,
                at: gap.before.at,
                ordinal: 0,
            })
            .min();
        let statements = reader.schema_changes(&filter)?;
        let statement = statements
            .into_iter()
            .find(|statement| is_about_rows(statement, selection))
            .map(|statement| statement.position);
        let keys = if self.keys.len() <= LOOKED_UP {
            self.keys.iter().cloned().collect()
        } else {
            Vec::new()
        };
        let mut change = None;
        for found in reader.find(&Filter { keys, ..filter })? {
            let found = found?;
            if self.concerns(&found) {
                change = Some(found.position);
                break;
            }
        }
        Ok([gap, statement, change].into_iter().flatten().min())
    }
}

/// Whether a statement may change what the script finds.
fn is_about_rows(statement: &SchemaChange, selection: &Selection) -> bool {
    statement.targets.iter().any(|target| {
        let named = |(schema, table): &(String, String)| {
            *schema == target.schema && target.table.as_ref().is_none_or(|name| name == table)
        };
        !matches!(target.kind, Statement::Other) && selection.tables.iter().any(named)
    })
}
