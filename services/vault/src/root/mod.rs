//! The root of the key tree: it wraps key-encryption keys, and is never in the database.

mod kms;
mod local;

use std::time::Duration;

use types::{Code, Fault};

use crate::{Cell, Config, domain::cipher::Key};

pub(crate) use kms::KmsRoot;
pub(crate) use local::LocalRoot;

/// Why the root does not wrap or unwrap.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RootError {
    /// It is not 32 bytes in base64.
    #[error("the root key is not 32 bytes in base64")]
    Key,
    /// Another root wrapped it, or it was changed.
    #[error("the root does not open what is stored: another root wrapped it, or it was changed")]
    Wrong,
    /// KMS says no.
    #[error("AWS KMS refuses: {0}")]
    Refused(String),
    /// KMS does not answer.
    #[error("AWS KMS cannot be reached: {0}")]
    Unreachable(String),
}

impl Fault for RootError {
    fn code(&self) -> Code {
        match self {
            Self::Key | Self::Refused(_) => Code::Refused,
            Self::Wrong => Code::Corrupt,
            Self::Unreachable(_) => Code::Unavailable,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Key => "ROOT_KEY_INVALID",
            Self::Wrong => "ROOT_KEY_WRONG",
            Self::Refused(_) => "ROOT_REFUSED",
            Self::Unreachable(_) => "ROOT_UNREACHABLE",
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        matches!(self, Self::Unreachable(_)).then_some(Duration::from_secs(1))
    }
}

/// A root.
pub(crate) enum Root {
    /// A key of this process' configuration.
    Local(LocalRoot),
    /// A key that never leaves AWS KMS.
    Kms(KmsRoot),
}

impl Root {
    /// The configured one, if there is one.
    pub(crate) fn new(config: &Config) -> Result<Option<Self>, RootError> {
        if let Some(key) = &config.kms_key_id {
            return Ok(Some(Self::Kms(KmsRoot::new(config, key))));
        }
        if config.root_key.expose().is_empty() {
            return Ok(None);
        }
        Ok(Some(Self::Local(LocalRoot::new(&config.root_key)?)))
    }

    /// Which it is, for the table of what it has wrapped. It tells nothing of the key.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Local(root) => root.name(),
            Self::Kms(root) => root.name(),
        }
    }

    /// Wraps the KEK of this version in this cell.
    pub(crate) async fn wrap(&self, cell: &Cell, version: i64, kek: &Key) -> Result<Vec<u8>, RootError> {
        match self {
            Self::Local(root) => root.wrap(cell, version, kek),
            Self::Kms(root) => root.wrap(cell, version, kek).await,
        }
    }

    /// Unwraps what [`Self::wrap`] made for the same cell and version.
    pub(crate) async fn unwrap(&self, cell: &Cell, version: i64, wrapped: &[u8]) -> Result<Key, RootError> {
        match self {
            Self::Local(root) => root.unwrap(cell, version, wrapped),
            Self::Kms(root) => root.unwrap(cell, version, wrapped).await,
        }
    }
}
