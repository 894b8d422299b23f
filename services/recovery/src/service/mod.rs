//! The gRPC service, a file for each kind of answer: decode, act, encode. Rules are in `domain`, statements in `store`.
//!
//! There is no method that executes anything, and nothing here that could: a script passes as bytes, from the agent to whoever asked for it.

mod list;
mod plan;
mod script;
mod watch;

use std::sync::{Arc, OnceLock};

use chassis::places::Places;
use futures_util::stream::BoxStream;
use proto::{
    agent::v1::{self as agent, PlanHead, plan_undo_response::Part},
    recovery::v1::{self as pb, recovery_service_server::RecoveryService},
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use types::{Errand, Role, Scope, Secret};

use crate::{
    clients::{
        directory::Directory,
        hub::{Answer, Hub},
    },
    config::Config,
    domain::{
        plan::{Place, Plan},
        sight::Sight,
    },
    error::Error,
    store::{Kept, Store},
};

/// Which server an answer is about.
const SERVER_ID: &str = "trailmesh-server-id";

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct Recovery {
    pub(crate) store: Store,
    pub(crate) directory: Directory,
    pub(crate) hub: Hub,
    pub(crate) config: Config,
    /// Room for those who watch plans.
    pub(crate) watchers: Places,
    pub(crate) stopping: CancellationToken,
}

/// Who asks.
struct Caller {
    scope: Scope,
    /// The token that says so: agents are asked in its subject's name.
    context: Secret<String>,
    about: About,
}

/// What a call is about, once that was found.
#[derive(Clone, Debug, Default)]
struct About(Arc<OnceLock<Place>>);

impl About {
    /// The first one counts.
    fn is(&self, place: Place) {
        let _ = self.0.set(place);
    }

    /// A refusal, which says what it is about: a caller may have given a name.
    fn refusal(&self, error: Error) -> Status {
        let mut status = Status::from(error);
        if let Some(Ok(place)) = self.0.get().map(|place| place.to_string().parse()) {
            status.metadata_mut().insert(SERVER_ID, place);
        }
        status
    }
}

/// What a caller may plan for.
struct Target {
    place: Place,
    sight: Sight,
    /// Its agents are not to be asked.
    frozen: bool,
}

impl Target {
    fn asked(self) -> Result<Self, Error> {
        if self.frozen {
            return Err(Error::Frozen);
        }
        Ok(self)
    }
}

/// A plan that the caller may see.
struct Found {
    kept: Kept,
    sight: Sight,
    /// The agents of its server are not to be asked.
    frozen: bool,
}

impl Found {
    /// Refuses what an agent would have to be asked for.
    fn asked(self) -> Result<Self, Error> {
        if self.frozen {
            return Err(Error::Frozen);
        }
        Ok(self)
    }

    fn message(&self, caller: &Caller) -> pb::Plan {
        let viewer = caller.scope.subject.user();
        self.kept.plan.message(self.kept.now(), &self.sight, viewer)
    }
}

impl Caller {
    fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let context = chassis::context_token(request).ok_or(Error::Context)?;
        Ok(Self {
            scope: chassis::scope(request)?,
            context,
            about: About::default(),
        })
    }
}

/// Tells the gateway, for the audit log, which server a name stood for.
fn name_place<T>(response: &mut Response<T>, place: Place) -> Result<(), Error> {
    let value = place.to_string().parse();
    let value = value.map_err(|_| Error::Stored("server id"))?;
    response.metadata_mut().insert(SERVER_ID, value);
    Ok(())
}

/// The first message of a plan.
async fn head(answer: &mut Answer<agent::PlanUndoResponse>) -> Result<PlanHead, Error> {
    let first = answer.next().await?.and_then(|message| message.part);
    match first {
        Some(Part::Head(head)) => Ok(head),
        _ => Err(Error::Answer {
            who: "an agent",
            what: "a plan that does not begin with its head".to_owned(),
        }),
    }
}

/// The request that makes a plan again, up to where it was made.
fn again(plan: &Plan, sight: &Sight, script: bool) -> agent::PlanUndoRequest {
    agent::PlanUndoRequest {
        server_id: plan.place.to_string(),
        filter: Some(plan.filter.clone()),
        mode: plan.mode.wire(),
        until: plan.summary.until.clone(),
        script,
        conflicts: 0,
        tell_descents: !sight.is_whole(),
    }
}

