//! After-images as the store keeps them.
//!
//! An update mostly changes a few columns of a wide row, and keeping the whole row twice is half of a store's bytes. So when both
//! images are full, the after-image is kept as the cells that differ, and put together again on reading, byte for byte. Everything
//! else (an insert's row, the partial images of `binlog_row_image=MINIMAL`) is kept in [`Image`]'s stored form as it is.
//!
//! The stored form is one byte that says which columns follow (0: all, 1: those of a bitmap that follows), a NULL bit per column that is
//! present, and the values of those that are not NULL. The kept form adds a third first byte, [`OVER`]: a bitmap as in 1, and columns
//! that are not in it are as they were before.

use binlog::{Cell, Image, Problem, RowKey, Table};

const FULL: u8 = 0;
const PARTIAL: u8 = 1;
/// First byte of an after-image that holds only what changed.
pub(crate) const OVER: u8 = 2;

/// Which columns an update changed, and its after-image as it is kept. Reused from row to row, because it is made for each one.
#[derive(Debug, Default)]
pub(crate) struct Delta {
    /// A bit per column of the table, least significant first.
    pub(crate) changed: Vec<u8>,
    /// The after-image in its kept form.
    pub(crate) after: Vec<u8>,
    nulls: Vec<u8>,
    values: Vec<u8>,
}

impl Delta {
    /// Compares the images of an update; `before` and `after` are their stored forms too.
    pub(crate) fn make(&mut self, table: &Table, before: &[u8], after: &[u8]) -> Result<(), Problem> {
        let columns = table.columns.len();
        self.changed.clear();
        self.changed.resize(columns.div_ceil(8), 0);
        self.nulls.clear();
        self.values.clear();
        let mut held = 0;
        let (old, new) = (
            Image::from_bytes(before, table)?,
            Image::from_bytes(after, table)?,
        );
        for (index, (old, new)) in old.cells(table).zip(new.cells(table)).enumerate() {
            let (old, new) = (old?, new?);
            if new == Cell::Absent || old == new {
                continue;
            }
            self.changed[index / 8] |= 1 << (index % 8);
            put_cell(&mut self.nulls, &mut self.values, held, new);
            held += 1;
        }
        self.after.clear();
        if same_shape(columns, before, after) {
            self.after.push(OVER);
            self.after.extend_from_slice(&self.changed);
            self.after.extend_from_slice(&self.nulls);
            self.after.extend_from_slice(&self.values);
        } else {
            self.after.extend_from_slice(after);
        }
        Ok(())
    }
}

/// Whether both images hold all columns, and the bits that pad their NULL bitmaps are equal: only then can the one be rebuilt from the
/// other without a loss.
fn same_shape(columns: usize, before: &[u8], after: &[u8]) -> bool {
    before.first() == Some(&FULL)
        && after.first() == Some(&FULL)
        && padding(columns, before) == padding(columns, after)
}

/// The bits of a full image's last NULL byte that belong to no column; servers write them as ones or as zeros.
fn padding(columns: usize, full: &[u8]) -> u8 {
    let last = full.get(columns.div_ceil(8)).copied().unwrap_or_default();
    if columns.is_multiple_of(8) {
        0
    } else {
        last & (0xFF << (columns % 8))
    }
}

fn put_cell(nulls: &mut Vec<u8>, values: &mut Vec<u8>, held: usize, cell: Cell<'_>) {
    if held.is_multiple_of(8) {
        nulls.push(0);
    }
    match cell {
        Cell::Value(raw) => values.extend_from_slice(raw),
        Cell::Null | Cell::Absent => {
            if let Some(last) = nulls.last_mut() {
                *last |= 1 << (held % 8);
            }
        }
    }
}

/// The after-image in its stored form, from its kept form and the image before it.
pub(crate) fn restore(table: &Table, before: Option<&[u8]>, kept: &[u8]) -> Result<Vec<u8>, Problem> {
    if kept.first() != Some(&OVER) {
        return Ok(kept.to_vec());
    }
    let before = before.ok_or_else(|| {
        Problem::Row("its after-image rests on a before-image that is not there".to_owned())
    })?;
    let mut partial = kept.to_vec();
    partial[0] = PARTIAL;
    overlay(table, before, &partial)
}

/// The row that results when the columns present in `over` replace those of `under`; both in stored form.
fn overlay(table: &Table, under: &[u8], over: &[u8]) -> Result<Vec<u8>, Problem> {
    let columns = table.columns.len();
    let (lower, upper) = (Image::from_bytes(under, table)?, Image::from_bytes(over, table)?);
    let (mut present, mut nulls, mut values) = (
        vec![0; columns.div_ceil(8)],
        Vec::new(),
        Vec::with_capacity(under.len()),
    );
    let mut held = 0;
    for (index, (old, new)) in lower.cells(table).zip(upper.cells(table)).enumerate() {
        let (old, new) = (old?, new?);
        let cell = if new == Cell::Absent { old } else { new };
        if cell != Cell::Absent {
            present[index / 8] |= 1 << (index % 8);
            put_cell(&mut nulls, &mut values, held, cell);
            held += 1;
        }
    }
    if held == columns {
        if let Some(last) = nulls.last_mut() {
            *last |= padding(columns, under);
        }
        return Ok([&[FULL][..], &nulls, &values].concat());
    }
    Ok([&[PARTIAL][..], &present, &nulls, &values].concat())
}

/// The row's identity after an update, if the update changed it. `before` and `after` are stored forms, `changed` is the bitmap.
pub(crate) fn new_key(
    table: &Table,
    key: &RowKey,
    before: &[u8],
    after: &[u8],
    changed: &[u8],
) -> Result<Option<RowKey>, Problem> {
    let touched = |column: u32| {
        changed
            .get(column as usize / 8)
            .is_some_and(|byte| byte >> (column % 8) & 1 == 1)
    };
    if !table.key.is_empty() && !table.key.iter().any(|part| touched(part.column)) {
        return Ok(None);
    }
    let image = Image::from_bytes(after, table)?;
    let new = if RowKey::is_in(table, &image)? {
        RowKey::of(table, &image)?
    } else {
        // A partial image holds the key columns that changed; the others are as before.
        RowKey::of(table, &Image::from_bytes(&overlay(table, before, after)?, table)?)?
    };
    Ok((new != *key).then_some(new))
}
