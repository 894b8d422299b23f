//! The gateway's settings.
use std::{path::PathBuf, str::FromStr, time::Duration};

use chassis::{ConfigError, Configuration, SecretString, Settings};
use ipnet::IpNet;
use types::Plan;

use crate::{chain::cors, rate::Limit};

/// The gateway's settings. Each can be a flag or an environment variable.
#[derive(clap::Args, Clone, Debug)]
pub struct Config {
    /// Certificate chain of the public listener (PEM). It is read again when it changes.
    #[arg(long, env = "TRAILMESH_GATEWAY_TLS_CERT_FILE", value_name = "FILE")]
    pub tls_cert_file: PathBuf,
    /// Its private key (PEM).
    #[arg(long, env = "TRAILMESH_GATEWAY_TLS_KEY_FILE", value_name = "FILE")]
    pub tls_key_file: PathBuf,
    /// Redis, where rate limits are counted: `rediss://:password@host:port`. Without it, which only `--dev` allows, each gateway counts
    /// for itself.
    #[arg(long, env = "TRAILMESH_REDIS_URL", hide_env_values = true, value_name = "URL")]
    pub redis_url: Option<SecretString>,
    /// The authority that signed the certificate of Redis (PEM); the public ones if absent.
    #[arg(long, env = "TRAILMESH_REDIS_CA_FILE", value_name = "FILE")]
    pub redis_ca_file: Option<PathBuf>,
    /// What every key in Redis begins with.
    #[arg(
        long,
        env = "TRAILMESH_REDIS_PREFIX",
        default_value = "trailmesh",
        value_name = "WORD"
    )]
    pub redis_prefix: String,
    /// How long Redis may take for one answer before the gateway decides alone.
    #[arg(long, env = "TRAILMESH_REDIS_TIMEOUT", default_value = "20ms", value_parser = duration, value_name = "TIME")]
    pub redis_timeout: Duration,
    /// How long a new connection to Redis may take.
    #[arg(long, env = "TRAILMESH_REDIS_CONNECT_TIMEOUT", default_value = "50ms", value_parser = duration, value_name = "TIME")]
    pub redis_connect_timeout: Duration,
    /// How many proxies stand before the gateway and append to X-Forwarded-For. With 0 the header is ignored.
    #[arg(
        long,
        env = "TRAILMESH_GATEWAY_TRUSTED_HOPS",
        default_value_t = 0,
        value_name = "NUMBER"
    )]
    pub trusted_hops: u8,
    /// The addresses of those proxies: X-Forwarded-For of anyone else is ignored. Empty, which only `--dev` allows: whoever connects is
    /// the proxy.
    #[arg(
        long,
        env = "TRAILMESH_GATEWAY_TRUSTED_PROXIES",
        value_delimiter = ',',
        value_name = "CIDR,…"
    )]
    pub trusted_proxies: Vec<IpNet>,
    /// Origins whose pages may call, to the letter: `https://app.example.com`.
    #[arg(
        long,
        env = "TRAILMESH_GATEWAY_CORS_ORIGINS",
        value_delimiter = ',',
        value_name = "ORIGIN,…"
    )]
    pub cors_origins: Vec<String>,
    /// Requests per minute of a tenant and of one of its users, for a plan: `pro=12000/1200`. Plans that are not named have 6000/600.
    #[arg(
        long,
        env = "TRAILMESH_GATEWAY_RATE_LIMITS",
        value_delimiter = ',',
        value_name = "PLAN=TENANT/USER,…"
    )]
    pub rate_limits: Vec<PlanRate>,
    /// Requests per minute from one client address (IPv6: one /64) to what takes passwords, codes and tokens of mails.
    #[arg(
        long,
        env = "TRAILMESH_GATEWAY_STRICT_RATE",
        default_value_t = 30,
        value_name = "NUMBER"
    )]
    pub strict_rate: u32,
    /// Refused credentials and unknown tenants per minute from one client address (IPv6: one /64). Beyond it, auth is not asked about
    /// credentials that are not known to be good.
    #[arg(
        long,
        env = "TRAILMESH_GATEWAY_REFUSED_RATE",
        default_value_t = 300,
        value_name = "NUMBER"
    )]
    pub refused_rate: u32,
    /// Connections at a time; more are closed at once.
    #[arg(
        long,
        env = "TRAILMESH_GATEWAY_MAX_CONNECTIONS",
        default_value_t = 10_000,
        value_name = "NUMBER"
    )]
    pub max_connections: usize,
    /// Connections of agents at a time, besides those.
    #[arg(
        long,
        env = "TRAILMESH_GATEWAY_AGENT_CONNECTIONS",
        default_value_t = 10_000,
        value_name = "NUMBER"
    )]
    pub agent_connections: usize,
    /// Connections of one agent at a time.
    #[arg(
        long,
        env = "TRAILMESH_GATEWAY_CONNECTIONS_PER_AGENT",
        default_value_t = 8,
        value_name = "NUMBER"
    )]
    pub connections_per_agent: usize,
    /// New connections of agents in a second; others are told when to come back.
    #[arg(
        long,
        env = "TRAILMESH_GATEWAY_AGENT_RATE",
        default_value_t = 200,
        value_name = "NUMBER"
    )]
    pub agent_rate: u32,
    /// Percent of the requests in flight that one tenant may have.
    #[arg(long, env = "TRAILMESH_GATEWAY_TENANT_SHARE", default_value_t = 50, value_parser = clap::value_parser!(u8).range(1..=100), value_name = "PERCENT")]
    pub tenant_share: u8,
}

