//! What the operator of an installation does to the vault's keys by hand, with the vault's own configuration.

use std::io::{self, Write as _};

use chassis::{ConfigError, Configuration as _, Settings};
use clap::Subcommand;
use types::TenantId;
use vault::operator::Operator;

/// What `trailmesh keys` takes.
#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Args)]
struct Vault {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    config: vault::Config,
}

#[derive(Subcommand)]
enum Verb {
    /// Tell the versions of keys, and how much is still sealed with old ones
    Status(Box<Vault>),
    /// Make a new version now; what older ones sealed is sealed anew in the background
    Rotate {
        /// The key of this tenant; without it, the key that all tenants' keys are wrapped with
        #[arg(long, value_name = "TENANT", value_parser = tenant)]
        tenant: Option<TenantId>,
        #[command(flatten)]
        vault: Box<Vault>,
    },
    /// Give up a version of a tenant's key that others may know: seal everything anew, then refuse it for ever
    Revoke {
        /// Whose key
        #[arg(long, value_name = "TENANT", value_parser = tenant)]
        tenant: TenantId,
        /// Which version
        #[arg(long, value_name = "NUMBER")]
        version: i64,
        #[command(flatten)]
        vault: Box<Vault>,
    },
}

fn tenant(text: &str) -> Result<TenantId, String> {
    text.parse().map_err(|error: types::IdError| error.to_string())
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The process cannot run at all.
    #[error("cannot start")]
    Start(#[source] io::Error),
    /// It was tried.
    #[error(transparent)]
    Failed(#[from] chassis::Error),
}

/// Runs the verb.
pub(crate) fn run(options: Options) -> Result<(), Error> {
    let told = match options.verb {
        Verb::Status(vault) => vault.run(async |operator| Ok(operator.status().await?.to_string()))?,
        Verb::Rotate { tenant, vault } => vault.run(async |operator| match tenant {
            Some(tenant) => {
                let version = operator.rotate_tenant(tenant).await?;
                Ok(format!("version {version} of the key of {tenant} seals from now on"))
            }
            None => {
                let version = operator.rotate_kek().await?;
                Ok(format!(
                    "version {version} of the key of keys wraps from now on; the services wrap what there is anew"
                ))
            }
        })?,
        Verb::Revoke {
            tenant,
            version,
            vault,
        } => vault.run(async |operator| {
            let exposed = operator.revoke(tenant, version).await?;
            let mut told = format!("version {version} of the key of {tenant} opens nothing any more");
            if !exposed.is_empty() {
                told.push_str("; change these secrets at their source:");
            }
            for secret in exposed {
                told.push_str(&format!("\n  {}  {}", secret.record_id, secret.kind));
            }
            Ok(told)
        })?,
    };
    // Nobody reads what cannot be written.
    let _ = writeln!(io::stdout(), "{}", told.trim_end());
    Ok(())
}

impl Vault {
    fn run(
        self,
        work: impl AsyncFnOnce(Operator) -> Result<String, chassis::Error>,
    ) -> Result<String, Error> {
        self.config.check(&self.settings)?;
        let runtime = crate::command_runtime().map_err(Error::Start)?;
        Ok(runtime.block_on(async move {
            let operator = Operator::open(&self.config, &self.settings).await?;
            work(operator).await
        })?)
    }
}
