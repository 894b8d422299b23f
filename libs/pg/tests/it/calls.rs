//! A transaction in one message.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use pg::{Error, Pool, Settings};
use testkit::Database;
use types::{Code, Errand, Fault as _, TenantId};

use crate::fixture::{canary, database, lock_rows, pool, rows, scope, soon, tenant};

async fn keep(pool: &Pool, tenant: TenantId, deadline: Instant, texts: &[&str]) -> Result<Vec<i64>, Error> {
    let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
    pool.call(&Errand { tenant, deadline }, "keep", &texts).await
}

async fn kept(pool: &Pool, tenant: TenantId) -> Vec<String> {
    let mut tx = pool.tenant(&scope(tenant, soon())).await.expect("it works");
    rows(&mut tx).await
}

async fn narrow(database: &Database<'_>) -> Pool {
    let mut settings = Settings::new(&database.url("trailmesh_tenant")).expect("it works");
    settings.database_max_connections = 1;
    Pool::open(&settings, "tenant", true).await.expect("it works")
}

#[tokio::test]
async fn a_call_keeps_what_it_is_given_to_the_letter_and_gives_its_numbers() {
    let database = database().await;
    let pool = pool(&database).await;
    let (mine, other) = (tenant(&pool).await, tenant(&pool).await);
    let texts = [
        "'); DROP TABLE rows; SELECT ('",
        "\\x41 \\' $$ -- /*",
        "",
        "Grüße, 世界",
        "one\ntwo",
    ];
    let numbers = keep(&pool, mine, soon(), &texts).await.unwrap();
    assert_eq!(numbers.len(), texts.len() + 1);
    assert_eq!(kept(&pool, mine).await[1..], texts);
    assert_eq!(kept(&pool, other).await, [canary(other)]);
    assert_eq!(keep(&pool, other, soon(), &[]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_call_that_fails_keeps_nothing_and_harms_no_later_one() {
    let database = database().await;
    let wide = pool(&database).await;
    let (mine, other) = (tenant(&wide).await, tenant(&wide).await);
    // One connection, so that whatever it is left in is met by the next.
    let pool = narrow(&database).await;
    for round in 0..3 {
        let error = keep(&pool, mine, soon(), &["new", &canary(mine)])
            .await
            .unwrap_err();
        assert_eq!(error.constraint(), Some("rows_canary_key"), "{error:?}");
        let text = format!("round {round}");
        keep(&pool, other, soon(), &[&text]).await.unwrap();
    }
    let gone = keep(&pool, TenantId::fresh(), soon(), &["x"]).await.unwrap_err();
    assert_eq!(gone.code(), Code::Missing, "{gone:?}");
    assert_eq!(kept(&wide, mine).await, [canary(mine)]);
    assert_eq!(kept(&wide, other).await.len(), 4);
    pool.close().await;
}

#[tokio::test]
async fn a_call_ends_at_its_deadline_and_one_that_is_given_up_keeps_nothing() {
    let database = database().await;
    let pool = pool(&database).await;
    let tenant = tenant(&pool).await;
    let mut tx = pool.tenant(&scope(tenant, soon())).await.unwrap();
    lock_rows(&mut *tx, tenant, "SHARE").await;
    // Nobody gives the table back before: that it ends at all is its own doing.
    let deadline = Instant::now() + Duration::from_millis(400);
    let error = keep(&pool, tenant, deadline, &["late"]).await.unwrap_err();
    assert_eq!(error.code(), Code::Timeout, "{error:?}");
    // The server waits for the table until this deadline, though nobody waits for the server; the open transaction must outlast it.
    let deadline = Instant::now() + Duration::from_secs(2);
    let given_up = tokio::time::timeout(
        Duration::from_millis(100),
        keep(&pool, tenant, deadline, &["dropped"]),
    );
    assert!(given_up.await.is_err());
    testkit::eventually("nobody to wait for the table", || {
        let waiting = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                       WHERE d.datname = current_database() AND NOT l.granted";
        (database.sql(waiting) == "0").then_some(())
    });
    tx.commit().await.unwrap();
    assert_eq!(kept(&pool, tenant).await, [canary(tenant)]);
}

#[tokio::test]
async fn a_call_that_was_given_up_is_in_doubt_though_the_next_try_does_not_come_through() {
    let database = database().await;
    let pool = pool(&database).await;
    let tenant = tenant(&pool).await;
    let narrow = narrow(&database).await;
    keep(&narrow, tenant, soon(), &["warm"]).await.unwrap();
    let mut tx = pool.tenant(&scope(tenant, soon())).await.unwrap();
    lock_rows(&mut *tx, tenant, "SHARE").await;
    // The warm connection is given up, and there is no other.
    database.sql(&format!("ALTER DATABASE {} CONNECTION LIMIT 0", database.name));
    let deadline = Instant::now() + Duration::from_secs(1);
    let error = keep(&narrow, tenant, deadline, &["late"]).await.unwrap_err();
    assert!(matches!(error, Error::Unknown(_)), "{error:?}");
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn calls_after_each_other_meet_one_process_of_the_server_and_a_new_one_when_it_has_died() {
    let database = database().await;
    let pool = pool(&database).await;
    let tenant = tenant(&pool).await;
    // Several connections rest in the pool.
    join_all((0..6).map(|_| pool.shared(soon()))).await;
    let mut processes = Vec::new();
    for count in 0..10 {
        let text = format!("text {count}");
        processes.push(keep(&pool, tenant, soon(), &[&text]).await.unwrap().pop());
    }
    processes.dedup();
    assert_eq!(processes.len(), 1);
    database.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
    );
    let after = keep(&pool, tenant, soon(), &["after"]).await.unwrap();
    assert!(!processes.contains(&after.last().copied()));
    assert_eq!(kept(&pool, tenant).await.len(), 12);
}

#[tokio::test]
async fn a_connection_that_has_seen_many_tenants_is_replaced_after_a_call_too() {
    let database = database().await;
    let wide = pool(&database).await;
    let mut settings = Settings::new(&database.url("trailmesh_tenant")).unwrap();
    settings.database_max_connections = 1;
    settings.database_tenants_per_connection = 2;
    let pool = Pool::open(&settings, "tenant", true).await.unwrap();
    for _ in 0..4 {
        let tenant = tenant(&wide).await;
        keep(&pool, tenant, soon(), &["one"]).await.unwrap();
        keep(&pool, tenant, soon(), &["two"]).await.unwrap();
    }
    // With the first call for a second tenant each time.
    assert_eq!(pool.replaced(), 3);
}

/// What is kept for calls is never all of a pool, and goes with the pool wherever that ends.
#[test]
fn what_is_kept_for_calls_leaves_room_and_goes_with_the_pool() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let pool = runtime.block_on(async {
        let database = database().await;
        let mut settings = Settings::new(&database.url("trailmesh_tenant")).unwrap();
        settings.database_max_connections = 4;
        let pool = Pool::open(&settings, "tenant", true).await.unwrap();
        let tenant = tenant(&pool).await;
        // Four at once, so that each has a connection; then three transactions, before what is kept would go back by itself.
        join_all((0..4).map(|_| keep(&pool, tenant, soon(), &[]))).await;
        let before = Instant::now() + Duration::from_secs(4);
        let open = join_all((0..3).map(|_| pool.shared(before))).await;
        assert!(open.iter().all(Result::is_ok), "{open:?}");
        pool
    });
    drop(runtime);
    drop(pool);
}
