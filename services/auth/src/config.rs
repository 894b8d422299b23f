//! What can be set, and what is refused.

use std::{path::PathBuf, time::Duration};

use chassis::{ConfigError, Configuration, SecretString, Settings, duration, require_tls_url};
use url::Url;

use crate::{Error, domain::password::Cost, seal::Sealer};

/// What only service auth can be told.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Config {
    /// The database.
    #[command(flatten)]
    pub database: pg::Settings,
    /// Where tries to sign in are counted for all replicas: `rediss://user:password@host:port`.
    #[arg(
        long,
        env = "TRAILMESH_REDIS_URL",
        hide_env_values = true,
        default_value = "",
        hide_default_value = true
    )]
    pub redis_url: SecretString,
    /// PEM file of the authority that signed Redis' certificate; without it, the public authorities.
    #[arg(long, env = "TRAILMESH_REDIS_CA_FILE", value_name = "FILE")]
    pub redis_ca_file: Option<PathBuf>,
    /// What Redis' answers are waited for, before each replica counts for itself.
    #[arg(long, env = "TRAILMESH_AUTH_REDIS_TIMEOUT", default_value = "50ms", value_parser = duration)]
    pub redis_timeout: Duration,
    /// What the keys in Redis begin with.
    #[arg(long, env = "TRAILMESH_AUTH_REDIS_PREFIX", default_value = "trailmesh:auth")]
    pub redis_prefix: String,
    /// 32 bytes in base64: what second factors, signing keys and password hashes are sealed with in the database.
    #[arg(
        long,
        env = "TRAILMESH_AUTH_SEAL_KEY",
        hide_env_values = true,
        default_value = "",
        hide_default_value = true
    )]
    pub seal_key: SecretString,

    /// Where people reach Trailmesh; links in mails begin with it.
    #[arg(long, env = "TRAILMESH_PUBLIC_URL")]
    pub public_url: Option<Url>,
    /// The mail server: `smtps://user:password@host:port`, or `smtp://user:password@host:port?tls=required` for STARTTLS.
    #[arg(long, env = "TRAILMESH_AUTH_SMTP_URL", hide_env_values = true)]
    pub smtp_url: Option<SecretString>,
    /// Who mails come from, for example `Trailmesh <no-reply@example.com>`.
    #[arg(
        long,
        env = "TRAILMESH_AUTH_MAIL_FROM",
        default_value = "Trailmesh <no-reply@trailmesh.example>"
    )]
    pub mail_from: String,
    /// With --dev: the folder that mails are written to, one .eml file each, in place of a mail server.
    #[arg(long, env = "TRAILMESH_AUTH_MAIL_DIR")]
    pub mail_dir: Option<PathBuf>,

    /// Where Turnstile's tokens are verified.
    #[arg(
        long,
        env = "TRAILMESH_AUTH_TURNSTILE_URL",
        default_value = "https://challenges.cloudflare.com/turnstile/v0/siteverify"
    )]
    pub turnstile_url: Url,
    /// The secret of the Turnstile widget. Without it sign-up is closed, and open to everybody with --dev.
    #[arg(long, env = "TRAILMESH_AUTH_TURNSTILE_SECRET", hide_env_values = true)]
    pub turnstile_secret: Option<SecretString>,
    /// The host names the widget is shown on, separated by commas.
    #[arg(long, env = "TRAILMESH_AUTH_TURNSTILE_HOSTNAMES", value_delimiter = ',')]
    pub turnstile_hostnames: Vec<String>,

    /// Memory of one password hash (argon2id), in KiB.
    #[arg(long, env = "TRAILMESH_AUTH_ARGON2_MEMORY_KIB", default_value_t = 65_536)]
    pub argon2_memory_kib: u32,
    /// Passes of one password hash.
    #[arg(long, env = "TRAILMESH_AUTH_ARGON2_PASSES", default_value_t = 3)]
    pub argon2_passes: u32,
    /// Lanes of one password hash.
    #[arg(long, env = "TRAILMESH_AUTH_ARGON2_LANES", default_value_t = 1)]
    pub argon2_lanes: u32,
    /// How many passwords are hashed at a time; each takes the memory above, and twice as many may wait.
    #[arg(long, env = "TRAILMESH_AUTH_ARGON2_WORKERS", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub argon2_workers: u16,

    /// When a session ends whatever happens; at most 720h.
    #[arg(long, env = "TRAILMESH_AUTH_SESSION_LIFETIME", default_value = "720h", value_parser = duration)]
    pub session_lifetime: Duration,
    /// When a session ends that is not refreshed.
    #[arg(long, env = "TRAILMESH_AUTH_SESSION_IDLE", default_value = "720h", value_parser = duration)]
    pub session_idle: Duration,
    /// Access tokens and the keys that sign.
    #[command(flatten)]
    pub tokens: Tokens,
}

