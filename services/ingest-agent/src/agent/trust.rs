//! Whom the agent trusts, as the vault says it: the mesh's authorities, its pins, and the keys that verify delegations.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chassis::{identity::SpiffeId, token::VerifyingKey};
use proto::vault::v1 as pb;
use serde::{Deserialize, Serialize};
use types::Region;

use super::{
    error::Error,
    folder::Folder,
    pins::{Pin, Pins},
};

const FILE: &str = "trust.json";
/// More keys than a rotation ever needs.
const KEYS_MAX: usize = 32;

/// What an agent trusts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// The mesh's authorities, PEM.
    pub(super) bundle: String,
    trust_domain: String,
    region: String,
    /// None if the vault names none: then a person has pinned.
    pub(super) pins: Option<Pins>,
    delegation_keys: Vec<Key>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    kid: String,
    ed25519: String,
}

impl Trust {
    /// What the vault said.
    pub(super) fn read(told: pb::MeshTrust) -> Result<Self, Error> {
        let wrong = |why: &str| Error::Protocol {
            what: "the vault",
            why: why.to_owned(),
        };
        let pins: Vec<Pin> = told
            .pins
            .iter()
            .map(|pin| pin.parse())
            .collect::<Result<_, _>>()
            .map_err(|why: String| wrong(&format!("tells a pin that is none: {why}")))?;
        let pins = if pins.is_empty() {
            None
        } else {
            Some(Pins::new(pins).map_err(|why| wrong(&format!("tells pins that are none: {why}")))?)
        };
        if told.delegation_keys.len() > KEYS_MAX {
            return Err(wrong("tells too many keys"));
        }
        let trust = Self {
            bundle: told.bundle,
            trust_domain: told.trust_domain,
            region: told.region,
            pins,
            delegation_keys: told
                .delegation_keys
                .into_iter()
                .map(|key| Key {
                    kid: key.kid,
                    ed25519: STANDARD.encode(key.ed25519),
                })
                .collect(),
        };
        trust.region().ok_or_else(|| wrong("tells an unknown region"))?;
        if trust.bundle.is_empty() || trust.trust_domain.is_empty() {
            return Err(wrong("does not tell whom to trust"));
        }
        Ok(trust)
    }

    /// What a folder holds.
    pub(super) fn load(folder: &Folder) -> Result<Self, Error> {
        let trust: Self = folder.read_json(FILE)?.ok_or_else(|| Error::NotEnrolled {
            path: folder.path().to_owned(),
        })?;
        trust
            .region()
            .ok_or_else(|| folder.damaged(FILE, "its region is none"))?;
        Ok(trust)
    }

    pub(super) fn save(&self, folder: &Folder) -> Result<(), Error> {
        folder.write_json(FILE, self)
    }

    /// The mesh's region.
    pub fn region(&self) -> Option<Region> {
        self.region.parse().ok()
    }

    /// The name of a service of the mesh.
    pub(super) fn service(&self, name: &str) -> Option<SpiffeId> {
        Some(SpiffeId::service(&self.trust_domain, self.region()?, name))
    }

    /// The keys that verify delegations.
    pub fn keys(&self) -> Vec<VerifyingKey> {
        self.delegation_keys
            .iter()
            .filter_map(|key| {
                Some(VerifyingKey {
                    kid: key.kid.clone(),
                    ed25519: STANDARD.decode(&key.ed25519).ok()?.try_into().ok()?,
                })
            })
            .collect()
    }
}
