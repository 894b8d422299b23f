//! What a reader asks for.

use binlog::{FileName, Gtid, LogPos, Op, Position, RowKey};
use types::Micros;

/// Which changes are wanted. The parts are joined by "and", the members of a list by "or"; the default asks for everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of these tables; all if empty.
    pub tables: Vec<TableFilter>,
    /// Of the rows with these keys; all if empty. A change of the key itself belongs to the old and to the new one.
    pub keys: Vec<RowKey>,
    /// Of these kinds; all if empty.
    pub ops: Vec<Op>,
    /// Committed at this time or later.
    pub since: Option<Micros>,
    /// Committed before this time.
    pub until: Option<Micros>,
    /// Of this transaction.
    pub gtid: Option<Gtid>,
    /// Of the transaction that begins here, of any epoch unless `epoch` is given.
    pub transaction: Option<LogPos>,
    /// Of this timeline of the source.
    pub epoch: Option<u32>,
    /// Updates that changed the column of this name, without regard to ASCII case. Inserts and deletes do not match.
    pub column: Option<String>,
    /// After this one, itself excluded.
    pub after: Option<Position>,
    /// Before this one, itself excluded.
    pub before: Option<Position>,
    /// Which come first.
    pub order: Order,
    /// At most so many.
    pub limit: Option<usize>,
}

/// A table, or all tables of a schema. Names are compared exactly, as the server logged them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableFilter {
    /// The schema.
    pub schema: String,
    /// The table; all of the schema's if none.
    pub table: Option<String>,
}

impl TableFilter {
    /// Whether it asks for this table.
    pub fn matches(&self, schema: &str, table: &str) -> bool {
        self.schema == schema && self.table.as_deref().is_none_or(|name| name == table)
    }
}

/// The order of an answer: that of the log, or its reverse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// As it happened.
    #[default]
    Oldest,
    /// The latest first.
    Newest,
}

impl Filter {
    /// Everything about one table.
    pub fn table(schema: &str, table: &str) -> Self {
        Self {
            tables: vec![TableFilter {
                schema: schema.to_owned(),
                table: Some(table.to_owned()),
            }],
            ..Self::default()
        }
    }

    pub(crate) fn wants_table(&self, schema: &str, table: &str) -> bool {
        self.tables.is_empty() || self.tables.iter().any(|wanted| wanted.matches(schema, table))
    }

    pub(crate) fn wants_op(&self, op: Op) -> bool {
        (self.ops.is_empty() || self.ops.contains(&op)) && (self.column.is_none() || op == Op::Update)
    }

    pub(crate) fn wants_time(&self, time: Micros) -> bool {
        self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time < until)
    }

    /// Whether a transaction that begins at `offset` of `file` may hold something wanted.
    pub(crate) fn wants_transaction(&self, epoch: u32, file: &FileName, offset: u64) -> bool {
        self.epoch.is_none_or(|wanted| wanted == epoch)
            && self
                .transaction
                .as_ref()
                .is_none_or(|at| at.offset == offset && at.file == *file)
            && self
                .after
                .as_ref()
                .is_none_or(|after| (epoch, file, offset) >= (after.epoch, &after.at.file, after.at.offset))
            && self.before.as_ref().is_none_or(|before| {
                (epoch, file, offset) <= (before.epoch, &before.at.file, before.at.offset)
            })
    }

    pub(crate) fn wants_position(&self, position: &Position) -> bool {
        self.wants_transaction(position.epoch, &position.at.file, position.at.offset)
            && self.after.as_ref().is_none_or(|after| position > after)
            && self.before.as_ref().is_none_or(|before| position < before)
    }
}