/// How tokens and the keys that sign them live.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Tokens {
    /// An access token lives this long: 1m to 60m.
    #[arg(long, env = "TRAILMESH_AUTH_ACCESS_LIFETIME", default_value = "15m", value_parser = duration)]
    pub access_lifetime: Duration,
    /// Whom access tokens are for; a token that names another audience is refused.
    #[arg(long, env = "TRAILMESH_AUTH_AUDIENCE", default_value = "trailmesh")]
    pub access_audience: String,
    /// How often each replica reads the signing keys; a new one signs after twice this time, one that agents verify with after five times.
    #[arg(long, env = "TRAILMESH_AUTH_KEY_POLL", default_value = "30s", value_parser = duration)]
    pub key_poll: Duration,
    /// A key signs for this long, then a new one does: 1h to 8760h.
    #[arg(long, env = "TRAILMESH_AUTH_KEY_ROTATE_AFTER", default_value = "720h", value_parser = duration)]
    pub key_rotate_after: Duration,
}

impl Tokens {
    fn check(&self) -> Result<(), ConfigError> {
        const MINUTE: Duration = Duration::from_secs(60);
        const HOUR: Duration = Duration::from_secs(3_600);
        for (name, value, least, most, range) in [
            (
                "TRAILMESH_AUTH_ACCESS_LIFETIME",
                self.access_lifetime,
                MINUTE,
                HOUR,
                "write 1m to 60m",
            ),
            (
                "TRAILMESH_AUTH_KEY_POLL",
                self.key_poll,
                MINUTE / 60,
                MINUTE * 5,
                "write 1s to 5m",
            ),
            (
                "TRAILMESH_AUTH_KEY_ROTATE_AFTER",
                self.key_rotate_after,
                HOUR,
                HOUR * 8_760,
                "write 1h to 8760h",
            ),
        ] {
            if value < least || value > most {
                return Err(ConfigError::new(name, "it is out of range", range));
            }
        }
        if self.access_audience.is_empty() {
            return Err(ConfigError::new(
                "TRAILMESH_AUTH_AUDIENCE",
                "it is empty",
                "write a word, such as trailmesh",
            ));
        }
        Ok(())
    }
}

/// A URL that has to be there and, outside development, to be one of TLS.
fn check_url(name: &str, url: &str, example: &str, dev: bool) -> Result<(), ConfigError> {
    if url.is_empty() {
        return Err(ConfigError::new(
            name,
            "it is not set",
            format!("write {example}"),
        ));
    }
    require_tls_url(name, url, dev)
}

/// Whether an `smtp:` URL makes STARTTLS a condition: with this the client ends the connection where the server does not offer it, or where
/// its certificate does not hold.
fn starts_tls(url: &str) -> bool {
    let Ok(url) = Url::parse(url) else {
        return false;
    };
    let mut options = url.query_pairs();
    url.scheme() == "smtp"
        && options
            .next()
            .is_some_and(|(name, value)| name == "tls" && value == "required")
        && options.next().is_none()
}

fn check_seal(key: &SecretString) -> Result<(), ConfigError> {
    if key.expose().is_empty() {
        return Err(ConfigError::new(
            "TRAILMESH_AUTH_SEAL_KEY",
            "it is not set",
            "make one with `openssl rand -base64 32`",
        ));
    }
    let made = Sealer::new(key).map(drop);
    made.map_err(|error| {
        ConfigError::new(
            "TRAILMESH_AUTH_SEAL_KEY",
            error.to_string(),
            "make one with `openssl rand -base64 32`",
        )
    })
}

