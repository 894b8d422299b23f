//! A mesh of three: this service as it is, a gateway that these tests speak through, and an auth that gives out its key and keeps the mails.

mod mails;
mod requests;

use std::{
    collections::BTreeMap,
    env,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use chassis::{Peer, Runtime, Settings, token::Signer};
use clap::Parser;
use http::uri::PathAndQuery;
use pg::migrate::Set;
use proto::{
    auth::v1::{self as auth_pb, SendInvitationRequest, guard_service_server, mail_service_server},
    common::v1::{Region as PbRegion, Role as PbRole},
    tenant::v1 as pb,
    vault::v1::key_service_server,
};
use sqlx::types::Json;
use testkit::{Authority, Database, Pgbouncer, Postgres};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, client::Grpc};
use tonic_types::StatusExt as _;
use types::{Context, KeyId, Plan, Region, Role, Seat, SessionId, Subject, TenantId, UserId};

use crate::{rpc::Rpc, vault::Vault};

pub(crate) use self::{
    mails::Mails,
    requests::{new_server, new_tenant, wire},
};

/// All that is in a cell's database.
const SETS: [Set; 3] = [auth::MIGRATIONS, tenant::MIGRATIONS, vault::MIGRATIONS];

const SEED: [u8; 32] = [7; 32];

#[derive(clap::Parser)]
struct Own {
    #[command(flatten)]
    config: tenant::Config,
}

#[derive(clap::Parser)]
struct Bare {
    #[command(flatten)]
    settings: Settings,
}

fn signer() -> Signer {
    Signer::new("test".to_owned(), &SEED).unwrap()
}

/// Everything one test has.
pub(crate) struct World {
    mails: Mails,
    gateway: Runtime,
    tenant: Peer,
    stops: Vec<CancellationToken>,
    as_auth: pg::Pool,
    _bouncer: Option<Pgbouncer>,
    pub(crate) vault: Vault,
    apart: Apart,
    own_flags: Vec<String>,
    pub(crate) db: Database<'static>,
    authority: Authority,
    port: u16,
    _folder: tempfile::TempDir,
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
    pub(crate) retry_after: Option<Duration>,
    /// All of it, for comparison to the byte.
    pub(crate) bytes: Vec<u8>,
}

impl From<Status> for No {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let field = details.bad_request().and_then(|bad| bad.field_violations.first());
        Self {
            code: status.code(),
            reason: details
                .error_info()
                .map(|info| info.reason.clone())
                .unwrap_or_default(),
            field: field.map(|violation| violation.field.clone()).unwrap_or_default(),
            message: status.message().to_owned(),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
            bytes: status.details().to_vec(),
        }
    }
}

/// Who calls, and as what.
#[derive(Clone)]
pub(crate) struct Caller<'w> {
    world: &'w World,
    pub(crate) context: Context,
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

fn settings(flags: Vec<String>) -> Settings {
    Bare::parse_from(flags).settings
}

