//! Schemas made ahead, closed and dropped; whose database it is; and connections that have seen enough.

use std::collections::BTreeSet;

use pg::{
    Error, Home, Pool, Settings,
    migrate::{self, Migration, Options, Set},
};
use testkit::{Database, Postgres};
use types::{Code, Errand, Fault as _, Region, TenantId};

use crate::fixture::{
    SET, SETS, TENANT, add, canary, database, options, pool, rows, schema, scope, soon, tenant,
};

async fn prepare(pool: &Pool, most: u32) -> bool {
    let mut tx = pool.shared(soon()).await.expect("it works");
    let made = pg::prepare_tenant_schema(&mut tx, TenantId::fresh(), most)
        .await
        .expect("it works");
    tx.commit().await.expect("it works");
    made
}

async fn take(pool: &Pool) -> Option<TenantId> {
    let mut tx = pool.shared(soon()).await.expect("it works");
    let taken = pg::take_prepared_schema(&mut tx).await.expect("it works");
    tx.commit().await.expect("it works");
    taken
}

async fn close(pool: &Pool, tenant: TenantId) {
    let mut tx = pool.shared(soon()).await.expect("it works");
    pg::close_tenant_schema(&mut tx, tenant).await.expect("it works");
    tx.commit().await.expect("it works");
}

async fn drop_schema(pool: &Pool, tenant: TenantId) -> Result<bool, Error> {
    let mut tx = pool.shared(soon()).await?;
    let dropped = pg::drop_tenant_schema(&mut tx, tenant).await?;
    tx.commit().await?;
    Ok(dropped)
}

