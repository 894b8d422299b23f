//! What was decided about a selected change.

use crate::{
    Class,
    history::{BreakKind, History},
    sql::Obstacle,
};

/// The decision about one selected step.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) step: u32,
    pub(crate) class: Class,
    pub(crate) why: Why,
    pub(crate) included: bool,
    /// Whether its undo is a statement; it is none if nothing is left to restore.
    pub(crate) statement: bool,
    /// The later step that stands in the way, or [`NONE`](crate::history::NONE).
    pub(crate) by: u32,
    /// Columns of the row that later steps wrote which are not undone, as the script finds them.
    pub(crate) holds: Box<[Hold]>,
}

/// A column that a later step which is not undone has written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hold {
    /// Index in the newest definition.
    pub(crate) column: usize,
    /// The latest step that wrote it and is not undone.
    pub(crate) by: u32,
    /// The step whose image holds the value the script finds.
    pub(crate) step: u32,
    /// Whether that is the image after the step.
    pub(crate) after: bool,
}

/// The reason for a class, finer than the class. Numbers of columns are indices in the step's definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    Untouched,
    NothingLeft,
    OtherColumns,
    SameColumns,
    TouchedRow,
    Deleted,
    DeletedAgain,
    Inserted,
    KeyHeld,
    KeyWasUsed,
    /// The break of the table with this index.
    Broken(u32),
    Lost,
    Torn,
    NoDefinition,
    Versioned,
    OnlyComputed,
    Column(u32, Trouble),
}

/// Why a column keeps a change from being undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    Gone,
    Misfit,
    NotLogged,
    Unwritable(Obstacle),
}

impl Trouble {
    /// Of the column with this index.
    pub(crate) fn with(self, column: usize) -> Why {
        // The server's limit is 4096 columns.
        Why::Column(u32::try_from(column).unwrap_or(u32::MAX), self)
    }
}

impl Verdict {
    /// The class in a sentence. It names columns at most, never values.
    pub(crate) fn sentence(&self, history: &History) -> String {
        let step = history.step(self.step);
        let def = history.def_of(step);
        let fixed = match self.why {
            Why::Untouched => "no later change touched the row",
            Why::NothingLeft => "it leaves nothing to restore",
            Why::OtherColumns => "later changes touched other columns only",
            Why::SameColumns => "a later change wrote to a column that would be restored",
            Why::TouchedRow => "a later change wrote to the row that would be deleted",
            Why::Deleted => "a later change deleted the row",
            Why::DeletedAgain => "the row was inserted again and deleted again by later changes",
            Why::Inserted => "a later change inserted a row with its key",
            Why::KeyHeld => "the key to restore belongs to another row now",
            Why::KeyWasUsed => "a later change used the key to restore for another row",
            Why::Lost => {
                "the row went without its deletion being logged (a foreign key cascade, or sql_log_bin=0)"
            }
            Why::Torn => {
                "the row changed later without that being logged (a foreign key cascade, or sql_log_bin=0)"
            }
            Why::NoDefinition => "the table was altered later and no change shows its new definition yet",
            Why::Versioned => {
                "the table is system-versioned: restore the row from its own history (FOR SYSTEM_TIME)"
            }
            Why::OnlyComputed => "it changed the key by way of columns that only the server may set",
            Why::Broken(nth) => return broken(history, def.of, nth),
            Why::Column(column, trouble) => {
                let column = def.table.columns.get(column as usize);
                return troubled(column.map_or("?", |column| column.name.as_str()), trouble);
            }
        };
        fixed.to_owned()
    }
}

fn troubled(column: &str, trouble: Trouble) -> String {
    match trouble {
        Trouble::Gone => format!("the column {column} is no longer there"),
        Trouble::Misfit => {
            format!("the column {column} has another type now, which may not hold its old values")
        }
        Trouble::NotLogged => {
            format!(
                "the log does not hold the value of {column} before the change (binlog_row_image is not FULL)"
            )
        }
        Trouble::Unwritable(obstacle) => format!(
            "the value of {column} cannot be written in SQL: {}",
            obstacle.text()
        ),
    }
}

fn broken(history: &History, table: u32, nth: u32) -> String {
    match history.tables[table as usize]
        .breaks
        .get(nth as usize)
        .map(|b| &b.kind)
    {
        Some(BreakKind::Emptied(how)) => format!("the row went later: {how}"),
        Some(BreakKind::Unclear(reason)) => format!("its later history is not known: {reason}"),
        None => String::new(),
    }
}
