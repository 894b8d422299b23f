//! Takes the history in.

use std::sync::Arc;

use binlog::{Change, Position, SchemaChange, Table};

use crate::{Dialect, Error, Mode, Plan};

/// History is incomplete from here on, for a while at least.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Where the last change before it stands, or where the gap begins.
    pub at: Position,
    /// The only table it concerns (schema and name); none if it may concern every table.
    pub table: Option<(String, String)>,
    /// What happened, in a few words without row data: it is shown to the reader of the plan.
    pub reason: String,
}

/// Makes a [`Plan`]. Feed it every change and schema change of the affected tables, from the first selected change on to the present,
/// oldest first. Rows without a selected change cost nothing; memory grows with the rows that have one.
#[derive(Debug)]
pub struct Planner {
    dialect: Dialect,
    mode: Mode,
}

impl Planner {
    /// An empty history.
    pub fn new(dialect: Dialect, mode: Mode) -> Self {
        Self { dialect, mode }
    }

    /// The next change. `selected` changes are to be undone, all others are to survive.
    pub fn change(&mut self, _change: &Change, _selected: bool) -> Result<(), Error> {
        Ok(())
    }

    /// The next schema change. One that concerns no table with a selected change is ignored.
    pub fn schema_change(&mut self, _change: &SchemaChange) -> Result<(), Error> {
        Ok(())
    }

    /// Changes may be missing here. What was selected before it becomes [`Class::Unknown`](crate::Class::Unknown).
    pub fn gap(&mut self, _gap: Gap) {}

    /// Names columns that the server sets by itself whenever the row is updated (`ON UPDATE CURRENT_TIMESTAMP`), which the log does not
    /// tell. A later change of such a column alone is no reason not to undo.
    pub fn self_updating(&mut self, _schema: &str, _table: &str, _columns: &[&str]) {}

    /// The plan. `latest` gives the newest known definition of a table by schema and name; without one, the last definition fed counts.
    pub fn finish(self, _latest: &dyn Fn(&str, &str) -> Option<Arc<Table>>) -> Result<Plan, Error> {
        Ok(Plan::empty(self.dialect, self.mode))
    }
}
