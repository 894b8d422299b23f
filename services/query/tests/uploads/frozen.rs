//! What a plan has room for, when it is a smaller one than before: the newest uploads are open, and of the others nothing is lost.

use proto::{agent::v1 as agent, query::v1 as pb};
use testkit::Engine;
use types::{Context, Plan, Role};

use crate::{
    life::{get, rows},
    logs::Log,
    world::{No, Replica, World},
};

/// Makes so many uploads that are newer than any.
pub(crate) fn newer(count: u32) -> String {
    format!(
        "INSERT INTO upload_key (upload_id, envelope, key_version) SELECT 'upl_7zzzzzzzzzzzzzzzzzzzzzzz' || (n + 9), '', 1 FROM generate_series(1, {count}) AS n;
         INSERT INTO upload (id, name, file, size, expire_time) SELECT 'upl_7zzzzzzzzzzzzzzzzzzzzzzz' || (n + 9), 'n' || n, 'f.1', 0, now() + interval '1 day'
         FROM generate_series(1, {count}) AS n"
    )
}

fn refused(no: &No) {
    assert_eq!(
        (no.code, no.reason.as_str()),
        (tonic::Code::FailedPrecondition, "UPLOAD_FROZEN"),
        "{no:?}"
    );
    assert!(no.message.contains("frozen"), "{no:?}");
}

/// What can be asked through both doors.
async fn ask(replica: &Replica, person: &Context, upload: &str) -> [Result<(), No>; 2] {
    let query = pb::CountChangesRequest {
        server: upload.to_owned(),
        ..pb::CountChangesRequest::default()
    };
    let tables = agent::TablesRequest {
        server_id: upload.to_owned(),
        ..agent::TablesRequest::default()
    };
    let hub = replica.relay::<agent::TablesResponse>(person, upload, "Tables", &tables);
    [
        replica.ask(person, query).await.map(|_| ()),
        hub.await.map(|_| ()),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_beyond_the_plan_are_frozen_until_there_is_room_and_go_when_their_time_comes() {
    let world = World::new().await;
    let replica = world.replica().await;
    let (large, small) = (
        world.person(Role::Operator),
        world.of(world.tenant, Role::Operator, Plan::Pro),
    );
    let log = Log::record(Engine::Mysql8, "");
    let old = replica.upload(&large, "old", log.named()).await;
    let begun = replica.create(&large, "begun", &log.file, 0).await.id;
    let new = replica.upload(&large, "new", log.named()).await;
    let before = rows(&replica, &large, &old).await;
    // With `new` as many as the small plan has room for.
    world.sql(&newer(19));
    for upload in [&old, &begun] {
        assert!(get(&replica, &small, upload).await.unwrap().frozen);
        assert!(!get(&replica, &large, upload).await.unwrap().frozen);
        for no in ask(&replica, &small, upload).await {
            refused(&no.unwrap_err());
        }
        refused(&replica.finish(&small, upload, true).await.unwrap_err());
    }
    refused(&replica.part(&small, &begun, 0, &log.bytes).await.unwrap_err());
    let all = pb::ListUploadsRequest::default();
    let listed = replica.ask(&small, all).await.unwrap().uploads;
    let frozen = listed.iter().filter(|upload| upload.frozen);
    assert_eq!(
        frozen.map(|upload| upload.id.as_str()).collect::<Vec<_>>(),
        [&begun, &old]
    );
    assert!(!get(&replica, &small, &new).await.unwrap().frozen);
    for open in ask(&replica, &small, &new).await {
        open.unwrap();
    }
    // Room by a larger plan, or by deleting newer ones.
    assert_eq!(rows(&replica, &large, &old).await, before);
    world.sql("DELETE FROM upload WHERE name IN ('n1', 'n2')");
    assert_eq!(rows(&replica, &small, &old).await, before);
    // Newer ones whose time has come take no room, even before they are swept.
    world.sql(
        &newer(21)
            .replace("'n' ||", "'m' ||")
            .replace("upl_7", "upl_6")
            .replace("interval '1 day'", "interval '1 s' - interval '1 day'"),
    );
    assert_eq!(rows(&replica, &small, &old).await, before);
    // Whoever has no room for it may still delete it.
    let free = world.of(world.tenant, Role::Operator, Plan::Free);
    for no in ask(&replica, &free, &new).await {
        refused(&no.unwrap_err());
    }
    let gone = pb::DeleteUploadRequest { upload_id: new };
    replica.ask(&free, gone).await.unwrap();
    // And it goes in its time.
    world.sql(&format!(
        "UPDATE upload SET expire_time = now() WHERE id = '{old}'"
    ));
    world.db.sql("UPDATE query.upload_due SET due_time = now()");
    for table in [
        "upload WHERE id",
        "upload_key WHERE upload_id",
        "upload_piece WHERE upload_id",
    ] {
        world.gone(&format!("{table} = '{old}'")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_are_kept_no_longer_than_the_plan_keeps_changes() {
    let world = World::new().await;
    let replica = world.replica().await;
    replica
        .create(&world.person(Role::Operator), "first", "binlog.000001", 0)
        .await;
    let begin = async |plan: Plan, name: &str, days: u32| {
        let request = pb::CreateUploadRequest {
            name: name.to_owned(),
            file: "binlog.000001".to_owned(),
            retention_days: days,
            ..pb::CreateUploadRequest::default()
        };
        let person = world.of(world.tenant, Role::Operator, plan);
        let upload = replica.ask(&person, request).await?.upload.unwrap();
        let (begun, ends) = (upload.create_time.unwrap(), upload.expire_time.unwrap());
        Ok::<_, No>((ends.seconds - begun.seconds) / 86_400)
    };
    assert_eq!(begin(Plan::Pro, "unsaid", 0).await, Ok(30));
    assert_eq!(begin(Plan::Enterprise, "unsaid-too", 0).await, Ok(30));
    assert_eq!(begin(Plan::Pro, "most", 30).await, Ok(30));
    assert_eq!(begin(Plan::Pro, "least", 1).await, Ok(1));
    assert_eq!(begin(Plan::Premium, "more", 90).await, Ok(90));
    assert_eq!(begin(Plan::Enterprise, "all", 365).await, Ok(365));
    for (plan, days, words) in [
        (
            Plan::Pro,
            31,
            "the plan pro has room for 30 days of an upload: the plan premium has room for 90",
        ),
        (
            Plan::Pro,
            91,
            "the plan pro has room for 30 days of an upload: the plan enterprise has room for 365",
        ),
        (
            Plan::Premium,
            91,
            "the plan premium has room for 90 days of an upload: the plan enterprise has room for 365",
        ),
    ] {
        let no = begin(plan, "too-long", days).await.unwrap_err();
        assert_eq!(
            (no.code, no.reason.as_str(), no.message.as_str()),
            (tonic::Code::FailedPrecondition, "PLAN_LIMIT", words)
        );
    }
    // What is begun and never finished is looked at too when its time comes.
    let due = "SELECT due_time <= (SELECT min(expire_time) FROM upload) FROM query.upload_due";
    assert_eq!(world.sql(due), "t");
    let no = begin(Plan::Enterprise, "too-long", 366).await.unwrap_err();
    assert_eq!(no.reason, "FIELD_INVALID");
}
