//! Where a secret belongs. All of it goes into the key that the secret is sealed with, so that a ciphertext opens in its own place only.

use proto::vault::v1 as pb;
use types::TenantId;

use super::{Invalid, Put as _};

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// What a secret is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) enum Kind { $($(#[$doc])* $name,)* }

        impl Kind {
            /// Every kind.
            #[cfg(test)]
            pub(crate) const ALL: &[Self] = &[$(Self::$name,)*];

            /// As tables and keys write it.
            pub(crate) fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }

        impl std::str::FromStr for Kind {
            type Err = ();

            fn from_str(text: &str) -> Result<Self, ()> {
                match text { $($word => Ok(Self::$name),)* _ => Err(()) }
            }
        }

        impl From<Kind> for pb::SecretKind {
            fn from(kind: Kind) -> Self {
                match kind { $(Kind::$name => Self::$name,)* }
            }
        }

        impl TryFrom<pb::SecretKind> for Kind {
            type Error = ();

            fn try_from(kind: pb::SecretKind) -> Result<Self, ()> {
                match kind {
                    pb::SecretKind::Unspecified => Err(()),
                    $(pb::SecretKind::$name => Ok(Self::$name),)*
                }
            }
        }
    };
}

kinds! {
    /// The password that an agent replicates with.
    MysqlPassword = "mysql_password",
    /// A token for another service.
    ServiceToken = "service_token",
    /// The private key of an SSH tunnel.
    SshKey = "ssh_key",
    /// A data source name.
    Dsn = "dsn",
    /// The private key of a TLS client certificate.
    TlsKey = "tls_key",
    /// What an audit sink signs with.
    SinkSecret = "sink_secret",
    /// What the rows of an uploaded log are sealed with.
    UploadKey = "upload_key",
}

/// How a value is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A Fernet token: AES-128-CBC and HMAC-SHA-256.
    Fernet,
    /// AES-256-GCM.
    Aes256Gcm,
}

/// The longest record id and name of a field.
const NAME_AT_MOST: usize = 64;

/// Where a secret belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Whose.
    pub(crate) tenant: TenantId,
    /// What it is.
    pub(crate) kind: Kind,
    /// The id of what it belongs to.
    pub(crate) record: String,
    /// Which of its fields.
    pub(crate) field: String,
    /// Counts up with every new value.
    pub(crate) version: i64,
}

impl Place {
    /// The place as bytes that no other place has: each part with its length before it.
    pub(crate) fn bytes(&self, form: Form) -> Vec<u8> {
        let form = match form {
            Form::Fernet => "fernet",
            Form::Aes256Gcm => "aes-256-gcm",
        };
        let mut bytes = Vec::with_capacity(128);
        bytes.put(form);
        bytes.put(&self.tenant.to_string());
        bytes.put(self.kind.word());
        bytes.put(&self.record);
        bytes.put(&self.field);
        bytes.put_number(self.version);
        bytes
    }
}

impl TryFrom<Option<pb::SecretPlace>> for Place {
    type Error = Invalid;

    fn try_from(place: Option<pb::SecretPlace>) -> Result<Self, Invalid> {
        let place = place.ok_or(Invalid::new("place", "is missing"))?;
        let name = |text: &str| {
            let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.');
            (1..=NAME_AT_MOST).contains(&text.len()) && text.bytes().all(plain)
        };
        if !name(&place.record_id) {
            return Err(Invalid::new("place.record_id", "is not an id"));
        }
        if !name(&place.field) {
            return Err(Invalid::new("place.field", "is not the name of a field"));
        }
        if place.version < 1 {
            return Err(Invalid::new("place.version", "counts from 1"));
        }
        let tenant = place
            .tenant_id
            .parse()
            .map_err(|_| Invalid::new("place.tenant_id", "is not a tenant's id"))?;
        let kind = Kind::try_from(place.kind()).map_err(|()| Invalid::new("place.kind", "is no kind"))?;
        Ok(Self {
            tenant,
            kind,
            record: place.record_id,
            field: place.field,
            version: place.version,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proto::vault::v1 as pb;
    use types::TenantId;

    use super::{Form, Kind, Place};

    #[test]
    fn no_two_places_have_the_same_bytes() {
        let tenants = [TenantId::fresh(), TenantId::fresh()];
        let mut seen = BTreeSet::new();
        let mut count = 0;
        for tenant in tenants {
            for kind in Kind::ALL {
                for (record, field) in [("ab", "c"), ("a", "bc"), ("abc", ""), ("", "abc")] {
                    for version in [1, 2, 256] {
                        for form in [Form::Fernet, Form::Aes256Gcm] {
                            let place = Place {
                                tenant,
                                kind: *kind,
                                record: record.to_owned(),
                                field: field.to_owned(),
                                version,
                            };
                            seen.insert(place.bytes(form));
                            count += 1;
                        }
                    }
                }
            }
        }
        assert_eq!(seen.len(), count);
    }

    #[test]
    fn kinds_have_words_and_wire_values() {
        for kind in Kind::ALL {
            assert_eq!(kind.word().parse(), Ok(*kind));
            assert_eq!(Kind::try_from(pb::SecretKind::from(*kind)), Ok(*kind));
        }
        assert_eq!(Kind::try_from(pb::SecretKind::Unspecified), Err(()));
    }

    #[test]
    fn a_place_that_cannot_be_is_refused_with_its_field() {
        let good = pb::SecretPlace {
            tenant_id: TenantId::fresh().to_string(),
            kind: pb::SecretKind::Dsn.into(),
            record_id: "srv_1".to_owned(),
            field: "dsn".to_owned(),
            version: 1,
        };
        assert!(Place::try_from(Some(good.clone())).is_ok());
        for (field, bad) in [
            ("place", None),
            (
                "place.tenant_id",
                Some(pb::SecretPlace {
                    tenant_id: "acme".to_owned(),
                    ..good.clone()
                }),
            ),
            (
                "place.kind",
                Some(pb::SecretPlace {
                    kind: 99,
                    ..good.clone()
                }),
            ),
            (
                "place.record_id",
                Some(pb::SecretPlace {
                    record_id: String::new(),
                    ..good.clone()
                }),
            ),
            (
                "place.field",
                Some(pb::SecretPlace {
                    field: "a b".to_owned(),
                    ..good.clone()
                }),
            ),
            ("place.version", Some(pb::SecretPlace { version: 0, ..good })),
        ] {
            assert_eq!(Place::try_from(bad).unwrap_err().field, field);
        }
    }
}
