//! Who calls what, in the words of the record.
use proto::tenant::v1 as pb;
use types::{Context, Subject};

use super::targets::Targets;
use crate::{chain::user_agent, exchange::Exchange, routes::Route};

/// What the record says of a call.
pub(crate) struct Described<'a> {
    /// How it came.
    pub(crate) exchange: &'a Exchange,
    /// The method.
    pub(crate) route: &'a Route,
    /// Who calls.
    pub(crate) context: &'a Context,
    /// The proof of a second factor.
    pub(crate) grant: &'a str,
    /// What it names.
    pub(crate) targets: Targets,
    /// What kind of thing it is.
    pub(crate) kind: pb::AuditKind,
}

/// As the record has it.
pub(crate) fn described(call: Described<'_>) -> pb::AuditCall {
    let Described {
        exchange,
        route,
        context,
        grant,
        targets,
        kind,
    } = call;
    let form = route.http.as_ref();
    pb::AuditCall {
        actor: Some(actor(context, grant)),
        kind: kind.into(),
        method: route.path.clone(),
        path_template: form.map_or_else(String::new, |form| format!("{} {}", form.method, form.template)),
        targets: targets.into_iter().collect(),
        client_address: exchange.client.to_string(),
        user_agent: user_agent(&exchange.headers).to_owned(),
        request_id: exchange.request.to_string(),
    }
}

fn actor(context: &Context, grant: &str) -> pb::AuditActor {
    let role = context.seat.as_ref().and_then(|seat| seat.highest_role());
    let mut actor = pb::AuditActor {
        user_id: context.subject.user().to_string(),
        role: role.map_or("", |role| role.word()).to_owned(),
        grant_id: grant.to_owned(),
        ..pb::AuditActor::default()
    };
    match &context.subject {
        Subject::Person { session, .. } => actor.session_id = session.to_string(),
        Subject::Key { key, .. } => actor.key_id = key.to_string(),
    }
    actor
}
