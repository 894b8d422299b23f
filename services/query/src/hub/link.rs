//! One connection of an agent: HTTP/2 with the roles turned round. It is never dialled again; when it ends, the agent comes back.

use std::{
    fmt, io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use chassis::{AgentConnection, AgentStanding, status};
use http::{Request, Response, Uri, uri::PathAndQuery};
use http_body::{Body as HttpBody, Frame};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, Connection, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use proto::agent::v1::{self as pb, agent_service_client::AgentServiceClient};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming, body::Body, client::Grpc};

use super::{
    bytes::Raw,
    error::Error,
    large::{Room, Scale},
    model::{Epoch, Key, Servers},
    severed::Severable,
};
use crate::source::Method;

/// Calls at once on one connection, and those beyond them that are ours: Configure, Statistics.
const STREAMS: usize = 64;
const OURS: usize = 2;
/// What an agent may send on one call before somebody reads it: who reads slowly costs this much. No call waits because others are not read:
/// the connection's window has room for all.
const STREAM_WINDOW: u32 = 128 << 10;
const CONNECTION_WINDOW: u32 = 66 * STREAM_WINDOW;
/// What is buffered of requests.
const SEND_BUFFER: usize = 1 << 20;
const HEADERS: u32 = 16 << 10;
const FRAME: u32 = 32 << 10;
/// A connection at whose other end nobody is is found within the sum of them.
pub(crate) const PING: Duration = Duration::from_secs(20);
pub(crate) const PONG: Duration = Duration::from_secs(10);
/// The longest message of an agent. Answers come in frames of 64 KiB; lists of tables come whole.
pub(crate) const LONGEST: usize = 16 << 20;
/// Where calls go, as far as HTTP is concerned.
const ORIGIN: &str = "https://agent";

/// How long calls are asked for that nobody set a deadline for.
const OWN: Duration = Duration::from_secs(5);

/// What an agent said when it was greeted.
#[derive(Clone, Debug)]
pub(crate) struct Greeting {
    /// Which of its starts.
    pub(crate) epoch: Epoch,
    /// Its version.
    pub(crate) version: String,
    /// When it started.
    pub(crate) start_time: Option<prost_types::Timestamp>,
    /// What it follows.
    pub(crate) servers: Servers,
}

/// A connection on which calls can be made.
pub(crate) struct Link {
    /// Whose it is.
    pub(crate) key: Key,
    /// What it said.
    pub(crate) greeting: Greeting,
    /// Its certificate.
    pub(crate) standing: AgentStanding,
    servers: RwLock<Servers>,
    calls: Mutex<Option<SendRequest<Body>>>,
    places: Arc<Semaphore>,
    ours: Arc<Semaphore>,
    room: Room,
    /// How long it was not confirmed though others were.
    pub(crate) doubt: Doubt,
    /// Cancelled when it takes no more calls.
    retired: CancellationToken,
    /// Cancelled to end it at once, whatever is in work.
    cut: CancellationToken,
}

/// How long the vault did not say of a connection that it counts, while it said so of others.
#[derive(Debug, Default)]
pub(crate) struct Doubt(Mutex<Duration>);

impl Doubt {
    /// The vault was asked after `since`, and said that others count: whether it said so of this one. Gives how long it has not.
    pub(crate) fn asked(&self, confirmed: bool, since: Duration) -> Duration {
        let mut doubt = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *doubt = if confirmed {
            Duration::ZERO
        } else {
            doubt.saturating_add(since)
        };
        *doubt
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({} {})", self.key.agent, self.greeting.epoch.word())
    }
}

/// Resolves when a connection has ended.
pub(crate) type Driver = Connection<TokioIo<Severable<AgentConnection>>, Body, TokioExecutor>;

/// Begins HTTP/2 on a connection, which ends with `cut` at the latest.
pub(crate) async fn open(
    connection: AgentConnection,
    cut: CancellationToken,
) -> io::Result<(SendRequest<Body>, Driver)> {
    http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADERS)
        .max_frame_size(FRAME)
        .max_send_buf_size(SEND_BUFFER)
        .handshake(TokioIo::new(Severable::new(connection, cut)))
        .await
        .map_err(io::Error::other)
}

