//! Stand-ins for auth, tenant and vault. Auth signs delegations as it does, for whom the context token names; which servers and rules there
//! are is told from a table, and any agent that these tests made is trusted.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use chassis::token::{self, KeySet};
use proto::{
    auth::v1::{self as auth, guard_service_server::GuardService},
    common::v1::Role as PbRole,
    tenant::v1::{self as tenant, directory_service_server::DirectoryService},
    vault::v1::{self as vault, agent_identity_service_server::AgentIdentityService},
};
use tonic::{Request, Response, Status};
use types::{AgentId, PoolId, Region, RuleId, TenantId};

use crate::world::signer;

#[derive(Clone, Default)]
pub(crate) struct Neighbours(Arc<Known>);

#[derive(Default)]
struct Known {
    servers: Mutex<HashMap<(String, String), tenant::ResolveServerResponse>>,
    authorities: Mutex<Vec<Vec<u8>>>,
    resolved: Mutex<usize>,
    before: Mutex<Vec<(String, String, Happening)>>,
}

/// What happens once.
type Happening = Box<dyn FnOnce() + Send>;

/// A rule for this role: `schema.table`, columns.
pub(crate) fn rule(
    effect: tenant::Effect,
    role: PbRole,
    place: &str,
    columns: &[&str],
) -> tenant::AccessRule {
    let (schema, table) = place.split_once('.').unwrap();
    tenant::AccessRule {
        id: RuleId::fresh().to_string(),
        role: role.into(),
        schema_name: schema.to_owned(),
        table_name: table.to_owned(),
        columns: columns.iter().map(|column| (*column).to_owned()).collect(),
        effect: effect.into(),
        ..tenant::AccessRule::default()
    }
}

pub(crate) fn deny(place: &str, columns: &[&str]) -> tenant::AccessRule {
    rule(tenant::Effect::Deny, PbRole::Analyst, place, columns)
}

pub(crate) fn allow(place: &str, columns: &[&str]) -> tenant::AccessRule {
    rule(tenant::Effect::Allow, PbRole::Analyst, place, columns)
}

impl Neighbours {
    /// A server, known by its id and a name.
    pub(crate) fn server(
        &self,
        owner: TenantId,
        id: &str,
        name: &str,
        pool: PoolId,
        agent: AgentId,
        rules: &[tenant::AccessRule],
    ) {
        let answer = tenant::ResolveServerResponse {
            server: Some(tenant::Server {
                id: id.to_owned(),
                name: name.to_owned(),
                pool_id: pool.to_string(),
                ..tenant::Server::default()
            }),
            agent_ids: vec![agent.to_string()],
            rules: rules.to_vec(),
        };
        let mut servers = self.0.servers.lock().unwrap();
        for key in [id, name] {
            servers.insert((owner.to_string(), key.to_owned()), answer.clone());
        }
    }

    /// Changes what is told of a server.
    pub(crate) fn change(
        &self,
        owner: TenantId,
        key: &str,
        change: impl FnOnce(&mut tenant::ResolveServerResponse),
    ) {
        let key = (owner.to_string(), key.to_owned());
        change(self.0.servers.lock().unwrap().get_mut(&key).unwrap());
    }

    /// There is no such server any more.
    pub(crate) fn forget(&self, owner: TenantId, key: &str) {
        let key = (owner.to_string(), key.to_owned());
        self.0.servers.lock().unwrap().remove(&key);
    }

    /// How often a server was asked for.
    pub(crate) fn resolved(&self) -> usize {
        *self.0.resolved.lock().unwrap()
    }

    /// Something that happens when auth is asked to delegate this method of agents for this server, before it has: so after what was asked before.
    pub(crate) fn before(&self, server: &str, method: &str, happens: impl FnOnce() + Send + 'static) {
        let one = (
            server.to_owned(),
            method.to_owned(),
            Box::new(happens) as Happening,
        );
        self.0.before.lock().unwrap().push(one);
    }

    /// The authorities of agents, DER.
    pub(crate) fn trust(&self, authorities: Vec<Vec<u8>>) {
        *self.0.authorities.lock().unwrap() = authorities;
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a stand-in refuses without the chassis knowing why"
)]
fn no(words: &str) -> Status {
    Status::unavailable(words)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a stand-in refuses without the chassis knowing why"
)]
fn not_found() -> Status {
    Status::not_found("there is no such server")
}

#[tonic::async_trait]
impl GuardService for Neighbours {
    async fn authenticate(
        &self,
        _: Request<auth::AuthenticateRequest>,
    ) -> Result<Response<auth::AuthenticateResponse>, Status> {
        Err(no("not in this test"))
    }

