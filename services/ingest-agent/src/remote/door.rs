//! Asking the mesh: whose word it is, on which tenant's behalf, and once more where that is likely to help.

use std::{
    env, fmt,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use proto::tenant::v1::{ListTenantsRequest, Membership, tenant_service_client::TenantServiceClient};
use tokio::{sync::Mutex, time::timeout};
use tonic::{
    Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};
use types::{Code, Micros};

use super::{
    dial::{self, Place, Trouble},
    fault::{Said, failure},
    profile::{self, Profile},
    session,
};
use crate::error::Error;

/// The API key that is used instead of a session.
const KEY: &str = "TRAIL_API_KEY";
const KEY_BYTES_MAX: usize = 512;
/// An access token with less left than this is renewed first.
const MARGIN: Duration = Duration::from_secs(30);
/// How often a question is asked at most.
const TRIES: u32 = 4;
/// The first wait between them; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// What the way takes beyond the time that the mesh has for an answer.
const WAY: Duration = Duration::from_secs(5);
/// The longest wait for the beginning of an answer.
const HEAD_MAX: Duration = Duration::from_secs(60);
/// For answers that come in pieces; they are asked for again where they end.
pub(crate) const LONG: Duration = Duration::from_secs(600);
/// For small questions.
pub(crate) const SHORT: Duration = Duration::from_secs(20);
/// The largest message we take: a change with two images of the largest row there is.
pub(crate) const MESSAGE_BYTES_MAX: usize = 256 << 20;
/// What a page of a list is asked to have: as many as any list gives.
pub(crate) const PAGE: i32 = 200;

/// All of a list: `page` answers for a `page_token` what stands there, and the `next_page_token`.
pub(crate) async fn every_page<T>(
    page: impl AsyncFn(String) -> Result<(Vec<T>, String), Error>,
) -> Result<Vec<T>, Error> {
    let (mut all, mut token) = (Vec::new(), String::new());
    loop {
        let (some, next) = page(token.clone()).await?;
        all.extend(some);
        if next.is_empty() || next == token {
            return Ok(all);
        }
        token = next;
    }
}

/// Where to ask and as whom, in the words of the command line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Door {
    /// The profile's name.
    pub(crate) profile: String,
    /// The gateway's URL, if not the profile's.
    pub(crate) mesh: Option<String>,
    /// Whom to trust, if not as the profile says.
    pub(crate) ca: Option<PathBuf>,
    /// The tenant, by id or name, if not the profile's.
    pub(crate) tenant: Option<String>,
}

/// An open way to the mesh.
pub(crate) struct Mesh {
    /// Where it is.
    pub(crate) place: Place,
    channel: Channel,
    trouble: Trouble,
    who: Who,
    tenant: Option<MetadataValue<Ascii>>,
}

/// On whose word.
enum Who {
    Key(MetadataValue<Ascii>),
    Session(Box<Session>),
}

