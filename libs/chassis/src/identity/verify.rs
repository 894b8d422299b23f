//! Who may be at the other end: a service for whom an authority of the bundle vouches, whose one URI is the right one, and whose
//! certificate is for serving or calling, whichever it is shown for. Host names do not count. Where
//! agents are known, an agent too, for whom one of their own authorities vouches.

use std::{fmt, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::{
    Realm, SpiffeId,
    agent::{Agent, AgentName, Agents},
    spiffe::{self, Use},
};

fn refused(problem: &str) -> rustls::Error {
    tracing::debug!(problem, "a peer's certificate is refused");
    CertificateError::ApplicationVerificationFailure.into()
}

/// Accepts the one service it was made for.
#[derive(Debug)]
pub(super) struct OneService {
    pub(super) roots: Arc<RootCertStore>,
    pub(super) wanted: SpiffeId,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for OneService {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _host: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        let id = spiffe::of_certificate(leaf, &[Use::Serving]).map_err(|problem| refused(&problem))?;
        if id != self.wanted {
            return Err(refused(&format!("{id} is not {}", self.wanted)));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Accepts every service of the realm, and its agents where they are known; what they may call is policy's business.
#[derive(Debug)]
pub(super) struct AnyCaller {
    pub(super) chain: Arc<dyn ClientCertVerifier>,
    pub(super) realm: Arc<Realm>,
    pub(super) agents: Agents,
}

/// Who is at the other end of a connection.
#[derive(Debug)]
pub(crate) enum Party {
    /// A service of the mesh.
    Service(SpiffeId),
    /// An agent of a tenant.
    Agent(Agent),
}

impl Party {
    /// For metrics: the service, or `agent` for all of them.
    pub(crate) fn label(&self) -> &str {
        match self {
            Self::Service(id) => id.name(),
            Self::Agent(_) => "agent",
        }
    }
}

/// For logs: the service, or which agent.
impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(id) => f.write_str(id.name()),
            Self::Agent(agent) => agent.name.agent.fmt(f),
        }
    }
}

/// Whom a client's certificate shows that passed [`AnyCaller`].
pub(super) fn party(realm: &Realm, agents: &Agents, leaf: &CertificateDer<'_>) -> Result<Party, String> {
    if is_agent(leaf) {
        return agents.verify(realm, leaf, UnixTime::now()).map(Party::Agent);
    }
    service(realm, leaf).map(Party::Service)
}

/// Which authorities are to be asked. The name decides it, and whoever gives oneself the other name is not known to the other authorities.
fn is_agent(leaf: &CertificateDer<'_>) -> bool {
    spiffe::uri_and_serial(leaf, &[Use::Calling]).is_ok_and(|(uri, _)| uri.parse::<AgentName>().is_ok())
}

fn service(realm: &Realm, leaf: &CertificateDer<'_>) -> Result<SpiffeId, String> {
    let id = spiffe::of_certificate(leaf, &[Use::Calling])?;
    if id.trust_domain() != realm.trust_domain || id.region() != realm.region {
        return Err(format!("{id} is of another trust domain or region"));
    }
    Ok(id)
}

/// Accepts agents and nobody else: for a door that only they use. What they are then is [`Agents::verify`]'s word.
#[derive(Debug)]
pub(super) struct OnlyAgents {
    pub(super) realm: Arc<Realm>,
    pub(super) agents: Agents,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for OnlyAgents {
    /// There is no hint: the authorities change while connections are made.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        match self.agents.verify(&self.realm, leaf, now) {
            Ok(_) => Ok(ClientCertVerified::assertion()),
            Err(problem) => Err(refused(&problem)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for AnyCaller {
    /// Where agents are known there is no hint: their authorities change while connections are made.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        if self.agents.any() {
            return &[];
        }
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        if is_agent(leaf) {
            let agent = self.agents.verify(&self.realm, leaf, now);
            return match agent {
                Ok(_) => Ok(ClientCertVerified::assertion()),
                Err(problem) => Err(refused(&problem)),
            };
        }
        let verified = self.chain.verify_client_cert(leaf, intermediates, now)?;
        service(&self.realm, leaf).map_err(|problem| refused(&problem))?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
