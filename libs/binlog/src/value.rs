//! A decoded value, and how it is written as JSON.

use std::{borrow::Cow, fmt::Write};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

/// One decoded value of a row. Texts that the server prints itself (decimals, dates) are kept as it prints them.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// SQL NULL.
    Null,
    /// Any signed integer.
    Int(i64),
    /// Any unsigned integer.
    UInt(u64),
    /// `FLOAT`.
    Float(f32),
    /// `DOUBLE`.
    Double(f64),
    /// `DECIMAL`, with exactly its scale of digits after the point.
    Decimal(String),
    /// `YEAR`; 0 is the zero year.
    Year(u16),
    /// `DATE` as MySQL prints it.
    Date(String),
    /// `TIME` as MySQL prints it.
    Time(String),
    /// `DATETIME` as MySQL prints it.
    DateTime(String),
    /// `TIMESTAMP` in UTC, without a zone mark: `2026-11-21 10:00:00.123`.
    Timestamp(String),
    /// `BIT`.
    Bit(u64),
    /// `ENUM`: its index (0 for the error value) and label.
    Enum(u16, Cow<'a, str>),
    /// `SET`: its bits and the labels joined by commas.
    Set(u64, String),
    /// Text that decodes in its column's character set.
    Text(Cow<'a, str>),
    /// Binary, or text that does not decode.
    Bytes(Cow<'a, [u8]>),
    /// MySQL `JSON`, as JSON text.
    Json(String),
    /// Spatial: reference system and well-known binary.
    Geometry(u32, Cow<'a, [u8]>),
}

impl Value<'_> {
    /// Appends the value as JSON: integers with exact digits, DECIMAL as text, FLOAT and DOUBLE shortest, TIMESTAMP with `Z`, bytes as
    /// `{"base64":"…"}`, geometry as `{"srid":0,"wkb":"…"}`.
    pub fn write_json(&self, out: &mut String) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Int(v) => push(out, v),
            Self::UInt(v) | Self::Bit(v) => push(out, v),
            Self::Float(v) => push_json(out, v),
            Self::Double(v) => push_json(out, v),
            Self::Year(v) => push(out, v),
            Self::Decimal(v) | Self::Date(v) | Self::Time(v) | Self::DateTime(v) | Self::Set(_, v) => {
                push_json(out, v)
            }
            Self::Timestamp(v) if v.starts_with("0000-00-00") => push_json(out, v),
            Self::Timestamp(v) => {
                out.push('"');
                out.push_str(v);
                out.push_str("Z\"");
            }
            Self::Enum(_, label) => push_json(out, label),
            Self::Text(v) => push_json(out, v),
            Self::Bytes(v) => {
                out.push_str("{\"base64\":\"");
                BASE64.encode_string(v, out);
                out.push_str("\"}");
            }
            Self::Json(v) => out.push_str(v),
            Self::Geometry(srid, wkb) => {
                push(out, format_args!("{{\"srid\":{srid},\"wkb\":\""));
                BASE64.encode_string(wkb, out);
                out.push_str("\"}");
            }
        }
    }

    /// The value as JSON text.
    pub fn to_json(&self) -> String {
        let mut out = String::new();
        self.write_json(&mut out);
        out
    }

    /// The value without anything borrowed.
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Self::Null => Value::Null,
            Self::Int(v) => Value::Int(v),
            Self::UInt(v) => Value::UInt(v),
            Self::Float(v) => Value::Float(v),
            Self::Double(v) => Value::Double(v),
            Self::Decimal(v) => Value::Decimal(v),
            Self::Year(v) => Value::Year(v),
            Self::Date(v) => Value::Date(v),
            Self::Time(v) => Value::Time(v),
            Self::DateTime(v) => Value::DateTime(v),
            Self::Timestamp(v) => Value::Timestamp(v),
            Self::Bit(v) => Value::Bit(v),
            Self::Enum(i, v) => Value::Enum(i, Cow::Owned(v.into_owned())),
            Self::Set(i, v) => Value::Set(i, v),
            Self::Text(v) => Value::Text(Cow::Owned(v.into_owned())),
            Self::Bytes(v) => Value::Bytes(Cow::Owned(v.into_owned())),
            Self::Json(v) => Value::Json(v),
            Self::Geometry(srid, v) => Value::Geometry(srid, Cow::Owned(v.into_owned())),
        }
    }
}

fn push(out: &mut String, value: impl std::fmt::Display) {
    // Writing to a String cannot fail.
    let _ = write!(out, "{value}");
}

/// Through serde_json, for its string escapes and its shortest floats.
fn push_json<T: serde::Serialize>(out: &mut String, value: &T) {
    if let Ok(text) = serde_json::to_string(value) {
        out.push_str(&text);
    }
}
