//! Answers that are streams.

use std::time::{Duration, Instant};

use proto::{change::v1 as change, query::v1 as pb};
use tonic::Code;
use types::Role;

use crate::{
    neighbours::deny,
    pages::{shop, tables},
    store::{Store, row, table},
    world::{World, eventually},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_has_everything_with_or_without_rules_and_goes_on_after_a_change() {
    let mut world = World::new().await;
    let store = shop(&world);
    let whole = world.server(store.path(), &[]);
    let partly = world.server(store.path(), &[deny("shop.orders", &["card"])]);
    world.connect().await;
    let person = world.person(Role::Analyst);
    for (server, redacted) in [(whole, false), (partly, true)] {
        let asked = pb::StreamChangesRequest {
            server,
            order: change::Order::Oldest.into(),
            ..Default::default()
        };
        let frames = world.all(&person, asked.clone()).await.unwrap();
        let last = frames.last().unwrap();
        assert!(last.coverage.as_ref().unwrap().complete && !last.more);
        assert_eq!(frames.iter().any(|frame| frame.redacted), redacted);
        let all: Vec<change::Change> = frames.into_iter().flat_map(|frame| frame.changes).collect();
        // Of one nothing changed that is seen.
        assert_eq!(all.len(), if redacted { 5 } else { 6 });
        let asked = pb::StreamChangesRequest {
            limit: 2,
            after: all[1].position.clone(),
            ..asked
        };
        let frames = world.all(&person, asked).await.unwrap();
        assert!(frames.last().unwrap().more && frames.last().unwrap().coverage.is_some());
        let some: Vec<change::Change> = frames.into_iter().flat_map(|frame| frame.changes).collect();
        assert_eq!(some, all[2..4]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_is_followed_after_the_last_few_and_tables_that_are_new_too() {
    let mut world = World::new().await;
    let mut store = shop(&world);
    let whole = world.server(store.path(), &[]);
    let partly = world.server(store.path(), &[deny("hr.*", &[]), deny("shop.orders", &["card"])]);
    world.connect().await;
    let person = world.person(Role::Analyst);
    let mut streams = Vec::new();
    for server in [whole, partly] {
        let asked = pb::FollowChangesRequest {
            server,
            last: 2,
            ..Default::default()
        };
        streams.push(world.stream(&person, asked, 30).await.unwrap());
    }
    let mut first = Vec::new();
    for stream in &mut streams {
        let mut few = Vec::new();
        while few.len() < 2 {
            few.extend(stream.message().await.unwrap().unwrap().changes);
        }
        first.push(few);
    }
    let name = |change: &change::Change| format!("{}.{}", change.schema, change.table);
    assert_eq!(
        first[0].iter().map(name).collect::<Vec<_>>(),
        ["shop.orders", "hr.pay"]
    );
    assert_eq!(
        first[1].iter().map(name).collect::<Vec<_>>(),
        ["shop.orders", "shop.orders"]
    );
    assert!(first[1][0].commit_micros < first[1][1].commit_micros);
    store.defines(table("shop.new", &["note"], &[0]));
    store.commits(&[
        ("hr.pay", None, Some(row(9, &["canary-salary-9"]))),
        ("shop.orders", None, Some(row(9, &["new", "canary-card-9"]))),
        ("shop.new", None, Some(row(1, &["hello"]))),
    ]);
    store.sync();
    for (stream, sees) in streams.iter_mut().zip([3, 2]) {
        let mut found = Vec::new();
        while found.len() < sees {
            found.extend(stream.message().await.unwrap().unwrap().changes);
        }
        assert_eq!(found.last().map(name).unwrap(), "shop.new");
        assert_eq!(found.len(), sees);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_hears_that_the_line_lives_and_is_let_go_before_the_deadline() {
    let mut world = World::new().await;
    let mut store = shop(&world);
    let server = world.server(store.path(), &[]);
    world.connect().await;
    let asked = pb::FollowChangesRequest {
        server,
        filter: Some(tables(&[("shop", "orders")])),
        ..Default::default()
    };
    let begun = Instant::now();
    let again = asked.clone();
    let mut stream = world
        .stream(&world.person(Role::Analyst), asked, 12)
        .await
        .unwrap();
    let sign = stream.message().await.unwrap().unwrap();
    assert!(sign.changes.is_empty() && begun.elapsed() > Duration::from_secs(9));
    let last = stream.message().await.unwrap().unwrap();
    assert!(last.changes.is_empty() && !last.resume_token.is_empty());
    assert_eq!(stream.message().await.unwrap(), None);
    assert!(begun.elapsed() < Duration::from_secs(12));
    // What came meanwhile is told to who goes on there, and nothing of before.
    store.commits(&[("shop.orders", None, Some(row(77, &["new", "x"])))]);
    store.sync();
    let again = pb::FollowChangesRequest {
        resume_token: last.resume_token,
        last: 100,
        ..again
    };
    let mut stream = world
        .stream(&world.person(Role::Analyst), again, 12)
        .await
        .unwrap();
    let frame = stream.message().await.unwrap().unwrap();
    let [change] = frame.changes.as_slice() else {
        panic!("{frame:?}")
    };
    assert!(format!("{change:?}").contains("77"));
}

/// `shop.orders` with a row at the beginning and one at the end, and so many updates of its hidden column between them.
fn mostly_hidden(world: &World, updates: i32) -> String {
    let folder = world.folder.path().join(format!("store-{updates}"));
    let mut store = Store::new(&folder);
    store.defines(table("shop.orders", &["status", "card"], &[0]));
    let new = |id: i32| row(id, &["new", "0"]);
    store.commits(&[("shop.orders", None, Some(new(1)))]);
    let card = |number: i32| row(1, &["new", &format!("canary-{number:0>200}")]);
    let edits: Vec<_> = (0..updates)
        .map(|number| ("shop.orders", Some(card(number)), Some(card(number + 1))))
        .collect();
    for some in edits.chunks(1_000) {
        store.commits(some);
    }
    store.commits(&[("shop.orders", None, Some(new(2)))]);
    store.sync();
    world.server(store.path(), &[deny("shop.orders", &["card"])])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_which_most_is_hidden_says_by_the_clock_how_far_it_has_looked() {
    let mut world = World::new().await;
    let (much, nothing) = (mostly_hidden(&world, 20_000), mostly_hidden(&world, 0));
    let wire = world.wire().await;
    world.connect().await;
    let analyst = world.person(Role::Analyst);
    let asked = |server: &str| pb::StreamChangesRequest {
        server: server.to_owned(),
        order: change::Order::Oldest.into(),
        ..Default::default()
    };
    let before = wire.passed();
    let frames = world.all(&analyst, asked(&much)).await.unwrap();
    assert_eq!(frames.iter().map(|frame| frame.changes.len()).sum::<usize>(), 2);
    let whole = wire.passed() - before;
    // The agent comes half as far.
    wire.shut_after(whole / 2);
    let begun = Instant::now();
    let mut stream = world.stream(&analyst, asked(&much), 40).await.unwrap();
    let sign = stream.message().await.unwrap().unwrap();
    let after = begun.elapsed();
    assert!(
        after > Duration::from_secs(9) && after < Duration::from_secs(15),
        "{after:?}"
    );
    assert_eq!((sign.changes.len(), sign.coverage.is_none()), (1, true));
    let empty = stream.message().await.unwrap().unwrap();
    assert!(empty.changes.is_empty() && !empty.redacted);
    assert_eq!(empty.resume_token.len(), sign.resume_token.len());
    drop(stream);
    wire.open();
    let before = wire.passed();
    let again = |server: &str, token: &str| pb::StreamChangesRequest {
        resume_token: token.to_owned(),
        ..asked(server)
    };
    let looked = empty.resume_token;
    let frames = world.all(&analyst, again(&much, &looked)).await.unwrap();
    let all: Vec<_> = frames.iter().flat_map(|frame| &frame.changes).collect();
    assert!(all.len() == 1 && all[0].commit_micros > sign.changes[0].commit_micros);
    let rest = wire.passed() - before;
    assert!(rest < whole * 2 / 3, "{rest} of {whole} bytes came again");
    // It is for this question of this server.
    for other in [
        again(&nothing, &looked),
        pb::StreamChangesRequest {
            order: change::Order::Newest.into(),
            ..again(&much, &looked)
        },
    ] {
        let no = world.all(&analyst, other).await.unwrap_err();
        assert_eq!(
            (no.reason.as_str(), no.field.as_str()),
            ("FILTER_INVALID", "resume_token")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stretch_that_turns_out_to_be_missing_is_told_while_following() {
    let mut world = World::new().await;
    let mut store = shop(&world);
    let server = world.server(store.path(), &[]);
    world.connect().await;
    let asked = pb::FollowChangesRequest {
        server,
        last: 1,
        ..Default::default()
    };
    let mut stream = world
        .stream(&world.person(Role::Analyst), asked, 30)
        .await
        .unwrap();
    while stream.message().await.unwrap().unwrap().changes.is_empty() {}
    store.loses("purged");
    store.commits(&[("shop.orders", None, Some(row(9, &["new", "x"])))]);
    store.sync();
    loop {
        let frame = stream.message().await.unwrap().unwrap();
        if let Some(gap) = frame.gaps.first() {
            assert_eq!(gap.reason, "purged");
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_has_so_many_streams_and_one_that_is_dropped_gives_its_place_back() {
    let mut world = World::new().await;
    let store = shop(&world);
    let server = world.server(store.path(), &[]);
    world.connect().await;
    let person = world.person(Role::Analyst);
    let asked = pb::FollowChangesRequest {
        server,
        ..Default::default()
    };
    let mut streams = Vec::new();
    for _ in 0..32 {
        streams.push(world.stream(&person, asked.clone(), 60).await.unwrap());
    }
    let no = world.stream(&person, asked.clone(), 60).await.unwrap_err();
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::ResourceExhausted, "STREAM_LIMIT")
    );
    streams.pop();
    eventually("a place", async || {
        world.stream(&person, asked.clone(), 60).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_is_made_while_somebody_follows_counts_from_the_next_second_on() {
    let mut world = World::new().await;
    let mut store = shop(&world);
    let server = world.server(store.path(), &[]);
    world.connect().await;
    let asked = pb::FollowChangesRequest {
        server: server.clone(),
        last: 1,
        ..Default::default()
    };
    let mut stream = world
        .stream(&world.person(Role::Analyst), asked, 30)
        .await
        .unwrap();
    while stream.message().await.unwrap().unwrap().changes.is_empty() {}
    world.neighbours.change(world.tenant, &server, |known| {
        known.rules = vec![deny("shop.orders", &["card"])];
    });
    let changed = Instant::now();
    for id in 100.. {
        store.commits(&[("shop.orders", None, Some(row(id, &["new", "secret"])))]);
        store.sync();
        let frame = loop {
            let frame = stream.message().await.unwrap().unwrap();
            if !frame.changes.is_empty() {
                break frame;
            }
        };
        if frame.redacted {
            assert_eq!(frame.changes[0].redacted, ["card"]);
            break;
        }
        assert!(changed.elapsed() < Duration::from_secs(10));
    }
}
