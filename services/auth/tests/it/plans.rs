//! Keys and plans: no more than the plan has room for are made, and of those that are too many the newest do nothing.

use proto::{auth::v1 as pb, common::v1::Role};
use tonic::{Code, Status};

use crate::{
    actor::{Actor, key_of, refusal},
    world::{World, as_caller, reason},
};

fn plan(world: &World, tenant: &str, plan: &str) {
    world.database.sql(&format!(
        "UPDATE tenant.tenant SET plan = '{plan}' WHERE id = '{tenant}'"
    ));
}

/// Whether each of these keys is good; what is not is frozen.
async fn good(world: &World, keys: &[String]) -> Vec<bool> {
    let mut good = Vec::new();
    for key in keys {
        match world.auth.key_context(key).await {
            Ok(_) => good.push(true),
            refused => {
                let (code, reason) = refusal(refused);
                assert_eq!((code, reason.as_str()), (Code::PermissionDenied, "KEY_FROZEN"));
                good.push(false);
            }
        }
    }
    good
}

/// Which keys are shown as frozen, the oldest first.
async fn shown(world: &World, actor: &Actor) -> Vec<bool> {
    let message = pb::ListApiKeysRequest::default();
    let answer = world
        .auth
        .keys()
        .list_api_keys(as_caller(message, &actor.context))
        .await;
    let keys = answer.unwrap().into_inner().api_keys;
    keys.iter().rev().map(|key| key.frozen).collect()
}

async fn keys(world: &World, actor: &Actor, count: usize) -> (Vec<String>, Vec<String>) {
    let (mut ids, mut secrets) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let made = world.key(actor, key_of(Role::Viewer)).await.unwrap();
        ids.push(made.api_key.unwrap().id);
        secrets.push(made.secret);
    }
    (ids, secrets)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_who_want_the_last_key_at_once_one_gets_it() {
    let world = World::new().await;
    let admin = world.member("admin").await;
    plan(&world, &admin.tenant, "free");
    // One that has ended takes no place, and neither does one of another tenant.
    let (_, _) = keys(&world, &admin, 1).await;
    world
        .database
        .sql("UPDATE auth.api_key SET create_time = now() - interval '2 days', expire_time = now() - interval '1 day'");
    let other = world.member("admin").await;
    keys(&world, &other, 3).await;
    keys(&world, &admin, 2).await;
    let attempts = (0..50).map(|_| world.key(&admin, key_of(Role::Viewer)));
    let outcomes: Vec<Result<_, Status>> = futures_util::future::join_all(attempts).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    for no in outcomes.into_iter().filter_map(Result::err) {
        assert_eq!(
            (no.code(), reason(&no).as_str()),
            (Code::FailedPrecondition, "PLAN_LIMIT")
        );
        assert_eq!(
            no.message(),
            "the plan free has room for 3 API keys: the plan pro has room for 50"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_smaller_plan_freezes_the_newest_keys_and_a_larger_one_thaws_them() {
    let world = World::new().await;
    let admin = world.member("admin").await;
    plan(&world, &admin.tenant, "pro");
    let (ids, secrets) = keys(&world, &admin, 6).await;
    assert_eq!(good(&world, &secrets).await, [true; 6]);
    plan(&world, &admin.tenant, "free");
    assert_eq!(
        good(&world, &secrets).await,
        [true, true, true, false, false, false]
    );
    assert_eq!(
        shown(&world, &admin).await,
        [false, false, false, true, true, true]
    );
    let live = world.database.sql(&format!(
        "SELECT trailmesh.enter('shared', '-'); SELECT live FROM auth.api_key_count WHERE tenant_id = '{}'",
        admin.tenant
    ));
    assert_eq!(live.trim(), "6");
    // Whichever goes, the oldest that waits comes after.
    world.auth.revoke_key(&admin, &ids[1]).await.unwrap();
    assert_eq!(good(&world, &[secrets[0].clone()]).await, [true]);
    assert_eq!(good(&world, &secrets[2..]).await, [true, true, false, false]);
    assert_eq!(
        shown(&world, &admin).await,
        [false, false, false, false, true, true]
    );
    world.database.sql(&format!(
        "UPDATE auth.api_key SET create_time = now() - interval '2 days', expire_time = now() - interval '1 day' WHERE id = '{}'",
        ids[0]
    ));
    assert_eq!(good(&world, &secrets[2..]).await, [true, true, true, false]);
    // A frozen key may be revoked, too; then nothing is frozen, and nothing more is made.
    world.auth.revoke_key(&admin, &ids[5]).await.unwrap();
    assert_eq!(good(&world, &secrets[2..5]).await, [true; 3]);
    let refused = world.key(&admin, key_of(Role::Viewer)).await;
    assert_eq!(
        refusal(refused),
        (Code::FailedPrecondition, "PLAN_LIMIT".to_owned())
    );
    plan(&world, &admin.tenant, "pro");
    assert!(world.key(&admin, key_of(Role::Viewer)).await.is_ok());
}
