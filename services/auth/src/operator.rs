//! What the operator of an installation does by hand. Each opens the database for itself; mails are sent by the services that run.

use std::time::{Duration, Instant};

use crate::{
    Config, Error,
    domain::email::Email,
    history::{self, Call},
    mail::{Notice, Outbox},
    seal::Sealer,
    store::{self, factor},
};

/// What it may take.
const WORKING: Duration = Duration::from_secs(10);

/// For the operator, who has made sure whom they talk to: takes the second factor and the recovery codes of a person away who has lost both.
/// Every session of theirs ends, their password stays, and they hear of it by mail. Tells whether there was an active factor.
///
/// # Errors
/// When the address has no verified account, or the database or the seal key cannot be used.
pub async fn remove_factor(config: &Config, dev: bool, email: &str) -> Result<bool, chassis::Error> {
    remove(config, dev, email).await.map_err(chassis::Error::service)
}

async fn remove(config: &Config, dev: bool, email: &str) -> Result<bool, Error> {
    let email: Email = email.parse().map_err(|_| Error::EmailInvalid)?;
    let sealer = Sealer::new(&config.seal_key)?;
    let outbox = Outbox::new(sealer, config.public_url()?);
    let pool = pg::Pool::open(&config.database, "auth", dev).await?;
    let mut tx = pool.shared(Instant::now() + WORKING).await?;
    // A login that was let in by the factor of before ends with the other sessions.
    let Some((user, true)) = store::account::lock(&mut tx, &email).await? else {
        return Err(Error::AccountNotFound);
    };
    let removed = factor::remove(&mut tx, user).await?;
    if removed {
        store::session::end_others(&mut tx, user, None).await?;
        outbox
            .notice(&mut tx, user, Notice::FactorRemovedByOperator)
            .await?;
        let entry = Call::from(history::REMOVE_FACTOR, history::From::default()).about(user);
        entry.by_operator().write(&mut tx).await?;
        tracing::warn!(%user, "an operator took a second factor away");
    }
    tx.commit().await?;
    pool.close().await;
    Ok(removed)
}
