//! Signatures under statements: heads of audit chains, and proofs that keys were destroyed.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde::Serialize;

use crate::{domain::statement::sha256, error::Error};

/// The purpose of the private keys among the secrets of the cell.
pub(crate) const PURPOSE: &str = "signing";

/// A statement with its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signed {
    /// JSON; exactly these bytes are signed.
    pub(crate) statement: String,
    /// Ed25519, base64url without padding.
    pub(crate) signature: String,
    /// By which key.
    pub(crate) key_id: String,
}

/// A key that signs.
pub(crate) struct Signer {
    id: String,
    pair: Ed25519KeyPair,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.id)
    }
}

impl Signer {
    /// From its 32 bytes.
    pub(crate) fn new(seed: &[u8]) -> Result<Self, Error> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| Error::Stored("signing key"))?;
        let mut id = sha256(pair.public_key().as_ref());
        id.truncate(16);
        Ok(Self {
            id: format!("sig_{id}"),
            pair,
        })
    }

    /// Its name, made from its public half.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Its public half.
    pub(crate) fn public(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    /// Signs a statement.
    pub(crate) fn sign(&self, statement: &impl Serialize) -> Result<Signed, Error> {
        let statement = serde_json::to_string(statement).map_err(|_| Error::Stored("statement"))?;
        let signature = self.pair.sign(statement.as_bytes());
        Ok(Signed {
            signature: URL_SAFE_NO_PAD.encode(signature.as_ref()),
            key_id: self.id.clone(),
            statement,
        })
    }
}

/// A public key as messages have it.
pub(crate) fn public_text(public: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(public)
}

/// Whether a hash of a chain has the right length; what it is otherwise is not for the vault to know.
pub(crate) fn is_hash(hash: &[u8]) -> bool {
    hash.len() == 32
}
