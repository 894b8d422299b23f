//! A tenant's beginning, from a schema that was made ahead, and its end, of which nothing is left but the certificate.

use std::{process::Command, time::Instant};

use pg::Pool;
use proto::tenant::v1::*;
use testkit::{Postgres, eventually};
use tonic::Code;
use types::{Errand, Role, TenantId};

use crate::world::{Caller, World, new_tenant};

/// Nobody says these words but a tenant that is to be forgotten.
const NAME: &str = "Quasimodo & Söhne";
const CANARIES: &[&str] = &[
    "Quasimodo",
    "invited-canary",
    "host-canary.example.com",
    "label-canary",
    "pool-canary",
    "agent-canary",
    "account-canary",
    "key-canary",
    "envelope-canary",
    "inbox-canary",
    "body-canary",
    "head-canary",
];

fn delete(name: &str) -> DeleteTenantRequest {
    DeleteTenantRequest {
        name: name.to_owned(),
    }
}

fn get(tenant: TenantId) -> GetDeletionRequest {
    GetDeletionRequest {
        tenant_id: tenant.to_string(),
    }
}

/// A tenant that has something of everything.
async fn full_tenant<'w>(world: &'w World, email: &str) -> Caller<'w> {
    let person = world.person(email);
    let id = person.call(new_tenant(NAME)).await.unwrap().tenant.unwrap().id;
    let owner = person.in_tenant(&id).await;
    let pool = owner.pool("pool-canary").await;
    let server = Server {
        host: "host-canary.example.com".to_owned(),
        username: "account-canary".to_owned(),
        pool_id: pool.clone(),
        labels: [("label-canary".to_owned(), "x".to_owned())].into(),
        ..crate::world::new_server("canary")
    };
    let request = RegisterServerRequest {
        server: Some(server),
        ..RegisterServerRequest::default()
    };
    let server = owner.call(request).await.unwrap().server.unwrap().id;
    owner.agent("agent-canary", &pool).await;
    owner.deny(&server, "shop", "orders").await;
    owner
        .invite("invited-canary@example.com", proto::common::v1::Role::Viewer, "")
        .await
        .unwrap();
    world
        .member(&owner, Some(Role::Analyst), &[(&pool, Role::Operator)])
        .await;
    let user = owner.user();
    world.db.sql(&format!(
        "INSERT INTO auth.api_key (id, sha256, prefix, tenant_id, owner_id, name, role, scopes, pools, networks, create_time, expire_time)
         VALUES ('key_{id}', sha256('{id}'), 'bt_live_abc', '{id}', '{user}', 'key-canary', 'viewer', '{{}}', '{{}}', '{{}}', now(), now());
         INSERT INTO tenant.audit_inbox (id, tenant_id, event) VALUES ('aud_{id}', '{id}', '{{\"inbox\": \"inbox-canary\"}}');
         UPDATE tenant.audit_inbox SET problem = 'stays';
         SET session_replication_role = replica;
         INSERT INTO vault.audit_head (tenant_id, size, hash, statement, signature, signed_by)
         VALUES ('{id}', 1, sha256(''), '{id} head-canary', 's', 'none');
         INSERT INTO vault.agent_certificate (serial, tenant_id, agent_id, authority_id, expire_time)
         VALUES ('1' || left(md5('{id}'), 31), '{id}', 'agt_x', 'none', now());
         SET session_replication_role = origin;
         INSERT INTO t_{0}.audit_record (seq, id, part, time, body, prev, hash)
         VALUES (1000, 'aud_c', 'event', now(), 'body-canary', sha256(''), sha256(''));
         INSERT INTO t_{0}.credential (server_id, kind, field, envelope, key_version, version)
         VALUES ('{server}', 'ssh_key', 'value', 'btv1:1:envelope-canary', 1, 1)",
        owner.tenant().digits()
    ));
    owner
}

