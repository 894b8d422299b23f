//! MySQL's binary JSON as an expression that makes the same document.
//!
//! JSON text cannot say everything a document can hold: decimals, dates, times, unsigned integers and binary strings come back from text
//! as something else. A document with none of them is cast from its text; one with any is built from its parts.

use binlog::{Column, ColumnType, Value, jsonb::part::*};

use super::literal::{Obstacle, hex, is_plain, push, quoted};

const DAMAGED: Obstacle = Obstacle::Damaged;

type Built = Result<(), Obstacle>;

/// Appends an expression of type JSON that equals the document, types included.
pub(super) fn expression(document: &[u8], out: &mut String) -> Built {
    // This also finds every damage, so that the walk below meets a sound document.
    let whole = text(document)?;
    let mut builder = Builder::default();
    let root = document.split_first();
    if let Some((kind, value)) = root {
        builder.value(*kind, value)?;
    }
    if !builder.rich {
        out.push_str("CAST(");
        string(whole.as_bytes(), out);
        out.push_str(" AS JSON)");
        return Ok(());
    }
    match root {
        Some((&(SMALL_OBJECT | LARGE_OBJECT | SMALL_ARRAY | LARGE_ARRAY), _)) => out.push_str(&builder.out),
        // Not every scalar can be cast to JSON, but every scalar can be put into an array and taken out again.
        _ => push(
            out,
            format_args!("JSON_EXTRACT(JSON_ARRAY({}), '$[0]')", builder.out),
        ),
    }
    Ok(())
}

/// A document, or a part of one, as JSON text.
fn text(document: &[u8]) -> Result<String, Obstacle> {
    let column = Column {
        name: String::new(),
        ty: ColumnType::Json { length: 0 },
        nullable: true,
        invisible: false,
        generated: None,
        on_update: None,
    };
    match column.decode(document) {
        Ok(Value::Json(text)) => Ok(text),
        _ => Err(DAMAGED),
    }
}

#[derive(Debug, Default)]
struct Builder {
    out: String,
    /// Something was met that JSON text cannot say.
    rich: bool,
}

impl Builder {
    fn value(&mut self, kind: u8, value: &[u8]) -> Built {
        match kind {
            SMALL_OBJECT => self.container(value, 2, true),
            LARGE_OBJECT => self.container(value, 4, true),
            SMALL_ARRAY => self.container(value, 2, false),
            LARGE_ARRAY => self.container(value, 4, false),
            STRING => {
                let (length, rest) = varlen(value)?;
                string(rest.get(..length).ok_or(DAMAGED)?, &mut self.out);
                Ok(())
            }
            DOUBLE => {
                let bytes = value.first_chunk().ok_or(DAMAGED)?;
                push(&mut self.out, format_args!("{:e}", f64::from_le_bytes(*bytes)));
                Ok(())
            }
            OPAQUE => self.opaque(value),
            LITERAL | INT16 | INT32 | INT64 | UINT16 | UINT32 | UINT64 => self.plain(kind, value),
            _ => Err(DAMAGED),
        }
    }

    fn plain(&mut self, kind: u8, value: &[u8]) -> Built {
        let text = scalar(kind, value)?;
        // Text gives an unsigned integer only where a signed one has no room.
        if matches!(kind, UINT16 | UINT32 | UINT64) && text.parse::<i64>().is_ok() {
            self.rich = true;
            push(&mut self.out, format_args!("CAST({text} AS UNSIGNED)"));
        } else {
            self.out.push_str(&text);
        }
        Ok(())
    }

    /// Element count and byte size; for an object, key entries (offset, length u16); value entries (type, offset or value itself).
    fn container(&mut self, value: &[u8], width: usize, object: bool) -> Built {
        let count = number(value, 0, width)?;
        let mut entry = 2 * width + if object { count * (width + 2) } else { 0 };
        self.out
            .push_str(if object { "JSON_OBJECT(" } else { "JSON_ARRAY(" });
        for nth in 0..count {
            if nth > 0 {
                self.out.push_str(", ");
            }
            if object {
                let key = 2 * width + nth * (width + 2);
                let (start, length) = (number(value, key, width)?, number(value, key + width, 2)?);
                string(value.get(start..start + length).ok_or(DAMAGED)?, &mut self.out);
                self.out.push_str(", ");
            }
            let kind = *value.get(entry).ok_or(DAMAGED)?;
            let inlined =
                matches!(kind, LITERAL | INT16 | UINT16) || (width == 4 && matches!(kind, INT32 | UINT32));
            let start = if inlined {
                entry + 1
            } else {
                number(value, entry + 1, width)?
            };
            self.value(kind, value.get(start..).ok_or(DAMAGED)?)?;
            entry += 1 + width;
        }
        self.out.push(')');
        Ok(())
    }

