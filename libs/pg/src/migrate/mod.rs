//! Schemas and their versions.
//!
//! Each service has a [`Set`]: steps for its own schema, and steps for the schema of each tenant. [`run`] brings a database to the newest
//! version. It may be killed at any point and run again, by several at a time: an advisory lock lets one work, every step and its line in the
//! ledger are one transaction, and a tenant's schema is brought up to date in one transaction. Tenants go in parallel; one that is in use
//! is tried again later, because a step waits at most two seconds for a lock. A step that was once applied may never change: its
//! fingerprint (SHA-256 of its text) is in the ledger, and a difference is refused, as is a version that is not in the set.
//!
//! The admin URL names a superuser; or a role with CREATEROLE that owns the database, then [`Report::warnings`] says what it could not
//! close. All objects belong to `trailmesh_owner`, who cannot log in.

mod ledger;
mod report;
mod roles;
mod tenants;

use std::{path::PathBuf, time::Duration};

use rand::Rng as _;
use ring::digest::{SHA256, digest};
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection,
    postgres::PgConnectOptions,
};
use tokio::time::{Instant, sleep};

pub use self::report::{Applied, Report, Service, Status, Tenants};
use crate::{Error, Home, entrance::hex, settings::connect_options};

/// A step of a schema's history.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// 1, 2, 3, … in its list.
    pub version: u32,
    /// What it does, in a few words; for people.
    pub name: &'static str,
    /// Its statements. The schema is the only one in `search_path`. Without BEGIN, COMMIT, CONCURRENTLY.
    pub sql: &'static str,
}

impl Migration {
    fn fingerprint(&self) -> String {
        hex(digest(&SHA256, self.sql.as_bytes()).as_ref())
    }
}

/// The history of one service's schemas.
#[derive(Clone, Copy, Debug)]
pub struct Set {
    /// The service: also the name of its own schema, and its role is `trailmesh_` and this.
    pub service: &'static str,
    /// Steps of its own schema.
    pub shared: &'static [Migration],
    /// Steps of each tenant's schema.
    pub tenant: &'static [Migration],
}

/// How migrations are run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Tenants' schemas that are worked on at a time.
    pub workers: usize,
    /// How long to wait for another run to end, and for a schema whose tables are in use.
    pub patience: Duration,
    /// PEM file of the authority that signed the server's certificate.
    pub ca_file: Option<PathBuf>,
    /// Whether a server that is not verified will do.
    pub dev: bool,
    /// Whose database it is to be: written into it at first use, and compared ever after.
    pub home: Option<Home>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            workers: 4,
            patience: Duration::from_secs(300),
            ca_file: None,
            dev: false,
            home: None,
        }
    }
}

/// Why migrations were not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// A set that can never work.
    #[error("the migrations of '{service}' are not in order: {problem}")]
    Set {
        /// Whose.
        service: String,
        /// What is wrong.
        problem: String,
    },
    /// An applied step has another text now.
    #[error("migration {version} '{name}' of '{service}' was changed after it was applied to '{place}'")]
    Changed {
        /// Whose.
        service: String,
        /// Which.
        version: i32,
        /// Which, for people.
        name: String,
        /// A schema it was applied to.
        place: String,
    },
    /// The database is newer than this program.
    #[error("'{place}' has migration {version} '{name}' of '{service}', which this program does not know")]
    Newer {
        /// Whose.
        service: String,
        /// Which.
        version: i32,
        /// Which, for people.
        name: String,
        /// A schema it was applied to.
        place: String,
    },
    /// A step did not work.
    #[error("migration {version} '{name}' of '{service}' failed in '{place}'")]
    Failed {
        /// Whose.
        service: String,
        /// Which.
        version: u32,
        /// Which, for people.
        name: String,
        /// The schema.
        place: String,
        /// What the server said.
        #[source]
        source: sqlx::Error,
    },
    /// Another run holds the lock.
    #[error("another run of the migrations has not ended")]
    Busy,
    /// The tables of a schema stayed in use.
    #[error("the tables of '{place}' stay in use")]
    InUse {
        /// The schema.
        place: String,
        /// What the server said.
        #[source]
        source: sqlx::Error,
    },
}

/// A step waits this long for a lock, so that what waits behind it is not held up long.
const LOCK_AT_MOST: &str = "2s";

/// A step that works longer than this is ended.
const STEP_AT_MOST: &str = "1h";

/// "trailmesh" in ASCII, cut to eight bytes.
const RUNNING: i64 = 0x7472_6169_6c6d_6573;

