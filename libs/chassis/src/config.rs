//! What every service is told from outside, and how it is checked before any socket opens.
//!
//! A value comes from its flag, else from its environment variable, else it is the default that `--help` shows. A secret `X` may also
//! come from the file that `X_FILE` names ([`secrets_from_files`]). Nothing is read from the environment later or elsewhere.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use types::Region;
use url::Url;

mod arguments;
mod check;
mod residency;
mod secret;

pub(crate) use arguments::MISCONFIGURED;
pub use arguments::arguments;
pub use residency::RegionHost;
pub use secret::{SecretString, secrets_from_files};

/// What every service of the mesh needs to know, as flags for `#[command(flatten)]`.
#[derive(clap::Args, Clone)]
#[command(next_help_heading = "Mesh")]
#[group(skip)]
pub struct Settings {
    /// Where calls are accepted
    #[arg(
        long,
        env = "TRAILMESH_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "0.0.0.0:8443"
    )]
    pub listen: SocketAddr,

    /// Where /livez, /readyz and /metrics are served, in plain HTTP; never to be reached from outside
    #[arg(
        long,
        env = "TRAILMESH_ADMIN_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "0.0.0.0:9090"
    )]
    pub admin_listen: SocketAddr,

    /// This service's certificate (PEM, leaf first); read again when it changes
    #[arg(long, env = "TRAILMESH_IDENTITY_CERT_FILE", value_name = "FILE")]
    pub identity_cert_file: Option<PathBuf>,

    /// The private key of the certificate (PEM, PKCS #8); read again when it changes
    #[arg(long, env = "TRAILMESH_IDENTITY_KEY_FILE", value_name = "FILE")]
    pub identity_key_file: Option<PathBuf>,

    /// The certificate authorities of the mesh (PEM); read again when they change
    #[arg(long, env = "TRAILMESH_TRUST_BUNDLE_FILE", value_name = "FILE")]
    pub trust_bundle_file: Option<PathBuf>,

    /// The trust domain in the SPIFFE ids of the mesh
    #[arg(
        long,
        env = "TRAILMESH_TRUST_DOMAIN",
        value_name = "NAME",
        default_value = "trailmesh"
    )]
    pub trust_domain: String,

    /// The region this service runs in: us or eu
    #[arg(long, env = "TRAILMESH_REGION", value_name = "REGION", default_value = "us", value_parser = region)]
    pub region: Region,

    /// The cell of the region: services of one cell share one database
    #[arg(long, env = "TRAILMESH_CELL", value_name = "NAME", default_value = "1")]
    pub cell: String,

    /// Domains that no URL of this service may be in, separated by commas
    #[arg(
        long,
        env = "TRAILMESH_FORBIDDEN_DOMAINS",
        value_name = "DOMAIN,…",
        value_delimiter = ','
    )]
    pub forbidden_domains: Vec<String>,

    /// Where each region is reached from outside, as region=https://host, separated by commas; told to who asks in the wrong one
    #[arg(
        long,
        env = "TRAILMESH_REGION_HOSTS",
        value_name = "REGION=URL,…",
        value_delimiter = ','
    )]
    pub region_hosts: Vec<RegionHost>,

    /// Where a neighbour is found, as name=https://host:port; may be repeated, or separated by commas
    #[arg(
        long = "peer",
        env = "TRAILMESH_PEERS",
        value_name = "NAME=URL",
        value_delimiter = ','
    )]
    pub peers: Vec<PeerAddress>,

    /// The collector that traces and metrics are sent to (OTLP over gRPC); without it they are not sent
    #[arg(long, env = "TRAILMESH_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<Url>,

    /// The certificate authority of the collector (PEM); without it, those of the system
    #[arg(long, env = "TRAILMESH_OTLP_CA_FILE", value_name = "FILE")]
    pub otlp_ca_file: Option<PathBuf>,

    /// The share of new traces that is sent, from 0 to 1; a trace begun elsewhere keeps the decision it came with
    #[arg(
        long,
        env = "TRAILMESH_TRACE_SHARE",
        value_name = "SHARE",
        default_value_t = 1.0
    )]
    pub trace_share: f64,

    /// What is logged: a level, and levels by module, such as info,chassis=debug
    #[arg(long, env = "TRAILMESH_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,

    /// How log lines look
    #[arg(long, env = "TRAILMESH_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,

    /// How long running calls may take to end after a signal; what runs longer is cut off
    #[arg(long, env = "TRAILMESH_DRAIN_TIMEOUT", value_name = "DURATION", default_value = "20s", value_parser = duration)]
    pub drain_timeout: Duration,

    /// How long a service that was told to stop still accepts calls, so that its neighbours hear of it; 0s with --dev
    #[arg(long, env = "TRAILMESH_PROPAGATION_DELAY", value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub propagation_delay: Duration,

    /// How many calls may be in work at once; further ones are refused with UNAVAILABLE
    #[arg(
        long,
        env = "TRAILMESH_MAX_IN_FLIGHT",
        value_name = "CALLS",
        default_value_t = 1_000
    )]
    pub max_in_flight: usize,

    /// Allow what is only safe on a developer's own machine: plain connections, reflection, open sign-up
    #[arg(long, env = "TRAILMESH_DEV", value_parser = clap::builder::BoolishValueParser::new(), num_args = 0..=1, default_value = "false", default_missing_value = "true", require_equals = true)]
    pub dev: bool,

    /// Check the configuration, print it without secrets, and exit
    #[arg(long)]
    pub check_config: bool,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For people at a terminal.
    Text,
}

