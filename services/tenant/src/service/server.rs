//! ServerService.

use pg::Transaction;
use proto::tenant::v1 as pb;
use tonic::{Request, Response, Status};
use types::{Scope, ServerId};

use super::{Core, pool_filter, pool_named, wire};
use crate::{
    domain::{
        At as _, Invalid, Problem,
        mask::Mask,
        name,
        page::{Page, Query},
        server::{self, Draft, Patch, Server},
    },
    error::{Error, Noun},
    store,
};

/// ServerService.
#[derive(Clone, Debug)]
pub(crate) struct Servers(pub(crate) Core);

/// The fields that an update may name.
const MUTABLE: &[&str] = &[
    "name", "host", "port", "username", "tls_mode", "pool_id", "labels",
];

fn given(server: Option<pb::Server>) -> Result<pb::Server, Invalid> {
    server.ok_or_else(|| Problem::from("the server is needed").at("server"))
}

/// The new values that the mask takes, checked; the pool apart, whose check is in the directory.
fn patch(mask: &Mask, new: &pb::Server) -> Result<Patch, Invalid> {
    let mut patch = Patch::default();
    if mask.takes("name", !new.name.is_empty()) {
        patch.name = Some(name::thing(&new.name).at("server.name")?);
    }
    if mask.takes("host", !new.host.is_empty()) {
        patch.host = Some(server::host(&new.host).at("server.host")?);
    }
    if mask.takes("port", new.port != 0) {
        patch.port = Some(server::port(new.port).at("server.port")?);
    }
    if mask.takes("username", !new.username.is_empty()) {
        patch.username = Some(server::username(&new.username).at("server.username")?);
    }
    if mask.takes("tls_mode", new.tls_mode != 0) {
        patch.tls = Some(wire::tls(new.tls_mode).at("server.tls_mode")?);
    }
    if mask.takes("labels", !new.labels.is_empty()) {
        patch.labels = Some(server::labels(&new.labels).at("server.labels")?);
    }
    Ok(patch)
}

/// One server of a pool in which the caller may do this; in the registry.
pub(super) async fn covered(tx: &mut Transaction, scope: &Scope, id: ServerId) -> Result<Server, Error> {
    let server = store::server::get(tx, id).await?;
    if !scope.covers(server.said.pool) {
        return Err(Error::Missing(Noun::Server));
    }
    Ok(server)
}

impl Servers {
    async fn register(&self, scope: &Scope, wanted: pb::RegisterServerRequest) -> Result<Server, Error> {
        let new = given(wanted.server)?;
        let name = name::thing(&new.name).at("server.name")?;
        let host = server::host(&new.host).at("server.host")?;
        let port = server::port(new.port).at("server.port")?;
        let username = server::username(&new.username).at("server.username")?;
        let tls = wire::tls(new.tls_mode).at("server.tls_mode")?;
        let engine = wire::engine(new.engine).at("server.engine")?;
        let labels = server::labels(&new.labels).at("server.labels")?;

        let id = ServerId::fresh();
        let password = self.prepare(scope, id, wanted.password).await?;
        let (mut tx, scope) = self.0.store.change(scope).await?;
        let pool = pool_named(&mut tx, &scope, &new.pool_id).await?;
        tx.enter_tenant().await?;
        let count = store::server::count(&mut tx).await?;
        scope.seat.plan.room("servers", count, |limits| limits.servers)?;
        let said = Draft {
            name,
            host,
            port,
            username,
            tls,
            labels,
            pool,
        };
        let server = store::server::insert(&mut tx, id, &said, engine).await?;
        if let Some(password) = password {
            Self::keep(&mut tx, id, &password).await?;
        }
        tx.commit().await?;
        Ok(server)
    }

    async fn get(&self, scope: &Scope, id: &str) -> Result<Server, Error> {
        let id = wire::id(id, Noun::Server)?;
        let mut tx = self.0.store.registry(scope).await?;
        covered(&mut tx, scope, id).await
    }

    async fn list(
        &self,
        scope: &Scope,
        wanted: &pb::ListServersRequest,
    ) -> Result<pb::ListServersResponse, Error> {
        let query = Query::new("ListServers", scope.tenant()).filtered(&wanted.pool_id);
        let page = Page::parse::<1>(&query, wanted.page_size, &wanted.page_token)?;
        let mut tx = self.0.store.registry(scope).await?;
        let pool = pool_filter(&mut tx, scope, &wanted.pool_id).await?;
        let found = store::server::list(&mut tx, scope.pools(), pool, &page).await?;
        let (found, next_page_token) = page.cut(&query, found, |server| vec![server.said.name.clone()]);
        Ok(pb::ListServersResponse {
            servers: found.into_iter().map(wire::server).collect(),
            next_page_token,
        })
    }

