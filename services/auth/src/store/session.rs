//! Sessions. The refresh token is not kept, only the key it is signed with, and that sealed.

use sqlx::types::{
    Json,
    chrono::{DateTime, Utc},
};
use types::{Micros, Secret, SessionId, UserId};

use super::{id, instant, micros};
use crate::{
    Error,
    domain::refresh::{State, Turn},
    seal::Sealer,
};

/// A session that begins.
#[derive(Debug)]
pub(crate) struct New<'a> {
    pub(crate) id: SessionId,
    pub(crate) user: UserId,
    pub(crate) key: &'a Secret<Vec<u8>>,
    pub(crate) created_at: Micros,
    pub(crate) expires_at: Micros,
    pub(crate) idle_until: Micros,
    pub(crate) client_address: &'a str,
    pub(crate) user_agent: &'a str,
}

/// A live session as its owner sees it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) id: SessionId,
    pub(crate) created_at: Micros,
    pub(crate) used_at: Micros,
    pub(crate) expires_at: Micros,
    pub(crate) client_address: String,
    pub(crate) user_agent: String,
}

/// What a refresh token is judged by.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) user: UserId,
    pub(crate) key: Secret<Vec<u8>>,
    pub(crate) state: State,
    /// The clock at the moment of reading.
    pub(crate) now: Micros,
}

/// Keeps a session.
pub(crate) async fn insert(tx: &mut pg::Transaction, sealer: &Sealer, new: &New<'_>) -> Result<(), Error> {
    let sealed = sealer.seal("session", &new.id.to_string(), "hmac_key", new.key.expose())?;
    sqlx::query(
        "INSERT INTO auth.session
           (id, account_id, hmac_key, created_at, expires_at, idle_until, used_at, client_address, user_agent)
         VALUES ($1, $2, $3, $4, $5, $6, $4, $7, $8)",
    )
    .bind(new.id.to_string())
    .bind(new.user.to_string())
    .bind(sealed)
    .bind(instant(new.created_at))
    .bind(instant(new.expires_at))
    .bind(instant(new.idle_until))
    .bind(new.client_address)
    .bind(new.user_agent)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

type Row = (
    String,
    Vec<u8>,
    i64,
    Json<Vec<Turn>>,
    DateTime<Utc>,
    DateTime<Utc>,
    bool,
    DateTime<Utc>,
);

/// A session of a verified account and the clock, in one statement.
pub(crate) async fn find(
    tx: &mut pg::Transaction,
    sealer: &Sealer,
    session: SessionId,
) -> Result<Option<Stored>, Error> {
    let row: Option<Row> = sqlx::query_as(
        "SELECT s.account_id, s.hmac_key, s.generation, s.recent, s.expires_at, s.idle_until, s.revoked_at IS NOT NULL,
                clock_timestamp()
         FROM auth.session AS s JOIN auth.account AS a ON a.id = s.account_id
         WHERE s.id = $1 AND a.verified_at IS NOT NULL",
    )
    .bind(session.to_string())
    .fetch_optional(&mut **tx)
    .await?;
    let Some((user, key, generation, Json(recent), expires_at, idle_until, revoked, now)) = row else {
        return Ok(None);
    };
    Ok(Some(Stored {
        user: id("session", &user)?,
        key: sealer.open("session", &session.to_string(), "hmac_key", &key)?,
        state: State {
            generation: u32::try_from(generation).map_err(|_| Error::Corrupt {
                what: "session",
                why: format!("its generation is {generation}"),
            })?,
            recent,
            expires_at: micros(expires_at),
            idle_until: micros(idle_until),
            revoked,
        },
        now: micros(now),
    }))
}

/// What a rotation writes.
#[derive(Debug)]
pub(crate) struct Rotation<'a> {
    /// The generation that was presented and live when it was judged.
    pub(crate) from: u32,
    pub(crate) recent: &'a [Turn],
    pub(crate) now: Micros,
    pub(crate) idle_until: Micros,
    pub(crate) client_address: &'a str,
    pub(crate) user_agent: &'a str,
}

