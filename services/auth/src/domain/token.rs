//! Random texts that prove something to us, of which we keep only the SHA-256: their 256 bits need no slower hash.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::digest;
use types::Secret;

/// What a random text is for; it begins with its word, so that it is recognised wherever it should not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Verifies an address.
    Verification,
    /// Sets a new password.
    Reset,
    /// Tells a device that signed in before.
    Device,
}

impl Kind {
    fn prefix(self) -> &'static str {
        match self {
            Self::Verification => "bt_ev_",
            Self::Reset => "bt_pr_",
            Self::Device => "bt_dt_",
        }
    }

    /// A new one.
    pub(crate) fn fresh(self) -> Secret<String> {
        let random: [u8; 32] = rand::random();
        Secret::new(format!(
            "{}{}",
            self.prefix(),
            BASE64_URL_SAFE_NO_PAD.encode(random)
        ))
    }

    /// What is kept of one that was presented; none if it cannot be one.
    pub(crate) fn hash(self, text: &str) -> Option<[u8; 32]> {
        let body = text.strip_prefix(self.prefix())?;
        (body.len() == 43).then(|| sha256(text.as_bytes()))
    }
}

/// SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, bytes);
    let mut hash = [0; 32];
    hash.copy_from_slice(digest.as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::Kind;

    #[test]
    fn tokens_differ_and_serve_one_purpose() {
        let (one, other) = (Kind::Reset.fresh(), Kind::Reset.fresh());
        assert_ne!(one.expose(), other.expose());
        assert_ne!(Kind::Reset.hash(one.expose()), Kind::Reset.hash(other.expose()));
        assert!(Kind::Reset.hash(one.expose()).is_some());
        assert_eq!(Kind::Verification.hash(one.expose()), None);
        assert_eq!(Kind::Reset.hash(""), None);
        assert_eq!(Kind::Reset.hash("bt_pr_' OR 1=1; --"), None);
    }
}
