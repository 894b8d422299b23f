//! How following goes, and what is known of a server whose agent is away.

use proto::query::v1 as pb;
use tonic::Code;
use types::Role;

use crate::{
    pages::shop,
    world::{World, eventually},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_agent_is_away_has_its_last_numbers() {
    let mut world = World::new().await;
    let store = shop(&world);
    let server = world.server(store.path(), &[]);
    world.connect().await;
    let viewer = world.person(Role::Viewer);
    let asked = pb::GetServerStatusRequest {
        server: server.clone(),
    };
    let live = world.ask(&viewer, asked.clone()).await.unwrap();
    assert!(live.agent_connected && live.agent_id == world.agent.to_string());
    assert!(!live.agent_version.is_empty() && live.agent_start_time.is_some());
    assert_eq!(live.state.as_ref().unwrap().changes, 6);
    let schema = world.schema();
    eventually("numbers of both tables", async || {
        let rows = world.db.sql(&format!(
            "SELECT schema_name, table_name, inserts, updates, deletes FROM {schema}.table_statistics ORDER BY 1"
        ));
        (rows == "hr|pay|1|1|0\nshop|orders|2|2|0").then_some(())
    })
    .await;
    world.hang_up();
    let last = eventually("the agent to be away", async || {
        let answer = world.ask(&viewer, asked.clone()).await.ok()?;
        (!answer.agent_connected).then_some(answer)
    })
    .await;
    assert_eq!(last.agent_id, world.agent.to_string());
    assert_eq!(last.state.unwrap().changes, 6);
    assert!(last.agent_last_seen_time.is_some() && last.agent_start_time.is_some());
    let asked = pb::ListTablesRequest { server };
    let no = world.ask(&world.person(Role::Analyst), asked).await.unwrap_err();
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::Unavailable, "AGENT_NOT_CONNECTED")
    );
    assert!(no.message.contains("it was last seen at 20"), "{}", no.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_no_agent_was_seen_for_says_so() {
    let world = World::new().await;
    let server = world.server(world.folder.path().join("nothing"), &[]);
    let asked = pb::GetServerStatusRequest {
        server: server.clone(),
    };
    let answer = world.ask(&world.person(Role::Viewer), asked).await.unwrap();
    assert_eq!(answer.server_id, server);
    assert!(!answer.agent_connected && answer.state.is_none() && answer.agent_last_seen_time.is_none());
    let asked = pb::GetCoverageRequest { server };
    let no = world.ask(&world.person(Role::Viewer), asked).await.unwrap_err();
    assert_eq!(no.reason, "AGENT_NOT_CONNECTED");
    assert!(no.message.contains("not been seen"), "{}", no.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_of_a_server_has_no_value_of_a_row_and_only_its_own_agent_reports_it() {
    let mut world = World::new().await;
    let store = shop(&world);
    let server = world.server(store.path(), &[]);
    // Of another pool: the agent follows it and is not told of it.
    let other = world.server(store.path(), &[]);
    let staying = world.server(store.path(), &[]);
    world
        .neighbours
        .change(world.tenant, &other, |known| known.agent_ids.clear());
    world.connect().await;
    let schema = world.schema();
    let kept = eventually("numbers", async || {
        let rows = world.db.sql(&format!("SELECT s.*, t.* FROM {schema}.server_statistics s JOIN {schema}.table_statistics t USING (server_id)"));
        (rows.lines().count() == 4).then_some(rows)
    })
    .await;
    assert!(kept.contains(&server) && !kept.contains(&other));
    let text = world.db.sql(&format!(
        "SELECT encode(state, 'escape') FROM {schema}.server_statistics"
    ));
    assert!(!kept.contains("canary") && !text.contains("canary"));
    // A server that goes takes its numbers with it, sooner or later.
    world.neighbours.forget(world.tenant, &server);
    eventually("its numbers to be forgotten", async || {
        let rows = world.db.sql(&format!(
            "SELECT DISTINCT server_id FROM {schema}.table_statistics"
        ));
        (rows == staying).then_some(())
    })
    .await;
}
