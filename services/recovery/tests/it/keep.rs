//! How long plans are kept, and how many.

use testkit::{Engine, eventually};
use tonic::Code;

use crate::world::{World, accident};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plans_go_thirty_days_after_they_have_expired() {
    let world = World::with(&["--recovery-sweep-pause=50ms"]).await;
    let (shop, owner, followed) = world.shop(Engine::Mariadb, &[]).await;
    let old = owner.planned(&followed.id, accident(&shop)).await;
    let young = owner.planned(&followed.id, accident(&shop)).await;
    let sweep = |what: &str| {
        world
            .db
            .sql(&format!("SELECT {what} FROM recovery.plan_sweep"))
            .trim()
            .to_owned()
    };
    let schema = format!("t_{}", owner.tenant().digits());
    let due = format!(
        "due_time BETWEEN now() + interval '30 d' AND now() + interval '31 d', tenant_id = '{}'",
        owner.tenant()
    );
    assert_eq!(sweep(&due), "t|t", "in thirty days and an hour");
    let age = |id: &str, age: &str| {
        world.db.sql(&format!(
            "UPDATE {schema}.undo_plan SET create_time = now() - interval '{age}' - interval '1 h', expire_time = now() - interval '{age}'
             WHERE id = '{id}'"
        ));
    };
    age(&young.id, "29 d 23 h");
    age(&old.id, "30 d");
    // What is kept no longer is not seen any more, swept or not.
    assert_eq!(owner.listed().await, std::slice::from_ref(&young.id));
    assert_eq!(owner.get(&old.id).await.unwrap_err().reason, "PLAN_NOT_FOUND");
    world.db.sql("UPDATE recovery.plan_sweep SET due_time = now()");
    let ids = || world.db.sql(&format!("SELECT id FROM {schema}.undo_plan"));
    eventually("the old plan to go", || (ids().trim() == young.id).then_some(()));
    eventually("the next time to be noted", || {
        (sweep("due_time > now()") == "t").then_some(())
    });
    age(&young.id, "30 d");
    world.db.sql("UPDATE recovery.plan_sweep SET due_time = now()");
    eventually("the other one to go", || ids().trim().is_empty().then_some(()));
    eventually("nothing to be left", || (sweep("count(*)") == "0").then_some(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_whose_schema_is_gone_is_forgotten_and_holds_up_nobody() {
    let world = World::with(&["--recovery-sweep-pause=50ms"]).await;
    let (shop, owner, followed) = world.shop(Engine::Mariadb, &[]).await;
    let plan = owner.planned(&followed.id, accident(&shop)).await;
    let gone = types::TenantId::fresh();
    let schema = format!("t_{}", owner.tenant().digits());
    world.db.sql(&format!(
        "UPDATE {schema}.undo_plan SET create_time = now() - interval '40 d', expire_time = now() - interval '35 d';
         INSERT INTO recovery.plan_sweep VALUES ('{gone}', now() - interval '9 d');
         UPDATE recovery.plan_sweep SET due_time = now() WHERE tenant_id = '{}'",
        owner.tenant()
    ));
    let left = || world.db.sql("SELECT count(*) FROM recovery.plan_sweep");
    eventually("both to be done with", || (left().trim() == "0").then_some(()));
    assert_eq!(owner.get(&plan.id).await.unwrap_err().reason, "PLAN_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_has_so_many_plans_and_no_more() {
    let world = World::new().await;
    let (shop, owner, followed) = world.shop(Engine::Mariadb, &[]).await;
    owner.planned(&followed.id, accident(&shop)).await;
    let schema = format!("t_{}", owner.tenant().digits());
    world.db.sql(&format!(
        "INSERT INTO {schema}.undo_plan (id, server_id, filter, mode, summary, digest, script_bytes, dialect, complete, because, author_id,
             create_time, expire_time)
         SELECT 'pln_' || lpad(n::text, 26, '0'), server_id, filter, mode, summary, digest, script_bytes, dialect, complete, because, author_id,
             create_time, expire_time
         FROM {schema}.undo_plan, generate_series(1, 9999) AS n"
    ));
    let asked = world.hub.asked().len();
    let no = owner.plan(&followed.id, accident(&shop)).await.unwrap_err();
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::ResourceExhausted, "PLAN_LIMIT")
    );
    assert_eq!(world.hub.asked().len(), asked, "no agent had to work for it");
}
