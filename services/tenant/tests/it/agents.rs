//! AgentService.

use proto::tenant::v1::*;
use tonic::Code;
use types::{AgentId, PoolId, Role};

use crate::world::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_is_made_with_a_token_that_is_shown_once() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let made = anna.agent("a1", "").await;
    let agent = made.agent.unwrap();
    assert_eq!((agent.name.as_str(), agent.state()), ("a1", AgentState::Pending));
    let hours = agent.enrolment_expire_time.unwrap().seconds - agent.create_time.unwrap().seconds;
    assert_eq!(hours, 24 * 3_600);
    let token = made.enrolment_token;
    assert!(token.starts_with("bt_enrol_") && token.len() == 9 + 38);
    let schema = format!("t_{}", anna.tenant().digits());
    let kept = world.db.sql(&format!(
        "SELECT encode(enrolment_sha256, 'hex') FROM {schema}.agent"
    ));
    let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
    assert_eq!(
        kept,
        digest
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    );
    let agent_id = agent.id.clone();
    assert_eq!(
        anna.call(GetAgentRequest { agent_id }).await.unwrap().agent,
        Some(agent)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_token_voids_the_old_one() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let made = anna.agent("a1", "").await;
    let agent_id = made.agent.unwrap().id;
    let renewed = anna
        .call(RenewEnrolmentRequest {
            agent_id: agent_id.clone(),
        })
        .await
        .unwrap();
    assert_ne!(renewed.enrolment_token, made.enrolment_token);
    let schema = format!("t_{}", anna.tenant().digits());
    assert_eq!(world.db.sql(&format!("SELECT count(*) FROM {schema}.agent")), "1");
    world.db.sql(&format!(
        "UPDATE {schema}.agent SET state = 'enrolled', enrolment_sha256 = NULL, enrolment_expire_time = NULL"
    ));
    let get = || GetAgentRequest {
        agent_id: agent_id.clone(),
    };
    let agent = anna.call(get()).await.unwrap().agent.unwrap();
    assert_eq!(
        (agent.state(), agent.enrolment_expire_time),
        (AgentState::Enrolled, None)
    );
    // One that has enrolled comes back as who it was.
    let again = anna
        .call(RenewEnrolmentRequest {
            agent_id: agent_id.clone(),
        })
        .await
        .unwrap();
    assert_ne!(again.enrolment_token, renewed.enrolment_token);
    let agent = anna.call(get()).await.unwrap().agent;
    assert_eq!(agent, again.agent);
    assert_eq!(agent.unwrap().state(), AgentState::Pending);
    anna.call(RevokeAgentRequest {
        agent_id: agent_id.clone(),
    })
    .await
    .unwrap();
    let no = anna.refused(RenewEnrolmentRequest { agent_id }).await;
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::FailedPrecondition, "AGENT_REVOKED")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoking_is_for_good_and_can_be_repeated_and_gives_the_name_back() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let agent_id = anna.agent("a1", "").await.agent.unwrap().id;
    let taken = anna
        .refused(CreateAgentRequest {
            name: "a1".into(),
            pool_id: String::new(),
        })
        .await;
    assert_eq!(
        (taken.code, taken.reason.as_str()),
        (Code::AlreadyExists, "AGENT_NAME_TAKEN")
    );
    let revoke = RevokeAgentRequest { agent_id };
    let first = anna.call(revoke.clone()).await.unwrap();
    assert_eq!(first.agent.as_ref().unwrap().state(), AgentState::Revoked);
    assert!(first.agent.as_ref().unwrap().revoke_time.is_some());
    assert_eq!(anna.call(revoke).await.unwrap(), first);
    anna.agent("a1", "").await;
    assert_eq!(
        anna.call(ListAgentsRequest::default())
            .await
            .unwrap()
            .agents
            .len(),
        2
    );
    let schema = format!("t_{}", anna.tenant().digits());
    world.db.sql(&format!(
        "UPDATE {schema}.agent SET revoke_time = now() - interval '31 days' WHERE state = 'revoked'"
    ));
    assert_eq!(
        anna.call(ListAgentsRequest::default())
            .await
            .unwrap()
            .agents
            .len(),
        1
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_are_listed_by_name_and_pool() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let (eu, us) = (anna.pool("eu").await, anna.pool("us").await);
    for (name, pool) in [("c", &eu), ("a", &eu), ("b", &us)] {
        anna.agent(name, pool).await;
    }
    let list = |pool_id: &str, page_token: &str| ListAgentsRequest {
        page_size: 1,
        page_token: page_token.to_owned(),
        pool_id: pool_id.to_owned(),
    };
    let first = anna.call(list(&eu, "")).await.unwrap();
    let second = anna.call(list(&eu, &first.next_page_token)).await.unwrap();
    assert_eq!(
        (first.agents[0].name.as_str(), second.agents[0].name.as_str()),
        ("a", "c")
    );
    assert_eq!(second.next_page_token, "");
    let no = anna.refused(list(&us, &first.next_page_token)).await;
    assert_eq!(
        (no.code, no.field.as_str()),
        (Code::InvalidArgument, "page_token")
    );
    assert_eq!(
        anna.refused(list(&PoolId::fresh().to_string(), "")).await.reason,
        "POOL_NOT_FOUND"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_limited_to_a_pool_sees_its_agents_only() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let (eu, us) = (anna.pool("eu").await, anna.pool("us").await);
    let mine = anna.agent("mine", &eu).await.agent.unwrap();
    let other = anna.agent("other", &us).await.agent.unwrap();
    let bert = world.member(&anna, None, &[(&eu, Role::Operator)]).await;
    let seen = bert.call(ListAgentsRequest::default()).await.unwrap().agents;
    assert_eq!(seen, std::slice::from_ref(&mine));
    assert!(bert.call(GetAgentRequest { agent_id: mine.id }).await.is_ok());
    let hidden = bert.refused(GetAgentRequest { agent_id: other.id }).await;
    let unknown = bert
        .refused(GetAgentRequest {
            agent_id: AgentId::fresh().to_string(),
        })
        .await;
    assert_eq!(hidden, unknown);
    assert_eq!(
        (hidden.code, hidden.reason.as_str()),
        (Code::NotFound, "AGENT_NOT_FOUND")
    );
    let list = |pool_id: String| ListAgentsRequest {
        pool_id,
        ..ListAgentsRequest::default()
    };
    assert_eq!(
        bert.refused(list(us)).await,
        bert.refused(list(PoolId::fresh().to_string())).await
    );
    assert_eq!(
        bert.refused(RenewEnrolmentRequest {
            agent_id: String::new()
        })
        .await
        .reason,
        "ROLE_TOO_LOW"
    );
}
