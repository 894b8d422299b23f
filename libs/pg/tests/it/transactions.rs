//! Entering, leaving, deadlines.

use std::time::{Duration, Instant};

use pg::{Error, OnConstraint as _};
use testkit::Postgres;
use types::{Code, Fault as _, TenantId};

use crate::fixture::{add, bare, canary, database, pool, rows, schema, scope, soon, tenant};

#[tokio::test]
async fn a_tenants_rows_are_kept_by_commit_and_only_by_it() {
    let database = database().await;
    let pool = pool(&database).await;
    let tenant = tenant(&pool).await;
    let mut tx = pool.tenant(&scope(tenant, soon())).await.unwrap();
    add(&mut tx, "dropped").await.unwrap();
    drop(tx);
    let mut tx = pool.tenant(&scope(tenant, soon())).await.unwrap();
    add(&mut tx, "rolled back").await.unwrap();
    tx.rollback().await;
    let mut tx = pool.tenant(&scope(tenant, soon())).await.unwrap();
    add(&mut tx, "kept").await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = pool.tenant(&scope(tenant, soon())).await.unwrap();
    assert_eq!(rows(&mut tx).await, [canary(tenant), "kept".to_owned()]);
}

#[tokio::test]
async fn one_transaction_works_on_both_sides() {
    let database = database().await;
    let pool = pool(&database).await;
    let tenant = tenant(&pool).await;
    let mut tx = pool.tenant(&scope(tenant, soon())).await.unwrap();
    add(&mut tx, "first").await.unwrap();
    tx.enter_shared().await.unwrap();
    let found: String = sqlx::query_scalar("SELECT canary FROM directory WHERE id = $1")
        .bind(tenant.to_string())
        .fetch_one(&mut *tx)
        .await
        .unwrap();
    assert_eq!(found, canary(tenant));
    sqlx::query("INSERT INTO directory VALUES ('extra', 'x')")
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.enter_tenant().await.unwrap();
    add(&mut tx, "second").await.unwrap();
    tx.enter_tenant().await.unwrap();
    assert_eq!(rows(&mut tx).await.len(), 3);
    tx.commit().await.unwrap();
    assert_eq!(
        database.sql("SELECT count(*) FROM tenant.directory WHERE id = 'extra'"),
        "1"
    );
    assert_eq!(
        database.sql(&format!("SELECT count(*) FROM {}.rows", schema(tenant))),
        "3"
    );
    let mut tx = pool.shared(soon()).await.unwrap();
    assert!(matches!(tx.enter_tenant().await, Err(Error::NoTenant)));
}

#[tokio::test]
async fn a_tenant_and_its_schema_are_made_or_not_made_together() {
    let database = database().await;
    let pool = pool(&database).await;
    let tenant = TenantId::fresh();
    let mut tx = pool.shared(soon()).await.unwrap();
    pg::create_tenant_schema(&mut tx, tenant).await.unwrap();
    tx.rollback().await;
    let there = format!(
        "SELECT to_regnamespace('{0}') IS NOT NULL OR to_regrole('{0}') IS NOT NULL",
        schema(tenant)
    );
    assert_eq!(database.sql(&there), "f");
    // For whom there is no schema there is no transaction.
    let error = pool.tenant(&scope(tenant, soon())).await.unwrap_err();
    assert_eq!(error.code(), Code::Missing, "{error:?}");
    let mut tx = pool.shared(soon()).await.unwrap();
    pg::create_tenant_schema(&mut tx, tenant).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = pool.shared(soon()).await.unwrap();
    let again = pg::create_tenant_schema(&mut tx, tenant).await.unwrap_err();
    assert_eq!(again.constraint(), Some("tenant_schemas_pkey"), "{again:?}");
}