const BASE_SET: Set = Set {
    service: "trailmesh",
    shared: &[
        Migration {
            version: 1,
            name: "walls and tenants",
            sql: include_str!("base.sql"),
        },
        Migration {
            version: 2,
            name: "a tenant's beginning and end",
            sql: include_str!("base_life.sql"),
        },
    ],
    tenant: &[],
};

/// The services that other services' migrations may grant something to.
const ALWAYS: [&str; 5] = ["auth", "query", "recovery", "tenant", "vault"];

/// A short text that changes whenever [`run`] would make something else of an empty database.
pub fn fingerprint(sets: &[Set]) -> String {
    let steps = |set: &Set| {
        set.shared
            .iter()
            .chain(set.tenant)
            .map(Migration::fingerprint)
            .collect::<String>()
    };
    let all = sets.iter().fold(steps(&BASE_SET), |all, set| {
        format!("{all} {} {}", set.service, steps(set))
    });
    hex(digest(&SHA256, all.as_bytes()).as_ref())
}

/// Brings the database to the newest version of `sets`.
///
/// # Errors
/// When the database does not answer, a step fails, or the ledger does not fit `sets`. What was done until then is kept and not done again.
pub async fn run(admin_url: &str, sets: &[Set], options: &Options) -> Result<Report, Error> {
    check(sets)?;
    let connect = admin_options(admin_url, options)?;
    let mut lock = connect.connect().await?;
    take_lock(&mut lock, options.patience).await?;
    let mut admin = connect.connect().await?;
    let mut report = Report {
        warnings: roles::prepare(&mut admin, sets).await?,
        ..Report::default()
    };
    ledger::prepare(&mut admin).await?;
    shared(&mut admin, &BASE_SET, options, &mut report).await?;
    if let Some(home) = &options.home {
        settle(&mut admin, home).await?;
    }
    roles::admit(&mut admin, sets).await?;
    for set in sets {
        ledger::check(&mut admin, set.service, set.service, set.shared).await?;
        tenants::check(&mut admin, set).await?;
    }
    for set in sets {
        shared(&mut admin, set, options, &mut report).await?;
    }
    tenants::publish(&mut admin, sets, options).await?;
    tenants::upgrade(&connect, &mut admin, sets, options, &mut report).await?;
    admin.close().await?;
    lock.close().await?;
    Ok(report)
}

/// Marks the database as this cell's, or sees that it is.
async fn settle(admin: &mut PgConnection, home: &Home) -> Result<(), Error> {
    let words = format!("{}; SELECT trailmesh.enter('shared', '-')", beginning());
    admin.execute(AssertSqlSafe(words)).await?;
    let marked = crate::home::settle(&mut *admin, home).await;
    admin.execute("COMMIT").await?;
    marked
}

/// How far a database is, without changing anything.
///
/// # Errors
/// When the database does not answer, or the ledger does not fit `sets`.
pub async fn status(admin_url: &str, sets: &[Set], options: &Options) -> Result<Status, Error> {
    check(sets)?;
    let mut admin = admin_options(admin_url, options)?.connect().await?;
    let fresh = !ledger::exists(&mut admin, "templates").await?;
    let mut status = Status::default();
    let base = [BASE_SET];
    for set in sets.iter().chain(&base) {
        let mut service = Service {
            service: set.service,
            applied: Vec::new(),
            pending: Vec::new(),
        };
        if !fresh {
            service.applied = ledger::check(&mut admin, set.service, set.service, set.shared).await?;
            tenants::check(&mut admin, set).await?;
        }
        let missing = set.shared.iter().skip(service.applied.len());
        service.pending = missing.map(|step| (step.version, step.name)).collect();
        // What everything stands on is worth a word only when it is old.
        if set.service != BASE_SET.service || !service.pending.is_empty() {
            status.services.push(service);
        }
    }
    if !fresh {
        status.tenants = tenants::count(&mut admin, sets).await?;
    }
    admin.close().await?;
    Ok(status)
}

/// Steps of one schema that is not a tenant's, each in its own transaction.
async fn shared(
    admin: &mut PgConnection,
    set: &Set,
    options: &Options,
    report: &mut Report,
) -> Result<(), Error> {
    let applied = ledger::check(admin, set.service, set.service, set.shared)
        .await?
        .len();
    for step in set.shared.iter().skip(applied) {
        let began = Instant::now();
        while let Err(error) = shared_step(admin, set, step).await {
            match Error::from(error) {
                Error::Conflict(_) if began.elapsed() < options.patience => admin.execute("ROLLBACK").await?,
                Error::Conflict(source) => return Err(in_use(set.service, source)),
                Error::Defect(source) | Error::Constraint { source, .. } => {
                    return Err(failed(set, step, set.service, source));
                }
                other => return Err(other),
            };
            sleep(jitter()).await;
        }
        report.applied.push(Applied {
            place: set.service.to_owned(),
            service: set.service,
            version: step.version,
            name: step.name,
            took: began.elapsed(),
        });
    }
    Ok(())
}

