//! Rows that a superuser has touched are found and named; what retention removes is not missed; the vault's heads follow.

use std::time::{Duration, Instant};

use audit::Finding;
use proto::tenant::v1::*;
use tonic::Code;
use types::{AuditId, Errand, Plan, TenantId};

use crate::{
    audit::{act, append, intent, links, micros, owner, report, schema},
    world::{Caller, World},
};

/// A log of twelve records whose end the vault has signed.
async fn signed_log(world: &World) -> Caller<'_> {
    let anna = owner(world, "anna@example.com").await;
    for _ in 0..6 {
        act(&anna, "UpdateServer", Outcome::Succeeded).await;
    }
    signed(world, anna.tenant(), 12);
    anna
}

fn signed(world: &World, tenant: TenantId, size: i64) {
    testkit::eventually("a signed head", || {
        (world.vault.signed(&tenant.to_string()) >= size).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_touched_row_is_found_and_named() {
    let world = World::new().await;
    let anna = signed_log(&world).await;
    let tenant = anna.tenant();
    let log = format!("{}.audit_record", schema(tenant));
    world
        .db
        .sql(&format!("CREATE TABLE public.kept AS SELECT * FROM {log}"));
    assert_eq!(report(&world, tenant).finding, None);
    let changed = |sequence| Finding::Changed { sequence };
    let rehash = "hash = sha256(convert_to('trailmesh.audit.record.v1', 'UTF8') || '\\x00'::bytea || int8send(seq) || prev || convert_to(body, 'UTF8'))";
    for (sql, expected) in [
        // Flip.
        (format!("UPDATE {log} SET body = replace(body, 'UpdateServer', 'DeleteServer') WHERE seq = 5"), changed(5)),
        (format!("UPDATE {log} SET body = replace(body, 'UpdateServer', 'DeleteServer') WHERE seq = 7; UPDATE {log} SET {rehash} WHERE seq = 7"), changed(7)),
        (format!("UPDATE {log} SET prev = sha256(prev) WHERE seq = 3"), changed(3)),
        (format!("UPDATE {log} SET hash = sha256(hash) WHERE seq = 12"), changed(12)),
        // Delete.
        (format!("DELETE FROM {log} WHERE seq = 4"), Finding::Removed { first: 4, last: 4 }),
        (format!("DELETE FROM {log} WHERE seq IN (6, 7, 8)"), Finding::Removed { first: 6, last: 8 }),
        (format!("DELETE FROM {log} WHERE seq <= 2"), Finding::Removed { first: 1, last: 2 }),
        (format!("DELETE FROM {log} WHERE seq >= 11"), Finding::CutOff { first: 11 }),
        (format!("TRUNCATE {log}"), Finding::CutOff { first: 1 }),
        // Delete, and close the gap.
        (format!("DELETE FROM {log} WHERE seq = 4; UPDATE {log} SET seq = seq - 1 WHERE seq > 4"), changed(4)),
        // Insert.
        (format!("UPDATE {log} SET seq = seq + 100 WHERE seq > 6; UPDATE {log} SET seq = seq - 99 WHERE seq > 100;
                  INSERT INTO {log} SELECT 7, 'new', 'event', time, '{{}}', prev, hash FROM {log} WHERE seq = 6"), changed(7)),
        // Reorder.
        (format!("UPDATE {log} SET seq = 100 WHERE seq = 3; UPDATE {log} SET seq = 3 WHERE seq = 9; UPDATE {log} SET seq = 9 WHERE seq = 100"), changed(3)),
    ] {
        world.db.sql(&sql);
        assert_eq!(report(&world, tenant).finding, Some(expected), "{sql}");
        world.db.sql(&format!("DELETE FROM {log}; INSERT INTO {log} SELECT * FROM public.kept"));
        assert_eq!(report(&world, tenant).finding, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_written_anew_is_not_signed_again() {
    let world = World::new().await;
    let anna = signed_log(&world).await;
    let (tenant, name) = (anna.tenant(), anna.tenant().to_string());
    let schema = schema(tenant);
    world
        .db
        .sql(&format!("DELETE FROM {schema}.audit_record WHERE seq > 8"));
    act(&anna, "DeleteServer", Outcome::Succeeded).await;
    // Ten records: the vault has seen twelve.
    assert_eq!(links(&world, tenant).len(), 10);
    testkit::eventually("an attempt to sign", || {
        let tried = format!(
            "SELECT count(*) FROM tenant.audit_chain WHERE tenant_id = '{name}' AND try_time > ahead_since"
        );
        world.db.sql(&format!("UPDATE tenant.audit_chain SET signed_size = 0, ahead_since = coalesce(ahead_since, now()) WHERE tenant_id = '{name}' AND signed_size > size"));
        (world.db.sql(&tried) == "1").then_some(())
    });
    assert_eq!(world.vault.signed(&name), 12);
    assert_eq!(
        report(&world, tenant).finding,
        Some(Finding::CutOff { first: 11 })
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_follow_the_log_and_catch_up_when_the_vault_was_sealed() {
    let world = World::new().await;
    let anna = signed_log(&world).await;
    let (tenant, name) = (anna.tenant(), anna.tenant().to_string());
    let before = anna.call(GetAuditHeadRequest {}).await.unwrap();
    world.vault.seal(true);
    act(&anna, "UpdateServer", Outcome::Succeeded).await;
    testkit::eventually("an attempt to sign", || {
        let tried = format!(
            "SELECT count(*) FROM tenant.audit_chain WHERE tenant_id = '{name}' AND try_time > ahead_since"
        );
        (world.db.sql(&tried) == "1").then_some(())
    });
    // Everything goes on, and the last head is still told.
    assert_eq!(world.vault.signed(&name), 12);
    assert_eq!(anna.call(GetAuditHeadRequest {}).await.unwrap(), before);
    act(&anna, "UpdateServer", Outcome::Succeeded).await;
    world.vault.seal(false);
    signed(&world, tenant, 16);
    let head = anna.call(GetAuditHeadRequest {}).await.unwrap();
    assert!(head.statement.contains("\"size\":16"), "{head:?}");
    let report = report(&world, tenant);
    assert_eq!((report.finding, report.covered), (None, 16));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_without_a_head_says_so() {
    let world = World::new().await;
    let anna = owner(&world, "anna@example.com").await;
    let no = anna.refused(GetAuditHeadRequest {}).await;
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::NotFound, "AUDIT_HEAD_NOT_FOUND")
    );
}

/// Records of calls that were made so many days ago. Nobody can write them, so they are put back by hand.
async fn aged(world: &World, pool: &pg::Pool, tenant: TenantId, days: i64, count: usize) {
    let event = |_| {
        let (id, now) = (AuditId::fresh(), micros());
        format!(r#"{{"part":"event","id":"{id}","time":{now},"event":null}}"#)
    };
    let bodies: Vec<String> = (0..count).map(event).collect();
    let numbers = append(pool, tenant, &bodies).await;
    let (schema, first) = (schema(tenant), numbers[0]);
    world.db.sql(&format!(
        "UPDATE {schema}.audit_record SET time = now() - interval '{days} days' WHERE seq >= {first} AND part = 'event' AND time > now() - interval '1 hour'"
    ));
}

/// Trims as the task does, and says how much went.
async fn trim(pool: &pg::Pool, tenant: TenantId) -> i64 {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut tx = pool.errand(&Errand { tenant, deadline }).await.unwrap();
    let removed = sqlx::query_scalar("SELECT tenant.audit_trim()")
        .fetch_one(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    removed
}

fn a_day_passes(world: &World) {
    world
        .db
        .sql("UPDATE tenant.audit_chain SET trim_time = trim_time - interval '1 day 1 second'");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_plan_no_longer_keeps_goes_and_the_rest_is_still_proven() {
    let world = World::new().await;
    let pool = world.pool().await;
    for plan in Plan::ALL {
        let anna = owner(&world, &format!("{}@example.com", plan.word())).await;
        let tenant = anna.tenant();
        world.db.sql(&format!(
            "UPDATE tenant.tenant SET plan = '{}' WHERE id = '{tenant}'",
            plan.word()
        ));
        let days = i64::from(plan.limits().audit_days);
        for age in [days + 40, days + 1] {
            aged(&world, &pool, tenant, age, 5).await;
        }
        aged(&world, &pool, tenant, days - 1, 5).await;
        act(&anna, "UpdateServer", Outcome::Succeeded).await;
        signed(&world, tenant, 17);
        // Not before a day has passed.
        assert_eq!(trim(&pool, tenant).await, 0);
        assert_eq!(links(&world, tenant).len(), 17);
        a_day_passes(&world);
        testkit::eventually("a trimmed log", || {
            (links(&world, tenant).first()?.sequence == 11).then_some(())
        });
        // And not again on this day.
        aged(&world, &pool, tenant, days + 1, 1).await;
        assert_eq!(trim(&pool, tenant).await, 0);
        let at = format!("{plan:?}");
        let report = report(&world, tenant);
        assert_eq!(
            (report.finding, report.first, report.last),
            (None, 11, 19),
            "{at}"
        );
        let trimmed = links(&world, tenant)
            .into_iter()
            .find(|link| link.body.contains("\"trim\""))
            .unwrap();
        assert!(trimmed.body.contains(&format!("\"days\":{days}")), "{at}");
        // A second one, the next day; and a cut that was none shows.
        a_day_passes(&world);
        signed(&world, tenant, 19);
        assert_eq!(
            crate::audit_proof::report_of_cut(&world, tenant),
            Some(Finding::Removed { first: 11, last: 12 })
        );
    }
}

/// What the proof says when a superuser cuts two more records off the front.
fn report_of_cut(world: &World, tenant: TenantId) -> Option<Finding> {
    let log = format!("{}.audit_record", schema(tenant));
    world.db.sql(&format!(
        "CREATE TABLE public.\"{tenant}\" AS SELECT * FROM {log} WHERE seq IN (11, 12); DELETE FROM {log} WHERE seq IN (11, 12)"
    ));
    let finding = report(world, tenant).finding;
    world
        .db
        .sql(&format!("INSERT INTO {log} SELECT * FROM public.\"{tenant}\""));
    finding
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_past_goes_in_steps() {
    let world = World::new().await;
    let pool = world.pool().await;
    let anna = owner(&world, "anna@example.com").await;
    let tenant = anna.tenant();
    for part in 0..21 {
        aged(&world, &pool, tenant, 400 - part, 1_000).await;
    }
    a_day_passes(&world);
    testkit::eventually("a trimmed log", || {
        (links(&world, tenant).first()?.sequence == 21_001).then_some(())
    });
    let report = report(&world, tenant);
    // All that is left are the two records that tell of the steps.
    assert_eq!((report.finding, report.records), (None, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_of_a_tenant_that_is_gone_is_dropped() {
    let world = World::new().await;
    let gone = TenantId::fresh();
    world.db.sql(&format!(
        "INSERT INTO tenant.audit_intent VALUES ('{gone}', 'aud_1', now() - interval '1 hour'), ('{gone}', 'aud_2', now() + interval '1 hour');
         INSERT INTO tenant.audit_chain (tenant_id, size, hash) VALUES ('{gone}', 1, sha256('')), ('nonsense', 1, sha256(''))"
    ));
    testkit::eventually("nothing left", || {
        let left = world.db.sql(
            "SELECT (SELECT count(*) FROM tenant.audit_intent) + (SELECT count(*) FROM tenant.audit_chain)",
        );
        (left == "0").then_some(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_record_goes_without_the_one_that_says_so() {
    let world = World::new().await;
    let pool = world.pool().await;
    let anna = owner(&world, "anna@example.com").await;
    let (tenant, log) = (anna.tenant(), format!("{}.audit_record", schema(anna.tenant())));
    aged(&world, &pool, tenant, 400, 5).await;
    act(&anna, "UpdateServer", Outcome::Succeeded).await;
    // Nobody but a superuser can take the id of the trim that is to come.
    world
        .db
        .sql(&format!("UPDATE {log} SET id = 'trim_5' WHERE seq = 6"));
    // The task tries it too, and then it is not asked for again at once.
    let until = Instant::now() + Duration::from_secs(60);
    let refused = loop {
        a_day_passes(&world);
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut tx = pool.errand(&Errand { tenant, deadline }).await.unwrap();
        let trimmed = sqlx::query("SELECT tenant.audit_trim()").execute(&mut *tx).await;
        tx.rollback().await;
        match trimmed {
            Err(error) => break error.to_string(),
            Ok(_) => assert!(Instant::now() < until, "it is never tried"),
        }
    };
    assert!(refused.contains("cannot be written down"), "{refused}");
    assert_eq!(links(&world, tenant).len(), 7);
}

/// From now on nothing is written to this tenant's log: a superuser has seen to it.
fn stuck(world: &World, tenant: TenantId) {
    world.db.sql(&format!(
        "ALTER TABLE {}.audit_record ADD CONSTRAINT stuck CHECK (seq < 0) NOT VALID",
        schema(tenant)
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn intents_that_cannot_be_closed_hold_up_nobody_elses() {
    let world = World::new().await;
    let pool = world.pool().await;
    let anna = owner(&world, "anna@example.com").await;
    let bert = owner(&world, "bert@example.com").await;
    let now = micros();
    let body = |_| {
        let id = AuditId::fresh();
        format!(
            r#"{{"part":"intent","id":"{id}","time":{now},"deadline":{}}}"#,
            now + 3_600_000_000
        )
    };
    append(&pool, anna.tenant(), &(0..450).map(body).collect::<Vec<_>>()).await;
    stuck(&world, anna.tenant());
    let begun = intent(&bert, "DeleteServer", 60);
    bert.send(tonic::Request::new(begun)).await.unwrap();
    world.db.sql(&format!(
        "UPDATE tenant.audit_intent SET due_time = now() - CASE tenant_id WHEN '{}' THEN interval '1 hour' ELSE interval '1 second' END",
        anna.tenant()
    ));
    testkit::eventually("the other's intent closed", || {
        (links(&world, bert.tenant()).len() == 2).then_some(())
    });
    let left = world.db.sql("SELECT count(*) FROM tenant.audit_intent");
    assert_eq!(left, "450");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_that_cannot_be_trimmed_hold_up_nobody_elses() {
    let world = World::new().await;
    let pool = world.pool().await;
    let anna = owner(&world, "anna@example.com").await;
    aged(&world, &pool, anna.tenant(), 400, 5).await;
    // Tenants without a schema are stuck.
    world.db.sql(
        "INSERT INTO tenant.tenant (id, name, region, cell, plan)
         SELECT 'tnt_' || lpad(n::text, 26, '0'), 'Stuck', 'eu', 'c', 'free' FROM generate_series(1, 220) AS n;
         INSERT INTO tenant.audit_chain (tenant_id, size, hash, trim_time, signed_size)
         SELECT 'tnt_' || lpad(n::text, 26, '0'), 7, sha256(''), now() - interval '9 days', 7 FROM generate_series(1, 220) AS n",
    );
    a_day_passes(&world);
    testkit::eventually("a trimmed log", || {
        (links(&world, anna.tenant()).first()?.sequence == 6).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_sees_to_the_log_of_a_tenant_that_has_moved() {
    let world = World::new().await;
    let anna = owner(&world, "anna@example.com").await;
    let moved = TenantId::fresh();
    world.db.sql(&format!(
        "INSERT INTO tenant.tenant (id, name, region, cell, plan, state, moved_to) VALUES ('{moved}', 'Gone', 'eu', 'c', 'free', 'moved', 'https://x.example');
         INSERT INTO tenant.audit_intent VALUES ('{moved}', 'aud_1', now() + interval '1 hour');
         INSERT INTO tenant.audit_chain (tenant_id, size, hash, ahead_since) VALUES ('{moved}', 7, sha256(''), now() - interval '1 hour')"
    ));
    testkit::eventually("nothing left", || {
        let left = format!(
            "SELECT (SELECT count(*) FROM tenant.audit_intent WHERE tenant_id = '{moved}')
                  + (SELECT count(*) FROM tenant.audit_chain WHERE tenant_id = '{moved}')"
        );
        (world.db.sql(&left) == "0").then_some(())
    });
    act(&anna, "UpdateServer", Outcome::Succeeded).await;
    signed(&world, anna.tenant(), 2);
    assert_eq!(world.vault.signed(&moved.to_string()), 0);
}
