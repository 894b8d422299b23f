//! The identity of a row: what its key columns mean, in bytes that sort and compare.
//!
//! A key outlives the definition of its table: `INT` 42 and `BIGINT UNSIGNED` 42 are the same row, and so are a `latin1` and a
//! `utf8mb4` spelling of the same text. So the identity is made of meanings, not of the server's bytes: integers by value, everything
//! that the server prints as text by that text. Keys with the same leading columns sort together, integers in numeric order.
//!
//! A table without a primary key is identified by its whole row: the digest of all cells. An update then always changes the key.

use serde_json::Value as Json;

use crate::{Cell, Column, ColumnType, Image, Table, Value, error::Problem};

/// The identity of a row within its table; see the module's description.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey(pub Vec<u8>);

/// A key given as text does not fit the table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The table has no primary key.
    #[error("{0} has no primary key, so a row of it cannot be named by a key")]
    NoKey(String),
    /// Too few or too many values.
    #[error("the key of {table} is ({columns}): give {columns_help}")]
    Shape {
        /// `schema.table`.
        table: String,
        /// The key's columns, joined by commas.
        columns: String,
        /// An example.
        columns_help: String,
    },
    /// A value that cannot be one of the column.
    #[error("{value:?} is not a value of the key column {column} ({ty})")]
    Value {
        /// The column.
        column: String,
        /// Its type.
        ty: String,
        /// What was given.
        value: String,
    },
}

const NULL: u8 = 0x10;
const ABSENT: u8 = 0x11;
/// Tag of the integer zero; more bytes of magnitude are further away from it on either side.
const ZERO: u8 = 0x28;
const TEXT: u8 = 0x40;
const BYTES: u8 = 0x41;
const REAL: u8 = 0x42;
/// The digest of a whole row.
const WHOLE: u8 = 0x50;

impl RowKey {
    /// The identity of a row of `table`. `image` must hold every key column.
    pub fn of(table: &Table, image: &Image<'_>) -> Result<Self, Problem> {
        let mut out = Vec::with_capacity(16);
        if table.key.is_empty() {
            let mut cells = Vec::new();
            for (column, cell) in table.columns.iter().zip(image.cells(table)) {
                encode(column, cell?, &mut cells)?;
            }
            out.push(WHOLE);
            out.extend_from_slice(&ring::digest::digest(&ring::digest::SHA256, &cells).as_ref()[..16]);
            return Ok(Self(out));
        }
        let last = table.key.iter().map(|part| part.column).max().unwrap_or_default();
        let cells = image
            .cells(table)
            .take(last as usize + 1)
            .collect::<Result<Vec<_>, _>>()?;
        for part in &table.key {
            let index = part.column as usize;
            let (Some(column), Some(cell)) = (table.columns.get(index), cells.get(index)) else {
                return Err(Problem::Row(
                    "the key names a column the table does not have".into(),
                ));
            };
            if *cell == Cell::Absent {
                return Err(Problem::Row(format!(
                    "the key column {} is not in the row image",
                    column.name
                )));
            }
            encode(column, *cell, &mut out)?;
        }
        Ok(Self(out))
    }

    /// Whether `image` holds all key columns of `table`, so that [`RowKey::of`] can name its row.
    pub fn is_in(table: &Table, image: &Image<'_>) -> Result<bool, Problem> {
        if image.is_full() {
            return Ok(true);
        }
        let cells = image.cells(table).collect::<Result<Vec<_>, _>>()?;
        Ok(table.key.iter().all(|part| {
            cells
                .get(part.column as usize)
                .is_some_and(|cell| *cell != Cell::Absent)
        }))
    }

    /// Reads a key as a person writes it: `42`; `a,b` in key order; `id=42,code=x`; or JSON, `{"id":42}` or `["a,b",7]`.
    pub fn parse(table: &Table, text: &str) -> Result<Self, KeyError> {
        if table.key.is_empty() {
            return Err(KeyError::NoKey(table.full_name()));
        }
        let columns: Vec<&Column> = table
            .key
            .iter()
            .filter_map(|part| table.columns.get(part.column as usize))
            .collect();
        let values = split(text, &columns).ok_or_else(|| shape(table, &columns))?;
        let mut out = Vec::new();
        for (column, value) in columns.iter().zip(values) {
            let known = meaning(column, &value).ok_or_else(|| KeyError::Value {
                column: column.name.clone(),
                ty: column.ty.sql_name(),
                value: value.clone(),
            })?;
            put(&known, &mut out);
        }
        Ok(Self(out))
    }
}

