//! What happens to the main job when something is down: the table of the blueprint (§7), from the server's log to the answer of a question.
//!
//! Real processes, one real server, one real agent. Somebody asks the whole time, and somebody writes to the server the whole time. A refusal must
//! come within the method's deadline and say a known reason, an answer must be the right one, and in the end the agent's history is the server's log:
//! no change lost, none doubled.

use std::{
    ffi::OsString,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use testkit::{Engine, Server};
use tokio::task::{JoinHandle, block_in_place};

use crate::{
    apart::Apart,
    beside::{Beside, register},
    mesh::Caller,
    person::Person,
};

/// How soon after the end of a fault everything is reachable again.
const REACHABLE: Duration = Duration::from_secs(60);

/// How long the gateway waits until it is written down that somebody reads, each of two times.
const WRITTEN: Duration = Duration::from_secs(3);

/// Between two looks, and between two calls of a load: a bound on the work, never a proof.
const LOOK: Duration = Duration::from_millis(25);

/// A question that anybody may ask twice, and how long its answer may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    /// Changes of a table that nobody writes to any more: always the same.
    Orders,
    /// The newest changes of the table that is written to.
    Ledger,
    Status,
}

impl Question {
    const ALL: [Self; 3] = [Self::Orders, Self::Ledger, Self::Status];

    /// The method's own deadline, and what a busy machine needs to notice it.
    fn bound(self) -> Duration {
        Duration::from_secs(if self == Self::Status { 15 } else { 30 }) + Duration::from_secs(3)
    }

    async fn ask(self, caller: &Caller) -> Sample {
        let table = |name| json!({"tables": [{"schema": "shop", "table": name}]});
        let (method, path, body) = match self {
            Self::Orders => (
                Method::POST,
                "/v1/servers/source/changes:query",
                Some(json!({"filter": table("orders"), "order": "ORDER_OLDEST"})),
            ),
            Self::Ledger => (
                Method::POST,
                "/v1/servers/source/changes:query",
                Some(json!({"filter": table("ledger"), "pageSize": 5})),
            ),
            Self::Status => (Method::GET, "/v1/servers/source/status", None),
        };
        let begun = Instant::now();
        let outcome = outcome(caller, method, path, body).await;
        Sample {
            question: self,
            begun,
            took: begun.elapsed(),
            outcome,
        }
    }
}

/// What came of a call.
#[derive(Clone, Debug)]
enum Outcome {
    Answered(Value),
    /// With its status, its reason, and all of it.
    Refused(StatusCode, String, String),
    /// There was nobody to talk to.
    Cut(String),
}

async fn outcome(caller: &Caller, method: Method, path: &str, body: Option<Value>) -> Outcome {
    let mut request = caller
        .client
        .request(method, format!("{}{path}", caller.url))
        .bearer_auth(&caller.credential)
        .header("x-trailmesh-tenant", &caller.tenant)
        // Longer than any deadline of the mesh: whoever waits for this, waited too long.
        .timeout(Duration::from_secs(50));
    if let Some(body) = body {
        request = request
            .header("content-type", "application/json")
            .body(body.to_string());
    }
    let answer = match request.send().await {
        Ok(answer) => answer,
        Err(error) => return Outcome::Cut(format!("{error:?}")),
    };
    let status = answer.status();
    let text = match answer.text().await {
        Ok(text) => text,
        Err(error) => return Outcome::Cut(format!("{error:?}")),
    };
    let json: Value = serde_json::from_str(&text).unwrap_or_default();
    if status.is_success() {
        return Outcome::Answered(json);
    }
    let details = json["error"]["details"].as_array().cloned().unwrap_or_default();
    let reason = details.iter().find_map(|detail| detail["reason"].as_str());
    Outcome::Refused(status, reason.unwrap_or_default().to_owned(), text)
}

/// One call of a load.
#[derive(Clone, Debug)]
struct Sample {
    question: Question,
    begun: Instant,
    took: Duration,
    outcome: Outcome,
}

