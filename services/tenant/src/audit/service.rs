//! AuditService.

use std::time::{Duration, Instant};

use audit::{Event, Kind, Outcome, Record};
use futures_util::{future::join_all, stream::BoxStream};
use proto::tenant::v1 as pb;
use tonic::{Request, Response, Status};
use types::{AuditId, Scope, TenantId};

use super::{Error, Log, filter::Filter, micros, now, read, stream, wire, work};
use crate::domain::{
    Problem,
    page::{Page, Query},
};

/// Refusals of one call.
const REFUSALS: usize = 100;

/// The longest that a call may be under way.
const LONGEST_CALL: Duration = Duration::from_secs(3_600);

/// Entries that are looked at for one page of a filtered list; then it ends before it is full.
const LOOKED_AT: usize = 5_000;

/// Of a filtered list, so many are read at a time.
const CHUNK: i64 = 500;

/// Times of writing may be out of order by as much as the clocks of replicas differ.
const CLOCKS: Duration = Duration::from_secs(3_600);

/// AuditService.
#[derive(Clone, Debug)]
pub(crate) struct Audit(pub(super) Log);

/// What is no id of a tenant is no tenant.
fn tenant(text: &str) -> Result<TenantId, Error> {
    text.parse().map_err(|_| Error::Gone)
}

fn entry_id(text: &str, field: &'static str) -> Result<String, Error> {
    let id: Result<AuditId, _> = text.parse();
    match id {
        Ok(id) => Ok(id.to_string()),
        Err(error) => Err(Problem::from(error.to_string()).at(field).into()),
    }
}

impl Audit {
    async fn intent(&self, request: pb::RecordIntentRequest, deadline: Instant) -> Result<(), Error> {
        let tenant = tenant(&request.tenant_id)?;
        let id = entry_id(&request.entry_id, "entry_id")?;
        let call = wire::call(request.call, "call")?;
        let until = request
            .deadline
            .ok_or_else(|| Problem::from("a deadline is needed").at("deadline"))?;
        let now = now();
        let record = Record::Intent {
            id,
            time: now,
            deadline: wire::micros(until, "deadline")?.clamp(now, now + micros(LONGEST_CALL)),
            call,
        };
        self.0.appender.append(tenant, record, deadline).await?;
        Ok(())
    }

    async fn result(&self, request: pb::RecordResultRequest, deadline: Instant) -> Result<(), Error> {
        let tenant = tenant(&request.tenant_id)?;
        let record = Record::Result {
            id: entry_id(&request.entry_id, "entry_id")?,
            time: now(),
            outcome: wire::outcome(request.outcome)?,
            code: request.code,
            reason: request.reason,
            targets: wire::targets(request.targets),
        };
        self.0.appender.append(tenant, record, deadline).await?;
        Ok(())
    }

