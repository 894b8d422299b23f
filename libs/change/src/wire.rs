//! From the store's words to messages and back.

use std::borrow::Cow;

use binlog::{Cell, Problem};
use bytes::Bytes;
use proto::change::v1::{self as pb, value::Kind};

/// The message of a change.
///
/// # Errors
/// When its stored bytes do not fit its table.
pub fn message(change: &binlog::Change) -> Result<pb::Change, Problem> {
    let (before, after) = change.cells()?;
    let table = &change.table;
    let all: Vec<usize> = (0..table.columns.len()).collect();
    let row = |cells: &Option<Vec<Cell<'_>>>, columns: &[usize]| {
        cells
            .as_deref()
            .map(|cells| row(&change.table, cells, columns))
            .transpose()
    };
    let key: Vec<usize> = table.key.iter().map(|part| part.column as usize).collect();
    let identity = if before.is_some() { &before } else { &after };
    Ok(pb::Change {
        position: Some(position(&change.position)),
        gtid: change.gtid.as_ref().map(ToString::to_string).unwrap_or_default(),
        commit_micros: change.commit_time.0,
        thread_id: change.thread_id,
        schema: table.schema.clone(),
        table: table.name.clone(),
        op: op(change.op).into(),
        key: if key.is_empty() {
            None
        } else {
            row(identity, &key)?
        },
        changed: change
            .changed()?
            .into_iter()
            .filter_map(|index| Some(table.columns.get(index)?.name.clone()))
            .collect(),
        before: row(&before, &all)?,
        after: row(&after, &all)?,
        query: change.query.as_deref().map(ToOwned::to_owned),
        schema_version: change.schema_version,
        redacted: Vec::new(),
    })
}

fn row(table: &binlog::Table, cells: &[Cell<'_>], columns: &[usize]) -> Result<pb::Row, Problem> {
    let mut row = pb::Row {
        cells: Vec::with_capacity(columns.len()),
    };
    for index in columns {
        let (Some(column), Some(cell)) = (table.columns.get(*index), cells.get(*index)) else {
            continue;
        };
        if let Some(decoded) = column.value(*cell)? {
            row.cells.push(pb::Cell {
                column: column.name.clone(),
                value: Some(value(&decoded)),
            });
        }
    }
    Ok(row)
}

/// The message of a position.
pub fn position(position: &binlog::Position) -> pb::Position {
    pb::Position {
        epoch: position.epoch,
        file: position.at.file.as_str().to_owned(),
        offset: position.at.offset,
        ordinal: position.ordinal,
    }
}

pub(crate) fn op(op: binlog::Op) -> pb::Op {
    match op {
        binlog::Op::Insert => pb::Op::Insert,
        binlog::Op::Update => pb::Op::Update,
        binlog::Op::Delete => pb::Op::Delete,
    }
}

/// The message of a value.
pub fn value(value: &binlog::Value<'_>) -> pb::Value {
    use binlog::Value;
    let kind = match value {
        Value::Null => Kind::Null(0),
        Value::Int(v) => Kind::Int(*v),
        Value::UInt(v) => Kind::Uint(*v),
        Value::Float(v) => Kind::Float(*v),
        Value::Double(v) => Kind::Double(*v),
        Value::Decimal(v) => Kind::Decimal(v.clone()),
        Value::Year(v) => Kind::Year(u32::from(*v)),
        Value::Date(v) => Kind::Date(v.clone()),
        Value::Time(v) => Kind::Time(v.clone()),
        Value::DateTime(v) => Kind::Datetime(v.clone()),
        Value::Timestamp(v) => Kind::Timestamp(v.clone()),
        Value::Bit(v) => Kind::Bit(*v),
        Value::Enum(index, label) => Kind::Enum(pb::EnumValue {
            index: u32::from(*index),
            label: label.clone().into_owned(),
        }),
        Value::Set(bits, labels) => Kind::Set(pb::SetValue {
            bits: *bits,
            labels: labels.clone(),
        }),
        Value::Text(v) => Kind::Text(v.clone().into_owned()),
        Value::Bytes(v) => Kind::Bytes(Bytes::copy_from_slice(v)),
        Value::Json(v) => Kind::Json(v.clone()),
        Value::Geometry(srid, wkb) => Kind::Geometry(pb::Geometry {
            srid: *srid,
            wkb: Bytes::copy_from_slice(wkb),
        }),
    };
    pb::Value { kind: Some(kind) }
}

/// The value of a message; none where it carries none, or a number that its kind does not have.
pub fn value_of(value: &pb::Value) -> Option<binlog::Value<'_>> {
    use binlog::Value;
    Some(match value.kind.as_ref()? {
        Kind::Null(_) => Value::Null,
        Kind::Int(v) => Value::Int(*v),
        Kind::Uint(v) => Value::UInt(*v),
        Kind::Float(v) => Value::Float(*v),
        Kind::Double(v) => Value::Double(*v),
        Kind::Decimal(v) => Value::Decimal(v.clone()),
        Kind::Year(v) => Value::Year(u16::try_from(*v).ok()?),
        Kind::Date(v) => Value::Date(v.clone()),
        Kind::Time(v) => Value::Time(v.clone()),
        Kind::Datetime(v) => Value::DateTime(v.clone()),
        Kind::Timestamp(v) => Value::Timestamp(v.clone()),
        Kind::Bit(v) => Value::Bit(*v),
        Kind::Enum(v) => Value::Enum(u16::try_from(v.index).ok()?, Cow::Borrowed(&v.label)),
        Kind::Set(v) => Value::Set(v.bits, v.labels.clone()),
        Kind::Text(v) => Value::Text(Cow::Borrowed(v)),
        Kind::Bytes(v) => Value::Bytes(Cow::Borrowed(v)),
        Kind::Json(v) => Value::Json(v.clone()),
        Kind::Geometry(v) => Value::Geometry(v.srid, Cow::Borrowed(&v.wkb)),
    })
}

/// The position of a message.
pub fn position_of(position: &pb::Position) -> binlog::Position {
    binlog::Position {
        epoch: position.epoch,
        at: binlog::LogPos {
            file: binlog::FileName::new(&position.file),
            offset: position.offset,
        },
        ordinal: position.ordinal,
    }
}
