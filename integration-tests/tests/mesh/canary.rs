//! Secrets go in by every door; then everything that comes out is searched for them: the log at its most talkative, traces, metrics, the
//! database, Redis, mails and error answers.

mod collector;
mod misplaced;
pub(crate) mod search;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Command,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use testkit::Redis;
use totp_rs::{Builder, Secret, Totp};
use url::Url;

use self::{collector::Collector, search::Secrets};
use crate::{
    mesh::{Answer, Caller, Mesh, sockets},
    person::{LEFT, now},
};

/// A secret that no other place can have by chance, with all that needs escaping.
fn fresh(what: &str) -> String {
    format!("{what} \"ü\\{}", uuid::Uuid::new_v4().simple())
}

/// The same where only letters and digits can stand.
fn plain(what: &str) -> String {
    format!("{what}{}", uuid::Uuid::new_v4().simple())
}

/// Somebody who gives secrets away everywhere.
struct Canary<'m> {
    mesh: &'m Mesh,
    email: String,
    password: String,
    caller: Caller,
    secrets: Secrets,
    /// Tokens that are mailed, which may stand in mails.
    mailed: Secrets,
    /// Answers that are errors, with their headers.
    refused: String,
    refusals: usize,
}

impl Canary<'_> {
    fn secret(&mut self, name: &str, value: &str) -> String {
        assert!(!value.is_empty(), "{name}");
        self.secrets.add(name, value);
        value.to_owned()
    }

    fn note(&mut self, answer: Answer) -> Answer {
        if !answer.status.is_success() {
            self.refusals += 1;
            self.refused.push_str(&format!(
                "{} {:?} {}\n",
                answer.status, answer.headers, answer.text
            ));
        }
        answer
    }

    async fn call(&mut self, method: Method, path: &str, code: &str, body: Value) -> Answer {
        let answer = self.caller.call_with(method, path, code, Some(&body)).await;
        self.note(answer)
    }

    async fn post(&mut self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path, "", body).await
    }

    /// A request that nobody should send; whatever is answered is an error.
    async fn wrong(
        &mut self,
        method: Method,
        path: &str,
        with: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) {
        let request = self
            .caller
            .client
            .request(method, format!("{}{path}", self.caller.url));
        // A server that has refused a body need not read it to its end.
        let Ok(answer) = with(request).send().await else {
            return;
        };
        let (status, headers) = (answer.status(), answer.headers().clone());
        assert!(!status.is_success(), "{path}: {status}");
        let text = answer.text().await.unwrap_or_default();
        self.note(Answer {
            status,
            headers,
            text,
            json: Value::Null,
        });
    }

    /// The code of this step, or of the one before it, which counts for [`LEFT`] seconds at least.
    async fn code(&mut self, totp: &Totp, before: bool) -> String {
        while before && now() % 30 > 30 - LEFT {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
        let code = totp
            .generate(now() / 30 * 30 - if before { 30 } else { 0 })
            .to_string();
        self.secrets.add_code("TOTP code", &code);
        code
    }

    /// Nothing is found in a place, though it can be searched: it has what it must have.
    #[track_caller]
    fn search(&self, name: &str, place: &[u8], has: &str) {
        let mut planted = Secrets::default();
        planted.add("planted", has);
        assert!(!planted.find(place).is_empty(), "{name} has no {has}");
        let mut found = self.secrets.find(place);
        found.extend(self.mailed.find(place));
        assert!(found.is_empty(), "{name}:\n{}", found.join("\n"));
    }

    fn mailed_token(&mut self, email: &str, about: &str) -> String {
        let token = self.mesh.mailed_token(email, about);
        self.mailed.add(about, &token);
        token
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_comes_out_anywhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let redis = Redis::private(folder.path());
    let collector = Collector::default();
    let endpoint = collector.start().await;
    let mesh = Mesh::start(&[
        ("TRAILMESH_LOG", "trace"),
        ("TRAILMESH_OTLP_ENDPOINT", &endpoint),
        ("TRAILMESH_REDIS_URL", &redis.url),
        ("TRAILMESH_GATEWAY_REFUSED_RATE", "1000000"),
    ]);
    let mut canary = Canary {
        mesh: &mesh,
        email: format!("canary-{}@example.com", uuid::Uuid::new_v4().simple()),
        password: fresh("the first"),
        caller: Caller::nobody(&mesh),
        secrets: Secrets::default(),
        mailed: Secrets::default(),
        refused: String::new(),
        refusals: 0,
    };
    secrets_of_the_installation(&mut canary, &redis);
    let marker = everywhere(&mut canary).await;

    let database = mesh.database.as_ref().expect("a database").dump();
    let redis = redis.dump();
    let metrics = metrics(mesh.pid());
    let ended = Command::new("kill")
        .args(["-TERM", &mesh.pid().to_string()])
        .status();
    assert!(ended.is_ok_and(|status| status.success()));
    let (traces, numbers) = testkit::eventually("the last traces and metrics", || {
        let traces = collector.traces.lock().expect("no panic").clone();
        let numbers = collector.metrics.lock().expect("no panic").clone();
        (traces.contains("GetMfa") && numbers.contains("MfaService")).then_some((traces, numbers))
    });
    let log = mesh.log();
    // Each place with what it must have, being the right one.
    for (name, place, has) in [
        ("the log", log.as_bytes(), "h2::hpack::decoder"),
        ("the traces", traces.as_bytes(), "CreateApiKey"),
        ("the sent metrics", numbers.as_bytes(), "CreateApiKey"),
        ("the metrics", metrics.as_bytes(), "CreateApiKey"),
        ("the database", &database, &marker),
        ("Redis", &redis, "rate:gateways"),
        ("the errors", canary.refused.as_bytes(), "MFA_CODE_INVALID"),
    ] {
        canary.search(name, place, has);
    }
    for mail in fs::read_dir(mesh.state.join("mail")).expect("mails") {
        let mail = fs::read(mail.expect("a mail").path()).expect("a mail");
        assert_eq!(canary.secrets.find(&mail), Vec::<String>::new(), "a mail");
    }
    assert!(
        canary.secrets.names.len() > 40 && canary.refusals > 60,
        "{} refusals of {:?}",
        canary.refusals,
        canary.secrets.names
    );
}

/// Gives secrets away by every door; gives a word that is stored openly.
async fn everywhere(canary: &mut Canary<'_>) -> String {
    account(canary).await;
    sessions(canary).await;
    let marker = tenant(canary).await;
    credentials(canary).await;
    passwords(canary).await;
    factor(canary).await;
    for path in [
        "/v1/auth/login",
        "/v1/auth/sign-up",
        "/v1/account/password",
        "/v1/keys",
        "/v1/servers",
    ] {
        misplaced::everywhere(canary, path).await;
    }
    misplaced::over_grpc(canary).await;
    canary.caller.get("/v1/account/mfa").await.ok();
    marker
}

/// What the mesh itself is given, or makes for itself.
fn secrets_of_the_installation(canary: &mut Canary<'_>, redis: &Redis) {
    let database = canary.mesh.database.as_ref().expect("a database").admin_url();
    for (name, url) in [("database", &database), ("Redis", &redis.url)] {
        let url = Url::parse(url).expect("a URL");
        canary.secret(name, url.password().expect("a password"));
    }
    for name in ["seal-key", "vault-root-key", "owner-password"] {
        let text = fs::read_to_string(canary.mesh.state.join(name)).expect("a secret");
        canary.secret(name, text.trim());
        if name != "owner-password" {
            let key = STANDARD.decode(text.trim()).expect("base64");
            canary.secrets.add_bytes(name, &key);
        }
    }
    // How tokens between the services begin: {"alg":"EdDSA","typ":"ctx+jwt" and "grant+jwt".
    for (name, head) in [("context token", "ctx+jwt"), ("grant token", "grant+jwt")] {
        let head = format!("{{\"alg\":\"EdDSA\",\"typ\":\"{head}\"");
        let whole = head.len() / 3 * 3;
        canary
            .secrets
            .add_bytes(name, STANDARD.encode(&head[..whole]).as_bytes());
    }
    let password = canary.password.clone();
    canary.secret("password", &password);
    canary.secrets.add("a private key", "PRIVATE KEY-----");
}

/// A sign-up and its verification, each also as it should not be.
async fn account(canary: &mut Canary<'_>) {
    let turnstile = canary.secret("Turnstile token", &plain("turnstile"));
    let (email, password) = (canary.email.clone(), canary.password.clone());
    let body =
        json!({"email": email, "password": password, "displayName": "A canary", "turnstileToken": turnstile});
    for _ in 0..2 {
        canary.post("/v1/auth/sign-up", body.clone()).await.ok();
    }
    let short = canary.secret(
        "a short password",
        &uuid::Uuid::new_v4().simple().to_string()[..9],
    );
    let body = json!({"email": "no address", "password": password, "turnstileToken": turnstile});
    canary.post("/v1/auth/sign-up", body).await;
    let body = json!({"email": "other@example.com", "password": short});
    canary.post("/v1/auth/sign-up", body).await;
    let wrong = canary.secret("a wrong mailed token", &plain("token"));
    canary
        .post("/v1/auth/verify-email", json!({"token": wrong}))
        .await;
    let token = canary.mailed_token(&email, "token=");
    for _ in 0..2 {
        canary
            .post("/v1/auth/verify-email", json!({"token": token}))
            .await;
    }
}

/// Calls with these tokens from now on; gives the refresh token.
fn take(canary: &mut Canary<'_>, answer: &Value) -> String {
    let access = answer["tokens"]["accessToken"].as_str().expect("a token");
    canary.caller.credential = canary.secret("access token", access);
    for (name, token) in [
        ("refresh token", &answer["tokens"]["refreshToken"]),
        ("device token", &answer["deviceToken"]),
    ] {
        if let Some(token) = token.as_str().filter(|token| !token.is_empty()) {
            canary.secret(name, token);
        }
    }
    answer["tokens"]["refreshToken"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// Log-ins and refreshes.
async fn sessions(canary: &mut Canary<'_>) {
    let (email, password) = (canary.email.clone(), canary.password.clone());
    let right = json!({"email": email, "password": password});
    let wrong = canary.secret("a wrong password", &fresh("wrong"));
    for email in [email.as_str(), "nobody@example.com"] {
        canary
            .post("/v1/auth/login", json!({"email": email, "password": wrong}))
            .await;
    }
    let mut cookie = right.clone();
    cookie["useCookie"] = true.into();
    cookie["deviceToken"] = canary.secret("a wrong device token", &plain("device")).into();
    let answer = canary.post("/v1/auth/login", cookie).await;
    let set = answer.headers["set-cookie"].to_str().expect("text").to_owned();
    let (_, set) = set.split_once('=').expect("a cookie");
    canary.secret("refresh cookie", set.split(';').next().expect("a value"));
    let answer = canary.post("/v1/auth/login", right.clone()).await.ok();
    let old = take(canary, &answer);
    let answer = canary
        .post("/v1/auth/refresh", json!({"refreshToken": old}))
        .await
        .ok();
    take(canary, &answer);
    let wrong = canary.secret("a wrong refresh token", &plain("refresh"));
    canary
        .post("/v1/auth/refresh", json!({"refreshToken": wrong}))
        .await;
    canary
        .wrong(Method::POST, "/v1/auth/refresh", |request| {
            request
                .header("cookie", format!("__Host-bt_rt={wrong}; other={wrong}"))
                .body("{}")
        })
        .await;
}

/// The second factor.
async fn factor(canary: &mut Canary<'_>) {
    let right = json!({"email": canary.email, "password": canary.password});
    let path = "/v1/account/mfa/totp:enrol";
    let wrong = canary.secret("a wrong password of today", &fresh("of today"));
    canary.post(path, json!({"currentPassword": wrong})).await;
    let body = json!({"currentPassword": canary.password});
    let enrolled = canary.post(path, body).await.ok();
    let text = canary.secret("TOTP secret", enrolled["secret"].as_str().expect("a secret"));
    let secret = Secret::try_from_base32(&text).expect("base32");
    canary.secrets.add_bytes("TOTP secret", secret.as_bytes());
    let totp = Builder::new().with_secret(secret).build().expect("a TOTP");
    let code = canary.code(&totp, true).await;
    let path = "/v1/account/mfa/totp:activate";
    let activated = canary.call(Method::POST, path, &code, json!({})).await.ok();
    let codes = activated["recoveryCodes"].as_array().expect("codes").clone();
    for code in &codes {
        let code = canary.secret("recovery code", code.as_str().expect("a code"));
        canary.secret("recovery code", &code.replace('-', ""));
    }

    let login = "/v1/auth/login";
    canary.post(login, right.clone()).await;
    canary.call(Method::POST, login, &code, right.clone()).await;
    let key = json!({"name": "with a code", "role": "ROLE_OWNER"});
    canary.post("/v1/keys", key.clone()).await;
    let code = canary.code(&totp, false).await;
    let made = canary
        .call(Method::POST, "/v1/keys", &code, key.clone())
        .await
        .ok();
    canary.secret("API key", made["secret"].as_str().expect("a key"));
    canary.call(Method::POST, "/v1/keys", &code, key).await;
    let wrong = canary.secret("a wrong recovery code", "ZZZZZZ-ZZZZZZ-7Z7Z7Z-ZZZZZZ");
    let mut body = right.clone();
    body["recoveryCode"] = wrong.into();
    canary.post(login, body).await;
    let mut body = right;
    body["recoveryCode"] = codes[0].clone();
    let answer = canary.post(login, body.clone()).await.ok();
    take(canary, &answer);
    canary.post(login, body).await;
}

/// Keys, invitations, enrolments; gives a word that is stored openly.
async fn tenant(canary: &mut Canary<'_>) -> String {
    let marker = plain("marker");
    let made = canary
        .post("/v1/tenants", json!({"name": marker, "region": "REGION_US"}))
        .await;
    canary.caller.tenant = made.ok()["tenant"]["id"].as_str().expect("an id").to_owned();
    let made = canary
        .post("/v1/keys", json!({"name": "ci", "role": "ROLE_OWNER"}))
        .await
        .ok();
    let key = canary.secret("API key", made["secret"].as_str().expect("a key"));
    let session = canary.caller.clone();
    canary.caller = session.with(&key).within("");
    canary
        .call(Method::POST, "/v1/pools", "", json!({"name": "north"}))
        .await;
    canary.caller.get("/v1/servers").await.ok();
    for wrong in [
        plain("bt_live_"),
        format!("bt_live_{}", plain("x.y")),
        format!("{}.{}.{}", plain("eyJ"), plain("a"), plain("b")),
    ] {
        let wrong = canary.secret("a wrong credential", &wrong);
        canary.caller = session.with(&wrong);
        canary
            .call(Method::POST, "/v1/pools", "", json!({"name": "north"}))
            .await;
    }
    canary.caller = session;

    let agent = canary.post("/v1/agents", json!({"name": "north"})).await.ok();
    canary.secret(
        "enrolment token",
        agent["enrolmentToken"].as_str().expect("a token"),
    );
    let other = format!("guest-{}@example.com", uuid::Uuid::new_v4().simple());
    let body = json!({"email": other, "role": "ROLE_VIEWER"});
    canary.post("/v1/invitations", body).await.ok();
    let token = canary.mailed_token(&other, "invit");
    canary
        .post("/v1/invitations:accept", json!({"token": token}))
        .await;
    let wrong = canary.secret("a wrong invitation", &plain("invitation"));
    canary
        .post("/v1/invitations:accept", json!({"token": wrong}))
        .await;
    marker
}

/// Credentials of servers: every kind, set and set anew, also where they are refused; and meanwhile the key that they are sealed with is
/// turned.
async fn credentials(canary: &mut Canary<'_>) {
    let server = |name: &str| json!({"name": name, "host": "db.example.com", "username": "trail"});
    let password = canary.secret("MySQL password", &fresh("of MySQL"));
    let body = json!({"server": server("shop"), "password": password});
    let made = canary.post("/v1/servers", body.clone()).await.ok();
    let id = made["server"]["id"].as_str().expect("an id").to_owned();
    // The name is taken.
    canary.post("/v1/servers", body).await;
    let path = format!("/v1/servers/{id}/credentials");
    for kind in ["MYSQL_PASSWORD", "SERVICE_TOKEN", "SSH_KEY", "DSN", "TLS_KEY"] {
        for _ in 0..2 {
            let secret = match kind {
                "MYSQL_PASSWORD" => fresh(kind),
                _ => plain(&kind.to_lowercase().replace('_', "")),
            };
            let secret = canary.secret(kind, &secret);
            let value = match kind {
                "SSH_KEY" => format!(
                    "-----BEGIN OPENSSH PRIVATE KEY-----\n{secret}\n-----END OPENSSH PRIVATE KEY-----\n"
                ),
                "TLS_KEY" => format!("-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----\n"),
                "DSN" => format!("postgres://index:{secret}@db.example.com/index"),
                _ => secret,
            };
            let body = json!({"kind": format!("SECRET_KIND_{kind}"), "value": value});
            canary.call(Method::PUT, &path, "", body).await.ok();
        }
        canary.post("/v1/encryption:rotate", json!({})).await.ok();
    }
    for kind in ["SECRET_KIND_SINK_SECRET", "SECRET_KIND_OF_NOTHING"] {
        let value = canary.secret("a value of no kind", &fresh("of no kind"));
        let body = json!({"kind": kind, "value": value});
        let answer = canary.call(Method::PUT, &path, "", body).await;
        assert!(answer.status.is_client_error(), "{}", answer.text);
    }
    let nowhere = canary.secret("a value for nothing", &fresh("for nothing"));
    let body = json!({"kind": "SECRET_KIND_DSN", "value": nowhere});
    let path_to_nothing = "/v1/servers/srv_01j00000000000000000000000/credentials";
    canary.call(Method::PUT, path_to_nothing, "", body).await;
    let huge = canary.secret("a huge value", &fresh("huge").repeat(2_000));
    let body = json!({"kind": "SECRET_KIND_DSN", "value": huge});
    let answer = canary.call(Method::PUT, &path, "", body).await;
    assert!(answer.status.is_client_error(), "{}", answer.status);
    for path in [
        path.as_str(),
        &format!("/v1/servers/{id}"),
        "/v1/audit",
        "/v1/audit:export",
    ] {
        let answer = canary.caller.get(path).await;
        assert!(answer.status.is_success(), "{path}: {}", answer.text);
        assert_eq!(
            canary.secrets.find(answer.text.as_bytes()),
            Vec::<String>::new(),
            "{path}"
        );
    }
}

/// Changed and forgotten passwords.
async fn passwords(canary: &mut Canary<'_>) {
    let (email, old) = (canary.email.clone(), canary.password.clone());
    let wrong = canary.secret("a wrong current password", &fresh("current"));
    let new = canary.secret("new password", &fresh("a new one"));
    for (current, new) in [(&wrong, &new), (&old, &old), (&old, &new)] {
        let body = json!({"currentPassword": current, "newPassword": new});
        canary.post("/v1/account/password", body).await;
    }
    canary
        .post("/v1/auth/request-password-reset", json!({"email": email}))
        .await
        .ok();
    let token = canary.mailed_token(&email, "reset");
    let newest = canary.secret("newest password", &fresh("the newest"));
    let wrong = canary.secret("a wrong reset token", &plain("reset"));
    for token in [&wrong, &token, &token] {
        let body = json!({"token": token, "newPassword": newest});
        canary.post("/v1/auth/reset-password", body).await;
    }
    canary.password = newest;
    let body = json!({"email": email, "password": canary.password});
    let answer = canary.post("/v1/auth/login", body).await.ok();
    take(canary, &answer);
}

/// What the admin ports of the process show: they are among those it listens on.
fn metrics(pid: u32) -> String {
    let sockets = sockets(pid);
    let table = fs::read_to_string("/proc/net/tcp").expect("sockets");
    let mut all = String::new();
    let mut pages = 0;
    for line in table.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, address, _, "0A", .., inode, _, _, _, _, _, _, _] = words[..] else {
            continue;
        };
        if !sockets.iter().any(|socket| socket == inode) {
            continue;
        }
        let (_, port) = address.split_once(':').expect("a port");
        let port = u16::from_str_radix(port, 16).expect("a port");
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a listener");
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        let mut page = Vec::new();
        // The others speak TLS and hang up.
        let _ = stream.read_to_end(&mut page);
        let page = String::from_utf8_lossy(&page);
        if page.contains("# HELP") {
            pages += 1;
            all.push_str(&page);
        }
    }
    assert_eq!(
        pages, 6,
        "gateway, auth, vault, tenant, query and recovery: {table}"
    );
    all
}
