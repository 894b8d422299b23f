//! Certificates: the authority's own, and those that it issues. Pure.

use chassis::identity::AgentName;
use rand::Rng as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use ring::digest::{SHA256, digest};
use time::{Duration, OffsetDateTime};
use types::{Region, Secret};

use super::csr::PublicKey;
use crate::domain::statement::hex;

/// How long an authority could issue at most; it is replaced long before.
const AUTHORITY_LIVES: Duration = Duration::days(5 * 365);

/// How long an agent's certificate holds.
pub(crate) const CERTIFICATE_LIVES: Duration = Duration::hours(24);

/// What the clock of whoever looks at a certificate may be behind.
const SKEW: Duration = Duration::minutes(2);

/// A new authority.
pub(crate) struct Fresh {
    pub(crate) id: String,
    /// DER.
    pub(crate) certificate: Vec<u8>,
    /// PKCS #8, DER.
    pub(crate) key: Secret<Vec<u8>>,
    pub(crate) ends: OffsetDateTime,
}

/// A certificate of an agent.
pub(crate) struct Issued {
    /// PEM: it and its authority.
    pub(crate) chain: String,
    pub(crate) serial: String,
    pub(crate) ends: OffsetDateTime,
}

/// A number that nobody foresees: hexadecimal, 32 digits, positive as DER has it.
fn serial() -> ([u8; 16], String) {
    let mut bytes: [u8; 16] = rand::rng().random();
    bytes[0] = 0x10 | (bytes[0] & 0x6f);
    (bytes, hex(&bytes))
}

/// What an authority is called: by its certificate, DER.
pub(crate) fn id(certificate: &[u8]) -> String {
    hex(&digest(&SHA256, certificate).as_ref()[..8])
}

/// Makes an authority. It vouches for leaves only.
pub(crate) fn found(region: Region, cell: &str, now: OffsetDateTime) -> Result<Fresh, rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let (bytes, number) = serial();
    let ends = now + AUTHORITY_LIVES;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.serial_number = Some(SerialNumber::from_slice(&bytes));
    params.not_before = now - SKEW;
    params.not_after = ends;
    let name = format!("Trailmesh agents {}/{cell} {}", region.word(), &number[..8]);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let certificate = params.self_signed(&key)?.der().to_vec();
    Ok(Fresh {
        id: id(&certificate),
        certificate,
        key: Secret::new(key.serialize_der()),
        ends,
    })
}

/// Issues a certificate for `key` in this name, from now on. `authority` is DER, its private key PKCS #8.
pub(crate) fn issue(
    authority: &[u8],
    authority_key: &Secret<Vec<u8>>,
    name: &AgentName,
    key: &PublicKey,
    now: OffsetDateTime,
) -> Result<Issued, rcgen::Error> {
    let signing = KeyPair::try_from(authority_key.expose().as_slice())?;
    let issuer = Issuer::from_ca_cert_der(&authority.into(), signing)?;
    let (bytes, serial) = serial();
    let ends = now + CERTIFICATE_LIVES;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(SerialNumber::from_slice(&bytes));
    params.not_before = now - SKEW;
    params.not_after = ends;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, name.agent.to_string());
    params.subject_alt_names = vec![SanType::URI(name.to_string().try_into()?)];
    let certificate = params.signed_by(&SubjectPublicKeyInfo::from_der(key.spki())?, &issuer)?;
    Ok(Issued {
        chain: format!("{}{}", certificate.pem(), pem(authority)),
        serial,
        ends,
    })
}

/// A certificate as PEM (RFC 7468).
fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().copied().map(char::from));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}
