//! Who may plan, and whose plans they see.

use proto::recovery::v1::ListPlansRequest;
use testkit::Engine;
use tonic::Code;
use types::{PlanId, Role, ServerId, UploadId};

use crate::world::{Caller, No, World, accident};

fn missing(reason: &str) -> impl Fn(&No) -> bool + '_ {
    move |no| no.code == Code::NotFound && no.reason == reason
}

/// What is said of a plan to somebody who may not see it.
async fn says(caller: &Caller<'_>, plan: &str) -> Vec<No> {
    let second = std::time::Duration::from_secs(10);
    vec![
        caller.get(plan).await.unwrap_err(),
        caller.script(plan).await.unwrap_err(),
        caller.watch(plan, second).await.unwrap_err(),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_of_another_tenant_of_another_pool_and_none_at_all_are_the_same() {
    let world = World::new().await;
    let (shop, owner, followed) = world.shop(Engine::Mariadb, &[]).await;
    let other_server = owner.follow(&shop).await;
    let stranger = world.owner().await;
    let of_pool = owner.colleague(None, &[(&followed.pool, Role::Operator)]);
    let of_other_pool = owner.colleague(Some(Role::Analyst), &[(&other_server.pool, Role::Admin)]);

    let plan = of_pool.planned(&followed.id, accident(&shop)).await;
    let nonsense = PlanId::fresh().to_string();
    let expected = says(&owner, &nonsense).await;
    assert!(expected.iter().all(missing("PLAN_NOT_FOUND")), "{expected:?}");
    for who in [&stranger, &of_other_pool] {
        assert_eq!(says(who, &plan.id).await, expected);
    }
    assert_eq!(says(&owner, "pln_1").await, expected);
    assert_eq!(says(&owner, "'; DROP TABLE undo_plan; --").await, expected);

    let no = owner.plan(&ServerId::fresh().to_string(), accident(&shop)).await;
    let expected = no.unwrap_err();
    assert!(missing("SERVER_NOT_FOUND")(&expected), "{expected:?}");
    for who in [&stranger, &of_other_pool] {
        let no = who.plan(&followed.id, accident(&shop)).await.unwrap_err();
        assert_eq!(no, expected);
        let request = ListPlansRequest {
            server_id: followed.id.clone(),
            ..ListPlansRequest::default()
        };
        assert_eq!(who.list(request).await.unwrap_err(), expected);
        assert_eq!(who.listed().await, Vec::<String>::new());
    }
    // Those who may: everyone with the role for the server's pool.
    let pool_admin = owner.colleague(None, &[(&followed.pool, Role::Admin)]);
    for who in [&owner, &owner.operator(), &of_pool, &pool_admin] {
        assert_eq!(who.get(&plan.id).await.unwrap().plan.unwrap(), plan);
        assert_eq!(who.listed().await, std::slice::from_ref(&plan.id));
        assert!(who.script(&plan.id).await.unwrap().no.is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_operator_nothing_is_planned_and_nothing_is_seen() {
    let world = World::new().await;
    let (shop, owner, followed) = world.shop(Engine::Mariadb, &[]).await;
    let plan = owner.planned(&followed.id, accident(&shop)).await;
    for role in [Role::Viewer, Role::Analyst] {
        let who = owner.colleague(Some(role), &[(&followed.pool, role)]);
        let refused = [
            who.plan(&followed.id, accident(&shop)).await.unwrap_err(),
            who.list(ListPlansRequest::default()).await.unwrap_err(),
        ];
        for no in refused.iter().chain(&says(&who, &plan.id).await) {
            assert_eq!(
                (no.code, no.reason.as_str()),
                (Code::PermissionDenied, "ROLE_TOO_LOW")
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plans_of_a_deleted_server_are_gone() {
    let world = World::new().await;
    let (shop, owner, followed) = world.shop(Engine::Mariadb, &[]).await;
    let plan = owner.planned(&followed.id, accident(&shop)).await;
    owner.drop_server(&followed.id).await;
    let said = says(&owner, &plan.id).await;
    assert!(said.iter().all(missing("PLAN_NOT_FOUND")), "{said:?}");
    assert_eq!(owner.listed().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_is_for_those_whose_role_is_for_the_whole_tenant() {
    let world = World::new().await;
    let (shop, owner, followed) = world.shop(Engine::Mariadb, &[]).await;
    let upload = UploadId::fresh().to_string();
    world.hub.upload(upload.clone(), followed.id.clone());
    let operator = owner.operator();
    let plan = operator.planned(&upload, accident(&shop)).await;
    assert_eq!(plan.server_id, upload);
    let script = operator.script(&plan.id).await.unwrap();
    assert_eq!((script.no, script.place), (None, upload.clone()));
    assert_eq!(operator.listed().await, std::slice::from_ref(&plan.id));
    let of_pool = owner.colleague(Some(Role::Analyst), &[(&followed.pool, Role::Admin)]);
    let no = of_pool.plan(&upload, accident(&shop)).await.unwrap_err();
    assert!(missing("SERVER_NOT_FOUND")(&no), "{no:?}");
    let said = says(&of_pool, &plan.id).await;
    assert!(said.iter().all(missing("PLAN_NOT_FOUND")), "{said:?}");
    assert_eq!(of_pool.listed().await, Vec::<String>::new());
    // The rules for all servers are for uploads too.
    owner.hide(&shop, "orders", &[]).await;
    let no = operator.script(&plan.id).await.unwrap_err();
    assert_eq!(no.reason, "TABLE_DENIED");
    assert_eq!(operator.listed().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_agent_of_a_frozen_server_is_asked() {
    let world = World::new().await;
    let (shop, owner, followed) = world.shop(Engine::Mariadb, &[]).await;
    let plan = owner.planned(&followed.id, accident(&shop)).await;
    world.db.sql(&format!(
        "UPDATE t_{}.server SET frozen_time = now()",
        owner.tenant().digits()
    ));
    let asked = world.hub.asked().len();
    let second = std::time::Duration::from_secs(10);
    for no in [
        owner.plan(&followed.id, accident(&shop)).await.unwrap_err(),
        owner.script(&plan.id).await.unwrap_err(),
        owner.watch(&plan.id, second).await.unwrap_err(),
    ] {
        assert_eq!(
            (no.code, no.reason.as_str()),
            (Code::FailedPrecondition, "SERVER_FROZEN")
        );
    }
    let got = owner.get(&plan.id).await.unwrap();
    assert!(!got.asked && got.not_asked_because.contains("frozen"), "{got:?}");
    assert_eq!(world.hub.asked().len(), asked);
    // Who may not know of the server is told that there is none.
    let stranger = world.owner().await;
    let no = stranger.plan(&followed.id, accident(&shop)).await.unwrap_err();
    assert!(missing("SERVER_NOT_FOUND")(&no), "{no:?}");
}
