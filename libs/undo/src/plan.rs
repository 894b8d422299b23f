//! What would be undone, what would not, and why.

use std::{fmt, io, sync::Arc};

use binlog::{Gtid, Op, Position};
use types::Micros;

use crate::{Dialect, Mode};

/// How later changes stand to a selected one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// No later unselected change of the row.
    Clean,
    /// Later unselected changes touched other columns only.
    Disjoint,
    /// A later unselected change touched a column that is to be restored; or it changed a row whose insertion is to be undone.
    Overlap,
    /// A later unselected change (or TRUNCATE, or DROP) deleted the row.
    Vanished,
    /// The row was deleted, and a later unselected change inserted one with its key.
    Reborn,
    /// The key that is to be restored belongs to another row now.
    KeyTaken,
    /// What happened to the row later is not known for certain.
    Unknown,
}

impl Class {
    /// All classes, from the one that is easiest to undo.
    pub const ALL: [Self; 7] = [
        Self::Clean,
        Self::Disjoint,
        Self::Overlap,
        Self::Vanished,
        Self::Reborn,
        Self::KeyTaken,
        Self::Unknown,
    ];

    /// `clean`, `disjoint`, `overlap`, `vanished`, `reborn`, `key-taken` or `unknown`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Disjoint => "disjoint",
            Self::Overlap => "overlap",
            Self::Vanished => "vanished",
            Self::Reborn => "reborn",
            Self::KeyTaken => "key-taken",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The later change that stands in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct By {
    /// Where it stands.
    pub position: Position,
    /// Its transaction.
    pub gtid: Option<Gtid>,
    /// When that was committed.
    pub commit_time: Micros,
}

/// A column that was not restored, or would overwrite something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The column.
    pub column: String,
    /// The value to restore, as JSON; empty if undoing means that the row goes.
    pub wanted: String,
    /// The value that later changes left there, as JSON; empty if the row is gone or its state is not known.
    pub found: String,
    /// The later change; none if nobody knows.
    pub by: Option<By>,
}

/// One selected change in the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedChange {
    /// Where it stands.
    pub position: Position,
    /// Its transaction.
    pub gtid: Option<Gtid>,
    /// When that was committed.
    pub commit_time: Micros,
    /// The table's schema.
    pub schema: Arc<str>,
    /// The table.
    pub table: Arc<str>,
    /// What the change did (its undo does the opposite).
    pub op: Op,
    /// The row's key after the change (before it, for a delete) as a JSON object; of a table without a key the whole row.
    pub key: String,
    /// How later changes stand to it.
    pub class: Class,
    /// The class in a sentence, without row data.
    pub why: String,
    /// Whether the script undoes it.
    pub included: bool,
    /// Columns that later changes hold on to. Empty for clean and disjoint changes.
    pub conflicts: Vec<Conflict>,
}

/// A plan in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Selected changes.
    pub changes: u64,
    /// Selected changes that the script undoes.
    pub included: u64,
    /// Statements in the script. Fewer than `included` if some changes left nothing to restore.
    pub statements: u64,
    /// Selected changes per class, in the order of [`Class::ALL`].
    pub classes: [u64; 7],
    /// Position of the earliest selected change.
    pub first: Option<Position>,
    /// Position of the latest selected change.
    pub last: Option<Position>,
    /// Position up to which history was taken into account.
    pub until: Option<Position>,
}

impl Summary {
    /// Selected changes of one class.
    pub fn of(&self, class: Class) -> u64 {
        self.classes[class as usize]
    }
}

/// What [`Planner::finish`](crate::Planner::finish) found, and the scripts.
#[derive(Debug)]
pub struct Plan {
    dialect: Dialect,
    mode: Mode,
    summary: Summary,
    notes: Vec<String>,
    digest: [u8; 32],
    redo_digest: [u8; 32],
}

impl Plan {
    pub(crate) fn empty(dialect: Dialect, mode: Mode) -> Self {
        Self {
            dialect,
            mode,
            summary: Summary::default(),
            notes: Vec::new(),
            digest: [0; 32],
            redo_digest: [0; 32],
        }
    }

    /// Whose SQL the scripts speak.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// What the script may overwrite.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The plan in numbers.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Sentences about the whole plan that its reader must know. They may name tables, so they are not part of the scripts.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// SHA-256 of the script's statements: of everything below its header, as the header says.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// SHA-256 of the redo script's statements.
    pub fn redo_digest(&self) -> [u8; 32] {
        self.redo_digest
    }

    /// Every selected change, in the order of the script: the latest first. Made one by one while iterating.
    pub fn rows(&self) -> impl Iterator<Item = PlannedChange> + '_ {
        std::iter::empty()
    }

    /// Writes the script that undoes what is included. It is complete even if nothing is.
    pub fn write_script(&self, _out: &mut dyn io::Write) -> io::Result<()> {
        Ok(())
    }

    /// Writes the script that undoes the undo script.
    pub fn write_redo(&self, _out: &mut dyn io::Write) -> io::Result<()> {
        Ok(())
    }
}
