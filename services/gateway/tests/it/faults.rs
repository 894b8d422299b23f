//! When a neighbour is away, slow or silent: the documented answer, in time, and nothing else.
use std::time::{Duration, Instant};

use types::Role;

use crate::{guard::CODE, house::House};

#[tokio::test]
async fn a_service_that_is_away_is_503_and_comes_back_by_itself() {
    let house = House::start().await;
    let client = house.h2().await;
    assert_eq!(client.get("/v1/echo", &[]).await.status, 200);
    house.echo_line.cut();
    let began = Instant::now();
    let answer = client.get("/v1/echo", &[]).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(
        !text.contains("127.0.0.1") && !text.contains("os error"),
        "{text}"
    );
    let answer = client.grpc("/trailmesh.echo.v1.EchoService/Echo", &[], b"").await;
    assert_eq!(answer.grpc_status(), Some(14));
    assert!(began.elapsed() < Duration::from_secs(10));
    house.echo_line.heal();
    let healed = Instant::now();
    while client.get("/v1/echo", &[]).await.status != 200 {
        assert!(healed.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_service_that_is_silent_costs_no_more_than_the_deadline() {
    let house = House::start().await;
    let client = house.h2().await;
    assert_eq!(client.get("/v1/echo", &[]).await.status, 200);
    house.echo_line.half_open();
    let began = Instant::now();
    let calls = (0..20).map(|_| client.get("/v1/echo", &[("grpc-timeout", "1S")]));
    for answer in futures_util::future::join_all(calls).await {
        assert!(matches!(answer.status.as_u16(), 503 | 504), "{answer:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[tokio::test]
async fn auth_that_is_silent_lets_nobody_in_and_holds_nobody_up() {
    let house = House::start().await;
    let client = house.h2().await;
    house.auth_line.half_open();
    let began = Instant::now();
    let owner = house.guard.person(Role::Owner);
    let headers = [("authorization", owner.as_str()), ("x-mfa-code", CODE)];
    let calls = (0..20).map(|_| client.post("/v1/echo:privately", &headers, "{}"));
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(
            (answer.status.as_u16(), answer.reason().as_str()),
            (503, "AUTH_UNAVAILABLE")
        );
    }
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    assert_eq!(
        client.get("/v1/echo", &[]).await.status,
        200,
        "what is public needs no auth"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_killed_under_load_costs_no_request() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut redis = testkit::Redis::private(folder.path());
    let (url, ca) = (redis.tls_url.clone(), redis.ca.clone());
    let house = House::with(|plan| {
        plan.config.redis_url = Some(url.parse().expect("a secret"));
        plan.config.redis_ca_file = Some(ca);
        plan.config.redis_connect_timeout = Duration::from_secs(2);
    })
    .await;
    let client = house.h2().await;
    let owner = house.guard.person(Role::Owner);
    let headers = [("authorization", owner.as_str()), ("x-mfa-code", CODE)];
    for blow in ["-STOP", "-KILL"] {
        for round in 0..40 {
            if round == 10 {
                redis.signal(blow);
            }
            let began = Instant::now();
            let answer = client.post("/v1/echo:privately", &headers, "{}").await;
            assert_eq!(answer.status, 200, "{blow} {round} {answer:?}");
            assert!(answer.headers.contains_key("ratelimit"));
            assert!(
                began.elapsed() < Duration::from_secs(1),
                "{blow} {:?}",
                began.elapsed()
            );
        }
        if blow == "-STOP" {
            redis.signal("-CONT");
        }
    }
    redis.start_again();
}
