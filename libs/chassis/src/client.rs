//! Another service, as a caller sees it: a tower service that generated clients take, `GuardServiceClient::new(runtime.peer("auth")?)`.
//!
//! * Mutual TLS with the identity of the moment, and only to whoever holds the wanted service's certificate; see [`endpoint`].
//! * The deadline is what is left of the caller's, less the time an answer needs to come back; a call without time is not sent.
//! * Again only what may be done again: UNAVAILABLE or a broken connection, on methods that say so in their proto, three times at most,
//!   out of a budget; and, on every method, what the other side certainly did not look at. A refusal that asks for a longer wait than the
//!   longest pause is passed on at once: whoever called knows better whether to wait.
//! * Balanced over all addresses of the host, the less busy of two; see [`pool`].

mod answer;
mod budget;
mod endpoint;
mod greeted;
mod pool;
mod replay;

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::{HeaderValue, Request, Response, Uri, header, uri::Scheme};
use opentelemetry::{
    KeyValue,
    metrics::{Counter, Meter},
};
use rand::Rng as _;
use tonic::{Code as Grpc, Status, body::Body};
use tonic_types::StatusExt as _;
use tracing::Instrument as _;
use types::{Code, Fault};

use crate::{
    Error, PeerAddress,
    deadline::{self, HOP},
    identity::Identity,
    policy::{Idempotency, Rule, Table},
    runtime::Tasks,
    status, telemetry,
};
use budget::Budget;
use endpoint::Connector;
use pool::{Failure, Pool};
use replay::Replay;

/// The deadline of a call that has none and whose method is not known.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// How often a call is sent at most.
const ATTEMPTS: u32 = 3;

/// Between two attempts: a random time between these (full jitter), so that callers that failed together do not come back together.
const PAUSE: std::ops::RangeInclusive<u64> = 25..=250;

/// Why a call got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswered {
    #[error("the deadline is over")]
    Deadline,
    #[error("service {0} has no address")]
    NoAddress(String),
    #[error("service {0} cannot be reached")]
    Unreachable(String),
    #[error("the connection to service {0} broke")]
    Broken(String),
    #[error("the request cannot be sent")]
    Request,
}

impl Fault for Unanswered {
    fn code(&self) -> Code {
        match self {
            Self::Deadline => Code::Timeout,
            Self::NoAddress(_) | Self::Unreachable(_) | Self::Broken(_) => Code::Unavailable,
            Self::Request => Code::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Deadline => "DEADLINE_EXCEEDED",
            Self::NoAddress(_) => "PEER_NO_ADDRESS",
            Self::Unreachable(_) => "PEER_UNREACHABLE",
            Self::Broken(_) => "PEER_CONNECTION_BROKEN",
            Self::Request => "REQUEST_UNSENDABLE",
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        matches!(self, Self::NoAddress(_) | Self::Unreachable(_)).then_some(Duration::from_secs(1))
    }
}

/// Another service. Clones share its connections.
#[derive(Clone)]
pub struct Peer(Arc<Inner>);

struct Inner {
    name: String,
    scheme: Scheme,
    authority: http::uri::Authority,
    pool: Pool,
    policy: Arc<Table>,
    budget: Budget,
    retries: Counter<u64>,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Peer({} at {})", self.0.name, self.0.authority)
    }
}

impl Peer {
    pub(crate) fn new(
        address: &PeerAddress,
        identity: Option<&Identity>,
        policy: Arc<Table>,
        meter: &Meter,
        tasks: &Tasks,
    ) -> Result<Self, Error> {
        let unusable = || Error::PeerAddress(address.name.clone());
        let host = address.url.host_str().ok_or_else(unusable)?;
        let port = address.url.port_or_known_default().ok_or_else(unusable)?;
        let connector = if address.url.scheme() == "https" {
            let identity = identity.ok_or(crate::identity::Error::Missing)?;
            Connector::tls(identity.clone(), identity.realm().service(&address.name))
        } else {
            Connector::plain()
        };
        let authority = format!("{host}:{port}").parse().map_err(|_| unusable())?;
        Ok(Self(Arc::new(Inner {
            name: address.name.clone(),
            scheme: if address.url.scheme() == "https" {
                Scheme::HTTPS
            } else {
                Scheme::HTTP
            },
            authority,
            pool: Pool::open(&address.name, host, port, connector, tasks),
            policy,
            budget: Budget::default(),
            retries: meter
                .u64_counter("trailmesh.client.retries")
                .with_description("Calls to other services that were sent again")
                .build(),
        })))
    }

