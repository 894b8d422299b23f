//! A mesh for plans: recovery and tenant as they are, a gateway that these tests speak through, and what stands for query.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use chassis::{Peer, Runtime, Settings, token::Signer};
use clap::Parser;
use futures_util::StreamExt as _;
use http::uri::PathAndQuery;
use pg::migrate::Set;
use prost::Message;
use proto::{
    change::v1::{Filter, Op, Position, TableFilter, UndoMode},
    common::v1::{Region as PbRegion, Role as PbRole},
    query::v1::hub_service_server::HubServiceServer,
    recovery::v1 as pb,
    tenant::v1 as tenant_pb,
};
use testkit::{Authority, Database, Engine, Postgres};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Response, Status, Streaming, client::Grpc, metadata::MetadataMap, service::Routes,
};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt as _;
use types::{Context, Plan, PoolId, Region, Role, Seat, SessionId, Subject, TenantId, UserId};

use crate::{hub::Hub, shop::Shop};

/// All that is in a cell's database.
const SETS: [Set; 4] = [
    auth::MIGRATIONS,
    tenant::MIGRATIONS,
    vault::MIGRATIONS,
    recovery::MIGRATIONS,
];

const SEED: [u8; 32] = [7; 32];

#[derive(clap::Parser)]
struct Own<C: clap::Args> {
    #[command(flatten)]
    config: C,
}

#[derive(clap::Parser)]
struct Bare {
    #[command(flatten)]
    settings: Settings,
}

pub(crate) fn signer() -> Signer {
    Signer::new("test".to_owned(), &SEED).unwrap()
}

/// Everything one test has.
pub(crate) struct World {
    pub(crate) db: Database<'static>,
    pub(crate) hub: Hub,
    gateway: Runtime,
    recovery: Peer,
    tenant: Peer,
    stops: Vec<CancellationToken>,
    folder: tempfile::TempDir,
    next_store: AtomicU32,
}

impl Drop for World {
    fn drop(&mut self) {
        for stop in &self.stops {
            stop.cancel();
        }
    }
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

/// A script as it came.
#[derive(Debug, Default)]
pub(crate) struct Script {
    pub(crate) before: Option<String>,
    pub(crate) place: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) after: Option<String>,
    pub(crate) no: Option<No>,
    pub(crate) stale_since: Option<Position>,
}

/// Who calls, and as what.
#[derive(Clone)]
pub(crate) struct Caller<'w> {
    world: &'w World,
    pub(crate) context: Context,
}

/// A server of a tenant, whose agent has a store.
pub(crate) struct Followed {
    pub(crate) id: String,
    pub(crate) pool: String,
    pub(crate) store: PathBuf,
}

fn flags(authority: &Authority, name: &str, more: &[String]) -> Settings {
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
    Bare::parse_from(flags).settings
}

async fn bind(name: &str, settings: &Settings) -> Runtime {
    let runtime = Runtime::bind(name, settings, proto::DESCRIPTOR_SET)
        .await
        .unwrap();
    runtime.publish_keys(vec![signer().verifying_key()]);
    runtime
}

/// Starts a service, and tells where it is once it is ready. A database that answers too slowly keeps it from starting: on a machine that many tests
/// share it is started again, as an orchestrator would.
async fn up<F>(
    name: &str,
    settings: &Settings,
    stops: &mut Vec<CancellationToken>,
    start: impl Fn(Runtime) -> F,
) -> String
where
    F: Future<Output = Result<(), chassis::Error>> + Send + 'static,
{
    for _ in 0..5 {
        let runtime = bind(name, settings).await;
        let (stop, port, admin) = (
            runtime.stopping(),
            runtime.address().port(),
            runtime.admin_address(),
        );
        let mut started = tokio::spawn(start(runtime));
        loop {
            if is_ready(admin).await {
                stops.push(stop);
                return peer(name, port);
            }
            let pause = Duration::from_millis(20);
            if let Ok(ended) = tokio::time::timeout(pause, &mut started).await {
                let told = types::chain(&ended.unwrap().unwrap_err());
                assert!(told.contains("pool timed out"), "{told}");
                break;
            }
        }
    }
    panic!("{name} does not start");
}

