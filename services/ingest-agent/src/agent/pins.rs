//! Whose door it is: the public keys that the mesh's door may show (SPKI pins, as in RFC 7469). There are at least two, the one in use and one
//! kept for later, so that the mesh can change its key without a day on which no agent gets in.
//!
//! A pin is all that counts: neither names nor times nor authorities of the door's certificate are looked at, and no authority of the world can
//! vouch for another key. The handshake itself proves that the door holds the key.

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::digest::{SHA256, digest};
use rustls::{
    CertificateError, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// As many as anybody needs.
const MOST: usize = 16;

/// SHA-256 of a public key (its SPKI), written `sha256/<base64>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pin([u8; 32]);

impl Pin {
    /// The pin of a certificate's key; none if it cannot be read.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let hash = digest(&SHA256, parsed.tbs_certificate.subject_pki.raw);
        Some(Self(hash.as_ref().try_into().ok()?))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256/{}", STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Pin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.strip_prefix("sha256/")
            .and_then(|rest| STANDARD.decode(rest).ok())
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| "a pin is sha256/ and the base64 of 32 bytes".to_owned())
    }
}

impl TryFrom<String> for Pin {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Pin> for String {
    fn from(pin: Pin) -> Self {
        pin.to_string()
    }
}

/// At least two different pins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Pin>", into = "Vec<Pin>")]
pub struct Pins(Arc<[Pin]>);

impl Pins {
    /// These, if they are enough.
    pub fn new(mut pins: Vec<Pin>) -> Result<Self, String> {
        pins.sort_by_key(|pin| pin.0);
        pins.dedup();
        match pins.len() {
            0 | 1 => Err(
                "at least two different pins are needed: the key in use, and one kept for later".to_owned(),
            ),
            2..=MOST => Ok(Self(pins.into())),
            _ => Err(format!("more than {MOST} pins")),
        }
    }

    /// Whether this key is one of them.
    pub fn hold(&self, pin: Pin) -> bool {
        self.0.contains(&pin)
    }
}

impl TryFrom<Vec<Pin>> for Pins {
    type Error = String;

    fn try_from(pins: Vec<Pin>) -> Result<Self, String> {
        Self::new(pins)
    }
}

impl From<Pins> for Vec<Pin> {
    fn from(pins: Pins) -> Self {
        pins.0.to_vec()
    }
}

/// The pin of the key that a door showed.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen(Arc<Mutex<Option<Pin>>>);

impl Seen {
    pub(super) fn get(&self) -> Option<Pin> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, pin: Pin) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(pin);
    }
}

/// Accepts whoever holds a pinned key, and notes which key was shown.
#[derive(Debug)]
pub(super) struct Pinned {
    pub(super) pins: Pins,
    pub(super) seen: Seen,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _host: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pin = Pin::of(leaf).ok_or(CertificateError::BadEncoding)?;
        self.seen.set(pin);
        if self.pins.hold(pin) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
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

#[cfg(test)]
mod tests {
    use super::{Pin, Pins};

    #[test]
    fn a_pin_is_read_as_it_is_written() {
        let text = "sha256/d6qzRu9zOECb90Uez27xWltNsj0e1Md7GkYYkVoZWmM=";
        assert_eq!(
            text.parse::<Pin>().map(|pin| pin.to_string()),
            Ok(text.to_owned())
        );
        for wrong in [
            "",
            "sha256/",
            "d6qzRu9zOECb90Uez27xWltNsj0e1Md7GkYYkVoZWmM=",
            "sha1/d6qzRu9zOECb90Uez27xWltNsj0e1Md7GkYYkVoZWmM=",
            "sha256/d6qzRu9zOECb90Uez27xWltNsj0e1Md7GkYYkVo=",
            "sha256/d6qzRu9zOECb90Uez27xWltNsj0e1Md7GkYYkVoZWmM",
        ] {
            assert!(wrong.parse::<Pin>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn one_pin_is_none() {
        let (one, other) = (Pin([1; 32]), Pin([2; 32]));
        assert!(Pins::new(vec![]).is_err());
        assert!(Pins::new(vec![one, one]).is_err());
        let two = Pins::new(vec![one, other]).expect("two");
        assert!(two.hold(one) && two.hold(other) && !two.hold(Pin([3; 32])));
        let text = serde_json::to_string(&two).expect("JSON");
        assert_eq!(serde_json::from_str::<Pins>(&text).ok(), Some(two));
        assert!(serde_json::from_str::<Pins>("[]").is_err());
    }
}
