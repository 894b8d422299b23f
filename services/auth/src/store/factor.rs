//! Second factors and recovery codes. [`consume`] is the one door through which a code goes, whatever it is asked for.

use types::{KeyId, Micros, Secret, UserId};
use uuid::Uuid;

use crate::{
    Auth, Error,
    domain::{
        recovery::{COUNT, RecoveryCode},
        totp::{Code, Memory, SECRET_LEN, TotpSecret, Verdict as Judged},
    },
    mail::Notice,
};

const TABLE: &str = "factor";
const FIELD: &str = "secret";
/// Purpose of the key that recovery codes are kept under.
const RECOVERY: &str = "recovery codes";
/// Seconds that an enrolled secret waits for its activation.
const PENDING: i64 = 10 * 60;

/// What a person offers as second factor.
pub(crate) enum Proof<'a> {
    /// A one-time code.
    Code(&'a str),
    /// A recovery code.
    Recovery(&'a str),
}

/// What came of it. A refusal has been counted in the transaction, so commit it whatever the verdict.
#[must_use = "a refusal must be answered"]
pub(crate) enum Verdict {
    /// There is no active factor: nothing was looked at.
    NoFactor,
    /// It was right, and is used.
    Passed,
    /// It was not.
    Refused(Error),
}

impl Verdict {
    /// What was used up, in the word of the audit log, where a recovery code could be.
    pub(crate) fn shown(&self, recovery: &Secret<String>) -> Option<&'static str> {
        let word = if recovery.expose().is_empty() {
            "code"
        } else {
            "recovery_code"
        };
        matches!(self, Self::Passed).then_some(word)
    }

    /// The refusal as an error.
    pub(crate) fn pass(self) -> Result<(), Error> {
        match self {
            Self::NoFactor | Self::Passed => Ok(()),
            Self::Refused(error) => Err(error),
        }
    }
}

/// Which factor of a person.
#[derive(Clone, Copy)]
enum Which {
    Active,
    Pending,
}

/// Whether others are kept from the factor until the transaction ends, so that guesses that come together are judged one after another.
#[derive(Clone, Copy)]
enum Lock {
    None,
    Row,
}

struct Factor {
    id: String,
    secret: TotpSecret,
    memory: Memory,
    /// The key whose wrong codes `memory` counts, in place of the factor's own.
    key: Option<KeyId>,
    now: i64,
}

/// Uses `proof` up for `user`. A code that counts locks the factor's row until `tx` ends.
pub(crate) async fn consume(
    auth: &Auth,
    tx: &mut pg::Transaction,
    user: UserId,
    proof: Option<Proof<'_>>,
) -> Result<Verdict, Error> {
    consume_for(auth, tx, user, None, proof).await
}

/// The same for a call that is made with `key`. What was used is used for everybody, but wrong codes are the key's: who has got hold of one
/// locks its owner out of nothing, least of all out of revoking it.
pub(crate) async fn consume_for(
    auth: &Auth,
    tx: &mut pg::Transaction,
    user: UserId,
    key: Option<KeyId>,
    proof: Option<Proof<'_>>,
) -> Result<Verdict, Error> {
    let Some(mut factor) = read(auth, tx, user, Which::Active, Lock::None).await? else {
        return Ok(Verdict::NoFactor);
    };
    count_for(tx, &mut factor, key, Lock::None).await?;
    match proof {
        None => Ok(Verdict::Refused(Error::MfaCodeRequired)),
        Some(Proof::Recovery(text)) => spend_recovery(auth, tx, user, text).await,
        Some(Proof::Code(text)) => {
            // What changes nothing waits for nobody: a flood of one used code does not queue up at its row.
            let mut memory = factor.memory.clone();
            let judged = memory.judge(&factor.secret, Code::parse(text).as_ref(), factor.now);
            if matches!(judged, Judged::Right { .. } | Judged::Wrong { .. }) {
                let Some(locked) = read(auth, tx, user, Which::Active, Lock::Row).await? else {
                    return Ok(Verdict::NoFactor);
                };
                factor = locked;
                count_for(tx, &mut factor, key, Lock::Row).await?;
            }
            judge(auth, tx, user, factor, text).await
        }
    }
}

