//! What can go wrong between us and a source, and whether waiting helps.

use mysql_async::{DriverError, Error as MysqlError, ServerError};
use types::{Code, chain};

use crate::error::Error;

/// Errors a person must put right (MySQL and MariaDB error reference).
const ACCESS_DENIED: [u16; 3] = [1044, 1045, 1698];
const PRIVILEGE_MISSING: [u16; 2] = [1227, 1142];
const PASSWORD_EXPIRED: [u16; 2] = [1820, 1862];
const INSECURE_TRANSPORT: [u16; 2] = [3159, 4064];
/// The server cannot serve the position asked for.
const CANNOT_SERVE_LOG: u16 = 1236;

/// What to do about a failed connection.
#[derive(Debug)]
pub(super) enum Fault {
    /// Wait and try again.
    Transient(Error),
    /// The log no longer reaches back to where reading must go on.
    Purged(String),
    /// A person must act.
    Permanent(Error),
}

impl Fault {
    /// The error, whatever its kind.
    pub(super) fn into_error(self, what: &str) -> Error {
        match self {
            Self::Transient(error) | Self::Permanent(error) => error,
            Self::Purged(why) => Error::new(Code::Refused, what, why),
        }
    }
}

/// Judges an error of the client library. `what` names the source.
pub(super) fn judge(what: &str, error: &MysqlError) -> Fault {
    match error {
        MysqlError::Server(error) => server(what, error),
        MysqlError::Driver(DriverError::NoClientSslFlagFromServer) => Fault::Permanent(
            Error::new(Code::Refused, what, "the server does not offer TLS")
                .hint("turn TLS on at the server, or use --tls-mode preferred or disabled if the way to it is safe"),
        ),
        MysqlError::Driver(error @ (DriverError::UnknownAuthPlugin { .. } | DriverError::CleartextPluginDisabled | DriverError::MysqlOldPasswordDisabled)) => {
            Fault::Permanent(
                Error::new(Code::Refused, what, chain(error))
                    .hint("give the user caching_sha2_password, or mysql_native_password on MariaDB and MySQL before 9.0"),
            )
        }
        MysqlError::Io(mysql_async::IoError::Tls(error)) => Fault::Permanent(
            Error::new(Code::Refused, what, format!("TLS: {}", chain(error)))
                .hint("check --tls-ca and --tls-mode: verify-identity needs a certificate that names the host as it stands in the URL"),
        ),
        MysqlError::Io(mysql_async::IoError::Io(error)) if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => Fault::Permanent(
            Error::new(Code::Refused, what, format!("TLS: {error}"))
                .hint("check --tls-ca and --tls-mode: verify-identity needs a certificate that names the host as it stands in the URL"),
        ),
        other => Fault::Transient(Error::new(Code::Unavailable, what, chain(other))),
    }
}

fn server(what: &str, error: &ServerError) -> Fault {
    let told = format!("the server says: {} ({})", error.message, error.code);
    let refused = |hint: &str| Fault::Permanent(Error::new(Code::Refused, what, &told).hint(hint));
    let code = error.code;
    if ACCESS_DENIED.contains(&code) {
        refused(
            "check the user's name and the password in TRAIL_SOURCE_PASSWORD or TRAIL_SOURCE_PASSWORD_FILE",
        )
    } else if PRIVILEGE_MISSING.contains(&code) {
        refused(
            "the user needs these rights: GRANT REPLICATION SLAVE, REPLICATION CLIENT, SELECT ON *.* TO 'trail'@'%'",
        )
    } else if PASSWORD_EXPIRED.contains(&code) {
        refused("the user's password has expired: change it at the server")
    } else if INSECURE_TRANSPORT.contains(&code) {
        refused("the server demands TLS: use --tls-mode required or a stricter one")
    } else if code == CANNOT_SERVE_LOG && error.message.contains("same server_uuid/server_id") {
        refused("another replica uses the same server id: choose one with --server-id")
    } else if code == CANNOT_SERVE_LOG {
        Fault::Purged(told)
    } else {
        Fault::Transient(Error::new(Code::Unavailable, what, told))
    }
}
