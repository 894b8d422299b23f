//! A script leaves only if it is that of the plan, and while the plan holds.

use proto::recovery::v1::PlanState;
use testkit::Engine;
use tonic::Code;

use crate::{
    hub::Twist,
    world::{World, accident},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_that_is_not_that_of_the_plan_never_comes_whole() {
    let world = World::new().await;
    let (shop, owner, followed) = world.shop(Engine::Mariadb, &[]).await;
    let plan = owner.planned(&followed.id, accident(&shop)).await;
    for (twist, code, reason) in [
        (Twist::Byte, Code::Internal, "SCRIPT_DAMAGED"),
        (Twist::Short, Code::Internal, "SCRIPT_DAMAGED"),
        (Twist::Long, Code::Internal, "SCRIPT_DAMAGED"),
        (Twist::End, Code::Internal, "SCRIPT_DAMAGED"),
        (Twist::Cut, Code::Unavailable, "AGENT_NOT_CONNECTED"),
    ] {
        world.hub.twist(twist);
        let script = owner.script(&plan.id).await.unwrap();
        let no = script.no.unwrap();
        assert_eq!((no.code, no.reason.as_str()), (code, reason), "{twist:?}");
        assert!(no.message.starts_with("internal error") || code != Code::Internal);
        assert_eq!(script.after, None, "{twist:?}");
        assert!(
            (script.bytes.len() as u64) < plan.script_bytes,
            "{twist:?}: the last piece was held back"
        );
        assert!(!script.bytes.ends_with(b"COMMIT;\n"));
    }
    world.hub.twist(Twist::Head);
    let no = owner.script(&plan.id).await.unwrap_err();
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::FailedPrecondition, "PLAN_STALE")
    );
    let got = owner.get(&plan.id).await.unwrap();
    assert_eq!(got.plan.unwrap().state(), PlanState::Stale);
    world.hub.twist(Twist::None);
    let script = owner.script(&plan.id).await.unwrap();
    assert_eq!((script.no, script.after), (None, Some(plan.digest)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_is_stale_once_a_later_change_touched_one_of_its_rows_and_its_script_is_still_its_own() {
    let world = World::new().await;
    let later = [
        "UPDATE {s}.mails SET hits = 7",
        "UPDATE {s}.orders SET note = 'later' WHERE id = 2",
    ];
    let (shop, owner, followed) = world.shop(Engine::Mariadb, &later).await;
    let plan = owner.planned(&followed.id, accident(&shop)).await;
    // Another table: the plan still holds, and its script is the same to the byte.
    let before = owner.script(&plan.id).await.unwrap();
    shop.learn_later(&followed.store, 0);
    let after = owner.script(&plan.id).await.unwrap();
    assert_eq!(before.bytes, after.bytes);
    assert_eq!(
        owner.get(&plan.id).await.unwrap().plan.unwrap().state(),
        PlanState::Ready
    );

    shop.learn_later(&followed.store, 1);
    let script = owner.script(&plan.id).await.unwrap();
    assert_eq!(
        (&script.no, &script.bytes),
        (&None, &before.bytes),
        "still the same script"
    );
    let since = script.stale_since.unwrap();
    assert!(since.offset > 0 && !since.file.is_empty());
    let got = owner.get(&plan.id).await.unwrap();
    let stale = got.plan.unwrap();
    assert_eq!(
        (stale.state(), &stale.stale_since),
        (PlanState::Stale, &Some(since.clone()))
    );
    // It is known now, and told without the agent.
    world.hub.away(true);
    let got = owner.get(&plan.id).await.unwrap();
    assert!(!got.asked && got.plan.as_ref() == Some(&stale), "{got:?}");
    world.hub.away(false);
    assert_eq!(owner.script(&plan.id).await.unwrap().stale_since, Some(since));
    // The later change was of another column of the row: the script is still right, and keeps it.
    shop.apply(&script.bytes).unwrap();
    assert!(shop.rows().contains(&hex("later")) && !shop.rows().contains(&hex("lost")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_script_of_a_plan_that_later_work_has_overtaken_changes_nothing() {
    let world = World::new().await;
    let later = "UPDATE {s}.orders SET status = 'shipped' WHERE id = 2";
    let (shop, owner, followed) = world.shop(Engine::Mariadb, &[later]).await;
    let plan = owner.planned(&followed.id, accident(&shop)).await;
    shop.learn_later(&followed.store, 0);
    let script = owner.script(&plan.id).await.unwrap();
    assert!(script.stale_since.is_some());
    let rows = shop.rows();
    shop.apply(&script.bytes).unwrap_err();
    assert_eq!(shop.rows(), rows);
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02X}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn get_plan_finds_by_itself_that_a_plan_is_stale() {
    let world = World::new().await;
    let later = "DELETE FROM {s}.orders WHERE id = 1";
    let (shop, owner, followed) = world.shop(Engine::Mariadb, &[later]).await;
    let plan = owner.planned(&followed.id, accident(&shop)).await;
    shop.learn_later(&followed.store, 0);
    let got = owner.get(&plan.id).await.unwrap();
    assert!(got.asked);
    assert_eq!(got.plan.unwrap().state(), PlanState::Stale);
    let listed = owner.list(Default::default()).await.unwrap();
    assert_eq!(listed.plans[0].state(), PlanState::Stale);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_plan_has_no_script_any_more() {
    let world = World::with(&["--recovery-plan-life=2h"]).await;
    let (shop, owner, followed) = world.shop(Engine::Mariadb, &[]).await;
    let plan = owner.planned(&followed.id, accident(&shop)).await;
    assert_eq!(
        plan.expire_time.unwrap().seconds - plan.create_time.unwrap().seconds,
        7_200
    );
    world.db.sql(&format!(
        "UPDATE t_{}.undo_plan SET create_time = now() - interval '2 h', expire_time = now() - interval '1 s'",
        owner.tenant().digits()
    ));
    let asked = world.hub.asked().len();
    let no = owner.script(&plan.id).await.unwrap_err();
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::FailedPrecondition, "PLAN_EXPIRED")
    );
    let got = owner.get(&plan.id).await.unwrap();
    assert_eq!(got.plan.unwrap().state(), PlanState::Expired);
    assert!(!got.asked && got.not_asked_because.contains("expired"));
    assert_eq!(world.hub.asked().len(), asked, "the agent was left alone");
}
