//! Who waits for whose reading, and for how long.

use std::time::Duration;

use proto::query::v1 as pb;
use sqlx::{Connection as _, Executor as _};
use testkit::Engine;
use tokio::task::block_in_place;
use types::{Context, Plan, Role};

use crate::{
    life::{get, rows},
    logs::Log,
    taken_over::{hold_readings, waits},
    world::{Replica, World, eventually},
};

/// Begins and sends a file.
async fn sent(replica: &Replica, person: &Context, name: &str, log: &Log) -> String {
    let upload = replica.create(person, name, &log.file, 0).await.id;
    replica.send(person, &upload, &log.bytes, 0, 1 << 20).await;
    upload
}

/// Finishes it for who waits two seconds only.
async fn finish_soon(replica: &Replica, person: &Context, upload: &str) -> pb::Upload {
    let finish = pb::FinishUploadRequest {
        upload_id: upload.to_owned(),
        keep_what_came: false,
    };
    let finished = replica.ask_within(Duration::from_secs(2), person, finish).await;
    finished.unwrap().upload.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_finishes_waits_for_the_reading_and_the_reading_does_not_end_with_who_waits() {
    let world = World::new().await;
    let replica = world.replica().await;
    let (operator, analyst) = (world.person(Role::Operator), world.person(Role::Analyst));
    let log = Log::record(Engine::Mariadb, "");
    let upload = sent(&replica, &operator, "long", &log).await;
    let held = hold_readings(&world).await;
    let told = finish_soon(&replica, &operator, &upload).await;
    assert_eq!(
        (told.state(), told.problem.as_str(), told.changes),
        (pb::UploadState::Reading, "", 0)
    );
    waits(&world, "upload_part").await;
    // As long as it lasts it is this replica's.
    let _second = world.replica().await;
    let until = block_in_place(|| world.sql("SELECT lease_time FROM upload"));
    let renewed = format!("SELECT lease_time > '{until}'::timestamptz + interval '4 s' FROM upload");
    eventually("the lease to be renewed", async || {
        // Both look all the time.
        block_in_place(|| world.db.sql("UPDATE query.upload_due SET due_time = now()"));
        (block_in_place(|| world.sql(&renewed)) == "t").then_some(())
    })
    .await;
    drop(held);
    // Asked again it waits again.
    let done = replica.finish(&operator, &told.id, false).await.unwrap();
    assert_eq!(done.state(), pb::UploadState::Ready, "{done:?}");
    assert_eq!(
        rows(&replica, &analyst, &told.id).await,
        log.rows(log.bytes.len())
    );
    let attempts = block_in_place(|| world.sql("SELECT attempt FROM upload"));
    assert_eq!(attempts, "1", "it was one reading");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_tenants_long_uploads_do_not_keep_another_tenants_waiting() {
    let world = World::new().await;
    let replica = world.replica().await;
    let operator = world.person(Role::Operator);
    let log = Log::record(Engine::Mysql8, "");
    let others = [world.new_tenant().await, world.new_tenant().await];
    let theirs = [
        sent(&replica, &operator, "one", &log).await,
        sent(&replica, &operator, "two", &log).await,
    ];
    let held = hold_readings(&world).await;
    for upload in &theirs {
        let told = finish_soon(&replica, &operator, upload).await;
        assert_eq!(told.state(), pb::UploadState::Reading);
    }
    waits(&world, "upload_part").await;
    for other in others {
        let stranger = world.of(other, Role::Operator, Plan::Enterprise);
        replica.upload(&stranger, "short", log.named()).await;
    }
    // Of one tenant one is read, and the others wait for it.
    let begun = block_in_place(|| world.sql("SELECT count(*) FROM upload WHERE attempt > 0"));
    assert_eq!(begun, "1");
    drop(held);
    for upload in &theirs {
        eventually("the upload to be read", async || {
            let now = get(&replica, &operator, upload).await.unwrap();
            (now.state() == pb::UploadState::Ready).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reading_that_takes_too_long_is_ended_and_says_so() {
    let world = World::new().await;
    let replica = world.replica_with(&["--upload-time=6s"]).await;
    let operator = world.person(Role::Operator);
    let log = Log::record(Engine::Mysql9, "");
    let upload = sent(&replica, &operator, "endless", &log).await;
    let held = hold_readings(&world).await;
    let no = replica.finish(&operator, &upload, false).await.unwrap_err();
    assert_eq!(
        (no.code, no.reason.as_str()),
        (tonic::Code::FailedPrecondition, "UPLOAD_DAMAGED")
    );
    let words = format!(
        "the reading of the file ended after 6 seconds, and a file of {} bytes is not read for longer: let the agent beside the server read this log, or finish again",
        log.bytes.len()
    );
    assert!(no.message.starts_with(&words), "{no:?}");
    drop(held);
    let done = replica.finish(&operator, &upload, false).await.unwrap();
    assert_eq!(
        (done.state(), done.problem.as_str()),
        (pb::UploadState::Ready, "")
    );
    world.gone("upload_rest").await;
    world
        .gone("upload_piece AS p JOIN upload AS u ON u.id = p.upload_id WHERE p.attempt <> u.attempt")
        .await;
}

/// Keeps readings from saying their last word, until it is dropped.
async fn hold_ends(world: &World) -> sqlx::PgConnection {
    let mut admin = sqlx::PgConnection::connect(&world.db.admin_url()).await.unwrap();
    let words = "BEGIN; SELECT FROM query.upload_due FOR UPDATE";
    admin.execute(words).await.unwrap();
    admin
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reading_that_was_taken_over_writes_nothing_more() {
    let world = World::new().await;
    let replica = world.replica().await;
    let operator = world.person(Role::Operator);
    let log = Log::record(Engine::Mariadb, "");
    // Before its first word, and before its last one.
    for step in ["first", "last"] {
        let upload = sent(&replica, &operator, step, &log).await;
        let held = hold_readings(&world).await;
        let told = finish_soon(&replica, &operator, &upload).await;
        assert_eq!(told.state(), pb::UploadState::Reading);
        waits(&world, "upload_part").await;
        let ends = hold_ends(&world).await;
        // Another replica's, which takes its time.
        let taken = format!(
            "UPDATE upload SET attempt = attempt + 1, lease_time = now() + interval '1 hour' WHERE id = '{upload}'"
        );
        if step == "first" {
            block_in_place(|| world.sql(&taken));
            drop(held);
        } else {
            drop(held);
            eventually("the last word", async || {
                let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                               AND wait_event_type = 'Lock' AND query LIKE 'INSERT INTO upload_due%'";
                (block_in_place(|| world.db.sql(waiting)) != "0").then_some(())
            })
            .await;
            block_in_place(|| world.sql(&taken));
        }
        drop(ends);
        // A tenant has one reading at a time: when the next one is done, that one is over.
        replica
            .upload(&operator, &format!("after-{step}"), log.named())
            .await;
        block_in_place(|| {
            let state = world.sql(&format!(
                "SELECT state, attempt, changes FROM upload WHERE id = '{upload}'"
            ));
            assert_eq!(state, "reading|2|0", "{step}");
            let files = world.sql(&format!(
                "SELECT count(*) FROM upload_file WHERE upload_id = '{upload}'"
            ));
            assert_eq!(files == "0", step == "first", "{files}");
        });
    }
}
