//! Schemas and their versions: parallel, resumable, refusing what does not fit.

use std::{
    collections::BTreeSet,
    env,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use pg::{
    Error, Pool, Settings,
    migrate::{self, Migration, Options, Set},
};
use sqlx::Connection as _;
use testkit::{Database, Postgres, eventually};
use types::TenantId;

use crate::fixture::{SET, SHARED, TENANT, bare, database, lock_rows, options, schema, soon};

const OLD: Set = Set {
    tenant: TENANT.split_at(1).0,
    ..SET
};

/// Slow enough to be killed in the middle.
const SLOW: Set = Set {
    tenant: &[
        TENANT[0],
        TENANT[1],
        Migration {
            version: 3,
            name: "slow",
            sql: "CREATE TABLE slow (id int); SELECT pg_sleep(0.03)",
        },
        Migration {
            version: 4,
            name: "data",
            sql: "INSERT INTO slow VALUES (4); ALTER TABLE slow ADD COLUMN extra text;",
        },
    ],
    shared: &[
        SHARED[0],
        Migration {
            version: 2,
            name: "also slow",
            sql: "CREATE TABLE more (id int); SELECT pg_sleep(0.03); INSERT INTO more VALUES (1)",
        },
    ],
    ..SET
};

async fn migrate(database: &Database<'_>, set: Set) -> Result<migrate::Report, Error> {
    migrate::run(&database.admin_url(), &[set], &options()).await
}

async fn old_database(tenants: usize) -> (Database<'static>, Pool) {
    let database = Postgres::shared().database(&migrate::fingerprint(&[OLD]), |url| async move {
        migrate::run(&url, &[OLD], &options()).await.expect("it works");
    });
    migrate(&database, OLD).await.expect("it works");
    let pool = Pool::open(
        &Settings::new(&database.url("trailmesh_tenant")).expect("it works"),
        "tenant",
        true,
    )
    .await
    .expect("it works");
    for _ in 0..tenants {
        make(&pool).await;
    }
    (database, pool)
}

async fn make(pool: &Pool) -> TenantId {
    let tenant = TenantId::fresh();
    let mut tx = pool.shared(soon()).await.expect("it works");
    pg::create_tenant_schema(&mut tx, tenant).await.expect("it works");
    tx.commit().await.expect("it works");
    tenant
}

/// Whether every tenant has exactly what `version` steps make, each walled, and the ledger says so.
fn all_are_at(database: &Database<'_>, version: usize, tables: usize) {
    let odd = database.sql(&format!(
        "SELECT s.name, count(DISTINCT l.version), count(DISTINCT c.oid), count(DISTINCT p.oid) FROM trailmesh.tenant_schemas s
         LEFT JOIN trailmesh.ledger l ON l.place = s.name
         LEFT JOIN pg_class c ON c.relnamespace = to_regnamespace(s.name) AND c.relkind = 'r' AND c.relforcerowsecurity
         LEFT JOIN pg_policy p ON p.polrelid = c.oid
         GROUP BY 1 HAVING (count(DISTINCT l.version), count(DISTINCT c.oid), count(DISTINCT p.oid)) <> ({version}, {tables}, {tables})"
    ));
    assert_eq!(odd, "");
}

#[tokio::test]
async fn tenants_are_brought_up_to_date_and_new_ones_begin_there() {
    let (database, pool) = old_database(9).await;
    all_are_at(&database, 1, 1);
    let before = migrate::status(&database.admin_url(), &[SLOW], &options())
        .await
        .unwrap();
    assert_eq!((before.tenants.total, before.tenants.behind.len()), (9, 9));
    assert_eq!(before.services[0].pending, [(2, "also slow")]);
    assert!(
        !before.current() && before.to_string().contains("9 behind"),
        "{before}"
    );
    let report = migrate(&database, SLOW).await.unwrap();
    assert_eq!(
        (report.tenants_upgraded, report.applied.len()),
        (9, 1),
        "{report}"
    );
    make(&pool).await;
    all_are_at(&database, 4, 3);
    let after = migrate::status(&database.admin_url(), &[SLOW], &options())
        .await
        .unwrap();
    assert!(after.current() && after.tenants.total == 10, "{after}");
    let again = migrate(&database, SLOW).await.unwrap();
    assert!(
        again.applied.is_empty() && again.tenants_upgraded == 0 && again.to_string().contains("nothing"),
        "{again}"
    );
    // A data statement reached every schema, also those that were walled before.
    let data = database.sql("SELECT sum((xpath('/row/n/text()', query_to_xml(format('SELECT count(*) AS n FROM %I.slow', name), false, true, '')))[1]::text::int) FROM trailmesh.tenant_schemas");
    assert_eq!(data, "10");
    assert_eq!(database.sql("SELECT count(*) FROM tenant.more"), "1");
}

#[tokio::test]
async fn a_step_that_was_changed_or_is_unknown_is_refused_by_name() {
    let (database, _) = old_database(2).await;
    const CHANGED: Set = Set {
        tenant: &[Migration {
            version: 1,
            name: "rows",
            sql: "CREATE TABLE rows (id int)",
        }],
        ..SET
    };
    const SHARED_CHANGED: Set = Set {
        shared: &[Migration {
            version: 1,
            name: "directory",
            sql: "SELECT 1",
        }],
        tenant: OLD.tenant,
        ..SET
    };
    for set in [CHANGED, SHARED_CHANGED] {
        let error = migrate(&database, set).await.unwrap_err().to_string();
        let name = if set.tenant[0].sql == CHANGED.tenant[0].sql {
            "'rows'"
        } else {
            "'directory'"
        };
        assert!(
            error.contains(name) && error.contains("changed") && error.contains("'tenant'"),
            "{error}"
        );
        let status = migrate::status(&database.admin_url(), &[set], &options())
            .await
            .unwrap_err()
            .to_string();
        assert_eq!(error, status);
    }
    migrate(&database, SLOW).await.unwrap();
    let error = migrate(&database, SET).await.unwrap_err().to_string();
    assert!(
        error.contains("does not know") && error.contains("'also slow'"),
        "{error}"
    );
    const TENANT_OLDER: Set = Set {
        tenant: TENANT,
        ..SLOW
    };
    let error = migrate(&database, TENANT_OLDER).await.unwrap_err().to_string();
    assert!(
        error.contains("does not know") && error.contains("3 'slow'"),
        "{error}"
    );
    all_are_at(&database, 4, 3);
}

#[tokio::test]
async fn sets_that_can_never_work_are_refused() {
    for (service, version) in [
        ("tenant", 2),
        ("Tenant", 1),
        ("t_x", 1),
        ("trailmesh", 1),
        ("pg_x", 1),
        ("x; DROP", 1),
        ("", 1),
    ] {
        let shared: &'static [Migration] = Box::leak(Box::new([Migration {
            version,
            name: "first",
            sql: "",
        }]));
        let set = Set {
            service,
            shared,
            tenant: &[],
        };
        let error = migrate::run("postgres://u@127.0.0.1:1/x", &[set], &options())
            .await
            .unwrap_err();
        assert!(
            matches!(&error, Error::Migration(problem) if matches!(**problem, migrate::Problem::Set { .. })),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_failing_step_keeps_what_was_before_it_and_nothing_of_itself() {
    let (database, pool) = old_database(2).await;
    const BAD: Set = Set {
        tenant: &[
            TENANT[0],
            TENANT[1],
            Migration {
                version: 3,
                name: "bad",
                sql: "CREATE TABLE half (id int); SELECT 1 / 0;",
            },
        ],
        ..SET
    };
    let error = migrate(&database, BAD).await.unwrap_err();
    assert!(error.to_string().contains("3 'bad'"), "{error}");
    // A schema is brought up to date as a whole or not at all.
    all_are_at(&database, 1, 1);
    // Nor is it what new tenants are made from.
    make(&pool).await;
    migrate(&database, SET).await.unwrap();
    all_are_at(&database, 2, 2);
    // A step that works for new tenants only stops at the first old one.
    const NARROW: Set = Set {
        tenant: &[
            TENANT[0],
            TENANT[1],
            Migration {
                version: 3,
                name: "narrow",
                sql: "ALTER TABLE rows ADD CONSTRAINT narrow CHECK (canary <> 'wide')",
            },
        ],
        ..SET
    };
    let wide = schema(make(&pool).await);
    database.sql(&format!("INSERT INTO {wide}.rows (canary) VALUES ('wide')"));
    let error = migrate(&database, NARROW).await.unwrap_err().to_string();
    assert!(error.contains("3 'narrow'") && error.contains(&wide), "{error}");
    database.sql(&format!("DELETE FROM {wide}.rows"));
    migrate(&database, NARROW).await.unwrap();
    all_are_at(&database, 3, 2);
}

#[tokio::test]
async fn what_cannot_be_walled_is_refused() {
    let (database, _) = old_database(0).await;
    const BAD: Set = Set {
        shared: &[
            SHARED[0],
            Migration {
                version: 2,
                name: "snapshot",
                sql: "CREATE MATERIALIZED VIEW copy AS SELECT * FROM directory",
            },
        ],
        tenant: OLD.tenant,
        ..SET
    };
    let error = types::chain(&migrate(&database, BAD).await.unwrap_err());
    assert!(error.contains("materialized view"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_runs_at_a_time_do_everything_once() {
    let (database, pool) = old_database(6).await;
    let url = database.admin_url();
    let options = options();
    let run = || migrate::run(&url, &[SLOW], &options);
    let made = async {
        for _ in 0..6 {
            make(&pool).await;
        }
    };
    let (one, two, three, ()) = tokio::join!(run(), run(), run(), made);
    let upgraded: usize = [one, two, three]
        .into_iter()
        .map(|report| report.unwrap().tenants_upgraded)
        .sum();
    assert!((6..=12).contains(&upgraded), "{upgraded}");
    all_are_at(&database, 4, 3);
}

#[tokio::test]
async fn a_schema_in_use_is_tried_again_and_its_users_are_not_held_up() {
    let (database, pool) = old_database(3).await;
    let busy = make(&pool).await;
    let mut user = bare(&database.admin_url()).await;
    let mut held = user.begin().await.unwrap();
    lock_rows(&mut *held, busy, "ROW SHARE").await;
    const EXCLUSIVE: Set = Set {
        tenant: &[
            TENANT[0],
            TENANT[1],
            Migration {
                version: 3,
                name: "column",
                sql: "ALTER TABLE rows ADD COLUMN extra text",
            },
        ],
        ..SET
    };
    let url = database.admin_url();
    let options = options();
    let mut watcher = bare(&url).await;
    let release = async {
        // Once two attempts have been seen waiting.
        let mut seen = BTreeSet::new();
        while seen.len() < 2 {
            let waiting = "SELECT xact_start::text FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
            let found: Vec<String> = sqlx::query_scalar(waiting).fetch_all(&mut watcher).await.unwrap();
            seen.extend(found);
            tokio::task::yield_now().await;
        }
        held.rollback().await.unwrap();
    };
    let (report, ()) = tokio::join!(migrate::run(&url, &[EXCLUSIVE], &options), release);
    assert_eq!(report.unwrap().tenants_upgraded, 4);
    all_are_at(&database, 3, 2);
}

#[tokio::test]
async fn a_run_with_nothing_to_do_over_two_thousand_tenants_is_quick() {
    let (database, _) = old_database(0).await;
    database.sql(
        "INSERT INTO trailmesh.tenant_schemas (name) SELECT 't_0' || lpad(i::text, 25, '0') FROM generate_series(1, 2000) i;
         INSERT INTO trailmesh.ledger (place, service, version, name, fingerprint, took)
         SELECT s.name, t.service, t.version, t.name, t.fingerprint, '0' FROM trailmesh.tenant_schemas s, trailmesh.templates t",
    );
    let began = Instant::now();
    let report = migrate(&database, OLD).await.unwrap();
    assert_eq!(report.tenants_upgraded, 0);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

const CHILD: &str = "PG_TEST_MIGRATE";

/// Does nothing unless a test below runs it in a process of its own.
#[tokio::test]
async fn child_that_is_killed() {
    if let Ok(url) = env::var(CHILD) {
        migrate::run(
            &url,
            &[SLOW],
            &Options {
                workers: 3,
                ..options()
            },
        )
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn a_run_that_is_killed_is_finished_by_the_next() {
    let (database, pool) = old_database(24).await;
    // One that is in use all the time, so that no run gets to its end before it is killed.
    let busy = make(&pool).await;
    let mut user = bare(&database.admin_url()).await;
    let mut held = user.begin().await.unwrap();
    lock_rows(&mut *held, busy, "ROW EXCLUSIVE").await;
    for done in [0_usize, 1, 7, 15] {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "migrations::child_that_is_killed"])
            .env(CHILD, database.admin_url())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("some schemas to be done", || {
            let count = database
                .sql("SELECT count(*) FROM trailmesh.ledger WHERE service = 'tenant' AND version = 4");
            (count.parse::<usize>().unwrap() >= done).then_some(())
        });
        child.kill().unwrap();
        child.wait().unwrap();
    }
    held.rollback().await.unwrap();
    let report = migrate(&database, SLOW).await.unwrap();
    assert!(report.tenants_upgraded > 0, "{report}");
    all_are_at(&database, 4, 3);
}

#[tokio::test]
async fn an_admin_who_is_no_superuser_is_told_what_stays_open() {
    drop(database().await);
    let database = Postgres::shared().empty_database();
    let admin = format!("admin_{}", database.name);
    database.sql(&format!(
        "CREATE ROLE {admin} LOGIN CREATEROLE PASSWORD 'secret'; ALTER DATABASE {} OWNER TO {admin}",
        database.name
    ));
    let mut url = url::Url::parse(&database.url(&admin)).unwrap();
    url.set_password(Some("secret")).unwrap();
    let report = migrate::run(url.as_str(), &[SET], &options()).await.unwrap();
    assert_eq!(report.applied.len(), 3, "{report}");
    assert!(
        report.to_string().contains("pg_terminate_backend") && report.warnings.len() == 1,
        "{report}"
    );
    let pool = Pool::open(
        &Settings::new(&database.url("trailmesh_tenant")).unwrap(),
        "tenant",
        true,
    )
    .await
    .unwrap();
    make(&pool).await;
    all_are_at(&database, 2, 2);
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
    migrate::run(url.as_str(), &[NEXT], &options()).await.unwrap();
    all_are_at(&database, 3, 3);
    pool.close().await;
    database.sql(&format!(
        "ALTER DATABASE {} OWNER TO postgres; DROP OWNED BY {admin}; DROP ROLE {admin}",
        database.name
    ));
}
