//! Service query as it is, with a real agent over a real store that has dialled it, and a gateway that these tests speak through.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use chassis::{
    Peer, Runtime, Settings,
    token::{self, KeySet, Signer},
};
use clap::Parser;
use http::uri::PathAndQuery;
use ingest_agent::{
    agent::seam::{About, Followed, Line, Stores},
    serve::Service,
};
use pg::migrate::Set;
use prost::Message;
use proto::{
    auth::v1::guard_service_server::GuardServiceServer,
    query::v1 as pb,
    tenant::v1::{AccessRule, directory_service_server::DirectoryServiceServer},
    vault::v1::{
        agent_identity_service_server::AgentIdentityServiceServer, secret_service_server::SecretServiceServer,
    },
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use testkit::{Authority, Database, Identity, Postgres};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status, Streaming, client::Grpc, service::Routes};
use tonic_types::StatusExt as _;
use types::{
    AgentId, Context, Plan, PoolId, Region, Role, Seat, ServerId, SessionId, Subject, TenantId, UserId,
};

use crate::{neighbours::Neighbours, wire::Wire};

const SETS: [Set; 4] = [
    auth::MIGRATIONS,
    tenant::MIGRATIONS,
    vault::MIGRATIONS,
    query::MIGRATIONS,
];

#[derive(clap::Parser)]
struct Own {
    #[command(flatten)]
    config: query::Config,
}

#[derive(clap::Parser)]
struct Bare {
    #[command(flatten)]
    settings: Settings,
}

/// The longest answer that a gateway takes.
const LONGEST: usize = 16 << 20;

pub(crate) fn signer() -> Signer {
    Signer::new("test".to_owned(), &[7; 32]).unwrap()
}

/// A request and where it goes.
pub(crate) trait Rpc: Message + Clone + Default + 'static {
    const PATH: &'static str;
    type Answer: Message + Default + std::fmt::Debug + 'static;
}

macro_rules! rpcs {
    ($($method:literal: $request:ident -> $answer:ident;)*) => {
        $(impl Rpc for pb::$request {
            const PATH: &'static str = concat!("/trailmesh.query.v1.QueryService/", $method);
            type Answer = pb::$answer;
        })*
    };
}

rpcs! {
    "QueryChanges": QueryChangesRequest -> QueryChangesResponse;
    "StreamChanges": StreamChangesRequest -> StreamChangesResponse;
    "FollowChanges": FollowChangesRequest -> FollowChangesResponse;
    "CountChanges": CountChangesRequest -> CountChangesResponse;
    "GetRowHistory": GetRowHistoryRequest -> GetRowHistoryResponse;
    "GetTransaction": GetTransactionRequest -> GetTransactionResponse;
    "BatchQuery": BatchQueryRequest -> BatchQueryResponse;
    "ListTables": ListTablesRequest -> ListTablesResponse;
    "ListSchemaChanges": ListSchemaChangesRequest -> ListSchemaChangesResponse;
    "GetCoverage": GetCoverageRequest -> GetCoverageResponse;
    "GetServerStatus": GetServerStatusRequest -> GetServerStatusResponse;
}

/// What the service said no with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct No {
    pub(crate) code: Code,
    pub(crate) reason: String,
    pub(crate) field: String,
    pub(crate) message: String,
    /// What the call was about, in the words of the service.
    pub(crate) about: String,
}

impl From<Status> for No {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let field = details.bad_request().and_then(|bad| bad.field_violations.first());
        let about = status.metadata().get("trailmesh-server-id");
        let about = about.map(|about| about.to_str().unwrap().to_owned());
        Self {
            code: status.code(),
            reason: details
                .error_info()
                .map(|info| info.reason.clone())
                .unwrap_or_default(),
            field: field.map(|violation| violation.field.clone()).unwrap_or_default(),
            message: status.message().to_owned(),
            about: about.unwrap_or_default(),
        }
    }
}