impl Sample {
    fn says(&self, wanted: &str) -> bool {
        matches!(&self.outcome, Outcome::Refused(_, reason, _) if reason == wanted)
    }

    fn mentions(&self, word: &str) -> bool {
        matches!(&self.outcome, Outcome::Refused(_, _, text) if text.contains(word))
    }

    fn answered(&self) -> bool {
        matches!(self.outcome, Outcome::Answered(_))
    }
}

/// People who ask one after another, until they are told to stop.
struct Readers {
    stop: Arc<AtomicBool>,
    samples: Arc<Mutex<Vec<Sample>>>,
    workers: Vec<JoinHandle<()>>,
}

impl Readers {
    fn start(caller: &Caller) -> Self {
        let (stop, samples) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let workers = Question::ALL.map(|question| {
            let (caller, stop, samples) = (caller.clone(), stop.clone(), samples.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let sample = question.ask(&caller).await;
                    samples.lock().expect("samples").push(sample);
                    tokio::time::sleep(LOOK).await;
                }
            })
        });
        Self {
            stop,
            samples,
            workers: workers.into(),
        }
    }

    /// The calls that began at this moment or later, and ended.
    fn since(&self, moment: Instant) -> Vec<Sample> {
        let samples = self.samples.lock().expect("samples");
        let later = samples.iter().filter(|sample| sample.begun >= moment);
        later.cloned().collect()
    }

    /// Waits until the calls since `moment` are as they should be.
    async fn until(&self, moment: Instant, what: &str, enough: impl Fn(&[Sample]) -> bool) {
        while !enough(&self.since(moment)) {
            assert!(
                moment.elapsed() < REACHABLE,
                "{what}: not in {REACHABLE:?}; the last calls: {:#?}",
                self.since(moment).iter().rev().take(3).collect::<Vec<_>>()
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            worker.await.expect("a worker");
        }
    }
}

/// Somebody who writes to the server, whether or not it is there.
struct Writer {
    stop: Arc<AtomicBool>,
    worker: std::thread::JoinHandle<u32>,
}

impl Writer {
    fn start(server: &Server) -> Self {
        let client = server.client();
        let own = |text: &std::ffi::OsStr| text.to_owned();
        let program = own(client.get_program());
        let arguments: Vec<OsString> = client.get_args().map(own).collect();
        let environment: Vec<(OsString, OsString)> = client
            .get_envs()
            .filter_map(|(name, value)| Some((own(name), own(value?))))
            .collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let worker = std::thread::spawn(move || {
            let (mut nth, mut written) = (0, 0);
            while !stopped.load(Ordering::Relaxed) {
                nth += 1;
                let script = format!(
                    "START TRANSACTION; INSERT INTO shop.ledger VALUES ({nth}, 0); \
                     UPDATE shop.ledger SET n = n + 1 WHERE id > {nth} - 3; DELETE FROM shop.ledger WHERE id = {nth} - 5; COMMIT"
                );
                let ran = Command::new(&program)
                    .args(&arguments)
                    .args(["--connect-timeout=5", "-e", &script])
                    .envs(environment.iter().map(|(name, value)| (name, value)))
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status();
                written += u32::from(ran.is_ok_and(|status| status.success()));
                std::thread::sleep(LOOK);
            }
            written
        });
        Self { stop, worker }
    }

    /// How many transactions were confirmed.
    fn end(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.worker.join().expect("a writer")
    }
}

/// Something that is killed and comes back: what others need to come back, before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Redis,
    Postgres,
    Auth,
    Vault,
    Tenant,
    Query,
    Agent,
    Gateway,
    Source,
}

impl Fault {
    const ALL: [Self; 9] = [
        Self::Redis,
        Self::Postgres,
        Self::Auth,
        Self::Vault,
        Self::Tenant,
        Self::Query,
        Self::Agent,
        Self::Gateway,
        Self::Source,
    ];

