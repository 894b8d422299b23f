//! From three files to one identity, or to the reason why not.

use std::{path::PathBuf, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::digest::{SHA256, digest};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::{Resumption, verify_server_cert_signed_by_trust_anchor},
    crypto::{CryptoProvider, ring as provider},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject as _},
    server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};

use super::{
    Error, Material, Realm, SpiffeId,
    agent::Agents,
    spiffe::{self, Use},
    verify::{AnyCaller, OneService},
};
use crate::Settings;

/// The protocol of the mesh.
const ALPN: &[u8] = b"h2";

/// Where an identity comes from, and what was last read there.
pub(super) struct Files {
    certificate: PathBuf,
    key: PathBuf,
    bundle: PathBuf,
    wanted: SpiffeId,
    realm: Arc<Realm>,
    agents: Agents,
    seen: Option<Vec<u8>>,
}

struct Contents {
    certificate: Vec<u8>,
    key: zeroize::Zeroizing<Vec<u8>>,
    bundle: Vec<u8>,
}

impl Files {
    /// The files of `settings`; none if none is named.
    pub(super) fn of(
        name: &str,
        settings: &Settings,
        realm: Arc<Realm>,
        agents: Agents,
    ) -> Result<Option<Self>, Error> {
        let (certificate, key, bundle) = match (
            &settings.identity_cert_file,
            &settings.identity_key_file,
            &settings.trust_bundle_file,
        ) {
            (Some(certificate), Some(key), Some(bundle)) => (certificate, key, bundle),
            (None, None, None) => return Ok(None),
            _ => return Err(Error::Missing),
        };
        Ok(Some(Self {
            certificate: certificate.clone(),
            key: key.clone(),
            bundle: bundle.clone(),
            wanted: realm.service(name),
            realm,
            agents,
            seen: None,
        }))
    }

    /// The identity that the files hold now.
    pub(super) async fn load(&mut self) -> Result<Material, Error> {
        let contents = self.read().await?;
        self.seen = Some(contents.fingerprint());
        self.material(&contents)
    }

    /// The same, if they hold something else than last time.
    pub(super) async fn load_if_changed(&mut self) -> Option<Result<Material, Error>> {
        let contents = match self.read().await {
            Ok(contents) => contents,
            Err(error) => {
                // Told once: the next look that can read them tells what became of it.
                return self.seen.take().map(|_| Err(error));
            }
        };
        let fingerprint = contents.fingerprint();
        if self.seen.as_ref() == Some(&fingerprint) {
            return None;
        }
        self.seen = Some(fingerprint);
        Some(self.material(&contents))
    }

    async fn read(&self) -> Result<Contents, Error> {
        let read = async |path: &PathBuf| {
            tokio::fs::read(path).await.map_err(|source| Error::File {
                path: path.clone(),
                source,
            })
        };
        Ok(Contents {
            certificate: read(&self.certificate).await?,
            key: read(&self.key).await?.into(),
            bundle: read(&self.bundle).await?,
        })
    }

    fn material(&self, contents: &Contents) -> Result<Material, Error> {
        let provider = Arc::new(provider::default_provider());
        let chain = certificates(&contents.certificate)
            .ok_or_else(|| self.no_pem(&self.certificate, "certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(&contents.key)
            .map_err(|_| self.no_pem(&self.key, "private key"))?;
        let authorities =
            certificates(&contents.bundle).ok_or_else(|| self.no_pem(&self.bundle, "certificate"))?;
        let mut roots = RootCertStore::empty();
        for authority in &authorities {
            roots.add(authority.clone()).map_err(Error::Certificate)?;
        }
        if self.agents.meet(&roots) {
            return Err(Error::SharedAuthority);
        }
        let roots = Arc::new(roots);
        self.check(&chain, &roots, &provider)?;
        let leaf_ends = chain.first().and_then(spiffe::ends).unwrap_or_default();
        let certified = CertifiedKey::from_der(chain, key, &provider).map_err(Error::Certificate)?;
        let certified = Arc::new(certified);
        Ok(Material {
            server: Arc::new(server(&certified, &roots, &provider, &self.realm, &self.agents)?),
            certified,
            roots,
            provider,
            bundle: pem(&authorities).into(),
            leaf_ends,
            authority_ends: authorities
                .iter()
                .filter_map(spiffe::ends)
                .min()
                .unwrap_or_default(),
        })
    }

    /// The certificate is this service's, valid now, and one of `roots` vouches for it.
    fn check(
        &self,
        chain: &[CertificateDer<'static>],
        roots: &RootCertStore,
        provider: &CryptoProvider,
    ) -> Result<(), Error> {
        let (leaf, intermediates) = chain
            .split_first()
            .ok_or_else(|| self.no_pem(&self.certificate, "certificate"))?;
        let name = |problem| Error::Name {
            wanted: self.wanted.clone(),
            problem,
        };
        let id = spiffe::of_certificate(leaf, &[Use::Serving, Use::Calling]).map_err(name)?;
        if id != self.wanted {
            return Err(name(format!("it names {id}")));
        }
        let parsed = ParsedCertificate::try_from(leaf).map_err(Error::Certificate)?;
        let algorithms = provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, UnixTime::now(), algorithms)
            .map_err(Error::Certificate)
    }

    fn no_pem(&self, path: &std::path::Path, what: &'static str) -> Error {
        Error::Pem {
            path: path.to_owned(),
            what,
        }
    }
}

impl Contents {
    fn fingerprint(&self) -> Vec<u8> {
        [&self.certificate, &*self.key, &self.bundle]
            .iter()
            .flat_map(|bytes| digest(&SHA256, bytes).as_ref().to_vec())
            .collect()
    }
}

/// All certificates of a PEM file; none if one cannot be read or there is none.
fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    all.ok().filter(|all| !all.is_empty())
}

/// Certificates as PEM (RFC 7468).
fn pem(certificates: &[CertificateDer<'_>]) -> String {
    let mut pem = String::new();
    for certificate in certificates {
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        let text = STANDARD.encode(certificate);
        for (at, digit) in text.chars().enumerate() {
            if at > 0 && at % 64 == 0 {
                pem.push('\n');
            }
            pem.push(digit);
        }
        pem.push_str("\n-----END CERTIFICATE-----\n");
    }
    pem
}

/// TLS 1.3 only; no resumption, so that each connection shows a certificate that is valid now.
fn server(
    certified: &Arc<CertifiedKey>,
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
    realm: &Arc<Realm>,
    agents: &Agents,
) -> Result<ServerConfig, Error> {
    let chain = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .map_err(|error| Error::Certificate(rustls::Error::General(error.to_string())))?;
    let verifier = AnyCaller {
        chain,
        realm: realm.clone(),
        agents: agents.clone(),
    };
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(Error::Certificate)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified.clone())));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

pub(super) fn client(material: &Material, wanted: &SpiffeId) -> Result<ClientConfig, Error> {
    let verifier = OneService {
        roots: material.roots.clone(),
        wanted: wanted.clone(),
        algorithms: material.provider.signature_verification_algorithms,
    };
    let mut config = ClientConfig::builder_with_provider(material.provider.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(Error::Certificate)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(material.certified.clone())));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}