async fn bind(name: &str, settings: &Settings) -> Runtime {
    let runtime = Runtime::bind(name, settings, proto::DESCRIPTOR_SET)
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

/// How a world differs from the usual one.
#[derive(Default)]
struct Way {
    without_auth: bool,
    bounced: bool,
    apart: bool,
    prepared: u32,
    own: Vec<String>,
}

/// The service as a process of its own: this test program, that runs one test only.
#[derive(Default)]
struct Apart {
    words: String,
    child: Mutex<Option<Child>>,
}

const SERVE: &str = "TENANT_TEST_SERVE";

impl Apart {
    fn new(settings: Vec<String>, own: Vec<String>) -> Self {
        Self {
            words: [settings.join("\n"), own.join("\n")].join("\n\n"),
            child: Mutex::default(),
        }
    }

    fn start(&self) {
        let child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "world::service_that_is_killed"])
            .env(SERVE, &self.words)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        *self.child.lock().unwrap() = Some(child);
    }

    fn kill(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Does nothing unless a world runs it in a process of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn service_that_is_killed() {
    let Ok(words) = env::var(SERVE) else { return };
    // As `chassis::run` does.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (own_settings, own) = words.split_once("\n\n").unwrap();
    let runtime = bind(
        "tenant",
        &settings(own_settings.lines().map(str::to_owned).collect()),
    )
    .await;
    let config = Own::parse_from(own.lines()).config;
    tenant::start(config, runtime).await.unwrap();
}

/// Serves `vault`, and tells where.
async fn start_vault(vault: &Vault, authority: &Authority, stops: &mut Vec<CancellationToken>) -> String {
    let runtime = bind("vault", &settings(flags(authority, "vault", &[]))).await;
    let peer = format!("--peer=vault=https://localhost:{}", runtime.address().port());
    stops.push(runtime.stopping());
    let routes = tonic::service::Routes::new(key_service_server::KeyServiceServer::new(vault.clone()))
        .add_service(proto::vault::v1::secret_service_server::SecretServiceServer::new(
            vault.clone(),
        ));
    tokio::spawn(async move { runtime.serve(routes).await.unwrap() });
    peer
}

impl World {
    /// A mesh of its own with an empty directory.
    pub(crate) async fn new() -> Self {
        Self::with(Way::default()).await
    }

    /// As [`World::new`], but the service makes so many schemas ahead.
    pub(crate) async fn prepared(prepared: u32) -> Self {
        Self::with(Way {
            prepared,
            ..Way::default()
        })
        .await
    }

    /// As [`World::new`], but the service is a process of its own, that [`World::start_apart`] starts.
    pub(crate) async fn apart() -> Self {
        Self::with(Way {
            apart: true,
            ..Way::default()
        })
        .await
    }

    /// As [`World::new`], but the service has these flags too.
    pub(crate) async fn with_flags(own: Vec<String>) -> Self {
        Self::with(Way {
            own,
            ..Way::default()
        })
        .await
    }

    /// As [`World::apart`], but the service has these flags too.
    pub(crate) async fn apart_with_flags(own: Vec<String>) -> Self {
        Self::with(Way {
            apart: true,
            own,
            ..Way::default()
        })
        .await
    }

    /// As [`World::new`], but nothing listens where auth should be.
    pub(crate) async fn without_auth() -> Self {
        Self::with(Way {
            without_auth: true,
            ..Way::default()
        })
        .await
    }

    /// As [`World::new`], but the service reaches its database through a pgbouncer that has two connections to it.
    pub(crate) async fn behind_pgbouncer() -> Self {
        Self::with(Way {
            bounced: true,
            ..Way::default()
        })
        .await
    }

    async fn with(way: Way) -> Self {
        let bounced = way.bounced;
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path());
        let postgres = Postgres::shared();
        let db = postgres.database(&pg::migrate::fingerprint(&SETS), migrate);
        let mails = Mails::default();
        let mut stops = Vec::new();

        let auth = bind("auth", &settings(flags(&authority, "auth", &[]))).await;
        let mut auth_port = auth.address().port();
        if !way.without_auth {
            stops.push(auth.stopping());
            let routes =
                tonic::service::Routes::new(mail_service_server::MailServiceServer::new(mails.clone()))
                    .add_service(guard_service_server::GuardServiceServer::new(mails.clone()));
            tokio::spawn(async move { auth.serve(routes).await.unwrap() });
        } else {
            drop(auth);
            auth_port = testkit::free_port();
        }

        let bouncer = bounced.then(|| Pgbouncer::start(&db, &["trailmesh_tenant"], 2));
        let database = bouncer.as_ref().map_or_else(
            || db.url("trailmesh_tenant"),
            |bouncer| bouncer.url("trailmesh_tenant"),
        );
        let mut own = vec![
            "tenant".to_owned(),
            format!("--database-url={database}"),
            "--database-max-connections=8".to_owned(),
            "--tenant-mail-pause=50ms".to_owned(),
            "--tenant-sweep-pause=50ms".to_owned(),
            "--tenant-audit-pause=50ms".to_owned(),
            "--tenant-head-pause=100ms".to_owned(),
            "--tenant-life-pause=50ms".to_owned(),
            format!("--tenant-prepared={}", way.prepared),
        ];
        own.extend(way.own);
        let own_flags = own.clone();
        let peer = format!("--peer=auth=https://localhost:{auth_port}");
        // Only for a developer is a connection without TLS allowed, as that to this pgbouncer is.
        let dev = format!("--dev={bounced}");
        let vault = Vault::default();
        vault.in_database(&db.sql("SELECT current_database()"));
        let vault_peer = start_vault(&vault, &authority, &mut stops).await;
        let mut flags_of_tenant = flags(&authority, "tenant", &[peer, vault_peer, dev]);
        let port = if way.apart {
            let port = testkit::free_port();
            flags_of_tenant[1] = format!("--listen=127.0.0.1:{port}");
            port
        } else {
            let tenant = bind("tenant", &settings(flags_of_tenant.clone())).await;
            stops.push(tenant.stopping());
            let port = tenant.address().port();
            let config = Own::parse_from(own.clone()).config;
            tokio::spawn(async move { tenant::start(config, tenant).await.unwrap() });
            port
        };
        let apart = Apart::new(flags_of_tenant, own);
        let peer = format!("--peer=tenant=https://localhost:{port}");

        let gateway = bind("gateway", &settings(flags(&authority, "gateway", &[peer]))).await;
        let tenant = gateway.peer("tenant").unwrap();
        let mut own = pg::Settings::new(&db.url("trailmesh_auth")).unwrap();
        own.database_ca_file = Some(postgres.ca.clone());
        Self {
            mails,
            gateway,
            tenant,
            stops,
            as_auth: pg::Pool::open(&own, "auth", false).await.unwrap(),
            _bouncer: bouncer,
            vault,
            apart,
            own_flags,
            db,
            authority,
            port,
            _folder: folder,
        }
    }

    /// What the service is configured with.
    pub(crate) fn config(&self) -> tenant::Config {
        Own::parse_from(self.own_flags.clone()).config
    }

    /// Starts the service as a process of its own, besides the one in this process if there is one, and waits until the service answers: it
    /// listens before it has opened its database, and a call that comes in between is given up.
    pub(crate) async fn start_apart(&self) {
        self.apart.start();
        let deadline = Instant::now() + Duration::from_secs(60);
        while let Err(no) = self.stranger().call(pb::ListTenantsRequest::default()).await {
            assert!(
                no.code == Code::Unavailable && Instant::now() < deadline,
                "{no:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Kills that process, which has no time for anything.
    pub(crate) fn kill_apart(&self) {
        self.apart.kill();
    }

    /// The way of these tests' gateway to the service.
    pub(crate) fn door(&self) -> Peer {
        self.tenant.clone()
    }

    /// The way of another service to this one. It holds while its runtime is kept.
    pub(crate) async fn peer_of(&self, service: &str) -> (Runtime, Peer) {
        let peer = format!("--peer=tenant=https://localhost:{}", self.port);
        let runtime = bind(service, &settings(flags(&self.authority, service, &[peer]))).await;
        let peer = runtime.peer("tenant").unwrap();
        (runtime, peer)
    }

    /// The database as service auth has it.
    pub(crate) fn as_auth(&self) -> &pg::Pool {
        &self.as_auth
    }

    /// How the service reaches the database.
    pub(crate) fn settings(&self) -> pg::Settings {
        let mut own = pg::Settings::new(&self.db.url("trailmesh_tenant")).unwrap();
        own.database_ca_file = Some(Postgres::shared().ca.clone());
        own
    }

    /// The database as the service has it.
    pub(crate) async fn pool(&self) -> pg::Pool {
        pg::Pool::open(&self.settings(), "tenant", false).await.unwrap()
    }

    /// Somebody who has no account.
    fn stranger(&self) -> Caller<'_> {
        Caller {
            world: self,
            context: Context {
                subject: Subject::Person {
                    user: UserId::fresh(),
                    session: SessionId::fresh(),
                },
                seat: None,
                mfa_enabled: true,
            },
        }
    }

    /// A person with a verified address, who is in no tenant.
    pub(crate) fn person(&self, email: &str) -> Caller<'_> {
        let person = self.stranger();
        let user = person.user();
        let name = email.split('@').next().unwrap_or_default();
        self.db.sql(&format!(
            "INSERT INTO auth.account (id, email, email_key, display_name, password, verified_at)
             VALUES ('{user}', '{email}', lower('{email}'), '{name}', '', now())"
        ));
        person
    }

    /// An owner of a new tenant, with room for everything.
    pub(crate) async fn owner(&self, email: &str) -> Caller<'_> {
        self.owner_on(email, Plan::Enterprise).await
    }

    /// An owner of a new tenant with this plan.
    pub(crate) async fn owner_on(&self, email: &str, plan: Plan) -> Caller<'_> {
        let person = self.person(email);
        let tenant = person.call(new_tenant("Acme")).await.unwrap().tenant.unwrap();
        let (id, plan) = (&tenant.id, plan.word());
        self.db.sql(&format!(
            "UPDATE tenant.tenant SET plan = '{plan}', agreed_plan = '{plan}' WHERE id = '{id}'"
        ));
        person.in_tenant(id).await
    }

    /// A new member of the caller's tenant, put there by hand.
    pub(crate) async fn member(
        &self,
        of: &Caller<'_>,
        role: Option<Role>,
        pools: &[(&str, Role)],
    ) -> Caller<'_> {
        let tenant = of.tenant();
        let mut person = self.person(&format!("{}@example.com", UserId::fresh()));
        let user = person.user();
        let word = role.map_or_else(|| "NULL".to_owned(), |role| format!("'{}'", role.word()));
        self.db.sql(&format!(
            "INSERT INTO tenant.member (tenant_id, user_id, role) VALUES ('{tenant}', '{user}', {word})"
        ));
        for (pool, role) in pools {
            let role = role.word();
            self.db.sql(&format!(
                "INSERT INTO tenant.binding VALUES ('{tenant}', '{user}', '{pool}', '{role}')"
            ));
        }
        person = person.in_tenant(&tenant.to_string()).await;
        person
    }

    /// What auth sees of a person in a tenant: its view, read as its role.
    pub(crate) async fn seat(&self, user: UserId, tenant: &str) -> Option<Seat> {
        type Row = (Option<String>, Json<BTreeMap<String, String>>, String, String);
        let mut tx = self
            .as_auth
            .shared(Instant::now() + Duration::from_secs(10))
            .await
            .unwrap();
        let row: Option<Row> = sqlx::query_as(
            "SELECT role, pools, plan, region FROM tenant.seat WHERE user_id = $1 AND tenant_id = $2",
        )
        .bind(user.to_string())
        .bind(tenant)
        .fetch_optional(&mut *tx)
        .await
        .unwrap();
        let (role, pools, plan, region) = row?;
        let pools = pools
            .0
            .into_iter()
            .map(|(pool, role)| (pool.parse().unwrap(), role.parse().unwrap()));
        Some(Seat {
            tenant: tenant.parse().unwrap(),
            region: region.parse().unwrap(),
            plan: plan.parse().unwrap(),
            role: role.map(|role| role.parse().unwrap()),
            pools: pools.collect(),
            scopes: None,
        })
    }

    /// The pools of a tenant as auth sees them.
    pub(crate) async fn pools_seen_by_auth(&self, tenant: &str) -> Vec<String> {
        let mut tx = self
            .as_auth
            .shared(Instant::now() + Duration::from_secs(10))
            .await
            .unwrap();
        let pools = sqlx::query_scalar("SELECT pool_id FROM tenant.pool_of WHERE tenant_id = $1");
        pools.bind(tenant).fetch_all(&mut *tx).await.unwrap()
    }

    fn step_up(&self, path: &str) -> bool {
        let table = self.gateway.policy();
        table.rule(path).unwrap().step_up == chassis::policy::StepUp::Totp
    }
}