/// Makes the enrolled secret the factor, in place of the one before, if `code` is one of its codes; gives new recovery codes.
pub(crate) async fn activate(
    auth: &Auth,
    tx: &mut pg::Transaction,
    user: UserId,
    code: &str,
) -> Result<Result<Vec<String>, Error>, Error> {
    // A login holds its account's row until it has begun its session: either it sees the new factor, or the caller ends that session.
    let sql = "SELECT true FROM auth.account WHERE id = $1 FOR UPDATE";
    sqlx::query(sql).bind(user.to_string()).execute(&mut **tx).await?;
    let Some(factor) = read(auth, tx, user, Which::Pending, Lock::Row).await? else {
        return Ok(Err(Error::TotpNotPending));
    };
    let id = factor.id.clone();
    if let Verdict::Refused(error) = judge(auth, tx, user, factor, code).await? {
        return Ok(Err(error));
    }
    let user_id = user.to_string();
    sqlx::query("DELETE FROM auth.factor WHERE account_id = $1 AND active")
        .bind(&user_id)
        .execute(&mut **tx)
        .await?;
    let sql = "UPDATE auth.factor SET active = true, active_time = clock_timestamp() WHERE id = $1";
    sqlx::query(sql).bind(&id).execute(&mut **tx).await?;
    auth.outbox.notice(tx, user, Notice::FactorAdded).await?;
    replace_recovery_codes(auth, tx, user).await.map(Ok)
}

/// A new secret that waits to be activated, in place of one that waited before; and until when.
pub(crate) async fn enrol(
    auth: &Auth,
    tx: &mut pg::Transaction,
    user: UserId,
) -> Result<(TotpSecret, Micros), Error> {
    use ring::rand::{SecureRandom as _, SystemRandom};
    let mut bytes = vec![0; SECRET_LEN];
    let filled = SystemRandom::new().fill(&mut bytes);
    let secret = Secret::new(bytes);
    filled.map_err(|_| no_randomness())?;
    let id = format!("fac_{}", Uuid::new_v4().simple());
    let sealed = auth.sealer.seal(TABLE, &id, FIELD, secret.expose())?;
    let user_id = user.to_string();
    sqlx::query("DELETE FROM auth.factor WHERE account_id = $1 AND NOT active")
        .bind(&user_id)
        .execute(&mut **tx)
        .await?;
    let sql = "INSERT INTO auth.factor (id, account_id, secret) VALUES ($1, $2, $3) \
               RETURNING extract(epoch FROM create_time)::bigint";
    let made: i64 = sqlx::query_scalar(sql)
        .bind(&id)
        .bind(&user_id)
        .bind(sealed)
        .fetch_one(&mut **tx)
        .await?;
    Ok((
        TotpSecret::new(secret),
        Micros::from_secs(made.saturating_add(PENDING)),
    ))
}

/// Takes every factor and recovery code of `user` away; tells whether one was active.
pub(crate) async fn remove(tx: &mut pg::Transaction, user: UserId) -> Result<bool, Error> {
    let user_id = user.to_string();
    sqlx::query("DELETE FROM auth.recovery_code WHERE account_id = $1")
        .bind(&user_id)
        .execute(&mut **tx)
        .await?;
    let sql = "DELETE FROM auth.factor WHERE account_id = $1 RETURNING active";
    let removed: Vec<bool> = sqlx::query_scalar(sql)
        .bind(&user_id)
        .fetch_all(&mut **tx)
        .await?;
    Ok(removed.contains(&true))
}

/// Ten new recovery codes, as they are shown; the old ones are void.
pub(crate) async fn replace_recovery_codes(
    auth: &Auth,
    tx: &mut pg::Transaction,
    user: UserId,
) -> Result<Vec<String>, Error> {
    let key = auth.sealer.mac_key(RECOVERY)?;
    let fresh: Option<Vec<RecoveryCode>> = (0..COUNT).map(|_| RecoveryCode::fresh()).collect();
    let codes = fresh.ok_or_else(no_randomness)?;
    let macs: Vec<Vec<u8>> = codes.iter().map(|code| code.mac(&key, user)).collect();
    let user_id = user.to_string();
    sqlx::query("DELETE FROM auth.recovery_code WHERE account_id = $1")
        .bind(&user_id)
        .execute(&mut **tx)
        .await?;
    let sql =
        "INSERT INTO auth.recovery_code (account_id, mac) SELECT $1, mac FROM unnest($2::bytea[]) AS mac";
    sqlx::query(sql)
        .bind(&user_id)
        .bind(macs)
        .execute(&mut **tx)
        .await?;
    Ok(codes.iter().map(RecoveryCode::shown).collect())
}

/// Whether `user` has an active factor.
pub(crate) async fn mfa_enabled(tx: &mut pg::Transaction, user: UserId) -> Result<bool, Error> {
    let sql = "SELECT EXISTS (SELECT FROM auth.factor WHERE account_id = $1 AND active)";
    Ok(sqlx::query_scalar(sql)
        .bind(user.to_string())
        .fetch_one(&mut **tx)
        .await?)
}

