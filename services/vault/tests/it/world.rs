//! A database with all services' tables, any number of vaults on it, and who calls them: service tenant, and a gateway for people.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use chassis::{Peer, Runtime, Settings, token::Signer};
use clap::Parser;
use http::uri::PathAndQuery;
use pg::migrate::Set;
use prost::Message;
use proto::vault::v1 as pb;
use testkit::{Authority, Database, Postgres};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status, client::Grpc};
use tonic_types::StatusExt as _;
use types::{Context, Plan, Region, Role, Seat, SessionId, Subject, TenantId, UserId};

/// All that is in a cell's database.
pub(crate) const SETS: [Set; 3] = [auth::MIGRATIONS, tenant::MIGRATIONS, vault::MIGRATIONS];

/// The root key of most tests.
pub(crate) const ROOT: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

const SEED: [u8; 32] = [7; 32];

#[derive(clap::Parser)]
struct Own {
    #[command(flatten)]
    config: vault::Config,
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
    authority: Authority,
    stops: std::sync::Mutex<Vec<CancellationToken>>,
    pub(crate) folder: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        for stop in self.stops.lock().unwrap().drain(..) {
            stop.cancel();
        }
    }
}

/// A vault, and who calls it.
pub(crate) struct Vault {
    tenant: Peer,
    gateway: Peer,
    query: Peer,
    callers: [Runtime; 3],
    pub(crate) admin: SocketAddr,
    pub(crate) stop: CancellationToken,
}

/// What the service said no with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct No {
    pub(crate) code: Code,
    pub(crate) reason: String,
    pub(crate) field: String,
    pub(crate) message: String,
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
        }
    }
}

/// A request and where it goes.
pub(crate) trait Rpc: Message + Clone + Default + 'static {
    const PATH: &'static str;
    type Answer: Message + Default + std::fmt::Debug + 'static;
}

macro_rules! rpcs {
    ($($path:literal: $request:ident -> $answer:ident;)*) => {
        $(impl Rpc for pb::$request {
            const PATH: &'static str = concat!("/trailmesh.vault.v1.", $path);
            type Answer = pb::$answer;
        })*
    };
}

rpcs! {
    "SecretService/SealSecret": SealSecretRequest -> SealSecretResponse;
    "SecretService/OpenUploadKey": OpenUploadKeyRequest -> OpenUploadKeyResponse;
    "SecretService/OpenSinkSecret": OpenSinkSecretRequest -> OpenSinkSecretResponse;
    "KeyService/SignAuditHead": SignAuditHeadRequest -> SignAuditHeadResponse;
    "KeyService/GetAuditHead": GetAuditHeadRequest -> GetAuditHeadResponse;
    "KeyService/DestroyTenantKeys": DestroyTenantKeysRequest -> DestroyTenantKeysResponse;
    "KeyService/GetSigningKeys": GetSigningKeysRequest -> GetSigningKeysResponse;
    "KeyService/GetEncryption": GetEncryptionRequest -> GetEncryptionResponse;
    "KeyService/RotateKey": RotateKeyRequest -> RotateKeyResponse;
    "KeyService/RevokeKeyVersion": RevokeKeyVersionRequest -> RevokeKeyVersionResponse;
}

/// A person in a tenant.
#[derive(Clone)]
pub(crate) struct Person {
    pub(crate) context: Context,
}

async fn send<Q: Rpc>(peer: &Peer, request: Request<Q>) -> Result<Q::Answer, No> {
    let mut grpc = Grpc::new(peer.clone());
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<Q, Q::Answer>::default();
    let call = grpc.unary(request, PathAndQuery::from_static(Q::PATH), codec);
    let deadline = Instant::now() + Duration::from_secs(60);
    let answer = chassis::deadline::within(deadline, call).await;
    answer.map(tonic::Response::into_inner).map_err(No::from)
}

impl Vault {
    /// What service tenant is answered.
    pub(crate) async fn ask<Q: Rpc>(&self, message: Q) -> Result<Q::Answer, No> {
        send(&self.tenant, Request::new(message)).await
    }