impl<'w> Caller<'w> {
    pub(crate) fn user(&self) -> UserId {
        self.context.subject.user()
    }

    pub(crate) fn tenant(&self) -> TenantId {
        self.context.seat.as_ref().unwrap().tenant
    }

    /// The same person with the seat that auth sees now.
    pub(crate) async fn in_tenant(&self, tenant: &str) -> Self {
        let mut caller = self.clone();
        let seat = self.world.seat(self.user(), tenant).await;
        caller.context.seat = Some(seat.expect("a seat"));
        caller
    }

    /// An API key of this member with these scopes.
    pub(crate) fn key(&self, scopes: &[&str]) -> Self {
        let mut caller = self.clone();
        caller.context.subject = Subject::Key {
            key: KeyId::fresh(),
            owner: self.user(),
        };
        let seat = caller.context.seat.as_mut().unwrap();
        seat.scopes = Some(scopes.iter().map(|scope| (*scope).to_owned()).collect());
        caller
    }

    /// The metadata of a call: who calls and, where the method takes it, the proof of the second factor for exactly this message.
    pub(crate) fn request<Q: Rpc>(&self, message: Q) -> Request<Q> {
        let bytes = message.encode_to_vec();
        let now = chassis::token::now();
        let mut request = Request::new(message);
        let token = signer().context(&self.context, Region::Eu, now).unwrap();
        request
            .metadata_mut()
            .insert("authorization", format!("Bearer {token}").parse().unwrap());
        if self.world.step_up(Q::PATH) {
            let sha256 = ring::digest::digest(&ring::digest::SHA256, &bytes);
            let sha256 = sha256.as_ref().try_into().unwrap();
            let grant = signer()
                .grant(&self.context, Region::Eu, Q::PATH, &sha256, now)
                .unwrap();
            request
                .metadata_mut()
                .insert("trailmesh-grant", grant.parse().unwrap());
        }
        request
    }

