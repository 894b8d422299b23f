//! What a transaction is made of, and who takes it.

use std::sync::Arc;

use types::Micros;

use crate::{Gtid, GtidSet, Image, LogPos, Table, query::DdlTarget};

/// What a row change did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Op {
    /// A row came to be.
    Insert,
    /// A row changed.
    Update,
    /// A row went.
    Delete,
}

impl Op {
    /// `insert`, `update` or `delete`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

/// The start of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Where its first event begins. This names the transaction, and reading can start here.
    pub at: LogPos,
    /// Its GTID; none in an anonymous log.
    pub gtid: Option<Gtid>,
    /// The connection that ran it, if the log says so (MariaDB 10.11 does not).
    pub thread_id: Option<u32>,
}

/// One row change inside a transaction.
#[derive(Clone, Debug)]
pub struct RowChange<'a> {
    /// What happened.
    pub op: Op,
    /// The table's definition at this place of the log.
    pub table: &'a Arc<Table>,
    /// The row before; none for an insert.
    pub before: Option<Image<'a>>,
    /// The row after; none for a delete.
    pub after: Option<Image<'a>>,
    /// The text of the statement, if the source logs it (`binlog_rows_query_log_events`, `binlog_annotate_row_events`).
    pub query: Option<&'a Arc<str>>,
    /// Flags of the rows event as logged.
    pub flags: u16,
}

/// A statement of the log that is not a row change: DDL, account management and the like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ddl<'a> {
    /// The tables it defines anew, as far as they can be told from its text.
    pub targets: Vec<DdlTarget>,
    /// The schema that names without one belong to.
    pub default_schema: &'a str,
    /// The statement.
    pub text: &'a str,
}

/// The end of a transaction that took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Where its last event ends; the next transaction begins here or later.
    pub end: LogPos,
    /// When it was committed on the server whose log this is: to the microsecond where the log has it, else to the second.
    pub time: Micros,
}

/// Takes what the decoder finds, in the order of the log. Between `begin` and `commit` or `rollback` stand the changes of one
/// transaction; `position` and `previous` come between transactions only.
pub trait Sink {
    /// Why something could not be taken.
    type Error;

    /// A transaction begins.
    fn begin(&mut self, begin: &Begin) -> Result<(), Self::Error>;
    /// It changed a row.
    fn row(&mut self, row: &RowChange<'_>) -> Result<(), Self::Error>;
    /// It ran a statement that is no row change.
    fn ddl(&mut self, ddl: &Ddl<'_>) -> Result<(), Self::Error>;
    /// It took effect.
    fn commit(&mut self, commit: &Commit) -> Result<(), Self::Error>;
    /// It did not; nothing since `begin` counts. `end` is where it ends in the log.
    fn rollback(&mut self, end: &LogPos) -> Result<(), Self::Error>;
    /// The log goes on at `next` and everything before has been seen: an event that carries no change, or a new file.
    fn position(&mut self, next: &LogPos) -> Result<(), Self::Error>;
    /// The transactions that precede the file being read, as its head states them.
    fn previous(&mut self, gtids: &GtidSet) -> Result<(), Self::Error>;
}