/// Everything that a dump of the database shows.
fn dump(world: &World) -> String {
    let output = Command::new(Postgres::shared().bin.join("pg_dump"))
        .arg(world.db.admin_url())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Nothing is left of the tenant but its id: in the row that says so, and in the vault's that its keys are destroyed.
fn nothing_is_left(world: &World, tenant: TenantId) {
    let dump = dump(world);
    let digits = tenant.to_string()[4..].to_owned();
    let mentions: Vec<&str> = dump.lines().filter(|line| line.contains(&digits)).collect();
    assert!(
        mentions.len() == 2 && mentions.iter().all(|line| line.starts_with(&tenant.to_string())),
        "{mentions:?}"
    );
    for canary in CANARIES {
        let found: Vec<&str> = dump.lines().filter(|line| line.contains(canary)).collect();
        assert!(found.is_empty(), "{canary}: {found:?}");
    }
    let roles = format!("SELECT count(*) FROM pg_roles WHERE rolname = 't_{digits}'");
    assert_eq!(world.db.sql(&roles), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_deleted_tenant_nothing_is_left_but_its_certificate() {
    let world = World::new().await;
    let anna = full_tenant(&world, "anna@example.com").await;
    let other = full_tenant(&world, "bert@example.com").await;
    let (tenant, kept) = (anna.tenant(), other.tenant());
    world.mails(2);
    let before = dump(&world);
    for canary in CANARIES {
        assert!(before.contains(canary), "{canary} was never there");
    }
    // The other one is only named so, that the search finds nothing of it.
    world.db.sql(&format!(
        "UPDATE tenant.tenant SET name = 'B' WHERE id = '{kept}'; DELETE FROM auth.api_key WHERE tenant_id = '{kept}';
         DELETE FROM tenant.audit_inbox WHERE tenant_id = '{kept}'; DELETE FROM tenant.invitation WHERE tenant_id = '{kept}';
         UPDATE tenant.pool SET name = 'p' WHERE tenant_id = '{kept}' AND name = 'pool-canary';
         UPDATE t_{0}.server SET host = 'h', username = 'u', labels = '{{}}'; UPDATE t_{0}.agent SET name = 'a';
         DELETE FROM t_{0}.audit_record; DELETE FROM t_{0}.credential;
         DELETE FROM vault.audit_head WHERE tenant_id = '{kept}'",
        kept.digits()
    ));
    let deletion = anna.call(delete(NAME)).await.unwrap().deletion.unwrap();
    assert_eq!(deletion.state(), DeletionState::Done);
    assert_eq!(deletion.tenant_id, tenant.to_string());
    assert!(deletion.end_time.is_some() && deletion.certificate.contains(&tenant.to_string()));
    assert_eq!(
        (deletion.signature.as_str(), deletion.key_id.as_str()),
        ("c2lnbmVk", "sig_1")
    );
    assert_eq!(world.vault.destroyed(), [tenant.to_string()]);
    nothing_is_left(&world, tenant);
    // Asked again, by call or by question, it is the same; nobody else is told.
    assert_eq!(
        anna.call(delete(NAME)).await.unwrap().deletion,
        Some(deletion.clone())
    );
    assert_eq!(anna.call(get(tenant)).await.unwrap().deletion, Some(deletion));
    for (caller, asked) in [(&other, tenant), (&anna, kept), (&anna, TenantId::fresh())] {
        let no = caller.refused(get(asked)).await;
        assert_eq!(
            (no.code, no.reason.as_str()),
            (Code::NotFound, "DELETION_NOT_FOUND")
        );
    }
    assert_eq!(
        anna.refused(ListServersRequest::default()).await.reason,
        "TENANT_NOT_FOUND"
    );
    assert_eq!(
        other
            .call(ListServersRequest::default())
            .await
            .unwrap()
            .servers
            .len(),
        1
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_an_owner_who_knows_the_name_deletes_a_tenant() {
    let world = World::new().await;
    let anna = full_tenant(&world, "anna@example.com").await;
    for wrong in ["", "Quasimodo", "quasimodo & söhne", "Quasimodo & Söhne "] {
        let no = anna.refused(delete(wrong)).await;
        assert_eq!(
            (no.code, no.reason.as_str(), no.field.as_str()),
            (Code::InvalidArgument, "NAME_DIFFERS", "name")
        );
    }
    for role in [Role::Viewer, Role::Analyst, Role::Operator, Role::Admin] {
        let member = world.member(&anna, Some(role), &[]).await;
        assert_eq!(member.refused(delete(NAME)).await.code, Code::PermissionDenied);
    }
    // Nor a key of the owner's, nor an owner without a proof of the second factor.
    let key = anna.key(&["tenant:manage"]);
    assert_eq!(key.refused(delete(NAME)).await.code, Code::PermissionDenied);
    let mut bare = anna.request(delete(NAME));
    bare.metadata_mut().remove("trailmesh-grant");
    assert!(anna.send(bare).await.is_err());
    assert_eq!(world.db.sql("SELECT count(*) FROM tenant.deletion"), "0");
    assert_eq!(
        anna.call(GetTenantRequest {}).await.unwrap().tenant.unwrap().name,
        NAME
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_vault_is_sealed_the_tenant_is_out_of_reach_and_goes_later() {
    let world = World::new().await;
    let anna = full_tenant(&world, "anna@example.com").await;
    let tenant = anna.tenant();
    world.vault.seal(true);
    let deletion = anna.call(delete(NAME)).await.unwrap().deletion.unwrap();
    assert_eq!(deletion.state(), DeletionState::UnderWay);
    assert_eq!((deletion.certificate.as_str(), deletion.end_time), ("", None));
    // Nobody has a seat, and no service enters the schema, for a person or for an agent.
    assert_eq!(world.seat(anna.user(), &tenant.to_string()).await, None);
    for name in ["x", "y"] {
        let name = name.to_owned();
        assert_eq!(
            anna.refused(CreateAgentPoolRequest { name }).await.reason,
            "TENANT_NOT_FOUND"
        );
    }
    assert_eq!(
        anna.refused(ListServersRequest::default()).await.reason,
        "TENANT_NOT_FOUND"
    );
    let mut settings = pg::Settings::new(&world.db.url("trailmesh_tenant")).unwrap();
    settings.database_ca_file = Some(Postgres::shared().ca.clone());
    let pool = Pool::open(&settings, "tenant", false).await.unwrap();
    let errand = Errand {
        tenant,
        deadline: Instant::now() + std::time::Duration::from_secs(5),
    };
    assert!(matches!(pool.errand(&errand).await, Err(pg::Error::NoSuchTenant)));
    // No keys are gone, so nothing is: a key that is still there opens what is in the schema.
    let left = format!(
        "SELECT count(*) FROM pg_namespace WHERE nspname = 't_{}'",
        tenant.digits()
    );
    assert_eq!(world.db.sql(&left), "1");
    let still = anna.call(get(tenant)).await.unwrap().deletion.unwrap();
    assert_eq!(still.state(), DeletionState::UnderWay);
    world.vault.seal(false);
    world.db.sql("UPDATE tenant.deletion SET due_time = now()");
    tokio::task::block_in_place(|| {
        eventually("the deletion to be done", || {
            let done = world
                .db
                .sql("SELECT count(*) FROM tenant.deletion WHERE end_time IS NOT NULL");
            (done == "1").then_some(())
        });
    });
    nothing_is_left(&world, tenant);
    let done = anna.call(get(tenant)).await.unwrap().deletion.unwrap();
    assert_eq!(done.state(), DeletionState::Done);
}

/// The service dies while it waits for the lock that a step needs, and while nothing holds it up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_dies_at_any_step_finishes_when_it_is_back() {
    let world = World::apart().await;
    world.start_apart().await;
    for (step, held) in [
        ("begin", "tenant.deletion"),
        ("keys", ""),
        ("schema", "t_{}.server"),
        ("rows", "tenant.binding"),
    ] {
        let anna = full_tenant(&world, &format!("{step}@example.com")).await;
        let tenant = anna.tenant();
        world.vault.seal(step == "keys");
        let mut holder = None;
        if !held.is_empty() {
            let table = held.replace("{}", &tenant.digits().to_string());
            holder = Some(hold(&world, &table).await);
        }
        let call = anna.call(delete(NAME));
        let kill = async {
            waits(&world, step, tenant).await;
            world.kill_apart();
        };
        let (outcome, ()) = tokio::join!(call, kill);
        assert!(outcome.is_err() || step == "keys", "{step}: {outcome:?}");
        drop(holder);
        world.vault.seal(false);
        gone(&world).await;
        world.start_apart().await;
        if step == "begin" {
            // Nothing was committed, so nothing has begun: it is asked for once more.
            assert_eq!(
                world.db.sql(&format!(
                    "SELECT count(*) FROM tenant.deletion WHERE tenant_id = '{tenant}'"
                )),
                "0"
            );
            anna.call(delete(NAME)).await.unwrap();
        }
        world
            .db
            .sql("UPDATE tenant.deletion SET due_time = now() WHERE end_time IS NULL");
        tokio::task::block_in_place(|| {
            eventually("the deletion to be done", || {
                let done = format!(
                    "SELECT count(*) FROM tenant.deletion WHERE tenant_id = '{tenant}' AND end_time IS NOT NULL"
                );
                (world.db.sql(&done) == "1").then_some(())
            });
        });
        nothing_is_left(&world, tenant);
    }
}

/// Keeps a table from everybody, until it is dropped.
async fn hold(world: &World, table: &str) -> sqlx::PgConnection {
    use sqlx::{Connection as _, Executor as _};
    let mut admin = sqlx::PgConnection::connect(&world.db.admin_url()).await.unwrap();
    let words = format!("BEGIN; LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE");
    admin.execute(sqlx::AssertSqlSafe(words)).await.unwrap();
    admin
}

/// Until the service has come to the step, and cannot do it.
async fn waits(world: &World, step: &str, tenant: TenantId) {
    tokio::task::block_in_place(|| {
        eventually("the step", || {
            let there = if step == "keys" {
                format!("SELECT count(*) FROM tenant.deletion WHERE tenant_id = '{tenant}'")
            } else {
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'trailmesh_tenant'
                 AND wait_event_type = 'Lock'"
                    .to_owned()
            };
            (world.db.sql(&there) != "0").then_some(())
        });
    });
}

/// Until the server has noticed that the service is gone.
async fn gone(world: &World) {
    tokio::task::block_in_place(|| {
        eventually("the sessions to end", || {
            let left = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'trailmesh_tenant'";
            (world.db.sql(left) == "0").then_some(())
        });
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_begin_in_schemas_that_were_made_ahead_each_in_its_own() {
    let world = World::prepared(3).await;
    let ready = |count: &'static str| {
        tokio::task::block_in_place(|| {
            eventually("schemas made ahead", || {
                let found = world
                    .db
                    .sql("SELECT count(*) FROM trailmesh.tenant_schemas WHERE state = 'prepared'");
                (found == count).then_some(())
            });
        });
    };
    ready("3");
    let anna = world.person("anna@example.com");
    let made = crate::concurrency::all((0..6).map(|_| anna.call(new_tenant("T")))).await;
    let mut ids: Vec<String> = made
        .into_iter()
        .map(|made| made.unwrap().tenant.unwrap().id)
        .collect();
    for id in &ids {
        let anna = anna.in_tenant(id).await;
        let server = anna.server("db", "").await;
        assert!(server.id.starts_with("srv_"));
        assert_eq!(
            anna.call(ListServersRequest::default())
                .await
                .unwrap()
                .servers
                .len(),
            1
        );
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 6);
    ready("3");
    let of_nobody = world.db.sql(
        "SELECT count(*) FROM trailmesh.tenant_schemas AS s WHERE s.state = 'used'
         AND NOT EXISTS (SELECT FROM tenant.tenant AS t WHERE 't_' || substr(t.id, 5) = s.name)",
    );
    assert_eq!(of_nobody, "0");
}

/// SQL of its own on the directory's side ends no tenant whose end was not asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_schema_and_no_row_goes_before_its_time() {
    let world = World::new().await;
    let anna = full_tenant(&world, "anna@example.com").await;
    let (tenant, place) = (anna.tenant(), format!("t_{}", anna.tenant().digits()));
    let mut settings = pg::Settings::new(&world.db.url("trailmesh_tenant")).unwrap();
    settings.database_ca_file = Some(Postgres::shared().ca.clone());
    let pool = Pool::open(&settings, "tenant", false).await.unwrap();
    let soon = || Instant::now() + std::time::Duration::from_secs(10);
    let early = [
        format!("SELECT trailmesh.drop_tenant_schema('{place}')"),
        format!("SELECT trailmesh.close_tenant_schema('{place}'), trailmesh.drop_tenant_schema('{place}')"),
        format!("SELECT tenant.forget_tenant('{tenant}')"),
        format!("DELETE FROM tenant.tenant WHERE id = '{tenant}'"),
        format!("UPDATE tenant.tenant SET state = 'moved', moved_to = 'x' WHERE id = '{tenant}'"),
        "INSERT INTO tenant.tenant (id, name, region, cell, state, moved_to)
         VALUES ('tnt_' || repeat('0', 26), 'x', 'eu', '1', 'moved', 'x')"
            .to_owned(),
        format!("UPDATE tenant.tenant SET id = 'tnt_' || repeat('0', 26) WHERE id = '{tenant}'"),
        format!("UPDATE vault.key_ring SET statement = 'x' WHERE tenant_id = '{tenant}'"),
        format!("DROP SCHEMA {place} CASCADE"),
        "TRUNCATE tenant.deletion".to_owned(),
        format!(
            "INSERT INTO tenant.deletion (tenant_id, requested_by, end_time) VALUES ('{tenant}', 'x', now())"
        ),
    ];
    for words in early {
        let mut tx = pool.shared(soon()).await.unwrap();
        let outcome = sqlx::raw_sql(sqlx::AssertSqlSafe(words.clone()))
            .execute(&mut *tx)
            .await;
        assert!(outcome.is_err(), "{words}");
    }
    // Not even when it was asked for, before the keys are gone; a proof that somebody else made up is none.
    for proof in ["NULL, NULL, NULL", "'{}', 's', 'k'"] {
        let mut tx = pool.shared(soon()).await.unwrap();
        let asked = format!(
            "UPDATE tenant.tenant SET state = 'deleting' WHERE id = '{tenant}';
             INSERT INTO tenant.deletion (tenant_id, requested_by, certificate, signature, key_id) VALUES ('{tenant}', 'x', {proof});
             SELECT trailmesh.close_tenant_schema('{place}')"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(asked))
            .execute(&mut *tx)
            .await
            .unwrap();
        assert!(pg::drop_tenant_schema(&mut tx, tenant).await.is_err(), "{proof}");
    }
    // And from the tenant's side nothing at all.
    let errand = Errand {
        tenant,
        deadline: soon(),
    };
    for words in [
        format!("RESET ROLE; SELECT tenant.forget_tenant('{tenant}')"),
        format!("SELECT tenant.forget_tenant('{tenant}')"),
        format!("SELECT auth.forget_tenant('{tenant}')"),
        format!("RESET ROLE; SELECT vault.forget_tenant('{tenant}')"),
        format!("SELECT tenant.schema_may_go('{place}')"),
        "SELECT * FROM tenant.deletion".to_owned(),
        format!("RESET ROLE; INSERT INTO tenant.deletion (tenant_id, requested_by) VALUES ('{tenant}', 'x')"),
        format!("RESET ROLE; SELECT trailmesh.drop_tenant_schema('{place}')"),
    ] {
        let mut tx = pool.errand(&errand).await.unwrap();
        let outcome = sqlx::raw_sql(sqlx::AssertSqlSafe(words.clone()))
            .execute(&mut *tx)
            .await;
        assert!(outcome.is_err(), "{words}");
    }
    assert_eq!(
        anna.call(ListServersRequest::default())
            .await
            .unwrap()
            .servers
            .len(),
        1
    );
}

/// How long a call takes that takes a schema which was made ahead: told, not judged, since the machine may be busy. `TENANT_TEST_CREATE` is
/// how many are made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn making_a_tenant_makes_no_schema() {
    let count: u32 = std::env::var("TENANT_TEST_CREATE").map_or(10, |count| count.parse().unwrap());
    let world = World::prepared(count).await;
    tokio::task::block_in_place(|| {
        eventually("schemas made ahead", || {
            let found = world
                .db
                .sql("SELECT count(*) FROM trailmesh.tenant_schemas WHERE state = 'prepared'");
            (found == count.to_string()).then_some(())
        });
    });
    let before = world.db.sql("SELECT max(made_at) FROM trailmesh.tenant_schemas");
    let mut times = Vec::new();
    let mut ids = Vec::new();
    for number in 0..count / 10 {
        let anna = world.person(&format!("p{number}@example.com"));
        for _ in 0..10 {
            let began = Instant::now();
            ids.push(anna.call(new_tenant("T")).await.unwrap().tenant.unwrap().id);
            times.push(began.elapsed());
        }
    }
    times.sort();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    println!("CreateTenant: p50 {:?}, p99 {:?} of {count}", at(50), at(99));
    let places: Vec<String> = ids.iter().map(|id| format!("'t_{}'", &id[4..])).collect();
    let made_since = world.db.sql(&format!(
        "SELECT count(*) FROM trailmesh.tenant_schemas WHERE made_at > '{before}' AND name IN ({})",
        places.join(", ")
    ));
    assert_eq!(made_since, "0");
}
