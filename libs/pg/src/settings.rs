//! Where the database is and how it is reached.

use std::{fmt, path::PathBuf, str::FromStr};

use sqlx::{
    ConnectOptions as _,
    postgres::{PgConnectOptions, PgSslMode},
};
use types::Secret;
use url::Url;

use crate::SettingsError;

const URL: &str = "TRAILMESH_DATABASE_URL";

/// So a process of the server stays below 60 MB; measured by `./dev bench tenants`.
const TENANTS_PER_CONNECTION: u32 = 150;

/// How a service reaches its database.
#[derive(clap::Args, Clone, Debug)]
// Other groups of the same command are called Settings too.
#[group(skip)]
pub struct Settings {
    /// The database, as postgres://trailmesh_SERVICE:PASSWORD@HOST:PORT/NAME; pgbouncer in transaction mode may stand before it.
    #[arg(
        long,
        env = "TRAILMESH_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL",
        default_value = "",
        hide_default_value = true
    )]
    pub database_url: DatabaseUrl,
    /// PEM file of the authority that signed the server's certificate; without it, the public authorities.
    #[arg(long, env = "TRAILMESH_DATABASE_CA_FILE", value_name = "FILE")]
    pub database_ca_file: Option<PathBuf>,
    /// How many connections this process opens at most.
    #[arg(long, env = "TRAILMESH_DATABASE_MAX_CONNECTIONS", value_name = "N", default_value_t = 16,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub database_max_connections: u32,
    /// After how many tenants a connection is replaced: the server's process remembers the tables of each.
    #[arg(long, env = "TRAILMESH_DATABASE_TENANTS_PER_CONNECTION", value_name = "N", default_value_t = TENANTS_PER_CONNECTION,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub database_tenants_per_connection: u32,
}

impl Settings {
    /// Settings with nothing but a URL.
    ///
    /// # Errors
    /// When it is no URL of PostgreSQL.
    pub fn new(url: &str) -> Result<Self, SettingsError> {
        Ok(Self {
            database_url: url.parse()?,
            database_ca_file: None,
            database_max_connections: 16,
            database_tenants_per_connection: TENANTS_PER_CONNECTION,
        })
    }

    /// Refuses what must not run outside development: a server whose certificate is not fully verified, or a socket file.
    ///
    /// # Errors
    /// With the setting's name, what is wrong, and the remedy.
    pub fn check(&self, dev: bool) -> Result<(), SettingsError> {
        self.options("check", dev).map(|_| ())
    }

    /// The host that the URL leads to; empty where it leads nowhere.
    pub fn host(&self) -> String {
        let options = self.options("check", true);
        options.map_or_else(|_| String::new(), |options| options.get_host().to_owned())
    }

    /// Connection options of `application`. Statements are not kept on the server, because behind pgbouncer the next one may meet
    /// another session.
    pub(crate) fn options(&self, application: &str, dev: bool) -> Result<PgConnectOptions, SettingsError> {
        connect_options(
            self.database_url.0.expose(),
            self.database_ca_file.as_ref(),
            application,
            dev,
        )
    }
}

pub(crate) fn connect_options(
    url: &str,
    ca_file: Option<&PathBuf>,
    application: &str,
    dev: bool,
) -> Result<PgConnectOptions, SettingsError> {
    if url.is_empty() {
        return Err(wrong("is not set"));
    }
    let mut options = PgConnectOptions::from_str(url).map_err(|_| wrong("cannot be understood"))?;
    let parsed = Url::parse(url).map_err(|_| wrong("is no URL"))?;
    let mode = parsed
        .query_pairs()
        .find(|(name, _)| name == "sslmode" || name == "ssl-mode");
    let verified = mode.as_ref().is_none_or(|(_, mode)| mode == "verify-full");
    if !dev && !verified {
        return Err(SettingsError {
            name: URL,
            problem: "sslmode is not verify-full".to_owned(),
            remedy: "leave sslmode out, and name the server's authority in TRAILMESH_DATABASE_CA_FILE"
                .to_owned(),
        });
    }
    if !dev && options.get_socket().is_some() {
        return Err(SettingsError {
            name: URL,
            problem: "names a socket file".to_owned(),
            remedy: "name a host and port that speak TLS".to_owned(),
        });
    }
    if !dev || (mode.is_none() && ca_file.is_some()) {
        options = options.ssl_mode(PgSslMode::VerifyFull);
    }
    if let Some(file) = ca_file {
        options = options.ssl_root_cert(file);
    }
    // A slow statement would be logged with its whole text, and some carry what tenants keep.
    Ok(options
        .application_name(application)
        .statement_cache_capacity(0)
        .extra_float_digits(None)
        .disable_statement_logging())
}

fn wrong(problem: &str) -> SettingsError {
    SettingsError {
        name: URL,
        problem: problem.to_owned(),
        remedy: "write postgres://USER:PASSWORD@HOST:PORT/NAME".to_owned(),
    }
}

/// A database URL. It holds a password, so it is never printed.
#[derive(Clone)]
pub struct DatabaseUrl(Secret<String>);

impl FromStr for DatabaseUrl {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        // What is missing is told by `Settings::check`, beside everything else that is.
        if text.is_empty() {
            return Ok(Self(Secret::new(String::new())));
        }
        let url = Url::parse(text).map_err(|_| wrong("is no URL"))?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(wrong("is no URL of PostgreSQL"));
        }
        Ok(Self(Secret::new(text.to_owned())))
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::Settings;

    fn problem(url: &str, dev: bool) -> Option<String> {
        Settings::new(url)
            .and_then(|s| s.check(dev))
            .err()
            .map(|error| error.to_string())
    }

    #[test]
    fn outside_development_only_full_verification_will_do() {
        for bad in ["disable", "allow", "prefer", "require", "verify-ca"] {
            let url = format!("postgres://u:geheim@db/x?sslmode={bad}");
            let words = problem(&url, false).unwrap();
            assert!(
                words.contains("verify-full") && !words.contains("geheim"),
                "{words}"
            );
            assert_eq!(problem(&url, true), None);
        }
        assert!(
            problem("postgres://u@db/x?host=/run/postgresql", false)
                .unwrap()
                .contains("socket")
        );
        assert_eq!(problem("postgres://u:p@db/x", false), None);
        assert_eq!(problem("postgres://u:p@db/x?sslmode=verify-full", false), None);
    }

    #[test]
    fn the_host_is_the_one_that_is_connected_to() {
        let host = |url: &str| Settings::new(url).unwrap().host();
        assert_eq!(host("postgres://u:p@db.example:5433/x"), "db.example");
        assert_eq!(
            host("postgres://u:p@db.example/x?host=other.example"),
            "other.example"
        );
        assert_eq!(host(""), "");
    }

    #[test]
    fn what_is_no_postgresql_url_is_refused_and_never_printed() {
        for bad in [
            "",
            "db",
            "mysql://u:geheim@db/x",
            "postgres://u:geheim@db/x?sslmode=perhaps",
        ] {
            assert!(!problem(bad, true).unwrap().contains("geheim"));
        }
        let settings = Settings::new("postgres://u:geheim@db/x").unwrap();
        assert!(!format!("{settings:?}").contains("geheim"));
    }
}
