//! Names of things: a prefix that says the kind, and 128 bits, of which the first 48 are the time of making and the rest random.

use std::{fmt, str::FromStr};

use uuid::Uuid;

/// Crockford's base32 in lower case: no i, l, o, u.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// 26 digits of five bits hold 128 bits; the first one has three.
const LENGTH: usize = 26;

/// A text is no id of the wanted kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an id of the form {prefix}_ and 26 characters")]
pub struct IdError {
    /// What the id had to begin with.
    pub prefix: &'static str,
}

fn write_digits(value: u128, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut text = [0_u8; LENGTH];
    let mut rest = value;
    for place in text.iter_mut().rev() {
        *place = DIGITS[usize::from((rest & 31) as u8)];
        rest >>= 5;
    }
    f.write_str(str::from_utf8(&text).map_err(|_| fmt::Error)?)
}

fn read_digits(text: &str) -> Option<u128> {
    let bytes = text.as_bytes();
    if bytes.len() != LENGTH || bytes[0] > b'7' {
        return None;
    }
    let mut value = 0_u128;
    for byte in bytes {
        let digit = DIGITS.iter().position(|known| known == byte)?;
        value = value << 5 | digit as u128;
    }
    Some(value)
}

/// An id's 26 digits without its prefix, as names of PostgreSQL schemas and roles carry them.
struct Digits(u128);

impl fmt::Display for Digits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_digits(self.0, f)
    }
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// What every id of this kind begins with, before the underscore.
            pub const PREFIX: &str = $prefix;

            /// A new one; later ones sort after earlier ones.
            pub fn fresh() -> Self {
                Self(Uuid::now_v7().as_u128())
            }

            /// The 26 characters after the prefix: safe in any identifier.
            pub fn digits(self) -> impl fmt::Display {
                Digits(self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                text.strip_prefix(concat!($prefix, "_"))
                    .and_then(read_digits)
                    .map(Self)
                    .ok_or(IdError { prefix: $prefix })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!($prefix, "_"))?;
                write_digits(self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}

ids! {
    /// A person.
    UserId = "usr";
    /// A tenant.
    TenantId = "tnt";
    /// A session of a person.
    SessionId = "ses";
    /// An API key.
    KeyId = "key";
    /// A registered database server.
    ServerId = "srv";
    /// An agent pool.
    PoolId = "agp";
    /// An agent.
    AgentId = "agt";
    /// An access rule.
    RuleId = "acr";
    /// An invitation.
    InvitationId = "inv";
    /// An entry of the audit log.
    AuditId = "aud";
    /// A receiver of the audit log.
    SinkId = "asn";
    /// An uploaded log.
    UploadId = "upl";
    /// A plan of an undo.
    PlanId = "pln";
    /// A request, as the gateway numbers them.
    RequestId = "req";
}

#[cfg(test)]
mod tests {
    use super::{IdError, TenantId, UserId};

    #[test]
    fn ids_are_written_and_read_back() {
        let id = TenantId::fresh();
        let text = id.to_string();
        assert_eq!(text.len(), 30);
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(format!("{}", id.digits()), text[4..]);
    }

    #[test]
    fn later_ids_sort_after_earlier_ones_as_text_too() {
        let ids: Vec<UserId> = (0..1_000).map(|_| UserId::fresh()).collect();
        let texts: Vec<String> = ids.iter().map(UserId::to_string).collect();
        assert!(ids.is_sorted());
        assert!(texts.is_sorted());
    }

    #[test]
    fn what_is_no_id_is_refused() {
        let good = UserId::fresh().to_string();
        for bad in [
            String::new(),
            good[4..].to_owned(),
            good.replace("usr_", "tnt_"),
            good.to_uppercase(),
            format!("{good}0"),
            good[..29].to_owned(),
            "usr_8zzzzzzzzzzzzzzzzzzzzzzzzz".to_owned(),
            "usr_0000000000000000000000000l".to_owned(),
            "usr_00000000000000000000000;--".to_owned(),
            format!(" {good}"),
        ] {
            assert_eq!(bad.parse::<UserId>(), Err(IdError { prefix: "usr" }), "{bad}");
        }
    }
}
