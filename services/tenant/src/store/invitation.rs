//! Invitations, and the mails of them that are still to be sent.

use std::time::Duration;

use pg::Transaction;
use types::{InvitationId, Micros, TenantId, UserId};

use super::{Time, micros, part, stored, stored_option};
use crate::{
    domain::{directory::Invitation, email::Address, page::Page, token::Token},
    error::{Error, Noun},
};

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    email: String,
    role: String,
    pool_id: Option<String>,
    invited_by: String,
    create_time: Time,
    expire_time: Time,
}

impl TryFrom<Row> for Invitation {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        Ok(Self {
            id: stored(&row.id, "invitation id")?,
            email: row.email,
            role: stored(&row.role, "role")?,
            pool: stored_option(row.pool_id.as_deref(), "pool id")?,
            invited_by: stored(&row.invited_by, "user id")?,
            created: micros(row.create_time),
            expires: micros(row.expire_time),
        })
    }
}

macro_rules! columns {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            " id, email, role, pool_id, invited_by, create_time, expire_time ",
            $after
        )
    };
}

/// How many invitations of the tenant are open.
pub(crate) async fn count(tx: &mut Transaction, tenant: TenantId) -> Result<i64, Error> {
    let count = sqlx::query_scalar(
        "SELECT count(*) FROM tenant.invitation WHERE tenant_id = $1 AND expire_time > now()",
    );
    Ok(count.bind(tenant.to_string()).fetch_one(&mut **tx).await?)
}

/// Writes an invitation for seven days, whose mail is due at once. `new` says what it is; its times are set here.
pub(crate) async fn insert(
    tx: &mut Transaction,
    tenant: TenantId,
    address: &Address,
    new: &Invitation,
) -> Result<Invitation, Error> {
    let row: Row = sqlx::query_as(columns!(
        "INSERT INTO tenant.invitation (tenant_id, id, email, email_key, role, pool_id, invited_by, expire_time, mail_due)
         VALUES ($1, $2, $3, $4, $5, $6, $7, now() + interval '7 days', now()) RETURNING",
        ""
    ))
    .bind(tenant.to_string())
    .bind(new.id.to_string())
    .bind(&address.text)
    .bind(&address.key)
    .bind(new.role.word())
    .bind(new.pool.map(|pool| pool.to_string()))
    .bind(new.invited_by.to_string())
    .fetch_one(&mut **tx)
    .await?;
    row.try_into()
}

