//! What happens when something is down: the table of the blueprint (§7), against real processes that are killed and paused under load.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::task::{JoinHandle, block_in_place};

use crate::{
    apart::Apart,
    mesh::{Answer, Caller},
    person::Person,
};

/// Longer than the gateway's default deadline of a call, which is 15 s.
const NEVER: Duration = Duration::from_secs(20);

/// One call in the load: when it began, how long it took, what came.
struct Sample {
    begun: Instant,
    took: Duration,
    answer: Answer,
}

/// Eight workers that repeat a call until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<Vec<Sample>>>,
}

impl Load {
    fn start(caller: &Caller, path: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut workers = Vec::new();
        for _ in 0..8 {
            let (caller, stop) = (caller.clone(), stop.clone());
            workers.push(tokio::spawn(async move {
                let mut samples = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    let answer = caller.get(path).await;
                    samples.push(Sample {
                        begun,
                        took: begun.elapsed(),
                        answer,
                    });
                    // A bound on the load: a hundred calls a second and worker.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                samples
            }));
        }
        Self { stop, workers }
    }

    async fn end(self) -> Vec<Sample> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for worker in self.workers {
            all.append(&mut worker.await.expect("a worker"));
        }
        all
    }
}

/// Nothing hung, nothing was let in that should not, and nobody saw our insides.
fn decent(samples: &[Sample], allowed: &[StatusCode]) {
    assert!(samples.len() > 50, "only {} calls", samples.len());
    for sample in samples {
        assert!(sample.took < NEVER, "a call took {:?}", sample.took);
        assert!(
            allowed.contains(&sample.answer.status),
            "{} {}",
            sample.answer.status,
            sample.answer.text
        );
        for word in ["sqlx", "postgres", "panicked", "127.0.0.1"] {
            assert!(
                !sample.answer.text.to_lowercase().contains(word),
                "{}",
                sample.answer.text
            );
        }
    }
}

