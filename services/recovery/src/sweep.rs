//! What goes on without a request: plans that are kept no longer go.
//!
//! Several replicas may do this at once: a tenant's plans are swept by one of them at a time, and sweeping twice is harmless.

use std::time::{Duration, Instant};

use tokio::time;
use tokio_util::sync::CancellationToken;
use types::{Errand, TenantId, chain};

use crate::{error::Error, store::Store};

/// For one transaction.
const AT_MOST: Duration = Duration::from_secs(10);

/// Sweeps every `pause`, until `stopping`.
pub(crate) async fn run(store: Store, pause: Duration, stopping: CancellationToken) {
    loop {
        match once(&store, &stopping).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "plans of undos that had expired long ago were deleted"),
            Err(error) => tracing::warn!(error = chain(&error), "old plans stay until the next sweep"),
        }
        tokio::select! {
            () = stopping.cancelled() => return,
            () = time::sleep(pause) => {}
        }
    }
}

async fn once(store: &Store, stopping: &CancellationToken) -> Result<u64, Error> {
    let mut count = 0;
    for tenant in store.due(Instant::now() + AT_MOST).await? {
        if stopping.is_cancelled() {
            break;
        }
        match of(store, tenant).await {
            Ok(gone) => count += gone,
            Err(error) => {
                tracing::warn!(%tenant, error = chain(&error), "old plans of a tenant stay until the next sweep")
            }
        }
    }
    Ok(count)
}

async fn of(store: &Store, tenant: TenantId) -> Result<u64, Error> {
    let errand = Errand {
        tenant,
        deadline: Instant::now() + AT_MOST,
    };
    match store.sweep(&errand).await {
        // It is being deleted or moved away; what is left of it here goes with it.
        Err(Error::Database(pg::Error::NoSuchTenant)) => {
            store.forget(tenant, errand.deadline).await?;
            Ok(0)
        }
        swept => swept,
    }
}
