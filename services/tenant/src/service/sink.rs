//! AuditSinkService.

use std::sync::Arc;

use audit::format::Format;
use proto::tenant::v1 as pb;
use tonic::{Request, Response, Status};
use types::{Micros, Scope, SinkId};

use super::{Core, wire};
use crate::{
    audit::read,
    domain::{
        At as _, Problem, name,
        page::{Page, Query},
        sink::{self, Progress, Sink, Target},
        token::{Kind, Token},
    },
    error::{Error, Noun},
    sink::{Courier, Failure},
    store,
};

/// AuditSinkService.
#[derive(Clone, Debug)]
pub(crate) struct Sinks(pub(crate) Core, pub(crate) Arc<Courier>);

fn format(number: i32) -> Result<Format, Problem> {
    match pb::AuditFormat::try_from(number) {
        Ok(pb::AuditFormat::Ocsf) => Ok(Format::Ocsf),
        Ok(pb::AuditFormat::Ecs) => Ok(Format::Ecs),
        Ok(pb::AuditFormat::Cef) => Ok(Format::Cef),
        _ => Err("a sink takes OCSF, ECS or CEF".into()),
    }
}

fn encode(sink: Sink, progress: Progress) -> pb::AuditSink {
    let kind = match sink.target {
        Target::Syslog(_) => pb::SinkKind::Syslog,
        Target::Webhook(_) => pb::SinkKind::Webhook,
        Target::File => pb::SinkKind::File,
    };
    let format = match sink.format {
        Format::Ocsf => pb::AuditFormat::Ocsf,
        Format::Ecs => pb::AuditFormat::Ecs,
        Format::Cef => pb::AuditFormat::Cef,
    };
    pb::AuditSink {
        id: sink.id.to_string(),
        name: sink.name,
        kind: kind.into(),
        url: sink.target.url().to_owned(),
        format: format.into(),
        create_time: wire::timestamp(sink.created),
        delivered_sequence: progress.delivered,
        behind: progress.behind,
        last_error: progress.last_error,
        last_attempt_time: progress.last_attempt.and_then(wire::timestamp),
    }
}

impl Sinks {
    /// Where the sink is to be, if it may be there.
    async fn target(&self, wanted: &pb::AuditSink) -> Result<Target, Error> {
        let target = match pb::SinkKind::try_from(wanted.kind) {
            Ok(pb::SinkKind::Syslog) => sink::syslog(&wanted.url).at("sink.url")?,
            Ok(pb::SinkKind::Webhook) => sink::webhook(&wanted.url).at("sink.url")?,
            Ok(pb::SinkKind::File) if !wanted.url.is_empty() => {
                return Err(Problem::from("a file has none: it has the sink's name")
                    .at("sink.url")
                    .into());
            }
            Ok(pb::SinkKind::File) if self.1.means.folder.is_none() => {
                return Err(Problem::from("this installation has no folder for files")
                    .at("sink.kind")
                    .into());
            }
            Ok(pb::SinkKind::File) => Target::File,
            _ => {
                return Err(Problem::from("one of syslog, webhook and file is needed")
                    .at("sink.kind")
                    .into());
            }
        };
        if let Target::Syslog(place) | Target::Webhook(place) = &target
            && let Err(Failure::AddressForbidden) = self.1.means.reach.addresses(place).await
        {
            // A name that has no address now may have one later: delivery looks again, every time.
            return Err(Error::SinkAddressForbidden);
        }
        Ok(target)
    }

