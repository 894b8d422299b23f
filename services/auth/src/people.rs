//! The people of a tenant that comes from another installation, and its API keys: what an operator takes along. Neither passwords nor second
//! factors travel: who has no account where they come to sets a password by way of a mail.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use chassis::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{
    PgConnection,
    types::chrono::{DateTime, Utc},
};
use types::{Secret, UserId};

use crate::{
    domain::email::Email,
    error::Error,
    seal::Sealer,
    store::{self, account::seal_password},
};

/// Schema `auth`, for a copy of one tenant: its API keys.
pub const SHARED: pg::archive::Shared = pg::archive::Shared {
    schema: "auth",
    root: None,
    without: &[],
};

/// A person's account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// `usr_…`
    pub id: String,
    /// The address.
    pub email: String,
    /// What they call themselves.
    pub display_name: String,
    /// Whether the address was shown to be theirs: microseconds since 1970.
    pub verified_at: Option<i64>,
    /// Since when: microseconds since 1970.
    pub created_at: i64,
}

/// The accounts of these ids.
///
/// # Errors
/// When the database does not answer.
pub async fn people(connection: &mut PgConnection, ids: &[String]) -> Result<Vec<Person>, pg::Error> {
    type Row = (String, String, String, Option<DateTime<Utc>>, DateTime<Utc>);
    let query = sqlx::query_as(
        "SELECT id, email, display_name, verified_at, created_at FROM auth.account WHERE id = ANY($1) ORDER BY id",
    );
    let rows: Vec<Row> = query.bind(ids).persistent(false).fetch_all(connection).await?;
    let person = |(id, email, display_name, verified_at, created_at): Row| Person {
        id,
        email,
        display_name,
        verified_at: verified_at.map(|at| at.timestamp_micros()),
        created_at: created_at.timestamp_micros(),
    };
    Ok(rows.into_iter().map(person).collect())
}

/// Sees that each of `people` has an account here, and tells the ids of those who have another one than they had. Who is new has a password that
/// nobody knows.
///
/// # Errors
/// When the database does not answer, or the seal key is none.
pub async fn settle(
    connection: &mut PgConnection,
    seal_key: &SecretString,
    people: &[Person],
) -> Result<BTreeMap<String, String>, chassis::Error> {
    settle_all(connection, seal_key, people)
        .await
        .map_err(chassis::Error::service)
}

async fn settle_all(
    connection: &mut PgConnection,
    seal_key: &SecretString,
    people: &[Person],
) -> Result<BTreeMap<String, String>, Error> {
    let sealer = Sealer::new(seal_key)?;
    let mut renamed = BTreeMap::new();
    for person in people {
        let email: Email = store::account::stored_email(&person.email)?;
        let wanted: UserId = store::id("account", &person.id)?;
        let password = nobodys_password(&sealer, wanted)?;
        // An account that waits to be verified is nobody's yet. This one is verified by the installation that it comes from.
        let sql = "INSERT INTO auth.account (id, email, email_key, display_name, password, created_at, verified_at)
                   VALUES ($1, $2, $3, $4, CASE WHEN $6::bigint IS NOT NULL THEN $7 END,
                           'epoch'::timestamptz + $5 * interval '1 us', 'epoch'::timestamptz + $6 * interval '1 us')
                   ON CONFLICT DO NOTHING";
        let query = sqlx::query(sql)
            .bind(&person.id)
            .bind(email.as_str())
            .bind(email.key())
            .bind(&person.display_name)
            .bind(person.created_at)
            .bind(person.verified_at)
            .bind(password);
        query.persistent(false).execute(&mut *connection).await?;
        let sql = "SELECT id, verified_at IS NOT NULL FROM auth.account WHERE id = $1 OR email_key = $2
                   ORDER BY id = $1 DESC LIMIT 1 FOR UPDATE";
        let query = sqlx::query_as(sql)
            .bind(&person.id)
            .bind(email.key())
            .persistent(false);
        let (id, verified): (String, bool) = query.fetch_one(&mut *connection).await?;
        if !verified && person.verified_at.is_some() {
            let user: UserId = store::id("account", &id)?;
            let sql = "UPDATE auth.account SET verified_at = clock_timestamp(), password = $2 WHERE id = $1";
            let query = sqlx::query(sql).bind(&id).bind(nobodys_password(&sealer, user)?);
            query.persistent(false).execute(&mut *connection).await?;
        }
        if id != person.id {
            renamed.insert(person.id.clone(), id);
        }
    }
    Ok(renamed)
}

/// The sealed hash of a password that nobody knows.
fn nobodys_password(sealer: &Sealer, user: UserId) -> Result<Vec<u8>, Error> {
    let text = |bytes: [u8; 32]| BASE64_STANDARD_NO_PAD.encode(bytes);
    let salt = text(rand::random());
    // A hash that no password has: it was never computed from one.
    let phc = Secret::new(format!(
        "$argon2id$v=19$m=19456,t=2,p=1${salt}${}",
        text(rand::random())
    ));
    seal_password(sealer, user, phc.expose())
}

/// A row of schema `auth` or `tenant` with the ids that people have here.
pub fn rename(row: &mut Value, renamed: &BTreeMap<String, String>) {
    let Some(fields) = row.as_object_mut() else {
        return;
    };
    for value in fields.values_mut() {
        if let Some(new) = value.as_str().and_then(|text| renamed.get(text)) {
            *value = Value::String(new.clone());
        }
    }
}

/// Keys of the tenant are made and revoked after the transaction that waits here, or were before it.
///
/// # Errors
/// When the database does not answer.
pub async fn hold_keys(connection: &mut PgConnection, tenant: types::TenantId) -> Result<(), pg::Error> {
    for sql in [
        "SELECT pg_advisory_xact_lock(hashtextextended('auth.api_key:' || $1, 0))",
        "SELECT id FROM auth.api_key WHERE tenant_id = $1 FOR UPDATE",
    ] {
        let query = sqlx::query(sql).bind(tenant.to_string()).persistent(false);
        query.execute(&mut *connection).await?;
    }
    Ok(())
}