fn shape(table: &Table, columns: &[&Column]) -> KeyError {
    let names: Vec<&str> = columns.iter().map(|c| c.name.as_str()).collect();
    let example: Vec<String> = names.iter().map(|name| format!("{name}=…")).collect();
    KeyError::Shape {
        table: table.full_name(),
        columns: names.join(", "),
        columns_help: format!("{} or {}", vec!["…"; names.len()].join(","), example.join(",")),
    }
}

/// The values in key order.
fn split(text: &str, columns: &[&Column]) -> Option<Vec<String>> {
    let bare = |json: Json| match json {
        Json::String(text) => text,
        other => other.to_string(),
    };
    if let Ok(Json::Object(mut map)) = serde_json::from_str(text) {
        let values = columns
            .iter()
            .map(|c| map.remove(&c.name).map(bare))
            .collect::<Option<Vec<_>>>()?;
        return map.is_empty().then_some(values);
    }
    if let Ok(Json::Array(list)) = serde_json::from_str(text) {
        return (list.len() == columns.len()).then(|| list.into_iter().map(bare).collect());
    }
    let prefix = |column: &Column, text: &str| {
        let (name, value) = text.split_once('=')?;
        name.eq_ignore_ascii_case(&column.name).then(|| value.to_owned())
    };
    if let [column] = columns {
        return Some(vec![prefix(column, text).unwrap_or_else(|| text.to_owned())]);
    }
    let parts: Vec<&str> = text.split(',').collect();
    if parts.len() != columns.len() {
        return None;
    }
    let named: Option<Vec<String>> = columns
        .iter()
        .map(|c| parts.iter().find_map(|part| prefix(c, part.trim())))
        .collect();
    Some(named.unwrap_or_else(|| parts.iter().map(|part| (*part).to_owned()).collect()))
}

/// The value a person means by `text` in this column.
fn meaning(column: &Column, text: &str) -> Option<Value<'static>> {
    Some(match &column.ty {
        ColumnType::Int { unsigned: false, .. } => Value::Int(text.trim().parse().ok()?),
        ColumnType::Int { unsigned: true, .. } | ColumnType::Bit { .. } | ColumnType::Year => {
            Value::UInt(text.trim().parse().ok()?)
        }
        ColumnType::Decimal { scale, .. } => {
            Value::Decimal(canonical_decimal(text.trim(), usize::from(*scale))?)
        }
        ColumnType::Float => Value::Float(text.trim().parse().ok()?),
        ColumnType::Double => Value::Double(text.trim().parse().ok()?),
        ColumnType::Time { fsp } | ColumnType::DateTime { fsp } | ColumnType::Timestamp { fsp } => {
            Value::DateTime(canonical_time(text.trim(), usize::from(*fsp))?)
        }
        ColumnType::Enum { labels, .. } => {
            let index = labels.iter().position(|label| label == text)?;
            Value::Enum(u16::try_from(index + 1).ok()?, text.to_owned().into())
        }
        ColumnType::Char { bytes, charset } if charset.is_binary() => {
            let mut raw = binary(text)?;
            raw.resize(raw.len().max(usize::from(*bytes)), 0);
            Value::Bytes(raw.into())
        }
        ColumnType::Varchar { charset, .. } | ColumnType::Blob { charset, .. } if charset.is_binary() => {
            Value::Bytes(binary(text)?.into())
        }
        _ => Value::Text(text.to_owned().into()),
    })
}

