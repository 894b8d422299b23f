//! `trailmesh tenant move`: a tenant changes its database within its region.
//!
//! 0. What is large is copied while the tenant goes on, into a schema that is noted as arriving (`ahead`).
//! 1. The source is fenced: one transaction holds the tenant's row, its API keys and all its tables against every change. They can be read.
//! 2. In one transaction of the destination everything else is written, and what has changed meanwhile, read back and compared; the copy is
//!    suspended.
//! 3. The fence's transaction says that the tenant has moved, closes its schema, takes everybody's right to change it, so that who waits at the
//!    fence is refused, and commits. **This commit is the move.**
//! 4. The copy is made active. 5. What the source still had of it goes. By ids of the tenant, its people and its keys alone, who comes to the
//!    source is told where it is; the next run after the tenant's end takes those too.
//!
//! A process that dies before 3 leaves the source as it was, its locks gone with its connection; an arriving copy is served to nobody, and the next
//! run begins anew without it. One that dies after 3 is finished by the next run, from what both databases say. So at any moment at most one
//! copy is active, a whole one is always there, and what was written is in it. Between 3 and 4 none is active: milliseconds, or until the
//! command is run again.

mod ahead;

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use auth::people;
use clap::{Args as _, Command, FromArgMatches as _};
use pg::archive::{Admin, Begin, Rows, Table};
use serde_json::Value;
use tenant::operator::travel::{self, Standing};
use types::TenantId;
use url::Url;

use self::ahead::{Ahead, Carried, follow};
use super::{
    Error, Installation, Telling,
    content::{self, INBOX, Landing, SHARED, is_arriving},
    export::persons,
};

/// How long the fence is tried for.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two tries: those who waited for us go first.
const PAUSE: Duration = Duration::from_millis(500);
/// How often what follows the move is tried, when the destination cannot be reached for a moment.
const TRIES: u32 = 20;

/// What `trailmesh tenant move` takes.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// tnt_…
    #[arg(value_name = "TENANT", value_parser = super::tenant)]
    id: TenantId,
    /// A file with the settings of the destination, one NAME=VALUE a line: TRAILMESH_CELL, TRAILMESH_MIGRATE_DATABASE_URL,
    /// TRAILMESH_DATABASE_URL (of trailmesh_vault), TRAILMESH_VAULT_ROOT_KEY, TRAILMESH_AUTH_SEAL_KEY, and so on
    #[arg(long, value_name = "FILE")]
    destination: PathBuf,
    /// Where the destination is reached by its tenants; told to who comes to the source
    #[arg(long, value_name = "URL")]
    host: Url,
    #[command(flatten)]
    pub(super) telling: Telling,
    #[command(flatten)]
    installation: Installation,
}

/// Both sides.
struct Move<'a> {
    tenant: TenantId,
    host: String,
    telling: Telling,
    from: &'a Installation,
    to: Installation,
    source: Admin,
    target: Admin,
}

