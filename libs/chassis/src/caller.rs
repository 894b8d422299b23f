//! Who calls, as handlers see it. Made by the server's layers from the peer's certificate and the context token; nothing here reads what a
//! client could have written, except what [`Origin`] says it is.

use std::{net::IpAddr, sync::Arc, time::Instant};

use tonic::{Request, Status};
use types::{AgentId, Caller, Code, Context, Fault, Grant, RequestId, Scope, Secret, Subject, TenantId};

use crate::{SecretString, identity::Party, policy::Rule, status};

/// What the layers have established; an extension of every request that reaches a handler.
#[derive(Clone, Debug)]
pub(crate) struct Admitted {
    pub(crate) caller: Caller,
    pub(crate) peer: Arc<Party>,
    pub(crate) rule: Arc<Rule>,
    pub(crate) grant: Option<Grant>,
    pub(crate) deadline: Instant,
    pub(crate) request: RequestId,
}

/// The signed-in caller of a method that is about their own account.
#[derive(Clone, Debug)]
pub struct Account {
    /// Who.
    pub subject: Subject,
    /// As what.
    pub context: Context,
    /// Present where the rule takes a second factor.
    pub grant: Option<Grant>,
    /// When the caller stops waiting.
    pub deadline: Instant,
    /// The request, for logs and the audit.
    pub request: RequestId,
}

/// An agent's call.
#[derive(Clone, Debug)]
pub struct AgentCall {
    /// Whose it is.
    pub tenant: TenantId,
    /// Which.
    pub agent: AgentId,
    /// The serial number of the certificate it calls with: hexadecimal, small letters, without leading zeros.
    pub serial: String,
    /// When the caller stops waiting.
    pub deadline: Instant,
    /// The request, for logs and the audit.
    pub request: RequestId,
}

/// Where a call comes from, as the gateway tells it; and what travels beside the message.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The client's address.
    pub client_address: Option<IpAddr>,
    /// What the client says it is; at most 512 characters.
    pub user_agent: String,
    /// The code of `X-MFA-Code`; only on methods that consume it themselves.
    pub mfa_code: Option<SecretString>,
    /// The value of the refresh cookie; only on RefreshSession.
    pub refresh_cookie: Option<SecretString>,
    /// When the caller stops waiting.
    pub deadline: Instant,
    /// The request, for logs and the audit.
    pub request: RequestId,
}

#[derive(Debug, thiserror::Error)]
#[error("the method's rule does not give what its handler asks for: {0}")]
struct Mismatch(&'static str);

impl Fault for Mismatch {
    fn code(&self) -> Code {
        Code::Internal
    }

    fn reason(&self) -> &'static str {
        "RULE_MISMATCH"
    }
}

fn admitted<T>(request: &Request<T>) -> Result<(&Admitted, &Context), Status> {
    let admitted = request.extensions().get::<Admitted>();
    let admitted = admitted.ok_or_else(|| status(&Mismatch("not behind the layers")))?;
    match &admitted.caller {
        Caller::Subject(context) => Ok((admitted, context)),
        Caller::Anyone | Caller::Agent { .. } | Caller::Service(_) => Err(status(&Mismatch("a subject"))),
    }
}

/// For methods whose rule has a permission in a tenant: for which tenant, on whose behalf.
pub fn scope<T>(request: &Request<T>) -> Result<Scope, Status> {
    let (admitted, context) = admitted(request)?;
    let needed = admitted.rule.lowest_role;
    let needed = needed.ok_or_else(|| status(&Mismatch("a permission in a tenant")))?;
    let seat = context
        .seat
        .clone()
        .ok_or_else(|| status(&Mismatch("a tenant")))?;
    Ok(Scope {
        subject: context.subject.clone(),
        seat,
        needed,
        grant: admitted.grant.clone(),
        deadline: admitted.deadline,
        request: admitted.request,
    })
}

/// For methods about the caller's own account.
pub fn account<T>(request: &Request<T>) -> Result<Account, Status> {
    let (admitted, context) = admitted(request)?;
    Ok(Account {
        subject: context.subject.clone(),
        context: context.clone(),
        grant: admitted.grant.clone(),
        deadline: admitted.deadline,
        request: admitted.request,
    })
}

/// For methods that are for agents. What the certificate proves is all that this says: whether the agent was revoked since is the
/// handler's to ask.
pub fn agent<T>(request: &Request<T>) -> Result<AgentCall, Status> {
    let admitted = request.extensions().get::<Admitted>();
    let admitted = admitted.ok_or_else(|| status(&Mismatch("not behind the layers")))?;
    let (Caller::Agent { tenant, agent }, Party::Agent(party)) = (&admitted.caller, &*admitted.peer) else {
        return Err(status(&Mismatch("an agent")));
    };
    Ok(AgentCall {
        tenant: *tenant,
        agent: *agent,
        serial: party.serial.clone(),
        deadline: admitted.deadline,
        request: admitted.request,
    })
}

/// For methods that are for other services: the name of the one that calls, as its certificate says it.
pub fn service<T>(request: &Request<T>) -> Result<String, Status> {
    let admitted = request.extensions().get::<Admitted>();
    let admitted = admitted.ok_or_else(|| status(&Mismatch("not behind the layers")))?;
    match &admitted.caller {
        Caller::Service(name) => Ok(name.clone()),
        Caller::Anyone | Caller::Subject(_) | Caller::Agent { .. } => Err(status(&Mismatch("a service"))),
    }
}

/// The context token of a call on a subject's behalf, for passing on to a service that verifies it itself; none of any other call.
pub fn context_token<T>(request: &Request<T>) -> Option<Secret<String>> {
    let admitted = request.extensions().get::<Admitted>()?;
    let Caller::Subject(_) = &admitted.caller else {
        return None;
    };
    let token = request.metadata().get("authorization")?.to_str().ok()?;
    Some(Secret::new(token.strip_prefix("Bearer ")?.to_owned()))
}

/// Where the call comes from. Works on every method.
pub fn origin<T>(request: &Request<T>) -> Origin {
    let text = |name: &str| request.metadata().get(name).and_then(|value| value.to_str().ok());
    let secret = |name: &str| {
        text(name)
            .filter(|value| !value.is_empty())
            .and_then(|value| value.parse().ok())
    };
    let admitted = request.extensions().get::<Admitted>();
    Origin {
        client_address: text("trailmesh-client-address").and_then(|address| address.parse().ok()),
        user_agent: text("trailmesh-user-agent")
            .unwrap_or_default()
            .chars()
            .take(512)
            .collect(),
        mfa_code: secret("mfa-code"),
        refresh_cookie: secret("trailmesh-refresh-cookie"),
        deadline: admitted.map_or_else(Instant::now, |admitted| admitted.deadline),
        request: admitted.map_or_else(RequestId::fresh, |admitted| admitted.request),
    }
}
