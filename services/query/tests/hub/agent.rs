//! An agent that dials, serves what it is asked in words, and comes back: the other half of the hub's protocol, as short as it can be.

use std::{
    collections::HashMap,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{Stream, StreamExt as _, stream};
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use proto::agent::v1::{
    self as pb,
    agent_service_server::{AgentService, AgentServiceServer},
};
use rand::Rng as _;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use testkit::Identity;
use tokio::{
    net::TcpSocket,
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};
use types::{AgentId, TenantId};

/// Connections that one keeps.
const CONNECTIONS: usize = 2;

/// Where agents find replicas: in turn, as behind a door.
#[derive(Clone, Default)]
pub(crate) struct Door(Arc<(Mutex<Vec<SocketAddr>>, AtomicUsize)>, Admission);

/// As the mesh's door does, it lets so many in at a time.
#[derive(Clone)]
struct Admission(Arc<Semaphore>);

impl Default for Admission {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(32)))
    }
}

impl Door {
    pub(crate) fn set(&self, addresses: &[SocketAddr]) {
        *self.0.0.lock().unwrap() = addresses.to_vec();
    }

    fn next(&self) -> Option<SocketAddr> {
        let addresses = self.0.0.lock().unwrap();
        let turn = self.0.1.fetch_add(1, Ordering::Relaxed);
        (!addresses.is_empty()).then(|| addresses[turn % addresses.len()])
    }
}

/// One start of an agent.
#[derive(Clone)]
pub(crate) struct Agent(Arc<Inner>);

struct Inner {
    tenant: TenantId,
    agent: AgentId,
    generation: u64,
    boot: String,
    servers: Vec<String>,
    tls: TlsConnector,
    door: Door,
    /// Its connections by replica, to be closed one by one.
    lines: Mutex<HashMap<String, CancellationToken>>,
    /// Streams that were begun and not dropped.
    streams: AtomicUsize,
    calls: AtomicU64,
    misrouted: AtomicUsize,
    told_leaving: AtomicUsize,
    told_duplicate: AtomicUsize,
    pause: Duration,
    stop: CancellationToken,
}

/// What a TLS client of the mesh trusts and shows.
pub(crate) fn connector(identity: &Identity, alpn: &[u8]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    for one in CertificateDer::pem_file_iter(&identity.bundle_file).unwrap() {
        roots.add(one.unwrap()).unwrap();
    }
    let chain = CertificateDer::pem_file_iter(&identity.cert_file).unwrap();
    let chain = chain.collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(&identity.key_file).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![alpn.to_vec()];
    TlsConnector::from(Arc::new(config))
}

impl Agent {
    pub(crate) fn new(
        (tenant, agent): (TenantId, AgentId),
        generation: u64,
        servers: &[String],
        identity: &Identity,
        door: &Door,
    ) -> Self {
        Self(Arc::new(Inner {
            tenant,
            agent,
            generation,
            boot: uuid::Uuid::now_v7().to_string(),
            servers: servers.to_vec(),
            tls: connector(identity, chassis::AGENT_ALPN),
            door: door.clone(),
            lines: Mutex::default(),
            streams: AtomicUsize::new(0),
            calls: AtomicU64::new(0),
            misrouted: AtomicUsize::new(0),
            told_leaving: AtomicUsize::new(0),
            told_duplicate: AtomicUsize::new(0),
            pause: Duration::from_millis(200),
            stop: CancellationToken::new(),
        }))
    }

