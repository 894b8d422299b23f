//! What the engines need to know, checked: the command line ends here and live replication and file reading begin.

mod address;

use std::path::PathBuf;

use binlog::{GtidSet, LogPos};
use types::Secret;

pub(crate) use self::address::{parse_url, percent_decoded};

/// Follow a server: `trail watch`.
#[derive(Debug)]
pub struct Watch {
    /// The server.
    pub server: Server,
    /// Where to begin; none to go on where the store ends, or at the server's present end if the store is empty.
    pub start: Option<Start>,
    /// The store's folder; it is made if it does not exist.
    pub store: PathBuf,
    /// End once everything the server had when we connected has been stored, instead of following for ever.
    pub until_caught_up: bool,
    /// The id to register with among the server's replicas; none to derive one from the installation.
    pub server_id: Option<u32>,
    /// How much memory and disk the store takes for what it has not sorted yet.
    pub sizes: trail::Options,
}

/// A server, and how to log in to it.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: Address,
    /// The replication user.
    pub user: String,
    /// Its password; none when neither variable is set, which servers that authenticate by socket accept.
    pub password: Option<Secret<String>>,
    /// How the connection is protected.
    pub tls: Tls,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A host name or address, and a port.
    Tcp {
        /// Host name, IPv4 or IPv6 address (without brackets).
        host: String,
        /// Port.
        port: u16,
    },
    /// A Unix socket on this machine.
    Socket(PathBuf),
}

/// How a connection is protected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// What is demanded.
    pub mode: TlsMode,
    /// Certificates to trust instead of the system's, PEM.
    pub ca: Option<PathBuf>,
    /// Our certificate and its chain, PEM.
    pub cert: Option<PathBuf>,
    /// Its private key, PEM.
    pub key: Option<PathBuf>,
}

/// The five modes of MySQL's own clients (`--ssl-mode`), with their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TlsMode {
    /// Never encrypt.
    Disabled,
    /// Encrypt if the server can; do not look at its certificate.
    Preferred,
    /// Encrypt or fail; do not look at its certificate.
    Required,
    /// Encrypt or fail, and the certificate must come from a trusted authority.
    VerifyCa,
    /// The same, and the certificate must name the host.
    VerifyIdentity,
}

/// Where in the server's log to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// After what the server has committed so far.
    Now,
    /// At the oldest log the server still has.
    Oldest,
    /// After these transactions.
    After(GtidSet),
    /// At this place.
    At(LogPos),
}

/// Read binary log files: `trail index`.
#[derive(Debug)]
pub struct Index {
    /// The files, in the order of the log.
    pub files: Vec<PathBuf>,
    /// The store's folder; it is made if it does not exist.
    pub store: PathBuf,
    /// The live server that tells the present definitions of tables whose columns the files do not name.
    pub schema_from: Option<Server>,
}
