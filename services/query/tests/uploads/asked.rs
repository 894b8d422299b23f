//! What recovery asks of an upload, through the hub.

use proto::{agent::v1 as agent, change::v1 as change};
use testkit::Engine;
use types::Role;

use crate::{logs::Log, world::World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undo_is_planned_over_an_upload() {
    let world = World::new().await;
    let replica = world.replica().await;
    let operator = world.person(Role::Operator);
    for engine in Engine::ALL {
        let log = Log::record(engine, "");
        let upload = replica.upload(&operator, engine.name(), log.named()).await;
        let request = agent::PlanUndoRequest {
            server_id: upload.clone(),
            filter: Some(change::Filter {
                tables: vec![change::TableFilter {
                    schema: log.schema.clone(),
                    table: "orders".to_owned(),
                }],
                keys: vec!["8".to_owned()],
                ops: vec![change::Op::Delete.into()],
                ..change::Filter::default()
            }),
            script: true,
            ..agent::PlanUndoRequest::default()
        };
        let answer: Vec<agent::PlanUndoResponse> = replica
            .relay(&operator, &upload, "PlanUndo", &request)
            .await
            .unwrap();
        use agent::plan_undo_response::Part;
        let (mut script, mut summary, mut dialect) = (Vec::new(), None, String::new());
        for part in answer.into_iter().filter_map(|message| message.part) {
            match part {
                Part::Script(bytes) => script.extend(bytes),
                Part::Head(head) => (summary, dialect) = (head.summary, head.dialect),
                Part::Conflict(_) | Part::End(_) => {}
            }
        }
        let summary = summary.unwrap();
        assert_eq!((summary.changes, summary.included), (1, 1), "{summary:?}");
        assert_eq!(dialect, if engine.is_mariadb() { "mariadb" } else { "mysql" });
        let script = String::from_utf8(script).unwrap();
        assert!(
            script.contains("INSERT INTO") && script.contains(&log.schema),
            "{script}"
        );
        // Who may not query is told nothing.
        let viewer = world.person(Role::Viewer);
        let no = replica
            .relay::<agent::PlanUndoResponse>(&viewer, &upload, "PlanUndo", &request)
            .await
            .unwrap_err();
        assert_eq!(no.reason, "SERVER_NOT_FOUND");
    }
}
