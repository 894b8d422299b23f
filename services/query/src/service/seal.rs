//! What page tokens are sealed with. Where a page ends can be a change that its reader does not see, so nobody reads it off the token: AES-256-GCM
//! under a key of the tenant's, made by HKDF from one that all replicas have from the database.

use std::{sync::Arc, time::Instant};

use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
    rand::{SecureRandom as _, SystemRandom},
};
use tokio::sync::OnceCell;
use types::TenantId;

use super::error::Error;

/// What keys are made for.
const PURPOSE: &[u8] = b"trailmesh query page token 1";

/// Bytes of the key that all replicas have.
const KEY: usize = 32;

/// A sealed text has a multiple of so many bytes, with its length in the first two: how long it is tells something. A place in a log whose name
/// has 255 bytes, the most that a file may have, is one of them.
const STEP: usize = 320;

/// The key that all replicas have, once it was needed. Clones share it.
#[derive(Clone)]
pub(super) struct Keys(Arc<Inner>);

struct Inner {
    pool: pg::Pool,
    key: OnceCell<[u8; KEY]>,
}

impl Keys {
    /// Of this database.
    pub(super) fn new(pool: pg::Pool) -> Self {
        Self(Arc::new(Inner {
            pool,
            key: OnceCell::new(),
        }))
    }

    /// What seals tokens of a tenant's.
    pub(super) async fn of(&self, tenant: TenantId, deadline: Instant) -> Result<Seal, Error> {
        let read = || read(&self.0.pool, deadline);
        let key = self.0.key.get_or_try_init(read).await?;
        Seal::new(key, tenant)
    }
}

/// Reads the key; the first who does makes it.
async fn read(pool: &pg::Pool, deadline: Instant) -> Result<[u8; KEY], Error> {
    let mut fresh = [0; KEY];
    SystemRandom::new().fill(&mut fresh).map_err(|_| Error::Sealing)?;
    let mut tx = pool.shared(deadline).await?;
    sqlx::query("INSERT INTO query.page_key (key) VALUES ($1) ON CONFLICT DO NOTHING")
        .bind(fresh.as_slice())
        .execute(&mut *tx)
        .await
        .map_err(pg::Error::from)?;
    let key: Vec<u8> = sqlx::query_scalar("SELECT key FROM query.page_key")
        .fetch_one(&mut *tx)
        .await
        .map_err(pg::Error::from)?;
    tx.commit().await?;
    key.try_into().map_err(|_| Error::Sealing)
}

/// Seals and opens for one tenant.
#[derive(Clone, Debug)]
pub(super) struct Seal(LessSafeKey);

impl Seal {
    fn new(key: &[u8; KEY], tenant: TenantId) -> Result<Self, Error> {
        let tenant = tenant.to_string();
        let made = Salt::new(HKDF_SHA256, PURPOSE).extract(key);
        let info = [tenant.as_bytes()];
        let made = made.expand(&info, &AES_256_GCM).map_err(|_| Error::Sealing)?;
        Ok(Self(LessSafeKey::new(UnboundKey::from(made))))
    }

    /// A sealed text, which opens with these words beside it only.
    pub(super) fn seal(&self, text: &[u8], beside: &[u8]) -> Result<Vec<u8>, Error> {
        let length = u16::try_from(text.len()).map_err(|_| Error::Sealing)?;
        let mut sealed = length.to_be_bytes().to_vec();
        sealed.extend_from_slice(text);
        sealed.resize(sealed.len().next_multiple_of(STEP), 0);
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| Error::Sealing)?;
        let once = Nonce::assume_unique_for_key(nonce);
        let by = self
            .0
            .seal_in_place_append_tag(once, Aad::from(beside), &mut sealed);
        by.map_err(|_| Error::Sealing)?;
        let mut whole = nonce.to_vec();
        whole.append(&mut sealed);
        Ok(whole)
    }

    /// The text; none if it was not sealed here, for this tenant, with these words beside it.
    pub(super) fn open(&self, sealed: &[u8], beside: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let once = Nonce::assume_unique_for_key(*nonce);
        let mut sealed = sealed.to_vec();
        let text = self.0.open_in_place(once, Aad::from(beside), &mut sealed).ok()?;
        let (length, text) = text.split_first_chunk::<2>()?;
        text.get(..usize::from(u16::from_be_bytes(*length)))
            .map(<[u8]>::to_vec)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use types::TenantId;

    use super::Seal;

    pub(crate) fn of(tenant: TenantId) -> Seal {
        Seal::new(&[7; 32], tenant).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_for_its_tenant_and_beside_its_words_only() {
        let tenant = TenantId::fresh();
        let sealed = of(tenant).seal(b"a place", b"words").unwrap();
        assert_eq!(of(tenant).open(&sealed, b"words").unwrap(), b"a place");
        assert!(of(tenant).open(&sealed, b"other").is_none());
        assert!(of(TenantId::fresh()).open(&sealed, b"words").is_none());
        let other = Seal::new(&[8; 32], tenant).unwrap();
        assert!(other.open(&sealed, b"words").is_none());
        for at in 0..sealed.len() {
            let mut spoilt = sealed.clone();
            spoilt[at] ^= 1;
            assert!(of(tenant).open(&spoilt, b"words").is_none());
            assert!(of(tenant).open(&sealed[..at], b"words").is_none());
        }
    }

    #[test]
    fn it_tells_neither_what_it_says_nor_how_long_that_is_nor_whether_it_was_said_before() {
        let seal = of(TenantId::fresh());
        let sealed = |text: &[u8]| seal.seal(text, b"").unwrap();
        assert_eq!(sealed(b"1").len(), sealed(&[7; 62]).len());
        assert_ne!(sealed(b"binlog.000003"), sealed(b"binlog.000003"));
        let told = sealed(b"binlog.000003");
        assert!(!told.windows(6).any(|window| window == b"binlog"));
    }
}
