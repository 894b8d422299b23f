//! What the operator of an installation does by hand, and what moves a tenant to another installation. It opens database and root for itself,
//! beside the services that run; these hear of it as of each other, within a second.

use std::{
    fmt,
    time::{Duration, Instant},
};

use chassis::Settings;
use opentelemetry::metrics::MeterProvider as _;
use serde::{Deserialize, Serialize};
use types::{Secret, TenantId};
use zeroize::Zeroize as _;

use crate::{
    Cell, Config, Core,
    domain::{cipher::Key, state::State},
    error::Error,
    keys::DataKey,
    store,
};

/// For one transaction.
const AT_MOST: Duration = Duration::from_secs(10);

/// For what goes over all values of a tenant, or all tenants.
const WORK_AT_MOST: Duration = Duration::from_secs(3_600);

/// The vault of an installation, unsealed.
pub struct Operator(Core);

/// A secret that was sealed with a revoked version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposed {
    /// What it belongs to.
    pub record_id: String,
    /// What it is.
    pub kind: String,
}

/// How far the rotation is.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// KEKs, newest first: version, state, the root that wraps it, and how many keys it wraps.
    pub keks: Vec<(i64, String, String, i64)>,
    /// Versions of all tenants' keys by state: how many, and how many values are still sealed with them.
    pub versions: Vec<(String, i64, i64)>,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "key-encryption keys")?;
        for (version, state, root, keys) in &self.keks {
            writeln!(f, "  {version:>4}  {state:<10} wraps {keys} keys  {root}")?;
        }
        writeln!(f, "versions of tenants' keys")?;
        for (state, count, remaining) in &self.versions {
            match state.as_str() {
                "draining" => writeln!(f, "  {state:<10} {count}  ({remaining} values to seal anew)")?,
                _ => writeln!(f, "  {state:<10} {count}")?,
            }
        }
        Ok(())
    }
}

/// One version of a tenant's key, unwrapped.
#[derive(Serialize, Deserialize)]
struct Version {
    version: i64,
    state: String,
    compromised: bool,
    key: Vec<u8>,
}

impl Drop for Version {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// The last signed head of a tenant's audit chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    size: i64,
    hash: Vec<u8>,
}

/// All that the vault has of a tenant, unwrapped: only ever within an encrypted archive.
#[derive(Serialize, Deserialize)]
pub struct TenantKeys {
    versions: Vec<Version>,
    head: Option<Head>,
}

impl fmt::Debug for TenantKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TenantKeys({} versions)", self.versions.len())
    }
}

impl TenantKeys {
    /// As bytes, to be encrypted at once.
    ///
    /// # Errors
    /// Never, as far as is known.
    pub fn to_bytes(&self) -> Result<Secret<Vec<u8>>, chassis::Error> {
        let bytes = serde_json::to_vec(self).map_err(chassis::Error::service)?;
        Ok(Secret::new(bytes))
    }

    /// From what [`Self::to_bytes`] gave.
    ///
    /// # Errors
    /// When they are something else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, chassis::Error> {
        serde_json::from_slice(bytes).map_err(chassis::Error::service)
    }
}

fn soon() -> Instant {
    Instant::now() + AT_MOST
}

impl Operator {
    pub(crate) fn core(&self) -> &Core {
        &self.0
    }

