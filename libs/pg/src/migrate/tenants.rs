//! The schemas of tenants.

use std::{collections::BTreeSet, sync::Mutex};

use futures_util::future::join_all;
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection,
    postgres::{PgConnectOptions, PgDatabaseError},
};
use tokio::time::{Instant, sleep};

use super::{
    Migration, Options, Problem, Report, Set, Tenants, apply, beginning, failed, in_use, jitter, ledger, wall,
};
use crate::Error;

/// Sees that no tenant's schema, and not what new ones are made from, has a step of `set` that is unknown or was changed: one query for
/// all of them.
pub(super) async fn check(admin: &mut PgConnection, set: &Set) -> Result<(), Error> {
    let query = sqlx::query_as(
        "SELECT version, name, fingerprint, min(place) FROM trailmesh.ledger WHERE service = $1 AND place LIKE 't\\_%'
         GROUP BY version, name, fingerprint
         UNION ALL SELECT version, name, fingerprint, 'new tenants' FROM trailmesh.templates WHERE service = $1 ORDER BY version",
    );
    let lines = query.bind(set.service).persistent(false).fetch_all(admin).await?;
    ledger::compare(set.service, set.tenant, lines).map(|_| ())
}

/// Says what new tenants are made from, after making one for trial.
pub(super) async fn publish(admin: &mut PgConnection, sets: &[Set], options: &Options) -> Result<(), Error> {
    let known = sqlx::query_as("SELECT service, version FROM trailmesh.templates").persistent(false);
    let known: BTreeSet<(String, i32)> = known.fetch_all(&mut *admin).await?.into_iter().collect();
    let steps = sets
        .iter()
        .flat_map(|set| set.tenant.iter().map(move |step| (set, step)));
    let new = |(set, step): &(&Set, &Migration)| !known.contains(&(set.service.to_owned(), number(step)));
    let steps: Vec<(&Set, &Migration)> = steps.filter(new).collect();
    let until = Instant::now() + options.patience;
    while let (Some((_, last)), Err(error)) = (steps.last(), try_to_publish(admin, &steps).await) {
        match Error::from(error) {
            Error::Conflict(_) if Instant::now() < until => admin.execute("ROLLBACK").await?,
            Error::Defect(source) | Error::Constraint { source, .. } => {
                // The server tells the text of the step in which it stopped.
                let text = source
                    .as_database_error()
                    .and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
                let text = text.and_then(PgDatabaseError::r#where).unwrap_or_default();
                let stopped = steps.iter().find(|(_, step)| text.contains(step.sql));
                let (set, step) = stopped.copied().unwrap_or((steps[0].0, last));
                return Err(failed(set, step, "new tenants", source));
            }
            other => return Err(other),
        };
        sleep(jitter()).await;
    }
    Ok(())
}

async fn try_to_publish(admin: &mut PgConnection, steps: &[(&Set, &Migration)]) -> Result<(), sqlx::Error> {
    if steps.is_empty() {
        return Ok(());
    }
    let words = format!("{}; SELECT trailmesh.enter('shared', '-')", beginning());
    admin.execute(AssertSqlSafe(words)).await?;
    for (set, step) in steps {
        let query = sqlx::query(
            "INSERT INTO trailmesh.templates (service, version, name, fingerprint, sql) VALUES ($1, $2, $3, $4, $5)",
        );
        let query = query.bind(set.service).bind(number(step)).bind(step.name);
        let query = query.bind(step.fingerprint()).bind(step.sql).persistent(false);
        query.execute(&mut *admin).await?;
    }
    let trial = format!(
        "SAVEPOINT trial; SELECT trailmesh.create_tenant_schema('t_{:026}'); ROLLBACK TO trial; COMMIT",
        0
    );
    admin.execute(AssertSqlSafe(trial)).await.map(|_| ())
}

pub(super) fn number(step: &Migration) -> i32 {
    i32::try_from(step.version).unwrap_or(i32::MAX)
}

async fn behind(admin: &mut PgConnection, sets: &[Set]) -> Result<Vec<String>, Error> {
    let services: Vec<&str> = sets.iter().map(|set| set.service).collect();
    let steps: usize = sets.iter().map(|set| set.tenant.len()).sum();
    let query = sqlx::query_scalar(
        "SELECT s.name FROM trailmesh.tenant_schemas s LEFT JOIN trailmesh.ledger l ON l.place = s.name AND l.service = ANY($1)
         GROUP BY s.name HAVING count(l.version) < $2 ORDER BY s.name",
    );
    let query = query
        .bind(services)
        .bind(i64::try_from(steps).unwrap_or(i64::MAX))
        .persistent(false);
    Ok(query.fetch_all(admin).await?)
}

/// How many there are, and which are behind.
pub(super) async fn count(admin: &mut PgConnection, sets: &[Set]) -> Result<Tenants, Error> {
    let total = sqlx::query_scalar("SELECT count(*) FROM trailmesh.tenant_schemas").persistent(false);
    let total: i64 = total.fetch_one(&mut *admin).await?;
    Ok(Tenants {
        total: usize::try_from(total).unwrap_or_default(),
        behind: behind(admin, sets).await?,
    })
}

/// Brings every tenant's schema up to date, several at a time. The first one that cannot be stops the handing out of more.
pub(super) async fn upgrade(
    connect: &PgConnectOptions,
    admin: &mut PgConnection,
    sets: &[Set],
    options: &Options,
    report: &mut Report,
) -> Result<(), Error> {
    let waiting = behind(admin, sets).await?;
    let total = waiting.len();
    let mut sets: Vec<Set> = sets.to_vec();
    // The order in which a new tenant is made.
    sets.sort_by_key(|set| set.service);
    let queue = Mutex::new(waiting.into_iter());
    let workers = options.workers.clamp(1, 64).min(total);
    let outcomes = join_all((0..workers).map(|_| work(connect, &sets, options, &queue))).await;
    for outcome in outcomes {
        report.tenants_upgraded += outcome?;
    }
    Ok(())
}

async fn work(
    connect: &PgConnectOptions,
    sets: &[Set],
    options: &Options,
    queue: &Mutex<std::vec::IntoIter<String>>,
) -> Result<usize, Error> {
    let next = || queue.lock().ok().and_then(|mut queue| queue.next());
    let stop = || drop(queue.lock().map(|mut queue| queue.by_ref().for_each(drop)));
    let mut connection = connect.connect().await.inspect_err(|_| stop())?;
    let mut done = 0;
    while let Some(place) = next() {
        let until = Instant::now() + options.patience;
        loop {
            let trouble = match bring(&mut connection, sets, &place).await {
                Ok(()) => break,
                Err(trouble) => trouble,
            };
            let in_use =
                matches!(&trouble, Error::Migration(problem) if matches!(**problem, Problem::InUse { .. }));
            if !in_use || Instant::now() > until {
                stop();
                return Err(trouble);
            }
            connection.execute("ROLLBACK").await?;
            sleep(jitter()).await;
        }
        done += 1;
    }
    connection.close().await?;
    Ok(done)
}

/// One schema, one transaction.
async fn bring(connection: &mut PgConnection, sets: &[Set], place: &str) -> Result<(), Error> {
    let words = format!(
        "{}; SET LOCAL search_path = {place}, pg_temp; SELECT trailmesh.enter('{place}', '-')",
        beginning()
    );
    connection.execute(AssertSqlSafe(words)).await?;
    let query = sqlx::query_scalar("SELECT true FROM trailmesh.tenant_schemas WHERE name = $1 FOR UPDATE");
    let query = query.bind(place).persistent(false);
    let there: Option<bool> = query
        .fetch_optional(&mut *connection)
        .await
        .map_err(|error| or_in_use(place, error))?;
    if there.is_some() {
        let query = sqlx::query("SELECT trailmesh.admit($1)")
            .bind(place)
            .persistent(false);
        query.execute(&mut *connection).await?;
        for set in sets {
            steps(connection, set, place).await?;
        }
    }
    connection.execute("COMMIT").await?;
    Ok(())
}

async fn steps(connection: &mut PgConnection, set: &Set, place: &str) -> Result<(), Error> {
    let applied = ledger::check(connection, place, set.service, set.tenant)
        .await?
        .len();
    for step in set.tenant.iter().skip(applied) {
        let began = Instant::now();
        let outcome = async {
            apply(connection, step).await?;
            wall(connection, place).await?;
            ledger::write(connection, place, set.service, step, began.elapsed()).await
        }
        .await;
        outcome.map_err(|error| match or_in_use(place, error) {
            Error::Defect(source) | Error::Constraint { source, .. } => failed(set, step, place, source),
            other => other,
        })?;
    }
    Ok(())
}

/// Tells a lock that could not be had, which passes, from everything else.
fn or_in_use(place: &str, error: sqlx::Error) -> Error {
    match Error::from(error) {
        Error::Conflict(source) => in_use(place, source),
        other => other,
    }
}
