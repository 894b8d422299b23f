//! The agent's answers as `QueryService` and `RecoveryService` give them.

use std::{collections::BTreeMap, pin::Pin, sync::atomic::Ordering};

use futures_util::{Stream, StreamExt, stream};
use proto::{
    agent::v1::{self as agent, plan_undo_response::Part},
    change::v1 as change,
    google::api::HttpBody,
    query::v1::{self as query, query_service_server::QueryService},
    recovery::v1::{self as recovery, recovery_service_server::RecoveryService},
};
use tonic::{
    Code as Grpc, Request, Response, Status, Streaming,
    metadata::{Ascii, MetadataMap, MetadataValue},
};
use types::Code;

use super::{
    door::{Forgery, State, locked, refuse},
    people::uncalled,
};

type Answer<T> = Result<Response<T>, Status>;
type Frames<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A page's token is where it ends.
fn token(end: Option<&agent::End>, last: Option<&change::Change>) -> String {
    let position = last.and_then(|change| change.position.as_ref());
    match (end, position) {
        (Some(end), Some(at)) if end.more => format!("{}|{}|{}|{}", at.epoch, at.file, at.offset, at.ordinal),
        _ => String::new(),
    }
}

fn after(token: &str) -> Option<change::Position> {
    let parts: Vec<&str> = token.split('|').collect();
    let [epoch, file, offset, ordinal] = parts[..] else {
        return None;
    };
    Some(change::Position {
        epoch: epoch.parse().expect("a number"),
        file: file.to_owned(),
        offset: offset.parse().expect("a number"),
        ordinal: ordinal.parse().expect("a number"),
    })
}

async fn all<T>(frames: Streaming<T>) -> Result<Vec<T>, Status> {
    let frames: Vec<Result<T, Status>> = frames.collect().await;
    frames.into_iter().collect()
}

impl State {
    /// Breaks off where a test wants it.
    fn broken<T: Send + 'static>(&self, frames: Frames<T>) -> Frames<T> {
        match self.breaks.load(Ordering::SeqCst) {
            0 => frames,
            count => {
                let end = refuse(Code::Timeout, "DEADLINE_EXCEEDED", "the deadline has passed");
                Box::pin(frames.take(count).chain(stream::iter([Err(end)])))
            }
        }
    }
}

#[tonic::async_trait]
impl QueryService for State {
    type StreamChangesStream = Frames<query::StreamChangesResponse>;
    type FollowChangesStream = Frames<query::FollowChangesResponse>;

    async fn query_changes(
        &self,
        _: Request<query::QueryChangesRequest>,
    ) -> Answer<query::QueryChangesResponse> {
        Err(uncalled())
    }

    async fn batch_query(&self, _: Request<query::BatchQueryRequest>) -> Answer<query::BatchQueryResponse> {
        Err(uncalled())
    }

    async fn stream_changes(
        &self,
        request: Request<query::StreamChangesRequest>,
    ) -> Answer<Self::StreamChangesStream> {
        let asked = self.admit(request, |asked| &asked.server)?;
        let order = match asked.order() {
            change::Order::Oldest => change::Order::Oldest,
            _ => change::Order::Newest,
        };
        let ask = agent::ChangesRequest {
            server_id: self.server(),
            filter: asked.filter,
            order: order.into(),
            after: asked.after,
            limit: asked.limit,
            ..agent::ChangesRequest::default()
        };
        let frames = self
            .agent()
            .changes(self.to_agent("Changes", ask))
            .await?
            .into_inner();
        let mut redacted = Vec::new();
        for frame in all(frames).await? {
            let mut changes = frame.changes;
            let taken = self.redact(&mut changes);
            // One change in a frame, so that a stream can break anywhere.
            redacted.extend(changes.into_iter().map(|change| query::StreamChangesResponse {
                changes: vec![change],
                redacted: taken,
                ..query::StreamChangesResponse::default()
            }));
            if let Some(end) = frame.end {
                redacted.push(query::StreamChangesResponse {
                    more: end.more,
                    coverage: end.coverage,
                    ..query::StreamChangesResponse::default()
                });
            }
        }
        let frames = stream::iter(redacted.into_iter().map(Ok));
        Ok(Response::new(self.broken(Box::pin(frames))))
    }

