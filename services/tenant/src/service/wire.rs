//! Between domain values and messages.

use std::str::FromStr;

use prost_types::Timestamp;
use proto::{
    common::v1::{Plan as PbPlan, Region as PbRegion, Role as PbRole},
    tenant::v1 as pb,
};
use types::{
    Micros, Plan, Region, Role,
    access::{Effect, Rule},
};

use crate::{
    domain::{
        Invalid, Problem,
        agent::{Agent, State},
        deletion::Deletion,
        directory::{Invitation, Member, Pool, Tenant},
        server::{Engine, Server, Tls},
    },
    error::{Error, Noun},
};

/// Reads an id. What is none names nothing, like an id that was never given.
pub(super) fn id<T: FromStr>(text: &str, noun: Noun) -> Result<T, Error> {
    text.parse().map_err(|_| Error::Missing(noun))
}

pub(super) fn timestamp(time: Micros) -> Option<Timestamp> {
    Some(Timestamp {
        seconds: time.0.div_euclid(1_000_000),
        nanos: i32::try_from(time.0.rem_euclid(1_000_000) * 1_000).unwrap_or_default(),
    })
}

pub(super) fn deletion(deletion: Deletion) -> pb::Deletion {
    let state = if deletion.ended.is_some() {
        pb::DeletionState::Done
    } else {
        pb::DeletionState::UnderWay
    };
    let mut message = pb::Deletion {
        tenant_id: deletion.tenant.to_string(),
        state: state.into(),
        request_time: timestamp(deletion.requested),
        end_time: deletion.ended.and_then(timestamp),
        ..pb::Deletion::default()
    };
    if let Some(certificate) = deletion.certificate {
        message.certificate = certificate.statement;
        message.signature = certificate.signature;
        message.key_id = certificate.key_id;
    }
    message
}

/// Reads a role that must be given.
pub(super) fn role(number: i32, field: &'static str) -> Result<Role, Invalid> {
    match PbRole::try_from(number) {
        Ok(PbRole::Viewer) => Ok(Role::Viewer),
        Ok(PbRole::Analyst) => Ok(Role::Analyst),
        Ok(PbRole::Operator) => Ok(Role::Operator),
        Ok(PbRole::Admin) => Ok(Role::Admin),
        Ok(PbRole::Owner) => Ok(Role::Owner),
        Ok(PbRole::Unspecified) => Err(Problem::from("a role is needed").at(field)),
        Err(_) => Err(Problem::from("not a role that is known").at(field)),
    }
}

pub(super) fn pb_role(role: Option<Role>) -> i32 {
    let role = match role {
        None => PbRole::Unspecified,
        Some(Role::Viewer) => PbRole::Viewer,
        Some(Role::Analyst) => PbRole::Analyst,
        Some(Role::Operator) => PbRole::Operator,
        Some(Role::Admin) => PbRole::Admin,
        Some(Role::Owner) => PbRole::Owner,
    };
    role.into()
}

/// Reads a region that must be given.
pub(super) fn region(number: i32, field: &'static str) -> Result<Region, Invalid> {
    match PbRegion::try_from(number) {
        Ok(PbRegion::Us) => Ok(Region::Us),
        Ok(PbRegion::Eu) => Ok(Region::Eu),
        Ok(PbRegion::Unspecified) => Err(Problem::from("a region is needed").at(field)),
        Err(_) => Err(Problem::from("not a region that is known").at(field)),
    }
}

pub(super) fn plan(plan: Plan) -> PbPlan {
    match plan {
        Plan::Free => PbPlan::Free,
        Plan::Pro => PbPlan::Pro,
        Plan::Premium => PbPlan::Premium,
        Plan::Enterprise => PbPlan::Enterprise,
    }
}

pub(super) fn tenant(tenant: Tenant) -> pb::Tenant {
    let region = match tenant.region {
        Region::Us => PbRegion::Us,
        Region::Eu => PbRegion::Eu,
    };
    pb::Tenant {
        id: tenant.id.to_string(),
        name: tenant.name,
        region: region.into(),
        cell: tenant.cell,
        plan: plan(tenant.plan).into(),
        create_time: timestamp(tenant.created),
    }
}

pub(super) fn member(member: Member) -> pb::Member {
    let binding = |(pool, role): (types::PoolId, Role)| pb::RoleBinding {
        pool_id: pool.to_string(),
        role: pb_role(Some(role)),
    };
    pb::Member {
        frozen: member.frozen,
        user_id: member.user.to_string(),
        email: member.email,
        display_name: member.display_name,
        role: pb_role(member.role),
        bindings: member.bindings.into_iter().map(binding).collect(),
        create_time: timestamp(member.joined),
    }
}

pub(super) fn invitation(invitation: Invitation) -> pb::Invitation {
    pb::Invitation {
        id: invitation.id.to_string(),
        email: invitation.email,
        role: pb_role(Some(invitation.role)),
        pool_id: invitation.pool.map(|pool| pool.to_string()).unwrap_or_default(),
        invited_by: invitation.invited_by.to_string(),
        create_time: timestamp(invitation.created),
        expire_time: timestamp(invitation.expires),
    }
}

