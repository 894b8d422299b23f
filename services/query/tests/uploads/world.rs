//! A cell with a vault, any number of replicas of query, and who calls them.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use chassis::{
    Peer, Runtime, Settings,
    token::{self, Signer},
};
use clap::Parser;
use futures_util::{Stream, stream};
use http::uri::PathAndQuery;
use pg::migrate::Set;
use prost::Message;
use proto::{
    auth::v1::{self as auth_pb, guard_service_server::GuardServiceServer},
    query::v1 as pb,
    tenant::v1::{self as tenant_pb, directory_service_server::DirectoryServiceServer},
};
use testkit::{Authority, Database, Postgres};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming, client::Grpc, service::Routes};
use tonic_types::StatusExt as _;
use types::{Context, Plan, Region, Role, Seat, SessionId, Subject, TenantId, UserId};

const SETS: [Set; 4] = [
    auth::MIGRATIONS,
    tenant::MIGRATIONS,
    vault::MIGRATIONS,
    query::MIGRATIONS,
];

const ROOT: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

#[derive(clap::Parser)]
struct Own {
    #[command(flatten)]
    config: query::Config,
}

#[derive(clap::Parser)]
struct Vault {
    #[command(flatten)]
    config: vault::Config,
}

#[derive(clap::Parser)]
struct Bare {
    #[command(flatten)]
    settings: Settings,
}

pub(crate) fn signer() -> Signer {
    Signer::new("test".to_owned(), &[7; 32]).unwrap()
}

/// A request and where it goes.
pub(crate) trait Rpc: Message + Clone + Default + 'static {
    const PATH: &'static str;
    type Answer: Message + Default + std::fmt::Debug + 'static;
}

macro_rules! rpcs {
    ($($path:literal: $request:ident -> $answer:ident;)*) => {
        $(impl Rpc for pb::$request {
            const PATH: &'static str = concat!("/trailmesh.query.v1.", $path);
            type Answer = pb::$answer;
        })*
    };
}

rpcs! {
    "UploadService/CreateUpload": CreateUploadRequest -> CreateUploadResponse;
    "UploadService/UploadFile": UploadFileRequest -> UploadFileResponse;
    "UploadService/FinishUpload": FinishUploadRequest -> FinishUploadResponse;
    "UploadService/GetUpload": GetUploadRequest -> GetUploadResponse;
    "UploadService/ListUploads": ListUploadsRequest -> ListUploadsResponse;
    "UploadService/DeleteUpload": DeleteUploadRequest -> DeleteUploadResponse;
    "QueryService/QueryChanges": QueryChangesRequest -> QueryChangesResponse;
    "QueryService/CountChanges": CountChangesRequest -> CountChangesResponse;
    "QueryService/GetRowHistory": GetRowHistoryRequest -> GetRowHistoryResponse;
    "QueryService/GetTransaction": GetTransactionRequest -> GetTransactionResponse;
    "QueryService/ListTables": ListTablesRequest -> ListTablesResponse;
    "QueryService/ListSchemaChanges": ListSchemaChangesRequest -> ListSchemaChangesResponse;
    "QueryService/GetCoverage": GetCoverageRequest -> GetCoverageResponse;
    "QueryService/GetServerStatus": GetServerStatusRequest -> GetServerStatusResponse;
}

/// What the service said no with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct No {
    pub(crate) code: Code,
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl From<Status> for No {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let reason = details.error_info().map(|info| info.reason.clone());
        Self {
            code: status.code(),
            reason: reason.unwrap_or_default(),
            message: status.message().to_owned(),
        }
    }
}

/// Stand-ins for auth and tenant, with one set of rules for everybody.
#[derive(Clone, Default)]
pub(crate) struct Neighbours(Arc<Mutex<Vec<tenant_pb::AccessRule>>>);

impl Neighbours {
    /// From now on these rules hold.
    pub(crate) fn rule(&self, rules: Vec<tenant_pb::AccessRule>) {
        *self.0.lock().unwrap() = rules;
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a stand-in refuses without the chassis knowing why"
)]
fn no() -> Status {
    Status::not_found("not in this test")
}

#[tonic::async_trait]
impl auth_pb::guard_service_server::GuardService for Neighbours {
    async fn authenticate(
        &self,
        _: Request<auth_pb::AuthenticateRequest>,
    ) -> Result<Response<auth_pb::AuthenticateResponse>, Status> {
        Err(no())
    }