    async fn follow_changes(
        &self,
        request: Request<query::FollowChangesRequest>,
    ) -> Answer<Self::FollowChangesStream> {
        let asked = self.admit(request, |asked| &asked.server)?;
        let ask = agent::ChangesRequest {
            server_id: self.server(),
            filter: asked.filter,
            order: change::Order::Oldest.into(),
            last: asked.after.is_none().then_some(u64::from(asked.last)),
            after: asked.after,
            follow: true,
            ..agent::ChangesRequest::default()
        };
        let frames = self
            .agent()
            .changes(self.to_agent("Changes", ask))
            .await?
            .into_inner();
        self.followed.fetch_add(1, Ordering::SeqCst);
        let frames = frames.map(|frame| {
            frame.map(|frame| query::FollowChangesResponse {
                changes: frame.changes,
                ..query::FollowChangesResponse::default()
            })
        });
        Ok(Response::new(self.broken(Box::pin(frames))))
    }

    async fn count_changes(
        &self,
        request: Request<query::CountChangesRequest>,
    ) -> Answer<query::CountChangesResponse> {
        let asked = self.admit(request, |asked| &asked.server)?;
        let ask = agent::CountRequest {
            server_id: self.server(),
            filter: asked.filter,
            limit: asked.limit,
            tell_descents: false,
        };
        let found = self
            .agent()
            .count(self.to_agent("Count", ask))
            .await?
            .into_inner();
        Ok(Response::new(query::CountChangesResponse {
            more: found.more,
            coverage: found.coverage,
            ..query::CountChangesResponse::default()
        }))
    }

    async fn get_row_history(
        &self,
        request: Request<query::GetRowHistoryRequest>,
    ) -> Answer<query::GetRowHistoryResponse> {
        let asked = self.admit(request, |asked| &asked.server)?;
        let ask = agent::HistoryRequest {
            server_id: self.server(),
            table: asked.table,
            key: asked.key,
            filter: asked.filter,
            order: asked.order,
            after: after(&asked.page_token),
            // Pages end where they like.
            limit: u64::try_from(asked.page_size).expect("a size").min(2),
            ..agent::HistoryRequest::default()
        };
        let frames = all(self
            .agent()
            .history(self.to_agent("History", ask))
            .await?
            .into_inner())
        .await?;
        let end = frames.last().and_then(|frame| frame.end.clone());
        let mut changes: Vec<_> = frames.into_iter().flat_map(|frame| frame.changes).collect();
        let next_page_token = token(end.as_ref(), changes.last());
        let redacted = self.redact(&mut changes);
        Ok(Response::new(query::GetRowHistoryResponse {
            changes,
            next_page_token,
            coverage: end.and_then(|end| end.coverage),
            redacted,
        }))
    }

    async fn get_transaction(
        &self,
        request: Request<query::GetTransactionRequest>,
    ) -> Answer<query::GetTransactionResponse> {
        let asked = self.admit(request, |asked| &asked.server)?;
        let ask = agent::TransactionRequest {
            server_id: self.server(),
            transaction: asked.transaction,
            after: after(&asked.page_token),
            limit: u64::try_from(asked.page_size).expect("a size").min(2),
            ..agent::TransactionRequest::default()
        };
        let answer = self
            .agent()
            .transaction(self.to_agent("Transaction", ask))
            .await?;
        let frames = all(answer.into_inner()).await?;
        let end = frames.last().and_then(|frame| frame.end.clone());
        let (mut changes, mut schema_changes) = (Vec::new(), Vec::new());
        for frame in frames {
            changes.extend(frame.changes);
            schema_changes.extend(frame.schema_changes);
        }
        let next_page_token = token(end.as_ref(), changes.last());
        let redacted = self.redact(&mut changes);
        Ok(Response::new(query::GetTransactionResponse {
            changes,
            schema_changes,
            next_page_token,
            coverage: end.and_then(|end| end.coverage),
            redacted,
        }))
    }

