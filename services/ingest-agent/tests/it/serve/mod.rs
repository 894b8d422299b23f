//! What the agent answers on a connection, over real HTTP/2, held against `trail` on the same store.

mod cancel;
mod guard;
mod plans;
mod rows;
mod secrets;
mod sharing;
mod statistics;

use std::{
    future::Future,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::SystemTime,
};

use chassis::token::{KeySet, Signer, now};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ingest_agent::{
    agent::seam::{About, Followed, Line, Stores, Word},
    serve::Service,
};
use proto::agent::v1::agent_service_client::AgentServiceClient;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tonic::{Request, body::Body};
use types::{AgentId, Plan, Region, Role, Seat, ServerId, SessionId, Subject, TenantId, UserId};

/// The agent's client.
pub(crate) type Client = AgentServiceClient<Calls>;

/// An agent that follows one server, and a connection to it.
pub(crate) struct Scene {
    pub(crate) service: Service,
    pub(crate) stores: Arc<Stores>,
    pub(crate) server: ServerId,
    pub(crate) tenant: TenantId,
    pub(crate) agent: AgentId,
    pub(crate) signer: Signer,
    pub(crate) client: Client,
    pub(crate) heard: mpsc::Receiver<Word>,
}

/// Calls on one connection.
#[derive(Clone)]
pub(crate) struct Calls(SendRequest<Body>);

impl tower::Service<http::Request<Body>> for Calls {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// A method's full path.
pub(crate) fn path(method: &str) -> String {
    format!("/trailmesh.agent.v1.AgentService/{method}")
}

/// A person of a tenant.
pub(crate) fn person(tenant: TenantId) -> types::Context {
    types::Context {
        subject: Subject::Person {
            user: UserId::fresh(),
            session: SessionId::fresh(),
        },
        seat: Some(Seat {
            tenant,
            region: Region::Eu,
            plan: Plan::Free,
            role: Some(Role::Analyst),
            pools: Default::default(),
            scopes: None,
        }),
        mfa_enabled: true,
    }
}

impl Scene {
    /// Over the store in `store`.
    pub(crate) async fn over(store: &Path) -> Self {
        let (tenant, agent, server) = (TenantId::fresh(), AgentId::fresh(), ServerId::fresh());
        let signer = Signer::new("k1".into(), &[7; 32]).expect("a key");
        let keys = KeySet::new(Region::Eu);
        keys.replace(vec![signer.verifying_key()]);
        let stores = Arc::new(Stores::default());
        stores.add(Arc::new(Followed::new(server, "shop".into(), store.to_owned())));
        let about = About {
            tenant,
            agent,
            boot_id: "boot".into(),
            generation: 3,
            started: SystemTime::now(),
        };
        let service = Service::new(Arc::clone(&stores), keys, about);
        let (client, heard) = connect(&service).await;
        Self {
            service,
            stores,
            server,
            tenant,
            agent,
            signer,
            client,
            heard,
        }
    }

    /// A delegation for one method, about the server that there is.
    pub(crate) fn delegation(&self, method: &str) -> String {
        self.delegation_about(self.server, method)
    }

    pub(crate) fn delegation_about(&self, server: ServerId, method: &str) -> String {
        let now = now();
        self.signer
            .delegation(
                &person(self.tenant),
                now + 60,
                (self.agent, server),
                &path(method),
                Region::Eu,
                now,
            )
            .expect("a delegation")
    }

    /// A request with the delegation for its method.
    pub(crate) fn ask<T>(&self, method: &str, message: T) -> Request<T> {
        with(message, &self.delegation(method))
    }
}

/// A request with a delegation.
pub(crate) fn with<T>(message: T, delegation: &str) -> Request<T> {
    let mut request = Request::new(message);
    let bearer = format!("Bearer {delegation}").parse().expect("a header");
    request.metadata_mut().insert("authorization", bearer);
    request
}

/// A new connection to an agent.
pub(crate) async fn connect(service: &Service) -> (Client, mpsc::Receiver<Word>) {
    let (calls, heard) = dial(service).await;
    let origin = "http://agent".parse().expect("an origin");
    let client = AgentServiceClient::with_origin(calls, origin).max_decoding_message_size(16 << 20);
    (client, heard)
}

/// The same for calls that no client would make.
pub(crate) async fn dial(service: &Service) -> (Calls, mpsc::Receiver<Word>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (line, heard) = Line::new();
    let connection = service.on(line);
    tokio::spawn(async move {
        let (io, _) = listener.accept().await.expect("a connection");
        let _ = connection.serve(io).await;
    });
    let io = TcpStream::connect(address).await.expect("connected");
    let (calls, driver) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(128 << 10)
        .initial_connection_window_size(8 << 20)
        .handshake(TokioIo::new(io))
        .await
        .expect("HTTP/2");
    tokio::spawn(driver);
    (Calls(calls), heard)
}
