//! One address of a service, and the connection to it.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::{Request, Response};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rand::Rng as _;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{Mutex as AsyncMutex, OwnedMutexGuard},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tonic::body::Body;

use super::{
    answer::{Answer, Busy},
    greeted::Greeted,
    pool::Failure,
};
use crate::{
    identity::{Identity, Material, SpiffeId},
    runtime::Tasks,
};

/// TCP, TLS and the server's first words together.
const CONNECT: Duration = Duration::from_secs(2);
/// A dead peer is noticed by pings while calls wait for it; servers of the mesh allow them.
const PING: Duration = Duration::from_secs(20);
const PONG: Duration = Duration::from_secs(10);
/// As at the server.
const HEADERS: u32 = 32 << 10;
const FRAME: u32 = 64 << 10;
/// What is buffered of one answer that nobody reads.
const STREAM_WINDOW: u32 = 128 << 10;
/// The same of all answers of a connection: so many streams that nobody reads (512) hold up no other call on it.
const CONNECTION_WINDOW: u32 = 512 * STREAM_WINDOW;
const SEND_BUFFER: usize = 1 << 20;
/// How long an address is avoided after its first failure; doubled for each further one, up to the most.
const AVOIDED: Duration = Duration::from_millis(250);
const AVOIDED_MOST: Duration = Duration::from_secs(5);

/// How connections are made.
#[derive(Clone)]
pub(super) struct Connector(Option<(Identity, SpiffeId)>);

impl Connector {
    pub(super) fn tls(identity: Identity, wanted: SpiffeId) -> Self {
        Self(Some((identity, wanted)))
    }

    /// For development.
    pub(super) fn plain() -> Self {
        Self(None)
    }
}

struct Connection {
    calls: SendRequest<Body>,
    /// The identity that it was made with.
    made_with: Option<Arc<Material>>,
}

#[derive(Default)]
struct Health {
    failures: u32,
    failed: Option<Instant>,
    avoided: Option<Instant>,
}

pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    peer: String,
    connector: Connector,
    tasks: Tasks,
    busy: Arc<AtomicUsize>,
    health: Mutex<Health>,
    slot: Arc<AsyncMutex<Option<Connection>>>,
}

impl Endpoint {
    pub(super) fn new(address: SocketAddr, peer: &str, connector: Connector, tasks: Tasks) -> Arc<Self> {
        Arc::new(Self {
            address,
            peer: peer.to_owned(),
            connector,
            tasks,
            busy: Arc::default(),
            health: Mutex::default(),
            slot: Arc::default(),
        })
    }

    /// Calls in work.
    pub(super) fn busy(&self) -> usize {
        self.busy.load(Ordering::Relaxed)
    }