/// Asks until the call works again.
async fn recovers(caller: &Caller, path: &str) {
    let begun = Instant::now();
    while !caller.get(path).await.status.is_success() {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "{path} does not work again"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn pause(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

async fn owner(apart: &Apart) -> Person {
    let mut owner = Person::new(&apart.place, "owner").await;
    owner.found_tenant("Under fire").await;
    owner
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_paused_killed_and_back_costs_no_call() {
    let mut apart = Apart::start();
    let owner = owner(&apart).await;
    let load = Load::start(&owner.caller, "/v1/servers");
    pause(500).await;
    apart.redis.signal("-STOP");
    pause(1_500).await;
    apart.redis.signal("-CONT");
    pause(500).await;
    apart.redis.signal("-KILL");
    pause(1_500).await;
    // Logging in is counted strictly, by each gateway and auth for itself while there is no Redis.
    assert_eq!(owner.log_in("").await.status, StatusCode::OK);
    block_in_place(|| apart.redis.start_again());
    pause(1_000).await;
    let samples = load.end().await;
    decent(&samples, &[StatusCode::OK]);
    let slow = samples
        .iter()
        .filter(|sample| sample.took > Duration::from_secs(2))
        .count();
    // A machine at work on other tests may hold up a few; if calls waited for Redis, all of three seconds would.
    assert!(
        slow * 20 <= samples.len(),
        "of {} calls {slow} waited for Redis",
        samples.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_auth_nobody_is_let_in_after_five_seconds() {
    let mut apart = Apart::start();
    let owner = owner(&apart).await;
    let load = Load::start(&owner.caller, "/v1/servers");
    pause(500).await;
    apart.auth.kill();
    let killed = Instant::now();
    let stranger = owner
        .caller
        .with("bt_live_00000000000000000000000000000000000000");
    let refused = stranger.get("/v1/servers").await;
    assert!(
        matches!(
            refused.status,
            StatusCode::UNAUTHORIZED | StatusCode::SERVICE_UNAVAILABLE
        ),
        "{}",
        refused.text
    );
    pause(7_000).await;
    let restarted = Instant::now();
    block_in_place(|| apart.auth.start_again());
    recovers(&owner.caller, "/v1/servers").await;
    let samples = load.end().await;
    decent(&samples, &[StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE]);
    let mut refused = 0;
    for sample in &samples {
        let since = sample.begun.saturating_duration_since(killed);
        if since > Duration::from_millis(5_900) && sample.begun + sample.took < restarted {
            assert_eq!(
                sample.answer.status,
                StatusCode::SERVICE_UNAVAILABLE,
                "let in {since:?} after auth was gone"
            );
            assert_eq!(sample.answer.reason(), "AUTH_UNAVAILABLE");
            assert!(sample.answer.headers.contains_key("retry-after"));
            refused += 1;
        }
    }
    assert!(refused > 0, "nobody asked while auth was gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_service_holds_nobody_past_the_deadline() {
    let apart = Apart::start();
    let owner = owner(&apart).await;
    for (service, path) in [
        (&apart.auth, "/v1/tenant"),
        (&apart.tenant, "/v1/tenant"),
        (&apart.vault, "/v1/encryption"),
    ] {
        service.signal("-STOP");
        // Nobody asked for this tenant before, so that auth must be asked too.
        let fresh = owner.caller.within("tnt_01j00000000000000000000000");
        let caller = if service.name() == "auth" {
            &fresh
        } else {
            &owner.caller
        };
        let begun = Instant::now();
        let answer = caller.get(path).await;
        service.signal("-CONT");
        assert!(begun.elapsed() < NEVER, "held for {:?}", begun.elapsed());
        let expected = [StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT];
        assert!(
            expected.contains(&answer.status),
            "{} {}",
            answer.status,
            answer.text
        );
        recovers(&owner.caller, "/v1/servers").await;
    }
}

/// Waits until five more were made, on however slow a machine.
pub(crate) async fn more(count: &AtomicUsize) {
    let enough = count.load(Ordering::Relaxed) + 5;
    let begun = Instant::now();
    while count.load(Ordering::Relaxed) < enough {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "nothing is made any more"
        );
        pause(20).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_confirmed_survives_the_death_of_postgresql_and_tenant() {
    let mut apart = Apart::start();
    let owner = owner(&apart).await;
    let caller = owner.caller.clone();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let making = tokio::spawn(async move {
        let (mut made, mut nth) = (Vec::new(), 0);
        while !stopped.load(Ordering::Relaxed) {
            nth += 1;
            let name = format!("pool-{nth}");
            let begun = Instant::now();
            let answer = caller
                .call_with(Method::POST, "/v1/pools", "", Some(&json!({"name": name})))
                .await;
            assert!(begun.elapsed() < NEVER, "held for {:?}", begun.elapsed());
            match answer.status {
                StatusCode::OK => {
                    made.push(name);
                    counted.fetch_add(1, Ordering::Relaxed);
                    // All stay, and a tenant may have a hundred.
                    pause(100).await;
                }
                StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => pause(20).await,
                status => panic!("{status} {}", answer.text),
            }
        }
        made
    });
    more(&count).await;
    apart.postgres.signal("-KILL");
    pause(800).await;
    block_in_place(|| apart.postgres.start_again());
    recovers(&owner.caller, "/v1/servers").await;
    more(&count).await;
    apart.tenant.kill();
    pause(300).await;
    block_in_place(|| apart.tenant.start_again());
    recovers(&owner.caller, "/v1/servers").await;
    more(&count).await;
    stop.store(true, Ordering::Relaxed);
    let made = making.await.expect("a worker");
    let mut found = Vec::new();
    let mut page = String::new();
    loop {
        let answer = owner
            .caller
            .get(&format!("/v1/pools?pageSize=200&pageToken={page}"))
            .await
            .ok();
        let pools = answer["pools"].as_array().expect("pools").clone();
        found.extend(
            pools
                .iter()
                .map(|pool| pool["name"].as_str().expect("a name").to_owned()),
        );
        page = answer["nextPageToken"].as_str().unwrap_or_default().to_owned();
        if page.is_empty() {
            break;
        }
    }
    for name in &made {
        assert_eq!(
            found.iter().filter(|one| *one == name).count(),
            1,
            "{name} was confirmed"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_session_is_refused_by_every_gateway_within_a_second() {
    let apart = Apart::start();
    let owner = owner(&apart).await;
    let other = apart.another_gateway();
    let there = Caller {
        url: Apart::url(&other),
        ..owner.caller.clone()
    };
    for round in 0..5 {
        let answer = owner.log_in("").await.ok();
        let token = answer["tokens"]["accessToken"].as_str().expect("a token");
        let session = answer["session"]["id"].as_str().expect("an id");
        let (one, two) = (owner.caller.with(token), there.with(token));
        // Both gateways know it.
        assert!(one.get("/v1/servers").await.status.is_success());
        assert!(two.get("/v1/servers").await.status.is_success());
        owner
            .caller
            .delete(&format!("/v1/account/sessions/{session}"))
            .await
            .ok();
        let revoked = Instant::now();
        for caller in [&one, &two] {
            loop {
                let asked = revoked.elapsed();
                let answer = caller.get("/v1/servers").await;
                if answer.status == StatusCode::UNAUTHORIZED {
                    break;
                }
                assert!(
                    asked <= Duration::from_secs(1),
                    "round {round}: let in {asked:?} after it was revoked"
                );
            }
        }
    }
}