    /// The reasons with which a question may be refused until all is well again; the first ones show that it is noticed.
    fn reasons(self) -> &'static [&'static str] {
        match self {
            Self::Redis | Self::Vault | Self::Source => &[],
            Self::Auth => &["AUTH_UNAVAILABLE", "PEER_UNREACHABLE", "PEER_CONNECTION_BROKEN"],
            Self::Tenant => &["AUDIT_UNAVAILABLE", "PEER_UNREACHABLE", "PEER_CONNECTION_BROKEN"],
            Self::Postgres => &[
                "AUTH_UNAVAILABLE",
                "AUDIT_UNAVAILABLE",
                "DATABASE_UNAVAILABLE",
                "DEADLINE_EXCEEDED",
            ],
            Self::Query => &[
                "PEER_UNREACHABLE",
                "PEER_CONNECTION_BROKEN",
                "AGENT_NOT_CONNECTED",
            ],
            Self::Gateway => &["AGENT_NOT_CONNECTED"],
            Self::Agent => &["AGENT_NOT_CONNECTED", "SERVER_NOT_FOLLOWED"],
        }
    }

    /// Whether the calls since it began show it: refusals where there must be some, else answers to every question.
    fn shows(self, samples: &[Sample]) -> bool {
        let refused = |reasons: &[&str]| {
            samples
                .iter()
                .any(|one| reasons.iter().any(|reason| one.says(reason)))
        };
        match self {
            Self::Redis | Self::Vault | Self::Source => Question::ALL.iter().all(|question| {
                let answers = samples
                    .iter()
                    .filter(|one| one.question == *question && one.answered());
                answers.count() >= 10
            }),
            Self::Gateway => samples.iter().any(|one| matches!(one.outcome, Outcome::Cut(_))),
            Self::Agent => {
                let seen =
                    |one: &&Sample| one.says("AGENT_NOT_CONNECTED") && one.mentions("it was last seen at 20");
                let known = |one: &&Sample| match &one.outcome {
                    Outcome::Answered(status) => {
                        status["agentConnected"] != true
                            && status["agentLastSeenTime"].is_string()
                            && position(status).is_some()
                    }
                    _ => false,
                };
                let of = |question| samples.iter().filter(move |one| one.question == question);
                of(Question::Orders).any(|one| seen(&one)) && of(Question::Status).any(|one| known(&one))
            }
            Self::Auth | Self::Tenant | Self::Postgres | Self::Query => refused(self.reasons()),
        }
    }
}

/// All of it, and who works with it.
struct World {
    readers: Readers,
    writer: Writer,
    agent: Beside,
    owner: Person,
    orders: Value,
    apart: Apart,
    source: Server,
}

impl World {
    async fn start(folder: &Path, apart: Apart) -> Self {
        let mut owner = Person::new(&apart.place, "owner").await;
        owner.found_tenant("The shop").await;
        let agent = Beside::start(&apart.place, &mut owner, "beside").await;
        let source = block_in_place(|| shop(folder));
        register(&mut owner, "source", &source).await;
        reachable(&owner.caller, &source, None).await;
        block_in_place(|| {
            source.sql(
                "INSERT INTO shop.ledger VALUES (0, 0); INSERT INTO shop.orders VALUES (1, 'new', 9.90), (2, 'paid', 20.00); UPDATE shop.orders SET status = 'sent'; \
                 DELETE FROM shop.orders WHERE id = 2",
            )
        });
        reachable(&owner.caller, &source, None).await;
        let orders = orders(&owner.caller).await.expect("an answer");
        assert_eq!(orders.as_array().map(Vec::len), Some(5), "{orders}");
        Self {
            readers: Readers::start(&owner.caller),
            writer: Writer::start(&source),
            agent,
            owner,
            orders,
            apart,
            source,
        }
    }

