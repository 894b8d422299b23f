//! Signing keys: replaced while everybody works, and equal in all replicas.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use proto::auth::v1 as pb;
use tonic::Code;

use crate::{
    actor::{Actor, refusal},
    world::{Replica, Setup, World, as_caller, request},
};

fn quick() -> Setup {
    Setup {
        flags: vec!["--key-poll=1s".to_owned()],
        ..Setup::default()
    }
}

/// The key a token names.
fn kid(token: &str) -> String {
    let header = BASE64_URL_SAFE_NO_PAD
        .decode(token.split('.').next().unwrap())
        .unwrap();
    let header: serde_json::Value = serde_json::from_slice(&header).unwrap();
    header["kid"].as_str().unwrap().to_owned()
}

async fn published(replica: &Replica) -> BTreeSet<String> {
    let answer = replica
        .guard()
        .get_key_set(request(pb::GetKeySetRequest {}))
        .await
        .unwrap();
    answer.into_inner().keys.into_iter().map(|key| key.kid).collect()
}

async fn eventually<F: Future<Output = bool>>(what: &str, mut probe: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !probe().await {
        assert!(Instant::now() < deadline, "waited a minute for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_start_together_share_one_key_in_each_ring() {
    let world = World::new().await;
    // As on a first day: no keys, three replicas at once.
    world.database.sql("DELETE FROM auth.signing_key");
    let (first, second, third) = tokio::join!(world.replica(), world.replica(), world.replica());
    let actor = first_actor(&world, &first).await;
    let mut sets = BTreeSet::new();
    for replica in [&first, &second, &third] {
        let context = replica.context(&actor).await.unwrap();
        sets.insert(published(replica).await);
        for other in [&first, &second, &third] {
            other
                .accounts()
                .get_account(as_caller(pb::GetAccountRequest {}, &context))
                .await
                .unwrap();
        }
    }
    assert_eq!(sets.len(), 1, "{sets:?}");
    assert_eq!(
        world
            .database
            .sql("SELECT ring, count(*) FROM auth.signing_key GROUP BY ring ORDER BY ring"),
        "access|1\ncontext|1"
    );
}

/// An access token of a new person, by `replica`.
async fn first_actor(world: &World, replica: &Replica) -> String {
    let person = world.person().await;
    replica
        .log_in(&person)
        .await
        .unwrap()
        .tokens
        .unwrap()
        .access_token
}

/// Works without pause on both replicas: refreshes, authenticates, calls; counts what was refused.
async fn work(world: &World, second: &Replica, actor: &Actor, until: &AtomicBool, done: &AtomicU64) {
    let session = world.auth.log_in(&actor.person).await.unwrap().tokens.unwrap();
    let mut refresh = session.refresh_token;
    let mut turn = 0_u32;
    while !until.load(Ordering::Relaxed) {
        turn += 1;
        let (one, other) = if turn.is_multiple_of(2) {
            (&world.auth, second)
        } else {
            (second, &world.auth)
        };
        let tokens = one.refresh(&refresh).await.unwrap();
        refresh = tokens.refresh_token;
        let context = other.context(&tokens.access_token).await.unwrap();
        one.accounts()
            .get_account(as_caller(pb::GetAccountRequest {}, &context))
            .await
            .unwrap();
        one.step_up(&context, "").await.unwrap();
        // The token of the login grows old over all keys.
        let context = one.context(&session.access_token).await.unwrap();
        other
            .accounts()
            .get_account(as_caller(pb::GetAccountRequest {}, &context))
            .await
            .unwrap();
        done.fetch_add(1, Ordering::Relaxed);
    }
}

/// Makes the next keys, once. The second try must find them waiting, so they wait an hour longer while it looks; then they have the lead
/// that they were made with, from now on.
async fn turn_on_demand(world: &World) {
    assert_eq!(auth::rotate_keys(&world.config(), true).await.unwrap(), 2);
    world.database.sql(
        "UPDATE auth.signing_key SET active_from = active_from + interval '1 hour' WHERE active_from > create_time",
    );
    assert_eq!(
        auth::rotate_keys(&world.config(), true).await.unwrap(),
        0,
        "a next key waits already"
    );
    world.database.sql(
        "UPDATE auth.signing_key SET active_from = clock_timestamp() + (active_from - interval '1 hour' - create_time)
         WHERE active_from > create_time",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_turn_under_load_without_one_false_refusal() {
    let world = World::with(quick()).await;
    let second = world.replica().await;
    let actors = [world.actor().await, world.actor().await, world.actor().await];
    let before = (kid(&actors[0].access), kid(&actors[0].context));
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let turn = async {
        let world = &world;
        turn_on_demand(world).await;
        let (person, second) = (&actors[0].person, &second);
        let signed_by_others_than = async |before: &(String, String)| {
            let access = world
                .auth
                .log_in(person)
                .await
                .unwrap()
                .tokens
                .unwrap()
                .access_token;
            let context = second.context(&access).await.unwrap();
            kid(&access) != before.0 && kid(&context) != before.1
        };
        let newest = |ring: &str| {
            let sql = format!(
                "SELECT kid FROM auth.signing_key WHERE ring = '{ring}' ORDER BY active_from DESC LIMIT 1"
            );
            world.database.sql(&sql)
        };
        // A next key is published before it signs.
        eventually("the next key's publication", || async {
            published(&world.auth).await.len() == 2
        })
        .await;
        eventually("the new keys", || signed_by_others_than(&before)).await;
        let before = (newest("access"), newest("context"));
        assert_eq!(auth::rotate_keys(&world.config(), true).await.unwrap(), 2);
        eventually("the newest keys", || signed_by_others_than(&before)).await;
        stop.store(true, Ordering::Relaxed);
    };
    let works = actors
        .iter()
        .map(|actor| work(&world, &second, actor, &stop, &done));
    tokio::join!(turn, futures_util::future::join_all(works));
    let rounds = done.load(Ordering::Relaxed);
    println!(
        "{rounds} rounds of refresh, authentication, calls and step-up on two replicas over two turns of the keys: none refused"
    );
    assert!(rounds >= 20, "{rounds}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_replaced_by_itself_after_a_month() {
    let world = World::with(quick()).await;
    let second = world.replica().await;
    world
        .database
        .sql("UPDATE auth.signing_key SET active_from = active_from - interval '30 days'");
    // One new key in each ring, though both replicas look; it waits before it signs.
    eventually("the next keys", || async {
        world.database.sql("SELECT count(*) FROM auth.signing_key") == "4"
    })
    .await;
    let lead = world.database.sql("SELECT bool_and(active_from >= create_time + interval '2 seconds') FROM auth.signing_key WHERE active_from > create_time");
    assert_eq!(lead, "t");
    eventually("both to know", || async {
        published(&world.auth).await == published(&second).await
    })
    .await;
    let fresh = first_actor(&world, &second).await;
    eventually("the new key to sign", || async {
        let context = world.auth.context(&fresh).await.unwrap();
        kid(&context)
            == world.database.sql(
                "SELECT kid FROM auth.signing_key WHERE ring = 'context' ORDER BY active_from DESC LIMIT 1",
            )
    })
    .await;
    assert_eq!(world.database.sql("SELECT count(*) FROM auth.signing_key"), "4");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_retired_key_is_refused_and_one_of_a_replaced_key_is_not() {
    let world = World::with(quick()).await;
    let actor = world.actor().await;
    auth::rotate_keys(&world.config(), true).await.unwrap();
    let of_old = kid(&actor.access);
    // The next key has signed for ten minutes: the old one still verifies.
    let age = |minutes: u32| {
        world.database.sql(&format!(
            "UPDATE auth.signing_key SET active_from = now() - interval '{minutes} minutes' WHERE kid <> '{of_old}' AND ring = 'access'; \
             UPDATE auth.signing_key SET active_from = now() - interval '1 day' WHERE kid = '{of_old}'"
        ));
    };
    age(10);
    eventually("the new key", || async {
        let access = world
            .auth
            .log_in(&actor.person)
            .await
            .unwrap()
            .tokens
            .unwrap()
            .access_token;
        world.auth.context(&actor.access).await.unwrap();
        kid(&access) != of_old
    })
    .await;
    world.auth.context(&actor.access).await.unwrap();
    // A token's life and a minute after its replacement the key is good for nothing, whatever its tokens say.
    age(17);
    eventually("the old key's end", || async {
        world.auth.context(&actor.access).await.is_err()
    })
    .await;
    let refused = refusal(world.auth.context(&actor.access).await);
    assert_eq!(
        (refused.0, refused.1.as_str()),
        (Code::Unauthenticated, "CREDENTIAL_INVALID")
    );
    // Long after, its row is deleted when the ring turns.
    age(3 * 60);
    auth::rotate_keys(&world.config(), true).await.unwrap();
    assert_eq!(
        world.database.sql(&format!(
            "SELECT count(*) FROM auth.signing_key WHERE kid = '{of_old}'"
        )),
        "0"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_not_here_yet_is_looked_for_at_once() {
    let slow = Setup {
        flags: vec!["--key-poll=5m".to_owned()],
        ..Setup::default()
    };
    let world = World::with(slow).await;
    let person = world.person().await;
    // A key that signs already, of which the running replica has not heard; a new one has.
    auth::rotate_keys(&world.config(), true).await.unwrap();
    world
        .database
        .sql("UPDATE auth.signing_key SET active_from = active_from - interval '602 seconds'");
    let newer = world.replica().await;
    let access = newer.log_in(&person).await.unwrap().tokens.unwrap().access_token;
    let old = world
        .auth
        .log_in(&person)
        .await
        .unwrap()
        .tokens
        .unwrap()
        .access_token;
    assert_ne!(kid(&access), kid(&old));
    world.auth.context(&access).await.unwrap();
    // Strangers' names for keys neither hold it up nor make it forget.
    let stranger = access.replacen(
        access.split('.').next().unwrap(),
        &BASE64_URL_SAFE_NO_PAD.encode(r#"{"typ":"at+jwt","alg":"HS256","kid":"nobody"}"#),
        1,
    );
    // A machine so busy that it lets some of them wait for too long is asked again.
    let flood = (0..200).map(|_| async {
        loop {
            match world.auth.context(&stranger).await {
                Err(status) if [Code::Unavailable, Code::DeadlineExceeded].contains(&status.code()) => {}
                answer => return answer,
            }
        }
    });
    let begun = Instant::now();
    let answers = futures_util::future::join_all(flood).await;
    assert!(
        answers
            .iter()
            .all(|answer| refusal(answer.clone()).1 == "CREDENTIAL_INVALID")
    );
    assert!(begun.elapsed() < Duration::from_secs(20));
    world.auth.context(&access).await.unwrap();
    newer.context(&old).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_stay_good_while_the_table_cannot_be_read() {
    let world = World::with(quick()).await;
    let actor = world.actor().await;
    world
        .database
        .sql("REVOKE SELECT ON auth.signing_key FROM trailmesh_auth");
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    world.auth.context(&actor.access).await.unwrap();
    world
        .database
        .sql("GRANT SELECT ON auth.signing_key TO trailmesh_auth");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_another_seal_key_nothing_starts_and_nothing_is_changed() {
    const OTHER: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let mut world = World::new().await;
    let mut config = world.config();
    config.seal_key = OTHER.parse().unwrap();
    let refused = auth::rotate_keys(&config, true).await.unwrap_err();
    assert!(format!("{refused:?}").contains("OtherKey"), "{refused:?}");
    assert_eq!(world.database.sql("SELECT count(*) FROM auth.signing_key"), "2");
    world.setup.flags.push(format!("--seal-key={OTHER}"));
    let ended = tokio::spawn(async move { drop(world.replica().await) }).await;
    let panic = ended.unwrap_err().into_panic();
    let words = panic.downcast_ref::<String>().unwrap();
    assert!(words.contains("OtherKey"), "{words}");
}
