//! The gateway's part of the audit log: an intent that is written before a call is dispatched, its result after it, and refusals.
//!
//! The log itself is service tenant's. What is kept of a call is decided once, from its rule, when routes are made ([`Audited`]). An intent is
//! waited for: what cannot be written down is not done, and what is read is not shown. A result comes after the answer, from a queue with a bound; one that is lost, here
//! or with the process, leaves the intent open, and tenant closes it as unknown.
mod actor;
mod recorder;
mod refusals;
mod results;
mod targets;
mod waiting;

use chassis::policy::{Audit, CallerKind, Rule};
use proto::tenant::v1 as pb;

pub(crate) use actor::{Described, described};
pub(crate) use recorder::{Entry, Intent, Recorder};
pub(crate) use refusals::Alike;
pub(crate) use targets::Targets;

use crate::json::schema::{MessageId, Schema};
use targets::Ids;

/// What is kept of the calls of one method.
#[derive(Clone, Debug)]
pub(crate) struct Audited {
    /// What kind of thing it is.
    kind: pb::AuditKind,
    /// Ids in the request.
    asked: Ids,
    /// Ids in the answer.
    made: Ids,
}

impl Audited {
    /// None for a method whose calls are not kept by the gateway: those for no tenant are kept by the service that serves them.
    pub(crate) fn of(rule: &Rule, schema: &Schema, input: MessageId, output: MessageId) -> Option<Self> {
        let kind = match rule.audit {
            Audit::None => return None,
            Audit::Read => pb::AuditKind::Read,
            Audit::Change => pb::AuditKind::Change,
            Audit::Security => pb::AuditKind::Security,
        };
        is_of_tenant(rule).then(|| Self {
            kind,
            asked: Ids::of_request(schema, input),
            made: match kind {
                pb::AuditKind::Read => Ids::default(),
                _ => Ids::of_answer(schema, output),
            },
        })
    }

    /// What kind of thing it is.
    pub(crate) fn kind(&self) -> pb::AuditKind {
        self.kind
    }

    /// Whether nothing is changed, and what counts is who saw it.
    pub(crate) fn is_read(&self) -> bool {
        self.kind == pb::AuditKind::Read
    }

    /// The ids in a request.
    pub(crate) fn asked(&self, message: Option<&[u8]>) -> Targets {
        let mut targets = Targets::new();
        if let Some(message) = message {
            self.asked.read(message, &mut targets);
        }
        targets
    }
}

/// Whether a method is for members of a tenant.
pub(crate) fn is_of_tenant(rule: &Rule) -> bool {
    rule.caller == CallerKind::User && rule.lowest_role.is_some()
}
