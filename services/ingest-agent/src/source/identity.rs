//! Who this replica is to the source: an id and a UUID that stay the same for one store on one machine and differ from everybody else's.

use std::{fs, path::Path};

use ring::digest::{SHA256, digest};

/// Ids below this are what people give to servers by hand.
const SERVER_ID_MIN: u32 = 1 << 24;

/// What a replica registers with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) server_id: u32,
    pub(super) uuid: String,
}

impl Identity {
    /// Derived from this machine's id and the store's path: two stores, or two machines, never share it, so that no server takes one
    /// for the other and cuts it off.
    pub(super) fn derive(store: &Path, chosen: Option<u32>) -> Self {
        let machine = fs::read("/etc/machine-id")
            .or_else(|_| fs::read("/proc/sys/kernel/hostname"))
            .unwrap_or_default();
        let path = fs::canonicalize(store).unwrap_or_else(|_| store.to_owned());
        let mut seed = machine;
        seed.push(0);
        seed.extend_from_slice(path.as_os_str().as_encoded_bytes());
        Self::from_seed(&seed, chosen)
    }

    fn from_seed(seed: &[u8], chosen: Option<u32>) -> Self {
        let hash = digest(&SHA256, seed);
        let bytes = hash.as_ref();
        let number = u32::from_be_bytes([bytes[16], bytes[17], bytes[18], bytes[19]]);
        let derived = SERVER_ID_MIN + number % (u32::MAX - SERVER_ID_MIN);
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&bytes[..16]);
        Self {
            server_id: chosen.unwrap_or(derived),
            uuid: uuid::Builder::from_random_bytes(uuid).into_uuid().to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Identity, SERVER_ID_MIN};

    #[test]
    fn an_identity_stays_and_differs_by_store() {
        let one = Identity::from_seed(b"machine\0/a", None);
        assert_eq!(one, Identity::from_seed(b"machine\0/a", None));
        assert_ne!(one, Identity::from_seed(b"machine\0/b", None));
        assert!(one.server_id >= SERVER_ID_MIN);
        assert_eq!(Identity::from_seed(b"machine\0/a", Some(7)).server_id, 7);
    }
}
