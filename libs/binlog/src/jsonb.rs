//! MySQL's binary JSON (`sql-common/json_binary.h`) as JSON text.
//!
//! Written in the order the document keeps its members and with the server's own types: a double always has a point or an exponent, a
//! decimal its digits, dates and times as strings as MySQL prints them, other opaque values as `"base64:type<n>:…"` strings.

use std::fmt::Write;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

use crate::{decimal, error::Problem, read::Bytes, time};

/// MySQL itself refuses documents deeper than this (`JSON_DOCUMENT_MAX_DEPTH`).
const DEPTH_MAX: u32 = 100;

/// Type bytes of a document's parts, and type numbers of opaque values (`include/field_types.h`).
#[allow(missing_docs)]
pub mod part {
    pub const SMALL_OBJECT: u8 = 0x00;
    pub const LARGE_OBJECT: u8 = 0x01;
    pub const SMALL_ARRAY: u8 = 0x02;
    pub const LARGE_ARRAY: u8 = 0x03;
    pub const LITERAL: u8 = 0x04;
    pub const INT16: u8 = 0x05;
    pub const UINT16: u8 = 0x06;
    pub const INT32: u8 = 0x07;
    pub const UINT32: u8 = 0x08;
    pub const INT64: u8 = 0x09;
    pub const UINT64: u8 = 0x0A;
    pub const DOUBLE: u8 = 0x0B;
    pub const STRING: u8 = 0x0C;
    pub const OPAQUE: u8 = 0x0F;

    pub const FIELD_TIMESTAMP: u8 = 7;
    pub const FIELD_DATE: u8 = 10;
    pub const FIELD_TIME: u8 = 11;
    pub const FIELD_DATETIME: u8 = 12;
    pub const FIELD_NEWDECIMAL: u8 = 246;
    pub const FIELD_VARCHAR: u8 = 15;
}

use part::*;

/// The document as text. A document of zero bytes is what a failed conversion leaves; the server reads it as `null`.
pub(crate) fn text(document: &[u8]) -> Result<String, Problem> {
    let Some((kind, value)) = document.split_first() else {
        return Ok("null".into());
    };
    let mut writer = Writer {
        out: String::new(),
        budget: document.len(),
    };
    writer.value(*kind, value, DEPTH_MAX)?;
    Ok(writer.out)
}

/// Writes a document, visiting at most as many elements and bytes of text as it has bytes: in a good document every byte is visited at
/// most once, in a damaged one offsets may point back and forth.
struct Writer {
    out: String,
    budget: usize,
}

fn broken(what: &str) -> Problem {
    Problem::Row(format!("a JSON document is not well-formed: {what}"))
}

impl Writer {
    fn spend(&mut self, bytes: usize) -> Result<(), Problem> {
        self.budget = self
            .budget
            .checked_sub(bytes)
            .ok_or_else(|| broken("its parts overlap"))?;
        Ok(())
    }

    fn push(&mut self, value: impl std::fmt::Display) {
        // Writing to a String cannot fail.
        let _ = write!(self.out, "{value}");
    }

    fn string(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        self.spend(bytes.len())?;
        let text = std::str::from_utf8(bytes).map_err(|_| broken("a string that is not UTF-8"))?;
        self.push(serde_json::Value::from(text));
        Ok(())
    }

    fn value(&mut self, kind: u8, value: &[u8], depth: u32) -> Result<(), Problem> {
        self.spend(1)?;
        let mut bytes = Bytes(value);
        match kind {
            SMALL_OBJECT => return self.container(value, 2, true, depth),
            LARGE_OBJECT => return self.container(value, 4, true, depth),
            SMALL_ARRAY => return self.container(value, 2, false, depth),
            LARGE_ARRAY => return self.container(value, 4, false, depth),
            LITERAL => self.out.push_str(match bytes.u8()? {
                0 => "null",
                1 => "true",
                2 => "false",
                _ => return Err(broken("an unknown literal")),
            }),
            INT16 => self.push(i16::from_le_bytes(bytes.array()?)),
            UINT16 => self.push(bytes.u16()?),
            INT32 => self.push(i32::from_le_bytes(bytes.array()?)),
            UINT32 => self.push(bytes.u32()?),
            INT64 => self.push(i64::from_le_bytes(bytes.array()?)),
            UINT64 => self.push(bytes.u64()?),
            DOUBLE => {
                let number = serde_json::to_string(&f64::from_le_bytes(bytes.array()?));
                self.out
                    .push_str(&number.map_err(|_| broken("a number that cannot be written"))?);
            }
            STRING => {
                let length = varlen(&mut bytes)?;
                self.string(bytes.take(length)?)?;
            }
            OPAQUE => {
                let field = bytes.u8()?;
                let length = varlen(&mut bytes)?;
                self.opaque(field, bytes.take(length)?)?;
            }
            _ => return Err(broken("an unknown type")),
        }
        Ok(())
    }

