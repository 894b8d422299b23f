//! How tenants begin and end, apart from the calls that ask for it.
//!
//! *Beginning.* A tenant's schema takes long to make, so some are made ahead, by whichever replica finds that there are too few.
//!
//! *End.* `store::deletion::begin` commits that the tenant is being deleted; from then on nobody reaches it. The steps after that are done in
//! this order, each in a transaction of its own, and each is seen to be done by what it leaves, so that any of them may be done twice and the
//! next one to come goes on wherever the last one stopped:
//! 1. the vault destroys the keys and signs that it did: nothing that was sealed opens any more, in whatever backup it is;
//! 2. the schema is dropped, with its role: `pg` lets that happen only after 1;
//! 3. the rows in the directory and in other services' schemas go, which the function `tenant.forget_tenant` does only after 2.
//!
//! Whoever asked goes through them while the call lasts; what is left then the task finishes.
//!
//! What stays: the row in `tenant.deletion`; for 400 days the events of Stripe, which name a subscription and no tenant; and what the tenant's
//! sinks have taken, the files in the operator's folder among it (`TRAILMESH_TENANT_AUDIT_DIR/<tnt_…>/*.log`), which are the operator's to
//! remove.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::Notify, time};
use tokio_util::sync::CancellationToken;
use types::{TenantId, chain};

use crate::{
    clients::vault::Keys,
    domain::deletion::Deletion,
    error::Error,
    store::{self, Store},
};

/// For one deletion that the task goes on with, and for making one schema.
const AT_MOST: Duration = Duration::from_secs(30);

/// What beginnings and ends need; clones are one.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    store: Store,
    keys: Keys,
    prepared: u32,
    taken: Arc<Notify>,
}

/// Why a deletion does not go on now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// The vault has not destroyed the keys; in its words.
    #[error("the vault cannot destroy the keys now: {0}")]
    Vault(String),
    /// Of our own.
    #[error(transparent)]
    Own(#[from] Error),
}

impl Life {
    /// With so many schemas made ahead.
    pub(crate) fn new(store: Store, keys: Keys, prepared: u32) -> Self {
        Self {
            store,
            keys,
            prepared,
            taken: Arc::default(),
        }
    }

    /// Tells that a schema was taken.
    pub(crate) fn taken(&self) {
        self.taken.notify_one();
    }

    /// Goes on with a deletion as far as it can, and tells where it is.
    pub(crate) async fn go_on(&self, tenant: TenantId, deadline: Instant) -> Result<Deletion, Trouble> {
        let found = self.deletion(tenant, deadline).await?;
        if found.certificate.is_none() {
            let certificate = self
                .keys
                .destroy(tenant, deadline)
                .await
                .map_err(Trouble::Vault)?;
            let mut tx = self.store.directory(deadline).await?;
            store::deletion::certify(&mut tx, tenant, &certificate).await?;
            tx.commit().await.map_err(Error::from)?;
        }
        if found.ended.is_none() {
            let mut tx = self.store.directory(deadline).await?;
            pg::drop_tenant_schema(&mut tx, tenant)
                .await
                .map_err(Error::from)?;
            tx.commit().await.map_err(Error::from)?;
            let mut tx = self.store.directory(deadline).await?;
            store::deletion::finish(&mut tx, tenant).await?;
            tx.commit().await.map_err(Error::from)?;
        }
        self.deletion(tenant, deadline).await
    }

    async fn deletion(&self, tenant: TenantId, deadline: Instant) -> Result<Deletion, Trouble> {
        let mut tx = self.store.directory(deadline).await?;
        let found = store::deletion::get(&mut tx, tenant, None).await?;
        tx.rollback().await;
        Ok(found)
    }

    /// Finishes deletions that nobody goes on with, every `pause`, until `stopping`.
    pub(crate) async fn end(self, pause: Duration, stopping: CancellationToken) {
        loop {
            loop {
                match self.end_one().await {
                    Ok(true) if !stopping.is_cancelled() => {}
                    Ok(_) => break,
                    Err(trouble) => {
                        tracing::warn!(error = chain(&trouble), "deletions cannot go on now");
                        break;
                    }
                }
            }
            tokio::select! {
                () = stopping.cancelled() => return,
                () = time::sleep(pause) => {}
            }
        }
    }

    /// Goes on with one deletion, and tells whether there was one.
    async fn end_one(&self) -> Result<bool, Trouble> {
        let deadline = Instant::now() + AT_MOST;
        let mut tx = self.store.directory(deadline).await?;
        store::deletion::sweep(&mut tx).await?;
        let due = store::deletion::take_due(&mut tx).await?;
        tx.commit().await.map_err(Error::from)?;
        let Some(tenant) = due else { return Ok(false) };
        match self.go_on(tenant, deadline).await {
            Ok(_) => tracing::info!(%tenant, "a deletion that was under way is done"),
            Err(trouble) => {
                tracing::warn!(%tenant, error = chain(&trouble), "a deletion goes on later");
            }
        }
        Ok(true)
    }

    /// Makes schemas ahead, whenever one was taken and every `pause`, until `stopping`.
    pub(crate) async fn prepare(self, pause: Duration, stopping: CancellationToken) {
        loop {
            loop {
                match self.prepare_one().await {
                    Ok(true) if !stopping.is_cancelled() => {}
                    Ok(_) => break,
                    Err(error) => {
                        tracing::warn!(error = chain(&error), "no schema can be made ahead now");
                        break;
                    }
                }
            }
            tokio::select! {
                () = stopping.cancelled() => return,
                () = self.taken.notified() => {}
                () = time::sleep(pause) => {}
            }
        }
    }

    /// Makes one schema ahead unless there are enough, and tells whether it did.
    async fn prepare_one(&self) -> Result<bool, Error> {
        if self.prepared == 0 {
            return Ok(false);
        }
        let mut tx = self.store.directory(Instant::now() + AT_MOST).await?;
        let made = pg::prepare_tenant_schema(&mut tx, TenantId::fresh(), self.prepared).await?;
        tx.commit().await?;
        Ok(made)
    }
}
