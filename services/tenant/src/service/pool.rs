//! AgentPoolService.

use proto::tenant::v1 as pb;
use tonic::{Request, Response, Status};
use types::{PoolId, Scope};

use super::{Core, below, wire};
use crate::{
    domain::{
        At as _,
        directory::Pool,
        limit, name,
        page::{Page, Query},
    },
    error::{Error, Noun},
    store,
};

/// AgentPoolService.
#[derive(Clone, Debug)]
pub(crate) struct Pools(pub(crate) Core);

impl Pools {
    async fn create(&self, scope: &Scope, name: &str) -> Result<Pool, Error> {
        let name = name::thing(name).at("name")?;
        let (mut tx, scope) = self.0.store.change_all(scope).await?;
        below(
            store::pool::count(&mut tx, scope.tenant()).await?,
            Noun::Pool,
            limit::POOLS,
        )?;
        let pool = store::pool::insert(&mut tx, scope.tenant(), PoolId::fresh(), &name).await?;
        tx.commit().await?;
        Ok(pool)
    }

    async fn list(
        &self,
        scope: &Scope,
        wanted: &pb::ListAgentPoolsRequest,
    ) -> Result<pb::ListAgentPoolsResponse, Error> {
        let query = Query::new("ListAgentPools", scope.tenant());
        let page = Page::parse::<1>(&query, wanted.page_size, &wanted.page_token)?;
        let mut tx = self.0.store.directory(scope.deadline).await?;
        let found = store::pool::list(&mut tx, scope.tenant(), scope.pools(), &page).await?;
        let (found, next_page_token) = page.cut(&query, found, |pool| vec![pool.name.clone()]);
        Ok(pb::ListAgentPoolsResponse {
            pools: found.into_iter().map(wire::pool).collect(),
            next_page_token,
        })
    }

    async fn delete(&self, scope: &Scope, id: &str) -> Result<(), Error> {
        let id = wire::id(id, Noun::Pool)?;
        let (mut tx, scope) = self.0.store.change_all(scope).await?;
        let found = store::pool::find(&mut tx, scope.tenant(), id).await?;
        let pool = found
            .filter(|pool| scope.covers(pool.id))
            .ok_or(Error::Missing(Noun::Pool))?;
        tx.enter_tenant().await?;
        if store::pool::in_use(&mut tx, pool.id).await? {
            return Err(Error::PoolInUse);
        }
        tx.enter_shared().await?;
        store::pool::delete(&mut tx, scope.tenant(), pool.id).await?;
        Ok(tx.commit().await?)
    }
}

#[tonic::async_trait]
impl pb::agent_pool_service_server::AgentPoolService for Pools {
    async fn create_agent_pool(
        &self,
        request: Request<pb::CreateAgentPoolRequest>,
    ) -> Result<Response<pb::CreateAgentPoolResponse>, Status> {
        let scope = chassis::scope(&request)?;
        let pool = self.create(&scope, &request.get_ref().name).await?;
        let pool = Some(wire::pool(pool));
        Ok(Response::new(pb::CreateAgentPoolResponse { pool }))
    }

    async fn list_agent_pools(
        &self,
        request: Request<pb::ListAgentPoolsRequest>,
    ) -> Result<Response<pb::ListAgentPoolsResponse>, Status> {
        let scope = chassis::scope(&request)?;
        Ok(Response::new(self.list(&scope, request.get_ref()).await?))
    }

    async fn delete_agent_pool(
        &self,
        request: Request<pb::DeleteAgentPoolRequest>,
    ) -> Result<Response<pb::DeleteAgentPoolResponse>, Status> {
        let scope = chassis::scope(&request)?;
        self.delete(&scope, &request.get_ref().pool_id).await?;
        Ok(Response::new(pb::DeleteAgentPoolResponse {}))
    }
}
