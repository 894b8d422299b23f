//! What this service itself puts into the inbox of a tenant's audit log.

use std::time::Instant;

use audit::Event;
use pg::Transaction;
use sqlx::types::Json;
use types::TenantId;

use crate::error::Error;

/// Puts an event in that began then and ends now, both by the database's clock.
pub(crate) async fn put(
    tx: &mut Transaction,
    tenant: TenantId,
    event: &Event,
    began: Instant,
) -> Result<(), Error> {
    let sql = "INSERT INTO tenant.audit_inbox (id, tenant_id, user_id, event)
               SELECT $1, $2, $3, $4 || jsonb_build_object('time', c.now - $5, 'end_time', c.now)
               FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now) AS c";
    let took = i64::try_from(began.elapsed().as_micros()).unwrap_or(i64::MAX);
    let query = sqlx::query(sql)
        .bind(&event.id)
        .bind(tenant.to_string())
        .bind(&event.actor.user_id)
        .bind(Json(event))
        .bind(took);
    query.execute(&mut **tx).await?;
    Ok(())
}
