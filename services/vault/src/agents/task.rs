//! What goes on by itself: authorities are trusted, follow each other and end; what was counted is written down.

use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use types::chain;

use super::{Agents, PURPOSE, Realm, Settings, authority};
use crate::{Core, error::Error, store};

/// How often all of it is looked at; so long a replica may not know an authority.
const PAUSE: Duration = Duration::from_secs(1);

/// The same until agents can enrol.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// How often what has ended is forgotten.
const SWEEP: Duration = Duration::from_secs(600);

/// How long one look may take.
const AT_MOST: Duration = Duration::from_secs(10);

/// How many events are written at once.
const BATCH: usize = 200;

impl Agents {
    /// Until `stopping`. `ready` is released once agents can enrol, or once it is certain that a sealed vault keeps them from it.
    pub(crate) async fn run(self, stopping: CancellationToken, ready: chassis::Latch) {
        let mut swept: Option<Instant> = None;
        let mut ready = Some(ready);
        loop {
            let sweep = swept.is_none_or(|swept| swept.elapsed() >= SWEEP);
            let looked = self.look(sweep).await;
            let settled = match &looked {
                Ok(()) if self.core.keys.unsealed() => !self.known.lock().await.is_empty(),
                Ok(()) | Err(Error::Sealed) => self.core.keys.sealed(),
                Err(_) => false,
            };
            if let Some(latch) = ready.take_if(|_| settled) {
                latch.release();
            }
            match looked {
                Ok(()) if sweep => swept = Some(Instant::now()),
                Ok(()) | Err(Error::Sealed) => {}
                Err(error) => tracing::warn!(
                    error = chain(&error),
                    "the authorities of agents cannot be looked at"
                ),
            }
            self.write_counted(false).await;
            self.rates.forget(Instant::now());
            let sealed = !self.core.keys.unsealed();
            tokio::select! {
                () = stopping.cancelled() => return,
                () = self.core.keys.wait_unsealed(), if sealed => {}
                () = tokio::time::sleep(if ready.is_some() { FIRST_PAUSE } else { PAUSE }) => {}
            }
        }
    }

    /// Writes what is still counted, after the last call.
    pub(crate) async fn finish(&self) {
        self.write_counted(true).await;
    }

    /// Trusts what is to be trusted, and takes the next step in the life of authorities.
    pub(crate) async fn look(&self, sweep: bool) -> Result<(), Error> {
        let deadline = Instant::now() + AT_MOST;
        let mut tx = self.core.pool.shared(deadline).await?;
        if sweep {
            store::agent::lock_authorities(&mut tx).await?;
            store::agent::sweep(&mut tx).await?;
        }
        let all = store::agent::authorities(&mut tx, self.settings.rotate_after).await?;
        tx.commit().await?;
        self.trust(all.iter().map(|one| one.certificate.clone()).collect())
            .await;
        let next = all.iter().any(|one| one.state == "next");
        if all.iter().any(|one| one.due) {
            return self.promote(deadline).await;
        }
        let none = !all.iter().any(|one| one.state == "active");
        if none || !next && all.iter().any(|one| one.old) {
            found(&self.core, &self.realm, self.settings, false, deadline).await?;
        }
        Ok(())
    }

    pub(super) async fn trust(&self, certificates: Vec<Vec<u8>>) {
        let mut known = self.known.lock().await;
        if *known == certificates {
            return;
        }
        match self.trust.replace(&certificates) {
            Ok(left_out) => {
                for one in &left_out {
                    tracing::error!(
                        authority = certificates.get(one.place).map(|one| authority::id(one)),
                        error = chain(&one.error),
                        "an authority of agents cannot be trusted, and its agents are not let in"
                    );
                }
                tracing::info!(
                    count = certificates.len() - left_out.len(),
                    left_out = left_out.len(),
                    "the authorities of agents have changed"
                );
                *known = certificates;
            }
            Err(error) => tracing::error!(
                error = chain(&error),
                "the authorities of agents cannot be trusted; those of before stay"
            ),
        }
    }

    async fn promote(&self, deadline: Instant) -> Result<(), Error> {
        let mut tx = self.core.pool.shared(deadline).await?;
        store::agent::lock_authorities(&mut tx).await?;
        if store::agent::promote(&mut tx).await? {
            tx.commit().await?;
            tracing::info!("another authority issues the certificates of agents");
        }
        Ok(())
    }

    async fn write_counted(&self, all: bool) {
        let mut taken = self.counted.take(all);
        while !taken.is_empty() {
            let rest = taken.split_off(taken.len().min(BATCH));
            if let Err(error) = self.tell(&taken, Instant::now() + AT_MOST).await {
                tracing::warn!(
                    error = chain(&error),
                    "what agents did is written to the audit log later"
                );
                self.counted.give_back(taken);
                self.counted.give_back(rest);
                return;
            }
            taken = rest;
        }
    }
}

/// Makes another authority, unless somebody else was first. It is the first if none is active, else the one that is to follow: when the active
/// one is old, or when it is `wanted` so.
pub(crate) async fn found(
    core: &Core,
    realm: &Realm,
    settings: Settings,
    wanted: bool,
    deadline: Instant,
) -> Result<bool, Error> {
    if !core.keys.unsealed() {
        return Err(Error::Sealed);
    }
    let fresh = authority::found(realm.region, &realm.cell, OffsetDateTime::now_utc())?;
    let mut tx = core.pool.shared(deadline).await?;
    store::agent::lock_authorities(&mut tx).await?;
    let all = store::agent::authorities(&mut tx, settings.rotate_after).await?;
    // Somebody else may have been first.
    let active = all.iter().find(|one| one.state == "active");
    if active.is_some_and(|active| !active.old && !wanted) {
        return Ok(false);
    }
    if !store::agent::add_authority(&mut tx, &fresh, settings.settle).await? {
        return Ok(false);
    }
    let own = core
        .keys
        .seal_own(&mut tx, PURPOSE, &fresh.id, fresh.key.expose())
        .await?;
    store::own::insert(&mut tx, PURPOSE, &fresh.id, &own).await?;
    tx.commit().await?;
    Ok(true)
}