impl Recovery {
    /// A server or an upload that the caller may plan for. What they may not is as missing as what there is not.
    async fn target(&self, scope: &Scope, text: &str) -> Result<Target, Error> {
        if let Ok(Place::Upload(upload)) = text.parse() {
            // An upload is in no pool: it is for those whose role is for the whole tenant.
            let role = scope.seat.role.filter(|_| scope.covers_all());
            let role = role.ok_or(Error::ServerMissing)?;
            let sight = if role > Role::Operator {
                Sight::whole()
            } else {
                let rules = self.directory.rules(scope.tenant(), role, scope.deadline).await?;
                Sight::new(role, None, &rules)?
            };
            let place = Place::Upload(upload);
            let frozen = false;
            return Ok(Target { place, sight, frozen });
        }
        let server = self
            .directory
            .server(scope.tenant(), text, scope.deadline)
            .await?;
        let role = scope
            .seat
            .role_in(server.pool)
            .filter(|_| scope.covers(server.pool));
        let role = role.ok_or(Error::ServerMissing)?;
        Ok(Target {
            place: Place::Server(server.id),
            sight: Sight::new(role, Some(server.id), &server.rules)?,
            frozen: server.frozen,
        })
    }

    /// A plan, if the caller may see it by the rules of this moment.
    async fn found(&self, caller: &Caller, id: &str) -> Result<Found, Error> {
        let scope = &caller.scope;
        let id = id.parse().map_err(|_| Error::PlanMissing)?;
        let kept = self.store.find(scope, id).await?.ok_or(Error::PlanMissing)?;
        let target = self.target(scope, &kept.plan.place.to_string()).await;
        let target = target.map_err(|error| match error {
            Error::ServerMissing => Error::PlanMissing,
            error => error,
        })?;
        caller.about.is(target.place);
        kept.plan.allows(&target.sight)?;
        Ok(Found {
            kept,
            sight: target.sight,
            frozen: target.frozen,
        })
    }

    /// Notes that a later change has touched a row of a plan. If it cannot be noted, the agent will say it again.
    async fn note_stale(&self, scope: &Scope, plan: &Plan) {
        let errand = Errand {
            tenant: scope.tenant(),
            deadline: scope.deadline,
        };
        let Some(since) = &plan.stale_since else { return };
        if let Err(error) = self.store.stale(&errand, plan.id, since).await {
            tracing::warn!(plan = %plan.id, error = types::chain(&error), "that a plan is stale was not noted");
        }
    }
}

#[tonic::async_trait]
impl RecoveryService for Recovery {
    async fn plan_undo(
        &self,
        request: Request<pb::PlanUndoRequest>,
    ) -> Result<Response<pb::PlanUndoResponse>, Status> {
        let caller = Caller::of(&request)?;
        let answer = self.plan(&caller, request.into_inner()).await;
        answer.map_err(|error| caller.about.refusal(error))
    }

    async fn get_plan(
        &self,
        request: Request<pb::GetPlanRequest>,
    ) -> Result<Response<pb::GetPlanResponse>, Status> {
        let caller = Caller::of(&request)?;
        let answer = self.get(&caller, &request.get_ref().plan_id).await;
        let answer = answer.map(Response::new);
        answer.map_err(|error| caller.about.refusal(error))
    }

    type GetScriptStream = BoxStream<'static, Result<pb::GetScriptResponse, Status>>;

    async fn get_script(
        &self,
        request: Request<pb::GetScriptRequest>,
    ) -> Result<Response<Self::GetScriptStream>, Status> {
        let caller = Caller::of(&request)?;
        let answer = self.script(&caller, &request.get_ref().plan_id).await;
        answer.map_err(|error| caller.about.refusal(error))
    }

    async fn list_plans(
        &self,
        request: Request<pb::ListPlansRequest>,
    ) -> Result<Response<pb::ListPlansResponse>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.list(&caller, request.get_ref()).await?))
    }

    type WatchPlanStream = BoxStream<'static, Result<pb::WatchPlanResponse, Status>>;

    async fn watch_plan(
        &self,
        request: Request<pb::WatchPlanRequest>,
    ) -> Result<Response<Self::WatchPlanStream>, Status> {
        let caller = Caller::of(&request)?;
        let plan = request.into_inner().plan_id;
        let about = caller.about.clone();
        let answer = self.watch(caller, &plan).await;
        answer.map(Response::new).map_err(|error| about.refusal(error))
    }
}
