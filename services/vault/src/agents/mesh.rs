//! What agents are told to trust: the mesh's own authorities, the keys of its public door, and the keys that verify delegations.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chassis::{
    identity::Bundle,
    token::{KeySet, VerifyingKey},
};
use types::Region;

/// A public key that the door may show: SHA-256 of its SubjectPublicKeyInfo, written as `sha256/<base64>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pin([u8; 32]);

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256/{}", STANDARD.encode(self.0))
    }
}

impl FromStr for Pin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digest = text
            .strip_prefix("sha256/")
            .ok_or("does not begin with sha256/")?;
        let digest = STANDARD.decode(digest).map_err(|_| "is not base64")?;
        let digest = digest.try_into().map_err(|_| "is not a SHA-256 of 32 bytes")?;
        Ok(Self(digest))
    }
}

/// Where it all comes from. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Mesh {
    pub(crate) bundle: Bundle,
    pub(crate) keys: KeySet,
    pub(crate) pins: Vec<Pin>,
}

/// What an agent trusts.
pub(crate) struct MeshTrust {
    /// PEM.
    pub(crate) bundle: String,
    pub(crate) trust_domain: String,
    pub(crate) region: Region,
    pub(crate) pins: Vec<Pin>,
    pub(crate) delegation_keys: Vec<VerifyingKey>,
}

impl Mesh {
    /// All of it, as it is now.
    pub(crate) fn trust(&self, realm: &super::Realm) -> MeshTrust {
        MeshTrust {
            bundle: self.bundle.pem().to_string(),
            trust_domain: realm.trust_domain.clone(),
            region: realm.region,
            pins: self.pins.clone(),
            delegation_keys: self.keys.list(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Pin;

    #[test]
    fn a_pin_is_a_whole_digest_in_canonical_base64() {
        let good = "sha256/AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        assert_eq!(good.parse::<Pin>().unwrap().to_string(), good);
        for bad in [
            "",
            "sha256/",
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            "sha512/AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            "sha256/AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
            "sha256/AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9=",
            "sha256/AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHg==",
            "sha256/ AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        ] {
            assert!(bad.parse::<Pin>().is_err(), "{bad}");
        }
    }
}