/// What a plan may do in a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanRate {
    /// The plan.
    pub plan: Plan,
    /// Units of a tenant.
    pub tenant: u32,
    /// Units of one user in it.
    pub user: u32,
}

impl FromStr for PlanRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (plan, rates) = text.split_once('=')?;
            let (tenant, user) = rates.split_once('/')?;
            Some(Self {
                plan: plan.parse().ok()?,
                tenant: tenant.parse().ok().filter(|units| *units > 0)?,
                user: user.parse().ok().filter(|units| *units > 0)?,
            })
        };
        parse().ok_or_else(|| "write plan=tenant/user, for example pro=12000/1200".to_owned())
    }
}

/// What each plan may do in a minute.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates([(Limit, Limit); Plan::ALL.len()]);

impl Rates {
    /// The highest limit of a user: what a person has over all tenants.
    pub(crate) fn of_person(&self) -> Limit {
        let users = self.0.iter().map(|(_, user)| *user);
        users.max_by_key(|limit| limit.units()).unwrap_or(self.0[0].1)
    }

    /// The limits of a tenant and of one of its users.
    pub(crate) fn of(&self, plan: Plan) -> (Limit, Limit) {
        self.0[plan as usize]
    }
}

impl Config {
    /// The table of rates, with the defaults of the first page.
    pub(crate) fn rates(&self) -> Rates {
        let mut rates = [(Limit::per_minute(6_000), Limit::per_minute(600)); Plan::ALL.len()];
        for rate in &self.rate_limits {
            rates[rate.plan as usize] = (Limit::per_minute(rate.tenant), Limit::per_minute(rate.user));
        }
        Rates(rates)
    }

    /// A limit that lets nothing through.
    fn zero(&self) -> Option<&'static str> {
        let limits = [
            ("TRAILMESH_GATEWAY_STRICT_RATE", self.strict_rate == 0),
            ("TRAILMESH_GATEWAY_REFUSED_RATE", self.refused_rate == 0),
            ("TRAILMESH_GATEWAY_MAX_CONNECTIONS", self.max_connections == 0),
            ("TRAILMESH_GATEWAY_AGENT_CONNECTIONS", self.agent_connections == 0),
            (
                "TRAILMESH_GATEWAY_CONNECTIONS_PER_AGENT",
                self.connections_per_agent == 0,
            ),
            ("TRAILMESH_GATEWAY_AGENT_RATE", self.agent_rate == 0),
        ];
        let mut zeros = limits.into_iter().filter(|(_, zero)| *zero);
        zeros.next().map(|(name, _)| name)
    }
}

