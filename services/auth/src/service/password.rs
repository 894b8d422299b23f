//! A signed-in person shows the password of today before what a session alone must not do.

use std::time::Instant;

use types::{Micros, Secret, SessionId, UserId};

use crate::{
    Auth, Error,
    domain::{
        email::Email,
        throttle::{Source, Try},
        token::sha256,
    },
    store,
};

/// A person's password as it was at a moment.
pub(crate) struct Today {
    pub(crate) email: Email,
    /// When it was read: a password that was set later is another one.
    pub(crate) read_at: Micros,
    phc: Secret<String>,
}

impl Today {
    pub(crate) async fn read(auth: &Auth, user: UserId, deadline: Instant) -> Result<Self, Error> {
        let mut tx = auth.pool.shared(deadline).await?;
        let read_at = store::now(&mut tx).await?;
        let (email, phc) = store::account::password(&mut tx, &auth.sealer, user).await?;
        tx.commit().await?;
        Ok(Self { email, read_at, phc })
    }

    /// Whether `shown` is the password. Tries count for the session: strangers who guess at the login keep nobody from this.
    pub(crate) async fn check(
        &self,
        auth: &Auth,
        session: SessionId,
        shown: Secret<String>,
        deadline: Instant,
    ) -> Result<(), Error> {
        let a_try = Try::new(&self.email, Source::Known(sha256(session.to_string().as_bytes())));
        auth.throttle.admit(&a_try).await?;
        if !auth.hashers.check(shown, Some(&self.phc), deadline).await?.right {
            return Err(Error::PasswordWrong);
        }
        auth.throttle.forgive(&a_try).await;
        Ok(())
    }
}
