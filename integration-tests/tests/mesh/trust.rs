//! What makes the ground trustworthy, from outside: secrets that only the right agent opens, a log of actions that outlives every process, and
//! the end of a tenant.

use std::{
    collections::BTreeMap,
    fs,
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use prost::Message;
use proto::vault::v1 as vault;
use rcgen::{CertificateParams, KeyPair};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::block_in_place;

use crate::{
    apart::{Apart, Service},
    faults::more,
    mesh::{Caller, PATIENCE, Place, program},
    person::Person,
};

/// An agent as it is on a customer's machine: with a key that never leaves it.
pub(crate) struct Agent {
    /// Calls with its certificate.
    pub(crate) client: Client,
}

impl Agent {
    /// Made by the owner, enrolled by itself.
    pub(crate) async fn enrol(apart: &Apart, owner: &mut Person, name: &str, pool: &str) -> (String, Self) {
        let body = json!({"name": name, "poolId": pool});
        let made = owner.confirmed(Method::POST, "/v1/agents", Some(body)).await.ok();
        let id = made["agent"]["id"].as_str().expect("an id").to_owned();
        let key = KeyPair::generate().expect("a key");
        let csr = CertificateParams::new(Vec::new())
            .expect("parameters")
            .serialize_request(&key)
            .expect("a request")
            .pem()
            .expect("PEM");
        let body = json!({"enrolmentToken": made["enrolmentToken"], "csr": csr});
        let nobody = Caller::nobody(&apart.place);
        let enrolled = nobody.post("/v1/agents:enrol", body.clone()).await.ok();
        assert_eq!(enrolled["agentId"], id.as_str());
        let again = nobody.post("/v1/agents:enrol", body).await;
        assert_eq!(again.reason(), "ENROLMENT_TOKEN_INVALID", "{}", again.text);
        let chain = enrolled["certificate"]["chain"].as_str().expect("a chain");
        let client = identified(&apart.place, &format!("{chain}{}", key.serialize_pem()));
        (id, Self { client })
    }

    /// The value of the server's password, or the reason why not.
    async fn password(&self, apart: &Apart, server: &str) -> Result<String, String> {
        let request = vault::OpenCredentialsRequest {
            server_id: server.to_owned(),
        };
        let method = "trailmesh.vault.v1.AgentIdentityService/OpenCredentials";
        let answer: vault::OpenCredentialsResponse =
            grpc(&self.client, &apart.vault, method, &request).await?;
        let password = answer
            .credentials
            .into_iter()
            .find(|one| one.kind == vault::SecretKind::MysqlPassword as i32)
            .expect("a password");
        Ok(String::from_utf8(password.value.to_vec()).expect("text"))
    }
}

/// A client of services inside the mesh, with this certificate and key.
fn identified(place: &Place, pem: &str) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let ca = fs::read(place.authority()).expect("an authority");
    Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(&ca).expect("a certificate")])
        .identity(reqwest::Identity::from_pem(pem.as_bytes()).expect("an identity"))
        .http2_prior_knowledge()
        .read_timeout(PATIENCE)
        .build()
        .expect("a client")
}

/// One unary call of gRPC; an error is the words of its status.
async fn grpc<T: Message + Default>(
    client: &Client,
    service: &Service,
    method: &str,
    request: &impl Message,
) -> Result<T, String> {
    let message = request.encode_to_vec();
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).expect("a length").to_be_bytes());
    body.extend(message);
    let answer = client
        .post(format!("https://localhost:{}/{method}", service.address.port()))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .send()
        .await
        .map_err(|error| format!("no connection: {error}"))?;
    let header = |name: &str| {
        let value = answer.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let (status, words) = (header("grpc-status"), header("grpc-message"));
    if !status.is_empty() && status != "0" {
        return Err(format!("{status} {words}"));
    }
    let body = answer.bytes().await.map_err(|error| error.to_string())?;
    T::decode(body.get(5..).unwrap_or_default()).map_err(|error| error.to_string())
}

async fn owner(apart: &Apart, tenant: &str) -> Person {
    let mut owner = Person::new(&apart.place, "owner").await;
    owner.found_tenant(tenant).await;
    owner
}

