//! What is asked for most.

use super::*;

/// A tenant in the region of these tests.
pub(crate) fn new_tenant(name: &str) -> pb::CreateTenantRequest {
    pb::CreateTenantRequest {
        name: name.to_owned(),
        region: PbRegion::Eu.into(),
    }
}

/// A server with nothing special.
pub(crate) fn new_server(name: &str) -> pb::Server {
    pb::Server {
        name: name.to_owned(),
        host: "db.example.com".to_owned(),
        username: "replica".to_owned(),
        ..pb::Server::default()
    }
}

/// As the wire writes a role.
pub(crate) fn wire(role: Role) -> PbRole {
    match role {
        Role::Viewer => PbRole::Viewer,
        Role::Analyst => PbRole::Analyst,
        Role::Operator => PbRole::Operator,
        Role::Admin => PbRole::Admin,
        Role::Owner => PbRole::Owner,
    }
}
