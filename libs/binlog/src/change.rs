//! A change as it is kept: where it stands, whose it is, and both images.

use std::{fmt::Write, sync::Arc};

use serde::{Deserialize, Serialize};
use types::Micros;

use crate::{Cell, DdlTarget, Gtid, Image, LogPos, Op, RowKey, Table, error::Problem};

/// Where a change stands in everything a store has seen. The order of positions is the order of the log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Counts the source's timelines: it grows when the source is replaced or set back, so that file names begin anew.
    pub epoch: u32,
    /// Where the transaction begins.
    #[serde(flatten)]
    pub at: LogPos,
    /// The change's number within the transaction, from 0.
    pub ordinal: u64,
}

/// The cells of one image, one per column of the table.
pub type Row<'a> = Vec<Cell<'a>>;

/// One row change, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where it stands.
    pub position: Position,
    /// Its transaction's GTID.
    pub gtid: Option<Gtid>,
    /// When its transaction was committed.
    pub commit_time: Micros,
    /// The connection that made it.
    pub thread_id: Option<u32>,
    /// The table as it was then.
    pub table: Arc<Table>,
    /// The store's number for that definition.
    pub schema_version: u32,
    /// What it did.
    pub op: Op,
    /// The row's identity before the change (after it, for an insert).
    pub key: RowKey,
    /// The row's identity after the change, if the change is an update of the key.
    pub new_key: Option<RowKey>,
    /// The row before, in [`Image`]'s stored form; none for an insert.
    pub before: Option<Vec<u8>>,
    /// The row after, in [`Image`]'s stored form; none for a delete.
    pub after: Option<Vec<u8>>,
    /// The text of the statement, if the source logs it.
    pub query: Option<Arc<str>>,
}

/// A statement of the log that changed definitions rather than rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaChange {
    /// Where it stands.
    pub position: Position,
    /// Its GTID.
    pub gtid: Option<Gtid>,
    /// When it was committed.
    pub commit_time: Micros,
    /// The connection that made it.
    pub thread_id: Option<u32>,
    /// The tables it is about.
    pub targets: Vec<DdlTarget>,
    /// The schema that names without one belong to.
    pub default_schema: String,
    /// The statement.
    pub text: String,
}

impl Change {
    /// The row's cells before and after, one per column; none where there is no such image.
    pub fn cells(&self) -> Result<(Option<Row<'_>>, Option<Row<'_>>), Problem> {
        let before = self
            .before
            .as_deref()
            .map(|raw| Image::from_bytes(raw, &self.table)?.to_cells(&self.table))
            .transpose()?;
        let after = self
            .after
            .as_deref()
            .map(|raw| Image::from_bytes(raw, &self.table)?.to_cells(&self.table))
            .transpose()?;
        Ok((before, after))
    }

    /// Indices of the columns an update changed; empty for inserts and deletes. A column absent from the after image was not changed.
    pub fn changed(&self) -> Result<Vec<usize>, Problem> {
        let (Some(before), Some(after)) = self.cells()? else {
            return Ok(Vec::new());
        };
        Ok((0..after.len())
            .filter(|i| after[*i] != Cell::Absent && before[*i] != after[*i])
            .collect())
    }

    /// Appends the change as one JSON object, the form every output and every service of Trailmesh gives it.
    pub fn write_json(&self, out: &mut String) -> Result<(), Problem> {
        let (before, after) = self.cells()?;
        let Position { epoch, at, ordinal } = &self.position;
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            "{{\"position\":{{\"epoch\":{epoch},\"file\":{},\"offset\":{},\"ordinal\":{ordinal}}}",
            quote(at.file.as_str()),
            at.offset
        );
        let _ = write!(
            out,
            ",\"gtid\":{}",
            self.gtid
                .as_ref()
                .map_or_else(|| "null".into(), |g| quote(&g.to_string()))
        );
        let _ = write!(out, ",\"commit_time\":\"{}\"", self.commit_time);
        let _ = write!(
            out,
            ",\"thread_id\":{}",
            self.thread_id.map_or_else(|| "null".into(), |id| id.to_string())
        );
        let _ = write!(
            out,
            ",\"schema\":{},\"table\":{},\"op\":\"{}\"",
            quote(&self.table.schema),
            quote(&self.table.name),
            self.op.as_str()
        );
        out.push_str(",\"key\":");
        match before.as_deref().or(after.as_deref()) {
            Some(cells) if !self.table.key.is_empty() => self.write_cells(
                cells,
                &self
                    .table
                    .key
                    .iter()
                    .map(|part| part.column as usize)
                    .collect::<Vec<_>>(),
                out,
            )?,
            _ => out.push_str("null"),
        }
        let all: Vec<usize> = (0..self.table.columns.len()).collect();
        for (name, cells) in [("before", &before), ("after", &after)] {
            let _ = write!(out, ",\"{name}\":");
            match cells {
                None => out.push_str("null"),
                Some(cells) => self.write_cells(cells, &all, out)?,
            }
        }
        let changed: Vec<String> = self
            .changed()?
            .iter()
            .map(|i| quote(&self.table.columns[*i].name))
            .collect();
        let _ = write!(out, ",\"changed\":[{}]", changed.join(","));
        let _ = write!(
            out,
            ",\"query\":{}",
            self.query.as_deref().map_or_else(|| "null".into(), quote)
        );
        let _ = write!(out, ",\"schema_version\":{}}}", self.schema_version);
        Ok(())
    }

    fn write_cells(&self, cells: &[Cell<'_>], columns: &[usize], out: &mut String) -> Result<(), Problem> {
        out.push('{');
        let mut separator = "";
        for index in columns {
            let (Some(column), Some(cell)) = (self.table.columns.get(*index), cells.get(*index)) else {
                continue;
            };
            if let Some(value) = column.value(*cell)? {
                let _ = write!(out, "{separator}{}:", quote(&column.name));
                value.write_json(out);
                separator = ",";
            }
        }
        out.push('}');
        Ok(())
    }
}

fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
