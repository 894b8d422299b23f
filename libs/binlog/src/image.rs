//! One row in the server's own encoding.

use crate::{Column, Table, error::Problem, read::Bytes, row};

/// A row image: which columns are present, which of those are NULL, and the packed values, as the rows event carries them
/// (MySQL internals manual, "Rows_event"). Zero-copy; [`Image::to_bytes`] and [`Image::from_bytes`] are its stored form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image<'a> {
    /// A bit per column of the table, least significant first; none when every column is present.
    present: Option<&'a [u8]>,
    /// A bit per present column.
    nulls: &'a [u8],
    /// The values of the present columns that are not NULL, one after the other.
    values: &'a [u8],
}

/// One column of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell<'a> {
    /// The image does not hold the column; nothing is known about its value.
    Absent,
    /// SQL NULL.
    Null,
    /// The value in the server's encoding, with the length that stands before it for types of varying length.
    Value(&'a [u8]),
}

/// First byte of the stored form: every column is present.
const FULL: u8 = 0;
/// First byte of the stored form: a bitmap of present columns follows.
const PARTIAL: u8 = 1;

/// How many of the first `columns` bits are set.
pub(crate) fn held(bitmap: &[u8], columns: usize) -> usize {
    (0..columns).filter(|index| bit(bitmap, *index)).count()
}

pub(crate) fn bit(bitmap: &[u8], index: usize) -> bool {
    bitmap
        .get(index / 8)
        .is_some_and(|byte| byte >> (index % 8) & 1 == 1)
}

impl<'a> Image<'a> {
    /// Takes the next image off a rows event; `present` is the event's column bitmap.
    pub(crate) fn take(bytes: &mut Bytes<'a>, table: &Table, present: &'a [u8]) -> Result<Self, Problem> {
        let columns = table.columns.len();
        let held = held(present, columns);
        let nulls = bytes.take(held.div_ceil(8))?;
        let start = bytes.0;
        let mut nth = 0;
        for (index, column) in table.columns.iter().enumerate() {
            if bit(present, index) {
                if !bit(nulls, nth) {
                    row::take(bytes, &column.ty)?;
                } else if !column.nullable {
                    // No server logs that: the row is being read at the wrong place.
                    return Err(Problem::Row(format!("{} is NULL and cannot be", column.name)));
                }
                nth += 1;
            }
        }
        let values = &start[..start.len() - bytes.0.len()];
        Ok(Self {
            present: (held < columns).then_some(present),
            nulls,
            values,
        })
    }

    /// Appends the stored form to `out`.
    pub fn to_bytes(&self, out: &mut Vec<u8>) {
        match self.present {
            None => out.push(FULL),
            Some(bitmap) => {
                out.push(PARTIAL);
                out.extend_from_slice(bitmap);
            }
        }
        out.extend_from_slice(self.nulls);
        out.extend_from_slice(self.values);
    }

    /// Reads the stored form of a row of `table`. The values are checked when [`Image::cells`] walks them.
    pub fn from_bytes(bytes: &'a [u8], table: &Table) -> Result<Self, Problem> {
        let columns = table.columns.len();
        let mut bytes = Bytes(bytes);
        let present = match bytes.u8()? {
            FULL => None,
            PARTIAL => Some(bytes.take(columns.div_ceil(8))?),
            _ => return Err(Problem::Row("its stored form begins with an unknown byte".into())),
        };
        let held = present.map_or(columns, |bitmap| (0..columns).filter(|i| bit(bitmap, *i)).count());
        Ok(Self {
            present,
            nulls: bytes.take(held.div_ceil(8))?,
            values: bytes.0,
        })
    }

    /// Whether every column is present.
    pub fn is_full(&self) -> bool {
        self.present.is_none()
    }

    /// Walks the columns of `table`, which must be the definition the image was logged under.
    pub fn cells<'t>(&self, table: &'t Table) -> Cells<'a, 't> {
        Cells {
            image: *self,
            columns: &table.columns,
            index: 0,
            nth: 0,
            rest: Bytes(self.values),
        }
    }

    /// All cells, one per column of `table`; an error if the image does not fit the definition or has bytes left over.
    pub fn to_cells(&self, table: &Table) -> Result<Vec<Cell<'a>>, Problem> {
        let mut cells = self.cells(table);
        let all = cells.by_ref().collect::<Result<Vec<_>, _>>()?;
        if cells.rest.is_empty() {
            Ok(all)
        } else {
            Err(Problem::Row("bytes are left over after its last column".into()))
        }
    }
}

/// The cells of an image in column order; see [`Image::cells`].
#[derive(Clone, Debug)]
pub struct Cells<'a, 't> {
    image: Image<'a>,
    columns: &'t [Column],
    index: usize,
    nth: usize,
    rest: Bytes<'a>,
}

impl<'a> Iterator for Cells<'a, '_> {
    type Item = Result<Cell<'a>, Problem>;

    fn next(&mut self) -> Option<Self::Item> {
        let column = self.columns.get(self.index)?;
        let index = self.index;
        self.index += 1;
        if self.image.present.is_some_and(|bitmap| !bit(bitmap, index)) {
            return Some(Ok(Cell::Absent));
        }
        let nth = self.nth;
        self.nth += 1;
        if bit(self.image.nulls, nth) {
            return Some(Ok(Cell::Null));
        }
        Some(row::take(&mut self.rest, &column.ty).map(Cell::Value))
    }
}
