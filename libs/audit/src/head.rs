//! Signed heads: the vault's word that a tenant's chain ended with this hash at this time.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{ED25519, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use crate::Hash;

/// A head as the vault signed it. JSON of `GET /v1/audit/head` reads into it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedHead {
    /// JSON; these exact bytes are signed.
    pub statement: String,
    /// Ed25519, base64url without padding.
    pub signature: String,
    /// Which key.
    #[serde(alias = "keyId")]
    pub key_id: String,
}

/// What a head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// `tnt_…`
    pub tenant: String,
    /// The number of the last record.
    pub size: i64,
    /// Its hash.
    pub hash: Hash,
    /// When it was signed, as the statement has it.
    pub time: String,
}

/// Why a head proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Its statement is not one.
    #[error("the statement of the head cannot be read")]
    Statement,
    /// Nobody knows the key.
    #[error("the key {0} of the head is not among the keys given")]
    UnknownKey(String),
    /// It is not what was signed.
    #[error("the signature of the head is false")]
    Signature,
}

/// The keys that sign heads sign other statements too; the first field tells them apart.
const KIND: &str = "audit-head";

#[derive(Deserialize)]
struct Statement {
    #[serde(rename = "type")]
    kind: String,
    tenant: String,
    size: i64,
    hash: String,
    #[serde(default)]
    time: serde_json::Value,
}

impl SignedHead {
    /// What it says, whoever signed it.
    ///
    /// # Errors
    /// [`HeadError::Statement`].
    pub fn read(&self) -> Result<Head, HeadError> {
        let said: Statement = serde_json::from_str(&self.statement).map_err(|_| HeadError::Statement)?;
        if said.kind != KIND {
            return Err(HeadError::Statement);
        }
        let time = match said.time {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        Ok(Head {
            tenant: said.tenant,
            size: said.size,
            hash: Hash::from_hex(&said.hash).ok_or(HeadError::Statement)?,
            time,
        })
    }

    /// What it says, if one of `keys` signed it.
    ///
    /// # Errors
    /// When none did.
    pub fn verify(&self, keys: &Keys) -> Result<Head, HeadError> {
        let key = keys
            .0
            .get(&self.key_id)
            .ok_or_else(|| HeadError::UnknownKey(self.key_id.clone()))?;
        let signature = URL_SAFE_NO_PAD
            .decode(&self.signature)
            .map_err(|_| HeadError::Signature)?;
        UnparsedPublicKey::new(&ED25519, key)
            .verify(self.statement.as_bytes(), &signature)
            .map_err(|_| HeadError::Signature)?;
        self.read()
    }
}

/// The public keys of an installation, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys(BTreeMap<String, Vec<u8>>);

#[derive(Deserialize)]
struct KeyFile {
    keys: Vec<Key>,
}

#[derive(Deserialize)]
struct Key {
    #[serde(alias = "keyId")]
    key_id: String,
    ed25519: String,
}

impl Keys {
    /// Reads the JSON that `GET /v1/signing-keys` answers; none where it is something else.
    pub fn read(json: &str) -> Option<Self> {
        let file: KeyFile = serde_json::from_str(json).ok()?;
        let keys = file.keys.into_iter().map(|key| {
            let bytes = URL_SAFE_NO_PAD.decode(key.ed25519.trim_end_matches('=')).ok()?;
            (bytes.len() == 32).then_some((key.key_id, bytes))
        });
        keys.collect::<Option<BTreeMap<_, _>>>().map(Self)
    }

    /// One key.
    pub fn one(key_id: &str, ed25519: &[u8]) -> Self {
        Self(BTreeMap::from([(key_id.to_owned(), ed25519.to_vec())]))
    }
}
