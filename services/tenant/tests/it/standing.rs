//! What a caller is when the change happens counts, not what they were when the request began; and what is limited to pools changes
//! nothing of the whole tenant.

use proto::{common::v1::Role as PbRole, tenant::v1::*};
use tonic::Code;
use types::{PoolId, Role};

use crate::{
    rpc::Rpc,
    world::{Caller, No, World, new_server},
};

/// Ids of things there are, in the pool of that id.
struct Things {
    pool: String,
    server: String,
    agent: String,
    rule: String,
    invitation: String,
    member: String,
}

async fn things(world: &World, owner: &Caller<'_>) -> Things {
    let pool = owner.pool("eu").await;
    Things {
        server: owner.server("db", &pool).await.id,
        agent: owner.agent("a", &pool).await.agent.unwrap().id,
        rule: owner.deny("", "hr", "*").await.id,
        invitation: owner
            .invite("bert@example.com", PbRole::Viewer, "")
            .await
            .unwrap()
            .id,
        member: world
            .member(owner, Some(Role::Viewer), &[])
            .await
            .user()
            .to_string(),
        pool,
    }
}

async fn no<Q: Rpc>(who: &Caller<'_>, all: &mut Vec<(&'static str, No)>, request: Q) {
    all.push((Q::PATH, who.refused(request).await));
}

/// Every change that takes the whole tenant, and what `who` got for it.
async fn change_the_whole(who: &Caller<'_>, things: &Things) -> Vec<(&'static str, No)> {
    let mut asked = Vec::new();
    let all = &mut asked;
    let (user_id, pool_id) = (things.member.clone(), things.pool.clone());
    let role = PbRole::Viewer.into();
    let rule = |server_id: &str| AccessRule {
        role,
        server_id: server_id.to_owned(),
        schema_name: "*".to_owned(),
        table_name: "*".to_owned(),
        effect: Effect::Deny.into(),
        ..AccessRule::default()
    };
    for server in ["", things.server.as_str()] {
        let rule = Some(rule(server));
        no(who, all, CreateAccessRuleRequest { rule }).await;
    }
    let rule_id = things.rule.clone();
    no(who, all, DeleteAccessRuleRequest { rule_id }).await;
    let name = "new".to_owned();
    no(who, all, CreateAgentPoolRequest { name }).await;
    let delete = DeleteAgentPoolRequest {
        pool_id: pool_id.clone(),
    };
    no(who, all, delete).await;
    let set = SetMemberRoleRequest {
        user_id: user_id.clone(),
        role,
    };
    no(who, all, set).await;
    let bind = BindRoleRequest {
        user_id: user_id.clone(),
        pool_id: pool_id.clone(),
        role,
    };
    no(who, all, bind).await;
    let unbind = UnbindRoleRequest {
        user_id: user_id.clone(),
        pool_id,
    };
    no(who, all, unbind).await;
    no(who, all, RemoveMemberRequest { user_id }).await;
    let invite = InviteMemberRequest {
        email: "x@example.com".to_owned(),
        role,
        pool_id: String::new(),
    };
    no(who, all, invite).await;
    let invitation_id = things.invitation.clone();
    no(who, all, RevokeInvitationRequest { invitation_id }).await;
    let rename = UpdateTenantRequest {
        tenant: Some(Tenant {
            name: "Mine".to_owned(),
            ..Tenant::default()
        }),
        update_mask: None,
    };
    no(who, all, rename).await;
    asked
}

/// Every change of things of one pool, and what `who` got for it.
async fn change_in_the_pool(who: &Caller<'_>, things: &Things) -> Vec<(&'static str, No)> {
    let mut asked = Vec::new();
    let all = &mut asked;
    let (pool_id, agent_id, server_id) = (things.pool.clone(), things.agent.clone(), things.server.clone());
    let create = CreateAgentRequest {
        name: "new".to_owned(),
        pool_id: pool_id.clone(),
    };
    no(who, all, create).await;
    let renew = RenewEnrolmentRequest {
        agent_id: agent_id.clone(),
    };
    no(who, all, renew).await;
    no(who, all, RevokeAgentRequest { agent_id }).await;
    let register = RegisterServerRequest {
        server: Some(Server {
            pool_id,
            ..new_server("new")
        }),
        ..Default::default()
    };
    no(who, all, register).await;
    let update = UpdateServerRequest {
        server: Some(Server {
            id: server_id.clone(),
            port: 1,
            ..Server::default()
        }),
        update_mask: None,
    };
    no(who, all, update).await;
    no(who, all, DeleteServerRequest { server_id }).await;
    asked
}

