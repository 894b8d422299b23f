//! The task that decides about requests for mails and sends what is to be sent.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use lettre::{
    AsyncFileTransport, AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor, message::Mailbox,
};
use tokio_util::sync::CancellationToken;
use types::chain;

use super::{Ask, Letter, Outbox, letter};
use crate::{
    Auth, Config, Error,
    domain::{
        email::Email,
        token::{Kind, sha256},
    },
    history::Entry,
    store::{
        self,
        outbox::{self, Allowance},
        token::{Pending, Waiting},
    },
};

/// How many entries are worked on at a time.
const BATCH: i64 = 8;

/// How often the table is looked at without being told; other replicas write to it too.
const POLL: Duration = Duration::from_secs(2);

/// What a mail server is waited for. Less than an entry's lease.
const SENDING: Duration = Duration::from_secs(30);

/// What one transaction may take.
const STORING: Duration = Duration::from_secs(10);

/// The longest pause between tries of one mail, in seconds.
const LONGEST_PAUSE: f64 = 3_600.0;

/// Where mails go.
enum Transport {
    Smtp(AsyncSmtpTransport<Tokio1Executor>),
    Folder(AsyncFileTransport<Tokio1Executor>),
}

/// Why a mail did not go out.
enum Unsent {
    /// The server will never take it.
    Refused(String),
    /// Later, perhaps.
    Delayed(String),
}

impl Transport {
    fn new(config: &Config) -> Result<Self, Error> {
        let internal = |what: String| Error::Internal(format!("no way to send mails: {what}"));
        if let Some(url) = &config.smtp_url {
            let builder = AsyncSmtpTransport::<Tokio1Executor>::from_url(url.expose());
            let builder = builder.map_err(|error| internal(chain(&error)))?;
            return Ok(Self::Smtp(builder.timeout(Some(SENDING)).build()));
        }
        let folder = config.mail_dir.as_deref().unwrap_or_else(|| Path::new("."));
        std::fs::create_dir_all(folder).map_err(|error| internal(error.to_string()))?;
        Ok(Self::Folder(AsyncFileTransport::new(folder)))
    }

    async fn send(&self, message: Message) -> Result<(), Unsent> {
        match self {
            Self::Folder(folder) => match folder.send(message).await {
                Ok(_) => Ok(()),
                Err(error) => Err(Unsent::Delayed(chain(&error))),
            },
            Self::Smtp(server) => match tokio::time::timeout(SENDING, server.send(message)).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) if error.is_permanent() => Err(Unsent::Refused(chain(&error))),
                Ok(Err(error)) => Err(Unsent::Delayed(chain(&error))),
                Err(_) => Err(Unsent::Delayed("no answer in time".to_owned())),
            },
        }
    }
}

/// A letter, what it counts against, and what the audit log says of it.
struct Answer {
    letter: Letter,
    allowance: Allowance,
    entry: Entry,
}

/// The task.
pub(crate) struct Courier {
    auth: Arc<Auth>,
    transport: Transport,
    from: Mailbox,
}

/// How many batches of rows that are over one sweep takes, each in a transaction of its own. Mails wait meanwhile, so it ends.
const SWEEPS_AT_ONCE: usize = 50;

impl Courier {
    pub(crate) fn new(auth: Arc<Auth>) -> Result<Self, Error> {
        let from = auth.config.mail_from.parse();
        Ok(Self {
            transport: Transport::new(&auth.config)?,
            from: from.map_err(|_| Error::Internal("TRAILMESH_AUTH_MAIL_FROM is no mailbox".to_owned()))?,
            auth,
        })
    }