    async fn update(&self, scope: &Scope, wanted: pb::UpdateServerRequest) -> Result<Server, Error> {
        let paths = wanted.update_mask.map(|mask| mask.paths).unwrap_or_default();
        let mask = Mask::parse(&paths, MUTABLE)?;
        let new = given(wanted.server)?;
        let id = wire::id(&new.id, Noun::Server)?;
        let mut patch = patch(&mask, &new)?;

        let (mut tx, scope) = self.0.store.change(scope).await?;
        tx.enter_tenant().await?;
        let before = covered(&mut tx, &scope, id).await?;
        if !new.etag.is_empty() && new.etag != before.etag() {
            return Err(Error::ServerChanged);
        }
        if mask.takes("pool_id", !new.pool_id.is_empty()) {
            tx.enter_shared().await?;
            patch.pool = Some(pool_named(&mut tx, &scope, &new.pool_id).await?);
            tx.enter_tenant().await?;
        }
        let said = patch.apply(before.said.clone());
        if said == before.said {
            // The confirmation is spent all the same.
            tx.commit().await?;
            return Ok(before);
        }
        let after = store::server::update(&mut tx, id, before.version, &said).await?;
        tx.commit().await?;
        Ok(after)
    }

    async fn delete(&self, scope: &Scope, id: &str) -> Result<(), Error> {
        let id = wire::id(id, Noun::Server)?;
        let (mut tx, scope) = self.0.store.change(scope).await?;
        tx.enter_tenant().await?;
        covered(&mut tx, &scope, id).await?;
        store::server::delete(&mut tx, id).await?;
        store::plan::settle_servers(&mut tx, scope.seat.plan).await?;
        Ok(tx.commit().await?)
    }
}

#[tonic::async_trait]
impl pb::server_service_server::ServerService for Servers {
    async fn set_server_credential(
        &self,
        request: Request<pb::SetServerCredentialRequest>,
    ) -> Result<Response<pb::SetServerCredentialResponse>, Status> {
        let scope = chassis::scope(&request)?;
        let credential = Some(self.set_credential(&scope, request.into_inner()).await?);
        Ok(Response::new(pb::SetServerCredentialResponse { credential }))
    }

    async fn list_server_credentials(
        &self,
        request: Request<pb::ListServerCredentialsRequest>,
    ) -> Result<Response<pb::ListServerCredentialsResponse>, Status> {
        let scope = chassis::scope(&request)?;
        let credentials = self
            .list_credentials(&scope, &request.get_ref().server_id)
            .await?;
        Ok(Response::new(pb::ListServerCredentialsResponse { credentials }))
    }

    async fn delete_server_credential(
        &self,
        request: Request<pb::DeleteServerCredentialRequest>,
    ) -> Result<Response<pb::DeleteServerCredentialResponse>, Status> {
        let scope = chassis::scope(&request)?;
        self.delete_credential(&scope, request.get_ref()).await?;
        Ok(Response::new(pb::DeleteServerCredentialResponse {}))
    }

    async fn register_server(
        &self,
        request: Request<pb::RegisterServerRequest>,
    ) -> Result<Response<pb::RegisterServerResponse>, Status> {
        let scope = chassis::scope(&request)?;
        let server = self.register(&scope, request.into_inner()).await?;
        let server = Some(wire::server(server));
        Ok(Response::new(pb::RegisterServerResponse { server }))
    }

    async fn get_server(
        &self,
        request: Request<pb::GetServerRequest>,
    ) -> Result<Response<pb::GetServerResponse>, Status> {
        let scope = chassis::scope(&request)?;
        let server = self.get(&scope, &request.get_ref().server_id).await?;
        let server = Some(wire::server(server));
        Ok(Response::new(pb::GetServerResponse { server }))
    }

    async fn list_servers(
        &self,
        request: Request<pb::ListServersRequest>,
    ) -> Result<Response<pb::ListServersResponse>, Status> {
        let scope = chassis::scope(&request)?;
        Ok(Response::new(self.list(&scope, request.get_ref()).await?))
    }

    async fn update_server(
        &self,
        request: Request<pb::UpdateServerRequest>,
    ) -> Result<Response<pb::UpdateServerResponse>, Status> {
        let scope = chassis::scope(&request)?;
        let server = self.update(&scope, request.into_inner()).await?;
        let server = Some(wire::server(server));
        Ok(Response::new(pb::UpdateServerResponse { server }))
    }

    async fn delete_server(
        &self,
        request: Request<pb::DeleteServerRequest>,
    ) -> Result<Response<pb::DeleteServerResponse>, Status> {
        let scope = chassis::scope(&request)?;
        self.delete(&scope, &request.get_ref().server_id).await?;
        Ok(Response::new(pb::DeleteServerResponse {}))
    }
}
