//! The way of a request: one layer a file, in the order of [`pass`] and [`serve`]. Each can refuse alone, and what it needs of the layers
//! before it is an argument.
pub(crate) mod answer;
mod audit;
pub(crate) mod authenticate;
mod call;
pub(crate) mod cors;
mod decode;
mod limits;
mod permit;
mod rate_limit;
mod region;
mod request_id;
pub(crate) mod route;
mod security_headers;
mod step_up;

use std::{
    convert::Infallible,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use chassis::policy::Idempotency;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::{Body as _, Frame, SizeHint};
use tonic::{Status, body::Body};
use tower::{Service as _, util::BoxCloneSyncService};
use tracing::Instrument as _;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use types::Region;

pub(crate) use call::{STRIPE, shortened, user_agent};

use crate::{
    audit::Recorder,
    client_address::Trust,
    config::Rates,
    context_cache::ContextCache,
    error::{Cause, Layer, Refusal},
    exchange::Exchange,
    load::{Load, Place},
    metrics::Metrics,
    rate::{Limit, Limiter},
    routes::Routes,
    strangers::Strangers,
    unread::{self, Complete},
    upstream::Upstream,
};
use authenticate::Caller;
use cors::Origins;
use route::{Destination, Pages, Target};

/// All that requests share.
pub(crate) struct Gateway {
    /// What is offered.
    pub(crate) routes: Routes,
    /// Documents of it.
    pub(crate) pages: Pages,
    /// Pages that may call.
    pub(crate) origins: Origins,
    /// Whose word counts about a client's address.
    pub(crate) trust: Trust,
    /// Limits by plan.
    pub(crate) rates: Rates,
    /// The limit of an address.
    pub(crate) strict_rate: Limit,
    /// Counts.
    pub(crate) limiter: Arc<Limiter>,
    /// Counts who is refused.
    pub(crate) strangers: Strangers,
    /// Remembers callers.
    pub(crate) contexts: ContextCache,
    /// The services.
    pub(crate) upstream: Upstream,
    /// Where this installation is.
    pub(crate) region: Region,
    /// Where others are.
    pub(crate) hosts: Vec<(Region, String)>,
    /// Writes down what is done.
    pub(crate) recorder: Arc<Recorder>,
    /// What is under way.
    pub(crate) load: Arc<Load>,
    /// Instruments.
    pub(crate) metrics: Metrics,
    /// The gateway's own health, for gRPC clients.
    pub(crate) health: BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>,
    /// Which part of the traces is recorded.
    pub(crate) trace_share: f64,
}

/// Answers one request, whatever it is. `behind`: its client has too much of earlier answers to read.
pub(crate) async fn handle<B>(
    gateway: Arc<Gateway>,
    socket: IpAddr,
    behind: bool,
    request: Request<B>,
) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (parts, body) = request.into_parts();
    if gateway.trust.is_news(&parts.headers) {
        tracing::warn!(
            "a request came with X-Forwarded-For, which does not count: all clients of a proxy share one address, and its limits; \
             TRAILMESH_GATEWAY_TRUSTED_HOPS says how many proxies there are"
        );
    }
    let client = gateway.trust.client(socket, &parts.headers);
    let mut exchange = Exchange::new(parts, client);
    let trace = request_id::number(&mut exchange, gateway.trace_share);
    let span = tracing::info_span!(
        "request",
        service = "gateway",
        request_id = %exchange.request,
        method = tracing::field::Empty,
        tenant = tracing::field::Empty,
    );
    // Fails only where no traces are kept.
    let _ = span.set_parent(trace);
    Box::pin(answered(&gateway, behind, exchange, Body::new(body)).instrument(span)).await
}

async fn answered(
    gateway: &Arc<Gateway>,
    behind: bool,
    mut exchange: Exchange,
    body: Body,
) -> Response<Body> {
    let mut method = "none".to_owned();
    let outcome = match gateway.load.enter() {
        _ if behind => Err(Refusal::new(Layer::Shed, Cause::AnswersUnread)),
        Some(mut place) => {
            let passed = pass(gateway, &mut exchange, body, &mut place, &mut method).await;
            // What only has to be read is no work.
            passed.map(|response| match unread::is_complete(&response) {
                true => response,
                false => response.map(|body| with_guard(body, place)),
            })
        }
        None => Err(Refusal::new(Layer::Shed, Cause::Overloaded)),
    };
    let mut response = outcome.unwrap_or_else(|refusal| {
        gateway.metrics.refusal(&refusal);
        answer::refuse(&exchange, refusal)
    });
    if response.status() == StatusCode::MISDIRECTED_REQUEST {
        answer::point(&mut response, &gateway.hosts, gateway.region);
    }
    let grpc = response.headers().get("grpc-status").map(HeaderValue::as_bytes);
    if matches!(response.status().as_u16(), 401 | 403) || matches!(grpc, Some(b"16" | b"7")) {
        // Whoever is not let in learns nothing about limits.
        exchange.answer.remove("ratelimit");
        exchange.answer.remove("ratelimit-policy");
    }
    response
        .headers_mut()
        .extend(std::mem::take(&mut exchange.answer));
    security_headers::apply(response.headers_mut());
    if exchange.method == Method::HEAD {
        response = head(response);
    }
    gateway
        .metrics
        .request(exchange.protocol, &method, response.status(), exchange.began);
    response
}

