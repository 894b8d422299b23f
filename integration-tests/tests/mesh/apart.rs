//! The mesh as an installation runs it: each service a process, on servers of its own that can be killed and paused.

use std::{
    fs, io,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use tempfile::TempDir;
use testkit::{Postgres, Redis, free_port};
use url::Url;

use crate::mesh::{Place, program, start_mortal};

/// The one address of a service of which there are several: each connection goes to one of them, in turn, and past those that take none.
#[derive(Clone)]
struct Balancer(Arc<Mutex<Vec<SocketAddr>>>);

impl Balancer {
    fn start(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a port");
        let balancer = Self(Arc::default());
        let behind = balancer.clone();
        thread::spawn(move || {
            for (nth, client) in listener.incoming().map_while(Result::ok).enumerate() {
                let mut replicas = behind.0.lock().expect("replicas").clone();
                let turn = nth % replicas.len().max(1);
                replicas.rotate_left(turn);
                thread::spawn(move || Self::join(&client, &replicas));
            }
        });
        balancer
    }

    fn add(&self, replica: SocketAddr) {
        self.remove(replica);
        self.0.lock().expect("replicas").push(replica);
    }

    fn remove(&self, replica: SocketAddr) {
        self.0.lock().expect("replicas").retain(|one| *one != replica);
    }

    /// Copies both ways until both have ended.
    fn join(client: &TcpStream, replicas: &[SocketAddr]) -> Option<()> {
        let server = replicas.iter().find_map(|at| TcpStream::connect(at).ok())?;
        let copy = |mut from: &TcpStream, mut to: &TcpStream| {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        };
        thread::scope(|scope| {
            scope.spawn(|| copy(client, &server));
            copy(&server, client);
        });
        Some(())
    }
}

/// A service's process and what it was started with.
pub(crate) struct Service {
    name: &'static str,
    process: Child,
    environment: Vec<(&'static str, String)>,
    log: PathBuf,
    /// Where the mesh, or the public, reaches it.
    pub(crate) address: SocketAddr,
    admin: SocketAddr,
    /// What stands before it, if others may stand beside it.
    balancer: Option<Balancer>,
}

impl Service {
    /// One that others may stand beside: everybody reaches all of them at `port`.
    fn start_balanced(
        name: &'static str,
        port: u16,
        folder: &Path,
        environment: Vec<(&'static str, String)>,
    ) -> Self {
        let balancer = Balancer::start(port);
        let mut service = Self::start(name, free_port(), folder, environment);
        balancer.add(service.address);
        service.balancer = Some(balancer);
        service
    }

    fn start(name: &'static str, port: u16, folder: &Path, environment: Vec<(&'static str, String)>) -> Self {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let (address, admin) = (loopback(port), loopback(free_port()));
        let log = folder.join(format!("{name}-{port}.log"));
        let process = Self::spawn(name, &log, &environment, address, admin);
        let service = Self {
            name,
            process,
            environment,
            log,
            address,
            admin,
            balancer: None,
        };
        service.wait();
        service
    }

    fn spawn(
        name: &str,
        log: &Path,
        environment: &[(&'static str, String)],
        address: SocketAddr,
        admin: SocketAddr,
    ) -> Child {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .expect("a log");
        start_mortal(&program(), |command| {
            command
                .arg(name)
                .env("TRAILMESH_LISTEN", address.to_string())
                .env("TRAILMESH_ADMIN_LISTEN", admin.to_string())
                .envs(environment.iter().map(|(name, value)| (*name, value)))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log);
        })
    }

    /// Until it says that it is ready.
    fn wait(&self) {
        testkit::eventually(
            &format!("{} to be ready; see {}", self.name, self.log.display()),
            || {
                use std::io::{Read as _, Write as _};
                let mut stream = TcpStream::connect(self.admin).ok()?;
                stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").ok()?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer).ok()?;
                answer.lines().next()?.contains(" 200 ").then_some(())
            },
        );
    }

    /// Which service it is.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Sends a signal such as `-KILL`, `-STOP`, `-CONT`.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status();
        assert!(
            sent.is_ok_and(|status| status.success()),
            "kill {signal} {}",
            self.name
        );
    }

    /// Kills it the hard way, and starts it again where it was.
    pub(crate) fn kill(&mut self) {
        self.process.kill().expect("a process to kill");
        self.process.wait().expect("its end");
    }

    /// Asks it to end, and waits until it has. Like every balancer that looks who is ready, its own sends nobody there from then on.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        if let Some(balancer) = &self.balancer {
            balancer.remove(self.address);
        }
        self.signal("-TERM");
        let (name, process) = (self.name, &mut self.process);
        testkit::eventually(&format!("{name} to end"), || {
            process.try_wait().expect("a process")
        })
    }

    /// Starts it again where it was, without one thing that it was told.
    pub(crate) fn start_again_without(&mut self, name: &str) {
        let all = self.environment.clone();
        self.environment.retain(|(told, _)| *told != name);
        self.start_again();
        self.environment = all;
    }

    /// Starts it again where it was.
    pub(crate) fn start_again(&mut self) {
        self.process = Self::spawn(self.name, &self.log, &self.environment, self.address, self.admin);
        self.wait();
        if let Some(balancer) = &self.balancer {
            balancer.add(self.address);
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// All of it.
pub(crate) struct Apart {
    pub(crate) auth: Service,
    pub(crate) vault: Service,
    pub(crate) tenant: Service,
    pub(crate) query: Service,
    pub(crate) recovery: Service,
    pub(crate) gateway: Service,
    pub(crate) postgres: Postgres,
    pub(crate) redis: Redis,
    /// Through the first gateway.
    pub(crate) place: Place,
    // Last: files go when nobody uses them any more.
    _folder: TempDir,
}

type Environment = Vec<(&'static str, String)>;

/// What every service of it is told.
struct Ground<'g> {
    state: &'g Path,
    database_url: &'g str,
    redis_url: &'g str,
    auth_port: u16,
    vault_port: u16,
    tenant_port: u16,
    query_port: u16,
    recovery_port: u16,
    pins: String,
    gateway_port: u16,
    postgres_ca: &'g Path,
    redis_ca: &'g Path,
    dev: bool,
    balanced: bool,
}

impl Ground<'_> {
    fn file(&self, name: &str) -> String {
        path(&self.state.join(name)).to_owned()
    }

    fn service(&self, name: &'static str, port: u16, environment: Environment) -> Service {
        if self.balanced {
            Service::start_balanced(name, port, self.state, environment)
        } else {
            Service::start(name, port, self.state, environment)
        }
    }

    fn common(&self, name: &str) -> Environment {
        let peers = format!(
            "auth=https://127.0.0.1:{},vault=https://127.0.0.1:{},tenant=https://127.0.0.1:{},query=https://127.0.0.1:{},recovery=https://127.0.0.1:{}",
            self.auth_port, self.vault_port, self.tenant_port, self.query_port, self.recovery_port
        );
        let mut all = vec![
            ("TRAILMESH_IDENTITY_CERT_FILE", self.file(&format!("{name}.pem"))),
            (
                "TRAILMESH_IDENTITY_KEY_FILE",
                self.file(&format!("{name}-key.pem")),
            ),
            ("TRAILMESH_TRUST_BUNDLE_FILE", self.file("ca.pem")),
            ("TRAILMESH_PEERS", peers),
            ("TRAILMESH_REDIS_URL", self.redis_url.to_owned()),
        ];
        if self.dev {
            all.push(("TRAILMESH_DEV", "true".to_owned()));
        } else {
            all.push(("TRAILMESH_REDIS_CA_FILE", path(self.redis_ca).to_owned()));
        }
        all
    }

    fn with_database(&self, name: &str) -> Environment {
        let mut url = Url::parse(self.database_url).expect("a URL");
        url.set_username(&format!("trailmesh_{name}")).expect("a name");
        let mut all = self.common(name);
        if !self.dev {
            url.set_query(None);
            all.push(("TRAILMESH_DATABASE_CA_FILE", path(self.postgres_ca).to_owned()));
        }
        all.push(("TRAILMESH_DATABASE_URL", url.to_string()));
        all
    }

    fn auth(&self) -> Environment {
        let mut all = self.with_database("auth");
        all.extend([
            ("TRAILMESH_AUTH_SEAL_KEY_FILE", self.file("seal")),
            (
                "TRAILMESH_PUBLIC_URL",
                format!("https://localhost:{}", self.gateway_port),
            ),
        ]);
        if self.dev {
            all.extend([
                ("TRAILMESH_AUTH_MAIL_DIR", self.file("mail")),
                ("TRAILMESH_AUTH_ARGON2_MEMORY_KIB", "1024".to_owned()),
                ("TRAILMESH_AUTH_ARGON2_PASSES", "1".to_owned()),
            ]);
        } else {
            // Nobody listens there; mails wait.
            all.push((
                "TRAILMESH_AUTH_SMTP_URL",
                "smtps://user:word@127.0.0.1:4650".to_owned(),
            ));
        }
        all
    }

    fn tenant(&self) -> Environment {
        let mut all = self.with_database("tenant");
        all.extend([
            ("TRAILMESH_TENANT_FIRST_PLAN", "enterprise".to_owned()),
            ("TRAILMESH_TENANT_PREPARED", "1".to_owned()),
        ]);
        all
    }

    fn query(&self) -> Environment {
        let mut all = self.with_database("query");
        // What was last seen of an agent is at most this old.
        all.push(("TRAILMESH_QUERY_STATISTICS_PAUSE", "1s".to_owned()));
        all
    }

    fn vault(&self) -> Environment {
        let mut all = self.with_database("vault");
        all.extend([
            ("TRAILMESH_VAULT_ROOT_KEY_FILE", self.file("root")),
            ("TRAILMESH_VAULT_GATEWAY_PINS", self.pins.clone()),
        ]);
        all
    }

    fn gateway(&self) -> Environment {
        let mut all = self.common("gateway");
        all.extend([
            ("TRAILMESH_GATEWAY_TLS_CERT_FILE", self.file("localhost.pem")),
            ("TRAILMESH_GATEWAY_TLS_KEY_FILE", self.file("localhost-key.pem")),
            ("TRAILMESH_GATEWAY_STRICT_RATE", "100000".to_owned()),
            (
                "TRAILMESH_GATEWAY_RATE_LIMITS",
                "free=1000000/1000000,enterprise=1000000/1000000".to_owned(),
            ),
        ]);
        all
    }
}

impl Apart {
    /// Starts everything, as a developer does.
    pub(crate) fn start() -> Self {
        Self::start_as(true, false)
    }

    /// The same, where each service may have replicas: see [`Self::another`].
    pub(crate) fn start_balanced() -> Self {
        Self::start_as(true, true)
    }

    /// Starts everything as an installation does: TLS to every server, all of them verified, nothing that only `--dev` allows.
    pub(crate) fn start_in_earnest() -> Self {
        Self::start_as(false, false)
    }

    fn start_as(dev: bool, balanced: bool) -> Self {
        let folder = testkit::folder("apart");
        let state = folder.path().to_owned();
        fs::create_dir(state.join("mail")).expect("a folder");
        for key in ["seal", "root"] {
            let word = "c2VhbGluZyBmb3IgdGVzdHMsIDMyIGJ5dGVzIGxvbmc=\n";
            fs::write(state.join(key), word).expect("a file");
        }
        let postgres = Postgres::private(&state.join("postgres"));
        let redis = Redis::private(&state.join("redis"));
        let pins = certificates(&state);
        migrate(&postgres);
        let ground = Ground {
            state: &state,
            database_url: &postgres.url,
            redis_url: if dev { &redis.url } else { &redis.tls_url },
            postgres_ca: &postgres.ca,
            redis_ca: &redis.ca,
            dev,
            balanced,
            auth_port: free_port(),
            vault_port: free_port(),
            tenant_port: free_port(),
            query_port: free_port(),
            recovery_port: free_port(),
            pins,
            gateway_port: free_port(),
        };
        let auth = ground.service("auth", ground.auth_port, ground.auth());
        let vault = ground.service("vault", ground.vault_port, ground.vault());
        let tenant = ground.service("tenant", ground.tenant_port, ground.tenant());
        let query = ground.service("query", ground.query_port, ground.query());
        let recovery = ground.service("recovery", ground.recovery_port, ground.with_database("recovery"));
        let gateway = ground.service("gateway", ground.gateway_port, ground.gateway());
        let place = Place {
            url: format!("https://localhost:{}", ground.gateway_port),
            state,
        };
        Self {
            auth,
            vault,
            tenant,
            query,
            recovery,
            gateway,
            postgres,
            redis,
            place,
            _folder: folder,
        }
    }

    /// One more gateway, on a port of its own.
    pub(crate) fn another_gateway(&self) -> Service {
        self.another(&self.gateway)
    }

    /// All services.
    pub(crate) fn services(&mut self) -> [&mut Service; 6] {
        [
            &mut self.auth,
            &mut self.vault,
            &mut self.tenant,
            &mut self.query,
            &mut self.recovery,
            &mut self.gateway,
        ]
    }

    /// One more of each, in the same order.
    pub(crate) fn one_more_of_each(&self) -> [Service; 6] {
        let services = [
            &self.auth,
            &self.vault,
            &self.tenant,
            &self.query,
            &self.recovery,
            &self.gateway,
        ];
        services.map(|service| self.another(service))
    }

    /// One more of a service, on a port of its own, and behind its balancer if it has one.
    pub(crate) fn another(&self, service: &Service) -> Service {
        let environment = service.environment.clone();
        let mut other = Service::start(service.name, free_port(), &self.place.state, environment);
        other.balancer.clone_from(&service.balancer);
        if let Some(balancer) = &other.balancer {
            balancer.add(other.address);
        }
        other
    }

    /// The public address of a gateway.
    pub(crate) fn url(gateway: &Service) -> String {
        format!("https://localhost:{}", gateway.address.port())
    }
}

/// Makes a certificate for every service, and gives what agents pin.
fn certificates(state: &Path) -> String {
    let names = ["auth", "vault", "tenant", "query", "recovery", "gateway"];
    let made = trailmesh(&[&["identity", path(state)], &names[..]].concat(), &[]);
    let pins = made.lines().filter_map(|line| line.strip_prefix("pin "));
    pins.map(str::trim).collect::<Vec<_>>().join(",")
}

fn migrate(postgres: &Postgres) {
    let url = Url::parse(&postgres.url).expect("a URL");
    let password = url.password().expect("a password");
    let migrate = [
        ("TRAILMESH_MIGRATE_DATABASE_URL", postgres.url.as_str()),
        ("TRAILMESH_AUTH_DATABASE_PASSWORD", password),
        ("TRAILMESH_TENANT_DATABASE_PASSWORD", password),
        ("TRAILMESH_VAULT_DATABASE_PASSWORD", password),
        ("TRAILMESH_QUERY_DATABASE_PASSWORD", password),
        ("TRAILMESH_RECOVERY_DATABASE_PASSWORD", password),
    ];
    trailmesh(&["migrate", "run", "--dev"], &migrate);
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

/// Runs a command of the program that is no service, and gives what it printed.
pub(crate) fn trailmesh(arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let output = Command::new(program())
        .args(arguments)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("trailmesh runs");
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}
