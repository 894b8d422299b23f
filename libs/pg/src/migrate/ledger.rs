//! What has been applied where.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Executor as _, PgConnection};

use super::{Migration, Problem};
use crate::Error;

pub(super) async fn exists(admin: &mut PgConnection, table: &str) -> Result<bool, Error> {
    let query = sqlx::query_scalar("SELECT to_regclass('trailmesh.' || $1) IS NOT NULL").bind(table);
    Ok(query.persistent(false).fetch_one(admin).await?)
}

/// The ledger is what everything else is written down in, so it is older than the first step.
pub(super) async fn prepare(admin: &mut PgConnection) -> Result<(), Error> {
    if exists(admin, "ledger").await? {
        return Ok(());
    }
    let words = format!(
        "{}; CREATE SCHEMA IF NOT EXISTS trailmesh; CREATE TABLE trailmesh.ledger (
           place text NOT NULL,
           service text NOT NULL,
           version integer NOT NULL,
           name text NOT NULL,
           fingerprint text NOT NULL,
           applied_at timestamptz NOT NULL DEFAULT now(),
           took interval NOT NULL,
           PRIMARY KEY (place, service, version)
         );
         ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC; COMMIT",
        super::beginning()
    );
    admin.execute(AssertSqlSafe(words)).await?;
    Ok(())
}

/// The versions of `service` in `place`, after seeing that they are the first ones of `steps`.
pub(super) async fn check(
    admin: &mut PgConnection,
    place: &str,
    service: &str,
    steps: &[Migration],
) -> Result<Vec<u32>, Error> {
    let query = sqlx::query_as(
        "SELECT version, name, fingerprint, place FROM trailmesh.ledger WHERE place = $1 AND service = $2 ORDER BY version",
    );
    let rows: Vec<Line> = query
        .bind(place)
        .bind(service)
        .persistent(false)
        .fetch_all(admin)
        .await?;
    compare(service, steps, rows)
}

/// Version, name, fingerprint, and a place it was applied to.
pub(super) type Line = (i32, String, String, String);

pub(super) fn compare(service: &str, steps: &[Migration], lines: Vec<Line>) -> Result<Vec<u32>, Error> {
    let mut versions = Vec::new();
    for (version, name, fingerprint, place) in lines {
        let service = service.to_owned();
        let Some(step) = steps
            .iter()
            .find(|step| i64::from(step.version) == i64::from(version))
        else {
            return Err(Problem::Newer {
                service,
                version,
                name,
                place,
            }
            .into());
        };
        if step.fingerprint() != fingerprint {
            return Err(Problem::Changed {
                service,
                version,
                name,
                place,
            }
            .into());
        }
        versions.push(step.version);
    }
    Ok(versions)
}

pub(super) async fn write(
    connection: &mut PgConnection,
    place: &str,
    service: &str,
    step: &Migration,
    took: Duration,
) -> Result<(), sqlx::Error> {
    let query = sqlx::query(
        "INSERT INTO trailmesh.ledger (place, service, version, name, fingerprint, took)
         VALUES ($1, $2, $3, $4, $5, make_interval(secs => $6))",
    );
    let version = i32::try_from(step.version).unwrap_or(i32::MAX);
    let query = query
        .bind(place)
        .bind(service)
        .bind(version)
        .bind(step.name)
        .bind(step.fingerprint());
    query
        .bind(took.as_secs_f64())
        .persistent(false)
        .execute(connection)
        .await
        .map(|_| ())
}
