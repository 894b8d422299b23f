//! The signing keys as they are now: read from the table at start, every poll interval, and at once when a token names a key that is not here.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chassis::token::{KeySet, LIFETIME, Signer, VerifyingKey};
use tokio::sync::{Mutex, watch};
use types::{Micros, Secret, SessionId, UserId};

use crate::{
    Error,
    config::{Config, Tokens},
    domain::{
        access_token::{self, Access, MacKey, Presented},
        ring::{Kind, Rules, State, state},
    },
    seal::Sealer,
    store,
};

/// A replaced key verifies for this much longer than its tokens live: for clocks that differ, and calls under way.
const MARGIN: Duration = Duration::from_secs(60);
/// A key that is not here is looked for at most so often, whatever strangers send.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// A reading of the table takes no longer.
const READING: Duration = Duration::from_secs(5);

fn rules(settings: &Tokens, kind: Kind) -> Rules {
    // Public keys go to agents too, which ask for them every minute; by way of the vault, which asks every ten seconds.
    let (life, polls) = match kind {
        Kind::Access => (settings.access_lifetime, 2),
        Kind::Context => (LIFETIME, 5),
    };
    Rules {
        rotate_after: settings.key_rotate_after,
        lead: settings.key_poll * polls + Duration::from_secs(1),
        verify_for: life + MARGIN,
    }
}

/// The keys. Clones share them.
#[derive(Clone)]
pub(crate) struct Rings(Arc<Inner>);

struct Inner {
    pool: pg::Pool,
    sealer: Sealer,
    settings: Tokens,
    region: types::Region,
    published: KeySet,
    keys: watch::Sender<Arc<Keys>>,
    /// When the table was last read for a key that was not here.
    asked: Mutex<Option<Instant>>,
}

/// One reading of the table.
struct Keys {
    /// By how many milliseconds the database's clock is ahead of this machine's.
    ahead: i64,
    access: Ring<MacKey>,
    context: Ring<Arc<Signer>>,
}

/// One ring, oldest key first.
struct Ring<K> {
    rules: Rules,
    starts: Vec<i64>,
    keys: Vec<(String, K)>,
}

impl<K> Ring<K> {
    fn live(&self, now: i64) -> impl Iterator<Item = (&(String, K), State)> {
        let states = (0..self.keys.len()).map(move |index| state(&self.starts, index, now, &self.rules));
        self.keys
            .iter()
            .zip(states)
            .filter(|(_, state)| *state != State::Retired)
    }

    fn active(&self, now: i64) -> Result<&(String, K), Error> {
        let found = self.live(now).find(|(_, state)| *state == State::Active);
        found
            .map(|(key, _)| key)
            .ok_or_else(|| Error::Internal("there is no signing key".into()))
    }

    fn named(&self, kid: &str, now: i64) -> Option<&K> {
        self.live(now)
            .find(|((name, _), _)| name == kid)
            .map(|((_, key), _)| key)
    }
}

impl Keys {
    fn now(&self) -> i64 {
        local_clock().saturating_add(self.ahead)
    }
}

impl Rings {
    /// Reads the keys, makes the first ones where there are none, and keeps reading while `runtime` lives.
    pub(crate) async fn load(
        pool: pg::Pool,
        sealer: Sealer,
        settings: Tokens,
        runtime: &chassis::Runtime,
    ) -> Result<Self, Error> {
        let keys = read(&pool, &sealer, &settings).await?;
        let inner = Inner {
            pool,
            sealer,
            published: runtime.keys(),
            keys: watch::Sender::new(Arc::new(keys)),
            asked: Mutex::new(None),
            settings,
            region: runtime.region(),
        };
        let rings = Self(Arc::new(inner));
        runtime.publish_keys(rings.verifying_keys());
        let reader = rings.clone();
        let stopping = runtime.stopping();
        runtime.spawn("signing keys", async move {
            while tokio::time::timeout(reader.0.settings.key_poll, stopping.cancelled())
                .await
                .is_err()
            {
                reader.reload().await;
            }
        });
        Ok(rings)
    }

    /// An access token for `session`, and when it ends: never after the session. `now` is the database's.
    pub(crate) fn access_token(
        &self,
        user: UserId,
        session: SessionId,
        session_expires: Micros,
        now: Micros,
    ) -> Result<(Secret<String>, Micros), Error> {
        let keys = self.0.keys.borrow().clone();
        let (kid, key) = keys.access.active(millis(now))?;
        let life = i64::try_from(self.0.settings.access_lifetime.as_secs()).unwrap_or(i64::MAX);
        let begins = millis(now).div_euclid(1_000);
        let ends = begins
            .saturating_add(life)
            .min(millis(session_expires).div_euclid(1_000));
        let who = Access { user, session };
        let token = access_token::issue(
            kid,
            key,
            &self.0.settings.access_audience,
            self.0.region,
            who,
            begins,
            ends,
        );
        let token = token.ok_or_else(|| Error::Internal("an access token cannot be made".into()))?;
        Ok((token, Micros::from_secs(ends)))
    }

