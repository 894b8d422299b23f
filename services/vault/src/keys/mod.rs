//! The key tree as this process has it: what is sealed and opened with it, and how its keys come into memory.
//!
//! KEKs stay in memory once the root has unwrapped them; tenants' data keys for a while ([`cache`]). Everything here answers
//! [`Error::Sealed`] until the root was at hand once.

pub(crate) mod cache;
mod tree;
mod watch;

pub(crate) use tree::Rewrap;

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, PoisonError, RwLock},
    time::Instant,
};

use opentelemetry::metrics::{Counter, Meter};
use tokio::sync::watch as signal;
use types::{Secret, TenantId};

use self::cache::Cache;
use crate::{
    Cell, Config,
    domain::{
        Put as _,
        cipher::{self, Key},
        envelope::Envelope,
        place::{Form, Place},
        state::State,
    },
    error::Error,
    root::Root,
    sign::Signer,
    store::{self, data_key::Wrapped},
};

/// Keys of one tenant are loaded by one at a time; tenants share these places.
const LOADERS: usize = 64;

/// A version of a tenant's key, open.
pub(crate) struct DataKey {
    pub(crate) tenant: TenantId,
    pub(crate) version: i64,
    pub(crate) key: Key,
}

/// A value, sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    /// As [`Envelope`] writes it.
    pub(crate) envelope: String,
    /// The version of the tenant's key that sealed it.
    pub(crate) key_version: i64,
}

/// A secret of the cell itself, sealed by a KEK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Own {
    /// Which.
    pub(crate) kek_version: i64,
    /// Nonce, ciphertext and tag.
    pub(crate) sealed: Vec<u8>,
}

/// A KEK in memory. A version alone does not say which: in a database that was restored, it may be another one.
struct Kek {
    /// Of its bytes as the root wraps them.
    sha256: [u8; 32],
    key: Arc<Key>,
}

/// What is counted.
struct Meters {
    loads: Counter<u64>,
    unreadable: Counter<u64>,
}

/// The keys. Clones share them.
#[derive(Clone)]
pub(crate) struct Keys(Arc<Inner>);

struct Inner {
    pool: pg::Pool,
    root: Option<Root>,
    cell: Cell,
    keks: RwLock<BTreeMap<i64, Kek>>,
    signer: RwLock<Option<Arc<Signer>>>,
    tree: signal::Sender<Tree>,
    cache: Cache,
    loaders: Vec<tokio::sync::Mutex<()>>,
    hasher: RandomState,
    meters: Meters,
}

/// How far the tree of keys is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tree {
    /// It was not tried yet, or the database did not answer.
    Untried,
    /// The root is not at hand.
    Sealed,
    Open,
}

/// What a data key is authenticated with under its KEK.
pub(crate) fn about_data_key(tenant: TenantId, kek_version: i64, version: i64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(96);
    bytes.put("data key");
    bytes.put(&tenant.to_string());
    bytes.put("records");
    bytes.put_number(kek_version);
    bytes.put_number(version);
    bytes
}

fn about_own(purpose: &str, id: &str, kek_version: i64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(96);
    bytes.put("own secret");
    bytes.put(purpose);
    bytes.put(id);
    bytes.put_number(kek_version);
    bytes
}

impl Keys {
    /// Sealed at first: see [`Self::unseal`].
    pub(crate) fn new(pool: pg::Pool, config: &Config, cell: Cell, meter: &Meter) -> Result<Self, Error> {
        let root = Root::new(config)?;
        let keys = Self(Arc::new(Inner {
            pool,
            root,
            cell,
            keks: RwLock::default(),
            signer: RwLock::default(),
            tree: signal::Sender::new(Tree::Untried),
            cache: Cache::new(config.key_cache),
            loaders: (0..LOADERS).map(|_| tokio::sync::Mutex::default()).collect(),
            hasher: RandomState::new(),
            meters: Meters {
                loads: meter
                    .u64_counter("vault.key.loads")
                    .with_description("Keys of tenants that were read from the database and unwrapped")
                    .build(),
                unreadable: meter
                    .u64_counter("vault.unreadable")
                    .with_description("Envelopes that did not open")
                    .build(),
            },
        }));
        let weak = Arc::downgrade(&keys.0);
        meter
            .u64_observable_gauge("vault.sealed")
            .with_description("1 while the vault has not had its root at hand")
            .with_callback(move |observer| {
                if let Some(inner) = weak.upgrade() {
                    let open = *inner.tree.borrow() == Tree::Open;
                    observer.observe(u64::from(!open), &[]);
                }
            })
            .build();
        Ok(keys)
    }

