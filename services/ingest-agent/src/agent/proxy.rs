//! The way out through a proxy: HTTP CONNECT (RFC 9110 §9.3.6), after which the proxy sees bytes only.
//!
//! Which one is what `--proxy` says, else `HTTPS_PROXY` unless `NO_PROXY` names the mesh's host, as other programs take it. A password in it goes
//! to the proxy and into no message.

use std::{env, fmt, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use types::Secret;
use url::Url;

use super::error::Error;
use crate::options::percent_decoded;

/// A proxy that does not answer within this time is not there.
const ANSWER: Duration = Duration::from_secs(20);
/// The longest head of an answer that is read.
const HEAD: usize = 8 << 10;

/// An HTTP proxy.
#[derive(Clone)]
pub struct Proxy {
    host: String,
    port: u16,
    /// `user:password`, in base64.
    basic: Option<Secret<String>>,
}

/// Without what opens it.
impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name())
    }
}

impl Proxy {
    /// The proxy to use for `host`; none to go straight. `given` is what `--proxy` says; `none` or an empty one means straight, whatever
    /// the environment says.
    pub fn choose(given: Option<&str>, host: &str, port: u16) -> Result<Option<Self>, Error> {
        let variable = |names: [&str; 2]| {
            names
                .iter()
                .find_map(|name| env::var(name).ok().filter(|text| !text.is_empty()))
        };
        match given {
            Some("" | "none") => return Ok(None),
            Some(text) => return Self::parse("--proxy", text).map(Some),
            None => {}
        }
        let excepted = variable(["NO_PROXY", "no_proxy"]).unwrap_or_default();
        if is_excepted(&excepted, host, port) {
            return Ok(None);
        }
        variable(["HTTPS_PROXY", "https_proxy"])
            .map(|text| Self::parse("HTTPS_PROXY", &text))
            .transpose()
    }

    /// `http://user:password@host:port`; scheme and port may be left out.
    fn parse(what: &str, text: &str) -> Result<Self, Error> {
        let wrong = |why: &str| Error::Usage {
            what: what.to_owned(),
            why: why.to_owned(),
            hint: "write http://host:port, or http://user:password@host:port; none goes straight",
        };
        let whole = if text.contains("://") {
            text.to_owned()
        } else {
            format!("http://{text}")
        };
        let url = Url::parse(&whole).map_err(|_| wrong("it is not the URL of a proxy"))?;
        if url.scheme() != "http" {
            return Err(wrong(
                "only proxies that speak plain HTTP to us are supported; what goes through them is encrypted anyway",
            ));
        }
        let host = url
            .host_str()
            .filter(|host| !host.is_empty())
            .ok_or_else(|| wrong("it names no host"))?;
        let basic = if url.username().is_empty() && url.password().is_none() {
            None
        } else {
            let (user, password) = (
                percent_decoded(url.username()),
                percent_decoded(url.password().unwrap_or_default()),
            );
            let (Some(user), Some(password)) = (user, password) else {
                return Err(wrong("its user or password is not valid UTF-8"));
            };
            let both = Secret::new(format!("{user}:{password}"));
            Some(Secret::new(STANDARD.encode(both.expose())))
        };
        Ok(Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: url.port().unwrap_or(80),
            basic,
        })
    }

    /// Host and port.
    pub fn name(&self) -> String {
        authority(&self.host, self.port)
    }

    /// Where it is.
    pub(super) fn address(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// Asks the proxy at the other end of `stream` for a way to `host`.
    pub(super) async fn tunnel(&self, stream: &mut TcpStream, host: &str, port: u16) -> Result<(), Error> {
        let refused = |why: String| Error::Unreachable {
            what: format!("the proxy {}", self.name()),
            why,
        };
        let target = authority(host, port);
        let mut request = Secret::new(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"));
        if let Some(basic) = &self.basic {
            request = Secret::new(format!(
                "{}Proxy-Authorization: Basic {}\r\n",
                request.expose(),
                basic.expose()
            ));
        }
        let request = Secret::new(format!("{}\r\n", request.expose()));
        let talk = async {
            stream.write_all(request.expose().as_bytes()).await?;
            head(stream).await
        };
        let head = match timeout(ANSWER, talk).await {
            Ok(Ok(head)) => head,
            Ok(Err(error)) => return Err(refused(error.to_string())),
            Err(_) => return Err(refused(format!("no answer within {} s", ANSWER.as_secs()))),
        };
        match status(&head) {
            Some(200..=299) => Ok(()),
            Some(407) => Err(refused(
                "it wants a user and a password: put them into HTTPS_PROXY as http://user:password@host:port"
                    .to_owned(),
            )),
            Some(other) => Err(refused(format!("it answers {other} when asked for {target}"))),
            None => Err(refused("it does not speak HTTP".to_owned())),
        }
    }
}

/// An answer up to the empty line, byte by byte, so that nothing of what follows is taken.
async fn head(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == HEAD {
            return Err(std::io::Error::other("its answer has no end"));
        }
        head.push(stream.read_u8().await?);
    }
    Ok(head)
}

