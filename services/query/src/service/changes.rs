//! The methods that answer with a page of changes.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use prost::Message;
use proto::{agent::v1 as agent, change::v1 as change, query::v1 as pb};
use tonic::Request;

use super::{
    Core, Reply,
    collect::{ANSWER_BYTES, Collected, Most, Put, collect},
    error::Error,
    inquiry::{AsOf, Inquiry},
    narrow::{self, Narrowed},
    page::{self, PAGE_BYTES},
};
use crate::source::Method;

/// Queries of one batch.
const BATCH: usize = 10;

/// Of these, so many at a time.
const AT_A_TIME: usize = 4;

/// How often changes are counted until it is known what they are called.
const COUNTS: usize = 4;

/// Bytes of all answers of a batch with which their pages end.
const BATCH_BYTES: usize = 2 * PAGE_BYTES;

/// The order that is asked for.
pub(super) fn order(number: i32, field: &'static str) -> Result<change::Order, Error> {
    match change::Order::try_from(number) {
        Ok(change::Order::Unspecified | change::Order::Newest) => Ok(change::Order::Newest),
        Ok(change::Order::Oldest) => Ok(change::Order::Oldest),
        Err(_) => Err(Error::filter(field, "not an order that is known")),
    }
}

/// Encoded changes, followed by the rest of their message.
fn message(changes: BytesMut, rest: &impl Message) -> Bytes {
    let mut out = changes;
    out.reserve(rest.encoded_len());
    // A BytesMut grows as it needs.
    let _ = rest.encode(&mut out);
    out.freeze()
}

/// Asks for changes that a filter asks for.
async fn filtered(
    inquiry: &mut Inquiry,
    filter: change::Filter,
    order: change::Order,
    after: Option<change::Position>,
    most: Most,
) -> Result<Collected, Error> {
    let narrowed = narrow::narrow(inquiry, &filter).await?;
    let hidden = narrowed.hidden > 0;
    let mut got = match narrowed.one(&filter) {
        None => Collected {
            coverage: inquiry.coverage().await?,
            ..Collected::default()
        },
        Some(narrowed) => {
            let put = Put::changes(inquiry, narrowed, order).after(after);
            collect(inquiry, put, most, &filter).await?
        }
    };
    got.redacted |= hidden;
    Ok(got)
}

fn next_token(question: &page::Question, got: &Collected) -> Result<String, Error> {
    match got.last.as_ref().filter(|_| got.more) {
        Some(last) => question.token(last),
        None => Ok(String::new()),
    }
}

pub(super) async fn query_changes(
    core: Core,
    request: Request<pb::QueryChangesRequest>,
) -> Result<Reply<Bytes>, Error> {
    let mut inquiry = Inquiry::begin(&core, &request, &request.get_ref().server).await?;
    let asked = request.into_inner();
    let size = page::size(asked.page_size, "page_size")?;
    let bare = pb::QueryChangesRequest {
        server: String::new(),
        page_size: 0,
        page_token: String::new(),
        ..asked.clone()
    };
    let question = inquiry.question(&bare, "QueryChanges").await?;
    let after = question.after(&asked.page_token)?;
    let (filter, order) = (asked.filter.unwrap_or_default(), order(asked.order, "order")?);
    let got = filtered(&mut inquiry, filter, order, after, Most::page(size)).await?;
    let rest = pb::QueryChangesResponse {
        changes: Vec::new(),
        next_page_token: next_token(&question, &got)?,
        coverage: got.coverage,
        redacted: got.redacted,
    };
    Ok(inquiry.reply(message(got.changes, &rest)))
}

