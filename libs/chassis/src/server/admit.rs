//! Who calls, and whether the rules let them. Refuses by default: what no rule allows does not reach a handler.
//!
//! Two things are needed, and neither is enough alone: the certificate of the peer and, for what a user does, the context token that auth
//! signed for that user. So a stolen gateway cannot invent a user, and a stolen token is worth nothing without the gateway's certificate.
//! An agent is its certificate, and comes without the gateway.

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use ring::digest::{SHA256, digest};
use tonic::body::Body;
use types::{Caller, Code, Context, Fault, Grant, Subject};

use super::{Call, HEALTH, REFLECTION, Shared, header};
use crate::{
    caller::Admitted,
    identity::Party,
    policy::{CallerKind, Rule, StepUp},
    token,
};

/// The one service that speaks for people.
const GATEWAY: &str = "gateway";

/// The longest request that can be confirmed with a second factor: it is hashed as a whole.
const LONGEST_CONFIRMED: usize = 1 << 20;

/// What gRPC puts before a message: a flag and its length.
const FRAME: usize = 5;

/// Why a call is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum Denied {
    #[error("the caller may not call this method")]
    Caller,
    #[error("the agent's certificate does not hold any more")]
    Certificate,
    #[error("the call carries no context token")]
    NoContext,
    #[error("name a tenant")]
    NoTenant,
    #[error("the role is too low")]
    Role,
    #[error("the API key is not for this")]
    Scope,
    #[error("this takes a person's session, not an API key")]
    Session,
    #[error("the call carries no proof of the second factor")]
    NoGrant,
    #[error("the request is longer than 1 MiB")]
    TooLong,
    #[error("the request is not one plain message")]
    Malformed,
    #[error(transparent)]
    Token(#[from] token::Error),
}

impl Fault for Denied {
    fn code(&self) -> Code {
        match self {
            Self::Token(error) => error.code(),
            Self::NoContext | Self::Certificate => Code::Unauthenticated,
            Self::NoTenant | Self::TooLong | Self::Malformed => Code::Invalid,
            Self::Caller | Self::Role | Self::Scope | Self::Session | Self::NoGrant => Code::Forbidden,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Caller => "CALLER_NOT_ALLOWED",
            Self::Certificate => "CERTIFICATE_ENDED",
            Self::NoContext => "CONTEXT_MISSING",
            Self::NoTenant => "TENANT_REQUIRED",
            Self::Role => "ROLE_TOO_LOW",
            Self::Scope => "SCOPE_MISSING",
            Self::Session => "SESSION_REQUIRED",
            Self::NoGrant => "GRANT_REQUIRED",
            Self::TooLong => "REQUEST_TOO_LARGE",
            Self::Malformed => "REQUEST_MALFORMED",
            Self::Token(error) => error.reason(),
        }
    }
}

/// The request as its handler gets it, or why it does not.
pub(super) async fn admit(
    shared: &Shared,
    call: &Call,
    mut request: Request<Body>,
) -> Result<Request<Body>, Denied> {
    let Some(rule) = &call.rule else {
        let service = matches!(&*call.peer, Party::Service(_));
        let open =
            service && (call.path.starts_with(HEALTH) || shared.dev && call.path.starts_with(REFLECTION));
        return if open { Ok(request) } else { Err(Denied::Caller) };
    };
    let caller = caller(shared, call, rule, request.headers())?;
    let mut grant = None;
    if let (StepUp::Totp, Caller::Subject(context)) = (rule.step_up, &caller) {
        check(rule, context)?;
        let (confirmed, body) = confirmed(shared, rule, context, request).await?;
        (grant, request) = (Some(confirmed), body);
    } else if let Caller::Subject(context) = &caller {
        check(rule, context)?;
    }
    request.extensions_mut().insert(Admitted {
        caller,
        peer: call.peer.clone(),
        rule: rule.clone(),
        grant,
        deadline: call.deadline,
        request: call.number,
    });
    Ok(request)
}

