//! TenantService.

use std::time::Instant;

use proto::tenant::v1 as pb;
use tonic::{Request, Response, Status};
use types::{Micros, PoolId, Role, Scope, TenantId, UserId, chain};

use super::{Core, own::Own, owns_few, wire};
use crate::{
    domain::{
        At as _, Problem,
        deletion::Deletion,
        directory::{DEFAULT_POOL, Membership, Tenant},
        mask::Mask,
        name,
        page::{Page, Query},
    },
    error::{Error, Noun},
    store,
};

/// TenantService.
#[derive(Clone, Debug)]
pub(crate) struct Tenants(pub(crate) Core);

impl Tenants {
    async fn create(&self, own: Own, wanted: pb::CreateTenantRequest) -> Result<Tenant, Error> {
        let owner = own.user;
        let name = name::tenant(&wanted.name).at("name")?;
        let region = wire::region(wanted.region, "region")?;
        if region != self.0.region {
            return Err(Error::WrongRegion {
                here: self.0.region.word(),
                host: self.0.hosts.get(&region).cloned(),
            });
        }
        let mut tx = self.0.store.directory(own.deadline).await?;
        owns_few(store::tenant::count_owned(&mut tx, owner).await?)?;
        let prepared = pg::take_prepared_schema(&mut tx).await?;
        let new = Tenant {
            id: prepared.unwrap_or_else(TenantId::fresh),
            name,
            region,
            cell: self.0.cell.clone(),
            plan: self.0.first_plan,
            created: Micros(0),
        };
        let tenant = store::tenant::insert(&mut tx, &new).await?;
        if prepared.is_none() {
            pg::create_tenant_schema(&mut tx, tenant.id).await?;
        }
        store::member::insert(&mut tx, tenant.id, owner, Some(Role::Owner)).await?;
        store::pool::insert(&mut tx, tenant.id, PoolId::fresh(), DEFAULT_POOL).await?;
        let targets = [("tenant_id", tenant.id.to_string())];
        own.tell(&mut tx, tenant.id, Role::Owner, &targets).await?;
        tx.commit().await?;
        self.0.life.taken();
        Ok(tenant)
    }

    async fn delete(&self, scope: &Scope, name: &str) -> Result<Deletion, Error> {
        let (tenant, user) = (scope.tenant(), scope.subject.user());
        let mut tx = self.0.store.directory(scope.deadline).await?;
        let asked = store::deletion::find(&mut tx, tenant, Some(user)).await?;
        tx.rollback().await;
        if asked.is_none() {
            let (mut tx, scope) = self.0.store.change_all(scope).await?;
            if store::tenant::get(&mut tx, scope.tenant()).await?.name != name {
                return Err(Error::NameDiffers);
            }
            store::deletion::begin(&mut tx, tenant, user).await?;
            tx.commit().await?;
        }
        let trouble = match self.0.life.go_on(tenant, scope.deadline).await {
            Ok(deletion) => return Ok(deletion),
            Err(trouble) => trouble,
        };
        tracing::warn!(%tenant, error = chain(&trouble), "a deletion goes on later");
        self.deletion(user, scope.deadline, tenant).await
    }

    async fn deletion(&self, user: UserId, deadline: Instant, tenant: TenantId) -> Result<Deletion, Error> {
        let mut tx = self.0.store.directory(deadline).await?;
        store::deletion::get(&mut tx, tenant, Some(user)).await
    }

    async fn get(&self, scope: &Scope) -> Result<Tenant, Error> {
        let mut tx = self.0.store.directory(scope.deadline).await?;
        store::tenant::get(&mut tx, scope.tenant()).await
    }

