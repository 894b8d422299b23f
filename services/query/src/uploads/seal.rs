//! How what is stored of an upload is sealed: AES-256-GCM with the upload's own key, 1 MiB at a time.
//!
//! Each chunk is bound to its place (tenant, upload, file, number, and whether it is the file's last), so one that is put in the place of another
//! does not open, and a file that was cut off is not taken for whole. The nonce is random: a key seals at most some ten thousand chunks, and
//! two nonces of 96 bits are the same among them once in 2⁶⁵ uploads.

use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom as _, SystemRandom},
};
use types::{Secret, TenantId, UploadId};
use zeroize::Zeroize as _;

use super::error::Error;

/// Bytes of a key.
pub(super) const KEY_LEN: usize = 32;

/// An upload's key. Wiped when dropped.
#[derive(Debug)]
pub(super) struct Key(Secret<[u8; KEY_LEN]>);

/// Where a chunk belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place<'a> {
    /// Whose.
    pub(super) tenant: TenantId,
    /// Of which upload.
    pub(super) upload: UploadId,
    /// Of which of its files; none is the log itself.
    pub(super) file: Option<(i64, &'a str)>,
    /// Which chunk of the file, from 0.
    pub(super) number: u64,
    /// Whether it is the last. Those of a log that still comes are none.
    pub(super) last: bool,
}

impl Place<'_> {
    /// Bytes that no other place has: each part has its length before it, or a length of its own.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"trailmesh/query/upload/1".to_vec();
        let mut put = |text: &str| {
            bytes.extend((text.len() as u64).to_be_bytes());
            bytes.extend(text.as_bytes());
        };
        put(&self.tenant.to_string());
        put(&self.upload.to_string());
        let (attempt, name) = self.file.unwrap_or((0, ""));
        put(name);
        bytes.extend(attempt.to_be_bytes());
        bytes.extend(self.number.to_be_bytes());
        bytes.push(u8::from(self.last));
        bytes
    }
}

impl Key {
    /// A new one.
    pub(super) fn fresh() -> Result<Self, Error> {
        let mut bytes = [0; KEY_LEN];
        SystemRandom::new().fill(&mut bytes).map_err(|_| Error::Random)?;
        let key = Self(Secret::new(bytes));
        bytes.zeroize();
        Ok(key)
    }

    /// As the vault opened it.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Error> {
        let mut own: [u8; KEY_LEN] = bytes.try_into().map_err(|_| Error::Key)?;
        let key = Self(Secret::new(own));
        own.zeroize();
        Ok(key)
    }

    /// For the vault.
    pub(super) fn expose(&self) -> &[u8] {
        self.0.expose()
    }

    fn cipher(&self) -> Result<LessSafeKey, Error> {
        let key = UnboundKey::new(&AES_256_GCM, self.0.expose());
        key.map(LessSafeKey::new).map_err(|_| Error::Key)
    }

    /// Seals a chunk for its place: nonce, ciphertext, tag.
    pub(super) fn seal(&self, place: &Place<'_>, plain: &[u8]) -> Result<Vec<u8>, Error> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| Error::Random)?;
        let mut sealed = Vec::with_capacity(NONCE_LEN + plain.len() + AES_256_GCM.tag_len());
        sealed.extend(nonce);
        sealed.extend_from_slice(plain);
        let aad = Aad::from(place.bytes());
        let body = &mut sealed[NONCE_LEN..];
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self
            .cipher()?
            .seal_in_place_separate_tag(nonce, aad, body)
            .map_err(|_| Error::Random)?;
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// Opens what was sealed for this place.
    pub(super) fn open(&self, place: &Place<'_>, mut sealed: Vec<u8>) -> Result<Vec<u8>, Error> {
        let nonce = sealed.first_chunk::<NONCE_LEN>().copied().ok_or(Error::Changed)?;
        let nonce = Nonce::assume_unique_for_key(nonce);
        let aad = Aad::from(place.bytes());
        let opened = self.cipher()?.open_within(nonce, aad, &mut sealed, NONCE_LEN..);
        let length = opened.map_err(|_| Error::Changed)?.len();
        sealed.truncate(length);
        Ok(sealed)
    }
}

#[cfg(test)]
mod tests {
    use types::{TenantId, UploadId};

    use super::{Error, Key, Place};

    #[test]
    fn a_chunk_opens_in_its_own_place_only_and_not_when_a_bit_of_it_changed() {
        let (key, other) = (Key::fresh().unwrap(), Key::fresh().unwrap());
        let place = Place {
            tenant: TenantId::fresh(),
            upload: UploadId::fresh(),
            file: Some((1, "seg-1-0.parquet")),
            number: 3,
            last: false,
        };
        let sealed = key.seal(&place, b"a row").unwrap();
        assert!(!sealed.windows(5).any(|bytes| bytes == b"a row"));
        assert_eq!(key.open(&place, sealed.clone()).unwrap(), b"a row");
        assert_ne!(
            key.seal(&place, b"a row").unwrap(),
            sealed,
            "no nonce comes again"
        );
        let moved = [
            Place {
                tenant: TenantId::fresh(),
                ..place
            },
            Place {
                upload: UploadId::fresh(),
                ..place
            },
            Place { file: None, ..place },
            Place {
                file: Some((2, "seg-1-0.parquet")),
                ..place
            },
            Place {
                file: Some((1, "seg-1-1.parquet")),
                ..place
            },
            Place { number: 4, ..place },
            Place { last: true, ..place },
        ];
        for moved in moved {
            let opened = key.open(&moved, sealed.clone());
            assert!(matches!(opened, Err(Error::Changed)), "{moved:?}");
        }
        assert!(matches!(other.open(&place, sealed.clone()), Err(Error::Changed)));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(matches!(key.open(&place, changed), Err(Error::Changed)), "{at}");
            let cut = sealed[..at].to_vec();
            assert!(matches!(key.open(&place, cut), Err(Error::Changed)), "{at}");
        }
    }
}
