//! Servers: what is known of a database, and the check of each field.

use std::{collections::BTreeMap, net::IpAddr};

use types::{Micros, PoolId, ServerId, is_shown};

use super::Problem;

/// MySQL's own port.
const DEFAULT_PORT: u16 = 3306;

/// How many labels a server has at most.
const MAX_LABELS: usize = 32;

macro_rules! stored {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $value:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $name { $($(#[$of])* $value,)* }

        impl $name {
            /// As the table writes it.
            pub(crate) fn word(self) -> &'static str {
                match self { $(Self::$value => $word,)* }
            }

            /// Reads what the table wrote.
            pub(crate) fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$value),)* _ => None }
            }
        }
    };
}

stored! {
    /// How the agent reaches a server.
    Tls {
        /// Authority and host name are checked.
        VerifyIdentity = "verify_identity",
        /// The authority is checked.
        VerifyCa = "verify_ca",
        /// Nothing is checked.
        Required = "required",
        /// Plain text.
        Disabled = "disabled",
    }
}

stored! {
    /// Which database a server is.
    Engine {
        /// MySQL.
        MySql = "mysql",
        /// MariaDB.
        MariaDb = "mariadb",
    }
}

/// What a person says of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Draft {
    /// Unique in the tenant.
    pub(crate) name: String,
    /// A host name or an address.
    pub(crate) host: String,
    /// 1 to 65535.
    pub(crate) port: u16,
    /// The account; empty where the credential names it.
    pub(crate) username: String,
    /// How it is reached.
    pub(crate) tls: Tls,
    /// Words of the team's own.
    pub(crate) labels: BTreeMap<String, String>,
    /// Whose agents follow it.
    pub(crate) pool: PoolId,
}

/// A registered server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    /// Its id.
    pub(crate) id: ServerId,
    /// What was said of it.
    pub(crate) said: Draft,
    /// Which database it is, once that is known.
    pub(crate) engine: Option<Engine>,
    /// Counts the changes of this record.
    pub(crate) version: i64,
    /// When it was registered.
    pub(crate) created: Micros,
    /// When it was last changed.
    pub(crate) updated: Micros,
    /// Nothing is done for it until the plan has room.
    pub(crate) frozen: bool,
}

impl Server {
    /// The version as clients see it.
    pub(crate) fn etag(&self) -> String {
        format!("v{}", self.version)
    }
}

/// New values of some fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Patch {
    pub(crate) name: Option<String>,
    pub(crate) host: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) username: Option<String>,
    pub(crate) tls: Option<Tls>,
    pub(crate) labels: Option<BTreeMap<String, String>>,
    pub(crate) pool: Option<PoolId>,
}

impl Patch {
    /// `said` with the new values.
    pub(crate) fn apply(self, said: Draft) -> Draft {
        Draft {
            name: self.name.unwrap_or(said.name),
            host: self.host.unwrap_or(said.host),
            port: self.port.unwrap_or(said.port),
            username: self.username.unwrap_or(said.username),
            tls: self.tls.unwrap_or(said.tls),
            labels: self.labels.unwrap_or(said.labels),
            pool: self.pool.unwrap_or(said.pool),
        }
    }
}

/// A host name (RFC 1123, underscores allowed as MySQL hosts in containers have them) or an IP address; IPv6 with or without brackets.
pub(crate) fn host(text: &str) -> Result<String, Problem> {
    if text.is_empty() {
        return Err("a host is needed: a name or an address".into());
    }
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return if address.is_ipv4() && bare != text {
            Err("an IPv4 address has no brackets".into())
        } else {
            Ok(bare.to_owned())
        };
    }
    if !text.is_ascii() {
        return Err("not ASCII: write the name in its xn-- form".into());
    }
    if text.contains("://") || text.contains('/') {
        return Err("a host alone is needed, not a URL".into());
    }
    let numeric = |label: &str| label.bytes().all(|b| b.is_ascii_digit());
    let labels: Vec<&str> = text.split('.').collect();
    let named = text.len() <= 253
        && labels.iter().all(|label| is_label(label))
        && !labels.last().copied().is_some_and(numeric);
    if !named {
        return Err("not a host name or address; a port goes into the field port".into());
    }
    Ok(text.to_owned())
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// 1 to 65535; 0 is MySQL's own.
pub(crate) fn port(number: i32) -> Result<u16, Problem> {
    match u16::try_from(number) {
        Ok(0) => Ok(DEFAULT_PORT),
        Ok(port) => Ok(port),
        Err(_) => Err("not from 1 to 65535".into()),
    }
}

