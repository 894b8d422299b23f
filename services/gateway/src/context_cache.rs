//! Who is behind a credential, remembered for less than a second.
//!
//! A revocation is a committed row, so what auth answers is true when it is asked; an answer is used for 800 ms from the moment that auth was
//! asked, and so a revocation reaches every gateway within a second. Only while auth cannot be reached may an answer be up to five seconds
//! old. One credential is asked about by one request at a time; the others wait for its answer.
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use http::HeaderValue;
use tonic::Status;

use crate::bounded::Bounded;

/// How long an answer is used.
pub(crate) const FRESH: Duration = Duration::from_millis(800);
/// How long it is used while auth cannot be reached.
const STALE: Duration = Duration::from_secs(5);
/// After auth could not be reached, it is not asked about the same credential for so long.
const PAUSE: Duration = Duration::from_millis(200);
/// Credentials remembered.
const BOUND: usize = 100_000;

/// A caller as auth vouches for it.
#[derive(Debug)]
pub(crate) struct Identity {
    /// Who, and as what.
    pub(crate) context: types::Context,
    /// The token that services verify themselves.
    pub(crate) token: types::Secret<String>,
    /// It as the header `authorization`.
    pub(crate) bearer: HeaderValue,
}

/// What auth says about a credential.
#[derive(Debug)]
pub(crate) enum Vouched {
    /// It is good.
    Good(Identity),
    /// It is not, or not for this.
    Refused(Status),
    /// Auth cannot be reached.
    Unreachable,
    /// It is not asked before this time is over.
    Limited(Duration),
}

/// Why there is no identity.
#[derive(Debug)]
pub(crate) enum NoIdentity {
    /// Auth refused.
    Refused(Status),
    /// Auth cannot be reached, and nothing recent is known.
    Unreachable,
    /// Auth is not asked before this time is over.
    Limited(Duration),
}

/// Who, and when auth was asked.
pub(crate) type Known = (Arc<Identity>, Instant);

#[derive(Debug, Default)]
struct Slot {
    state: Mutex<State>,
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    answer: Option<(Instant, Result<Arc<Identity>, Status>)>,
    failed: Option<Instant>,
    /// When the caller last changed something: what was asked for before may be no longer so.
    changed: Option<Instant>,
}

/// The digest of a credential and of where it comes from.
pub(crate) type Key = [u8; 32];

/// Tenants remembered for one credential.
const TENANTS: usize = 32;

/// What is known of a credential, by the tenant that requests name with it.
type Slots = Vec<(Box<str>, Arc<Slot>)>;

/// Remembers.
#[derive(Debug)]
pub(crate) struct ContextCache {
    slots: Mutex<Bounded<Key, Slots>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Slot {
    /// The answer if nothing has to be asked.
    fn fresh(&self) -> Option<Result<Known, NoIdentity>> {
        let changed = lock(&self.state).changed;
        let answer = self.within(FRESH)?;
        match (&answer, changed) {
            (Ok((_, asked)), Some(changed)) if *asked <= changed => None,
            (Err(_), Some(changed)) if changed.elapsed() < FRESH => None,
            _ => Some(answer),
        }
    }

    /// The answer if it is younger than `age`.
    fn within(&self, age: Duration) -> Option<Result<Known, NoIdentity>> {
        let state = lock(&self.state);
        let (asked, answer) = state.answer.as_ref()?;
        (asked.elapsed() < age).then(|| match answer {
            Ok(identity) => Ok((Arc::clone(identity), *asked)),
            Err(status) => Err(NoIdentity::Refused(status.clone())),
        })
    }

    /// Whether the last answer was a good one.
    fn was_good(&self) -> bool {
        matches!(lock(&self.state).answer, Some((_, Ok(_))))
    }

    /// What is left when auth cannot be reached: good answers of before, no refusals.
    fn stale(&self) -> Result<Known, NoIdentity> {
        self.within(STALE).unwrap_or(Err(NoIdentity::Unreachable))
    }
}

impl ContextCache {
    /// Nothing is known yet.
    pub(crate) fn new() -> Self {
        Self {
            slots: Mutex::new(Bounded::new(BOUND)),
        }
    }

