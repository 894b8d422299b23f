//! AgentService.

use pg::Transaction;
use proto::tenant::v1 as pb;
use tonic::{Request, Response, Status};
use types::{AgentId, Scope};

use super::{Core, pool_filter, pool_named, wire};
use crate::{
    domain::{
        At as _,
        agent::{Agent, State},
        name,
        page::{Page, Query},
        token::{Kind, Token},
    },
    error::{Error, Noun},
    store,
};

/// AgentService.
#[derive(Clone, Debug)]
pub(crate) struct Agents(pub(crate) Core);

/// One agent of a pool in which the caller may do this.
async fn covered(tx: &mut Transaction, scope: &Scope, id: AgentId) -> Result<Agent, Error> {
    let agent = store::agent::get(tx, id).await?;
    if !scope.covers(agent.pool) {
        return Err(Error::Missing(Noun::Agent));
    }
    Ok(agent)
}

impl Agents {
    async fn create(&self, scope: &Scope, wanted: &pb::CreateAgentRequest) -> Result<(Agent, Token), Error> {
        let name = name::thing(&wanted.name).at("name")?;
        let (mut tx, scope) = self.0.store.change(scope).await?;
        let pool = pool_named(&mut tx, &scope, &wanted.pool_id).await?;
        tx.enter_tenant().await?;
        let count = store::agent::count(&mut tx).await?;
        scope.seat.plan.room("agents", count, |limits| limits.agents)?;
        let token = Token::fresh(Kind::Enrolment);
        let agent = store::agent::insert(&mut tx, AgentId::fresh(), &name, pool, &token).await?;
        tx.enter_shared().await?;
        store::enrolment::put(&mut tx, scope.tenant(), agent.id, &token).await?;
        tx.commit().await?;
        Ok((agent, token))
    }

    async fn get(&self, scope: &Scope, id: &str) -> Result<Agent, Error> {
        let id = wire::id(id, Noun::Agent)?;
        let mut tx = self.0.store.registry(scope).await?;
        covered(&mut tx, scope, id).await
    }

    async fn list(
        &self,
        scope: &Scope,
        wanted: &pb::ListAgentsRequest,
    ) -> Result<pb::ListAgentsResponse, Error> {
        let query = Query::new("ListAgents", scope.tenant()).filtered(&wanted.pool_id);
        let page = Page::parse::<2>(&query, wanted.page_size, &wanted.page_token)?;
        let mut tx = self.0.store.registry(scope).await?;
        let pool = pool_filter(&mut tx, scope, &wanted.pool_id).await?;
        let found = store::agent::list(&mut tx, scope.pools(), pool, &page).await?;
        let (found, next_page_token) = page.cut(&query, found, |agent| {
            vec![agent.name.clone(), agent.id.to_string()]
        });
        Ok(pb::ListAgentsResponse {
            agents: found.into_iter().map(wire::agent).collect(),
            next_page_token,
        })
    }

    async fn renew(&self, scope: &Scope, id: &str) -> Result<(Agent, Token), Error> {
        let id = wire::id(id, Noun::Agent)?;
        let (mut tx, scope) = self.0.store.change(scope).await?;
        tx.enter_tenant().await?;
        if let State::Revoked { .. } = covered(&mut tx, &scope, id).await?.state {
            return Err(Error::AgentRevoked);
        }
        let token = Token::fresh(Kind::Enrolment);
        let agent = store::agent::renew(&mut tx, id, &token).await?;
        tx.enter_shared().await?;
        store::enrolment::put(&mut tx, scope.tenant(), id, &token).await?;
        tx.commit().await?;
        Ok((agent, token))
    }

    async fn revoke(&self, scope: &Scope, id: &str) -> Result<Agent, Error> {
        let id = wire::id(id, Noun::Agent)?;
        let (mut tx, scope) = self.0.store.change(scope).await?;
        tx.enter_tenant().await?;
        covered(&mut tx, &scope, id).await?;
        store::agent::revoke(&mut tx, id).await?;
        store::plan::settle_agents(&mut tx, scope.seat.plan).await?;
        let agent = store::agent::get(&mut tx, id).await?;
        tx.enter_shared().await?;
        store::enrolment::remove(&mut tx, id).await?;
        tx.commit().await?;
        Ok(agent)
    }
}

#[tonic::async_trait]
impl pb::agent_service_server::AgentService for Agents {
    async fn create_agent(
        &self,
        request: Request<pb::CreateAgentRequest>,
    ) -> Result<Response<pb::CreateAgentResponse>, Status> {
        let scope = chassis::scope(&request)?;
        let (agent, token) = self.create(&scope, request.get_ref()).await?;
        Ok(Response::new(pb::CreateAgentResponse {
            agent: Some(wire::agent(agent)),
            enrolment_token: token.expose().to_owned(),
        }))
    }

    async fn get_agent(
        &self,
        request: Request<pb::GetAgentRequest>,
    ) -> Result<Response<pb::GetAgentResponse>, Status> {
        let scope = chassis::scope(&request)?;
        let agent = self.get(&scope, &request.get_ref().agent_id).await?;
        let agent = Some(wire::agent(agent));
        Ok(Response::new(pb::GetAgentResponse { agent }))
    }

    async fn list_agents(
        &self,
        request: Request<pb::ListAgentsRequest>,
    ) -> Result<Response<pb::ListAgentsResponse>, Status> {
        let scope = chassis::scope(&request)?;
        Ok(Response::new(self.list(&scope, request.get_ref()).await?))
    }

    async fn renew_enrolment(
        &self,
        request: Request<pb::RenewEnrolmentRequest>,
    ) -> Result<Response<pb::RenewEnrolmentResponse>, Status> {
        let scope = chassis::scope(&request)?;
        let (agent, token) = self.renew(&scope, &request.get_ref().agent_id).await?;
        Ok(Response::new(pb::RenewEnrolmentResponse {
            agent: Some(wire::agent(agent)),
            enrolment_token: token.expose().to_owned(),
        }))
    }

    async fn revoke_agent(
        &self,
        request: Request<pb::RevokeAgentRequest>,
    ) -> Result<Response<pb::RevokeAgentResponse>, Status> {
        let scope = chassis::scope(&request)?;
        let agent = self.revoke(&scope, &request.get_ref().agent_id).await?;
        let agent = Some(wire::agent(agent));
        Ok(Response::new(pb::RevokeAgentResponse { agent }))
    }
}
