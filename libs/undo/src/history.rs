//! What happened, kept as compactly as going backwards through it allows.
//!
//! A *row* is one life of a row, from its insertion (or the first change we see of it) to its deletion. A *step* is one change of it.
//! A *slot* is a place a row can be in: a key value of a table. Rows move between slots when their key changes. A slot exists from the
//! first selected change that touches it, and only changes that touch a slot are kept; so memory grows with the selected rows and not
//! with the log. In a table without a primary key the whole row is its key, and equal rows share a slot; they are interchangeable.
//!
//! A *break* is a point where a table's history cannot be followed: its rows went without row events, or nobody knows. Steps before a
//! break and steps after it share no rows and no slots: each break begins a new *generation* of the table.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use binlog::{Cell, Change, Gtid, Image, LogPos, Op, Position, Problem, Row as Cells, RowKey, Table};
use types::Micros;

use crate::{
    By, Error,
    arena::{Arena, Span},
    value,
};

/// In place of an index: there is none.
pub(crate) const NONE: u32 = u32::MAX;

/// A transaction.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    pub(crate) epoch: u32,
    pub(crate) at: LogPos,
    pub(crate) gtid: Option<Gtid>,
    pub(crate) commit_time: Micros,
}

/// One change of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) moment: u32,
    pub(crate) ordinal: u32,
    /// The definition its images are in.
    pub(crate) def: u32,
    pub(crate) row: u32,
    /// The slot the row was in before (after, for an insert).
    pub(crate) slot: u32,
    /// The slot the row was in after (before, for a delete).
    pub(crate) new_slot: u32,
    before: Span,
    after: Span,
    pub(crate) op: Op,
    pub(crate) selected: bool,
    /// The row was not what the step before it had left: something happened that the log does not tell.
    pub(crate) torn: bool,
}

/// One life of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) table: u32,
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

/// A key value of a table.
#[derive(Clone, Copy, Debug)]
struct Slot {
    key: Span,
    table: u32,
    generation: u32,
    /// A row that is in it.
    head: u32,
    /// The next slot whose key has the same hash.
    next: u32,
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
}

/// See the module's description.
#[derive(Debug, Default)]
pub(crate) struct History {
    arena: Arena,
    pub(crate) moments: Vec<Moment>,
    pub(crate) defs: Vec<Def>,
    pub(crate) tables: Vec<TableHistory>,
    names: HashMap<String, HashMap<String, u32>>,
    pub(crate) steps: Vec<Step>,
    pub(crate) rows: Vec<Row>,
    slots: Vec<Slot>,
    index: HashMap<u64, u32>,
    last: Option<Position>,
}

impl History {
    /// Takes the next change in.
    pub(crate) fn change(&mut self, change: &Change, selected: bool) -> Result<(), Error> {
        self.advance(&change.position)?;
        let Some(table) = self.table_of(&change.table, selected)? else {
            return Ok(());
        };
        let def = self.define(table, change)?;
        let slot = self.find(table, &change.key);
        let new_slot = change.new_key.as_ref().map(|key| (key, self.find(table, key)));
        if !selected && slot.is_none() && new_slot.is_none_or(|(_, slot)| slot.is_none()) {
            return Ok(());
        }
        let slot = self.slot(table, &change.key, slot)?;
        let new_slot = match new_slot {
            Some((key, found)) => self.slot(table, key, found)?,
            None => slot,
        };
        self.follow(table, change, Place { def, slot, new_slot }, selected)
    }

    /// Finds or makes the row, adds the step, and puts the row where it is now.
    fn follow(&mut self, table: u32, change: &Change, place: Place, selected: bool) -> Result<(), Error> {
        let Place { def, slot, new_slot } = place;
        let keyed = !change.table.key.is_empty();
        if change.op == Op::Insert && keyed {
            self.evict(slot);
        }
        let row = match self.pop(slot, change.op) {
            Some(row) => row,
            None => self.new_row(table)?,
        };
        let torn = self
            .is_torn(row, change)
            .map_err(|problem| image_error(change, problem))?;
        let step = Step {
            moment: self.moment(change)?,
            ordinal: count(change.position.ordinal)?,
            def,
            row,
            slot,
            new_slot,
            before: self.keep(change.before.as_deref())?,
            after: self.keep(change.after.as_deref())?,
            op: change.op,
            selected,
            torn,
        };
        self.check(change)?;
        self.rows[row as usize].last = index(self.steps.len())?;
        self.steps.push(step);
        if change.op != Op::Delete {
            if keyed && new_slot != slot {
                self.evict(new_slot);
            }
            self.push(new_slot, row);
        }
        Ok(())
    }

