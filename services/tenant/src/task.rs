//! What goes on without a request: mails of invitations, and the sweeping away of expired ones.
//!
//! Several replicas may run these at once: a mail is taken by one of them (`store::invitation::take_due`), and sweeping twice is harmless.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::Notify, time};
use tokio_util::sync::CancellationToken;
use types::chain;

use crate::{
    clients::auth::{Mailer, Outcome},
    domain::token::{Kind, Token},
    error::Error,
    store::{self, Store},
};

/// For the database's part of one mail, and for one sweep.
const AT_MOST: Duration = Duration::from_secs(10);

/// Sends the mails that are due, when there is a new one and every `pause`, until `stopping`.
pub(crate) async fn mail(
    store: Store,
    mailer: Mailer,
    due: Arc<Notify>,
    pause: Duration,
    stopping: CancellationToken,
) {
    loop {
        loop {
            match mail_one(&store, &mailer).await {
                Ok(true) if !stopping.is_cancelled() => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(error = chain(&error), "invitations cannot be mailed now");
                    break;
                }
            }
        }
        tokio::select! {
            () = stopping.cancelled() => return,
            () = due.notified() => {}
            () = time::sleep(pause) => {}
        }
    }
}

/// Sends one mail, and tells whether there was one that is now done with. Its token is new: what is stored of the last one is a digest.
async fn mail_one(store: &Store, mailer: &Mailer) -> Result<bool, Error> {
    let token = Token::fresh(Kind::Invitation);
    let mut tx = store.directory(Instant::now() + AT_MOST).await?;
    let Some(due) = store::invitation::take_due(&mut tx, &token).await? else {
        return Ok(false);
    };
    tx.commit().await?;
    match mailer.send(&due, &token).await {
        Outcome::Sent => {}
        Outcome::Never(why) => tracing::error!(invitation = %due.id, why, "an invitation cannot be mailed"),
        Outcome::Later(why) => {
            tracing::warn!(invitation = %due.id, attempt = due.attempt, why, "an invitation is mailed later");
            return Ok(false);
        }
    }
    let mut tx = store.directory(Instant::now() + AT_MOST).await?;
    store::invitation::mailed(&mut tx, &due).await?;
    tx.commit().await?;
    Ok(true)
}

/// Forgets expired invitations every `pause`, until `stopping`. Used grants go when the next one of their tenant is spent
/// (`store::grant::spend`), since nobody enters a tenant's schema without acting for somebody.
pub(crate) async fn sweep(store: Store, pause: Duration, stopping: CancellationToken) {
    loop {
        match sweep_once(&store).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "expired invitations and enrolment tokens were forgotten"),
            Err(error) => tracing::warn!(
                error = chain(&error),
                "expired invitations stay until the next sweep"
            ),
        }
        tokio::select! {
            () = stopping.cancelled() => return,
            () = time::sleep(pause) => {}
        }
    }
}

async fn sweep_once(store: &Store) -> Result<u64, Error> {
    let mut tx = store.directory(Instant::now() + AT_MOST).await?;
    let count = store::invitation::sweep(&mut tx).await? + store::enrolment::sweep(&mut tx).await?;
    store::billing::sweep(&mut tx).await?;
    tx.commit().await?;
    Ok(count)
}