    async fn list_tables(
        &self,
        request: Request<query::ListTablesRequest>,
    ) -> Answer<query::ListTablesResponse> {
        self.admit(request, |asked| &asked.server)?;
        let ask = agent::TablesRequest {
            server_id: self.server(),
            ..agent::TablesRequest::default()
        };
        let found = self
            .agent()
            .tables(self.to_agent("Tables", ask))
            .await?
            .into_inner();
        Ok(Response::new(query::ListTablesResponse {
            tables: found.tables,
            tables_hidden: 0,
        }))
    }

    async fn list_schema_changes(
        &self,
        request: Request<query::ListSchemaChangesRequest>,
    ) -> Answer<query::ListSchemaChangesResponse> {
        let asked = self.admit(request, |asked| &asked.server)?;
        let table = change::TableFilter {
            schema: asked.schema,
            table: asked.table,
        };
        let ask = agent::SchemaChangesRequest {
            server_id: self.server(),
            filter: Some(change::Filter {
                tables: Some(table)
                    .filter(|table| !table.schema.is_empty())
                    .into_iter()
                    .collect(),
                ..change::Filter::default()
            }),
            order: change::Order::Newest.into(),
            ..agent::SchemaChangesRequest::default()
        };
        let answer = self
            .agent()
            .schema_changes(self.to_agent("SchemaChanges", ask))
            .await?;
        let found = answer.into_inner();
        Ok(Response::new(query::ListSchemaChangesResponse {
            schema_changes: found.schema_changes,
            coverage: found.end.and_then(|end| end.coverage),
            ..query::ListSchemaChangesResponse::default()
        }))
    }

    async fn get_coverage(
        &self,
        request: Request<query::GetCoverageRequest>,
    ) -> Answer<query::GetCoverageResponse> {
        self.admit(request, |asked| &asked.server)?;
        let ask = agent::CoverageRequest {
            server_id: self.server(),
        };
        let found = self
            .agent()
            .coverage(self.to_agent("Coverage", ask))
            .await?
            .into_inner();
        Ok(Response::new(query::GetCoverageResponse {
            coverage: found.coverage,
        }))
    }

    async fn get_server_status(
        &self,
        request: Request<query::GetServerStatusRequest>,
    ) -> Answer<query::GetServerStatusResponse> {
        self.admit(request, |asked| &asked.server)?;
        let ask = agent::StatusRequest {
            server_id: self.server(),
        };
        let found = self
            .agent()
            .status(self.to_agent("Status", ask))
            .await?
            .into_inner();
        Ok(Response::new(query::GetServerStatusResponse {
            server_id: self.server(),
            state: found.state,
            agent_connected: true,
            agent_id: self.agent_id(),
            agent_version: found.version,
            agent_start_time: found.start_time,
            ..query::GetServerStatusResponse::default()
        }))
    }
}

/// The parts of the agent's answer.
#[derive(Default)]
struct Planned {
    head: agent::PlanHead,
    conflicts: Vec<change::UndoConflict>,
    script: Vec<u8>,
    left_out: u64,
}

impl State {
    async fn planned(&self, asked: &recovery::PlanUndoRequest, script: bool) -> Result<Planned, Status> {
        let ask = agent::PlanUndoRequest {
            server_id: self.server(),
            filter: asked.filter.clone(),
            mode: asked.mode,
            script,
            conflicts: u32::try_from(asked.conflicts).expect("a number"),
            ..agent::PlanUndoRequest::default()
        };
        let answer = self.agent().plan_undo(self.to_agent("PlanUndo", ask)).await?;
        let mut planned = Planned::default();
        for part in all(answer.into_inner()).await? {
            match part.part.expect("a part") {
                Part::Head(head) => planned.head = head,
                Part::Conflict(conflict) => planned.conflicts.push(conflict),
                Part::Script(piece) => planned.script.extend_from_slice(&piece),
                Part::End(end) => planned.left_out = end.conflicts_left_out,
            }
        }
        Ok(planned)
    }
}