    async fn create(
        &self,
        scope: &Scope,
        wanted: &pb::CreateAuditSinkRequest,
    ) -> Result<(Sink, Progress, Option<Token>), Error> {
        let wanted = wanted.sink.clone().unwrap_or_default();
        let sink = Sink {
            id: SinkId::fresh(),
            name: name::thing(&wanted.name).at("sink.name")?,
            format: format(wanted.format).at("sink.format")?,
            target: self.target(&wanted).await?,
            created: Micros(0),
        };
        let secret = matches!(sink.target, Target::Webhook(_)).then(|| Token::fresh(Kind::Sink));
        // Before the transaction, which holds the tenant and does not wait for others.
        let sealed = match &secret {
            None => None,
            Some(secret) => Some(self.seal(scope, sink.id, secret).await?),
        };
        let (mut tx, scope) = self.0.store.change_all(scope).await?;
        tx.enter_tenant().await?;
        let count = store::sink::count(&mut tx).await?;
        scope
            .seat
            .plan
            .room("audit sinks", count, |limits| limits.audit_sinks)?;
        let sink = store::sink::insert(&mut tx, &sink, sealed.as_ref()).await?;
        let delivered = read::last_sequence(&mut tx)
            .await
            .map_err(|_| Error::Stored("record of the audit log"))?;
        tx.enter_shared().await?;
        store::sink::begin(&mut tx, scope.tenant(), sink.id, delivered).await?;
        tx.commit().await?;
        let progress = Progress {
            delivered,
            ..Progress::default()
        };
        Ok((sink, progress, secret))
    }

    async fn seal(
        &self,
        scope: &Scope,
        sink: SinkId,
        secret: &Token,
    ) -> Result<crate::clients::sealer::Sealed, Error> {
        let place = (scope.tenant(), sink);
        self.1
            .secrets
            .seal(place, secret, scope.deadline)
            .await
            .map_err(Error::Vault)
    }

    async fn list(
        &self,
        scope: &Scope,
        wanted: &pb::ListAuditSinksRequest,
    ) -> Result<pb::ListAuditSinksResponse, Error> {
        let query = Query::new("ListAuditSinks", scope.tenant());
        let page = Page::parse::<1>(&query, wanted.page_size, &wanted.page_token)?;
        let mut tx = self.0.store.registry(scope).await?;
        let found = store::sink::list(&mut tx, &page).await?;
        let (found, next_page_token) = page.cut(&query, found, |sink| vec![sink.name.clone()]);
        tx.enter_shared().await?;
        let mut progress = store::sink::progress(&mut tx, scope.tenant()).await?;
        tx.enter_tenant().await?;
        let mut sinks = Vec::with_capacity(found.len());
        for sink in found {
            let mut own = progress.remove(&sink.id).unwrap_or_default();
            own.behind = store::sink::behind(&mut tx, own.delivered).await?;
            sinks.push(encode(sink, own));
        }
        Ok(pb::ListAuditSinksResponse {
            sinks,
            next_page_token,
        })
    }

    async fn delete(&self, scope: &Scope, id: &str) -> Result<(), Error> {
        let id: SinkId = wire::id(id, Noun::Sink)?;
        let (mut tx, scope) = self.0.store.change_all(scope).await?;
        tx.enter_tenant().await?;
        store::sink::delete(&mut tx, id).await?;
        tx.enter_shared().await?;
        store::sink::end(&mut tx, scope.tenant(), id).await?;
        tx.commit().await?;
        Ok(())
    }
}

#[tonic::async_trait]
impl pb::audit_sink_service_server::AuditSinkService for Sinks {
    async fn create_audit_sink(
        &self,
        request: Request<pb::CreateAuditSinkRequest>,
    ) -> Result<Response<pb::CreateAuditSinkResponse>, Status> {
        let scope = chassis::scope(&request)?;
        let (sink, progress, secret) = self.create(&scope, request.get_ref()).await?;
        Ok(Response::new(pb::CreateAuditSinkResponse {
            sink: Some(encode(sink, progress)),
            signing_secret: secret
                .map(|secret| secret.expose().to_owned())
                .unwrap_or_default(),
        }))
    }

    async fn list_audit_sinks(
        &self,
        request: Request<pb::ListAuditSinksRequest>,
    ) -> Result<Response<pb::ListAuditSinksResponse>, Status> {
        let scope = chassis::scope(&request)?;
        Ok(Response::new(self.list(&scope, request.get_ref()).await?))
    }

    async fn delete_audit_sink(
        &self,
        request: Request<pb::DeleteAuditSinkRequest>,
    ) -> Result<Response<pb::DeleteAuditSinkResponse>, Status> {
        let scope = chassis::scope(&request)?;
        self.delete(&scope, &request.get_ref().sink_id).await?;
        Ok(Response::new(pb::DeleteAuditSinkResponse {}))
    }
}
