//! Events that other services leave: each reaches the logs it belongs to once.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use audit::{Actor, Event, Kind, Outcome};
use proto::tenant::v1::*;
use sqlx::types::Json;
use types::{AuditId, TenantId, UserId};

use crate::{
    audit::{links, new_log, owner, report},
    world::World,
};

fn event(user: UserId) -> Event {
    Event {
        id: AuditId::fresh().to_string(),
        time: 1_790_000_000_000_000,
        end_time: 1_790_000_000_000_001,
        actor: Actor {
            user_id: user.to_string(),
            ..Actor::default()
        },
        kind: Kind::Security,
        method: "/trailmesh.auth.v1.SessionService/LogIn".to_owned(),
        path: "POST /v1/auth/login".to_owned(),
        targets: BTreeMap::new(),
        client_address: None,
        user_agent: "curl\u{1b}".to_owned(),
        request_id: String::new(),
        outcome: Outcome::Succeeded,
        code: "OK".to_owned(),
        reason: String::new(),
        count: 1,
    }
}

/// As service auth does it, in a transaction of its own schema.
async fn leave(pool: &pg::Pool, event: &Event, tenant: Option<TenantId>, user: Option<UserId>) {
    let mut tx = pool
        .shared(Instant::now() + Duration::from_secs(20))
        .await
        .unwrap();
    sqlx::query(
        "INSERT INTO tenant.audit_inbox (id, tenant_id, user_id, event) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
    )
    .bind(&event.id)
    .bind(tenant.map(|tenant| tenant.to_string()))
    .bind(user.map(|user| user.to_string()))
    .bind(Json(event))
    .execute(&mut *tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
}

fn emptied(world: &World) {
    testkit::eventually("an empty inbox", || {
        (world
            .db
            .sql("SELECT count(*) FROM tenant.audit_inbox WHERE problem IS NULL")
            == "0")
            .then_some(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_person_does_is_told_to_each_of_their_tenants_once() {
    let world = World::new().await;
    let anna = owner(&world, "anna@example.com").await;
    let second = new_log(&world, &anna).await;
    let bert = owner(&world, "bert@example.com").await;
    let auth = world.as_auth();
    let event = event(anna.user());
    for _ in 0..2 {
        leave(auth, &event, None, Some(anna.user())).await;
        emptied(&world);
    }
    for tenant in [anna.tenant(), second.parse().unwrap()] {
        assert_eq!(links(&world, tenant).len(), 1);
        assert_eq!(report(&world, tenant).finding, None);
    }
    assert!(links(&world, bert.tenant()).is_empty());
    let list = anna.call(ListAuditEntriesRequest::default()).await.unwrap();
    let call = list.entries[0].call.as_ref().unwrap();
    assert_eq!(
        (list.entries[0].id.as_str(), call.user_agent.as_str()),
        (event.id.as_str(), "curl\u{fffd}")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_cannot_be_understood_holds_up_nobody() {
    let world = World::new().await;
    let anna = owner(&world, "anna@example.com").await;
    world.db.sql(
        "INSERT INTO tenant.audit_inbox (id, tenant_id, event, due_time)
         SELECT 'bad' || n, (SELECT id FROM tenant.tenant LIMIT 1), '{\"id\": 7}', now() - interval '1 day' FROM generate_series(1, 300) AS n",
    );
    world
        .db
        .sql("INSERT INTO tenant.audit_inbox (id, event) VALUES ('nowhere', '{}')");
    let good = event(anna.user());
    let auth = world.as_auth();
    leave(auth, &good, Some(anna.tenant()), None).await;
    leave(auth, &event(anna.user()), Some(TenantId::fresh()), None).await;
    leave(auth, &event(anna.user()), None, Some(UserId::fresh())).await;
    emptied(&world);
    assert_eq!(links(&world, anna.tenant()).len(), 1);
    let aside = world
        .db
        .sql("SELECT count(*) FROM tenant.audit_inbox WHERE problem <> ''");
    assert_eq!(aside, "301");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_takes_the_name_of_a_trim_is_set_aside() {
    let world = World::new().await;
    let anna = owner(&world, "anna@example.com").await;
    let auth = world.as_auth();
    for id in ["trim_10", "aud_10", "x"] {
        let mut forged = event(anna.user());
        forged.id = id.to_owned();
        leave(auth, &forged, Some(anna.tenant()), None).await;
    }
    // What is old because nobody could write it down is written down.
    let mut old = event(anna.user());
    (old.time, old.end_time) = (1_000_000, 1_000_001);
    leave(auth, &old, Some(anna.tenant()), None).await;
    emptied(&world);
    assert_eq!(links(&world, anna.tenant()).len(), 1);
    let aside = world
        .db
        .sql("SELECT count(*) FROM tenant.audit_inbox WHERE problem LIKE 'not an id of the form aud_%'");
    assert_eq!(aside, "3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_services_leave_events_and_see_none() {
    let world = World::new().await;
    let anna = owner(&world, "anna@example.com").await;
    let auth = world.as_auth();
    for sql in [
        "SELECT * FROM tenant.audit_inbox",
        "UPDATE tenant.audit_inbox SET event = '{}'",
        "DELETE FROM tenant.audit_inbox",
        "INSERT INTO tenant.audit_inbox (id, event, problem) VALUES ('a', '{}', 'x')",
        "INSERT INTO tenant.audit_inbox (id, event, attempts) VALUES ('a', '{}', 9)",
        "SELECT * FROM tenant.audit_chain",
        "SELECT * FROM tenant.audit_intent",
        "SELECT tenant.audit_trim()",
    ] {
        let mut tx = auth
            .shared(Instant::now() + Duration::from_secs(20))
            .await
            .unwrap();
        assert!(sqlx::raw_sql(sql).fetch_all(&mut *tx).await.is_err(), "{sql}");
        tx.rollback().await;
    }
    leave(auth, &event(anna.user()), Some(anna.tenant()), None).await;
    emptied(&world);
    assert_eq!(report(&world, anna.tenant()).records, 1);
}
