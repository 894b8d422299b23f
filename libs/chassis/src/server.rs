//! What stands before every handler, outermost first:
//!
//! 1. **span**: one for each call, part of the caller's trace, with service, method, caller and (once known) tenant;
//! 2. **metrics**: outside of all that can refuse, so that refusals are counted;
//! 3. **panic**: a handler that panics answers INTERNAL, and the service lives;
//! 4. **shed**: more calls than `max_in_flight` are refused at once, with the time to wait;
//! 5. **deadline**: `grpc-timeout` or the rule's; when it is over the handler is dropped;
//! 6. **caller** and **policy**: see [`admit`]; what no rule allows is refused.
//!
//! The deadline, the place among the calls in flight and the measuring last until the answer's body ends, see [`body::Guarded`].

pub(crate) mod accept;
mod admit;
pub(crate) mod agents;
mod body;
pub(crate) mod linger;
mod measure;

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use http::{HeaderMap, Request, Response};
use opentelemetry::metrics::Meter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, service::Routes};
use tower::ServiceExt as _;
use tracing::{Instrument as _, Span};
use types::{Code, Fault, Region, RequestId};

use crate::{
    Settings, deadline,
    identity::{Identity, Party},
    policy::{CallerKind, Rule, Table},
    status, telemetry,
    token::KeySet,
};
use body::{Guard, Guarded};
use measure::{Instruments, Measure};

/// The deadline of a call without a rule: health and reflection.
const UNRULED_TIMEOUT: Duration = Duration::from_secs(15);

/// Health of every service, for any peer, also when calls are shed.
const HEALTH: &str = "/grpc.health.v1.Health/";

/// What the services are, for any peer; served in dev only.
const REFLECTION: &str = "/grpc.reflection.";

/// Why a call does not reach its handler, or did not come back from it.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("too many calls are in work")]
    Overloaded,
    #[error("the deadline is over")]
    Deadline,
    #[error("grpc-timeout is not a timeout")]
    Timeout,
    #[error("the handler panicked")]
    Panic,
    #[error("the service is stopping")]
    Stopping,
}

impl Fault for Refusal {
    fn code(&self) -> Code {
        match self {
            Self::Overloaded | Self::Stopping => Code::Unavailable,
            Self::Deadline => Code::Timeout,
            Self::Timeout => Code::Invalid,
            Self::Panic => Code::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Overloaded => "OVERLOADED",
            Self::Deadline => "DEADLINE_EXCEEDED",
            Self::Timeout => "TIMEOUT_INVALID",
            Self::Panic => "PANICKED",
            Self::Stopping => "STOPPING",
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        matches!(self, Self::Overloaded).then_some(Duration::from_millis(200))
    }
}

/// An answer, and the place among the calls in flight that it takes until its body ends.
type Placed = (Response<Body>, Option<OwnedSemaphorePermit>);

/// The layers before the handlers of one service.
#[derive(Clone)]
pub(crate) struct Stack {
    shared: Arc<Shared>,
    routes: Routes,
}

/// What callers are known by.
pub(crate) struct Known {
    pub(crate) keys: KeySet,
    pub(crate) identity: Identity,
}

/// What the layers need to know.
struct Shared {
    name: String,
    region: Region,
    policy: Arc<Table>,
    /// Whether a method of this service is for agents.
    answers_agents: bool,
    keys: KeySet,
    identity: Identity,
    places: Arc<Semaphore>,
    instruments: Arc<Instruments>,
    stopping: CancellationToken,
    dev: bool,
}

/// One call on its way through the layers.
struct Call {
    path: String,
    rule: Option<Arc<Rule>>,
    peer: Arc<Party>,
    number: RequestId,
    /// None: what the caller sent is no timeout.
    timeout: Option<Duration>,
    deadline: Instant,
    span: Span,
}

impl Stack {
    pub(crate) fn new(
        name: &str,
        routes: Routes,
        policy: Arc<Table>,
        known: Known,
        meter: &Meter,
        settings: &Settings,
        stopping: CancellationToken,
    ) -> Self {
        let own = format!("/trailmesh.{name}.");
        let mut rules = policy.rules();
        let answers_agents =
            rules.any(|rule| rule.caller == CallerKind::Agent && rule.path.starts_with(&own));
        drop(rules);
        Self {
            shared: Arc::new(Shared {
                name: name.to_owned(),
                region: settings.region,
                answers_agents,
                policy,
                keys: known.keys,
                identity: known.identity,
                places: Arc::new(Semaphore::new(settings.max_in_flight.min(Semaphore::MAX_PERMITS))),
                instruments: Arc::new(Instruments::new(meter)),
                stopping,
                dev: settings.dev,
            }),
            routes: routes.prepare(),
        }
    }

    /// Whether a caller is this service itself, at another address.
    pub(crate) fn is_replica(&self, peer: &Party) -> bool {
        matches!(peer, Party::Service(id) if id.name() == self.shared.name)
    }

    /// Whether agents may call something here.
    pub(crate) fn answers_agents(&self) -> bool {
        self.shared.answers_agents
    }

    /// Answers one call of `peer`: the whole stack.
    pub(crate) async fn answer<B>(self, request: Request<B>, peer: Arc<Party>) -> Response<Body>
    where
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let request = request.map(Body::new);
        let shared = self.shared.clone();
        let call = shared.call(&request, peer);
        let mut measure = Measure::start(shared.instruments.clone(), &call);
        let guard = Guard {
            deadline: call.deadline,
            number: call.number,
            span: call.span.clone(),
            // A watch on somebody's health would otherwise hold the drain up until its deadline.
            until: call.rule.is_none().then(|| shared.stopping.clone()),
        };
        let (span, deadline, number) = (call.span.clone(), call.deadline, call.number);
        let work = self.caught(request, call).instrument(span);
        let (response, place) = deadline::within_request(deadline, number, work).await;
        measure.headers(response.headers());
        response.map(|inner| Body::new(Guarded::new(inner, guard, measure, place)))
    }

