//! The public listener: TLS, HTTP/2 and HTTP/1.1, with a limit on everything a client could make us keep. Agents go through their own door.
use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use chassis::Lingering;
use http::{HeaderValue, Request, Response, header};
use http_body::Body;
use hyper::{
    body::Incoming,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::{self, Connection},
};
use rustls::server::Acceptor;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::Status;

use crate::{
    chain::{self, Gateway},
    door::{self, Door},
    metrics::Metrics,
    tls::{self, Greeting},
    unread::{Client, Unread},
};

/// A client's connection.
type Io = TokioIo<Lingering<TlsStream<TcpStream>>>;

/// TCP and TLS.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// A request's head over HTTP/1.1, counted from the end of the request before it, and the first request over HTTP/2.
const HEADER: Duration = Duration::from_secs(5);
/// A connection without a request.
const IDLE: Duration = Duration::from_secs(120);
/// To answer a GOAWAY, or to be told by an answer that the connection ends.
const FAREWELL: Duration = Duration::from_secs(2);
/// HTTP/2 pings find clients that are gone.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests of one connection at a time.
const STREAMS: u32 = 128;
/// Streams that a client resets before they are accepted, and that we reset for its mistakes (CVE-2023-44487).
const RESETS: usize = 32;
const OUR_RESETS: usize = 128;
/// Names and values together.
const HEADER_LIST: u32 = 16 * 1024;
/// HTTP/1.1: the head, with an address of 8 KiB and headers of 16 KiB.
const HEAD_BUFFER: usize = 32 * 1024;
const HEADERS: usize = 128;
/// What a client may send before it is read: of one request, and of a connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What is kept of an answer that a client does not read.
const SEND_BUFFER: usize = 256 * 1024;
/// After accepting failed: usually there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What connections share.
pub(crate) struct Edge {
    /// Answers requests.
    pub(crate) gateway: Arc<Gateway>,
    /// What clients have not read.
    pub(crate) unread: Arc<Unread>,
    /// For new connections.
    pub(crate) certificate: watch::Receiver<Arc<Greeting>>,
    /// Where agents go.
    pub(crate) door: Option<Arc<Door>>,
    /// How many there may be.
    pub(crate) max_connections: usize,
    /// Begins the drain.
    pub(crate) stopping: CancellationToken,
}

/// Accepts until the drain begins, and returns when the last connection has ended.
pub(crate) async fn serve(edge: Edge, listener: TcpListener) {
    let edge = Arc::new(edge);
    let places = Arc::new(Semaphore::new(edge.max_connections.min(Semaphore::MAX_PERMITS)));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = edge.stopping.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(error = types::chain(&error), "a connection cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            edge.gateway.metrics.connection_refused("full");
            continue;
        };
        let edge = Arc::clone(&edge);
        connections.spawn(async move {
            let place = Open::new(&edge.gateway.metrics, place);
            connection(&edge, stream, address, place).await;
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// One of the connections that there may be.
struct Open<'a> {
    metrics: &'a Metrics,
    _place: OwnedSemaphorePermit,
}

impl<'a> Open<'a> {
    fn new(metrics: &'a Metrics, place: OwnedSemaphorePermit) -> Self {
        metrics.connection(1);
        Self {
            metrics,
            _place: place,
        }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.metrics.connection(-1);
    }
}

async fn connection(edge: &Edge, stream: TcpStream, address: SocketAddr, place: Open<'_>) {
    let _ = stream.set_nodelay(true);
    let until = Instant::now() + HANDSHAKE;
    let mut agent = None;
    let handshake = async {
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let config = {
            let greeting = edge.certificate.borrow();
            Arc::clone(greeting.to(&start.client_hello()))
        };
        agent = edge
            .door
            .as_ref()
            .filter(|_| config.alpn_protocols.iter().any(|spoken| spoken == door::ALPN));
        start.into_stream(config).await
    };
    let failed = match tokio::time::timeout_at(until.into(), handshake).await {
        Ok(Ok(stream)) => {
            return match agent {
                Some(door) => door.serve(stream, place, until).await,
                None => http(edge, stream, address.ip()).await,
            };
        }
        Ok(Err(error)) => tls::failure(&error),
        Err(_) => "slow",
    };
    match agent {
        Some(door) => door.refused(failed),
        None => edge.gateway.metrics.connection_refused(failed),
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER)
        .max_headers(HEADERS)
        .max_buf_size(HEAD_BUFFER)
        .half_close(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(OUR_RESETS)
        .max_header_list_size(HEADER_LIST)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

async fn http(edge: &Edge, stream: TlsStream<TcpStream>, address: IpAddr) {
    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let builder = if h2 {
        builder().http2_only()
    } else {
        builder().http1_only()
    };
    let client = edge.unread.client();
    let service = service_fn(|request: Request<Incoming>| {
        let busy = client.request();
        let stopping = edge.stopping.clone();
        let answering = chain::handle(Arc::clone(&edge.gateway), address, client.is_behind(), request);
        async move {
            let mut answer = answering.await;
            if !h2 && stopping.is_cancelled() {
                let close = HeaderValue::from_static("close");
                answer.headers_mut().insert(header::CONNECTION, close);
            }
            // The answer's body counts too.
            Ok::<_, Infallible>(busy.deliver(answer))
        }
    });
    let serving = builder.serve_connection(TokioIo::new(Lingering::new(stream)), service);
    tokio::select! {
        () = serve_one(edge, &client, h2, serving) => {}
        reason = client.must_end() => edge.gateway.metrics.connection_cut(reason),
    }
}

/// Serves until the client goes, has nothing to ask any more, or the drain has come to its end here.
async fn serve_one<S, B>(
    edge: &Edge,
    client: &Client,
    h2: bool,
    serving: Connection<'_, Io, S, TokioExecutor>,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S::Future: Send + 'static,
    B: Body<Data: Send, Error = Status> + Send + 'static,
{
    tokio::pin!(serving);
    let ending = async {
        tokio::select! {
            () = edge.stopping.cancelled() => {}
            () = idle(client) => {}
        }
    };
    tokio::select! {
        // How a client's connection ends is the client's business.
        _ = serving.as_mut() => return,
        () = ending => {}
    }
    if !h2 && edge.stopping.is_cancelled() {
        // HTTP/1.1 has no GOAWAY: closed now, a connection could lose a request that is on its way. Its next answer ends it.
        tokio::select! {
            _ = serving.as_mut() => return,
            () = tokio::time::sleep(FAREWELL) => {}
        }
    }
    serving.as_mut().graceful_shutdown();
    // What is under way is waited for; a client that has nothing under way and does not answer our farewell is not.
    tokio::select! {
        _ = serving.as_mut() => {}
        () = quiet(client) => {}
    }
}

/// Returns when nothing has been under way for a while.
async fn quiet(client: &Client) {
    let mut since = Instant::now();
    while since.elapsed() < FAREWELL {
        tokio::time::sleep(FAREWELL / 10).await;
        if client.is_busy() {
            since = Instant::now();
        }
    }
}

/// Returns when there was no request for too long.
async fn idle(client: &Client) {
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        tokio::time::sleep(HEADER).await;
        let requests = client.requests();
        if requests != seen || client.is_busy() {
            (seen, since) = (requests, Instant::now());
        }
        let allowed = if requests == 0 { HEADER } else { IDLE };
        if since.elapsed() >= allowed {
            return;
        }
    }
}
