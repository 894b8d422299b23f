//! Nobody reads for somebody who has gone, and nobody holds up the others.

use std::time::{Duration, Instant};

use ingest_agent::serve::Service;
use proto::{agent::v1 as pb, change::v1::Filter};
use tokio::task::JoinSet;
use tonic::{Code, Status};

use super::Scene;
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

/// How soon a reading stops that nobody waits for any more.
const SOON: Duration = Duration::from_millis(100);

/// A machine at work on other tests may hold up a try, and hardly so many in a row. A reading that is not stopped is late in all of them.
const TRIES: usize = 8;

async fn came(within: Duration, condition: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    while !condition() {
        if begun.elapsed() >= within {
            return false;
        }
        tokio::task::yield_now().await;
    }
    true
}

async fn until(what: &str, within: Duration, condition: impl Fn() -> bool) {
    assert!(came(within, condition).await, "{what}");
}

/// Until nobody reads.
async fn rests(service: &Service) {
    until("a reading ends", Duration::from_secs(60), || {
        service.readings() == 0
    })
    .await;
}

/// Looks at everything, for at most so long; gives how long it took, and why it ended early.
async fn looks(scene: &Scene, at_most: Duration) -> (Duration, Option<Status>) {
    let mut request = scene.ask("Changes", scan(scene, nothing()));
    request.set_timeout(at_most);
    let begun = Instant::now();
    let ended = match scene.client.clone().changes(request).await {
        Ok(stream) => stream.into_inner().message().await.err(),
        Err(status) => Some(status),
    };
    (begun.elapsed(), ended)
}

/// A quarter of what it takes here to look at everything: who stops within it has left most of it. The best of three looks, because one may be
/// held up.
async fn quarter(scene: &Scene) -> Duration {
    let mut whole = Duration::MAX;
    for _ in 0..3 {
        let (took, ended) = looks(scene, Duration::from_secs(60)).await;
        assert!(ended.is_none(), "{ended:?}");
        rests(&scene.service).await;
        whole = whole.min(took);
    }
    whole / 4
}

/// Asks until one try is seen to read, and to read no more `soon` after what was asked for is dropped.
async fn stops<T>(service: &Service, soon: Duration, ask: impl AsyncFn() -> T) {
    let mut seen = 0;
    for _ in 0..TRIES {
        let asked = ask().await;
        let begun = came(Duration::from_secs(5), || service.readings() == 1).await;
        drop(asked);
        let ended = came(soon, || service.readings() == 0).await;
        if begun && ended {
            return;
        }
        seen += usize::from(begun);
        rests(service).await;
    }
    panic!("of {TRIES} readings {seen} were seen, and none ended in {soon:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_stream_stops_its_reading_also_where_nothing_matches() {
    let shop = large();
    let scene = Scene::over(&shop.path()).await;
    let soon = quarter(&scene).await.min(SOON);
    for filter in [nothing(), Filter::default()] {
        let ask = async || {
            let request = scene.ask("Changes", scan(&scene, filter.clone()));
            scene.client.clone().changes(request).await.expect("an answer")
        };
        stops(&scene.service, soon, ask).await;
    }
    // A call of one message, too.
    let ask = async || {
        let request = pb::CountRequest {
            server_id: scene.server.to_string(),
            filter: Some(nothing()),
            limit: 0,
            tell_descents: false,
        };
        let (request, mut client) = (scene.ask("Count", request), scene.client.clone());
        let mut call = JoinSet::new();
        call.spawn(async move { client.count(request).await });
        call
    };
    stops(&scene.service, soon, ask).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_reaches_the_disk() {
    let shop = large();
    let scene = Scene::over(&shop.path()).await;
    let quarter = quarter(&scene).await;
    let mut tried = Vec::new();
    for _ in 0..TRIES {
        let (took, ended) = looks(&scene, quarter).await;
        let stopped = came(quarter, || scene.service.readings() == 0).await;
        if let Some(status) = &ended {
            assert!(
                matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled),
                "{status}"
            );
        }
        if ended.is_some() && took < 2 * quarter && stopped {
            return;
        }
        tried.push((took, stopped));
        rests(&scene.service).await;
    }
    panic!("{quarter:?} were given: {tried:?}");
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
    rests(&scene.service).await;
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
