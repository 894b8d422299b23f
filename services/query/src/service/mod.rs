//! QueryService: decode, see what the caller may ask, ask the source, take out what the caller does not see.
//!
//! It is served by hand rather than by the generated server, because most answers are an agent's bytes, which the generated one would decode
//! and encode for nothing.

mod changes;
mod codec;
mod collect;
mod error;
mod frame;
mod inquiry;
mod lists;
mod narrow;
mod page;
mod rooms;
mod seal;
mod shape;
mod streams;

use std::{
    convert::Infallible,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use prost::Message;
use tonic::{Request, Response, Status, body::Body, server::Grpc, server::NamedService};
use tower::Service;

use chassis::places::Places;

use self::{codec::Answers, error::Error, rooms::Rooms, seal::Keys};
use crate::{resolve::Resolver, source::Source, statistics};

/// Streams that one process has at a time.
const STREAMS: usize = 1_000;

/// Of these, for one tenant.
const OF_A_TENANT: usize = 32;

/// What all methods share. Clones share it.
#[derive(Clone)]
pub(crate) struct Core {
    /// Where answers come from.
    pub(crate) sources: Arc<dyn Source>,
    /// Which server is meant, and what rules there are.
    pub(crate) resolver: Resolver,
    /// The last numbers of servers.
    pub(crate) statistics: statistics::Store,
    places: Places,
    rooms: Rooms,
    keys: Keys,
}

impl Core {
    /// With these.
    pub(crate) fn new(
        sources: Arc<dyn Source>,
        resolver: Resolver,
        statistics: statistics::Store,
        pool: pg::Pool,
    ) -> Self {
        Self {
            sources,
            resolver,
            statistics,
            places: Places::new(STREAMS, OF_A_TENANT),
            rooms: Rooms::default(),
            keys: Keys::new(pool),
        }
    }
}

/// The service.
#[derive(Clone)]
pub(crate) struct QueryServer(pub(crate) Core);

impl NamedService for QueryServer {
    const NAME: &'static str = "trailmesh.query.v1.QueryService";
}

impl Service<http::Request<Body>> for QueryServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let core = self.0.clone();
        let path = request.uri().path();
        let method = path
            .strip_prefix('/')
            .and_then(|path| path.strip_prefix(Self::NAME))
            .and_then(|path| path.strip_prefix('/'));
        match method.unwrap_or_default() {
            "QueryChanges" => unary(core, request, changes::query_changes),
            "StreamChanges" => streaming(core, request, streams::stream_changes),
            "FollowChanges" => streaming(core, request, streams::follow_changes),
            "CountChanges" => unary(core, request, changes::count_changes),
            "GetRowHistory" => unary(core, request, changes::get_row_history),
            "GetTransaction" => unary(core, request, changes::get_transaction),
            "BatchQuery" => unary(core, request, changes::batch_query),
            "ListTables" => unary(core, request, lists::list_tables),
            "ListSchemaChanges" => unary(core, request, lists::list_schema_changes),
            "GetCoverage" => unary(core, request, lists::get_coverage),
            "GetServerStatus" => unary(core, request, lists::get_server_status),
            _ => Box::pin(async { Ok(chassis::status(&Unknown).into_http()) }),
        }
    }
}

/// The metadata in which an answer, and a refusal, says what it is about, for the audit log: a caller may have given a name.
const SERVER: &str = "trailmesh-server-id";

/// What a call is about, once that was found: said beside its refusal too.
#[derive(Clone, Debug, Default)]
struct About(Arc<OnceLock<String>>);

impl About {
    /// `srv_…` or `upl_…`; the first one counts.
    fn is(&self, id: &str) {
        let _ = self.0.set(id.to_owned());
    }

    /// A refusal, which says what it is about.
    fn refusal(&self, error: Error) -> Status {
        let mut status = Status::from(error);
        if let Some(Ok(server)) = self.0.get().map(|id| id.parse()) {
            status.metadata_mut().insert(SERVER, server);
        }
        status
    }
}

/// An answer, and what it is about.
struct Reply<T> {
    /// `srv_…` or `upl_…`
    server: String,
    message: T,
}

impl<T> Reply<T> {
    /// The same about another message.
    fn of<M>(self, message: M) -> Reply<M> {
        Reply {
            server: self.server,
            message,
        }
    }

    fn response(self) -> Response<T> {
        let mut response = Response::new(self.message);
        // An id is plain text.
        if let Ok(server) = self.server.parse() {
            response.metadata_mut().insert(SERVER, server);
        }
        response
    }
}

#[derive(Debug, thiserror::Error)]
#[error("there is no such method")]
struct Unknown;

impl types::Fault for Unknown {
    fn code(&self) -> types::Code {
        types::Code::Internal
    }

    fn reason(&self) -> &'static str {
        "METHOD_UNKNOWN"
    }
}

type Answered = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

fn unary<Q, F, Fut>(core: Core, request: http::Request<Body>, work: F) -> Answered
where
    Q: Message + Default + 'static,
    F: Fn(Core, Request<Q>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Reply<Bytes>, Error>> + Send + 'static,
{
    Box::pin(async move {
        let handler = tower::service_fn(move |mut request: Request<Q>| {
            let about = About::default();
            request.extensions_mut().insert(about.clone());
            let answer = work(core.clone(), request);
            async move {
                let answer = answer.await.map(Reply::response);
                answer.map_err(|error| about.refusal(error))
            }
        });
        Ok(Grpc::new(Answers::<Q>::default()).unary(handler, request).await)
    })
}

fn streaming<Q, F, Fut>(core: Core, request: http::Request<Body>, work: F) -> Answered
where
    Q: Message + Default + 'static,
    F: Fn(Core, Request<Q>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Reply<streams::Answers>, Error>> + Send + 'static,
{
    Box::pin(async move {
        let handler = tower::service_fn(move |mut request: Request<Q>| {
            let about = About::default();
            request.extensions_mut().insert(about.clone());
            let answer = work(core.clone(), request);
            async move {
                let answer = answer.await.map(Reply::response);
                answer.map_err(|error| about.refusal(error))
            }
        });
        let mut grpc = Grpc::new(Answers::<Q>::default());
        Ok(grpc.server_streaming(handler, request).await)
    })
}
