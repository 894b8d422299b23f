//! A connection to the source, and what the source is.

use std::{collections::HashMap, fmt, net::IpAddr, time::Duration};

use binlog::{ColumnFacts, GtidSet, LogPos};
use mysql_async::{
    Conn, DriverError, Error as MysqlError, IoError, Opts, OptsBuilder, SslOpts, prelude::Queryable,
};
use rustls::CertificateError;
use tokio::time::timeout;
use types::Code;

use super::{
    fault::{Fault, judge},
    sql,
};
use crate::{
    error::Error,
    options::{Address, Server, Tls, TlsMode},
};

/// A server that does not answer within this time is not there.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest wait for the answer to one of our questions.
pub(super) const ANSWER: Duration = Duration::from_secs(30);

/// The largest packet a client may accept, and so the largest event: what replicas of the servers' own use.
const PACKET_BYTES_MAX: usize = 1 << 30;

/// How to connect, as often as it takes.
pub(super) struct Connector {
    encrypted: Option<Opts>,
    plain: Option<Opts>,
    /// The certificate's authority is checked, but not whom it names.
    any_name: bool,
    /// The source for messages: host and port, or the socket's path.
    pub(super) what: String,
}

/// The client library's options hold the password in clear.
impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("what", &self.what)
            .finish_non_exhaustive()
    }
}

impl Connector {
    pub(super) fn new(server: &Server) -> Result<Self, Error> {
        let mut builder = OptsBuilder::default()
            .user(Some(&server.user))
            .prefer_socket(false)
            .max_allowed_packet(Some(PACKET_BYTES_MAX))
            .tcp_keepalive(Some(Duration::from_secs(30)));
        if let Some(password) = &server.password {
            builder = builder.pass(Some(password.expose()));
        }
        let what = match &server.address {
            Address::Tcp { host, port } => {
                builder = builder.ip_or_hostname(host).tcp_port(*port);
                if host.contains(':') {
                    format!("[{host}]:{port}")
                } else {
                    format!("{host}:{port}")
                }
            }
            Address::Socket(path) => {
                let text = path
                    .to_str()
                    .ok_or_else(|| Error::new(Code::Invalid, "the socket's path", "it is not valid UTF-8"))?;
                builder = builder.socket(Some(text));
                text.to_owned()
            }
        };
        let socket = matches!(server.address, Address::Socket(_));
        let plain = socket || matches!(server.tls.mode, TlsMode::Disabled | TlsMode::Preferred);
        let encrypted = !socket && server.tls.mode != TlsMode::Disabled;
        Ok(Self {
            any_name: server.tls.mode == TlsMode::VerifyCa,
            plain: plain.then(|| builder.clone().ssl_opts(None).into()),
            encrypted: encrypted.then(|| builder.ssl_opts(ssl(&server.tls)).into()),
            what,
        })
    }

    /// A new connection: encrypted if the mode says so; plain only if the mode allows it and the server offers nothing else.
    pub(super) async fn connect(&self) -> Result<Conn, Fault> {
        match (&self.encrypted, &self.plain) {
            (Some(encrypted), Some(plain)) => match self.open_encrypted(encrypted).await {
                Err(Some(MysqlError::Driver(DriverError::NoClientSslFlagFromServer))) => {
                    self.open(plain).await
                }
                other => other,
            },
            (Some(encrypted), None) => self.open_encrypted(encrypted).await,
            (None, Some(plain)) => self.open(plain).await,
            (None, None) => Err(None),
        }
        .map_err(|error| match error {
            Some(error) => judge(&self.what, &error),
            None => Fault::Transient(self.late("it did not answer", CONNECT)),
        })
    }

    /// The library has no working way to check a certificate's authority without the name it is for (it looks for words that its TLS
    /// library no longer says). A certificate that fails by its name alone is therefore checked again, whole, against a name it does have.
    async fn open_encrypted(&self, opts: &Opts) -> Result<Conn, Option<MysqlError>> {
        let failed = match self.open(opts).await {
            Err(Some(error)) if self.any_name => error,
            other => return other,
        };
        match (presented_name(&failed), opts.ssl_opts()) {
            (Some(name), Some(ssl)) => {
                let ssl = ssl.clone().with_danger_tls_hostname_override(Some(name));
                let builder = OptsBuilder::from_opts(opts.clone()).ssl_opts(ssl);
                self.open(&builder.into()).await
            }
            _ => Err(Some(failed)),
        }
    }

    async fn open(&self, opts: &Opts) -> Result<Conn, Option<MysqlError>> {
        match timeout(CONNECT, Conn::new(opts.clone())).await {
            Ok(done) => done.map_err(Some),
            Err(_) => Err(None),
        }
    }

    fn late(&self, why: &str, limit: Duration) -> Error {
        Error::new(
            Code::Unavailable,
            &self.what,
            format!("{why} within {} s", limit.as_secs()),
        )
    }