/// Asks who is there.
pub(crate) async fn greet(
    calls: &SendRequest<Body>,
    scale: Scale,
    hello: pb::HelloRequest,
) -> Result<pb::HelloResponse, Status> {
    let deadline = Instant::now() + OWN;
    let calling = Calling::new(calls.clone(), scale, deadline, None);
    let mut client = AgentServiceClient::with_origin(calling, origin());
    let answer = timeout_at(deadline.into(), client.hello(within(hello, deadline))).await;
    Ok(answer.map_err(|_| status(&Error::Deadline))??.into_inner())
}

fn origin() -> Uri {
    Uri::from_static(ORIGIN)
}

/// A request that says how long it is waited for.
fn within<T>(message: T, deadline: Instant) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(deadline.saturating_duration_since(Instant::now()));
    request
}

/// Reads a list of servers; what is no id is none.
pub(crate) fn servers(ids: &[String]) -> Servers {
    Servers::These(ids.iter().filter_map(|id| id.parse().ok()).collect())
}

/// What became of a call that was to be made.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The agent has answered: messages, or that it refuses.
    Answered(Result<Streaming<Bytes>, Status>),
    /// It has certainly not begun to answer.
    Unanswered(Error),
}

impl Link {
    /// Around a connection whose agent has been greeted.
    pub(crate) fn new(
        key: Key,
        greeting: Greeting,
        standing: AgentStanding,
        calls: SendRequest<Body>,
        room: Room,
        cut: CancellationToken,
    ) -> Self {
        Self {
            room,
            doubt: Doubt::default(),
            retired: CancellationToken::new(),
            key,
            servers: RwLock::new(greeting.servers.clone()),
            greeting,
            standing,
            calls: Mutex::new(Some(calls)),
            places: Arc::new(Semaphore::new(STREAMS)),
            ours: Arc::new(Semaphore::new(OURS)),
            cut,
        }
    }

