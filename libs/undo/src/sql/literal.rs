//! Values, and comparisons with values.

use std::fmt::Write;

use binlog::{Cell, Charset, ColumnType, Value};

use super::json;
use crate::value::Datum;

/// How strictly two values must agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    /// By the column's own rules, so that an index can find the row: `'a'` finds `'A'` where the collation says so.
    Key,
    /// To the byte.
    Exact,
}

/// Why a value cannot be written so that it reads back the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    Unknown,
    Damaged,
    JsonDate,
    JsonBinary,
}

impl Obstacle {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Unknown => "it is not known",
            Self::Damaged => "it is damaged in the log",
            Self::JsonDate => "it holds a date without month or day, which no expression makes",
            Self::JsonBinary => "it holds a binary value of a kind that no expression makes",
        }
    }
}

/// Whether a value can be written so that it reads back the same.
pub(crate) fn writable(datum: &Datum<'_>) -> Result<(), Obstacle> {
    match (&datum.column.ty, datum.cell) {
        (ColumnType::Json { .. }, Cell::Value(raw)) => {
            json::expression(&datum.column.content(raw), &mut String::new())
        }
        (_, Cell::Absent) => Err(Obstacle::Unknown),
        _ => datum
            .column
            .value(datum.cell)
            .map(|_| ())
            .map_err(|_| Obstacle::Damaged),
    }
}

/// Whether only a server without strict mode takes the value: the ENUM error value, which has no label.
pub(crate) fn needs_lenience(datum: &Datum<'_>) -> bool {
    matches!(datum.column.ty, ColumnType::Enum { .. })
        && matches!(datum.column.value(datum.cell), Ok(Some(Value::Enum(0, _))))
}

/// Whether the server compares the column's values by a collation.
pub(crate) fn is_collated(datum: &Datum<'_>) -> bool {
    match datum.column.ty {
        ColumnType::Char { charset, .. }
        | ColumnType::Varchar { charset, .. }
        | ColumnType::Blob { charset, .. } => !charset.is_binary(),
        _ => false,
    }
}

/// Appends an expression whose value can be assigned to the column.
pub(crate) fn value(datum: &Datum<'_>, out: &mut String) {
    let raw = match datum.cell {
        Cell::Value(raw) => raw,
        Cell::Null | Cell::Absent => return out.push_str("NULL"),
    };
    let content = datum.column.content(raw);
    match &datum.column.ty {
        ColumnType::Char { charset, .. }
        | ColumnType::Varchar { charset, .. }
        | ColumnType::Blob { charset, .. } => text(&content, *charset, out),
        ColumnType::Geometry { .. } | ColumnType::Vector { .. } => hex(&content, out),
        ColumnType::Json { .. } => {
            // Whether there is an expression was found out when the change was planned.
            let _ = json::expression(&content, out);
        }
        _ => scalar(datum, out),
    }
}

/// Appends a condition that is true if the column called `name` holds the value.
pub(crate) fn equals(name: &str, datum: &Datum<'_>, how: Match, out: &mut String) {
    let raw = match datum.cell {
        Cell::Value(raw) => raw,
        Cell::Null | Cell::Absent => {
            push(out, format_args!("{name} IS NULL"));
            return;
        }
    };
    let sign = if how == Match::Key { "=" } else { "<=>" };
    match &datum.column.ty {
        ColumnType::Char { charset, .. }
        | ColumnType::Varchar { charset, .. }
        | ColumnType::Blob { charset, .. }
            if how == Match::Exact && is_collated(datum) =>
        {
            // The cast takes the collation away, so bytes are compared; both servers keep the column's own encoding in it.
            push(out, format_args!("CAST({name} AS BINARY) <=> "));
            let content = datum.column.content(raw);
            match is_plain(&content) && charset.extends_ascii() {
                true => quoted(&content, out),
                false => hex(&content, out),
            }
        }
        ColumnType::Geometry { .. } | ColumnType::Vector { .. } => {
            push(out, format_args!("CAST({name} AS BINARY) {sign} "));
            value(datum, out);
        }
        _ => {
            push(out, format_args!("{name} {sign} "));
            value(datum, out);
        }
    }
}

/// Everything that is neither text nor bytes.
fn scalar(datum: &Datum<'_>, out: &mut String) {
    let Ok(Some(value)) = datum.column.value(datum.cell) else {
        return;
    };
    match value {
        Value::Null => out.push_str("NULL"),
        Value::Int(v) => push(out, v),
        Value::UInt(v) => push(out, v),
        Value::Year(v) => push(out, v),
        Value::Float(v) => push(out, format_args!("{:e}", exact(v))),
        Value::Double(v) => push(out, format_args!("{v:e}")),
        Value::Decimal(v) => out.push_str(&v),
        Value::Date(v) | Value::Time(v) | Value::DateTime(v) | Value::Timestamp(v) => {
            push(out, format_args!("'{v}'"));
        }
        Value::Bit(v) => push(out, format_args!("b'{v:b}'")),
        Value::Enum(index, label) => label_or(&label, u64::from(index), out),
        Value::Set(bits, labels) => label_or(&labels, bits, out),
        Value::Text(v) => hex(v.as_bytes(), out),
        Value::Json(v) => hex(v.as_bytes(), out),
        Value::Bytes(v) | Value::Geometry(_, v) => hex(&v, out),
    }
}

/// The double with exactly the value of a FLOAT. The server promotes a FLOAT column to double when it compares it, so this text finds
/// the row that the FLOAT's own shortest text (0.1) does not; and stored, it rounds to the same FLOAT.
fn exact(value: f32) -> f64 {
    f64::from(value)
}

/// A label if it can be read as nothing else, or its number: the empty label and the error value look the same as text.
fn label_or(label: &str, number: u64, out: &mut String) {
    match !label.is_empty() && is_plain(label.as_bytes()) {
        true => quoted(label.as_bytes(), out),
        false => push(out, number),
    }
}

fn text(content: &[u8], charset: Charset, out: &mut String) {
    if !charset.is_binary() && charset.extends_ascii() && is_plain(content) {
        return quoted(content, out);
    }
    // Bytes that are no text in their character set are written without it; so are those of a character set we have no name for.
    if !charset.is_binary() && charset.name() != "unknown" && !content.is_empty() {
        push(out, format_args!("_{} ", charset.name()));
    }
    hex(content, out);
}

/// Printable ASCII without the two characters that could end or escape in a quoted string.
pub(super) fn is_plain(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .all(|byte| matches!(byte, 0x20..=0x7E) && !matches!(byte, b'\'' | b'\\'))
}

pub(super) fn quoted(plain: &[u8], out: &mut String) {
    out.push('\'');
    out.extend(plain.iter().map(|byte| char::from(*byte)));
    out.push('\'');
}

pub(super) fn hex(bytes: &[u8], out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.reserve(3 + 2 * bytes.len());
    out.push_str("X'");
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    out.push('\'');
}

pub(super) fn push(out: &mut String, value: impl std::fmt::Display) {
    // Writing to a String cannot fail.
    let _ = write!(out, "{value}");
}
