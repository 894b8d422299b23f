//! `trailmesh tenant`: the service; and what an operator does to one tenant with it as a whole.

mod archive;
mod content;
mod export;
mod import;
mod relocate;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use chassis::{ConfigError, Configuration as _, SecretString, Settings};
use serde_json::{Map, Value};
use types::TenantId;

/// What `trailmesh tenant` does instead of serving.
#[derive(clap::Subcommand)]
pub(crate) enum Verb {
    /// Write all of a tenant into one encrypted file
    Export(Box<export::Options>),
    /// Make a tenant of such a file, in another installation of its region
    Import(Box<import::Options>),
    /// Move a tenant to another database of its region; run it again if it was interrupted
    Move(Box<relocate::Options>),
}

/// An installation, as its operator reaches it.
#[derive(clap::Args, Clone)]
#[group(skip)]
struct Installation {
    #[command(flatten)]
    settings: Settings,
    /// Its vault; `--database-url` is that of the account `trailmesh_vault`
    #[command(flatten)]
    vault: vault::Config,
    /// Its database, as a superuser or as an account with CREATEROLE that owns it
    #[arg(
        long,
        env = "TRAILMESH_MIGRATE_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true,
        default_value = "",
        hide_default_value = true
    )]
    admin_database_url: SecretString,
    /// The key that auth seals with: 32 bytes in base64
    #[arg(
        long,
        env = "TRAILMESH_AUTH_SEAL_KEY",
        value_name = "KEY",
        hide_env_values = true,
        default_value = "",
        hide_default_value = true
    )]
    seal_key: SecretString,
}

/// How the command tells what it does.
#[derive(clap::Args, Clone, Copy, Debug)]
#[group(skip)]
struct Telling {
    /// How progress (standard error) and the result (standard output) look
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// The operator's own key of archives.
#[derive(clap::Args, Clone)]
#[group(skip)]
struct ArchiveKey {
    /// The key of the archive: 32 bytes in base64, kept apart from it. Whoever has both has the tenant's secrets.
    #[arg(
        long,
        env = "TRAILMESH_ARCHIVE_KEY",
        value_name = "KEY",
        hide_env_values = true
    )]
    archive_key: SecretString,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("cannot start")]
    Start(#[source] io::Error),
    #[error(transparent)]
    Archive(#[from] archive::Error),
    #[error(transparent)]
    Database(#[from] pg::Error),
    #[error(transparent)]
    Service(#[from] chassis::Error),
    #[error("there is no tenant {0} here")]
    NoTenant(TenantId),
    #[error("tenant {0} is {1}: only an active one is taken along")]
    NotActive(TenantId, String),
    #[error("tenant {0} is here already, {1}: it is not overwritten")]
    Exists(TenantId, String),
    #[error(
        "tenant {tenant} belongs to region {theirs}, and this is {here}: a tenant's data never leaves its region"
    )]
    OtherRegion {
        tenant: TenantId,
        theirs: String,
        here: String,
    },
    #[error("the database is marked as that of region {marked}, and the settings say {said}")]
    OtherHome { marked: String, said: String },
    #[error(
        "the schemas differ: step {version} of '{service}' for {place} is not on both sides; run the same version of trailmesh migrate on both"
    )]
    OtherVersion {
        place: String,
        service: String,
        version: i32,
    },
    #[error("the archive cannot be understood: {0}")]
    Malformed(String),
    #[error("the audit log does not verify: {0}")]
    Log(String),
    #[error("what was written into {0} is not what was read")]
    Differs(String),
    #[error("both sides are the same installation")]
    SameCell,
    #[error(
        "the tenant stayed in use, or another run of this command has it: it could not be fenced within {0} s and goes on here"
    )]
    InUse(u64),
    #[error(
        "tenant {0} has left for {1}, and the destination has no copy of it; look at the destination you named"
    )]
    Lost(TenantId, String),
    #[error(
        "another run of this command brings tenant {0} there now, and has taken away what this one brought"
    )]
    Overtaken(TenantId),
    #[error("tenant {0} has moved to {1} already")]
    MovedElsewhere(TenantId, String),
    #[error("{0} cannot be read as settings: {1}")]
    Destination(String, String),
}

