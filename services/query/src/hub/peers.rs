//! The other replicas: the one hop that a call may take, and what they hold when the directory does not say.

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use chassis::{Peer, Replicas, deadline};
use futures_util::{StreamExt as _, stream};
use proto::query::v1::{self as pb, hub_service_client::HubServiceClient};
use tonic::{Status, Streaming};
use types::{AgentId, TenantId};

use super::{
    link::LONGEST,
    model::{Epoch, Found, Key, Servers},
};
use crate::source::Ask;

/// The name of this service.
const QUERY: &str = "query";
/// Connections to replicas that are kept; replicas that went are forgotten with them.
const KEPT: usize = 256;
/// How long replicas may take to say what they hold.
const PATIENCE: Duration = Duration::from_secs(1);
/// Agents that one question names.
const AGENTS: usize = 256;
/// Questions that are asked at a time.
const AT_ONCE: usize = 16;
/// What a forwarded answer says in its head: whether the agent has begun to answer.
pub(super) const HELD: &str = "trailmesh-agent-held";

/// What the head of a forwarded answer says of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// It has certainly not begun to answer.
    NotHeld,
    /// It answers.
    Held,
    /// It refuses; why is all that follows.
    Refused,
}

impl Word {
    /// As metadata write it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::NotHeld => "0",
            Self::Held => "1",
            Self::Refused => "refused",
        }
    }

    fn read(word: &[u8]) -> Option<Self> {
        let all = [Self::NotHeld, Self::Held, Self::Refused];
        all.into_iter().find(|one| one.word().as_bytes() == word)
    }

    async fn of(self, mut messages: Streaming<pb::ForwardResponse>) -> Result<Forwarded, Status> {
        match self {
            Self::NotHeld => Ok(Forwarded::NotHeld),
            Self::Held => Ok(Forwarded::Answered(Box::new(messages))),
            Self::Refused => match messages.message().await {
                Err(refused) => Ok(Forwarded::Refused(refused)),
                Ok(_) => Ok(Forwarded::NotHeld),
            },
        }
    }
}

/// The other replicas.
pub(crate) struct Others {
    own: SocketAddr,
    replicas: Replicas,
    /// All of them, by name; none where there is only this one.
    all: Option<Peer>,
    kept: Mutex<HashMap<SocketAddr, Peer>>,
}

impl fmt::Debug for Others {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Others({:?})", self.all)
    }
}

/// What became of a call that was forwarded.
pub(crate) enum Forwarded {
    /// The agent answers.
    Answered(Box<Streaming<pb::ForwardResponse>>),
    /// It says that it will not.
    Refused(Status),
    /// It has certainly not begun to.
    NotHeld,
}

impl Others {
    /// Of the replica at `own`.
    pub(crate) fn new(own: SocketAddr, replicas: Replicas, all: Option<Peer>) -> Self {
        Self {
            own,
            replicas,
            all,
            kept: Mutex::default(),
        }
    }

    /// Passes a call on to the replica at `address`.
    pub(crate) async fn forward(
        &self,
        address: SocketAddr,
        agent: AgentId,
        ask: &Ask,
        delegation: &str,
    ) -> Result<Forwarded, Status> {
        let Some(mut client) = self.client(address) else {
            return Ok(Forwarded::NotHeld);
        };
        let request = pb::ForwardRequest {
            tenant_id: ask.tenant.to_string(),
            agent_id: agent.to_string(),
            method: ask.method.path().to_owned(),
            request: ask.request.clone(),
            delegation_token: delegation.to_owned(),
        };
        match deadline::within(ask.deadline, client.forward(request)).await {
            Ok(answer) => {
                let held = answer.metadata().get(HELD).map(AsRef::as_ref);
                let word = held.and_then(Word::read).unwrap_or(Word::NotHeld);
                word.of(answer.into_inner()).await
            }
            // The replica is gone, or ends: the agent has not been asked, or has not begun to answer.
            Err(status) if status.code() == tonic::Code::Unavailable => Ok(Forwarded::NotHeld),
            Err(status) => Err(status),
        }
    }

    /// What all others that can be reached hold of these agents.
    pub(crate) async fn held(&self, tenant: TenantId, agents: &[AgentId], until: Instant) -> Vec<Found> {
        let Some(all) = &self.all else {
            return Vec::new();
        };
        let until = until.min(Instant::now() + PATIENCE);
        let addresses = tokio::time::timeout_at(until.into(), all.addresses()).await;
        let others = addresses.unwrap_or_default().into_iter();
        let others = others.filter(|address| *address != self.own);
        let requests: Vec<_> = agents
            .chunks(AGENTS)
            .map(|agents| pb::HeldRequest {
                tenant_id: tenant.to_string(),
                agent_ids: agents.iter().map(ToString::to_string).collect(),
            })
            .collect();
        let questions =
            others.flat_map(|address| requests.iter().map(move |request| (address, request.clone())));
        let answers = stream::iter(questions.collect::<Vec<_>>()).map(|(address, request)| async move {
            let mut client = self.client(address)?;
            let asked = deadline::within(until, client.held(request));
            let answer = tokio::time::timeout_at(until.into(), asked).await.ok()?;
            Some((address, answer.ok()?.into_inner()))
        });
        let answers: Vec<_> = answers.buffer_unordered(AT_ONCE).collect().await;
        let answers = answers.into_iter().flatten();
        let found = answers.flat_map(|(address, answer)| {
            let held = answer.agents.into_iter();
            held.filter_map(move |held| found(address, &held))
        });
        found.filter(|one| agents.contains(&one.agent)).collect()
    }

    /// Tells the replica at `address` that a connection of this epoch is held elsewhere; resolves when it holds none that is older, or is gone.
    pub(crate) async fn displace(&self, address: SocketAddr, key: Key, epoch: &Epoch) -> Result<(), Status> {
        let Some(mut client) = self.client(address) else {
            return Ok(());
        };
        let request = pb::DisplaceRequest {
            tenant_id: key.tenant.to_string(),
            agent_id: key.agent.to_string(),
            epoch: epoch.word(),
        };
        let until = Instant::now() + PATIENCE;
        deadline::within(until, client.displace(request)).await?;
        Ok(())
    }

    fn client(&self, address: SocketAddr) -> Option<HubServiceClient<Peer>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = kept.get(&address) {
            return Some(client(peer.clone()));
        }
        if kept.len() >= KEPT {
            kept.clear();
        }
        let peer = self.replicas.at(QUERY, address).ok()?;
        kept.insert(address, peer.clone());
        Some(client(peer))
    }
}

fn client(peer: Peer) -> HubServiceClient<Peer> {
    HubServiceClient::new(peer)
        .max_decoding_message_size(LONGEST + 1_024)
        .max_encoding_message_size(LONGEST + 1_024)
}

fn found(address: SocketAddr, held: &pb::HeldAgent) -> Option<Found> {
    Some(Found {
        agent: held.agent_id.parse().ok()?,
        address,
        epoch: Epoch::from_word(&held.epoch)?,
        leaving: false,
        servers: Servers::These(held.server_ids.iter().filter_map(|id| id.parse().ok()).collect()),
    })
}
