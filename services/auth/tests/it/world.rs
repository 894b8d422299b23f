//! A database of its own, service auth on ports of its own, and callers with the certificates of the gateway and of service tenant.

use std::{
    collections::{HashMap, HashSet},
    fs,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use chassis::{Peer, PeerAddress, Runtime, Settings};
use clap::Parser;
use pg::migrate;
use prost::Message;
use proto::auth::v1::{
    self as pb, account_service_client::AccountServiceClient, guard_service_client::GuardServiceClient,
    mail_service_client::MailServiceClient, session_service_client::SessionServiceClient,
};
use tempfile::TempDir;
use testkit::{Authority, Database, Identity, Postgres, Redis};
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

const SETS: [migrate::Set; 2] = [auth::MIGRATIONS, tenant::MIGRATIONS];

/// 32 bytes in base64.
pub(crate) const SEAL_KEY: &str = "c2VhbCBrZXkgb2YgdGVzdHMsIDMyIGJ5dGVzIGxvbmc=";

/// A password that the rules take.
pub(crate) const PASSWORD: &str = "correct horse battery staple";

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    config: auth::Config,
}

/// How service auth is started.
pub(crate) struct Setup {
    /// Flags in addition to those that every test gives; the last of two counts.
    pub(crate) flags: Vec<String>,
    pub(crate) redis: String,
    pub(crate) dev: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            flags: Vec::new(),
            redis: Redis::shared().url.clone(),
            dev: true,
        }
    }
}

/// Of each service, its certificate and key.
type Identities = HashMap<&'static str, Identity>;

/// The service and those who call it.
pub(crate) struct World {
    pub(crate) database: Database<'static>,
    pub(crate) folder: TempDir,
    identities: Identities,
    pub(crate) prefix: String,
    pub(crate) setup: Setup,
    pub(crate) auth: Replica,
}

/// One running instance, as its callers reach it.
pub(crate) struct Replica {
    pub(crate) gateway: Peer,
    pub(crate) tenant: Peer,
    pub(crate) query: Peer,
    serving: tokio::task::JoinHandle<Result<(), chassis::Error>>,
    stopping: tokio_util::sync::CancellationToken,
    callers: Vec<Runtime>,
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.serving.abort();
        for caller in &self.callers {
            caller.stop();
        }
    }
}

/// Somebody with a verified account.
#[derive(Clone, Debug)]
pub(crate) struct Person {
    pub(crate) email: String,
    pub(crate) password: String,
}

impl Person {
    pub(crate) fn log_in(&self) -> pb::LogInRequest {
        pb::LogInRequest {
            email: self.email.clone(),
            password: self.password.clone(),
            ..pb::LogInRequest::default()
        }
    }
}

/// An address that no other test has.
pub(crate) fn fresh_email() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("person-{}@example.com", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A request as the gateway sends it, from one and the same address.
pub(crate) fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("trailmesh-client-address", "192.0.2.1".parse().unwrap());
    metadata.insert("trailmesh-user-agent", "tests/1".parse().unwrap());
    request
}

