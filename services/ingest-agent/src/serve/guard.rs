//! Who may call what, and for how long.

use std::time::{Duration, Instant};

use bytes::Bytes;
use chassis::{deadline, token::Actor};
use http::{HeaderValue, header::AUTHORIZATION, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Limited};
use tokio::time::timeout_at;
use tonic::{Code, Status, body::Body};
use types::ServerId;

use super::{Inner, error::Error};

/// Before the name of a method.
const SERVICE: &str = "/trailmesh.agent.v1.AgentService/";
/// The time of a call that gives none.
const UNARY: Duration = Duration::from_secs(30);
const STREAM: Duration = Duration::from_secs(60);
/// A request's message is there that soon, and is no longer than that.
const MESSAGE: Duration = Duration::from_secs(5);
const MESSAGE_BYTES: usize = 1 << 20;
/// One that takes no delegation is much shorter: whoever reaches the agent can send it.
const OPEN_BYTES: usize = 4 << 10;

/// The methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Hello,
    Configure,
    Statistics,
    /// About one store.
    Asked(answer::Method),
}

impl Method {
    fn of(path: &str) -> Option<Self> {
        Some(match path.strip_prefix(SERVICE)? {
            "Hello" => Self::Hello,
            "Configure" => Self::Configure,
            "Statistics" => Self::Statistics,
            name => Self::Asked(answer::Method::named(name)?),
        })
    }

    fn streams(self) -> bool {
        matches!(self, Self::Asked(method) if method.streams())
    }
}

/// A call that may go on.
pub(super) struct Admitted {
    pub(super) method: Method,
    /// When it must have ended.
    pub(super) deadline: Instant,
    /// The server that its delegation is for, if it takes one.
    pub(super) about: Option<ServerId>,
}

/// Lets a call in, if it may; none if there is no such method.
pub(super) fn admit(inner: &Inner, request: &http::Request<Body>) -> Result<Option<Admitted>, Error> {
    let path = request.uri().path();
    let Some(method) = Method::of(path) else {
        return Ok(None);
    };
    let about = match method {
        Method::Asked(_) => Some(delegation(inner, request.headers(), path)?.server),
        _ => None,
    };
    let (default, most) = if method.streams() {
        (STREAM, deadline::LONGEST_STREAM)
    } else {
        (UNARY, deadline::LONGEST)
    };
    let given = request.headers().get("grpc-timeout");
    let given = given.and_then(|text| deadline::parse_timeout(text.to_str().ok()?));
    let deadline = Instant::now() + given.unwrap_or(default).min(most);
    Ok(Some(Admitted {
        method,
        deadline,
        about,
    }))
}

/// The body of a request, which has come whole.
pub(super) async fn whole(body: Body, method: Method, deadline: Instant) -> Result<Bytes, Error> {
    let by = deadline.min(Instant::now() + MESSAGE);
    let most = match method {
        Method::Asked(_) => MESSAGE_BYTES,
        _ => OPEN_BYTES,
    };
    let body = timeout_at(by.into(), Limited::new(body, most).collect())
        .await
        .map_err(|_| answer::Error::Deadline)?
        .map_err(|_| {
            answer::Error::filter(
                "",
                format!("the request broke off, or has more than {most} bytes"),
            )
        })?;
    Ok(body.to_bytes())
}

/// On whose behalf the call is. What is wrong with a delegation is told to the agent's log and to nobody else, but for its time: that is wrong where
/// a clock is, and a person can mend it.
fn delegation(inner: &Inner, headers: &http::HeaderMap, path: &str) -> Result<Actor, Error> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let (Some(token), None) = (given.next(), given.next()) else {
        return Err(Error::Delegation);
    };
    let token = token.to_str().ok().and_then(|text| text.strip_prefix("Bearer "));
    let token = token.ok_or(Error::Delegation)?;
    let actor = inner
        .keys
        .delegation(token, inner.about.tenant, inner.about.agent, path)
        .map_err(|error| {
            tracing::warn!(cause = error.cause(), method = path, "a delegation was refused");
            match error.cause() {
                "early" | "expired" => Error::Clock,
                _ => Error::Delegation,
            }
        })?;
    tracing::debug!(method = path, subject = ?actor.subject, delegation = actor.id, "a call was let in");
    Ok(actor)
}

/// There is no such method.
pub(super) fn unimplemented() -> http::Response<Body> {
    let mut response = http::Response::new(Body::default());
    let headers = response.headers_mut();
    headers.insert(Status::GRPC_STATUS, HeaderValue::from(Code::Unimplemented as i32));
    headers.insert(CONTENT_TYPE, tonic::metadata::GRPC_CONTENT_TYPE);
    response
}
