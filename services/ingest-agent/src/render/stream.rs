//! Changes for programs: JSON, one JSON object per line, CSV. Nothing is cut, and each is written as soon as it is known.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{ChangeError, Render, Shown};

/// One JSON object per line, in [`binlog::Change::write_json`]'s form.
pub(crate) struct Ndjson<W> {
    out: W,
    line: String,
}

impl<W: Write> Ndjson<W> {
    /// Writes to `out`.
    pub(crate) fn new(out: W) -> Self {
        Self {
            out,
            line: String::new(),
        }
    }
}

impl<W: Write> Render for Ndjson<W> {
    fn change(&mut self, change: Shown<'_>) -> Result<(), ChangeError> {
        self.line.clear();
        change.write_json(&mut self.line)?;
        self.line.push('\n');
        Ok(self.out.write_all(self.line.as_bytes())?)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn finish(&mut self) -> io::Result<()> {
        self.flush()
    }
}

/// One JSON array of the same objects. It is closed only when the answer is whole, so that a run that failed half-way leaves text
/// that no parser takes for an answer.
pub(crate) struct Json<W> {
    out: W,
    item: String,
    any: bool,
}

impl<W: Write> Json<W> {
    /// Writes to `out`.
    pub(crate) fn new(out: W) -> Self {
        Self {
            out,
            item: String::new(),
            any: false,
        }
    }
}

impl<W: Write> Render for Json<W> {
    fn change(&mut self, change: Shown<'_>) -> Result<(), ChangeError> {
        self.item.clear();
        self.item.push_str(if self.any { ",\n" } else { "[\n" });
        change.write_json(&mut self.item)?;
        self.any = true;
        Ok(self.out.write_all(self.item.as_bytes())?)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn finish(&mut self) -> io::Result<()> {
        self.out.write_all(if self.any { b"\n]\n" } else { b"[]\n" })?;
        self.flush()
    }
}

/// The columns of the CSV form. New ones are only ever added at the end.
pub(crate) const CSV_COLUMNS: [&str; 16] = [
    "epoch",
    "file",
    "offset",
    "ordinal",
    "gtid",
    "commit_time",
    "thread_id",
    "schema",
    "table",
    "op",
    "key",
    "changed",
    "before",
    "after",
    "query",
    "schema_version",
];

/// RFC 4180, one record per change; what has columns of its own (key, changed, before, after) is JSON text in one field.
pub(crate) struct Csv<W: Write> {
    out: csv::Writer<W>,
    text: String,
    headed: bool,
}

/// The parts of a change's JSON that go into fields as they stand, so that both forms can never differ.
#[derive(Deserialize)]
struct Parts<'a> {
    #[serde(borrow)]
    key: &'a RawValue,
    #[serde(borrow)]
    changed: &'a RawValue,
    #[serde(borrow)]
    before: Option<&'a RawValue>,
    #[serde(borrow)]
    after: Option<&'a RawValue>,
}

/// The system's own error, whose kind tells a closed pipe from a full disk; the csv crate's conversion hides it.
fn output(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}

impl<W: Write> Csv<W> {
    /// Writes to `out`.
    pub(crate) fn new(out: W) -> Self {
        Self {
            out: csv::Writer::from_writer(out),
            text: String::new(),
            headed: false,
        }
    }

    fn head(&mut self) -> io::Result<()> {
        if !self.headed {
            self.headed = true;
            self.out.write_record(CSV_COLUMNS).map_err(output)?;
        }
        Ok(())
    }
}

impl<W: Write> Render for Csv<W> {
    fn change(&mut self, change: Shown<'_>) -> Result<(), ChangeError> {
        self.head()?;
        self.text.clear();
        change.write_json(&mut self.text)?;
        let parts: Parts<'_> = serde_json::from_str(&self.text).map_err(io::Error::from)?;
        let head = change.head();
        let record: [Cow<'_, str>; CSV_COLUMNS.len()] = [
            head.epoch.to_string().into(),
            head.file.into(),
            head.offset.to_string().into(),
            head.ordinal.to_string().into(),
            head.gtid.map(|gtid| gtid.to_string()).unwrap_or_default().into(),
            head.commit_time.to_string().into(),
            head.thread_id.map(|id| id.to_string()).unwrap_or_default().into(),
            change.schema().into(),
            change.table().into(),
            change.op().as_str().into(),
            parts.key.get().into(),
            parts.changed.get().into(),
            parts.before.map_or("", RawValue::get).into(),
            parts.after.map_or("", RawValue::get).into(),
            change.query().unwrap_or_default().into(),
            change.schema_version().to_string().into(),
        ];
        let record = record.iter().map(|field| field.as_bytes());
        Ok(self.out.write_record(record).map_err(output)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.head()?;
        self.out.flush()
    }

    fn finish(&mut self) -> io::Result<()> {
        self.flush()
    }
}
