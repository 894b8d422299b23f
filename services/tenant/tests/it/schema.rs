//! What the tables keep even from a mistaken hand.

use proto::common::v1::Role as PbRole;
use types::Role;

use crate::world::World;

/// Runs SQL as the superuser, which must break this constraint.
fn breaks(world: &World, constraint: &str, sql: &str) {
    let guarded = format!(
        "DO $guard$ DECLARE broken text; BEGIN BEGIN {sql}; EXCEPTION WHEN integrity_constraint_violation THEN
         GET STACKED DIAGNOSTICS broken = CONSTRAINT_NAME; END;
         IF broken IS DISTINCT FROM '{constraint}' THEN RAISE 'broke %, not {constraint}', broken; END IF; END $guard$"
    );
    world.db.sql(&guarded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_one_tenant_do_not_fit_into_another_tenants_schema() {
    let world = World::new().await;
    let (anna, bert) = (
        world.owner("anna@example.com").await,
        world.owner("bert@example.com").await,
    );
    let server = anna.server("db", "").await;
    anna.agent("a", "").await;
    anna.deny(&server.id, "s", "t").await;
    let (hers, his) = (anna.tenant(), bert.tenant());
    let (from, to) = (format!("t_{}", hers.digits()), format!("t_{}", his.digits()));
    for table in ["server", "agent", "used_grant", "access_rule"] {
        let rows = world.db.sql(&format!(
            "SELECT count(*) FROM {from}.{table} WHERE tenant_id = '{hers}'"
        ));
        assert_ne!(rows, "0", "{table}");
        let constraint = format!("{table}_is_of_this_tenant");
        breaks(
            &world,
            &constraint,
            &format!("INSERT INTO {to}.{table} SELECT * FROM {from}.{table}"),
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_directory_refuses_what_no_rule_would_make() {
    let world = World::new().await;
    let (anna, bert) = (
        world.owner("anna@example.com").await,
        world.owner("bert@example.com").await,
    );
    let pool = anna.pool("eu").await;
    let (hers, his, user) = (anna.tenant(), bert.tenant(), anna.user());
    breaks(
        &world,
        "binding_role_check",
        &format!("INSERT INTO tenant.binding VALUES ('{hers}', '{user}', '{pool}', 'admin')"),
    );
    // A pool of another tenant, and a person who is no member.
    let bert_user = bert.user();
    breaks(
        &world,
        "binding_tenant_id_pool_id_fkey",
        &format!("INSERT INTO tenant.binding VALUES ('{his}', '{bert_user}', '{pool}', 'viewer')"),
    );
    breaks(
        &world,
        "binding_tenant_id_user_id_fkey",
        &format!("INSERT INTO tenant.binding VALUES ('{hers}', '{bert_user}', '{pool}', 'viewer')"),
    );
    breaks(
        &world,
        "tenant_region_check",
        "INSERT INTO tenant.tenant VALUES ('tnt_00000000000000000000000000', 'x', 'mars', 'c')",
    );
    breaks(
        &world,
        "tenant_id_check",
        "INSERT INTO tenant.tenant VALUES ('tnt_''; --', 'x', 'eu', 'c')",
    );
    breaks(
        &world,
        "member_role_check",
        &format!("UPDATE tenant.member SET role = 'god' WHERE user_id = '{user}'"),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn auth_sees_which_pool_is_whose_and_no_more() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let pool = anna.pool("eu").await;
    let member = world
        .member(&anna, Some(Role::Viewer), &[(&pool, Role::Analyst)])
        .await;
    let seat = member.context.seat.unwrap();
    assert_eq!(seat.role_in(pool.parse().unwrap()), Some(Role::Analyst));
    assert_eq!(
        world.pools_seen_by_auth(&anna.tenant().to_string()).await.len(),
        2
    );
    anna.invite("x@example.com", PbRole::Viewer, "").await.unwrap();
    let allowed = world.db.sql(
        "SELECT string_agg(table_name || ':' || privilege_type, ' ' ORDER BY table_name) FROM information_schema.role_table_grants
         WHERE grantee = 'trailmesh_auth' AND table_schema = 'tenant'",
    );
    assert_eq!(allowed, "moved_seat:SELECT pool_of:SELECT seat:SELECT");
    let asked = world.db.sql(
        "SELECT string_agg(r.rolname, ' ' ORDER BY r.rolname) FROM pg_roles AS r
         WHERE r.rolname ~ '^(trailmesh_|t_)' AND has_function_privilege(r.oid, 'tenant.asked(text, text, text)', 'EXECUTE')",
    );
    assert_eq!(asked, "trailmesh_auth trailmesh_owner");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn used_grants_are_forgotten_when_the_next_is_spent() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    anna.server("one", "").await;
    let schema = format!("t_{}", anna.tenant().digits());
    let count = format!("SELECT count(*) FROM {schema}.used_grant");
    assert_eq!(world.db.sql(&count), "1");
    world.db.sql(&format!(
        "UPDATE {schema}.used_grant SET expire_time = now() - interval '6 minutes'"
    ));
    anna.server("two", "").await;
    assert_eq!(world.db.sql(&count), "1");
}
