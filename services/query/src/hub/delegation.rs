//! What agents demand with each call: auth's word that this person may ask this of this agent, and for how long.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use chassis::{Peer, deadline, token::KeySet};
use proto::auth::v1::{DelegateRequest, guard_service_client::GuardServiceClient};
use tonic::Status;
use types::{AgentId, Secret, ServerId, Subject, TenantId};

use super::error::Error;
use crate::source::Method;

/// How long one is used again. It lives for 60 seconds, and an agent's clock may be wrong by 30.
const KEPT: Duration = Duration::from_secs(30);
/// What must be left of one that is used: time to arrive.
const LEFT: Duration = Duration::from_secs(5);
/// So many are kept.
const MOST: usize = 10_000;

/// Who asks what of which agent about which server.
type Wanted = (String, TenantId, AgentId, ServerId, Method);

struct Kept {
    token: Secret<String>,
    until: Instant,
}

/// Delegations.
pub(crate) struct Delegations {
    auth: Peer,
    keys: KeySet,
    kept: Mutex<HashMap<Wanted, Kept>>,
}

impl fmt::Debug for Delegations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Delegations")
    }
}

impl Delegations {
    /// From `auth`; `keys` verify context tokens.
    pub(crate) fn new(auth: Peer, keys: KeySet) -> Self {
        Self {
            auth,
            keys,
            kept: Mutex::default(),
        }
    }

    /// One for the subject of `context`, whose tenant must be `tenant`.
    pub(crate) async fn get(
        &self,
        context: &str,
        tenant: TenantId,
        (agent, server): (AgentId, ServerId),
        method: Method,
        until: Instant,
    ) -> Result<Secret<String>, Status> {
        let (read, _) = self
            .keys
            .context(context)
            .map_err(|error| chassis::status(&error))?;
        if read.seat.as_ref().map(|seat| seat.tenant) != Some(tenant) {
            return Err(chassis::status(&Error::NoTenant));
        }
        let wanted = (subject(&read.subject), tenant, agent, server, method);
        let now = Instant::now();
        if let Some(token) = self.find(&wanted, now) {
            return Ok(token);
        }
        let asked = DelegateRequest {
            context_token: context.to_owned(),
            agent_id: agent.to_string(),
            server_id: server.to_string(),
            method: method.path().to_owned(),
        };
        let mut auth = GuardServiceClient::new(self.auth.clone());
        let answer = deadline::within(until, auth.delegate(asked)).await?.into_inner();
        let token = Secret::new(answer.delegation_token);
        let lives = answer.expire_time.and_then(lives).unwrap_or_default();
        let kept = Kept {
            token: token.clone(),
            until: now + lives.saturating_sub(LEFT).min(KEPT),
        };
        self.keep(wanted, kept, now);
        Ok(token)
    }

    fn find(&self, wanted: &Wanted, now: Instant) -> Option<Secret<String>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.get(wanted).filter(|kept| now < kept.until);
        found.map(|kept| kept.token.clone())
    }

    fn keep(&self, wanted: Wanted, new: Kept, now: Instant) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MOST {
            kept.retain(|_, kept| now < kept.until);
        }
        if kept.len() >= MOST {
            kept.clear();
        }
        kept.insert(wanted, new);
    }
}

/// All that a delegation says of who asks.
fn subject(subject: &Subject) -> String {
    match subject {
        Subject::Person { user, session } => format!("{user} {session}"),
        Subject::Key { key, owner } => format!("{owner} {key}"),
    }
}

/// For how long, by our clock.
fn lives(expires: prost_types::Timestamp) -> Option<Duration> {
    let expires = SystemTime::try_from(expires).ok()?;
    expires.duration_since(SystemTime::now()).ok()
}