async fn register(owner: &mut Person, name: &str, password: &str, pool: &str) -> String {
    let server = json!({"name": name, "host": "db.example.com", "username": "trail", "poolId": pool});
    let body = json!({"server": server, "password": password});
    let made = owner
        .confirmed(Method::POST, "/v1/servers", Some(body))
        .await
        .ok();
    made["server"]["id"].as_str().expect("an id").to_owned()
}

async fn a_pool(owner: &Person, name: &str) -> String {
    let made = owner.caller.post("/v1/pools", json!({"name": name})).await.ok();
    made["pool"]["id"].as_str().expect("an id").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_agent_of_the_servers_pool_opens_its_password_while_keys_turn() {
    let apart = Apart::start();
    let mut owner = owner(&apart, "Ours").await;
    let (north, south) = (a_pool(&owner, "north").await, a_pool(&owner, "south").await);
    let server = register(&mut owner, "shop", "the password of shop", &north).await;
    let (id, right) = Agent::enrol(&apart, &mut owner, "right", &north).await;
    let (_, elsewhere) = Agent::enrol(&apart, &mut owner, "elsewhere", &south).await;
    let mut stranger = self::owner(&apart, "Theirs").await;
    let (_, foreign) = Agent::enrol(&apart, &mut stranger, "foreign", "").await;

    for agent in [&elsewhere, &foreign] {
        let refused = agent.password(&apart, &server).await.expect_err("not theirs");
        let nothing = agent.password(&apart, "srv_01j00000000000000000000000").await;
        assert_eq!(Err(refused), nothing, "no difference from what is not there");
    }
    // The agents' certificates are good for nothing else, and those of services open nothing.
    let sealed = grpc::<vault::SealSecretResponse>(
        &right.client,
        &apart.vault,
        "trailmesh.vault.v1.SecretService/SealSecret",
        &vault::SealSecretRequest::default(),
    )
    .await;
    assert!(sealed.is_err());
    for service in [&apart.tenant, &apart.auth] {
        let method = "trailmesh.tenant.v1.AuditService/RecordIntent";
        let asked = grpc::<proto::tenant::v1::RecordIntentResponse>(
            &right.client,
            service,
            method,
            &proto::tenant::v1::RecordIntentRequest::default(),
        )
        .await;
        assert!(asked.is_err());
    }
    let read = |name: &str| fs::read_to_string(apart.place.state.join(name)).expect("a file");
    let gateway = Agent {
        client: identified(
            &apart.place,
            &format!("{}{}", read("gateway.pem"), read("gateway-key.pem")),
        ),
    };
    assert!(gateway.password(&apart, &server).await.is_err());

    for round in 0..5 {
        owner
            .confirmed(Method::POST, "/v1/encryption:rotate", Some(json!({})))
            .await
            .ok();
        for _ in 0..20 {
            let opened = right.password(&apart, &server).await;
            assert_eq!(opened.as_deref(), Ok("the password of shop"), "round {round}");
        }
    }
    let path = format!("/v1/agents/{id}:revoke");
    owner.caller.post(&path, json!({})).await.ok();
    let refused = right.password(&apart, &server).await;
    assert!(refused.is_err(), "revoked, and still {refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_vault_stops_what_takes_keys_and_nothing_else() {
    let mut apart = Apart::start();
    let mut owner = owner(&apart, "Sealed").await;
    let server = register(&mut owner, "shop", "first", "").await;
    let (_, agent) = Agent::enrol(&apart, &mut owner, "north", "").await;
    apart.vault.kill();
    block_in_place(|| apart.vault.start_again_without("TRAILMESH_VAULT_ROOT_KEY_FILE"));
    let body = json!({"kind": "SECRET_KIND_MYSQL_PASSWORD", "value": "second"});
    let path = format!("/v1/servers/{server}/credentials");
    let refused = owner.confirmed(Method::PUT, &path, Some(body.clone())).await;
    assert_eq!(
        (refused.status, refused.reason()),
        (StatusCode::SERVICE_UNAVAILABLE, "VAULT_SEALED"),
        "{}",
        refused.text
    );
    assert!(agent.password(&apart, &server).await.is_err());
    a_pool(&owner, "made-meanwhile").await;
    assert!(owner.log_in("").await.status.is_success());
    assert!(owner.caller.get("/v1/audit").await.status.is_success());
    apart.vault.kill();
    block_in_place(|| apart.vault.start_again());
    owner.confirmed(Method::PUT, &path, Some(body)).await.ok();
    let opened = agent.password(&apart, &server).await;
    assert_eq!(opened.as_deref(), Ok("second"));
}

/// Runs `trailmesh audit verify` on an exported file.
fn verify(folder: &std::path::Path, export: &str) -> Output {
    let file = folder.join("audit.ndjson");
    fs::write(&file, export).expect("a file");
    Command::new(program())
        .args(["audit", "verify", "--keys"])
        .arg(folder.join("keys.json"))
        .arg(file)
        .output()
        .expect("trailmesh runs")
}

/// All finished entries by the request they stand for.
async fn entries(caller: &Caller) -> BTreeMap<String, Vec<Value>> {
    let mut found: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut page = String::new();
    loop {
        let path = format!("/v1/audit?pageSize=200&pageToken={page}");
        let answer = caller.get(&path).await.ok();
        for entry in answer["entries"].as_array().into_iter().flatten() {
            let request = entry["call"]["requestId"].as_str().unwrap_or_default();
            found.entry(request.to_owned()).or_default().push(entry.clone());
        }
        page = answer["nextPageToken"].as_str().unwrap_or_default().to_owned();
        if page.is_empty() {
            return found;
        }
    }
}

/// Makes pools until it is told to stop, each removed again: a tenant may have a hundred, and a quick machine makes more. Gives what each
/// request for one was answered, and counts those that were made.
async fn make_pools(
    caller: Caller,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
) -> BTreeMap<String, StatusCode> {
    let ask = |method, path: &str| {
        let request = caller.client.request(method, format!("{}{path}", caller.url));
        request
            .bearer_auth(&caller.credential)
            .header("x-trailmesh-tenant", &caller.tenant)
            .header("grpc-timeout", "4S")
    };
    let (mut answered, mut nth) = (BTreeMap::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        nth += 1;
        let name = json!({"name": format!("pool-{nth}")});
        // A gateway that was killed answers nothing.
        if let Ok(answer) = ask(Method::POST, "/v1/pools").json(&name).send().await {
            let request = answer.headers().get("x-request-id").cloned();
            if let Some(request) = request.and_then(|id| id.to_str().map(str::to_owned).ok()) {
                answered.insert(request, answer.status());
            }
            let made: Value = answer.json().await.unwrap_or_default();
            if let Some(id) = made["pool"]["id"].as_str() {
                count.fetch_add(1, Ordering::Relaxed);
                // One that stays because nobody could be asked takes one place of the hundred.
                drop(ask(Method::DELETE, &format!("/v1/pools/{id}")).send().await);
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    answered
}

/// The log of pools that were made, once nothing in it is under way: what nobody could end is closed half a minute after its deadline.
async fn settled(caller: &Caller) -> BTreeMap<String, Vec<Value>> {
    for _ in 0..90 {
        let mut log = entries(caller).await;
        let made = |entry: &Value| {
            let method = entry["call"]["method"].as_str().unwrap_or_default();
            method.ends_with("/CreateAgentPool")
        };
        log.values_mut().for_each(|entries| entries.retain(made));
        let pending = |entry: &Value| entry["outcome"] == "OUTCOME_PENDING";
        if !log.values().flatten().any(pending) {
            return log;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    panic!("something is under way for ever");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_was_answered_is_in_the_log_once_though_processes_are_killed() {
    let mut apart = Apart::start();
    let owner = owner(&apart, "Recorded").await;
    let stop = Arc::new(AtomicBool::new(false));
    let count = Arc::new(AtomicUsize::new(0));
    let making = tokio::spawn(make_pools(owner.caller.clone(), stop.clone(), count.clone()));
    for name in ["gateway", "tenant", "gateway", "vault"] {
        more(&count).await;
        let service = match name {
            "gateway" => &mut apart.gateway,
            "tenant" => &mut apart.tenant,
            _ => &mut apart.vault,
        };
        service.kill();
        block_in_place(|| service.start_again());
    }
    more(&count).await;
    stop.store(true, Ordering::Relaxed);
    let answered = making.await.expect("a worker");
    let done = answered.values().filter(|status| status.is_success()).count();
    assert!(done > 10, "only {done} of {} were done", answered.len());

    let log = settled(&owner.caller).await;
    for (request, status) in &answered {
        let found = log.get(request).map(Vec::as_slice).unwrap_or_default();
        let outcomes = found.iter().filter_map(|entry| entry["outcome"].as_str());
        match (status.as_u16(), &outcomes.collect::<Vec<_>>()[..]) {
            (200, ["OUTCOME_SUCCEEDED" | "OUTCOME_UNKNOWN"]) => {}
            (200, other) => panic!("{request} was done, and the log says {other:?}"),
            // Refused before anything was begun, or begun and not ended.
            (503 | 504, [] | ["OUTCOME_FAILED" | "OUTCOME_UNKNOWN"]) => {}
            (other, outcomes) => panic!("{request} {other}: {outcomes:?}"),
        }
    }
    proves_itself(&apart.place, &owner.caller).await;
}

/// The exported log verifies, and no other does.
async fn proves_itself(place: &Place, reader: &Caller) {
    let keys = Caller::nobody(place).get("/v1/signing-keys").await;
    fs::write(place.state.join("keys.json"), &keys.text).expect("a file");
    let export = reader.get("/v1/audit:export").await;
    assert!(export.status.is_success(), "{}", export.text);
    let verdict = verify(&place.state, &export.text);
    let words = String::from_utf8_lossy(&verdict.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&verdict.stderr).into_owned();
    assert!(verdict.status.success(), "{words} {complaint}");
    // One letter of one line.
    let forged = export.text.replacen("pool", "loop", 1);
    assert_ne!(forged, export.text);
    assert_eq!(verify(&place.state, &forged).status.code(), Some(1));
    // The fourth line is gone.
    let lines = export.text.split_inclusive('\n').enumerate();
    let cut: String = lines
        .filter_map(|(nth, line)| (nth != 3).then_some(line))
        .collect();
    assert_eq!(verify(&place.state, &cut).status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_deleted_tenant_a_certificate_is_left_and_nothing_that_can_be_read() {
    let apart = Apart::start();
    let mut owner = owner(&apart, "kanarienvogel the tenant").await;
    let kept = register(&mut owner, "kanarienvogel", "kanarienvogel's password", "").await;
    let (_, agent) = Agent::enrol(&apart, &mut owner, "kanarienvogel", "").await;
    assert!(agent.password(&apart, &kept).await.is_ok());
    let key = json!({"name": "kanarienvogel", "role": "ROLE_VIEWER"});
    let key = owner.confirmed(Method::POST, "/v1/keys", Some(key)).await.ok();
    let program = Caller::nobody(&apart.place).with(key["secret"].as_str().expect("a key"));
    let body = json!({"email": "kanarienvogel@example.org", "role": "ROLE_VIEWER"});
    owner
        .confirmed(Method::POST, "/v1/invitations", Some(body))
        .await
        .ok();
    assert!(String::from_utf8_lossy(&apart.postgres.dump()).contains("kanarienvogel"));

    let tenant = owner.caller.tenant.clone();
    let wrong = owner
        .confirmed(Method::DELETE, "/v1/tenant?name=another", None)
        .await;
    assert_eq!(wrong.reason(), "NAME_DIFFERS", "{}", wrong.text);
    let path = "/v1/tenant?name=kanarienvogel%20the%20tenant";
    owner.confirmed(Method::DELETE, path, None).await.ok();
    let account = owner.caller.within("");
    let mut deletion = Value::Null;
    for _ in 0..100 {
        deletion = account.get(&format!("/v1/deletions/{tenant}")).await.ok()["deletion"].clone();
        if deletion["state"] == "DELETION_STATE_DONE" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(deletion["state"], "DELETION_STATE_DONE", "{deletion}");
    let certificate = deletion["certificate"].as_str().expect("a certificate");
    assert!(certificate.contains(&tenant), "{certificate}");

    assert!(agent.password(&apart, &kept).await.is_err());
    assert!(!owner.caller.get("/v1/servers").await.status.is_success());
    assert!(!program.get("/v1/servers").await.status.is_success());
    // Keys are swept within a minute.
    let mut dump = String::new();
    for _ in 0..90 {
        dump = String::from_utf8_lossy(&apart.postgres.dump()).into_owned();
        if !dump.contains("kanarienvogel") {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let left: Vec<&str> = dump
        .lines()
        .filter(|line| line.contains("kanarienvogel"))
        .collect();
    assert_eq!(left, Vec::<&str>::new());
}
