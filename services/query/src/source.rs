//! Where answers come from: an agent's store beside the database, or an uploaded log. Both speak the messages of
//! `trailmesh.agent.v1.AgentService`, which pass as the bytes that they are; what access rules take out of them is for whoever asks.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Instant, SystemTime},
};

/// The methods that can be asked: those of AgentService that take a delegation.
pub(crate) use answer::Method;
use bytes::Bytes;
use futures_util::{Stream, future::BoxFuture};
use tonic::Status;
use types::{AgentId, Plan, Secret, ServerId, TenantId, UploadId};

/// What is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A registered server. Requests carry its id as `server_id`.
    Server {
        /// Which.
        id: ServerId,
        /// The agents of its pool that may be asked; whether one is connected and follows the server is the source's to find out.
        agents: Arc<[AgentId]>,
    },
    /// An uploaded log. Requests carry its id as `server_id`.
    Upload {
        /// Which.
        id: UploadId,
        /// The plan of who asks: it may have room for newer ones only.
        plan: Plan,
    },
}

/// A question on behalf of a person or a key.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    /// Whose server it is.
    pub(crate) tenant: TenantId,
    /// What is asked about. Whether the caller may ask was decided before.
    pub(crate) target: Target,
    /// The method.
    pub(crate) method: Method,
    /// Its request, encoded.
    pub(crate) request: Bytes,
    /// The context token of the call that this is part of: auth signs a delegation for it.
    pub(crate) context: Secret<String>,
    /// Until when the whole answer must have come.
    pub(crate) deadline: Instant,
    /// Of several agents the one to ask first: what was learnt before is what it said.
    pub(crate) prefer: Option<AgentId>,
}

/// The messages of an answer, each encoded. Dropping the stream cancels the call at the other end at once. A stream that has given an error has
/// ended.
pub(crate) type Messages = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// An answer that has begun.
pub(crate) struct Answer {
    /// The agent that answers; none for an upload.
    pub(crate) agent: Option<AgentId>,
    /// What it says.
    pub(crate) messages: Messages,
}

/// An agent, and when it was last connected to a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Which.
    pub(crate) agent: AgentId,
    /// When.
    pub(crate) time: SystemTime,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// No agent that follows the server is connected to any replica. Whoever answers a caller says `AGENT_NOT_CONNECTED` with when one of them
    /// was last seen, as far as that is known here.
    NotConnected(Option<Seen>),
    /// Anything else, as it came.
    Failed(Status),
}

impl From<Status> for Unanswered {
    fn from(status: Status) -> Self {
        Self::Failed(status)
    }
}

/// What can be asked: the hub, uploads.
pub(crate) trait Source: Send + Sync + 'static {
    /// Asks. Resolves when the call has begun; errors of the method may come here or in the stream.
    fn ask(&self, ask: Ask) -> BoxFuture<'_, Result<Answer, Unanswered>>;
}

/// An agent's connection that this replica holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// Whose.
    pub(crate) tenant: TenantId,
    /// Which agent.
    pub(crate) agent: AgentId,
    /// Its version, as Hello said.
    pub(crate) version: String,
    /// When it started, as Hello said.
    pub(crate) start_time: Option<prost_types::Timestamp>,
}

/// The connected agents, for what is asked without a person: numbers, no rows.
pub(crate) trait Agents: Send + Sync + 'static {
    /// Those whose connection this replica holds: one for each agent, however many connections it has here.
    fn held(&self) -> Vec<Held>;
    /// AgentService.Statistics of one of them.
    fn statistics(
        &self,
        held: &Held,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<proto::agent::v1::StatisticsResponse, Status>>;
}

#[cfg(test)]
mod tests {
    use super::Method;

    #[test]
    fn a_method_has_one_path_that_the_proto_knows_and_reads_it_back() {
        let table = chassis::policy::Table::load(proto::DESCRIPTOR_SET).unwrap();
        for method in Method::ALL {
            assert!(table.rule(method.path()).is_some(), "{}", method.path());
            assert_eq!(Method::from_path(method.path()), Some(method));
        }
        for other in ["Hello", "Configure", "Statistics", "changes", ""] {
            let path = format!("/trailmesh.agent.v1.AgentService/{other}");
            assert_eq!(Method::from_path(&path), None, "{other}");
        }
    }
}
