//! What can be set, and what is refused.

use std::{collections::BTreeSet, time::Duration};

use chassis::{ConfigError, Configuration, SecretString, Settings, duration};
use url::Url;

use crate::{agents::mesh::Pin, root::LocalRoot};

/// Services that agents connect to ask for the authorities every two seconds.
const AUTHORITY_SETTLE_AT_LEAST: Duration = Duration::from_secs(10);

/// A value that was sealed is stored within the time of a call, which is far shorter.
const SETTLE_AT_LEAST: Duration = Duration::from_secs(60);

/// Service vault.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Config {
    /// Where its tables are.
    #[command(flatten)]
    pub database: pg::Settings,
    /// The root of all keys: 32 bytes in base64. Without it and without a key in AWS KMS the vault stays sealed.
    #[arg(
        long,
        env = "TRAILMESH_VAULT_ROOT_KEY",
        hide_env_values = true,
        default_value = "",
        hide_default_value = true
    )]
    pub root_key: SecretString,
    /// In place of a root key: the id, alias or ARN of a symmetric key in AWS KMS.
    #[arg(long, env = "TRAILMESH_VAULT_KMS_KEY_ID", value_name = "KEY")]
    pub kms_key_id: Option<String>,
    /// Where KMS is reached, if not at AWS' own address of the region.
    #[arg(long, env = "TRAILMESH_VAULT_KMS_ENDPOINT", value_name = "URL")]
    pub kms_endpoint: Option<Url>,
    /// The AWS region of the key, for example eu-central-1.
    #[arg(long, env = "TRAILMESH_VAULT_KMS_REGION", value_name = "REGION")]
    pub kms_region: Option<String>,
    /// The id of the credentials that KMS is called with.
    #[arg(long, env = "AWS_ACCESS_KEY_ID", value_name = "ID")]
    pub aws_access_key_id: Option<String>,
    /// Their secret.
    #[arg(
        long,
        env = "AWS_SECRET_ACCESS_KEY",
        value_name = "SECRET",
        hide_env_values = true
    )]
    pub aws_secret_access_key: Option<SecretString>,
    /// The token of credentials that end.
    #[arg(long, env = "AWS_SESSION_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub aws_session_token: Option<SecretString>,
    /// What KMS' answers are waited for.
    #[arg(long, env = "TRAILMESH_VAULT_KMS_TIMEOUT", value_name = "DURATION", default_value = "3s", value_parser = duration)]
    pub kms_timeout: Duration,
    /// How old a tenant's key becomes before the next version is made.
    #[arg(long, env = "TRAILMESH_VAULT_DATA_KEY_ROTATE_AFTER", value_name = "DURATION", default_value = "30d", value_parser = duration)]
    pub data_key_rotate_after: Duration,
    /// How old a key that wraps tenants' keys becomes before the next version is made.
    #[arg(long, env = "TRAILMESH_VAULT_KEK_ROTATE_AFTER", value_name = "DURATION", default_value = "90d", value_parser = duration)]
    pub kek_rotate_after: Duration,
    /// How often to look for keys that are due and values to seal anew.
    #[arg(long, env = "TRAILMESH_VAULT_ROTATION_PAUSE", value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub rotation_pause: Duration,
    /// How long a value that was sealed may be on its way to its row; an old version of a key lives at least twice as long.
    #[arg(long, env = "TRAILMESH_VAULT_SETTLE", value_name = "DURATION", default_value = "5m", value_parser = duration)]
    pub settle: Duration,
    /// How many values a second each replica seals anew at most.
    #[arg(
        long,
        env = "TRAILMESH_VAULT_REWRAP_RATE",
        value_name = "VALUES",
        default_value_t = 5_000
    )]
    pub rewrap_rate: u32,
    /// How old an authority of agents becomes before another one takes over.
    #[arg(long, env = "TRAILMESH_VAULT_AGENT_AUTHORITY_ROTATE_AFTER", value_name = "DURATION", default_value = "365d", value_parser = duration)]
    pub agent_authority_rotate_after: Duration,
    /// How long a new authority of agents is trusted everywhere before it issues certificates.
    #[arg(long, env = "TRAILMESH_VAULT_AGENT_AUTHORITY_SETTLE", value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub agent_authority_settle: Duration,
    /// The public keys that the mesh's public door shows, for agents: `sha256/<base64 of the SHA-256 of the SubjectPublicKeyInfo>`, with commas
    /// between. The one in use and at least one that is kept for later; or none, and then each agent is told them where it is started.
    #[arg(
        long,
        env = "TRAILMESH_VAULT_GATEWAY_PINS",
        value_name = "PINS",
        value_delimiter = ','
    )]
    pub gateway_pins: Vec<Pin>,
    /// How many tenants' keys are kept open in memory at most, each for at most 5 minutes and 1,000 uses.
    #[arg(
        long,
        env = "TRAILMESH_VAULT_KEY_CACHE",
        value_name = "KEYS",
        default_value_t = 10_000
    )]
    pub key_cache: usize,
}

fn wrong(name: &str, problem: &str, remedy: &str) -> ConfigError {
    ConfigError::new(name, problem, remedy)
}

impl Config {
    fn check_root(&self, settings: &Settings) -> Result<(), ConfigError> {
        if self.root_key.expose().is_empty() {
            return self.check_kms(settings);
        }
        if self.kms_key_id.is_some() {
            return Err(wrong(
                "TRAILMESH_VAULT_ROOT_KEY",
                "is given together with TRAILMESH_VAULT_KMS_KEY_ID",
                "give one of them",
            ));
        }
        LocalRoot::new(&self.root_key).map(|_| ()).map_err(|_| {
            wrong(
                "TRAILMESH_VAULT_ROOT_KEY",
                "is not 32 bytes in base64",
                "make one with: openssl rand -base64 32",
            )
        })
    }