    /// Waits for an answer of the server, but not for ever.
    pub(super) async fn answer<T>(
        &self,
        question: impl Future<Output = Result<T, MysqlError>>,
    ) -> Result<T, Fault> {
        match timeout(ANSWER, question).await {
            Ok(answer) => answer.map_err(|error| judge(&self.what, &error)),
            Err(_) => Err(Fault::Transient(self.late("a question was not answered", ANSWER))),
        }
    }
}

/// A name that a certificate has, if it was refused only because it lacks the one that was asked for. The authority is checked before.
fn presented_name(error: &MysqlError) -> Option<String> {
    let MysqlError::Io(IoError::Io(error)) = error else {
        return None;
    };
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }) => {
            presented.iter().find_map(|name| plain_name(name))
        }
        _ => None,
    }
}

/// `DnsName("*.example.com")` or `IpAddress(127.0.0.1)`, as a name to ask for.
fn plain_name(presented: &str) -> Option<String> {
    if let Some(dns) = presented.strip_prefix("DnsName(\"") {
        let dns = dns.strip_suffix("\")")?;
        return Some(
            dns.strip_prefix('*')
                .map_or_else(|| dns.to_owned(), |rest| format!("any{rest}")),
        );
    }
    let ip = presented.strip_prefix("IpAddress(")?.strip_suffix(')')?;
    ip.parse::<IpAddr>().ok().map(|ip| ip.to_string())
}

fn ssl(tls: &Tls) -> SslOpts {
    let mut ssl = SslOpts::default();
    if let Some(ca) = &tls.ca {
        ssl = ssl
            .with_root_certs(vec![ca.clone().into()])
            .with_disable_built_in_roots(true);
    }
    if let (Some(cert), Some(key)) = (&tls.cert, &tls.key) {
        ssl = ssl.with_client_identity(Some(mysql_async::ClientIdentity::new(
            cert.clone().into(),
            key.clone().into(),
        )));
    }
    ssl.with_danger_accept_invalid_certs(matches!(tls.mode, TlsMode::Preferred | TlsMode::Required))
        .with_danger_skip_domain_validation(tls.mode != TlsMode::VerifyIdentity)
}

/// What a source says about itself.
#[derive(Debug)]
pub(super) struct Facts {
    settings: HashMap<String, String>,
}

impl Facts {
    pub(super) async fn ask(connector: &Connector, conn: &mut Conn) -> Result<Self, Fault> {
        let rows: Vec<(String, String)> = connector.answer(conn.query(sql::SETTINGS)).await?;
        Ok(Self {
            settings: rows
                .into_iter()
                .map(|(name, value)| (name.to_ascii_lowercase(), value))
                .collect(),
        })
    }

    fn get(&self, name: &str) -> &str {
        self.settings.get(name).map_or("", String::as_str)
    }

    pub(super) fn version(&self) -> &str {
        self.get("version")
    }

    pub(super) fn is_mariadb(&self) -> bool {
        self.version().contains("MariaDB")
    }

