//! The agent's side of its connections to services: it shows the certificate that the vault gave it, and speaks to exactly one service of the
//! mesh, by the same rules by which services know each other.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::ring as provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    version::TLS13,
};

use super::{Error, SpiffeId, verify::OneService};

/// TLS for connecting as an agent to `service`, and to nobody else: 1.3 only, without resumption. `chain` and `key` are what the agent shows,
/// PEM; `bundle` holds the mesh's authorities, PEM; `alpn` is the protocol.
///
/// # Errors
/// When one of them cannot be read, or they do not fit together.
pub fn connect_as_agent(
    chain: &str,
    key: &str,
    bundle: &str,
    service: &SpiffeId,
    alpn: &[u8],
) -> Result<ClientConfig, crate::Error> {
    let provider = Arc::new(provider::default_provider());
    let mut roots = RootCertStore::empty();
    for authority in certificates(bundle)? {
        roots.add(authority).map_err(Error::Certificate)?;
    }
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| unreadable("private key"))?;
    let verifier = OneService {
        roots: Arc::new(roots),
        wanted: service.clone(),
        algorithms: provider.signature_verification_algorithms,
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(Error::Certificate)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(certificates(chain)?, key)
        .map_err(Error::Certificate)?;
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    all.ok()
        .filter(|all| !all.is_empty())
        .ok_or_else(|| unreadable("certificate"))
}

fn unreadable(what: &str) -> Error {
    Error::Certificate(rustls::Error::General(format!("the {what} cannot be read")))
}