    /// Works until `stopping`; what is not done then is done by another replica or after the next start.
    pub(crate) async fn run(self, stopping: CancellationToken) {
        let mut sweep = tokio::time::interval(Duration::from_secs(600));
        loop {
            let more = match self.batch().await {
                Ok(worked) => worked == BATCH.unsigned_abs(),
                Err(error) => {
                    tracing::warn!("mails wait: {}", chain(&error));
                    false
                }
            };
            if more && !stopping.is_cancelled() {
                continue;
            }
            tokio::select! {
                () = stopping.cancelled() => return,
                () = self.auth.outbox.wake.notified() => {}
                () = tokio::time::sleep(POLL) => {}
                _ = sweep.tick() => self.sweep().await,
            }
        }
    }

    async fn begin(&self) -> Result<pg::Transaction, Error> {
        Ok(self.auth.pool.shared(Instant::now() + STORING).await?)
    }

    async fn sweep(&self) {
        let swept = async {
            let mut all = 0;
            for _ in 0..SWEEPS_AT_ONCE {
                let mut tx = self.begin().await?;
                let deleted = store::sweep::sweep(&mut tx).await?;
                tx.commit().await?;
                all += deleted;
                if deleted < store::sweep::MOST {
                    break;
                }
            }
            Ok::<_, Error>(all)
        };
        match swept.await {
            Ok(deleted) => tracing::debug!(deleted, "rows that were over are gone"),
            Err(error) => tracing::warn!("rows that are over stay for now: {}", chain(&error)),
        }
    }

