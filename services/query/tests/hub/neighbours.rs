//! Stand-ins for auth, tenant and vault: what the hub asks them, answered from a table.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use proto::{
    auth::v1::{self as auth, guard_service_server::GuardService},
    tenant::v1::{self as tenant, directory_service_server::DirectoryService},
    vault::v1::{self as vault, agent_identity_service_server::AgentIdentityService},
};
use tonic::{Request, Response, Status};
use types::{AgentId, PoolId, TenantId};

use crate::world::signer;

/// What the stand-ins know.
#[derive(Clone, Default)]
pub(crate) struct Neighbours(Arc<Known>);

#[derive(Default)]
struct Known {
    /// Agents by tenant and server.
    servers: Mutex<HashMap<(String, String), Vec<AgentId>>>,
    revoked: Mutex<BTreeSet<String>>,
    sealed: Mutex<bool>,
    authorities: Mutex<Vec<Vec<u8>>>,
    delegated: Mutex<usize>,
}

impl Neighbours {
    /// A server of a tenant has these agents.
    pub(crate) fn server(&self, tenant: TenantId, server: &str, agents: &[AgentId]) {
        let key = (tenant.to_string(), server.to_owned());
        self.0.servers.lock().unwrap().insert(key, agents.to_vec());
    }

    /// The authorities of agents, DER.
    pub(crate) fn trust(&self, authorities: Vec<Vec<u8>>) {
        *self.0.authorities.lock().unwrap() = authorities;
    }

    /// The agent's certificates count no more.
    pub(crate) fn revoke(&self, agent: AgentId) {
        self.0.revoked.lock().unwrap().insert(agent.to_string());
    }

    /// The vault answers nothing about agents, or does again.
    pub(crate) fn seal(&self, sealed: bool) {
        *self.0.sealed.lock().unwrap() = sealed;
    }

    /// How many delegations were signed.
    pub(crate) fn delegated(&self) -> usize {
        *self.0.delegated.lock().unwrap()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a stand-in refuses without the chassis knowing why"
)]
fn no(words: &str) -> Status {
    Status::unavailable(words)
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

    /// Says in plain words for whom it is: agents of these tests look.
    async fn delegate(
        &self,
        request: Request<auth::DelegateRequest>,
    ) -> Result<Response<auth::DelegateResponse>, Status> {
        *self.0.delegated.lock().unwrap() += 1;
        let request = request.into_inner();
        let ends = SystemTime::now() + Duration::from_secs(60);
        Ok(Response::new(auth::DelegateResponse {
            delegation_token: format!("{} {}", request.agent_id, request.method),
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

#[expect(
    clippy::disallowed_methods,
    reason = "a stand-in refuses without the chassis knowing why"
)]
fn not_found() -> Status {
    Status::not_found("there is no such server")
}

#[tonic::async_trait]
impl DirectoryService for Neighbours {
    async fn resolve_server(
        &self,
        request: Request<tenant::ResolveServerRequest>,
    ) -> Result<Response<tenant::ResolveServerResponse>, Status> {
        let request = request.into_inner();
        let servers = self.0.servers.lock().unwrap();
        let agents = servers.get(&(request.tenant_id, request.server.clone()));
        let agents = agents.ok_or_else(not_found)?;
        Ok(Response::new(tenant::ResolveServerResponse {
            server: Some(tenant::Server {
                id: request.server,
                pool_id: PoolId::fresh().to_string(),
                ..tenant::Server::default()
            }),
            agent_ids: agents.iter().map(ToString::to_string).collect(),
            rules: Vec::new(),
        }))
    }

    async fn get_access(
        &self,
        _: Request<tenant::GetAccessRequest>,
    ) -> Result<Response<tenant::GetAccessResponse>, Status> {
        Ok(Response::new(tenant::GetAccessResponse::default()))
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
        request: Request<vault::CheckAgentsRequest>,
    ) -> Result<Response<vault::CheckAgentsResponse>, Status> {
        if *self.0.sealed.lock().unwrap() {
            return Err(no("sealed"));
        }
        let revoked = self.0.revoked.lock().unwrap();
        let agents = request.into_inner().agents;
        let void = (0u32..).zip(&agents);
        let void = void.filter(|(_, agent)| revoked.contains(&agent.agent_id));
        Ok(Response::new(vault::CheckAgentsResponse {
            void: void.map(|(place, _)| place).collect(),
            unknown: Vec::new(),
        }))
    }
}