pub(super) async fn get_row_history(
    core: Core,
    request: Request<pb::GetRowHistoryRequest>,
) -> Result<Reply<Bytes>, Error> {
    let mut inquiry = Inquiry::begin(&core, &request, &request.get_ref().server).await?;
    let asked = request.into_inner();
    let size = page::size(asked.page_size, "page_size")?;
    let bare = pb::GetRowHistoryRequest {
        server: String::new(),
        page_size: 0,
        page_token: String::new(),
        ..asked.clone()
    };
    let question = inquiry.question(&bare, "GetRowHistory").await?;
    let after = question.after(&asked.page_token)?;
    let filter = asked.filter.unwrap_or_default();
    let table = asked.table.unwrap_or_default();
    if table.schema.is_empty() || table.table.is_empty() {
        return Err(Error::filter("table", "a schema and a table are needed"));
    }
    if !filter.tables.is_empty() || !filter.keys.is_empty() {
        return Err(Error::filter(
            "filter",
            "a history's filter has no tables and no keys",
        ));
    }
    // The same question as a filter, so that it is refused for the same reasons.
    let as_filter = change::Filter {
        tables: vec![table.clone()],
        keys: vec![asked.key.clone()],
        ..filter.clone()
    };
    narrow::permit(&mut inquiry, &as_filter).await?;
    let put = Put::History(agent::HistoryRequest {
        server_id: inquiry.id.clone(),
        table: Some(table),
        key: asked.key,
        filter: Some(filter),
        order: order(asked.order, "order")?.into(),
        tell_descents: inquiry.restricted(),
        ..agent::HistoryRequest::default()
    });
    let got = collect(&inquiry, put.after(after), Most::page(size), &as_filter).await?;
    let rest = pb::GetRowHistoryResponse {
        changes: Vec::new(),
        next_page_token: next_token(&question, &got)?,
        coverage: got.coverage,
        redacted: got.redacted,
    };
    Ok(inquiry.reply(message(got.changes, &rest)))
}

pub(super) async fn get_transaction(
    core: Core,
    request: Request<pb::GetTransactionRequest>,
) -> Result<Reply<Bytes>, Error> {
    let mut inquiry = Inquiry::begin(&core, &request, &request.get_ref().server).await?;
    let asked = request.into_inner();
    let size = page::size(asked.page_size, "page_size")?;
    let bare = pb::GetTransactionRequest {
        server: String::new(),
        page_size: 0,
        page_token: String::new(),
        ..asked.clone()
    };
    let question = inquiry.question(&bare, "GetTransaction").await?;
    let after = question.after(&asked.page_token)?;
    let first = after.is_none();
    let put = Put::Transaction(agent::TransactionRequest {
        server_id: inquiry.id.clone(),
        transaction: asked.transaction,
        tell_descents: inquiry.restricted(),
        ..agent::TransactionRequest::default()
    });
    inquiry.learn().await?;
    let all = change::Filter::default();
    let got = collect(&inquiry, put.after(after), Most::page(size), &all).await?;
    let rest = pb::GetTransactionResponse {
        changes: Vec::new(),
        next_page_token: next_token(&question, &got)?,
        schema_changes: if first { got.schema_changes } else { Vec::new() },
        coverage: got.coverage,
        redacted: got.redacted,
    };
    Ok(inquiry.reply(message(got.changes, &rest)))
}

/// A query of a batch that was looked at.
struct Wanted {
    table: change::TableFilter,
    filter: change::Filter,
    order: change::Order,
    limit: u32,
}

fn wanted(number: usize, query: pb::TableQuery) -> Result<Wanted, Error> {
    let at = |field: &str| format!("queries[{number}].{field}");
    let wrong = |field, problem| Error::filter(at(field), problem);
    let table = query.table.unwrap_or_default();
    if table.schema.is_empty() || table.table.is_empty() {
        return Err(wrong("table", "a schema and a table are needed"));
    }
    let filter = query.filter.unwrap_or_default();
    if !filter.tables.is_empty() {
        return Err(wrong("filter.tables", "the table stands beside the filter"));
    }
    let limit = page::size(query.limit, "limit").map_err(|_| wrong("limit", "less than 0"))?;
    let order = order(query.order, "order").map_err(|_| wrong("order", "not an order that is known"))?;
    Ok(Wanted {
        filter: change::Filter {
            tables: vec![table.clone()],
            ..filter
        },
        table,
        order,
        limit,
    })
}

pub(super) async fn batch_query(
    core: Core,
    request: Request<pb::BatchQueryRequest>,
) -> Result<Reply<Bytes>, Error> {
    let mut inquiry = Inquiry::begin(&core, &request, &request.get_ref().server).await?;
    let queries = request.into_inner().queries;
    if queries.is_empty() || queries.len() > BATCH {
        return Err(Error::filter("queries", "1 to 10 are needed"));
    }
    let wanted: Vec<Wanted> = queries
        .into_iter()
        .enumerate()
        .map(|(number, query)| wanted(number, query))
        .collect::<Result<_, _>>()?;
    // Nothing is asked before everything is permitted.
    for query in &wanted {
        narrow::permit(&mut inquiry, &query.filter).await?;
    }
    let most = Most {
        bytes: PAGE_BYTES.min(BATCH_BYTES / wanted.len()),
        room: ANSWER_BYTES / wanted.len(),
        changes: 0,
    };
    let answers = stream::iter(wanted).map(|query| answer(&inquiry, query, most));
    let answers: Vec<pb::TableAnswer> = answers.buffered(AT_A_TIME).try_collect().await?;
    Ok(inquiry.reply(pb::BatchQueryResponse { answers }.encode_to_vec().into()))
}

