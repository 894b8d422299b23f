//! Whoever gets SQL of their own into a tenant's transaction reads and changes nothing of another tenant, and nothing of the directory.

use pg::{Pool, Transaction};
use sqlx::{AssertSqlSafe, Row as _, ValueRef as _, postgres::PgRow};
use testkit::Database;
use types::TenantId;

use crate::fixture::{add, canary, database, pool, rows, schema, scope, soon, tenant};

/// Everything a statement tells: its rows as text, and its error with details.
async fn heard(tx: &mut Transaction, sql: String) -> String {
    match sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut **tx).await {
        Ok(rows) => rows.iter().map(text).collect(),
        Err(error) => format!("{error} {error:?}"),
    }
}

fn text(row: &PgRow) -> String {
    let cells = (0..row.len()).map(|i| row.try_get_raw(i).expect("it works"));
    let words = cells.map(|cell| {
        if cell.is_null() {
            "NULL".to_owned()
        } else {
            cell.as_str().unwrap_or("?").to_owned()
        }
    });
    words.collect::<Vec<_>>().join("|") + "\n"
}

/// `A` is the attacker's schema, `B` that of the tenant attacked.
const READS: &[&str] = &[
    "SELECT canary FROM B.rows",
    "SET ROLE B; SELECT canary FROM B.rows",
    "SET LOCAL ROLE B; SET LOCAL search_path = B; SELECT canary FROM rows; SELECT * FROM both_of",
    "SET SESSION ROLE B; SET SESSION search_path = B, pg_catalog; SELECT r.*, n.* FROM rows r, notes n",
    "RESET ROLE; SELECT canary FROM B.rows",
    "RESET ROLE; SELECT * FROM tenant.directory",
    "RESET ROLE; SELECT * FROM tenant.seen",
    "SET ROLE NONE; SELECT * FROM tenant.directory",
    "SET ROLE trailmesh_tenant; SELECT * FROM tenant.directory",
    "SET ROLE trailmesh_auth; SELECT * FROM tenant.seen",
    "SET ROLE trailmesh_owner; SELECT canary FROM B.rows",
    "SET ROLE postgres; SELECT canary FROM B.rows",
    "SET SESSION AUTHORIZATION B; SELECT canary FROM B.rows",
    "SET SESSION AUTHORIZATION DEFAULT; SELECT * FROM tenant.directory; SET ROLE B; SELECT canary FROM B.rows",
    "SELECT set_config('role', 'B', true); SELECT canary FROM B.rows",
    "SELECT set_config('role', 'none', false); SELECT * FROM tenant.directory",
    "SET ROLE B; SET row_security = off; SELECT canary FROM B.rows",
    "RESET ALL; SET ROLE B; SELECT canary FROM B.rows",
    "RESET ROLE; SELECT trailmesh.enter('B', '-'); SET ROLE B; SELECT canary FROM B.rows",
    "RESET ROLE; SELECT trailmesh.enter('shared', '-'); SELECT * FROM tenant.directory",
    "RESET ROLE; SELECT set_config('trailmesh.ticket', '', true); SELECT trailmesh.enter('shared', '-'); SELECT * FROM tenant.directory",
    "SAVEPOINT s; RESET ROLE; SELECT trailmesh.enter('shared', '-'); SELECT * FROM tenant.directory",
    "RESET ROLE; SELECT trailmesh.change_side('B', '', '-'); SET ROLE B; SELECT canary FROM B.rows",
    "RESET ROLE; SELECT trailmesh.change_side('shared', split_part(current_setting('trailmesh.ticket'), ' ', 2), '-');
     SELECT * FROM tenant.directory",
    "SELECT set_config('trailmesh.ticket', regexp_replace(current_setting('trailmesh.ticket'), '^[^ ]+', 'B'), true);
     SET ROLE B; SELECT canary FROM B.rows",
    "SELECT set_config('trailmesh.ticket', regexp_replace(current_setting('trailmesh.ticket'), '^[^ ]+', 'shared'), true);
     RESET ROLE; SELECT * FROM tenant.directory",
    "SET LOCAL trailmesh.ticket = 'B'; SET ROLE B; SELECT canary FROM B.rows",
    "SELECT trailmesh.ticket('B', '-')",
    "RESET ROLE; SELECT set_config('trailmesh.ticket', trailmesh.ticket('B', '-'), true); SET ROLE B; SELECT canary FROM B.rows",
    "RESET ROLE; SELECT canary || key::text FROM trailmesh.seal, B.rows",
    "RESET ROLE; SELECT trailmesh.create_tenant_schema('t_01234567890123456789012345')",
    "DO $$ BEGIN SET ROLE B; RAISE EXCEPTION 'found %', (SELECT string_agg(canary, '') FROM B.rows); END $$",
    "SET ROLE B; SELECT canary::int FROM B.rows",
    "SET ROLE B; SELECT * FROM B.rows WHERE canary::int = 1",
    "SET ROLE B; SELECT * FROM B.rows WHERE length(query_to_xml('SELECT ' || quote_literal(canary) || '::int', true, true, '')::text) > 0",
    "SET ROLE B; SELECT query_to_xml('SELECT * FROM B.rows', true, true, '')",
    "SET ROLE B; SELECT schema_to_xml('B', true, true, ''); SELECT table_to_xml('B.rows', true, true, '')",
    "RESET ROLE; SELECT schema_to_xml('tenant', true, true, '')",
    "SET ROLE B; EXPLAIN (ANALYZE, VERBOSE) SELECT canary FROM B.rows",
    "SET ROLE B; SET force_parallel_mode = on; SET parallel_setup_cost = 0; SELECT canary FROM B.rows",
    "SET ROLE B; UPDATE B.rows SET canary = canary || '!' RETURNING canary",
    "SET ROLE B; DELETE FROM B.notes RETURNING *",
    "SET ROLE B; INSERT INTO A.rows (canary) SELECT canary FROM B.rows; RESET ROLE; SET ROLE A; SELECT canary FROM A.rows",
    "SET ROLE B; MERGE INTO B.rows b USING A.rows a ON true WHEN MATCHED THEN DO NOTHING; SELECT canary FROM B.rows FOR UPDATE",
    "SET ROLE B; DECLARE c CURSOR FOR SELECT canary FROM B.rows; FETCH ALL FROM c",
    "SET ROLE B; PREPARE p AS SELECT canary FROM B.rows; EXECUTE p",
    "SET ROLE B; COPY B.rows TO '/tmp/rows'",
    "COPY (SELECT 1) TO PROGRAM 'id'",
    "SELECT pg_read_file('PG_VERSION'), pg_ls_dir('base')",
    "SELECT lo_import('/etc/passwd'); SELECT lo_from_bytea(0, 'x')",
    "SELECT * FROM pg_stats WHERE schemaname = 'B'; SELECT * FROM pg_statistic",
    "RESET ROLE; SET ROLE B; SELECT * FROM pg_stats WHERE schemaname = 'B'; SELECT stavalues1 FROM pg_statistic",
    "RESET ROLE; SELECT query FROM pg_stat_activity",
    "RESET ROLE; SELECT * FROM pg_cursors; SELECT * FROM pg_prepared_statements; SELECT current_setting('trailmesh.ticket')",
    "SET ROLE B; SELECT last_value FROM B.rows_id_seq; SELECT nextval('B.rows_id_seq')",
    "SET ROLE B; SELECT nextval('B.rows_id_seq')",
    "CREATE TEMP TABLE rows (canary text)",
    "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'; SELECT pg_temp.f()",
    "CREATE FUNCTION A.entered() RETURNS text LANGUAGE sql AS 'SELECT ''B'''",
    "CREATE TABLE A.mine (id int)",
    "CREATE TABLE public.mine (id int)",
    "RESET ROLE; CREATE SCHEMA mine",
    "CREATE EXTENSION dblink",
    "SET ROLE B; CREATE POLICY p ON B.rows USING (true)",
    "SET ROLE B; ALTER TABLE B.rows DISABLE ROW LEVEL SECURITY",
    "RESET ROLE; ALTER ROLE trailmesh_tenant BYPASSRLS",
    "RESET ROLE; ALTER ROLE B LOGIN; GRANT B TO A",
    "RESET ROLE; GRANT trailmesh_owner TO trailmesh_tenant",
    "CREATE RULE r AS ON SELECT TO A.rows DO INSTEAD SELECT * FROM B.rows",
    "SELECT pg_advisory_lock(1)",
    "RESET ROLE; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'trailmesh_tenant' AND pid <> pg_backend_pid()",
];