    /// Whether it failed so recently that another address is better.
    pub(super) fn avoided(&self, now: Instant) -> bool {
        self.health().avoided.is_some_and(|until| now < until)
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends one call.
    pub(super) async fn send(
        self: &Arc<Self>,
        request: Request<Body>,
        deadline: Instant,
    ) -> Result<Response<Body>, Failure> {
        let busy = Busy::new(&self.busy);
        let mut calls = match self.connection().await {
            Ok(calls) => calls,
            Err(error) => {
                tracing::debug!(peer = self.peer, address = %self.address, %error, "no connection");
                return Err(Failure::unreachable(&self.peer, request));
            }
        };
        match calls.try_send_request(request).await {
            Ok(response) => {
                Ok(response.map(|inner| Body::new(Answer::new(inner, deadline, self.peer.clone(), busy))))
            }
            Err(mut error) => Err(match error.take_message() {
                Some(request) => Failure::unreachable(&self.peer, request),
                None if unprocessed(error.error()) => Failure::unprocessed(&self.peer),
                None => Failure::broken(&self.peer),
            }),
        }
    }

    /// The connection, made if there is none that is open and made with the identity of now.
    async fn connection(self: &Arc<Self>) -> io::Result<SendRequest<Body>> {
        let asked = Instant::now();
        let slot = self.slot.clone().lock_owned().await;
        let now = self.connector.0.as_ref().map(|(identity, _)| identity.current());
        if let Some(connection) = &*slot {
            let same = match (&connection.made_with, &now) {
                (Some(then), Some(now)) => Arc::ptr_eq(then, now),
                (None, None) => true,
                _ => false,
            };
            // After a renewal that failed, the old one serves until it is time to try again.
            let good = same || self.avoided(asked);
            if good && !connection.calls.is_closed() {
                return Ok(connection.calls.clone());
            }
        }
        if self.health().failed.is_some_and(|failed| failed >= asked) {
            // Who waited for the same attempt fails with it, instead of one after the other.
            return Err(io::ErrorKind::NotConnected.into());
        }
        // In a task of its own: a caller with little time does not end the attempt for those with more.
        let (sender, made) = tokio::sync::oneshot::channel();
        let endpoint = self.clone();
        self.tasks.run(async move {
            let _ = sender.send(endpoint.connect(slot, now).await);
        });
        made.await
            .map_err(|_| io::Error::from(io::ErrorKind::NotConnected))?
    }

    async fn connect(
        &self,
        mut slot: OwnedMutexGuard<Option<Connection>>,
        now: Option<Arc<Material>>,
    ) -> io::Result<SendRequest<Body>> {
        let made = timeout(CONNECT, self.dial(now.as_deref())).await;
        match made.map_err(io::Error::from).flatten() {
            Ok(calls) => {
                *self.health() = Health::default();
                *slot = Some(Connection {
                    calls: calls.clone(),
                    made_with: now,
                });
                Ok(calls)
            }
            Err(error) => {
                self.failed();
                // A renewal that fails leaves a connection that works in its place.
                match &*slot {
                    Some(old) if !old.calls.is_closed() => Ok(old.calls.clone()),
                    _ => Err(error),
                }
            }
        }
    }

    /// It is avoided for a while.
    pub(super) fn failed(&self) {
        let mut health = self.health();
        let now = Instant::now();
        let pause = AVOIDED
            .saturating_mul(1 << health.failures.min(8))
            .min(AVOIDED_MOST);
        health.failures = health.failures.saturating_add(1);
        health.failed = Some(now);
        health.avoided = Some(now + pause.mul_f64(rand::rng().random_range(0.5..1.0)));
    }

    async fn dial(&self, now: Option<&Material>) -> io::Result<SendRequest<Body>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (Some(material), Some((_, wanted))) = (now, &self.connector.0) else {
            return self.handshake(stream).await;
        };
        let config = material.client(wanted).map_err(io::Error::other)?;
        // No host name is verified and none is sent; rustls wants one all the same.
        let unused = ServerName::try_from("mesh").map_err(io::Error::other)?;
        let tls = TlsConnector::from(Arc::new(config))
            .connect(unused, stream)
            .await?;
        self.handshake(Greeted::wait(tls).await?).await
    }

    async fn handshake<T>(&self, stream: T) -> io::Result<SendRequest<Body>>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (calls, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PONG)
            .max_header_list_size(HEADERS)
            .max_frame_size(FRAME)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        let (peer, address) = (self.peer.clone(), self.address);
        self.tasks.run(async move {
            if let Err(error) = connection.await {
                tracing::debug!(peer, %address, %error, "a connection ended");
            }
        });
        Ok(calls)
    }
}

/// Whether the other side says that it has not looked at the call: it went away (RFC 9113 §6.8; the calls it did look at go on) or refused
/// the stream (§8.7).
fn unprocessed(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| {
        let gone = cause.is_go_away() && cause.reason() == Some(h2::Reason::NO_ERROR);
        let refused = cause.is_reset() && cause.reason() == Some(h2::Reason::REFUSED_STREAM);
        cause.is_remote() && (gone || refused)
    })
}
