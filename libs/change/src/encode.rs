//! A change straight into the bytes of its message, for those who answer with many.
//!
//! What is written is, byte for byte, what `message(change)?.encode_to_vec()` gives, without a message in between.

use binlog::{Cell, Gtid, Problem, Table, Value};
use prost::encoding::encode_varint;

use crate::wire;

/// Lengths stand before what they measure, so the inner parts are written aside first. One encoder is used for many changes.
#[derive(Debug, Default)]
pub struct Encoder {
    change: Vec<u8>,
    row: Vec<u8>,
    cell: Vec<u8>,
    value: Vec<u8>,
    /// The changes of a transaction have one.
    gtid: Option<(Gtid, String)>,
}

/// A field with a length.
const fn bytes_tag(field: u32) -> u64 {
    (field << 3 | 2) as u64
}

/// A field that is a number.
const fn number_tag(field: u32) -> u64 {
    (field << 3) as u64
}

fn put_bytes(field: u32, bytes: &[u8], out: &mut Vec<u8>) {
    encode_varint(bytes_tag(field), out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn put_number(field: u32, number: u64, out: &mut Vec<u8>) {
    encode_varint(number_tag(field), out);
    encode_varint(number, out);
}

/// As [`put_bytes`], where nothing is the same as no field.
fn put_some_bytes(field: u32, bytes: &[u8], out: &mut Vec<u8>) {
    if !bytes.is_empty() {
        put_bytes(field, bytes, out);
    }
}

/// As [`put_number`], where 0 is the same as no field.
fn put_some_number(field: u32, number: u64, out: &mut Vec<u8>) {
    if number != 0 {
        put_number(field, number, out);
    }
}

impl Encoder {
    /// The bytes of a change's message. They are there until the next call.
    ///
    /// # Errors
    /// When its stored bytes do not fit its table.
    pub fn encode(&mut self, change: &binlog::Change) -> Result<&[u8], Problem> {
        let (before, after) = change.cells()?;
        let table = &*change.table;
        self.change.clear();
        self.head(change);
        if !table.key.is_empty()
            && let Some(cells) = before.as_deref().or(after.as_deref())
        {
            let key = table.key.iter().map(|part| part.column as usize);
            self.row(8, table, cells, key)?;
        }
        for (field, cells) in [(9, before.as_deref()), (10, after.as_deref())] {
            if let Some(cells) = cells {
                self.row(field, table, cells, 0..table.columns.len())?;
            }
        }
        if let (Some(before), Some(after)) = (&before, &after) {
            for (column, (before, after)) in table.columns.iter().zip(before.iter().zip(after)) {
                if *after != Cell::Absent && before != after {
                    put_bytes(11, column.name.as_bytes(), &mut self.change);
                }
            }
        }
        if let Some(query) = &change.query {
            put_bytes(12, query.as_bytes(), &mut self.change);
        }
        put_some_number(13, change.schema_version.into(), &mut self.change);
        Ok(&self.change)
    }

    /// Everything before the rows.
    fn head(&mut self, change: &binlog::Change) {
        let position = &change.position;
        self.row.clear();
        put_some_number(1, position.epoch.into(), &mut self.row);
        put_some_bytes(2, position.at.file.as_str().as_bytes(), &mut self.row);
        put_some_number(3, position.at.offset, &mut self.row);
        put_some_number(4, position.ordinal, &mut self.row);
        put_bytes(1, &self.row, &mut self.change);
        if let Some(gtid) = &change.gtid {
            if self.gtid.as_ref().is_none_or(|(known, _)| known != gtid) {
                self.gtid = Some((gtid.clone(), gtid.to_string()));
            }
            if let Some((_, text)) = &self.gtid {
                put_some_bytes(2, text.as_bytes(), &mut self.change);
            }
        }
        put_some_number(3, change.commit_time.0.cast_unsigned(), &mut self.change);
        if let Some(thread) = change.thread_id {
            put_number(4, thread.into(), &mut self.change);
        }
        put_some_bytes(5, change.table.schema.as_bytes(), &mut self.change);
        put_some_bytes(6, change.table.name.as_bytes(), &mut self.change);
        let op = i32::from(wire::op(change.op));
        put_some_number(7, u64::from(op.unsigned_abs()), &mut self.change);
    }

    fn row(
        &mut self,
        field: u32,
        table: &Table,
        cells: &[Cell<'_>],
        columns: impl Iterator<Item = usize>,
    ) -> Result<(), Problem> {
        self.row.clear();
        for index in columns {
            let (Some(column), Some(cell)) = (table.columns.get(index), cells.get(index)) else {
                continue;
            };
            if let Some(value) = column.value(*cell)? {
                self.value.clear();
                put_value(&value, &mut self.value);
                self.cell.clear();
                put_some_bytes(1, column.name.as_bytes(), &mut self.cell);
                put_bytes(2, &self.value, &mut self.cell);
                put_bytes(1, &self.cell, &mut self.row);
            }
        }
        put_bytes(field, &self.row, &mut self.change);
        Ok(())
    }
}

fn put_value(value: &Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::Null => put_number(1, 0, out),
        Value::Int(v) => put_number(2, (v << 1 ^ v >> 63).cast_unsigned(), out),
        Value::UInt(v) => put_number(3, *v, out),
        Value::Float(v) => {
            encode_varint(4 << 3 | 5, out);
            out.extend_from_slice(&v.to_le_bytes());
        }
        Value::Double(v) => {
            encode_varint(5 << 3 | 1, out);
            out.extend_from_slice(&v.to_le_bytes());
        }
        Value::Decimal(v) => put_bytes(6, v.as_bytes(), out),
        Value::Year(v) => put_number(7, (*v).into(), out),
        Value::Date(v) => put_bytes(8, v.as_bytes(), out),
        Value::Time(v) => put_bytes(9, v.as_bytes(), out),
        Value::DateTime(v) => put_bytes(10, v.as_bytes(), out),
        Value::Timestamp(v) => put_bytes(11, v.as_bytes(), out),
        Value::Bit(v) => put_number(12, *v, out),
        Value::Enum(index, label) => put_pair(13, (*index).into(), label.as_bytes(), out),
        Value::Set(bits, labels) => put_pair(14, *bits, labels.as_bytes(), out),
        Value::Text(v) => put_bytes(15, v.as_bytes(), out),
        Value::Bytes(v) => put_bytes(16, v, out),
        Value::Json(v) => put_bytes(17, v.as_bytes(), out),
        Value::Geometry(srid, wkb) => put_pair(18, (*srid).into(), wkb, out),
    }
}

/// A message of a number and bytes.
fn put_pair(field: u32, number: u64, bytes: &[u8], out: &mut Vec<u8>) {
    let mut pair = Vec::with_capacity(bytes.len() + 24);
    put_some_number(1, number, &mut pair);
    put_some_bytes(2, bytes, &mut pair);
    put_bytes(field, &pair, out);
}
