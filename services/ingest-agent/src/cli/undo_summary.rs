//! What a person must know about a plan before running its script.

use std::{collections::BTreeSet, fmt::Write as _, path::Path, sync::Arc};

use binlog::{ColumnType, Op, Table};
use proto::change::v1 as pb;
use trail::Status;
use undo::{Class, Conflict, Dialect, Mode, Plan, PlannedChange};

use super::{args, note};
use crate::render::{
    screen::{Screen, Style},
    text::{fit, visible},
};

/// Rows left out that are shown without `--explain`.
pub(super) const SHOWN_ROWS: usize = 10;

/// The newest definition of a table.
pub(super) type Latest<'a> = &'a dyn Fn(&str, &str) -> Option<Arc<Table>>;

/// Tells the plan's summary on standard error.
pub(super) fn tell(
    plan: &Plan,
    status: &Status,
    tables: &BTreeSet<(String, String)>,
    latest: Latest<'_>,
    args: &args::Undo,
) {
    let summary = plan.summary();
    let names: Vec<String> = tables
        .iter()
        .map(|(schema, table)| format!("{schema}.{table}"))
        .collect();
    head(summary.changes, &names, plan.mode() == Mode::Safe);
    classes(&|class| summary.of(class), summary.changes, summary.included);
    let stamps = rows(plan, latest, args.explain);
    if !stamps.is_empty() && args.auto_columns.is_empty() {
        let names = stamps.into_iter().collect::<Vec<_>>();
        note::note(&format!(
            "rows are left out only because {} changed later; if the server sets it on every update by itself, give --auto-column {}",
            names.join(", "),
            names.join(" --auto-column ")
        ));
    }
    for text in plan.notes() {
        note::note(text);
    }
    let place =
        |position: &Option<binlog::Position>| position.as_ref().map(|p| p.at.to_string()).unwrap_or_default();
    let known = status
        .position
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default();
    let last_commit = status
        .last_commit
        .map(|time| format!(" ({time})"))
        .unwrap_or_default();
    foot(
        &place(&summary.first),
        &place(&summary.last),
        &format!("{known}{last_commit}"),
        summary.statements,
        &format!("sha256 {}", hex(&plan.digest())),
    );
    let client = match plan.dialect() {
        Dialect::Mysql => "mysql",
        Dialect::Mariadb => "mariadb",
    };
    let output = args.output.as_deref().filter(|path| *path != Path::new("-"));
    apply(summary.statements, client, output);
}

/// The first line.
pub(super) fn head(changes: u64, tables: &[String], safe: bool) {
    let bold = Style::Bold.paint("undo", Screen::stderr().colour);
    let mode = if safe { "safe" } else { "force" };
    note::raw(&format!(
        "{bold} of {} in {}, mode {mode}",
        count(changes, "change"),
        visible(&tables.join(", "))
    ));
}

/// The lines after the rows. `digest` says of what it is one.
pub(super) fn foot(first: &str, last: &str, known: &str, statements: u64, digest: &str) {
    note::raw(&visible(&format!(
        "from {first} to {last}; later changes known up to {known}"
    )));
    note::raw(&visible(&format!("statements: {statements}, {digest}")));
}

/// How many changes are of each class.
pub(super) fn classes(of: &dyn Fn(Class) -> u64, changes: u64, included: u64) {
    let colour = Screen::stderr().colour;
    for class in Class::ALL.into_iter().filter(|class| of(*class) > 0) {
        let style = match class {
            Class::Clean | Class::Disjoint => Style::Green,
            _ => Style::Yellow,
        };
        let name = style.paint(&format!("{class:<10}"), colour);
        note::raw(&format!("  {name} {:>8}  {}", of(class), meaning(class)));
    }
    let left_out = changes.saturating_sub(included);
    note::raw(&format!("  {included} in the script, {left_out} left out"));
}

/// The class in the words of somebody who has not read the manual.
fn meaning(class: Class) -> &'static str {
    match class {
        Class::Clean => "nothing came after",
        Class::Disjoint => "later changes touched other columns, which stay",
        Class::Overlap => "the same columns were changed again later",
        Class::Vanished => "the row was deleted later",
        Class::Reborn => "the row was deleted, and inserted again later",
        Class::KeyTaken => "its key belongs to another row now",
        Class::Unknown => "what came after is not known for certain",
    }
}

/// A chosen change as it is told.
pub(super) struct Told {
    op: Op,
    table: String,
    key: String,
    class: Class,
    included: bool,
    why: String,
    columns: Vec<ToldColumn>,
}

/// A column that is not restored, or whose later value is overwritten.
struct ToldColumn {
    column: String,
    wanted: String,
    found: String,
    by: Option<String>,
    redacted: bool,
}

impl Told {
    fn planned(row: PlannedChange) -> Self {
        let column = |conflict: Conflict| ToldColumn {
            by: conflict.by.map(|by| {
                let name = by
                    .gtid
                    .as_ref()
                    .map_or_else(|| by.position.at.to_string(), ToString::to_string);
                format!("{name} at {}", by.commit_time)
            }),
            column: conflict.column,
            wanted: conflict.wanted,
            found: conflict.found,
            redacted: false,
        };
        Self {
            op: row.op,
            table: format!("{}.{}", row.schema, row.table),
            key: row.key,
            class: row.class,
            included: row.included,
            why: row.why,
            columns: row.conflicts.into_iter().map(column).collect(),
        }
    }