    fn strike(&mut self, fault: Fault) {
        match fault {
            Fault::Redis => self.apart.redis.signal("-KILL"),
            Fault::Auth => self.apart.auth.kill(),
            Fault::Vault => self.apart.vault.kill(),
            Fault::Tenant => self.apart.tenant.kill(),
            Fault::Query => self.apart.query.kill(),
            Fault::Gateway => self.apart.gateway.kill(),
            Fault::Postgres => self.apart.postgres.signal("-KILL"),
            Fault::Agent => self.agent.kill(),
            Fault::Source => self.source.kill(),
        }
    }

    fn mend(&mut self, fault: Fault) {
        block_in_place(|| match fault {
            Fault::Redis => self.apart.redis.start_again(),
            Fault::Auth => self.apart.auth.start_again(),
            Fault::Vault => self.apart.vault.start_again(),
            Fault::Tenant => self.apart.tenant.start_again(),
            Fault::Query => self.apart.query.start_again(),
            Fault::Gateway => self.apart.gateway.start_again(),
            Fault::Postgres => self.apart.postgres.start_again(),
            Fault::Agent => self.agent.start_again(),
            Fault::Source => self.source.start_again(&[]),
        });
    }

    /// Everything is reachable again within a minute, and the same question has the same answer.
    async fn well(&self) {
        reachable(&self.owner.caller, &self.source, Some(&self.orders)).await;
    }

    /// Nothing hung, nothing was answered wrongly, and what was refused says why.
    async fn decent(&self, since: Instant, faults: &[Fault]) {
        let ten = |samples: &[Sample]| samples.len() >= 10;
        self.readers.until(since, "ten calls", ten).await;
        let samples = self.readers.since(since);
        let mut held_up = 0;
        for sample in &samples {
            let (question, took, outcome) = (&sample.question, &sample.took, &sample.outcome);
            assert!(*took < question.bound(), "{faults:?}: {question:?} took {took:?}");
            match outcome {
                Outcome::Answered(answer) if *question == Question::Orders => {
                    assert_eq!(answer["changes"], self.orders, "{faults:?}");
                }
                Outcome::Answered(_) => {}
                Outcome::Refused(_, reason, _) if reason == "AUDIT_UNAVAILABLE" && *took >= WRITTEN => {
                    held_up += 1
                }
                Outcome::Refused(status, reason, text) => {
                    let known = faults
                        .iter()
                        .any(|fault| fault.reasons().contains(&reason.as_str()));
                    let allowed = [StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT];
                    assert!(
                        known && allowed.contains(status),
                        "{faults:?}: {question:?} after {:?}, {took:?}: {status} {text}",
                        sample.begun - since
                    );
                    for word in ["sqlx", "postgres", "panicked", "127.0.0.1"] {
                        assert!(!text.to_lowercase().contains(word), "{text}");
                    }
                }
                Outcome::Cut(why) => {
                    assert!(
                        faults.contains(&Fault::Gateway),
                        "{faults:?}: {question:?}: {why}"
                    );
                }
            }
        }
        let known = |fault: &Fault| fault.reasons().contains(&"AUDIT_UNAVAILABLE");
        if !faults.iter().any(known) {
            assert_few(held_up, samples.len());
        }
    }

    /// Nobody was refused anything, and nobody waited too long.
    fn unfailing(&self, since: Instant) {
        let samples = self.readers.since(since);
        let mut held_up = 0;
        for sample in &samples {
            let (question, took, at) = (sample.question, sample.took, sample.begun - since);
            let answer = match &sample.outcome {
                Outcome::Answered(answer) => answer,
                // Both tries took as long as one may: a replica that is away refuses at once.
                _ if sample.says("AUDIT_UNAVAILABLE") && took >= WRITTEN * 2 => {
                    held_up += 1;
                    continue;
                }
                other => panic!("{question:?} after {at:?}, {took:?}: {other:?}"),
            };
            assert!(took < question.bound(), "{question:?} after {at:?} took {took:?}");
            if question == Question::Orders {
                assert_eq!(answer["changes"], self.orders);
            }
        }
        assert_few(held_up, samples.len());
    }