/// What must be refused, and not merely find nothing.
const REFUSED: &[&str] = &[
    "SET ROLE B; INSERT INTO B.rows (canary) VALUES ('planted')",
    "SET ROLE B; INSERT INTO B.rows (canary) VALUES ('planted') ON CONFLICT DO NOTHING",
    "RESET ROLE; INSERT INTO tenant.directory VALUES ('planted', 'x')",
    "SET ROLE B; TRUNCATE B.rows CASCADE",
    "SET ROLE B; DROP TABLE B.rows CASCADE",
    "RESET ROLE; DROP SCHEMA B CASCADE",
    "RESET ROLE; DROP ROLE B",
    "SELECT * FROM trailmesh.seal",
    "RESET ROLE; SELECT * FROM trailmesh.seal",
    "RESET ROLE; UPDATE trailmesh.ledger SET version = 9",
    "RESET ROLE; INSERT INTO trailmesh.templates VALUES ('tenant', 9, 'x', 'x', 'x')",
    "RESET ROLE; SELECT trailmesh.admit('B')",
    "RESET ROLE; SELECT trailmesh.wall('tenant')",
    "RESET ROLE; SELECT trailmesh.take_prepared_schema()",
    "RESET ROLE; SELECT trailmesh.prepare_tenant_schema('t_01234567890123456789012345', 9)",
    "RESET ROLE; SELECT trailmesh.close_tenant_schema('B')",
    "RESET ROLE; SELECT trailmesh.close_tenant_schema('A')",
    "RESET ROLE; SELECT trailmesh.reopen_tenant_schema('B')",
    "RESET ROLE; SELECT trailmesh.drop_tenant_schema('B')",
    "RESET ROLE; SELECT trailmesh.drop_tenant_schema('A')",
    "SELECT trailmesh.drop_tenant_schema('A')",
    "SET ROLE trailmesh_tenant; INSERT INTO tenant.condemned VALUES ('B')",
    "SELECT trailmesh.settle('us', '9')",
    "RESET ROLE; SELECT trailmesh.settle('us', '9')",
    "RESET ROLE; UPDATE trailmesh.cell SET region = 'us'",
    "RESET ROLE; SELECT * FROM trailmesh.tenant_schemas",
    "RESET ROLE; UPDATE trailmesh.tenant_schemas SET state = 'closed'",
    "CREATE TEMP TABLE t (id int)",
    "SELECT lo_create(0)",
    "SET ROLE trailmesh_owner",
];

