//! Which server is meant, whose agents can be asked about it, and which access rules there are: service tenant's word, at most 800 ms old.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use chassis::{Peer, Runtime};
use proto::{
    common::v1 as common,
    tenant::v1::{self as pb, directory_service_client::DirectoryServiceClient},
};
use tokio::sync::OnceCell;
use tonic::Status;
use types::{AgentId, Code, Fault, PoolId, Role, Seat, ServerId, TenantId};

/// How old an answer may be.
const FRESH: Duration = Duration::from_millis(800);

/// How many answers are kept at a time.
const KEPT: usize = 10_000;

/// The longest name or id that is asked for.
const LONGEST: usize = 100;

/// Why a server was not found.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Error {
    /// There is none, or not for the caller: the same words for both.
    #[error("there is no such server")]
    Missing,
    /// The plan has no room for it; said only to who may see it.
    #[error("the server is frozen: the plan has no room for it")]
    Frozen,
    /// Service tenant's answer cannot be read.
    #[error("service tenant's answer has a wrong {0}")]
    Answer(&'static str),
    /// Service tenant said no.
    #[error("service tenant: {0}")]
    Status(Status),
}

impl Fault for Error {
    fn code(&self) -> Code {
        match self {
            Self::Missing => Code::Missing,
            Self::Frozen => Code::Refused,
            Self::Answer(_) | Self::Status(_) => Code::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "SERVER_NOT_FOUND",
            Self::Frozen => "SERVER_FROZEN",
            Self::Answer(_) => "DIRECTORY_ANSWER_WRONG",
            Self::Status(_) => "DIRECTORY_FAILED",
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match error {
            // A peer's refusal was made for callers.
            Error::Status(status) => status,
            other => chassis::status(&other),
        }
    }
}

/// A registered server.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    /// Its id.
    pub(crate) id: ServerId,
    /// Its pool.
    pub(crate) pool: PoolId,
    /// The agents that may be asked.
    pub(crate) agents: Arc<[AgentId]>,
    /// Whether the plan has no room for it.
    frozen: bool,
    /// The access rules for it, of all roles.
    pub(crate) rules: Arc<[pb::AccessRule]>,
}

impl Resolved {
    /// As what somebody may ask about it, who needs at least this role.
    ///
    /// # Errors
    /// [`Error::Missing`] to who has not, and [`Error::Frozen`].
    pub(crate) fn permit(&self, seat: &Seat, needed: Role) -> Result<Role, Error> {
        let role = seat.role_in(self.pool).filter(|role| *role >= needed);
        match (role, self.frozen) {
            (None, _) => Err(Error::Missing),
            (Some(_), true) => Err(Error::Frozen),
            (Some(role), false) => Ok(role),
        }
    }

    fn read(answer: pb::ResolveServerResponse) -> Result<Self, Error> {
        let server = answer.server.ok_or(Error::Answer("server"))?;
        let agents = answer
            .agent_ids
            .iter()
            .map(|id| id.parse().map_err(|_| Error::Answer("agent_ids")))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            id: server.id.parse().map_err(|_| Error::Answer("server.id"))?,
            pool: server
                .pool_id
                .parse()
                .map_err(|_| Error::Answer("server.pool_id"))?,
            agents,
            frozen: server.frozen,
            rules: answer.rules.into(),
        })
    }
}

type Known<T> = Arc<OnceCell<T>>;

/// Answers by question, each asked for once.
struct Cache<K, T>(Mutex<HashMap<K, (Instant, Known<T>)>>);

impl<K: std::hash::Hash + Eq, T: Clone> Cache<K, T> {
    fn new() -> Self {
        Self(Mutex::new(HashMap::new()))
    }

    /// The place of an answer: a fresh one that may have been filled, or be filled at this moment.
    fn place(&self, key: K) -> Known<T> {
        let now = Instant::now();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((asked, known)) = kept.get(&key)
            && now.duration_since(*asked) < FRESH
        {
            return known.clone();
        }
        if kept.len() >= KEPT {
            kept.retain(|_, (asked, _)| now.duration_since(*asked) < FRESH);
        }
        if kept.len() >= KEPT {
            return Known::default();
        }
        let known = Known::default();
        kept.insert(key, (now, known.clone()));
        known
    }

    async fn get(&self, key: K, ask: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let place = self.place(key);
        // Whoever fills the place may be cancelled, or fail by a deadline of its own: then the next one that waits asks.
        place.get_or_try_init(|| ask).await.cloned()
    }
}

struct Inner {
    directory: DirectoryServiceClient<Peer>,
    servers: Cache<(TenantId, String), Arc<Resolved>>,
    access: Cache<(TenantId, Role), Arc<[pb::AccessRule]>>,
}

