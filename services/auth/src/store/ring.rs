//! The keys that sign tokens: rows that are written once and, long after, deleted.

use std::time::Duration;

use types::Secret;
use uuid::Uuid;

use crate::{
    Error,
    domain::ring::{Kind, Rules, State, due, state},
    seal::Sealer,
};

const TABLE: &str = "signing_key";
const FIELD: &str = "secret";
/// "auth ring": one replica at a time adds a key.
const LOCK: i64 = 0x6175_7468_7269_6e67;

/// A key as it is kept, opened.
pub(crate) struct Row {
    /// Its name in a token's header.
    pub(crate) kid: String,
    /// What it is for.
    pub(crate) kind: Kind,
    /// When it begins to sign: milliseconds since 1970.
    pub(crate) start: i64,
    /// 32 bytes.
    pub(crate) secret: Secret<Vec<u8>>,
}

/// Milliseconds since 1970 by the database's clock.
pub(crate) async fn clock(tx: &mut pg::Transaction) -> Result<i64, Error> {
    let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";
    Ok(sqlx::query_scalar(sql).fetch_one(&mut **tx).await?)
}

/// All keys, oldest first.
pub(crate) async fn all(tx: &mut pg::Transaction, sealer: &Sealer) -> Result<Vec<Row>, Error> {
    let sql = "SELECT kid, ring, secret, (extract(epoch FROM active_from) * 1000)::bigint FROM auth.signing_key ORDER BY active_from";
    let rows: Vec<(String, String, Vec<u8>, i64)> = sqlx::query_as(sql).fetch_all(&mut **tx).await?;
    let mut keys = Vec::with_capacity(rows.len());
    for (kid, ring, sealed, start) in rows {
        let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.word() == ring) else {
            continue;
        };
        let secret = sealer.open(TABLE, &kid, FIELD, &sealed)?;
        keys.push(Row {
            kid,
            kind,
            start,
            secret,
        });
    }
    Ok(keys)
}

/// Adds the ring's next key if one is due, or `wanted` and none is there. Whoever comes second finds the first one's and adds none.
pub(crate) async fn turn(
    tx: &mut pg::Transaction,
    sealer: &Sealer,
    kind: Kind,
    wanted: bool,
    rules: &Rules,
) -> Result<bool, Error> {
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(LOCK)
        .execute(&mut **tx)
        .await?;
    let now = clock(tx).await?;
    let sql = "SELECT kid, (extract(epoch FROM active_from) * 1000)::bigint FROM auth.signing_key WHERE ring = $1 ORDER BY active_from";
    let rows: Vec<(String, i64)> = sqlx::query_as(sql).bind(kind.word()).fetch_all(&mut **tx).await?;
    let starts: Vec<i64> = rows.iter().map(|(_, start)| *start).collect();
    forget(tx, &rows, &starts, now, rules).await?;
    let Some(start) = due(&starts, now, wanted, rules) else {
        return Ok(false);
    };
    let kid = format!("{}-{}", kind.word(), Uuid::new_v4().simple());
    let secret = fresh_secret()?;
    let sealed = sealer.seal(TABLE, &kid, FIELD, secret.expose())?;
    let sql = "INSERT INTO auth.signing_key (kid, ring, secret, active_from) VALUES ($1, $2, $3, to_timestamp($4::bigint / 1000.0))";
    sqlx::query(sql)
        .bind(&kid)
        .bind(kind.word())
        .bind(sealed)
        .bind(start)
        .execute(&mut **tx)
        .await?;
    tracing::info!(kid, ring = kind.word(), "a new signing key is published");
    Ok(true)
}

/// Deletes keys that no replica, however it is configured, takes any more.
async fn forget(
    tx: &mut pg::Transaction,
    rows: &[(String, i64)],
    starts: &[i64],
    now: i64,
    rules: &Rules,
) -> Result<(), Error> {
    let longest = Rules {
        verify_for: Duration::from_secs(2 * 60 * 60),
        ..*rules
    };
    let retired = |index: &usize| state(starts, *index, now, &longest) == State::Retired;
    let kids: Vec<&str> = (0..rows.len())
        .filter(retired)
        .map(|index| rows[index].0.as_str())
        .collect();
    if !kids.is_empty() {
        sqlx::query("DELETE FROM auth.signing_key WHERE kid = ANY($1)")
            .bind(&kids)
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

fn fresh_secret() -> Result<Secret<Vec<u8>>, Error> {
    use ring::rand::{SecureRandom as _, SystemRandom};
    let mut bytes = vec![0; 32];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| Error::Internal("the system has no randomness".into()))?;
    Ok(Secret::new(bytes))
}
