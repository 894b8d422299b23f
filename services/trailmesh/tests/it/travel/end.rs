//! What is left behind by a move, and by tenants that end while they are on their way.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use super::{Scene, stderr};

/// What is in the shared tables of a tenant, table by table, but for empty ones.
const LEFT: &str = "SELECT coalesce(string_agg(t.label, ' ' ORDER BY t.label), '') FROM (
    SELECT n.nspname || '.' || c.relname AS label,
        query_to_xml(format('SELECT 1 FROM %I.%I WHERE %I = ''TENANT''', n.nspname, c.relname, a.attname), false, true, '')::text AS rows
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace JOIN pg_attribute AS a ON a.attrelid = c.oid
    WHERE n.nspname IN ('auth', 'tenant', 'vault') AND c.relkind = 'r'
        AND (a.attname = 'tenant_id' OR (c.relname = 'tenant' AND a.attname = 'id'))
) AS t WHERE t.rows <> ''";

fn left(cell: &super::Cell, scene: &Scene) -> String {
    let left = cell.db.sql(&LEFT.replace("TENANT", &scene.tenant.to_string()));
    // What says by ids alone that there were keys, whose bytes are gone, and which serials agents had.
    let vaults = [
        "vault.agent_certificate",
        "vault.data_key",
        "vault.key_ring",
        "vault.purge",
    ];
    let own: Vec<&str> = left.split(' ').filter(|table| !vaults.contains(table)).collect();
    own.join(" ")
}

fn keys(cell: &super::Cell) -> String {
    cell.db
        .sql("SELECT count(*) FROM vault.data_key WHERE wrapped IS NOT NULL")
}

