//! What service query is configured with.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use chassis::{ConfigError, Configuration, SecretString, Settings, require_tls_url};

/// Service query.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Config {
    /// Where its tables are.
    #[command(flatten)]
    pub database: pg::Settings,
    /// Where it is kept which replica holds which agent's connection: `rediss://user:password@host:port`.
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
    /// What the keys in Redis begin with.
    #[arg(long, env = "TRAILMESH_QUERY_REDIS_PREFIX", default_value = "trailmesh:query")]
    pub redis_prefix: String,
    /// Where other replicas reach this one, if not at the address that it listens on.
    #[arg(long, env = "TRAILMESH_QUERY_ADDRESS", value_name = "ADDRESS:PORT")]
    pub address: Option<SocketAddr>,
    /// How many connections of agents this replica holds at most.
    #[arg(long, env = "TRAILMESH_QUERY_AGENT_CONNECTIONS", default_value_t = 10_000)]
    pub agent_connections: usize,
    /// How many connections of agents it takes in a second.
    #[arg(long, env = "TRAILMESH_QUERY_AGENT_RATE", default_value_t = 200)]
    pub agent_rate: u32,
    /// How often agents are asked for their numbers.
    #[arg(long, env = "TRAILMESH_QUERY_STATISTICS_PAUSE", default_value = "30s", value_parser = chassis::config::duration)]
    pub statistics_pause: Duration,
    /// How often is looked for uploads to read, and for those that are kept no longer.
    #[arg(long, env = "TRAILMESH_QUERY_UPLOAD_PAUSE", default_value = "5s", value_parser = chassis::config::duration)]
    pub upload_pause: Duration,
    /// For how long an upload that is being read is left to the replica that reads it and says no more.
    #[arg(long, env = "TRAILMESH_QUERY_UPLOAD_LEASE", default_value = "30s", value_parser = chassis::config::duration)]
    pub upload_lease: Duration,
    /// For how long an upload is read at most, and a minute more for each 100 MiB of it.
    #[arg(long, env = "TRAILMESH_QUERY_UPLOAD_TIME", default_value = "1h", value_parser = chassis::config::duration)]
    pub upload_time: Duration,
}

impl Config {
    /// Where other replicas reach this one, which listens at `listens`.
    pub(crate) fn advertised(&self, listens: SocketAddr) -> SocketAddr {
        self.address.unwrap_or(listens)
    }
}

impl Configuration for Config {
    fn check(&self, settings: &Settings) -> Result<(), ConfigError> {
        settings.require_region("TRAILMESH_DATABASE_URL", &self.database.host())?;
        settings.require_region("TRAILMESH_REDIS_URL", self.redis_url.expose())?;
        if !self.redis_url.expose().is_empty() {
            require_tls_url("TRAILMESH_REDIS_URL", self.redis_url.expose(), settings.dev)?;
        }
        if self.address.is_none() && settings.listen.ip().is_unspecified() {
            return Err(ConfigError::new(
                "TRAILMESH_QUERY_ADDRESS",
                "it listens on every address, and other replicas are not told which is its own",
                "set it to the address and port that other replicas reach this one at, such as 10.0.3.7:8443",
            ));
        }
        self.database
            .check(settings.dev)
            .map_err(|wrong| ConfigError::new(wrong.name, wrong.problem, wrong.remedy))
    }
}