/// Whether it serves. That the keys of auth are missing, which is not there, does not count: the tests have given it others.
async fn is_ready(admin: SocketAddr) -> bool {
    let asked = async {
        let mut socket = TcpStream::connect(admin).await?;
        let request = b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        socket.write_all(request).await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    asked.await.is_ok_and(|answer| {
        let body = answer.split_once("\r\n\r\n").map_or("start", |(_, body)| body);
        !body.contains("start") && !body.contains("stopping")
    })
}

fn peer(name: &str, port: u16) -> String {
    format!("--peer={name}=https://localhost:{port}")
}

async fn migrate(admin_url: String) {
    let options = pg::migrate::Options {
        ca_file: Some(Postgres::shared().ca.clone()),
        ..pg::migrate::Options::default()
    };
    pg::migrate::run(&admin_url, &SETS, &options).await.unwrap();
}

fn own<C: clap::Args>(db: &Database<'_>, service: &str, more: &[&str]) -> C {
    let mut flags = vec![
        service.to_owned(),
        format!("--database-url={}", db.url(&format!("trailmesh_{service}"))),
        format!("--database-ca-file={}", Postgres::shared().ca.display()),
        "--database-max-connections=8".to_owned(),
    ];
    flags.extend(more.iter().map(|flag| (*flag).to_owned()));
    Own::parse_from(flags).config
}

impl World {
    /// A mesh of its own with an empty directory.
    pub(crate) async fn new() -> Self {
        Self::with(&[]).await
    }

    /// As [`World::new`], and recovery has these flags too.
    pub(crate) async fn with(more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path());
        let db = Postgres::shared().database(&pg::migrate::fingerprint(&SETS), migrate);
        let mut stops = Vec::new();

        // Nothing here needs auth or the vault: nobody listens where they should be.
        let nobody = testkit::free_port();
        let away = [peer("auth", nobody), peer("vault", nobody)];
        let config: tenant::Config = own(&db, "tenant", &["--tenant-prepared=0"]);
        let settings = flags(&authority, "tenant", &away);
        let tenant_peer = up("tenant", &settings, &mut stops, |runtime| {
            tenant::start(config.clone(), runtime)
        })
        .await;

        let hub = Hub::default();
        let query = bind("query", &flags(&authority, "query", &[])).await;
        stops.push(query.stopping());
        let query_peer = peer("query", query.address().port());
        let routes = Routes::new(HubServiceServer::new(hub.clone()));
        tokio::spawn(async move { query.serve(routes).await.unwrap() });

        let peers = [tenant_peer.clone(), query_peer];
        let config: recovery::Config = own(&db, "recovery", more);
        let settings = flags(&authority, "recovery", &peers);
        let recovery_peer = up("recovery", &settings, &mut stops, |runtime| {
            recovery::start(config.clone(), runtime)
        })
        .await;

        let peers = [tenant_peer, recovery_peer];
        let gateway = bind("gateway", &flags(&authority, "gateway", &peers)).await;
        Self {
            db,
            hub,
            recovery: gateway.peer("recovery").unwrap(),
            tenant: gateway.peer("tenant").unwrap(),
            gateway,
            stops,
            folder,
            next_store: AtomicU32::new(0),
        }
    }

    /// An owner of a new tenant, with room for everything.
    pub(crate) async fn owner(&self) -> Caller<'_> {
        let user = UserId::fresh();
        let email = format!("{user}@example.com");
        self.db.sql(&format!(
            "INSERT INTO auth.account (id, email, email_key, display_name, password, verified_at)
             VALUES ('{user}', '{email}', '{email}', 'Ann', '', now())"
        ));
        let mut caller = Caller {
            world: self,
            context: Context {
                subject: person(user),
                seat: None,
                mfa_enabled: true,
            },
        };
        let request = tenant_pb::CreateTenantRequest {
            name: "Acme".to_owned(),
            region: PbRegion::Eu.into(),
        };
        let made: tenant_pb::CreateTenantResponse =
            caller.ask_tenant("TenantService/CreateTenant", request).await;
        let id = made.tenant.unwrap().id;
        self.db.sql(&format!(
            "UPDATE tenant.tenant SET plan = 'enterprise', agreed_plan = 'enterprise' WHERE id = '{id}'"
        ));
        caller.context.seat = Some(seat(id.parse().unwrap(), Some(Role::Owner), &[]));
        caller
    }

    /// A folder for a store.
    pub(crate) fn store(&self) -> PathBuf {
        let number = self.next_store.fetch_add(1, Ordering::Relaxed);
        self.folder.path().join(format!("store{number}"))
    }

    /// A tenant whose agent has followed a shop up to the accident.
    pub(crate) async fn shop(&self, engine: Engine, later: &[&str]) -> (Shop, Caller<'_>, Followed) {
        let later: Vec<String> = later.iter().map(|words| (*words).to_owned()).collect();
        let shop = tokio::task::spawn_blocking(move || {
            let later: Vec<&str> = later.iter().map(String::as_str).collect();
            Shop::new(engine, &later)
        });
        let shop = shop.await.unwrap();
        let owner = self.owner().await;
        let followed = owner.follow(&shop).await;
        (shop, owner, followed)
    }

    /// Every plan as it is stored, with all its bytes as text.
    pub(crate) fn stored(&self, tenant: TenantId) -> String {
        let schema = format!("t_{}", tenant.digits());
        self.db.sql(&format!(
            "SELECT p.*, encode(filter, 'escape'), encode(summary, 'escape') FROM {schema}.undo_plan AS p ORDER BY id"
        ))
    }
}