    async fn update(&self, scope: &Scope, wanted: pb::UpdateTenantRequest) -> Result<Tenant, Error> {
        let paths = wanted.update_mask.map(|mask| mask.paths).unwrap_or_default();
        let mask = Mask::parse(&paths, &["name"])?;
        let given = wanted
            .tenant
            .ok_or_else(|| Problem::from("the new values are needed").at("tenant"))?;
        let new_name = if mask.takes("name", !given.name.is_empty()) {
            Some(name::tenant(&given.name).at("tenant.name")?)
        } else {
            None
        };
        let (mut tx, scope) = self.0.store.change_all(scope).await?;
        if let Some(name) = new_name {
            store::tenant::rename(&mut tx, scope.tenant(), &name).await?;
        }
        let tenant = store::tenant::get(&mut tx, scope.tenant()).await?;
        tx.commit().await?;
        Ok(tenant)
    }

    async fn list(
        &self,
        user: UserId,
        deadline: Instant,
        wanted: &pb::ListTenantsRequest,
    ) -> Result<pb::ListTenantsResponse, Error> {
        let query = Query::new("ListTenants", user);
        let page = Page::parse::<1>(&query, wanted.page_size, &wanted.page_token)?;
        let mut tx = self.0.store.directory(deadline).await?;
        let found = store::tenant::of_person(&mut tx, user, &page).await?;
        let (found, next_page_token) = page.cut(&query, found, |found| vec![found.tenant.id.to_string()]);
        let membership = |found: Membership| pb::Membership {
            tenant: Some(wire::tenant(found.tenant)),
            role: wire::pb_role(found.role),
            frozen: found.frozen,
        };
        Ok(pb::ListTenantsResponse {
            memberships: found.into_iter().map(membership).collect(),
            next_page_token,
        })
    }
}

#[tonic::async_trait]
impl pb::tenant_service_server::TenantService for Tenants {
    async fn delete_tenant(
        &self,
        request: Request<pb::DeleteTenantRequest>,
    ) -> Result<Response<pb::DeleteTenantResponse>, Status> {
        let scope = chassis::scope(&request)?;
        let deletion = self.delete(&scope, &request.get_ref().name).await?;
        let deletion = Some(wire::deletion(deletion));
        Ok(Response::new(pb::DeleteTenantResponse { deletion }))
    }

    async fn get_deletion(
        &self,
        request: Request<pb::GetDeletionRequest>,
    ) -> Result<Response<pb::GetDeletionResponse>, Status> {
        let account = chassis::account(&request)?;
        let tenant = wire::id(&request.get_ref().tenant_id, Noun::Deletion)?;
        let deletion = self
            .deletion(account.subject.user(), account.deadline, tenant)
            .await?;
        let deletion = Some(wire::deletion(deletion));
        Ok(Response::new(pb::GetDeletionResponse { deletion }))
    }

    async fn create_tenant(
        &self,
        request: Request<pb::CreateTenantRequest>,
    ) -> Result<Response<pb::CreateTenantResponse>, Status> {
        let own = Own::new("TenantService/CreateTenant", &request)?;
        let tenant = self.create(own, request.into_inner()).await?;
        let tenant = Some(wire::tenant(tenant));
        Ok(Response::new(pb::CreateTenantResponse { tenant }))
    }

    async fn get_tenant(
        &self,
        request: Request<pb::GetTenantRequest>,
    ) -> Result<Response<pb::GetTenantResponse>, Status> {
        let tenant = self.get(&chassis::scope(&request)?).await?;
        let tenant = Some(wire::tenant(tenant));
        Ok(Response::new(pb::GetTenantResponse { tenant }))
    }

    async fn update_tenant(
        &self,
        request: Request<pb::UpdateTenantRequest>,
    ) -> Result<Response<pb::UpdateTenantResponse>, Status> {
        let scope = chassis::scope(&request)?;
        let tenant = self.update(&scope, request.into_inner()).await?;
        let tenant = Some(wire::tenant(tenant));
        Ok(Response::new(pb::UpdateTenantResponse { tenant }))
    }

    async fn list_tenants(
        &self,
        request: Request<pb::ListTenantsRequest>,
    ) -> Result<Response<pb::ListTenantsResponse>, Status> {
        let account = chassis::account(&request)?;
        let page = self
            .list(account.subject.user(), account.deadline, request.get_ref())
            .await?;
        Ok(Response::new(page))
    }
}
