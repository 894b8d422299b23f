//! Row changes, and between them the statements that changed definitions, in one order.

use std::{iter::Peekable, vec};

use binlog::{Change, Position, SchemaChange};
use trail::{Changes, Filter, Order, Reader};

/// One entry of a list.
pub(super) enum Entry {
    /// A row changed.
    Row(Box<Change>),
    /// A definition changed.
    Schema(Box<SchemaChange>),
}

impl Entry {
    /// Where it stands.
    pub(super) fn position(&self) -> &Position {
        match self {
            Self::Row(change) => &change.position,
            Self::Schema(change) => &change.position,
        }
    }
}

/// Entries in the filter's order.
pub(super) struct Entries {
    rows: Peekable<Changes>,
    statements: Peekable<vec::IntoIter<SchemaChange>>,
    order: Order,
}

impl Entries {
    /// What `filter` asks for. Statements come along if `statements` says so and the filter does not ask for a kind of row change.
    pub(super) fn find(
        reader: &Reader,
        filter: &Filter,
        statements: Statements,
    ) -> Result<Self, trail::Error> {
        let mut found = match statements {
            Statements::No => Vec::new(),
            _ if !filter.ops.is_empty() || filter.column.is_some() => Vec::new(),
            _ => reader.schema_changes(filter)?,
        };
        if statements == Statements::OfTables {
            found.retain(|change| !change.targets.is_empty());
        }
        Ok(Self {
            rows: reader.find(filter)?.peekable(),
            statements: found.into_iter().peekable(),
            order: filter.order,
        })
    }
}

/// Which statements to show between the changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Statements {
    /// None.
    No,
    /// Those about tables or schemas: somebody who looks for lost rows must see a TRUNCATE.
    OfTables,
    /// All, account management and the like too.
    All,
}

impl Iterator for Entries {
    type Item = Result<Entry, trail::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let schema_first = match (self.rows.peek(), self.statements.peek()) {
            (Some(Ok(row)), Some(statement)) => match self.order {
                Order::Oldest => statement.position < row.position,
                Order::Newest => statement.position > row.position,
            },
            (None, Some(_)) => true,
            _ => false,
        };
        if schema_first {
            return self
                .statements
                .next()
                .map(|change| Ok(Entry::Schema(Box::new(change))));
        }
        Some(self.rows.next()?.map(|change| Entry::Row(Box::new(change))))
    }
}