/// Where a neighbour is found. Its text is `name=https://host:port`.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerAddress {
    /// The service's name, as in its SPIFFE id.
    pub name: String,
    /// Scheme, host and port; the host may stand for several addresses.
    pub url: Url,
}

/// A group of flags of a service. `Debug` is what `--check-config` prints, so secrets must be of type [`SecretString`].
pub trait Configuration: clap::Args + fmt::Debug + Send + 'static {
    /// What clap cannot know: values that do not fit together, and what is refused outside `--dev`.
    ///
    /// # Errors
    /// The first problem found.
    fn check(&self, settings: &Settings) -> Result<(), ConfigError>;

    /// Every problem at once, for a configuration that can tell more than one.
    fn problems(&self, settings: &Settings) -> Vec<ConfigError> {
        self.check(settings).err().into_iter().collect()
    }
}

/// One thing that is wrong with the configuration. It never holds the value, which may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {problem}; {remedy}")]
pub struct ConfigError {
    /// The environment variable or flag.
    pub name: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

impl ConfigError {
    /// Names what is wrong with `name` and what to do.
    pub fn new(name: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }
}

/// Refuses a URL that does not say TLS (`https`, `rediss`, `smtps`) unless `dev`, and one that cannot be read. Never repeats the URL.
///
/// # Errors
/// A [`ConfigError`] about `name`.
pub fn require_tls_url(name: &str, url: &str, dev: bool) -> Result<(), ConfigError> {
    let Ok(url) = Url::parse(url) else {
        return Err(ConfigError::new(name, "it is no URL", "write scheme://host:port"));
    };
    let (secure, known) = match url.scheme() {
        "https" | "rediss" | "smtps" => (true, true),
        "http" | "redis" | "smtp" => (false, true),
        _ => (false, false),
    };
    if !known {
        return Err(ConfigError::new(
            name,
            "its scheme is not known here",
            "write https, rediss or smtps",
        ));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(ConfigError::new(
            name,
            "it names no host",
            "write scheme://host:port",
        ));
    }
    if !secure && !dev {
        return Err(ConfigError::new(
            name,
            format!("{}:// is not encrypted", url.scheme()),
            format!("write {}s://; plain connections are for --dev only", url.scheme()),
        ));
    }
    Ok(())
}

/// Reads `250ms`, `5s`, `10m` or `1h`.
///
/// # Errors
/// A sentence for clap.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().map_err(|_| NO_DURATION.to_owned())?;
    let millis = match &text[digits..] {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        "d" => number.checked_mul(86_400_000),
        _ => None,
    };
    millis
        .map(Duration::from_millis)
        .ok_or_else(|| NO_DURATION.to_owned())
}

