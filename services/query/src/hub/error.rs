//! Why an agent does not answer.

use std::time::{Duration, SystemTime};

use tonic::Status;
use tonic_types::StatusExt as _;
use types::{Code, Fault};

use super::directory::Away;

/// Why an agent does not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// No connection of an agent that could answer.
    #[error("no agent that follows the server is connected; {}", seen(.0))]
    NotConnected(Option<SystemTime>),
    /// This replica holds no connection of the agent.
    #[error("the agent is not connected to this replica")]
    NotHeld,
    /// The connection ended before the answer did.
    #[error("the connection to the agent broke")]
    Broken,
    /// The agent has as many calls as it may.
    #[error("the agent has too many calls in work")]
    Busy,
    /// Long messages of the tenant's agents, or of all, take as much memory as they may.
    #[error("too many long answers of agents are on their way")]
    Room,
    /// The agent did not answer in time.
    #[error("the deadline is over")]
    Deadline,
    /// The agent sent what is no message.
    #[error("the agent's answer cannot be read")]
    Answer,
    /// No method of agents that takes a delegation.
    #[error("the method is none that can be asked")]
    Method,
    /// The context token names no tenant.
    #[error("the context token is for no tenant")]
    NoTenant,
    /// What should be an id is none.
    #[error("{0} is no id")]
    Id(&'static str),
    /// The directory cannot be used at all.
    #[error("TRAILMESH_REDIS_URL: {0}")]
    Directory(Away),
    /// The URL cannot be used.
    #[error("TRAILMESH_REDIS_URL or its authority cannot be used")]
    RedisUrl,
}

/// The reason of a status that came from elsewhere; empty if it gives none.
pub(crate) fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.map(|info| info.reason).unwrap_or_default()
}

/// In words; to the second.
fn seen(when: &Option<SystemTime>) -> String {
    let since = when.and_then(|when| when.duration_since(SystemTime::UNIX_EPOCH).ok());
    let Some(since) = since else {
        return "it is not known when one was".to_owned();
    };
    let timestamp = prost_types::Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: 0,
    };
    format!("last seen {timestamp}")
}

impl Fault for Error {
    fn code(&self) -> Code {
        match self {
            Self::NotConnected(_) | Self::NotHeld | Self::Broken => Code::Unavailable,
            Self::Busy | Self::Room => Code::Exhausted,
            Self::Deadline => Code::Timeout,
            Self::Method | Self::NoTenant | Self::Id(_) => Code::Invalid,
            Self::Answer | Self::Directory(_) | Self::RedisUrl => Code::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::NotConnected(_) => "AGENT_NOT_CONNECTED",
            Self::NotHeld => "AGENT_NOT_HELD",
            Self::Broken => "AGENT_CONNECTION_BROKEN",
            Self::Busy | Self::Room => "AGENT_BUSY",
            Self::Deadline => "DEADLINE_EXCEEDED",
            Self::Answer => "AGENT_ANSWER_INVALID",
            Self::Method => "METHOD_UNKNOWN",
            Self::NoTenant => "TENANT_REQUIRED",
            Self::Id(_) => "ID_INVALID",
            Self::Directory(_) | Self::RedisUrl => "DIRECTORY_UNUSABLE",
        }
    }

    fn field(&self) -> Option<&str> {
        match self {
            Self::Id(field) => Some(field),
            _ => None,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        matches!(self, Self::Busy | Self::Room).then_some(Duration::from_secs(1))
    }
}
