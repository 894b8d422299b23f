//! Looking at the epoch, twice a second: what was changed anywhere is forgotten here.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use types::chain;

use super::Keys;
use crate::{error::Error, store};

/// How often.
const PAUSE: Duration = Duration::from_millis(400);

/// How long one look may take: together with the pause, less than what it is good for (`cache::TRUST`).
const AT_MOST: Duration = Duration::from_millis(500);

impl Keys {
    /// Looks until `stopping`.
    pub(crate) async fn watch(self, stopping: CancellationToken) {
        let mut seen = None;
        let mut lost = false;
        loop {
            match self.look(seen).await {
                Ok(now) => {
                    seen = Some(now);
                    lost = false;
                }
                Err(error) => {
                    if !lost {
                        tracing::warn!(
                            error = chain(&error),
                            "the epoch is out of sight: keys are not cached"
                        );
                    }
                    lost = true;
                    // Nobody knows what became of the database meanwhile: the next look is a first one.
                    seen = None;
                }
            }
            self.0.cache.sweep(Instant::now());
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }

    async fn look(&self, seen: Option<i64>) -> Result<i64, Error> {
        let began = Instant::now();
        let looked = async {
            let mut tx = self.0.pool.shared(began + AT_MOST).await?;
            let found = store::epoch::since(&mut tx, seen.unwrap_or(i64::MAX)).await?;
            tx.commit().await?;
            Ok::<_, Error>(found)
        };
        let looked = tokio::time::timeout(AT_MOST, looked).await;
        let (now, who) = looked.map_err(|_| pg::Error::Timeout(None))??;
        // A smaller number is that of a database that was restored.
        if seen.is_none_or(|seen| now < seen) || who.iter().any(|who| who == store::epoch::ALL) {
            self.0.cache.purge_all();
            if self.unsealed() {
                self.forget_destroyed().await?;
            }
        } else {
            for tenant in who {
                let tenant = tenant.parse().map_err(|_| Error::Stored("tenant's id"))?;
                self.0.cache.purge(tenant);
            }
        }
        self.0.cache.trust(began);
        Ok(now)
    }
}