/// Everything one test has.
pub(crate) struct World {
    pub(crate) neighbours: Neighbours,
    pub(crate) tenant: TenantId,
    pub(crate) agent: AgentId,
    pub(crate) pool: PoolId,
    pub(crate) db: Database<'static>,
    gateway: Runtime,
    pub(crate) peer: Peer,
    address: SocketAddr,
    identity: Identity,
    stores: Arc<Stores>,
    line: CancellationToken,
    stops: Vec<CancellationToken>,
    pub(crate) folder: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        self.line.cancel();
        for stop in &self.stops {
            stop.cancel();
        }
    }
}

fn flags(authority: &Authority, name: &str, more: &[String]) -> Vec<String> {
    let identity = authority.issue(name);
    let mut flags = vec![
        name.to_owned(),
        "--listen=127.0.0.1:0".to_owned(),
        "--admin-listen=127.0.0.1:0".to_owned(),
        "--region=eu".to_owned(),
        "--drain-timeout=2s".to_owned(),
        "--propagation-delay=0s".to_owned(),
        format!("--identity-cert-file={}", identity.cert_file.display()),
        format!("--identity-key-file={}", identity.key_file.display()),
        format!("--trust-bundle-file={}", identity.bundle_file.display()),
    ];
    flags.extend(more.iter().cloned());
    flags
}

async fn bind(flags: Vec<String>) -> Runtime {
    let name = flags[0].clone();
    let settings = Bare::parse_from(flags).settings;
    let runtime = Runtime::bind(&name, &settings, proto::DESCRIPTOR_SET)
        .await
        .unwrap();
    runtime.publish_keys(vec![signer().verifying_key()]);
    runtime
}

async fn migrate(admin_url: String) {
    let options = pg::migrate::Options {
        ca_file: Some(Postgres::shared().ca.clone()),
        ..pg::migrate::Options::default()
    };
    pg::migrate::run(&admin_url, &SETS, &options).await.unwrap();
}

fn connector(identity: &Identity) -> TlsConnector {
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
    config.alpn_protocols = vec![chassis::AGENT_ALPN.to_vec()];
    TlsConnector::from(Arc::new(config))
}

async fn make_tenant(db: &Database<'static>) -> TenantId {
    let (tenant, user) = (TenantId::fresh(), UserId::fresh());
    db.sql(&format!(
        "INSERT INTO tenant.tenant (id, name, region, cell) VALUES ('{tenant}', 'Acme', 'eu', '1');
         INSERT INTO tenant.member (tenant_id, user_id, role) VALUES ('{tenant}', '{user}', 'owner')"
    ));
    let mut own = pg::Settings::new(&db.url("trailmesh_tenant")).unwrap();
    own.database_ca_file = Some(Postgres::shared().ca.clone());
    let pool = pg::Pool::open(&own, "tenant", false).await.unwrap();
    let mut tx = pool
        .shared(Instant::now() + Duration::from_secs(30))
        .await
        .unwrap();
    pg::create_tenant_schema(&mut tx, tenant).await.unwrap();
    tx.commit().await.unwrap();
    pool.close().await;
    tenant
}

