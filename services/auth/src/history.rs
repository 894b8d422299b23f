//! What happens to accounts, for the audit logs of the tenants their people are in.
//!
//! What was done is written in the transaction that does it ([`Entry::write`]): the one is not there without the other. It goes into an inbox
//! of service tenant, which hands it to every tenant in which the person has a seat, or to the one that the call was for. What has a
//! permission of a tenant (API keys) is written by the gateway and not here.
//!
//! What was refused changes nothing, may come by the thousand, and must cost an attacker's victim neither space nor time: [`Refusals`] keeps
//! it in bounded memory for a moment, and writes at most one entry for alike refusals of an account, from one network, in ten seconds.
//!
//! Nothing here names an address of mail, a token or a code.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use audit::{Actor, Event, Kind, Outcome};
use chassis::Origin;
use opentelemetry::metrics::Counter;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use types::{AuditId, Fault as _, Subject, TenantId, UserId, chain};

use crate::{Error, domain::api_key::seen_from, store};

macro_rules! methods {
    ($($name:ident = $path:literal;)*) => {
        $(pub(crate) const $name: &str = concat!("/trailmesh.", $path);)*
    };
}

methods! {
    SIGN_UP = "auth.v1.AccountService/SignUp";
    VERIFY_EMAIL = "auth.v1.AccountService/VerifyEmail";
    RESEND_VERIFICATION = "auth.v1.AccountService/ResendVerification";
    CHANGE_PASSWORD = "auth.v1.AccountService/ChangePassword";
    REQUEST_PASSWORD_RESET = "auth.v1.AccountService/RequestPasswordReset";
    RESET_PASSWORD = "auth.v1.AccountService/ResetPassword";
    AUTHENTICATE = "auth.v1.GuardService/Authenticate";
    CONSUME_STEP_UP = "auth.v1.GuardService/ConsumeStepUp";
    ENROL_TOTP = "auth.v1.MfaService/EnrolTotp";
    ACTIVATE_TOTP = "auth.v1.MfaService/ActivateTotp";
    DISABLE_TOTP = "auth.v1.MfaService/DisableTotp";
    REGENERATE_RECOVERY_CODES = "auth.v1.MfaService/RegenerateRecoveryCodes";
    LOG_IN = "auth.v1.SessionService/LogIn";
    REFRESH_SESSION = "auth.v1.SessionService/RefreshSession";
    LOG_OUT = "auth.v1.SessionService/LogOut";
    REVOKE_SESSION = "auth.v1.SessionService/RevokeSession";
    REVOKE_OTHER_SESSIONS = "auth.v1.SessionService/RevokeOtherSessions";
    REMOVE_FACTOR = "operator.Auth/RemoveFactor";
}

/// Alike refusals of so long are one entry.
const WINDOW: Duration = Duration::from_secs(10);
/// Accounts whose refusals are kept apart at a time; those of further ones are only counted.
const ACCOUNTS_MOST: usize = 4_096;
/// Kinds and networks that are kept apart for one account; from further networks they are one entry without an address.
const APART_MOST: usize = 16;
/// A writing takes no longer.
const WRITING: Duration = Duration::from_secs(5);

/// One call, as far as an entry tells of it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    method: &'static str,
    from: From,
    began: Instant,
}

/// Where a call came from; kept with what is decided about later.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct From {
    client_address: Option<IpAddr>,
    user_agent: String,
    request_id: String,
}

impl From {
    pub(crate) fn new(origin: &Origin) -> Self {
        Self {
            client_address: origin.client_address,
            user_agent: origin.user_agent.clone(),
            request_id: origin.request.to_string(),
        }
    }

    /// From this address.
    pub(crate) fn at(self, client_address: Option<IpAddr>) -> Self {
        Self {
            client_address,
            ..self
        }
    }
}

impl Call {
    /// A call that begins now.
    pub(crate) fn new<T>(method: &'static str, request: &Request<T>) -> Self {
        Self::from(method, From::new(&chassis::origin(request)))
    }

    /// What somebody asked for a moment ago.
    pub(crate) fn from(method: &'static str, from: From) -> Self {
        Self {
            method,
            from,
            began: Instant::now(),
        }
    }

