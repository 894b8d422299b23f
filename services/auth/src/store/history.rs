//! The inbox of the audit logs, which is service tenant's: this service may put something in, and see nothing.

use std::time::Instant;

use types::TenantId;

use crate::{Error, history::Entry};

/// Puts entries in. Their times are those of the database's clock.
pub(crate) async fn write(tx: &mut pg::Transaction, entries: &[Entry]) -> Result<(), Error> {
    let sql = "INSERT INTO tenant.audit_inbox (id, tenant_id, user_id, event) \
               SELECT e.id, e.tenant_id, e.user_id, \
                      e.event::jsonb || jsonb_build_object('time', c.now - e.began, 'end_time', c.now - e.ended) \
               FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[]) \
                        AS e (id, tenant_id, user_id, event, began, ended), \
                    (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now) AS c";
    let ids: Vec<&str> = entries.iter().map(|entry| entry.event.id.as_str()).collect();
    let tenants: Vec<Option<String>> = entries
        .iter()
        .map(|entry| entry.tenant.as_ref().map(TenantId::to_string))
        .collect();
    let users: Vec<String> = entries.iter().map(|entry| entry.user.to_string()).collect();
    let events: Result<Vec<String>, _> = entries
        .iter()
        .map(|entry| serde_json::to_string(&entry.event))
        .collect();
    let events = events.map_err(|error| Error::Internal(error.to_string()))?;
    let began: Vec<i64> = entries.iter().map(|entry| since(entry.began)).collect();
    let ended: Vec<i64> = entries.iter().map(|entry| since(entry.ended)).collect();
    let query = sqlx::query(sql).bind(ids).bind(tenants).bind(users).bind(events);
    query.bind(began).bind(ended).execute(&mut **tx).await?;
    Ok(())
}

/// Microseconds that have passed.
fn since(instant: Instant) -> i64 {
    i64::try_from(instant.elapsed().as_micros()).unwrap_or(i64::MAX)
}
