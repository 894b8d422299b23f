//! DirectoryService: what query and recovery are told of servers.

use chassis::{Peer, Runtime};
use proto::{
    common::v1::Role as PbRole,
    tenant::v1::{directory_service_client::DirectoryServiceClient, *},
};
use tonic::{Code, Request};
use types::{ServerId, TenantId};

use crate::world::{Caller, No, World};

struct Asked {
    client: DirectoryServiceClient<Peer>,
    _runtime: Runtime,
}

impl Asked {
    async fn resolve(&self, tenant: TenantId, server: &str) -> Result<ResolveServerResponse, No> {
        let wanted = ResolveServerRequest {
            tenant_id: tenant.to_string(),
            server: server.to_owned(),
        };
        let answer = self.client.clone().resolve_server(Request::new(wanted)).await;
        Ok(answer?.into_inner())
    }

    async fn access(&self, tenant: &str, role: PbRole) -> Result<Vec<AccessRule>, No> {
        let wanted = GetAccessRequest {
            tenant_id: tenant.to_owned(),
            role: role.into(),
        };
        let answer = self.client.clone().get_access(Request::new(wanted)).await;
        Ok(answer?.into_inner().rules)
    }
}

async fn asked(world: &World, service: &str) -> Asked {
    let (runtime, peer) = world.peer_of(service).await;
    Asked {
        client: DirectoryServiceClient::new(peer),
        _runtime: runtime,
    }
}

async fn rule(anna: &Caller<'_>, role: PbRole, server_id: &str, table: &str) -> AccessRule {
    let rule = AccessRule {
        role: role.into(),
        server_id: server_id.to_owned(),
        schema_name: "shop".to_owned(),
        table_name: table.to_owned(),
        columns: vec!["Card".to_owned()],
        effect: Effect::Deny.into(),
        ..AccessRule::default()
    };
    let made = anna.call(CreateAccessRuleRequest { rule: Some(rule) }).await;
    made.unwrap().rule.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_found_by_id_and_by_name_with_its_agents_and_rules() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let tenant = anna.tenant();
    let pool = anna.pool("eu").await;
    let server = anna.server("db", &pool).await;
    let other = anna.server("db-2", "").await;
    let mut agents = Vec::new();
    for name in ["a1", "a2", "a3", "a4", "a5"] {
        let pool = if name == "a5" { "" } else { &pool };
        agents.push(anna.agent(name, pool).await.agent.unwrap().id);
    }
    let schema = format!("t_{}", tenant.digits());
    let enrolled = "state = 'enrolled', enrolment_sha256 = NULL, enrolment_expire_time = NULL";
    for (agent, set) in [
        (&agents[0], enrolled.to_owned()),
        (&agents[1], enrolled.to_owned()),
        // Beyond the plan; the fourth is pending, the fifth of another pool.
        (&agents[2], format!("{enrolled}, frozen_time = now()")),
        (&agents[4], enrolled.to_owned()),
    ] {
        world
            .db
            .sql(&format!("UPDATE {schema}.agent SET {set} WHERE id = '{agent}'"));
    }
    let rules = [
        rule(&anna, PbRole::Analyst, &server.id, "orders").await,
        rule(&anna, PbRole::Viewer, "", "people").await,
    ];
    rule(&anna, PbRole::Analyst, &other.id, "orders").await;

    for service in ["query", "recovery"] {
        let asked = asked(&world, service).await;
        for name in [&server.id, &server.name] {
            let found = asked.resolve(tenant, name).await.unwrap();
            assert_eq!(found.server.as_ref(), Some(&server));
            assert_eq!(found.agent_ids, agents[..2]);
            assert_eq!(found.rules, rules);
        }
    }
    // A frozen one is told of, and says so.
    world.db.sql(&format!(
        "UPDATE {schema}.server SET frozen_time = now() WHERE id = '{}'",
        server.id
    ));
    let asked = asked(&world, "query").await;
    assert!(asked.resolve(tenant, "db").await.unwrap().server.unwrap().frozen);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_another_tenant_is_one_that_there_is_not() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let bert = world.owner("bert@example.com").await;
    let server = anna.server("db", "").await;
    let asked = asked(&world, "query").await;
    let fresh = ServerId::fresh().to_string();
    let mut answers = Vec::new();
    for name in [&*server.id, "db", "nothing", &*fresh, "", "srv_1", "'; --", "DB"] {
        let no = asked.resolve(bert.tenant(), name).await.unwrap_err();
        assert_eq!(
            (no.code, no.reason.as_str()),
            (Code::NotFound, "SERVER_NOT_FOUND"),
            "{name}"
        );
        answers.push(no.message);
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    let nonsense = ResolveServerRequest {
        tenant_id: "acme".to_owned(),
        server: "db".to_owned(),
    };
    let no = asked.client.clone().resolve_server(nonsense).await.unwrap_err();
    assert_eq!(No::from(no).reason, "TENANT_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_registered_server_has_the_rules_of_every_one() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let server = anna.server("db", "").await;
    let of_one = rule(&anna, PbRole::Analyst, &server.id, "orders").await;
    let wanted = rule(&anna, PbRole::Analyst, "", "people").await;
    rule(&anna, PbRole::Viewer, "", "people").await;
    let asked = asked(&world, "query").await;
    let tenant = anna.tenant().to_string();
    assert_eq!(
        asked.access(&tenant, PbRole::Analyst).await.unwrap(),
        [of_one, wanted]
    );
    for role in [PbRole::Owner, PbRole::Operator] {
        assert_eq!(asked.access(&tenant, role).await.unwrap(), []);
    }
    let no = asked.access(&tenant, PbRole::Unspecified).await.unwrap_err();
    assert_eq!((no.code, no.field.as_str()), (Code::InvalidArgument, "role"));
    let no = asked.access("acme", PbRole::Viewer).await.unwrap_err();
    assert_eq!(no.reason, "TENANT_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_but_query_and_recovery_asks() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    anna.server("db", "").await;
    for service in ["gateway", "auth", "vault"] {
        let asked = asked(&world, service).await;
        let no = asked.resolve(anna.tenant(), "db").await.unwrap_err();
        assert_eq!(no.reason, "CALLER_NOT_ALLOWED", "{service}");
    }
}
