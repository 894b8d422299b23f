//! `trailmesh up --dev`: the whole mesh in one process, with certificates of its own, on a developer's machine.
//!
//! Each service has its own listener, identity and metrics, and calls its neighbours over mutual TLS, as it would alone. What must
//! outlive the process is in the state folder: the authority, the keys that auth and vault seal with, the mails, the first account.

use std::{
    fmt, fs,
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use chassis::{
    ConfigError, Configuration, PeerAddress, Runtime, SecretString, Settings, config::require_tls_url,
};
use rand::RngCore as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    authority::{self, Authority, Files},
    migrate,
    seed::{self, Seeded},
};

/// What `trailmesh up` takes.
#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    config: Config,
}

/// What only the mesh in one process is told.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Config {
    /// Where the authority, the mails and the first account are kept; made when it is not there
    #[arg(
        long,
        env = "TRAILMESH_STATE",
        value_name = "FOLDER",
        default_value = ".dev/mesh"
    )]
    state: PathBuf,
    /// The database, as an account that may make roles and schemas
    #[arg(
        long,
        env = "TRAILMESH_MIGRATE_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    database_admin_url: SecretString,
    /// Redis
    #[arg(long, env = "TRAILMESH_REDIS_URL", value_name = "URL", hide_env_values = true)]
    redis_url: SecretString,
    /// Do not make a first account
    #[arg(long)]
    no_seed: bool,
}

impl Configuration for Config {
    fn check(&self, settings: &Settings) -> Result<(), ConfigError> {
        if !settings.dev {
            return Err(ConfigError::new(
                "--dev",
                "all services in one process are for a developer's machine",
                "give --dev, or run each service by its name",
            ));
        }
        require_tls_url("TRAILMESH_REDIS_URL", self.redis_url.expose(), true)
    }
}

