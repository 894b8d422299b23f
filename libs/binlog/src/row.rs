//! Single values of a row image: how long they are, and what they mean.

use std::borrow::Cow;

use crate::{
    Cell, Charset, Column, ColumnType, Value, decimal,
    error::Problem,
    jsonb,
    read::{Bytes, be_uint},
    time,
};

/// Takes one value off the image: exactly the bytes of the server's encoding.
pub(crate) fn take<'a>(bytes: &mut Bytes<'a>, ty: &ColumnType) -> Result<&'a [u8], Problem> {
    let fixed = match ty {
        ColumnType::Int { bytes, .. } | ColumnType::Enum { bytes, .. } | ColumnType::Set { bytes, .. } => {
            usize::from(*bytes)
        }
        ColumnType::Year => 1,
        ColumnType::Date | ColumnType::OldTime => 3,
        ColumnType::Float | ColumnType::OldTimestamp => 4,
        ColumnType::Double | ColumnType::OldDateTime => 8,
        ColumnType::Decimal { precision, scale } => decimal::packed_len(*precision, *scale),
        ColumnType::Time { fsp } => 3 + time::fraction_len(*fsp),
        ColumnType::DateTime { fsp } => 5 + time::fraction_len(*fsp),
        ColumnType::Timestamp { fsp } => 4 + time::fraction_len(*fsp),
        ColumnType::Bit { bits } => usize::from(bits.div_ceil(8)),
        _ => return take_varying(bytes, prefix_len(ty)),
    };
    Ok(bytes.take(fixed)?)
}

/// Bytes of the length that stands before values of varying length; 0 for types of fixed length.
fn prefix_len(ty: &ColumnType) -> usize {
    match ty {
        ColumnType::Char { bytes, .. } | ColumnType::Varchar { bytes, .. } => 1 + usize::from(*bytes > 255),
        ColumnType::Blob { length, .. }
        | ColumnType::Json { length }
        | ColumnType::Geometry { length }
        | ColumnType::Vector { length } => usize::from(*length),
        _ => 0,
    }
}

fn take_varying<'a>(bytes: &mut Bytes<'a>, prefix: usize) -> Result<&'a [u8], Problem> {
    let start = bytes.0;
    let length = usize::try_from(bytes.uint(prefix)?).unwrap_or(usize::MAX);
    bytes.take(length)?;
    Ok(&start[..prefix + length])
}

impl Column {
    /// The content of a value: without the length that stands before it, and for `BINARY(n)` with the zero bytes the server strips.
    pub fn content<'a>(&self, raw: &'a [u8]) -> Cow<'a, [u8]> {
        let content = raw.get(prefix_len(&self.ty)..).unwrap_or_default();
        match self.ty {
            ColumnType::Char { bytes, charset }
                if charset.is_binary() && content.len() < usize::from(bytes) =>
            {
                let mut padded = content.to_vec();
                padded.resize(usize::from(bytes), 0);
                Cow::Owned(padded)
            }
            _ => Cow::Borrowed(content),
        }
    }

    /// What a cell of this column means; none for an absent one.
    pub fn value<'a>(&'a self, cell: Cell<'a>) -> Result<Option<Value<'a>>, Problem> {
        match cell {
            Cell::Absent => Ok(None),
            Cell::Null => Ok(Some(Value::Null)),
            Cell::Value(raw) => self.decode(raw).map(Some),
        }
    }

    /// What a value of this column means. `raw` must be what [`Cell::Value`] holds.
    pub fn decode<'a>(&'a self, raw: &'a [u8]) -> Result<Value<'a>, Problem> {
        let mut bytes = Bytes(raw);
        Ok(match &self.ty {
            ColumnType::Int {
                bytes: width,
                unsigned,
            } => int(bytes.uint(usize::from(*width))?, *width, *unsigned),
            ColumnType::Float => Value::Float(f32::from_le_bytes(bytes.array()?)),
            ColumnType::Double => Value::Double(f64::from_le_bytes(bytes.array()?)),
            ColumnType::Decimal { precision, scale } => {
                Value::Decimal(decimal::text(raw, *precision, *scale)?)
            }
            ColumnType::Year => Value::Year(match bytes.u8()? {
                0 => 0,
                year => 1900 + u16::from(year),
            }),
            ColumnType::Date => Value::Date(time::date(bytes.uint(3)?)),
            ColumnType::Time { fsp } => Value::Time(time::time2(raw, *fsp)?),
            ColumnType::DateTime { fsp } => Value::DateTime(time::datetime2(raw, *fsp)?),
            ColumnType::Timestamp { fsp } => Value::Timestamp(time::timestamp2(raw, *fsp)?),
            ColumnType::OldTime => Value::Time(time::old_time(bytes.uint(3)?)),
            ColumnType::OldDateTime => Value::DateTime(time::old_datetime(bytes.u64()?)),
            ColumnType::OldTimestamp => Value::Timestamp(time::timestamp(bytes.u32()?, 0, 0)),
            ColumnType::Bit { .. } => Value::Bit(be_uint(raw)),
            ColumnType::Enum { bytes: width, labels } => {
                enumeration(bytes.uint(usize::from(*width))?, labels)?
            }
            ColumnType::Set { bytes: width, labels } => set(bytes.uint(usize::from(*width))?, labels)?,
            ColumnType::Char { charset, .. }
            | ColumnType::Varchar { charset, .. }
            | ColumnType::Blob { charset, .. } => text(self.content(raw), *charset),
            ColumnType::Json { length } => {
                Value::Json(jsonb::text(raw.get(usize::from(*length)..).unwrap_or_default())?)
            }
            ColumnType::Geometry { length } => {
                bytes.take(usize::from(*length))?;
                Value::Geometry(bytes.u32()?, Cow::Borrowed(bytes.0))
            }
            ColumnType::Vector { .. } => Value::Bytes(self.content(raw)),
        })
    }
}

fn int(value: u64, width: u8, unsigned: bool) -> Value<'static> {
    if unsigned {
        return Value::UInt(value);
    }
    let unused = 64 - 8 * u32::from(width);
    Value::Int((value << unused).cast_signed() >> unused)
}

fn enumeration(index: u64, labels: &[String]) -> Result<Value<'_>, Problem> {
    let label = match index.checked_sub(1) {
        None => "",
        Some(nth) => {
            let nth = usize::try_from(nth).unwrap_or(usize::MAX);
            labels.get(nth).ok_or_else(|| {
                Problem::Row(format!(
                    "an ENUM holds index {index} but has {} labels",
                    labels.len()
                ))
            })?
        }
    };
    Ok(Value::Enum(
        u16::try_from(index).unwrap_or(u16::MAX),
        Cow::Borrowed(label),
    ))
}

fn set(bits: u64, labels: &[String]) -> Result<Value<'static>, Problem> {
    if labels.len() < 64 && bits >> labels.len() != 0 {
        return Err(Problem::Row(format!(
            "a SET holds {bits:#x} but has {} labels",
            labels.len()
        )));
    }
    let chosen: Vec<&str> = labels
        .iter()
        .enumerate()
        .filter(|(nth, _)| bits >> nth & 1 == 1)
        .map(|(_, label)| label.as_str())
        .collect();
    Ok(Value::Set(bits, chosen.join(",")))
}

fn text(content: Cow<'_, [u8]>, charset: Charset) -> Value<'_> {
    match content {
        Cow::Borrowed(bytes) => charset
            .decode(bytes)
            .map_or(Value::Bytes(Cow::Borrowed(bytes)), Value::Text),
        Cow::Owned(bytes) => Value::Bytes(Cow::Owned(bytes)),
    }
}
