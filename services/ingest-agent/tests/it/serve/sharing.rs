//! What many ask at once is shared: turns at the disk, and room for what was read.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use binlog::{Charset, ColumnType};
use proto::{agent::v1 as pb, change::v1::Filter};

use super::{Scene, connect};
use crate::shop::{self, Shop, update};

/// Each transaction fills a tail, and so becomes a segment.
const SEGMENTS: usize = 400;
const MIB: usize = 1 << 20;

async fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}");
        tokio::task::yield_now().await;
    }
}

/// The note is in every row, and never changes.
fn nothing() -> Filter {
    Filter {
        column: "note".into(),
        ..Filter::default()
    }
}

/// Two questions that find nothing, and one that is asked while they read: whether it was answered before them.
async fn goes_first(scene: &Scene) -> bool {
    let count = pb::CountRequest {
        server_id: scene.server.to_string(),
        filter: Some(nothing()),
        limit: 0,
        tell_descents: false,
    };
    let rows = pb::ChangesRequest {
        filter: Some(nothing()),
        ..all(scene)
    };
    let (count, rows) = (scene.ask("Count", count), scene.ask("Changes", rows));
    let (mut one, mut other) = (scene.client.clone(), scene.client.clone());
    let counting = tokio::spawn(async move { one.count(count).await.expect("an answer").into_inner() });
    let reading = tokio::spawn(async move {
        let mut stream = other.changes(rows).await.expect("an answer").into_inner();
        stream.message().await.expect("a frame").expect("one")
    });
    let service = scene.service.clone();
    let ended = || counting.is_finished() || reading.is_finished();
    until("both read", || service.readings() == 2 || ended()).await;
    let few = pb::ChangesRequest {
        limit: 5,
        ..all(scene)
    };
    let request = scene.ask("Changes", few);
    let mut stream = scene
        .client
        .clone()
        .changes(request)
        .await
        .expect("an answer")
        .into_inner();
    let frame = stream.message().await.expect("a frame").expect("one");
    assert_eq!(frame.changes.len(), 5);
    let first = !ended();
    // And they are answered as if nobody had come between.
    let counted = counting.await.expect("a task");
    assert!(counted.tables.is_empty() && counted.coverage.expect("coverage").complete);
    let frame = reading.await.expect("a task");
    assert!(frame.changes.is_empty() && frame.end.is_some());
    first
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_that_find_nothing_let_others_go_first() {
    let mut shop = Shop::sealing();
    let note = Some("a note that never changes and takes some room in the tail");
    let rows: Vec<_> = (0..20)
        .map(|id| update((id, "new", note), (id, "paid", note)))
        .collect();
    for _ in 0..SEGMENTS {
        shop.commits(&rows);
    }
    shop.sync();
    let scene = Scene::over(&shop.path()).await;
    // Who asks may be held up by other tests, and hardly five times in a row; who has to wait for the others is last each time.
    for _ in 0..5 {
        if goes_first(&scene).await {
            return;
        }
    }
    panic!("the others ended first");
}

/// A store with two rows of so many bytes.
fn files(bytes: usize) -> Shop {
    let mut shop = Shop::mariadb();
    let content = ColumnType::Blob {
        length: 4,
        charset: Charset::new(63),
    };
    let columns = vec![("id", shop::int(), false), ("content", content, false)];
    let files = shop::table("files", columns, &[0]);
    let row = |id: i32| {
        let mut raw = vec![0, 0];
        raw.extend(id.to_le_bytes());
        raw.extend(u32::try_from(bytes).expect("a length").to_le_bytes());
        raw.resize(raw.len() + bytes, b'x');
        (None, Some(raw))
    };
    shop.commits_raw(&Arc::clone(&files), &[row(1)]);
    shop.commits_raw(&files, &[row(2)]);
    shop.sync();
    shop
}

fn all(scene: &Scene) -> pb::ChangesRequest {
    pb::ChangesRequest {
        server_id: scene.server.to_string(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_rows_that_nobody_reads_take_room_until_they_are_read_or_dropped() {
    let shop = files(14 * MIB);
    let mut scene = Scene::over(&shop.path()).await;
    let service = scene.service.clone();
    let request = scene.ask("Changes", all(&scene));
    let mut stream = scene
        .client
        .changes(request)
        .await
        .expect("an answer")
        .into_inner();
    until("the row waits for its reader", || {
        service.held() > 14 * MIB && service.readings() == 0
    })
    .await;
    // On connections of their own, so that no window but their own holds them up.
    let mut others = Vec::new();
    for _ in 0..63 {
        let (mut client, heard) = connect(&scene.service).await;
        let request = scene.ask("Changes", all(&scene));
        others.push((client.changes(request).await.expect("an answer"), client, heard));
        assert!(service.held() <= 16 * MIB);
    }
    assert!(service.held() > 14 * MIB, "what HTTP/2 waits with counts too");
    // The others are told to come again. The one that has its row waits for its reader alone.
    let refused = others[0].0.get_mut().message().await.expect_err("no room");
    assert!(
        String::from_utf8_lossy(refused.details()).contains("AGENT_BUSY"),
        "{refused}"
    );
    drop(others);
    let mut rows = 0;
    while let Some(frame) = stream.message().await.expect("a frame") {
        rows += frame.changes.len();
    }
    assert_eq!(rows, 2);
    until("there is room again", || service.held() == 0).await;
}
