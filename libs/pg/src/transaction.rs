//! The only way to the tables.

pub(crate) mod at_once;

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{Executor as _, Postgres, pool::PoolConnection};
use tokio::{runtime::Handle, time::timeout};
use types::TenantId;

use crate::{
    Connection, Error,
    backends::{Backend, Backends},
    entrance::{self, Key, Side},
};

/// An abandoned connection that has not rolled back after this time is closed, and the server, who sees that, ends its work.
const ROLLBACK_AT_MOST: Duration = Duration::from_millis(250);

/// A transaction that has been entered: for the service's own schema or for one tenant's. Dropped, it is rolled back.
pub struct Transaction {
    connection: Connection,
    service: &'static str,
    tenant: Option<TenantId>,
    side: Side,
    key: Key,
    backend: Backend,
}

impl Transaction {
    /// Begins on a connection just taken from the pool: one round trip.
    pub(crate) async fn begin(
        inner: PoolConnection<Postgres>,
        service: &'static str,
        side: Side,
        deadline: Instant,
        backends: Arc<Backends>,
    ) -> Result<Self, Error> {
        let (words, key) = entrance::begin(service, side, deadline);
        let tenant = match side {
            Side::Tenant(tenant) => Some(tenant),
            Side::Shared => None,
        };
        let mut transaction = Self {
            connection: Connection::new(inner, deadline),
            service,
            tenant,
            side,
            key,
            backend: Backend::new(backends),
        };
        let id = transaction.connection.ask(words).await;
        let id = id.map_err(|error| match side {
            Side::Tenant(_) => error.while_entering(),
            Side::Shared => error,
        })?;
        transaction.backend.is(id);
        if let Some(tenant) = tenant {
            transaction.backend.knows(tenant);
        }
        Ok(transaction)
    }

    /// Notes that the server's process has read what the schema of `tenant` looks like, and will remember it. For who calls a function, such as
    /// `tenant.asked`, that looks into one without entering it: a process remembers so many tenants, then its connection is replaced.
    pub fn knows(&self, tenant: TenantId) {
        self.backend.knows(tenant);
    }

    /// From here on in the service's own schema, with the service's own role. The tenant's is out of reach until
    /// [`Self::enter_tenant`].
    ///
    /// # Errors
    /// When the database does not answer, or the transaction has failed before.
    pub async fn enter_shared(&mut self) -> Result<(), Error> {
        self.change(Side::Shared).await
    }

    /// From here on in the tenant's schema, with the tenant's role.
    ///
    /// # Errors
    /// [`Error::NoTenant`] when the transaction did not begin as a tenant's; or as [`Self::enter_shared`].
    pub async fn enter_tenant(&mut self) -> Result<(), Error> {
        let tenant = self.tenant.ok_or(Error::NoTenant)?;
        self.change(Side::Tenant(tenant)).await
    }

    async fn change(&mut self, side: Side) -> Result<(), Error> {
        if self.side == side {
            return Ok(());
        }
        let (words, key) = entrance::change(self.service, side, &self.key, self.connection.deadline());
        self.connection.send(words).await?;
        (self.side, self.key) = (side, key);
        Ok(())
    }

    /// Keeps what was done.
    ///
    /// # Errors
    /// [`Error::Aborted`] when a statement has failed before; [`Error::Unknown`] when the answer did not come; a deferred constraint.
    pub async fn commit(mut self) -> Result<(), Error> {
        if self.connection.failed() {
            return Err(Error::Aborted);
        }
        self.connection
            .send("COMMIT".to_owned())
            .await
            .map_err(Error::while_committing)?;
        // The session is clean: back to the pool, if the server's process behind it has not grown too large.
        if let Some(inner) = self.connection.take() {
            self.backend.give_back(inner);
        }
        Ok(())
    }

    /// Undoes what was done, and waits for it. Dropping does the same without waiting.
    pub async fn rollback(mut self) {
        if let Some(inner) = self.connection.take() {
            end(inner, self.connection.broken(), self.backend.clone()).await;
        }
    }
}

/// Rolls back and returns the connection to its pool, or closes it.
async fn end(mut inner: PoolConnection<Postgres>, broken: bool, backend: Backend) {
    let rolled_back = !broken
        && matches!(
            timeout(ROLLBACK_AT_MOST, inner.execute("ROLLBACK")).await,
            Ok(Ok(_))
        );
    if rolled_back {
        backend.give_back(inner);
    } else {
        drop(inner.detach());
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        let Some(inner) = self.connection.take() else {
            return;
        };
        match Handle::try_current() {
            Ok(runtime) if !self.connection.broken() => {
                drop(runtime.spawn(end(inner, false, self.backend.clone())));
            }
            _ => drop(inner.detach()),
        }
    }
}

impl Deref for Transaction {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transaction({}, {})", self.service, self.side)
    }
}
