//! Where a server is, as people write it.

use std::path::PathBuf;

use types::Code;
use url::Url;

use super::Address;
use crate::error::Error;

const PASSWORD: &str = "TRAIL_SOURCE_PASSWORD";
const PORT: u16 = 3306;

/// The address and the user in `mysql://user@host:port/` or `mysql://user@localhost/?socket=/path`. The URL itself is never repeated in a message: it might hold a password.
pub(crate) fn parse_url(text: &str) -> Result<(Address, String), Error> {
    let wrong = |why: &str| {
        Error::new(Code::Invalid, "the URL", why)
            .hint("write mysql://user@host:3306/ or mariadb://user@host/, or mysql://user@localhost/?socket=/path/to/mysqld.sock")
    };
    let url = Url::parse(text).map_err(|error| wrong(&format!("it cannot be read: {error}")))?;
    if url.password().is_some() {
        return Err(Error::new(
            Code::Refused,
            "the URL",
            "it holds a password, which is now in the shell's history and was visible in the process list",
        )
        .hint(format!(
            "change that password, leave it out of the URL, and set {PASSWORD}, or {PASSWORD}_FILE to the path of a file that holds it"
        )));
    }
    if !matches!(url.scheme(), "mysql" | "mariadb") {
        return Err(wrong("it begins with neither mysql:// nor mariadb://"));
    }
    if !matches!(url.path(), "" | "/") {
        return Err(wrong(
            "it names a database, but a binary log is the whole server's; leave it out and filter by table when asking",
        ));
    }
    let user = percent_decoded(url.username()).ok_or_else(|| wrong("the user's name is not valid UTF-8"))?;
    if user.is_empty() {
        return Err(wrong("it names no user"));
    }
    let mut socket = None;
    for (name, value) in url.query_pairs() {
        match &*name {
            "socket" if !value.is_empty() => socket = Some(PathBuf::from(&*value)),
            _ => {
                return Err(wrong(&format!(
                    "it has the parameter {name}; only socket is known"
                )));
            }
        }
    }
    let host = url
        .host_str()
        .filter(|host| !host.is_empty())
        .map(|host| host.trim_matches(['[', ']']).to_owned());
    match (socket, host) {
        (Some(socket), _) => Ok((Address::Socket(socket), user)),
        (None, Some(host)) => Ok((
            Address::Tcp {
                host,
                port: url.port().unwrap_or(PORT),
            },
            user,
        )),
        (None, None) => Err(wrong("it names no host")),
    }
}

/// Without percent signs; none if that is not UTF-8.
pub(crate) fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        let hex = (*first == b'%')
            .then(|| more.get(..2))
            .flatten()
            .filter(|hex| hex.iter().all(u8::is_ascii_hexdigit));
        match hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &more[2..];
            }
            None => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::{Address, Error, parse_url};

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp {
            host: host.into(),
            port,
        }
    }

    #[test]
    fn urls_name_a_user_and_a_server() {
        let read = |text| parse_url(text).map_err(|error| format!("{error:?}"));
        assert_eq!(read("mysql://trail@db1/"), Ok((tcp("db1", 3306), "trail".into())));
        assert_eq!(
            read("mariadb://tr%40il@db1.example.com:3307"),
            Ok((tcp("db1.example.com", 3307), "tr@il".into()))
        );
        assert_eq!(
            read("mysql://trail@[::1]:13306/"),
            Ok((tcp("::1", 13306), "trail".into()))
        );
        let socket = Address::Socket("/run/mysqld/mysqld.sock".into());
        assert_eq!(
            read("mariadb://trail@localhost/?socket=/run/mysqld/mysqld.sock"),
            Ok((socket.clone(), "trail".into()))
        );
        assert_eq!(
            read("mysql://trail@db1/?socket=/run/mysqld/mysqld.sock"),
            Ok((socket, "trail".into()))
        );
        for text in [
            "",
            "db1",
            "http://trail@db1/",
            "mysql://db1/",
            "mysql://trail@db1/shop",
            "mysql://trail@db1/?tls=1",
            "mysql:trail@db1",
            "mysql://trail@/",
            "mysql://trail@db1:99999/",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_password_in_the_url_is_refused_without_repeating_it() {
        let Err(Error::Failed(failure)) = parse_url("mysql://trail:hunter2@db1/") else {
            panic!("accepted")
        };
        assert_eq!(failure.code, types::Code::Refused);
        assert!(!format!("{failure:?}").contains("hunter2"));
    }
}