    /// Keeps its connections until it is stopped.
    pub(crate) async fn run(self) {
        let mut slots = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let agent = self.clone();
            slots.spawn(async move {
                loop {
                    let _ = agent.connect().await;
                    let pause = agent.0.pause.mul_f64(rand::rng().random_range(0.5..3.0));
                    sleep(pause).await;
                }
            });
        }
        self.0.stop.cancelled().await;
    }

    /// One connection, from the first byte to the last.
    async fn connect(&self) -> std::io::Result<()> {
        let admission = self.0.door.1.0.clone().acquire_owned().await.unwrap();
        let Some(address) = self.0.door.next() else {
            return Ok(());
        };
        let socket = TcpSocket::new_v4()?;
        // Several source addresses: one has not enough ports for thousands of agents.
        let last = 2 + u8::try_from(self.0.generation % 8).unwrap_or_default();
        socket.bind(SocketAddr::from(([127, 0, 0, last], 0)))?;
        let dialled = async {
            let stream = socket.connect(address).await?;
            stream.set_nodelay(true)?;
            self.0
                .tls
                .connect(ServerName::try_from("localhost").unwrap(), stream)
                .await
        };
        let tls = timeout(Duration::from_secs(20), dialled).await??;
        let line = Line {
            agent: self.clone(),
            close: CancellationToken::new(),
            greeted: CancellationToken::new(),
            replica: Arc::default(),
        };
        let (close, replica, greeted) = (line.close.clone(), line.replica.clone(), line.greeted.clone());
        // The next one may come when this one has been greeted, or has not been for long.
        let admitted = async move {
            let _ = timeout(Duration::from_secs(10), greeted.cancelled()).await;
            drop(admission);
        };
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).max_concurrent_streams(80);
        let service = TowerToHyperService::new(AgentServiceServer::new(line));
        let serving = builder.serve_connection(TokioIo::new(tls), service);
        tokio::select! {
            _ = serving => {}
            () = close.cancelled() => {}
            () = async { admitted.await; std::future::pending().await } => {}
        }
        if let Some(replica) = replica.lock().unwrap().take() {
            self.0.lines.lock().unwrap().remove(&replica);
        }
        Ok(())
    }

    /// Ends at once, as a process that is killed.
    pub(crate) fn kill(&self) {
        self.0.stop.cancel();
    }

    pub(crate) fn streams(&self) -> usize {
        self.0.streams.load(Ordering::SeqCst)
    }

    pub(crate) fn calls(&self) -> u64 {
        self.0.calls.load(Ordering::SeqCst)
    }

    pub(crate) fn misrouted(&self) -> usize {
        self.0.misrouted.load(Ordering::SeqCst)
    }

    pub(crate) fn told_leaving(&self) -> usize {
        self.0.told_leaving.load(Ordering::SeqCst)
    }

    pub(crate) fn told_duplicate(&self) -> usize {
        self.0.told_duplicate.load(Ordering::SeqCst)
    }

    /// To how many replicas it is connected.
    pub(crate) fn connected(&self) -> usize {
        self.0.lines.lock().unwrap().len()
    }
}

/// A connection, as its handlers know it.
#[derive(Clone)]
struct Line {
    agent: Agent,
    close: CancellationToken,
    greeted: CancellationToken,
    replica: Arc<Mutex<Option<String>>>,
}