/// MySQL's accounts have at most 32 characters (Reference Manual 8.2.1).
pub(crate) fn username(text: &str) -> Result<String, Problem> {
    if text.chars().count() > 32 {
        return Err("longer than the 32 characters of a MySQL account".into());
    }
    if !text.chars().all(is_shown) {
        return Err("has a control character".into());
    }
    Ok(text.to_owned())
}

/// At most 32 of them; keys of 1 to 63 and values of at most 255 characters.
pub(crate) fn labels<'a>(
    given: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Result<BTreeMap<String, String>, Problem> {
    let mut labels = BTreeMap::new();
    for (key, value) in given {
        if !(1..=63).contains(&key.chars().count()) {
            return Err("a key is not of 1 to 63 characters".into());
        }
        if value.chars().count() > 255 {
            return Err("a value is longer than 255 characters".into());
        }
        if !key.chars().chain(value.chars()).all(is_shown) {
            return Err("a key or a value has a control character".into());
        }
        labels.insert(key.clone(), value.clone());
    }
    if labels.len() > MAX_LABELS {
        return Err("more than 32 labels".into());
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use types::PoolId;

    use super::{Draft, Engine, Patch, Tls, host, labels, port, username};

    #[test]
    fn hosts_are_names_or_addresses() {
        for good in [
            "db",
            "db-1.prod.example.com",
            "mysql_primary",
            "10.0.0.1",
            "2001:db8::1",
            "xn--bcher-kva.example",
            "1a",
            &"a".repeat(63),
        ] {
            assert_eq!(host(good).as_deref(), Ok(good));
        }
        assert_eq!(host("[2001:db8::1]").as_deref(), Ok("2001:db8::1"));
    }

    #[test]
    fn what_is_no_host_is_refused() {
        let long = "a.".repeat(127) + "a";
        for bad in [
            "",
            " ",
            "a b",
            "a:3306",
            "10.0.0.1:3306",
            "256.1.1.1",
            "1.2.3",
            "[10.0.0.1]",
            "[::1",
            "-a",
            "a-",
            "a..b",
            ".a",
            "a.",
            "bücher.example",
            "mysql://a",
            "a/b",
            "a\0",
            "a'; DROP TABLE server; --",
            "a@b",
            "a%b",
            &"a".repeat(64),
            &long,
        ] {
            assert!(host(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ports_are_of_sixteen_bits_and_zero_is_mysqls_own() {
        assert_eq!(port(0), Ok(3306));
        assert_eq!(port(1), Ok(1));
        assert_eq!(port(65_535), Ok(65_535));
        for bad in [-1, 65_536, i32::MIN, i32::MAX] {
            assert!(port(bad).is_err());
        }
    }

    #[test]
    fn accounts_are_as_long_as_mysql_allows() {
        assert!(username("").is_ok() && username(&"ü".repeat(32)).is_ok() && username("o'neil").is_ok());
        assert!(
            username(&"u".repeat(33)).is_err() && username("a\0").is_err() && username("a\u{202e}").is_err()
        );
    }

    #[test]
    fn labels_are_bounded() {
        let of = |pairs: &[(&str, &str)]| {
            let given: BTreeMap<String, String> = pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect();
            labels(&given)
        };
        assert!(of(&[("env", "prod"), ("team", ""), ("größe", "'; --")]).is_ok());
        for bad in [
            ("", "x"),
            (&*"k".repeat(64), "x"),
            ("k", &*"v".repeat(256)),
            ("k\0", "x"),
            ("k", "\n"),
        ] {
            assert!(of(&[bad]).is_err());
        }
        let many: BTreeMap<String, String> = (0..33).map(|n| (format!("k{n}"), String::new())).collect();
        assert!(labels(&many).is_err());
        assert_eq!(labels(many.iter().take(32)).map(|l| l.len()), Ok(32));
    }

    #[test]
    fn a_patch_changes_what_it_names() {
        let said = Draft {
            name: "a".into(),
            host: "h".into(),
            port: 1,
            username: "u".into(),
            tls: Tls::Required,
            labels: BTreeMap::new(),
            pool: PoolId::fresh(),
        };
        assert_eq!(Patch::default().apply(said.clone()), said);
        let patch = Patch {
            port: Some(2),
            username: Some(String::new()),
            ..Patch::default()
        };
        let after = patch.apply(said.clone());
        assert_eq!(
            (after.port, after.username.as_str(), &after.host),
            (2, "", &said.host)
        );
    }

    #[test]
    fn stored_words_are_read_back() {
        for tls in [Tls::VerifyIdentity, Tls::VerifyCa, Tls::Required, Tls::Disabled] {
            assert_eq!(Tls::from_word(tls.word()), Some(tls));
        }
        for engine in [Engine::MySql, Engine::MariaDb] {
            assert_eq!(Engine::from_word(engine.word()), Some(engine));
        }
        assert_eq!(Tls::from_word("off"), None);
    }
}