#[tokio::test]
async fn a_broken_constraint_has_a_meaning_or_is_a_defect() {
    let database = database().await;
    let pool = pool(&database).await;
    let tenant = tenant(&pool).await;
    let mut tx = pool.tenant(&scope(tenant, soon())).await.unwrap();
    #[derive(Debug)]
    enum Ours {
        Taken,
        Other(#[expect(dead_code, reason = "printed when the test fails")] Error),
    }
    impl From<Error> for Ours {
        fn from(error: Error) -> Self {
            Self::Other(error)
        }
    }
    let outcome = add(&mut tx, &canary(tenant))
        .await
        .on_constraint("rows_canary_key", || Ours::Taken);
    assert!(matches!(outcome, Err(Ours::Taken)), "{outcome:?}");
    // What follows a failure is not kept, and commit says so.
    assert!(matches!(tx.commit().await, Err(Error::Aborted)));
    let mut tx = pool.tenant(&scope(tenant, soon())).await.unwrap();
    let error = Error::from(add(&mut tx, &canary(tenant)).await.unwrap_err());
    assert_eq!(
        (error.constraint(), error.code()),
        (Some("rows_canary_key"), Code::Internal)
    );
    assert!(error.certainly_not_done() && !error.retryable());
}

#[tokio::test]
async fn what_an_earlier_user_left_set_in_the_session_means_nothing() {
    let database = database().await;
    let pool = pool(&database).await;
    let (mine, other) = (tenant(&pool).await, tenant(&pool).await);
    let mut settings = pg::Settings::new(&database.url("trailmesh_tenant")).unwrap();
    settings.database_max_connections = 1;
    let pool = pg::Pool::open(&settings, "tenant", true).await.unwrap();
    let mut tx = pool.tenant(&scope(other, soon())).await.unwrap();
    let leak = format!(
        "SET SESSION ROLE {0}; SET SESSION search_path = {0}; SET SESSION statement_timeout = 0; SET SESSION row_security = off; \
         SET SESSION default_transaction_read_only = on; SET SESSION idle_in_transaction_session_timeout = 0; \
         SELECT set_config('trailmesh.ticket', current_setting('trailmesh.ticket'), false)",
        schema(other)
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(leak))
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let mut tx = pool.tenant(&scope(mine, soon())).await.unwrap();
    assert_eq!(rows(&mut tx).await, [canary(mine)]);
    add(&mut tx, "written").await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = pool.shared(soon()).await.unwrap();
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM directory")
        .fetch_one(&mut *tx)
        .await
        .unwrap();
    assert_eq!(count, 2);
}

fn sleepers(database: &testkit::Database<'_>) -> String {
    database.sql(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' AND query LIKE '%pg_sleep%'
         AND pid <> pg_backend_pid()",
    )
}

#[tokio::test]
async fn a_statement_ends_at_the_deadline_here_and_on_the_server() {
    let database = database().await;
    let pool = pool(&database).await;
    let tenant = tenant(&pool).await;
    let began = Instant::now();
    let mut tx = pool
        .tenant(&scope(tenant, began + Duration::from_secs(2)))
        .await
        .unwrap();
    add(&mut tx, "lost").await.unwrap();
    let error = Error::from(
        sqlx::query("SELECT pg_sleep(30)")
            .execute(&mut *tx)
            .await
            .unwrap_err(),
    );
    assert_eq!(
        (error.code(), error.reason()),
        (Code::Timeout, "DATABASE_TIMEOUT")
    );
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(matches!(tx.commit().await, Err(Error::Aborted)));
    assert_eq!(sleepers(&database), "0");
    // The second of two statements has no more time than is left.
    let began = Instant::now();
    let mut tx = pool
        .tenant(&scope(tenant, began + Duration::from_secs(4)))
        .await
        .unwrap();
    sqlx::query("SELECT pg_sleep(2)").execute(&mut *tx).await.unwrap();
    let error = Error::from(
        sqlx::query("SELECT pg_sleep(30)")
            .execute(&mut *tx)
            .await
            .unwrap_err(),
    );
    assert_eq!(error.code(), Code::Timeout);
    assert!(
        began.elapsed() < Duration::from_millis(5_500),
        "{:?}",
        began.elapsed()
    );
    drop(tx);
    testkit::eventually("the server to stop", || {
        (sleepers(&database) == "0").then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_statement_stops_on_the_server_and_harms_no_later_one() {
    let database = database().await;
    let mut settings = pg::Settings::new(&database.url("trailmesh_tenant")).unwrap();
    settings.database_max_connections = 2;
    let pool = pg::Pool::open(&settings, "tenant", true).await.unwrap();
    let tenant = tenant(&pool).await;
    for round in 0..6 {
        let mut tx = pool.tenant(&scope(tenant, soon())).await.unwrap();
        add(&mut tx, &format!("lost {round}")).await.unwrap();
        let sleep = sqlx::query("SELECT pg_sleep(30)").execute(&mut *tx);
        let abandoned = tokio::time::timeout(Duration::from_millis(60), sleep).await;
        assert!(abandoned.is_err());
        if round % 2 == 0 {
            assert!(matches!(tx.commit().await, Err(Error::Aborted)));
        }
        let mut tx = pool.tenant(&scope(tenant, soon())).await.unwrap();
        assert_eq!(rows(&mut tx).await, [canary(tenant)]);
        tx.commit().await.unwrap();
    }
    testkit::eventually("the server to stop", || {
        (sleepers(&database) == "0").then_some(())
    });
}

#[tokio::test]
async fn a_pool_that_is_used_up_answers_by_the_deadline() {
    let database = database().await;
    let mut settings = pg::Settings::new(&database.url("trailmesh_tenant")).unwrap();
    settings.database_max_connections = 1;
    let pool = pg::Pool::open(&settings, "tenant", true).await.unwrap();
    let held = pool.shared(soon()).await.unwrap();
    let began = Instant::now();
    let error = pool.shared(began + Duration::from_millis(200)).await.unwrap_err();
    assert!(
        began.elapsed() < Duration::from_millis(1_500),
        "{:?}",
        began.elapsed()
    );
    assert!(error.certainly_not_done() && error.retryable(), "{error:?}");
    drop(held);
    pool.shared(soon()).await.unwrap();
}

#[tokio::test]
async fn a_pool_that_is_busy_is_waited_for() {
    let database = database().await;
    let mut settings = pg::Settings::new(&database.url("trailmesh_tenant")).unwrap();
    settings.database_max_connections = 1;
    let pool = pg::Pool::open(&settings, "tenant", true).await.unwrap();
    let work = || async {
        let mut tx = pool.shared(soon()).await?;
        sqlx::query("SELECT pg_sleep(0.5)").execute(&mut *tx).await?;
        tx.commit().await
    };
    let began = Instant::now();
    let outcomes = futures_util::future::join_all((0..8).map(|_| work())).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert!(began.elapsed() > Duration::from_secs(4));
}

#[tokio::test]
async fn connections_that_died_unnoticed_are_replaced() {
    let database = database().await;
    let pool = pool(&database).await;
    let held = futures_util::future::try_join_all((0..5).map(|_| pool.shared(soon())))
        .await
        .unwrap();
    futures_util::future::join_all(held.into_iter().map(pg::Transaction::rollback)).await;
    database.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'trailmesh_tenant' AND datname = current_database()");
    for _ in 0..6 {
        pool.shared(soon()).await.unwrap().commit().await.unwrap();
    }
    // In the middle of a transaction it is told.
    let mut tx = pool.shared(soon()).await.unwrap();
    sqlx::query("INSERT INTO directory VALUES ('lost', 'x')")
        .execute(&mut *tx)
        .await
        .unwrap();
    database.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'trailmesh_tenant' AND datname = current_database()");
    let error = tx.commit().await.unwrap_err();
    assert_eq!(error.reason(), "COMMIT_UNKNOWN");
    assert!(!error.certainly_not_done() && !error.retryable());
}

#[tokio::test]
async fn conflicting_changes_may_be_tried_again() {
    let database = database().await;
    let pool = pool(&database).await;
    let tenant = tenant(&pool).await;
    let change =
        |id: &'static str| sqlx::query("UPDATE directory SET canary = canary || '.' WHERE id = $1").bind(id);
    database.sql("INSERT INTO tenant.directory VALUES ('a', ''), ('b', '')");
    let mut first = pool.tenant(&scope(tenant, soon())).await.unwrap();
    first.enter_shared().await.unwrap();
    let mut second = pool.shared(soon()).await.unwrap();
    change("a").execute(&mut *first).await.unwrap();
    change("b").execute(&mut *second).await.unwrap();
    let (one, two) = tokio::join!(change("b").execute(&mut *first), async {
        let outcome = change("a").execute(&mut *second).await;
        if outcome.is_err() {
            second.rollback().await;
        }
        outcome
    });
    let error = Error::from(one.and(two).unwrap_err());
    assert_eq!(
        (error.code(), error.retryable()),
        (Code::Conflict, true),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable_and_soon() {
    let settings = pg::Settings::new(&format!(
        "postgres://trailmesh_tenant@127.0.0.1:{}/x",
        testkit::free_port()
    ))
    .unwrap();
    let began = Instant::now();
    let error = pg::Pool::open(&settings, "tenant", true).await.unwrap_err();
    assert_eq!(error.reason(), "DATABASE_UNAVAILABLE", "{error:?}");
    assert!(error.certainly_not_done() && error.retryable() && began.elapsed() < Duration::from_secs(14));
}

#[tokio::test]
async fn a_user_with_too_many_rights_is_refused() {
    let database = database().await;
    let settings = pg::Settings::new(&database.admin_url()).unwrap();
    let error = pg::Pool::open(&settings, "tenant", true).await.unwrap_err();
    assert_eq!(error.reason(), "DATABASE_SETTINGS", "{error:?}");
}

#[tokio::test]
async fn outside_a_transaction_of_ours_there_is_nothing_to_see() {
    let database = database().await;
    let pool = pool(&database).await;
    tenant(&pool).await;
    let mut raw = bare(&database.url("trailmesh_tenant")).await;
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM tenant.directory")
        .fetch_one(&mut raw)
        .await
        .unwrap();
    assert_eq!(count, 0);
    assert!(
        sqlx::query("INSERT INTO tenant.directory VALUES ('x', 'x')")
            .execute(&mut raw)
            .await
            .is_err()
    );
    assert_eq!(
        Postgres::shared().sql_in(&database.name, "SELECT count(*) FROM tenant.directory"),
        "1"
    );
}
