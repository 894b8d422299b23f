//! Service query's way to agents. What an agent answers comes as the bytes of its messages.

use std::{marker::PhantomData, time::Instant};

use chassis::Peer;
use prost::Message;
use proto::{
    agent::v1 as agent,
    query::v1::{AskRequest, AskResponse, hub_service_client::HubServiceClient},
};
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;
use types::Secret;

use crate::{
    domain::{plan::Place, sight::Sight},
    error::Error,
};

const WHO: &str = "service query";

/// Names and columns of many tables come in one message.
const MAX_ANSWER: usize = 16 << 20;

/// A method of AgentService.
pub(crate) trait Method: Message + Clone + Default {
    /// As delegations name it.
    const PATH: &'static str;
    /// A message of its answer.
    type Answer: Message + Default;
}

impl Method for agent::PlanUndoRequest {
    const PATH: &'static str = "/trailmesh.agent.v1.AgentService/PlanUndo";
    type Answer = agent::PlanUndoResponse;
}

impl Method for agent::WatchUndoRequest {
    const PATH: &'static str = "/trailmesh.agent.v1.AgentService/WatchUndo";
    type Answer = agent::WatchUndoResponse;
}

impl Method for agent::TablesRequest {
    const PATH: &'static str = "/trailmesh.agent.v1.AgentService/Tables";
    type Answer = agent::TablesResponse;
}

/// Asks agents.
#[derive(Clone, Debug)]
pub(crate) struct Hub {
    client: HubServiceClient<Peer>,
}

/// An answer that is coming. Dropped, the agent stops.
pub(crate) struct Answer<T> {
    messages: Streaming<AskResponse>,
    /// Whether the caller sees everything, and so an agent's own words.
    whole: bool,
    of: PhantomData<fn() -> T>,
}

impl<T: Message + Default> Answer<T> {
    /// The next message; none after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<T>, Error> {
        let Some(message) = self
            .messages
            .message()
            .await
            .map_err(|said| said_no(said, self.whole))?
        else {
            return Ok(None);
        };
        let message = T::decode(message.message).map_err(|_| Error::Answer {
            who: "an agent",
            what: "not a message of the method".to_owned(),
        })?;
        Ok(Some(message))
    }
}

/// An agent that no server of the caller's is followed by is not there for them.
fn said_no(status: Status, whole: bool) -> Error {
    let reason = status.get_details_error_info().map(|info| info.reason);
    match (status.code(), reason.as_deref()) {
        (Code::NotFound, Some("SERVER_NOT_FOUND" | "UPLOAD_NOT_FOUND")) => Error::ServerMissing,
        (Code::FailedPrecondition, Some("NOTHING_TO_UNDO")) => Error::NothingToUndo,
        (_, reason) if whole || reason.is_some_and(|reason| OURS.contains(&reason)) => {
            Error::from_neighbour(WHO, status)
        }
        (Code::DeadlineExceeded | Code::Cancelled, _) => Error::from_neighbour(WHO, status),
        (_, Some("FILTER_INVALID")) => Error::Filter {
            field: "filter",
            problem: "the agent cannot use this",
        },
        (_, reason) => Error::said(reason.unwrap_or_default()),
    }
}

/// Reasons of the mesh itself, whose words name nothing of a server.
const OURS: [&str; 9] = [
    "AGENT_NOT_CONNECTED",
    "AGENT_NOT_HELD",
    "AGENT_CONNECTION_BROKEN",
    "AGENT_BUSY",
    "AGENT_ANSWER_INVALID",
    "DIRECTORY_UNUSABLE",
    "CONTEXT_INVALID",
    "ROLE_TOO_LOW",
    "SCOPE_MISSING",
];

impl Hub {
    /// By this peer.
    pub(crate) fn new(query: Peer) -> Self {
        Self {
            client: HubServiceClient::new(query).max_decoding_message_size(MAX_ANSWER),
        }
    }

    /// Asks on behalf of the subject of `context`, whose access was checked. Whoever does not see the whole of it gets refusals in our words: the
    /// agent's may name any table.
    pub(crate) async fn ask<M: Method>(
        &self,
        context: &Secret<String>,
        sight: &Sight,
        place: Place,
        request: &M,
        deadline: Instant,
    ) -> Result<Answer<M::Answer>, Error> {
        let request = AskRequest {
            context_token: context.expose().to_owned(),
            server_id: place.to_string(),
            method: M::PATH.to_owned(),
            request: request.encode_to_vec().into(),
        };
        let (mut client, whole) = (self.client.clone(), sight.is_whole());
        let call = chassis::deadline::within(deadline, client.ask(request)).await;
        Ok(Answer {
            messages: call.map_err(|said| said_no(said, whole))?.into_inner(),
            whole,
            of: PhantomData,
        })
    }
}