    fn release(&self) -> (u32, u32) {
        let mut parts = self
            .version()
            .split(['.', '-'])
            .map(|part| part.parse::<u32>().unwrap_or_default());
        (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
    }

    /// MySQL 8.2 renamed what is asked for.
    fn has_new_names(&self) -> bool {
        !self.is_mariadb() && self.release() >= (8, 2)
    }

    /// MariaDB 10.10 names collations without their character set, and tells numbers only of both together.
    pub(super) fn has_shared_collations(&self) -> bool {
        self.is_mariadb() && self.release() >= (10, 10)
    }

    /// Whether the server writes a binary log.
    pub(super) fn has_log(&self) -> bool {
        matches!(self.get("log_bin"), "ON" | "1")
    }

    pub(super) fn source(&self, host: &str) -> trail::Source {
        let mariadb = self.is_mariadb();
        let server = if mariadb {
            self.get("server_id")
        } else {
            self.get("server_uuid")
        };
        trail::Source {
            engine: if mariadb { "mariadb" } else { "mysql" }.into(),
            version: self.version().into(),
            server: server.into(),
            host: Some(host.into()),
        }
    }

    /// The server's own id among replicas.
    pub(super) fn server_id(&self) -> u32 {
        self.get("server_id").parse().unwrap_or_default()
    }

    /// Everything the server has executed and logged.
    pub(super) fn executed(&self) -> GtidSet {
        let text = if self.is_mariadb() {
            self.get("gtid_binlog_pos")
        } else {
            self.get("gtid_executed")
        };
        text.parse().unwrap_or_default()
    }

    /// Whether MySQL gives every transaction a GTID. MariaDB always does.
    pub(super) fn has_gtids(&self) -> bool {
        self.is_mariadb() || self.get("gtid_mode").eq_ignore_ascii_case("ON")
    }

    /// Refuses a server whose log could not be followed, with the remedy; gives warnings about what works but less well.
    pub(super) fn check(&self, what: &str) -> Result<Vec<String>, Error> {
        let refused = |why: String, hint: &str| Err(Error::new(Code::Refused, what, why).hint(hint));
        if !self.has_log() {
            return refused(
                "binary logging is off".into(),
                "start the server with log_bin=ON (and a server_id), then try again",
            );
        }
        let format = self.get("binlog_format");
        if !format.is_empty() && format != "ROW" {
            return refused(
                format!("binlog_format is {format}, which logs statements instead of rows"),
                "run SET GLOBAL binlog_format = 'ROW', make it permanent in the server's configuration, and reconnect its clients",
            );
        }
        let metadata = self.get("binlog_row_metadata");
        if metadata != "FULL" {
            let is = if metadata.is_empty() {
                "not known to this server".to_owned()
            } else {
                format!("{metadata}, so the log does not name columns")
            };
            return refused(
                format!("binlog_row_metadata is {is}"),
                "run SET GLOBAL binlog_row_metadata = 'FULL' (MySQL 8.0.1, MariaDB 10.5 or later; no restart) and make it permanent; changes from then on can be followed",
            );
        }
        if !self.get("binlog_row_value_options").is_empty() {
            return refused(
                "binlog_row_value_options is PARTIAL_JSON, which logs parts of documents".into(),
                "run SET GLOBAL binlog_row_value_options = '' and reconnect the server's clients",
            );
        }
        let image = self.get("binlog_row_image");
        let mut warnings = Vec::new();
        if !image.is_empty() && image != "FULL" {
            warnings.push(format!(
                "binlog_row_image is {image}: columns that did not change are not logged, and undo cannot restore deleted rows; SET GLOBAL binlog_row_image = 'FULL' helps from then on"
            ));
        }
        Ok(warnings)
    }
}

/// The present end of the log, and a warning if the server leaves schemas out of it.
pub(super) async fn log_end(
    connector: &Connector,
    conn: &mut Conn,
    facts: &Facts,
) -> Result<(LogPos, Option<String>), Fault> {
    let question = if facts.has_new_names() {
        sql::STATUS
    } else {
        sql::STATUS_OLD
    };
    let row: Option<mysql_async::Row> = connector.answer(conn.query_first(question)).await?;
    let end = row
        .as_ref()
        .and_then(|row| Some(LogPos::new(&row.get::<String, _>(0)?, row.get::<u64, _>(1)?)))
        .ok_or_else(|| {
            Fault::Permanent(Error::new(
                Code::Refused,
                &connector.what,
                "the server does not say where its log ends",
            ))
        })?;
    let filter = |column| {
        let names: Option<Option<String>> = row.as_ref().and_then(|row| row.get(column));
        names.flatten().unwrap_or_default()
    };
    Ok((end, left_out(&filter(2), &filter(3))))
}

/// What `binlog_do_db` and `binlog_ignore_db` keep out of the log.
fn left_out(only: &str, ignored: &str) -> Option<String> {
    let what = match (only, ignored) {
        ("", "") => return None,
        ("", ignored) => format!("binlog_ignore_db leaves changes of {ignored} out of the log"),
        (only, _) => format!("binlog_do_db leaves changes of all schemas but {only} out of the log"),
    };
    Some(format!("{what}: they cannot be seen here, found or undone"))
}

/// MariaDB: the last transaction of each domain before `at`; none if the server cannot tell. Not knowing it is no failure: what the
/// files say remains.
pub(super) async fn gtids_before(
    connector: &Connector,
    conn: &mut Conn,
    at: &LogPos,
) -> Result<Option<GtidSet>, Fault> {
    let question = conn.exec_first(sql::MARIADB_BEFORE, (at.file.as_str(), at.offset));
    let question = async {
        match question.await {
            Err(MysqlError::Server(_)) => Ok(None),
            other => other,
        }
    };
    let answer: Option<Option<String>> = connector.answer(question).await?;
    Ok(answer.flatten().and_then(|text| text.parse().ok()))
}

/// The logs the server still has, oldest first, with their lengths.
pub(super) async fn logs(connector: &Connector, conn: &mut Conn) -> Result<Vec<LogPos>, Fault> {
    let rows: Vec<mysql_async::Row> = connector.answer(conn.query(sql::LOGS)).await?;
    Ok(rows
        .iter()
        .filter_map(|row| Some(LogPos::new(&row.get::<String, _>(0)?, row.get::<u64, _>(1)?)))
        .collect())
}

/// What the log does not say of a table's columns; none if the table cannot be seen.
pub(super) async fn columns(
    connector: &Connector,
    conn: &mut Conn,
    schema: &str,
    table: &str,
) -> Result<Option<HashMap<String, ColumnFacts>>, Fault> {
    let rows: Vec<(String, u8, String)> = connector.answer(conn.exec(sql::COLUMNS, (schema, table))).await?;
    let known: HashMap<String, ColumnFacts> = rows
        .into_iter()
        .map(|(name, generated, extra)| {
            let on_update = extra.to_ascii_lowercase().contains("on update");
            (
                name,
                ColumnFacts {
                    generated: generated != 0,
                    on_update,
                },
            )
        })
        .collect();
    Ok((!known.is_empty()).then_some(known))
}