/// The move fails at its last statement: the copy is at the destination, and on its way.
fn left_behind(scene: &Scene) {
    scene.source.db.sql(
        "CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$; \
         CREATE TRIGGER no BEFORE UPDATE OF moved_to ON tenant.tenant FOR EACH ROW EXECUTE FUNCTION public.no()",
    );
    let failed = scene.relocate().output().unwrap();
    assert_eq!(failed.status.code(), Some(1), "{}", stderr(&failed));
    assert_eq!(scene.target.state(scene.tenant), "suspended");
    scene.source.db.sql("DROP TRIGGER no ON tenant.tenant");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_subscription_is_known_there_as_nobodys_moves_and_is_looked_at_again() {
    let scene = Scene::new().await;
    let tenant = scene.tenant;
    scene.source.db.sql(&format!(
        "INSERT INTO tenant.subscription (id, tenant_id, customer_id, state, plan, seen) VALUES ('sub_1', '{tenant}', 'cus_1', 'active', 'pro', 1)"
    ));
    scene
        .target
        .db
        .sql("INSERT INTO tenant.subscription (id, seen, problem) VALUES ('sub_1', 1, 'of no tenant here')");
    let moved = scene.relocate().output().unwrap();
    assert_eq!(moved.status.code(), Some(0), "{}", stderr(&moved));
    let found = scene.target.db.sql(
        "SELECT tenant_id, state, seen < hinted, problem IS NULL FROM tenant.subscription WHERE id = 'sub_1'",
    );
    assert_eq!(found, format!("{tenant}|active|t|t"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_moved_leaves_nothing_but_where_it_is_and_nothing_once_it_has_ended() {
    let scene = Scene::new().await;
    let tenant = scene.tenant;
    let place = format!("t_{}", tenant.digits());
    assert!(scene.relocate().output().unwrap().status.success());
    assert_eq!(
        left(&scene.source, &scene),
        "auth.api_key tenant.member tenant.tenant"
    );
    let said = scene.source.db.sql(
        "SELECT (SELECT name FROM tenant.tenant), (SELECT count(*) FROM tenant.member WHERE role IS NOT NULL), (SELECT name FROM auth.api_key)",
    );
    assert_eq!(said, "-|0|-");
    // Its owner ends it where it is.
    scene.target.db.sql(&format!(
        "SELECT trailmesh.enter('shared', '-'); UPDATE tenant.tenant SET state = 'deleting' WHERE id = '{tenant}';
         INSERT INTO tenant.deletion (tenant_id, requested_by, certificate, signature, key_id) VALUES ('{tenant}', 'x', 'c', 's', 'k');
         UPDATE vault.key_ring SET destroy_time = now(), statement = 'c', signature = 's', signed_by = 'k' WHERE tenant_id = '{tenant}';
         SELECT trailmesh.close_tenant_schema('{place}'), trailmesh.drop_tenant_schema('{place}'); SELECT tenant.forget_tenant('{tenant}')"
    ));
    let again = scene.relocate().output().unwrap();
    assert_eq!(again.status.code(), Some(0), "{}", stderr(&again));
    assert_eq!(left(&scene.source, &scene), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_moved_and_is_not_there_is_not_taken_for_one_that_ended() {
    let scene = Scene::new().await;
    assert!(scene.relocate().output().unwrap().status.success());
    scene.target.db.sql("DELETE FROM tenant.tenant");
    let lost = scene.relocate().output().unwrap();
    assert_eq!(lost.status.code(), Some(1), "{}", stderr(&lost));
    assert!(stderr(&lost).contains("no copy of it"), "{}", stderr(&lost));
    assert_eq!(
        left(&scene.source, &scene),
        "auth.api_key tenant.member tenant.tenant"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_copy_of_a_tenant_that_ends_before_it_has_moved_goes_too() {
    let scene = Scene::new().await;
    let tenant = scene.tenant;
    left_behind(&scene);
    assert_eq!(keys(&scene.target), "1");
    // Neither is it exported.
    let file = scene.folder.path().join("copy.tma");
    let refused = scene.target.run(
        &["export", &tenant.to_string(), "--file", file.to_str().unwrap()],
        &[],
    );
    assert_eq!(refused.status.code(), Some(3), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("arriving"), "{}", stderr(&refused));
    scene.source.db.sql(&format!(
        "UPDATE tenant.tenant SET state = 'deleting' WHERE id = '{tenant}';
         INSERT INTO tenant.deletion (tenant_id, requested_by) VALUES ('{tenant}', 'x')"
    ));
    let refused = scene.relocate().output().unwrap();
    assert_eq!(refused.status.code(), Some(3), "{}", stderr(&refused));
    assert_eq!(left(&scene.target, &scene), "");
    assert_eq!(keys(&scene.target), "0");
    let place = format!("t_{}", tenant.digits());
    let schemas = format!("SELECT count(*) FROM pg_namespace WHERE nspname = '{place}'");
    assert_eq!(scene.target.db.sql(&schemas), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_vault_begins_for_an_agent_during_a_move_it_does_not_end_there() {
    let scene = Scene::new().await;
    let tenant = scene.tenant;
    let mut child = scene
        .relocate()
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("\"step\":\"fenced\"")));
    let reader = std::thread::spawn(move || lines.for_each(drop));
    let as_vault = |sql: &str| {
        let words = format!(
            "SET LOCAL SESSION AUTHORIZATION trailmesh_vault; SELECT trailmesh.enter('shared', '-'); {sql}"
        );
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scene.source.db.sql(&words)));
        told.unwrap_err().downcast_ref::<String>().cloned().unwrap()
    };
    let certificate = as_vault(&format!(
        "INSERT INTO vault.agent_certificate (serial, tenant_id, agent_id, authority_id, expire_time)
         VALUES ('1' || repeat('0', 31), '{tenant}', 'agt_x', 'none', now())"
    ));
    assert!(certificate.contains("the tenant has moved"), "{certificate}");
    let opening = as_vault(&format!("SELECT tenant.not_behind_a_move('{tenant}')"));
    assert!(opening.contains("the tenant has moved"), "{opening}");
    assert!(child.wait().unwrap().success());
    reader.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_tenant_is_suspended_where_it_is_imported() {
    let scene = Scene::new().await;
    let state = format!(
        "UPDATE tenant.tenant SET state = 'suspended' WHERE id = '{}'",
        scene.tenant
    );
    scene.source.db.sql(&state);
    let file = scene.folder.path().join("acme.tma");
    assert_eq!(scene.export(&file).status.code(), Some(0));
    let imported = scene.import(&file, &[]);
    assert_eq!(imported.status.code(), Some(0), "{}", stderr(&imported));
    assert_eq!(scene.target.state(scene.tenant), "suspended");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_fails_leaves_no_keys() {
    let scene = Scene::new().await;
    let file = scene.folder.path().join("acme.tma");
    assert_eq!(scene.export(&file).status.code(), Some(0));
    scene.target.db.sql(
        "CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$; \
         CREATE TRIGGER no BEFORE INSERT ON tenant.member FOR EACH ROW EXECUTE FUNCTION public.no()",
    );
    let failed = scene.import(&file, &[]);
    assert_eq!(failed.status.code(), Some(1), "{}", stderr(&failed));
    assert_eq!(keys(&scene.target), "0");
    scene.target.db.sql("DROP TRIGGER no ON tenant.member");
    let imported = scene.import(&file, &[]);
    assert_eq!(imported.status.code(), Some(0), "{}", stderr(&imported));
    scene.opens_at_the_destination().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_settings_of_a_destination_may_be_quoted_and_a_wrong_one_is_named_without_its_value() {
    let scene = Scene::new().await;
    let path = scene.destination();
    let text = fs::read_to_string(&path).unwrap();
    let command = |text: &str| {
        let mut command = scene.relocate();
        fs::write(&path, text).unwrap();
        command.output().unwrap()
    };
    let wrong = command(&text.replace("TRAILMESH_REGION=eu", "TRAILMESH_REGION=canary"));
    assert_eq!(wrong.status.code(), Some(2), "{}", stderr(&wrong));
    assert!(
        stderr(&wrong).contains("--region") && !stderr(&wrong).contains("canary"),
        "{}",
        stderr(&wrong)
    );
    let moved = command(&text.replace("TRAILMESH_REGION=eu", "TRAILMESH_REGION=\"eu\""));
    assert_eq!(moved.status.code(), Some(0), "{}", stderr(&moved));
}