    /// The history of `table` cannot be followed past this point.
    pub(crate) fn break_off(&mut self, table: u32, kind: BreakKind, by: Option<By>) {
        if let Some(history) = self.tables.get_mut(table as usize) {
            history.breaks.push(Break { kind, by });
            history.altered = false;
        }
    }

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

    /// Where the latest change, schema change or gap stands.
    pub(crate) fn until(&self) -> Option<&Position> {
        self.last.as_ref()
    }

    pub(crate) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The row in each slot now; one of them, where equal rows of a table without a key share it.
    pub(crate) fn occupants(&self) -> impl Iterator<Item = u32> + '_ {
        self.slots.iter().map(|slot| slot.head)
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

    /// The cells of the row before a step; none for an insert.
    pub(crate) fn before<'h>(&'h self, step: &Step) -> Option<Cells<'h>> {
        self.cells(step.def, step.before)
    }

    /// The cells of the row after a step; none for a delete.
    pub(crate) fn after<'h>(&'h self, step: &Step) -> Option<Cells<'h>> {
        self.cells(step.def, step.after)
    }

    /// The cells of an image, which was found readable when it was taken in.
    fn cells(&self, def: u32, span: Span) -> Option<Cells<'_>> {
        let table = &self.defs.get(def as usize)?.table;
        let raw = self.arena.get(span)?;
        Image::from_bytes(raw, table).ok()?.to_cells(table).ok()
    }

    /// The log goes on at `position`.
    pub(crate) fn advance(&mut self, position: &Position) -> Result<(), Error> {
        match &self.last {
            Some(last) if last > position => Err(Error::Order {
                after: Box::new(last.clone()),
                at: Box::new(position.clone()),
            }),
            _ => {
                self.last = Some(position.clone());
                Ok(())
            }
        }
    }

    /// The table's index; none for a table without a selected change.
    fn table_of(&mut self, table: &Table, selected: bool) -> Result<Option<u32>, Error> {
        let known = self
            .names
            .get(&table.schema)
            .and_then(|tables| tables.get(&table.name));
        if known.is_some() || !selected {
            return Ok(known.copied());
        }
        let id = index(self.tables.len())?;
        self.tables.push(TableHistory {
            schema: table.schema.as_str().into(),
            name: table.name.as_str().into(),
            def: NONE,
            breaks: Vec::new(),
            altered: false,
        });
        self.names
            .entry(table.schema.clone())
            .or_default()
            .insert(table.name.clone(), id);
        Ok(Some(id))
    }

    /// The index of the change's definition, which is the table's newest now.
    fn define(&mut self, of: u32, change: &Change) -> Result<u32, Error> {
        let table = &change.table;
        let newest = self.tables[of as usize].def;
        let is = |def: &Def| Arc::ptr_eq(&def.table, table) || (def.of == of && def.table == *table);
        if self.defs.get(newest as usize).is_some_and(is) {
            self.tables[of as usize].altered = false;
            return Ok(newest);
        }
        let id = match self.defs.iter().position(is) {
            Some(known) => index(known)?,
            None => {
                self.defs.push(Def {
                    table: Arc::clone(table),
                    of,
                });
                index(self.defs.len() - 1)?
            }
        };
        if let Some(old) = self.defs.get(newest as usize)
            && key_names(&old.table) != key_names(table)
        {
            let by = By {
                position: change.position.clone(),
                gtid: change.gtid.clone(),
                commit_time: change.commit_time,
            };
            self.break_off(
                of,
                BreakKind::Unclear("its primary key was redefined".into()),
                Some(by),
            );
        }
        let history = &mut self.tables[of as usize];
        history.def = id;
        history.altered = false;
        Ok(id)
    }

    fn moment(&mut self, change: &Change) -> Result<u32, Error> {
        let Position { epoch, at, .. } = &change.position;
        let is = |moment: &Moment| moment.epoch == *epoch && moment.at == *at;
        if !self.moments.last().is_some_and(is) {
            self.moments.push(Moment {
                epoch: *epoch,
                at: at.clone(),
                gtid: change.gtid.clone(),
                commit_time: change.commit_time,
            });
        }
        index(self.moments.len() - 1)
    }

    fn keep(&mut self, image: Option<&[u8]>) -> Result<Span, Error> {
        match image {
            None => Ok(Span::NONE),
            Some(bytes) => self.arena.put(bytes).ok_or(Error::TooLarge("bytes of rows")),
        }
    }

    /// Both images can be walked, so that nothing fails on them later.
    fn check(&self, change: &Change) -> Result<(), Error> {
        let whole = match change.op {
            Op::Insert => change.after.is_some(),
            Op::Update => change.before.is_some() && change.after.is_some(),
            Op::Delete => change.before.is_some(),
        };
        if !whole {
            return Err(image_error(change, Problem::Row("an image is missing".into())));
        }
        change
            .cells()
            .map(|_| ())
            .map_err(|problem| image_error(change, problem))
    }

    /// Whether the row is not what its last step left. Columns the images do not share are passed over.
    fn is_torn(&self, row: u32, change: &Change) -> Result<bool, Problem> {
        let Some(last) = self.steps.get(self.rows[row as usize].last as usize) else {
            return Ok(false);
        };
        let (Some(left), Some(found)) = (self.arena.get(last.after), change.before.as_deref()) else {
            return Ok(false);
        };
        let old = &self.defs[last.def as usize].table;
        if left == found && (Arc::ptr_eq(old, &change.table) || *old == change.table) {
            return Ok(false);
        }
        let left = Image::from_bytes(left, old)?.to_cells(old)?;
        let found = Image::from_bytes(found, &change.table)?.to_cells(&change.table)?;
        for (column, cell) in change.table.columns.iter().zip(found) {
            let Some(at) = old.column(&column.name) else {
                continue;
            };
            let was = &old.columns[at];
            let comparable = was.ty == column.ty && column.generated != Some(true);
            if comparable
                && cell != Cell::Absent
                && left[at] != Cell::Absent
                && !value::same(was, left[at], column, cell)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn new_row(&mut self, table: u32) -> Result<u32, Error> {
        self.rows.push(Row {
            table,
            generation: index(self.tables[table as usize].breaks.len())?,
            last: NONE,
            slot: NONE,
            next: NONE,
            lost: false,
        });
        index(self.rows.len() - 1)
    }

    fn hash(&self, table: u32, generation: u32, key: &RowKey) -> u64 {
        let mut hasher = DefaultHasher::new();
        (table, generation, &key.0).hash(&mut hasher);
        hasher.finish()
    }

    fn find(&self, table: u32, key: &RowKey) -> Option<u32> {
        let generation = u32::try_from(self.tables[table as usize].breaks.len()).ok()?;
        let mut at = *self.index.get(&self.hash(table, generation, key))?;
        while let Some(slot) = self.slots.get(at as usize) {
            if slot.table == table
                && slot.generation == generation
                && self.arena.get(slot.key) == Some(&key.0)
            {
                return Some(at);
            }
            at = slot.next;
        }
        None
    }

    /// The slot that was found, or a new one.
    fn slot(&mut self, table: u32, key: &RowKey, found: Option<u32>) -> Result<u32, Error> {
        // Two keys of one change may be the same new slot only if they are equal, and then the change has one key.
        if let Some(slot) = found {
            return Ok(slot);
        }
        let generation = index(self.tables[table as usize].breaks.len())?;
        let id = index(self.slots.len())?;
        let hash = self.hash(table, generation, key);
        let slot = Slot {
            key: self.keep(Some(&key.0))?,
            table,
            generation,
            head: NONE,
            next: self.index.insert(hash, id).unwrap_or(NONE),
        };
        self.slots.push(slot);
        Ok(id)
    }

    /// Takes a row out of the slot, unless one is about to be inserted.
    fn pop(&mut self, slot: u32, op: Op) -> Option<u32> {
        let head = self.slots[slot as usize].head;
        if op == Op::Insert || head == NONE {
            return None;
        }
        let row = &mut self.rows[head as usize];
        self.slots[slot as usize].head = row.next;
        row.next = NONE;
        row.slot = NONE;
        Some(head)
    }

    fn push(&mut self, slot: u32, row: u32) {
        let head = &mut self.slots[slot as usize].head;
        self.rows[row as usize].next = *head;
        self.rows[row as usize].slot = slot;
        *head = row;
    }

    /// A row comes into a slot that holds one, which a primary key forbids: the other one went unlogged.
    fn evict(&mut self, slot: u32) {
        if let Some(row) = self.pop(slot, Op::Delete) {
            self.rows[row as usize].lost = true;
        }
    }
}

/// Where a change takes place.
struct Place {
    def: u32,
    slot: u32,
    new_slot: u32,
}

fn image_error(change: &Change, problem: Problem) -> Error {
    Error::Image {
        at: Box::new(change.position.clone()),
        problem,
    }
}

fn key_names(table: &Table) -> Vec<String> {
    table
        .key
        .iter()
        .filter_map(|part| table.columns.get(part.column as usize))
        .map(|column| column.name.to_ascii_lowercase())
        .collect()
}

fn index(value: usize) -> Result<u32, Error> {
    u32::try_from(value)
        .ok()
        .filter(|value| *value != NONE)
        .ok_or(Error::TooLarge("changes"))
}

fn count(ordinal: u64) -> Result<u32, Error> {
    u32::try_from(ordinal).map_err(|_| Error::TooLarge("changes in one transaction"))
}
