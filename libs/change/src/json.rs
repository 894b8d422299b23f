//! The JSON of a change: what `trail --format json` prints.

use std::fmt::{self, Write};

use proto::change::v1 as pb;
use types::Micros;

use crate::wire::value_of;

/// Appends a change as one JSON object. After the members that [`binlog::Change::write_json`] writes comes `redacted`, if something was taken out.
pub fn write_change(change: &pb::Change, out: &mut String) {
    let none = pb::Position::default();
    let position = change.position.as_ref().unwrap_or(&none);
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "{{\"position\":{{\"epoch\":{},\"file\":{},\"offset\":{},\"ordinal\":{}}}",
        position.epoch,
        quote(&position.file),
        position.offset,
        position.ordinal
    );
    let gtid = Some(&change.gtid).filter(|gtid| !gtid.is_empty());
    let _ = write!(out, ",\"gtid\":{}", OrNull(gtid.map(|gtid| quote(gtid))));
    let _ = write!(out, ",\"commit_time\":\"{}\"", Micros(change.commit_micros));
    let _ = write!(out, ",\"thread_id\":{}", OrNull(change.thread_id));
    let op = match change.op() {
        pb::Op::Insert => "insert",
        pb::Op::Update => "update",
        pb::Op::Delete => "delete",
        pb::Op::Unspecified => "",
    };
    let _ = write!(
        out,
        ",\"schema\":{},\"table\":{},\"op\":\"{op}\"",
        quote(&change.schema),
        quote(&change.table)
    );
    for (name, row) in [
        ("key", &change.key),
        ("before", &change.before),
        ("after", &change.after),
    ] {
        let _ = write!(out, ",\"{name}\":");
        match row {
            Some(row) => write_row(row, out),
            None => out.push_str("null"),
        }
    }
    list("changed", &change.changed, out);
    let _ = write!(out, ",\"query\":{}", OrNull(change.query.as_deref().map(quote)));
    let _ = write!(out, ",\"schema_version\":{}", change.schema_version);
    if !change.redacted.is_empty() {
        list("redacted", &change.redacted, out);
    }
    out.push('}');
}

/// Appends a row as one JSON object.
pub fn write_row(row: &pb::Row, out: &mut String) {
    out.push('{');
    let mut separator = "";
    for cell in &row.cells {
        let Some(value) = &cell.value else { continue };
        let _ = write!(out, "{separator}{}:", quote(&cell.column));
        write_value(value, out);
        separator = ",";
    }
    out.push('}');
}

/// Appends a value as JSON; `null` for one that carries nothing.
pub fn write_value(value: &pb::Value, out: &mut String) {
    match value_of(value) {
        Some(value) => value.write_json(out),
        None => out.push_str("null"),
    }
}

fn list(name: &str, items: &[String], out: &mut String) {
    let _ = write!(out, ",\"{name}\":[");
    let mut separator = "";
    for item in items {
        let _ = write!(out, "{separator}{}", quote(item));
        separator = ",";
    }
    out.push(']');
}

/// What there is, or `null`.
struct OrNull<T>(Option<T>);

impl<T: fmt::Display> fmt::Display for OrNull<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("null"),
        }
    }
}

/// A text as JSON.
struct Quoted<'t>(&'t str);

fn quote(text: &str) -> Quoted<'_> {
    Quoted(text)
}

impl fmt::Display for Quoted<'_> {
    /// Written as it is where nothing has to be escaped, which is nearly always, and as serde_json does elsewhere.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let special = |byte: u8| byte < b' ' || byte == b'"' || byte == b'\\';
        if self.0.bytes().any(special) {
            return serde_json::Value::from(self.0).fmt(f);
        }
        f.write_char('"')?;
        f.write_str(self.0)?;
        f.write_char('"')
    }
}