/// Since when a factor is active, and how many recovery codes are left.
pub(crate) async fn summary(tx: &mut pg::Transaction, user: UserId) -> Result<(Option<Micros>, i64), Error> {
    let sql = "SELECT (SELECT (extract(epoch FROM active_time) * 1000000)::bigint FROM auth.factor WHERE account_id = $1 AND active), \
                      (SELECT count(*) FROM auth.recovery_code WHERE account_id = $1)";
    let (since, left): (Option<i64>, i64) = sqlx::query_as(sql)
        .bind(user.to_string())
        .fetch_one(&mut **tx)
        .await?;
    Ok((since.map(Micros), left))
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    secret: Vec<u8>,
    last_step: Option<i64>,
    drift: i16,
    near_step: Option<i64>,
    near_drift: Option<i16>,
    wrong: Vec<i64>,
    streak: i32,
    locked_until: Option<i64>,
    suspended_at: Option<i64>,
    now: i64,
}

async fn read(
    auth: &Auth,
    tx: &mut pg::Transaction,
    user: UserId,
    which: Which,
    lock: Lock,
) -> Result<Option<Factor>, Error> {
    // The clock is read after the wait for the lock, which a plain column of the same SELECT would not guarantee.
    macro_rules! sql {
        ($lock:literal) => {
            concat!(
                "WITH f AS MATERIALIZED (SELECT * FROM auth.factor WHERE account_id = $1 AND active = $2",
                $lock,
                ") SELECT id, secret, last_step, drift, near_step, near_drift, wrong, streak, locked_until, \
                 suspended_at, floor(extract(epoch FROM clock_timestamp()))::bigint AS now \
                 FROM f WHERE active OR create_time > clock_timestamp() - make_interval(secs => $3)"
            )
        };
    }
    let sql = match lock {
        Lock::None => sql!(""),
        Lock::Row => sql!(" FOR UPDATE"),
    };
    let active = matches!(which, Which::Active);
    let query = sqlx::query_as(sql)
        .bind(user.to_string())
        .bind(active)
        .bind(PENDING as f64);
    let Some(row): Option<Row> = query.fetch_optional(&mut **tx).await? else {
        return Ok(None);
    };
    let secret = auth.sealer.open(TABLE, &row.id, FIELD, &row.secret)?;
    let memory = Memory {
        last_step: row.last_step,
        drift: row.drift,
        near: row.near_step.zip(row.near_drift),
        wrong: row.wrong,
        streak: row.streak,
        locked_until: row.locked_until,
        suspended_at: row.suspended_at,
    };
    Ok(Some(Factor {
        id: row.id,
        secret: TotpSecret::new(secret),
        memory,
        key: None,
        now: row.now,
    }))
}

#[derive(sqlx::FromRow)]
struct Wrong {
    code_wrong: Vec<i64>,
    code_streak: i32,
    code_locked_until: Option<i64>,
    code_suspended_at: Option<i64>,
}

/// From here on the wrong codes are those of `key`; where the factor is locked or suspended itself, the key is no way around it.
async fn count_for(
    tx: &mut pg::Transaction,
    factor: &mut Factor,
    key: Option<KeyId>,
    lock: Lock,
) -> Result<(), Error> {
    let own = &factor.memory;
    let closed = own.suspended_at.is_some() || own.locked_until.is_some_and(|until| until > factor.now);
    let Some(key) = key.filter(|_| !closed) else {
        return Ok(());
    };
    macro_rules! sql {
        ($lock:literal) => {
            concat!(
                "SELECT code_wrong, code_streak, code_locked_until, code_suspended_at FROM auth.api_key WHERE id = $1",
                $lock
            )
        };
    }
    let sql = match lock {
        Lock::None => sql!(""),
        Lock::Row => sql!(" FOR UPDATE"),
    };
    let row: Option<Wrong> = sqlx::query_as(sql)
        .bind(key.to_string())
        .fetch_optional(&mut **tx)
        .await?;
    let row = row.ok_or(Error::CredentialInvalid)?;
    let memory = &mut factor.memory;
    memory.wrong = row.code_wrong;
    memory.streak = row.code_streak;
    memory.locked_until = row.code_locked_until;
    memory.suspended_at = row.code_suspended_at;
    factor.key = Some(key);
    Ok(())
}