    /// Something that `subject` does with their own account.
    pub(crate) fn of(&self, subject: &Subject) -> Entry {
        let mut entry = self.about(subject.user());
        let actor = &mut entry.event.actor;
        actor.user_id = subject.user().to_string();
        match subject {
            Subject::Person { session, .. } => actor.session_id = session.to_string(),
            Subject::Key { key, .. } => actor.key_id = key.to_string(),
        }
        entry.event.targets.clear();
        entry
    }

    /// Something that the person of an account does, who has shown that they are.
    pub(crate) fn by(&self, user: UserId) -> Entry {
        let mut entry = self.about(user);
        entry.event.actor.user_id = user.to_string();
        entry.event.targets.clear();
        entry
    }

    /// Something about an account, by who knows whom.
    pub(crate) fn about(&self, user: UserId) -> Entry {
        Entry {
            tenant: None,
            user,
            began: self.began,
            ended: Instant::now(),
            event: Event {
                id: AuditId::fresh().to_string(),
                time: 0,
                end_time: 0,
                actor: Actor::default(),
                kind: Kind::Security,
                method: self.method.to_owned(),
                path: String::new(),
                targets: [("user_id".to_owned(), user.to_string())].into(),
                client_address: self.from.client_address,
                user_agent: self.from.user_agent.clone(),
                request_id: self.from.request_id.clone(),
                outcome: Outcome::Succeeded,
                code: "OK".to_owned(),
                reason: String::new(),
                count: 1,
            },
        }
    }
}

/// What is to be written.
#[derive(Clone, Debug)]
#[must_use = "an entry must be written"]
pub(crate) struct Entry {
    pub(crate) tenant: Option<TenantId>,
    pub(crate) user: UserId,
    /// The clock that counts is the database's: it is asked when the entry is written, and goes back by as much as has passed since.
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    pub(crate) event: Event,
}

impl Entry {
    /// Something that it names.
    pub(crate) fn target(mut self, field: &str, id: impl ToString) -> Self {
        self.event.targets.insert(field.to_owned(), id.to_string());
        self
    }

    /// For the log of this tenant only.
    pub(crate) fn in_tenant(mut self, tenant: Option<TenantId>) -> Self {
        self.tenant = tenant;
        self
    }

    /// With this proof of a second factor.
    pub(crate) fn confirmed(mut self, grant: Option<&types::Grant>) -> Self {
        self.event.actor.grant_id = grant.map(|grant| grant.id.clone()).unwrap_or_default();
        self
    }

    /// By the operator of the installation.
    pub(crate) fn by_operator(mut self) -> Self {
        "operator".clone_into(&mut self.event.actor.service);
        self
    }

    /// It was refused.
    pub(crate) fn refused(mut self, error: &Error) -> Self {
        self.event.outcome = Outcome::Failed;
        self.event.code = code(error.code()).to_owned();
        self.event.reason = error.reason().to_owned();
        self
    }

    /// Writes it in the transaction of what it tells.
    pub(crate) async fn write(mut self, tx: &mut pg::Transaction) -> Result<(), Error> {
        self.ended = Instant::now();
        store::history::write(tx, &[self]).await
    }
}

/// The word of the gRPC status that such an error is answered with.
fn code(code: types::Code) -> &'static str {
    use types::Code;
    match code {
        Code::Invalid => "INVALID_ARGUMENT",
        Code::Unauthenticated => "UNAUTHENTICATED",
        Code::Forbidden => "PERMISSION_DENIED",
        Code::Missing => "NOT_FOUND",
        Code::Conflict => "ABORTED",
        Code::Refused => "FAILED_PRECONDITION",
        Code::Exhausted => "RESOURCE_EXHAUSTED",
        Code::Unavailable => "UNAVAILABLE",
        Code::Timeout => "DEADLINE_EXCEEDED",
        Code::Corrupt | Code::Internal => "INTERNAL",
    }
}

/// What is alike: from where, to do what, refused for what.
type Alike = (String, String, String);

fn alike(entry: &Entry) -> Alike {
    let event = &entry.event;
    let network = event.client_address.map(seen_from).unwrap_or_default();
    (network, event.method.clone(), event.reason.clone())
}

/// Refusals that are one entry.
struct Tally {
    entry: Entry,
    /// Those that are not written yet.
    count: u64,
    /// When they may be.
    due: Instant,
}

#[derive(Default)]
struct Ledger {
    accounts: HashMap<UserId, HashMap<Alike, Tally>>,
}

