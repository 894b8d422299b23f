//! Changes coming in, in the order of the log.

use std::sync::Arc;

use binlog::{Cell, Change, ColumnType, Image, Op, Position, Problem, RowKey, Table};

use super::{
    Break, BreakKind, Def, History, Moment, NONE, Row, Step, TableHistory, arena::Span, slots::Realm,
};
use crate::{By, Error, value};

/// First byte of an image's stored form when a bitmap of present columns follows (see `binlog::Image`).
const PARTIAL: u8 = 1;
/// The last microsecond of `TIMESTAMP(6)`: up to MariaDB 11.4, and since 11.5.
const ROW_END: [&[u8]; 2] = [b"\x7F\xFF\xFF\xFF\x0F\x42\x3F", b"\xFF\xFF\xFF\xFF\x0F\x42\x3F"];

/// Where a change takes place.
#[derive(Clone, Copy)]
struct Place {
    realm: Realm,
    def: u32,
    slot: u32,
    new_slot: u32,
}

impl History {
    /// Takes the next change in.
    pub(crate) fn change(&mut self, change: &Change, selected: bool) -> Result<(), Error> {
        self.advance(&change.position)?;
        let Some(table) = self.table_of(&change.table, selected)? else {
            return Ok(());
        };
        let def = self.define(table, change)?;
        let realm = Realm {
            table,
            generation: index(self.tables[table as usize].breaks.len())?,
        };
        let find = |key: &RowKey| self.slots.find(&self.arena, realm, &key.0);
        let slot = find(&change.key);
        let new_slot = change.new_key.as_ref().map(|key| (key, find(key)));
        if !selected && slot.is_none() && new_slot.is_none_or(|(_, slot)| slot.is_none()) {
            return Ok(());
        }
        let slot = self.slot(realm, &change.key, slot)?;
        let new_slot = match new_slot {
            Some((key, found)) => self.slot(realm, key, found)?,
            None => slot,
        };
        let place = Place {
            realm,
            def,
            slot,
            new_slot,
        };
        self.follow(change, place, selected)
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

    /// The history of `table` cannot be followed past this point.
    pub(crate) fn break_off(&mut self, table: u32, kind: BreakKind, by: Option<By>) {
        if let Some(history) = self.tables.get_mut(table as usize) {
            history.breaks.push(Break { kind, by });
            history.altered = false;
        }
    }

    /// Finds or makes the row, adds the step, and puts the row where it is now.
    fn follow(&mut self, change: &Change, place: Place, selected: bool) -> Result<(), Error> {
        let Place { slot, new_slot, .. } = place;
        let keyed = !change.table.key.is_empty();
        let row = match change.op {
            Op::Insert => {
                if keyed {
                    self.evict(slot);
                }
                None
            }
            Op::Update | Op::Delete => self.pop(slot),
        };
        let row = match row {
            Some(row) => row,
            None => self.new_row(place.realm.generation)?,
        };
        let bad_image = |problem| image_error(change, problem);
        let torn = self.is_torn(row, change).map_err(bad_image)?;
        let shared = self.fill_scratch(change).map_err(bad_image)?;
        self.tables[place.realm.table as usize].versioned |= is_versioned(change).map_err(bad_image)?;
        let step = Step {
            moment: self.moment(change)?,
            ordinal: u32::try_from(change.position.ordinal)
                .map_err(|_| Error::TooLarge("changes in one transaction"))?,
            def: place.def,
            row,
            slot,
            new_slot,
            split: shared.split,
            images: self.keep_scratch()?,
            op: change.op,
            selected,
            torn,
            shared: shared.only_changed,
        };
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
            versioned: false,
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
        self.tables[of as usize].altered = false;
        if self.defs.get(newest as usize).is_some_and(is) {
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
        self.tables[of as usize].def = id;
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

    /// Whether the row is not what its last step left. Columns the images do not share are passed over.
    fn is_torn(&self, row: u32, change: &Change) -> Result<bool, Problem> {
        let Some(last) = self.steps.get(self.rows[row as usize].last as usize) else {
            return Ok(false);
        };
        let (Some((_, left)), Some(found)) = (self.images(last), change.before.as_deref()) else {
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
            let known = cell != Cell::Absent && left[at] != Cell::Absent;
            if comparable && known && !value::same(was, left[at], column, cell) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn keep_scratch(&mut self) -> Result<Span, Error> {
        self.arena
            .put(&self.scratch)
            .ok_or(Error::TooLarge("bytes of rows"))
    }

    /// Puts the images side by side. Of two full ones the first is cut down to the columns that differ: updates change few, so this
    /// saves nearly half. Both images are found readable here, so that nothing fails on them later.
    fn fill_scratch(&mut self, change: &Change) -> Result<Shared, Problem> {
        let missing = || Problem::Row("an image is missing".into());
        let (before, after) = change.cells()?;
        self.scratch.clear();
        let mut only_changed = false;
        match change.op {
            Op::Insert => {}
            Op::Update => {
                let (before, after) = (before.ok_or_else(missing)?, after.as_ref().ok_or_else(missing)?);
                let full = |cells: &[Cell<'_>]| !cells.contains(&Cell::Absent);
                only_changed = full(&before) && full(after) && before != *after;
                if only_changed {
                    write_changed(&before, after, &mut self.scratch);
                } else {
                    self.scratch
                        .extend_from_slice(change.before.as_deref().ok_or_else(missing)?);
                }
            }
            Op::Delete => self
                .scratch
                .extend_from_slice(change.before.as_deref().ok_or_else(missing)?),
        }
        let split =
            u32::try_from(self.scratch.len()).map_err(|_| Problem::Row("an image is too long".into()))?;
        if change.op != Op::Delete {
            self.scratch
                .extend_from_slice(change.after.as_deref().ok_or_else(missing)?);
        }
        Ok(Shared { split, only_changed })
    }

    fn new_row(&mut self, generation: u32) -> Result<u32, Error> {
        self.rows.push(Row {
            generation,
            last: NONE,
            slot: NONE,
            next: NONE,
            lost: false,
        });
        index(self.rows.len() - 1)
    }

    /// The slot that was found, or a new one.
    fn slot(&mut self, realm: Realm, key: &RowKey, found: Option<u32>) -> Result<u32, Error> {
        match found {
            Some(slot) => Ok(slot),
            None => self
                .slots
                .add(&mut self.arena, realm, &key.0)
                .ok_or(Error::TooLarge("rows")),
        }
    }

    /// Takes a row out of the slot.
    fn pop(&mut self, slot: u32) -> Option<u32> {
        let head = self.slots.head(slot);
        let row = self.rows.get_mut(head as usize)?;
        self.slots.set_head(slot, row.next);
        row.next = NONE;
        row.slot = NONE;
        Some(head)
    }

    fn push(&mut self, slot: u32, row: u32) {
        self.rows[row as usize].next = self.slots.head(slot);
        self.rows[row as usize].slot = slot;
        self.slots.set_head(slot, row);
    }

    /// A row comes into a slot that holds one, which a primary key forbids: the other one went unlogged.
    fn evict(&mut self, slot: u32) {
        if let Some(row) = self.pop(slot) {
            self.rows[row as usize].lost = true;
        }
    }
}

/// How two images were put side by side.
struct Shared {
    split: u32,
    only_changed: bool,
}

/// The stored form of an image that holds only the cells of `before` that differ.
fn write_changed(before: &[Cell<'_>], after: &[Cell<'_>], out: &mut Vec<u8>) {
    let differ = || before.iter().zip(after).map(|(before, after)| before != after);
    out.push(PARTIAL);
    bitmap(differ(), out);
    let changed = || {
        before
            .iter()
            .zip(differ())
            .filter(|(_, differs)| *differs)
            .map(|(cell, _)| cell)
    };
    bitmap(changed().map(|cell| *cell == Cell::Null), out);
    for cell in changed() {
        if let Cell::Value(raw) = cell {
            out.extend_from_slice(raw);
        }
    }
}

/// A bit per flag, least significant first.
fn bitmap(flags: impl Iterator<Item = bool>, out: &mut Vec<u8>) {
    for (nth, flag) in flags.enumerate() {
        if nth % 8 == 0 {
            out.push(0);
        }
        if let Some(byte) = out.last_mut() {
            *byte |= u8::from(flag) << (nth % 8);
        }
    }
}

/// Whether a row of a system-versioned table of MariaDB, by the end of the current version, which no other column is given: the last
/// microsecond of the type, in a column that belongs to the primary key or has the name the server gives it.
fn is_versioned(change: &Change) -> Result<bool, Problem> {
    let table = &change.table;
    let column = match table.key.last() {
        Some(part) => Some(part.column as usize),
        None => table.column("row_end"),
    };
    let Some(at) = column.filter(|at| table.columns[*at].ty == (ColumnType::Timestamp { fsp: 6 })) else {
        return Ok(false);
    };
    let (before, after) = change.cells()?;
    let mut cells = [before, after].into_iter().flatten().map(|cells| cells[at]);
    Ok(cells.any(|cell| matches!(cell, Cell::Value(raw) if ROW_END.contains(&raw))))
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
