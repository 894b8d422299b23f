//! Clients that do not read what they asked for: they hold no places, little memory, and are not waited for.
use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use http::Method;
use http_body_util::BodyExt as _;
use tokio::io::AsyncWriteExt as _;

use crate::{
    client::{Client, frame, full, request, tls},
    echo::message,
    house::House,
};

/// R1 of the review.
#[tokio::test]
async fn answers_that_nobody_reads_hold_no_places() {
    let house = House::with(|plan| plan.max_in_flight = 20).await;
    let mut unread = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..3 {
        let client = Client::narrow(house.address, &house.bundle(), 10).await;
        for path in ["/openapi.json", "/docs", "/nowhere", "/v1/echo", "/v1/account"] {
            for _ in 0..8 {
                unread.push(
                    client
                        .open(request(Method::GET, path, &[], full("")))
                        .await
                        .expect("a head"),
                );
            }
        }
        let echo = frame(&message(
            "EchoRequest",
            r#"{"kinds":{"stringValue":"some more words"}}"#,
        ));
        for _ in 0..8 {
            let headers = [("content-type", "application/grpc")];
            let path = "/trailmesh.echo.v1.EchoService/Echo";
            unread.push(
                client
                    .open(request(Method::POST, path, &headers, full(echo.clone())))
                    .await
                    .expect("a head"),
            );
        }
        clients.push(client);
    }
    let heads: Vec<u16> = unread.iter().map(|answer| answer.status().as_u16()).collect();
    assert!(!heads.contains(&503), "{heads:?}");
    let other = house.h2().await;
    assert_eq!(other.get("/v1/echo", &[]).await.status, 200);
    // Who reads none of it for ten seconds is hung up on; others are not.
    let deadline = Instant::now() + Duration::from_secs(20);
    for client in &clients {
        while client
            .open(request(Method::HEAD, "/", &[], full("")))
            .await
            .is_ok()
        {
            assert!(Instant::now() < deadline, "still connected");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    assert_eq!(other.get("/v1/echo", &[]).await.status, 200);
}

#[tokio::test]
async fn watching_health_holds_no_place() {
    let house = House::with(|plan| plan.max_in_flight = 5).await;
    let client = house.h2().await;
    let mut watches = Vec::new();
    for _ in 0..20 {
        let headers = [("content-type", "application/grpc")];
        let watch = request(
            Method::POST,
            "/grpc.health.v1.Health/Watch",
            &headers,
            full(frame(b"")),
        );
        let mut watch = client.open(watch).await.expect("a head").into_body();
        watch.frame().await.expect("a frame").expect("no error");
        watches.push(watch);
    }
    assert_eq!(house.h2().await.get("/v1/echo", &[]).await.status, 200);
}

#[tokio::test]
async fn streams_that_nobody_reads_end_at_the_service_too() {
    let house = House::start().await;
    let narrow = Client::narrow(house.address, &house.bundle(), 10).await;
    let path = "/v1/count/100000?every=0.001s";
    let stream = narrow
        .open(request(Method::GET, path, &[], full("")))
        .await
        .expect("a head");
    let count = frame(&message("CountRequest", r#"{"to":100000,"every":"0.001s"}"#));
    let headers = [("content-type", "application/grpc")];
    let calling = request(
        Method::POST,
        "/trailmesh.echo.v1.EchoService/Count",
        &headers,
        full(count),
    );
    let call = narrow.open(calling).await.expect("a head");
    // The same over HTTP/1.1, where what is not read stays in the socket.
    let mut deaf = tls(house.address, &house.bundle(), "http/1.1")
        .await
        .expect("TLS");
    let json = format!("{{\"kinds\":{{\"stringValue\":\"{}\"}}}}", "x".repeat(900_000));
    let length = json.len();
    let asked = format!(
        "POST /v1/echo HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{json}"
    );
    let asking = tokio::spawn(async move { while deaf.write_all(asked.as_bytes()).await.is_ok() {} });
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let metrics = house.probe("/metrics").await;
        let in_flight = metrics.lines().find(|line| line.starts_with("gateway_in_flight"));
        let cut = metrics
            .lines()
            .find(|line| line.starts_with("gateway_connections_cut") && line.contains("unread"));
        let (begun, ended) = (&house.echo.begun, &house.echo.ended);
        let streams = (begun.load(Ordering::SeqCst), ended.load(Ordering::SeqCst));
        // The service hears of it last.
        if in_flight.is_some_and(|line| line.ends_with(" 0"))
            && cut.is_some_and(|line| line.ends_with(" 2"))
            && streams == (2, 2)
        {
            break;
        }
        assert!(Instant::now() < deadline, "{in_flight:?} {cut:?} {streams:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop((stream, call));
    asking.await.expect("no panic");
}

#[tokio::test]
async fn who_reads_slowly_gets_it_all() {
    let house = House::start().await;
    let client = Client::narrow(house.address, &house.bundle(), 4_096).await;
    let expected = house.h2().await.get("/openapi.json", &[]).await.body.len();
    let answer = client
        .open(request(Method::GET, "/openapi.json", &[], full("")))
        .await
        .expect("a head");
    let mut body = answer.into_body();
    let (mut read, pause) = (
        0,
        Duration::from_secs(14).div_f64(f64::from(u32::try_from(expected / 4_096).expect("a number"))),
    );
    while let Some(piece) = body.frame().await {
        read += piece.expect("no error").into_data().expect("data").len();
        tokio::time::sleep(pause).await;
    }
    assert_eq!(read, expected);
}

#[tokio::test]
async fn one_connection_has_only_so_much_unread() {
    let house = House::start().await;
    let client = Client::narrow(house.address, &house.bundle(), 10).await;
    let json = format!("{{\"kinds\":{{\"stringValue\":\"{}\"}}}}", "x".repeat(900_000));
    let mut unread = Vec::new();
    for _ in 0..12 {
        let headers = [("content-type", "application/json")];
        let asked = request(Method::POST, "/v1/echo", &headers, full(json.clone()));
        unread.push(client.open(asked).await.expect("a head"));
    }
    let refused: Vec<bool> = unread.iter().map(|answer| answer.status() == 503).collect();
    assert!(
        !refused[0] && !refused[3] && refused[6] && refused[11],
        "{refused:?}"
    );
    assert_eq!(house.h2().await.get("/v1/echo", &[]).await.status, 200);
}