fn person(user: UserId) -> Subject {
    Subject::Person {
        user,
        session: SessionId::fresh(),
    }
}

fn seat(tenant: TenantId, role: Option<Role>, pools: &[(PoolId, Role)]) -> Seat {
    Seat {
        tenant,
        region: Region::Eu,
        plan: Plan::Enterprise,
        role,
        pools: pools.iter().copied().collect::<BTreeMap<_, _>>(),
        scopes: None,
    }
}

/// The accident in the orders: what was changed or deleted.
pub(crate) fn accident(shop: &Shop) -> Filter {
    Filter {
        ops: vec![Op::Update.into(), Op::Delete.into()],
        ..of_table(shop, "orders")
    }
}

/// Everything in one table; `*` is for all of the schema.
pub(crate) fn of_table(shop: &Shop, table: &str) -> Filter {
    Filter {
        tables: vec![TableFilter {
            schema: shop.schema.name.clone(),
            table: if table == "*" { "" } else { table }.to_owned(),
        }],
        ..Filter::default()
    }
}

/// Updates and deletes of all the shop's tables.
pub(crate) fn whole_accident(shop: &Shop) -> Filter {
    Filter {
        tables: of_table(shop, "*").tables,
        ..accident(shop)
    }
}

impl<'w> Caller<'w> {
    pub(crate) fn tenant(&self) -> TenantId {
        self.context.seat.as_ref().unwrap().tenant
    }

    pub(crate) fn user(&self) -> UserId {
        self.context.subject.user()
    }

    /// Somebody else of the same tenant.
    pub(crate) fn colleague(&self, role: Option<Role>, pools: &[(&str, Role)]) -> Self {
        let pools: Vec<(PoolId, Role)> = pools
            .iter()
            .map(|(pool, role)| (pool.parse().unwrap(), *role))
            .collect();
        Self {
            world: self.world,
            context: Context {
                subject: person(UserId::fresh()),
                seat: Some(seat(self.tenant(), role, &pools)),
                mfa_enabled: true,
            },
        }
    }

    /// An operator of the whole tenant.
    pub(crate) fn operator(&self) -> Self {
        self.colleague(Some(Role::Operator), &[])
    }

    fn request<Q: Message>(&self, path: &str, message: Q) -> Request<Q> {
        let bytes = message.encode_to_vec();
        let now = chassis::token::now();
        let mut request = Request::new(message);
        let token = signer().context(&self.context, Region::Eu, now).unwrap();
        request
            .metadata_mut()
            .insert("authorization", format!("Bearer {token}").parse().unwrap());
        let table = self.world.gateway.policy();
        if table.rule(path).unwrap().step_up == chassis::policy::StepUp::Totp {
            let sha256 = ring::digest::digest(&ring::digest::SHA256, &bytes);
            let sha256 = sha256.as_ref().try_into().unwrap();
            let grant = signer()
                .grant(&self.context, Region::Eu, path, &sha256, now)
                .unwrap();
            request
                .metadata_mut()
                .insert("trailmesh-grant", grant.parse().unwrap());
        }
        request
    }