struct Session {
    file: profile::Place,
    profile: Mutex<Profile>,
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

/// The key of the environment.
fn key() -> Result<Option<MetadataValue<Ascii>>, Error> {
    let Some(text) = env::var_os(KEY).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let wrong = || Error::new(Code::Invalid, KEY, "it is not an API key");
    let text = text.into_string().map_err(|_| wrong())?;
    let text = text.trim();
    if text.len() > KEY_BYTES_MAX {
        return Err(wrong());
    }
    bearer(text).map(Some).map_err(|_| wrong())
}

fn bearer(token: &str) -> Result<MetadataValue<Ascii>, Error> {
    let mut value: MetadataValue<Ascii> = format!("Bearer {token}")
        .parse()
        .map_err(|_| Error::new(Code::Refused, "the session", "its token cannot be sent"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn now() -> Micros {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Micros(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
}

impl Door {
    /// Opens it: by the key of the environment, else by the profile's session.
    pub(crate) async fn open(&self) -> Result<Mesh, Error> {
        let file = profile::Place::of(&self.profile)?;
        let (key, profile) = (key()?, file.load()?);
        let known = profile.as_ref().map(|profile| profile.mesh.clone());
        let place = match (&self.mesh, known, &key) {
            (Some(mesh), Some(known), None) if Place::parse(mesh)?.url != known => {
                return Err(Error::new(
                    Code::Invalid,
                    "--mesh",
                    format!("the profile {} is for {known}", self.profile),
                )
                .hint("name another profile with --profile"));
            }
            (Some(mesh), ..) => Place::parse(mesh)?,
            (None, Some(known), None) => Place::parse(&known)?,
            // A key goes where it was told to go, and not to whatever mesh a profile is for.
            (None, None, _) | (None, _, Some(_)) => return Err(self.nobody(key.is_some())),
        };
        let ca = self
            .ca
            .clone()
            .or_else(|| profile.as_ref().and_then(|profile| profile.ca.clone()));
        let remembered = profile.as_ref().and_then(|profile| profile.tenant.clone());
        let (who, remembered) = match (key, profile) {
            (Some(key), _) => (Who::Key(key), None),
            (None, Some(profile)) => {
                let profile = Mutex::new(profile);
                (Who::Session(Box::new(Session { file, profile })), remembered)
            }
            (None, None) => return Err(self.nobody(false)),
        };
        let (channel, trouble) = dial::channel(&place, dial::tls(ca.as_deref())?).await?;
        let mut mesh = Mesh {
            place,
            channel,
            trouble,
            who,
            tenant: None,
        };
        let tenant = match &self.tenant {
            Some(given) => Some(mesh.tenant_of(given).await?),
            None => remembered.map(|tenant| tenant.id),
        };
        mesh.tenant = tenant.map(|id| tenant_value(&id)).transpose()?;
        Ok(mesh)
    }

    fn nobody(&self, has_key: bool) -> Error {
        if has_key {
            return Error::new(Code::Invalid, "--mesh", "nothing says where the mesh is")
                .hint("give --mesh https://…, or set TRAIL_MESH");
        }
        Error::new(
            Code::Unauthenticated,
            "the mesh",
            format!("nobody is logged in under the profile {}", self.profile),
        )
        .hint("trail login --mesh https://…, or set TRAIL_API_KEY and TRAIL_MESH")
    }
}

fn tenant_value(id: &str) -> Result<MetadataValue<Ascii>, Error> {
    id.parse().map_err(|_| {
        Error::new(
            Code::Invalid,
            "--tenant",
            "it is neither the id nor the name of a tenant",
        )
    })
}

impl Mesh {
    /// The mesh with a session that has just begun.
    pub(crate) fn new(
        place: Place,
        line: (Channel, Trouble),
        file: profile::Place,
        profile: Profile,
    ) -> Self {
        let (channel, trouble) = line;
        Self {
            place,
            channel,
            trouble,
            who: Who::Session(Box::new(Session {
                file,
                profile: Mutex::new(profile),
            })),
            tenant: None,
        }
    }

    /// Asks a question that may be asked twice. `what` is what it is about, for errors.
    pub(crate) async fn ask<M, A, F>(
        &self,
        what: &str,
        message: M,
        limit: Duration,
        call: impl Fn(Channel, Request<M>) -> F,
    ) -> Result<Response<A>, Error>
    where
        M: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        self.tried(message, limit, call, TRIES)
            .await?
            .map_err(|said| self.failure(what, &said))
    }

    /// As [`Mesh::ask`], and gives the mesh's own words where it does not answer.
    pub(crate) async fn try_ask<M, A, F>(
        &self,
        message: M,
        limit: Duration,
        call: impl Fn(Channel, Request<M>) -> F,
    ) -> Result<Result<Response<A>, Said>, Error>
    where
        M: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        self.tried(message, limit, call, TRIES).await
    }

    /// The same for what must not be done twice.
    pub(crate) async fn ask_once<M, A, F>(
        &self,
        message: M,
        limit: Duration,
        call: impl Fn(Channel, Request<M>) -> F,
    ) -> Result<Result<Response<A>, Said>, Error>
    where
        M: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        self.tried(message, limit, call, 1).await
    }

    /// Sends what comes in pieces, for as long as a stream may last, and once. It answers at its end, so there is no earlier word of it.
    pub(crate) async fn send<M, A, F>(
        &self,
        message: M,
        call: impl FnOnce(Channel, Request<M>) -> F,
    ) -> Result<Result<Response<A>, Said>, Error>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let mut request = Request::new(message);
        request.set_timeout(LONG);
        self.sign(&mut request).await?;
        let said = match timeout(LONG + WAY, call(self.channel.clone(), request)).await {
            Ok(Ok(answer)) => return Ok(Ok(answer)),
            Ok(Err(status)) => Said::from(&status),
            Err(_) => return Ok(Err(Said::late(LONG))),
        };
        if said.code == Code::Unauthenticated {
            // The next stream begins with a token that counts.
            self.renew(true).await?;
        }
        Ok(Err(said))
    }

    async fn tried<M, A, F>(
        &self,
        message: M,
        limit: Duration,
        call: impl Fn(Channel, Request<M>) -> F,
        tries: u32,
    ) -> Result<Result<Response<A>, Said>, Error>
    where
        M: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let (mut pause, mut tried, mut renewed) = (PAUSE, 0, false);
        loop {
            let mut request = Request::new(message.clone());
            request.set_timeout(limit);
            self.sign(&mut request).await?;
            let status = match timeout(limit.min(HEAD_MAX) + WAY, call(self.channel.clone(), request)).await {
                Ok(Ok(answer)) => return Ok(Ok(answer)),
                Ok(Err(status)) => status,
                Err(_) => return Ok(Err(Said::late(limit))),
            };
            let said = Said::from(&status);
            tried += 1;
            if said.code == Code::Unauthenticated && !renewed && self.renew(true).await? {
                renewed = true;
                continue;
            }
            if tried >= tries || !said.passes() {
                return Ok(Err(said));
            }
            let wait = said.retry_after.unwrap_or(pause).min(PAUSE_MAX);
            tokio::time::sleep(wait).await;
            pause *= 2;
        }
    }

