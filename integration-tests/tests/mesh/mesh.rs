//! A mesh to talk to: the real program in a process of its own, on a database of its own, seen only through its public door.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    ops::Deref,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{OnceLock, mpsc::sync_channel},
    time::Duration,
};

use reqwest::{Client, Method, RequestBuilder, StatusCode, header::HeaderMap};
use serde_json::Value;
use tempfile::TempDir;
use testkit::{Database, Postgres, Redis};

/// Without a byte for so long a call has failed: no test waits for ever.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The program, which `cargo test --workspace` builds beside the tests.
pub(crate) fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a test program");
    let program = test
        .parent()
        .and_then(Path::parent)
        .expect("a target folder")
        .join("trailmesh");
    assert!(
        program.is_file(),
        "{} is not there: cargo build -p trailmesh",
        program.display()
    );
    program
}

/// The sockets that a process has open: their inodes, as `/proc/net` names them.
pub(crate) fn sockets(pid: u32) -> Vec<String> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("open files");
    let links = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links
        .filter_map(|link| {
            let socket = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(socket.to_owned())
        })
        .collect()
}

/// Starts `program`, so that it ends with this process, however that ends. The system ties it to the thread that starts it, and a test's
/// thread ends with the test: so that is a thread of its own, which stays.
pub(crate) fn start_mortal(program: &Path, prepare: impl FnOnce(&mut Command)) -> Child {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    prepare(&mut command);
    let (give, take) = sync_channel(1);
    std::thread::spawn(move || {
        let started = command.spawn().expect("setpriv starts");
        drop(command);
        give.send(started).expect("somebody waits");
        loop {
            std::thread::park();
        }
    });
    take.recv().expect("a process")
}

/// Where a mesh is found.
pub(crate) struct Place {
    /// `https://localhost:PORT`
    pub(crate) url: String,
    /// Authority, mails, log.
    pub(crate) state: PathBuf,
}

/// The whole mesh in one process.
pub(crate) struct Mesh {
    process: Child,
    place: Place,
    /// What it stores in; none when it is somebody else's.
    pub(crate) database: Option<Database<'static>>,
    _folder: TempDir,
}

impl Deref for Mesh {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl Mesh {
    /// The one that all tests of a run share.
    pub(crate) fn shared() -> &'static Self {
        static MESH: OnceLock<Mesh> = OnceLock::new();
        MESH.get_or_init(|| Self::start(&[]))
    }

    /// One of its own, with further environment.
    pub(crate) fn start(environment: &[(&str, &str)]) -> Self {
        let database = Postgres::shared().empty_database();
        let admin = database.admin_url();
        let redis = &Redis::shared().url;
        let mut all = vec![
            ("TRAILMESH_MIGRATE_DATABASE_URL", admin.as_str()),
            ("TRAILMESH_REDIS_URL", redis),
        ];
        all.extend_from_slice(environment);
        let mut mesh = Self::start_with(&all);
        mesh.database = Some(database);
        mesh
    }

    /// One of its own on the database and Redis that the environment names.
    pub(crate) fn start_with(environment: &[(&str, &str)]) -> Self {
        let folder = testkit::folder("mesh");
        let state = folder.path().to_owned();
        let log = fs::File::create(state.join("log")).expect("a log");
        // Roles belong to the whole server, which other tests share, so their passwords stay what they are.
        let admin = environment
            .iter()
            .find(|(name, _)| *name == "TRAILMESH_MIGRATE_DATABASE_URL");
        let (_, admin) = admin.expect("a database");
        let password = url::Url::parse(admin)
            .expect("a URL")
            .password()
            .expect("a password")
            .to_owned();
        fs::write(state.join("database-password"), password).expect("a file");
        let prefix = Redis::prefix();
        let mut process = start_mortal(&program(), |command| {
            command
                .args([
                    "up",
                    "--dev",
                    "--listen=127.0.0.1:0",
                    "--admin-listen=127.0.0.1:0",
                ])
                .arg(format!("--state={}", state.display()))
                .env("TRAILMESH_AUTH_REDIS_PREFIX", &prefix)
                .env("TRAILMESH_REDIS_PREFIX", &prefix)
                .env("TRAILMESH_QUERY_REDIS_PREFIX", &prefix)
                // All tests come from one address.
                .env("TRAILMESH_GATEWAY_STRICT_RATE", "100000")
                // What a plan allows is tested where plans are.
                .env("TRAILMESH_TENANT_FIRST_PLAN", "enterprise")
                // Many meshes come up at once; schemas made ahead are tested where tenants are.
                .env("TRAILMESH_TENANT_PREPARED", "1")
                // Cheap on purpose: what a hash costs is tested where hashes are.
                .env("TRAILMESH_AUTH_ARGON2_MEMORY_KIB", "1024")
                .env("TRAILMESH_AUTH_ARGON2_PASSES", "1")
                .envs(environment.iter().copied())
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(log);
        });
        let page = BufReader::new(process.stdout.take().expect("a pipe"));
        let mut url = None;
        for line in page.lines().map_while(Result::ok) {
            if let Some(("API", rest)) = line.trim().split_once(' ') {
                url = rest.split_whitespace().next().map(str::to_owned);
            }
            if line.starts_with("Stop it") {
                break;
            }
        }
        let log = || fs::read_to_string(state.join("log")).unwrap_or_default();
        let url = url.unwrap_or_else(|| panic!("the mesh did not come up:\n{}", log()));
        Self {
            process,
            place: Place { url, state },
            database: None,
            _folder: folder,
        }
    }