fn states(database: &Database<'_>) -> String {
    database.sql("SELECT state, count(*) FROM trailmesh.tenant_schemas GROUP BY 1 ORDER BY 1")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schemas_made_ahead_are_taken_once_each_and_never_more_than_wanted() {
    let database = database().await;
    let pool = pool(&database).await;
    // Several replicas prepare at once.
    let replicas = (0..4).map(|_| async {
        let mut made = 0;
        while prepare(&pool, 6).await {
            made += 1;
        }
        made
    });
    let made: usize = futures_util::future::join_all(replicas).await.into_iter().sum();
    assert_eq!((made, states(&database).as_str()), (6, "prepared|6"));
    // Who takes one and does not commit has taken none.
    let mut tx = pool.shared(soon()).await.unwrap();
    assert!(pg::take_prepared_schema(&mut tx).await.unwrap().is_some());
    tx.rollback().await;
    let takers = (0..9).map(|_| take(&pool));
    let taken = futures_util::future::join_all(takers).await;
    let ids: BTreeSet<TenantId> = taken.iter().flatten().copied().collect();
    assert_eq!((ids.len(), states(&database).as_str()), (6, "used|6"));
    assert_eq!(taken.iter().filter(|taken| taken.is_none()).count(), 3);
    for id in ids {
        let mut tx = pool.tenant(&scope(id, soon())).await.unwrap();
        add(&mut tx, &canary(id)).await.unwrap();
        assert_eq!(rows(&mut tx).await, [canary(id)]);
        tx.commit().await.unwrap();
    }
}

#[tokio::test]
async fn migrations_bring_prepared_schemas_up_to_date_too() {
    let database = database().await;
    let pool = pool(&database).await;
    assert!(prepare(&pool, 1).await);
    const NEXT: Set = Set {
        tenant: &[
            TENANT[0],
            TENANT[1],
            Migration {
                version: 3,
                name: "third",
                sql: "CREATE TABLE third (id int)",
            },
        ],
        ..SET
    };
    let report = migrate::run(&database.admin_url(), &[SETS[0], NEXT], &options())
        .await
        .unwrap();
    assert_eq!(report.tenants_upgraded, 1);
    let id = take(&pool).await.unwrap();
    let mut tx = pool.tenant(&scope(id, soon())).await.unwrap();
    let third: i64 = sqlx::query_scalar("SELECT count(*) FROM third")
        .fetch_one(&mut *tx)
        .await
        .unwrap();
    assert_eq!(third, 0);
}

#[tokio::test]
async fn a_closed_schema_is_entered_by_nobody_from_the_commit_on() {
    let database = database().await;
    let pool = pool(&database).await;
    let (one, other) = (tenant(&pool).await, tenant(&pool).await);
    let mut under_way = pool.tenant(&scope(one, soon())).await.unwrap();
    let mut closing = pool.shared(soon()).await.unwrap();
    pg::close_tenant_schema(&mut closing, one).await.unwrap();
    // Not yet.
    drop(pool.tenant(&scope(one, soon())).await.unwrap());
    closing.commit().await.unwrap();
    for _ in 0..3 {
        let errand = Errand {
            tenant: one,
            deadline: soon(),
        };
        for refused in [
            pool.tenant(&scope(one, soon())).await,
            pool.errand(&errand).await,
            pool.tenant(&scope(TenantId::fresh(), soon())).await,
        ] {
            let error = refused.unwrap_err();
            assert!(matches!(error, Error::NoSuchTenant), "{error:?}");
            assert_eq!(
                (error.code(), error.reason()),
                (Code::Missing, "TENANT_NOT_FOUND")
            );
        }
    }
    assert_eq!(rows(&mut under_way).await, [canary(one)]);
    under_way.commit().await.unwrap();
    drop(pool.tenant(&scope(other, soon())).await.unwrap());
    // Closing twice is closing once, and migrations open nothing.
    close(&pool, one).await;
    migrate::run(&database.admin_url(), &SETS, &options())
        .await
        .unwrap();
    assert!(pool.tenant(&scope(one, soon())).await.is_err());
    // An operator takes it back.
    let place = schema(one);
    database.sql(&format!("SELECT trailmesh.reopen_tenant_schema('{place}')"));
    let mut again = pool.tenant(&scope(one, soon())).await.unwrap();
    assert_eq!(rows(&mut again).await, [canary(one)]);
}

#[tokio::test]
async fn only_a_closed_schema_that_may_go_is_dropped_with_all_that_was_its() {
    let database = database().await;
    let pool = pool(&database).await;
    let (one, other) = (tenant(&pool).await, tenant(&pool).await);
    let place = schema(one);
    // Open; and closed, but not to go.
    database.sql(&format!("INSERT INTO tenant.condemned VALUES ('{place}')"));
    assert!(drop_schema(&pool, one).await.is_err());
    database.sql("DELETE FROM tenant.condemned");
    close(&pool, one).await;
    assert!(drop_schema(&pool, one).await.is_err());
    database.sql(&format!("INSERT INTO tenant.condemned VALUES ('{place}')"));
    // A drop that is not committed is none.
    let mut tx = pool.shared(soon()).await.unwrap();
    assert!(pg::drop_tenant_schema(&mut tx, one).await.unwrap());
    tx.rollback().await;
    let left = format!(
        "SELECT (SELECT count(*) FROM pg_namespace WHERE nspname = '{place}'), (SELECT count(*) FROM pg_roles WHERE rolname = '{place}'),
         (SELECT count(*) FROM trailmesh.ledger WHERE place = '{place}'), (SELECT count(*) FROM trailmesh.tenant_schemas WHERE name = '{place}')"
    );
    assert_eq!(database.sql(&left), "1|1|2|1");
    assert!(drop_schema(&pool, one).await.unwrap());
    assert_eq!(database.sql(&left), "0|0|0|0");
    // Once more does nothing.
    assert!(!drop_schema(&pool, one).await.unwrap());
    let mut tx = pool.tenant(&scope(other, soon())).await.unwrap();
    assert_eq!(rows(&mut tx).await, [canary(other)]);
    // Only service tenant ends tenants, and only from its own side.
    let settings = Settings::new(&database.url("trailmesh_auth")).unwrap();
    let auth = Pool::open(&settings, "auth", true).await.unwrap();
    close(&pool, other).await;
    let other_place = schema(other);
    database.sql(&format!("INSERT INTO tenant.condemned VALUES ('{other_place}')"));
    assert!(drop_schema(&auth, other).await.is_err());
    let mut tx = auth.shared(soon()).await.unwrap();
    assert!(pg::take_prepared_schema(&mut tx).await.is_err());
}

#[tokio::test]
async fn a_database_is_of_one_cell_for_good() {
    let database = database().await;
    let settings = Settings::new(&database.url("trailmesh_tenant")).unwrap();
    let open = |region, cell| Pool::open_in(&settings, "tenant", true, region, cell);
    // Nobody's yet: the first one marks it.
    open(Region::Eu, "1").await.unwrap();
    open(Region::Eu, "1").await.unwrap();
    for (region, cell) in [(Region::Us, "1"), (Region::Eu, "2")] {
        let error = open(region, cell).await.unwrap_err();
        assert_eq!(
            (error.code(), error.reason()),
            (Code::Refused, "DATABASE_ELSEWHERE")
        );
        let words = error.to_string();
        assert!(
            words.contains("eu, cell 1") && words.contains(&format!("{}, cell {cell}", region.word())),
            "{words}"
        );
    }
    let run = |region, cell: &str| {
        let home = Some(Home {
            region,
            cell: cell.to_owned(),
        });
        let options = Options { home, ..options() };
        let url = database.admin_url();
        async move { migrate::run(&url, &SETS, &options).await }
    };
    run(Region::Eu, "1").await.unwrap();
    assert!(matches!(run(Region::Us, "1").await, Err(Error::Elsewhere { .. })));
    // A run marks a new one.
    let fresh = Postgres::shared().empty_database();
    let home = Some(Home {
        region: Region::Us,
        cell: "7".to_owned(),
    });
    let options = Options { home, ..options() };
    migrate::run(&fresh.admin_url(), &SETS, &options).await.unwrap();
    assert_eq!(fresh.sql("SELECT region, cell FROM trailmesh.cell"), "us|7");
}

/// A database as it was before schemas were made ahead.
#[tokio::test]
async fn a_database_of_an_older_version_gets_the_new_base() {
    let database = database().await;
    let pool = pool(&database).await;
    let old = tenant(&pool).await;
    database.sql(
        "DROP FUNCTION trailmesh.settle, trailmesh.prepare_tenant_schema, trailmesh.take_prepared_schema, trailmesh.close_tenant_schema,
         trailmesh.reopen_tenant_schema, trailmesh.drop_tenant_schema, trailmesh.on_shared_side; DROP TABLE trailmesh.cell;
         ALTER TABLE trailmesh.tenant_schemas DROP COLUMN state; DELETE FROM trailmesh.ledger WHERE place = 'trailmesh' AND version = 2",
    );
    let status = migrate::status(&database.admin_url(), &SETS, &options())
        .await
        .unwrap();
    assert!(
        !status.current() && status.to_string().contains("trailmesh: at 1, 1 to do"),
        "{status}"
    );
    let report = migrate::run(&database.admin_url(), &SETS, &options())
        .await
        .unwrap();
    assert_eq!(report.applied.len(), 1, "{report}");
    assert!(
        migrate::status(&database.admin_url(), &SETS, &options())
            .await
            .unwrap()
            .current()
    );
    assert!(prepare(&pool, 1).await);
    let mut tx = pool.tenant(&scope(old, soon())).await.unwrap();
    assert_eq!(rows(&mut tx).await, [canary(old)]);
}

const WRONG: &str = "a process worked for more tenants than it may";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_has_seen_many_tenants_is_replaced() {
    let database = database().await;
    let mut settings = Settings::new(&database.url("trailmesh_tenant")).unwrap();
    settings.database_tenants_per_connection = 5;
    settings.database_max_connections = 1;
    let direct = pool(&database).await;
    let mut tenants = Vec::new();
    for _ in 0..12 {
        tenants.push(tenant(&direct).await);
    }
    let pool = Pool::open(&settings, "tenant", true).await.unwrap();
    let mut processes: Vec<i32> = Vec::new();
    for (number, id) in tenants.iter().flat_map(|id| [id, id, id]).enumerate() {
        let mut tx = pool.tenant(&scope(*id, soon())).await.unwrap();
        let process = sqlx::query_scalar("SELECT pg_backend_pid()");
        processes.push(process.fetch_one(&mut *tx).await.unwrap());
        // However a transaction ends.
        match number % 3 {
            0 => tx.commit().await.unwrap(),
            1 => tx.rollback().await,
            _ => drop(tx),
        }
    }
    let distinct: BTreeSet<i32> = processes.iter().copied().collect();
    assert_eq!(
        (distinct.len(), pool.replaced()),
        (3, 2),
        "{WRONG}: {processes:?}"
    );
    // One tenant, however often, wears no connection out.
    for _ in 0..20 {
        let tx = pool.tenant(&scope(tenants[11], soon())).await.unwrap();
        tx.commit().await.unwrap();
    }
    assert_eq!(pool.replaced(), 2);
    // What a function of the shared side has looked into counts too.
    for id in &tenants {
        let tx = pool.shared(soon()).await.unwrap();
        tx.knows(*id);
        tx.commit().await.unwrap();
    }
    // Four were known already.
    assert_eq!(pool.replaced(), 5);
}
