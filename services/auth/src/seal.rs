//! Secrets at rest: AES-256-GCM under one key that is never in the database.
//!
//! A sealed value opens only in the place it was sealed for: table, row and field are authenticated with it, so that a ciphertext
//! copied into another row fails. Envelope: version 1 (one byte), the key's fingerprint (four), nonce (twelve), ciphertext and tag.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chassis::SecretString;
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf, hmac,
    rand::{SecureRandom as _, SystemRandom},
};
use types::Secret;
use zeroize::Zeroize as _;

const VERSION: u8 = 1;
const FINGERPRINT_LEN: usize = 4;
const HEAD_LEN: usize = 1 + FINGERPRINT_LEN + NONCE_LEN;
/// AES-256.
const KEY_LEN: usize = 32;

/// Why a value cannot be sealed or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SealError {
    /// The configured key is not 32 bytes in base64.
    #[error("the seal key is not 32 bytes in base64")]
    Key,
    /// Sealed under another key, or by a later version.
    #[error("sealed under another key than TRAILMESH_AUTH_SEAL_KEY")]
    OtherKey,
    /// Changed, cut off, or moved from its place.
    #[error("a sealed value was changed or moved")]
    Changed,
    /// The system has no randomness, or the value is too large.
    #[error("sealing failed")]
    Failed,
}

/// Seals and opens.
#[derive(Clone)]
pub(crate) struct Sealer {
    key: Secret<[u8; KEY_LEN]>,
    fingerprint: [u8; FINGERPRINT_LEN],
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl Sealer {
    /// From the key as it is configured: 32 bytes in standard base64.
    pub(crate) fn new(text: &SecretString) -> Result<Self, SealError> {
        let mut bytes = STANDARD
            .decode(text.expose().trim())
            .map_err(|_| SealError::Key)?;
        let key = <[u8; KEY_LEN]>::try_from(bytes.as_slice());
        bytes.zeroize();
        let key = Secret::new(key.map_err(|_| SealError::Key)?);
        let mut fingerprint = [0; FINGERPRINT_LEN];
        expand(&key, "fingerprint", &mut fingerprint)?;
        Ok(Self { key, fingerprint })
    }

    /// Seals `clear` for the column `field` of the row `row` of `table`.
    pub(crate) fn seal(
        &self,
        table: &str,
        row: &str,
        field: &str,
        clear: &[u8],
    ) -> Result<Vec<u8>, SealError> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new()
            .fill(&mut nonce)
            .map_err(|_| SealError::Failed)?;
        let mut body = clear.to_vec();
        let sealed = self.cipher()?.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(place(table, row, field)),
            &mut body,
        );
        if sealed.is_err() {
            body.zeroize();
            return Err(SealError::Failed);
        }
        let mut out = Vec::with_capacity(HEAD_LEN + body.len());
        out.push(VERSION);
        out.extend_from_slice(&self.fingerprint);
        out.extend_from_slice(&nonce);
        out.append(&mut body);
        Ok(out)
    }

    /// Opens what [`Self::seal`] made for the same place.
    pub(crate) fn open(
        &self,
        table: &str,
        row: &str,
        field: &str,
        sealed: &[u8],
    ) -> Result<Secret<Vec<u8>>, SealError> {
        let (head, body) = sealed.split_at_checked(HEAD_LEN).ok_or(SealError::Changed)?;
        if head[0] != VERSION || head[1..=FINGERPRINT_LEN] != self.fingerprint {
            return Err(SealError::OtherKey);
        }
        let nonce =
            Nonce::try_assume_unique_for_key(&head[1 + FINGERPRINT_LEN..]).map_err(|_| SealError::Changed)?;
        let mut body = body.to_vec();
        let opened = self
            .cipher()?
            .open_in_place(nonce, Aad::from(place(table, row, field)), &mut body);
        let length = opened.map(|plain| plain.len()).map_err(|_| SealError::Changed)?;
        body.truncate(length);
        Ok(Secret::new(body))
    }

    /// A key for HMAC-SHA-256 that serves `purpose` and nothing else.
    pub(crate) fn mac_key(&self, purpose: &'static str) -> Result<hmac::Key, SealError> {
        let mut bytes = [0; KEY_LEN];
        expand(&self.key, purpose, &mut bytes)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &bytes);
        bytes.zeroize();
        Ok(key)
    }

    fn cipher(&self) -> Result<LessSafeKey, SealError> {
        let mut bytes = [0; KEY_LEN];
        expand(&self.key, "seal", &mut bytes)?;
        let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| SealError::Failed);
        bytes.zeroize();
        Ok(LessSafeKey::new(key?))
    }
}

/// HKDF-SHA-256 (RFC 5869) of the configured key.
fn expand(key: &Secret<[u8; KEY_LEN]>, purpose: &str, out: &mut [u8]) -> Result<(), SealError> {
    let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"trailmesh/auth/1");
    let info = [purpose.as_bytes()];
    let expanded = salt
        .extract(key.expose())
        .expand(&info, Length(out.len()))
        .and_then(|okm| okm.fill(out));
    expanded.map_err(|_| SealError::Failed)
}

/// What is authenticated with a sealed value. None of the three ever holds a bar.
fn place(table: &str, row: &str, field: &str) -> String {
    format!("{table}|{row}|{field}")
}

#[cfg(test)]
mod tests {
    use super::{HEAD_LEN, SealError, Sealer};

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn sealer(text: &str) -> Result<Sealer, SealError> {
        Sealer::new(&text.parse().unwrap())
    }

    #[test]
    fn a_sealed_value_opens_in_its_place_only() {
        let sealer = sealer(KEY).unwrap();
        let sealed = sealer.seal("factor", "a", "secret", b"attack at dawn").unwrap();
        assert_eq!(
            sealer.open("factor", "a", "secret", &sealed).unwrap().expose(),
            b"attack at dawn"
        );
        for (table, row, field) in [
            ("ring_key", "a", "secret"),
            ("factor", "b", "secret"),
            ("factor", "a", "other"),
        ] {
            assert_eq!(
                sealer.open(table, row, field, &sealed).unwrap_err(),
                SealError::Changed
            );
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let sealer = sealer(KEY).unwrap();
        let sealed = sealer.seal("t", "r", "f", b"x").unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(sealer.open("t", "r", "f", &changed).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(sealer.open("t", "r", "f", &sealed[..length]).is_err());
        }
    }

    #[test]
    fn another_key_is_told_from_damage() {
        let other = sealer("AQECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
        let sealed = sealer(KEY).unwrap().seal("t", "r", "f", b"x").unwrap();
        assert_eq!(
            other.open("t", "r", "f", &sealed).unwrap_err(),
            SealError::OtherKey
        );
    }

    #[test]
    fn equal_values_look_different_and_keep_nothing_plain() {
        let sealer = sealer(KEY).unwrap();
        let [one, two] = [0; 2].map(|_| sealer.seal("t", "r", "f", b"canary").unwrap());
        assert_ne!(one[HEAD_LEN..], two[HEAD_LEN..]);
        assert!(!one.windows(6).any(|part| part == b"canary"));
    }

    #[test]
    fn a_key_of_another_length_is_refused() {
        for text in ["", "AAEC", "not base64!", &format!("{KEY}{KEY}")] {
            assert_eq!(sealer(text).err(), Some(SealError::Key), "{text}");
        }
    }
}