    /// Seals a value for its place with the tenant's active key, which is made if this is the tenant's first secret.
    pub(crate) async fn seal(
        &self,
        place: &Place,
        value: &[u8],
        form: Form,
        deadline: Instant,
    ) -> Result<Sealed, Error> {
        let key = self.data_key(place.tenant, None, deadline).await?;
        seal_with(&key, place, form, value)
    }

    /// Opens what [`Self::seal`] made for the same place, or what the rewrap has made of it.
    pub(crate) async fn open(
        &self,
        place: &Place,
        envelope: &str,
        deadline: Instant,
    ) -> Result<Secret<Vec<u8>>, Error> {
        let opened = self.try_open(place, envelope, deadline).await;
        if let Err(Error::Unreadable | Error::KeyRevoked) = opened {
            self.0.meters.unreadable.add(1, &[]);
        }
        opened
    }

    async fn try_open(
        &self,
        place: &Place,
        envelope: &str,
        deadline: Instant,
    ) -> Result<Secret<Vec<u8>>, Error> {
        let envelope: Envelope = envelope.parse().map_err(|_| Error::Unreadable)?;
        let key = self
            .data_key(place.tenant, Some(envelope.key_version), deadline)
            .await?;
        open_with(&key, place, &envelope)
    }

    /// A version of the tenant's key from the cache or the database; without a number, the active one.
    async fn data_key(
        &self,
        tenant: TenantId,
        version: Option<i64>,
        deadline: Instant,
    ) -> Result<Arc<DataKey>, Error> {
        let inner = &*self.0;
        let name = (tenant, version);
        if let Some(key) = inner.cache.get(name, Instant::now()) {
            return Ok(key);
        }
        self.check_unsealed()?;
        let loader = inner.hasher.hash_one(tenant) as usize % LOADERS;
        let loading = inner.loaders[loader].lock();
        let Ok(_loading) = tokio::time::timeout_at(deadline.into(), loading).await else {
            return Err(pg::Error::Timeout(None).into());
        };
        if let Some(key) = inner.cache.get(name, Instant::now()) {
            return Ok(key);
        }
        let purges = inner.cache.purges();
        let key = self.load(tenant, version, deadline).await?;
        let now = Instant::now();
        inner.cache.put(name, &key, purges, now);
        if version.is_none() {
            inner.cache.put((tenant, Some(key.version)), &key, purges, now);
        }
        Ok(key)
    }

    async fn load(
        &self,
        tenant: TenantId,
        version: Option<i64>,
        deadline: Instant,
    ) -> Result<Arc<DataKey>, Error> {
        self.0.meters.loads.add(1, &[]);
        let mut tx = self.0.pool.shared(deadline).await?;
        let found = store::data_key::get(&mut tx, tenant, version).await?;
        tx.commit().await?;
        let Some(row) = found else {
            if version.is_some() {
                return Err(Error::Unreadable);
            }
            return self.first_data_key(tenant, deadline).await;
        };
        match row.state()? {
            State::Active | State::Draining | State::Retired => self.unwrap(tenant, &row).await,
            State::Destroyed => Err(Error::Unreadable),
            State::Revoked => Err(Error::KeyRevoked),
        }
    }

    /// Opens a wrapped key. For callers it is not asked here whether the version was revoked: see [`Self::load`].
    pub(crate) async fn unwrap(&self, tenant: TenantId, row: &Wrapped) -> Result<Arc<DataKey>, Error> {
        let (Some(wrapped), Some(kek)) = (&row.wrapped, &row.kek) else {
            return Err(Error::Unreadable);
        };
        let kek = self.kek(row.kek_version, kek).await?;
        let about = about_data_key(tenant, row.kek_version, row.version);
        let bytes = kek.open(&about, wrapped).map_err(|_| Error::Stored("data key"))?;
        Ok(Arc::new(DataKey {
            tenant,
            version: row.version,
            key: Key::from_bytes(bytes.expose())?,
        }))
    }

    /// The tenant's first secret.
    async fn first_data_key(&self, tenant: TenantId, deadline: Instant) -> Result<Arc<DataKey>, Error> {
        let mut tx = self.0.pool.shared(deadline).await?;
        store::ring::lock_alive(&mut tx, tenant).await?;
        // Another replica may have been faster.
        let key = match store::data_key::get(&mut tx, tenant, None).await? {
            Some(row) => self.unwrap(tenant, &row).await?,
            None => self.add_data_key(&mut tx, tenant).await?,
        };
        tx.commit().await?;
        Ok(key)
    }

