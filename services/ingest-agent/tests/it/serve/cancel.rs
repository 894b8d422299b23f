//! Nobody reads for somebody who has gone, and nobody holds up the others.

use std::time::{Duration, Instant};

use proto::{agent::v1 as pb, change::v1::Filter};
use tonic::Code;

use super::{Client, Scene};
use crate::shop::{self, Shop, insert, update};

/// Of a thousand rows each.
const TRANSACTIONS: usize = 60;

/// A store that takes a while to read.
fn large() -> Shop {
    let mut shop = Shop::mariadb();
    let rows: Vec<_> = (0..1_000)
        .map(|id| insert((id, "new", Some("a note that is there"))))
        .collect();
    for _ in 0..TRANSACTIONS {
        shop.commits(&rows);
    }
    shop.sync();
    shop
}

fn scan(scene: &Scene, filter: Filter) -> pb::ChangesRequest {
    pb::ChangesRequest {
        server_id: scene.server.to_string(),
        filter: Some(filter),
        ..Default::default()
    }
}

/// Everything is looked at, and nothing is found.
fn nothing() -> Filter {
    Filter {
        column: "none".into(),
        ..Filter::default()
    }
}

async fn until(what: &str, within: Duration, condition: impl Fn() -> bool) -> Duration {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < within, "{what}");
        tokio::task::yield_now().await;
    }
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_stream_stops_its_reading_also_where_nothing_matches() {
    let shop = large();
    let mut scene = Scene::over(&shop.path()).await;
    for filter in [nothing(), Filter::default()] {
        let request = scene.ask("Changes", scan(&scene, filter));
        let stream = scene.client.changes(request).await.expect("an answer");
        let service = scene.service.clone();
        until("reading begins", Duration::from_secs(5), || {
            service.readings() == 1
        })
        .await;
        drop(stream);
        until("reading ends", Duration::from_millis(100), || {
            service.readings() == 0
        })
        .await;
    }
    // A call of one message, too.
    let request = pb::CountRequest {
        server_id: scene.server.to_string(),
        filter: Some(nothing()),
        limit: 0,
        tell_descents: false,
    };
    let request = scene.ask("Count", request);
    let mut client: Client = scene.client.clone();
    let service = scene.service.clone();
    let call = tokio::spawn(async move { client.count(request).await });
    until("reading begins", Duration::from_secs(5), || {
        service.readings() == 1
    })
    .await;
    call.abort();
    until("reading ends", Duration::from_millis(100), || {
        service.readings() == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_reaches_the_disk() {
    let shop = large();
    let mut scene = Scene::over(&shop.path()).await;
    let mut request = scene.ask("Changes", scan(&scene, nothing()));
    request.set_timeout(Duration::from_millis(60));
    let begun = Instant::now();
    let status = match scene.client.changes(request).await {
        Ok(stream) => stream.into_inner().message().await.expect_err("no time"),
        Err(status) => status,
    };
    assert!(
        begun.elapsed() < Duration::from_millis(400),
        "{:?}",
        begun.elapsed()
    );
    assert!(
        matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled),
        "{status}"
    );
    let service = scene.service.clone();
    until("reading ends", Duration::from_millis(100), || {
        service.readings() == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_nobody_reads_hold_up_nobody() {
    let shop = large();
    let mut scene = Scene::over(&shop.path()).await;
    let mut stalled = Vec::new();
    for _ in 0..6 {
        let request = scene.ask("Changes", scan(&scene, Filter::default()));
        stalled.push(
            scene
                .client
                .changes(request)
                .await
                .expect("an answer")
                .into_inner(),
        );
    }
    let service = scene.service.clone();
    until("they rest", Duration::from_secs(10), || service.readings() == 0).await;
    let few = pb::ChangesRequest {
        limit: 5,
        ..scan(&scene, Filter::default())
    };
    let request = scene.ask("Changes", few);
    let mut stream = scene
        .client
        .changes(request)
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(
        stream
            .message()
            .await
            .expect("a frame")
            .expect("one")
            .changes
            .len(),
        5
    );
    // And go on where they stood, without a row lost or twice.
    let mut stream = stalled.pop().expect("one");
    let mut last = None;
    let mut rows = 0;
    while let Some(frame) = stream.message().await.expect("a frame") {
        for change in frame.changes {
            let position = change
                .position
                .map(|position| (position.offset, position.ordinal));
            assert!(position > last);
            last = position;
            rows += 1;
        }
    }
    assert_eq!(rows, 1_000 * TRANSACTIONS);
}

#[tokio::test]
async fn beyond_its_streams_the_agent_is_busy() {
    let (store, _) = shop::accident();
    let mut scene = Scene::over(&store.path()).await;
    let follow = pb::ChangesRequest {
        follow: true,
        ..scan(&scene, Filter::default())
    };
    let mut streams = Vec::new();
    for _ in 0..64 {
        let request = scene.ask("Changes", follow.clone());
        streams.push(
            scene
                .client
                .changes(request)
                .await
                .expect("an answer")
                .into_inner(),
        );
    }
    let request = scene.ask("Changes", follow.clone());
    let status = scene.client.changes(request).await.expect_err("too many");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(String::from_utf8_lossy(status.details()).contains("AGENT_BUSY"));
    // What carries no rows goes on.
    let request = scene.ask(
        "Status",
        pb::StatusRequest {
            server_id: scene.server.to_string(),
        },
    );
    scene.client.status(request).await.expect("an answer");
    drop(streams.pop());
    let mut free = false;
    let begun = Instant::now();
    while !free {
        assert!(begun.elapsed() < Duration::from_secs(2), "no place became free");
        let request = scene.ask("Changes", follow.clone());
        free = scene.client.changes(request).await.is_ok();
    }
}

#[tokio::test]
async fn a_row_that_changed_while_it_was_read_is_that_of_the_moment() {
    let mut shop = Shop::sealing();
    for id in 0..2_000 {
        shop.commits(&[insert((
            id,
            "new",
            Some("a note that makes the row longer than it was"),
        ))]);
    }
    shop.sync();
    let mut scene = Scene::over(&shop.path()).await;
    let request = scene.ask("Changes", scan(&scene, Filter::default()));
    let mut stream = scene
        .client
        .changes(request)
        .await
        .expect("an answer")
        .into_inner();
    let mut rows = stream
        .message()
        .await
        .expect("a frame")
        .expect("one")
        .changes
        .len();
    for id in 0..500 {
        shop.commits(&[update((id, "new", None), (id, "paid", None))]);
    }
    shop.sync();
    while let Some(frame) = stream.message().await.expect("a frame") {
        rows += frame.changes.len();
    }
    assert_eq!(rows, 2_000);
}