    async fn consume_step_up(
        &self,
        _: Request<auth_pb::ConsumeStepUpRequest>,
    ) -> Result<Response<auth_pb::ConsumeStepUpResponse>, Status> {
        Err(no())
    }

    async fn delegate(
        &self,
        _: Request<auth_pb::DelegateRequest>,
    ) -> Result<Response<auth_pb::DelegateResponse>, Status> {
        Err(no())
    }

    async fn get_key_set(
        &self,
        _: Request<auth_pb::GetKeySetRequest>,
    ) -> Result<Response<auth_pb::GetKeySetResponse>, Status> {
        let key = signer().verifying_key();
        Ok(Response::new(auth_pb::GetKeySetResponse {
            keys: vec![auth_pb::VerifyingKey {
                kid: key.kid,
                ed25519: key.ed25519.to_vec().into(),
            }],
        }))
    }
}

#[tonic::async_trait]
impl tenant_pb::directory_service_server::DirectoryService for Neighbours {
    async fn resolve_server(
        &self,
        _: Request<tenant_pb::ResolveServerRequest>,
    ) -> Result<Response<tenant_pb::ResolveServerResponse>, Status> {
        Err(no())
    }

    async fn get_access(
        &self,
        _: Request<tenant_pb::GetAccessRequest>,
    ) -> Result<Response<tenant_pb::GetAccessResponse>, Status> {
        let rules = self.0.lock().unwrap().clone();
        Ok(Response::new(tenant_pb::GetAccessResponse { rules }))
    }
}

/// Everything one test has.
pub(crate) struct World {
    pub(crate) neighbours: Neighbours,
    pub(crate) tenant: TenantId,
    pub(crate) db: Database<'static>,
    mesh: Authority,
    peers: Vec<String>,
    stops: Mutex<Vec<CancellationToken>>,
    pub(crate) folder: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        for stop in self.stops.lock().unwrap().drain(..) {
            stop.cancel();
        }
    }
}

/// A replica of query, and who calls it. Clones are the same.
#[derive(Clone)]
pub(crate) struct Replica {
    gateway: Peer,
    recovery: Peer,
    /// They hold what the peers need.
    _callers: Arc<[Runtime; 2]>,
}

fn settings(flags: Vec<String>) -> Settings {
    Bare::parse_from(flags).settings
}

/// A service of the mesh with these flags, the first of which is its name.
pub(crate) async fn bind(flags: Vec<String>) -> Runtime {
    let name = flags[0].clone();
    let runtime = Runtime::bind(&name, &settings(flags), proto::DESCRIPTOR_SET)
        .await
        .unwrap();
    runtime.publish_keys(vec![signer().verifying_key()]);
    runtime
}

/// Serves as query until it is told to stop.
pub(crate) async fn serve(own: Vec<String>, runtime: Runtime) {
    let config = Own::parse_from(own).config;
    query::start(config, runtime).await.unwrap();
}

async fn migrate(admin_url: String) {
    let options = pg::migrate::Options {
        ca_file: Some(Postgres::shared().ca.clone()),
        ..pg::migrate::Options::default()
    };
    pg::migrate::run(&admin_url, &SETS, &options).await.unwrap();
}

