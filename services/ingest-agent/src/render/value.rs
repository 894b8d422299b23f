//! One value as a person reads it.

use std::fmt::Write;

use binlog::Value;

use super::text::{quote, visible};

/// Bytes of a binary value that are shown; people compare the beginning and the length, machines read the other formats.
const BINARY_BYTES_SHOWN: usize = 32;

/// The value as SQL would write it: text in quotes, numbers and NULL bare, bytes in hexadecimal.
pub(crate) fn show(value: &Value<'_>) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Int(v) => v.to_string(),
        Value::UInt(v) | Value::Bit(v) => v.to_string(),
        Value::Float(v) => v.to_string(),
        Value::Double(v) => v.to_string(),
        Value::Year(v) => format!("{v:04}"),
        Value::Decimal(v) | Value::Date(v) | Value::Time(v) | Value::DateTime(v) => v.clone(),
        Value::Timestamp(v) if v.starts_with("0000-00-00") => v.clone(),
        Value::Timestamp(v) => format!("{v}Z"),
        Value::Enum(_, label) => quote(label),
        Value::Set(_, labels) => quote(labels),
        Value::Text(text) => quote(text),
        Value::Json(text) => visible(text).into_owned(),
        Value::Bytes(bytes) => hex(bytes),
        Value::Geometry(0, wkb) => hex(wkb),
        Value::Geometry(srid, wkb) => format!("{} srid {srid}", hex(wkb)),
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut out = String::from("0x");
    for byte in bytes.iter().take(BINARY_BYTES_SHOWN) {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02X}");
    }
    if bytes.len() > BINARY_BYTES_SHOWN {
        let _ = write!(out, "… ({} bytes)", bytes.len());
    }
    out
}

#[cfg(test)]
mod tests {
    use binlog::Value;

    use super::show;

    #[test]
    fn values_read_as_sql_writes_them() {
        assert_eq!(show(&Value::Null), "NULL");
        assert_eq!(show(&Value::Text("NULL".into())), "'NULL'");
        assert_eq!(show(&Value::UInt(u64::MAX)), "18446744073709551615");
        assert_eq!(show(&Value::Double(0.1)), "0.1");
        assert_eq!(
            show(&Value::Timestamp("2026-11-21 10:00:00".into())),
            "2026-11-21 10:00:00Z"
        );
        assert_eq!(show(&Value::Bytes(vec![0, 255].into())), "0x00FF");
        assert!(show(&Value::Bytes(vec![7; 100].into())).ends_with("… (100 bytes)"));
    }
}
