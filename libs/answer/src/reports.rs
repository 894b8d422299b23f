//! Answers of one message: counts, tables, statements, coverage, status.

use std::{collections::BTreeMap, sync::Arc};

use binlog::Op;
use proto::{agent::v1 as pb, change::v1 as change_pb};
use trail::{Coverage, Order, Reader, Stop};

use crate::{error::Error, filter, frame::told_of, request::after, rows::go_on, store::Store, wire};

/// Statements of an answer whose request names no number, and at most.
const STATEMENTS: u64 = 1_000;
/// Tables of a server in statistics.
const TABLES: usize = 10_000;

pub(crate) fn tables(store: &dyn Store, stop: &Stop) -> Result<pb::TablesResponse, Error> {
    let reader = store.reader(stop)?;
    let reader = reader.as_ref();
    let tables = reader.map(wire::tables).transpose()?.unwrap_or_default();
    let keys = reader.map(|reader| wire::keys(reader, &tables));
    let descents = reader.map(Reader::descents).transpose()?.unwrap_or_default();
    Ok(pb::TablesResponse {
        keys: keys.unwrap_or_default(),
        tables,
        descents: descents.known.iter().map(wire::descent).collect(),
        descents_left_out: descents.left_out,
    })
}

pub(crate) fn coverage(store: &dyn Store, stop: &Stop) -> Result<pb::CoverageResponse, Error> {
    let reader = store.reader(stop)?;
    let coverage = reader.map_or_else(wire::nothing_read, |reader| wire::coverage(&reader.coverage()));
    Ok(pb::CoverageResponse {
        coverage: Some(coverage),
    })
}

pub(crate) fn status(store: &dyn Store, stop: &Stop) -> Result<pb::StatusResponse, Error> {
    let reader = store.reader(stop)?;
    let mut status = store.status();
    let state = status.state.take().unwrap_or_default();
    status.state = Some(wire::follow_state(state, reader.as_ref()));
    Ok(status)
}

/// The numbers of one server. A store that cannot be read has none.
pub fn statistics(server_id: String, store: &dyn Store, stop: &Stop) -> pb::ServerStatistics {
    let reader = store.reader(stop).ok().flatten();
    let tables = reader
        .as_ref()
        .and_then(|reader| reader.tables().ok())
        .unwrap_or_default();
    let left_out = tables.len().saturating_sub(TABLES);
    let tables = tables
        .into_iter()
        .take(TABLES)
        .map(|summary| pb::TableStatistics {
            schema: summary.schema,
            table: summary.table,
            inserts: summary.inserts,
            updates: summary.updates,
            deletes: summary.deletes,
            last_time: Some(wire::time(summary.last)),
        });
    let state = store.status().state.unwrap_or_default();
    pb::ServerStatistics {
        server_id,
        // Why it does not follow is in the words of servers and of this machine, and for whoever may ask for Status.
        state: Some(change_pb::FollowState {
            problem: String::new(),
            ..wire::follow_state(state, reader.as_ref())
        }),
        tables: tables.collect(),
        tables_left_out: left_out as u64,
    }
}

pub(crate) fn schema_changes(
    store: Arc<dyn Store>,
    request: pb::SchemaChangesRequest,
) -> Result<impl FnOnce(&Stop) -> Result<pb::SchemaChangesResponse, Error>, Error> {
    let question = filter::question(request.filter.as_ref())?;
    let order = filter::order(request.order, Order::Newest)?;
    let after = after(request.after.as_ref())?;
    let limit = match request.limit {
        0 => STATEMENTS,
        limit => limit.min(STATEMENTS),
    };
    Ok(move |stop: &Stop| {
        let Some(reader) = store.reader(stop)? else {
            return Ok(pb::SchemaChangesResponse {
                end: Some(end(false, wire::nothing_read())),
                ..pb::SchemaChangesResponse::default()
            });
        };
        let descents = descents(&reader, request.tell_descents)?;
        let mut filter = question.choice(&reader)?.filter;
        filter.order = order;
        go_on(&mut filter, after.as_ref());
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        filter.limit = Some(limit.saturating_add(1));
        let mut found = reader.schema_changes(&filter)?;
        let more = found.len() > limit;
        found.truncate(limit);
        Ok(pb::SchemaChangesResponse {
            schema_changes: found.iter().map(wire::schema_change).collect(),
            end: Some(end(more, wire::coverage(&reader.coverage_of(&filter)))),
            descents,
        })
    })
}

pub(crate) fn count(
    store: Arc<dyn Store>,
    request: pb::CountRequest,
) -> Result<impl FnOnce(&Stop) -> Result<pb::CountResponse, Error>, Error> {
    let question = filter::question(request.filter.as_ref())?;
    Ok(move |stop: &Stop| {
        let Some(reader) = store.reader(stop)? else {
            return Ok(pb::CountResponse {
                coverage: Some(wire::nothing_read()),
                ..pb::CountResponse::default()
            });
        };
        let descents = descents(&reader, request.tell_descents)?;
        let choice = question.choice(&reader)?;
        let mut tables: BTreeMap<(String, String), pb::TableCount> = BTreeMap::new();
        let mut more = false;
        for (nth, change) in (0_u64..).zip(choice.find(&reader)?) {
            let change = change?;
            stop.check()?;
            if request.limit > 0 && nth >= request.limit {
                more = true;
                break;
            }
            tally(&mut tables, &change);
        }
        let coverage: Coverage = reader.coverage_of(&choice.filter);
        Ok(pb::CountResponse {
            tables: tables.into_values().collect(),
            more,
            coverage: Some(wire::coverage(&coverage)),
            descents,
        })
    })
}

/// What an answer says of the descents that are known, if it was asked to.
pub(crate) fn descents(reader: &Reader, tell: bool) -> Result<u64, Error> {
    if !tell {
        return Ok(0);
    }
    let known = reader.descents()?;
    Ok(told_of(&known))
}

fn tally(tables: &mut BTreeMap<(String, String), pb::TableCount>, change: &binlog::Change) {
    let name = (change.table.schema.clone(), change.table.name.clone());
    let counts = tables
        .entry(name)
        .or_insert_with_key(|(schema, table)| pb::TableCount {
            schema: schema.clone(),
            table: table.clone(),
            ..pb::TableCount::default()
        });
    match change.op {
        Op::Insert => counts.inserts += 1,
        Op::Update => counts.updates += 1,
        Op::Delete => counts.deletes += 1,
    }
}

fn end(more: bool, coverage: change_pb::Coverage) -> pb::End {
    pb::End {
        more,
        coverage: Some(coverage),
    }
}