    /// Those of tenants that are gone are dropped.
    async fn refusals(&self, request: pb::RecordRefusalsRequest, deadline: Instant) -> Result<(), Error> {
        if request.refusals.len() > REFUSALS {
            return Err(Problem::from("more than 100").at("refusals").into());
        }
        let mut writing = Vec::new();
        for refusal in request.refusals {
            let (tenant, record) = refused(refusal)?;
            writing.push(self.0.appender.append(tenant, record, deadline));
        }
        for outcome in join_all(writing).await {
            match outcome {
                Ok(_) => {}
                Err(Error::Gone) => self.0.measure.dropped.add(1, &[]),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn list(
        &self,
        scope: &Scope,
        request: &pb::ListAuditEntriesRequest,
    ) -> Result<pb::ListAuditEntriesResponse, Error> {
        let filter = Filter::parse(request.filter.as_ref())?;
        let query = Query::new("ListAuditEntries", scope.tenant()).filtered(format!("{filter:?}"));
        let page = Page::parse::<1>(&query, request.page_size, &request.page_token)?;
        let after = page.after.as_ref().and_then(|key| key.first()?.parse().ok());
        let mut before: i64 = after.unwrap_or(i64::MAX);
        let chunk = if filter.is_open() { page.limit() } else { CHUNK };
        let too_old = filter.since.map(|since| since - micros(CLOCKS));
        let mut tx = self.0.store.registry(scope).await?;
        let (mut found, mut looked_at) = (Vec::new(), 0);
        let wanted = page.size as usize + 1;
        let (entries, next_page_token) = loop {
            let begun = read::begun_before(&mut tx, &self.0.unreadable, before, chunk).await?;
            let mut over = (begun.len() as i64) < chunk;
            for begun in begun {
                before = begun.first;
                over |= too_old.is_some_and(|too_old| begun.written < too_old);
                if over && too_old.is_some_and(|too_old| begun.written < too_old) {
                    break;
                }
                if found.len() < wanted && filter.takes(&begun.entry) {
                    found.push(begun);
                }
                looked_at += 1;
            }
            if over || found.len() >= wanted {
                break page.cut(&query, found, |begun| vec![begun.first.to_string()]);
            }
            if looked_at >= LOOKED_AT {
                break (found, query.token(&[before.to_string()]));
            }
        };
        Ok(pb::ListAuditEntriesResponse {
            entries: entries
                .into_iter()
                .map(|begun| wire::entry(begun.entry))
                .collect(),
            next_page_token,
        })
    }

    /// From the vault, who keeps it apart; from our copy where the vault cannot be asked.
    async fn head(&self, scope: &Scope) -> Result<pb::GetAuditHeadResponse, Error> {
        let head = match self.0.vault.last(scope.tenant()).await {
            Ok(head) => head,
            Err(_) => {
                let mut tx = self.0.store.directory(scope.deadline).await?;
                work::last_signed(&mut tx, scope.tenant()).await?
            }
        };
        let head = head.ok_or(Error::NoHead)?;
        Ok(pb::GetAuditHeadResponse {
            statement: head.statement,
            signature: head.signature,
            key_id: head.key_id,
        })
    }
}

fn refused(refusal: pb::Refusal) -> Result<(TenantId, Record), Error> {
    let tenant = tenant(&refusal.tenant_id)?;
    let id = entry_id(&refusal.entry_id, "refusals.entry_id")?;
    let call = wire::call(refusal.call, "refusals.call")?;
    let time = refusal
        .time
        .map(|time| wire::micros(time, "refusals.time"))
        .transpose()?
        .unwrap_or_else(now);
    let event = Event {
        id: id.clone(),
        time,
        end_time: time,
        actor: call.actor,
        kind: Kind::Refusal,
        method: call.method,
        path: call.path,
        targets: call.targets,
        client_address: call.client_address,
        user_agent: call.user_agent,
        request_id: call.request_id,
        outcome: Outcome::Failed,
        code: refusal.code,
        reason: refusal.reason,
        count: u64::try_from(refusal.count).unwrap_or(1).max(1),
    };
    Ok((
        tenant,
        Record::Event {
            id,
            time: now(),
            event,
        },
    ))
}

#[tonic::async_trait]
impl pb::audit_service_server::AuditService for Audit {
    type StreamAuditEntriesStream = BoxStream<'static, Result<pb::StreamAuditEntriesResponse, Status>>;
    type ExportAuditEntriesStream = BoxStream<'static, Result<pb::ExportAuditEntriesResponse, Status>>;

    async fn record_intent(
        &self,
        request: Request<pb::RecordIntentRequest>,
    ) -> Result<Response<pb::RecordIntentResponse>, Status> {
        let deadline = chassis::origin(&request).deadline;
        self.intent(request.into_inner(), deadline).await?;
        Ok(Response::new(pb::RecordIntentResponse {}))
    }

    async fn record_result(
        &self,
        request: Request<pb::RecordResultRequest>,
    ) -> Result<Response<pb::RecordResultResponse>, Status> {
        let deadline = chassis::origin(&request).deadline;
        self.result(request.into_inner(), deadline).await?;
        Ok(Response::new(pb::RecordResultResponse {}))
    }

    async fn record_refusals(
        &self,
        request: Request<pb::RecordRefusalsRequest>,
    ) -> Result<Response<pb::RecordRefusalsResponse>, Status> {
        let deadline = chassis::origin(&request).deadline;
        self.refusals(request.into_inner(), deadline).await?;
        Ok(Response::new(pb::RecordRefusalsResponse {}))
    }

    async fn list_audit_entries(
        &self,
        request: Request<pb::ListAuditEntriesRequest>,
    ) -> Result<Response<pb::ListAuditEntriesResponse>, Status> {
        let scope = chassis::scope(&request)?;
        Ok(Response::new(self.list(&scope, request.get_ref()).await?))
    }

    async fn stream_audit_entries(
        &self,
        request: Request<pb::StreamAuditEntriesRequest>,
    ) -> Result<Response<Self::StreamAuditEntriesStream>, Status> {
        let scope = chassis::scope(&request)?;
        Ok(Response::new(stream::entries(&self.0, scope, request.get_ref())?))
    }

    async fn export_audit_entries(
        &self,
        request: Request<pb::ExportAuditEntriesRequest>,
    ) -> Result<Response<Self::ExportAuditEntriesStream>, Status> {
        let scope = chassis::scope(&request)?;
        Ok(Response::new(
            stream::export(&self.0, scope, request.get_ref()).await?,
        ))
    }

    async fn get_audit_head(
        &self,
        request: Request<pb::GetAuditHeadRequest>,
    ) -> Result<Response<pb::GetAuditHeadResponse>, Status> {
        let scope = chassis::scope(&request)?;
        Ok(Response::new(self.head(&scope).await?))
    }
}