/// Takes one of the `most` invitations that the tenant may have mailed in an hour.
pub(crate) async fn spend(tx: &mut Transaction, tenant: TenantId, most: u32) -> Result<(), Error> {
    sqlx::query(
        "DELETE FROM tenant.invitation_spent WHERE tenant_id = $1 AND spend_time <= now() - interval '1 hour'",
    )
    .bind(tenant.to_string())
    .execute(&mut **tx)
    .await?;
    let (count, wait): (i64, f64) = sqlx::query_as(
        "SELECT count(*), coalesce(extract(epoch FROM min(spend_time) + interval '1 hour' - now()), 0)::float8
         FROM tenant.invitation_spent WHERE tenant_id = $1",
    )
    .bind(tenant.to_string())
    .fetch_one(&mut **tx)
    .await?;
    if count >= i64::from(most) {
        let wait = Duration::try_from_secs_f64(wait.ceil()).unwrap_or_default();
        return Err(Error::InvitationsSpent { most, wait });
    }
    sqlx::query("INSERT INTO tenant.invitation_spent (tenant_id) VALUES ($1)")
        .bind(tenant.to_string())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Puts right what the invitation of this address gives, and by whom, if it is younger than ten minutes: its mail is in the post.
pub(crate) async fn put_right(
    tx: &mut Transaction,
    tenant: TenantId,
    address: &Address,
    new: &Invitation,
) -> Result<Option<Invitation>, Error> {
    let row: Option<Row> = sqlx::query_as(columns!(
        "UPDATE tenant.invitation SET role = $3, pool_id = $4, invited_by = $5
         WHERE tenant_id = $1 AND email_key = $2 AND create_time > now() - interval '10 minutes' RETURNING",
        ""
    ))
    .bind(tenant.to_string())
    .bind(&address.key)
    .bind(new.role.word())
    .bind(new.pool.map(|pool| pool.to_string()))
    .bind(new.invited_by.to_string())
    .fetch_optional(&mut **tx)
    .await?;
    row.map(Invitation::try_from).transpose()
}

/// All that this member has invited.
pub(crate) async fn by_member(
    tx: &mut Transaction,
    tenant: TenantId,
    user: UserId,
) -> Result<Vec<Invitation>, Error> {
    let rows: Vec<Row> = sqlx::query_as(columns!(
        "SELECT",
        "FROM tenant.invitation WHERE tenant_id = $1 AND invited_by = $2"
    ))
    .bind(tenant.to_string())
    .bind(user.to_string())
    .fetch_all(&mut **tx)
    .await?;
    rows.into_iter().map(Invitation::try_from).collect()
}

/// The invitation of this address, expired or not.
pub(crate) async fn of_address(
    tx: &mut Transaction,
    tenant: TenantId,
    address: &Address,
) -> Result<Option<Invitation>, Error> {
    let row: Option<Row> = sqlx::query_as(columns!(
        "SELECT",
        "FROM tenant.invitation WHERE tenant_id = $1 AND email_key = $2"
    ))
    .bind(tenant.to_string())
    .bind(&address.key)
    .fetch_optional(&mut **tx)
    .await?;
    row.map(Invitation::try_from).transpose()
}

/// One open invitation.
pub(crate) async fn get(
    tx: &mut Transaction,
    tenant: TenantId,
    id: InvitationId,
) -> Result<Invitation, Error> {
    let row: Option<Row> = sqlx::query_as(columns!(
        "SELECT",
        "FROM tenant.invitation WHERE tenant_id = $1 AND id = $2 AND expire_time > now()"
    ))
    .bind(tenant.to_string())
    .bind(id.to_string())
    .fetch_optional(&mut **tx)
    .await?;
    row.ok_or(Error::Missing(Noun::Invitation))?.try_into()
}

/// The open invitations in the order in which they were made.
pub(crate) async fn list(
    tx: &mut Transaction,
    tenant: TenantId,
    page: &Page,
) -> Result<Vec<Invitation>, Error> {
    let rows: Vec<Row> = sqlx::query_as(columns!(
        "SELECT",
        "FROM tenant.invitation
         WHERE tenant_id = $1 AND expire_time > now() AND ($2::text IS NULL OR id COLLATE \"C\" > $2)
         ORDER BY id COLLATE \"C\" LIMIT $3"
    ))
    .bind(tenant.to_string())
    .bind(part(page.after.as_ref(), 0))
    .bind(page.limit())
    .fetch_all(&mut **tx)
    .await?;
    rows.into_iter().map(Invitation::try_from).collect()
}

/// Deletes an invitation, its tokens with it.
pub(crate) async fn delete(tx: &mut Transaction, tenant: TenantId, id: InvitationId) -> Result<(), Error> {
    sqlx::query("DELETE FROM tenant.invitation WHERE tenant_id = $1 AND id = $2")
        .bind(tenant.to_string())
        .bind(id.to_string())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Which invitation a token opens, and of which tenant.
pub(crate) async fn opened_by(
    tx: &mut Transaction,
    token: &Token,
) -> Result<(TenantId, InvitationId), Error> {
    let row: Option<(String, String)> = sqlx::query_as(
        "SELECT i.tenant_id, i.id FROM tenant.invitation_token AS t JOIN tenant.invitation AS i ON i.id = t.invitation_id
         WHERE t.sha256 = $1 AND i.expire_time > now()",
    )
    .bind(token.sha256())
    .fetch_optional(&mut **tx)
    .await?;
    let (tenant, id) = row.ok_or(Error::Missing(Noun::Invitation))?;
    Ok((stored(&tenant, "tenant id")?, stored(&id, "invitation id")?))
}

/// Forgets what has expired, and tells how many invitations that were.
pub(crate) async fn sweep(tx: &mut Transaction) -> Result<u64, Error> {
    sqlx::query("DELETE FROM tenant.invitation_spent WHERE spend_time <= now() - interval '1 hour'")
        .execute(&mut **tx)
        .await?;
    let done = sqlx::query("DELETE FROM tenant.invitation WHERE expire_time <= now()")
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected())
}

/// A mail that is due.
#[derive(Debug)]
pub(crate) struct Due {
    /// Of which invitation.
    pub(crate) id: InvitationId,
    /// Which try this is.
    pub(crate) attempt: i32,
    /// To whom.
    pub(crate) email: String,
    /// The inviting member's name or address.
    pub(crate) invited_by: String,
    /// The tenant's name.
    pub(crate) tenant_name: String,
    /// When the invitation ends.
    pub(crate) expires: Micros,
}

#[derive(sqlx::FromRow)]
struct DueRow {
    id: String,
    mail_attempts: i32,
    email: String,
    invited_by: String,
    tenant_name: String,
    expire_time: Time,
}

/// Takes the next mail that is due: nobody else takes it until its next try is due, 10 seconds to an hour and a half from now. `token` will
/// open the invitation.
pub(crate) async fn take_due(tx: &mut Transaction, token: &Token) -> Result<Option<Due>, Error> {
    let row: Option<DueRow> = sqlx::query_as(
        "WITH next AS (
             SELECT n.id FROM tenant.invitation AS n JOIN tenant.tenant AS a ON a.id = n.tenant_id AND a.state = 'active'
             WHERE n.mail_due <= now() AND n.expire_time > now() ORDER BY n.mail_due LIMIT 1 FOR UPDATE OF n SKIP LOCKED
         )
         UPDATE tenant.invitation AS i
         SET mail_attempts = i.mail_attempts + 1, mail_due = now() + interval '10 seconds' * 2 ^ least(i.mail_attempts, 9)
         FROM next, tenant.tenant AS t
         WHERE i.id = next.id AND t.id = i.tenant_id
         RETURNING i.id, i.mail_attempts, i.email, i.expire_time, t.name AS tenant_name, coalesce(
             (SELECT coalesce(nullif(p.display_name, ''), p.email) FROM auth.person AS p WHERE p.user_id = i.invited_by), '') AS invited_by",
    )
    .fetch_optional(&mut **tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    sqlx::query("INSERT INTO tenant.invitation_token (sha256, invitation_id) VALUES ($1, $2)")
        .bind(token.sha256())
        .bind(&row.id)
        .execute(&mut **tx)
        .await?;
    Ok(Some(Due {
        id: stored(&row.id, "invitation id")?,
        attempt: row.mail_attempts,
        email: row.email,
        invited_by: row.invited_by,
        tenant_name: row.tenant_name,
        expires: micros(row.expire_time),
    }))
}

/// Notes that the mail has gone out, or never will.
pub(crate) async fn mailed(tx: &mut Transaction, due: &Due) -> Result<(), Error> {
    sqlx::query("UPDATE tenant.invitation SET mail_due = NULL WHERE id = $1 AND mail_attempts = $2")
        .bind(due.id.to_string())
        .bind(due.attempt)
        .execute(&mut **tx)
        .await?;
    Ok(())
}