    /// The error of an answer that broke off.
    pub(crate) fn failure(&self, what: &str, said: &Said) -> Error {
        failure(what, said, &self.place, &self.trouble)
    }

    /// Says who asks.
    async fn sign<M>(&self, request: &mut Request<M>) -> Result<(), Error> {
        self.renew(false).await?;
        let bearer = match &self.who {
            Who::Key(key) => key.clone(),
            Who::Session(session) => bearer(&session.profile.lock().await.access_token)?,
        };
        request.metadata_mut().insert("authorization", bearer);
        if let Some(tenant) = &self.tenant {
            request
                .metadata_mut()
                .insert("x-trailmesh-tenant", tenant.clone());
        }
        Ok(())
    }

    /// Renews the session if it is about to end, or must be. Only one `trail` does it at a time: a refresh token works once.
    async fn renew(&self, must: bool) -> Result<bool, Error> {
        let Who::Session(session) = &self.who else {
            return Ok(false);
        };
        let mut profile = session.profile.lock().await;
        if !must && profile.is_fresh(now(), MARGIN) {
            return Ok(true);
        }
        let _alone = session.file.lock()?;
        let there = session.file.load()?.unwrap_or_else(|| profile.clone());
        if there.mesh != profile.mesh || there.email != profile.email {
            // Its tokens are for another mesh, or another person: they never go to this one.
            return Err(Error::new(
                Code::Invalid,
                format!("the profile {}", session.file.name),
                "it is another one now: somebody has logged in anew under its name",
            )
            .hint(
                "begin anew, or log in under a name of its own: trail login --profile NAME --mesh https://…",
            ));
        }
        if there.access_token != profile.access_token && there.is_fresh(now(), MARGIN) {
            // Another one was faster.
            *profile = there;
            return Ok(true);
        }
        let tokens = session::refresh(self.channel.clone(), &there.refresh_token)
            .await
            .map_err(|mut said| {
                if said.code == Code::Invalid {
                    // A refresh token that does not count is a credential that does not, whatever OAuth calls it.
                    said.code = Code::Unauthenticated;
                }
                self.failure("the session", &said)
            })?;
        *profile = session::with_tokens(there, tokens);
        session.file.save(&profile)?;
        Ok(true)
    }

    /// Whether a key speaks rather than a person's session.
    pub(crate) fn is_key(&self) -> bool {
        matches!(self.who, Who::Key(_))
    }

    /// The profile as it is now; none for a key.
    pub(crate) async fn profile(&self) -> Option<Profile> {
        match &self.who {
            Who::Key(_) => None,
            Who::Session(session) => Some(session.profile.lock().await.clone()),
        }
    }

    /// The tenant that requests name.
    pub(crate) fn tenant(&self) -> Option<String> {
        let value = self.tenant.as_ref()?;
        value.to_str().ok().map(ToOwned::to_owned)
    }

    /// The tenants that the person is a member of.
    pub(crate) async fn memberships(&self) -> Result<Vec<Membership>, Error> {
        every_page(async |page_token| {
            let request = ListTenantsRequest {
                page_size: PAGE,
                page_token,
            };
            let asked = self.ask("your tenants", request, SHORT, |channel, request| async move {
                TenantServiceClient::new(channel).list_tenants(request).await
            });
            let page = asked.await?.into_inner();
            Ok((page.memberships, page.next_page_token))
        })
        .await
    }

    /// The id of the tenant that a person names.
    pub(crate) async fn tenant_of(&self, given: &str) -> Result<String, Error> {
        if given.starts_with("tnt_") || self.is_key() {
            return Ok(given.to_owned());
        }
        let memberships = self.memberships().await?;
        let mut named = memberships
            .iter()
            .filter_map(|membership| membership.tenant.as_ref())
            .filter(|tenant| tenant.name == given);
        match (named.next(), named.next()) {
            (Some(tenant), None) => Ok(tenant.id.clone()),
            (Some(_), Some(_)) => Err(Error::new(
                Code::Invalid,
                "--tenant",
                format!("several tenants are called {given}"),
            )
            .hint("give its id; trail whoami lists them")),
            (None, _) => Err(Error::new(
                Code::Missing,
                format!("tenant {given}"),
                "you are a member of no such tenant",
            )
            .hint("trail whoami lists yours")),
        }
    }
}