async fn shared_step(admin: &mut PgConnection, set: &Set, step: &Migration) -> Result<(), sqlx::Error> {
    // The base is what entering is made of.
    let is_base = set.service == BASE_SET.service;
    let enter = if is_base {
        ""
    } else {
        "SELECT trailmesh.enter('shared', '-')"
    };
    let began = Instant::now();
    let words = format!(
        "{}; SET LOCAL search_path = {}, pg_temp; {enter}",
        beginning(),
        set.service
    );
    admin.execute(AssertSqlSafe(words)).await?;
    apply(admin, step).await?;
    if !is_base {
        wall(admin, set.service).await?;
    }
    ledger::write(admin, set.service, set.service, step, began.elapsed()).await?;
    admin.execute("COMMIT").await.map(|_| ())
}

/// The first words of each transaction.
fn beginning() -> String {
    format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL ROLE trailmesh_owner; SET LOCAL lock_timeout = '{LOCK_AT_MOST}'; \
         SET LOCAL statement_timeout = '{STEP_AT_MOST}'; SET LOCAL client_min_messages = warning"
    )
}

async fn apply(connection: &mut PgConnection, step: &Migration) -> Result<(), sqlx::Error> {
    connection.execute(step.sql).await.map(|_| ())
}

async fn wall(connection: &mut PgConnection, place: &str) -> Result<(), sqlx::Error> {
    let query = sqlx::query("SELECT trailmesh.wall($1)")
        .bind(place)
        .persistent(false);
    query.execute(connection).await.map(|_| ())
}

fn in_use(place: &str, source: sqlx::Error) -> Error {
    Problem::InUse {
        place: place.to_owned(),
        source,
    }
    .into()
}

fn failed(set: &Set, step: &Migration, place: &str, source: sqlx::Error) -> Error {
    Problem::Failed {
        service: set.service.to_owned(),
        version: step.version,
        name: step.name.to_owned(),
        place: place.to_owned(),
        source,
    }
    .into()
}

fn check(sets: &[Set]) -> Result<(), Problem> {
    for set in sets {
        let wrong = |problem: String| Problem::Set {
            service: set.service.to_owned(),
            problem,
        };
        let fits = |c: char| c.is_ascii_lowercase() || c == '_';
        if set.service.is_empty() || set.service.len() > 30 || !set.service.chars().all(fits) {
            return Err(wrong("a service's name is lower case letters".to_owned()));
        }
        if ["trailmesh", "owner", "public"].contains(&set.service)
            || set.service.starts_with("pg_")
            || set.service.starts_with("t_")
        {
            return Err(wrong("the name means something else".to_owned()));
        }
        if sets.iter().filter(|other| other.service == set.service).count() > 1 {
            return Err(wrong("there are two sets".to_owned()));
        }
        for steps in [set.shared, set.tenant] {
            if let Some((step, _)) = steps
                .iter()
                .zip(1..)
                .find(|(step, version)| step.version != *version)
            {
                return Err(wrong(format!("'{}' has version {}", step.name, step.version)));
            }
        }
    }
    Ok(())
}

pub(crate) fn admin_options(admin_url: &str, options: &Options) -> Result<PgConnectOptions, Error> {
    let connect = connect_options(
        admin_url,
        options.ca_file.as_ref(),
        "trailmesh-migrate",
        options.dev,
    )?;
    Ok(connect.options([("client_min_messages", "warning")]))
}

/// The lock lasts as long as its transaction, so it goes when this process does.
async fn take_lock(lock: &mut PgConnection, patience: Duration) -> Result<(), Error> {
    let until = Instant::now() + patience;
    lock.execute("BEGIN; SET LOCAL idle_in_transaction_session_timeout = 0")
        .await?;
    loop {
        let query = sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1)")
            .bind(RUNNING)
            .persistent(false);
        if query.fetch_one(&mut *lock).await? {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(Problem::Busy.into());
        }
        sleep(jitter()).await;
    }
}

/// 50 to 500 ms: those who meet once should not meet again.
fn jitter() -> Duration {
    Duration::from_millis(rand::rng().random_range(50..500))
}