impl Configuration for Config {
    fn check(&self, settings: &Settings) -> Result<(), ConfigError> {
        let problem = |name: &str, problem: &str, remedy: &str| Err(ConfigError::new(name, problem, remedy));
        match &self.redis_url {
            None if !settings.dev => {
                return problem(
                    "TRAILMESH_REDIS_URL",
                    "it is missing",
                    "write rediss://:password@host:port",
                );
            }
            None => {}
            Some(url) => {
                chassis::require_tls_url("TRAILMESH_REDIS_URL", url.expose(), settings.dev)?;
                settings.require_region("TRAILMESH_REDIS_URL", url.expose())?;
            }
        }
        if let Some(origin) = self
            .cors_origins
            .iter()
            .find(|origin| !cors::is_origin(origin, settings.dev))
        {
            let wrong = format!("{origin} is no origin");
            return problem(
                "TRAILMESH_GATEWAY_CORS_ORIGINS",
                &wrong,
                "write https://host or https://host:port, no path",
            );
        }
        if let Some(name) = self.zero() {
            return problem(name, "it is 0", "write at least 1");
        }
        if !self
            .redis_prefix
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_:.".contains(&byte))
        {
            return problem(
                "TRAILMESH_REDIS_PREFIX",
                "it has other signs than letters, digits and -_:.",
                "choose a word",
            );
        }
        if !self.trusted_proxies.is_empty() && self.trusted_hops == 0 {
            return problem(
                "TRAILMESH_GATEWAY_TRUSTED_HOPS",
                "it is 0 though proxies are named",
                "say how many there are",
            );
        }
        if self.trusted_proxies.is_empty() && self.trusted_hops > 0 && !settings.dev {
            return problem(
                "TRAILMESH_GATEWAY_TRUSTED_PROXIES",
                "it is empty though there are proxies: whoever reaches the port could choose an address",
                "name the addresses of the proxies",
            );
        }
        Ok(())
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    chassis::duration(text)
}

#[cfg(test)]
mod tests {
    use chassis::{Configuration as _, Settings};
    use clap::{Args as _, FromArgMatches as _};
    use types::Plan;

    use super::{Config, PlanRate};

    fn problem(arguments: &[&str], dev: bool) -> Option<String> {
        let given = [
            "gateway",
            "--tls-cert-file=c",
            "--tls-key-file=k",
            "--redis-url=rediss://:p@r:1",
        ];
        let command = Config::augment_args(clap::Command::new("gateway"));
        let matches = command.get_matches_from(given.iter().chain(arguments));
        let config = Config::from_arg_matches(&matches).expect("a configuration");
        let settings = Settings {
            dev,
            ..Settings::default()
        };
        config.check(&settings).err().map(|error| error.name)
    }

    #[test]
    fn proxies_that_are_believed_have_addresses() {
        let hops = "--trusted-hops=1";
        assert_eq!(problem(&[], false), None);
        assert_eq!(
            problem(&[hops], false).as_deref(),
            Some("TRAILMESH_GATEWAY_TRUSTED_PROXIES")
        );
        assert_eq!(problem(&[hops], true), None);
        assert_eq!(problem(&[hops, "--trusted-proxies=10.0.0.0/8"], false), None);
        let alone = problem(&["--trusted-proxies=10.0.0.0/8"], false);
        assert_eq!(alone.as_deref(), Some("TRAILMESH_GATEWAY_TRUSTED_HOPS"));
    }

    #[test]
    fn rates_of_plans_are_read() {
        let rate = PlanRate {
            plan: Plan::Pro,
            tenant: 12_000,
            user: 1_200,
        };
        assert_eq!("pro=12000/1200".parse(), Ok(rate));
        for bad in [
            "",
            "pro",
            "pro=1",
            "gold=1/1",
            "pro=0/1",
            "pro=1/0",
            "pro=-1/1",
            "pro=1/2/3",
        ] {
            assert!(bad.parse::<PlanRate>().is_err(), "{bad}");
        }
    }
}