/// Counts as long as it is not dropped.
struct Open(Arc<Inner>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::SeqCst);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "an agent of a test refuses in its own words"
)]
fn no(code: Code, words: &str) -> Status {
    Status::new(code, words)
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Line {
    /// Counts the call, and looks whether the delegation says that it is for this agent and this method.
    fn delegated<T>(&self, request: &Request<T>, method: &str) -> Result<(), Status> {
        let inner = &self.agent.0;
        inner.calls.fetch_add(1, Ordering::SeqCst);
        let wanted = format!("Bearer {} /trailmesh.agent.v1.AgentService/{method}", inner.agent);
        let shown = request.metadata().get("authorization");
        if shown.is_none_or(|shown| *shown != wanted) {
            inner.misrouted.fetch_add(1, Ordering::SeqCst);
            return Err(no(Code::Unauthenticated, "DELEGATION_INVALID"));
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl AgentService for Line {
    type ChangesStream = Answers<pb::ChangesResponse>;
    type HistoryStream = Answers<pb::HistoryResponse>;
    type TransactionStream = Answers<pb::TransactionResponse>;
    type PlanUndoStream = Answers<pb::PlanUndoResponse>;
    type WatchUndoStream = Answers<pb::WatchUndoResponse>;

    async fn hello(&self, request: Request<pb::HelloRequest>) -> Result<Response<pb::HelloResponse>, Status> {
        let hello = request.into_inner();
        self.greeted.cancel();
        let inner = &self.agent.0;
        {
            let mut lines = inner.lines.lock().unwrap();
            if lines.contains_key(&hello.replica_id) {
                // Held already: another one is wanted.
                self.close.cancel();
                return Err(no(Code::Aborted, "held already"));
            }
            lines.insert(hello.replica_id.clone(), self.close.clone());
        }
        *self.replica.lock().unwrap() = Some(hello.replica_id);
        Ok(Response::new(pb::HelloResponse {
            boot_id: inner.boot.clone(),
            generation: inner.generation,
            version: "1.0.0".to_owned(),
            protocol: 1,
            server_ids: inner.servers.clone(),
            start_time: None,
        }))
    }

    /// Opens elsewhere, and closes this one when that is done: the slot that is free does the former.
    async fn configure(
        &self,
        request: Request<pb::ConfigureRequest>,
    ) -> Result<Response<pb::ConfigureResponse>, Status> {
        let told = request.into_inner();
        if told.leaving {
            self.agent.0.told_leaving.fetch_add(1, Ordering::SeqCst);
        }
        if told.duplicate {
            self.agent.0.told_duplicate.fetch_add(1, Ordering::SeqCst);
        }
        Ok(Response::new(pb::ConfigureResponse {
            server_ids: self.agent.0.servers.clone(),
        }))
    }

    async fn statistics(
        &self,
        _: Request<pb::StatisticsRequest>,
    ) -> Result<Response<pb::StatisticsResponse>, Status> {
        Ok(Response::new(pb::StatisticsResponse::default()))
    }

    /// Without end, a message each few milliseconds.
    async fn changes(
        &self,
        request: Request<pb::ChangesRequest>,
    ) -> Result<Response<Self::ChangesStream>, Status> {
        self.delegated(&request, "Changes")?;
        let inner = self.agent.0.clone();
        inner.streams.fetch_add(1, Ordering::SeqCst);
        let open = Open(inner);
        let change = proto::change::v1::Change {
            table: "x".repeat(4_000),
            ..Default::default()
        };
        let frame = pb::ChangesResponse {
            changes: vec![change; 8],
            ..pb::ChangesResponse::default()
        };
        let frames = stream::repeat(frame).then(move |frame| {
            let _open = &open;
            async move {
                sleep(Duration::from_millis(1)).await;
                Ok(frame)
            }
        });
        Ok(Response::new(frames.boxed()))
    }

    async fn count(&self, request: Request<pb::CountRequest>) -> Result<Response<pb::CountResponse>, Status> {
        self.delegated(&request, "Count")?;
        std::future::pending().await
    }

    async fn history(&self, _: Request<pb::HistoryRequest>) -> Result<Response<Self::HistoryStream>, Status> {
        Err(no(Code::Unimplemented, "not in this test"))
    }

    async fn transaction(
        &self,
        _: Request<pb::TransactionRequest>,
    ) -> Result<Response<Self::TransactionStream>, Status> {
        Err(no(Code::Unimplemented, "not in this test"))
    }

    async fn tables(&self, _: Request<pb::TablesRequest>) -> Result<Response<pb::TablesResponse>, Status> {
        Err(no(Code::Unimplemented, "not in this test"))
    }

    async fn schema_changes(
        &self,
        _: Request<pb::SchemaChangesRequest>,
    ) -> Result<Response<pb::SchemaChangesResponse>, Status> {
        Err(no(Code::Unimplemented, "not in this test"))
    }

    async fn plan_undo(
        &self,
        _: Request<pb::PlanUndoRequest>,
    ) -> Result<Response<Self::PlanUndoStream>, Status> {
        Err(no(Code::Unimplemented, "not in this test"))
    }

    async fn watch_undo(
        &self,
        _: Request<pb::WatchUndoRequest>,
    ) -> Result<Response<Self::WatchUndoStream>, Status> {
        Err(no(Code::Unimplemented, "not in this test"))
    }

    async fn coverage(
        &self,
        _: Request<pb::CoverageRequest>,
    ) -> Result<Response<pb::CoverageResponse>, Status> {
        Err(no(Code::Unimplemented, "not in this test"))
    }

    /// Says who answers, and which start of it.
    async fn status(
        &self,
        request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        self.delegated(&request, "Status")?;
        let inner = &self.agent.0;
        if !inner.servers.contains(&request.get_ref().server_id) {
            return Err(not_followed());
        }
        Ok(Response::new(pb::StatusResponse {
            version: format!("{} {} {}", inner.tenant, inner.agent, inner.generation),
            ..pb::StatusResponse::default()
        }))
    }
}

fn not_followed() -> Status {
    use tonic_types::{ErrorDetails, StatusExt as _};
    let details = ErrorDetails::with_error_info(
        "SERVER_NOT_FOLLOWED",
        "trailmesh",
        HashMap::<String, String>::new(),
    );
    Status::with_error_details(Code::NotFound, "not followed", details)
}
