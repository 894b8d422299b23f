//! What is written to an audit log: once, in order, in one chain, and by nobody else.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant, SystemTime},
};

use audit::{Hash, Link, Record, Report, Verifier};
use futures_util::future::join_all;
use proto::tenant::v1::*;
use sqlx::AssertSqlSafe;
use tonic::{Code, Request};
use types::{AuditId, Errand, TenantId};

use crate::world::{Caller, World};

/// What the gateway tells of a call.
pub(crate) fn call_of(caller: &Caller<'_>, method: &str) -> AuditCall {
    AuditCall {
        actor: Some(AuditActor {
            user_id: caller.user().to_string(),
            role: "owner".to_owned(),
            ..AuditActor::default()
        }),
        kind: AuditKind::Change.into(),
        method: format!("/trailmesh.tenant.v1.ServerService/{method}"),
        path_template: "POST /v1/servers".to_owned(),
        client_address: "192.0.2.7".to_owned(),
        user_agent: "curl/8".to_owned(),
        request_id: "req_1".to_owned(),
        ..AuditCall::default()
    }
}

/// An intent that may be under way until so many seconds from now.
pub(crate) fn intent(caller: &Caller<'_>, method: &str, seconds: i64) -> RecordIntentRequest {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    RecordIntentRequest {
        tenant_id: caller.tenant().to_string(),
        entry_id: AuditId::fresh().to_string(),
        call: Some(call_of(caller, method)),
        deadline: Some(prost_types(now.as_secs() as i64 + seconds)),
    }
}

fn prost_types(seconds: i64) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds, nanos: 0 }
}

/// How it ended.
pub(crate) fn result(intent: &RecordIntentRequest, outcome: Outcome) -> RecordResultRequest {
    let ok = outcome == Outcome::Succeeded;
    RecordResultRequest {
        tenant_id: intent.tenant_id.clone(),
        entry_id: intent.entry_id.clone(),
        outcome: outcome.into(),
        code: if ok { "OK" } else { "NOT_FOUND" }.to_owned(),
        reason: if ok { "" } else { "SERVER_NOT_FOUND" }.to_owned(),
        targets: [("server_id".to_owned(), format!("srv_{}", intent.entry_id))].into(),
    }
}

/// An action from its beginning to its end.
pub(crate) async fn act(caller: &Caller<'_>, method: &str, outcome: Outcome) -> String {
    let begun = intent(caller, method, 10);
    caller.send(Request::new(begun.clone())).await.unwrap();
    caller.send(Request::new(result(&begun, outcome))).await.unwrap();
    begun.entry_id
}

pub(crate) fn schema(tenant: TenantId) -> String {
    format!("t_{}", tenant.digits())
}

/// A tenant in whose log nothing stands yet: it was put there by hand.
pub(crate) async fn new_log(world: &World, owner: &Caller<'_>) -> String {
    let tenant = TenantId::fresh();
    let pool = world.pool().await;
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut tx = pool.shared(deadline).await.unwrap();
    pg::create_tenant_schema(&mut tx, tenant).await.unwrap();
    tx.commit().await.unwrap();
    let (user, agents) = (owner.user(), types::PoolId::fresh());
    world.db.sql(&format!(
        "INSERT INTO tenant.tenant (id, name, region, cell, plan) VALUES ('{tenant}', 'Acme', 'eu', 'c', 'enterprise');
         INSERT INTO tenant.member (tenant_id, user_id, role) VALUES ('{tenant}', '{user}', 'owner');
         INSERT INTO tenant.pool (id, tenant_id, name) VALUES ('{agents}', '{tenant}', 'default')"
    ));
    tenant.to_string()
}

/// Somebody who owns such a tenant.
pub(crate) async fn owner<'w>(world: &'w World, email: &str) -> Caller<'w> {
    let person = world.person(email);
    let tenant = new_log(world, &person).await;
    person.in_tenant(&tenant).await
}