    /// Makes the next version of a tenant's key the active one. The ring is locked by the transaction, which is on the shared side.
    pub(crate) async fn add_data_key(
        &self,
        tx: &mut pg::Transaction,
        tenant: TenantId,
    ) -> Result<Arc<DataKey>, Error> {
        let (newest, _) = store::data_key::counts(tx, tenant).await?;
        let data_key = DataKey {
            tenant,
            version: newest + 1,
            key: Key::fresh()?,
        };
        let (kek_version, wrapped) = self.wrap_data_key(tx, &data_key).await?;
        store::data_key::add(tx, tenant, data_key.version, kek_version, &wrapped).await?;
        if newest > 0 {
            store::epoch::bump(tx, &tenant.to_string()).await?;
        }
        Ok(Arc::new(data_key))
    }

    /// Wraps a key by the active KEK, which stays until the transaction ends.
    pub(crate) async fn wrap_data_key(
        &self,
        tx: &mut pg::Transaction,
        data_key: &DataKey,
    ) -> Result<(i64, Vec<u8>), Error> {
        let row = store::kek::active(tx).await?.ok_or(Error::Sealed)?;
        let kek = self.kek(row.version, &row.wrapped).await?;
        let about = about_data_key(data_key.tenant, row.version, data_key.version);
        Ok((row.version, kek.seal(&about, data_key.key.expose())?))
    }

    /// Seals a secret of the cell itself by the active KEK, which stays until the transaction ends. `purpose` and `id` are those of its row in
    /// `own_secret`.
    pub(crate) async fn seal_own(
        &self,
        tx: &mut pg::Transaction,
        purpose: &str,
        id: &str,
        value: &[u8],
    ) -> Result<Own, Error> {
        let row = store::kek::active(tx).await?.ok_or(Error::Sealed)?;
        let kek = self.kek(row.version, &row.wrapped).await?;
        Ok(Own {
            kek_version: row.version,
            sealed: kek.seal(&about_own(purpose, id, row.version), value)?,
        })
    }

    /// Opens what [`Self::seal_own`] made, or what the rotation has made of it.
    pub(crate) async fn open_own(
        &self,
        purpose: &str,
        id: &str,
        own: &Own,
        deadline: Instant,
    ) -> Result<Secret<Vec<u8>>, Error> {
        let kek = self.kek_by_version(own.kek_version, deadline).await?;
        open_own_with(&kek, purpose, id, own)
    }

    /// What signs heads and proofs.
    pub(crate) fn signer(&self) -> Result<Arc<Signer>, Error> {
        let signer = self.0.signer.read().unwrap_or_else(PoisonError::into_inner);
        signer.clone().ok_or(Error::Sealed)
    }

    /// Forgets a tenant's keys here at once; the other replicas hear of it within a second.
    pub(crate) fn forget(&self, tenant: TenantId) {
        self.0.cache.purge(tenant);
    }

    /// Where this is.
    pub(crate) fn cell(&self) -> &Cell {
        &self.0.cell
    }

    /// Whether the root was at hand.
    pub(crate) fn unsealed(&self) -> bool {
        *self.0.tree.borrow() == Tree::Open
    }

    /// Whether the root was looked for, and is not at hand.
    pub(crate) fn sealed(&self) -> bool {
        *self.0.tree.borrow() == Tree::Sealed
    }

    /// Returns once the root was at hand.
    pub(crate) async fn wait_unsealed(&self) {
        // The sender lives in `self`.
        let _ = self.0.tree.subscribe().wait_for(|tree| *tree == Tree::Open).await;
    }

    fn check_unsealed(&self) -> Result<(), Error> {
        if self.unsealed() {
            Ok(())
        } else {
            Err(Error::Sealed)
        }
    }
}

fn open_own_with(kek: &Key, purpose: &str, id: &str, own: &Own) -> Result<Secret<Vec<u8>>, Error> {
    let opened = kek.open(&about_own(purpose, id, own.kek_version), &own.sealed);
    opened.map_err(|_| Error::Stored("secret of the cell"))
}

/// Seals with this key. For many values at once.
pub(crate) fn seal_with(key: &DataKey, place: &Place, form: Form, value: &[u8]) -> Result<Sealed, Error> {
    debug_assert_eq!(key.tenant, place.tenant);
    let envelope = Envelope {
        key_version: key.version,
        body: cipher::seal(&key.key, place, form, value)?,
    };
    Ok(Sealed {
        envelope: envelope.to_string(),
        key_version: key.version,
    })
}

/// Opens with this key.
pub(crate) fn open_with(key: &DataKey, place: &Place, envelope: &Envelope) -> Result<Secret<Vec<u8>>, Error> {
    if (key.tenant, key.version) != (place.tenant, envelope.key_version) {
        return Err(Error::Unreadable);
    }
    cipher::open(&key.key, place, &envelope.body).map_err(|_| Error::Unreadable)
}
