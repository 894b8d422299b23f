//! Statistics carry no value of a row.

use std::collections::BTreeSet;

use prost::Message;
use prost_reflect::{DescriptorPool, Kind, MessageDescriptor};
use proto::agent::v1 as pb;

use super::Scene;
use crate::shop::{Shop, delete, insert, update};

const CANARY: &str = "canary-7f3a";

/// The messages that a message may hold, itself included.
fn held(message: &MessageDescriptor, known: &mut BTreeSet<String>) {
    if !known.insert(message.full_name().to_owned()) {
        return;
    }
    for field in message.fields() {
        if let Kind::Message(message) = field.kind() {
            held(&message, known);
        }
    }
}

#[test]
fn no_message_of_statistics_has_a_field_for_a_value() {
    let pool = DescriptorPool::decode(proto::DESCRIPTOR_SET).expect("descriptors");
    let response = pool
        .get_message_by_name("trailmesh.agent.v1.StatisticsResponse")
        .expect("the message");
    let mut known = BTreeSet::new();
    held(&response, &mut known);
    let named: Vec<&str> = known.iter().map(String::as_str).collect();
    assert_eq!(
        named,
        [
            "google.protobuf.Timestamp",
            "trailmesh.agent.v1.ServerStatistics",
            "trailmesh.agent.v1.StatisticsResponse",
            "trailmesh.agent.v1.TableStatistics",
            "trailmesh.change.v1.FollowState",
            "trailmesh.change.v1.Place",
        ]
    );
    // Every text and bytes field there is. None of them is a value, a key, a column, a statement.
    let mut texts = BTreeSet::new();
    for name in known {
        let message = pool.get_message_by_name(&name).expect("a message");
        for field in message.fields() {
            assert!(!matches!(field.kind(), Kind::Bytes), "{}", field.full_name());
            if matches!(field.kind(), Kind::String) {
                texts.insert(
                    field
                        .full_name()
                        .rsplit_once("v1.")
                        .map_or(String::new(), |(_, name)| name.to_owned()),
                );
            }
        }
    }
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    assert_eq!(
        texts,
        [
            "FollowState.engine",
            "FollowState.problem",
            "FollowState.version",
            "Place.file",
            "ServerStatistics.server_id",
            "StatisticsResponse.version",
            "TableStatistics.schema",
            "TableStatistics.table",
        ]
    );
}

#[tokio::test]
async fn no_value_is_on_the_wire_of_statistics() {
    let mut shop = Shop::mariadb();
    shop.query(&format!("INSERT INTO orders VALUES (1, '{CANARY}', '{CANARY}')"));
    let row = (1, CANARY, Some(CANARY));
    shop.commits(&[
        insert(row),
        update(row, (1, CANARY, None)),
        delete((1, CANARY, None)),
    ]);
    shop.runs(
        binlog::Statement::Alter,
        Some("orders"),
        &format!("ALTER TABLE orders COMMENT '{CANARY}'"),
    );
    let store = shop.close();
    let mut scene = Scene::over(&store.path()).await;
    let followed = scene.stores.get(scene.server).expect("followed");
    followed.update(|going| going.problem = format!("the server refused: Incorrect value '{CANARY}'"));
    let answer = scene
        .client
        .statistics(pb::StatisticsRequest {})
        .await
        .expect("an answer")
        .into_inner();
    let table = &answer.servers[0].tables[0];
    assert_eq!(
        (&*table.table, table.inserts, table.updates, table.deletes),
        ("orders", 1, 1, 1)
    );
    assert!(answer.resident_bytes > 1_000_000);
    assert!(!has_canary(&answer), "a value is in a message of statistics");
    // The canary is there for whoever may see it.
    let request = scene.ask(
        "Status",
        pb::StatusRequest {
            server_id: scene.server.to_string(),
        },
    );
    let status = scene
        .client
        .status(request)
        .await
        .expect("an answer")
        .into_inner();
    assert!(status.state.expect("a state").problem.contains(CANARY));
    let request = scene.ask(
        "Changes",
        pb::ChangesRequest {
            server_id: scene.server.to_string(),
            ..Default::default()
        },
    );
    let mut stream = scene
        .client
        .changes(request)
        .await
        .expect("an answer")
        .into_inner();
    let frame = stream.message().await.expect("a frame").expect("one");
    assert!(has_canary(&frame));
}

fn has_canary(message: &impl Message) -> bool {
    message
        .encode_to_vec()
        .windows(CANARY.len())
        .any(|window| window == CANARY.as_bytes())
}