impl Ledger {
    /// False where there is no room for one more account.
    fn note(&mut self, mut entry: Entry, now: Instant) -> bool {
        if self.accounts.len() >= ACCOUNTS_MOST && !self.accounts.contains_key(&entry.user) {
            return false;
        }
        let kinds = self.accounts.entry(entry.user).or_default();
        let mut alike = alike(&entry);
        if kinds.len() >= APART_MOST && !kinds.contains_key(&alike) {
            alike.0.clear();
            entry.event.client_address = None;
            entry.event.user_agent.clear();
            entry.event.request_id.clear();
        }
        match kinds.get_mut(&alike) {
            Some(tally) if tally.count > 0 => {
                tally.count += entry.event.count;
                tally.entry.ended = now;
            }
            Some(tally) => {
                tally.count = entry.event.count;
                tally.entry = entry;
            }
            None => {
                let count = entry.event.count;
                let due = now;
                kinds.insert(alike, Tally { entry, count, due });
            }
        }
        true
    }

    /// What is to be written by now (`all`: and what would be later); what was quiet for a window is forgotten. It stays counted until it is
    /// [`Ledger::written`].
    fn due(&mut self, now: Instant, all: bool) -> Vec<Entry> {
        let mut entries = Vec::new();
        self.accounts.retain(|_, kinds| {
            kinds.retain(|_, tally| {
                if tally.due > now && !all {
                    return true;
                }
                if tally.count == 0 {
                    return false;
                }
                let mut entry = tally.entry.clone();
                entry.event.id = AuditId::fresh().to_string();
                entry.event.count = tally.count;
                entries.push(entry);
                tally.due = now + WINDOW;
                true
            });
            !kinds.is_empty()
        });
        entries
    }

    fn written(&mut self, entries: &[Entry]) {
        for entry in entries {
            let kinds = self.accounts.get_mut(&entry.user);
            if let Some(tally) = kinds.and_then(|kinds| kinds.get_mut(&alike(entry))) {
                tally.count = tally.count.saturating_sub(entry.event.count);
            }
        }
    }

    /// When something is to be written or forgotten next.
    fn next(&self) -> Option<Instant> {
        let tallies = self.accounts.values().flat_map(HashMap::values);
        tallies.map(|tally| tally.due).min()
    }
}

/// Refused attempts on accounts that there are.
#[derive(Clone)]
pub(crate) struct Refusals(Arc<Inner>);

struct Inner {
    pool: pg::Pool,
    ledger: Mutex<Ledger>,
    wake: Notify,
    dropped: Counter<u64>,
}

impl Refusals {
    /// Writes them while `runtime` lives.
    pub(crate) fn start(pool: pg::Pool, runtime: &chassis::Runtime) -> Self {
        let meter = runtime.meter();
        let dropped = meter.u64_counter("auth.refusals.dropped").with_description(
            "Refused attempts that no audit log tells of, because too many accounts had some at a time",
        );
        let refusals = Self(Arc::new(Inner {
            pool,
            ledger: Mutex::default(),
            wake: Notify::new(),
            dropped: dropped.build(),
        }));
        runtime.spawn("refusals", refusals.clone().run(runtime.stopping()));
        refusals
    }

    /// Notes a refusal, if `error` is one that tells of an attempt. Costs the one who asks the same whoever they are.
    pub(crate) fn note(&self, entry: Entry, error: &Error) {
        let known = !entry.event.actor.user_id.is_empty();
        match error {
            // Who has shown who they are is asked for the code; who has only guessed a password, too.
            Error::MfaCodeRequired if known => return,
            Error::CredentialsWrong
            | Error::PasswordWrong
            | Error::TooManyAttempts { .. }
            | Error::MfaCodeRequired
            | Error::MfaCodeInvalid
            | Error::MfaLocked { .. }
            | Error::MfaSuspended
            | Error::KeySuspended
            | Error::CredentialInvalid => {}
            _ => return,
        }
        let mut ledger = self.0.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        if ledger.note(entry.refused(error), Instant::now()) {
            self.0.wake.notify_one();
        } else {
            self.0.dropped.add(1, &[]);
        }
    }

