//! `ApiKeyService`: keys of a tenant. Only a person's session gets here, never a key.

use std::{collections::BTreeMap, sync::Arc};

use chassis::policy;
use prost_types::Timestamp;
use proto::{auth::v1 as pb, common::v1 as common};
use tonic::{Request, Response, Status};
use types::{KeyId, Micros, PoolId, Role, Scope};

use crate::{
    Auth, Error,
    domain::api_key::{ApiKey, LIMITS_MOST, Limits, ScopeFault, Scopes, network},
    mail::Notice,
    service::timestamp,
    store::{self, api_key::Described},
};

const NAME_MOST: usize = 100;
/// Seconds.
const DAY: i64 = 86_400;
/// Days that a key lives when its maker says nothing.
const LIFE: i64 = 90;
/// Days that a key lives at most.
const LIFE_MOST: i64 = 365;
const PAGE: i32 = 50;
const PAGE_MOST: i32 = 200;

/// The service.
pub(crate) struct ApiKeys {
    auth: Arc<Auth>,
    scopes: Scopes,
}

impl ApiKeys {
    /// With the scopes that the rules of `runtime` know.
    pub(crate) fn new(auth: Arc<Auth>, runtime: &chassis::Runtime) -> Self {
        let scopes = known_scopes(&runtime.policy());
        Self { auth, scopes }
    }

    async fn create(
        &self,
        scope: &Scope,
        request: pb::CreateApiKeyRequest,
    ) -> Result<pb::CreateApiKeyResponse, Error> {
        let wanted = Wanted::new(request, &self.scopes)?;
        let grant = scope
            .grant
            .as_ref()
            .ok_or_else(|| Error::Internal("a call without its grant came through".into()))?;
        let owner = scope.subject.user();
        let mut tx = self.auth.pool.shared(scope.deadline).await?;
        let room = store::api_key::room(&mut tx, scope.tenant(), owner, &wanted.limits.pools).await?;
        if room.role < Some(wanted.limits.role) {
            return Err(Error::RoleTooHigh);
        }
        if room.pools != wanted.limits.pools.len() {
            return Err(Error::PoolNotFound);
        }
        room.plan.room("API keys", room.keys, |limits| limits.api_keys)?;
        let created = store::now(&mut tx).await?;
        let key = ApiKey::fresh(self.auth.region)
            .ok_or_else(|| Error::Internal("the system has no randomness".into()))?;
        let described = Described {
            id: KeyId::fresh(),
            prefix: key.prefix().to_owned(),
            owner,
            created,
            expires: wanted.expires(created)?,
            name: wanted.name,
            limits: wanted.limits,
            last_use: None,
            revoked: None,
            frozen: false,
        };
        store::grant::spend(&mut tx, grant).await?;
        store::api_key::create(&mut tx, scope.tenant(), &key, &described).await?;
        let notice = Notice::ApiKeyCreated {
            name: described.name.clone(),
        };
        self.auth.outbox.notice(&mut tx, owner, notice).await?;
        tx.commit().await?;
        self.auth.outbox.wake();
        Ok(pb::CreateApiKeyResponse {
            api_key: Some(shown(described)),
            secret: key.expose().to_owned(),
        })
    }

    async fn list(
        &self,
        scope: &Scope,
        request: &pb::ListApiKeysRequest,
    ) -> Result<pb::ListApiKeysResponse, Error> {
        let size = match request.page_size {
            0 => PAGE,
            size @ 1..=PAGE_MOST => size,
            _ => return Err(Error::PageSizeInvalid),
        };
        let before = match request.page_token.as_str() {
            "" => None,
            token => Some(token.parse().map_err(|_| Error::PageTokenInvalid)?),
        };
        let mut tx = self.auth.pool.shared(scope.deadline).await?;
        let mut keys = store::api_key::list(
            &mut tx,
            scope.tenant(),
            scope.subject.user(),
            before,
            i64::from(size) + 1,
        )
        .await?;
        tx.commit().await?;
        let size = usize::try_from(size).unwrap_or(0);
        let more = keys.len() > size;
        keys.truncate(size);
        let next = keys.last().filter(|_| more).map(|key| key.id.to_string());
        Ok(pb::ListApiKeysResponse {
            api_keys: keys.into_iter().map(shown).collect(),
            next_page_token: next.unwrap_or_default(),
        })
    }

    async fn revoke(&self, scope: &Scope, key: &str) -> Result<pb::RevokeApiKeyResponse, Error> {
        let key = key.parse().map_err(|_| Error::ApiKeyNotFound)?;
        let mut tx = self.auth.pool.shared(scope.deadline).await?;
        if !store::api_key::revoke(&mut tx, scope.tenant(), key).await? {
            return Err(Error::ApiKeyNotFound);
        }
        tx.commit().await?;
        Ok(pb::RevokeApiKeyResponse {})
    }
}

/// A request to make a key, with everything right about it that needs no database.
struct Wanted {
    name: String,
    limits: Limits,
    expire_time: Option<Timestamp>,
}