impl Config {
    /// Where people reach Trailmesh, which [`Configuration::check`] has seen.
    pub(crate) fn public_url(&self) -> Result<Url, Error> {
        let missing = || Error::Internal("TRAILMESH_PUBLIC_URL is not set".to_owned());
        self.public_url.clone().ok_or_else(missing)
    }

    /// What a password hash costs.
    pub(crate) fn cost(&self) -> Cost {
        Cost {
            memory: self.argon2_memory_kib,
            passes: self.argon2_passes,
            lanes: self.argon2_lanes,
        }
    }

    fn check_mail(&self, dev: bool) -> Result<(), ConfigError> {
        if self.mail_from.parse::<lettre::message::Mailbox>().is_err() {
            return Err(ConfigError::new(
                "TRAILMESH_AUTH_MAIL_FROM",
                "it is no mailbox",
                "write it as `Name <name@example.com>`",
            ));
        }
        match (&self.smtp_url, &self.mail_dir) {
            (Some(_), Some(_)) => Err(ConfigError::new(
                "TRAILMESH_AUTH_MAIL_DIR",
                "there is a mail server too",
                "set one of TRAILMESH_AUTH_MAIL_DIR and TRAILMESH_AUTH_SMTP_URL",
            )),
            (Some(url), None) => {
                let dev = dev || starts_tls(url.expose());
                require_tls_url("TRAILMESH_AUTH_SMTP_URL", url.expose(), dev)
            }
            (None, Some(_)) if dev => Ok(()),
            (None, _) => Err(ConfigError::new(
                "TRAILMESH_AUTH_SMTP_URL",
                "there is no mail server",
                "write smtps://user:password@host:port, or smtp://…?tls=required for STARTTLS; a folder in its place is for --dev only",
            )),
        }
    }

    fn check_turnstile(&self, dev: bool) -> Result<(), ConfigError> {
        require_tls_url("TRAILMESH_AUTH_TURNSTILE_URL", self.turnstile_url.as_str(), dev)?;
        if self.turnstile_secret.is_some() && self.turnstile_hostnames.is_empty() {
            return Err(ConfigError::new(
                "TRAILMESH_AUTH_TURNSTILE_HOSTNAMES",
                "there is a secret, but no host name to accept tokens from",
                "name the hosts that the widget is shown on",
            ));
        }
        Ok(())
    }

    /// What leads into another region.
    fn elsewhere(&self, settings: &Settings) -> Vec<ConfigError> {
        let (public, smtp) = (self.public_url.as_ref(), self.smtp_url.as_ref());
        let urls = [
            ("TRAILMESH_DATABASE_URL", Some(self.database.host())),
            ("TRAILMESH_REDIS_URL", Some(self.redis_url.expose().to_owned())),
            ("TRAILMESH_PUBLIC_URL", public.map(ToString::to_string)),
            ("TRAILMESH_AUTH_SMTP_URL", smtp.map(|url| url.expose().to_owned())),
            (
                "TRAILMESH_AUTH_TURNSTILE_URL",
                Some(self.turnstile_url.to_string()),
            ),
        ];
        let named = urls.into_iter().filter_map(|(name, url)| Some((name, url?)));
        named
            .filter_map(|(name, url)| settings.require_region(name, &url).err())
            .collect()
    }

    fn check_passwords(&self, dev: bool) -> Result<(), ConfigError> {
        if self.cost().params().is_none() {
            return Err(ConfigError::new(
                "TRAILMESH_AUTH_ARGON2_MEMORY_KIB",
                "argon2 cannot be computed with these numbers",
                "give each lane at least 8 KiB, and at least one pass",
            ));
        }
        if !dev && !self.cost().is_enough() {
            return Err(ConfigError::new(
                "TRAILMESH_AUTH_ARGON2_MEMORY_KIB",
                "hashes would be too cheap to guess",
                "use at least 19456 KiB with 2 passes, or 47104 KiB with one",
            ));
        }
        Ok(())
    }

