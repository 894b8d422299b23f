//! The audit log on its way out: to receivers that are killed, that answer nothing, that are not who they should be.

mod bounds;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use audit::{Actor, Event, Kind, Outcome};
use proto::tenant::v1::{
    AuditFormat, AuditSink, CreateAuditSinkRequest, CreateAuditSinkResponse, DeleteAuditSinkRequest,
    ListAuditSinksRequest, SinkKind,
};
use serde_json::{Value, json};
use testkit::{Authority, Identity};
use tonic::Code;
use types::{AuditId, Role};

use crate::{
    receivers::{self, Post, Receiver},
    world::{Caller, No, World},
};

/// Whoever waits longer waits for nothing.
const A_MINUTE: Duration = Duration::from_secs(60);

/// What a tenant's log begins with: that it was made.
const BEFORE: i64 = 1;

/// A world whose sinks may be on this machine, and trust an authority of their own.
struct Scene {
    world: World,
    authority: Authority,
    folder: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        let (folder, authority, flags) = Self::prepare();
        Self {
            world: World::with_flags(flags).await,
            authority,
            folder,
        }
    }

    fn prepare() -> (tempfile::TempDir, Authority, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(&folder.path().join("authority"));
        let files = folder.path().join("files");
        fs::create_dir(&files).unwrap();
        let flags = vec![
            "--tenant-audit-sink-pause=20ms".to_owned(),
            "--tenant-audit-sink-allow=127.0.0.0/8".to_owned(),
            format!(
                "--tenant-audit-sink-ca-file={}",
                authority.bundle_file().display()
            ),
            format!("--tenant-audit-dir={}", files.display()),
        ];
        (folder, authority, flags)
    }

    fn identity(&self) -> Identity {
        self.authority.issue("receiver")
    }

    /// An owner of a tenant of this plan.
    async fn owner(&self, plan: &str) -> Caller<'_> {
        let owner = self
            .world
            .owner(&format!("{}@example.com", AuditId::fresh()))
            .await;
        let tenant = owner.tenant();
        eventually("the record of the tenant's beginning", || {
            self.size(&owner) == BEFORE
        })
        .await;
        self.world.db.sql(&format!(
            "UPDATE tenant.tenant SET plan = '{plan}', agreed_plan = '{plan}' WHERE id = '{tenant}'"
        ));
        owner.in_tenant(&tenant.to_string()).await
    }

    /// How many records the tenant's log has.
    fn size(&self, owner: &Caller<'_>) -> i64 {
        let tenant = owner.tenant();
        let size = self.world.db.sql(&format!(
            "SELECT size FROM tenant.audit_chain WHERE tenant_id = '{tenant}'"
        ));
        size.parse().unwrap_or(0)
    }

    /// Has so many things happen in the tenant, and tells their ids, in order.
    fn happen(&self, owner: &Caller<'_>, count: usize) -> Vec<String> {
        let tenant = owner.tenant().to_string();
        let mut ids: Vec<String> = (0..count).map(|_| AuditId::fresh().to_string()).collect();
        // What comes at the same time is taken in the order of ids.
        ids.sort();
        let rows: Vec<String> = ids
            .iter()
            .map(|id| {
                let event = serde_json::to_string(&event(id, owner)).unwrap();
                format!("('{id}', '{tenant}', '{event}')")
            })
            .collect();
        self.world.db.sql(&format!(
            "INSERT INTO tenant.audit_inbox (id, tenant_id, event) VALUES {}",
            rows.join(", ")
        ));
        ids
    }
}

fn event(id: &str, owner: &Caller<'_>) -> Event {
    Event {
        id: id.to_owned(),
        time: 1_700_000_000_000_000,
        end_time: 1_700_000_000_001_000,
        actor: Actor {
            user_id: owner.user().to_string(),
            ..Actor::default()
        },
        kind: Kind::Security,
        method: "/trailmesh.auth.v1.SessionService/LogIn".to_owned(),
        path: "POST /v1/sessions".to_owned(),
        targets: BTreeMap::new(),
        client_address: Some([203, 0, 113, 9].into()),
        user_agent: "curl | sh = \\ \"x\" ]".to_owned(),
        request_id: "req_1".to_owned(),
        outcome: Outcome::Succeeded,
        code: "OK".to_owned(),
        reason: String::new(),
        count: 1,
    }
}