impl Wanted {
    fn new(request: pb::CreateApiKeyRequest, known: &Scopes) -> Result<Self, Error> {
        let name = request.name.trim().to_owned();
        if name.is_empty() || name.chars().count() > NAME_MOST || name.chars().any(char::is_control) {
            return Err(invalid(
                "name",
                "NAME_INVALID",
                "a name has 1 to 100 characters and no control characters",
            ));
        }
        let role = role(request.role)
            .ok_or_else(|| invalid("role", "ROLE_INVALID", "a key has one of the five roles"))?;
        for (field, count) in [
            ("scopes", request.scopes.len()),
            ("pool_ids", request.pool_ids.len()),
            ("allowed_cidrs", request.allowed_cidrs.len()),
        ] {
            if count > LIMITS_MOST {
                return Err(invalid(field, "TOO_MANY", "at most 64 are possible"));
            }
        }
        let scopes = known
            .check(&request.scopes, role)
            .map_err(|(fault, place)| scope_fault(fault, place))?;
        // What is no id is answered as an id that nobody has.
        let pools: Result<Vec<PoolId>, _> = request.pool_ids.iter().map(|pool| pool.parse()).collect();
        let mut pools = pools.map_err(|_| Error::PoolNotFound)?;
        pools.sort_unstable();
        pools.dedup();
        let mut networks = Vec::with_capacity(request.allowed_cidrs.len());
        for (place, text) in request.allowed_cidrs.iter().enumerate() {
            let field = format!("allowed_cidrs[{place}]");
            networks.push(
                network(text)
                    .ok_or_else(|| invalid(field, "CIDR_INVALID", "write a network, such as 10.0.0.0/8"))?,
            );
        }
        let limits = Limits {
            role,
            scopes,
            pools,
            networks,
        };
        Ok(Self {
            name,
            limits,
            expire_time: request.expire_time,
        })
    }

    fn expires(&self, now: Micros) -> Result<Micros, Error> {
        let day = Micros::from_secs(DAY).0;
        let Some(wanted) = &self.expire_time else {
            return Ok(Micros(now.0 + LIFE * day));
        };
        let micros = wanted
            .seconds
            .checked_mul(1_000_000)
            .and_then(|micros| micros.checked_add(i64::from(wanted.nanos) / 1_000));
        let possible = now.0 + 1..=now.0 + LIFE_MOST * day;
        let ends = micros.filter(|micros| possible.contains(micros));
        ends.map(Micros).ok_or_else(|| {
            invalid(
                "expire_time",
                "EXPIRE_TIME_INVALID",
                "a key ends within a year from now",
            )
        })
    }
}

fn scope_fault(fault: ScopeFault, place: usize) -> Error {
    let (reason, problem) = match fault {
        ScopeFault::Unknown => (
            "SCOPE_UNKNOWN",
            "there is no such permission, or no key can have it",
        ),
        ScopeFault::AboveRole => ("SCOPE_ABOVE_ROLE", "the key's role does not have this permission"),
    };
    invalid(format!("scopes[{place}]"), reason, problem)
}

fn invalid(field: impl Into<String>, reason: &'static str, problem: &'static str) -> Error {
    Error::FieldInvalid {
        field: field.into(),
        reason,
        problem,
    }
}

fn role(role: i32) -> Option<Role> {
    match common::Role::try_from(role) {
        Ok(common::Role::Viewer) => Some(Role::Viewer),
        Ok(common::Role::Analyst) => Some(Role::Analyst),
        Ok(common::Role::Operator) => Some(Role::Operator),
        Ok(common::Role::Admin) => Some(Role::Admin),
        Ok(common::Role::Owner) => Some(Role::Owner),
        Ok(common::Role::Unspecified) | Err(_) => None,
    }
}

fn shown_role(role: Role) -> common::Role {
    match role {
        Role::Viewer => common::Role::Viewer,
        Role::Analyst => common::Role::Analyst,
        Role::Operator => common::Role::Operator,
        Role::Admin => common::Role::Admin,
        Role::Owner => common::Role::Owner,
    }
}

fn shown(key: Described) -> pb::ApiKey {
    let (last_use_time, last_use_network) = key
        .last_use
        .map_or((None, String::new()), |(time, network)| (Some(time), network));
    pb::ApiKey {
        frozen: key.frozen,
        id: key.id.to_string(),
        name: key.name,
        prefix: key.prefix,
        owner_id: key.owner.to_string(),
        role: shown_role(key.limits.role).into(),
        scopes: key.limits.scopes,
        pool_ids: key.limits.pools.iter().map(PoolId::to_string).collect(),
        allowed_cidrs: key.limits.networks.iter().map(ToString::to_string).collect(),
        create_time: Some(timestamp(key.created)),
        expire_time: Some(timestamp(key.expires)),
        last_use_time: last_use_time.map(timestamp),
        last_use_network,
        revoke_time: key.revoked.map(timestamp),
    }
}

/// The permissions of the protos that a key can be limited to: all but those whose every method is closed to keys.
fn known_scopes(table: &policy::Table) -> Scopes {
    let mut known = BTreeMap::new();
    for rule in table
        .rules()
        .filter(|rule| !rule.permission.is_empty() && !rule.session_only)
    {
        known.insert(rule.permission.clone(), rule.lowest_role);
    }
    Scopes::new(known)
}

#[tonic::async_trait]
impl pb::api_key_service_server::ApiKeyService for ApiKeys {
    async fn create_api_key(
        &self,
        request: Request<pb::CreateApiKeyRequest>,
    ) -> Result<Response<pb::CreateApiKeyResponse>, Status> {
        let scope = chassis::scope(&request)?;
        Ok(Response::new(self.create(&scope, request.into_inner()).await?))
    }

    async fn list_api_keys(
        &self,
        request: Request<pb::ListApiKeysRequest>,
    ) -> Result<Response<pb::ListApiKeysResponse>, Status> {
        let scope = chassis::scope(&request)?;
        Ok(Response::new(self.list(&scope, request.get_ref()).await?))
    }

    async fn revoke_api_key(
        &self,
        request: Request<pb::RevokeApiKeyRequest>,
    ) -> Result<Response<pb::RevokeApiKeyResponse>, Status> {
        let scope = chassis::scope(&request)?;
        Ok(Response::new(
            self.revoke(&scope, &request.get_ref().key_id).await?,
        ))
    }
}
