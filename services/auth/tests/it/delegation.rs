//! What service query asks: a delegation for an agent, on behalf of whoever a context token names.

use chassis::token::{KeySet, VerifyingKey};
use proto::{
    auth::v1::{self as pb, guard_service_client::GuardServiceClient},
    common::v1::Role,
};
use tonic::{Code, Status};
use types::{AgentId, Region, ServerId, Subject, TenantId};

use crate::{
    actor::{claims, key_of, refusal},
    world::{Replica, World, as_caller, request},
};

const CHANGES: &str = "/trailmesh.agent.v1.AgentService/Changes";
const STATUS: &str = "/trailmesh.agent.v1.AgentService/Status";
const PLAN: &str = "/trailmesh.agent.v1.AgentService/PlanUndo";

/// A server, and an agent that serves in its pool.
#[derive(Clone)]
struct Place {
    tenant: String,
    server: String,
    agent: String,
}

impl World {
    /// A server and an agent in a pool of a tenant.
    fn place(&self, tenant: &str, pool: &str) -> Place {
        let schema = tenant.replace("tnt_", "t_");
        let there = format!("SELECT to_regnamespace('{schema}') IS NOT NULL");
        if self.database.sql(&there) == "f" {
            // In one message: a transaction enters with its beginning.
            self.database.sql(&format!(
                "SELECT trailmesh.enter('shared', '-'); SELECT trailmesh.create_tenant_schema('{schema}')"
            ));
        }
        let (server, agent) = (ServerId::fresh(), AgentId::fresh());
        self.database.sql(&format!(
            "INSERT INTO {schema}.server (id, name, host, port, username, tls_mode, pool_id)
             VALUES ('{server}', '{server}', 'db1', 3306, 'trail', 'required', '{pool}');
             INSERT INTO {schema}.agent (id, name, pool_id, state) VALUES ('{agent}', '{agent}', '{pool}', 'enrolled')"
        ));
        Place {
            tenant: tenant.to_owned(),
            server: server.to_string(),
            agent: agent.to_string(),
        }
    }

    /// The same in a pool that nobody has a role in.
    fn a_place(&self, tenant: &str) -> Place {
        let pool = self.new_pool(tenant);
        self.place(tenant, &pool)
    }

    /// Gives a person a role in a pool.
    fn bind(&self, tenant: &str, user: &str, pool: &str, role: &str) {
        self.database.sql(&format!(
            "INSERT INTO tenant.binding (tenant_id, user_id, pool_id, role) VALUES ('{tenant}', '{user}', '{pool}', '{role}')"
        ));
    }
}

impl Place {
    fn schema(&self) -> String {
        self.tenant.replace("tnt_", "t_")
    }
}

impl Replica {
    async fn delegate(
        &self,
        context: &str,
        place: &Place,
        method: &str,
    ) -> Result<pb::DelegateResponse, Status> {
        let wanted = pb::DelegateRequest {
            context_token: context.to_owned(),
            agent_id: place.agent.clone(),
            method: method.to_owned(),
            server_id: place.server.clone(),
        };
        let mut guard = GuardServiceClient::new(self.query.clone());
        Ok(guard.delegate(request(wanted)).await?.into_inner())
    }