async fn answer(inquiry: &Inquiry, query: Wanted, most: Most) -> Result<pb::TableAnswer, Error> {
    let most = Most {
        changes: query.limit as usize,
        ..most
    };
    let put = Put::changes(inquiry, query.filter.clone(), query.order);
    let got = collect(inquiry, put, most, &query.filter).await?;
    let changes = agent::ChangesResponse::decode(got.changes).map_err(|_| Error::Answer)?;
    Ok(pb::TableAnswer {
        table: Some(query.table),
        changes: changes.changes,
        more: got.more,
        coverage: got.coverage,
        redacted: got.redacted,
    })
}

/// What is counted, as the agent can count it by itself; and updates of tables that the caller sees in part, which are looked at one by one: one
/// that changed nothing visible does not count.
fn parts(inquiry: &Inquiry, filter: change::Filter) -> Vec<(change::Filter, bool)> {
    let update = i32::from(change::Op::Update);
    let updates = filter.ops.is_empty() || filter.ops.contains(&update);
    // What changed a column that the caller sees is counted whatever else it changed.
    if !inquiry.restricted() || !updates || !filter.column.is_empty() {
        return vec![(filter, false)];
    }
    let whole = |table: &change::TableFilter| inquiry.sight.table(&table.schema, &table.table).is_whole();
    let (whole, partly): (Vec<_>, Vec<_>) = filter.tables.iter().cloned().partition(whole);
    let mut others = filter.ops.clone();
    if others.is_empty() {
        others = vec![change::Op::Insert.into(), change::Op::Delete.into()];
    }
    others.retain(|op| *op != update);
    let of = |tables: &[change::TableFilter], ops: &[i32]| change::Filter {
        tables: tables.to_vec(),
        ops: ops.to_vec(),
        ..filter.clone()
    };
    let mut parts = Vec::new();
    if !whole.is_empty() {
        parts.push((of(&whole, &filter.ops), false));
    }
    if !partly.is_empty() && !others.is_empty() {
        parts.push((of(&partly, &others), false));
    }
    if !partly.is_empty() {
        parts.push((of(&partly, &[update]), true));
    }
    parts
}

/// A count of updates that are looked at one by one; none if more was learnt meanwhile of what tables are called.
async fn walked(
    inquiry: &mut Inquiry,
    filter: &change::Filter,
    limit: u64,
) -> Result<Option<agent::CountResponse>, Error> {
    let mut tables: BTreeMap<(String, String), u64> = BTreeMap::new();
    let (mut after, mut more, mut total) = (None, true, 0_u64);
    let mut coverage = None;
    while more && (limit == 0 || total < limit) {
        let left = if limit == 0 { u64::MAX } else { limit - total };
        let size = u32::try_from(left.min(1_000)).unwrap_or(1_000);
        let put = Put::changes(inquiry, filter.clone(), change::Order::Oldest).after(after.take());
        let got = collect(inquiry, put, Most::page(size), filter).await?;
        if let Some(learnt) = got.learnt {
            inquiry.know(learnt);
            return Ok(None);
        }
        let page = agent::ChangesResponse::decode(got.changes).map_err(|_| Error::Answer)?;
        total += page.changes.len() as u64;
        for found in page.changes {
            *tables.entry((found.schema, found.table)).or_default() += 1;
        }
        (more, after, coverage) = (got.more && got.last.is_some(), got.last, got.coverage);
    }
    let count = |((schema, table), updates)| agent::TableCount {
        schema,
        table,
        updates,
        ..agent::TableCount::default()
    };
    Ok(Some(agent::CountResponse {
        tables: tables.into_iter().map(count).collect(),
        more: more && total >= limit && limit > 0,
        coverage,
        descents: 0,
    }))
}

