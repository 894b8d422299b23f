//! What the agent asks the vault for, again and again: which servers to follow and with which password, whom to trust, and the next certificate.
//!
//! Whatever the hub hints, this is the only source of it, over the agent's own mutual TLS. While the vault cannot be reached, or lets this agent not
//! in, what is followed is followed on.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use chassis::token::KeySet;
use proto::vault::v1 as pb;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use types::{Fault as _, chain};

use super::{
    backoff::Backoff,
    dial::{Dialer, Papers},
    error::Error,
    folder::Folder,
    identity::{NewKey, moment},
    link::{Tempo, chance},
    login::{self, Mode},
    supervise::{Assigned, SERVERS_MAX, Supervisor},
    trust::Trust,
    vault::Vault,
};

const ASSIGNMENT: &str = "assignment.json";
/// So long after a change the next one is expected soon.
const EAGER: Duration = Duration::from_secs(600);
/// The least time between two looks, however often one is asked for.
const LEAST: Duration = Duration::from_secs(1);

/// Keeps papers and followers as the vault says.
pub(super) struct Steward {
    pub(super) folder: Folder,
    pub(super) dialer: Dialer,
    pub(super) papers: watch::Sender<Arc<Papers>>,
    /// What a person pinned counts, whatever the vault says.
    pub(super) pinned_by_hand: bool,
    pub(super) keys: KeySet,
    pub(super) mode: Mode,
    pub(super) supervisor: Supervisor,
    pub(super) tempo: Tempo,
    pub(super) refresh: Arc<Notify>,
    pub(super) vault: Option<Vault>,
    /// When to ask for the next certificate.
    pub(super) renew: SystemTime,
    /// When something was assigned, or not any more, for the last time; at first when all began.
    pub(super) changed: Instant,
    /// When all was well for the last time; at first when all began.
    pub(super) healthy: Instant,
    /// Since when the mesh says that this agent was revoked.
    pub(super) revoked: Option<Instant>,
    /// Why it does not go well, for whoever asks here; empty if it does.
    pub(super) problem: watch::Sender<String>,
}

/// Around this time.
fn spread(pause: Duration) -> Duration {
    pause.mul_f64(0.8 + 0.4 * chance())
}