async fn judge(
    auth: &Auth,
    tx: &mut pg::Transaction,
    user: UserId,
    mut factor: Factor,
    text: &str,
) -> Result<Verdict, Error> {
    let locked_before = factor.memory.locked_until;
    let judged = factor
        .memory
        .judge(&factor.secret, Code::parse(text).as_ref(), factor.now);
    let kept = match judged {
        Judged::Right { step } => remember(tx, &factor, Some(step)).await?,
        Judged::Wrong { .. } => remember(tx, &factor, None).await?,
        Judged::Used | Judged::Locked { .. } | Judged::Suspended => true,
    };
    let suspends = matches!(judged, Judged::Wrong { suspends: true });
    let closes = suspends || factor.memory.locked_until != locked_before;
    match (judged, factor.key) {
        (Judged::Wrong { .. }, Some(key)) if closes => {
            let name = super::api_key::name(tx, key).await?;
            auth.outbox.notice(tx, user, Notice::KeyGuesses { name }).await?;
        }
        (Judged::Wrong { .. }, None) if suspends => {
            auth.outbox.notice(tx, user, Notice::FactorSuspended).await?;
        }
        _ => {}
    }
    let refusal = match judged {
        Judged::Right { .. } if kept => return Ok(Verdict::Passed),
        Judged::Right { .. } | Judged::Wrong { .. } | Judged::Used => Error::MfaCodeInvalid,
        Judged::Locked { until } => Error::MfaLocked {
            retry_after: std::time::Duration::from_secs(until.saturating_sub(factor.now).unsigned_abs()),
        },
        Judged::Suspended if factor.key.is_some() => Error::KeySuspended,
        Judged::Suspended => Error::MfaSuspended,
    };
    // To the outside wrong and used are one; here they are told apart.
    tracing::info!(%user, factor = factor.id, verdict = ?judged, "second factor refused");
    Ok(Verdict::Refused(refusal))
}

/// Writes the memory back. With `step`, only if no later code was used meanwhile: the row is locked, so this never fails, and if it
/// ever did, the code would not count.
async fn remember(tx: &mut pg::Transaction, factor: &Factor, step: Option<i64>) -> Result<bool, Error> {
    if let Some(key) = factor.key {
        return remember_for(tx, factor, key, step).await;
    }
    let sql = "UPDATE auth.factor SET last_step = $2, drift = $3, near_step = $4, near_drift = $5, wrong = $6, streak = $7, \
                      locked_until = $8, suspended_at = $9 \
               WHERE id = $1 AND ($10::bigint IS NULL OR last_step IS NULL OR last_step < $10)";
    let memory = &factor.memory;
    let query = sqlx::query(sql)
        .bind(&factor.id)
        .bind(memory.last_step)
        .bind(memory.drift)
        .bind(memory.near.map(|(step, _)| step))
        .bind(memory.near.map(|(_, drift)| drift))
        .bind(&memory.wrong)
        .bind(memory.streak)
        .bind(memory.locked_until)
        .bind(memory.suspended_at)
        .bind(step);
    Ok(query.execute(&mut **tx).await?.rows_affected() == 1)
}

/// The same where the wrong codes are those of `key`.
async fn remember_for(
    tx: &mut pg::Transaction,
    factor: &Factor,
    key: KeyId,
    step: Option<i64>,
) -> Result<bool, Error> {
    let memory = &factor.memory;
    let sql = "UPDATE auth.api_key SET code_wrong = $2, code_streak = $3, code_locked_until = $4, code_suspended_at = $5 WHERE id = $1";
    sqlx::query(sql)
        .bind(key.to_string())
        .bind(&memory.wrong)
        .bind(memory.streak)
        .bind(memory.locked_until)
        .bind(memory.suspended_at)
        .execute(&mut **tx)
        .await?;
    let sql = "UPDATE auth.factor SET last_step = $2, drift = $3, near_step = $4, near_drift = $5 \
               WHERE id = $1 AND ($6::bigint IS NULL OR last_step IS NULL OR last_step < $6)";
    let query = sqlx::query(sql)
        .bind(&factor.id)
        .bind(memory.last_step)
        .bind(memory.drift)
        .bind(memory.near.map(|(step, _)| step))
        .bind(memory.near.map(|(_, drift)| drift))
        .bind(step);
    Ok(query.execute(&mut **tx).await?.rows_affected() == 1)
}

async fn spend_recovery(
    auth: &Auth,
    tx: &mut pg::Transaction,
    user: UserId,
    text: &str,
) -> Result<Verdict, Error> {
    let Some(code) = RecoveryCode::parse(text) else {
        return Ok(Verdict::Refused(Error::MfaCodeInvalid));
    };
    let mac = code.mac(&auth.sealer.mac_key(RECOVERY)?, user);
    let sql = "DELETE FROM auth.recovery_code WHERE account_id = $1 AND mac = $2 RETURNING true";
    let used: Option<bool> = sqlx::query_scalar(sql)
        .bind(user.to_string())
        .bind(mac)
        .fetch_optional(&mut **tx)
        .await?;
    if used.is_none() {
        tracing::info!(%user, "recovery code refused");
        return Ok(Verdict::Refused(Error::MfaCodeInvalid));
    }
    auth.outbox.notice(tx, user, Notice::RecoveryCodeUsed).await?;
    Ok(Verdict::Passed)
}

fn no_randomness() -> Error {
    Error::Internal("the system has no randomness".into())
}
