//! What the agent answers on a connection that it has dialled: `trailmesh.agent.v1.AgentService` over the stores beside it.
//!
//! Every call that carries rows takes a delegation, which is verified here with keys that came from the vault (`guard`). Which store a call is
//! about is known to the `shelf`; what the store says to it, and how much of that at once, is [`answer`]'s. A stream that is dropped stops its
//! reading, also where nothing matches. Answers pass as bytes (`body`).

mod body;
mod error;
mod guard;
mod http;
mod shelf;

use std::{convert::Infallible, fs, sync::Arc, task, time::Instant};

use answer::{Budget, Limits, Messages};
use bytes::Bytes;
use chassis::token::KeySet;
use futures_util::future::BoxFuture;
use http_body_util::Full;
use prost::Message;
use prost_types::Timestamp;
use proto::agent::v1 as pb;
use tonic::{Request, Response, body::Body, server::Grpc};
use tonic_prost::ProstCodec;
use trail::Stop;
use types::ServerId;

use self::{
    error::Error,
    guard::{Admitted, Method},
    shelf::Shelf,
};
use crate::agent::seam::{About, Line, Stores, Word};

/// The version of this program.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The version of the protocol that is spoken here.
const PROTOCOL: u32 = 1;

/// The agent's answers. Clones are the same.
#[derive(Clone, Debug)]
pub struct Service {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shelf: Arc<Shelf>,
    budget: Arc<Budget>,
    keys: KeySet,
    about: About,
}

/// The agent's answers on one connection.
#[derive(Clone, Debug)]
pub struct Connection {
    inner: Arc<Inner>,
    line: Line,
}

impl Service {
    /// Over these stores, for those with a delegation that verifies with `keys`.
    pub fn new(stores: Arc<Stores>, keys: KeySet, about: About) -> Self {
        Self {
            inner: Arc::new(Inner {
                shelf: Arc::new(Shelf::new(stores, about.started)),
                budget: Budget::new(Limits::default()),
                keys,
                about,
            }),
        }
    }

    /// How many readings of rows are under way on disk.
    pub fn readings(&self) -> usize {
        self.inner.budget.readings()
    }

    /// Bytes of long messages that were read and that nobody has taken yet.
    pub fn held(&self) -> usize {
        self.inner.budget.held()
    }

    /// What is served on one connection.
    pub fn on(&self, line: Line) -> Connection {
        Connection {
            inner: Arc::clone(&self.inner),
            line,
        }
    }
}

impl<B> tower::Service<::http::Request<B>> for Connection
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    type Response = ::http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> task::Poll<Result<(), Infallible>> {
        task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: ::http::Request<B>) -> Self::Future {
        let connection = self.clone();
        Box::pin(async move { Ok(connection.answer(request.map(Body::new)).await) })
    }
}

impl Connection {
    async fn answer(self, request: ::http::Request<Body>) -> ::http::Response<Body> {
        let admitted = match guard::admit(&self.inner, &request) {
            Ok(Some(admitted)) => admitted,
            Ok(None) => return guard::unimplemented(),
            Err(error) => return error.status().into_http(),
        };
        let (inner, line) = (self.inner, self.line);
        let Admitted {
            method,
            deadline,
            about,
        } = admitted;
        // Who says nothing takes no place.
        let (head, body) = request.into_parts();
        let body = match guard::whole(body, method, deadline).await {
            Ok(body) => body,
            Err(error) => return error.status().into_http(),
        };
        let Method::Asked(method) = method else {
            let request = ::http::Request::from_parts(head, Body::new(Full::new(body)));
            return match method {
                Method::Hello => unary(request, async move |ask| Ok(inner.hello(&line, &ask))).await,
                Method::Configure => unary(request, async move |ask| Ok(inner.configure(&line, &ask))).await,
                _ => unary(request, async move |ask| inner.statistics(deadline, ask).await).await,
            };
        };
        match inner.ask(method, about, &body, deadline) {
            Ok(messages) => body::response(messages, method.streams()).await,
            Err(error) => error.status().into_http(),
        }
    }
}

/// Answers one message with one message.
async fn unary<Q, A, F>(
    request: ::http::Request<Body>,
    answer: impl FnOnce(Q) -> F + Send,
) -> ::http::Response<Body>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
    F: Future<Output = Result<A, Error>> + Send,
{
    let mut answer = Some(answer);
    let service = tower::service_fn(move |request: Request<Q>| {
        let answer = answer.take();
        async move {
            let answer = answer.ok_or_else(|| Error::Internal("a call was answered twice").status())?;
            let answered = answer(request.into_inner()).await;
            answered.map(Response::new).map_err(|error| error.status())
        }
    });
    Grpc::new(ProstCodec::<A, Q>::default())
        .unary(service, request)
        .await
}

impl Inner {
    fn hello(&self, line: &Line, request: &pb::HelloRequest) -> pb::HelloResponse {
        line.pass(Word::Hello {
            replica: request.replica_id.clone(),
            connections: request.connections,
            replicas: request.replicas,
        });
        pb::HelloResponse {
            boot_id: self.about.boot_id.clone(),
            generation: self.about.generation,
            version: VERSION.to_owned(),
            protocol: PROTOCOL,
            server_ids: self.server_ids(),
            start_time: Some(Timestamp::from(self.about.started)),
        }
    }

    fn configure(&self, line: &Line, request: &pb::ConfigureRequest) -> pb::ConfigureResponse {
        if request.refresh {
            line.pass(Word::Refresh);
        }
        if request.leaving {
            line.pass(Word::Leaving);
        }
        if request.duplicate {
            line.pass(Word::Duplicate);
        }
        pb::ConfigureResponse {
            server_ids: self.server_ids(),
        }
    }

    fn server_ids(&self) -> Vec<String> {
        let all = self.shelf.stores().all();
        all.iter().map(|followed| followed.server.to_string()).collect()
    }

    /// Asks the store that the request names, if that is the one that the delegation is `about`.
    fn ask(
        &self,
        method: answer::Method,
        about: Option<ServerId>,
        body: &Bytes,
        deadline: Instant,
    ) -> Result<Messages, Error> {
        let asked = answer::Request::read(method, &body::message(body)?)?;
        if asked.server_id().parse().ok() != about {
            tracing::warn!(
                cause = "server",
                method = method.name(),
                "a delegation was refused"
            );
            return Err(Error::Delegation);
        }
        let store = self.shelf.store(asked.server_id())?;
        Ok(answer::answer(&self.budget, store, asked, deadline)?)
    }

    async fn statistics(
        &self,
        deadline: Instant,
        _: pb::StatisticsRequest,
    ) -> Result<pb::StatisticsResponse, Error> {
        let shelf = Arc::clone(&self.shelf);
        let servers = move |stop: &Stop| {
            let all = shelf.all().into_iter();
            let servers = all.map(|(server, store)| answer::statistics(server.to_string(), &store, stop));
            Ok(servers.collect())
        };
        Ok(pb::StatisticsResponse {
            servers: self.budget.look(deadline, servers).await?,
            version: VERSION.to_owned(),
            resident_bytes: resident_bytes(),
        })
    }
}

/// Resident memory of this process; 0 where the system does not tell.
fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default().saturating_mul(1_024)
}