    /// A key of another region would be reached from here, or this region's data from there.
    fn check_kms(&self, settings: &Settings) -> Result<(), ConfigError> {
        let Some(key) = &self.kms_key_id else {
            return Ok(());
        };
        let Some(region) = &self.kms_region else {
            return Err(wrong(
                "TRAILMESH_VAULT_KMS_REGION",
                "is missing",
                "write the AWS region of the key",
            ));
        };
        settings.require_region("TRAILMESH_VAULT_KMS_REGION", region)?;
        settings.require_region("TRAILMESH_VAULT_KMS_KEY_ID", key)?;
        if let Some(url) = &self.kms_endpoint {
            settings.require_region("TRAILMESH_VAULT_KMS_ENDPOINT", url.as_str())?;
        }
        let prefix = format!("{}-", settings.region.word());
        let of_key = key.strip_prefix("arn:").and_then(|arn| arn.split(':').nth(2));
        if !region.starts_with(&prefix) || of_key.is_some_and(|of_key| of_key != region) {
            return Err(wrong(
                "TRAILMESH_VAULT_KMS_KEY_ID",
                "is of another region than this installation",
                "use a key of this region",
            ));
        }
        match &self.kms_endpoint {
            Some(url) if url.scheme() != "https" && !settings.dev => Err(wrong(
                "TRAILMESH_VAULT_KMS_ENDPOINT",
                "is not https",
                "write an https address; http is for --dev",
            )),
            _ => Ok(()),
        }
    }

    /// With one pin the door could never change its key.
    fn check_pins(&self) -> Result<(), ConfigError> {
        let distinct = self.gateway_pins.iter().collect::<BTreeSet<_>>().len();
        if self.gateway_pins.is_empty() || distinct > 1 && distinct == self.gateway_pins.len() {
            return Ok(());
        }
        Err(wrong(
            "TRAILMESH_VAULT_GATEWAY_PINS",
            "has only one key, or one twice: agents could not follow when the door changes its key",
            "make the next key of the door now, keep it safe, and write its pin too",
        ))
    }

    fn check_times(&self, settings: &Settings) -> Result<(), ConfigError> {
        let least = Duration::from_millis(10);
        for (name, time) in [
            ("TRAILMESH_VAULT_KMS_TIMEOUT", self.kms_timeout),
            (
                "TRAILMESH_VAULT_DATA_KEY_ROTATE_AFTER",
                self.data_key_rotate_after,
            ),
            ("TRAILMESH_VAULT_KEK_ROTATE_AFTER", self.kek_rotate_after),
            ("TRAILMESH_VAULT_ROTATION_PAUSE", self.rotation_pause),
            (
                "TRAILMESH_VAULT_AGENT_AUTHORITY_ROTATE_AFTER",
                self.agent_authority_rotate_after,
            ),
        ] {
            if time < least {
                return Err(wrong(name, "is shorter than 10ms", "write a longer one"));
            }
        }
        if self.settle < SETTLE_AT_LEAST && !settings.dev {
            return Err(wrong(
                "TRAILMESH_VAULT_SETTLE",
                "is shorter than 1m: a value that is on its way could lose its key",
                "write at least 1m",
            ));
        }
        if self.agent_authority_settle < AUTHORITY_SETTLE_AT_LEAST && !settings.dev {
            return Err(wrong(
                "TRAILMESH_VAULT_AGENT_AUTHORITY_SETTLE",
                "is shorter than 10s: agents would have certificates that the hub does not know yet",
                "write at least 10s",
            ));
        }
        self.check_pins()?;
        if self.rewrap_rate == 0 || self.key_cache == 0 {
            return Err(wrong(
                "TRAILMESH_VAULT_REWRAP_RATE or TRAILMESH_VAULT_KEY_CACHE",
                "is zero",
                "write a positive number",
            ));
        }
        Ok(())
    }
}

impl Configuration for Config {
    fn check(&self, settings: &Settings) -> Result<(), ConfigError> {
        self.check_root(settings)?;
        self.check_times(settings)?;
        settings.require_region("TRAILMESH_DATABASE_URL", &self.database.host())?;
        self.database
            .check(settings.dev)
            .map_err(|found| ConfigError::new(found.name, found.problem, found.remedy))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::Config;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        config: Config,
    }

    const ONE: &str = "sha256/AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const OTHER: &str = "sha256/HwECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    #[test]
    fn the_door_has_no_pin_or_two_different_ones_at_least() {
        let read = |pins: &str| {
            let flags = ["vault", "--database-url=postgres://localhost", pins];
            Cli::try_parse_from(flags.iter().filter(|flag| !flag.is_empty())).map(|cli| cli.config)
        };
        for (pins, good) in [
            (String::new(), true),
            (format!("--gateway-pins={ONE}"), false),
            (format!("--gateway-pins={ONE},{ONE}"), false),
            (format!("--gateway-pins={ONE},{OTHER}"), true),
        ] {
            let checked = read(&pins).unwrap().check_pins();
            assert_eq!(checked.is_ok(), good, "{pins}: {checked:?}");
        }
        assert!(read(&format!("--gateway-pins={ONE} {OTHER}")).is_err());
        assert!(read("--gateway-pins=sha256/x").is_err());
    }
}