/// Who calls, if the rule is for such callers: a service and an agent can never stand for each other.
fn caller(shared: &Shared, call: &Call, rule: &Rule, headers: &HeaderMap) -> Result<Caller, Denied> {
    match (&rule.caller, &*call.peer) {
        (CallerKind::Agent, Party::Agent(agent)) => {
            shared.identity.vouches_for(agent).map_err(|problem| {
                tracing::info!(problem, "an agent's certificate is refused");
                Denied::Certificate
            })?;
            let (tenant, agent) = (agent.name.tenant, agent.name.agent);
            call.span.record("tenant", tracing::field::display(tenant));
            Ok(Caller::Agent { tenant, agent })
        }
        (CallerKind::Peers(peers), Party::Service(id)) if peers.iter().any(|name| name == id.name()) => {
            Ok(Caller::Service(id.name().to_owned()))
        }
        (CallerKind::Public, Party::Service(id)) if id.name() == GATEWAY => Ok(Caller::Anyone),
        (CallerKind::User, Party::Service(id)) if id.name() == GATEWAY => {
            Ok(Caller::Subject(Box::new(subject(shared, call, headers)?)))
        }
        (CallerKind::Peers(_) | CallerKind::Public | CallerKind::User | CallerKind::Agent, _) => {
            Err(Denied::Caller)
        }
    }
}

/// Whom the context token names.
fn subject(shared: &Shared, call: &Call, headers: &HeaderMap) -> Result<Context, Denied> {
    let token = header(headers, "authorization").and_then(|value| value.strip_prefix("Bearer "));
    let token = token.ok_or(Denied::NoContext)?;
    let (context, _) = shared.keys.context(token).inspect_err(|error| {
        tracing::info!(cause = error.cause(), "a context token is refused");
    })?;
    if let Some(seat) = &context.seat {
        call.span.record("tenant", tracing::field::display(seat.tenant));
    }
    Ok(context)
}

/// Whether `context` is enough for `rule`.
fn check(rule: &Rule, context: &Context) -> Result<(), Denied> {
    if rule.session_only && !matches!(context.subject, Subject::Person { .. }) {
        return Err(Denied::Session);
    }
    let scopes = context.seat.as_ref().and_then(|seat| seat.scopes.as_ref());
    if scopes.is_some_and(|scopes| !scopes.contains(&rule.permission)) {
        return Err(Denied::Scope);
    }
    let Some(lowest) = rule.lowest_role else {
        return Ok(());
    };
    let seat = context.seat.as_ref().ok_or(Denied::NoTenant)?;
    let role = if rule.tenant_wide {
        seat.role
    } else {
        seat.highest_role()
    };
    if role < Some(lowest) {
        return Err(Denied::Role);
    }
    Ok(())
}

/// The grant for exactly this request, which must be read as a whole for it.
async fn confirmed(
    shared: &Shared,
    rule: &Rule,
    context: &Context,
    request: Request<Body>,
) -> Result<(Grant, Request<Body>), Denied> {
    let (head, body) = request.into_parts();
    let token = header(&head.headers, "trailmesh-grant").ok_or(Denied::NoGrant)?;
    let bytes = Limited::new(body, LONGEST_CONFIRMED + FRAME)
        .collect()
        .await
        .map_err(|_| Denied::TooLong)?
        .to_bytes();
    let hash = hash(&bytes).ok_or(Denied::Malformed)?;
    let grant = shared
        .keys
        .grant(token, &rule.path, &hash, context)
        .inspect_err(|error| {
            tracing::info!(cause = error.cause(), "a grant is refused");
        })?;
    Ok((grant, Request::from_parts(head, Body::new(Full::new(bytes)))))
}

/// SHA-256 of the one message that `body` is; none if it is compressed, more or less than one.
fn hash(body: &Bytes) -> Option<[u8; 32]> {
    let (head, message) = body.split_first_chunk::<FRAME>()?;
    let [0, a, b, c, d] = *head else { return None };
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
    if length != message.len() {
        return None;
    }
    digest(&SHA256, message).as_ref().try_into().ok()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::hash;

    #[test]
    fn only_one_plain_message_is_hashed() {
        let empty = hash(&Bytes::from_static(&[0, 0, 0, 0, 0])).unwrap();
        assert_eq!(&empty[..4], [0xe3, 0xb0, 0xc4, 0x42]);
        assert!(hash(&Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1])).is_some());
        for bad in [
            &[][..],
            &[0, 0, 0, 0],
            &[1, 0, 0, 0, 2, 8, 1],
            &[0, 0, 0, 0, 1, 8, 1],
            &[0, 0, 0, 0, 3, 8, 1],
            &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ] {
            assert_eq!(hash(&Bytes::copy_from_slice(bad)), None, "{bad:?}");
        }
    }
}
