//! A server of its own: killed, frozen, and with accounts that others do not share.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use pg::{
    Pool, Settings,
    migrate::{self, Migration, Set},
};
use testkit::Postgres;
use types::{Code, Fault as _, Secret};

use crate::fixture::options;

const PROBE: Set = Set {
    service: "probe",
    shared: &[Migration {
        version: 1,
        name: "lines",
        sql: "CREATE TABLE lines (id int PRIMARY KEY)",
    }],
    tenant: &[],
};

fn within(milliseconds: u64) -> Instant {
    Instant::now() + Duration::from_millis(milliseconds)
}

/// Works, or says why not within half a second more than it had.
async fn work(pool: &Pool, milliseconds: u64) -> Result<(), pg::Error> {
    let deadline = within(milliseconds);
    let outcome = async {
        let mut tx = pool.shared(deadline).await?;
        sqlx::query("SELECT count(*) FROM lines")
            .fetch_one(&mut *tx)
            .await?;
        tx.commit().await
    }
    .await;
    assert!(
        Instant::now() < deadline + Duration::from_millis(500),
        "{outcome:?} came too late"
    );
    outcome
}

async fn eventually_works(pool: &Pool) {
    let until = within(30_000);
    while let Err(error) = work(pool, 1_000).await {
        assert!(Instant::now() < until, "{error:?}");
    }
}

/// A server with the probe's schema and account, and a pool that verifies it.
async fn scene(folder: &Path) -> (Postgres, Pool) {
    let server = Postgres::private(folder);
    migrate::run(&server.url, &[PROBE], &options())
        .await
        .expect("a schema");
    let password = Secret::new("p/w_d'accord!@".to_owned());
    pg::set_passwords(&server.url, &[("probe", &password)], &options())
        .await
        .expect("a password");
    let url = pg::service_url(&server.url, "probe", &password).expect("a URL");
    let settings = Settings::new(url.expose()).expect("a URL");
    let pool = Pool::open(&settings, "probe", false).await.expect("a pool");
    work(&pool, 2_000).await.expect("it works");
    (server, pool)
}

#[tokio::test(flavor = "multi_thread")]
async fn several_installations_may_set_a_password_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (server, pool) = scene(folder.path()).await;
    let password = Secret::new("another".to_owned());
    let each: Vec<_> = [("probe", &password)].repeat(50);
    let options = options();
    let set = || pg::set_passwords(&server.url, &each, &options);
    for done in futures_util::future::join_all((0..8).map(|_| set())).await {
        done.unwrap();
    }
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_freezes_is_told_in_time_and_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let (server, pool) = scene(folder.path()).await;
    let stored = "SELECT rolpassword LIKE 'SCRAM-SHA-256$%' FROM pg_authid WHERE rolname = 'trailmesh_probe'";
    assert_eq!(server.sql_in("postgres", stored), "t");
    let sessions = "SELECT pid FROM pg_stat_activity WHERE usename = 'trailmesh_probe'";
    let sessions = server.sql_in("postgres", sessions);
    let signal = |name: &str| {
        for pid in sessions.lines() {
            assert!(Command::new("kill").args([name, pid]).status().unwrap().success());
        }
        server.signal(name);
    };
    signal("-STOP");
    let error = work(&pool, 400).await.unwrap_err();
    assert!(
        matches!(error.code(), Code::Unavailable | Code::Timeout),
        "{error:?}"
    );
    assert!(error.certainly_not_done());
    // The old session stays frozen; another one is opened.
    server.signal("-CONT");
    eventually_works(&pool).await;
    signal("-CONT");
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_is_told_and_found_again_with_all_that_was_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (mut server, pool) = scene(folder.path()).await;
    let mut tx = pool.shared(within(20_000)).await.unwrap();
    let line = sqlx::query("INSERT INTO lines VALUES (1)");
    line.execute(&mut *tx).await.unwrap();
    server.signal("-KILL");
    // The sessions outlive the main process by a moment, so the commit may still be answered.
    let committed = tx.commit().await;
    let unknown = committed.as_ref().err().map(|error| !error.certainly_not_done());
    assert_ne!(unknown, Some(false), "{committed:?}");
    let until = within(20_000);
    let error = loop {
        match work(&pool, 800).await {
            Ok(()) => assert!(Instant::now() < until, "it still answers"),
            // A session that was being opened when it died, on a machine with much to do.
            Err(error) if error.code() == Code::Timeout => assert!(Instant::now() < until, "{error:?}"),
            Err(error) => break error,
        }
    };
    assert_eq!(
        (error.code(), error.retryable()),
        (Code::Unavailable, true),
        "{error:?}"
    );
    let (url, main_process) = (server.url.clone(), folder.path().join("home/data/postmaster.pid"));
    let again = tokio::task::spawn_blocking(move || {
        let lines = std::fs::read_to_string(main_process).unwrap();
        let process = Path::new("/proc").join(lines.lines().next().unwrap());
        testkit::eventually("the main process to be gone", || {
            (!process.exists()).then_some(())
        });
        server.start_again();
        server
    });
    let server = again.await.unwrap();
    assert_eq!(server.url, url);
    eventually_works(&pool).await;
    // Who was told that it is kept finds it.
    let kept = server.sql_in("postgres", "SELECT count(*) FROM probe.lines");
    assert!(committed.is_err() || kept == "1");
    pool.close().await;
}
