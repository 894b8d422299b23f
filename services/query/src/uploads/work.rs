//! What goes on without a request: finished uploads are read, and those that are kept no longer go.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use types::{Errand, TenantId, chain};

use super::{Uploads, error::Error, store::Claim, turns::Turns};

/// Uploads that one replica reads at a time, each of another tenant: each takes a core, and some ten MiB.
const READINGS: usize = 2;

/// For one sweep.
const AT_MOST: Duration = Duration::from_secs(30);

/// For what is to go of one tenant, in one round.
const CLEARING: Duration = Duration::from_secs(2);

/// To give back what was being read when the service stops.
const AT_END: Duration = Duration::from_secs(2);

impl Uploads {
    /// Until the service stops.
    pub(crate) async fn run(self) {
        let mut readings = JoinSet::new();
        let mut turns = Turns::default();
        loop {
            self.keys.sweep();
            self.readers.sweep();
            self.pieces.sweep();
            if let Err(error) = self.round(&mut readings, &mut turns).await {
                tracing::warn!(error = chain(&error), "uploads wait for the next round");
            }
            tokio::select! {
                () = self.stopping.cancelled() => break,
                () = self.finished.notified() => {}
                _ = readings.join_next(), if !readings.is_empty() => {}
                () = tokio::time::sleep(self.pause) => {}
            }
        }
        // Each gives its upload back.
        let back = async { while readings.join_next().await.is_some() {} };
        if tokio::time::timeout(AT_END, back).await.is_err() {
            tracing::info!("uploads that were being read stay with this replica until their leases end");
        }
    }

    async fn round(&self, readings: &mut JoinSet<()>, turns: &mut Turns) -> Result<(), Error> {
        let mut due = self.store.due(Instant::now() + AT_MOST).await?;
        turns.order(&mut due);
        for tenant in due {
            if self.stopping.is_cancelled() {
                break;
            }
            match self.sweep(tenant, turns.room(tenant, READINGS)).await {
                Ok(claims) => {
                    for claim in claims {
                        let (own, turn) = (self.clone(), turns.begin(tenant));
                        readings.spawn(async move {
                            own.attempt(&claim).await;
                            drop(turn);
                        });
                    }
                    if let Err(error) = self.clear(tenant).await {
                        tracing::info!(%tenant, error = chain(&error), "what is to go of uploads goes in the next round");
                    }
                }
                Err(error) => {
                    tracing::warn!(%tenant, error = chain(&error), "the uploads of a tenant wait for the next round");
                }
            }
        }
        Ok(())
    }

    /// Deletes what is to go of a tenant for a moment; then it is another tenant's turn.
    async fn clear(&self, tenant: TenantId) -> Result<(), Error> {
        let until = Instant::now() + CLEARING;
        let errand = || Errand {
            tenant,
            deadline: Instant::now() + AT_MOST,
        };
        while Instant::now() < until && !self.stopping.is_cancelled() && self.store.clear(&errand()).await? {}
        Ok(())
    }

    async fn sweep(&self, tenant: TenantId, room: usize) -> Result<Vec<Claim>, Error> {
        let errand = Errand {
            tenant,
            deadline: Instant::now() + AT_MOST,
        };
        match self.store.sweep(&errand, room, self.lease).await {
            // It is being deleted or moved away, or comes back in a moment.
            Err(Error::Database(pg::Error::NoSuchTenant)) => {
                self.store.later(tenant, errand.deadline).await?;
                Ok(Vec::new())
            }
            Err(error) => Err(error),
            Ok(swept) => {
                for gone in swept.gone {
                    self.forget(gone);
                }
                Ok(swept.claims)
            }
        }
    }
}
