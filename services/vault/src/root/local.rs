//! A root key from the environment or a file.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chassis::SecretString;
use zeroize::Zeroizing;

use super::RootError;
use crate::{
    Cell,
    domain::{
        Put as _,
        cipher::{KEY_LEN, Key},
        statement::hex,
    },
};

/// What keeps keys of this use apart from those of any other.
const SALT: &[u8] = b"trailmesh/vault/root/1";

/// A root key in this process' memory.
pub(crate) struct LocalRoot {
    wrapping: Key,
    fingerprint: String,
}

fn about(cell: &Cell, version: i64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    bytes.put("kek");
    bytes.put(cell.region.word());
    bytes.put(&cell.name);
    bytes.put_number(version);
    bytes
}

impl LocalRoot {
    /// From the key as it is configured: 32 bytes in standard base64.
    pub(crate) fn new(text: &SecretString) -> Result<Self, RootError> {
        let bytes = Zeroizing::new(
            STANDARD
                .decode(text.expose().trim())
                .map_err(|_| RootError::Key)?,
        );
        let root = Key::from_bytes(&bytes).map_err(|_| RootError::Key)?;
        let mut wrapping = Zeroizing::new([0; KEY_LEN]);
        let mut fingerprint = [0; 8];
        root.derive(SALT, b"wrap", wrapping.as_mut())
            .and_then(|()| root.derive(SALT, b"fingerprint", &mut fingerprint))
            .map_err(|_| RootError::Key)?;
        Ok(Self {
            wrapping: Key::from_bytes(wrapping.as_ref()).map_err(|_| RootError::Key)?,
            fingerprint: hex(&fingerprint),
        })
    }

    pub(crate) fn name(&self) -> String {
        format!("local:{}", self.fingerprint)
    }

    pub(crate) fn wrap(&self, cell: &Cell, version: i64, kek: &Key) -> Result<Vec<u8>, RootError> {
        self.wrapping
            .seal(&about(cell, version), kek.expose())
            .map_err(|_| RootError::Wrong)
    }

    pub(crate) fn unwrap(&self, cell: &Cell, version: i64, wrapped: &[u8]) -> Result<Key, RootError> {
        self.wrapping
            .open(&about(cell, version), wrapped)
            .and_then(|bytes| Key::from_bytes(bytes.expose()))
            .map_err(|_| RootError::Wrong)
    }
}

#[cfg(test)]
mod tests {
    use types::Region;

    use super::LocalRoot;
    use crate::{Cell, domain::cipher::Key};

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const OTHER: &str = "AQECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn cell(region: Region, name: &str) -> Cell {
        Cell {
            region,
            name: name.to_owned(),
        }
    }

    #[test]
    fn a_key_opens_for_its_cell_its_version_and_its_root_only() {
        let root = LocalRoot::new(&KEY.parse().unwrap()).unwrap();
        let here = cell(Region::Eu, "1");
        let kek = Key::fresh().unwrap();
        let wrapped = root.wrap(&here, 1, &kek).unwrap();
        assert_eq!(root.unwrap(&here, 1, &wrapped).unwrap().expose(), kek.expose());
        assert!(root.unwrap(&here, 2, &wrapped).is_err());
        assert!(root.unwrap(&cell(Region::Us, "1"), 1, &wrapped).is_err());
        assert!(root.unwrap(&cell(Region::Eu, "2"), 1, &wrapped).is_err());
        let other = LocalRoot::new(&OTHER.parse().unwrap()).unwrap();
        assert!(other.unwrap(&here, 1, &wrapped).is_err());
        assert_ne!(other.name(), root.name());
        for at in 0..wrapped.len() {
            let mut changed = wrapped.clone();
            changed[at] ^= 1;
            assert!(root.unwrap(&here, 1, &changed).is_err(), "byte {at}");
        }
    }

    #[test]
    fn what_is_not_32_bytes_is_no_root() {
        for text in ["AAEC", "not base64!", &format!("{KEY}{KEY}")] {
            assert!(LocalRoot::new(&text.parse().unwrap()).is_err(), "{text}");
        }
    }
}