const NO_DURATION: &str = "write a whole number and a unit: 250ms, 5s, 10m, 1h, 30d";

fn region(text: &str) -> Result<Region, String> {
    text.parse().map_err(|()| {
        let words: Vec<&str> = Region::ALL.iter().map(|region| region.word()).collect();
        format!("write one of: {}", words.join(", "))
    })
}

impl Settings {
    /// How long to go on accepting after a signal.
    pub fn propagation(&self) -> Duration {
        if self.dev {
            Duration::ZERO
        } else {
            self.propagation_delay
        }
    }
}

impl FromStr for PeerAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || "write name=https://host:port".to_owned();
        let (name, url) = text.split_once('=').ok_or_else(form)?;
        if !check::is_name(name) {
            return Err(form());
        }
        let url = Url::parse(url).map_err(|_| form())?;
        if url.host_str().is_none_or(str::is_empty) {
            return Err(form());
        }
        Ok(Self {
            name: name.to_owned(),
            url,
        })
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.url)
    }
}

impl fmt::Debug for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Default for Settings {
    /// What clap gives when neither flags nor environment say anything.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 8443)),
            admin_listen: SocketAddr::from(([0, 0, 0, 0], 9090)),
            identity_cert_file: None,
            identity_key_file: None,
            trust_bundle_file: None,
            trust_domain: "trailmesh".to_owned(),
            region: Region::Us,
            cell: "1".to_owned(),
            forbidden_domains: Vec::new(),
            region_hosts: Vec::new(),
            peers: Vec::new(),
            otlp_endpoint: None,
            otlp_ca_file: None,
            trace_share: 1.0,
            log: "info".to_owned(),
            log_format: LogFormat::Json,
            drain_timeout: Duration::from_secs(20),
            propagation_delay: Duration::from_secs(5),
            max_in_flight: 1_000,
            dev: false,
            check_config: false,
        }
    }
}

impl fmt::Debug for Settings {
    /// As `--check-config` prints it: each field in the words it is given in.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            listen,
            admin_listen,
            identity_cert_file,
            identity_key_file,
            trust_bundle_file,
            trust_domain,
            region,
            cell,
            forbidden_domains,
            region_hosts,
            peers,
            otlp_endpoint,
            otlp_ca_file,
            trace_share,
            log,
            log_format,
            drain_timeout,
            propagation_delay: _,
            max_in_flight,
            dev,
            check_config: _,
        } = self;
        f.debug_struct("Settings")
            .field("listen", listen)
            .field("admin_listen", admin_listen)
            .field("identity_cert_file", identity_cert_file)
            .field("identity_key_file", identity_key_file)
            .field("trust_bundle_file", trust_bundle_file)
            .field("trust_domain", trust_domain)
            .field("region", &format_args!("{}", region.word()))
            .field("cell", cell)
            .field("forbidden_domains", forbidden_domains)
            .field("region_hosts", region_hosts)
            .field("peers", peers)
            .field("otlp_endpoint", &otlp_endpoint.as_ref().map(Url::as_str))
            .field("otlp_ca_file", otlp_ca_file)
            .field("trace_share", trace_share)
            .field("log", log)
            .field("log_format", log_format)
            .field("drain_timeout", drain_timeout)
            .field("propagation_delay", &self.propagation())
            .field("max_in_flight", max_in_flight)
            .field("dev", dev)
            .finish()
    }
}