/// Reads the settings of the destination: from its file, and nothing from this process' environment.
fn destination(options: &Options) -> Result<Installation, Error> {
    let name = options.destination.display().to_string();
    let wrong = |problem: String| Error::Destination(name.clone(), problem);
    let text = fs::read_to_string(&options.destination).map_err(|error| wrong(error.to_string()))?;
    let command = Installation::augment_args(Command::new("destination"));
    let mut line = vec!["destination".to_owned()];
    for (number, setting) in text.lines().enumerate() {
        let setting = setting.trim();
        if setting.is_empty() || setting.starts_with('#') {
            continue;
        }
        let (variable, value) = setting
            .split_once('=')
            .ok_or_else(|| wrong(format!("line {} is not NAME=VALUE", number + 1)))?;
        let (variable, from_file) = match variable.strip_suffix("_FILE") {
            Some(secret) if is_secret(&command, secret) => (secret, true),
            _ => (variable, false),
        };
        let argument = command
            .get_arguments()
            .find(|argument| argument.get_env().is_some_and(|env| env == variable));
        let Some(long) = argument.and_then(clap::Arg::get_long) else {
            // Settings of services that are not asked here.
            continue;
        };
        let value = if from_file {
            fs::read_to_string(value).map_err(|error| wrong(format!("{variable}_FILE: {error}")))?
        } else {
            value.to_owned()
        };
        let value = unquoted(value.trim());
        match argument.map(|argument| argument.get_action().takes_values()) {
            Some(false) if value == "true" || value == "1" => line.push(format!("--{long}")),
            Some(false) => {}
            _ => line.push(format!("--{long}={value}")),
        }
    }
    let alone = command.mut_args(|argument| argument.env(None::<&str>));
    let matches = alone.try_get_matches_from(line);
    let found = matches.and_then(|matches| Installation::from_arg_matches(&matches));
    found.map_err(|error| {
        // Which one, and never the value: it may be a secret.
        let which = match error.get(clap::error::ContextKind::InvalidArg) {
            Some(clap::error::ContextValue::String(name)) => format!(" ({name})"),
            _ => String::new(),
        };
        wrong(format!("{}{which}", error.kind()))
    })
}

/// A value without the quotes that shells and files of settings put around one.
fn unquoted(value: &str) -> &str {
    let inner = |quote| value.strip_prefix(quote)?.strip_suffix(quote);
    inner('"').or_else(|| inner('\'')).unwrap_or(value)
}

fn is_secret(command: &Command, variable: &str) -> bool {
    let mut arguments = command.get_arguments();
    arguments.any(|argument| {
        argument.is_hide_env_values_set() && argument.get_env().is_some_and(|env| env == variable)
    })
}

pub(super) async fn run(options: &Options) -> Result<(), Error> {
    let from = &options.installation;
    from.check()?;
    let mut to = destination(options)?;
    // What is a developer's machine for one side is for both.
    to.settings.dev = from.settings.dev;
    to.check_to_receive()?;
    let tenant = options.id;
    let (here, there) = (from.settings.region, to.settings.region);
    if here != there {
        return Err(Error::OtherRegion {
            tenant,
            theirs: here.word().to_owned(),
            here: there.word().to_owned(),
        });
    }
    if from.settings.cell == to.settings.cell {
        return Err(Error::SameCell);
    }
    let mut journey = Move {
        tenant,
        host: options.host.as_str().trim_end_matches('/').to_owned(),
        telling: options.telling,
        source: from.admin().await?,
        target: to.admin().await?,
        from,
        to,
    };
    journey.go().await
}