/// The number in `HTTP/1.1 200 Connection established`.
fn status(head: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(head.split(|byte| *byte == b'\r').next()?).ok()?;
    let mut words = line.split(' ');
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    words.next()?.parse().ok()
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Whether `list` (comma-separated hosts, domains and addresses, `*` for all, a port if it counts for that one only) names the host.
fn is_excepted(list: &str, host: &str, port: u16) -> bool {
    let host = host.to_ascii_lowercase();
    list.split(',').map(str::trim).any(|entry| {
        let entry = entry.to_ascii_lowercase();
        if entry == "*" {
            return true;
        }
        let (name, only) = match entry.rsplit_once(':') {
            Some((name, digits)) if !name.contains(':') => (name.to_owned(), digits.parse().ok()),
            _ => (entry, None::<u16>),
        };
        let name = name.trim_start_matches("*.").trim_start_matches('.').to_owned();
        !name.is_empty()
            && only.is_none_or(|only| only == port)
            && (host == name || host.strip_suffix(&name).is_some_and(|rest| rest.ends_with('.')))
    })
}

#[cfg(test)]
mod tests {
    use super::{Proxy, is_excepted, status};

    #[test]
    fn a_proxy_is_read_and_its_password_is_not_told() {
        let proxy =
            Proxy::parse("--proxy", "http://us%40er:pa%3Ass+@proxy.example.com:3128").expect("a proxy");
        assert_eq!(proxy.address(), ("proxy.example.com", 3128));
        let basic = proxy.basic.as_ref().map(|basic| basic.expose().clone());
        assert_eq!(basic.as_deref(), Some("dXNAZXI6cGE6c3Mr"));
        assert_eq!(format!("{proxy:?}"), "proxy.example.com:3128");
        let bare = Proxy::parse("--proxy", "[::1]:3128").expect("a proxy");
        assert_eq!(
            (bare.address(), bare.name()),
            (("::1", 3128), "[::1]:3128".to_owned())
        );
        for wrong in ["https://proxy", "socks5://proxy", "http://", "http://:3128"] {
            let Err(error) = Proxy::parse("--proxy", wrong) else {
                panic!("{wrong}")
            };
            assert!(!error.to_string().contains("pa:ss"));
        }
    }

    #[test]
    fn exceptions_are_hosts_and_what_is_below_them() {
        for (list, host, excepted) in [
            ("", "mesh.example.com", false),
            ("*", "mesh.example.com", true),
            ("mesh.example.com", "MESH.example.com", true),
            ("example.com", "mesh.example.com", true),
            (".example.com", "mesh.example.com", true),
            ("*.example.com", "mesh.example.com", true),
            ("ample.com", "mesh.example.com", false),
            ("localhost, 127.0.0.1", "127.0.0.1", true),
            ("mesh.example.com:443", "mesh.example.com", true),
            ("mesh.example.com:8443", "mesh.example.com", false),
            ("::1", "::1", true),
            (",", "mesh.example.com", false),
        ] {
            assert_eq!(is_excepted(list, host, 443), excepted, "{list:?} {host}");
        }
    }

    #[test]
    fn only_http_has_a_status() {
        assert_eq!(status(b"HTTP/1.1 200 OK\r\n\r\n"), Some(200));
        assert_eq!(status(b"HTTP/1.0 407 x\r\nA: b\r\n\r\n"), Some(407));
        assert_eq!(status(b"SSH-2.0-x\r\n\r\n"), None);
    }
}