    /// Where the service is, for connections that are no calls. Addresses that failed just now come last.
    pub async fn addresses(&self) -> Vec<SocketAddr> {
        self.0.pool.addresses().await
    }

    /// An address could not be reached: the service's name is asked for again soon.
    pub fn look_again(&self) {
        self.0.pool.look_again();
    }
}

impl tower::Service<Request<Body>> for Peer {
    type Response = Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let inner = self.0.clone();
        let span = tracing::info_span!(
            "send",
            otel.name = request.uri().path().trim_start_matches('/'),
            otel.kind = "client",
            rpc.system = "grpc",
            peer = inner.name,
        );
        Box::pin(async move { inner.send(request).await }.instrument(span))
    }
}

impl Inner {
    async fn send(&self, mut request: Request<Body>) -> Result<Response<Body>, Status> {
        let rule = self.policy.shared_rule(request.uri().path());
        let deadline = deadline(&request, rule.as_deref());
        self.address(&mut request)?;
        let (head, body) = request.into_parts();
        let attempts = async {
            let body = Replay::of(body, rule.as_deref().is_none_or(|rule| rule.client_streaming)).await?;
            self.attempts(head, body, rule.as_deref(), deadline).await
        };
        match tokio::time::timeout_at(deadline.into(), attempts).await {
            Ok(answer) => answer,
            Err(_) => Err(status(&Unanswered::Deadline)),
        }
    }

    /// Where it goes, and what travels with every call.
    fn address(&self, request: &mut Request<Body>) -> Result<(), Status> {
        let mut uri = std::mem::take(request.uri_mut()).into_parts();
        uri.scheme = Some(self.scheme.clone());
        uri.authority = Some(self.authority.clone());
        *request.uri_mut() = Uri::from_parts(uri).map_err(|_| status(&Unanswered::Request))?;
        let headers = request.headers_mut();
        headers.insert(
            header::USER_AGENT,
            HeaderValue::from_static(concat!("trailmesh/", env!("CARGO_PKG_VERSION"))),
        );
        if let Some(number) = deadline::request()
            && let Ok(value) = HeaderValue::try_from(number.to_string())
        {
            headers.entry("trailmesh-request-id").or_insert(value);
        }
        telemetry::hand_on_trace(headers);
        Ok(())
    }