impl Move<'_> {
    async fn go(&mut self) -> Result<(), Error> {
        let (at_source, at_target) = self.look().await?;
        let Some(standing) = at_source else {
            self.withdraw().await?;
            return Err(Error::NoTenant(self.tenant));
        };
        match (standing.state.as_str(), standing.moved_to) {
            ("moved", Some(host)) if host != self.host => {
                return Err(Error::MovedElsewhere(self.tenant, host));
            }
            ("moved", _) if at_target.is_none() => return self.follow().await,
            ("moved", _) => {
                let sentence = "the tenant has moved already; finishing what follows";
                self.telling.step("resumed", sentence, &[]);
            }
            ("active", _) => {
                if standing.region != self.to.settings.region.word() {
                    return Err(Error::OtherRegion {
                        tenant: self.tenant,
                        theirs: standing.region,
                        here: self.to.settings.region.word().to_owned(),
                    });
                }
                if let Err(error) = self.carry().await {
                    // Whatever stopped it may be that the tenant was ended: then the next run would find no tenant, and nobody the copy.
                    let told = self.leave_nothing_of_an_ended_one().await;
                    if let Err(other) = told {
                        let sentence = format!(
                            "whether a copy is left was not looked at: {}",
                            types::chain(&other)
                        );
                        self.telling.step("left", &sentence, &[]);
                    }
                    return Err(error);
                }
            }
            (state, _) => {
                self.withdraw().await?;
                return Err(Error::NotActive(self.tenant, state.to_owned()));
            }
        }
        self.finish().await
    }

    /// After a run that was stopped, in whatever transaction.
    async fn leave_nothing_of_an_ended_one(&mut self) -> Result<(), Error> {
        self.source.rollback().await?;
        self.target.rollback().await?;
        self.withdraw().await
    }

    /// For a tenant that is not at the source: where it has been ended there while its copy was on its way, the copy goes too.
    async fn withdraw(&mut self) -> Result<(), Error> {
        self.source.begin(Begin::Read).await?;
        let ended = travel::has_ended(self.source.connection(), self.tenant).await?;
        self.source.rollback().await?;
        if ended {
            self.discard().await?;
        }
        Ok(())
    }

    /// For a tenant that has moved and is not at the destination: where it has been ended there, nothing of it stays at the source.
    async fn follow(&mut self) -> Result<(), Error> {
        self.target.begin(Begin::Read).await?;
        let ended = travel::has_ended(self.target.connection(), self.tenant).await?;
        self.target.rollback().await?;
        if !ended {
            return Err(Error::Lost(self.tenant, self.host.clone()));
        }
        self.clear(true).await?;
        let sentence = format!(
            "{} has ended at {}; nothing of it is left here",
            self.tenant, self.host
        );
        let facts = [("tenant", self.tenant.to_string().into())];
        self.telling.result("ended", &sentence, &facts);
        Ok(())
    }

    /// Takes away what the source has of a tenant that lives elsewhere: all of it, or all but what tells where it is.
    async fn clear(&mut self, all: bool) -> Result<(), Error> {
        self.source.begin(Begin::Write).await?;
        self.source.drop_schema(self.tenant).await?;
        let mut tables = self.source.tables(self.tenant, &SHARED).await?;
        if all {
            travel::forget_in_vault(self.source.connection(), self.tenant).await?;
        } else {
            tables.retain(|table| !travel::SIGNPOST.contains(&table.label().as_str()));
            travel::reduce(self.source.connection(), self.tenant).await?;
        }
        // Before the commit, which leaves nothing that would tell another run to do it.
        self.from.keys().await?.forget_tenant_keys(self.tenant).await?;
        self.source.erase(&tables, self.tenant).await?;
        Ok(self.source.commit().await?)
    }

    /// What both sides say.
    async fn look(&mut self) -> Result<(Option<Standing>, Option<Standing>), Error> {
        self.source.begin(Begin::Read).await?;
        let at_source = travel::standing(self.source.connection(), self.tenant, false).await?;
        let theirs = self.source.versions(&SHARED).await?;
        self.source.rollback().await?;
        self.target.begin(Begin::Read).await?;
        let at_target = travel::standing(self.target.connection(), self.tenant, false).await?;
        let ours = self.target.versions(&SHARED).await?;
        self.target.rollback().await?;
        content::same_versions(&content::versions(theirs), &content::versions(ours))?;
        Ok((at_source, at_target))
    }

    /// Takes away the copy that a run which was interrupted has left at the destination. While the source's row is held: no other run is about to
    /// make it the tenant.
    async fn discard(&mut self) -> Result<(), Error> {
        self.target.begin(Begin::Write).await?;
        travel::hold_import(self.target.connection(), self.tenant).await?;
        if is_arriving(self.target.note(self.tenant).await?.as_deref()) {
            let sentence = "taking away the copy of a move that was interrupted";
            self.telling.step("discarding", sentence, &[]);
            let tables = self.target.tables(self.tenant, &SHARED).await?;
            let there = travel::standing(self.target.connection(), self.tenant, true).await?;
            // Before the commit, after which nothing tells another run to do it.
            self.to.keys().await?.forget_tenant_keys(self.tenant).await?;
            travel::forget_in_vault(self.target.connection(), self.tenant).await?;
            // Where the tenant lived before, what tells where it is stays until it is here again.
            let is_signpost = there.is_some_and(|there| there.state == "moved");
            if !is_signpost {
                let (region, cell) = (self.to.settings.region.word(), &self.to.settings.cell);
                travel::discard(self.target.connection(), self.tenant, region, cell).await?;
            }
            self.target.shut_schema(self.tenant).await?;
            self.target.drop_schema(self.tenant).await?;
            if !is_signpost {
                self.target.erase(&tables, self.tenant).await?;
            }
        }
        Ok(self.target.commit().await?)
    }

    /// From what goes before the fence to the commit that is the move.
    async fn carry(&mut self) -> Result<(), Error> {
        let ahead = self.copy_ahead().await?;
        let tables = self.patiently(async |run| run.fence().await).await?;
        let fenced = Instant::now();
        self.telling.step(
            "fenced",
            "the tenant is fenced: it can be read, and waits with changes",
            &[],
        );
        let (rows, carried) = self.copy(&tables, &ahead).await?;
        let facts: [(&str, Value); 4] = [
            ("rows", rows.into()),
            ("fenced_rows", carried.rows.into()),
            ("fenced_bytes", carried.bytes.into()),
            ("fenced_ms", millis(fenced.elapsed()).into()),
        ];
        let sentence = format!("{rows} rows are at the destination, and are what was read");
        self.telling.step("copied", &sentence, &facts);
        travel::leave(self.source.connection(), self.tenant, &self.host).await?;
        self.source.silence_schema(self.tenant).await?;
        self.source.close_schema(self.tenant).await?;
        self.telling.step("leaving", "the source says so now", &[]);
        self.source.commit().await?;
        let held = millis(fenced.elapsed());
        let sentence = format!("moved; the fence was held for {held} ms");
        self.telling
            .step("moved", &sentence, &[("fenced_ms", held.into())]);
        Ok(())
    }

    /// Does what takes locks, again while others have them.
    async fn patiently<T>(&mut self, work: impl AsyncFn(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        let until = Instant::now() + PATIENCE;
        loop {
            match work(self).await {
                Err(Error::Database(pg::Error::Conflict(_))) if Instant::now() < until => {
                    self.source.rollback().await?;
                    self.target.rollback().await?;
                    self.telling.step("waiting", "the tenant is in use; waiting", &[]);
                    tokio::time::sleep(PAUSE).await;
                }
                Err(Error::Database(pg::Error::Conflict(_))) => return Err(Error::InUse(PATIENCE.as_secs())),
                outcome => return outcome,
            }
        }
    }

    /// Keeps everybody from changing the tenant until the source's transaction ends, and gives its tables. The order is that in which the
    /// services lock, so nobody waits for us who keeps us waiting.
    async fn fence(&mut self) -> Result<Vec<Table>, Error> {
        self.source.begin(Begin::Write).await?;
        self.hold_standing().await?;
        let source = &mut self.source;
        people::hold_keys(source.connection(), self.tenant).await?;
        travel::hold_vault(source.connection(), self.tenant).await?;
        let tables = source.tables(self.tenant, &SHARED).await?;
        source.fence(&tables, self.tenant).await?;
        Ok(tables)
    }

    /// Until the source's transaction ends, the tenant is active.
    async fn hold_standing(&mut self) -> Result<(), Error> {
        match travel::standing(self.source.connection(), self.tenant, true).await? {
            Some(standing) if standing.state == "active" => Ok(()),
            Some(standing) => Err(Error::NotActive(self.tenant, standing.state)),
            None => Err(Error::NoTenant(self.tenant)),
        }
    }

    /// Everything to the destination that is not there yet, in one transaction; how many rows are there then, and what was brought.
    async fn copy(&mut self, tables: &[Table], ahead: &Ahead) -> Result<(u64, Carried), Error> {
        let (source_keys, target_keys) = (self.from.keys().await?, self.to.keys().await?);
        let keys = source_keys.export_tenant_keys(self.tenant).await?;
        let agents = source_keys.export_agents(self.tenant).await?;
        let persons = persons(&mut self.source, self.tenant).await?;
        self.land(&ahead.mark).await?;
        self.make_room().await?;
        let mut landing = Landing::begin(&mut self.target, self.tenant, &self.to.settings.cell).await?;
        landing.settle(&self.to.seal_key, &persons).await?;
        let mut carried = Carried::default();
        for table in tables {
            let (label, before) = (table.label(), carried.rows);
            if let Some(since) = ahead.since(table) {
                follow(
                    &mut self.source,
                    &mut landing,
                    table,
                    self.tenant,
                    Some(since),
                    &mut carried,
                )
                .await?;
            } else {
                let put = async |rows: Vec<String>| -> Result<(), Error> {
                    carried.add(&rows);
                    landing.rows(&label, rows).await
                };
                self.source.each(table, self.tenant, Rows::All, put).await?;
            }
            if label == INBOX {
                let rows = travel::waiting_events(self.source.connection(), self.tenant).await?;
                carried.add(&rows);
                landing.rows(&label, rows).await?;
            }
            let count = carried.rows - before;
            if count > 0 {
                let facts = [("table", label.clone().into()), ("rows", count.into())];
                self.telling
                    .step("table", &format!("{label}: {count} rows"), &facts);
            }
        }
        let rows = landing.verify().await?;
        // What a run of before left there is of a copy that is no more.
        target_keys.forget_tenant_keys(self.tenant).await?;
        target_keys.import_tenant_keys(self.tenant, &keys).await?;
        target_keys.import_agents(self.tenant, &agents).await?;
        self.target.commit().await?;
        Ok((rows.values().sum(), carried))
    }

    /// Where the tenant lived before, what told where it is goes; and if the schemas have become others meanwhile, nothing goes on.
    async fn make_room(&mut self) -> Result<(), Error> {
        let theirs = content::versions(self.source.versions(&SHARED).await?);
        let ours = content::versions(self.target.versions(&SHARED).await?);
        content::same_versions(&theirs, &ours)?;
        match travel::standing(self.target.connection(), self.tenant, true).await? {
            None => Ok(()),
            Some(standing) if standing.state == "moved" => {
                let tables = self.target.tables(self.tenant, &SHARED).await?;
                Ok(self.target.erase(&tables, self.tenant).await?)
            }
            Some(standing) => Err(Error::Exists(self.tenant, standing.state)),
        }
    }

    /// What follows the move: again and again, because there is no way back.
    async fn finish(&mut self) -> Result<(), Error> {
        for _ in 1..TRIES {
            match self.try_to_finish().await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    let sentence = format!("not finished yet: {}", types::chain(&error));
                    self.telling.step("trying", &sentence, &[]);
                    tokio::time::sleep(PAUSE).await;
                    // Connections may be what is broken.
                    if let (Ok(source), Ok(target)) = (self.from.admin().await, self.to.admin().await) {
                        (self.source, self.target) = (source, target);
                    }
                }
            }
        }
        self.try_to_finish().await
    }

    async fn try_to_finish(&mut self) -> Result<(), Error> {
        self.target.begin(Begin::Write).await?;
        if is_arriving(self.target.note(self.tenant).await?.as_deref()) {
            travel::arrive(self.target.connection(), self.tenant, "active").await?;
            self.target.set_note(self.tenant, None).await?;
            self.telling
                .step("arriving", "the destination begins to serve it now", &[]);
        }
        // Where both databases are of one server, closing the source took the tenant's role from the services here too.
        if self.target.has_schema(self.tenant).await? {
            self.target.admit(self.tenant).await?;
        }
        self.target.commit().await?;
        self.telling.step("arrived", "the destination serves it", &[]);
        self.clear(false).await?;
        let sentence = format!(
            "{} lives at {} now. People who are new there set a password by \"forgot password\"; second factors are enrolled anew. Agents go on with the certificates that they have.",
            self.tenant, self.host
        );
        let facts = [
            ("tenant", self.tenant.to_string().into()),
            ("host", self.host.clone().into()),
        ];
        self.telling.result("moved", &sentence, &facts);
        Ok(())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