impl World {
    /// A tenant without uploads, and a vault.
    pub(crate) async fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let mut world = Self {
            neighbours: Neighbours::default(),
            tenant: TenantId::fresh(),
            db: Postgres::shared().database(&pg::migrate::fingerprint(&SETS), migrate),
            mesh: Authority::new(&folder.path().join("mesh")),
            peers: Vec::new(),
            stops: Mutex::default(),
            folder,
        };
        world.tenant = world.new_tenant().await;
        for name in ["auth", "tenant"] {
            let runtime = bind(world.flags(name, &[])).await;
            world.heard(name, &runtime);
            let routes = match name {
                "auth" => Routes::new(GuardServiceServer::new(world.neighbours.clone())),
                _ => Routes::new(DirectoryServiceServer::new(world.neighbours.clone())),
            };
            tokio::spawn(async move { runtime.serve(routes).await.unwrap() });
        }
        let runtime = bind(world.flags("vault", &world.peers)).await;
        world.heard("vault", &runtime);
        let config = world.vault_config();
        tokio::spawn(async move { vault::start(config, runtime).await.unwrap() });
        world
    }

    fn heard(&mut self, name: &str, runtime: &Runtime) {
        let port = runtime.address().port();
        self.peers.push(format!("--peer={name}=https://localhost:{port}"));
        self.stops.lock().unwrap().push(runtime.stopping());
    }

    /// The name of a service, and where its tables are.
    fn database(&self, name: &str) -> Vec<String> {
        vec![
            name.to_owned(),
            format!("--database-url={}", self.db.url(&format!("trailmesh_{name}"))),
            format!("--database-ca-file={}", Postgres::shared().ca.display()),
            "--database-max-connections=6".to_owned(),
        ]
    }

    fn flags(&self, name: &str, more: &[String]) -> Vec<String> {
        let identity = self.mesh.issue(name);
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

    fn vault_config(&self) -> vault::Config {
        let own = [format!("--root-key={ROOT}"), "--rotation-pause=50ms".to_owned()];
        Vault::parse_from([self.database("vault"), own.to_vec()].concat()).config
    }

    /// Makes a new version of the tenant's key, and gives its number.
    pub(crate) async fn rotate(&self) -> i64 {
        let settings = settings(self.flags("vault", &self.peers));
        let config = self.vault_config();
        let operator = vault::operator::Operator::open(&config, &settings).await;
        operator.unwrap().rotate_tenant(self.tenant).await.unwrap()
    }

    /// What a replica is started with: as a service of the mesh, and of its own.
    pub(crate) fn replica_flags(&self) -> (Vec<String>, Vec<String>) {
        let own = ["--upload-pause=200ms".to_owned(), "--upload-lease=3s".to_owned()];
        (
            self.flags("query", &self.peers),
            [self.database("query"), own.to_vec()].concat(),
        )
    }

    /// A replica of query in this process.
    pub(crate) async fn replica(&self) -> Replica {
        self.replica_with(&[]).await
    }

    /// A replica that is told this too.
    pub(crate) async fn replica_with(&self, more: &[&str]) -> Replica {
        let (mesh, mut own) = self.replica_flags();
        own.extend(more.iter().map(|flag| (*flag).to_owned()));
        let runtime = bind(mesh).await;
        let address = runtime.address();
        self.stops.lock().unwrap().push(runtime.stopping());
        tokio::spawn(serve(own, runtime));
        self.callers(address).await
    }

    /// Who calls the replica at this address. It can be called when this returns.
    pub(crate) async fn callers(&self, address: SocketAddr) -> Replica {
        let peer = [format!("--peer=query=https://localhost:{}", address.port())];
        let gateway = bind(self.flags("gateway", &peer)).await;
        let recovery = bind(self.flags("recovery", &peer)).await;
        let replica = Replica {
            gateway: gateway.peer("query").unwrap(),
            recovery: recovery.peer("query").unwrap(),
            _callers: Arc::new([gateway, recovery]),
        };
        // The vault may still be sealed: then nothing can be begun.
        let probe = self.of(TenantId::fresh(), Role::Owner, Plan::Enterprise);
        eventually("the service to answer", async || {
            let asked = pb::ListUploadsRequest::default();
            let no = replica.ask(&probe, asked).await.unwrap_err();
            (no.reason == "TENANT_NOT_FOUND").then_some(())
        })
        .await;
        replica
    }

    /// One more tenant.
    pub(crate) async fn new_tenant(&self) -> TenantId {
        let (tenant, user) = (TenantId::fresh(), UserId::fresh());
        self.db.sql(&format!(
            "INSERT INTO tenant.tenant (id, name, region, cell) VALUES ('{tenant}', 'Acme', 'eu', '1');
             INSERT INTO tenant.member (tenant_id, user_id, role) VALUES ('{tenant}', '{user}', 'owner')"
        ));
        let mut own = pg::Settings::new(&self.db.url("trailmesh_tenant")).unwrap();
        own.database_ca_file = Some(Postgres::shared().ca.clone());
        let pool = pg::Pool::open(&own, "tenant", false).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut tx = pool.shared(deadline).await.unwrap();
        pg::create_tenant_schema(&mut tx, tenant).await.unwrap();
        tx.commit().await.unwrap();
        pool.close().await;
        tenant
    }

    /// Runs SQL in the tenant's schema as the superuser.
    pub(crate) fn sql(&self, sql: &str) -> String {
        self.sql_of(self.tenant, sql)
    }

    /// The same of any tenant.
    pub(crate) fn sql_of(&self, tenant: TenantId, sql: &str) -> String {
        let schema = tenant.to_string().replace("tnt_", "t_");
        let path = format!("SET search_path = {schema};");
        self.db
            .sql(&format!("{path} {sql}"))
            .replace("SET\n", "")
            .trim()
            .to_owned()
    }

    /// Waits until there are no such rows in the tenant's schema.
    pub(crate) async fn gone(&self, from: &str) {
        let count = format!("SELECT count(*) FROM {from}");
        eventually(&format!("{from} to be empty"), async || {
            (tokio::task::block_in_place(|| self.sql(&count)) == "0").then_some(())
        })
        .await;
    }

    /// Somebody with this role in the whole tenant.
    pub(crate) fn person(&self, role: Role) -> Context {
        self.of(self.tenant, role, Plan::Enterprise)
    }

    /// Somebody of a tenant with this plan.
    pub(crate) fn of(&self, tenant: TenantId, role: Role, plan: Plan) -> Context {
        Context {
            subject: Subject::Person {
                user: UserId::fresh(),
                session: SessionId::fresh(),
            },
            seat: Some(Seat {
                tenant,
                region: Region::Eu,
                plan,
                role: Some(role),
                pools: BTreeMap::new(),
                scopes: None,
            }),
            mfa_enabled: true,
        }
    }
}