    /// As an agent has them: by the key set that auth publishes.
    async fn key_set(&self) -> KeySet {
        let answer = self.guard().get_key_set(request(pb::GetKeySetRequest {})).await;
        let keys = answer
            .unwrap()
            .into_inner()
            .keys
            .into_iter()
            .map(|key| VerifyingKey {
                kid: key.kid,
                ed25519: key.ed25519.as_ref().try_into().unwrap(),
            });
        let set = KeySet::new(Region::Eu);
        set.replace(keys.collect());
        set
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_verifies_itself_on_whose_behalf_it_is_asked() {
    let world = World::new().await;
    let actor = world.member("analyst").await;
    let place = world.a_place(&actor.tenant);
    let (agent, tenant): (AgentId, TenantId) = (place.agent.parse().unwrap(), actor.tenant.parse().unwrap());
    let answer = world
        .auth
        .delegate(&actor.context, &place, CHANGES)
        .await
        .unwrap();
    let keys = world.auth.key_set().await;
    let read = |agent, method| keys.delegation(&answer.delegation_token, tenant, agent, method);
    let who = read(agent, CHANGES).unwrap();
    assert_eq!(who.subject.user().to_string(), actor.id);
    assert!(matches!(who.subject, Subject::Person { .. }));
    assert_eq!(who.server.to_string(), place.server);
    assert_eq!(who.expires, answer.expire_time.unwrap().seconds);
    assert!(read(AgentId::fresh(), CHANGES).is_err() && read(agent, STATUS).is_err());
    // It ends with the context that it was made under.
    let ends = claims(&actor.context)["exp"].as_i64().unwrap();
    assert!(who.expires <= ends, "{} after {ends}", who.expires);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_and_key_is_delegated_what_it_may_ask_for() {
    let world = World::new().await;
    for (role, served) in [
        ("viewer", &[STATUS][..]),
        ("analyst", &[STATUS, CHANGES]),
        ("operator", &[STATUS, CHANGES, PLAN]),
        ("owner", &[STATUS, CHANGES, PLAN]),
    ] {
        let actor = world.member(role).await;
        let place = world.a_place(&actor.tenant);
        for method in [STATUS, CHANGES, PLAN] {
            let outcome = world.auth.delegate(&actor.context, &place, method).await;
            if served.contains(&method) {
                outcome.unwrap();
            } else {
                assert_eq!(
                    refusal(outcome),
                    (Code::PermissionDenied, "ROLE_TOO_LOW".to_owned()),
                    "{role}"
                );
            }
        }
    }
    let owner = world.member("owner").await;
    let place = world.a_place(&owner.tenant);
    let key = pb::CreateApiKeyRequest {
        scopes: vec!["changes:query".to_owned()],
        ..key_of(Role::Operator)
    };
    let key = world.key(&owner, key).await.unwrap().secret;
    let context = world.auth.key_context(&key).await.unwrap();
    let made = world.auth.delegate(&context, &place, CHANGES).await.unwrap();
    let says = claims(&made.delegation_token);
    assert_eq!(says["key"], claims(&context)["key"]);
    assert_eq!(
        refusal(world.auth.delegate(&context, &place, PLAN).await),
        (Code::PermissionDenied, "SCOPE_MISSING".to_owned())
    );
    // For no tenant.
    let nobody = world.actor().await;
    assert_eq!(
        refusal(world.auth.delegate(&nobody.context, &place, STATUS).await).1,
        "ROLE_TOO_LOW"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_role_in_the_pool_of_the_server_counts() {
    let world = World::new().await;
    let mut actor = world.actor().await;
    let tenant = world.new_tenant();
    let [own, lower, other] = [(); 3].map(|()| world.new_pool(&tenant));
    world.database.sql(&format!(
        "INSERT INTO tenant.member (tenant_id, user_id) VALUES ('{tenant}', '{}')",
        actor.id
    ));
    world.bind(&tenant, &actor.id, &own, "operator");
    world.bind(&tenant, &actor.id, &lower, "viewer");
    actor.context = world.auth.context(&actor.access).await.unwrap();
    let [own, lower, other] = [own, lower, other].map(|pool| world.place(&tenant, &pool));
    for method in [STATUS, CHANGES, PLAN] {
        world.auth.delegate(&actor.context, &own, method).await.unwrap();
        assert_eq!(
            refusal(world.auth.delegate(&actor.context, &other, method).await),
            (Code::NotFound, "SERVER_NOT_FOUND".to_owned()),
            "{method}"
        );
    }
    world.auth.delegate(&actor.context, &lower, STATUS).await.unwrap();
    for method in [CHANGES, PLAN] {
        assert_eq!(
            refusal(world.auth.delegate(&actor.context, &lower, method).await),
            (Code::PermissionDenied, "ROLE_TOO_LOW".to_owned()),
            "{method}"
        );
    }
    // A role in the whole tenant counts in every pool, together with what is higher there.
    world.seat(&tenant, &actor.id, Some("analyst"));
    let context = world.auth.context(&actor.access).await.unwrap();
    for (place, served) in [(&own, 3), (&lower, 2), (&other, 2)] {
        let mut count = 0;
        for method in [STATUS, CHANGES, PLAN] {
            count += usize::from(world.auth.delegate(&context, place, method).await.is_ok());
        }
        assert_eq!(count, served);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_delegated_questions_about_servers_of_its_pool_while_it_serves_there() {
    let world = World::new().await;
    let owner = world.member("owner").await;
    let (place, other) = (world.a_place(&owner.tenant), world.a_place(&owner.tenant));
    let stranger = world.member("owner").await;
    let theirs = world.a_place(&stranger.tenant);
    let refused = async |server: &Place, agent: &Place| {
        let place = Place {
            agent: agent.agent.clone(),
            ..server.clone()
        };
        refusal(world.auth.delegate(&owner.context, &place, CHANGES).await)
    };
    let no = |reason: &str| (Code::NotFound, reason.to_owned());
    assert_eq!(refused(&place, &other).await, no("AGENT_NOT_FOUND"));
    assert_eq!(refused(&place, &theirs).await, no("AGENT_NOT_FOUND"));
    assert_eq!(refused(&theirs, &theirs).await, no("SERVER_NOT_FOUND"));
    assert_eq!(refused(&theirs, &place).await, no("SERVER_NOT_FOUND"));
    // Nothing of it is remembered: what changed counts with the next question.
    world
        .auth
        .delegate(&owner.context, &place, CHANGES)
        .await
        .unwrap();
    let schema = place.schema();
    for (change, back, reason) in [
        (
            "agent SET frozen_time = now()",
            "agent SET frozen_time = NULL",
            "AGENT_NOT_FOUND",
        ),
        (
            "server SET frozen_time = now()",
            "server SET frozen_time = NULL",
            "SERVER_NOT_FOUND",
        ),
    ] {
        world.database.sql(&format!(
            "UPDATE {schema}.{change} WHERE id IN ('{}', '{}')",
            place.server, place.agent
        ));
        assert_eq!(refused(&place, &place).await, no(reason), "{change}");
        world.database.sql(&format!("UPDATE {schema}.{back}"));
        world
            .auth
            .delegate(&owner.context, &place, CHANGES)
            .await
            .unwrap();
    }
    world.database.sql(&format!(
        "UPDATE {schema}.server SET pool_id = (SELECT pool_id FROM {schema}.agent WHERE id = '{}') WHERE id = '{}'",
        other.agent, place.server
    ));
    assert_eq!(refused(&place, &place).await, no("AGENT_NOT_FOUND"));
    world.database.sql(&format!(
        "UPDATE {schema}.agent SET state = 'revoked', revoke_time = now() WHERE id = '{}'",
        other.agent
    ));
    assert_eq!(refused(&other, &other).await, no("AGENT_NOT_FOUND"));
    // A schema that is closed, because its tenant is being deleted, is as good as gone.
    world.database.sql(&format!(
        "UPDATE trailmesh.tenant_schemas SET state = 'closed' WHERE name = '{schema}'"
    ));
    assert_eq!(refused(&other, &other).await, no("SERVER_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_signed_out_is_delegated_nothing_though_the_context_lives() {
    let world = World::new().await;
    let actor = world.member("analyst").await;
    let place = world.a_place(&actor.tenant);
    world
        .auth
        .delegate(&actor.context, &place, CHANGES)
        .await
        .unwrap();
    world
        .auth
        .sessions()
        .log_out(as_caller(pb::LogOutRequest {}, &actor.context))
        .await
        .unwrap();
    assert_eq!(
        refusal(world.auth.delegate(&actor.context, &place, CHANGES).await),
        (Code::Unauthenticated, "CONTEXT_INVALID".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_than_a_context_an_agent_and_its_method_is_delegated() {
    let world = World::new().await;
    let actor = world.member("owner").await;
    let place = world.a_place(&actor.tenant);
    let agent = place.agent.clone();
    let good = world
        .auth
        .delegate(&actor.context, &place, CHANGES)
        .await
        .unwrap();
    let grant = world.auth.step_up(&actor.context, "").await.unwrap();
    for (context, agent, method, wanted) in [
        ("", &*agent, CHANGES, "CONTEXT_INVALID"),
        (&*actor.access, &*agent, CHANGES, "CONTEXT_INVALID"),
        (&*grant, &*agent, CHANGES, "CONTEXT_INVALID"),
        (&*good.delegation_token, &*agent, CHANGES, "CONTEXT_INVALID"),
        (
            &*format!("{}A", actor.context),
            &*agent,
            CHANGES,
            "CONTEXT_INVALID",
        ),
        (&*actor.context, "agt_1", CHANGES, "ID_INVALID"),
        (&*actor.context, "", CHANGES, "ID_INVALID"),
        (&*actor.context, &*actor.tenant, CHANGES, "ID_INVALID"),
        (&*actor.context, &*agent, "", "METHOD_NOT_DELEGATED"),
        (
            &*actor.context,
            &*agent,
            "/trailmesh.agent.v1.AgentService/Hello",
            "METHOD_NOT_DELEGATED",
        ),
        (
            &*actor.context,
            &*agent,
            "/trailmesh.query.v1.QueryService/QueryChanges",
            "METHOD_NOT_DELEGATED",
        ),
    ] {
        let place = Place {
            agent: agent.to_owned(),
            ..place.clone()
        };
        let refused = refusal(world.auth.delegate(context, &place, method).await);
        assert_eq!(refused.1, wanted, "{agent} {method}");
    }
    // Nobody but service query asks.
    let wanted = pb::DelegateRequest {
        context_token: actor.context.clone(),
        agent_id: agent,
        method: CHANGES.to_owned(),
        server_id: place.server,
    };
    for peer in [&world.auth.gateway, &world.auth.tenant] {
        let outcome = GuardServiceClient::new(peer.clone())
            .delegate(request(wanted.clone()))
            .await;
        assert_eq!(refusal(outcome).1, "CALLER_NOT_ALLOWED");
    }
}