    /// The process, to be sent signals.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// What it logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.state.join("log")).expect("a log")
    }
}

impl Place {
    /// The file of the certificate authority.
    pub(crate) fn authority(&self) -> PathBuf {
        self.state.join("ca.pem")
    }

    /// A client that trusts the mesh's authority and nobody else.
    pub(crate) fn client(&self) -> Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let authority = fs::read(self.state.join("ca.pem")).expect("an authority");
        let authority = reqwest::Certificate::from_pem(&authority).expect("a certificate");
        Client::builder()
            .tls_certs_only([authority])
            .read_timeout(PATIENCE)
            .build()
            .expect("a client")
    }

    /// The token of the newest mail to `email` whose text contains `about`.
    pub(crate) fn mailed_token(&self, email: &str, about: &str) -> String {
        testkit::eventually(&format!("a mail to {email} about {about}"), || {
            let mut found: Vec<_> = fs::read_dir(self.state.join("mail"))
                .expect("a folder")
                .filter_map(Result::ok)
                .filter(|entry| {
                    entry
                        .path()
                        .extension()
                        .is_some_and(|extension| extension == "eml")
                })
                .filter_map(|entry| {
                    Some((
                        entry.metadata().ok()?.modified().ok()?,
                        fs::read_to_string(entry.path()).ok()?,
                    ))
                })
                .map(|(time, text)| (time, text.replace("=\r\n", "").replace("=3D", "=")))
                .filter(|(_, text)| text.contains(email) && text.contains(about))
                .collect();
            found.sort();
            let (_, text) = found.pop()?;
            let (_, rest) = text.split_once("token=")?;
            Some(
                rest.chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || "-_.~".contains(*c))
                    .collect(),
            )
        })
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
    /// The body as JSON; null where it is none.
    pub(crate) json: Value,
}

impl Answer {
    /// Sends a request, and reads what comes to its end.
    pub(crate) async fn of(request: RequestBuilder) -> Self {
        let answer = request.send().await.expect("an answer");
        let (status, headers) = (answer.status(), answer.headers().clone());
        let text = answer.text().await.expect("a body");
        let json = serde_json::from_str(&text).unwrap_or_default();
        Self {
            status,
            headers,
            text,
            json,
        }
    }

    /// `error.details[].reason` of an error.
    pub(crate) fn reason(&self) -> &str {
        let details = self.json["error"]["details"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        details
            .iter()
            .find_map(|detail| detail["reason"].as_str())
            .unwrap_or_default()
    }

    /// The body, which must be that of a success.
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert!(self.status.is_success(), "{} {}", self.status, self.text);
        self.json
    }
}

/// Somebody who makes requests.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) client: Client,
    pub(crate) url: String,
    /// A JWT or an API key; empty for nobody.
    pub(crate) credential: String,
    /// Value of `X-Trailmesh-Tenant`; empty to leave it out.
    pub(crate) tenant: String,
}

impl Caller {
    /// Nobody.
    pub(crate) fn nobody(mesh: &Place) -> Self {
        Self {
            client: mesh.client(),
            url: mesh.url.clone(),
            credential: String::new(),
            tenant: String::new(),
        }
    }

    /// The same with another credential.
    pub(crate) fn with(&self, credential: &str) -> Self {
        Self {
            credential: credential.to_owned(),
            ..self.clone()
        }
    }

    /// The same in another tenant.
    pub(crate) fn within(&self, tenant: &str) -> Self {
        Self {
            tenant: tenant.to_owned(),
            ..self.clone()
        }
    }

    /// One request; an empty code sends none.
    pub(crate) async fn call_with(
        &self,
        method: Method,
        path: &str,
        code: &str,
        body: Option<&Value>,
    ) -> Answer {
        let mut request = self.client.request(method, format!("{}{path}", self.url));
        if !self.credential.is_empty() {
            request = request.bearer_auth(&self.credential);
        }
        if !self.tenant.is_empty() {
            request = request.header("x-trailmesh-tenant", &self.tenant);
        }
        if !code.is_empty() {
            request = request.header("x-mfa-code", code);
        }
        if let Some(body) = body {
            request = request
                .header("content-type", "application/json")
                .body(body.to_string());
        }
        Answer::of(request).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call_with(Method::GET, path, "", None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.call_with(Method::POST, path, "", Some(&body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.call_with(Method::DELETE, path, "", None).await
    }
}
