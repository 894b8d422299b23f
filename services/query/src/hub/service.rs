//! What other services, and other replicas, ask of the hub.

use std::{pin::Pin, sync::Arc, time::Instant};

use chassis::{deadline, status, token::KeySet};
use futures_util::{Stream, StreamExt as _, stream};
use proto::query::v1::{self as pb, hub_service_server::HubService};
use tonic::{Request, Response, Status, metadata::MetadataValue};
use types::{AgentId, Role, Secret, TenantId};

use super::{
    Error, Hub,
    link::Outcome,
    model::{Epoch, Key, Servers},
    peers::{HELD, Word},
};
use crate::{
    resolve::{self, Resolver},
    source::{Ask, Messages, Method, Source, Target, Unanswered},
};

/// Who has no right to query is told nothing of a server, not even that there is one.
const LOWEST: Role = Role::Analyst;
/// Agents that one question may name.
const MOST: usize = 1_000;

/// An answer in messages of `T`.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The handlers of `HubService`.
pub(crate) struct HubHandlers {
    hub: Hub,
    /// The hub, and what else can be asked.
    source: Arc<dyn Source>,
    resolver: Resolver,
    keys: KeySet,
}

impl HubHandlers {
    /// `source` answers for servers and uploads; `keys` verify context tokens.
    pub(crate) fn new(hub: Hub, source: Arc<dyn Source>, resolver: Resolver, keys: KeySet) -> Self {
        Self {
            hub,
            source,
            resolver,
            keys,
        }
    }

    async fn target(&self, seat: &types::Seat, id: &str, deadline: Instant) -> Result<Target, Status> {
        if let Ok(upload) = id.parse() {
            // An upload is in no pool: it is for those whose role is for the whole tenant.
            let may = seat.role >= Some(LOWEST);
            return may
                .then_some(Target::Upload {
                    id: upload,
                    plan: seat.plan,
                })
                .ok_or_else(|| resolve::Error::Missing.into());
        }
        let resolved = self.resolver.server(seat.tenant, id, deadline).await?;
        resolved.permit(seat, LOWEST)?;
        Ok(Target::Server {
            id: resolved.id,
            agents: resolved.agents.clone(),
        })
    }

    async fn answer(&self, request: pb::AskRequest, deadline: Instant) -> Result<Messages, Status> {
        let method = Method::from_path(&request.method).ok_or_else(|| status(&Error::Method))?;
        let (context, _) = self
            .keys
            .context(&request.context_token)
            .map_err(|error| status(&error))?;
        let seat = context.seat.ok_or_else(|| status(&Error::NoTenant))?;
        let target = self.target(&seat, &request.server_id, deadline).await?;
        let ask = Ask {
            tenant: seat.tenant,
            target,
            method,
            request: request.request,
            context: Secret::new(request.context_token),
            deadline,
            prefer: None,
        };
        match self.source.ask(ask).await {
            Ok(answer) => Ok(answer.messages),
            Err(Unanswered::Failed(status)) => Err(status),
            Err(Unanswered::NotConnected(seen)) => {
                Err(status(&Error::NotConnected(seen.map(|seen| seen.time))))
            }
        }
    }
}

/// Until when the call that is served must be answered.
fn until() -> Instant {
    deadline::current().unwrap_or_else(|| Instant::now() + deadline::LONGEST)
}

fn id<T: std::str::FromStr>(text: &str, field: &'static str) -> Result<T, Status> {
    text.parse().map_err(|_| status(&Error::Id(field)))
}

fn key(tenant: &str, agent: &str) -> Result<Key, Status> {
    Ok(Key {
        tenant: id::<TenantId>(tenant, "tenant_id")?,
        agent: id::<AgentId>(agent, "agent_id")?,
    })
}

/// An error as the end of an answer that has begun: peers that would send the call again leave it.
fn ended<T: Send + 'static>(error: Status) -> Answers<T> {
    stream::iter([Err(error)]).boxed()
}

#[tonic::async_trait]
impl HubService for HubHandlers {
    type AskStream = Answers<pb::AskResponse>;
    type ForwardStream = Answers<pb::ForwardResponse>;

    async fn ask(&self, request: Request<pb::AskRequest>) -> Result<Response<Self::AskStream>, Status> {
        let answer = match self.answer(request.into_inner(), until()).await {
            Ok(messages) => messages
                .map(|message| Ok(pb::AskResponse { message: message? }))
                .boxed(),
            Err(error) => ended(error),
        };
        Ok(Response::new(answer))
    }

    async fn forward(
        &self,
        request: Request<pb::ForwardRequest>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        let request = request.into_inner();
        let key = key(&request.tenant_id, &request.agent_id)?;
        let method = Method::from_path(&request.method).ok_or_else(|| status(&Error::Method))?;
        // Never passed on: what is not here is not held.
        let outcome = match self.hub.link(key) {
            None => Outcome::Unanswered(Error::NotHeld),
            Some(link) => {
                let token = &request.delegation_token;
                link.ask(method, request.request, token, until()).await
            }
        };
        let (word, answer) = match outcome {
            Outcome::Answered(Ok(messages)) => {
                let messages = messages.map(|message| Ok(pb::ForwardResponse { message: message? }));
                (Word::Held, messages.boxed())
            }
            Outcome::Answered(Err(refused)) => (Word::Refused, ended(refused)),
            Outcome::Unanswered(error) => (Word::NotHeld, ended(status(&error))),
        };
        let mut response = Response::new(answer);
        let word = MetadataValue::from_static(word.word());
        response.metadata_mut().insert(HELD, word);
        Ok(response)
    }

    async fn held(&self, request: Request<pb::HeldRequest>) -> Result<Response<pb::HeldResponse>, Status> {
        let request = request.into_inner();
        if request.agent_ids.len() > MOST {
            return Err(status(&Error::Id("agent_ids")));
        }
        let mut agents = Vec::new();
        for agent in &request.agent_ids {
            let key = key(&request.tenant_id, agent)?;
            let registry = self.hub.registry();
            let Some(held) = registry.get(key) else { continue };
            let server_ids = match held.link.servers() {
                Servers::Many => Vec::new(),
                Servers::These(these) => these.iter().map(ToString::to_string).collect(),
            };
            agents.push(pb::HeldAgent {
                agent_id: agent.clone(),
                epoch: held.epoch.word(),
                server_ids,
            });
        }
        Ok(Response::new(pb::HeldResponse { agents }))
    }

    async fn displace(
        &self,
        request: Request<pb::DisplaceRequest>,
    ) -> Result<Response<pb::DisplaceResponse>, Status> {
        let request = request.into_inner();
        let key = key(&request.tenant_id, &request.agent_id)?;
        let epoch = Epoch::from_word(&request.epoch).ok_or_else(|| status(&Error::Id("epoch")))?;
        self.hub.displaced(key, &epoch);
        Ok(Response::new(pb::DisplaceResponse {}))
    }
}