impl Steward {
    /// Works until `stop`, and then ends the followers. An error is one after which asking again makes no sense, and nothing is followed.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        self.start_from_last().await;
        let mut backoff = Backoff::default();
        let outcome = loop {
            let looked = tokio::select! {
                () = stop.cancelled() => break Ok(()),
                looked = self.look() => looked,
            };
            let begun = Instant::now();
            let failed = looked.is_err();
            let next = match looked {
                Ok(()) => {
                    self.went_well(begun);
                    backoff = Backoff::default();
                    // Spread, so that agents that were started together do not stay together.
                    spread(self.pause())
                }
                Err(error) if self.ends(&error) => break Err(error),
                Err(error) => self.went_wrong(&error, &mut backoff),
            };
            tokio::select! {
                () = stop.cancelled() => break Ok(()),
                () = sleep_until(begun + next) => {}
                // Whoever is told to wait is not hurried.
                () = self.refresh.notified(), if !failed => sleep_until(begun + LEAST.mul_f64(1.0 + chance())).await,
            }
        };
        self.supervisor.end().await;
        outcome
    }

    fn went_well(&mut self, now: Instant) {
        self.healthy = now;
        self.revoked = None;
        self.problem.send_if_modified(|problem| {
            let changed = !problem.is_empty();
            problem.clear();
            changed
        });
    }

    /// Says what went wrong, and how long to wait.
    fn went_wrong(&mut self, error: &Error, backoff: &mut Backoff) -> Duration {
        self.vault = None;
        let barred = error.is_final();
        let pause = if barred {
            spread(self.tempo.barred)
        } else {
            backoff.pause(Duration::ZERO, chance(), error.retry_after())
        };
        let mut problem = chain(error);
        if let Some(hint) = error.hint() {
            problem = format!("{problem}; {hint}");
        }
        tracing::warn!(
            "the assignment is not known, for {:.0} s now; what is followed is followed on: {problem}; trying again in {:.1} s",
            self.healthy.elapsed().as_secs_f64(),
            pause.as_secs_f64()
        );
        self.problem.send_replace(problem);
        pause
    }

    /// Whether an error ends the agent. While anything is followed that is the last of all means: what is not stored now may be gone from the
    /// server's log by the time that a person comes. And what the mesh says of an agent may be taken back.
    fn ends(&mut self, error: &Error) -> bool {
        if !error.is_final() {
            return false;
        }
        if error.may_pass() {
            self.revoked = None;
            return false;
        }
        if !self.supervisor.follows() {
            return true;
        }
        if matches!(error, Error::Ended { .. }) {
            return false;
        }
        let since = *self.revoked.get_or_insert_with(Instant::now);
        since.elapsed() >= self.tempo.revoked
    }

    /// How long until the next look.
    fn pause(&self) -> Duration {
        if self.changed.elapsed() < EAGER {
            self.tempo.eager
        } else {
            self.tempo.refresh
        }
    }

    /// What was followed last is followed on although the mesh cannot be reached, as far as the passwords are at hand.
    async fn start_from_last(&mut self) {
        if self.mode != Mode::Byos {
            return;
        }
        match self.folder.read_json::<Vec<Assigned>>(ASSIGNMENT) {
            Ok(Some(servers)) => {
                for server in servers.iter().take(SERVERS_MAX) {
                    let login = login::byos(server, &self.folder);
                    self.supervisor.follow(server, login, servers.len()).await;
                }
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(error = chain(&error), "what was followed last is not known"),
        }
    }

    /// One look at everything.
    async fn look(&mut self) -> Result<(), Error> {
        self.check_time()?;
        if !self.vault.as_ref().is_some_and(Vault::is_open) {
            let papers = self.papers.borrow().clone();
            self.vault = Some(Vault::open(&self.dialer, &papers).await?);
        }
        let told = self.vault()?.assignment().await?;
        if let Some(trust) = told.trust {
            self.trust(trust)?;
        }
        self.follow(told.servers).await?;
        if SystemTime::now() >= self.renew {
            self.renew().await?;
        }
        Ok(())
    }

    fn vault(&self) -> Result<&Vault, Error> {
        self.vault.as_ref().ok_or_else(|| Error::Internal {
            what: "the connection to the vault",
            why: "it is not there".to_owned(),
        })
    }

    /// A certificate that has ended opens no door.
    fn check_time(&self) -> Result<(), Error> {
        let ends = self.papers.borrow().identity.ends();
        if ends <= SystemTime::now() {
            return Err(Error::Ended { at: moment(ends) });
        }
        Ok(())
    }

    /// Whom to trust from now on. Pins that would shut out the very door that they came through are not believed.
    fn trust(&mut self, told: pb::MeshTrust) -> Result<(), Error> {
        let mut trust = Trust::read(told)?;
        let papers = self.papers.borrow().clone();
        if trust.region() != papers.trust.region() {
            return Err(Error::Protocol {
                what: "the vault",
                why: "says that the mesh is in another region now".to_owned(),
            });
        }
        let door = self.vault()?.door;
        if trust.pins.as_ref().is_some_and(|told| !told.hold(door)) {
            tracing::error!(%door, "the vault's pins are not those of the mesh's door; the old ones stay");
            trust.pins = None;
        }
        // What is kept is what counts, or the next start would believe what was not believed now.
        trust.pins = trust.pins.or_else(|| papers.trust.pins.clone());
        if trust == *papers.trust {
            return Ok(());
        }
        let mut pins = papers.pins.clone();
        if !self.pinned_by_hand
            && let Some(counting) = &trust.pins
        {
            pins = counting.clone();
        }
        trust.save(&self.folder)?;
        self.keys.replace(trust.keys());
        tracing::info!("what the mesh trusts has changed");
        self.papers.send_replace(Arc::new(Papers {
            identity: papers.identity.clone(),
            trust: Arc::new(trust),
            pins,
        }));
        Ok(())
    }

    async fn follow(&mut self, told: Vec<pb::AssignedServer>) -> Result<(), Error> {
        let servers: Vec<Assigned> = told
            .into_iter()
            .filter_map(Assigned::read)
            .take(SERVERS_MAX)
            .collect();
        self.supervisor.keep_only(&servers).await;
        for server in &servers {
            if !self.supervisor.needs_login(server) {
                continue;
            }
            let login = match self.mode {
                Mode::Byos => login::byos(server, &self.folder),
                Mode::Hosted => match self.vault()?.password(&server.id.to_string()).await {
                    Ok(password) => login::hosted(server, password),
                    Err(error) if error.is_final() => return Err(error),
                    Err(error) => Err(chain(&error)),
                },
            };
            self.supervisor.follow(server, login, servers.len()).await;
        }
        let before = self.folder.read_json::<Vec<Assigned>>(ASSIGNMENT).ok().flatten();
        if before.as_ref() != Some(&servers) {
            self.changed = Instant::now();
            self.folder.write_json(ASSIGNMENT, &servers)?;
        }
        Ok(())
    }

    /// The next certificate, for a new key.
    async fn renew(&mut self) -> Result<(), Error> {
        let key = NewKey::make()?;
        let chain_pem = match self.vault()?.renew(&key.csr).await {
            Ok(pem) => pem,
            Err(Error::Mesh {
                reason, retry_after, ..
            }) if reason == "RENEWAL_TOO_EARLY" => {
                self.renew = SystemTime::now() + retry_after.unwrap_or(self.tempo.refresh);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let identity = Arc::new(key.with(chain_pem)?);
        identity.save(&self.folder)?;
        self.renew = identity.renew_at(chance());
        tracing::info!(ends = moment(identity.ends()), "the certificate was renewed");
        let papers = self.papers.borrow().clone();
        self.papers.send_replace(Arc::new(Papers {
            identity,
            trust: papers.trust.clone(),
            pins: papers.pins.clone(),
        }));
        // The next question is asked with the new one.
        self.vault = None;
        Ok(())
    }
}
