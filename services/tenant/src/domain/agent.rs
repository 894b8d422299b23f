//! Agents, as far as the registry knows them.

use types::{AgentId, Micros, PoolId};

/// Where an agent is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Its enrolment token has not been used.
    Pending {
        /// Until when it may be.
        until: Micros,
    },
    /// It has its certificate.
    Enrolled,
    /// It was ended.
    Revoked {
        /// When.
        at: Micros,
    },
}

/// An agent.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    pub(crate) id: AgentId,
    pub(crate) name: String,
    pub(crate) pool: PoolId,
    pub(crate) state: State,
    pub(crate) created: Micros,
    /// Nothing is done for it until the plan has room.
    pub(crate) frozen: bool,
}