impl Error {
    /// 2: the settings; 3: refused, nothing was changed; 1: everything else.
    fn exit(&self) -> u8 {
        match self {
            Self::Config(_) | Self::OtherHome { .. } | Self::Destination(..) => 2,
            Self::Archive(
                archive::Error::Key
                | archive::Error::Exists(_)
                | archive::Error::Begun(_)
                | archive::Error::Foreign(_)
                | archive::Error::OtherKey(_)
                | archive::Error::Damaged(..)
                | archive::Error::CutOff(..)
                | archive::Error::Longer(_),
            )
            | Self::NoTenant(_)
            | Self::NotActive(..)
            | Self::Exists(..)
            | Self::OtherRegion { .. }
            | Self::OtherVersion { .. }
            | Self::Malformed(_)
            | Self::SameCell
            | Self::InUse(_)
            | Self::Overtaken(_)
            | Self::MovedElsewhere(..) => 3,
            _ => 1,
        }
    }
}

impl Telling {
    /// Tells a step that is done: its name for programs, a sentence for people, and what belongs to it.
    fn step(self, name: &str, sentence: &str, facts: &[(&str, Value)]) {
        let line = match self.format {
            Format::Text => sentence.to_owned(),
            Format::Json => json("step", name, facts),
        };
        // Nobody reads what cannot be written.
        let _ = writeln!(io::stderr(), "{line}");
    }

    /// Tells the result.
    fn result(self, name: &str, sentence: &str, facts: &[(&str, Value)]) {
        let line = match self.format {
            Format::Text => sentence.to_owned(),
            Format::Json => json("result", name, facts),
        };
        let _ = writeln!(io::stdout(), "{line}");
    }

    fn failure(self, error: &Error) {
        let sentence = types::chain(error);
        let line = match self.format {
            Format::Text => format!("trailmesh: {sentence}"),
            Format::Json => json("result", "failed", &[("error", sentence.into())]),
        };
        let _ = writeln!(io::stderr(), "{line}");
    }
}

fn json(kind: &str, name: &str, facts: &[(&str, Value)]) -> String {
    let mut object = Map::new();
    object.insert(kind.to_owned(), name.into());
    for (name, value) in facts {
        object.insert((*name).to_owned(), value.clone());
    }
    Value::Object(object).to_string()
}

impl Installation {
    /// The vault's settings, and where the database is.
    fn check(&self) -> Result<(), Error> {
        if self.admin_database_url.expose().is_empty() {
            let problem = ConfigError::new(
                "TRAILMESH_MIGRATE_DATABASE_URL",
                "is not set",
                "name the database",
            );
            return Err(problem.into());
        }
        Ok(self.vault.check(&self.settings)?)
    }

    /// For an installation that people come to.
    fn check_to_receive(&self) -> Result<(), Error> {
        self.check()?;
        if self.seal_key.expose().is_empty() {
            let remedy = "give the key that this installation's auth has";
            return Err(ConfigError::new("TRAILMESH_AUTH_SEAL_KEY", "is not set", remedy).into());
        }
        Ok(())
    }

    /// Its database, which must be that of its region and cell.
    async fn admin(&self) -> Result<pg::archive::Admin, Error> {
        let how = pg::migrate::Options {
            ca_file: self.vault.database.database_ca_file.clone(),
            dev: self.settings.dev,
            ..pg::migrate::Options::default()
        };
        let mut admin = pg::archive::Admin::connect(self.admin_database_url.expose(), &how).await?;
        let home = (self.settings.region.word().to_owned(), self.settings.cell.clone());
        admin.begin(pg::archive::Begin::Read).await?;
        let marked = admin.home().await?;
        admin.rollback().await?;
        match marked {
            Some(marked) if marked != home => Err(Error::OtherHome {
                marked: format!("{}, cell {}", marked.0, marked.1),
                said: format!("{}, cell {}", home.0, home.1),
            }),
            _ => Ok(admin),
        }
    }

    async fn keys(&self) -> Result<vault::operator::Operator, Error> {
        Ok(vault::operator::Operator::open(&self.vault, &self.settings).await?)
    }
}

fn tenant(text: &str) -> Result<TenantId, String> {
    text.parse().map_err(|error: types::IdError| error.to_string())
}

/// Does it.
pub(crate) fn run(verb: Verb) -> ExitCode {
    match verb {
        Verb::Export(options) => run_async(options.telling, export::run(&options)),
        Verb::Import(options) => run_async(options.telling, import::run(&options)),
        Verb::Move(options) => run_async(options.telling, relocate::run(&options)),
    }
}

fn run_async(telling: Telling, work: impl Future<Output = Result<(), Error>>) -> ExitCode {
    let runtime = crate::command_runtime().map_err(Error::Start);
    match runtime.and_then(|runtime| runtime.block_on(work)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            telling.failure(&error);
            ExitCode::from(error.exit())
        }
    }
}
