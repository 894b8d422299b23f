//! Statements about accounts are told without their passwords and hashes.

use proto::agent::v1 as pb;
use testkit::{Engine, Server};

use super::Scene;
use crate::source::catch_up;

const CANARY: &str = "Canary-7f3a!";

/// Accounts made, changed and dropped as people of that server do it.
fn accounts(engine: Engine, name: &str) -> String {
    let own = if engine.is_mariadb() {
        format!(
            "SET PASSWORD FOR '{name}'@'localhost' = PASSWORD('{CANARY}') //
             GRANT SELECT ON {name}.* TO '{name}'@'localhost' IDENTIFIED BY '{CANARY}' WITH GRANT OPTION //
             CREATE OR REPLACE USER '{name}'@'localhost' IDENTIFIED VIA mysql_native_password USING PASSWORD('{CANARY}') REQUIRE SSL //
             CREATE SERVER {name} FOREIGN DATA WRAPPER mysql OPTIONS (HOST '127.0.0.1', USER 'ann', PASSWORD '{CANARY}') // DROP SERVER {name} //"
        )
    } else {
        format!(
            "SET PASSWORD FOR '{name}'@'localhost' = '{CANARY}' //
             SET SESSION print_identified_with_as_hex = ON //
             ALTER USER '{name}'@'localhost' IDENTIFIED BY '{CANARY}' RETAIN CURRENT PASSWORD COMMENT 'of {name}' //
             ALTER USER '{name}'@'localhost' IDENTIFIED WITH 'caching_sha2_password' BY '{CANARY}' //"
        )
    };
    format!(
        "CREATE USER '{name}'@'localhost' IDENTIFIED BY '{CANARY}' //
         ALTER USER '{name}'@'localhost' /* once {CANARY} */ IDENTIFIED /*!50000 BY '{CANARY}' */ //
         {own}
         CREATE PROCEDURE {name}.p() BEGIN CREATE USER x IDENTIFIED BY \"{CANARY}\"; END //
         DROP USER '{name}'@'localhost' //"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_and_hashes_stay_with_the_agent() {
    for engine in [Engine::Mariadb, Engine::Mysql8] {
        let folder = tempfile::tempdir().expect("a folder");
        let store = folder.path().join("store");
        let written = tokio::task::spawn_blocking({
            let store = store.clone();
            move || {
                let server = Server::shared(engine);
                let schema = server.schema("secrets");
                let start = crate::source::here(server);
                // The body of a routine has semicolons.
                server.sql(&format!("DELIMITER //\n{}", accounts(engine, &schema.name)));
                let stored = server.sql(&format!(
                    "SELECT CONCAT('*', UPPER(SHA1(UNHEX(SHA1('{CANARY}')))))"
                ));
                catch_up(server, &store, &["--start", &start]).ends_with(0);
                stored.trim().to_owned()
            }
        });
        let stored = written.await.expect("a store");
        let mut scene = Scene::over(&store).await;
        let request = pb::SchemaChangesRequest {
            server_id: scene.server.to_string(),
            ..Default::default()
        };
        let request = scene.ask("SchemaChanges", request);
        let told = scene
            .client
            .schema_changes(request)
            .await
            .expect("an answer")
            .into_inner();
        let mut texts: Vec<String> = Vec::new();
        for change in told.schema_changes {
            let position = change.position.expect("a position");
            texts.push(change.text);
            let request = pb::TransactionRequest {
                server_id: scene.server.to_string(),
                transaction: format!("{}:{}", position.file, position.offset),
                ..Default::default()
            };
            let request = scene.ask("Transaction", request);
            let mut stream = scene
                .client
                .transaction(request)
                .await
                .expect("an answer")
                .into_inner();
            while let Some(frame) = stream.message().await.expect("a frame") {
                texts.extend(frame.schema_changes.into_iter().map(|change| change.text));
            }
        }
        for text in &texts {
            for secret in [CANARY, &stored, "$A$005$", "0x2441243030"] {
                assert!(!text.contains(secret), "{}: {text}", engine.name());
            }
        }
        let masked = texts.iter().filter(|text| text.contains("'***'")).count();
        assert!(masked >= 10, "{}: {texts:#?}", engine.name());
    }
}