    /// What service query is answered.
    pub(crate) async fn ask_as_query<Q: Rpc>(&self, message: Q) -> Result<Q::Answer, No> {
        send(&self.query, Request::new(message)).await
    }

    /// What anyone is answered through a gateway.
    pub(crate) async fn ask_as_anyone<Q: Rpc>(&self, message: Q) -> Result<Q::Answer, No> {
        send(&self.gateway, Request::new(message)).await
    }

    /// What a person is answered through a gateway, with a fresh proof of the second factor where the method takes one.
    pub(crate) async fn ask_as<Q: Rpc>(&self, person: &Person, message: Q) -> Result<Q::Answer, No> {
        send(&self.gateway, self.request(person, message)).await
    }

    pub(crate) async fn send_as<Q: Rpc>(&self, request: Request<Q>) -> Result<Q::Answer, No> {
        send(&self.gateway, request).await
    }

    pub(crate) fn request<Q: Rpc>(&self, person: &Person, message: Q) -> Request<Q> {
        let now = chassis::token::now();
        let signer = signer();
        let token = signer.context(&person.context, Region::Eu, now).unwrap();
        let bytes = message.encode_to_vec();
        let mut request = Request::new(message);
        let bearer = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
        let rule = self.callers[1].policy().rule(Q::PATH).unwrap().step_up;
        if rule == chassis::policy::StepUp::Totp {
            let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
            let digest = digest.as_ref().try_into().unwrap();
            let grant = signer.grant(&person.context, Region::Eu, Q::PATH, digest, now);
            let grant = grant.unwrap().parse().unwrap();
            request.metadata_mut().insert("trailmesh-grant", grant);
        }
        request
    }

    /// Seals a value with Fernet.
    pub(crate) async fn seal(&self, place: &pb::SecretPlace, value: &str) -> pb::SealSecretResponse {
        let request = pb::SealSecretRequest {
            place: Some(place.clone()),
            value: value.as_bytes().to_vec().into(),
            form: pb::SecretForm::Fernet.into(),
        };
        self.ask(request).await.unwrap()
    }

    /// Opens a sink's secret.
    pub(crate) async fn open(&self, place: &pb::SecretPlace, envelope: &str) -> Result<String, No> {
        let request = pb::OpenSinkSecretRequest {
            place: Some(place.clone()),
            envelope: envelope.to_owned(),
        };
        let answer = self.ask(request).await?;
        Ok(String::from_utf8(answer.value.to_vec()).unwrap())
    }

    /// What its metrics say now.
    pub(crate) async fn metrics(&self) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut socket = tokio::net::TcpStream::connect(self.admin).await.unwrap();
        let asked = b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        socket.write_all(asked).await.unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).await.unwrap();
        text
    }
}

async fn migrate(admin_url: String) {
    let options = pg::migrate::Options {
        ca_file: Some(Postgres::shared().ca.clone()),
        ..pg::migrate::Options::default()
    };
    pg::migrate::run(&admin_url, &SETS, &options).await.unwrap();
}

/// Reads a vault's configuration from flags.
pub(crate) fn config(flags: Vec<String>) -> vault::Config {
    Own::parse_from([vec!["vault".to_owned()], flags].concat()).config
}