    async fn consume_step_up(
        &self,
        _: Request<auth::ConsumeStepUpRequest>,
    ) -> Result<Response<auth::ConsumeStepUpResponse>, Status> {
        Err(no("not in this test"))
    }

    async fn delegate(
        &self,
        request: Request<auth::DelegateRequest>,
    ) -> Result<Response<auth::DelegateResponse>, Status> {
        let request = request.into_inner();
        let is = |(server, method, _): &mut (String, String, Happening)| {
            *server == request.server_id && request.method.rsplit('/').next() == Some(method)
        };
        let happening: Vec<_> = self.0.before.lock().unwrap().extract_if(.., is).collect();
        happening.into_iter().for_each(|(_, _, happens)| happens());
        let keys = KeySet::new(Region::Eu);
        keys.replace(vec![signer().verifying_key()]);
        let (context, ends) = keys.context(&request.context_token).unwrap();
        let about = (
            request.agent_id.parse().unwrap(),
            request.server_id.parse().unwrap(),
        );
        let now = token::now();
        let token = signer().delegation(&context, ends, about, &request.method, Region::Eu, now);
        let ends = SystemTime::now() + Duration::from_secs(30);
        Ok(Response::new(auth::DelegateResponse {
            delegation_token: token.unwrap(),
            expire_time: Some(ends.into()),
        }))
    }

    async fn get_key_set(
        &self,
        _: Request<auth::GetKeySetRequest>,
    ) -> Result<Response<auth::GetKeySetResponse>, Status> {
        let key = signer().verifying_key();
        Ok(Response::new(auth::GetKeySetResponse {
            keys: vec![auth::VerifyingKey {
                kid: key.kid,
                ed25519: key.ed25519.to_vec().into(),
            }],
        }))
    }
}

#[tonic::async_trait]
impl DirectoryService for Neighbours {
    async fn resolve_server(
        &self,
        request: Request<tenant::ResolveServerRequest>,
    ) -> Result<Response<tenant::ResolveServerResponse>, Status> {
        *self.0.resolved.lock().unwrap() += 1;
        let request = request.into_inner();
        let servers = self.0.servers.lock().unwrap();
        let found = servers.get(&(request.tenant_id, request.server));
        Ok(Response::new(found.ok_or_else(not_found)?.clone()))
    }

    async fn get_access(
        &self,
        request: Request<tenant::GetAccessRequest>,
    ) -> Result<Response<tenant::GetAccessResponse>, Status> {
        let tenant = request.into_inner().tenant_id;
        let known = self.0.servers.lock().unwrap();
        let own = known.iter().filter(|((owner, _), _)| *owner == tenant);
        let rules = own.flat_map(|(_, server)| server.rules.clone()).collect();
        Ok(Response::new(tenant::GetAccessResponse { rules }))
    }
}

#[tonic::async_trait]
impl AgentIdentityService for Neighbours {
    async fn enrol_agent(
        &self,
        _: Request<vault::EnrolAgentRequest>,
    ) -> Result<Response<vault::EnrolAgentResponse>, Status> {
        Err(no("not in this test"))
    }

    async fn renew_certificate(
        &self,
        _: Request<vault::RenewCertificateRequest>,
    ) -> Result<Response<vault::RenewCertificateResponse>, Status> {
        Err(no("not in this test"))
    }

    async fn open_credentials(
        &self,
        _: Request<vault::OpenCredentialsRequest>,
    ) -> Result<Response<vault::OpenCredentialsResponse>, Status> {
        Err(no("not in this test"))
    }

    async fn get_assignment(
        &self,
        _: Request<vault::GetAssignmentRequest>,
    ) -> Result<Response<vault::GetAssignmentResponse>, Status> {
        Err(no("not in this test"))
    }

    async fn get_agent_authorities(
        &self,
        _: Request<vault::GetAgentAuthoritiesRequest>,
    ) -> Result<Response<vault::GetAgentAuthoritiesResponse>, Status> {
        let authorities = self.0.authorities.lock().unwrap().clone();
        Ok(Response::new(vault::GetAgentAuthoritiesResponse {
            authorities: authorities.into_iter().map(Into::into).collect(),
        }))
    }

    async fn check_agents(
        &self,
        _: Request<vault::CheckAgentsRequest>,
    ) -> Result<Response<vault::CheckAgentsResponse>, Status> {
        Ok(Response::new(vault::CheckAgentsResponse::default()))
    }
}
