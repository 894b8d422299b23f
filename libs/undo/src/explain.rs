//! A verdict in words and values, for people.

use std::fmt::Write;

use binlog::{Cell, Op};

use crate::{
    By, Class, Conflict, PlannedChange,
    history::{NONE, Step},
    transition::View,
    value::Datum,
    verdict::{Verdict, Why},
};

pub(crate) fn explain(view: &View, verdict: &Verdict) -> PlannedChange {
    let history = &view.history;
    let step = history.step(verdict.step);
    let table = &history.tables[history.def_of(step).of as usize];
    let By {
        position,
        gtid,
        commit_time,
    } = history.by(step);
    let conflicts = match verdict.class {
        Class::Clean | Class::Disjoint => Vec::new(),
        _ => conflicts(view, verdict, step),
    };
    PlannedChange {
        position,
        gtid,
        commit_time,
        schema: table.schema.clone(),
        table: table.name.clone(),
        op: step.op,
        key: key(view, step),
        class: verdict.class,
        why: verdict.sentence(history),
        included: verdict.included,
        by: blame(view, verdict),
        conflicts,
    }
}

fn blame(view: &View, verdict: &Verdict) -> Option<By> {
    let history = &view.history;
    match verdict.why {
        Why::Broken(nth) => {
            let of = history.def_of(history.step(verdict.step)).of;
            history.tables[of as usize].breaks.get(nth as usize)?.by.clone()
        }
        _ if verdict.by == NONE => None,
        _ => Some(history.by(history.step(verdict.by))),
    }
}

/// The row's key columns, or all columns if it has no key, as a JSON object.
fn key(view: &View, step: &Step) -> String {
    let table = &view.history.def_of(step).table;
    let mut columns: Vec<usize> = table.key.iter().map(|part| part.column as usize).collect();
    if columns.is_empty() {
        columns = (0..table.columns.len()).collect();
    }
    let (before, after) = view.history.cells(step);
    let mut out = String::from("{");
    for at in columns {
        let cell = [&after, &before]
            .into_iter()
            .flatten()
            .map(|cells| cells[at])
            .find(|cell| *cell != Cell::Absent);
        let (Some(cell), Some(column)) = (cell, table.columns.get(at)) else {
            continue;
        };
        let comma = if out.len() > 1 { "," } else { "" };
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            "{comma}{}:{}",
            binlog::Value::Text(column.name.as_str().into()).to_json(),
            Datum { column, cell }.json()
        );
    }
    out.push('}');
    out
}

/// What would be restored, column by column, against what is there.
fn conflicts(view: &View, verdict: &Verdict, step: &Step) -> Vec<Conflict> {
    match (step.op, verdict.class) {
        (Op::Insert, Class::Overlap) => touched(view, verdict),
        // The row is gone, or may be: there is nothing to compare, and nothing to restore.
        (Op::Insert, _) => Vec::new(),
        _ => wanted(view, step)
            .into_iter()
            .filter_map(|(name, wanted, column)| {
                let (found, by) = found(view, verdict, step, column);
                let differs = verdict.class != Class::Reborn || found != wanted.json();
                let meets = verdict.class != Class::Overlap || by.is_some();
                (differs && meets).then(|| Conflict {
                    column: name.to_owned(),
                    wanted: wanted.json(),
                    found,
                    by,
                })
            })
            .collect(),
    }
}

/// Columns of a row whose insertion would be undone that others have written since.
fn touched(view: &View, verdict: &Verdict) -> Vec<Conflict> {
    let Some((target, _)) = view.sight(view.history.step(verdict.step)) else {
        return Vec::new();
    };
    let conflict = |hold: &crate::verdict::Hold| Conflict {
        column: target.table.columns[hold.column].name.clone(),
        wanted: String::new(),
        found: view
            .value(hold.by, true, hold.column)
            .map(|found| found.json())
            .unwrap_or_default(),
        by: Some(view.history.by(view.history.step(hold.by))),
    };
    verdict.holds.iter().map(conflict).collect()
}

/// The columns to restore: name, value, and index in the newest definition.
fn wanted<'p>(view: &'p View, step: &'p Step) -> Vec<(&'p str, Datum<'p>, Option<usize>)> {
    let table = &view.history.def_of(step).table;
    let columns = match step.op {
        Op::Update => view.changed(step),
        Op::Insert | Op::Delete => (0..table.columns.len()).collect(),
    };
    let (before, _) = view.history.cells(step);
    let before = before.unwrap_or_default();
    let lens = view.sight(step).map(|(_, lens)| lens);
    let generated = |at: usize| lens.is_some_and(|lens| lens.generated[at]);
    let now = |at: usize| lens.and_then(|lens| lens.old.iter().position(|old| *old == Some(at)));
    columns
        .into_iter()
        .filter(|at| !generated(*at))
        .filter_map(|at| {
            let column = &table.columns[at];
            let datum = Datum {
                column,
                cell: *before.get(at)?,
            };
            Some((column.name.as_str(), datum, now(at)))
        })
        .collect()
}

/// What later changes left in a column, and which of them.
fn found(view: &View, verdict: &Verdict, step: &Step, column: Option<usize>) -> (String, Option<By>) {
    let by = blame(view, verdict);
    let json = |datum: Option<Datum<'_>>| datum.map(|datum| datum.json()).unwrap_or_default();
    let Some(column) = column else {
        return (String::new(), by);
    };
    let hold = verdict.holds.iter().find(|hold| hold.column == column);
    match verdict.class {
        Class::Overlap => match hold {
            Some(hold) => (
                json(view.value(hold.by, true, column)),
                Some(view.history.by(view.history.step(hold.by))),
            ),
            None => (String::new(), None),
        },
        // The latest state of the row that came after.
        Class::Reborn if verdict.by != NONE => {
            let reborn = view.history.step(verdict.by).row;
            let last = view.history.rows[reborn as usize].last;
            (json(view.value(last, true, column)), by)
        }
        Class::KeyTaken if step.op == Op::Update => match hold {
            Some(hold) => (json(view.value(hold.by, true, column)), by),
            None => (json(view.value(verdict.step, true, column)), by),
        },
        _ => (String::new(), by),
    }
}
