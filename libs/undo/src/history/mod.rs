//! What happened, kept as compactly as going backwards through it allows.
//!
//! A *row* is one life of a row, from its insertion (or the first change we see of it) to its deletion. A *step* is one change of it.
//! A *slot* is a place a row can be in: a key value of a table. Rows move between slots when their key changes. A slot exists from the
//! first selected change that touches it, and only changes that touch a slot are kept; so memory grows with the selected rows and not
//! with the log. In a table without a primary key the whole row is its key, and equal rows share a slot; they are interchangeable.
//!
//! A *break* is a point where a table's history cannot be followed: its rows went without row events, or nobody knows. Steps before a
//! break and steps after it share no rows and no slots: each break begins a new *generation* of the table.

mod arena;
mod intake;
mod slots;

use std::{collections::HashMap, sync::Arc};

use binlog::{Cell, Gtid, Image, LogPos, Op, Position, Row as Cells, Table};
use types::Micros;

use crate::By;
use arena::{Arena, Span};
use slots::Slots;

/// In place of an index: there is none.
pub(crate) const NONE: u32 = u32::MAX;

/// A transaction.
#[derive(Clone, Debug)]
struct Moment {
    epoch: u32,
    at: LogPos,
    gtid: Option<Gtid>,
    commit_time: Micros,
}

/// One change of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    moment: u32,
    ordinal: u32,
    /// The definition its images are in.
    pub(crate) def: u32,
    pub(crate) row: u32,
    /// The slot the row was in before (after, for an insert).
    pub(crate) slot: u32,
    /// The slot the row was in after (before, for a delete).
    pub(crate) new_slot: u32,
    /// The image before, if there is one, and the image after, if there is one.
    images: Span,
    /// Bytes of the image before.
    split: u32,
    pub(crate) op: Op,
    pub(crate) selected: bool,
    /// The row was not what the step before it had left: something happened that the log does not tell.
    pub(crate) torn: bool,
    /// The image before holds only the columns that the change changed; the others are as in the image after.
    shared: bool,
}

/// One life of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) generation: u32,
    /// Its latest step.
    pub(crate) last: u32,
    /// The slot it is in; none once it was deleted.
    pub(crate) slot: u32,
    /// The next row in the same slot.
    next: u32,
    /// Another row took its place without its deletion being logged.
    pub(crate) lost: bool,
}

/// Why a table's history cannot be followed past a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BreakKind {
    /// All its rows went.
    Emptied(&'static str),
    /// What became of its rows is not known.
    Unclear(String),
}

#[derive(Clone, Debug)]
pub(crate) struct Break {
    pub(crate) kind: BreakKind,
    /// The change or statement that made it; none for a gap.
    pub(crate) by: Option<By>,
}

/// A definition and whose it is.
#[derive(Clone, Debug)]
pub(crate) struct Def {
    pub(crate) table: Arc<Table>,
    pub(crate) of: u32,
}

/// A table that has a selected change.
#[derive(Clone, Debug)]
pub(crate) struct TableHistory {
    pub(crate) schema: Arc<str>,
    pub(crate) name: Arc<str>,
    /// The definition of its latest change.
    pub(crate) def: u32,
    pub(crate) breaks: Vec<Break>,
    /// It was altered after its latest change.
    pub(crate) altered: bool,
    /// It is system-versioned (MariaDB): the server writes its own history rows into it.
    pub(crate) versioned: bool,
}

/// See the module's description.
#[derive(Debug, Default)]
pub(crate) struct History {
    arena: Arena,
    moments: Vec<Moment>,
    pub(crate) defs: Vec<Def>,
    pub(crate) tables: Vec<TableHistory>,
    names: HashMap<String, HashMap<String, u32>>,
    pub(crate) steps: Vec<Step>,
    pub(crate) rows: Vec<Row>,
    slots: Slots,
    last: Option<Position>,
    /// Images on their way into the arena.
    scratch: Vec<u8>,
}

impl History {
    /// Tables with a selected change that match, by index.
    pub(crate) fn tables_named(&self, schema: &str, name: Option<&str>) -> Vec<u32> {
        let Some(tables) = self.names.get(schema) else {
            return Vec::new();
        };
        match name {
            Some(name) => tables.get(name).copied().into_iter().collect(),
            None => tables.values().copied().collect(),
        }
    }

    /// Where the latest change or schema change stands.
    pub(crate) fn until(&self) -> Option<&Position> {
        self.last.as_ref()
    }

    /// The row in each slot now; one of them, where equal rows of a table without a key share it.
    pub(crate) fn occupants(&self) -> impl Iterator<Item = u32> + '_ {
        self.slots.heads()
    }

    pub(crate) fn step(&self, step: u32) -> &Step {
        &self.steps[step as usize]
    }

    /// The definition a step's images are in.
    pub(crate) fn def_of(&self, step: &Step) -> &Def {
        &self.defs[step.def as usize]
    }

    /// Where a step stands, and whose it is.
    pub(crate) fn by(&self, step: &Step) -> By {
        let moment = &self.moments[step.moment as usize];
        By {
            position: Position {
                epoch: moment.epoch,
                at: moment.at.clone(),
                ordinal: u64::from(step.ordinal),
            },
            gtid: moment.gtid.clone(),
            commit_time: moment.commit_time,
        }
    }

    /// The cells of the row before a step (none for an insert) and after it (none for a delete).
    pub(crate) fn cells<'h>(&'h self, step: &Step) -> (Option<Cells<'h>>, Option<Cells<'h>>) {
        let Some((before, after)) = self.images(step) else {
            return (None, None);
        };
        let after = if step.op == Op::Delete {
            None
        } else {
            self.walk(step, after)
        };
        let mut before = if step.op == Op::Insert {
            None
        } else {
            self.walk(step, before)
        };
        if step.shared
            && let (Some(before), Some(after)) = (&mut before, &after)
        {
            for (cell, after) in before
                .iter_mut()
                .zip(after)
                .filter(|(cell, _)| **cell == Cell::Absent)
            {
                *cell = *after;
            }
        }
        (before, after)
    }

    fn images(&self, step: &Step) -> Option<(&[u8], &[u8])> {
        self.arena.get(step.images)?.split_at_checked(step.split as usize)
    }

    /// The cells of an image, which was found readable when it was taken in.
    fn walk<'h>(&self, step: &Step, raw: &'h [u8]) -> Option<Cells<'h>> {
        let table = &self.def_of(step).table;
        Image::from_bytes(raw, table).ok()?.to_cells(table).ok()
    }
}
