//! What happened.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

/// Who did it. What does not apply is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Actor {
    /// `usr_…` of the person, or of the API key's owner.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user_id: String,
    /// `ses_…`, where a session was used.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub session_id: String,
    /// `key_…`, where an API key was used.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key_id: String,
    /// `agt_…`, for an agent.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub agent_id: String,
    /// The service, or `operator`, that did it by itself.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service: String,
    /// The highest role it had in the tenant.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub role: String,
    /// The id of the proof of a second factor.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub grant_id: String,
}

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A change.
    Change,
    /// Logins, second factors, keys, sessions, agents, secrets that were opened.
    Security,
    /// A reading that is worth an entry.
    Read,
    /// A call that was refused for lack of a right.
    Refusal,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was done.
    Succeeded,
    /// It was refused, or failed.
    Failed,
    /// Nobody knows; it may have been done.
    Unknown,
}

/// An action that has ended, as a service tells it: no bodies, no secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// `aud_…`; the same one twice is one entry.
    pub id: String,
    /// When it began: microseconds since 1970.
    pub time: i64,
    /// When it ended.
    pub end_time: i64,
    /// Who.
    pub actor: Actor,
    /// What kind of thing.
    pub kind: Kind,
    /// `/package.Service/Method`.
    pub method: String,
    /// For example `POST /v1/servers`; empty where it did not come as HTTP.
    #[serde(default)]
    pub path: String,
    /// Ids that it names, by field.
    #[serde(default)]
    pub targets: BTreeMap<String, String>,
    /// The client's address.
    #[serde(default)]
    pub client_address: Option<IpAddr>,
    /// What the client says it is.
    #[serde(default)]
    pub user_agent: String,
    /// `req_…`
    #[serde(default)]
    pub request_id: String,
    /// How it ended.
    pub outcome: Outcome,
    /// The gRPC status, `OK` when it was done.
    pub code: String,
    /// The reason of a refusal.
    #[serde(default)]
    pub reason: String,
    /// How many alike it stands for.
    #[serde(default = "one")]
    pub count: u64,
}

fn one() -> u64 {
    1
}
