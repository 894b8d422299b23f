//! What the number of tenants costs, once they are there.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use pg::{Pool, Transaction};
use rand::{SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use sqlx::{AssertSqlSafe, Executor as _};
use types::{Errand, TenantId, UserId};

use crate::{
    both,
    cell::{Cell, schema, soon},
    line, middle_and_tail, milliseconds,
};

/// Megabytes that a process of the server has for itself.
fn own_memory(process: i32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    let kilobytes: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kilobytes / 1e3
}

async fn enter(pool: &Pool, tenant: TenantId) -> Transaction {
    let errand = Errand {
        tenant,
        deadline: soon(),
    };
    pool.errand(&errand).await.unwrap()
}

/// Reads from every table of a tenant, and tells how large the server's process is then.
async fn touch(pool: &Pool, tenant: TenantId, tables: &[String]) -> f64 {
    let mut tx = enter(pool, tenant).await;
    for table in tables {
        let words = AssertSqlSafe(format!("SELECT * FROM {table} LIMIT 1"));
        sqlx::query(words).fetch_optional(&mut *tx).await.unwrap();
    }
    let process = sqlx::query_scalar("SELECT pg_backend_pid()");
    let process: i32 = process.fetch_one(&mut *tx).await.unwrap();
    let memory = own_memory(process);
    tx.commit().await.unwrap();
    memory
}

/// What a process of the server has after working for all tenants of a cell: for ever the same one, and replaced as the pool does it.
pub(crate) async fn memory(cell: &Cell) {
    let tables = cell.table_names();
    let all = cell.tenants.len();
    let mut settings = cell.settings.clone();
    settings.database_max_connections = 1;
    let replaced_after = settings.database_tenants_per_connection;
    settings.database_tenants_per_connection = u32::MAX;
    let pool = Pool::open(&settings, "tenant", false).await.unwrap();
    let mut growth = Vec::new();
    for (number, tenant) in (1..).zip(&cell.tenants) {
        let memory = touch(&pool, *tenant, &tables).await;
        if [1, 100, 200, 500, 1000].contains(&number) || number == all {
            growth.push(format!("{number}: {memory:.0}"));
        }
    }
    line(
        "memory of a connection never replaced, MB after tenants",
        "",
        &growth.join(", "),
    );
    pool.close().await;
    settings.database_tenants_per_connection = replaced_after;
    let pool = Pool::open(&settings, "tenant", false).await.unwrap();
    let mut most = 0.0_f64;
    for tenant in &cell.tenants {
        most = most.max(touch(&pool, *tenant, &tables).await);
    }
    line(
        &format!("memory of one replaced after {replaced_after} tenants, at most"),
        &format!("{most:.0} MB"),
        &format!("goal 60 MB; {} replaced over {all}", pool.replaced()),
    );
    pool.close().await;
}

/// How often entering is measured.
const ROUNDS: usize = 30;

/// The best of the rounds: of their middles, and of their tails.
fn best(rounds: &[(Duration, Duration)]) -> (Duration, Duration) {
    let middle = rounds.iter().map(|(middle, _)| *middle).min().unwrap();
    (middle, rounds.iter().map(|(_, tail)| *tail).min().unwrap())
}

/// A statement in a tenant's transaction, beside the same one in a plain transaction of the same three messages.
pub(crate) async fn entering(cell: &Cell) {
    let mut random = StdRng::seed_from_u64(4);
    let chosen: Vec<TenantId> = cell.tenants.choose_multiple(&mut random, 100).copied().collect();
    let pool = cell.pool(1).await;
    let mut admin = cell.admin().await;
    // Other work of the machine can only make a round worse, so the best one counts; the first fills the memories of both.
    let (mut entered, mut plain) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for tenant in chosen.iter().cycle().take(300) {
            let began = Instant::now();
            let mut tx = enter(&pool, *tenant).await;
            (&mut *tx).execute("SELECT count(*) FROM server").await.unwrap();
            tx.commit().await.unwrap();
            with.push(began.elapsed());
            let words = format!("SELECT count(*) FROM {}.server", schema(*tenant));
            let began = Instant::now();
            admin.execute("BEGIN").await.unwrap();
            admin.execute(AssertSqlSafe(words)).await.unwrap();
            admin.execute("COMMIT").await.unwrap();
            without.push(began.elapsed());
        }
        if round > 0 {
            entered.push(middle_and_tail(with));
            plain.push(middle_and_tail(without));
        }
    }
    let ((middle, tail), (plain_middle, plain_tail)) = (best(&entered), best(&plain));
    line(
        "a statement in a tenant's transaction, best of 30 rounds",
        &format!("p50 {}, p99 {}", milliseconds(middle), milliseconds(tail)),
        "",
    );
    line(
        "  the same one without entering",
        &format!(
            "p50 {}, p99 {}",
            milliseconds(plain_middle),
            milliseconds(plain_tail)
        ),
        "",
    );
    line(
        "  so entering adds",
        &format!(
            "p50 {}, p99 {}",
            milliseconds(middle.saturating_sub(plain_middle)),
            milliseconds(tail.saturating_sub(plain_tail))
        ),
        "goal 0.15 ms",
    );
    let mut once = Vec::new();
    for tenant in &cell.tenants {
        let began = Instant::now();
        let mut tx = enter(&pool, *tenant).await;
        (&mut *tx).execute("SELECT count(*) FROM server").await.unwrap();
        tx.commit().await.unwrap();
        once.push(began.elapsed());
    }
    line(
        "  each tenant of the cell once, on one connection",
        &both(once),
        "",
    );
    pool.close().await;
}

