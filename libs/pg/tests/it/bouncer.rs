//! Behind pgbouncer in transaction mode a session belongs to nobody: each transaction may meet what another left.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use pg::{Error, Pool, Settings};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use testkit::{Database, Pgbouncer};
use tokio::task::JoinSet;
use types::TenantId;

use crate::fixture::{add, bare, canary, database, schema, scope};

const ROWS: &str = "SELECT canary FROM rows";

static DONE: AtomicUsize = AtomicUsize::new(0);
static FAILED: AtomicUsize = AtomicUsize::new(0);

/// One transaction of `tenant`, ended in one of the ways that transactions end.
async fn act(pool: &Pool, tenant: TenantId, others: &[TenantId], way: u32) -> Result<(), Error> {
    let patience = if way == 0 {
        Duration::from_millis(80)
    } else {
        Duration::from_secs(5)
    };
    let mut tx = pool.tenant(&scope(tenant, Instant::now() + patience)).await?;
    let found: Vec<String> = sqlx::query_scalar(ROWS).fetch_all(&mut *tx).await?;
    let own = canary(tenant);
    assert!(
        found.iter().all(|row| row.starts_with(&own)),
        "{found:?} is not only of {own}"
    );
    assert!(!found.is_empty(), "{own} is gone");
    add(&mut tx, &format!("{own} {}", types::RequestId::fresh())).await?;
    match way {
        0 => sqlx::query("SELECT pg_sleep(5)")
            .execute(&mut *tx)
            .await
            .map(|_| ())?,
        1 => drop(
            tokio::time::timeout(
                Duration::from_millis(20),
                sqlx::query("SELECT pg_sleep(5)").execute(&mut *tx),
            )
            .await,
        ),
        2 => tx.rollback().await,
        3 => drop(tx),
        4 => sqlx::query("SELECT 1 / 0").execute(&mut *tx).await.map(|_| ())?,
        5 => {
            let other = schema(others[0]);
            let leak = format!(
                "SET SESSION ROLE {other}; SET SESSION search_path = {other}; SET SESSION statement_timeout = 0"
            );
            sqlx::raw_sql(AssertSqlSafe(leak)).execute(&mut *tx).await?;
            tx.commit().await?;
        }
        6 => {
            tx.enter_shared().await?;
            let line =
                sqlx::query_scalar("SELECT canary FROM directory WHERE id = $1").bind(tenant.to_string());
            let line: String = line.fetch_one(&mut *tx).await?;
            assert_eq!(line, own);
            tx.enter_tenant().await?;
            let found: Vec<String> = sqlx::query_scalar(ROWS).fetch_all(&mut *tx).await?;
            assert!(found.iter().all(|row| row.starts_with(&own)));
            tx.commit().await?;
        }
        _ => tx.commit().await?,
    }
    Ok(())
}

/// As [`crate::fixture::tenant`] makes them, but all by the server itself.
async fn a_thousand(database: &Database<'_>) -> Vec<TenantId> {
    let tenants: Vec<TenantId> = (0..1000).map(|_| TenantId::fresh()).collect();
    let mut admin = bare(&database.admin_url()).await;
    // A transaction holds locks on all that it makes.
    for some in tenants.chunks(100) {
        let digits: Vec<String> = some.iter().map(|id| format!("'{}'", id.digits())).collect();
        let words = format!(
            "BEGIN; SET LOCAL ROLE trailmesh_owner; SELECT trailmesh.enter('shared', '-'); RESET ROLE;
             DO $$ DECLARE d text; BEGIN FOREACH d IN ARRAY ARRAY[{}] LOOP
               PERFORM trailmesh.create_tenant_schema('t_' || d);
               INSERT INTO tenant.directory VALUES ('tnt_' || d, 'canary tnt_' || d);
               EXECUTE format('INSERT INTO %I.rows (canary) VALUES (%L)', 't_' || d, 'canary tnt_' || d);
             END LOOP; END $$; COMMIT",
            digits.join(", ")
        );
        sqlx::raw_sql(AssertSqlSafe(words))
            .execute(&mut admin)
            .await
            .expect("it works");
    }
    admin.close().await.expect("it works");
    tenants
}

async fn kill_one(admin: &mut PgConnection) {
    let query = sqlx::query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'trailmesh_tenant' AND datname = current_database()
         ORDER BY random() LIMIT 1",
    );
    query.execute(admin).await.expect("it works");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_tenants_over_three_connections_see_only_their_own() {
    let database = database().await;
    let tenants = a_thousand(&database).await;
    let bouncer = Pgbouncer::start(&database, &["trailmesh_tenant"], 3);
    let mut settings = Settings::new(&bouncer.url("trailmesh_tenant")).unwrap();
    settings.database_max_connections = 30;
    let pool = Pool::open(&settings, "tenant", true).await.unwrap();
    let mut tasks = JoinSet::new();
    let until = Instant::now() + Duration::from_secs(10);
    for seed in 0..20 {
        let (pool, tenants) = (pool.clone(), tenants.clone());
        tasks.spawn(async move {
            let mut random = StdRng::seed_from_u64(seed);
            while Instant::now() < until {
                let pair: Vec<TenantId> = tenants.choose_multiple(&mut random, 2).copied().collect();
                // Most transactions do no harm.
                let way = random.random_range(0..60);
                match act(&pool, pair[0], &pair[1..], way).await {
                    Ok(()) => DONE.fetch_add(1, Ordering::Relaxed),
                    Err(_) => FAILED.fetch_add(1, Ordering::Relaxed),
                };
            }
        });
    }
    let mut admin = bare(&database.admin_url()).await;
    let mut kills = tokio::time::interval(Duration::from_millis(700));
    loop {
        tokio::select! {
            ended = tasks.join_next() => match ended {
                Some(outcome) => outcome.unwrap(),
                None => break,
            },
            _ = kills.tick() => kill_one(&mut admin).await,
        }
    }
    admin.close().await.unwrap();
    let (done, failed) = (DONE.load(Ordering::Relaxed), FAILED.load(Ordering::Relaxed));
    println!("{done} transactions, {failed} more that failed");
    assert!(done > 100 && failed > 5 && failed < done, "{done} {failed}");
    // One statement over all schemas: each with the rows that are not its own.
    let foreign = "DO $$ DECLARE s text; found bigint; BEGIN
         FOR s IN SELECT name FROM trailmesh.tenant_schemas LOOP
           EXECUTE format('SELECT count(*) FROM %I.rows WHERE canary NOT LIKE %L', s, 'canary tnt_' || substr(s, 3) || '%') INTO found;
           IF found > 0 THEN RAISE '% has % foreign rows', s, found; END IF;
         END LOOP; END $$";
    database.sql(foreign);
    let touched = "SELECT count(*) FROM trailmesh.tenant_schemas s, LATERAL (SELECT (xpath('/row/n/text()',
         query_to_xml(format('SELECT count(*) AS n FROM %I.rows', s.name), false, true, '')))[1]::text::int AS n) r WHERE r.n > 1";
    let touched: usize = database.sql(touched).parse().unwrap();
    println!("{touched} of 1000 tenants wrote something");
    assert!(touched > 50, "{touched}");
}