/// Asks service tenant, and remembers for a moment. Clones share what they remember.
#[derive(Clone)]
pub(crate) struct Resolver(Arc<Inner>);

impl Resolver {
    /// By the peer `tenant`.
    ///
    /// # Errors
    /// When it has no address.
    pub(crate) fn open(runtime: &Runtime) -> Result<Self, chassis::Error> {
        Ok(Self(Arc::new(Inner {
            directory: DirectoryServiceClient::new(runtime.peer("tenant")?),
            servers: Cache::new(),
            access: Cache::new(),
        })))
    }

    /// A server by id or name. Whether somebody may see it is for whoever asks.
    pub(crate) async fn server(
        &self,
        tenant: TenantId,
        text: &str,
        deadline: Instant,
    ) -> Result<Arc<Resolved>, Error> {
        if text.is_empty() || text.len() > LONGEST {
            return Err(Error::Missing);
        }
        let request = pb::ResolveServerRequest {
            tenant_id: tenant.to_string(),
            server: text.to_owned(),
        };
        let mut directory = self.0.directory.clone();
        let ask = Box::pin(async move {
            let call = chassis::deadline::within(deadline, directory.resolve_server(request));
            let answer = call.await.map_err(refusal)?.into_inner();
            Resolved::read(answer).map(Arc::new)
        });
        let key = (tenant, text.to_owned());
        within(deadline, self.0.servers.get(key, ask)).await
    }

    /// The access rules of a role for what is no registered server.
    pub(crate) async fn access(
        &self,
        tenant: TenantId,
        role: Role,
        deadline: Instant,
    ) -> Result<Arc<[pb::AccessRule]>, Error> {
        let request = pb::GetAccessRequest {
            tenant_id: tenant.to_string(),
            role: match role {
                Role::Viewer => common::Role::Viewer,
                Role::Analyst => common::Role::Analyst,
                Role::Operator => common::Role::Operator,
                Role::Admin => common::Role::Admin,
                Role::Owner => common::Role::Owner,
            }
            .into(),
        };
        let mut directory = self.0.directory.clone();
        let ask = Box::pin(async move {
            let call = chassis::deadline::within(deadline, directory.get_access(request));
            Ok(call.await.map_err(refusal)?.into_inner().rules.into())
        });
        within(deadline, self.0.access.get((tenant, role), ask)).await
    }
}

fn refusal(status: Status) -> Error {
    match status.code() {
        tonic::Code::NotFound | tonic::Code::InvalidArgument => Error::Missing,
        _ => Error::Status(status),
    }
}

/// What one call asks, another one waits for: each with its own deadline.
async fn within<T>(deadline: Instant, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match tokio::time::timeout_at(deadline.into(), work).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::Status(chassis::status(&Late))),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the deadline has passed")]
struct Late;

impl Fault for Late {
    fn code(&self) -> Code {
        Code::Timeout
    }

    fn reason(&self) -> &'static str {
        "DEADLINE_EXCEEDED"
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::time::Instant;

    use super::{Cache, Error, KEPT};

    #[tokio::test]
    async fn a_question_is_asked_once_at_a_time_and_for_eight_hundred_milliseconds() {
        let (cache, asked) = (Cache::<u8, u32>::new(), AtomicU32::new(0));
        let ask = async || Ok(asked.fetch_add(1, Ordering::Relaxed));
        let begun = Instant::now();
        let (one, two) = tokio::join!(cache.get(1, ask()), cache.get(1, ask()));
        assert_eq!((one.unwrap(), two.unwrap()), (0, 0));
        assert_eq!(cache.get(2, ask()).await.unwrap(), 1);
        while cache.get(1, ask()).await.unwrap() == 0 {
            assert!(begun.elapsed().as_millis() < 5_000);
            tokio::task::yield_now().await;
        }
        assert!(begun.elapsed().as_millis() >= 800);
    }

    #[tokio::test]
    async fn what_was_given_up_or_failed_is_asked_again() {
        let cache = Cache::<u8, u32>::new();
        drop(Box::pin(cache.get(1, std::future::pending())));
        let never = cache.get(1, std::future::pending());
        assert!(futures_util::FutureExt::now_or_never(never).is_none());
        assert_eq!(cache.get(1, async { Ok(7) }).await.unwrap(), 7);
        assert!(matches!(
            cache.get(2, async { Err(Error::Missing) }).await,
            Err(Error::Missing)
        ));
        assert_eq!(cache.get(2, async { Ok(1) }).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn it_is_bounded() {
        let cache = Cache::<usize, usize>::new();
        for number in 0..KEPT + 10 {
            assert_eq!(cache.get(number, async { Ok(number) }).await.unwrap(), number);
        }
        assert!(cache.0.lock().unwrap().len() <= KEPT);
    }
}