/// What a GET would answer, without its body.
fn head(response: Response<Body>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    if let Some(length) = body.size_hint().exact() {
        parts.headers.insert(header::CONTENT_LENGTH, length.into());
    }
    Response::from_parts(parts, Body::empty())
}

/// The layers that need the request's head only, and no time.
async fn pass(
    gateway: &Arc<Gateway>,
    exchange: &mut Exchange,
    body: Body,
    place: &mut Place,
    method: &mut String,
) -> Result<Response<Body>, Refusal> {
    if let Some(preflight) = gateway.origins.check(exchange) {
        return Ok(preflight);
    }
    limits::check(exchange)?;
    let target = match route::find(gateway, exchange)? {
        Destination::Page(page) => return Ok(page),
        Destination::Health => {
            // Whoever watches waits for us and makes no work.
            place.give_back();
            return Ok(health(gateway, exchange, body).await);
        }
        Destination::Method(target) => target,
    };
    method.clone_from(&target.route.path);
    tracing::Span::current().record("method", target.route.path.as_str());
    exchange.deadline = limits::deadline(exchange, target.route.rule.timeout, target.streams());
    let deadline = exchange.deadline.into();
    let serving = Box::pin(serve(gateway, exchange, &target, body, place));
    match tokio::time::timeout_at(deadline, serving).await {
        Ok(answer) => answer,
        Err(_) => Err(Refusal::new(Layer::Call, Cause::DeadlineExceeded)),
    }
}

/// The layers that ask somebody.
async fn serve(
    gateway: &Arc<Gateway>,
    exchange: &mut Exchange,
    target: &Target,
    body: Body,
    place: &mut Place,
) -> Result<Response<Body>, Refusal> {
    let mut caller = authenticate::authenticate(gateway, exchange, &target.route.rule).await?;
    let mut message = None;
    let answer = admit(gateway, exchange, target, body, place, &mut caller, &mut message).await;
    if let (Err(refusal), Some(caller)) = (&answer, &caller) {
        audit::refused(gateway, exchange, target, caller, message.as_deref(), refusal);
    }
    answer
}

/// The layers that know the caller. What is found out on the way is kept for the record of a refusal.
async fn admit(
    gateway: &Arc<Gateway>,
    exchange: &mut Exchange,
    target: &Target,
    body: Body,
    place: &mut Place,
    caller: &mut Option<Caller>,
    message: &mut Option<Bytes>,
) -> Result<Response<Body>, Refusal> {
    let rule = &target.route.rule;
    let context = caller.as_ref().map(|caller| &caller.identity.context);
    permit::check(rule, context)?;
    if let Some(seat) = context.and_then(|context| context.seat.as_ref()) {
        tracing::Span::current().record("tenant", tracing::field::display(seat.tenant));
        if !place.claim(seat.tenant) {
            return Err(Refusal::new(Layer::Shed, Cause::TenantOverloaded));
        }
    }
    rate_limit::count(gateway, exchange, rule, context).await?;
    let outgoing = decode::decode(exchange, target, body).await?;
    // The body came as fast as the client sent it.
    if let Some(caller) = caller {
        caller.refresh(gateway, rule).await?;
    }
    let identity = caller.as_ref().map(|caller| &*caller.identity);
    message.clone_from(&outgoing.message);
    let proof = step_up::confirm(gateway, exchange, rule, identity, message.as_deref()).await?;
    let proof = proof.as_ref();
    let calling = call::prepare(gateway, exchange, target, identity, proof, outgoing)?;
    let calling = audit::call(gateway, exchange, target, identity, proof, calling);
    let watch = |caller: &Caller| {
        caller
            .clone()
            .watch(Arc::clone(gateway), Arc::clone(&target.route))
    };
    let watching = caller.as_ref().filter(|_| target.streams()).map(watch);
    let (answered, watching) = match watching {
        None => (calling.await?, None),
        Some(mut watching) => tokio::select! {
            answered = calling => (answered?, Some(watching)),
            refusal = &mut watching => return Err(refusal),
        },
    };
    let answer = answer::answer(exchange, target, answered, watching).await?;
    let complete = answer.extensions().get::<Complete>();
    if let Some(caller) = caller.as_ref()
        && rule.idempotency != Idempotency::NoSideEffects
        && complete.is_none_or(|complete| complete.succeeded)
    {
        // What it changed may have been about itself.
        gateway.contexts.ask_again(&caller.key());
    }
    Ok(answer)
}

/// gRPC's own health check, answered for the gateway as a whole.
async fn health(gateway: &Gateway, exchange: &Exchange, body: Body) -> Response<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = exchange.method.clone();
    *request.uri_mut() = exchange.uri.clone();
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = exchange.headers.clone();
    let Ok(response) = gateway.health.clone().call(request).await;
    response
}

/// A body that keeps `guard` until its last byte.
pub(crate) fn with_guard<G: Send + Unpin + 'static>(body: Body, guard: G) -> Body {
    Body::new(Guarded { body, _guard: guard })
}

struct Guarded<G> {
    body: Body,
    _guard: G,
}

impl<G: Unpin> http_body::Body for Guarded<G> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
