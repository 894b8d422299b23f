//! The limiter as gateways use it, on a real Redis.
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use deadpool_redis::redis::{self, Client};

use super::{Decision, Key, Limit, Limiter, Options, Policy, Source, Store};

fn options(prefix: &str, call_timeout: Duration) -> Options {
    Options {
        prefix: prefix.to_owned(),
        home: "eu/1".to_owned(),
        call_timeout,
        connect_timeout: Duration::from_secs(5),
    }
}

fn limiter(url: &str, options: Options) -> Arc<Limiter> {
    let client = Client::open(url).expect("a URL");
    let limiter = Arc::new(Limiter::new(Some(Store::new(client, options))));
    tokio::spawn(Arc::clone(&limiter).tend());
    limiter
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "waited a minute for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn connected(limiter: &Limiter) {
    until("a connection to Redis", || {
        limiter.store.as_ref().is_some_and(|store| store.is_used())
    })
    .await;
}

fn key(policy: Policy, name: &str, units: u32) -> Key {
    Key {
        policy,
        name: name.to_owned(),
        limit: Limit::per_minute(units),
        cost: 1,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_gateways_with_two_thousand_calls_each_admit_exactly_the_limit() {
    let prefix = testkit::Redis::prefix();
    let url = &testkit::Redis::shared().url;
    let patient = options(&prefix, Duration::from_secs(60));
    let gateways: Vec<_> = (0..8).map(|_| limiter(url, patient.clone())).collect();
    for gateway in &gateways {
        connected(gateway).await;
    }
    let calls: Vec<_> = (0..16_000)
        .map(|call| {
            let gateway = Arc::clone(&gateways[call % gateways.len()]);
            let keys = [
                key(Policy::Tenant, "{t}:t", 5_000),
                key(Policy::User, "{t}:u", 100),
            ];
            tokio::spawn(async move { gateway.decide(&keys, false).await })
        })
        .collect();
    let mut admitted = 0;
    for call in calls {
        let decision = call.await.expect("a decision");
        assert_ne!(decision.source, Source::Local);
        admitted += u32::from(decision.admitted);
    }
    assert_eq!(admitted, 100);
    // All or nothing: the tenant paid for 100 calls, not for 16,000.
    let fresh = limiter(url, patient);
    connected(&fresh).await;
    let decision = fresh.decide(&[key(Policy::Tenant, "{t}:t", 5_000)], false).await;
    assert_eq!(decision.standings[0].remaining, 5_000 - 101);
}

#[tokio::test]
async fn a_refusal_is_remembered_without_asking_again_and_binds_no_other_key() {
    let gateway = limiter(
        &testkit::Redis::shared().url,
        options(&testkit::Redis::prefix(), Duration::from_secs(60)),
    );
    connected(&gateway).await;
    let mine = [
        key(Policy::Tenant, "{t}:t", 1_000),
        key(Policy::User, "{t}:mine", 2),
    ];
    let sources = [
        Source::Redis,
        Source::Redis,
        Source::Redis,
        Source::Memory,
        Source::Memory,
    ];
    for (call, source) in sources.into_iter().enumerate() {
        let decision = gateway.decide(&mine, false).await;
        assert_eq!((decision.source, decision.admitted), (source, call < 2));
        assert!(decision.admitted || decision.standings.iter().any(|standing| standing.refuses));
    }
    let others = [
        key(Policy::Tenant, "{t}:t", 1_000),
        key(Policy::User, "{t}:other", 2),
    ];
    let decision = gateway.decide(&others, false).await;
    assert!(decision.admitted);
    assert_eq!(
        decision.standings[0].remaining,
        1_000 - 3,
        "refused calls took nothing from the tenant"
    );
    // A larger plan counts at once.
    let larger = gateway.decide(&[key(Policy::User, "{t}:mine", 3)], false).await;
    assert!(larger.admitted);
}

/// Calls without pause until `end`, and says how many were admitted by whom and the longest wait.
async fn load(gateway: Arc<Limiter>, keys: [Key; 1], strict: bool, end: Instant) -> (u32, u32, Duration) {
    let (mut by_redis, mut alone, mut longest) = (0, 0, Duration::ZERO);
    while Instant::now() < end {
        let began = Instant::now();
        let Decision { admitted, source, .. } = gateway.decide(&keys, strict).await;
        longest = longest.max(began.elapsed());
        match source {
            Source::Redis => by_redis += u32::from(admitted),
            _ => alone += u32::from(admitted),
        }
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    (by_redis, alone, longest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_paused_killed_and_back_costs_no_call_more_than_a_bounded_wait() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = testkit::Redis::private(folder.path());
    let gateway = limiter(&server.url, options("t", Duration::from_millis(20)));
    connected(&gateway).await;
    for blow in ["-STOP", "-KILL"] {
        let name = format!("{{t}}:{blow}");
        let end = Instant::now() + Duration::from_secs(3);
        let running: Vec<_> = (0..4)
            .map(|_| {
                tokio::spawn(load(
                    Arc::clone(&gateway),
                    [key(Policy::User, &name, 2_000)],
                    false,
                    end,
                ))
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.signal(blow);
        let (mut admitted, mut alone) = (0, 0);
        for load in running {
            let (by_redis, local, longest) = load.await.expect("no panic");
            // 20 ms for a turn, 20 ms for the call, and the rest for a busy machine.
            assert!(longest < Duration::from_millis(500), "{blow}: {longest:?}");
            admitted += by_redis + local;
            alone += local;
        }
        assert!(alone > 0, "{blow}: the gateway went on alone");
        assert!(
            admitted <= 2_200,
            "{blow}: the window stayed warm, yet {admitted} were admitted"
        );
        if blow == "-STOP" {
            server.signal("-CONT");
        } else {
            server.start_again();
        }
        connected(&gateway).await;
        let back = gateway
            .decide(&[key(Policy::User, &format!("{{t}}:after {blow}"), 10)], false)
            .await;
        assert!(back.admitted);
    }
}

#[tokio::test]
async fn a_million_users_fit_into_400_megabytes() {
    let client = Client::open(testkit::Redis::shared().url.as_str()).expect("a URL");
    let mut connection = client.get_connection().expect("Redis");
    let prefix = testkit::Redis::prefix();
    let gateway = limiter(
        &testkit::Redis::shared().url,
        options(&prefix, Duration::from_secs(60)),
    );
    connected(&gateway).await;
    for units in [30, 600, 6_000] {
        let owner = format!("{{{}}}:{}", types::TenantId::fresh(), types::UserId::fresh());
        for _ in 0..30 {
            gateway.decide(&[key(Policy::User, &owner, units)], false).await;
        }
        let name = format!("{prefix}:rate:{owner}:{}", Limit::per_minute(units).kind());
        let bytes: u64 = redis::cmd("MEMORY")
            .arg("USAGE")
            .arg(&name)
            .query(&mut connection)
            .expect("its size");
        assert!(bytes <= 400, "{units}: {bytes}");
    }
}

#[tokio::test]
async fn without_redis_what_guards_codes_has_a_third_and_all_addresses_share_one_limit() {
    let client = Client::open("redis://127.0.0.1:1").expect("a URL");
    let gateway = Limiter::new(Some(Store::new(client, options("t", Duration::from_millis(20)))));
    let mut admitted = [0, 0];
    for (class, strict) in [false, true].into_iter().enumerate() {
        for _ in 0..100 {
            let keys = [key(Policy::Address, &format!("{{a{strict}}}"), 30)];
            admitted[class] += u32::from(gateway.decide(&keys, strict).await.admitted);
        }
    }
    assert_eq!(admitted, [30, 10]);
    let mut all = 0;
    for address in 0..1_000 {
        let keys = [key(Policy::Address, &format!("{{b{address}}}"), 30)];
        all += u32::from(gateway.decide(&keys, true).await.admitted);
    }
    assert!(all <= 200, "{all} guesses from a thousand addresses");
}

#[tokio::test]
async fn the_redis_of_another_cell_is_refused_and_never_used() {
    let prefix = testkit::Redis::prefix();
    let url = &testkit::Redis::shared().url;
    let store = |home: &str, url: &str| {
        let options = Options {
            home: home.to_owned(),
            ..options(&prefix, Duration::from_secs(60))
        };
        Store::new(Client::open(url).expect("a URL"), options)
    };
    store("eu/1", url).settle().await.expect("nobody's");
    let own = store("eu/1", url);
    own.settle().await.expect("its own");
    let settled = Limiter::new(Some(own));
    let decision = settled.decide(&[key(Policy::User, "{a}", 5)], false).await;
    assert_eq!(decision.source, Source::Redis, "from the first call on");
    for other in ["us/1", "eu/2"] {
        let refused = store(other, url).settle().await.expect_err("another's");
        assert!(refused.to_string().contains("eu/1"), "{refused}");
        let limiter = Arc::new(Limiter::new(Some(store(other, url))));
        let tending = tokio::spawn(Arc::clone(&limiter).tend());
        tokio::task::yield_now().await;
        let decision = limiter.decide(&[key(Policy::User, "{a}", 5)], false).await;
        assert!(decision.source != Source::Redis && !limiter.store.as_ref().expect("a store").is_used());
        tending.abort();
    }
    store("us/1", "redis://127.0.0.1:1")
        .settle()
        .await
        .expect("one that is away is looked at later");
}