/// Makes the next generation, if `from` is still the live one: of any number of callers, one gets true.
pub(crate) async fn rotate(
    tx: &mut pg::Transaction,
    session: SessionId,
    rotation: &Rotation<'_>,
) -> Result<bool, Error> {
    let updated = sqlx::query(
        "UPDATE auth.session
         SET generation = generation + 1, recent = $3, used_at = $4, idle_until = least($5, expires_at),
             client_address = $6, user_agent = $7
         WHERE id = $1 AND generation = $2 AND revoked_at IS NULL",
    )
    .bind(session.to_string())
    .bind(i64::from(rotation.from))
    .bind(Json(rotation.recent))
    .bind(instant(rotation.now))
    .bind(instant(rotation.idle_until))
    .bind(rotation.client_address)
    .bind(rotation.user_agent)
    .execute(&mut **tx)
    .await?;
    Ok(updated.rows_affected() == 1)
}

/// Ends a session; false if it was over, or is not this person's.
pub(crate) async fn end(tx: &mut pg::Transaction, user: UserId, session: SessionId) -> Result<bool, Error> {
    let updated = sqlx::query(
        "UPDATE auth.session SET revoked_at = clock_timestamp() WHERE id = $1 AND account_id = $2 AND revoked_at IS NULL",
    )
    .bind(session.to_string())
    .bind(user.to_string())
    .execute(&mut **tx)
    .await?;
    Ok(updated.rows_affected() == 1)
}

/// Whether a session is or was this person's.
pub(crate) async fn is_of(tx: &mut pg::Transaction, user: UserId, session: SessionId) -> Result<bool, Error> {
    let found =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM auth.session WHERE id = $1 AND account_id = $2)")
            .bind(session.to_string())
            .bind(user.to_string())
            .fetch_one(&mut **tx)
            .await?;
    Ok(found)
}

/// Ends all of a person's live sessions but `keep`; how many there were.
pub(crate) async fn end_others(
    tx: &mut pg::Transaction,
    user: UserId,
    keep: Option<SessionId>,
) -> Result<u64, Error> {
    let updated = sqlx::query(
        "UPDATE auth.session SET revoked_at = clock_timestamp()
         WHERE account_id = $1 AND revoked_at IS NULL AND expires_at > clock_timestamp() AND idle_until > clock_timestamp()
           AND id IS DISTINCT FROM $2",
    )
    .bind(user.to_string())
    .bind(keep.map(|session| session.to_string()))
    .execute(&mut **tx)
    .await?;
    Ok(updated.rows_affected())
}

type SeenRow = (
    String,
    DateTime<Utc>,
    DateTime<Utc>,
    DateTime<Utc>,
    String,
    String,
);

/// A person's live sessions, newest first, that began before `before`.
pub(crate) async fn list(
    tx: &mut pg::Transaction,
    user: UserId,
    before: Option<SessionId>,
    limit: i64,
) -> Result<Vec<Seen>, Error> {
    let rows: Vec<SeenRow> = sqlx::query_as(
        "SELECT id, created_at, used_at, expires_at, client_address, user_agent FROM auth.session
         WHERE account_id = $1 AND revoked_at IS NULL AND expires_at > clock_timestamp() AND idle_until > clock_timestamp()
           AND ($2::text IS NULL OR id COLLATE \"C\" < $2)
         ORDER BY id COLLATE \"C\" DESC LIMIT $3",
    )
    .bind(user.to_string())
    .bind(before.map(|session| session.to_string()))
    .bind(limit)
    .fetch_all(&mut **tx)
    .await?;
    rows.into_iter().map(seen).collect()
}

fn seen(
    (session, created_at, used_at, expires_at, client_address, user_agent): SeenRow,
) -> Result<Seen, Error> {
    Ok(Seen {
        id: id("session", &session)?,
        created_at: micros(created_at),
        used_at: micros(used_at),
        expires_at: micros(expires_at),
        client_address,
        user_agent,
    })
}
