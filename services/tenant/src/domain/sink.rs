//! Receivers of the audit log.

use std::net::IpAddr;

use audit::format::Format;
use types::{Micros, SinkId};
use url::{Host, Url};

use super::Problem;

/// The longest URL.
const LONGEST_URL: usize = 1_024;

/// Where entries go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Syslog over TLS.
    Syslog(Place),
    /// A POST to this URL.
    Webhook(Place),
    /// A file of the sink's name.
    File,
}

/// A place in the network, as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// All of it.
    pub(crate) url: String,
    /// A name, or an address without brackets.
    pub(crate) host: String,
    /// TCP.
    pub(crate) port: u16,
    /// The path and query of a webhook.
    pub(crate) path: String,
}

impl Place {
    /// The address, where the host is one.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// As the header `Host` has it.
    pub(crate) fn authority(&self) -> String {
        let host = match self.address() {
            Some(IpAddr::V6(address)) => format!("[{address}]"),
            _ => self.host.clone(),
        };
        if self.port == 443 {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }
}

impl Target {
    /// As the table has it.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Syslog(_) => "syslog",
            Self::Webhook(_) => "webhook",
            Self::File => "file",
        }
    }

    /// As it was given; empty for a file.
    pub(crate) fn url(&self) -> &str {
        match self {
            Self::Syslog(place) | Self::Webhook(place) => &place.url,
            Self::File => "",
        }
    }

    /// From the table.
    pub(crate) fn stored(word: &str, url: &str) -> Option<Self> {
        match word {
            "syslog" => syslog(url).ok(),
            "webhook" => webhook(url).ok(),
            "file" => Some(Self::File),
            _ => None,
        }
    }
}

/// A sink, without its secret.
#[derive(Clone, Debug)]
pub(crate) struct Sink {
    pub(crate) id: SinkId,
    pub(crate) name: String,
    pub(crate) target: Target,
    pub(crate) format: Format,
    pub(crate) created: Micros,
}

/// How far a sink has come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) delivered: i64,
    pub(crate) behind: i64,
    pub(crate) last_error: String,
    pub(crate) last_attempt: Option<Micros>,
}

/// `syslog+tls://host:port`; 6514 where no port is named.
pub(crate) fn syslog(text: &str) -> Result<Target, Problem> {
    let rest = text
        .strip_prefix("syslog+tls://")
        .ok_or("not of the form syslog+tls://host:port")?;
    // The rules for hosts are those of https.
    let url = parse(&format!("https://{rest}"))?;
    if !matches!(url.path(), "" | "/") || url.query().is_some() {
        return Err("has more than a host and a port".into());
    }
    let named = rest.trim_end_matches('/').ends_with(":443");
    let port = url.port().unwrap_or(if named { 443 } else { 6_514 });
    Ok(Target::Syslog(place(text, &url, port)?))
}

/// `https://…`
pub(crate) fn webhook(text: &str) -> Result<Target, Problem> {
    if !text.starts_with("https://") {
        return Err("not of the form https://host/path".into());
    }
    let url = parse(text)?;
    let port = url.port().unwrap_or(443);
    Ok(Target::Webhook(place(text, &url, port)?))
}

fn parse(text: &str) -> Result<Url, Problem> {
    if text.len() > LONGEST_URL {
        return Err("longer than 1,024 bytes".into());
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("has a character that no URL has: write it percent-encoded".into());
    }
    let url = Url::parse(text).map_err(|_| "not a URL")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("has a user name or a password: a webhook is signed with the secret of its sink".into());
    }
    if url.fragment().is_some() {
        return Err("has a fragment".into());
    }
    Ok(url)
}

fn place(text: &str, url: &Url, port: u16) -> Result<Place, Problem> {
    let host = match url.host() {
        Some(Host::Domain(name)) if is_name(name) => name.trim_end_matches('.').to_owned(),
        Some(Host::Ipv4(address)) => address.to_string(),
        Some(Host::Ipv6(address)) => address.to_string(),
        _ => return Err("has no host".into()),
    };
    if port == 0 {
        return Err("has port 0".into());
    }
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    Ok(Place {
        url: text.to_owned(),
        host,
        port,
        path: format!("{}{query}", url.path()),
    })
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 253
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::{Target, syslog, webhook};

    #[test]
    fn places_are_read() {
        for (text, host, port, path) in [
            (
                "https://siem.example.com/in?x=1",
                "siem.example.com",
                443,
                "/in?x=1",
            ),
            ("https://SIEM.example.com.:8443", "siem.example.com", 8443, "/"),
            ("https://[2001:db8::1]/a", "2001:db8::1", 443, "/a"),
            ("https://0x7f.1/", "127.0.0.1", 443, "/"),
            ("https://2130706433/", "127.0.0.1", 443, "/"),
        ] {
            let Ok(Target::Webhook(place)) = webhook(text) else {
                panic!("{text}")
            };
            assert_eq!(
                (place.host.as_str(), place.port, place.path.as_str()),
                (host, port, path)
            );
            assert_eq!(place.url, text);
        }
        for (text, host, port) in [
            ("syslog+tls://log.example.com", "log.example.com", 6514),
            ("syslog+tls://log.example.com:443", "log.example.com", 443),
            ("syslog+tls://192.0.2.1:1/", "192.0.2.1", 1),
        ] {
            let Ok(Target::Syslog(place)) = syslog(text) else {
                panic!("{text}")
            };
            assert_eq!((place.host.as_str(), place.port), (host, port));
        }
        let Ok(Target::Webhook(place)) = webhook("https://[::1]:8443/") else {
            panic!()
        };
        assert_eq!(place.authority(), "[::1]:8443");
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for text in [
            "",
            "http://siem.example.com/",
            "https://",
            "https://user@siem.example.com/",
            "https://user:secret@siem.example.com/",
            "https://siem.example.com/#x",
            "https://siem.example.com/ HTTP/1.1",
            "https://siem.example.com/\r\nx: y",
            "https://sïem.example.com/",
            "https://siem.example.com:0/",
            "https://siem.example.com:99999/",
            &format!("https://siem.example.com/{}", "x".repeat(1_024)),
            "file:///etc/passwd",
            "ftp://x/",
        ] {
            assert!(webhook(text).is_err(), "{text:?}");
        }
        for text in [
            "",
            "syslog://log.example.com",
            "syslog+tls://",
            "syslog+tls://log.example.com/path",
            "syslog+tls://log.example.com?x",
            "syslog+tls://user@log.example.com",
            "https://log.example.com",
        ] {
            assert!(syslog(text).is_err(), "{text:?}");
        }
    }
}