    /// An object or array: element count and byte size, key entries (offset, length u16), value entries (type, offset or value itself),
    /// keys, values. Offsets count from the first byte of `value` and are `width` bytes wide.
    fn container(&mut self, value: &[u8], width: usize, object: bool, depth: u32) -> Result<(), Problem> {
        let depth = depth.checked_sub(1).ok_or_else(|| broken("nested too deeply"))?;
        let mut head = Bytes(value);
        let (count, size) = (length(head.uint(width)?)?, length(head.uint(width)?)?);
        let value = value
            .get(..size)
            .ok_or_else(|| broken("longer than the value that holds it"))?;
        let keys_at = 2 * width;
        let key_entries = if object {
            count.saturating_mul(width + 2)
        } else {
            0
        };
        let mut keys = Bytes(value.get(keys_at..).unwrap_or_default());
        let mut entries = Bytes(
            value
                .get(keys_at.saturating_add(key_entries)..)
                .unwrap_or_default(),
        );
        self.out.push(if object { '{' } else { '[' });
        for nth in 0..count {
            if nth > 0 {
                self.out.push(',');
            }
            if object {
                let (offset, length) = (length(keys.uint(width)?)?, usize::from(keys.u16()?));
                self.string(
                    slice(value, offset)?
                        .get(..length)
                        .ok_or_else(|| broken("a key beyond its end"))?,
                )?;
                self.out.push(':');
            }
            let kind = entries.u8()?;
            let entry = entries.take(width)?;
            let inlined =
                matches!(kind, LITERAL | INT16 | UINT16) || (width == 4 && matches!(kind, INT32 | UINT32));
            let element = if inlined {
                entry
            } else {
                slice(value, length(Bytes(entry).uint(width)?)?)?
            };
            self.value(kind, element, depth)?;
        }
        self.out.push(if object { '}' } else { ']' });
        Ok(())
    }

    fn opaque(&mut self, field: u8, data: &[u8]) -> Result<(), Problem> {
        self.spend(data.len())?;
        match field {
            FIELD_NEWDECIMAL => {
                let mut bytes = Bytes(data);
                let (precision, scale) = (bytes.u8()?, bytes.u8()?);
                self.out.push_str(&decimal::text(bytes.0, precision, scale)?);
            }
            FIELD_DATE | FIELD_TIME | FIELD_DATETIME | FIELD_TIMESTAMP => {
                let packed = i64::from_le_bytes(Bytes(data).array()?);
                let (sign, packed) = if packed < 0 {
                    ("-", packed.unsigned_abs())
                } else {
                    ("", packed.unsigned_abs())
                };
                let (whole, micros) = (packed >> 24, packed & 0xFF_FFFF);
                let text = match field {
                    FIELD_TIME => format!("{sign}{}", time::packed_time(whole, micros, 6)),
                    FIELD_DATE => time::packed_datetime(whole, micros, 0)
                        .split(' ')
                        .next()
                        .unwrap_or_default()
                        .to_owned(),
                    _ => time::packed_datetime(whole, micros, 6),
                };
                self.push(format_args!("\"{text}\""));
            }
            _ => self.push(format_args!("\"base64:type{field}:{}\"", BASE64.encode(data))),
        }
        Ok(())
    }
}

fn length(value: u64) -> Result<usize, Problem> {
    usize::try_from(value).map_err(|_| broken("an impossible length"))
}

fn slice(value: &[u8], offset: usize) -> Result<&[u8], Problem> {
    value
        .get(offset..)
        .ok_or_else(|| broken("an offset beyond its end"))
}

/// Seven bits a byte, least significant first, the top bit saying that more follow; at most five bytes.
fn varlen(bytes: &mut Bytes<'_>) -> Result<usize, Problem> {
    let mut value = 0_u64;
    for shift in 0..5 {
        let byte = bytes.u8()?;
        value |= u64::from(byte & 0x7F) << (7 * shift);
        if byte & 0x80 == 0 {
            return length(value);
        }
    }
    Err(broken("an impossible length"))
}

#[cfg(test)]
mod tests {
    use super::text;

    #[test]
    fn documents_are_written_with_their_own_types() {
        assert_eq!(text(&[]).as_deref(), Ok("null"));
        assert_eq!(text(&[0x04, 1]).as_deref(), Ok("true"));
        assert_eq!(text(&[0x05, 0xFE, 0xFF]).as_deref(), Ok("-2"));
        assert_eq!(text(&[0x0C, 2, b'"', b'x']).as_deref(), Ok("\"\\\"x\""));
        // {"a": 1, "b": [null]} as MySQL 8.0 stores it.
        let nested = [
            0x00, 2, 0, 27, 0, 18, 0, 1, 0, 19, 0, 1, 0, 0x05, 1, 0, 0x02, 20, 0, b'a', b'b', 1, 0, 7, 0,
            0x04, 0, 0,
        ];
        assert_eq!(text(&nested).as_deref(), Ok("{\"a\":1,\"b\":[null]}"));
    }

    #[test]
    fn a_damaged_document_is_an_error_and_not_a_loop() {
        assert!(text(&[0x01, 0xFF, 0xFF, 0xFF, 0xFF, 8, 0, 0, 0]).is_err());
        // An array whose only element is the array itself.
        assert!(text(&[0x02, 1, 0, 7, 0, 0x02, 0, 0]).is_err());
    }
}