/// The chain as it is in the database.
pub(crate) fn links(world: &World, tenant: TenantId) -> Vec<Link> {
    let schema = schema(tenant);
    let rows = world.db.sql(&format!(
        "SELECT seq || ' ' || encode(prev, 'hex') || ' ' || encode(hash, 'hex') || ' ' || body FROM {schema}.audit_record ORDER BY seq"
    ));
    let link = |row: &str| {
        let mut parts = row.splitn(4, ' ');
        Link {
            sequence: parts.next().unwrap().parse().unwrap(),
            prev: Hash::from_hex(parts.next().unwrap()).unwrap(),
            hash: Hash::from_hex(parts.next().unwrap()).unwrap(),
            body: parts.next().unwrap().to_owned(),
        }
    };
    rows.lines().filter(|row| !row.is_empty()).map(link).collect()
}

/// What the proof of the chain says, up to the head that the vault has of it where it has one.
pub(crate) fn report(world: &World, tenant: TenantId) -> Report {
    let name = tenant.to_string();
    let signed = world.vault.signed(&name) > 0;
    let heads = signed.then(|| world.vault.head(&name).verify(&world.vault.keys()).unwrap());
    let mut verifier = Verifier::new(&name, heads.into_iter().collect());
    links(world, tenant).iter().for_each(|link| verifier.push(link));
    verifier.finish()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_action_is_an_intent_and_a_result_however_often_it_is_told() {
    let world = World::new().await;
    let anna = owner(&world, "anna@example.com").await;
    let begun = intent(&anna, "RegisterServer", 10);
    for _ in 0..3 {
        anna.send(Request::new(begun.clone())).await.unwrap();
    }
    for outcome in [Outcome::Succeeded, Outcome::Succeeded, Outcome::Failed] {
        anna.send(Request::new(result(&begun, outcome))).await.unwrap();
    }
    let list = anna.call(ListAuditEntriesRequest::default()).await.unwrap();
    assert_eq!(list.entries.len(), 1);
    let entry = &list.entries[0];
    assert_eq!(
        (entry.outcome(), entry.sequence, entry.id.as_str()),
        (Outcome::Succeeded, 2, begun.entry_id.as_str())
    );
    assert_eq!(
        entry.call.as_ref().unwrap().targets["server_id"],
        format!("srv_{}", begun.entry_id)
    );
    let report = report(&world, anna.tenant());
    assert_eq!((report.finding, report.records), (None, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_of_nothing_and_of_nobody_is_not_found() {
    let world = World::new().await;
    let anna = owner(&world, "anna@example.com").await;
    let never = result(&intent(&anna, "X", 10), Outcome::Succeeded);
    let no = anna.send(Request::new(never.clone())).await.unwrap_err();
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::NotFound, "AUDIT_ENTRY_NOT_FOUND")
    );
    for tenant in [TenantId::fresh().to_string(), "nonsense".to_owned()] {
        let gone = RecordResultRequest {
            tenant_id: tenant.clone(),
            ..never.clone()
        };
        let no = anna.send(Request::new(gone)).await.unwrap_err();
        assert_eq!(
            (no.code, no.reason.as_str()),
            (Code::NotFound, "TENANT_NOT_FOUND")
        );
        let lost = RecordIntentRequest {
            tenant_id: tenant,
            ..intent(&anna, "X", 10)
        };
        let no = anna.send(Request::new(lost)).await.unwrap_err();
        assert_eq!(
            (no.code, no.reason.as_str()),
            (Code::NotFound, "TENANT_NOT_FOUND")
        );
    }
    // Pending is no end, and an id is one of an entry.
    let mut bad = result(&intent(&anna, "X", 10), Outcome::Pending);
    let no = anna.send(Request::new(bad.clone())).await.unwrap_err();
    assert_eq!((no.code, no.field.as_str()), (Code::InvalidArgument, "outcome"));
    bad.entry_id = "srv_1".to_owned();
    let no = anna.send(Request::new(bad)).await.unwrap_err();
    assert_eq!((no.code, no.field.as_str()), (Code::InvalidArgument, "entry_id"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_intents_at_once_form_one_chain() {
    let world = World::new().await;
    let anna = owner(&world, "anna@example.com").await;
    let intents: Vec<_> = (0..1_000).map(|_| intent(&anna, "RegisterServer", 60)).collect();
    let began = Instant::now();
    // On a machine that has no time, some are late; the gateway that asks again asks for the same entry.
    let told_once = async |intent: &RecordIntentRequest| loop {
        match anna.send(Request::new(intent.clone())).await {
            Ok(_) => return,
            Err(no) => assert!(
                matches!(no.code, Code::DeadlineExceeded | Code::Unavailable),
                "{no:?}"
            ),
        }
    };
    join_all(intents.iter().map(told_once)).await;
    let took = began.elapsed();
    println!(
        "1,000 intents of one tenant at once: {took:?}, {:.0} a second",
        1_000.0 / took.as_secs_f64()
    );
    let chain = links(&world, anna.tenant());
    let told: BTreeSet<&String> = intents.iter().map(|intent| &intent.entry_id).collect();
    let written: BTreeSet<String> = chain
        .iter()
        .map(|link| Record::read(&link.body).unwrap().heading().0.to_owned())
        .collect();
    assert_eq!(written.iter().collect::<BTreeSet<_>>(), told);
    assert_eq!(report(&world, anna.tenant()).finding, None);
    assert_eq!(chain.len(), 1_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_services_at_once_write_one_chain() {
    let world = World::new().await;
    let anna = owner(&world, "anna@example.com").await;
    let pool = world.pool().await;
    let tenant = anna.tenant();
    let ours = join_all((0..50).map(|_| act(&anna, "UpdateServer", Outcome::Succeeded)));
    let theirs = async {
        let mut numbers = Vec::new();
        for n in 0..50 {
            let (id, now) = (AuditId::fresh(), micros());
            let body = format!(
                r#"{{"part":"intent","id":"{id}","time":{now},"deadline":{},"call":{{}}}}"#,
                now + n
            );
            numbers.extend(append(&pool, tenant, &[body]).await);
        }
        numbers
    };
    let (_, numbers) = tokio::join!(ours, theirs);
    assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), 50);
    let report = report(&world, tenant);
    assert_eq!((report.finding, report.records), (None, 150));
}

/// Microseconds since 1970.
pub(crate) fn micros() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(since.unwrap().as_micros()).unwrap()
}

/// What the service does to append, done by hand.
pub(crate) async fn append(pool: &pg::Pool, tenant: TenantId, bodies: &[String]) -> Vec<i64> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut tx = pool.errand(&Errand { tenant, deadline }).await.unwrap();
    let numbers = sqlx::query_scalar("SELECT tenant.audit_append($1)")
        .bind(bodies)
        .fetch_all(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    numbers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_the_services_database_account_can_only_add_to_a_log() {
    let world = World::new().await;
    let anna = owner(&world, "anna@example.com").await;
    let bert = owner(&world, "bert@example.com").await;
    act(&anna, "RegisterServer", Outcome::Succeeded).await;
    act(&bert, "RegisterServer", Outcome::Succeeded).await;
    let pool = world.pool().await;
    let (tenant, other) = (anna.tenant(), schema(bert.tenant()));
    let own = schema(tenant);
    let (id, now) = (AuditId::fresh(), micros());
    let record = |part: &str, id: &str, time: i64| {
        let body = format!(r#"{{"part":"{part}","id":"{id}","time":{time},"deadline":9000000000000000}}"#);
        format!("SELECT tenant.audit_append(ARRAY['{body}'])")
    };
    let good = record("intent", &id.to_string(), now);
    let hour = 3_600_000_000;
    for sql in [
        "UPDATE audit_record SET body = ''".to_owned(),
        "DELETE FROM audit_record".to_owned(),
        "TRUNCATE audit_record".to_owned(),
        "INSERT INTO audit_record SELECT seq + 2, id || 'x', part, time, body, prev, hash FROM audit_record".to_owned(),
        "ALTER TABLE audit_record DISABLE TRIGGER ALL".to_owned(),
        "ALTER TABLE audit_record ADD COLUMN x integer".to_owned(),
        "ALTER TABLE audit_record DISABLE ROW LEVEL SECURITY".to_owned(),
        "ALTER TABLE audit_record OWNER TO CURRENT_USER".to_owned(),
        "DROP TABLE audit_record".to_owned(),
        "CREATE RULE r AS ON SELECT TO audit_record DO INSTEAD NOTHING".to_owned(),
        "CREATE TRIGGER t BEFORE INSERT ON audit_record EXECUTE FUNCTION tenant.keep_region()".to_owned(),
        "GRANT DELETE ON audit_record TO CURRENT_USER; DELETE FROM audit_record".to_owned(),
        "SET session_replication_role = replica".to_owned(),
        "SET ROLE trailmesh_owner".to_owned(),
        "SELECT * FROM audit_record FOR UPDATE".to_owned(),
        "SELECT tenant.audit_write('', 1, '', '', '', now(), '', '')".to_owned(),
        format!("SELECT tenant.audit_end('{own}')"),
        format!("SELECT tenant.audit_grew('{tenant}', 1, '')"),
        "SELECT tenant.audit_link(1, '', '')".to_owned(),
        "CREATE OR REPLACE FUNCTION tenant.audit_append(bodies text []) RETURNS SETOF bigint LANGUAGE sql AS 'SELECT 1::bigint'".to_owned(),
        "SELECT * FROM tenant.audit_chain".to_owned(),
        "SELECT * FROM tenant.audit_intent".to_owned(),
        "SELECT * FROM tenant.audit_inbox".to_owned(),
        "SELECT plan FROM tenant.tenant".to_owned(),
        record("trim", &id.to_string(), now),
        // The id of a trim that is to come, and none.
        record("event", "trim_10", now),
        record("event", "aud_10", now),
        record("event", &format!("{id}0"), now),
        format!("SELECT tenant.audit_append(ARRAY['{{\"part\":\"event\",\"time\":{now}}}'])"),
        // Kept longer than the others, or not at all.
        record("event", &id.to_string(), now + hour + hour / 60),
        record("event", &id.to_string(), now - hour - hour / 60),
        record("event", &id.to_string(), i64::MAX),
        record("event", &id.to_string(), 0),
        format!("SELECT tenant.audit_append(ARRAY['{{\"part\":\"event\",\"id\":\"{id}\"}}'])"),
        "SELECT tenant.audit_append(ARRAY['{}'])".to_owned(),
        "SELECT tenant.audit_append(ARRAY['x'])".to_owned(),
        format!("SET search_path = {other}; SELECT body FROM audit_record"),
        format!("SELECT body FROM {other}.audit_record"),
        format!("SET ROLE {other}; INSERT INTO audit_record SELECT * FROM {own}.audit_record"),
    ] {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut tx = pool.errand(&Errand { tenant, deadline }).await.unwrap();
        let outcome = sqlx::raw_sql(AssertSqlSafe(sql.clone())).fetch_all(&mut *tx).await;
        assert!(
            outcome.is_err() || outcome.is_ok_and(|rows| rows.is_empty() && sql.contains("SET ROLE t_")),
            "{sql}"
        );
        tx.rollback().await;
    }
    // Whoever takes another role stays on this tenant's side: what is appended, is appended here.
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut tx = pool.errand(&Errand { tenant, deadline }).await.unwrap();
    let words = format!("SET ROLE {other}; SET search_path = {other}; {good}");
    sqlx::raw_sql(AssertSqlSafe(words))
        .fetch_all(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(
        (links(&world, tenant).len(), links(&world, bert.tenant()).len()),
        (3, 2)
    );
    // On the shared side there is no log to write.
    let mut tx = pool.shared(deadline).await.unwrap();
    for sql in [
        "SELECT tenant.audit_append(ARRAY['{}'])",
        "SELECT tenant.audit_trim()",
        "INSERT INTO tenant.audit_intent VALUES ('a', 'b', now())",
    ] {
        assert!(sqlx::raw_sql(sql).execute(&mut *tx).await.is_err(), "{sql}");
        tx.rollback().await;
        tx = pool.shared(deadline).await.unwrap();
    }
    tx.rollback().await;
    assert_eq!(report(&world, tenant).finding, None);
    assert_eq!(report(&world, bert.tenant()).finding, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_says_of_itself_is_bounded_and_escaped() {
    let world = World::new().await;
    let anna = owner(&world, "anna@example.com").await;
    let nasty = "canary\"}\n{\\u0000\u{0}\u{1b}[2J\u{202e}'; DROP TABLE audit_record; --".repeat(200);
    let mut begun = intent(&anna, "RegisterServer", 10);
    let call = begun.call.as_mut().unwrap();
    call.user_agent = nasty.clone();
    call.targets = (0..100).map(|n| (format!("{n}{nasty}"), nasty.clone())).collect();
    call.client_address = nasty.clone();
    anna.send(Request::new(begun)).await.unwrap();
    let list = anna.call(ListAuditEntriesRequest::default()).await.unwrap();
    let call = list.entries[0].call.clone().unwrap();
    assert!(call.user_agent.len() <= 256 && call.user_agent.starts_with("canary\"}"));
    assert!(!call.user_agent.contains(['\n', '\0', '\u{1b}', '\u{202e}']));
    assert!(call.targets.len() <= 32 && call.targets.iter().all(|(k, v)| k.len() <= 128 && v.len() <= 128));
    assert_eq!(call.client_address, "");
    assert_eq!(report(&world, anna.tenant()).finding, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_intent_that_nobody_answers_is_closed_as_unknown_once() {
    let world = World::apart().await;
    world.start_apart().await;
    let anna = owner(&world, "anna@example.com").await;
    let mut intents = Vec::new();
    for _ in 0..5 {
        let begun = intent(&anna, "DeleteServer", 0);
        let until = Instant::now() + Duration::from_secs(60);
        // The service is on its way.
        while let Err(no) = anna.send(Request::new(begun.clone())).await {
            assert!(Instant::now() < until, "{no:?}");
        }
        intents.push(begun);
    }
    let pending = anna.call(ListAuditEntriesRequest::default()).await.unwrap();
    assert!(
        pending
            .entries
            .iter()
            .all(|entry| entry.outcome() == Outcome::Pending && entry.end_time.is_none())
    );
    // The service ends as by kill -9, and the time passes.
    world.kill_apart();
    world.db.sql("UPDATE tenant.audit_intent SET due_time = now()");
    world.start_apart().await;
    testkit::eventually("closed intents", || {
        (world.db.sql("SELECT count(*) FROM tenant.audit_intent") == "0").then_some(())
    });
    // Its gateway comes late with one of them, and somebody else with a second closing.
    let late = result(&intents[0], Outcome::Succeeded);
    let until = Instant::now() + Duration::from_secs(60);
    while let Err(no) = anna.send(Request::new(late.clone())).await {
        assert!(Instant::now() < until, "{no:?}");
    }
    let list = anna.call(ListAuditEntriesRequest::default()).await.unwrap();
    assert_eq!(list.entries.len(), 5);
    for entry in &list.entries {
        assert_eq!(
            (entry.outcome(), entry.code.as_str(), entry.reason.as_str()),
            (Outcome::Unknown, "UNKNOWN", "RESULT_LOST")
        );
    }
    let report = report(&world, anna.tenant());
    assert_eq!((report.finding, report.records), (None, 10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_entries_that_stand_for_many() {
    let world = World::new().await;
    let anna = owner(&world, "anna@example.com").await;
    let refusal = |tenant_id: String, count| Refusal {
        tenant_id,
        entry_id: AuditId::fresh().to_string(),
        call: Some(call_of(&anna, "DeleteServer")),
        code: "PERMISSION_DENIED".to_owned(),
        reason: "ROLE_TOO_LOW".to_owned(),
        time: Some(prost_types(1_790_000_000)),
        count,
    };
    let refusals = vec![
        refusal(anna.tenant().to_string(), 17),
        refusal(TenantId::fresh().to_string(), 1),
        refusal(anna.tenant().to_string(), 0),
    ];
    let request = RecordRefusalsRequest { refusals };
    for _ in 0..2 {
        anna.send(Request::new(request.clone())).await.unwrap();
    }
    let list = anna.call(ListAuditEntriesRequest::default()).await.unwrap();
    let counts: Vec<i64> = list.entries.iter().map(|entry| entry.count).collect();
    assert_eq!(counts, [1, 17]);
    let entry = &list.entries[1];
    assert_eq!(entry.call.as_ref().unwrap().kind(), AuditKind::Refusal);
    assert_eq!(
        (entry.outcome(), entry.reason.as_str()),
        (Outcome::Failed, "ROLE_TOO_LOW")
    );
    let many = RecordRefusalsRequest {
        refusals: (0..101).map(|_| refusal(String::new(), 1)).collect(),
    };
    let no = anna.send(Request::new(many)).await.unwrap_err();
    assert_eq!(no.field, "refusals");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_gateway_writes_to_a_log() {
    let world = World::new().await;
    let anna = owner(&world, "anna@example.com").await;
    let table = chassis::policy::Table::load(proto::DESCRIPTOR_SET).unwrap();
    for method in ["RecordIntent", "RecordResult", "RecordRefusals"] {
        let rule = table
            .rule(&format!("/trailmesh.tenant.v1.AuditService/{method}"))
            .unwrap();
        assert_eq!(
            rule.caller,
            chassis::policy::CallerKind::Peers(vec!["gateway".to_owned()])
        );
    }
    assert_eq!(report(&world, anna.tenant()).records, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_read_in_place_and_its_columns_must_say_what_its_bodies_say() {
    let world = World::new().await;
    let anna = owner(&world, "anna@example.com").await;
    for _ in 0..3 {
        act(&anna, "UpdateServer", Outcome::Succeeded).await;
    }
    let tenant = anna.tenant();
    let settings = world.settings();
    let read = async || {
        let mut links = Vec::new();
        tenant::read_audit_log(&settings, false, tenant, |link| links.push(link))
            .await
            .unwrap();
        links
    };
    let found = read().await;
    assert_eq!(
        found.into_iter().collect::<Option<Vec<_>>>(),
        Some(links(&world, tenant))
    );
    for change in ["id = 'x'", "part = 'event'", "time = now() - interval '9 days'"] {
        let log = format!("{}.audit_record", schema(tenant));
        world
            .db
            .sql(&format!("CREATE TABLE public.kept AS SELECT * FROM {log}"));
        world.db.sql(&format!("UPDATE {log} SET {change} WHERE seq = 5"));
        let found = read().await;
        let wrong: Vec<usize> = (0..6).filter(|at| found[*at].is_none()).collect();
        assert_eq!(wrong, [4], "{change}");
        world.db.sql(&format!(
            "DELETE FROM {log}; INSERT INTO {log} SELECT * FROM public.kept; DROP TABLE public.kept"
        ));
    }
    testkit::eventually("a signed head", || {
        (world.vault.signed(&tenant.to_string()) == 6).then_some(())
    });
    let mut head = None;
    while head.is_none() {
        head = tenant::last_audit_head(&settings, false, tenant).await.unwrap();
    }
    assert_eq!(head, Some(world.vault.head(&tenant.to_string())));
    assert!(
        tenant::read_audit_log(&settings, false, TenantId::fresh(), |_| ())
            .await
            .is_err()
    );
}
