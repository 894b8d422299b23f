//! Agents' identities on their way from one installation to another.

use pg::Connection;
use sqlx::types::chrono::DateTime;
use types::{AgentId, TenantId};

use super::{Time, stored};
use crate::{
    agents::operator::{AgentIdentities, CarriedAuthority, CarriedCertificate},
    error::Error,
};

fn time(micros: i64) -> Result<Time, Error> {
    DateTime::from_timestamp_micros(micros).ok_or(Error::Stored("time"))
}

/// The certificates of a tenant's agents that have not ended, and who vouches for them.
pub(crate) async fn read(tx: &mut Connection, tenant: TenantId) -> Result<AgentIdentities, Error> {
    let certificates: Vec<CarriedCertificate> = sqlx::query_as(
        "SELECT serial, agent_id, authority_id, (extract(epoch FROM issue_time) * 1000000)::bigint AS issue_time,
             (extract(epoch FROM expire_time) * 1000000)::bigint AS expire_time,
             (extract(epoch FROM revoke_time) * 1000000)::bigint AS revoke_time
         FROM agent_certificate WHERE tenant_id = $1 AND expire_time > now() ORDER BY serial",
    )
    .bind(tenant.to_string())
    .fetch_all(&mut *tx)
    .await?;
    let ids: Vec<&str> = certificates
        .iter()
        .map(|certificate| certificate.authority_id.as_str())
        .collect();
    let authorities: Vec<CarriedAuthority> = sqlx::query_as(
        "SELECT id, certificate, (extract(epoch FROM create_time) * 1000000)::bigint AS create_time,
             (extract(epoch FROM expire_time) * 1000000)::bigint AS expire_time
         FROM agent_authority WHERE id = ANY ($1) ORDER BY id",
    )
    .bind(ids)
    .fetch_all(&mut *tx)
    .await?;
    Ok(AgentIdentities {
        authorities,
        certificates,
    })
}

/// What is no certificate of an authority, or is called otherwise than by it, is not let in: it would be looked at with all others.
fn check(authority: &CarriedAuthority) -> Result<(), Error> {
    if authority.id != crate::agents::authority::id(&authority.certificate) {
        return Err(Error::Stored("authority of agents"));
    }
    chassis::identity::check_authority(&authority.certificate)
        .map_err(|_| Error::Stored("authority of agents"))
}

/// Takes them in. Authorities that are not known are trusted, and never issue.
pub(crate) async fn write(
    tx: &mut Connection,
    tenant: TenantId,
    agents: &AgentIdentities,
) -> Result<(), Error> {
    for authority in &agents.authorities {
        check(authority)?;
        sqlx::query(
            "INSERT INTO agent_authority (id, certificate, state, create_time, activate_time, expire_time)
             VALUES ($1, $2, 'retired', $3, $3, $4) ON CONFLICT (id) DO NOTHING",
        )
        .bind(&authority.id)
        .bind(&authority.certificate)
        .bind(time(authority.create_time)?)
        .bind(time(authority.expire_time)?)
        .execute(&mut *tx)
        .await?;
    }
    for certificate in &agents.certificates {
        let agent: AgentId = stored(&certificate.agent_id, "agent id")?;
        sqlx::query(
            "INSERT INTO agent_certificate (serial, tenant_id, agent_id, authority_id, issue_time, expire_time, revoke_time)
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (serial) DO NOTHING",
        )
        .bind(&certificate.serial)
        .bind(tenant.to_string())
        .bind(agent.to_string())
        .bind(&certificate.authority_id)
        .bind(time(certificate.issue_time)?)
        .bind(time(certificate.expire_time)?)
        .bind(certificate.revoke_time.map(time).transpose()?)
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}