/// Why the mesh does not come up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The state folder cannot be used.
    #[error("cannot use the folder {path}")]
    State {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A certificate cannot be made.
    #[error(transparent)]
    Authority(#[from] authority::Error),
    /// The database cannot be prepared.
    #[error(transparent)]
    Migrate(#[from] migrate::Error),
    /// A service's configuration cannot be used.
    #[error("{service}: {problem}")]
    Config {
        /// Whose.
        service: &'static str,
        /// Why.
        problem: String,
    },
    /// The first account cannot be made.
    #[error("the first account cannot be made")]
    Seed(#[from] seed::Error),
    /// A service ended, though nobody told it to.
    #[error("{0} ended")]
    Ended(&'static str),
}

/// Runs the mesh until it is told to stop.
pub(crate) fn run(mut options: Options) -> ExitCode {
    // Lines for a person.
    options.settings.log_format = chassis::LogFormat::Text;
    // Sign-up is open here: the defaults of a service, every address, are none for a developer's machine.
    for address in [&mut options.settings.listen, &mut options.settings.admin_listen] {
        if address.ip().is_unspecified() {
            address.set_ip(Ipv4Addr::LOCALHOST.into());
        }
    }
    // Boxed: the futures of all services are large.
    chassis::host(
        "mesh",
        options.settings,
        options.config,
        async |config, settings, stop| Box::pin(mesh(config, settings, stop)).await,
    )
}

/// The services, in the order in which they stand on each other.
struct Mesh {
    config: Config,
    settings: Settings,
    authority: Authority,
    peers: Vec<PeerAddress>,
}

async fn mesh(config: Config, settings: Settings, stop: CancellationToken) -> Result<(), chassis::Error> {
    let state = config.state.clone();
    let urls = prepare(&config, &settings)
        .await
        .map_err(chassis::Error::service)?;
    let authority = Authority::open(&state).map_err(|error| chassis::Error::service(Error::from(error)))?;
    let bundle = authority.bundle();
    let public = authority
        .localhost()
        .map_err(|error| chassis::Error::service(Error::from(error)))?;
    let mut mesh = Mesh {
        config,
        settings,
        authority,
        peers: Vec::new(),
    };

    let auth = mesh.bind("auth").await?;
    let vault = mesh.bind("vault").await?;
    let tenant = mesh.bind("tenant").await?;
    let query = mesh.bind("query").await?;
    let recovery = mesh.bind("recovery").await?;
    let gateway = mesh.bind("gateway").await?;
    let url = format!("https://localhost:{}", gateway.address().port());
    let configs = mesh
        .configs(&urls, &url, &public)
        .map_err(chassis::Error::service)?;
    let door = seed::Door::of(&gateway)?;
    let about = About {
        url,
        bundle,
        state: state.clone(),
        admin: gateway.admin_address(),
    };

    let probes = [&auth, &vault, &tenant, &query, &recovery].map(Runtime::admin_address);
    // The gateway stops first, so that what it has begun can end.
    let inner = CancellationToken::new();
    for runtime in [&auth, &vault, &tenant, &query, &recovery] {
        runtime.stop_after(inner.clone(), std::time::Duration::ZERO);
    }
    gateway.stop_after(stop.clone(), mesh.settings.propagation());
    let mut running = JoinSet::new();
    running.spawn(async move { ("auth", auth::start(configs.auth, auth).await) });
    running.spawn(async move { ("vault", vault::start(configs.vault, vault).await) });
    running.spawn(async move { ("tenant", tenant::start(configs.tenant, tenant).await) });
    running.spawn(async move { ("query", query::start(configs.query, query).await) });
    running.spawn(async move { ("recovery", recovery::start(configs.recovery, recovery).await) });
    running.spawn(async move { ("gateway", gateway::start(configs.gateway, gateway).await) });

    if !mesh.config.no_seed {
        let seeded = tokio::select! {
            seeded = seed::first_account(&door, &state) => seeded.map_err(|error| chassis::Error::service(Error::from(error)))?,
            ended = first_to_end(&mut running) => return Err(ended),
        };
        // Who reads that it runs may ask for anything: what a service still waits for would be refused.
        if timeout(seed::PATIENCE, all_ready(&probes)).await.is_err() {
            tracing::warn!("not every service is ready; /readyz of each says what it waits for");
        }
        about.print(&seeded);
    }
    let mut outcome = Ok(());
    while let Some(ended) = running.join_next().await {
        let ended = match ended {
            Ok((name, Ok(()))) if !stop.is_cancelled() => Err(chassis::Error::service(Error::Ended(name))),
            Ok((_, ended)) => ended,
            Err(error) => Err(chassis::Error::service(error)),
        };
        stop.cancel();
        inner.cancel();
        outcome = outcome.and(ended);
    }
    outcome
}

/// Until each of these says that it is ready.
async fn all_ready(probes: &[SocketAddr]) {
    for probe in probes {
        while !is_ready(*probe).await.unwrap_or(false) {
            sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn is_ready(probe: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect(probe).await?;
    stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").await?;
    let mut answer = [0; b"HTTP/1.0 200".len()];
    stream.read_exact(&mut answer).await?;
    Ok(answer.ends_with(b" 200"))
}

async fn first_to_end(running: &mut JoinSet<(&'static str, Result<(), chassis::Error>)>) -> chassis::Error {
    match running.join_next().await {
        Some(Ok((_, Err(error)))) => error,
        Some(Ok((name, Ok(())))) => chassis::Error::service(Error::Ended(name)),
        Some(Err(error)) => chassis::Error::service(error),
        None => chassis::Error::service(Error::Ended("mesh")),
    }
}

/// The state folder and the database; gives the URL of each service's own account.
async fn prepare(config: &Config, settings: &Settings) -> Result<migrate::ServiceUrls, Error> {
    let state = |source| Error::State {
        path: config.state.clone(),
        source,
    };
    fs::create_dir_all(config.state.join("mail")).map_err(state)?;
    let password = migrate::password(&config.state)?;
    Ok(migrate::all(config.database_admin_url.expose(), &password, settings).await?)
}

struct Configs {
    auth: auth::Config,
    vault: vault::Config,
    tenant: tenant::Config,
    query: query::Config,
    recovery: recovery::Config,
    gateway: gateway::Config,
}

impl Mesh {
    async fn bind(&mut self, name: &'static str) -> Result<Runtime, chassis::Error> {
        let identity = self
            .authority
            .service(name, &self.settings.trust_domain, self.settings.region);
        let identity = identity.map_err(chassis::Error::service)?;
        let mut settings = self.settings.clone();
        settings.identity_cert_file = Some(identity.cert);
        settings.identity_key_file = Some(identity.key);
        settings.trust_bundle_file = Some(self.authority.bundle());
        settings.peers.clone_from(&self.peers);
        if name != "gateway" {
            let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            settings.listen = anywhere;
            settings.admin_listen = anywhere;
        }
        let runtime = Runtime::bind(name, &settings, proto::DESCRIPTOR_SET).await?;
        let peer = format!("{name}=https://127.0.0.1:{}", runtime.address().port());
        self.peers.push(peer.parse().map_err(chassis::Error::service)?);
        Ok(runtime)
    }

    fn configs(&self, urls: &migrate::ServiceUrls, url: &str, public: &Files) -> Result<Configs, Error> {
        let state = &self.config.state;
        let redis = self.config.redis_url.expose();
        let path = |path: &Path| path.display().to_string();
        let (seal, root) = (
            key(state, "auth", "seal-key")?,
            key(state, "vault", "vault-root-key")?,
        );
        Ok(Configs {
            auth: configured(
                "auth",
                &[
                    ("database-url", urls.auth.expose()),
                    ("redis-url", redis),
                    ("seal-key", seal.expose()),
                    ("public-url", url),
                    ("mail-dir", &path(&state.join("mail"))),
                ],
            )?,
            vault: configured(
                "vault",
                &[
                    ("database-url", urls.vault.expose()),
                    ("root-key", root.expose()),
                    ("gateway-pins", &self.authority.pins()?.join(",")),
                ],
            )?,
            tenant: configured("tenant", &[("database-url", urls.tenant.expose())])?,
            query: configured(
                "query",
                &[("database-url", urls.query.expose()), ("redis-url", redis)],
            )?,
            recovery: configured("recovery", &[("database-url", urls.recovery.expose())])?,
            gateway: configured(
                "gateway",
                &[
                    ("redis-url", redis),
                    ("tls-cert-file", &path(&public.cert)),
                    ("tls-key-file", &path(&public.key)),
                ],
            )?,
        })
    }
}

/// A service's configuration from these flags, its environment and its defaults.
fn configured<C: clap::Args>(service: &'static str, flags: &[(&str, &str)]) -> Result<C, Error> {
    let problem = |error: &dyn fmt::Display| Error::Config {
        service,
        problem: error.to_string(),
    };
    let command = C::augment_args(clap::Command::new(service).no_binary_name(true));
    let command = chassis::secrets_from_files(command).map_err(|error| problem(&error))?;
    let flags = flags.iter().map(|(name, value)| format!("--{name}={value}"));
    let matches = command
        .try_get_matches_from(flags)
        .map_err(|error| problem(&error))?;
    C::from_arg_matches(&matches).map_err(|error| problem(&error))
}

/// What a service seals with: made once, because what was sealed must open tomorrow.
fn key(state: &Path, service: &'static str, name: &str) -> Result<SecretString, Error> {
    let text = authority::kept(&state.join(name), || {
        let mut key = [0_u8; 32];
        rand::rng().fill_bytes(&mut key);
        base64(&key)
    })?;
    text.parse().map_err(|_| Error::Config {
        service,
        problem: format!("the file {name} is empty"),
    })
}

fn base64(bytes: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode(bytes)
}

/// What a person needs for a first request.
struct About {
    url: String,
    bundle: PathBuf,
    state: PathBuf,
    admin: SocketAddr,
}

impl About {
    fn print(&self, seeded: &Seeded) {
        let text = format!(
            "Trailmesh is up.\n\n  \
             API        {url}   (reference: {url}/docs)\n  \
             authority  {bundle}   (curl --cacert)\n  \
             owner      {email}\n  \
             password   {password}\n  \
             tenant     {tenant}\n  \
             mails      {mails}\n  \
             probes     http://{admin}/readyz\n\n\
             Stop it with ./dev down, or with Ctrl-C where it runs in front.\n",
            url = self.url,
            bundle = self.bundle.display(),
            email = seeded.email,
            password = seeded.password.expose(),
            tenant = seeded.tenant,
            mails = self.state.join("mail").display(),
            admin = self.admin,
        );
        // Nobody reads what cannot be written.
        let mut out = io::stdout();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}
