//! Service tenant: what a server is, and which access rules a role has.

use std::time::{Duration, Instant};

use chassis::Peer;
use proto::{
    common::v1::Role as PbRole,
    tenant::v1::{self as pb, directory_service_client::DirectoryServiceClient},
};
use tonic::{Code, Status};
use types::{PoolId, Role, ServerId, TenantId};

use crate::error::Error;

const WHO: &str = "service tenant";

/// The rules of a large tenant are many.
const MAX_ANSWER: usize = 16 << 20;

/// A directory answers from its database; whoever waits longer is told to come again.
const AT_MOST: Duration = Duration::from_secs(3);

/// Where servers are looked up.
#[derive(Clone, Debug)]
pub(crate) struct Directory {
    client: DirectoryServiceClient<Peer>,
}

/// A registered server.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) id: ServerId,
    pub(crate) pool: PoolId,
    /// Beyond what the tenant's plan allows.
    pub(crate) frozen: bool,
    /// Of all roles.
    pub(crate) rules: Vec<pb::AccessRule>,
}

fn said_no(status: Status) -> Error {
    match status.code() {
        Code::NotFound => Error::ServerMissing,
        _ => Error::from_neighbour(WHO, status),
    }
}

fn wrong(what: &str) -> Error {
    Error::Answer {
        who: WHO,
        what: what.to_owned(),
    }
}

impl Directory {
    /// By this peer.
    pub(crate) fn new(tenant: Peer) -> Self {
        Self {
            client: DirectoryServiceClient::new(tenant).max_decoding_message_size(MAX_ANSWER),
        }
    }

    /// A server of `tenant`, by id or name.
    pub(crate) async fn server(
        &self,
        tenant: TenantId,
        name: &str,
        deadline: Instant,
    ) -> Result<Server, Error> {
        let request = pb::ResolveServerRequest {
            tenant_id: tenant.to_string(),
            server: name.to_owned(),
        };
        let mut client = self.client.clone();
        let deadline = deadline.min(Instant::now() + AT_MOST);
        let answer = chassis::deadline::within(deadline, client.resolve_server(request)).await;
        let answer = answer.map_err(said_no)?.into_inner();
        let server = answer.server.ok_or_else(|| wrong("no server"))?;
        Ok(Server {
            id: server.id.parse().map_err(|_| wrong("no server id"))?,
            pool: server.pool_id.parse().map_err(|_| wrong("no pool id"))?,
            frozen: server.frozen,
            rules: answer.rules,
        })
    }

    /// The rules that `role` has for what is no registered server: those for all servers and for each.
    pub(crate) async fn rules(
        &self,
        tenant: TenantId,
        role: Role,
        deadline: Instant,
    ) -> Result<Vec<pb::AccessRule>, Error> {
        let role = match role {
            Role::Viewer => PbRole::Viewer,
            Role::Analyst => PbRole::Analyst,
            Role::Operator => PbRole::Operator,
            Role::Admin => PbRole::Admin,
            Role::Owner => PbRole::Owner,
        };
        let request = pb::GetAccessRequest {
            tenant_id: tenant.to_string(),
            role: role.into(),
        };
        let mut client = self.client.clone();
        let deadline = deadline.min(Instant::now() + AT_MOST);
        let answer = chassis::deadline::within(deadline, client.get_access(request)).await;
        Ok(answer.map_err(said_no)?.into_inner().rules)
    }
}