struct Scene {
    database: Database<'static>,
    pool: Pool,
    attacker: TenantId,
    victim: TenantId,
}

impl Scene {
    async fn new() -> Self {
        let database = database().await;
        let pool = pool(&database).await;
        let (attacker, victim) = (tenant(&pool).await, tenant(&pool).await);
        database.sql("ANALYZE");
        Self {
            database,
            pool,
            attacker,
            victim,
        }
    }

    fn sql(&self, attack: &str) -> String {
        let word = |text: &str, from: char, to: &str| {
            let mut out = String::new();
            let letters: Vec<char> = text.chars().collect();
            for (i, letter) in letters.iter().enumerate() {
                let alone = |j: Option<usize>| {
                    j.and_then(|j| letters.get(j))
                        .is_none_or(|c| !c.is_alphanumeric() && *c != '_')
                };
                if *letter == from && alone(i.checked_sub(1)) && alone(Some(i + 1)) {
                    out.push_str(to);
                } else {
                    out.push(*letter);
                }
            }
            out
        };
        word(
            &word(attack, 'A', &schema(self.attacker)),
            'B',
            &schema(self.victim),
        )
    }

    async fn enter(&self) -> Transaction {
        self.pool
            .tenant(&scope(self.attacker, soon()))
            .await
            .expect("it works")
    }

    /// Everything foreign that there is; but not the counter of a column, which a refused INSERT moves on.
    fn foreign(&self) -> String {
        let victim = schema(self.victim);
        self.database.sql(&format!(
            "SELECT * FROM {victim}.rows; SELECT * FROM {victim}.notes; SELECT * FROM tenant.directory ORDER BY id; \
             SELECT count(*) FROM pg_class WHERE relkind = 'r'; \
             SELECT * FROM trailmesh.templates; SELECT count(*) FROM pg_policy; SELECT rolname, rolbypassrls FROM pg_roles \
             WHERE rolname LIKE 'trailmesh%' ORDER BY 1"
        ))
    }
}

#[tokio::test]
async fn sql_in_a_tenants_transaction_reads_nothing_of_others() {
    let scene = Scene::new().await;
    let before = scene.foreign();
    let (canary, secret) = (
        canary(scene.victim),
        scene.database.sql("SELECT key FROM trailmesh.seal"),
    );
    for attack in READS.iter().chain(REFUSED) {
        let sql = scene.sql(attack);
        let mut tx = scene.enter().await;
        let answer = heard(&mut tx, sql.clone()).await;
        assert!(!answer.contains(&canary), "{sql}\nheard\n{answer}");
        assert!(!answer.contains(&secret[2..]), "{sql}\nheard\n{answer}");
        let _ = tx.commit().await;
    }
    assert_eq!(scene.foreign(), before);
}

#[tokio::test]
async fn what_would_change_others_is_refused() {
    let scene = Scene::new().await;
    for attack in REFUSED {
        let mut tx = scene.enter().await;
        let sql = scene.sql(attack);
        let outcome = sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(&mut *tx).await;
        assert!(outcome.is_err(), "{sql}");
        assert!(tx.commit().await.is_err(), "{sql}");
    }
}