    /// Takes what is due and works on it; how many entries that were. Letters go out side by side; requests are decided one after the other as
    /// they came, so that what somebody asked for first does not see what came of a later request.
    async fn batch(&self) -> Result<u64, Error> {
        let mut tx = self.begin().await?;
        let entries = store::outbox::take(&mut tx, BATCH).await?;
        tx.commit().await?;
        let worked = entries.len() as u64;
        let (letters, mut requests): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| entry.is_letter);
        requests.sort_by_key(|entry| entry.id);
        let decided = async {
            for entry in &requests {
                self.work(entry).await;
            }
        };
        tokio::join!(join_all(letters.iter().map(|entry| self.work(entry))), decided);
        Ok(worked)
    }

    async fn work(&self, entry: &outbox::Entry) {
        let done = if entry.is_letter {
            self.deliver(entry).await
        } else {
            self.decide(entry).await
        };
        // An entry that failed is due again after its lease.
        if let Err(error) = done {
            tracing::warn!(entry = entry.id, "a mail waits: {}", chain(&error));
        }
    }

    async fn deliver(&self, entry: &outbox::Entry) -> Result<(), Error> {
        let letter: Letter = self.auth.outbox.open(entry)?;
        let sent = self.transport.send(letter.message(&self.from)?).await;
        let mut tx = self.begin().await?;
        match sent {
            Ok(()) => store::outbox::finish(&mut tx, entry.id).await?,
            Err(Unsent::Refused(problem)) => {
                tracing::warn!(
                    entry = entry.id,
                    "the mail server refused a mail for good: {problem}"
                );
                store::outbox::finish(&mut tx, entry.id).await?;
            }
            Err(Unsent::Delayed(problem)) => {
                let kept = store::outbox::postpone(&mut tx, entry.id, pause(entry.attempts)).await?;
                tracing::warn!(
                    entry = entry.id,
                    attempts = entry.attempts,
                    kept,
                    "a mail did not go out: {problem}"
                );
            }
        }
        Ok(tx.commit().await?)
    }

    /// Finds out what a request for a mail comes to, and queues the letter, if there is to be one.
    async fn decide(&self, entry: &outbox::Entry) -> Result<(), Error> {
        let ask: Ask = self.auth.outbox.open(entry)?;
        let to = store::account::stored_email(ask.email())?;
        let mut tx = self.begin().await?;
        if let Some(answer) = self.answer(&mut tx, &ask, &to).await? {
            let Answer {
                letter,
                allowance,
                entry,
            } = answer;
            let outbox = &self.auth.outbox;
            outbox.letter(&mut tx, &to, &letter, Some(allowance)).await?;
            // As many entries as mails: what strangers ask for in vain costs an account nothing.
            entry.write(&mut tx).await?;
        }
        store::outbox::finish(&mut tx, entry.id).await?;
        tx.commit().await?;
        self.auth.outbox.wake();
        Ok(())
    }

    /// What `ask` comes to; nothing where there is nothing to say or the address got enough of its kind.
    async fn answer(&self, tx: &mut pg::Transaction, ask: &Ask, to: &Email) -> Result<Option<Answer>, Error> {
        let outbox = &self.auth.outbox;
        let Outbox {
            sealer, public_url, ..
        } = outbox;
        // Locked first, always before the account: one order for everybody.
        let kind = match ask {
            Ask::SignUp { .. } | Ask::Verification { .. } => Allowance::Verification,
            Ask::Reset { .. } => Allowance::Reset,
        };
        let allowed = outbox.allows(tx, to, kind).await?;
        let (letter, user) = match ask {
            Ask::SignUp {
                display_name, phc, ..
            } => {
                let (user, verified) = store::account::lock_or_create(tx, to).await?;
                if verified {
                    let kind = Allowance::AccountExists;
                    let allowed = outbox.allows(tx, to, kind).await?;
                    let entry = ask.call().about(user).refused(&Error::AccountExists);
                    return Ok(allowed.then(|| Answer {
                        letter: letter::account_exists(public_url, to),
                        allowance: kind,
                        entry,
                    }));
                }
                if !allowed {
                    return Ok(None);
                }
                let pending = Pending {
                    display_name: display_name.clone(),
                    password: store::account::seal_password(sealer, user, phc)?,
                    signed_up_at: store::now(tx).await?,
                };
                (self.verification(tx, user, to, &pending).await?, user)
            }
            _ if !allowed => return Ok(None),
            Ask::Verification { .. } => {
                let Some((user, false)) = store::account::lock(tx, to).await? else {
                    return Ok(None);
                };
                let letter = match store::token::waiting(tx, user).await? {
                    Waiting::Nothing => return Ok(None),
                    Waiting::One(pending) => self.verification(tx, user, to, &pending).await?,
                    // To repeat one of them could hand the account to a stranger by its owner's click: a link brings the password of *its*
                    // sign-up into force, and who asks has shown nothing that tells which one is theirs. What remains possible is that
                    // somebody opens the link of a mail about a sign-up that is not theirs, whose name and time it tells, within its day:
                    // then a stranger's password counts until the owner of the address resets it, which ends that stranger's sessions.
                    Waiting::Several => letter::several_sign_ups(public_url, to),
                };
                (letter, user)
            }
            Ask::Reset { .. } => {
                let Some((user, true)) = store::account::lock(tx, to).await? else {
                    return Ok(None);
                };
                let token = Kind::Reset.fresh();
                store::token::keep_reset(tx, user, sha256(token.expose().as_bytes())).await?;
                (letter::reset(public_url, to, token.expose()), user)
            }
        };
        Ok(Some(Answer {
            letter,
            allowance: kind,
            entry: ask.call().about(user),
        }))
    }

    async fn verification(
        &self,
        tx: &mut pg::Transaction,
        user: types::UserId,
        to: &Email,
        pending: &Pending,
    ) -> Result<Letter, Error> {
        let token = Kind::Verification.fresh();
        store::token::keep_verification(tx, user, sha256(token.expose().as_bytes()), pending).await?;
        let public_url = &self.auth.outbox.public_url;
        Ok(letter::verification(public_url, to, token.expose(), pending))
    }
}

/// Seconds until the next try: 5, 10, 20 … up to an hour.
fn pause(attempts: i32) -> f64 {
    (5.0 * 2_f64.powi(attempts.clamp(1, 20) - 1)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::pause;

    #[test]
    fn pauses_double_up_to_an_hour() {
        assert_eq!(
            [1, 2, 3, 11, i32::MAX].map(pause),
            [5.0, 10.0, 20.0, 3_600.0, 3_600.0]
        );
    }
}