    /// Whom an access token is of. Whether their session still lives is another question.
    pub(crate) async fn verify_access(&self, token: &str) -> Result<Access, Error> {
        let presented = Presented::parse(token).map_err(refused)?;
        let mut keys = self.0.keys.borrow().clone();
        if keys.access.named(presented.kid(), keys.now()).is_none() {
            self.ask_again(|keys| keys.access.named(presented.kid(), keys.now()).is_some())
                .await;
            keys = self.0.keys.borrow().clone();
        }
        let now = keys.now();
        let key = keys
            .access
            .named(presented.kid(), now)
            .ok_or(Error::CredentialInvalid)?;
        presented
            .verify(
                key,
                &self.0.settings.access_audience,
                self.0.region,
                now.div_euclid(1_000),
            )
            .map_err(refused)
    }

    /// The key that signs context and grant tokens now.
    pub(crate) fn signer(&self) -> Result<Arc<Signer>, Error> {
        let keys = self.0.keys.borrow().clone();
        keys.context.active(keys.now()).map(|(_, signer)| signer.clone())
    }

    /// What context and grant tokens are verified with.
    pub(crate) fn verifying_keys(&self) -> Vec<VerifyingKey> {
        let keys = self.0.keys.borrow().clone();
        keys.context
            .live(keys.now())
            .map(|((_, signer), _)| signer.verifying_key())
            .collect()
    }

    /// Reads the table for a key that was not here, unless that was done a moment ago; calls that come together share one reading.
    async fn ask_again(&self, there: impl Fn(&Keys) -> bool) {
        let mut asked = self.0.asked.lock().await;
        if there(&self.0.keys.borrow()) || asked.is_some_and(|last| last.elapsed() < ASK_AGAIN) {
            return;
        }
        *asked = Some(Instant::now());
        self.reload().await;
    }

    async fn reload(&self) {
        match read(&self.0.pool, &self.0.sealer, &self.0.settings).await {
            Ok(keys) => {
                self.0.keys.send_replace(Arc::new(keys));
            }
            // The keys that are here stay good for as long as they are.
            Err(error) => tracing::warn!(error = types::chain(&error), "the signing keys could not be read"),
        }
        self.0.published.replace(self.verifying_keys());
    }
}

/// For the operator: publishes new signing keys before their time. Every replica learns of them within the poll interval, and they sign after
/// twice that. Where a new key waits already none is added. Tells how many are new.
///
/// # Errors
/// When the database or the seal key cannot be used.
pub async fn rotate_keys(config: &Config, dev: bool) -> Result<usize, chassis::Error> {
    rotate(config, dev).await.map_err(chassis::Error::service)
}

async fn rotate(config: &Config, dev: bool) -> Result<usize, Error> {
    let sealer = Sealer::new(&config.seal_key)?;
    let pool = pg::Pool::open(&config.database, "auth", dev).await?;
    let mut tx = pool.shared(Instant::now() + READING).await?;
    // With another seal key than theirs the new keys could be opened by no replica.
    store::ring::all(&mut tx, &sealer).await?;
    let mut new = 0;
    for kind in Kind::ALL {
        let rules = rules(&config.tokens, kind);
        new += usize::from(store::ring::turn(&mut tx, &sealer, kind, true, &rules).await?);
    }
    tx.commit().await?;
    pool.close().await;
    Ok(new)
}

async fn read(pool: &pg::Pool, sealer: &Sealer, settings: &Tokens) -> Result<Keys, Error> {
    let mut tx = pool.shared(Instant::now() + READING).await?;
    let mut now = store::ring::clock(&mut tx).await?;
    let mut rows = store::ring::all(&mut tx, sealer).await?;
    let due = Kind::ALL.into_iter().filter(|kind| {
        let starts: Vec<i64> = rows
            .iter()
            .filter(|row| row.kind == *kind)
            .map(|row| row.start)
            .collect();
        crate::domain::ring::due(&starts, now, false, &rules(settings, *kind)).is_some()
    });
    let due: Vec<Kind> = due.collect();
    for kind in &due {
        store::ring::turn(&mut tx, sealer, *kind, false, &rules(settings, *kind)).await?;
    }
    if !due.is_empty() {
        now = store::ring::clock(&mut tx).await?;
        rows = store::ring::all(&mut tx, sealer).await?;
    }
    tx.commit().await?;
    sorted(rows, now - local_clock(), settings)
}

fn sorted(rows: Vec<store::ring::Row>, ahead: i64, settings: &Tokens) -> Result<Keys, Error> {
    let mut access = Ring {
        rules: rules(settings, Kind::Access),
        starts: vec![],
        keys: vec![],
    };
    let mut context = Ring {
        rules: rules(settings, Kind::Context),
        starts: vec![],
        keys: vec![],
    };
    for row in rows {
        match row.kind {
            Kind::Access => {
                let key = MacKey::new(row.secret).ok_or_else(|| corrupt(&row.kid))?;
                access.starts.push(row.start);
                access.keys.push((row.kid, key));
            }
            Kind::Context => {
                let signer = Signer::new(row.kid.clone(), row.secret.expose())?;
                context.starts.push(row.start);
                context.keys.push((row.kid, Arc::new(signer)));
            }
        }
    }
    Ok(Keys {
        ahead,
        access,
        context,
    })
}

fn corrupt(kid: &str) -> Error {
    Error::Corrupt {
        what: "a signing key",
        why: format!("{kid} is too short"),
    }
}

fn refused(refusal: access_token::Refusal) -> Error {
    tracing::debug!(%refusal, "access token refused");
    Error::CredentialInvalid
}

fn millis(time: Micros) -> i64 {
    time.0.div_euclid(1_000)
}

/// Milliseconds since 1970 by this machine's clock.
fn local_clock() -> i64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
