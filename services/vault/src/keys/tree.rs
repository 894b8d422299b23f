//! Key-encryption keys: how they come into memory, are made, and replaced.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use ring::digest::{SHA256, digest};
use tokio_util::sync::CancellationToken;
use types::{Secret, TenantId, chain};

use super::{Kek, Keys, Own, Tree, about_data_key, open_own_with};
use crate::{
    domain::cipher::Key,
    error::Error,
    root::{Root, RootError},
    sign::{self, Signer},
    store,
};

/// A sealed vault looks for its root this often: it is to be open within two seconds after the root is there.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// For the database's part of unsealing, and of one batch of keys.
const AT_MOST: Duration = Duration::from_secs(10);

/// Keys that are wrapped anew in one transaction.
const BATCH: i64 = 200;

/// Keys that do not open and are named in the log, in one go over all.
const NAMED_AT_MOST: usize = 20;

/// How far one go over all keys is.
#[derive(Default)]
pub(crate) struct Rewrap {
    /// After this data key: its tenant and version.
    key: (String, i64),
    /// After this secret of the cell: its purpose and id.
    secret: (String, String),
    /// Keys that were wrapped anew.
    pub(crate) rewrapped: usize,
    /// Keys that do not open. Each keeps its KEK from being destroyed.
    pub(crate) unreadable: usize,
}

impl Rewrap {
    fn met_unreadable(&mut self, of: &str, key: impl fmt::Display, kek: i64) {
        if self.unreadable < NAMED_AT_MOST {
            tracing::error!(of, %key, kek, "a key does not open under its KEK, which stays for it");
        }
        self.unreadable += 1;
    }
}

fn fingerprint(wrapped: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, wrapped).as_ref());
    bytes
}

/// Whose it is, and its bytes; none if its row was damaged or belongs elsewhere.
fn open_data_key(
    keks: &HashMap<i64, Arc<Key>>,
    row: &store::data_key::Behind,
) -> Option<(TenantId, Secret<Vec<u8>>)> {
    let tenant = row.tenant_id.parse().ok()?;
    let kek = keks.get(&row.kek_version)?;
    let about = about_data_key(tenant, row.kek_version, row.version);
    Some((tenant, kek.open(&about, &row.wrapped).ok()?))
}

impl Keys {
    /// The root, if one is configured.
    fn root(&self) -> Result<&Root, Error> {
        self.0.root.as_ref().ok_or(Error::Sealed)
    }

