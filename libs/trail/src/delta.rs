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

#[cfg(test)]
mod tests {
    use binlog::{Charset, Column, ColumnType, Image, KeyPart, RowKey, Table};
    use proptest::{collection::vec, option, prelude::*, test_runner::RngSeed};

    use super::{Delta, FULL, OVER, PARTIAL, new_key, put_cell, restore};

    /// A table of so many text columns, keyed by the second and the first.
    fn table(columns: usize) -> Table {
        let ty = ColumnType::Varchar {
            bytes: 20,
            charset: Charset::new(45),
        };
        let column = |n| Column {
            name: format!("c{n}"),
            ty: ty.clone(),
            nullable: true,
            invisible: false,
            generated: None,
            on_update: None,
        };
        let key = [1, 0].map(|column| KeyPart { column, prefix: 0 }).to_vec();
        Table {
            schema: "s".into(),
            name: "t".into(),
            columns: (0..columns).map(column).collect(),
            key,
        }
    }

    /// A cell: absent, NULL or a short text.
    type Cell = Option<Option<u8>>;

    fn image(cells: &[Cell], ones: bool) -> Vec<u8> {
        let (mut present, mut nulls, mut values, mut held) =
            (vec![0; cells.len().div_ceil(8)], Vec::new(), Vec::new(), 0);
        for (index, cell) in cells.iter().enumerate() {
            let Some(value) = cell else { continue };
            present[index / 8] |= 1 << (index % 8);
            let raw = value.map(|length| [&[length][..], &vec![b'x'; usize::from(length)]].concat());
            put_cell(
                &mut nulls,
                &mut values,
                held,
                raw.as_deref().map_or(binlog::Cell::Null, binlog::Cell::Value),
            );
            held += 1;
        }
        if let (true, Some(last), 1..) = (ones, nulls.last_mut(), held % 8) {
            *last |= 0xFF << (held % 8);
        }
        let shape = if held == cells.len() {
            vec![FULL]
        } else {
            [&[PARTIAL][..], &present].concat()
        };
        [shape, nulls, values].concat()
    }

    fn cells() -> impl Strategy<Value = (Vec<Cell>, Vec<Cell>)> {
        let cell = || option::weighted(0.8, option::weighted(0.8, 0..3_u8));
        let full = || option::weighted(0.8, 0..3_u8).prop_map(Some);
        (2..20_usize).prop_flat_map(move |columns| {
            prop_oneof![
                (vec(full(), columns), vec(full(), columns)),
                (vec(cell(), columns), vec(cell(), columns)),
                (vec(full(), columns), vec(cell(), columns)),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

        #[test]
        fn an_after_image_is_restored_byte_for_byte((old, new) in cells(), ones in any::<(bool, bool)>()) {
            let table = table(old.len());
            let (before, after) = (image(&old, ones.0), image(&new, ones.1));
            let mut delta = Delta::default();
            delta.make(&table, &before, &after).unwrap();
            prop_assert_eq!(restore(&table, Some(&before), &delta.after).unwrap(), after);
            for (index, (old, new)) in old.iter().zip(&new).enumerate() {
                let bit = delta.changed[index / 8] >> (index % 8) & 1 == 1;
                prop_assert_eq!(bit, new.is_some() && old != new);
            }
        }

        #[test]
        fn a_key_that_moved_is_found_even_in_a_partial_image((mut old, new) in cells()) {
            let table = table(old.len());
            // A before-image always holds the key.
            old.iter_mut().take(2).for_each(|cell| *cell = Some(cell.unwrap_or_default()));
            let (before, after) = (image(&old, false), image(&new, false));
            let mut delta = Delta::default();
            delta.make(&table, &before, &after).unwrap();
            let of = |cells: &[Cell]| {
                let bytes = image(cells, false);
                RowKey::of(&table, &Image::from_bytes(&bytes, &table).unwrap()).unwrap()
            };
            let whole: Vec<Cell> = old.iter().zip(&new).map(|(old, new)| new.or(*old).or(Some(None))).collect();
            let (key, expected) = (of(&old), of(&whole));
            let moved = new_key(&table, &key, &before, &after, &delta.changed).unwrap();
            prop_assert_eq!(moved, (expected != key).then_some(expected));
        }
    }

    #[test]
    fn a_full_update_keeps_only_what_changed() {
        let row = vec![Some(Some(2)); 12];
        let mut changed = row.clone();
        changed[9] = Some(Some(1));
        let mut delta = Delta::default();
        delta
            .make(&table(12), &image(&row, true), &image(&changed, true))
            .unwrap();
        assert_eq!(delta.after, [OVER, 0, 2, 0, 1, b'x']);
    }

    #[test]
    fn damage_is_an_error() {
        let table = table(3);
        assert!(restore(&table, None, &[OVER, 1, 0, 1, b'x']).is_err());
        assert!(restore(&table, Some(&[]), &[OVER, 1, 0, 1, b'x']).is_err());
        assert!(restore(&table, Some(&image(&[Some(None); 3], false)), &[OVER, 1]).is_err());
    }
}
