//! A sealed value as columns and messages have it: `btv1:<data key version>:<Fernet token>`, or
//! `btv2:<data key version>:<base64url of nonce, ciphertext and tag>`.
//!
//! Every envelope has one spelling: what base64 or numbers could also be written as is refused, so that no byte of an envelope can be changed
//! without its failing to open.

use std::fmt;

use base64::{
    Engine as _,
    engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD},
};

use super::cipher::Body;

/// No value of at most 64 KiB makes a longer one.
const AT_MOST: usize = 100_000;

/// The text is not an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an envelope")]
pub(crate) struct NoEnvelope;

/// A sealed value, and which version of its tenant's key sealed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) key_version: i64,
    pub(crate) body: Body,
}

impl std::str::FromStr for Envelope {
    type Err = NoEnvelope;

    fn from_str(text: &str) -> Result<Self, NoEnvelope> {
        if text.len() > AT_MOST {
            return Err(NoEnvelope);
        }
        let mut parts = text.splitn(3, ':');
        let (Some(form), Some(version), Some(body)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoEnvelope);
        };
        let key_version: i64 = version.parse().map_err(|_| NoEnvelope)?;
        if key_version < 1 || key_version.to_string() != version {
            return Err(NoEnvelope);
        }
        let body = match form {
            // The engines of base64 take neither wrong padding nor bits after the end.
            "btv1" => {
                URL_SAFE.decode(body).map_err(|_| NoEnvelope)?;
                Body::Fernet(body.to_owned())
            }
            "btv2" => Body::Aes256Gcm(URL_SAFE_NO_PAD.decode(body).map_err(|_| NoEnvelope)?),
            _ => return Err(NoEnvelope),
        };
        Ok(Self { key_version, body })
    }
}

impl fmt::Display for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.body {
            Body::Fernet(token) => write!(f, "btv1:{}:{token}", self.key_version),
            Body::Aes256Gcm(sealed) => {
                write!(f, "btv2:{}:{}", self.key_version, URL_SAFE_NO_PAD.encode(sealed))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use types::TenantId;

    use super::{Envelope, NoEnvelope};
    use crate::domain::{
        cipher::{Key, open, seal},
        place::{Form, Kind, Place},
    };

    fn place() -> Place {
        Place {
            tenant: TenantId::fresh(),
            kind: Kind::MysqlPassword,
            record: "srv_1".to_owned(),
            field: "password".to_owned(),
            version: 1,
        }
    }

    #[test]
    fn every_changed_byte_and_every_cut_of_an_envelope_is_noticed() {
        let key = Key::fresh().unwrap();
        let place = place();
        for form in [Form::Fernet, Form::Aes256Gcm] {
            let body = seal(&key, &place, form, b"attack at dawn").unwrap();
            let text = Envelope { key_version: 7, body }.to_string();
            let opens = |text: &str| {
                let Ok(envelope) = text.parse::<Envelope>() else {
                    return false;
                };
                envelope.key_version == 7 && open(&key, &place, &envelope.body).is_ok()
            };
            assert!(opens(&text));
            for at in 0..text.len() {
                for other in (0..=127_u8).filter(|byte| *byte != text.as_bytes()[at]) {
                    let mut changed = text.clone().into_bytes();
                    changed[at] = other;
                    assert!(
                        !opens(std::str::from_utf8(&changed).unwrap()),
                        "byte {at} as {other}"
                    );
                }
                assert!(!opens(&text[..at]), "cut at {at}");
            }
            for more in ["=", "A", "\n", " "] {
                assert!(!opens(&format!("{text}{more}")) && !opens(&format!("{more}{text}")));
            }
        }
    }

    #[test]
    fn what_is_written_otherwise_is_no_envelope() {
        for text in [
            "",
            "btv1",
            "btv1:1",
            "btv3:1:AAAA",
            "btv2:0:AAAA",
            "btv2:-1:AAAA",
            "btv2:01:AAAA",
            "btv2:+1:AAAA",
            "btv2:1:AAA=",
            "btv2:1:AAB",
            "btv2:1: AAAA",
            "btv1:1:AAA",
            "btv2:9223372036854775808:AAAA",
        ] {
            assert_eq!(text.parse::<Envelope>(), Err(NoEnvelope), "{text}");
        }
        assert_eq!(
            "btv2:1:AAAA".parse::<Envelope>().unwrap().to_string(),
            "btv2:1:AAAA"
        );
    }

    #[test]
    fn keys_and_what_holds_them_are_not_printed() {
        let key = Key::fresh().unwrap();
        assert_eq!(format!("{key:?}"), "***");
        let opened = seal(&key, &place(), Form::Fernet, b"canary").unwrap();
        assert!(!format!("{opened:?}").contains("canary"));
    }
}