    /// Sends a request as it is.
    pub(crate) async fn send<Q: Rpc>(&self, request: Request<Q>) -> Result<Q::Answer, No> {
        let mut client = Grpc::new(self.world.tenant.clone());
        client.ready().await.unwrap();
        let codec: tonic_prost::ProstCodec<Q, Q::Answer> = tonic_prost::ProstCodec::default();
        let answer = client
            .unary(request, PathAndQuery::from_static(Q::PATH), codec)
            .await;
        Ok(answer.map_err(No::from)?.into_inner())
    }

    /// Calls the service.
    pub(crate) async fn call<Q: Rpc>(&self, message: Q) -> Result<Q::Answer, No> {
        self.send(self.request(message)).await
    }

    /// Calls the service and is refused.
    pub(crate) async fn refused<Q: Rpc>(&self, message: Q) -> No {
        let path = Q::PATH;
        match self.call(message).await {
            Err(no) => no,
            Ok(answer) => panic!("{path} was not refused: {answer:?}"),
        }
    }

    /// A new pool of the tenant.
    pub(crate) async fn pool(&self, name: &str) -> String {
        let name = name.to_owned();
        self.call(pb::CreateAgentPoolRequest { name })
            .await
            .unwrap()
            .pool
            .unwrap()
            .id
    }

