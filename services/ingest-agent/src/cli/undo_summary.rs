//! What a person must know about a plan before running its script.

use std::{collections::BTreeSet, fmt::Write as _, path::Path, sync::Arc};

use binlog::{ColumnType, Table};
use trail::Status;
use undo::{Class, Dialect, Mode, Plan, PlannedChange};

use super::{args, note};
use crate::render::{
    screen::{Screen, Style},
    text::{fit, visible},
};

/// Rows left out that are shown without `--explain`.
const SHOWN_ROWS: usize = 10;

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
    let screen = Screen::stderr();
    let summary = plan.summary();
    let bold = |text: &str| Style::Bold.paint(text, screen.colour);
    let names: Vec<String> = tables
        .iter()
        .map(|(schema, table)| format!("{schema}.{table}"))
        .collect();
    let mode = if plan.mode() == Mode::Safe {
        "safe"
    } else {
        "force"
    };
    note::raw(&format!(
        "{} of {} in {}, mode {mode}",
        bold("undo"),
        count(summary.changes, "change"),
        visible(&names.join(", "))
    ));
    classes(plan, screen);
    let stamps = rows(plan, latest, args.explain, screen);
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
    note::raw(&visible(&format!(
        "from {} to {}; later changes known up to {known}{last_commit}",
        place(&summary.first),
        place(&summary.last),
    )));
    note::raw(&format!(
        "statements: {}, sha256 {}",
        summary.statements,
        hex(&plan.digest())
    ));
    if summary.statements == 0 {
        note::note("the script changes nothing: every chosen change is left out or has no effect any more");
    } else {
        apply(plan.dialect(), args);
    }
}

fn classes(plan: &Plan, screen: Screen) {
    let summary = plan.summary();
    for class in Class::ALL.into_iter().filter(|class| summary.of(*class) > 0) {
        let style = match class {
            Class::Clean | Class::Disjoint => Style::Green,
            _ => Style::Yellow,
        };
        let name = style.paint(&format!("{class:<10}"), screen.colour);
        note::raw(&format!("  {name} {:>8}  {}", summary.of(class), meaning(class)));
    }
    let left_out = summary.changes - summary.included;
    note::raw(&format!(
        "  {} in the script, {left_out} left out",
        summary.included
    ));
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

/// Rows one by one: those left out and those that would overwrite something, or all with their reasons. Gives the columns that
/// hold times and alone keep rows out of the script: they may be set by the server.
fn rows(plan: &Plan, latest: Latest<'_>, explain: bool, screen: Screen) -> BTreeSet<String> {
    let mut stamps = BTreeSet::new();
    let mut shown = 0_usize;
    let mut more = 0_usize;
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
        if !explain && shown == SHOWN_ROWS {
            more += 1;
            continue;
        }
        if shown == 0 {
            let what = if explain { "rows" } else { "rows with conflicts" };
            note::raw(&format!("{what}, the latest first:"));
        }
        shown += 1;
        for line in describe(&row, screen) {
            note::raw(&line);
        }
    }
    if more > 0 {
        note::raw(&format!("  … and {more} more: see all with --explain"));
    }
    stamps
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

fn describe(row: &PlannedChange, screen: Screen) -> Vec<String> {
    let cut = |text: String| fit(&visible(&text), screen.width.unwrap_or(usize::MAX)).into_owned();
    let verdict = if row.included { "in the script" } else { "left out" };
    let mut lines = vec![cut(format!(
        "  {} {}.{} {}  {}, {verdict}: {}",
        row.op.as_str(),
        row.schema,
        row.table,
        row.key,
        row.class,
        row.why
    ))];
    for conflict in &row.conflicts {
        let or_gone = |text: &str| {
            if text.is_empty() {
                "(no row)".to_owned()
            } else {
                text.to_owned()
            }
        };
        let mut line = format!(
            "      {}: before {}, now {}",
            conflict.column,
            or_gone(&conflict.wanted),
            or_gone(&conflict.found)
        );
        if let Some(by) = &conflict.by {
            let name = by
                .gtid
                .as_ref()
                .map_or_else(|| by.position.at.to_string(), ToString::to_string);
            // Writing to a String cannot fail.
            let _ = write!(line, ", by {name} at {}", by.commit_time);
        }
        lines.push(cut(line));
    }
    lines
}

/// How a person runs the script.
fn apply(dialect: Dialect, args: &args::Undo) {
    let client = match dialect {
        Dialect::Mysql => "mysql",
        Dialect::Mariadb => "mariadb",
    };
    let file = args.output.as_deref().filter(|path| *path != Path::new("-"));
    let text = match file {
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