/// The test would also pass if nobody could read anything: so the same is tried by those who may.
#[tokio::test]
async fn the_walls_let_those_in_who_entered() {
    let scene = Scene::new().await;
    let mut tx = scene.enter().await;
    let own = heard(
        &mut tx,
        "SET force_parallel_mode = on; SELECT canary FROM rows; SELECT * FROM both_of".to_owned(),
    )
    .await;
    assert_eq!(own.matches(&canary(scene.attacker)).count(), 2, "{own}");
    tx.enter_shared().await.unwrap();
    let directory = heard(&mut tx, "SELECT * FROM directory; SELECT * FROM seen".to_owned()).await;
    assert_eq!(directory.matches(&canary(scene.victim)).count(), 2, "{directory}");
    drop(tx);
    let settings = pg::Settings::new(&scene.database.url("trailmesh_auth")).unwrap();
    let auth = Pool::open(&settings, "auth", true).await.unwrap();
    let mut tx = auth.shared(soon()).await.unwrap();
    let seen = heard(&mut tx, "SELECT * FROM tenant.seen".to_owned()).await;
    assert!(seen.contains(&canary(scene.victim)), "{seen}");
    for refused in [
        "SELECT * FROM tenant.directory",
        "SET ROLE trailmesh_tenant",
        "SELECT canary FROM B.rows",
        "SET ROLE B",
    ] {
        let mut tx = auth.shared(soon()).await.unwrap();
        let sql = scene.sql(refused);
        assert!(
            sqlx::raw_sql(AssertSqlSafe(sql.clone()))
                .execute(&mut *tx)
                .await
                .is_err(),
            "{sql}"
        );
    }
}

#[tokio::test]
async fn traps_set_on_the_tenants_side_do_not_spring_on_the_shared_one() {
    let scene = Scene::new().await;
    let foreign = canary(scene.victim);
    for trap in [
        "RESET ROLE; DECLARE c CURSOR WITH HOLD FOR SELECT * FROM tenant.directory",
        "RESET ROLE; DECLARE c SCROLL CURSOR FOR SELECT * FROM tenant.directory",
        "RESET ROLE; DECLARE c CURSOR WITH HOLD FOR SELECT * FROM tenant.seen; SAVEPOINT s",
    ] {
        let mut settings = pg::Settings::new(&scene.database.url("trailmesh_tenant")).unwrap();
        settings.database_max_connections = 1;
        let pool = Pool::open(&settings, "tenant", true).await.unwrap();
        let mut tx = pool.tenant(&scope(scene.attacker, soon())).await.unwrap();
        heard(&mut tx, trap.to_owned()).await;
        tx.enter_shared().await.unwrap();
        assert!(
            heard(&mut tx, "SELECT * FROM directory".to_owned())
                .await
                .contains(&foreign)
        );
        tx.enter_tenant().await.unwrap();
        let back = heard(
            &mut tx,
            "RESET ROLE; SELECT * FROM tenant.directory; SELECT current_setting('trailmesh.ticket')"
                .to_owned(),
        )
        .await;
        assert!(
            !back.contains(&foreign) && back.contains(&schema(scene.attacker)),
            "{back}"
        );
        tx.enter_shared().await.unwrap();
        tx.commit().await.unwrap();
        let mut tx = pool.tenant(&scope(scene.attacker, soon())).await.unwrap();
        let sprung = heard(&mut tx, "RESET ROLE; FETCH ALL FROM c".to_owned()).await;
        assert!(!sprung.contains(&foreign), "{trap}\n{sprung}");
    }
}

/// What cannot be prevented, a transaction that is ended from within, at least fails closed.
#[tokio::test]
async fn a_transaction_ended_from_within_finds_nothing_any_more() {
    let scene = Scene::new().await;
    let mut tx = scene.enter().await;
    sqlx::query("COMMIT").execute(&mut *tx).await.unwrap();
    assert!(
        sqlx::query("SELECT canary FROM rows")
            .fetch_all(&mut *tx)
            .await
            .is_err()
    );
    assert!(add(&mut tx, "x").await.is_err());
    drop(tx);
    let mut tx = scene.enter().await;
    assert_eq!(rows(&mut tx).await, [canary(scene.attacker)]);
    sqlx::query("COMMIT").execute(&mut *tx).await.unwrap();
    assert!(tx.enter_shared().await.is_err());
}

#[tokio::test]
async fn statements_leave_nothing_prepared_behind() {
    let scene = Scene::new().await;
    let mut tx = scene.enter().await;
    for _ in 0..3 {
        rows(&mut tx).await;
        add(&mut tx, &TenantId::fresh().to_string()).await.unwrap();
    }
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_prepared_statements")
        .fetch_one(&mut *tx)
        .await
        .unwrap();
    assert_eq!(kept, 0);
}