/// One tenant's schema, as a backup of it would have it.
pub(crate) fn dump(cell: &Cell, pg_dump: &Path) {
    let tenant = cell.tenants[cell.tenants.len() / 2];
    let began = Instant::now();
    let output = Command::new(pg_dump)
        .arg("--schema")
        .arg(schema(tenant))
        .arg(&cell.admin_url)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    line(
        "pg_dump of one tenant",
        &format!("{:.1} s", began.elapsed().as_secs_f64()),
        &format!("{} kB", output.stdout.len() / 1000),
    );
}

/// Ends so many tenants of each cell, step by step as the service does it, but for the vault's part: it has no keys here.
pub(crate) async fn ends(cells: &mut [Cell], each: usize) {
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); 4];
    for cell in cells {
        let pool = cell.pool(1).await;
        for _ in 0..each {
            let tenant = cell.tenants.pop().unwrap();
            // The proof of the destruction of keys, which is the vault's to write.
            cell.sql(&format!(
                "INSERT INTO vault.key_ring (tenant_id, destroy_time, statement, signature, signed_by) VALUES ('{tenant}', now(), '{{}}', 's', 'k')"
            ));
            let took = end(&pool, tenant).await;
            for (all, one) in times.iter_mut().zip(took) {
                all.push(one);
            }
        }
        pool.close().await;
    }
    let mut steps = times.into_iter();
    line(
        "ending a tenant, without the destruction of its keys",
        &both(steps.next().unwrap()),
        "",
    );
    for what in ["closing", "dropping the schema", "forgetting the rows"] {
        line(&format!("  {what}"), &both(steps.next().unwrap()), "");
    }
}

/// How long all of it, closing, dropping and forgetting take.
async fn end(pool: &Pool, tenant: TenantId) -> [Duration; 4] {
    let id = tenant.to_string();
    let began = Instant::now();
    let mut tx = pool.shared(soon()).await.unwrap();
    let words = format!("UPDATE tenant.tenant SET state = 'deleting' WHERE id = '{id}'");
    (&mut *tx).execute(AssertSqlSafe(words)).await.unwrap();
    let words = format!(
        "INSERT INTO tenant.deletion (tenant_id, requested_by, certificate, signature, key_id) VALUES ('{id}', '{}', '{{}}', 's', 'k')",
        UserId::fresh()
    );
    (&mut *tx).execute(AssertSqlSafe(words)).await.unwrap();
    pg::close_tenant_schema(&mut tx, tenant).await.unwrap();
    tx.commit().await.unwrap();
    let closed = began.elapsed();
    let mut tx = pool.shared(soon()).await.unwrap();
    assert!(pg::drop_tenant_schema(&mut tx, tenant).await.unwrap());
    tx.commit().await.unwrap();
    let dropped = began.elapsed();
    let mut tx = pool.shared(soon()).await.unwrap();
    let words = format!("SELECT tenant.forget_tenant('{id}')");
    (&mut *tx).execute(AssertSqlSafe(words)).await.unwrap();
    tx.commit().await.unwrap();
    let all = began.elapsed();
    [all, closed, dropped - closed, all - dropped]
}
