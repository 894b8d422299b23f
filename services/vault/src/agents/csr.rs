//! Signing requests: whoever sends one shows that they hold the private key, and names the public one. Everything else in it is ignored.

use ring::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm};
use x509_parser::{
    certification_request::X509CertificationRequest,
    der_parser::{Oid, oid},
    pem::parse_x509_pem,
    prelude::FromDer as _,
    x509::{AlgorithmIdentifier, SubjectPublicKeyInfo},
};

/// The longest request in PEM. One with an Ed25519 key has 300 bytes; names and attributes of all kinds find room.
const LONGEST: usize = 16 << 10;

const ED25519_OID: Oid<'static> = oid!(1.3.101.112);
const EC_OID: Oid<'static> = oid!(1.2.840.10045.2.1);
const P256_OID: Oid<'static> = oid!(1.2.840.10045.3.1.7);
const ECDSA_SHA256_OID: Oid<'static> = oid!(1.2.840.10045.4.3.2);

/// What comes before an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410 §4).
const ED25519_HEAD: &[u8] = &[
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// What comes before an uncompressed point on P-256 (RFC 5480 §2).
const P256_HEAD: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Encodings of the points of Ed25519 whose order is small, without their sign: under such a key nearly anything has a valid signature.
const SMALL_ORDER: [[u8; 32]; 7] = [
    [0; 32],
    [
        1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ],
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5,
        0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a,
        0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
    near_p(0xec),
    near_p(0xed),
    near_p(0xee),
];

/// p − 1, p and p + 1 for 0xec, 0xed and 0xee.
const fn near_p(low: u8) -> [u8; 32] {
    let mut bytes = [0xff; 32];
    bytes[0] = low;
    bytes[31] = 0x7f;
    bytes
}

/// Why a request is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Problem {
    /// It is too long to be one.
    #[error("it is longer than 16 KiB")]
    Long,
    /// Not one PEM block of this kind and nothing else.
    #[error("it is not one PEM block CERTIFICATE REQUEST")]
    Pem,
    /// Not PKCS #10.
    #[error("it is not a PKCS #10 request")]
    Form,
    /// Another kind of key.
    #[error("its key is neither Ed25519 nor P-256")]
    Algorithm,
    /// A key that proves nothing.
    #[error("its key is not one")]
    Key,
    /// Signed by somebody else.
    #[error("it is not signed with its own key")]
    Signature,
}

/// A public key whose owner has shown to hold the private one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PublicKey {
    spki: Vec<u8>,
}

impl PublicKey {
    /// As a SubjectPublicKeyInfo, DER, in the one canonical form.
    pub(crate) fn spki(&self) -> &[u8] {
        &self.spki
    }
}

/// The public key of a request in PEM.
pub(crate) fn read(pem: &str) -> Result<PublicKey, Problem> {
    if pem.len() > LONGEST {
        return Err(Problem::Long);
    }
    let pem = pem.trim();
    if !pem.starts_with("-----BEGIN ") {
        return Err(Problem::Pem);
    }
    let (rest, block) = parse_x509_pem(pem.as_bytes()).map_err(|_| Problem::Pem)?;
    let labels = ["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"];
    if !rest.trim_ascii().is_empty() || !labels.contains(&block.label.as_str()) {
        return Err(Problem::Pem);
    }
    let (rest, request) = X509CertificationRequest::from_der(&block.contents).map_err(|_| Problem::Form)?;
    let info = &request.certification_request_info;
    if !rest.is_empty() || request.signature_value.unused_bits != 0 {
        return Err(Problem::Form);
    }
    let (spki, point, verification) = key(&info.subject_pki, &request.signature_algorithm)?;
    UnparsedPublicKey::new(verification, point)
        .verify(info.raw, &request.signature_value.data)
        .map_err(|_| Problem::Signature)?;
    Ok(PublicKey { spki })
}

type Key<'k> = (Vec<u8>, &'k [u8], &'static dyn VerificationAlgorithm);