    /// From the mesh; none if the message does not say what was done, or how later changes stand to it.
    pub(super) fn sent(conflict: &pb::UndoConflict) -> Option<Self> {
        let column = |column: &pb::UndoConflictColumn| ToldColumn {
            column: column.column.clone(),
            wanted: column.wanted.clone(),
            found: column.found.clone(),
            by: column.by.as_ref().map(|by| format!("{}:{}", by.file, by.offset)),
            redacted: column.redacted,
        };
        Some(Self {
            op: match conflict.op() {
                pb::Op::Unspecified => return None,
                pb::Op::Insert => Op::Insert,
                pb::Op::Update => Op::Update,
                pb::Op::Delete => Op::Delete,
            },
            table: format!("{}.{}", conflict.schema, conflict.table),
            key: conflict.key.clone(),
            class: Class::ALL
                .into_iter()
                .find(|class| sent(*class) == conflict.class())?,
            included: conflict.included,
            why: conflict.why.clone(),
            columns: conflict.columns.iter().map(column).collect(),
        })
    }
}

/// The class in the words of the mesh.
pub(super) fn sent(class: Class) -> pb::UndoClass {
    match class {
        Class::Clean => pb::UndoClass::Clean,
        Class::Disjoint => pb::UndoClass::Disjoint,
        Class::Overlap => pb::UndoClass::Overlap,
        Class::Vanished => pb::UndoClass::Vanished,
        Class::Reborn => pb::UndoClass::Reborn,
        Class::KeyTaken => pb::UndoClass::KeyTaken,
        Class::Unknown => pb::UndoClass::Unknown,
    }
}

/// Rows one by one: those left out and those that would overwrite something, or all with their reasons. Gives the columns that
/// hold times and alone keep rows out of the script: they may be set by the server.
fn rows(plan: &Plan, latest: Latest<'_>, explain: bool) -> BTreeSet<String> {
    let mut stamps = BTreeSet::new();
    let mut rows = Rows::default();
    for row in plan
        .rows()
        .filter(|row| explain || !row.included || !row.conflicts.is_empty())
    {
        if !row.included
            && row
                .conflicts
                .iter()
                .all(|conflict| is_time(&row, &conflict.column, latest))
        {
            stamps.extend(row.conflicts.iter().map(|conflict| conflict.column.clone()));
        }
        if !explain && rows.shown == SHOWN_ROWS {
            rows.more += 1;
        } else {
            rows.show(&Told::planned(row), explain);
        }
    }
    rows.end();
    stamps
}

/// The conflicts that the mesh showed, and how many it did not.
pub(super) fn list(conflicts: &[Told], left_out: usize) {
    let mut rows = Rows::default();
    for conflict in conflicts {
        rows.show(conflict, false);
    }
    rows.more = left_out;
    rows.end();
}

/// Rows below a heading, if there are any.
#[derive(Default)]
struct Rows {
    shown: usize,
    more: usize,
}

impl Rows {
    fn show(&mut self, row: &Told, explain: bool) {
        if self.shown == 0 {
            let what = if explain { "rows" } else { "rows with conflicts" };
            note::raw(&format!("{what}, the latest first:"));
        }
        self.shown += 1;
        for line in describe(row) {
            note::raw(&line);
        }
    }

    fn end(self) {
        if self.more > 0 {
            note::raw(&format!("  … and {} more: see all with --explain", self.more));
        }
    }
}

fn is_time(row: &PlannedChange, column: &str, latest: Latest<'_>) -> bool {
    let Some(table) = latest(&row.schema, &row.table) else {
        return false;
    };
    let kind = table.column(column).map(|index| &table.columns[index].ty);
    matches!(
        kind,
        Some(ColumnType::Timestamp { .. } | ColumnType::DateTime { .. })
    )
}

fn describe(row: &Told) -> Vec<String> {
    let screen = Screen::stderr();
    let cut = |text: String| fit(&visible(&text), screen.width.unwrap_or(usize::MAX)).into_owned();
    let verdict = if row.included { "in the script" } else { "left out" };
    let mut lines = vec![cut(format!(
        "  {} {} {}  {}, {verdict}: {}",
        row.op.as_str(),
        row.table,
        row.key,
        row.class,
        row.why
    ))];
    for conflict in &row.columns {
        let or_gone = |text: &str| {
            if text.is_empty() {
                "(no row)".to_owned()
            } else {
                text.to_owned()
            }
        };
        let mut line = if conflict.redacted {
            format!("      {}: redacted for your role", conflict.column)
        } else {
            format!(
                "      {}: before {}, now {}",
                conflict.column,
                or_gone(&conflict.wanted),
                or_gone(&conflict.found)
            )
        };
        if let Some(by) = &conflict.by {
            // Writing to a String cannot fail.
            let _ = write!(line, ", by {by}");
        }
        lines.push(cut(line));
    }
    lines
}

/// How a person runs the script.
pub(super) fn apply(statements: u64, client: &str, output: Option<&Path>) {
    if statements == 0 {
        note::note("the script changes nothing: every chosen change is left out or has no effect any more");
        return;
    }
    let text = match output {
        Some(file) => format!("read it, then apply it with: {client} … < {}", shell_word(file)),
        None => format!("keep the script with -o FILE, read it, then apply it with: {client} … < FILE"),
    };
    note::raw(&visible(&text));
}

/// A path as a shell takes it for one word.
fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "_./-+:@%,=".contains(c);
    if text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

fn count(number: u64, noun: &str) -> String {
    if number == 1 {
        format!("1 {noun}")
    } else {
        format!("{number} {noun}s")
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