/// The same with metadata replaced or added.
pub(crate) fn request_with<T>(message: T, metadata: &[(&'static str, &str)]) -> Request<T> {
    let mut request = request(message);
    for (name, value) in metadata {
        request.metadata_mut().insert(*name, value.parse().unwrap());
    }
    request
}

/// The stable reason of an answer.
pub(crate) fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    details
        .error_info()
        .map(|info| info.reason.clone())
        .unwrap_or_default()
}

/// Waits in a way that lets the other tasks of the test go on.
pub(crate) fn eventually<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    tokio::task::block_in_place(|| testkit::eventually(what, probe))
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(Setup::default()).await
    }

    pub(crate) async fn with(setup: Setup) -> Self {
        // As `chassis::run` does for a process.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let options = || migrate::Options {
            dev: true,
            ..migrate::Options::default()
        };
        let database = Postgres::shared().database(&migrate::fingerprint(&SETS), |url| async move {
            migrate::run(&url, &SETS, &options()).await.unwrap();
        });
        let folder = TempDir::new().unwrap();
        let authority = Authority::new(&folder.path().join("identities"));
        let identities = ["auth", "gateway", "tenant", "query"].map(|name| (name, authority.issue(name)));
        let identities = Identities::from(identities);
        let prefix = Redis::prefix();
        let auth = replica(&database, &folder, &identities, &prefix, &setup).await;
        Self {
            database,
            folder,
            identities,
            prefix,
            setup,
            auth,
        }
    }

    /// One more instance on the same database and Redis.
    pub(crate) async fn replica(&self) -> Replica {
        replica(
            &self.database,
            &self.folder,
            &self.identities,
            &self.prefix,
            &self.setup,
        )
        .await
    }

    /// What its instances are told.
    pub(crate) fn config(&self) -> auth::Config {
        config(&self.database, &self.folder, &self.prefix, &self.setup)
    }

    /// Ends the instance and starts another one.
    pub(crate) async fn restart(&mut self) {
        self.auth = self.replica().await;
    }

    /// What was sent to an address, oldest first.
    pub(crate) fn mails(&self, email: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.folder.path().join("mails")) else {
            return Vec::new();
        };
        let read = |entry: fs::DirEntry| {
            let text = fs::read_to_string(entry.path()).ok()?;
            Some((
                entry.metadata().ok()?.modified().ok()?,
                text.replace("=\r\n", "").replace("=3D", "="),
            ))
        };
        let mut mails: Vec<_> = entries
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|e| e == "eml"))
            .filter_map(read)
            .collect();
        mails.sort();
        let to = format!("To: {email}\r\n");
        mails
            .into_iter()
            .map(|(_, text)| text)
            .filter(|text| text.contains(&to))
            .collect()
    }

    /// Waits for mails to an address with this subject, and gives the latest.
    pub(crate) fn mail(&self, email: &str, subject: &str, number: usize) -> String {
        let subject = format!("Subject: {subject}\r\n");
        eventually(&subject, || {
            // A file that is still being written has no end yet.
            let mails = self
                .mails(email)
                .into_iter()
                .filter(|text| text.contains(&subject) && text.ends_with('\n'));
            let mails: Vec<String> = mails.collect();
            (mails.len() >= number).then(|| mails.last().cloned()).flatten()
        })
    }

    /// Signs somebody up and verifies the address.
    pub(crate) async fn person(&self) -> Person {
        let person = Person {
            email: fresh_email(),
            password: PASSWORD.to_owned(),
        };
        self.auth.sign_up(&person).await.unwrap();
        let token = token_of(&self.mail(&person.email, "Verify your address", 1));
        self.auth
            .accounts()
            .verify_email(request(pb::VerifyEmailRequest { token }))
            .await
            .unwrap();
        person
    }

    /// The id of somebody's account.
    pub(crate) fn id(&self, person: &Person) -> String {
        self.database.sql(&format!(
            "SELECT id FROM auth.account WHERE email = '{}'",
            person.email
        ))
    }
}

/// The one-time token of a mail.
pub(crate) fn token_of(mail: &str) -> String {
    let token = mail
        .split("#token=")
        .nth(1)
        .unwrap_or_else(|| panic!("no token in: {mail}"));
    token.split_whitespace().next().unwrap().to_owned()
}

impl Replica {
    /// Lets the instance drain.
    pub(crate) async fn stop(&mut self) {
        self.stopping.cancel();
        (&mut self.serving).await.unwrap().unwrap();
    }

