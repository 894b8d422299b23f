//! What a server's agents log in with. Values pass through here once, on their way to the vault.

use std::{fmt, str::FromStr};

use types::{Micros, Secret};

use super::Problem;

/// The longest password of an account.
const LONGEST_PASSWORD: usize = 1_024;

/// The longest of everything else.
const LONGEST: usize = 65_536;

/// Kinds of credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The password of the account that the agent replicates with.
    MysqlPassword,
    /// A token for another service.
    ServiceToken,
    /// The private key of an SSH tunnel.
    SshKey,
    /// A data source name with its password.
    Dsn,
    /// The private key of a TLS client certificate.
    TlsKey,
}

impl Kind {
    const ALL: [Self; 5] = [
        Self::MysqlPassword,
        Self::ServiceToken,
        Self::SshKey,
        Self::Dsn,
        Self::TlsKey,
    ];

    /// As tables have it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::MysqlPassword => "mysql_password",
            Self::ServiceToken => "service_token",
            Self::SshKey => "ssh_key",
            Self::Dsn => "dsn",
            Self::TlsKey => "tls_key",
        }
    }

    /// The field of the place that a value of this kind is sealed for.
    pub(crate) fn field(self) -> &'static str {
        match self {
            Self::MysqlPassword => "password",
            Self::ServiceToken => "token",
            Self::SshKey | Self::TlsKey => "key",
            Self::Dsn => "dsn",
        }
    }
}

impl FromStr for Kind {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|kind| kind.word() == word).ok_or(())
    }
}

/// What is known of a credential. Never its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Credential {
    pub(crate) kind: Kind,
    pub(crate) version: i64,
    pub(crate) key_version: i64,
    pub(crate) set: Micros,
}

/// A value, checked.
#[derive(Clone)]
pub(crate) struct Value(Secret<String>);

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Value {
    /// Takes it out of the request. What is wrong with it is said without a word of it.
    pub(crate) fn new(kind: Kind, text: String) -> Result<Self, Problem> {
        let value = Secret::new(text);
        let text = value.expose().as_str();
        let longest = if kind == Kind::MysqlPassword {
            LONGEST_PASSWORD
        } else {
            LONGEST
        };
        if text.is_empty() {
            return Err("a value is needed".into());
        }
        if text.len() > longest {
            return Err(format!("at most {longest} bytes").into());
        }
        let problem = match kind {
            Kind::MysqlPassword if text.contains('\0') => "a password has no NUL",
            Kind::ServiceToken if !text.bytes().all(|byte| byte.is_ascii_graphic()) => {
                "a token is printable ASCII without spaces"
            }
            Kind::Dsn if text.chars().any(char::is_control) => "a data source name has no control characters",
            Kind::SshKey | Kind::TlsKey if !is_private_key(text) => {
                "not a private key in PEM or OpenSSH form"
            }
            _ => return Ok(Self(value)),
        };
        Err(problem.into())
    }

    /// Lends it to the call of the vault.
    pub(crate) fn expose(&self) -> &str {
        self.0.expose()
    }
}

/// Whether it begins and ends as private keys do. What is inside is for the agent to find out.
fn is_private_key(text: &str) -> bool {
    let text = text.trim();
    let Some(label) = text
        .strip_prefix("-----BEGIN ")
        .and_then(|rest| rest.split_once("-----"))
        .map(|(label, _)| label)
    else {
        return false;
    };
    label.ends_with("PRIVATE KEY") && text.ends_with(&format!("-----END {label}-----"))
}

#[cfg(test)]
mod tests {
    use super::{Kind, LONGEST, LONGEST_PASSWORD, Value};

    #[test]
    fn words_are_read_back() {
        for kind in Kind::ALL {
            assert_eq!(kind.word().parse(), Ok(kind));
        }
        assert!("sink_secret".parse::<Kind>().is_err());
    }

    #[test]
    fn values_are_checked_by_their_kind() {
        let pem = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n-----END OPENSSH PRIVATE KEY-----\n";
        for (kind, good) in [
            (Kind::MysqlPassword, "p"),
            (Kind::MysqlPassword, "with spaces, ünïcode and 'quotes\"\n"),
            (Kind::ServiceToken, "bt_live_x"),
            (Kind::Dsn, "mysql://u:p@h/db?x=é"),
            (Kind::SshKey, pem),
            (
                Kind::TlsKey,
                "-----BEGIN PRIVATE KEY-----\nMC4\n-----END PRIVATE KEY-----",
            ),
        ] {
            assert!(Value::new(kind, good.to_owned()).is_ok(), "{kind:?}");
        }
        for (kind, bad) in [
            (Kind::MysqlPassword, String::new()),
            (Kind::MysqlPassword, "a\0b".to_owned()),
            (Kind::MysqlPassword, "x".repeat(LONGEST_PASSWORD + 1)),
            (Kind::ServiceToken, "two words".to_owned()),
            (Kind::ServiceToken, "x".repeat(LONGEST + 1)),
            (Kind::Dsn, "mysql://a\nb".to_owned()),
            (Kind::SshKey, "ssh-ed25519 AAAA".to_owned()),
            (
                Kind::TlsKey,
                "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----".to_owned(),
            ),
            (Kind::TlsKey, "-----BEGIN PRIVATE KEY-----\n".to_owned()),
            (Kind::SshKey, pem.replace("END OPENSSH", "END RSA")),
        ] {
            assert!(Value::new(kind, bad).is_err(), "{kind:?}");
        }
        let longest = "x".repeat(LONGEST_PASSWORD);
        assert!(Value::new(Kind::MysqlPassword, longest).is_ok());
    }

    #[test]
    fn debug_and_problems_say_nothing_of_the_value() {
        let value = Value::new(Kind::MysqlPassword, "hunter2".to_owned()).unwrap();
        assert_eq!(format!("{value:?}"), "***");
        let problem = Value::new(Kind::ServiceToken, "hunter 2".to_owned()).unwrap_err();
        assert!(!format!("{problem:?}").contains("hunter"));
    }
}
