//! The methods that answer without changes: tables, definitions, coverage, how following goes.

use std::time::{Instant, SystemTime};

use bytes::Bytes;
use prost::Message;
use proto::{agent::v1 as agent, change::v1 as change, query::v1 as pb};
use tonic::Request;
use types::ServerId;

use super::{
    Core, Reply,
    error::Error,
    inquiry::{AsOf, Inquiry},
    page,
};
use crate::{
    redact::Left,
    source::{Method, Seen},
};

pub(super) async fn list_tables(
    core: Core,
    request: Request<pb::ListTablesRequest>,
) -> Result<Reply<Bytes>, Error> {
    let mut inquiry = Inquiry::begin(&core, &request, &request.get_ref().server).await?;
    inquiry.learn().await?;
    let mut tables = inquiry.tables().await?.tables.clone();
    let mut hidden = 0_u32;
    if inquiry.restricted() {
        let mut redactor = inquiry.redactor(&change::Filter::default());
        tables.retain_mut(|table| {
            let stays = redactor.summary(table).stays();
            hidden = hidden.saturating_add(u32::from(!stays));
            stays
        });
    }
    let answer = pb::ListTablesResponse {
        tables,
        tables_hidden: hidden,
    };
    Ok(inquiry.reply(answer.encode_to_vec().into()))
}

fn tables(asked: &pb::ListSchemaChangesRequest) -> Result<Vec<change::TableFilter>, Error> {
    match (asked.schema.is_empty(), asked.table.is_empty()) {
        (true, true) => Ok(Vec::new()),
        (true, false) => Err(Error::filter("table", "a table needs its schema")),
        (false, _) => Ok(vec![change::TableFilter {
            schema: asked.schema.clone(),
            table: asked.table.clone(),
        }]),
    }
}

pub(super) async fn list_schema_changes(
    core: Core,
    request: Request<pb::ListSchemaChangesRequest>,
) -> Result<Reply<Bytes>, Error> {
    let mut inquiry = Inquiry::begin(&core, &request, &request.get_ref().server).await?;
    let asked = request.into_inner();
    let size = page::size(asked.page_size, "page_size")?;
    let bare = pb::ListSchemaChangesRequest {
        server: String::new(),
        page_size: 0,
        page_token: String::new(),
        ..asked.clone()
    };
    let question = inquiry.question(&bare, "ListSchemaChanges").await?;
    let after = question.after(&asked.page_token)?;
    let filter = change::Filter {
        tables: tables(&asked)?,
        ..change::Filter::default()
    };
    super::narrow::permit(&mut inquiry, &filter).await?;
    let put = agent::SchemaChangesRequest {
        server_id: inquiry.id.clone(),
        filter: Some(filter.clone()),
        order: change::Order::Newest.into(),
        after,
        limit: u64::from(size),
        tell_descents: inquiry.restricted(),
    };
    let (mut found, by) = inquiry
        .one::<agent::SchemaChangesResponse>(Method::SchemaChanges, &put)
        .await?;
    let told = Some(found.descents).filter(|told| *told > 0);
    if inquiry.learn_from(AsOf { by, told }).await? {
        // By the names that the tables have come to have.
        super::narrow::permit(&mut inquiry, &filter).await?;
    }
    let mut redactor = inquiry.redactor(&filter);
    let end = found.end.unwrap_or_default();
    let last = found.schema_changes.last();
    let last = last.and_then(|last| last.position.clone()).filter(|_| end.more);
    let mut hidden = 0_u32;
    found.schema_changes.retain_mut(|change| {
        let stays = redactor.schema_change(change) != Left::Nothing;
        hidden = hidden.saturating_add(u32::from(!stays));
        stays
    });
    let mut coverage = end.coverage;
    if let Some(coverage) = &mut coverage {
        redactor.coverage(coverage);
    }
    let answer = pb::ListSchemaChangesResponse {
        schema_changes: found.schema_changes,
        next_page_token: last
            .map(|last| question.token(&last))
            .transpose()?
            .unwrap_or_default(),
        coverage,
        hidden,
    };
    Ok(inquiry.reply(answer.encode_to_vec().into()))
}

pub(super) async fn get_coverage(
    core: Core,
    request: Request<pb::GetCoverageRequest>,
) -> Result<Reply<Bytes>, Error> {
    let inquiry = Inquiry::begin(&core, &request, &request.get_ref().server).await?;
    let answer = pb::GetCoverageResponse {
        coverage: inquiry.coverage().await?,
    };
    Ok(inquiry.reply(answer.encode_to_vec().into()))
}

pub(super) async fn get_server_status(
    core: Core,
    request: Request<pb::GetServerStatusRequest>,
) -> Result<Reply<Bytes>, Error> {
    let mut inquiry = Inquiry::begin(&core, &request, &request.get_ref().server).await?;
    let put = agent::StatusRequest {
        server_id: inquiry.id.clone(),
    };
    // An agent that hangs is away too, and the last numbers take time as well.
    let (now, deadline) = (Instant::now(), inquiry.scope.deadline);
    inquiry.scope.deadline = now + deadline.saturating_duration_since(now) / 2;
    let live = inquiry.one::<agent::StatusResponse>(Method::Status, &put).await;
    inquiry.scope.deadline = deadline;
    let mut answer = match live {
        Ok((status, by)) => {
            let now = Some(SystemTime::now().into());
            pb::GetServerStatusResponse {
                server_id: inquiry.id.clone(),
                state: status.state,
                time: now,
                agent_connected: by.is_some(),
                agent_id: by.map(|by| by.to_string()).unwrap_or_default(),
                agent_version: status.version,
                agent_last_seen_time: now.filter(|_| by.is_some()),
                agent_start_time: status.start_time,
            }
        }
        Err(error) if error.is_away() => last_known(&core, &inquiry, error.seen()).await?,
        Err(other) => return Err(other),
    };
    if let Some(state) = &mut answer.state {
        inquiry.redactor(&change::Filter::default()).state(state);
    }
    Ok(inquiry.reply(answer.encode_to_vec().into()))
}

/// The last numbers of a server whose agent is away; of one of which there are none, when an agent was seen.
async fn last_known(
    core: &Core,
    inquiry: &Inquiry,
    connected: Option<Seen>,
) -> Result<pb::GetServerStatusResponse, Error> {
    let mut answer = pb::GetServerStatusResponse {
        server_id: inquiry.id.clone(),
        ..pb::GetServerStatusResponse::default()
    };
    let Ok(server) = inquiry.id.parse::<ServerId>() else {
        return Ok(answer);
    };
    if let Some(last) = core.statistics.last(&inquiry.scope, server).await? {
        let seen = Some(last.time.into());
        answer.state = Some(last.state);
        answer.time = seen;
        answer.agent_last_seen_time = seen;
        answer.agent_id = last.agent;
        answer.agent_version = last.version;
        answer.agent_start_time = last.started.map(Into::into);
    }
    if let Some(connected) = connected {
        answer.agent_last_seen_time = Some(connected.time.into());
        if answer.agent_id != connected.agent.to_string() {
            // Version and start were those of another one.
            answer.agent_id = connected.agent.to_string();
            answer.agent_version.clear();
            answer.agent_start_time = None;
        }
    }
    Ok(answer)
}