    /// Everybody stops, and what the agent has is what the server logged.
    async fn end(self, least: u32) {
        self.readers.end().await;
        let written = block_in_place(|| self.writer.end());
        assert!(written >= least, "only {written} transactions were written");
        reachable(&self.owner.caller, &self.source, Some(&self.orders)).await;
        let logged = block_in_place(|| logged(&self.source));
        let kept = kept(&self.owner.caller).await;
        let first = logged.iter().zip(&kept).position(|(one, other)| one != other);
        assert_eq!(
            (first, logged.len()),
            (None, kept.len()),
            "the server logged {:?}, the agent has {:?}",
            first.map(|at| &logged[at]),
            first.map(|at| &kept[at])
        );
        // At least two changes in each.
        assert!(kept.len() >= 2 * usize::try_from(written).expect("a length"));
    }
}

/// A machine at work on other tests may hold up one call that long, or of many a few.
fn assert_few(held_up: usize, calls: usize) {
    let few = held_up <= 1.max(calls / 20);
    assert!(few, "of {calls} calls {held_up} waited for the audit log");
}

/// A shop on a server of its own.
fn shop(folder: &Path) -> Server {
    let server = Server::private(Engine::Mariadb, &folder.join("source"), &[]);
    server.sql(
        "CREATE DATABASE shop CHARACTER SET utf8mb4; \
         CREATE TABLE shop.orders (id INT PRIMARY KEY, status VARCHAR(20), total DECIMAL(10,2)); \
         CREATE TABLE shop.ledger (id INT PRIMARY KEY, n INT)",
    );
    server
}

/// The changes of the table that nobody writes to.
async fn orders(caller: &Caller) -> Option<Value> {
    match Question::Orders.ask(caller).await.outcome {
        Outcome::Answered(mut answer) => Some(answer["changes"].take()),
        _ => None,
    }
}

/// Until the agent is connected, has all that the server committed so far, and the answer is what it was.
async fn reachable(caller: &Caller, source: &Server, same: Option<&Value>) {
    let (file, offset) = block_in_place(|| source.position());
    let deadline = Instant::now() + REACHABLE;
    loop {
        let status = Question::Status.ask(caller).await.outcome;
        if let Outcome::Answered(answer) = &status
            && answer["agentConnected"] == true
            && position(answer) >= Some((file.clone(), offset))
        {
            match same {
                None => return,
                Some(same) if orders(caller).await.as_ref() == Some(same) => return,
                Some(_) => {}
            }
        }
        assert!(
            Instant::now() < deadline,
            "not reachable up to {file}:{offset}: {status:?}"
        );
        tokio::time::sleep(LOOK).await;
    }
}

fn position(status: &Value) -> Option<(String, u64)> {
    let position = &status["state"]["position"];
    let offset = position["offset"].as_str()?.parse().ok()?;
    Some((position["file"].as_str()?.to_owned(), offset))
}

/// A change of the ledger: what was done, and the values before and after, as the server's own tool lists them.
type Change = (String, Vec<i64>);

/// What the server logged of the ledger, as its own tool prints it.
fn logged(source: &Server) -> Vec<Change> {
    let (mut committed, mut open): (Vec<Change>, Vec<Change>) = (Vec::new(), Vec::new());
    for line in source.sql("SHOW BINARY LOGS").lines() {
        let (file, _) = line.split_once('\t').expect("two columns");
        let printed = source.print_binlog(&source.binlog(file), &["-v", "--base64-output=DECODE-ROWS"]);
        let mut ours = false;
        for line in String::from_utf8(printed).expect("text").lines() {
            if let Some(rest) = line.strip_prefix("### ") {
                if let Some(value) = rest.trim_start().strip_prefix('@') {
                    if let (true, Some((_, value)), Some(change)) =
                        (ours, value.split_once('='), open.last_mut())
                    {
                        change.1.push(value.trim().parse().expect("a number"));
                    }
                } else if let Some((what, _)) = rest.split_once(" `") {
                    ours = rest.ends_with("`shop`.`ledger`");
                    if ours {
                        let what = what.split(' ').next().expect("a word").to_lowercase();
                        open.push((what, Vec::new()));
                    }
                }
            } else if line.starts_with("COMMIT") {
                committed.append(&mut open);
            } else if line.starts_with("START TRANSACTION") {
                // What a crash cut off was never committed.
                open.clear();
            }
        }
    }
    committed
}

