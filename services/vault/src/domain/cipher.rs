//! The cryptography: what is sealed with a key, and how a key comes from another. Nothing here knows where keys are kept.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, MAX_TAG_LEN, NONCE_LEN, Nonce, UnboundKey},
    hkdf,
    rand::{SecureRandom as _, SystemRandom},
};
use types::Secret;
use zeroize::{Zeroize as _, Zeroizing};

use super::place::{Form, Place};

/// All keys of the tree: 256 bits.
pub(crate) const KEY_LEN: usize = 32;

/// What keeps keys of this use apart from those of any other.
const RECORD_SALT: &[u8] = b"trailmesh/vault/record/1";

/// Why a value cannot be sealed or opened. It says nothing of the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CipherError {
    /// Changed, cut off, moved from its place, or sealed with another key.
    #[error("what is sealed was changed, moved, or sealed with another key")]
    Changed,
    /// The system has no randomness, or the value is too large.
    #[error("sealing failed")]
    Failed,
}

/// A key of the tree. Wiped when dropped; not printed, not compared, not copied.
pub(crate) struct Key(Secret<[u8; KEY_LEN]>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl Key {
    /// A new one.
    pub(crate) fn fresh() -> Result<Self, CipherError> {
        let mut bytes = [0; KEY_LEN];
        SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| CipherError::Failed)?;
        let key = Self(Secret::new(bytes));
        bytes.zeroize();
        Ok(key)
    }

    /// From its bytes, which stay with the caller.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, CipherError> {
        let mut array = <[u8; KEY_LEN]>::try_from(bytes).map_err(|_| CipherError::Changed)?;
        let key = Self(Secret::new(array));
        array.zeroize();
        Ok(key)
    }

    /// Its bytes, for the one place that wraps or derives.
    pub(crate) fn expose(&self) -> &[u8; KEY_LEN] {
        self.0.expose()
    }

    /// HKDF-SHA-256 (RFC 5869).
    pub(crate) fn derive(&self, salt: &[u8], info: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        expand(self.expose(), salt, info, out)
    }

    /// AES-256-GCM with a random nonce: nonce, ciphertext, tag. What is in `about` is authenticated with it.
    pub(crate) fn seal(&self, about: &[u8], clear: &[u8]) -> Result<Vec<u8>, CipherError> {
        let mut out = Vec::with_capacity(NONCE_LEN + clear.len() + MAX_TAG_LEN);
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new()
            .fill(&mut nonce)
            .map_err(|_| CipherError::Failed)?;
        out.extend_from_slice(&nonce);
        out.extend_from_slice(clear);
        let sealed = self.gcm()?.seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(about),
            &mut out[NONCE_LEN..],
        );
        match sealed {
            Ok(tag) => {
                out.extend_from_slice(tag.as_ref());
                Ok(out)
            }
            Err(_) => {
                out.zeroize();
                Err(CipherError::Failed)
            }
        }
    }

    /// Opens what [`Self::seal`] made with the same `about`.
    pub(crate) fn open(&self, about: &[u8], sealed: &[u8]) -> Result<Secret<Vec<u8>>, CipherError> {
        let (nonce, body) = sealed.split_at_checked(NONCE_LEN).ok_or(CipherError::Changed)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| CipherError::Changed)?;
        let mut body = body.to_vec();
        let length = self
            .gcm()?
            .open_in_place(nonce, Aad::from(about), &mut body)
            .map(|plain| plain.len());
        match length {
            Ok(length) => {
                body.truncate(length);
                Ok(Secret::new(body))
            }
            Err(_) => Err(CipherError::Changed),
        }
    }

    fn gcm(&self) -> Result<LessSafeKey, CipherError> {
        let key = UnboundKey::new(&AES_256_GCM, self.expose()).map_err(|_| CipherError::Failed)?;
        Ok(LessSafeKey::new(key))
    }

    /// The key of one place, from a tenant's data key.
    fn record(&self, place: &Place, form: Form) -> Result<Self, CipherError> {
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        self.derive(RECORD_SALT, &place.bytes(form), bytes.as_mut())?;
        Ok(Self(Secret::new(*bytes)))
    }

    /// This key as Fernet's: the first half signs, the second encrypts.
    fn fernet(&self) -> Result<fernet::Fernet, CipherError> {
        let text = Zeroizing::new(URL_SAFE.encode(self.expose()));
        fernet::Fernet::new(&text).ok_or(CipherError::Failed)
    }
}

pub(super) fn expand(secret: &[u8], salt: &[u8], info: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
    let parts = [info];
    let expanded = hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
        .extract(secret)
        .expand(&parts, Length(out.len()))
        .and_then(|okm| okm.fill(out));
    expanded.map_err(|_| CipherError::Failed)
}

/// Seals `value` for `place` with a tenant's data key.
pub(crate) fn seal(data_key: &Key, place: &Place, form: Form, value: &[u8]) -> Result<Body, CipherError> {
    let key = data_key.record(place, form)?;
    Ok(match form {
        Form::Fernet => Body::Fernet(key.fernet()?.encrypt(value)),
        Form::Aes256Gcm => Body::Aes256Gcm(key.seal(&place.bytes(form), value)?),
    })
}

/// Opens what [`seal`] made for the same place.
pub(crate) fn open(data_key: &Key, place: &Place, body: &Body) -> Result<Secret<Vec<u8>>, CipherError> {
    let form = body.form();
    let key = data_key.record(place, form)?;
    match body {
        Body::Fernet(token) => {
            let opened = key.fernet()?.decrypt(token);
            opened.map(Secret::new).map_err(|_| CipherError::Changed)
        }
        Body::Aes256Gcm(sealed) => key.open(&place.bytes(form), sealed),
    }
}

/// What a value has become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// A Fernet token as text, in the one spelling that base64url has for it.
    Fernet(String),
    /// Nonce, ciphertext and tag.
    Aes256Gcm(Vec<u8>),
}

impl Body {
    pub(crate) fn form(&self) -> Form {
        match self {
            Self::Fernet(_) => Form::Fernet,
            Self::Aes256Gcm(_) => Form::Aes256Gcm,
        }
    }
}