impl World {
    /// An empty cell.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path());
        let postgres = Postgres::shared();
        Self {
            db: postgres.database(&pg::migrate::fingerprint(&SETS), migrate),
            authority,
            stops: std::sync::Mutex::default(),
            folder,
        }
    }

    /// The flags of a service of the mesh.
    pub(crate) fn mesh_flags(&self, name: &str, more: &[String]) -> Vec<String> {
        let identity = self.authority.issue(name);
        let mut flags = vec![
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

    pub(crate) fn settings(&self, name: &str, more: &[String]) -> Settings {
        let flags = self.mesh_flags(name, more);
        Bare::parse_from([vec![name.to_owned()], flags].concat()).settings
    }

    async fn bind(&self, name: &str, settings: &Settings) -> Runtime {
        let runtime = Runtime::bind(name, settings, proto::DESCRIPTOR_SET)
            .await
            .unwrap();
        runtime.publish_keys(vec![signer().verifying_key()]);
        runtime
    }

    /// The flags of a vault with the usual root, that rotates at once and retires old keys quickly; `more` comes after them.
    pub(crate) fn flags(&self, more: &[&str]) -> Vec<String> {
        let ca: PathBuf = Postgres::shared().ca.clone();
        let name = |flag: &str| flag.split('=').next().unwrap_or_default().to_owned();
        let given: Vec<String> = more.iter().map(|flag| name(flag)).collect();
        let mut flags = vec![
            format!("--database-url={}", self.db.url("trailmesh_vault")),
            format!("--database-ca-file={}", ca.display()),
            "--database-max-connections=8".to_owned(),
            "--rotation-pause=50ms".to_owned(),
        ];
        if !given.contains(&"--kms-key-id".to_owned()) {
            flags.push(format!("--root-key={ROOT}"));
        }
        flags.retain(|flag| !given.contains(&name(flag)));
        flags.extend(more.iter().map(|flag| (*flag).to_owned()));
        flags
    }

    /// A vault with these flags; unsealed if it has a root.
    pub(crate) async fn vault(&self, more: &[&str]) -> Vault {
        let vault = self.vault_in(more, &[]).await;
        let place = place(TenantId::fresh(), 1);
        eventually("the vault to be unsealed", async || {
            // Of a tenant that has no keys: sealed is told first.
            let no = vault.open(&place, "btv2:1:AAAA").await.unwrap_err();
            (no.reason == "SECRET_UNREADABLE").then_some(())
        })
        .await;
        vault
    }

    /// As [`Self::vault`], sealed or not, with settings of the mesh.
    pub(crate) async fn vault_in(&self, more: &[&str], mesh: &[&str]) -> Vault {
        let mesh: Vec<String> = mesh.iter().map(|flag| (*flag).to_owned()).collect();
        let config = config(self.flags(more));
        let runtime = self.bind("vault", &self.settings("vault", &mesh)).await;
        let (address, admin, stop) = (runtime.address(), runtime.admin_address(), runtime.stopping());
        self.stops.lock().unwrap().push(stop.clone());
        tokio::spawn(async move { vault::start(config, runtime).await.unwrap() });
        self.callers(address, admin, stop).await
    }

    /// Who calls the vault at this address.
    pub(crate) async fn callers(
        &self,
        address: SocketAddr,
        admin: SocketAddr,
        stop: CancellationToken,
    ) -> Vault {
        let peer = format!("--peer=vault=https://localhost:{}", address.port());
        let peer = [peer];
        let tenant = self.bind("tenant", &self.settings("tenant", &peer)).await;
        let gateway = self.bind("gateway", &self.settings("gateway", &peer)).await;
        let query = self.bind("query", &self.settings("query", &peer)).await;
        Vault {
            tenant: tenant.peer("vault").unwrap(),
            gateway: gateway.peer("vault").unwrap(),
            query: query.peer("vault").unwrap(),
            callers: [tenant, gateway, query],
            admin,
            stop,
        }
    }

    /// An operator's hand on the vault.
    pub(crate) async fn operator(&self) -> vault::operator::Operator {
        let settings = self.settings("vault", &[]);
        vault::operator::Operator::open(&config(self.flags(&[])), &settings)
            .await
            .unwrap()
    }

    /// A new tenant, and its owner.
    pub(crate) async fn tenant(&self) -> Person {
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
        Person {
            context: Context {
                subject: Subject::Person {
                    user,
                    session: SessionId::fresh(),
                },
                seat: Some(Seat {
                    tenant,
                    region: Region::Eu,
                    plan: Plan::Enterprise,
                    role: Some(Role::Owner),
                    pools: BTreeMap::new(),
                    scopes: None,
                }),
                mfa_enabled: true,
            },
        }
    }

    /// Puts an envelope into the tenant's table of sinks, as service tenant does.
    pub(crate) fn keep(&self, place: &pb::SecretPlace, sealed: &pb::SealSecretResponse) {
        self.keep_all(&[(place.clone(), sealed.clone())]);
    }

    /// As [`Self::keep`], many at once.
    pub(crate) fn keep_all(&self, rows: &[(pb::SecretPlace, pb::SealSecretResponse)]) {
        let schema = schema(&rows[0].0.tenant_id);
        let values: Vec<String> = rows
            .iter()
            .map(|(place, sealed)| {
                let (id, version) = (&place.record_id, place.version);
                let (envelope, key) = (&sealed.envelope, sealed.key_version);
                format!("('{id}', '{id}', 'webhook', 'https://x', 'ecs', '{envelope}', {version}, {key})")
            })
            .collect();
        for some in values.chunks(200) {
            self.db.sql(&format!(
                "INSERT INTO {schema}.audit_sink
                 (id, name, kind, url, format, secret_envelope, secret_version, secret_key_version) VALUES {}",
                some.join(",")
            ));
        }
    }

    /// The envelope that is kept now.
    pub(crate) fn kept(&self, place: &pb::SecretPlace) -> String {
        let schema = schema(&place.tenant_id);
        self.db.sql(&format!(
            "SELECT secret_envelope FROM {schema}.audit_sink WHERE id = '{}'",
            place.record_id
        ))
    }

    /// The envelopes that are kept now, of many places of one tenant after the other.
    pub(crate) fn kept_of(&self, places: Vec<pb::SecretPlace>) -> Vec<(pb::SecretPlace, String)> {
        let mut tenants: Vec<_> = places.iter().map(|place| place.tenant_id.clone()).collect();
        tenants.sort();
        tenants.dedup();
        let parts: Vec<_> = tenants
            .iter()
            .map(|tenant| {
                let schema = schema(tenant);
                let ids = places.iter().filter(|place| place.tenant_id == *tenant);
                let ids: Vec<_> = ids.map(|place| format!("'{}'", place.record_id)).collect();
                format!(
                    "SELECT '{tenant}', id, secret_envelope FROM {schema}.audit_sink WHERE id IN ({})",
                    ids.join(",")
                )
            })
            .collect();
        let rows = self.db.sql(&parts.join(" UNION ALL "));
        let rows: Vec<Vec<&str>> = rows.lines().map(|line| line.split('|').collect()).collect();
        places
            .into_iter()
            .map(|place| {
                let row = rows
                    .iter()
                    .find(|row| row[0] == place.tenant_id && row[1] == place.record_id);
                let envelope = row.unwrap()[2].to_owned();
                (place, envelope)
            })
            .collect()
    }

    /// How many values of a tenant are under which version: `1|5`, a line each.
    pub(crate) fn under(&self, tenant: TenantId) -> String {
        let schema = schema(&tenant.to_string());
        self.db.sql(&format!(
            "SELECT secret_key_version, count(*) FROM {schema}.audit_sink GROUP BY 1 ORDER BY 1"
        ))
    }

    /// The states of a tenant's versions: `1|retired`, a line each.
    pub(crate) fn states(&self, tenant: TenantId) -> String {
        self.db.sql(&format!(
            "SELECT version, state FROM vault.data_key WHERE tenant_id = '{tenant}' ORDER BY version"
        ))
    }
}

impl Person {
    pub(crate) fn tenant(&self) -> TenantId {
        self.context.seat.as_ref().unwrap().tenant
    }

    /// Where a secret of sink number `number` of the person's tenant belongs.
    pub(crate) fn sink(&self, number: u64) -> pb::SecretPlace {
        place(self.tenant(), number)
    }
}

pub(crate) fn place(tenant: TenantId, number: u64) -> pb::SecretPlace {
    pb::SecretPlace {
        tenant_id: tenant.to_string(),
        kind: pb::SecretKind::SinkSecret.into(),
        record_id: format!("asn_{number:026}"),
        field: "secret".to_owned(),
        version: 1,
    }
}

/// The schema of a tenant.
pub(crate) fn schema(tenant: &str) -> String {
    tenant.replace("tnt_", "t_")
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