    async fn ask_tenant<Q, A>(&self, method: &str, message: Q) -> A
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let path = format!("/trailmesh.tenant.v1.{method}");
        let request = self.request(&path, message);
        let mut client = Grpc::new(self.world.tenant.clone());
        client.ready().await.unwrap();
        let path: PathAndQuery = path.parse().unwrap();
        let codec = ProstCodec::<Q, A>::default();
        client.unary(request, path, codec).await.unwrap().into_inner()
    }

    async fn ask<Q, A>(&self, method: &str, message: Q) -> Result<A, No>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        Ok(self.answer(method, message).await?.into_inner())
    }

    async fn answer<Q, A>(&self, method: &str, message: Q) -> Result<Response<A>, No>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let path = format!("/trailmesh.recovery.v1.RecoveryService/{method}");
        let request = self.request(&path, message);
        let mut client = Grpc::new(self.world.recovery.clone());
        client.ready().await.unwrap();
        let path: PathAndQuery = path.parse().unwrap();
        let codec = ProstCodec::<Q, A>::default();
        client.unary(request, path, codec).await.map_err(No::from)
    }

    async fn open<Q, A>(
        &self,
        method: &str,
        message: Q,
        most: Duration,
    ) -> Result<(MetadataMap, Streaming<A>), No>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let path = format!("/trailmesh.recovery.v1.RecoveryService/{method}");
        let request = self.request(&path, message);
        let mut client = Grpc::new(self.world.recovery.clone());
        client.ready().await.unwrap();
        let path: PathAndQuery = path.parse().unwrap();
        let codec = ProstCodec::<Q, A>::default();
        let call = client.server_streaming(request, path, codec);
        let answer = chassis::deadline::within(Instant::now() + most, call).await;
        let answer = answer.map_err(No::from)?;
        Ok((answer.metadata().clone(), answer.into_inner()))
    }

    /// Registers a server, whose agent learns of the shop.
    pub(crate) async fn follow(&self, shop: &Shop) -> Followed {
        let pool = tenant_pb::CreateAgentPoolRequest {
            name: format!("p{}", ring_name()),
        };
        let pool: tenant_pb::CreateAgentPoolResponse =
            self.ask_tenant("AgentPoolService/CreateAgentPool", pool).await;
        let pool = pool.pool.unwrap().id;
        let request = tenant_pb::RegisterServerRequest {
            server: Some(tenant_pb::Server {
                name: format!("s{}", ring_name()),
                host: "db.example.com".to_owned(),
                username: "replica".to_owned(),
                pool_id: pool.clone(),
                ..tenant_pb::Server::default()
            }),
            ..tenant_pb::RegisterServerRequest::default()
        };
        let made: tenant_pb::RegisterServerResponse =
            self.ask_tenant("ServerService/RegisterServer", request).await;
        let id = made.server.unwrap().id;
        let store = self.world.store();
        shop.learn(&store);
        self.world
            .hub
            .follow(self.tenant(), id.parse().unwrap(), store.clone());
        Followed { id, pool, store }
    }

    /// Hides a table of the shop, or columns of it, from operators.
    pub(crate) async fn hide(&self, shop: &Shop, table: &str, columns: &[&str]) -> String {
        let request = tenant_pb::CreateAccessRuleRequest {
            rule: Some(tenant_pb::AccessRule {
                role: PbRole::Operator.into(),
                schema_name: shop.schema.name.clone(),
                table_name: table.to_owned(),
                columns: columns.iter().map(|column| (*column).to_owned()).collect(),
                effect: tenant_pb::Effect::Deny.into(),
                ..tenant_pb::AccessRule::default()
            }),
        };
        let made: tenant_pb::CreateAccessRuleResponse = self
            .ask_tenant("AccessRuleService/CreateAccessRule", request)
            .await;
        made.rule.unwrap().id
    }

    /// Deletes a rule.
    pub(crate) async fn show(&self, rule_id: String) {
        let request = tenant_pb::DeleteAccessRuleRequest { rule_id };
        let _: tenant_pb::DeleteAccessRuleResponse = self
            .ask_tenant("AccessRuleService/DeleteAccessRule", request)
            .await;
    }

    /// Deletes a server.
    pub(crate) async fn drop_server(&self, server_id: &str) {
        let request = tenant_pb::DeleteServerRequest {
            server_id: server_id.to_owned(),
        };
        let _: tenant_pb::DeleteServerResponse = self.ask_tenant("ServerService/DeleteServer", request).await;
    }

    pub(crate) async fn plan_with(&self, request: pb::PlanUndoRequest) -> Result<pb::PlanUndoResponse, No> {
        let answer: Response<pb::PlanUndoResponse> = self.answer("PlanUndo", request).await?;
        let place = answer.metadata().get("trailmesh-server-id").unwrap().clone();
        let answer = answer.into_inner();
        assert_eq!(place.to_str().unwrap(), answer.plan.as_ref().unwrap().server_id);
        Ok(answer)
    }

    /// Plans the undo of what a filter chooses.
    pub(crate) async fn plan(&self, server: &str, filter: Filter) -> Result<pb::PlanUndoResponse, No> {
        self.plan_with(pb::PlanUndoRequest {
            server: server.to_owned(),
            filter: Some(filter),
            mode: UndoMode::Safe.into(),
            conflicts: 0,
        })
        .await
    }

    /// The same, where it cannot fail.
    pub(crate) async fn planned(&self, server: &str, filter: Filter) -> pb::Plan {
        self.plan(server, filter).await.unwrap().plan.unwrap()
    }

    pub(crate) async fn get(&self, plan: &str) -> Result<pb::GetPlanResponse, No> {
        let plan_id = plan.to_owned();
        self.ask("GetPlan", pb::GetPlanRequest { plan_id }).await
    }

    pub(crate) async fn list(&self, request: pb::ListPlansRequest) -> Result<pb::ListPlansResponse, No> {
        self.ask("ListPlans", request).await
    }

    /// The ids of all plans.
    pub(crate) async fn listed(&self) -> Vec<String> {
        let answer = self.list(pb::ListPlansRequest::default()).await.unwrap();
        answer.plans.into_iter().map(|plan| plan.id).collect()
    }

    /// The script of a plan, as far as it comes.
    pub(crate) async fn script(&self, plan: &str) -> Result<Script, No> {
        let request = pb::GetScriptRequest {
            plan_id: plan.to_owned(),
        };
        let most = Duration::from_secs(60);
        let (head, mut pieces) = self
            .open::<_, pb::GetScriptResponse>("GetScript", request, most)
            .await?;
        let digest =
            |metadata: &MetadataMap| Some(metadata.get("trailmesh-digest")?.to_str().unwrap().to_owned());
        let mut script = Script {
            before: digest(&head),
            place: head
                .get("trailmesh-server-id")
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned(),
            ..Script::default()
        };
        while let Some(piece) = pieces.next().await {
            match piece {
                Ok(piece) => {
                    assert!(script.bytes.is_empty() || piece.stale_since.is_none());
                    script.stale_since = script.stale_since.or(piece.stale_since);
                    let chunk = piece.chunk.unwrap();
                    assert_eq!(chunk.content_type, "application/sql");
                    script.bytes.extend_from_slice(&chunk.data);
                }
                Err(status) => {
                    script.no = Some(status.into());
                    return Ok(script);
                }
            }
        }
        script.after = pieces.trailers().await.unwrap().as_ref().and_then(digest);
        Ok(script)
    }

    /// What comes of a plan that is watched for so long.
    pub(crate) async fn watch(
        &self,
        plan: &str,
        most: Duration,
    ) -> Result<Streaming<pb::WatchPlanResponse>, No> {
        let plan_id = plan.to_owned();
        Ok(self
            .open("WatchPlan", pb::WatchPlanRequest { plan_id }, most)
            .await?
            .1)
    }
}

/// A word that no other thing of a test has.
fn ring_name() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The next plan of one that is watched.
pub(crate) async fn next(plans: &mut Streaming<pb::WatchPlanResponse>) -> Option<Result<pb::Plan, No>> {
    let next = tokio::time::timeout(Duration::from_secs(30), plans.next()).await;
    Some(match next.expect("an answer within 30 s")? {
        Ok(plan) => Ok(plan.plan.unwrap()),
        Err(status) => Err(status.into()),
    })
}

/// Whether `bytes` are in the files of a folder or below it.
pub(crate) fn is_in(folder: &Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return is_in(&path, bytes);
        }
        std::fs::read(path)
            .unwrap()
            .windows(bytes.len())
            .any(|window| window == bytes)
    })
}
