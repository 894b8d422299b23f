//! What another replica deleted is gone here too: at once for who asks, and in a moment for who is being answered.

use std::time::{Duration, Instant};

use proto::{agent::v1 as agent, change::v1 as change, query::v1 as pb};
use testkit::Engine;
use tokio::task::block_in_place;
use tonic::Streaming;
use types::{Context, Plan, Role};

use crate::{
    life::rows,
    logs::Log,
    world::{No, Replica, World, eventually},
};

/// How long an answer may go on, on a machine that does much else too. Its own end is after a minute.
const MOMENT: Duration = Duration::from_secs(15);

/// Two answers that go on, one through each door, of which the first messages came.
struct Going {
    query: Streaming<pb::FollowChangesResponse>,
    hub: Streaming<pb::AskResponse>,
}

impl Going {
    async fn begin(replica: &Replica, person: &Context, upload: &str) -> Self {
        let mut query = replica.follow(person, upload).await.unwrap();
        assert!(query.message().await.unwrap().is_some());
        let request = agent::ChangesRequest {
            server_id: upload.to_owned(),
            order: change::Order::Oldest.into(),
            follow: true,
            last: Some(1),
            ..agent::ChangesRequest::default()
        };
        let begun = replica.begin(person, upload, "Changes", &request).await;
        let mut hub = begun.unwrap();
        assert!(hub.message().await.unwrap().is_some());
        Self { query, hub }
    }

    /// What each ends with.
    async fn ends(mut self) -> [No; 2] {
        let begun = Instant::now();
        let query = loop {
            match self.query.message().await {
                Ok(message) => assert!(message.is_some(), "it ended without a word"),
                Err(status) => break No::from(status),
            }
        };
        let hub = loop {
            match self.hub.message().await {
                Ok(message) => assert!(message.is_some(), "it ended without a word"),
                Err(status) => break No::from(status),
            }
        };
        assert!(begun.elapsed() < MOMENT, "{:?}", begun.elapsed());
        [query, hub]
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_ends_when_its_upload_is_deleted_elsewhere_or_has_expired() {
    let world = World::new().await;
    let (here, elsewhere) = (world.replica().await, world.replica().await);
    let operator = world.person(Role::Operator);
    let log = Log::record(Engine::Mysql8, "");
    for way in ["deleted", "expired"] {
        let upload = here.upload(&operator, way, log.named()).await;
        let going = Going::begin(&here, &operator, &upload).await;
        if way == "deleted" {
            let gone = pb::DeleteUploadRequest {
                upload_id: upload.clone(),
            };
            elsewhere.ask(&operator, gone).await.unwrap();
        } else {
            block_in_place(|| {
                world.sql(&format!(
                    "UPDATE upload SET expire_time = now() WHERE id = '{upload}'"
                ))
            });
        }
        for no in going.ends().await {
            assert_eq!(
                (no.code, no.reason.as_str()),
                (tonic::Code::NotFound, "UPLOAD_NOT_FOUND"),
                "{way}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_ends_when_there_is_no_more_room_for_its_upload() {
    let world = World::new().await;
    let replica = world.replica().await;
    let pro = world.of(world.tenant, Role::Operator, Plan::Pro);
    let log = Log::record(Engine::Mariadb, "");
    let upload = replica.upload(&pro, "first", log.named()).await;
    let going = Going::begin(&replica, &pro, &upload).await;
    block_in_place(|| world.sql(&crate::frozen::newer(20)));
    for no in going.ends().await {
        assert_eq!(
            (no.code, no.reason.as_str()),
            (tonic::Code::FailedPrecondition, "UPLOAD_FROZEN")
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_gone_opens_nothing_where_it_was_open() {
    let world = World::new().await;
    let replica = world.replica().await;
    let operator = world.person(Role::Operator);
    let log = Log::record(Engine::Mysql9, "");
    let upload = replica.upload(&operator, "open", log.named()).await;
    // Key, pieces and store are open now.
    assert!(!rows(&replica, &operator, &upload).await.is_empty());
    let key = block_in_place(|| {
        world.sql("WITH gone AS (DELETE FROM upload_key RETURNING *) SELECT envelope || ' ' || key_version FROM gone")
    });
    let begun = Instant::now();
    let asked = || pb::QueryChangesRequest {
        server: upload.clone(),
        ..pb::QueryChangesRequest::default()
    };
    eventually("the key to open nothing", async || {
        replica.ask(&operator, asked()).await.err()
    })
    .await;
    assert!(begun.elapsed() < MOMENT, "{:?}", begun.elapsed());
    // It was the key: with it the upload can be read again.
    let (envelope, version) = key.split_once(' ').unwrap();
    block_in_place(|| {
        world.sql(&format!(
            "INSERT INTO upload_key (upload_id, envelope, key_version) VALUES ('{upload}', '{envelope}', {version})"
        ))
    });
    assert!(!rows(&replica, &operator, &upload).await.is_empty());
}
