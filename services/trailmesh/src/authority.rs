//! A certificate authority in a folder, for a mesh on one machine. An installation has a real one.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rand::{Rng as _, distr::Alphanumeric};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _, SanType,
};
use ring::digest::{SHA256, digest};
use types::Region;

/// Long enough for a checkout, short enough that nobody builds on it.
const AUTHORITY_LIFE: Duration = Duration::from_secs(365 * 86_400);
const LEAF_LIFE: Duration = Duration::from_secs(30 * 86_400);

/// What went wrong with the authority's files.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file cannot be read or written.
    #[error("cannot use {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What a file holds is no certificate or key, or none can be made.
    #[error("cannot make a certificate in {path}; remove that folder and start again")]
    Certificate {
        /// Where.
        path: PathBuf,
        /// Why.
        source: rcgen::Error,
    },
}

/// The files of one identity.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    /// The certificate, PEM.
    pub(crate) cert: PathBuf,
    /// Its private key, PEM, readable by its owner only.
    pub(crate) key: PathBuf,
}

/// An authority and the folder of all that it makes.
pub(crate) struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// The authority of `folder`; made when the folder has none.
    pub(crate) fn open(folder: &Path) -> Result<Self, Error> {
        let file = |source| Error::File {
            path: folder.to_owned(),
            source,
        };
        let bad = |source| Error::Certificate {
            path: folder.to_owned(),
            source,
        };
        fs::create_dir_all(folder).map_err(file)?;
        let (cert, key) = (folder.join("ca.pem"), folder.join("ca-key.pem"));
        if !cert.exists() {
            let pair = KeyPair::generate().map_err(bad)?;
            let pem = authority().self_signed(&pair).map_err(bad)?.pem();
            write_private(&key, &pair.serialize_pem())?;
            // Last, because its presence says that the authority is whole.
            write_private(&cert, &pem)?;
        }
        let pair = KeyPair::from_pem(&fs::read_to_string(&key).map_err(file)?).map_err(bad)?;
        let issuer =
            Issuer::from_ca_cert_pem(&fs::read_to_string(&cert).map_err(file)?, pair).map_err(bad)?;
        Ok(Self {
            folder: folder.to_owned(),
            issuer,
        })
    }

    /// The authority's own certificate, PEM: what a client trusts.
    pub(crate) fn bundle(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// A fresh certificate of a service of the mesh, by its SPIFFE id.
    pub(crate) fn service(&self, name: &str, trust_domain: &str, region: Region) -> Result<Files, Error> {
        let uri = format!("spiffe://{trust_domain}/{}/service/{name}", region.word());
        self.issue(
            name,
            Some(&uri),
            &[
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
        )
    }

    /// A fresh certificate for browsers, clients and agents on this machine. Its key stays, because agents pin it.
    pub(crate) fn localhost(&self) -> Result<Files, Error> {
        let pair = self.kept_key("localhost")?;
        self.issue_for("localhost", None, &[ExtendedKeyUsagePurpose::ServerAuth], &pair)
    }

    /// What agents pin: the key of `localhost`, and one that is kept for the day on which that one must go. `sha256/` and base64 of the
    /// SHA-256 of each SubjectPublicKeyInfo, as RFC 7469 has it.
    pub(crate) fn pins(&self) -> Result<[String; 2], Error> {
        let pin = |name| {
            let digest = digest(&SHA256, &self.kept_key(name)?.subject_public_key_info());
            Ok(format!("sha256/{}", STANDARD.encode(digest)))
        };
        Ok([pin("localhost")?, pin("localhost-next")?])
    }

    /// The key `NAME-key.pem`; made when it is not there.
    fn kept_key(&self, name: &str) -> Result<KeyPair, Error> {
        let bad = |source| Error::Certificate {
            path: self.folder.clone(),
            source,
        };
        let fresh = KeyPair::generate().map_err(bad)?.serialize_pem();
        let text = kept(&self.folder.join(format!("{name}-key.pem")), || fresh)?;
        KeyPair::from_pem(&text).map_err(bad)
    }

    fn issue(
        &self,
        name: &str,
        uri: Option<&str>,
        usages: &[ExtendedKeyUsagePurpose],
    ) -> Result<Files, Error> {
        let pair = KeyPair::generate().map_err(|source| Error::Certificate {
            path: self.folder.clone(),
            source,
        })?;
        self.issue_for(name, uri, usages, &pair)
    }

    fn issue_for(
        &self,
        name: &str,
        uri: Option<&str>,
        usages: &[ExtendedKeyUsagePurpose],
        pair: &KeyPair,
    ) -> Result<Files, Error> {
        let bad = |source| Error::Certificate {
            path: self.folder.clone(),
            source,
        };
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).map_err(bad)?;
        for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            params.subject_alt_names.push(SanType::IpAddress(address));
        }
        if let Some(uri) = uri {
            params
                .subject_alt_names
                .push(SanType::URI(uri.try_into().map_err(bad)?));
        }
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = usages.to_vec();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        (params.not_before, params.not_after) = life(LEAF_LIFE);
        let certificate = params.signed_by(pair, &self.issuer).map_err(bad)?;
        let files = Files {
            cert: self.folder.join(format!("{name}.pem")),
            key: self.folder.join(format!("{name}-key.pem")),
        };
        write_private(&files.key, &pair.serialize_pem())?;
        write_private(&files.cert, &certificate.pem())?;
        Ok(files)
    }
}

fn authority() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
        .distinguished_name
        .push(DnType::CommonName, "Trailmesh on this machine");
    (params.not_before, params.not_after) = life(AUTHORITY_LIFE);
    params
}

/// From a day ago, for clocks that differ, to `length` from now.
fn life(length: Duration) -> (time::OffsetDateTime, time::OffsetDateTime) {
    let now = SystemTime::now();
    ((now - Duration::from_secs(86_400)).into(), (now + length).into())
}

/// Replaces the file in one step; only its owner may read it.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    let new = path.with_extension("new");
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().map_err(|source| Error::File {
        path: path.to_owned(),
        source,
    })
}

/// The text of a file that is made once and then stays, because what depends on it must be found again tomorrow.
pub(crate) fn kept(path: &Path, make: impl FnOnce() -> String) -> Result<String, Error> {
    if !path.exists() {
        write_private(path, &make())?;
    }
    let text = fs::read_to_string(path).map_err(|source| Error::File {
        path: path.to_owned(),
        source,
    })?;
    Ok(text.trim().to_owned())
}

/// Letters and digits of a random secret.
pub(crate) fn random_text(length: usize) -> String {
    rand::rng()
        .sample_iter(Alphanumeric)
        .take(length)
        .map(char::from)
        .collect()
}