fn all_are(refusals: &[(&'static str, No)], reason: &str) {
    for (path, no) in refusals {
        assert_eq!(
            (no.code, no.reason.as_str()),
            (Code::PermissionDenied, reason),
            "{path}"
        );
    }
}

fn sql(world: &World, who: &Caller<'_>, statement: &str) {
    world
        .db
        .sql(&format!("{statement} WHERE user_id = '{}'", who.user()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_request_of_somebody_demoted_or_removed_changes_nothing() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let things = things(&world, &anna).await;
    let late = world.member(&anna, Some(Role::Owner), &[]).await;
    let key = late.key(&[
        "servers:manage",
        "agents:manage",
        "members:manage",
        "access:manage",
        "tenant:manage",
    ]);
    for (statement, reason) in [
        ("UPDATE tenant.member SET role = 'analyst'", "ROLE_TOO_LOW"),
        ("UPDATE tenant.member SET role = NULL", "ROLE_TOO_LOW"),
        ("DELETE FROM tenant.member", "NOT_A_MEMBER"),
    ] {
        sql(&world, &late, statement);
        for who in [&late, &key] {
            all_are(&change_the_whole(who, &things).await, reason);
            all_are(&change_in_the_pool(who, &things).await, reason);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_in_a_pool_that_was_taken_is_gone_at_once_and_the_others_stay() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let (eu, us) = (anna.pool("eu").await, anna.pool("us").await);
    let (mine, other) = (
        anna.server("mine", &eu).await.id,
        anna.server("other", &us).await.id,
    );
    let both = [(eu.as_str(), Role::Operator), (us.as_str(), Role::Operator)];
    let bert = world.member(&anna, Some(Role::Viewer), &both).await;
    let delete = |server_id: &str| DeleteServerRequest {
        server_id: server_id.to_owned(),
    };
    world
        .db
        .sql(&format!("DELETE FROM tenant.binding WHERE pool_id = '{us}'"));
    assert_eq!(bert.refused(delete(&other)).await.reason, "SERVER_NOT_FOUND");
    bert.call(delete(&mine)).await.unwrap();
    world.db.sql("UPDATE tenant.binding SET role = 'viewer'");
    let register = RegisterServerRequest {
        server: Some(Server {
            pool_id: eu,
            ..new_server("new")
        }),
        ..Default::default()
    };
    assert_eq!(bert.refused(register).await.reason, "ROLE_TOO_LOW");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_who_was_limited_to_a_pool_since_still_acts_there() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let (eu, us) = (anna.pool("eu").await, anna.pool("us").await);
    let late = world.member(&anna, Some(Role::Owner), &[]).await;
    let (tenant, user) = (anna.tenant(), late.user());
    sql(&world, &late, "UPDATE tenant.member SET role = NULL");
    world.db.sql(&format!(
        "INSERT INTO tenant.binding VALUES ('{tenant}', '{user}', '{eu}', 'operator')"
    ));
    late.server("db", &eu).await;
    let register = RegisterServerRequest {
        server: Some(Server {
            pool_id: us,
            ..new_server("new")
        }),
        ..Default::default()
    };
    assert_eq!(late.refused(register).await.reason, "POOL_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_limited_to_a_pool_changes_and_lists_nothing_of_the_whole_tenant() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let things = things(&world, &anna).await;
    let mut key = anna.key(&[
        "tenant:view",
        "agents:manage",
        "members:manage",
        "access:manage",
        "tenant:manage",
    ]);
    let pool: PoolId = things.pool.parse().unwrap();
    let seat = key.context.seat.as_mut().unwrap();
    (seat.role, seat.pools) = (None, [(pool, Role::Admin)].into());
    all_are(&change_the_whole(&key, &things).await, "ROLE_TOO_LOW");
    let no = key.refused(ListInvitationsRequest::default()).await;
    assert_eq!(no.reason, "ROLE_TOO_LOW");
    // What it is for, it does; the rules of its pool's servers and of all servers, it reads.
    key.agent("mine", &things.pool).await;
    let rules = key.call(ListAccessRulesRequest::default()).await.unwrap().rules;
    assert_eq!(rules.len(), 1);
}