    /// What the agent follows, as it said last.
    pub(crate) fn servers(&self) -> Servers {
        self.servers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Takes no more calls; ends, with HTTP/2's good-bye, when those in work have.
    pub(crate) fn retire(&self) {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.retired.cancel();
    }

    /// Resolves when it takes no more calls.
    pub(crate) async fn until_retired(&self) {
        self.retired.cancelled().await;
    }

    /// Ends now.
    pub(crate) fn cut(&self) {
        self.retire();
        self.cut.cancel();
    }

    /// Resolves when it is to end now.
    pub(crate) async fn until_cut(&self) {
        self.cut.cancelled().await;
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.cut.is_cancelled()
    }

    /// Whether no call is in work.
    pub(crate) fn is_idle(&self) -> bool {
        self.places.available_permits() == STREAMS
    }

    /// Calls a method; resolves when the agent begins to answer. The answer ends at the deadline at the latest, and the call with the answer.
    pub(crate) async fn ask(
        &self,
        method: Method,
        request: Bytes,
        delegation: &str,
        deadline: Instant,
    ) -> Outcome {
        let place = self.places.clone().try_acquire_owned();
        let calling = match (place, self.calls()) {
            (_, None) => return Outcome::Unanswered(Error::NotHeld),
            (Err(_), _) => return Outcome::Answered(Err(status(&Error::Busy))),
            (Ok(place), Some(calls)) => Calling::new(calls, self.scale(), deadline, Some(place)),
        };
        let answered = calling.answered.clone();
        let mut request = within(request, deadline);
        let bearer = format!("Bearer {delegation}").parse();
        let Ok(bearer) = bearer else {
            return Outcome::Unanswered(Error::Answer);
        };
        request.metadata_mut().insert("authorization", bearer);
        let mut grpc = Grpc::with_origin(calling, origin()).max_decoding_message_size(LONGEST);
        let path = PathAndQuery::from_static(method.path());
        let asked = timeout_at(deadline.into(), grpc.server_streaming(request, path, Raw)).await;
        match asked {
            Err(_) => Outcome::Answered(Err(status(&Error::Deadline))),
            Ok(Ok(response)) => Outcome::Answered(Ok(response.into_inner())),
            Ok(Err(refused)) if answered.load(Ordering::Acquire) => Outcome::Answered(Err(refused)),
            Ok(Err(_)) => Outcome::Unanswered(Error::Broken),
        }
    }

    /// Tells the agent something; what it follows now is kept.
    pub(crate) async fn configure(&self, told: pb::ConfigureRequest) -> Result<(), Status> {
        let deadline = Instant::now() + OWN;
        let mut client = self.own(deadline).await?;
        let answer = timeout_at(deadline.into(), client.configure(within(told, deadline))).await;
        let answer = answer.map_err(|_| status(&Error::Deadline))??.into_inner();
        *self.servers.write().unwrap_or_else(PoisonError::into_inner) = servers(&answer.server_ids);
        Ok(())
    }

    /// Numbers, without any row.
    pub(crate) async fn statistics(&self, deadline: Instant) -> Result<pb::StatisticsResponse, Status> {
        let mut client = self.own(deadline).await?;
        let asked = client.statistics(within(pb::StatisticsRequest {}, deadline));
        let answer = timeout_at(deadline.into(), asked).await;
        Ok(answer.map_err(|_| status(&Error::Deadline))??.into_inner())
    }

    async fn own(&self, deadline: Instant) -> Result<AgentServiceClient<Calling>, Status> {
        let place = timeout_at(deadline.into(), self.ours.clone().acquire_owned()).await;
        let place = place.map_err(|_| status(&Error::Deadline))?;
        let place = place.map_err(|_| status(&Error::NotHeld))?;
        let calls = self.calls().ok_or_else(|| status(&Error::NotHeld))?;
        let calling = Calling::new(calls, self.scale(), deadline, Some(place));
        Ok(AgentServiceClient::with_origin(calling, origin()).max_decoding_message_size(LONGEST))
    }

    fn scale(&self) -> Scale {
        self.room.scale(self.key.tenant)
    }

    fn calls(&self) -> Option<SendRequest<Body>> {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.as_ref().filter(|calls| !calls.is_closed()).cloned()
    }
}

/// One call.
struct Calling {
    calls: SendRequest<Body>,
    scale: Option<Scale>,
    deadline: Instant,
    place: Option<OwnedSemaphorePermit>,
    /// Whether the agent has begun to answer.
    answered: Arc<AtomicBool>,
}

impl Calling {
    fn new(
        calls: SendRequest<Body>,
        scale: Scale,
        deadline: Instant,
        place: Option<OwnedSemaphorePermit>,
    ) -> Self {
        Self {
            calls,
            scale: Some(scale),
            deadline,
            place,
            answered: Arc::default(),
        }
    }
}

impl tower::Service<Request<Body>> for Calling {
    type Response = Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let sent = self.calls.send_request(request);
        let (deadline, place, answered) = (self.deadline, self.place.take(), self.answered.clone());
        let scale = self.scale.take();
        Box::pin(async move {
            let response = sent.await.map_err(|_| status(&Error::Broken))?;
            answered.store(true, Ordering::Release);
            Ok(response.map(|inner| {
                Body::new(Answer {
                    inner,
                    scale,
                    over: Box::pin(tokio::time::sleep_until(deadline.into())),
                    _place: place,
                })
            }))
        })
    }
}

/// An answer's body: it ends at the deadline, and until it ends it has its place.
struct Answer {
    inner: Incoming,
    scale: Option<Scale>,
    over: Pin<Box<Sleep>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.over.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(status(&Error::Deadline))));
        }
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Err(_))) => Poll::Ready(Some(Err(status(&Error::Broken)))),
            Poll::Ready(Some(Ok(frame))) => {
                let weighed = match (frame.data_ref(), &mut self.scale) {
                    (Some(data), Some(scale)) => scale.put(data),
                    _ => Ok(()),
                };
                Poll::Ready(Some(weighed.map(|()| frame).map_err(|_| status(&Error::Room))))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Doubt;

    #[test]
    fn doubt_grows_with_the_looks_that_did_not_confirm_and_ends_with_one_that_did() {
        let (doubt, look) = (Doubt::default(), Duration::from_secs(2));
        assert_eq!(doubt.asked(false, look), look);
        assert_eq!(doubt.asked(false, look), 2 * look);
        assert_eq!(doubt.asked(true, look), Duration::ZERO);
        assert_eq!(doubt.asked(false, look), look);
    }
}