    fn check_sessions(&self) -> Result<(), ConfigError> {
        const LONGEST: Duration = Duration::from_secs(30 * 24 * 3_600);
        for (name, value) in [
            ("TRAILMESH_AUTH_SESSION_LIFETIME", self.session_lifetime),
            ("TRAILMESH_AUTH_SESSION_IDLE", self.session_idle),
        ] {
            if value.is_zero() || value > LONGEST {
                return Err(ConfigError::new(
                    name,
                    "it is nothing, or more than 30 days",
                    "write 1s to 720h",
                ));
            }
        }
        Ok(())
    }
}

impl Configuration for Config {
    fn check(&self, settings: &Settings) -> Result<(), ConfigError> {
        self.problems(settings).into_iter().next().map_or(Ok(()), Err)
    }

    fn problems(&self, settings: &Settings) -> Vec<ConfigError> {
        let dev = settings.dev;
        let database = self.database.check(dev);
        let found = [
            database.map_err(|error| ConfigError::new(error.name, error.problem, error.remedy)),
            check_url(
                "TRAILMESH_REDIS_URL",
                self.redis_url.expose(),
                "rediss://user:password@host:port",
                dev,
            ),
            check_url(
                "TRAILMESH_PUBLIC_URL",
                self.public_url.as_ref().map_or("", Url::as_str),
                "https://trail.example.com",
                dev,
            ),
            self.check_mail(dev),
            self.check_turnstile(dev),
            self.check_passwords(dev),
            self.check_sessions(),
            self.tokens.check(),
            check_seal(&self.seal_key),
        ];
        let found = found.into_iter().filter_map(Result::err);
        found.chain(self.elsewhere(settings)).collect()
    }
}

#[cfg(test)]
mod tests {
    use chassis::{Configuration as _, Settings};
    use clap::Parser;

    use super::Config;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        config: Config,
    }

    fn problems(flags: &[&str]) -> Vec<String> {
        let mut arguments = vec!["auth"];
        arguments.extend(flags);
        let cli = Cli::try_parse_from(arguments).unwrap();
        let found = cli.config.problems(&Settings::default());
        found.into_iter().map(|problem| problem.name).collect()
    }

    #[test]
    fn everything_that_is_missing_is_told_at_once_by_its_name_in_the_environment() {
        let found = problems(&[]);
        for name in [
            "TRAILMESH_DATABASE_URL",
            "TRAILMESH_REDIS_URL",
            "TRAILMESH_AUTH_SEAL_KEY",
            "TRAILMESH_PUBLIC_URL",
            "TRAILMESH_AUTH_SMTP_URL",
        ] {
            assert!(
                found.iter().any(|told| told == name),
                "{name} is not in {found:?}"
            );
        }
    }

    #[test]
    fn what_leads_into_another_region_is_refused() {
        for (flag, name) in [
            (
                "--database-url=postgres://u:p@db.eu-west-1.rds.amazonaws.com/x",
                "TRAILMESH_DATABASE_URL",
            ),
            (
                "--redis-url=rediss://:p@cache.eu-west-1.amazonaws.com:6379",
                "TRAILMESH_REDIS_URL",
            ),
            (
                "--smtp-url=smtps://u:p@email-smtp.eu-west-1.amazonaws.com",
                "TRAILMESH_AUTH_SMTP_URL",
            ),
        ] {
            assert!(problems(&[flag]).contains(&name.to_owned()), "{flag}");
            let here = flag.replace("eu-west-1", "us-east-1");
            assert!(!problems(&[&here]).contains(&name.to_owned()), "{here}");
        }
    }

    #[test]
    fn a_mail_server_speaks_tls_at_once_or_is_made_to() {
        let smtp = |url: &str| {
            let flag = format!("--smtp-url={url}");
            problems(&[&flag]).contains(&"TRAILMESH_AUTH_SMTP_URL".to_owned())
        };
        for good in [
            "smtps://u:p@mail.example",
            "smtp://u:p@mail.example:587?tls=required",
        ] {
            assert!(!smtp(good), "{good}");
        }
        for bad in [
            "smtp://u:p@mail.example:587",
            "smtp://u:p@mail.example:587?tls=opportunistic",
            "smtp://u:p@mail.example:587?tls=required&tls=opportunistic",
            "smtp://u:p@mail.example:587?TLS=required",
            "smtp://?tls=required",
        ] {
            assert!(smtp(bad), "{bad}");
        }
    }
}