pub(super) fn pool(pool: Pool) -> pb::AgentPool {
    pb::AgentPool {
        id: pool.id.to_string(),
        name: pool.name,
        create_time: timestamp(pool.created),
    }
}

pub(super) fn agent(agent: Agent) -> pb::Agent {
    let (state, until, revoked) = match agent.state {
        State::Pending { until } => (pb::AgentState::Pending, timestamp(until), None),
        State::Enrolled => (pb::AgentState::Enrolled, None, None),
        State::Revoked { at } => (pb::AgentState::Revoked, None, timestamp(at)),
    };
    pb::Agent {
        frozen: agent.frozen,
        id: agent.id.to_string(),
        name: agent.name,
        pool_id: agent.pool.to_string(),
        state: state.into(),
        create_time: timestamp(agent.created),
        enrolment_expire_time: until,
        revoke_time: revoked,
    }
}

/// Reads a TLS mode; none is full verification.
pub(super) fn tls(number: i32) -> Result<Tls, Problem> {
    match pb::TlsMode::try_from(number) {
        Ok(pb::TlsMode::Unspecified | pb::TlsMode::VerifyIdentity) => Ok(Tls::VerifyIdentity),
        Ok(pb::TlsMode::VerifyCa) => Ok(Tls::VerifyCa),
        Ok(pb::TlsMode::Required) => Ok(Tls::Required),
        Ok(pb::TlsMode::Disabled) => Ok(Tls::Disabled),
        Err(_) => Err("not a TLS mode that is known".into()),
    }
}

/// Reads an engine; none is not known yet.
pub(super) fn engine(number: i32) -> Result<Option<Engine>, Problem> {
    match pb::Engine::try_from(number) {
        Ok(pb::Engine::Unspecified) => Ok(None),
        Ok(pb::Engine::Mysql) => Ok(Some(Engine::MySql)),
        Ok(pb::Engine::Mariadb) => Ok(Some(Engine::MariaDb)),
        Err(_) => Err("not an engine that is known".into()),
    }
}

pub(super) fn server(server: Server) -> pb::Server {
    let etag = server.etag();
    let tls = match server.said.tls {
        Tls::VerifyIdentity => pb::TlsMode::VerifyIdentity,
        Tls::VerifyCa => pb::TlsMode::VerifyCa,
        Tls::Required => pb::TlsMode::Required,
        Tls::Disabled => pb::TlsMode::Disabled,
    };
    let engine = match server.engine {
        None => pb::Engine::Unspecified,
        Some(Engine::MySql) => pb::Engine::Mysql,
        Some(Engine::MariaDb) => pb::Engine::Mariadb,
    };
    pb::Server {
        frozen: server.frozen,
        id: server.id.to_string(),
        name: server.said.name,
        host: server.said.host,
        port: i32::from(server.said.port),
        username: server.said.username,
        tls_mode: tls.into(),
        engine: engine.into(),
        pool_id: server.said.pool.to_string(),
        labels: server.said.labels.into_iter().collect(),
        create_time: timestamp(server.created),
        update_time: timestamp(server.updated),
        etag,
    }
}

/// Reads an effect that must be given.
pub(super) fn effect(number: i32) -> Result<Effect, Problem> {
    match pb::Effect::try_from(number) {
        Ok(pb::Effect::Allow) => Ok(Effect::Allow),
        Ok(pb::Effect::Deny) => Ok(Effect::Deny),
        Ok(pb::Effect::Unspecified) => Err("an effect is needed: allow or deny".into()),
        Err(_) => Err("not an effect that is known".into()),
    }
}

pub(super) fn rule(rule: Rule, created: Micros) -> pb::AccessRule {
    let effect = match rule.effect {
        Effect::Allow => pb::Effect::Allow,
        Effect::Deny => pb::Effect::Deny,
    };
    let target = rule.target;
    pb::AccessRule {
        id: rule.id.to_string(),
        role: pb_role(Some(target.role)),
        server_id: target.server.map(|server| server.to_string()).unwrap_or_default(),
        schema_name: target.schema.text().to_owned(),
        table_name: target.table.text().to_owned(),
        columns: target.columns.into_values().collect(),
        effect: effect.into(),
        create_time: timestamp(created),
    }
}

#[cfg(test)]
mod tests {
    use types::{Micros, Role};

    use super::{pb_role, region, role, timestamp};

    #[test]
    fn roles_go_out_and_come_back() {
        for known in Role::ALL {
            assert_eq!(role(pb_role(Some(*known)), "role"), Ok(*known));
        }
        for wrong in [0, -1, 6, i32::MAX] {
            assert_eq!(
                role(wrong, "rule.role").map_err(|e| e.field),
                Err("rule.role".into())
            );
            assert!(region(wrong, "region").is_err());
        }
    }

    #[test]
    fn times_before_the_epoch_have_positive_nanoseconds() {
        let time = timestamp(Micros(-1)).unwrap();
        assert_eq!((time.seconds, time.nanos), (-1, 999_999_000));
    }
}