    /// Waits until the instance answers, with a connection that is made.
    async fn answers(&mut self) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while let Err(status) = self.guard().get_key_set(request(pb::GetKeySetRequest {})).await {
            if self.serving.is_finished() {
                panic!("service auth has ended: {:?}", (&mut self.serving).await);
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "service auth does not answer: {status:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn accounts(&self) -> AccountServiceClient<Peer> {
        AccountServiceClient::new(self.gateway.clone())
    }

    pub(crate) fn sessions(&self) -> SessionServiceClient<Peer> {
        SessionServiceClient::new(self.gateway.clone())
    }

    pub(crate) fn guard(&self) -> GuardServiceClient<Peer> {
        GuardServiceClient::new(self.gateway.clone())
    }

    pub(crate) fn mails(&self) -> MailServiceClient<Peer> {
        MailServiceClient::new(self.tenant.clone())
    }

    pub(crate) async fn sign_up(&self, person: &Person) -> Result<(), Status> {
        let message = pb::SignUpRequest {
            email: person.email.clone(),
            password: person.password.clone(),
            display_name: "Ada".to_owned(),
            turnstile_token: String::new(),
        };
        self.accounts().sign_up(request(message)).await.map(|_| ())
    }

    pub(crate) async fn log_in(&self, person: &Person) -> Result<pb::LogInResponse, Status> {
        Ok(self
            .sessions()
            .log_in(request(person.log_in()))
            .await?
            .into_inner())
    }

    pub(crate) async fn refresh(&self, token: &str) -> Result<pb::Tokens, Status> {
        let message = pb::RefreshSessionRequest {
            refresh_token: token.to_owned(),
        };
        let answer = self.sessions().refresh_session(request(message)).await?;
        Ok(answer.into_inner().tokens.unwrap())
    }

    /// A context token for an access token, as the gateway gets it.
    pub(crate) async fn context(&self, access_token: &str) -> Result<String, Status> {
        let credential = pb::authenticate_request::Credential::AccessToken(access_token.to_owned());
        let message = pb::AuthenticateRequest {
            credential: Some(credential),
            tenant_id: String::new(),
            client_address: "192.0.2.1".to_owned(),
        };
        Ok(self
            .guard()
            .authenticate(request(message))
            .await?
            .into_inner()
            .context_token)
    }

    /// The proof for one call of `method` with `message`.
    pub(crate) async fn grant(
        &self,
        context: &str,
        method: &str,
        message: &impl Message,
        code: &str,
    ) -> Result<String, Status> {
        let message = step_up_of(context, method, &message.encode_to_vec(), code);
        Ok(self
            .guard()
            .consume_step_up(request(message))
            .await?
            .into_inner()
            .grant_token)
    }
}

/// What the gateway asks before a call of `method` with these bytes.
pub(crate) fn step_up_of(context: &str, method: &str, bytes: &[u8], code: &str) -> pb::ConsumeStepUpRequest {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    pb::ConsumeStepUpRequest {
        context_token: context.to_owned(),
        method: method.to_owned(),
        request_sha256: digest.as_ref().to_vec().into(),
        code: code.to_owned(),
    }
}

/// A request on behalf of whom a context token names.
pub(crate) fn as_caller<T>(message: T, context: &str) -> Request<T> {
    request_with(message, &[("authorization", &format!("Bearer {context}"))])
}

fn settings(identities: &Identities, name: &str, dev: bool) -> Settings {
    let identity = identities[name].clone();
    Settings {
        listen: ([127, 0, 0, 1], 0).into(),
        admin_listen: ([127, 0, 0, 1], 0).into(),
        identity_cert_file: Some(identity.cert_file),
        identity_key_file: Some(identity.key_file),
        trust_bundle_file: Some(identity.bundle_file),
        region: types::Region::Eu,
        propagation_delay: Duration::ZERO,
        max_in_flight: 4_000,
        dev,
        ..Settings::default()
    }
}

fn config(database: &Database<'_>, folder: &TempDir, prefix: &str, setup: &Setup) -> auth::Config {
    let mails = folder.path().join("mails");
    let mut arguments = vec![
        "auth".to_owned(),
        format!("--database-url={}", database.url("trailmesh_auth")),
        format!("--database-ca-file={}", Postgres::shared().ca.display()),
        format!("--redis-url={}", setup.redis),
        format!("--redis-prefix={prefix}"),
        "--redis-timeout=5s".to_owned(),
        format!("--seal-key={SEAL_KEY}"),
        "--public-url=https://trail.example".to_owned(),
        format!("--mail-dir={}", mails.display()),
        "--argon2-memory-kib=64".to_owned(),
        "--argon2-passes=1".to_owned(),
    ];
    for flag in &setup.flags {
        let name = flag.split('=').next().unwrap();
        arguments.retain(|given| given.split('=').next() != Some(name));
        arguments.push(flag.clone());
    }
    Cli::try_parse_from(arguments).unwrap().config
}

async fn replica(
    database: &Database<'_>,
    folder: &TempDir,
    identities: &Identities,
    prefix: &str,
    setup: &Setup,
) -> Replica {
    let config = config(database, folder, prefix, setup);
    let runtime = Runtime::bind(
        "auth",
        &settings(identities, "auth", setup.dev),
        proto::DESCRIPTOR_SET,
    )
    .await
    .unwrap();
    let address = runtime.address();
    let stopping = runtime.stopping();
    let serving = tokio::spawn(auth::start(config, runtime));
    let mut callers = Vec::new();
    for name in ["gateway", "tenant", "query"] {
        let mut settings = settings(identities, name, true);
        settings.peers = vec![PeerAddress {
            name: "auth".to_owned(),
            url: format!("https://127.0.0.1:{}", address.port()).parse().unwrap(),
        }];
        callers.push(
            Runtime::bind(name, &settings, proto::DESCRIPTOR_SET)
                .await
                .unwrap(),
        );
    }
    let mut replica = Replica {
        gateway: callers[0].peer("auth").unwrap(),
        tenant: callers[1].peer("auth").unwrap(),
        query: callers[2].peer("auth").unwrap(),
        serving,
        stopping,
        callers,
    };
    replica.answers().await;
    replica
}

/// How many different values there are.
pub(crate) fn distinct<T: Eq + std::hash::Hash>(values: impl IntoIterator<Item = T>) -> usize {
    values.into_iter().collect::<HashSet<T>>().len()
}
