//! AgentPoolService.

use proto::{common::v1::Role as PbRole, tenant::v1::*};
use tonic::Code;
use types::{PoolId, Role};

use crate::world::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pools_are_made_and_listed_by_name() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    for name in ["us-west", "eu", "z"] {
        anna.pool(name).await;
    }
    let mut names = Vec::new();
    let mut token = String::new();
    loop {
        let request = ListAgentPoolsRequest {
            page_size: 2,
            page_token: token,
        };
        let page = anna.call(request).await.unwrap();
        names.extend(page.pools.into_iter().map(|pool| pool.name));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["default", "eu", "us-west", "z"]);
    let no = anna.refused(CreateAgentPoolRequest { name: "eu".into() }).await;
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::AlreadyExists, "POOL_NAME_TAKEN")
    );
    for bad in ["", "EU", "1", "a b", &"a".repeat(64)] {
        let no = anna.refused(CreateAgentPoolRequest { name: bad.into() }).await;
        assert_eq!(
            (no.code, no.field.as_str()),
            (Code::InvalidArgument, "name"),
            "{bad}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_pool_goes_with_its_bindings_and_invitations() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let pool_id = anna.pool("eu").await;
    world.member(&anna, None, &[(&pool_id, Role::Viewer)]).await;
    anna.invite("bert@example.com", PbRole::Viewer, &pool_id)
        .await
        .unwrap();
    let delete = DeleteAgentPoolRequest { pool_id };
    anna.call(delete.clone()).await.unwrap();
    assert_eq!(world.db.sql("SELECT count(*) FROM tenant.binding"), "0");
    assert_eq!(
        anna.call(ListInvitationsRequest::default())
            .await
            .unwrap()
            .invitations,
        []
    );
    let no = anna.refused(delete).await;
    assert_eq!((no.code, no.reason.as_str()), (Code::NotFound, "POOL_NOT_FOUND"));
    let unknown = DeleteAgentPoolRequest {
        pool_id: PoolId::fresh().to_string(),
    };
    assert_eq!(anna.refused(unknown).await, no);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_with_servers_or_living_agents_stays() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let pool_id = anna.pool("eu").await;
    let delete = DeleteAgentPoolRequest {
        pool_id: pool_id.clone(),
    };
    let server_id = anna.server("db", &pool_id).await.id;
    let no = anna.refused(delete.clone()).await;
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::FailedPrecondition, "POOL_IN_USE")
    );
    anna.call(DeleteServerRequest { server_id }).await.unwrap();
    let agent_id = anna.agent("a", &pool_id).await.agent.unwrap().id;
    assert_eq!(anna.refused(delete.clone()).await.reason, "POOL_IN_USE");
    anna.call(RevokeAgentRequest { agent_id }).await.unwrap();
    anna.call(delete).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_limited_to_pools_lists_these() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let eu = anna.pool("eu").await;
    anna.pool("us").await;
    let bert = world.member(&anna, None, &[(&eu, Role::Viewer)]).await;
    let pools = bert.call(ListAgentPoolsRequest::default()).await.unwrap().pools;
    assert_eq!(
        pools.iter().map(|pool| pool.id.as_str()).collect::<Vec<_>>(),
        [eu.as_str()]
    );
}