    fn slot(&self, key: Key, tenant: &str) -> Arc<Slot> {
        let mut all = lock(&self.slots);
        if all.get(&key).is_none() {
            all.put(key, Slots::new());
        }
        let Some(slots) = all.get(&key) else {
            return Arc::default();
        };
        if let Some((_, slot)) = slots.iter().find(|(name, _)| **name == *tenant) {
            return Arc::clone(slot);
        }
        if slots.len() >= TENANTS {
            slots.remove(0);
        }
        let slot = Arc::<Slot>::default();
        slots.push((tenant.into(), Arc::clone(&slot)));
        slot
    }

    /// The next request of a credential asks, for every tenant. While auth cannot be reached, what was known still counts.
    pub(crate) fn ask_again(&self, key: &Key) {
        let now = Instant::now();
        let mut all = lock(&self.slots);
        let Some(slots) = all.get(key) else { return };
        for (_, slot) in slots {
            lock(&slot.state).changed = Some(now);
        }
    }

    /// Who is behind `key` in `tenant`: known, or asked for with `ask`, which is told whether the last answer was a good one.
    pub(crate) async fn identity<F>(
        &self,
        key: Key,
        tenant: &str,
        ask: impl FnOnce(bool) -> F,
    ) -> Result<Known, NoIdentity>
    where
        F: Future<Output = Vouched>,
    {
        let slot = self.slot(key, tenant);
        if let Some(answer) = slot.fresh() {
            return answer;
        }
        let came = Instant::now();
        let _turn = slot.asking.lock().await;
        if let Some(answer) = slot.fresh() {
            return answer;
        }
        let failed = lock(&slot.state).failed;
        if failed.is_some_and(|failed| failed >= came || failed.elapsed() < PAUSE) {
            return slot.stale();
        }
        let asked = Instant::now();
        let answer = match ask(slot.was_good()).await {
            Vouched::Good(identity) => Ok(Arc::new(identity)),
            Vouched::Refused(status) => Err(status),
            Vouched::Limited(time) => return Err(NoIdentity::Limited(time)),
            Vouched::Unreachable => {
                lock(&slot.state).failed = Some(Instant::now());
                return slot.stale();
            }
        };
        let mut state = lock(&slot.state);
        state.answer = Some((asked, answer.clone()));
        state.failed = None;
        drop(state);
        match answer {
            Ok(identity) => Ok((identity, asked)),
            Err(status) => Err(NoIdentity::Refused(status)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
        time::{Duration, Instant},
    };

    use http::HeaderValue;
    use tonic::Code;
    use types::{Context, SessionId, Subject, UserId};

    use super::{ContextCache, FRESH, Identity, NoIdentity, STALE, Vouched, lock};
    use crate::error::Cause;

    fn good() -> Vouched {
        Vouched::Good(Identity {
            context: Context {
                subject: Subject::Person {
                    user: UserId::fresh(),
                    session: SessionId::fresh(),
                },
                seat: None,
                mfa_enabled: false,
            },
            token: types::Secret::new("t".to_owned()),
            bearer: HeaderValue::from_static("Bearer t"),
        })
    }

    /// Makes what is known about a key older.
    fn age(cache: &ContextCache, by: Duration) {
        let slot = cache.slot([1; 32], "");
        let mut state = lock(&slot.state);
        if let Some((asked, _)) = &mut state.answer {
            *asked = asked.checked_sub(by).expect("a time");
        }
        state.failed = state.failed.map(|failed| failed.checked_sub(by).expect("a time"));
    }

    #[tokio::test]
    async fn a_hundred_requests_at_once_ask_once() {
        let cache = Arc::new(ContextCache::new());
        let asked = Arc::new(AtomicU32::new(0));
        let requests: Vec<_> = (0..100)
            .map(|_| {
                let (cache, asked) = (Arc::clone(&cache), Arc::clone(&asked));
                tokio::spawn(async move {
                    let ask = |_| async {
                        asked.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        good()
                    };
                    cache
                        .identity([1; 32], "", ask)
                        .await
                        .map(|(identity, _)| identity.context.subject.user())
                })
            })
            .collect();
        let mut users = Vec::new();
        for request in requests {
            users.push(request.await.expect("no panic").expect("a user"));
        }
        users.dedup();
        assert_eq!((users.len(), asked.load(Ordering::Relaxed)), (1, 1));
    }

    #[tokio::test]
    async fn an_answer_is_asked_for_again_before_a_second_is_over() {
        let cache = ContextCache::new();
        assert!(FRESH < Duration::from_secs(1));
        cache
            .identity([1; 32], "", |_| async { good() })
            .await
            .expect("a user");
        let refuse = |_| async { Vouched::Refused(chassis::status(&Cause::CredentialInvalid)) };
        cache.identity([1; 32], "", refuse).await.expect("still fresh");
        age(&cache, FRESH);
        let refused = cache.identity([1; 32], "", refuse).await;
        assert!(
            matches!(refused, Err(NoIdentity::Refused(status)) if status.code() == Code::Unauthenticated)
        );
        // The refusal is remembered too.
        let again = cache.identity([1; 32], "", |_| async { good() }).await;
        assert!(matches!(again, Err(NoIdentity::Refused(_))));
    }

    #[tokio::test]
    async fn without_auth_what_was_good_is_good_for_five_seconds_and_nothing_else() {
        let cache = ContextCache::new();
        let away = |_| async { Vouched::Unreachable };
        assert!(matches!(
            cache.identity([1; 32], "", away).await,
            Err(NoIdentity::Unreachable)
        ));
        age(&cache, Duration::from_secs(1));
        cache
            .identity([1; 32], "", |_| async { good() })
            .await
            .expect("a user");
        age(&cache, Duration::from_secs(4));
        cache.identity([1; 32], "", away).await.expect("still good");
        age(&cache, STALE - Duration::from_secs(4));
        assert!(matches!(
            cache.identity([1; 32], "", away).await,
            Err(NoIdentity::Unreachable)
        ));
    }

    #[tokio::test]
    async fn after_a_change_auth_is_asked_again_for_every_tenant() {
        let cache = ContextCache::new();
        let asked = AtomicU32::new(0);
        for (tenant, before) in [("", 0), ("tnt_1", 1), ("", 2), ("tnt_1", 2)] {
            assert_eq!(asked.load(Ordering::Relaxed), before, "{tenant}");
            let ask = |_| async {
                asked.fetch_add(1, Ordering::Relaxed);
                good()
            };
            cache.identity([1; 32], tenant, ask).await.expect("a user");
        }
        cache.ask_again(&[1; 32]);
        for tenant in ["", "tnt_1"] {
            // Auth may be away: then what was known still counts.
            let away = |known: bool| async move {
                assert!(known);
                Vouched::Unreachable
            };
            cache.identity([1; 32], tenant, away).await.expect("a user");
        }
        let refuse = |_| async { Vouched::Refused(chassis::status(&Cause::CredentialInvalid)) };
        for slot in ["", "tnt_1"].map(|tenant| cache.slot([1; 32], tenant)) {
            lock(&slot.state).failed = None;
        }
        for tenant in ["", "tnt_1"] {
            assert!(cache.identity([1; 32], tenant, refuse).await.is_err());
            cache.ask_again(&[1; 32]);
            cache
                .identity([1; 32], tenant, |_| async { good() })
                .await
                .expect("a user");
        }
    }

    #[tokio::test]
    async fn names_of_tenants_cost_a_credential_its_own_memory_only() {
        let cache = ContextCache::new();
        for number in 0..1_000 {
            let ask = |_| async { good() };
            cache
                .identity([1; 32], &number.to_string(), ask)
                .await
                .expect("a user");
        }
        assert_eq!(
            lock(&cache.slots).get(&[1; 32]).expect("slots").len(),
            super::TENANTS
        );
    }

    #[tokio::test]
    async fn auth_that_hangs_is_waited_for_once_and_not_by_each_in_turn() {
        let cache = Arc::new(ContextCache::new());
        let began = Instant::now();
        let requests: Vec<_> = (0..50)
            .map(|_| {
                let cache = Arc::clone(&cache);
                tokio::spawn(async move {
                    let ask = |_| async {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        Vouched::Unreachable
                    };
                    cache.identity([1; 32], "", ask).await.is_err()
                })
            })
            .collect();
        for request in requests {
            assert!(request.await.expect("no panic"));
        }
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn who_goes_away_while_asking_leaves_the_turn_to_the_next() {
        let cache = ContextCache::new();
        let hanging = cache.identity([1; 32], "", |_| std::future::pending());
        assert!(
            tokio::time::timeout(Duration::from_millis(10), hanging)
                .await
                .is_err()
        );
        cache
            .identity([1; 32], "", |_| async { good() })
            .await
            .expect("a user");
    }
}