pub(crate) fn token(person: &Context) -> String {
    signer().context(person, Region::Eu, token::now()).unwrap()
}

/// What a stream of these bytes is made of.
pub(crate) fn messages(upload: &str, offset: u64, bytes: &[u8], size: usize) -> Vec<pb::UploadFileRequest> {
    let first = pb::UploadFileRequest {
        upload_id: upload.to_owned(),
        offset,
        ..pb::UploadFileRequest::default()
    };
    let rest = bytes.chunks(size).map(|data| pb::UploadFileRequest {
        data: data.to_vec().into(),
        ..pb::UploadFileRequest::default()
    });
    [first].into_iter().chain(rest).collect()
}

impl Replica {
    /// Asks as a gateway does.
    pub(crate) async fn ask<Q: Rpc>(&self, person: &Context, message: Q) -> Result<Q::Answer, No> {
        self.ask_within(Duration::from_secs(60), person, message).await
    }

    /// The same, for who waits so long.
    pub(crate) async fn ask_within<Q: Rpc>(
        &self,
        time: Duration,
        person: &Context,
        message: Q,
    ) -> Result<Q::Answer, No> {
        let mut grpc = Grpc::new(self.gateway.clone());
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<Q, Q::Answer>::default();
        let mut request = Request::new(message);
        let bearer = format!("Bearer {}", token(person)).parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
        let call = grpc.unary(request, PathAndQuery::from_static(Q::PATH), codec);
        let deadline = Instant::now() + time;
        let answer = chassis::deadline::within(deadline, call).await;
        Ok(answer?.into_inner())
    }

    /// Follows as a gateway does: what is there, and what comes.
    pub(crate) async fn follow(
        &self,
        person: &Context,
        upload: &str,
    ) -> Result<Streaming<pb::FollowChangesResponse>, No> {
        let mut request = Request::new(pb::FollowChangesRequest {
            server: upload.to_owned(),
            last: 1,
            ..pb::FollowChangesRequest::default()
        });
        let bearer = format!("Bearer {}", token(person)).parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
        let mut query = pb::query_service_client::QueryServiceClient::new(self.gateway.clone());
        let deadline = Instant::now() + Duration::from_secs(60);
        let answer = chassis::deadline::within(deadline, query.follow_changes(request)).await?;
        Ok(answer.into_inner())
    }

    /// Asks as recovery does.
    pub(crate) async fn relay<A: Message + Default>(
        &self,
        person: &Context,
        upload: &str,
        method: &str,
        request: &impl Message,
    ) -> Result<Vec<A>, No> {
        let mut answer = self.begin(person, upload, method, request).await?;
        let mut messages = Vec::new();
        while let Some(message) = answer.message().await? {
            messages.push(A::decode(message.message).unwrap());
        }
        Ok(messages)
    }