    async fn run(self, stopping: CancellationToken) {
        loop {
            let next = self.with(|ledger| ledger.next());
            let due = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stopping.cancelled() => return,
                () = self.0.wake.notified() => {}
                () = due => {}
            }
            self.write(false).await;
        }
    }

    /// Writes all there is, when the last call has been answered.
    pub(crate) async fn finish(&self) {
        self.write(true).await;
    }

    /// Writes what is due; what could not be written is due again after a window.
    async fn write(&self, all: bool) {
        let entries = self.with(|ledger| ledger.due(Instant::now(), all));
        if entries.is_empty() {
            return;
        }
        let written = async {
            let mut tx = self.0.pool.shared(Instant::now() + WRITING).await?;
            store::history::write(&mut tx, &entries).await?;
            Ok::<_, Error>(tx.commit().await?)
        };
        match written.await {
            Ok(()) => self.with(|ledger| ledger.written(&entries)),
            Err(error) => tracing::warn!(
                entries = entries.len(),
                "refused attempts are not in the audit logs yet: {}",
                chain(&error)
            ),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Ledger) -> T) -> T {
        act(&mut self.0.ledger.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, time::Instant};

    use types::UserId;

    use super::{ACCOUNTS_MOST, APART_MOST, Call, Entry, From, LOG_IN, Ledger, WINDOW};
    use crate::Error;

    fn refusal(user: UserId, address: u32) -> Entry {
        let from = From {
            client_address: Some(IpAddr::V4(address.into())),
            ..From::default()
        };
        Call::from(LOG_IN, from)
            .about(user)
            .refused(&Error::CredentialsWrong)
    }

    fn counts(entries: &[Entry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.event.count).collect()
    }

    /// Everything that is due, written.
    fn take(ledger: &mut Ledger, now: Instant, all: bool) -> Vec<Entry> {
        let entries = ledger.due(now, all);
        ledger.written(&entries);
        entries
    }

    #[test]
    fn alike_refusals_of_ten_seconds_are_one_entry_and_none_is_lost() {
        let (mut ledger, user, start) = (Ledger::default(), UserId::fresh(), Instant::now());
        assert!(ledger.note(refusal(user, 1), start));
        assert_eq!(
            counts(&take(&mut ledger, start, false)),
            [1],
            "the first is written at once"
        );
        for _ in 0..1_000 {
            assert!(ledger.note(refusal(user, 2), start));
        }
        assert!(take(&mut ledger, start, false).is_empty());
        assert_eq!(ledger.next(), Some(start + WINDOW));
        assert_eq!(counts(&take(&mut ledger, start + WINDOW, false)), [1_000]);
        assert!(ledger.note(refusal(user, 3), start + WINDOW));
        assert_eq!(
            counts(&take(&mut ledger, start + WINDOW, true)),
            [1],
            "before the end everything"
        );
        assert!(take(&mut ledger, start + WINDOW * 3, false).is_empty());
        assert_eq!(ledger.next(), None, "what is quiet is forgotten");
    }

    #[test]
    fn many_networks_of_one_account_and_many_accounts_take_bounded_room() {
        let (mut ledger, user, start) = (Ledger::default(), UserId::fresh(), Instant::now());
        for network in 0..10_000 {
            assert!(ledger.note(refusal(user, network << 8), start));
        }
        let entries = take(&mut ledger, start, false);
        assert_eq!(entries.len(), APART_MOST + 1);
        assert_eq!(counts(&entries).iter().sum::<u64>(), 10_000);
        let mixed = entries.iter().find(|entry| entry.event.client_address.is_none());
        assert_eq!(
            mixed.map(|entry| entry.event.count),
            Some(10_000 - APART_MOST as u64)
        );
        let noted = (0..ACCOUNTS_MOST * 2).filter(|_| ledger.note(refusal(UserId::fresh(), 1), start));
        assert_eq!(noted.count(), ACCOUNTS_MOST - 1);
        assert!(
            ledger.note(refusal(user, 1), start),
            "whom it knows it goes on counting"
        );
    }

    #[test]
    fn what_could_not_be_written_is_counted_on() {
        let (mut ledger, user, start) = (Ledger::default(), UserId::fresh(), Instant::now());
        for _ in 0..3 {
            ledger.note(refusal(user, 1), start);
        }
        assert_eq!(counts(&ledger.due(start, false)), [3]);
        ledger.note(refusal(user, 1), start);
        assert_eq!(counts(&take(&mut ledger, start + WINDOW, false)), [4]);
    }
}