fn sink(name: &str, kind: SinkKind, url: &str, format: AuditFormat) -> CreateAuditSinkRequest {
    CreateAuditSinkRequest {
        sink: Some(AuditSink {
            name: name.to_owned(),
            kind: kind.into(),
            url: url.to_owned(),
            format: format.into(),
            ..AuditSink::default()
        }),
    }
}

fn syslog_sink(name: &str, port: u16) -> CreateAuditSinkRequest {
    let url = format!("syslog+tls://localhost:{port}");
    sink(name, SinkKind::Syslog, &url, AuditFormat::Ocsf)
}

fn webhook_sink(name: &str, port: u16) -> CreateAuditSinkRequest {
    let url = format!("https://localhost:{port}/in?from=trailmesh");
    sink(name, SinkKind::Webhook, &url, AuditFormat::Ecs)
}

async fn create(owner: &Caller<'_>, request: CreateAuditSinkRequest) -> CreateAuditSinkResponse {
    owner.call(request).await.unwrap()
}

async fn listed(owner: &Caller<'_>) -> Vec<AuditSink> {
    owner.call(ListAuditSinksRequest::default()).await.unwrap().sinks
}

/// Waits until the sink of this name is as wanted.
async fn until(owner: &Caller<'_>, name: &str, wanted: impl Fn(&AuditSink) -> bool) -> AuditSink {
    let deadline = Instant::now() + A_MINUTE;
    while Instant::now() < deadline {
        let found = listed(owner).await.into_iter().find(|sink| sink.name == name);
        if let Some(sink) = found.filter(|sink| wanted(sink)) {
            return sink;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the sink {name} is {:?}", listed(owner).await);
}

/// Waits until the sink of this name has taken so many.
async fn delivered(owner: &Caller<'_>, name: &str, count: usize) -> AuditSink {
    let count = BEFORE + i64::try_from(count).unwrap();
    until(owner, name, |sink| sink.delivered_sequence == count).await
}

/// The ids that messages of syslog with OCSF in them tell.
fn ids_of_messages(messages: &[String]) -> Vec<String> {
    messages
        .iter()
        .map(|message| {
            let at = message.find("] {").expect("a message of OCSF");
            let value: Value = serde_json::from_str(&message[at + 2..]).unwrap();
            value["metadata"]["uid"].as_str().unwrap().to_owned()
        })
        .collect()
}

fn ids_of_posts(posts: &[Post]) -> Vec<String> {
    let lines = posts
        .iter()
        .flat_map(|post| std::str::from_utf8(&post.body).unwrap().lines());
    lines
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["event"]["id"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect()
}

/// Each once, in the order of its first coming.
fn first_of_each(ids: &[String]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    ids.iter()
        .filter(|id| seen.insert((*id).clone()))
        .cloned()
        .collect()
}

/// Waits until something is as wanted, without holding up the receivers of this test.
async fn eventually(what: &str, wanted: impl Fn() -> bool) {
    let deadline = Instant::now() + A_MINUTE;
    while Instant::now() < deadline {
        if wanted() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("waited a minute for {what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_after_a_sink_was_made_reaches_it_in_order() {
    let scene = Scene::new().await;
    let owner = scene.owner("pro").await;
    scene.happen(&owner, 3);
    let receiver = receivers::syslog(0, &scene.identity(), Arc::default(), usize::MAX);
    // What was before is in the chain before the sink is made.
    let tenant = owner.tenant().to_string();
    eventually("three records", || scene.size(&owner) == BEFORE + 3).await;
    let made = create(&owner, syslog_sink("siem", receiver.port)).await;
    assert_eq!(made.signing_secret, "");
    assert_eq!(made.sink.unwrap().delivered_sequence, BEFORE + 3);
    let ids = scene.happen(&owner, 40);
    let sink = delivered(&owner, "siem", 43).await;
    assert_eq!(sink.behind, 0);
    assert_eq!(ids_of_messages(&receiver.taken()), ids);
    let first = &receiver.taken()[0];
    assert!(
        first.starts_with("<110>1 2023-11-14T22:13:20.000000Z trailmesh-eu trailmesh - LogIn [audit@32473 "),
        "{first}"
    );
    assert!(first.contains(&format!("tenant=\"{tenant}\"")), "{first}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_cannot_be_read_holds_up_no_sink() {
    let scene = Scene::new().await;
    let pool = scene.world.pool().await;
    let owner = scene.owner("pro").await;
    let receiver = receivers::syslog(0, &scene.identity(), Arc::default(), usize::MAX);
    create(&owner, syslog_sink("siem", receiver.port)).await;
    let unread = AuditId::fresh().to_string();
    let body = json!({"part": "event", "id": unread, "time": crate::audit_whole::micros()}).to_string();
    crate::audit::append(&pool, owner.tenant(), &[body]).await;
    let mut ids = vec![unread];
    ids.extend(scene.happen(&owner, 3));
    delivered(&owner, "siem", 4).await;
    let messages = receiver.taken();
    assert_eq!(ids_of_messages(&messages), ids);
    assert!(messages[0].contains("RECORD_UNREADABLE"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_of_syslog_that_is_killed_again_and_again_loses_nothing() {
    let scene = Scene::new().await;
    let owner = scene.owner("pro").await;
    let (identity, taken) = (scene.identity(), Arc::new(Mutex::new(Vec::new())));
    // It reads some messages of each connection, and is killed with the rest unread.
    let mut receiver = receivers::syslog(0, &identity, taken.clone(), 7);
    let port = receiver.port;
    create(&owner, syslog_sink("siem", port)).await;
    let mut ids = Vec::new();
    for round in 0..4 {
        ids.extend(scene.happen(&owner, 30));
        let before = receiver.connections();
        eventually("another attempt", || receiver.connections() > before).await;
        drop(receiver);
        receiver = receivers::syslog(port, &identity, taken.clone(), 7 + round);
    }
    drop(receiver);
    let _well = receivers::syslog(port, &identity, taken.clone(), usize::MAX);
    delivered(&owner, "siem", 120).await;
    let came = ids_of_messages(&taken.lock().unwrap());
    assert!(
        came.len() > ids.len(),
        "only {} came, so nobody was killed in time",
        came.len()
    );
    assert_eq!(first_of_each(&came), ids);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_fails_and_is_restarted_loses_nothing() {
    let scene = Scene::new().await;
    let owner = scene.owner("pro").await;
    let (identity, taken) = (scene.identity(), Arc::new(Mutex::new(Vec::new())));
    let receiver = receivers::webhook(0, &identity, taken.clone(), |_| receivers::status(503));
    let port = receiver.port;
    create(&owner, webhook_sink("hook", port)).await;
    let mut ids = scene.happen(&owner, 20);
    let sink = until(&owner, "hook", |sink| sink.last_error == "the answer was 503").await;
    assert!(sink.last_attempt_time.is_some());
    assert_eq!((sink.delivered_sequence, sink.behind), (BEFORE, 20));
    drop(receiver);
    until(&owner, "hook", |sink| {
        sink.last_error.starts_with("no connection")
    })
    .await;
    // Every other post is answered.
    let _well = receivers::webhook(port, &identity, taken.clone(), |number| {
        receivers::status(if number % 2 == 0 { 204 } else { 500 })
    });
    for _ in 0..5 {
        ids.extend(scene.happen(&owner, 10));
        delivered(&owner, "hook", ids.len()).await;
    }
    let posts = taken.lock().unwrap().clone();
    assert_eq!(first_of_each(&ids_of_posts(&posts)), ids);
    assert_eq!(posts[0].path, "/in?from=trailmesh");
    assert_eq!(posts[0].headers["content-type"], "application/x-ndjson");
}

/// Python's own HMAC, by what the documentation says.
const VERIFY: &str = r#"
import hashlib, hmac, json, sys
task = json.load(sys.stdin)
parts = dict(part.split("=", 1) for part in task["header"].split(","))
signed = parts["t"] + "." + task["body"]
wanted = hmac.new(task["secret"].encode(), signed.encode(), hashlib.sha256).hexdigest()
print(hmac.compare_digest(wanted, parts["v1"]), parts["t"])
"#;

fn verified(secret: &str, post: &Post) -> bool {
    let task = json!({
        "secret": secret,
        "header": post.headers["trailmesh-signature"].to_str().unwrap(),
        "body": std::str::from_utf8(&post.body).unwrap(),
    });
    let mut child = Command::new(testkit::python())
        .args(["-c", VERIFY])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(task.to_string().as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let (verified, time) = said.trim().split_once(' ').unwrap();
    let age = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap()
        .as_secs()
        .abs_diff(time.parse().unwrap());
    assert!(age < 120, "{age}");
    verified == "True"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_is_signed_with_a_secret_that_only_its_maker_has_seen() {
    let scene = Scene::new().await;
    let owner = scene.owner("pro").await;
    let receiver = receivers::webhook(0, &scene.identity(), Arc::default(), |_| receivers::status(200));
    let made = create(&owner, webhook_sink("hook", receiver.port)).await;
    let secret = made.signing_secret;
    assert!(
        secret.starts_with("bt_whsec_") && secret.len() == 9 + 38,
        "{}",
        secret.len()
    );
    scene.happen(&owner, 5);
    delivered(&owner, "hook", 5).await;
    let post = &receiver.taken()[0];
    assert!(verified(&secret, post));
    assert!(!verified("bt_whsec_another", post));
    let changed = Post {
        body: [&post.body[..], b" "].concat().into(),
        ..post.clone()
    };
    assert!(!verified(&secret, &changed));
    // Nobody else is shown it, and it is stored sealed.
    let schema = format!("t_{}", &owner.tenant().to_string()[4..]);
    let stored = scene.world.db.sql(&format!("SELECT s::text FROM \"{schema}\".audit_sink AS s UNION ALL SELECT d::text FROM tenant.audit_delivery AS d"));
    assert!(stored.contains("btv1:") && !stored.contains("whsec"), "{stored}");
    assert!(!format!("{:?}", listed(&owner).await).contains("whsec"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_vault_delays_webhooks_and_loses_nothing() {
    let scene = Scene::new().await;
    let owner = scene.owner("pro").await;
    let receiver = receivers::webhook(0, &scene.identity(), Arc::default(), |_| receivers::status(200));
    create(&owner, webhook_sink("hook", receiver.port)).await;
    scene.world.vault.seal(true);
    let ids = scene.happen(&owner, 3);
    until(&owner, "hook", |sink| {
        sink.last_error.contains("cannot be opened")
    })
    .await;
    let refused = owner.refused(webhook_sink("other", receiver.port)).await;
    assert_eq!(refused.code, Code::Unavailable);
    scene.world.vault.seal(false);
    delivered(&owner, "hook", ids.len()).await;
    assert_eq!(ids_of_posts(&receiver.taken()), ids);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receivers_that_answer_nothing_hold_up_nobody() {
    let scene = Scene::new().await;
    // More of them than a process has places.
    let (holes, silent): (Vec<Receiver<()>>, _) = (
        (0..2).map(|_| receivers::black_hole()).collect(),
        receivers::webhook(0, &scene.identity(), Arc::default(), |_| None),
    );
    for _ in 0..2 {
        let owner = scene.owner("enterprise").await;
        for at in 0..10 {
            let request = match at % 3 {
                0 => syslog_sink(&format!("hole-{at}"), holes[0].port),
                1 => webhook_sink(&format!("hole-{at}"), holes[1].port),
                _ => webhook_sink(&format!("hole-{at}"), silent.port),
            };
            create(&owner, request).await;
        }
        scene.happen(&owner, 2);
    }
    eventually("attempts", || {
        holes.iter().map(Receiver::connections).sum::<usize>() >= 6
    })
    .await;
    let owner = scene.owner("pro").await;
    let receiver = receivers::syslog(0, &scene.identity(), Arc::default(), usize::MAX);
    create(&owner, syslog_sink("siem", receiver.port)).await;
    let mut ids = scene.happen(&owner, 5);
    // The first ones hold all places for one attempt at most.
    delivered(&owner, "siem", ids.len()).await;
    // From then on they are among themselves.
    for _ in 0..5 {
        let begun = Instant::now();
        ids.extend(scene.happen(&owner, 5));
        delivered(&owner, "siem", ids.len()).await;
        assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    }
    assert_eq!(ids_of_messages(&receiver.taken()), ids);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_whose_certificate_is_not_trusted_gets_nothing() {
    let scene = Scene::new().await;
    let owner = scene.owner("pro").await;
    let elsewhere = tempfile::tempdir().unwrap();
    let stranger = Authority::new(elsewhere.path()).issue("receiver");
    let receiver = receivers::syslog(0, &stranger, Arc::default(), usize::MAX);
    let expired = scene.authority.issue_as("expired", &[], -60);
    let late = receivers::webhook(0, &expired, Arc::default(), |_| receivers::status(200));
    create(&owner, syslog_sink("siem", receiver.port)).await;
    create(&owner, webhook_sink("hook", late.port)).await;
    scene.happen(&owner, 1);
    let sink = until(&owner, "siem", |sink| !sink.last_error.is_empty()).await;
    assert!(
        sink.last_error.starts_with("TLS: invalid peer certificate"),
        "{}",
        sink.last_error
    );
    let sink = until(&owner, "hook", |sink| !sink.last_error.is_empty()).await;
    assert!(
        sink.last_error
            .starts_with("TLS: invalid peer certificate: certificate expired"),
        "{}",
        sink.last_error
    );
    assert!(receiver.taken().is_empty() && late.taken().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_inside_the_installation_are_refused_when_made_and_when_used() {
    let world = World::with_flags(vec!["--tenant-audit-sink-pause=20ms".to_owned()]).await;
    let scene = Scene {
        world,
        authority: Authority::new(tempfile::tempdir().unwrap().path()),
        folder: tempfile::tempdir().unwrap(),
    };
    let owner = scene.owner("enterprise").await;
    for host in [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "10.0.0.5",
        "172.16.1.1",
        "192.168.0.1",
        "169.254.169.254",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "[::ffff:127.0.0.1]",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "100.100.100.200",
    ] {
        let refused = owner
            .refused(sink(
                "hook",
                SinkKind::Webhook,
                &format!("https://{host}/"),
                AuditFormat::Ecs,
            ))
            .await;
        assert_eq!(
            (refused.code, refused.reason.as_str(), refused.field.as_str()),
            (Code::InvalidArgument, "SINK_ADDRESS_FORBIDDEN", "sink.url"),
            "{host}"
        );
        let refused = owner
            .refused(sink(
                "log",
                SinkKind::Syslog,
                &format!("syslog+tls://{host}:6514"),
                AuditFormat::Cef,
            ))
            .await;
        assert_eq!(refused.reason, "SINK_ADDRESS_FORBIDDEN", "{host}");
    }
    // A name may lead elsewhere later: it is looked at again, and nothing is connected to.
    create(
        &owner,
        sink("hook", SinkKind::Webhook, "https://1.1.1.1/", AuditFormat::Ecs),
    )
    .await;
    let inside = receivers::black_hole();
    let schema = format!("t_{}", &owner.tenant().to_string()[4..]);
    scene.world.db.sql(&format!(
        "UPDATE \"{schema}\".audit_sink SET url = 'https://localhost:{}/'",
        inside.port
    ));
    scene.happen(&owner, 1);
    until(&owner, "hook", |sink| {
        sink.last_error == "the host's address is inside the installation or not of the internet"
    })
    .await;
    assert_eq!(inside.connections(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_in_a_folder_of_the_tenant_and_can_be_rotated() {
    let scene = Scene::new().await;
    let (owner, other) = (scene.owner("pro").await, scene.owner("pro").await);
    create(&owner, sink("archive", SinkKind::File, "", AuditFormat::Cef)).await;
    create(&other, sink("archive", SinkKind::File, "", AuditFormat::Cef)).await;
    let home = scene.folder.path().join("files").join(owner.tenant().to_string());
    let path = home.join("archive.log");
    scene.happen(&owner, 3);
    scene.happen(&other, 1);
    delivered(&other, "archive", 1).await;
    delivered(&owner, "archive", 3).await;
    let lines = |path: &std::path::Path| {
        fs::read_to_string(path)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(lines(&path).len(), 3);
    assert!(lines(&path)[0].starts_with("CEF:0|Trailmesh|Trailmesh|"));
    fs::rename(&path, home.join("archive.log.1")).unwrap();
    scene.happen(&owner, 2);
    let sink = delivered(&owner, "archive", 5).await;
    assert_eq!((lines(&path).len(), sink.last_error.as_str()), (2, ""));
    let _held = fs::File::open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    scene.happen(&owner, 1);
    let sink = delivered(&owner, "archive", 6).await;
    assert!(
        sink.last_error.contains("not in the folder"),
        "{}",
        sink.last_error
    );
    assert_eq!(lines(&path).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_bring_everything_once() {
    let scene = Scene::new().await;
    scene.world.start_apart().await;
    let owner = scene.owner("pro").await;
    let (syslog, webhook) = (
        receivers::syslog(0, &scene.identity(), Arc::default(), usize::MAX),
        receivers::webhook(0, &scene.identity(), Arc::default(), |_| receivers::status(200)),
    );
    create(&owner, syslog_sink("siem", syslog.port)).await;
    create(&owner, webhook_sink("hook", webhook.port)).await;
    let mut ids = Vec::new();
    for _ in 0..12 {
        ids.extend(scene.happen(&owner, 8));
        delivered(&owner, "hook", ids.len()).await;
    }
    delivered(&owner, "siem", ids.len()).await;
    assert_eq!(ids_of_posts(&webhook.taken()), ids);
    assert_eq!(ids_of_messages(&syslog.taken()), ids);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_killed_while_it_delivers_loses_nothing() {
    let (folder, authority, flags) = Scene::prepare();
    let scene = Scene {
        world: World::apart_with_flags(flags).await,
        authority,
        folder,
    };
    scene.world.start_apart().await;
    let owner = scene.owner("pro").await;
    // The first post is never answered; it is under way when the service is killed.
    let receiver = receivers::webhook(0, &scene.identity(), Arc::default(), |number| {
        if number == 1 { None } else { receivers::status(200) }
    });
    create(&owner, webhook_sink("hook", receiver.port)).await;
    let mut ids = scene.happen(&owner, 20);
    eventually("a post", || receiver.connections() == 1).await;
    scene.world.kill_apart();
    ids.extend(scene.happen(&owner, 20));
    scene.world.start_apart().await;
    // The lease of the one that was killed ends within half a minute.
    eventually("the rest", || {
        first_of_each(&ids_of_posts(&receiver.taken())).len() == 40
    })
    .await;
    assert_eq!(first_of_each(&ids_of_posts(&receiver.taken())), ids);
}

/// Nobody here wrote it: both of its libraries for TLS, and one of them does not end a connection as RFC 5425 says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rsyslog_takes_everything_with_either_of_its_libraries_and_after_it_was_killed() {
    let scene = Scene::new().await;
    let owner = scene.owner("pro").await;
    let identity = scene.identity();
    for (driver, from) in [("ossl", 0), ("gtls", 50)] {
        let home = scene.folder.path().join(driver);
        fs::create_dir(&home).unwrap();
        let port = testkit::free_port();
        let mut rsyslog = testkit::Rsyslog::start(&home, driver, &identity, port);
        create(&owner, syslog_sink(driver, port)).await;
        let mut ids = scene.happen(&owner, 30);
        delivered(&owner, driver, from + 30).await;
        eventually("the file", || ids_of_messages(&rsyslog.taken()).len() >= 30).await;
        rsyslog.kill();
        ids.extend(scene.happen(&owner, 20));
        until(&owner, driver, |sink| {
            sink.last_error.starts_with("no connection")
        })
        .await;
        rsyslog = testkit::Rsyslog::start(&home, driver, &identity, port);
        delivered(&owner, driver, from + 50).await;
        eventually("the rest", || {
            first_of_each(&ids_of_messages(&rsyslog.taken())).len() >= 50
        })
        .await;
        assert_eq!(first_of_each(&ids_of_messages(&rsyslog.taken())), ids);
        owner
            .call(DeleteAuditSinkRequest {
                sink_id: listed(&owner).await[0].id.clone(),
            })
            .await
            .unwrap();
    }
}