impl World {
    /// A tenant without servers, and an agent that is away.
    pub(crate) async fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let mesh = Authority::new(&folder.path().join("mesh"));
        let agents = Authority::new(&folder.path().join("agents"));
        let neighbours = Neighbours::default();
        let authorities = CertificateDer::pem_file_iter(agents.bundle_file()).unwrap();
        neighbours.trust(authorities.map(|one| one.unwrap().to_vec()).collect());
        let (mut peers, mut stops) = (Vec::new(), Vec::new());
        for name in ["auth", "tenant", "vault"] {
            let runtime = bind(flags(&mesh, name, &[])).await;
            peers.push(format!("--peer={name}=https://{}", runtime.address()));
            stops.push(runtime.stopping());
            let routes = match name {
                "auth" => Routes::new(GuardServiceServer::new(neighbours.clone())),
                "tenant" => Routes::new(DirectoryServiceServer::new(neighbours.clone())),
                _ => Routes::new(AgentIdentityServiceServer::new(neighbours.clone()))
                    .add_service(SecretServiceServer::new(neighbours.clone())),
            };
            tokio::spawn(async move { runtime.serve(routes).await.unwrap() });
        }
        let db = Postgres::shared().database(&pg::migrate::fingerprint(&SETS), migrate);
        let tenant = make_tenant(&db).await;
        let runtime = bind(flags(&mesh, "query", &peers)).await;
        let address = runtime.address();
        stops.push(runtime.stopping());
        let config = Own::parse_from([
            "query".to_owned(),
            format!("--database-url={}", db.url("trailmesh_query")),
            format!("--database-ca-file={}", Postgres::shared().ca.display()),
            "--database-max-connections=4".to_owned(),
            "--statistics-pause=200ms".to_owned(),
            "--upload-pause=200ms".to_owned(),
        ]);
        tokio::spawn(async move { query::start(config.config, runtime).await.unwrap() });
        let peer = format!("--peer=query=https://{address}");
        let gateway = bind(flags(&mesh, "gateway", &[peer])).await;
        let agent = AgentId::fresh();
        let uri = format!("spiffe://trailmesh/eu/tenant/{tenant}/agent/{agent}");
        let identity = Identity {
            bundle_file: mesh.bundle_file(),
            ..agents.issue_as("agent", &[&uri], 3_600)
        };
        Self {
            neighbours,
            tenant,
            agent,
            pool: PoolId::fresh(),
            db,
            peer: gateway.peer("query").unwrap(),
            gateway,
            address,
            identity,
            stores: Arc::new(Stores::default()),
            line: CancellationToken::new(),
            stops,
            folder,
        }
    }

    /// The tenant's schema.
    pub(crate) fn schema(&self) -> String {
        self.tenant.to_string().replace("tnt_", "t_")
    }

    /// A registered server with rules, which the agent follows once it connects.
    pub(crate) fn server(&self, store: PathBuf, rules: &[AccessRule]) -> String {
        let id = ServerId::fresh();
        let name = format!("db-{}", id.digits());
        let (pool, schema) = (self.pool, self.schema());
        self.db.sql(&format!(
            "INSERT INTO {schema}.server (id, name, host, port, username, tls_mode, pool_id)
             VALUES ('{id}', '{name}', 'db1', 3306, 'trail', 'required', '{pool}')"
        ));
        self.neighbours
            .server(self.tenant, &id.to_string(), &name, pool, self.agent, rules);
        self.stores.add(Arc::new(Followed::new(id, name, store)));
        id.to_string()
    }

    /// The agent will dial through a wire of its own.
    pub(crate) async fn wire(&mut self) -> Wire {
        let wire = Wire::to(self.address).await;
        self.address = wire.address;
        wire
    }

    /// The agent dials and serves until [`Self::hang_up`].
    pub(crate) async fn connect(&mut self) {
        let keys = KeySet::new(Region::Eu);
        keys.replace(vec![signer().verifying_key()]);
        let about = About {
            tenant: self.tenant,
            agent: self.agent,
            boot_id: uuid::Uuid::now_v7().to_string(),
            generation: 1,
            started: SystemTime::now(),
        };
        self.line = CancellationToken::new();
        let (service, line) = (Service::new(self.stores.clone(), keys, about), self.line.clone());
        let (tls, address) = (connector(&self.identity), self.address);
        tokio::spawn(async move {
            while !line.is_cancelled() {
                let dialled = async {
                    let stream = TcpStream::connect(address).await?;
                    let name = ServerName::try_from("localhost").unwrap();
                    tls.connect(name, stream).await
                };
                if let Ok(stream) = dialled.await {
                    let (words, _heard) = Line::new();
                    tokio::select! {
                        () = line.cancelled() => {}
                        _ = service.on(words).serve(stream) => {}
                    }
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let server = self.stores.all().first().unwrap().server.to_string();
        eventually("the agent to be connected", async || {
            let asked = pb::GetServerStatusRequest {
                server: server.clone(),
            };
            let answer = self.ask(&self.person(Role::Viewer), asked).await;
            answer.ok().filter(|answer| answer.agent_connected)
        })
        .await;
    }

    /// The agent goes away.
    pub(crate) fn hang_up(&self) {
        self.line.cancel();
    }

    /// Somebody with this role in the whole tenant.
    pub(crate) fn person(&self, role: Role) -> Context {
        self.seated(Some(role), &[])
    }

    /// Somebody with roles in single pools.
    pub(crate) fn seated(&self, role: Option<Role>, pools: &[(PoolId, Role)]) -> Context {
        Context {
            subject: Subject::Person {
                user: UserId::fresh(),
                session: SessionId::fresh(),
            },
            seat: Some(Seat {
                tenant: self.tenant,
                region: Region::Eu,
                plan: Plan::Enterprise,
                role,
                pools: pools.iter().copied().collect::<BTreeMap<_, _>>(),
                scopes: None,
            }),
            mfa_enabled: true,
        }
    }

    pub(crate) fn request<Q>(person: &Context, message: Q) -> Request<Q> {
        let token = signer().context(person, Region::Eu, token::now()).unwrap();
        let mut request = Request::new(message);
        let bearer = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
        request
    }

    /// Asks as a gateway does.
    pub(crate) async fn ask<Q: Rpc>(&self, person: &Context, message: Q) -> Result<Q::Answer, No> {
        self.ask_within(person, message, 30).await
    }

    async fn ask_within<Q: Rpc>(&self, person: &Context, message: Q, seconds: u64) -> Result<Q::Answer, No> {
        Ok(self.answer(person, message, seconds).await?.into_inner())
    }

    /// An answer with what stands beside it.
    pub(crate) async fn answer<Q: Rpc>(
        &self,
        person: &Context,
        message: Q,
        seconds: u64,
    ) -> Result<tonic::Response<Q::Answer>, No> {
        let mut grpc = Grpc::new(self.peer.clone()).max_decoding_message_size(LONGEST);
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<Q, Q::Answer>::default();
        let request = Self::request(person, message);
        let call = grpc.unary(request, PathAndQuery::from_static(Q::PATH), codec);
        let deadline = Instant::now() + Duration::from_secs(seconds);
        chassis::deadline::within(deadline, call).await.map_err(No::from)
    }

    /// Begins a stream that may take so many seconds.
    pub(crate) async fn stream<Q: Rpc>(
        &self,
        person: &Context,
        message: Q,
        seconds: u64,
    ) -> Result<Streaming<Q::Answer>, No> {
        let mut grpc = Grpc::new(self.peer.clone()).max_decoding_message_size(LONGEST);
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<Q, Q::Answer>::default();
        let request = Self::request(person, message);
        let call = grpc.server_streaming(request, PathAndQuery::from_static(Q::PATH), codec);
        let deadline = Instant::now() + Duration::from_secs(seconds);
        let answer = chassis::deadline::within(deadline, call).await;
        answer.map(tonic::Response::into_inner).map_err(No::from)
    }

    /// A whole stream.
    pub(crate) async fn all<Q: Rpc>(&self, person: &Context, message: Q) -> Result<Vec<Q::Answer>, No> {
        let mut stream = self.stream(person, message, 30).await?;
        let mut frames = Vec::new();
        while let Some(frame) = stream.message().await? {
            frames.push(frame);
        }
        Ok(frames)
    }

    /// The methods of the service, as the rules know them.
    pub(crate) fn methods(&self) -> Vec<String> {
        let policy = self.gateway.policy();
        let of = policy
            .rules()
            .filter(|rule| rule.service() == "trailmesh.query.v1.QueryService");
        of.map(|rule| rule.path.clone()).collect()
    }
}

/// As [`testkit::eventually`], for what is to be awaited.
pub(crate) async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(Instant::now() < deadline, "waited a minute for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
