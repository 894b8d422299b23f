//! Calls that are for no tenant and yet change one: the caller makes it, or joins it. The gateway does not know which, so it writes nothing of
//! them into an audit log; the entry is written here, in the transaction of the action.

use std::time::Instant;

use audit::{Actor, Event, Kind, Outcome};
use pg::Transaction;
use tonic::{Request, Status};
use types::{AuditId, Role, Subject, TenantId, UserId};

use crate::{error::Error, store};

/// One such call.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    /// Who.
    pub(crate) user: UserId,
    /// When the caller stops waiting.
    pub(crate) deadline: Instant,
    began: Instant,
    event: Event,
}

impl Own {
    /// A call of `method` that begins now.
    pub(crate) fn new<T>(method: &str, request: &Request<T>) -> Result<Self, Status> {
        let account = chassis::account(request)?;
        let origin = chassis::origin(request);
        let user = account.subject.user();
        let mut actor = Actor {
            user_id: user.to_string(),
            ..Actor::default()
        };
        match &account.subject {
            Subject::Person { session, .. } => actor.session_id = session.to_string(),
            Subject::Key { key, .. } => actor.key_id = key.to_string(),
        }
        let event = Event {
            id: AuditId::fresh().to_string(),
            time: 0,
            end_time: 0,
            actor,
            kind: Kind::Change,
            method: format!("/trailmesh.tenant.v1.{method}"),
            path: String::new(),
            targets: [].into(),
            client_address: origin.client_address,
            user_agent: origin.user_agent,
            request_id: account.request.to_string(),
            outcome: Outcome::Succeeded,
            code: "OK".to_owned(),
            reason: String::new(),
            count: 1,
        };
        Ok(Self {
            user,
            deadline: account.deadline,
            began: Instant::now(),
            event,
        })
    }

    /// Writes into the inbox of the tenant's log that it was done, and what the caller is there now.
    pub(crate) async fn tell(
        mut self,
        tx: &mut Transaction,
        tenant: TenantId,
        role: Role,
        targets: &[(&str, String)],
    ) -> Result<(), Error> {
        role.word().clone_into(&mut self.event.actor.role);
        let targets = targets.iter().cloned();
        self.event.targets = targets.map(|(name, id)| (name.to_owned(), id)).collect();
        store::inbox::put(tx, tenant, &self.event, self.began).await
    }
}