    /// INTERNAL for what panics.
    async fn caught(self, request: Request<Body>, call: Call) -> Placed {
        let shared = self.shared.clone();
        match AssertUnwindSafe(self.shed(request, call)).catch_unwind().await {
            Ok(answer) => answer,
            Err(_) => (shared.refuse(&Refusal::Panic), None),
        }
    }

    /// A place among the calls in flight, or UNAVAILABLE.
    async fn shed(self, request: Request<Body>, call: Call) -> Placed {
        if call.path.starts_with(HEALTH) {
            return (self.bounded(request, call).await, None);
        }
        match self.shared.places.clone().try_acquire_owned() {
            Ok(place) => (self.bounded(request, call).await, Some(place)),
            Err(_) => (self.shared.refuse(&Refusal::Overloaded), None),
        }
    }

    /// No longer than the deadline.
    async fn bounded(self, request: Request<Body>, call: Call) -> Response<Body> {
        let shared = self.shared.clone();
        if call.timeout.is_none() {
            return shared.refuse(&Refusal::Timeout);
        }
        let deadline = call.deadline.into();
        let answered = tokio::time::timeout_at(deadline, self.admitted(request, call)).await;
        answered.unwrap_or_else(|_| shared.refuse(&Refusal::Deadline))
    }

    /// The handler, if policy lets the caller through.
    async fn admitted(self, request: Request<Body>, call: Call) -> Response<Body> {
        match admit::admit(&self.shared, &call, request).await {
            Ok(request) => match self.routes.oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            },
            Err(refused) => self.shared.refuse(&refused),
        }
    }
}

impl Shared {
    /// Everything about a call that its head tells.
    fn call(&self, request: &Request<Body>, peer: Arc<Party>) -> Call {
        let path = request.uri().path().to_owned();
        let rule = self.policy.shared_rule(&path);
        // An agent is not one of ours: it names neither its request nor a trace of somebody else's.
        let ours = !matches!(&*peer, Party::Agent(_));
        let number = header(request.headers(), "trailmesh-request-id").filter(|_| ours);
        let number = number.and_then(|id| id.parse().ok());
        let number = number.unwrap_or_else(RequestId::fresh);
        let timeout = timeout(request.headers(), rule.as_deref());
        let span = self.span(rule.as_deref(), &peer, number);
        if ours {
            telemetry::continue_trace(&span, request.headers());
        }
        Call {
            path,
            rule,
            peer,
            number,
            timeout,
            deadline: (tokio::time::Instant::now() + timeout.unwrap_or_default()).into_std(),
            span,
        }
    }

    /// A process may hold several services, so each call says whose it is.
    fn span(&self, rule: Option<&Rule>, caller: &Party, number: RequestId) -> Span {
        let method = rule.map_or("unknown", |rule| rule.path.trim_start_matches('/'));
        tracing::info_span!(
            "call",
            otel.name = method,
            otel.kind = "server",
            rpc.system = "grpc",
            service = self.name,
            region = self.region.word(),
            method,
            caller = %caller,
            request_id = %number,
            tenant = tracing::field::Empty,
            code = tracing::field::Empty,
        )
    }

    fn refuse(&self, fault: &dyn Fault) -> Response<Body> {
        self.instruments.refused(fault.reason());
        status(fault).into_http()
    }
}

/// The one value of a header.
fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

/// How long the call may take; none if what the caller sent is no timeout.
fn timeout(headers: &HeaderMap, rule: Option<&Rule>) -> Option<Duration> {
    if !headers.contains_key("grpc-timeout") {
        return Some(rule.map_or(UNRULED_TIMEOUT, |rule| rule.timeout));
    }
    let timeout = deadline::parse_timeout(header(headers, "grpc-timeout")?)?;
    Some(timeout.min(deadline::longest(rule)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderMap, HeaderValue};

    use super::timeout;
    use crate::policy::Table;

    #[test]
    fn the_deadline_is_the_callers_capped_or_the_rules() {
        let mut headers = HeaderMap::new();
        assert_eq!(timeout(&headers, None), Some(super::UNRULED_TIMEOUT));
        headers.insert("grpc-timeout", HeaderValue::from_static("250m"));
        assert_eq!(timeout(&headers, None), Some(Duration::from_millis(250)));
        headers.insert("grpc-timeout", HeaderValue::from_static("2H"));
        assert_eq!(timeout(&headers, None), Some(Duration::from_secs(60)));
        let table = Table::load(proto::DESCRIPTOR_SET).unwrap();
        let mut rule = table
            .rule("/trailmesh.auth.v1.GuardService/GetKeySet")
            .unwrap()
            .clone();
        assert_eq!(timeout(&headers, Some(&rule)), Some(Duration::from_secs(60)));
        rule.server_streaming = true;
        assert_eq!(timeout(&headers, Some(&rule)), Some(Duration::from_secs(600)));
        headers.append("grpc-timeout", HeaderValue::from_static("1S"));
        assert_eq!(timeout(&headers, None), None);
        headers.insert("grpc-timeout", HeaderValue::from_static("soon"));
        assert_eq!(timeout(&headers, None), None);
    }
}
