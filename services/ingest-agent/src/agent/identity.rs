//! The agent's key and certificate. The key is made here and never leaves the machine; the vault gives a certificate of 24 hours for it, and each
//! renewal has a new key.

use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use types::Secret;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{error::Error, folder::Folder};

/// Key and certificate in one file: they are replaced together or not at all.
const FILE: &str = "identity/agent.pem";
const BEGIN_CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// A key that has no certificate yet.
#[derive(Debug)]
pub struct NewKey {
    /// PEM.
    key: Secret<String>,
    /// The signing request, PEM.
    pub csr: String,
}

impl NewKey {
    /// A new key on P-256, and a request that names nothing: the vault knows who asks.
    pub fn make() -> Result<Self, Error> {
        let broken = |error: rcgen::Error| Error::Internal {
            what: "a new key",
            why: error.to_string(),
        };
        let pair = KeyPair::generate().map_err(broken)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let csr = params
            .serialize_request(&pair)
            .and_then(|request| request.pem())
            .map_err(broken)?;
        Ok(Self {
            key: Secret::new(pair.serialize_pem()),
            csr,
        })
    }

    /// With the certificate that the vault gave for it.
    pub fn with(self, chain: String) -> Result<Identity, Error> {
        Identity::new(self.key, chain)
    }
}

/// Who the agent is to the mesh.
#[derive(Debug)]
pub struct Identity {
    /// The private key, PEM.
    pub(super) key: Secret<String>,
    /// The certificate and its authority, PEM.
    pub(super) chain: String,
    begins: SystemTime,
    ends: SystemTime,
}

impl Identity {
    fn new(key: Secret<String>, chain: String) -> Result<Self, Error> {
        let wrong = |why: &str| Error::Protocol {
            what: "the agent's certificate",
            why: why.to_owned(),
        };
        let leaf = CertificateDer::from_pem_slice(chain.as_bytes()).map_err(|_| wrong("cannot be read"))?;
        let (_, parsed) = X509Certificate::from_der(&leaf).map_err(|_| wrong("cannot be read"))?;
        let pair = KeyPair::from_pem(key.expose()).map_err(|_| wrong("has a key that cannot be read"))?;
        if rcgen::PublicKeyData::subject_public_key_info(&pair) != parsed.tbs_certificate.subject_pki.raw {
            return Err(wrong("is for another key"));
        }
        let at = |time: i64| {
            u64::try_from(time)
                .ok()
                .and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
                .ok_or_else(|| wrong("is of no time"))
        };
        let validity = &parsed.tbs_certificate.validity;
        Ok(Self {
            begins: at(validity.not_before.timestamp())?,
            ends: at(validity.not_after.timestamp())?,
            key,
            chain,
        })
    }

    /// The identity of a folder.
    pub fn load(folder: &Folder) -> Result<Self, Error> {
        let bytes = Secret::new(folder.read(FILE)?.ok_or_else(|| Error::NotEnrolled {
            path: folder.path().to_owned(),
        })?);
        let damaged = |why: &str| folder.damaged(FILE, why);
        let text = std::str::from_utf8(bytes.expose()).map_err(|_| damaged("it is not PEM"))?;
        let at = text
            .find(BEGIN_CERTIFICATE)
            .ok_or_else(|| damaged("it holds no certificate"))?;
        let (key, chain) = text.split_at(at);
        Self::new(Secret::new(key.to_owned()), chain.to_owned()).map_err(|error| damaged(&error.to_string()))
    }

    /// Keeps it in a folder.
    pub(super) fn save(&self, folder: &Folder) -> Result<(), Error> {
        let both = Secret::new(format!("{}{}", self.key.expose(), self.chain));
        folder.write(FILE, both.expose().as_bytes())
    }

    /// When the certificate ends.
    pub fn ends(&self) -> SystemTime {
        self.ends
    }

    /// When to ask for the next one: after half of this one's life and, with a `chance` from 0 to 1, up to a twentieth more, so that not all
    /// agents of a day ask in one minute.
    pub fn renew_at(&self, chance: f64) -> SystemTime {
        let life = self.ends.duration_since(self.begins).unwrap_or_default();
        self.begins + life / 2 + life.mul_f64(chance.clamp(0.0, 1.0) / 20.0)
    }
}

/// A moment as people read it.
pub(super) fn moment(time: SystemTime) -> String {
    let micros = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_micros()).ok())
        .unwrap_or_default();
    types::Micros(micros).to_string()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use rcgen::{CertificateParams, CertificateSigningRequestParams, Issuer, KeyPair};

    use super::{Identity, NewKey};
    use crate::agent::{Error, Folder};

    /// What a vault would answer: a certificate for the key of `csr` that began `age` ago and lives a day.
    fn certificate(csr: &str, age: Duration) -> String {
        let authority = KeyPair::generate().expect("a key");
        let issuer = Issuer::new(CertificateParams::default(), authority);
        let mut request = CertificateSigningRequestParams::from_pem(csr).expect("a request");
        let begins = SystemTime::now() - age;
        request.params.not_before = begins.into();
        request.params.not_after = (begins + Duration::from_secs(86_400)).into();
        request.signed_by(&issuer).expect("a certificate").pem()
    }

    #[test]
    fn an_identity_is_renewed_in_the_second_half_of_its_life() {
        let key = NewKey::make().expect("a key");
        let chain = certificate(&key.csr, Duration::ZERO);
        let identity = key.with(chain).expect("an identity");
        let half = identity.ends() - Duration::from_secs(43_200);
        assert_eq!(identity.renew_at(0.0), half);
        assert_eq!(identity.renew_at(1.0), half + Duration::from_secs(4_320));
    }

    #[test]
    fn key_and_certificate_are_kept_together() {
        let temporary = tempfile::tempdir().expect("a folder");
        let folder = Folder::at(temporary.path());
        assert!(matches!(Identity::load(&folder), Err(Error::NotEnrolled { .. })));
        let key = NewKey::make().expect("a key");
        let chain = certificate(&key.csr, Duration::ZERO);
        let identity = key.with(chain.clone()).expect("an identity");
        identity.save(&folder).expect("saved");
        let read = Identity::load(&folder).expect("read");
        assert_eq!(
            (read.chain.as_str(), read.ends()),
            (chain.as_str(), identity.ends())
        );
        assert_eq!(read.key.expose(), identity.key.expose());
        assert!(!format!("{read:?}").contains("PRIVATE"));
    }

    #[test]
    fn a_certificate_for_another_key_is_refused() {
        let (one, other) = (NewKey::make().expect("a key"), NewKey::make().expect("a key"));
        let chain = certificate(&other.csr, Duration::ZERO);
        assert!(one.with(chain).is_err());
    }
}
