//! AgentIdentityService.

use prost_types::Timestamp;
use proto::vault::v1 as pb;
use tonic::{Request, Response, Status};

use super::tenant;
use crate::{
    agents::{
        Agents, Arrival,
        authority::Issued,
        follow::{Checked, Followed, Shown},
        mesh::MeshTrust,
    },
    domain::Invalid,
    error::Error,
};

/// How many certificates are asked about at once.
const CHECKED_AT_MOST: usize = 1_000;

/// AgentIdentityService.
#[derive(Clone)]
pub(crate) struct AgentIdentities(pub(crate) Agents);

fn certificate(issued: Issued) -> pb::AgentCertificate {
    pb::AgentCertificate {
        chain: issued.chain,
        serial: issued.serial,
        expire_time: Some(Timestamp {
            seconds: issued.ends.unix_timestamp(),
            nanos: 0,
        }),
    }
}

fn trust(trust: MeshTrust) -> pb::MeshTrust {
    let keys = trust.delegation_keys.into_iter().map(|key| pb::DelegationKey {
        kid: key.kid,
        ed25519: key.ed25519.to_vec().into(),
    });
    pb::MeshTrust {
        bundle: trust.bundle,
        trust_domain: trust.trust_domain,
        region: trust.region.word().to_owned(),
        pins: trust.pins.iter().map(ToString::to_string).collect(),
        delegation_keys: keys.collect(),
    }
}

fn assigned(server: Followed) -> pb::AssignedServer {
    pb::AssignedServer {
        id: server.id.to_string(),
        name: server.name,
        host: server.host,
        port: server.port.into(),
        username: server.username,
        tls_mode: server.tls_mode,
        version: server.version,
    }
}

fn shown(agent: pb::AgentRef) -> Result<Shown, Error> {
    Ok(Shown {
        tenant: tenant(&agent.tenant_id)?,
        agent: agent
            .agent_id
            .parse()
            .map_err(|_| Invalid::new("agents.agent_id", "is not an agent's id"))?,
        serial: agent.serial,
    })
}

#[tonic::async_trait]
impl pb::agent_identity_service_server::AgentIdentityService for AgentIdentities {
    async fn enrol_agent(
        &self,
        request: Request<pb::EnrolAgentRequest>,
    ) -> Result<Response<pb::EnrolAgentResponse>, Status> {
        let origin = chassis::origin(&request);
        let from = Arrival {
            client_address: origin.client_address,
            user_agent: origin.user_agent,
            request: origin.request,
            deadline: origin.deadline,
        };
        let wanted = request.into_inner();
        let token = types::Secret::new(wanted.enrolment_token);
        let enrolled = self.0.enrol(token.expose(), &wanted.csr, &from).await?;
        Ok(Response::new(pb::EnrolAgentResponse {
            agent_id: enrolled.agent.to_string(),
            tenant_id: enrolled.tenant.to_string(),
            certificate: Some(certificate(enrolled.issued)),
            trust: Some(trust(self.0.mesh_trust())),
        }))
    }

    async fn renew_certificate(
        &self,
        request: Request<pb::RenewCertificateRequest>,
    ) -> Result<Response<pb::RenewCertificateResponse>, Status> {
        let call = chassis::agent(&request)?;
        let issued = self.0.renew(&call, &request.get_ref().csr).await?;
        Ok(Response::new(pb::RenewCertificateResponse {
            certificate: Some(certificate(issued)),
        }))
    }

    async fn open_credentials(
        &self,
        request: Request<pb::OpenCredentialsRequest>,
    ) -> Result<Response<pb::OpenCredentialsResponse>, Status> {
        let call = chassis::agent(&request)?;
        let open = self.0.open(&call, &request.get_ref().server_id).await?;
        let credentials = open.into_iter().map(|(kind, value)| pb::Credential {
            kind: pb::SecretKind::from(kind).into(),
            value: value.expose().clone().into(),
        });
        Ok(Response::new(pb::OpenCredentialsResponse {
            credentials: credentials.collect(),
        }))
    }

    async fn get_assignment(
        &self,
        request: Request<pb::GetAssignmentRequest>,
    ) -> Result<Response<pb::GetAssignmentResponse>, Status> {
        let call = chassis::agent(&request)?;
        let servers = self.0.assignment(&call).await?;
        Ok(Response::new(pb::GetAssignmentResponse {
            servers: servers.into_iter().map(assigned).collect(),
            trust: Some(trust(self.0.mesh_trust())),
        }))
    }

    async fn get_agent_authorities(
        &self,
        request: Request<pb::GetAgentAuthoritiesRequest>,
    ) -> Result<Response<pb::GetAgentAuthoritiesResponse>, Status> {
        let deadline = chassis::origin(&request).deadline;
        let authorities = self.0.authorities(deadline).await?;
        Ok(Response::new(pb::GetAgentAuthoritiesResponse {
            authorities: authorities.into_iter().map(Into::into).collect(),
        }))
    }

    async fn check_agents(
        &self,
        request: Request<pb::CheckAgentsRequest>,
    ) -> Result<Response<pb::CheckAgentsResponse>, Status> {
        let deadline = chassis::origin(&request).deadline;
        let agents = request.into_inner().agents;
        if agents.len() > CHECKED_AT_MOST {
            return Err(Error::from(Invalid::new("agents", "are more than 1,000")).into());
        }
        let agents: Vec<Shown> = agents.into_iter().map(shown).collect::<Result<_, _>>()?;
        let Checked { void, unknown } = self.0.check(&agents, deadline).await?;
        Ok(Response::new(pb::CheckAgentsResponse { void, unknown }))
    }
}
