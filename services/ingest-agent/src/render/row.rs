//! One change in a table: its key, and what it did column by column.

use binlog::{Cell, Change, Op, Problem};
use change::value_of;
use proto::change::v1 as pb;

use super::{
    Shown,
    line::{Line, wrap},
    screen::Style,
    text::{fit, visible, width},
    value::show,
};

/// Columns of a value in a list of many, on a terminal.
const LISTED_VALUE_COLUMNS: usize = 40;
/// Spaces before what does not fit beside the key.
const INDENT: usize = 6;

/// A change as a table shows it: everything is text already, and fit for a terminal.
pub(super) struct Row {
    op: Op,
    /// `schema.table`.
    pub(super) table: String,
    /// `column=value`, joined by commas.
    pub(super) key: String,
    /// Name, value before, value after.
    cells: Vec<(String, Option<String>, Option<String>)>,
    /// What access rules took out, joined by commas.
    redacted: String,
}

impl Row {
    /// Decodes the change.
    pub(super) fn of(change: Shown<'_>) -> Result<Self, Problem> {
        match change {
            Shown::Stored(change) => Self::stored(change),
            Shown::Sent(change, _, op) => Ok(Self::sent(change, op)),
        }
    }

    fn stored(change: &Change) -> Result<Self, Problem> {
        let (before, after) = change.cells()?;
        let table = &change.table;
        let value = |cells: &Option<Vec<Cell<'_>>>, index: usize| -> Result<Option<String>, Problem> {
            let (Some(cells), Some(column)) = (cells, table.columns.get(index)) else {
                return Ok(None);
            };
            Ok(cells
                .get(index)
                .map(|cell| column.value(*cell))
                .transpose()?
                .flatten()
                .map(|value| show(&value)))
        };
        let key: Vec<usize> = table.key.iter().map(|part| part.column as usize).collect();
        let mut identity = Vec::new();
        for index in &key {
            let text = value(if before.is_some() { &before } else { &after }, *index)?;
            let name = table.columns.get(*index).map_or("", |column| &column.name);
            identity.push(format!("{}={}", visible(name), text.as_deref().unwrap_or("?")));
        }
        let shown: Vec<usize> = match change.op {
            Op::Update => change.changed()?,
            Op::Insert | Op::Delete => (0..table.columns.len())
                .filter(|index| !key.contains(index))
                .collect(),
        };
        let mut cells = Vec::with_capacity(shown.len());
        for index in shown {
            let (old, new) = (value(&before, index)?, value(&after, index)?);
            if old.is_some() || new.is_some() {
                cells.push((visible(&table.columns[index].name).into_owned(), old, new));
            }
        }
        let key = if identity.is_empty() {
            "(no key)".to_owned()
        } else {
            identity.join(",")
        };
        Ok(Self {
            op: change.op,
            table: visible(&table.full_name()).into_owned(),
            key,
            cells,
            redacted: String::new(),
        })
    }

    fn sent(change: &pb::Change, op: Op) -> Self {
        let text = |cell: &pb::Cell| cell.value.as_ref().and_then(value_of).map(|value| show(&value));
        let value = |row: &Option<pb::Row>, name: &str| {
            let cell = cells(row).iter().find(|cell| cell.column == name)?;
            text(cell)
        };
        let identity = cells(&change.key);
        let shown: Vec<&str> = match op {
            Op::Update => change.changed.iter().map(String::as_str).collect(),
            Op::Insert | Op::Delete => [&change.before, &change.after]
                .into_iter()
                .flat_map(cells)
                .map(|cell| cell.column.as_str())
                .filter(|name| identity.iter().all(|key| key.column != *name))
                .collect(),
        };
        let differences = shown.into_iter().filter_map(|name| {
            let (old, new) = (value(&change.before, name), value(&change.after, name));
            (old.is_some() || new.is_some()).then(|| (visible(name).into_owned(), old, new))
        });
        let part = |cell: &pb::Cell| {
            let text = text(cell);
            format!("{}={}", visible(&cell.column), text.as_deref().unwrap_or("?"))
        };
        let key = match identity {
            [] if change.key.is_none() => "(no key)".to_owned(),
            [] => "(key redacted)".to_owned(),
            parts => parts.iter().map(part).collect::<Vec<_>>().join(","),
        };
        Self {
            op,
            table: visible(&format!("{}.{}", change.schema, change.table)).into_owned(),
            key,
            cells: differences.collect(),
            redacted: visible(&change.redacted.join(", ")).into_owned(),
        }
    }

    /// The row in as few lines as `limit` allows.
    pub(super) fn lines(&self, table: usize, key: usize, limit: Option<usize>) -> Vec<Line> {
        let style = match self.op {
            Op::Insert => Style::Green,
            Op::Update => Style::Yellow,
            Op::Delete => Style::Red,
        };
        let mut head = Line::of(Style::Plain, "  ");
        head.cell(style, self.op.as_str(), 6);
        head.cell(Style::Plain, &fit(&self.table, table), table);
        head.cell(Style::Bold, &fit(&self.key, key), key);
        let whole = wrap(head.clone(), self.pieces(None), ", ", 0, None);
        if let [line] = &whole[..]
            && limit.is_none_or(|limit| line.columns() <= limit)
        {
            return whole;
        }
        let indent = " ".repeat(INDENT);
        let room = limit.map(|limit| limit.saturating_sub(INDENT));
        let mut lines = vec![head.cut(limit)];
        if self.op == Op::Update {
            lines.extend(
                self.pieces(room)
                    .into_iter()
                    .flat_map(|piece| wrap(Line::of(Style::Plain, &*indent), vec![piece], "", 0, limit)),
            );
        } else {
            lines.extend(wrap(
                Line::of(Style::Plain, &*indent),
                self.pieces(room),
                ", ",
                INDENT,
                limit,
            ));
        }
        lines
    }

    /// One piece per column, each at most `room` columns wide.
    fn pieces(&self, room: Option<usize>) -> Vec<Line> {
        if self.cells.is_empty() && self.op == Op::Update && self.redacted.is_empty() {
            return vec![Line::of(Style::Dim, "(no logged column differs)")];
        }
        let mut pieces: Vec<Line> = self
            .cells
            .iter()
            .map(|(name, old, new)| self.piece(name, old.as_deref(), new.as_deref(), room))
            .collect();
        if !self.redacted.is_empty() {
            let text = format!("(redacted: {})", self.redacted);
            pieces.push(Line::of(Style::Dim, fit(&text, room.unwrap_or(usize::MAX))));
        }
        pieces
    }

    fn piece(&self, name: &str, old: Option<&str>, new: Option<&str>, room: Option<usize>) -> Line {
        let name_room = room.map_or(usize::MAX, |room| room / 2);
        let mut line = Line::of(Style::Dim, format!("{}: ", fit(name, name_room)));
        if self.op != Op::Update {
            let value_room = room.map_or(usize::MAX, |room| {
                LISTED_VALUE_COLUMNS.min(room.saturating_sub(line.columns()))
            });
            line.push(Style::Plain, fit(old.or(new).unwrap_or("?"), value_room));
            return line;
        }
        let (old, new) = (old.unwrap_or("?"), new.unwrap_or("?"));
        let room = room.map_or(usize::MAX, |room| room.saturating_sub(line.columns() + 3));
        // A short value leaves its room to the other one.
        let old_room = (room / 2).max(room.saturating_sub(width(new)));
        let new_room = (room / 2).max(room.saturating_sub(width(old)));
        line.push(Style::Red, fit(old, old_room));
        line.push(Style::Plain, " → ");
        line.push(Style::Green, fit(new, new_room));
        line
    }
}

/// The columns of an image; none where there is no such image.
fn cells(row: &Option<pb::Row>) -> &[pb::Cell] {
    row.as_ref().map_or(&[], |row| &row.cells)
}