/// Binary values are written `0x…`, or as the text whose bytes they are.
fn binary(text: &str) -> Option<Vec<u8>> {
    let Some(hex) = text.strip_prefix("0x") else {
        return Some(text.as_bytes().to_vec());
    };
    let digits = hex.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

fn canonical_decimal(text: &str, scale: usize) -> Option<String> {
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || fraction.len() > scale || !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    let point = if scale > 0 { "." } else { "" };
    Some(format!("{sign}{whole}{point}{fraction:0<scale$}"))
}

/// A `T` becomes a space, a trailing `Z` goes, the fraction gets exactly `fsp` digits.
fn canonical_time(text: &str, fsp: usize) -> Option<String> {
    let text = text.trim_end_matches('Z').replace('T', " ");
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    if fraction.len() > fsp || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let point = if fsp > 0 { "." } else { "" };
    Some(format!("{whole}{point}{fraction:0<fsp$}"))
}

fn encode(column: &Column, cell: Cell<'_>, out: &mut Vec<u8>) -> Result<(), Problem> {
    match column.value(cell)? {
        None => out.push(ABSENT),
        Some(value) => put(&value, out),
    }
    Ok(())
}

fn put(value: &Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(NULL),
        Value::Int(v) => put_int(*v < 0, v.unsigned_abs(), out),
        Value::UInt(v) | Value::Bit(v) => put_int(false, *v, out),
        Value::Year(v) => put_int(false, u64::from(*v), out),
        Value::Float(v) => put_real(f64::from(*v), out),
        Value::Double(v) => put_real(*v, out),
        Value::Decimal(v)
        | Value::Date(v)
        | Value::Time(v)
        | Value::DateTime(v)
        | Value::Timestamp(v)
        | Value::Set(_, v)
        | Value::Json(v) => {
            put_text(TEXT, v.as_bytes(), out);
        }
        Value::Enum(_, v) | Value::Text(v) => put_text(TEXT, v.as_bytes(), out),
        Value::Bytes(v) => put_text(BYTES, v, out),
        Value::Geometry(srid, v) => {
            put_int(false, u64::from(*srid), out);
            put_text(BYTES, v, out);
        }
    }
}

fn put_int(negative: bool, magnitude: u64, out: &mut Vec<u8>) {
    let bytes = magnitude.to_be_bytes();
    let skip = (magnitude.leading_zeros() / 8) as usize;
    let length = (8 - skip) as u8;
    if negative {
        out.push(ZERO - length);
        out.extend(bytes[skip..].iter().map(|byte| !byte));
    } else {
        out.push(ZERO + length);
        out.extend_from_slice(&bytes[skip..]);
    }
}

fn put_real(value: f64, out: &mut Vec<u8>) {
    out.push(REAL);
    out.extend_from_slice(&value.to_bits().to_be_bytes());
}

/// Zero bytes are escaped so that the end mark sorts before every continuation.
fn put_text(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    for byte in bytes {
        out.push(*byte);
        if *byte == 0 {
            out.push(0xFF);
        }
    }
    out.extend_from_slice(&[0, 0]);
}

#[cfg(test)]
mod tests {
    use super::{RowKey, put_int};
    use crate::{Charset, Column, ColumnType, KeyPart, Table};

    fn table(types: &[(&str, ColumnType)]) -> Table {
        let columns = types
            .iter()
            .map(|(name, ty)| Column {
                name: (*name).into(),
                ty: ty.clone(),
                nullable: false,
                invisible: false,
                generated: None,
                on_update: None,
            })
            .collect();
        let key = (0..types.len())
            .map(|i| KeyPart {
                column: u32::try_from(i).expect("few columns"),
                prefix: 0,
            })
            .collect();
        Table {
            schema: "shop".into(),
            name: "t".into(),
            columns,
            key,
        }
    }

    #[test]
    fn integers_sort_by_value_whatever_their_width() {
        let numbers = [i64::MIN, -257, -256, -255, -1, 0, 1, 255, 256, 65_536, i64::MAX];
        let keys: Vec<Vec<u8>> = numbers
            .iter()
            .map(|n| {
                let mut out = Vec::new();
                put_int(*n < 0, n.unsigned_abs(), &mut out);
                out
            })
            .collect();
        assert!(keys.is_sorted());
    }

    #[test]
    fn a_key_is_read_in_every_form_people_write() {
        let int = ColumnType::Int {
            bytes: 4,
            unsigned: false,
        };
        let text = ColumnType::Varchar {
            bytes: 40,
            charset: Charset::new(45),
        };
        let single = table(&[("id", int.clone())]);
        assert_eq!(RowKey::parse(&single, "42"), RowKey::parse(&single, "id=42"));
        assert_eq!(
            RowKey::parse(&single, "42"),
            RowKey::parse(&single, "{\"id\":42}")
        );
        assert!(RowKey::parse(&single, "forty").is_err());
        let pair = table(&[("id", int), ("code", text)]);
        assert_eq!(RowKey::parse(&pair, "7,x"), RowKey::parse(&pair, "code=x,id=7"));
        assert_eq!(
            RowKey::parse(&pair, "[7,\"a,b\"]"),
            RowKey::parse(&pair, "{\"code\":\"a,b\",\"id\":7}")
        );
        assert!(RowKey::parse(&pair, "7").is_err());
        assert!(RowKey::parse(&table(&[]), "7").is_err());
    }
}
