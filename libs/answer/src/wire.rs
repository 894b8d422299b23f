//! The store's words as messages.

use std::collections::BTreeSet;

use binlog::{Descended, Descent, SchemaChange};
use prost_types::Timestamp;
use proto::{
    agent::v1::{self as agent_pb, descent::Kind},
    change::v1 as pb,
};
use trail::{Coverage, Gap, Interval, Place, Reader};
use types::Micros;

/// An instant.
pub(crate) fn time(micros: Micros) -> Timestamp {
    Timestamp {
        seconds: micros.0.div_euclid(1_000_000),
        nanos: i32::try_from(micros.0.rem_euclid(1_000_000)).unwrap_or_default() * 1_000,
    }
}

/// A place of a timeline.
pub(crate) fn place(place: &Place) -> pb::Place {
    pb::Place {
        epoch: place.epoch,
        file: place.at.file.as_str().to_owned(),
        offset: place.at.offset,
    }
}

/// What an answer rests on.
pub(crate) fn coverage(coverage: &Coverage) -> pb::Coverage {
    pb::Coverage {
        complete: coverage.complete,
        because: coverage.because.clone().unwrap_or_default(),
        earliest: coverage.earliest.map(time),
        intervals: coverage.intervals.iter().map(interval).collect(),
        gaps: coverage.gaps.iter().map(gap).collect(),
    }
}

/// What an answer of a store that does not exist yet rests on.
pub(crate) fn nothing_read() -> pb::Coverage {
    pb::Coverage {
        because: "nothing has been read yet".to_owned(),
        ..pb::Coverage::default()
    }
}

fn interval(interval: &Interval) -> pb::Interval {
    pb::Interval {
        from: Some(place(&interval.start())),
        to: Some(place(&interval.end())),
        from_time: interval.from_time.map(time),
        to_time: interval.to_time.map(time),
        gtids_before: interval.gtids_before.to_string(),
        gtids: interval.gtids.to_string(),
        transactions: interval.transactions,
        changes: interval.changes,
    }
}

fn gap(gap: &Gap) -> pb::Gap {
    pb::Gap {
        after: Some(place(&gap.after)),
        before: Some(place(&gap.before)),
        after_time: gap.after_time.map(time),
        before_time: gap.before_time.map(time),
        reason: gap.reason.clone(),
    }
}

/// A statement that changed definitions.
pub(crate) fn schema_change(change: &SchemaChange) -> pb::SchemaChange {
    let target = |target: &binlog::DdlTarget| pb::TableFilter {
        schema: target.schema.clone(),
        table: target.table.clone().unwrap_or_default(),
    };
    pb::SchemaChange {
        position: Some(change::position(&change.position)),
        gtid: change.gtid.as_ref().map(ToString::to_string).unwrap_or_default(),
        commit_time: Some(time(change.commit_time)),
        thread_id: change.thread_id,
        targets: change.targets.iter().map(target).collect(),
        default_schema: change.default_schema.clone(),
        text: change.text.clone(),
    }
}

/// A table, or a column of one, that came from another.
pub fn descent(descent: &Descent) -> agent_pb::Descent {
    let table = |(schema, table): &(String, String)| pb::TableFilter {
        schema: schema.clone(),
        table: table.clone(),
    };
    let (kind, column_from, column_to) = match &descent.what {
        Descended::Rows => (Kind::Rows, String::new(), String::new()),
        Descended::Definition => (Kind::Definition, String::new(), String::new()),
        Descended::Column { from, to } => (Kind::Column, from.clone(), to.clone()),
    };
    agent_pb::Descent {
        from: Some(table(&descent.from)),
        to: Some(table(&descent.to)),
        kind: kind.into(),
        column_from,
        column_to,
    }
}

/// The tables that a store has seen, with the columns and key that each had last.
pub(crate) fn tables(reader: &Reader) -> Result<Vec<pb::TableSummary>, trail::Error> {
    let tables = reader.tables()?.into_iter().map(|summary| {
        let versions = reader.versions(&summary.schema, &summary.table);
        let latest = versions
            .iter()
            .find(|(version, _)| *version == summary.schema_version);
        let (mut columns, mut key) = (Vec::new(), Vec::new());
        if let Some((_, table)) = latest {
            columns = table.columns.iter().map(|column| column.name.clone()).collect();
            let parts = table.key.iter();
            key = parts
                .filter_map(|part| columns.get(part.column as usize).cloned())
                .collect();
        }
        pb::TableSummary {
            schema: summary.schema,
            table: summary.table,
            inserts: summary.inserts,
            updates: summary.updates,
            deletes: summary.deletes,
            first_time: Some(time(summary.first)),
            last_time: Some(time(summary.last)),
            schema_version: summary.schema_version,
            columns,
            key,
        }
    });
    Ok(tables.collect())
}

/// For each of these tables, every column that is or once was part of its key.
pub(crate) fn keys(reader: &Reader, tables: &[pb::TableSummary]) -> Vec<agent_pb::TableColumns> {
    let of = |summary: &pb::TableSummary| {
        let mut columns = BTreeSet::new();
        for (_, table) in reader.versions(&summary.schema, &summary.table) {
            let key = table.key.iter();
            let key = key.filter_map(|part| table.columns.get(part.column as usize));
            columns.extend(key.map(|column| column.name.clone()));
        }
        agent_pb::TableColumns {
            schema: summary.schema.clone(),
            table: summary.table.clone(),
            columns: columns.into_iter().collect(),
        }
    };
    tables.iter().map(of).collect()
}

/// How following goes: what whoever follows says, and what the store knows.
pub(crate) fn follow_state(mut state: pb::FollowState, reader: Option<&Reader>) -> pb::FollowState {
    let Some(reader) = reader else { return state };
    let status = reader.status();
    if let (true, Some(source)) = (state.engine.is_empty(), &status.source) {
        state.engine.clone_from(&source.engine);
        state.version.clone_from(&source.version);
    }
    if let (Some(end), Some(position)) = (&mut state.log_end, &status.position) {
        end.epoch = position.epoch;
    }
    state.position = status.position.as_ref().map(place);
    state.last_commit_time = status.last_commit.map(time);
    state.transactions = status.transactions;
    state.changes = status.changes;
    state.segments = u32::try_from(status.segments).unwrap_or(u32::MAX);
    state.store_bytes = status.bytes;
    state
}
