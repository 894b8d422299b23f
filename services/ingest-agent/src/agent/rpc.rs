//! gRPC over a connection that was dialled by hand.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::http2::{Builder, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
    time::timeout,
};
use tonic::body::Body;

use super::error::Error;

/// An answer takes no longer.
const ANSWER: Duration = Duration::from_secs(20);
/// Longest wait for the first words of HTTP/2.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Is the other side there still?
const PING: Duration = Duration::from_secs(20);
const PONG: Duration = Duration::from_secs(10);
/// The longest head of an answer.
const HEADERS: u32 = 16 << 10;

/// A connection with gRPC on it; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Rpc {
    sender: SendRequest<Body>,
    _driver: JoinSet<()>,
}

impl Rpc {
    /// Speaks HTTP/2 on a connection.
    pub(super) async fn open<T>(what: &str, stream: T) -> Result<Self, Error>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let failed = |why: String| Error::Unreachable {
            what: what.to_owned(),
            why,
        };
        let handshake = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PONG)
            .keep_alive_while_idle(true)
            .max_header_list_size(HEADERS)
            .handshake(TokioIo::new(stream));
        let (sender, connection) = timeout(HANDSHAKE, handshake)
            .await
            .map_err(|_| failed(format!("no HTTP/2 within {} s", HANDSHAKE.as_secs())))?
            .map_err(|error| failed(error.to_string()))?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the mesh ended");
            }
        });
        Ok(Self {
            sender,
            _driver: driver,
        })
    }

    /// For a generated client.
    pub(super) fn channel(&self) -> Channel {
        Channel(self.sender.clone())
    }

    /// Whether calls can still be made on it.
    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }
}

/// One call with its time-out.
pub(super) async fn answer<T>(
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, Error> {
    match timeout(ANSWER, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(Error::from_status(&status)),
        Err(_) => Err(Error::Unreachable {
            what: "the mesh".to_owned(),
            why: format!("no answer within {} s", ANSWER.as_secs()),
        }),
    }
}

/// What generated clients call.
#[derive(Clone)]
pub(super) struct Channel(SendRequest<Body>);

impl tower::Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