    /// Opens database and root.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub async fn open(config: &Config, settings: &Settings) -> Result<Self, chassis::Error> {
        let pool = pg::Pool::open(&config.database, "vault", settings.dev)
            .await
            .map_err(chassis::Error::service)?;
        let cell = Cell {
            region: settings.region,
            name: settings.cell.clone(),
        };
        // Nobody collects an operator's numbers.
        let meter = opentelemetry::metrics::noop::NoopMeterProvider::new().meter("operator");
        let core = crate::core(pool, config, cell, &meter).map_err(chassis::Error::service)?;
        core.keys.unseal().await.map_err(chassis::Error::service)?;
        Ok(Self(core))
    }

    /// How far the rotation is.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn status(&self) -> Result<Status, chassis::Error> {
        self.census().await.map_err(chassis::Error::service)
    }

    async fn census(&self) -> Result<Status, Error> {
        let mut tx = self.0.pool.shared(soon()).await?;
        let keks = store::data_key::census_of_keks(&mut tx).await?;
        let versions = store::data_key::census(&mut tx).await?;
        Ok(Status { keks, versions })
    }

    /// Makes a new version of a tenant's key and gives its number. The running vault seals everything anew.
    ///
    /// # Errors
    /// When its keys were destroyed, or the database does not answer.
    pub async fn rotate_tenant(&self, tenant: TenantId) -> Result<i64, chassis::Error> {
        self.advance(tenant).await.map_err(chassis::Error::service)
    }

    async fn advance(&self, tenant: TenantId) -> Result<i64, Error> {
        let mut tx = self.0.pool.shared(soon()).await?;
        store::ring::lock_alive(&mut tx, tenant).await?;
        let version = self.0.rotation.advance(&mut tx, tenant).await?;
        tx.commit().await?;
        Ok(version)
    }

    /// Makes a new KEK, wraps all keys anew with it, destroys the old ones, and gives its number.
    ///
    /// # Errors
    /// When the root or the database does not answer. What was done stays done, and the running vault goes on with it.
    pub async fn rotate_kek(&self) -> Result<i64, chassis::Error> {
        self.next_kek().await.map_err(chassis::Error::service)
    }

    async fn next_kek(&self) -> Result<i64, Error> {
        let mut tx = self.0.pool.shared(soon()).await?;
        let newest = store::kek::newest(&mut tx).await?;
        tx.commit().await?;
        let version = self.0.keys.new_kek(newest).await?;
        self.0.rotation.keks().await?;
        Ok(version)
    }

    /// For a version that may be known to others: seals everything under it anew, refuses it for ever, and gives what was under it.
    ///
    /// # Errors
    /// When there is no such version, or the database does not answer.
    pub async fn revoke(&self, tenant: TenantId, version: i64) -> Result<Vec<Exposed>, chassis::Error> {
        self.give_up(tenant, version)
            .await
            .map_err(chassis::Error::service)
    }

    async fn give_up(&self, tenant: TenantId, version: i64) -> Result<Vec<Exposed>, Error> {
        let mut tx = self.0.pool.shared(soon()).await?;
        store::ring::lock_alive(&mut tx, tenant).await?;
        self.0.rotation.compromise(&mut tx, tenant, version).await?;
        tx.commit().await?;
        let deadline = Instant::now() + WORK_AT_MOST;
        self.0
            .rotation
            .tend_until_revoked(tenant, version, deadline)
            .await?;
        let mut tx = self.0.pool.shared(soon()).await?;
        let exposed = store::sealed::was_under(&mut tx, tenant, version).await?;
        Ok(exposed
            .into_iter()
            .map(|(record_id, kind)| Exposed { record_id, kind })
            .collect())
    }

    /// The versions of a tenant's key that are not gone, and the last head of its audit chain, to be taken in elsewhere.
    ///
    /// # Errors
    /// When its keys were destroyed, or the database does not answer.
    pub async fn export_tenant_keys(&self, tenant: TenantId) -> Result<TenantKeys, chassis::Error> {
        self.export(tenant).await.map_err(chassis::Error::service)
    }

    async fn export(&self, tenant: TenantId) -> Result<TenantKeys, Error> {
        let mut tx = self.0.pool.shared(soon()).await?;
        store::ring::lock_alive(&mut tx, tenant).await?;
        let mut versions = Vec::new();
        for row in store::data_key::full(&mut tx, tenant).await? {
            let Some(wrapped) = store::data_key::get(&mut tx, tenant, Some(row.version)).await? else {
                continue;
            };
            if row.wrapped.is_none() {
                continue;
            }
            let key = self.0.keys.unwrap(tenant, &wrapped).await?;
            versions.push(Version {
                version: row.version,
                state: row.state()?.word().to_owned(),
                compromised: row.compromised,
                key: key.key.expose().to_vec(),
            });
        }
        let head = store::head::last(&mut tx, tenant, false).await?;
        tx.commit().await?;
        Ok(TenantKeys {
            versions,
            head: head.map(|head| Head {
                size: head.size,
                hash: head.hash,
            }),
        })
    }

    /// Takes a tenant's keys in: wrapped by this installation's KEK, its head signed by this installation's key. Asked again with the same
    /// keys, nothing happens.
    ///
    /// # Errors
    /// When the tenant has other keys here, or had them destroyed; or the database does not answer.
    pub async fn import_tenant_keys(
        &self,
        tenant: TenantId,
        keys: &TenantKeys,
    ) -> Result<(), chassis::Error> {
        self.import(tenant, keys).await.map_err(chassis::Error::service)
    }

    async fn import(&self, tenant: TenantId, keys: &TenantKeys) -> Result<(), Error> {
        let mut tx = self.0.pool.shared(soon()).await?;
        store::ring::lock_alive(&mut tx, tenant).await?;
        for version in &keys.versions {
            let state: State = version
                .state
                .parse()
                .map_err(|()| Error::Stored("state of a key"))?;
            let key = DataKey {
                tenant,
                version: version.version,
                key: Key::from_bytes(&version.key)?,
            };
            let there = store::data_key::get(&mut tx, tenant, Some(version.version)).await?;
            if let Some(there) = there.filter(|there| there.wrapped.is_some()) {
                let there = self.0.keys.unwrap(tenant, &there).await;
                if there.is_ok_and(|there| there.key.expose() == key.key.expose()) {
                    continue;
                }
                return Err(Error::OtherKeys);
            }
            let (kek_version, wrapped) = self.0.keys.wrap_data_key(&mut tx, &key).await?;
            let arrived = store::data_key::Arrived {
                version: version.version,
                state,
                compromised: version.compromised,
                kek_version,
                wrapped: &wrapped,
            };
            store::data_key::take_in(&mut tx, tenant, &arrived).await?;
        }
        if let Some(head) = &keys.head {
            let last = store::head::last(&mut tx, tenant, true).await?;
            if last.is_none_or(|last| last.size < head.size) {
                let signed = self
                    .0
                    .sign_head(&mut tx, tenant, head.size, &head.hash, None)
                    .await?;
                store::head::put(&mut tx, tenant, head.size, &head.hash, &signed).await?;
            }
        }
        store::epoch::bump(&mut tx, &tenant.to_string()).await?;
        tx.commit().await?;
        Ok(())
    }

    /// After a tenant has moved elsewhere: its keys are gone here, without a proof, since they live on there.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn forget_tenant_keys(&self, tenant: TenantId) -> Result<(), chassis::Error> {
        self.forget(tenant).await.map_err(chassis::Error::service)
    }

    async fn forget(&self, tenant: TenantId) -> Result<(), Error> {
        let mut tx = self.0.pool.shared(soon()).await?;
        store::ring::lock(&mut tx, tenant).await?;
        store::data_key::destroy_all(&mut tx, tenant).await?;
        store::epoch::bump(&mut tx, &tenant.to_string()).await?;
        tx.commit().await?;
        Ok(())
    }
}
