//! What can go wrong between us and a source, and whether waiting helps.

use mysql_async::{DriverError, Error as MysqlError, ServerError};
use types::Code;

use crate::error::Error;

/// Errors a person must put right (MySQL and MariaDB error reference).
const ACCESS_DENIED: [u16; 3] = [1044, 1045, 1698];
const PRIVILEGE_MISSING: [u16; 2] = [1227, 1142];
const PASSWORD_EXPIRED: [u16; 2] = [1820, 1862];
const INSECURE_TRANSPORT: [u16; 2] = [3159, 4064];
/// The server cannot read its log for us; only its words say why.
const CANNOT_SERVE_LOG: u16 = 1236;
/// The log that was asked for is gone: MySQL and MariaDB, by place and by GTID.
const LOG_IS_GONE: [&str; 4] = [
    "Could not find first log file",
    "purged",
    "Could not find GTID state",
    "not in the master's binlog",
];
/// The server cannot read its own log there, however often it is asked (`sql/rpl_binlog_sender.cc`, MariaDB's `sql/sql_repl.cc`).
const LOG_IS_BROKEN: [&str; 6] = [
    "bogus data",
    "truncated in the middle",
    "crc check",
    "read error",
    "Corrupt",
    "could not find next log",
];
const TLS_HINT: &str = "check --tls-ca and --tls-mode: verify-identity needs a certificate that names the host as it stands in the URL, and verify-ca one that names some host (subjectAltName)";

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
            Error::new(Code::Refused, what, "the server does not offer TLS").hint(
                "turn TLS on at the server, or use --tls-mode preferred or disabled if the way to it is safe",
            ),
        ),
        MysqlError::Driver(
            error @ (DriverError::UnknownAuthPlugin { .. }
            | DriverError::CleartextPluginDisabled
            | DriverError::MysqlOldPasswordDisabled),
        ) => Fault::Permanent(Error::new(Code::Refused, what, error).hint(
            "give the user caching_sha2_password, or mysql_native_password on MariaDB and MySQL before 9.0",
        )),
        MysqlError::Driver(DriverError::PacketTooLarge) => Fault::Permanent(
            Error::new(
                Code::Refused,
                what,
                "an event of the log is larger than 1 GiB, the most that a client can take",
            )
            .hint("read the log files themselves with trail index"),
        ),
        MysqlError::Io(mysql_async::IoError::Tls(error)) => {
            Fault::Permanent(Error::new(Code::Refused, what, format!("TLS: {}", root(error))).hint(TLS_HINT))
        }
        MysqlError::Io(mysql_async::IoError::Io(error))
            if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) =>
        {
            Fault::Permanent(Error::new(Code::Refused, what, format!("TLS: {error}")).hint(TLS_HINT))
        }
        other => Fault::Transient(Error::new(Code::Unavailable, what, root(other))),
    }
}

/// The first cause's own words: what is wrapped around it repeats them.
fn root(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
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
    } else if code == CANNOT_SERVE_LOG {
        log_not_served(what, &error.message, told)
    } else {
        Fault::Transient(Error::new(Code::Unavailable, what, told))
    }
}

fn log_not_served(what: &str, message: &str, told: String) -> Fault {
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if says(&["same server_uuid/server_id"]) {
        let hint = "another replica uses the same server id: choose one with --server-id";
        Fault::Permanent(Error::new(Code::Refused, what, told).hint(hint))
    } else if says(&["max_allowed_packet"]) {
        let hint =
            "raise max_allowed_packet on the server (SET GLOBAL max_allowed_packet = 1073741824; no restart)";
        Fault::Permanent(Error::new(Code::Refused, what, told).hint(hint))
    } else if says(&LOG_IS_GONE) {
        Fault::Purged(told)
    } else if says(&LOG_IS_BROKEN) {
        let hint = "the server cannot read its own log there; a new --store with --start at a later file (SHOW BINARY LOGS) goes on without that part";
        Fault::Permanent(Error::new(Code::Refused, what, told).hint(hint))
    } else {
        Fault::Transient(Error::new(Code::Unavailable, what, told))
    }
}

#[cfg(test)]
mod tests {
    use mysql_async::{Error, IoError, ServerError};

    use super::{Fault, judge};

    fn told(message: &str) -> Fault {
        let error = ServerError {
            code: 1236,
            message: message.into(),
            state: "HY000".into(),
        };
        judge("db", &Error::Server(error))
    }

    #[test]
    fn only_a_log_that_is_gone_is_purged() {
        for gone in [
            "Could not find first log file name in binary log index file",
            "Cannot replicate because the source purged required binary logs. Replicate the missing transactions from elsewhere",
            "Could not find GTID state requested by slave in any binlog files. Probably the slave state is too old and required binlog files have been purged.",
        ] {
            assert!(matches!(told(gone), Fault::Purged(_)), "{gone}");
        }
        for broken in [
            "bogus data in log event; the first event 'binlog.000002' at 4",
            "binlog truncated in the middle of event; consider out of disk space on source",
            "log event entry exceeded max_allowed_packet; Increase max_allowed_packet on source",
            "event read from binlog did not pass crc check; the first event",
        ] {
            assert!(matches!(told(broken), Fault::Permanent(_)), "{broken}");
        }
        let passing = told("Client requested source to start replication from position > file size");
        assert!(matches!(passing, Fault::Transient(_)));
    }

    #[test]
    fn a_cause_is_told_once() {
        let error = Error::Io(IoError::Io(std::io::Error::other("connection refused")));
        let Fault::Transient(error) = judge("db", &error) else {
            panic!("it passes")
        };
        assert_eq!(format!("{error:?}").matches("connection refused").count(), 1);
        assert!(!format!("{error:?}").contains("Input/output"));
    }
}
