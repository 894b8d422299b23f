//! What the operator of an installation does to auth by hand, with auth's own configuration.

use std::io::{self, Write as _};

use chassis::{ConfigError, Configuration as _, Settings};

/// What such a command takes.
#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    config: auth::Config,
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

/// What `trailmesh remove-factor` takes.
#[derive(clap::Args)]
pub(crate) struct RemoveFactor {
    /// The address of the account
    #[arg(long, value_name = "ADDRESS")]
    email: String,
    #[command(flatten)]
    auth: Options,
}

/// New signing keys for access tokens and context tokens; the old ones verify until what they signed has ended.
pub(crate) fn rotate_keys(options: &Options) -> Result<(), Error> {
    let made = options.run(auth::rotate_keys(&options.config, options.settings.dev))?;
    tell(&format!(
        "{made} new signing keys; every replica of auth uses them within two polls"
    ));
    Ok(())
}

/// Takes a lost second factor away. Its owner is told by mail.
pub(crate) fn remove_factor(options: &RemoveFactor) -> Result<(), Error> {
    let RemoveFactor { email, auth: options } = options;
    let removed = options.run(auth::remove_factor(&options.config, options.settings.dev, email))?;
    tell(if removed {
        "the second factor and its recovery codes are gone, all sessions have ended, and the owner is told by mail"
    } else {
        "the account has no second factor"
    });
    Ok(())
}

impl Options {
    fn run<T>(&self, work: impl Future<Output = Result<T, chassis::Error>>) -> Result<T, Error> {
        self.config.check(&self.settings)?;
        let runtime = crate::command_runtime().map_err(Error::Start)?;
        Ok(runtime.block_on(work)?)
    }
}

/// Nobody reads what cannot be written.
fn tell(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}
