//! The listener: its certificate, its limits, its end.
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::io::AsyncReadExt as _;

use crate::{client::tls, house::House};

async fn certificate(house: &House) -> Vec<u8> {
    let stream = tls(house.address, &house.bundle(), "h2").await.expect("TLS");
    let certificates = stream.get_ref().1.peer_certificates().expect("a certificate");
    certificates[0].to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_certificate_is_used_without_a_failed_request_and_a_bad_one_is_not() {
    let house = Arc::new(House::start().await);
    let first = certificate(&house).await;
    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn({
        let (house, stop) = (Arc::clone(&house), Arc::clone(&stop));
        async move {
            let kept = house.h2().await;
            let mut served = 0;
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(kept.get("/v1/echo", &[]).await.status, 200);
                assert_eq!(house.h2().await.get("/v1/echo", &[]).await.status, 200);
                served += 2;
            }
            served
        }
    });
    let renewed = house.authority.issue("edge");
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut current = first.clone();
    while current == first {
        assert!(Instant::now() < deadline, "the old certificate is still used");
        tokio::time::sleep(Duration::from_millis(200)).await;
        current = certificate(&house).await;
    }
    std::fs::write(&renewed.cert_file, "no certificate").expect("written");
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(certificate(&house).await, current, "the last good one stays");
    stop.store(true, Ordering::Relaxed);
    assert!(load.await.expect("no failed request") > 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_under_load_fails_no_request_that_was_accepted() {
    let mut house = House::start().await;
    let (served, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut loads = Vec::new();
    for number in 0..8 {
        let client = if number % 2 == 0 {
            house.h2().await
        } else {
            house.h1().await
        };
        let (served, failed) = (Arc::clone(&served), Arc::clone(&failed));
        loads.push(tokio::spawn(async move {
            loop {
                let answer = client
                    .send(crate::client::request(
                        http::Method::GET,
                        "/v1/echo?wait=0.05s",
                        &[],
                        crate::client::full(""),
                    ))
                    .await;
                match answer {
                    Ok(answer) if answer.status == 200 => served.fetch_add(1, Ordering::Relaxed),
                    // Not accepted any more: the connection was closed between two requests, which HTTP lets a client repeat.
                    Err(error) if error.is_canceled() || error.is_closed() => return,
                    Err(error) if is_goaway(&error) => return,
                    other => {
                        eprintln!("{other:?}");
                        failed.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                };
            }
        }));
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    while served.load(Ordering::Relaxed) <= 20 {
        assert!(
            Instant::now() < deadline && failed.load(Ordering::Relaxed) == 0,
            "there is no load"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    house.stopping.cancel();
    let began = Instant::now();
    for load in loads {
        load.await.expect("no panic");
    }
    let ended = tokio::time::timeout(Duration::from_secs(15), &mut house.ended).await;
    ended.expect("it ended").expect("no panic").expect("no error");
    assert!(
        began.elapsed() < Duration::from_secs(9),
        "it did not wait for the end of the time-out"
    );
    assert_eq!(failed.load(Ordering::Relaxed), 0);
}

fn is_goaway(error: &hyper::Error) -> bool {
    use std::error::Error as _;

    let source = error.source().map(ToString::to_string).unwrap_or_default();
    // The last is what a client says that heard of the end before it sent a request, which it then keeps. One that was sent and got no answer
    // fails with its connection, and reads otherwise.
    ["not processed", "GOAWAY", "go away", "not a result of an error"]
        .iter()
        .any(|words| source.contains(words))
}

#[tokio::test]
async fn a_drain_waits_no_longer_than_its_time() {
    let mut house = House::with(|plan| plan.drain_timeout = Duration::from_secs(1)).await;
    let client = house.h2().await;
    let stuck = tokio::spawn(async move {
        client
            .send(crate::client::request(
                http::Method::GET,
                "/v1/echo?wait=50s",
                &[],
                crate::client::full(""),
            ))
            .await
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    house.stopping.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(10), &mut house.ended).await;
    assert!(ended.expect("it ended").is_ok());
    stuck.abort();
}

#[tokio::test]
async fn connections_over_the_limit_are_closed_at_once() {
    let house = House::with(|plan| plan.config.max_connections = 3).await;
    let mut kept = Vec::new();
    for _ in 0..3 {
        kept.push(house.h2().await);
    }
    for _ in 0..3 {
        let began = Instant::now();
        let refused = tls(house.address, &house.bundle(), "h2").await;
        let closed = match refused {
            Err(_) => true,
            Ok(mut stream) => stream.read_to_end(&mut Vec::new()).await.is_err(),
        };
        assert!(closed && began.elapsed() < Duration::from_secs(2));
    }
    assert_eq!(kept[0].get("/v1/echo", &[]).await.status, 200);
    kept.pop();
    let deadline = Instant::now() + Duration::from_secs(10);
    while tls(house.address, &house.bundle(), "h2").await.is_err() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn the_protocol_is_agreed_on_and_nothing_else_is_spoken() {
    let house = House::start().await;
    for (offered, agreed) in [("h2", Some("h2")), ("http/1.1", Some("http/1.1"))] {
        let stream = tls(house.address, &house.bundle(), offered).await.expect("TLS");
        assert_eq!(stream.get_ref().1.alpn_protocol(), agreed.map(str::as_bytes));
    }
    assert!(tls(house.address, &house.bundle(), "spdy/3").await.is_err());
}