/// What the agent has of the ledger, page by page.
async fn kept(caller: &Caller) -> Vec<Change> {
    let (mut all, mut page) = (Vec::new(), String::new());
    loop {
        let body = json!({
            "filter": {"tables": [{"schema": "shop", "table": "ledger"}]},
            "order": "ORDER_OLDEST", "pageSize": 1000, "pageToken": page,
        });
        let answer = caller.post("/v1/servers/source/changes:query", body).await.ok();
        assert_eq!(answer["coverage"]["complete"], true, "{}", answer["coverage"]);
        for change in answer["changes"].as_array().expect("changes") {
            let mut values = Vec::new();
            for side in [&change["before"], &change["after"]] {
                for column in ["id", "n"] {
                    values.extend(side[column].as_i64());
                }
            }
            all.push((change["op"].as_str().expect("an operation").to_owned(), values));
        }
        page = answer["nextPageToken"].as_str().unwrap_or_default().to_owned();
        if page.is_empty() {
            return all;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_part_is_killed_and_comes_back_and_no_change_is_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut world = World::start(folder.path(), block_in_place(Apart::start)).await;
    for fault in Fault::ALL {
        let struck = Instant::now();
        block_in_place(|| world.strike(fault));
        let down = Instant::now();
        let shows = |samples: &[Sample]| fault.shows(samples);
        world
            .readers
            .until(down, &format!("{fault:?} is down"), shows)
            .await;
        world.mend(fault);
        world.well().await;
        world.decent(struck, &[fault]).await;
    }
    world.end(50).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_parts_at_a_time_are_killed_and_come_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut world = World::start(folder.path(), block_in_place(Apart::start)).await;
    for seed in [1_u64, 2, 3, 4, 5] {
        let mut random = Random(seed);
        let first = random.below(Fault::ALL.len());
        let second = (first + 1 + random.below(Fault::ALL.len() - 1)) % Fault::ALL.len();
        let pair = [Fault::ALL[first], Fault::ALL[second]];
        let struck = Instant::now();
        block_in_place(|| pair.into_iter().for_each(|fault| world.strike(fault)));
        let down = Instant::now();
        let enough = |samples: &[Sample]| samples.len() >= 10;
        world
            .readers
            .until(down, &format!("{pair:?} are down"), enough)
            .await;
        let mut back = pair;
        back.sort_unstable();
        for fault in back {
            world.mend(fault);
        }
        world.well().await;
        world.decent(struck, &pair).await;
    }
    world.end(20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_of_which_there_are_two_are_restarted_one_by_one_and_no_question_fails() {
    let folder = tempfile::tempdir().expect("a folder");
    let apart = block_in_place(Apart::start_balanced);
    let mut others = block_in_place(|| apart.one_more_of_each());
    let mut world = World::start(folder.path(), apart).await;
    let begun = Instant::now();
    for (service, other) in world.apart.services().into_iter().zip(&mut others) {
        for replica in [service, other] {
            let asked = Instant::now();
            let ended = block_in_place(|| replica.terminate());
            assert!(ended.success(), "{} ended with {ended}", replica.name());
            block_in_place(|| replica.start_again());
            println!("{} restarted in {:?}", replica.name(), asked.elapsed());
            // Somebody asked everything while it was away or since.
            let all = |samples: &[Sample]| {
                Question::ALL
                    .iter()
                    .all(|one| samples.iter().any(|of| of.question == *one))
            };
            world.readers.until(asked, "questions", all).await;
        }
    }
    world.well().await;
    world.unfailing(begun);
    world.end(20).await;
}

/// SplitMix64: the same numbers from the same seed, everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).expect("below a usize")
    }
}
