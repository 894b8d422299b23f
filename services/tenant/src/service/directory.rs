//! DirectoryService: what query and recovery ask. They decide themselves who may see the answer.

use std::time::Instant;

use proto::tenant::v1 as pb;
use tonic::{Request, Response, Status};
use types::{Errand, TenantId};

use super::{Core, wire};
use crate::{
    error::{Error, Noun},
    store,
};

/// DirectoryService.
#[derive(Clone, Debug)]
pub(crate) struct Directory(pub(crate) Core);

fn errand(tenant: &str, deadline: Instant) -> Result<Errand, Error> {
    let tenant: TenantId = wire::id(tenant, Noun::Tenant)?;
    Ok(Errand { tenant, deadline })
}

impl Directory {
    async fn resolve(
        &self,
        wanted: &pb::ResolveServerRequest,
        deadline: Instant,
    ) -> Result<pb::ResolveServerResponse, Error> {
        let errand = errand(&wanted.tenant_id, deadline)?;
        let mut tx = self.0.store.errand(&errand).await?;
        // No name is an id: names have no underscore.
        let server = match wanted.server.parse() {
            Ok(id) => store::server::get(&mut tx, id).await?,
            Err(_) => store::server::named(&mut tx, &wanted.server).await?,
        };
        let agents = store::agent::serving(&mut tx, server.said.pool).await?;
        let rules = store::access_rule::of_server(&mut tx, server.id).await?;
        tx.rollback().await;
        Ok(pb::ResolveServerResponse {
            server: Some(wire::server(server)),
            agent_ids: agents.iter().map(ToString::to_string).collect(),
            rules: rules
                .into_iter()
                .map(|(rule, created)| wire::rule(rule, created))
                .collect(),
        })
    }

    async fn access(
        &self,
        wanted: &pb::GetAccessRequest,
        deadline: Instant,
    ) -> Result<pb::GetAccessResponse, Error> {
        let role = wire::role(wanted.role, "role")?;
        let errand = errand(&wanted.tenant_id, deadline)?;
        let mut tx = self.0.store.errand(&errand).await?;
        // What is no registered server may be any: the rules of each count.
        let rules = store::access_rule::of_role(&mut tx, role).await?;
        tx.rollback().await;
        let rules = rules.into_iter();
        let rules = rules.map(|(rule, created)| wire::rule(rule, created)).collect();
        Ok(pb::GetAccessResponse { rules })
    }
}

#[tonic::async_trait]
impl pb::directory_service_server::DirectoryService for Directory {
    async fn resolve_server(
        &self,
        request: Request<pb::ResolveServerRequest>,
    ) -> Result<Response<pb::ResolveServerResponse>, Status> {
        let deadline = chassis::origin(&request).deadline;
        Ok(Response::new(self.resolve(request.get_ref(), deadline).await?))
    }

    async fn get_access(
        &self,
        request: Request<pb::GetAccessRequest>,
    ) -> Result<Response<pb::GetAccessResponse>, Status> {
        let deadline = chassis::origin(&request).deadline;
        Ok(Response::new(self.access(request.get_ref(), deadline).await?))
    }
}