#[tonic::async_trait]
impl RecoveryService for State {
    type GetScriptStream = Frames<recovery::GetScriptResponse>;
    type WatchPlanStream = Frames<recovery::WatchPlanResponse>;

    async fn plan_undo(
        &self,
        request: Request<recovery::PlanUndoRequest>,
    ) -> Answer<recovery::PlanUndoResponse> {
        let asked = self.admit(request, |asked| &asked.server)?;
        let planned = self.planned(&asked, false).await?;
        let head = planned.head;
        let summary = head.summary.clone().unwrap_or_default();
        if summary.changes == 0 {
            return Err(refuse(Code::Refused, "NOTHING_TO_UNDO", "no change matches"));
        }
        let mut plans = locked(&self.plans);
        let summary_last = summary.last.clone();
        let plan = recovery::Plan {
            id: format!("pln_{}", plans.len()),
            summary: Some(summary),
            mode: asked.mode,
            digest: head.digest,
            script_bytes: head.script_bytes,
            dialect: head.dialect,
            complete: true,
            // As if somebody had touched a row in between.
            stale_since: summary_last,
            ..recovery::Plan::default()
        };
        plans.insert(plan.id.clone(), (asked, plan.clone()));
        Ok(Response::new(recovery::PlanUndoResponse {
            plan: Some(plan),
            conflicts: planned.conflicts,
            conflicts_left_out: planned.left_out,
            coverage: head.coverage,
            redacted: false,
        }))
    }

    #[expect(clippy::disallowed_methods, reason = "trailers of an answer that succeeds")]
    async fn get_script(
        &self,
        request: Request<recovery::GetScriptRequest>,
    ) -> Answer<Self::GetScriptStream> {
        self.people.admit(request.metadata())?;
        let (asked, plan) = locked(&self.plans)[&request.into_inner().plan_id].clone();
        let mut script = self.planned(&asked, true).await?.script;
        let forges = *locked(&self.forges);
        if forges == Some(Forgery::Bytes) {
            script[0] ^= 1;
        }
        let digest = |forged: Forgery| -> MetadataValue<Ascii> {
            let digest = if forges == Some(forged) {
                "0".repeat(64)
            } else {
                plan.digest.clone()
            };
            digest.parse().expect("a value")
        };
        let pieces: Vec<_> = script
            .chunks(100)
            .map(|piece| {
                Ok(recovery::GetScriptResponse {
                    stale_since: plan.stale_since.clone(),
                    chunk: Some(HttpBody {
                        content_type: "application/sql".to_owned(),
                        data: piece.to_vec().into(),
                    }),
                })
            })
            .collect();
        let mut trailers = MetadataMap::new();
        trailers.insert("trailmesh-digest", digest(Forgery::Trailer));
        let end = Err(Status::with_metadata(Grpc::Ok, "", trailers));
        let frames: Frames<_> = Box::pin(stream::iter(pieces.into_iter().chain([end])));
        let mut response = Response::new(frames);
        response
            .metadata_mut()
            .insert("trailmesh-digest", digest(Forgery::Header));
        Ok(response)
    }

    async fn get_plan(&self, _: Request<recovery::GetPlanRequest>) -> Answer<recovery::GetPlanResponse> {
        Err(uncalled())
    }

    async fn list_plans(
        &self,
        _: Request<recovery::ListPlansRequest>,
    ) -> Answer<recovery::ListPlansResponse> {
        Err(uncalled())
    }

    async fn watch_plan(&self, _: Request<recovery::WatchPlanRequest>) -> Answer<Self::WatchPlanStream> {
        Err(uncalled())
    }
}

/// The plans that were made.
pub(super) type Plans = BTreeMap<String, (recovery::PlanUndoRequest, recovery::Plan)>;