/// A count by the agent itself; none as above.
async fn counted_there(
    inquiry: &mut Inquiry,
    filter: change::Filter,
    limit: u64,
) -> Result<Option<agent::CountResponse>, Error> {
    let request = agent::CountRequest {
        server_id: inquiry.id.clone(),
        filter: Some(filter),
        limit,
        tell_descents: inquiry.restricted(),
    };
    let (part, by) = inquiry
        .one::<agent::CountResponse>(Method::Count, &request)
        .await?;
    let told = Some(part.descents).filter(|told| *told > 0);
    let learnt = inquiry.learn_from(AsOf { by, told }).await?;
    Ok(Some(part).filter(|_| !learnt))
}

pub(super) async fn count_changes(
    core: Core,
    request: Request<pb::CountChangesRequest>,
) -> Result<Reply<Bytes>, Error> {
    let mut inquiry = Inquiry::begin(&core, &request, &request.get_ref().server).await?;
    let asked = request.into_inner();
    let filter = asked.filter.unwrap_or_default();
    // What is counted depends on what tables are called: where that changed meanwhile, all is counted again.
    for _ in 0..COUNTS {
        if let Some(answer) = count(&mut inquiry, &filter, asked.limit).await? {
            return Ok(inquiry.reply(answer.encode_to_vec().into()));
        }
    }
    Err(Error::Unsettled)
}

/// Counts; none if more was learnt meanwhile of what tables are called.
async fn count(
    inquiry: &mut Inquiry,
    filter: &change::Filter,
    limit: u64,
) -> Result<Option<pb::CountChangesResponse>, Error> {
    let Narrowed { filters, hidden } = narrow::narrow(inquiry, filter).await?;
    let mut answer = pb::CountChangesResponse {
        tables_hidden: hidden,
        ..pb::CountChangesResponse::default()
    };
    let redactor = inquiry.redactor(filter);
    let mut total = 0_u64;
    let parts: Vec<_> = filters
        .into_iter()
        .flat_map(|filter| parts(inquiry, filter))
        .collect();
    for (filter, looked_at) in parts {
        // Once there are as many as asked for, all that is asked of the rest is whether there is any.
        let enough = limit > 0 && total >= limit;
        let left = if enough { 1 } else { limit - total.min(limit) };
        let part = if looked_at {
            walked(inquiry, &filter, left).await?
        } else {
            counted_there(inquiry, filter, left).await?
        };
        let Some(part) = part else { return Ok(None) };
        if enough {
            answer.more |= part.tables.iter().any(|count| counted(count) > 0);
            continue;
        }
        total += add(inquiry, part, &mut answer, &redactor);
    }
    let name = |count: &pb::TableCount| (count.schema.clone(), count.table.clone());
    answer.tables.sort_by_cached_key(name);
    if answer.coverage.is_none() {
        answer.coverage = inquiry.coverage().await?;
    }
    Ok(Some(answer))
}

/// How many changes of a table.
fn counted(count: &agent::TableCount) -> u64 {
    let all = count.inserts.saturating_add(count.updates);
    all.saturating_add(count.deletes)
}

/// Adds a part of a count, without what the caller does not see, and tells how many changes it counts.
fn add(
    inquiry: &Inquiry,
    part: agent::CountResponse,
    answer: &mut pb::CountChangesResponse,
    redactor: &crate::redact::Redactor,
) -> u64 {
    let all = part.tables.iter().map(counted);
    let total = all.fold(0, u64::saturating_add);
    for count in part.tables {
        if inquiry.sight.table(&count.schema, &count.table).is_hidden() {
            continue;
        }
        let same = |known: &&mut pb::TableCount| known.schema == count.schema && known.table == count.table;
        if let Some(known) = answer.tables.iter_mut().find(same) {
            known.inserts = known.inserts.saturating_add(count.inserts);
            known.updates = known.updates.saturating_add(count.updates);
            known.deletes = known.deletes.saturating_add(count.deletes);
            continue;
        }
        answer.tables.push(pb::TableCount {
            schema: count.schema,
            table: count.table,
            inserts: count.inserts,
            updates: count.updates,
            deletes: count.deletes,
        });
    }
    answer.more |= part.more;
    let mut coverage = part.coverage;
    if let Some(coverage) = &mut coverage {
        redactor.coverage(coverage);
    }
    // Of several parts the one that is not whole counts.
    if answer.coverage.as_ref().is_none_or(|known| known.complete) {
        answer.coverage = coverage.or_else(|| answer.coverage.take());
    }
    total
}