/// The key in canonical form and as bytes, and how signatures are verified with it. The algorithm of the signature must be the key's.
fn key<'k>(
    key: &'k SubjectPublicKeyInfo<'_>,
    signature: &AlgorithmIdentifier<'_>,
) -> Result<Key<'k>, Problem> {
    let bytes: &[u8] = &key.subject_public_key.data;
    let whole = key.subject_public_key.unused_bits == 0;
    let (algorithm, parameters) = (&key.algorithm.algorithm, &key.algorithm.parameters);
    if *algorithm == ED25519_OID {
        if signature.algorithm != ED25519_OID {
            return Err(Problem::Algorithm);
        }
        let point: &[u8; 32] = bytes.try_into().map_err(|_| Problem::Key)?;
        if !whole || parameters.is_some() || has_small_order(point) {
            return Err(Problem::Key);
        }
        return Ok(([ED25519_HEAD, bytes].concat(), bytes, &ED25519));
    }
    let curve = parameters.as_ref().and_then(|curve| curve.as_oid().ok());
    if *algorithm != EC_OID || curve != Some(P256_OID) || signature.algorithm != ECDSA_SHA256_OID {
        return Err(Problem::Algorithm);
    }
    // Whether it is on the curve is seen when the signature is verified.
    if !whole || bytes.len() != 65 || bytes.first() != Some(&4) {
        return Err(Problem::Key);
    }
    Ok(([P256_HEAD, bytes].concat(), bytes, &ECDSA_P256_SHA256_ASN1))
}

fn has_small_order(point: &[u8; 32]) -> bool {
    let mut unsigned = *point;
    unsigned[31] &= 0x7f;
    SMALL_ORDER.contains(&unsigned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData as _};

    use super::{ED25519_HEAD, Problem, read};

    fn requests() -> Vec<(Vec<u8>, Vec<u8>)> {
        let algorithms = [&PKCS_ED25519, &PKCS_ECDSA_P256_SHA256];
        let made = algorithms.map(|algorithm| {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let request = CertificateParams::default().serialize_request(&key).unwrap();
            (request.der().to_vec(), key.subject_public_key_info())
        });
        made.to_vec()
    }

    fn pem(der: &[u8]) -> String {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        let mut pem = "-----BEGIN CERTIFICATE REQUEST-----\n".to_owned();
        for line in text.as_bytes().chunks(64) {
            pem.push_str(std::str::from_utf8(line).unwrap());
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE REQUEST-----\n");
        pem
    }

    #[test]
    fn the_key_of_a_request_is_taken_as_it_is() {
        for (der, spki) in requests() {
            assert_eq!(read(&pem(&der)).unwrap().spki(), spki);
        }
    }

    #[test]
    fn a_changed_request_never_names_another_key() {
        for (der, spki) in requests() {
            let mut taken = 0;
            for at in 0..der.len() {
                for bit in [0, 7] {
                    let mut bad = der.clone();
                    bad[at] ^= 1 << bit;
                    if let Ok(key) = read(&pem(&bad)) {
                        assert_eq!(key.spki(), spki, "byte {at}, bit {bit}");
                        taken += 1;
                    }
                }
            }
            // What is around the signed part: classes of tags.
            assert!(taken < 8, "{taken}");
            for length in 0..der.len() {
                assert!(read(&pem(&der[..length])).is_err(), "{length} bytes");
            }
            assert_eq!(read(&pem(&[&der[..], &[0]].concat())), Err(Problem::Form));
        }
    }

    /// Under the point of order one every message has this signature: it proves nothing.
    #[test]
    fn keys_of_small_order_are_refused() {
        let (der, spki) = requests().remove(0);
        let at = der.windows(spki.len()).position(|part| part == spki).unwrap() + ED25519_HEAD.len();
        for point in super::SMALL_ORDER {
            for sign in [0, 0x80] {
                let mut bad = der.clone();
                bad[at..at + 32].copy_from_slice(&point);
                bad[at + 31] |= sign;
                // The signature (identity, 0).
                let end = bad.len();
                bad[end - 64..].fill(0);
                bad[end - 64] = 1;
                assert_eq!(read(&pem(&bad)), Err(Problem::Key));
            }
        }
    }

    #[test]
    fn what_is_too_long_is_not_looked_at() {
        assert_eq!(read(&"x".repeat(super::LONGEST + 1)), Err(Problem::Long));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in ".{0,400}", der in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(read(&text).is_err());
            prop_assert!(read(&pem(&der)).is_err());
        }
    }
}
