//! `trailmesh migrate`: the database's roles, schemas and their versions.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use chassis::{SecretString, Settings};
use clap::Subcommand;
use pg::{Home, migrate::Set};
use types::{Region, Secret};

use crate::authority;

/// The histories of all services' schemas.
pub(crate) const SETS: [Set; 5] = [
    auth::MIGRATIONS,
    tenant::MIGRATIONS,
    vault::MIGRATIONS,
    query::MIGRATIONS,
    recovery::MIGRATIONS,
];

/// What `trailmesh migrate` takes.
#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    database: Database,
}

#[derive(Subcommand)]
enum Verb {
    /// Bring roles and schemas, those of all tenants too, to the newest version; may be stopped and run again at any time
    Run {
        /// The password to give service auth's own account
        #[arg(
            long,
            env = "TRAILMESH_AUTH_DATABASE_PASSWORD",
            value_name = "PASSWORD",
            hide_env_values = true
        )]
        auth_password: Option<SecretString>,
        /// The password to give service tenant's own account
        #[arg(
            long,
            env = "TRAILMESH_TENANT_DATABASE_PASSWORD",
            value_name = "PASSWORD",
            hide_env_values = true
        )]
        tenant_password: Option<SecretString>,
        /// The password to give service vault's own account
        #[arg(
            long,
            env = "TRAILMESH_VAULT_DATABASE_PASSWORD",
            value_name = "PASSWORD",
            hide_env_values = true
        )]
        vault_password: Option<SecretString>,
        /// The password to give service query's own account
        #[arg(
            long,
            env = "TRAILMESH_QUERY_DATABASE_PASSWORD",
            value_name = "PASSWORD",
            hide_env_values = true
        )]
        query_password: Option<SecretString>,
        /// The password to give service recovery's own account
        #[arg(
            long,
            env = "TRAILMESH_RECOVERY_DATABASE_PASSWORD",
            value_name = "PASSWORD",
            hide_env_values = true
        )]
        recovery_password: Option<SecretString>,
    },
    /// Tell how far the database is, and change nothing
    Status,
}

#[derive(clap::Args)]
struct Database {
    /// The database, as a superuser or as an account with CREATEROLE that owns it
    #[arg(
        long = "database-url",
        env = "TRAILMESH_MIGRATE_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true,
        global = true
    )]
    url: Option<SecretString>,
    /// PEM file of the authority that signed the server's certificate
    #[arg(
        long = "database-ca-file",
        env = "TRAILMESH_DATABASE_CA_FILE",
        value_name = "FILE",
        global = true
    )]
    ca_file: Option<PathBuf>,
    /// The region whose data the database holds, us or eu: marked at the first run, and a database of another one is refused
    #[arg(long, env = "TRAILMESH_REGION", value_name = "REGION", value_parser = crate::identity::region, global = true)]
    region: Option<Region>,
    /// The cell of the region
    #[arg(
        long,
        env = "TRAILMESH_CELL",
        value_name = "CELL",
        default_value = "1",
        global = true
    )]
    cell: String,
    /// How many tenants' schemas are worked on at a time
    #[arg(
        long,
        env = "TRAILMESH_MIGRATE_WORKERS",
        value_name = "N",
        default_value_t = 4,
        global = true
    )]
    workers: usize,
    /// Take a database server that cannot be verified; for a developer's own machine
    #[arg(long, global = true)]
    dev: bool,
}

/// Why the database is not as it should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// There is no URL.
    #[error("which database? Give --database-url, or set TRAILMESH_MIGRATE_DATABASE_URL")]
    NoUrl,
    /// The process cannot run at all.
    #[error("cannot start")]
    Start(#[source] io::Error),
    /// The database.
    #[error(transparent)]
    Database(#[from] pg::Error),
    /// A file of passwords.
    #[error(transparent)]
    Private(#[from] authority::Error),
}

/// Runs the verb.
pub(crate) fn run(options: Options) -> Result<(), Error> {
    let Options { verb, database } = options;
    let url = database.url.ok_or(Error::NoUrl)?;
    let how = pg::migrate::Options {
        workers: database.workers,
        ca_file: database.ca_file,
        dev: database.dev,
        home: database.region.map(|region| Home {
            region,
            cell: database.cell,
        }),
        ..Default::default()
    };
    let runtime = crate::command_runtime().map_err(Error::Start)?;
    let told = runtime.block_on(async {
        match verb {
            Verb::Status => Ok(pg::migrate::status(url.expose(), &SETS, &how).await?.to_string()),
            Verb::Run {
                auth_password,
                tenant_password,
                vault_password,
                query_password,
                recovery_password,
            } => {
                let report = pg::migrate::run(url.expose(), &SETS, &how).await?;
                let given = [
                    ("auth", auth_password),
                    ("tenant", tenant_password),
                    ("vault", vault_password),
                    ("query", query_password),
                    ("recovery", recovery_password),
                ];
                for (service, password) in given
                    .iter()
                    .filter_map(|(service, given)| Some((*service, given.as_ref()?)))
                {
                    let password = Secret::new(password.expose().to_owned());
                    pg::set_passwords(url.expose(), &[(service, &password)], &how).await?;
                }
                Ok::<_, Error>(report.to_string())
            }
        }
    })?;
    // Nobody reads what cannot be written.
    let _ = writeln!(io::stdout(), "{}", told.trim_end());
    Ok(())
}

/// How each service reaches the database.
pub(crate) struct ServiceUrls {
    /// Service auth.
    pub(crate) auth: Secret<String>,
    /// Service tenant.
    pub(crate) tenant: Secret<String>,
    /// Service vault.
    pub(crate) vault: Secret<String>,
    /// Service query.
    pub(crate) query: Secret<String>,
    /// Service recovery.
    pub(crate) recovery: Secret<String>,
}

/// For a mesh on one machine: everything, with one password for all services' accounts.
pub(crate) async fn all(
    admin_url: &str,
    password: &Secret<String>,
    settings: &Settings,
) -> Result<ServiceUrls, Error> {
    let how = pg::migrate::Options {
        dev: settings.dev,
        home: Some(Home {
            region: settings.region,
            cell: settings.cell.clone(),
        }),
        ..Default::default()
    };
    pg::migrate::run(admin_url, &SETS, &how).await?;
    let passwords = ["auth", "tenant", "vault", "query", "recovery"].map(|service| (service, password));
    pg::set_passwords(admin_url, &passwords, &how).await?;
    Ok(ServiceUrls {
        auth: pg::service_url(admin_url, "auth", password)?,
        tenant: pg::service_url(admin_url, "tenant", password)?,
        vault: pg::service_url(admin_url, "vault", password)?,
        query: pg::service_url(admin_url, "query", password)?,
        recovery: pg::service_url(admin_url, "recovery", password)?,
    })
}

/// The password of the services' accounts on one machine: made once, and kept in the state folder.
pub(crate) fn password(state: &Path) -> Result<Secret<String>, Error> {
    let text = authority::kept(&state.join("database-password"), || authority::random_text(32))?;
    Ok(Secret::new(text))
}
