//! A replica that dies while it reads an upload, at each step: another one reads it, and nothing is left of the first attempt.

use std::time::Duration;

use proto::query::v1 as pb;
use sqlx::{Connection as _, Executor as _};
use testkit::Engine;
use tokio::task::block_in_place;
use types::Role;

use crate::{
    child::Running,
    life::{get, rows},
    logs::Log,
    world::{World, eventually},
};

/// Until somebody waits for such a table.
pub(crate) async fn waits(world: &World, table: &str) {
    eventually("the attempt to come to the step", async || {
        let waiting = format!(
            "SELECT count(*) FROM pg_locks JOIN pg_class ON pg_class.oid = relation WHERE NOT granted AND relname = '{table}'
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        );
        (block_in_place(|| world.db.sql(&waiting)) != "0").then_some(())
    })
    .await;
}

/// Lets a table of the tenant's be read and not written, until it is dropped.
async fn hold(world: &World, table: &str) -> sqlx::PgConnection {
    lock(world, table, "SHARE").await
}

/// Keeps a reading of the tenant's where it begins, until it is dropped: nobody sees the files as they came.
pub(crate) async fn hold_readings(world: &World) -> sqlx::PgConnection {
    lock(world, "upload_part", "ACCESS EXCLUSIVE").await
}

async fn lock(world: &World, table: &str, mode: &str) -> sqlx::PgConnection {
    let mut admin = sqlx::PgConnection::connect(&world.db.admin_url()).await.unwrap();
    let schema = world.tenant.to_string().replace("tnt_", "t_");
    let words = format!("BEGIN; LOCK TABLE {schema}.{table} IN {mode} MODE");
    admin.execute(sqlx::AssertSqlSafe(words)).await.unwrap();
    admin
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_attempt_is_taken_over_and_leaves_nothing_behind() {
    let log = Log::record(Engine::Mariadb, "");
    let whole = log.rows(log.bytes.len());
    // When it takes the upload, while it keeps the store, while it deletes the file as it came.
    for step in ["upload_rest", "upload_piece", "upload_part"] {
        let world = World::new().await;
        let (operator, analyst) = (world.person(Role::Operator), world.person(Role::Analyst));
        let mut first = block_in_place(|| Running::start(&world));
        let replica = world.callers(first.address).await;
        let name = step.replace('_', "-");
        let upload = replica.create(&operator, &name, &log.file, 0).await.id;
        replica.send(&operator, &upload, &log.bytes, 0, 1 << 20).await;
        let held = hold(&world, step).await;
        let finishing = replica.finish(&operator, &upload, false);
        let waits = waits(&world, step);
        if step == "upload_part" {
            finishing.await.unwrap();
            waits.await;
        } else {
            tokio::select! {
                done = finishing => panic!("{step}: {done:?}"),
                () = waits => {}
            }
        }
        first.kill();
        drop(held);
        let second = world.replica().await;
        let done = eventually("the upload to be read", async || {
            let request = pb::GetUploadRequest {
                upload_id: upload.clone(),
            };
            let now = second.ask(&operator, request).await.unwrap().upload.unwrap();
            (now.state() == pb::UploadState::Ready).then_some(now)
        })
        .await;
        assert_eq!(
            (done.changes, done.problem.as_str()),
            (whole.len() as u64, ""),
            "{step}"
        );
        assert_eq!(rows(&second, &analyst, &upload).await, whole, "{step}");
        for left in ["upload_file", "upload_piece"] {
            let earlier = "AS t JOIN upload AS u ON u.id = t.upload_id WHERE t.attempt <> u.attempt";
            world.gone(&format!("{left} {earlier}")).await;
        }
        world.gone("upload_part").await;
        world.gone("upload_rest").await;
        block_in_place(|| {
            let attempts = world.sql(&format!("SELECT attempt FROM upload WHERE id = '{upload}'"));
            assert_eq!(attempts, if step == "upload_piece" { "2" } else { "1" }, "{step}");
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_its_replica_three_times_is_given_up_until_somebody_finishes_again() {
    let world = World::new().await;
    let (operator, analyst) = (world.person(Role::Operator), world.person(Role::Analyst));
    let log = Log::record(Engine::Mysql8, "");
    let (mut upload, mut held) = (String::new(), None);
    for death in 1..=3 {
        let mut replica = block_in_place(|| Running::start(&world));
        let asked = world.callers(replica.address).await;
        if death == 1 {
            upload = asked.create(&operator, "deadly", &log.file, 0).await.id;
            asked.send(&operator, &upload, &log.bytes, 0, 1 << 20).await;
            held = Some(hold_readings(&world).await);
            // Who waits for its end is told nothing by a replica that dies.
            let finished = pb::FinishUploadRequest {
                upload_id: upload.clone(),
                keep_what_came: false,
            };
            let soon = Duration::from_secs(2);
            let reading = asked.ask_within(soon, &operator, finished).await.unwrap();
            assert_eq!(reading.upload.unwrap().state(), pb::UploadState::Reading);
        }
        eventually("the attempt to begin", async || {
            let tries = block_in_place(|| world.sql("SELECT tries FROM upload"));
            (tries == death.to_string()).then_some(())
        })
        .await;
        waits(&world, "upload_part").await;
        replica.kill();
        // A session that waits does not see that its client is gone.
        let end =
            "SELECT count(pg_terminate_backend(pid)) FROM pg_locks JOIN pg_class ON pg_class.oid = relation
                   WHERE NOT granted AND relname = 'upload_part'
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        block_in_place(|| world.db.sql(end));
    }
    let last = world.replica().await;
    let given_up = eventually("the upload to be given up", async || {
        let now = get(&last, &operator, &upload).await.unwrap();
        (now.state() == pb::UploadState::Damaged).then_some(now)
    })
    .await;
    assert_eq!(
        given_up.problem,
        "the reading of the file ended 3 times without a result, last with the replica that read it: let the agent beside the server read this log, or finish again"
    );
    assert_eq!(block_in_place(|| world.sql("SELECT attempt FROM upload")), "3");
    drop(held);
    // Not by itself; but somebody may want it.
    let done = last.finish(&operator, &upload, false).await.unwrap();
    assert_eq!(
        (done.state(), done.problem.as_str()),
        (pb::UploadState::Ready, "")
    );
    assert_eq!(rows(&last, &analyst, &upload).await, log.rows(log.bytes.len()));
}
