//! A cell: a server, its database, its tenants.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use pg::{
    Home, Pool, Settings,
    migrate::{self, Report, Set},
};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use types::{PoolId, Region, Secret, TenantId, UserId};

use crate::SETS;

/// Nothing here takes this long.
pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// A cell.
pub(crate) struct Cell {
    pub(crate) admin_url: String,
    pub(crate) settings: Settings,
    number: usize,
    pub(crate) tenants: Vec<TenantId>,
}

impl Cell {
    /// A cell without tenants, on a new server.
    pub(crate) async fn prepare(admin_url: &str, number: usize) -> Self {
        let password = Secret::new(UserId::fresh().to_string());
        let url = pg::service_url(admin_url, "tenant", &password).unwrap();
        let cell = Self {
            admin_url: admin_url.to_owned(),
            settings: Settings::new(url.expose()).unwrap(),
            number,
            tenants: Vec::new(),
        };
        cell.migrate(&SETS).await;
        pg::set_passwords(admin_url, &[("tenant", &password)], &migrate::Options::default())
            .await
            .unwrap();
        cell
    }

    /// As `trailmesh migrate run` does it.
    pub(crate) async fn migrate(&self, sets: &[Set]) -> Report {
        let options = migrate::Options {
            home: Some(Home {
                region: Region::Eu,
                cell: self.number.to_string(),
            }),
            ..migrate::Options::default()
        };
        migrate::run(&self.admin_url, sets, &options).await.unwrap()
    }

    pub(crate) async fn pool(&self, connections: u32) -> Pool {
        let mut settings = self.settings.clone();
        settings.database_max_connections = connections;
        let cell = self.number.to_string();
        Pool::open_in(&settings, "tenant", false, Region::Eu, &cell)
            .await
            .unwrap()
    }

    /// A superuser's connection.
    pub(crate) async fn admin(&self) -> PgConnection {
        PgConnection::connect(&self.admin_url).await.unwrap()
    }

    /// What one statement answers.
    pub(crate) fn sql(&self, words: &str) -> String {
        let output = Command::new("psql")
            .args([
                "--no-psqlrc",
                "--tuples-only",
                "--no-align",
                &self.admin_url,
                "-c",
                words,
            ])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub(crate) fn size(&self) -> i64 {
        self.sql("SELECT pg_database_size(current_database())")
            .parse()
            .unwrap()
    }

    /// How many tables a tenant has.
    pub(crate) fn tables(&self) -> usize {
        self.table_names().len()
    }

    pub(crate) fn table_names(&self) -> Vec<String> {
        let words = format!(
            "SELECT tablename FROM pg_tables WHERE schemaname = '{}' ORDER BY 1",
            schema(self.tenants[0])
        );
        self.sql(&words).lines().map(str::to_owned).collect()
    }

    /// Makes so many tenants, each with its schema, by two at a time; how long each took.
    pub(crate) async fn fill(&mut self, count: usize) -> Vec<Duration> {
        let pool = self.pool(2).await;
        let name = self.number.to_string();
        let half = |count: usize| {
            let (pool, name) = (pool.clone(), name.clone());
            tokio::spawn(async move {
                let mut done = Vec::new();
                for _ in 0..count {
                    let began = Instant::now();
                    let mut tx = pool.shared(soon()).await.unwrap();
                    let tenant = TenantId::fresh();
                    pg::create_tenant_schema(&mut tx, tenant).await.unwrap();
                    directory(&mut tx, tenant, &name).await;
                    tx.commit().await.unwrap();
                    done.push((tenant, began.elapsed()));
                }
                done
            })
        };
        let (one, other) = tokio::join!(half(count / 2), half(count - count / 2));
        let (ids, times): (Vec<_>, Vec<_>) = one.unwrap().into_iter().chain(other.unwrap()).unzip();
        self.tenants.extend(ids);
        pool.close().await;
        times
    }

    /// Makes so many schemas ahead, and then tenants in them; how long each of these took.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<Duration> {
        let pool = self.pool(1).await;
        let most = u32::try_from(count).unwrap();
        for _ in 0..count {
            let mut tx = pool.shared(soon()).await.unwrap();
            assert!(
                pg::prepare_tenant_schema(&mut tx, TenantId::fresh(), most)
                    .await
                    .unwrap()
            );
            tx.commit().await.unwrap();
        }
        let mut times = Vec::new();
        for _ in 0..count {
            let began = Instant::now();
            let mut tx = pool.shared(soon()).await.unwrap();
            let tenant = pg::take_prepared_schema(&mut tx).await.unwrap().unwrap();
            directory(&mut tx, tenant, &self.number.to_string()).await;
            tx.commit().await.unwrap();
            times.push(began.elapsed());
            self.tenants.push(tenant);
        }
        pool.close().await;
        times
    }
}

pub(crate) fn schema(tenant: TenantId) -> String {
    format!("t_{}", tenant.digits())
}

/// What the directory has of a new tenant.
async fn directory(tx: &mut pg::Transaction, tenant: TenantId, cell: &str) {
    let id = tenant.to_string();
    let (user, pool) = (UserId::fresh(), PoolId::fresh());
    for words in [
        format!(
            "INSERT INTO tenant.tenant (id, name, region, cell) VALUES ('{id}', 'bench', 'eu', '{cell}')"
        ),
        format!("INSERT INTO tenant.member (tenant_id, user_id, role) VALUES ('{id}', '{user}', 'owner')"),
        format!("INSERT INTO tenant.pool (id, tenant_id, name) VALUES ('{pool}', '{id}', 'default')"),
    ] {
        sqlx::query(AssertSqlSafe(words))
            .execute(&mut **tx)
            .await
            .unwrap();
    }
}
