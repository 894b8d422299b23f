//! A service with a directory and tenants whose rows carry a canary.

use std::time::{Duration, Instant};

use pg::{
    Pool, Settings, Transaction,
    migrate::{self, Migration, Options, Set},
};
use sqlx::{Connection as _, PgConnection};
use testkit::{Database, Postgres};
use types::{Plan, Region, RequestId, Role, Scope, Seat, SessionId, Subject, TenantId, UserId};

pub(crate) const SHARED: &[Migration] = &[Migration {
    version: 1,
    name: "directory",
    sql: "CREATE TABLE directory (id text PRIMARY KEY, canary text NOT NULL CONSTRAINT canary_length CHECK (length(canary) < 60));
          CREATE VIEW seen AS SELECT id, canary FROM directory;
          CREATE TABLE condemned (place text PRIMARY KEY);
          CREATE FUNCTION schema_may_go(place text) RETURNS boolean LANGUAGE sql STABLE
          AS 'SELECT EXISTS (SELECT FROM tenant.condemned c WHERE c.place = schema_may_go.place)';
          GRANT USAGE ON SCHEMA tenant TO trailmesh_auth; GRANT SELECT ON seen TO trailmesh_auth;",
}];

pub(crate) const TENANT: &[Migration] = &[
    Migration {
        version: 1,
        name: "rows",
        sql: "CREATE TABLE rows (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, canary text NOT NULL UNIQUE);
              CREATE FUNCTION keep(texts text []) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
              BEGIN RETURN QUERY INSERT INTO rows (canary) SELECT unnest(texts) RETURNING id; RETURN NEXT pg_backend_pid(); END $$;",
    },
    Migration {
        version: 2,
        name: "notes",
        sql: "CREATE TABLE notes (id bigint REFERENCES rows, canary text); CREATE VIEW both_of AS SELECT r.canary FROM rows r JOIN notes n USING (id);",
    },
];

pub(crate) const SET: Set = Set {
    service: "tenant",
    shared: SHARED,
    tenant: TENANT,
};

const AUTH: Set = Set {
    service: "auth",
    shared: &[Migration {
        version: 1,
        name: "people",
        sql: "CREATE TABLE people (id text PRIMARY KEY, canary text);",
    }],
    tenant: &[],
};

pub(crate) const SETS: [Set; 2] = [AUTH, SET];

pub(crate) fn options() -> Options {
    Options {
        dev: true,
        patience: Duration::from_secs(30),
        ..Options::default()
    }
}

/// A database with both services' schemas and no tenants.
pub(crate) async fn database() -> Database<'static> {
    let database = Postgres::shared().database(&migrate::fingerprint(&SETS), |url| async move {
        migrate::run(&url, &SETS, &options()).await.expect("it works");
    });
    // A copy has not the rights on the database itself.
    migrate::run(&database.admin_url(), &SETS, &options())
        .await
        .expect("it works");
    database
}

pub(crate) async fn pool(database: &Database<'_>) -> Pool {
    Pool::open(
        &Settings::new(&database.url("trailmesh_tenant")).expect("it works"),
        "tenant",
        true,
    )
    .await
    .expect("it works")
}

pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

pub(crate) fn scope(tenant: TenantId, deadline: Instant) -> Scope {
    Scope {
        subject: Subject::Person {
            user: UserId::fresh(),
            session: SessionId::fresh(),
        },
        seat: Seat {
            tenant,
            region: Region::Eu,
            plan: Plan::Free,
            role: Some(Role::Owner),
            pools: Default::default(),
            scopes: None,
        },
        needed: Role::Viewer,
        grant: None,
        deadline,
        request: RequestId::fresh(),
    }
}

pub(crate) fn schema(tenant: TenantId) -> String {
    format!("t_{}", tenant.digits())
}

pub(crate) fn canary(tenant: TenantId) -> String {
    format!("canary {tenant}")
}

/// A new tenant with a line in the directory and a row and a note of its own.
pub(crate) async fn tenant(pool: &Pool) -> TenantId {
    let tenant = TenantId::fresh();
    let mut tx = pool.shared(soon()).await.expect("it works");
    pg::create_tenant_schema(&mut tx, tenant).await.expect("it works");
    sqlx::query("INSERT INTO directory VALUES ($1, $2)")
        .bind(tenant.to_string())
        .bind(canary(tenant))
        .execute(&mut *tx)
        .await
        .expect("it works");
    tx.commit().await.expect("it works");
    let mut tx = pool.tenant(&scope(tenant, soon())).await.expect("it works");
    add(&mut tx, &canary(tenant)).await.expect("it works");
    sqlx::query("INSERT INTO notes SELECT id, canary FROM rows")
        .execute(&mut *tx)
        .await
        .expect("it works");
    tx.commit().await.expect("it works");
    tenant
}

pub(crate) async fn add(tx: &mut Transaction, canary: &str) -> Result<(), sqlx::Error> {
    let query = sqlx::query("INSERT INTO rows (canary) VALUES ($1)").bind(canary);
    query.execute(&mut **tx).await.map(|_| ())
}

pub(crate) async fn rows(tx: &mut Transaction) -> Vec<String> {
    sqlx::query_scalar("SELECT canary FROM rows ORDER BY id")
        .fetch_all(&mut **tx)
        .await
        .expect("it works")
}

/// Takes this lock on the tenant's rows, until the transaction ends.
pub(crate) async fn lock_rows(connection: impl sqlx::PgExecutor<'_>, tenant: TenantId, mode: &str) {
    let lock = format!("LOCK TABLE {}.rows IN {mode} MODE", schema(tenant));
    sqlx::raw_sql(sqlx::AssertSqlSafe(lock))
        .execute(connection)
        .await
        .expect("a lock");
}

/// A connection of the service's role without anything of ours around it.
pub(crate) async fn bare(url: &str) -> PgConnection {
    PgConnection::connect(url).await.expect("it works")
}