    /// Tries until the root opens the tree, or `stopping`.
    pub(crate) async fn keep_unsealing(self, stopping: CancellationToken) {
        let mut told = false;
        while !self.unsealed() {
            let unsealed = self.unseal().await;
            // A database that does not answer says nothing of the root.
            if matches!(&unsealed, Err(error) if !matches!(error, Error::Database(_))) {
                self.0.tree.send_replace(Tree::Sealed);
            }
            match unsealed {
                Ok(()) => tracing::info!("the vault is unsealed"),
                Err(error) if told => tracing::debug!(error = chain(&error), "the vault stays sealed"),
                Err(error) => {
                    tracing::warn!(
                        error = chain(&error),
                        "the vault is sealed, and goes on looking for its root"
                    );
                    told = true;
                }
            }
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(TRY_AGAIN), if !self.unsealed() => {}
                else => {}
            }
        }
    }

    /// Opens the tree with the root, and makes its first keys where there are none.
    pub(crate) async fn unseal(&self) -> Result<(), Error> {
        let root = self.root()?;
        let mut rows = self.keks_alive().await?;
        if rows.is_empty() {
            self.new_kek(0).await?;
            rows = self.keks_alive().await?;
        }
        for row in rows {
            let unwrapped = root.unwrap(&self.0.cell, row.version, &row.wrapped).await;
            let kek = unwrapped.inspect_err(|_| {
                tracing::warn!(
                    version = row.version,
                    wrapped_by = row.root,
                    tried = root.name(),
                    "a key does not open with this root"
                );
            })?;
            self.remember(row.version, &row.wrapped, kek);
        }
        let signer = self.load_signer().await?;
        *self.0.signer.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(signer));
        self.0.tree.send_replace(Tree::Open);
        Ok(())
    }

    async fn keks_alive(&self) -> Result<Vec<store::kek::Row>, Error> {
        let mut tx = self.0.pool.shared(Instant::now() + AT_MOST).await?;
        let rows = store::kek::alive(&mut tx).await?;
        tx.commit().await?;
        Ok(rows)
    }

    fn remember(&self, version: i64, wrapped: &[u8], key: Key) -> Arc<Key> {
        let (sha256, key) = (fingerprint(wrapped), Arc::new(key));
        let mut keks = self.0.keks.write().unwrap_or_else(PoisonError::into_inner);
        let kek = Kek {
            sha256,
            key: key.clone(),
        };
        keks.insert(version, kek);
        key
    }

    fn remembered(&self, version: i64, wrapped: &[u8]) -> Option<Arc<Key>> {
        let sha256 = fingerprint(wrapped);
        let keks = self.0.keks.read().unwrap_or_else(PoisonError::into_inner);
        let kek = keks.get(&version).filter(|kek| kek.sha256 == sha256);
        kek.map(|kek| kek.key.clone())
    }

    /// A KEK, unwrapped if exactly this one is not in memory yet.
    pub(super) async fn kek(&self, version: i64, wrapped: &[u8]) -> Result<Arc<Key>, Error> {
        if let Some(kek) = self.remembered(version, wrapped) {
            return Ok(kek);
        }
        let kek = self.root()?.unwrap(&self.0.cell, version, wrapped).await?;
        Ok(self.remember(version, wrapped, kek))
    }

    pub(super) async fn kek_by_version(&self, version: i64, deadline: Instant) -> Result<Arc<Key>, Error> {
        let mut tx = self.0.pool.shared(deadline).await?;
        let rows = store::kek::alive(&mut tx).await?;
        tx.commit().await?;
        let row = rows.iter().find(|row| row.version == version);
        let row = row.ok_or(Error::Stored("secret of the cell"))?;
        self.kek(version, &row.wrapped).await
    }

    /// Forgets KEKs that were destroyed, or are others now.
    pub(super) async fn forget_destroyed(&self) -> Result<(), Error> {
        let alive: HashMap<i64, [u8; 32]> = self
            .keks_alive()
            .await?
            .iter()
            .map(|row| (row.version, fingerprint(&row.wrapped)))
            .collect();
        let mut keks = self.0.keks.write().unwrap_or_else(PoisonError::into_inner);
        keks.retain(|version, kek| alive.get(version) == Some(&kek.sha256));
        Ok(())
    }

    /// Makes the version after `newest` the active one, unless somebody else has made it; gives the newest version.
    pub(crate) async fn new_kek(&self, newest: i64) -> Result<i64, Error> {
        let root = self.root()?;
        let kek = Key::fresh()?;
        let wrapped = root.wrap(&self.0.cell, newest + 1, &kek).await?;
        let mut tx = self.0.pool.shared(Instant::now() + AT_MOST).await?;
        let now = store::kek::newest(&mut tx).await?;
        if now != newest {
            return Ok(now);
        }
        store::kek::add(&mut tx, newest + 1, &root.name(), &wrapped).await?;
        store::epoch::bump(&mut tx, store::epoch::ALL).await?;
        tx.commit().await?;
        self.remember(newest + 1, &wrapped, kek);
        Ok(newest + 1)
    }

    /// The newest signing key, which is made where there is none.
    async fn load_signer(&self) -> Result<Signer, Error> {
        let deadline = Instant::now() + AT_MOST;
        let mut tx = self.0.pool.shared(deadline).await?;
        // One after the other: see `kek::newest`.
        store::kek::newest(&mut tx).await?;
        let found = store::own::read(&mut tx, sign::PURPOSE).await?;
        if let Some((id, own)) = found.first() {
            tx.commit().await?;
            let seed = self.open_own(sign::PURPOSE, id, own, deadline).await?;
            return Signer::new(seed.expose());
        }
        let seed = Key::fresh()?;
        let signer = Signer::new(seed.expose())?;
        let own = self
            .seal_own(&mut tx, sign::PURPOSE, signer.id(), seed.expose())
            .await?;
        store::own::insert(&mut tx, sign::PURPOSE, signer.id(), &own).await?;
        store::head::add_signing_key(&mut tx, signer.id(), signer.public()).await?;
        tx.commit().await?;
        Ok(signer)
    }

    /// Wraps the next keys anew that an older KEK wraps. False if none were left that nobody else works on. A key that does not open is told of,
    /// and stays as it is, and so does its KEK; the others go on.
    pub(crate) async fn rewrap_some_keys(&self, rewrap: &mut Rewrap) -> Result<bool, Error> {
        let mut tx = self.0.pool.shared(Instant::now() + AT_MOST).await?;
        let active = store::kek::active(&mut tx).await?.ok_or(Error::Sealed)?;
        let fresh = self.kek(active.version, &active.wrapped).await?;
        let mut alive = HashMap::new();
        for row in store::kek::alive(&mut tx).await? {
            match self.kek(row.version, &row.wrapped).await {
                Ok(kek) => alive.insert(row.version, kek),
                // Nor do the keys under it.
                Err(Error::Root(RootError::Wrong)) => None,
                Err(error) => return Err(error),
            };
        }
        let keys = store::data_key::behind(&mut tx, active.version, &rewrap.key, BATCH).await?;
        let (mut tenants, mut versions, mut wraps) = (Vec::new(), Vec::new(), Vec::new());
        for row in &keys {
            let Some((id, clear)) = open_data_key(&alive, row) else {
                rewrap.met_unreadable(&row.tenant_id, row.version, row.kek_version);
                continue;
            };
            wraps.push(fresh.seal(&about_data_key(id, active.version, row.version), clear.expose())?);
            tenants.push(row.tenant_id.clone());
            versions.push(row.version);
        }
        store::data_key::rewrap(&mut tx, active.version, &tenants, &versions, &wraps).await?;
        let secrets = store::own::behind(&mut tx, active.version, &rewrap.secret, BATCH).await?;
        let mut renewed = 0;
        for row in &secrets {
            let opened = alive
                .get(&row.kek_version)
                .and_then(|kek| open_own_with(kek, &row.purpose, &row.id, &row.own()).ok());
            let Some(clear) = opened else {
                rewrap.met_unreadable(&row.purpose, &row.id, row.kek_version);
                continue;
            };
            let about = super::about_own(&row.purpose, &row.id, active.version);
            let own = Own {
                kek_version: active.version,
                sealed: fresh.seal(&about, clear.expose())?,
            };
            store::own::rewrap(&mut tx, row, &own).await?;
            renewed += 1;
        }
        tx.commit().await?;
        rewrap.rewrapped += tenants.len() + renewed;
        if let Some(last) = keys.last() {
            rewrap.key = (last.tenant_id.clone(), last.version);
        }
        if let Some(last) = secrets.last() {
            rewrap.secret = (last.purpose.clone(), last.id.clone());
        }
        Ok(!keys.is_empty() || !secrets.is_empty())
    }

    /// Destroys KEKs that wrap nothing any more.
    pub(crate) async fn destroy_unused_keks(&self) -> Result<Vec<i64>, Error> {
        let mut tx = self.0.pool.shared(Instant::now() + AT_MOST).await?;
        let gone = store::kek::destroy_unused(&mut tx).await?;
        if !gone.is_empty() {
            store::epoch::bump(&mut tx, store::epoch::ALL).await?;
        }
        tx.commit().await?;
        Ok(gone)
    }
}
