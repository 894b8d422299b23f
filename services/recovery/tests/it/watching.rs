//! Plans that are watched.

use std::time::{Duration, Instant};

use proto::recovery::v1::PlanState;
use testkit::{Engine, eventually};
use tonic::Code;

use crate::world::{World, accident, next};

const LONG: Duration = Duration::from_secs(50);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_who_watch_a_plan_are_told_the_moment_it_turns_stale() {
    let world = World::new().await;
    let later = [
        "UPDATE {s}.mails SET hits = 7",
        "UPDATE {s}.orders SET note = 'later' WHERE id = 2",
    ];
    let (shop, owner, followed) = world.shop(Engine::Mariadb, &later).await;
    let plan = owner.planned(&followed.id, accident(&shop)).await;
    let operator = owner.operator();
    let mut watching = [
        owner.watch(&plan.id, LONG).await.unwrap(),
        owner.watch(&plan.id, LONG).await.unwrap(),
        operator.watch(&plan.id, LONG).await.unwrap(),
    ];
    for plans in &mut watching {
        assert_eq!(next(plans).await.unwrap().unwrap(), plan);
    }
    assert_eq!(world.hub.open(), 3);
    shop.learn_later(&followed.store, 0);
    shop.learn_later(&followed.store, 1);
    for plans in &mut watching {
        let stale = next(plans).await.unwrap().unwrap();
        assert_eq!(stale.state(), PlanState::Stale);
        assert!(stale.stale_since.is_some());
        assert!(next(plans).await.is_none(), "there is nothing more to tell");
    }
    // It was noted: without the agent it is still known.
    world.hub.away(true);
    let mut again = owner.watch(&plan.id, LONG).await.unwrap();
    assert_eq!(next(&mut again).await.unwrap().unwrap().state(), PlanState::Stale);
    assert!(next(&mut again).await.is_none());
    eventually("the agent's answers to end", || {
        (world.hub.open() == 0).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_that_is_stale_already_is_told_so_by_the_agent() {
    let world = World::new().await;
    let later = "UPDATE {s}.orders SET note = 'later' WHERE id = 2";
    let (shop, owner, followed) = world.shop(Engine::Mariadb, &[later]).await;
    let plan = owner.planned(&followed.id, accident(&shop)).await;
    shop.learn_later(&followed.store, 0);
    let mut plans = owner.watch(&plan.id, LONG).await.unwrap();
    let last = loop {
        let plan = next(&mut plans).await.unwrap().unwrap();
        if plan.state() == PlanState::Stale {
            break plan;
        }
    };
    assert!(last.stale_since.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_watches_sees_signs_of_life_and_an_end_before_the_deadline() {
    let world = World::with(&["--recovery-watch-pause=100ms"]).await;
    let (shop, owner, followed) = world.shop(Engine::Mariadb, &[]).await;
    let plan = owner.planned(&followed.id, accident(&shop)).await;
    let began = Instant::now();
    let mut plans = owner.watch(&plan.id, Duration::from_secs(5)).await.unwrap();
    let mut signs = 0;
    while let Some(sign) = next(&mut plans).await {
        assert_eq!(sign.unwrap().state(), PlanState::Ready, "it ends without a fault");
        signs += 1;
    }
    assert!(began.elapsed() < Duration::from_secs(5) && signs > 3, "{signs}");
    eventually("the agent's answer to end", || {
        (world.hub.open() == 0).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_see_a_plan_any_more_watches_it_no_longer() {
    let world = World::with(&["--recovery-watch-pause=100ms"]).await;
    let (shop, owner, followed) = world.shop(Engine::Mariadb, &[]).await;
    let plan = owner.planned(&followed.id, accident(&shop)).await;
    let mut plans = owner.operator().watch(&plan.id, LONG).await.unwrap();
    next(&mut plans).await.unwrap().unwrap();
    owner.hide(&shop, "orders", &[]).await;
    let no = loop {
        match next(&mut plans).await.unwrap() {
            Ok(_) => {}
            Err(no) => break no,
        }
    };
    assert_eq!(no.reason, "TABLE_DENIED");
    assert!(next(&mut plans).await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_goes_away_is_watched_for_no_longer() {
    let world = World::new().await;
    let (shop, owner, followed) = world.shop(Engine::Mariadb, &[]).await;
    let plan = owner.planned(&followed.id, accident(&shop)).await;
    let mut plans = owner.watch(&plan.id, LONG).await.unwrap();
    next(&mut plans).await.unwrap().unwrap();
    assert_eq!(world.hub.open(), 1);
    drop(plans);
    eventually("the agent's answer to end", || {
        (world.hub.open() == 0).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watched_plan_expires_and_there_is_room_for_so_many_watchers_only() {
    let world = World::with(&["--recovery-watchers=1"]).await;
    let (shop, owner, followed) = world.shop(Engine::Mariadb, &[]).await;
    let plan = owner.planned(&followed.id, accident(&shop)).await;
    world.db.sql(&format!(
        "UPDATE t_{}.undo_plan SET expire_time = now() + interval '2 s'",
        owner.tenant().digits()
    ));
    let mut plans = owner.watch(&plan.id, LONG).await.unwrap();
    let no = owner.watch(&plan.id, LONG).await.unwrap_err();
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::ResourceExhausted, "TOO_MANY_WATCHERS")
    );
    let first = next(&mut plans).await.unwrap().unwrap();
    assert_eq!(first.state(), PlanState::Ready);
    let last = next(&mut plans).await.unwrap().unwrap();
    assert_eq!(last.state(), PlanState::Expired);
    assert!(next(&mut plans).await.is_none());
}