    async fn attempts(
        &self,
        head: http::request::Parts,
        mut body: Replay,
        rule: Option<&Rule>,
        deadline: Instant,
    ) -> Result<Response<Body>, Status> {
        let again = rule.is_some_and(|rule| rule.idempotency != Idempotency::Unknown);
        self.budget.earn();
        let mut attempt = 1;
        loop {
            let Some(body_now) = body.next() else {
                return Err(status(&Unanswered::Broken(self.name.clone())));
            };
            let request = self.attempt(&head, body_now, deadline)?;
            let failure = match self.pool.send(request, deadline).await {
                Ok(response) => match unavailable(&response) {
                    Some(refused) if again && body.replayable() => Failure::refused(&refused, response),
                    _ => return Ok(response),
                },
                Err(failure) => failure,
            };
            let pause = if failure.unseen() && attempt == 1 {
                // One replica is gone; another can be asked at once.
                Duration::ZERO
            } else {
                Duration::from_millis(rand::rng().random_range(PAUSE)).max(failure.wait())
            };
            // Every caller on the way would wait for as long, one after the other; the answer says how long, to who wants to.
            let soon = failure.wait() <= Duration::from_millis(*PAUSE.end());
            let allowed = attempt < ATTEMPTS
                && soon
                && (failure.unseen() || again)
                && Instant::now() + pause + HOP < deadline
                && self.budget.spend();
            if !allowed {
                return failure.answer();
            }
            attempt += 1;
            self.retries.add(1, &[KeyValue::new("peer", self.name.clone())]);
            if let Some(unsent) = failure.into_body() {
                body.give_back(unsent);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// One attempt's request, with the time that is left for it.
    fn attempt(
        &self,
        head: &http::request::Parts,
        body: Body,
        deadline: Instant,
    ) -> Result<Request<Body>, Status> {
        let left = deadline
            .saturating_duration_since(tokio::time::Instant::now().into_std())
            .saturating_sub(HOP);
        if left.is_zero() {
            return Err(status(&Unanswered::Deadline));
        }
        let mut request = Request::from_parts(head.clone(), body);
        let timeout = HeaderValue::try_from(deadline::format_timeout(left));
        let timeout = timeout.map_err(|_| status(&Unanswered::Request))?;
        request.headers_mut().insert("grpc-timeout", timeout);
        Ok(request)
    }
}

/// The earliest of: the deadline of the task, the one the caller set on this call; else the method's own.
fn deadline(request: &Request<Body>, rule: Option<&Rule>) -> Instant {
    let now = tokio::time::Instant::now().into_std();
    let own = request.headers().get("grpc-timeout");
    let own = own.and_then(|value| deadline::parse_timeout(value.to_str().ok()?));
    let own = own.map(|timeout| now + timeout.min(deadline::longest(rule)));
    match (own, deadline::current()) {
        (Some(own), Some(current)) => own.min(current),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => now + rule.map_or(DEFAULT_TIMEOUT, |rule| rule.timeout),
    }
}

/// The status of a response that is UNAVAILABLE before any message.
fn unavailable(response: &Response<Body>) -> Option<Status> {
    let refused = Status::from_header_map(response.headers())?;
    (refused.code() == Grpc::Unavailable).then_some(refused)
}

/// How long a refusal asks to wait.
fn wait(refused: &Status) -> Duration {
    let info = refused.get_details_retry_info();
    info.and_then(|info| info.retry_delay).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        net::SocketAddr,
        sync::{
            Arc,
            atomic::{AtomicBool, AtomicUsize, Ordering},
        },
        time::{Duration, Instant},
    };

    use http::{Request, Response};
    use hyper::{body::Incoming, server::conn::http2, service::service_fn};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use opentelemetry::metrics::noop::NoopMeterProvider;
    use tokio::net::TcpListener;
    use tokio_util::{sync::CancellationToken, task::TaskTracker};
    use tonic::{Code as Grpc, Status, body::Body};
    use tonic_types::{ErrorDetails, StatusExt as _};
    use tower::{Service as _, ServiceExt as _};

    use crate::server::linger::Lingering;

    use super::{Budget, Connector, Inner, Peer, Pool, Scheme, Table, Tasks};

    /// A method that is never sent twice once it was sent.
    const PATH: &str = "/trailmesh.auth.v1.GuardService/ConsumeStepUp";
    /// One that may be.
    const AGAIN: &str = "/trailmesh.auth.v1.GuardService/GetKeySet";

    /// One replica: it answers OK until it is stopped, and then drains as servers of the mesh do.
    struct Replica {
        address: SocketAddr,
        stop: CancellationToken,
        connections: TaskTracker,
    }

    impl Replica {
        async fn start() -> Self {
            Self::answering(|| {
                let mut response = Response::new(Body::empty());
                let headers = response.headers_mut();
                headers.insert("grpc-status", http::HeaderValue::from_static("0"));
                response
            })
            .await
        }

        async fn answering<F>(answer: F) -> Self
        where
            F: Fn() -> Response<Body> + Clone + Send + 'static,
        {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let replica = Self {
                address: listener.local_addr().expect("an address"),
                stop: CancellationToken::new(),
                connections: TaskTracker::new(),
            };
            let (stop, connections) = (replica.stop.clone(), replica.connections.clone());
            replica.connections.spawn(async move {
                loop {
                    let stream = tokio::select! {
                        () = stop.cancelled() => return,
                        accepted = listener.accept() => accepted.expect("a connection").0,
                    };
                    let (stop, answer) = (stop.clone(), answer.clone());
                    connections.spawn(async move {
                        let builder = http2::Builder::new(TokioExecutor::new());
                        let service = service_fn(move |_: Request<Incoming>| {
                            let answer = answer.clone();
                            async move {
                                tokio::task::yield_now().await;
                                Ok::<_, Infallible>(answer())
                            }
                        });
                        let serving = builder.serve_connection(TokioIo::new(Lingering::new(stream)), service);
                        tokio::pin!(serving);
                        tokio::select! {
                            _ = &mut serving => return,
                            () = stop.cancelled() => {}
                        }
                        serving.as_mut().graceful_shutdown();
                        let _ = serving.await;
                    });
                }
            });
            replica
        }

        async fn stop(self) {
            self.stop.cancel();
            self.connections.close();
            self.connections.wait().await;
        }
    }

    fn peer() -> Peer {
        let meter = opentelemetry::metrics::MeterProvider::meter(&NoopMeterProvider::new(), "test");
        Peer(Arc::new(Inner {
            name: "auth".to_owned(),
            scheme: Scheme::HTTP,
            authority: http::uri::Authority::from_static("auth:1"),
            pool: Pool::unresolved("auth", "auth", 1, Connector::plain(), &Tasks::default()),
            policy: Arc::new(Table::load(proto::DESCRIPTOR_SET).expect("rules")),
            budget: Budget::default(),
            retries: meter.u64_counter("retries").build(),
        }))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn replicas_are_replaced_one_after_the_other_and_no_call_fails() {
        let peer = peer();
        let mut replicas = vec![Replica::start().await, Replica::start().await];
        let addresses = |replicas: &[Replica]| Ok(replicas.iter().map(|replica| replica.address).collect());
        peer.0.pool.learn(addresses(&replicas));
        let (done, answered, failed) = (
            Arc::new(AtomicBool::default()),
            Arc::new(AtomicUsize::default()),
            Arc::new(AtomicUsize::default()),
        );
        let callers: Vec<_> = (0..8)
            .map(|_| {
                let (mut peer, done) = (peer.clone(), done.clone());
                let (answered, failed) = (answered.clone(), failed.clone());
                tokio::spawn(async move {
                    while !done.load(Ordering::SeqCst) {
                        let mut request = Request::new(Body::empty());
                        *request.uri_mut() = http::Uri::from_static(PATH);
                        let ready = peer.ready().await.expect("always ready");
                        let counter = if ready.call(request).await.is_ok() {
                            &answered
                        } else {
                            &failed
                        };
                        counter.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        for _ in 0..20 {
            let before = answered.load(Ordering::SeqCst);
            // The name is told of the new one only after the old one has gone.
            replicas.remove(0).stop().await;
            replicas.push(Replica::start().await);
            peer.0.pool.learn(addresses(&replicas));
            testkit::eventually("more calls", || {
                (answered.load(Ordering::SeqCst) > before + 300).then_some(())
            });
        }
        done.store(true, Ordering::SeqCst);
        for caller in callers {
            caller.await.unwrap();
        }
        assert_eq!(
            failed.load(Ordering::SeqCst),
            0,
            "of {}",
            answered.load(Ordering::SeqCst)
        );
    }
    #[tokio::test]
    async fn who_is_asked_to_wait_for_long_passes_that_on_at_once() {
        for (wait, sent) in [(20, 3), (250, 3), (251, 1), (5_000, 1)] {
            let asked = Arc::new(AtomicUsize::default());
            let counted = asked.clone();
            let replica = Replica::answering(move || {
                counted.fetch_add(1, Ordering::SeqCst);
                let mut details = ErrorDetails::with_error_info("AGENT_NOT_CONNECTED", "trailmesh", []);
                details.set_retry_info(Some(Duration::from_millis(wait)));
                Status::with_error_details(Grpc::Unavailable, "not there", details).into_http()
            })
            .await;
            let mut peer = peer();
            peer.0.pool.learn(Ok(vec![replica.address]));
            let mut request = Request::new(Body::empty());
            *request.uri_mut() = http::Uri::from_static(AGAIN);
            let (begun, ready) = (Instant::now(), peer.ready().await.expect("always ready"));
            let answer = ready.call(request).await.expect("the answer of the service");
            let refused = Status::from_header_map(answer.headers()).expect("a status");
            assert_eq!(refused.code(), Grpc::Unavailable);
            assert_eq!(
                super::wait(&refused),
                Duration::from_millis(wait),
                "it travels on"
            );
            assert_eq!(asked.load(Ordering::SeqCst), sent, "asked to wait {wait} ms");
            assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
            drop((answer, peer));
            replica.stop().await;
        }
    }
}