    /// A new server of the tenant, in this pool.
    pub(crate) async fn server(&self, name: &str, pool_id: &str) -> pb::Server {
        let server = Some(pb::Server {
            pool_id: pool_id.to_owned(),
            ..new_server(name)
        });
        self.call(pb::RegisterServerRequest {
            server,
            ..Default::default()
        })
        .await
        .unwrap()
        .server
        .unwrap()
    }

    /// A new agent of the tenant, in this pool.
    pub(crate) async fn agent(&self, name: &str, pool_id: &str) -> pb::CreateAgentResponse {
        let (name, pool_id) = (name.to_owned(), pool_id.to_owned());
        self.call(pb::CreateAgentRequest { name, pool_id }).await.unwrap()
    }

    /// A new rule of the tenant, that denies this table to analysts.
    pub(crate) async fn deny(&self, server_id: &str, schema: &str, table: &str) -> pb::AccessRule {
        let rule = Some(pb::AccessRule {
            role: PbRole::Analyst.into(),
            server_id: server_id.to_owned(),
            schema_name: schema.to_owned(),
            table_name: table.to_owned(),
            effect: pb::Effect::Deny.into(),
            ..pb::AccessRule::default()
        });
        self.call(pb::CreateAccessRuleRequest { rule })
            .await
            .unwrap()
            .rule
            .unwrap()
    }

    /// Invites an address.
    pub(crate) async fn invite(
        &self,
        email: &str,
        role: PbRole,
        pool_id: &str,
    ) -> Result<pb::Invitation, No> {
        let request = pb::InviteMemberRequest {
            email: email.to_owned(),
            role: role.into(),
            pool_id: pool_id.to_owned(),
        };
        Ok(self.call(request).await?.invitation.unwrap())
    }
}