    fn opaque(&mut self, value: &[u8]) -> Built {
        self.rich = true;
        let (field, rest) = value.split_first().ok_or(DAMAGED)?;
        let (length, rest) = varlen(rest)?;
        let data = rest.get(..length).ok_or(DAMAGED)?;
        let text = scalar(OPAQUE, value)?;
        let text = text.trim_matches('"');
        match *field {
            FIELD_NEWDECIMAL => {
                let [precision, scale, ..] = *data else {
                    return Err(DAMAGED);
                };
                push(
                    &mut self.out,
                    format_args!("CAST({text} AS DECIMAL({precision}, {scale}))"),
                );
            }
            // A date with a zero in it casts to NULL.
            FIELD_DATE | FIELD_DATETIME | FIELD_TIMESTAMP
                if text.get(4..).is_none_or(|rest| rest.contains("-00")) =>
            {
                return Err(Obstacle::JsonDate);
            }
            FIELD_DATE => push(&mut self.out, format_args!("CAST('{text}' AS DATE)")),
            FIELD_TIME => push(&mut self.out, format_args!("CAST('{text}' AS TIME(6))")),
            FIELD_DATETIME | FIELD_TIMESTAMP => {
                push(&mut self.out, format_args!("CAST('{text}' AS DATETIME(6))"))
            }
            FIELD_VARCHAR => hex(data, &mut self.out),
            _ => return Err(Obstacle::JsonBinary),
        }
        Ok(())
    }
}

/// A scalar as JSON text, by way of a document that holds nothing else.
fn scalar(kind: u8, value: &[u8]) -> Result<String, Obstacle> {
    let mut document = vec![kind];
    let length = match kind {
        LITERAL => 1,
        INT16 | UINT16 => 2,
        INT32 | UINT32 => 4,
        INT64 | UINT64 => 8,
        _ => value.len(),
    };
    document.extend_from_slice(value.get(..length).ok_or(DAMAGED)?);
    text(&document)
}

fn string(bytes: &[u8], out: &mut String) {
    if is_plain(bytes) {
        quoted(bytes, out);
    } else {
        out.push_str("_utf8mb4 ");
        hex(bytes, out);
    }
}

/// A little-endian integer of `width` bytes.
fn number(value: &[u8], at: usize, width: usize) -> Result<usize, Obstacle> {
    let bytes = value.get(at..at + width).ok_or(DAMAGED)?;
    Ok(bytes
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | usize::from(*byte)))
}

/// Seven bits a byte, least significant first, the top bit saying that more follow; at most five bytes.
fn varlen(value: &[u8]) -> Result<(usize, &[u8]), Obstacle> {
    let mut length = 0;
    for (nth, byte) in value.iter().take(5).enumerate() {
        length |= usize::from(byte & 0x7F) << (7 * nth);
        if byte & 0x80 == 0 {
            return Ok((length, &value[nth + 1..]));
        }
    }
    Err(DAMAGED)
}

#[cfg(test)]
mod tests {
    use super::{Obstacle, expression};

    fn sql(document: &[u8]) -> Result<String, Obstacle> {
        let mut out = String::new();
        expression(document, &mut out).map(|()| out)
    }

    #[test]
    fn a_document_that_text_can_say_is_cast_from_text() {
        assert_eq!(sql(&[]).as_deref(), Ok("CAST('null' AS JSON)"));
        assert_eq!(sql(&[0x05, 0xFE, 0xFF]).as_deref(), Ok("CAST('-2' AS JSON)"));
        assert_eq!(
            sql(b"\x0C\x01'").as_deref(),
            Ok("CAST(_utf8mb4 X'222722' AS JSON)")
        );
        let nested = b"\x00\x02\0\x1B\0\x12\0\x01\0\x13\0\x01\0\x05\x01\0\x02\x14\0ab\x01\0\x07\0\x04\0\0";
        assert_eq!(
            sql(nested).as_deref(),
            Ok("CAST('{\"a\":1,\"b\":[null]}' AS JSON)")
        );
    }

    #[test]
    fn a_document_that_text_cannot_say_is_built_from_its_parts() {
        assert_eq!(
            sql(&[0x06, 5, 0]).as_deref(),
            Ok("JSON_EXTRACT(JSON_ARRAY(CAST(5 AS UNSIGNED)), '$[0]')")
        );
        // DECIMAL(3,2) 1.10 in an array, and a binary string.
        let decimal = b"\x02\x01\0\x0D\0\x0F\x07\0\xF6\x04\x03\x02\x81\x0A";
        assert_eq!(
            sql(decimal).as_deref(),
            Ok("JSON_ARRAY(CAST(1.10 AS DECIMAL(3, 2)))")
        );
        assert_eq!(
            sql(b"\x0F\x0F\x02\xFF\x00").as_deref(),
            Ok("JSON_EXTRACT(JSON_ARRAY(X'FF00'), '$[0]')")
        );
    }

    #[test]
    fn what_no_expression_makes_is_refused() {
        assert!(sql(b"\x0F\xFC\x01a").is_err());
        assert!(sql(&[0x0F, 10, 8, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
        assert!(sql(&[0x01, 0xFF, 0xFF, 0xFF, 0xFF, 8, 0, 0, 0]).is_err());
    }
}
