//! A certificate authority for tests, with the mesh's kind of names.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// Where a party finds its certificate, its key and whom it trusts.
#[derive(Clone, Debug)]
pub struct Identity {
    /// PEM: the certificate.
    pub cert_file: PathBuf,
    /// PEM: its private key.
    pub key_file: PathBuf,
    /// PEM: the trusted authorities.
    pub bundle_file: PathBuf,
}

/// An authority that signs what a test asks for, in a folder of the test.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    bundle: String,
}

impl Authority {
    /// Makes an authority; its files go to `folder`.
    pub fn new(folder: &Path) -> Self {
        let (issuer, bundle) = new_issuer();
        fs::create_dir_all(folder).expect("a folder");
        let authority = Self {
            folder: folder.to_owned(),
            issuer,
            bundle,
        };
        authority.write_bundle();
        authority
    }

    /// The file with the trusted authorities: one for all identities.
    pub fn bundle_file(&self) -> PathBuf {
        self.folder.join("bundle.pem")
    }

    /// The identity of a service of the mesh: `spiffe://trailmesh/eu/service/NAME`, good for an hour, valid for localhost too.
    pub fn issue(&self, name: &str) -> Identity {
        self.issue_as(name, &[&format!("spiffe://trailmesh/eu/service/{name}")], 3_600)
    }

    /// A certificate with these URIs that ends `seconds` from now, in the files of `name`. Old files are replaced: first the key, then
    /// the certificate, so that a reader can meet a pair that does not match.
    pub fn issue_as(&self, name: &str, uris: &[&str], seconds: i64) -> Identity {
        self.write(
            name,
            uris,
            seconds,
            &[
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
        )
    }

    /// As [`issue`](Self::issue), but for serving or calling only, or for nothing that is named.
    pub fn issue_for(&self, name: &str, serving: bool, calling: bool) -> Identity {
        let uri = format!("spiffe://trailmesh/eu/service/{name}");
        self.issue_with(&format!("{name}-{serving}-{calling}"), &[&uri], serving, calling)
    }

    /// As [`issue_as`](Self::issue_as), good for an hour, but for serving or calling only, or for nothing that is named.
    pub fn issue_with(&self, name: &str, uris: &[&str], serving: bool, calling: bool) -> Identity {
        let usages = [
            serving.then_some(ExtendedKeyUsagePurpose::ServerAuth),
            calling.then_some(ExtendedKeyUsagePurpose::ClientAuth),
        ];
        let usages: Vec<_> = usages.into_iter().flatten().collect();
        self.write(name, uris, 3_600, &usages)
    }

    fn write(&self, name: &str, uris: &[&str], seconds: i64, usages: &[ExtendedKeyUsagePurpose]) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
        params
            .subject_alt_names
            .push(SanType::IpAddress([127, 0, 0, 1].into()));
        for uri in uris {
            params
                .subject_alt_names
                .push(SanType::URI((*uri).try_into().expect("a URI")));
        }
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = usages.to_vec();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let now = std::time::SystemTime::now();
        params.not_before = (now - std::time::Duration::from_secs(7_200)).into();
        let ends = std::time::Duration::from_secs(seconds.unsigned_abs());
        params.not_after = if seconds < 0 { now - ends } else { now + ends }.into();
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let identity = Identity {
            cert_file: self.folder.join(format!("{name}.pem")),
            key_file: self.folder.join(format!("{name}-key.pem")),
            bundle_file: self.bundle_file(),
        };
        replace(&identity.key_file, &key.serialize_pem());
        replace(&identity.cert_file, &certificate.pem());
        identity
    }

    /// A second authority takes over: both are trusted from now on, and the new one signs. [`forget_old`](Self::forget_old) ends the
    /// first one.
    pub fn rotate(&mut self) {
        let (issuer, pem) = new_issuer();
        self.issuer = issuer;
        self.bundle = format!("{pem}{}", self.bundle);
        self.write_bundle();
    }

    /// Only the newest authority is trusted from now on.
    pub fn forget_old(&mut self) {
        let mark = "-----END CERTIFICATE-----";
        let end = self.bundle.find(mark).expect("a certificate") + mark.len();
        self.bundle.truncate(end);
        self.bundle.push('\n');
        self.write_bundle();
    }

    fn write_bundle(&self) {
        replace(&self.bundle_file(), &self.bundle);
    }
}

fn new_issuer() -> (Issuer<'static, KeyPair>, String) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
        .distinguished_name
        .push(DnType::CommonName, "Trailmesh test authority");
    let pem = params.self_signed(&key).expect("a certificate").pem();
    (Issuer::new(params, key), pem)
}

/// Atomically, as a volume of secrets is replaced.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).expect("a file");
    fs::rename(&new, path).expect("a file");
}