    /// The same, of which the answer is still to come.
    pub(crate) async fn begin(
        &self,
        person: &Context,
        upload: &str,
        method: &str,
        request: &impl Message,
    ) -> Result<Streaming<pb::AskResponse>, No> {
        let request = pb::AskRequest {
            context_token: token(person),
            server_id: upload.to_owned(),
            method: format!("/trailmesh.agent.v1.AgentService/{method}"),
            request: request.encode_to_vec().into(),
        };
        let mut hub = pb::hub_service_client::HubServiceClient::new(self.recovery.clone());
        let deadline = Instant::now() + Duration::from_secs(60);
        let answer = chassis::deadline::within(deadline, hub.ask(request)).await?;
        Ok(answer.into_inner())
    }

    /// Begins an upload, when the vault is there.
    pub(crate) async fn create(&self, person: &Context, name: &str, file: &str, size: u64) -> pb::Upload {
        let request = pb::CreateUploadRequest {
            name: name.to_owned(),
            file: file.to_owned(),
            size,
            ..pb::CreateUploadRequest::default()
        };
        eventually("the vault to be unsealed", async || {
            match self.ask(person, request.clone()).await {
                Ok(answer) => answer.upload,
                Err(no) => {
                    assert_eq!(no.reason, "VAULT_UNAVAILABLE", "{no:?}");
                    None
                }
            }
        })
        .await
    }

    /// One stream of these messages.
    pub(crate) async fn stream(
        &self,
        person: &Context,
        messages: impl Stream<Item = pb::UploadFileRequest> + Send + 'static,
    ) -> Result<u64, No> {
        self.stream_within(person, Duration::from_secs(60), messages)
            .await
    }

    /// The same by somebody who waits so long.
    pub(crate) async fn stream_within(
        &self,
        person: &Context,
        longest: Duration,
        messages: impl Stream<Item = pb::UploadFileRequest> + Send + 'static,
    ) -> Result<u64, No> {
        let mut grpc = Grpc::new(self.gateway.clone());
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<pb::UploadFileRequest, pb::UploadFileResponse>::default();
        let mut request = Request::new(messages);
        let bearer = format!("Bearer {}", token(person)).parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
        let path = PathAndQuery::from_static(pb::UploadFileRequest::PATH);
        let call = grpc.client_streaming(request, path, codec);
        let answer = chassis::deadline::within(Instant::now() + longest, call).await;
        Ok(answer?.into_inner().next_offset)
    }

    /// One stream of these bytes, in messages of some odd length.
    pub(crate) async fn part(
        &self,
        person: &Context,
        upload: &str,
        offset: u64,
        bytes: &[u8],
    ) -> Result<u64, No> {
        let messages = messages(upload, offset, bytes, 77_777);
        self.stream(person, stream::iter(messages)).await
    }

    /// Sends a whole file from `offset` on, in one stream of messages of `size`.
    pub(crate) async fn send(
        &self,
        person: &Context,
        upload: &str,
        bytes: &[u8],
        offset: usize,
        size: usize,
    ) {
        let messages = messages(upload, offset as u64, &bytes[offset..], size);
        let end = self.stream(person, stream::iter(messages)).await.unwrap();
        assert_eq!(end, bytes.len() as u64);
    }

    /// Says that the file is whole.
    pub(crate) async fn finish(&self, person: &Context, upload: &str, keep: bool) -> Result<pb::Upload, No> {
        let request = pb::FinishUploadRequest {
            upload_id: upload.to_owned(),
            keep_what_came: keep,
        };
        Ok(self.ask(person, request).await?.upload.unwrap())
    }

    /// A whole upload: begun, sent, finished.
    pub(crate) async fn upload(&self, person: &Context, name: &str, (file, bytes): (&str, &[u8])) -> String {
        let upload = self.create(person, name, file, bytes.len() as u64).await;
        self.send(person, &upload.id, bytes, 0, 1 << 20).await;
        let done = self.finish(person, &upload.id, false).await.unwrap();
        assert_eq!(done.state(), pb::UploadState::Ready, "{done:?}");
        upload.id
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
