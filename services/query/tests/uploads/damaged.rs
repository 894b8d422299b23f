//! Files that were cut or changed on their way.

use proto::{
    common::v1 as common,
    query::v1 as pb,
    tenant::v1::{self as tenant},
};
use testkit::Engine;
use types::Role;

use crate::{
    bounds::{QUERY, TABLE_MAP, WRITE_ROWS, beginning, event, query},
    life::{get, rows},
    logs::Log,
    world::World,
};

/// The offset that a refusal tells.
fn told(words: &str) -> usize {
    let at = words.split(':').nth(1).unwrap_or_default();
    at.trim()
        .parse()
        .unwrap_or_else(|_| panic!("no offset in {words}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_says_where_and_keeps_what_came_before_if_asked() {
    let world = World::new().await;
    let replica = world.replica().await;
    let (operator, analyst) = (world.person(Role::Operator), world.person(Role::Analyst));
    for engine in Engine::ALL {
        let mut log = Log::record(engine, "");
        let at = log.bytes.windows(4).rposition(|bytes| bytes == b"lost").unwrap();
        log.bytes[at] ^= 1;
        let name = format!("{}-broken", engine.name());
        let upload = replica
            .create(&operator, &name, &log.file, log.bytes.len() as u64)
            .await
            .id;
        replica.send(&operator, &upload, &log.bytes, 0, 1 << 20).await;
        let no = replica.finish(&operator, &upload, false).await.unwrap_err();
        assert_eq!(
            (no.code, no.reason.as_str()),
            (tonic::Code::FailedPrecondition, "UPLOAD_DAMAGED")
        );
        assert!(
            no.message.contains("checksum") && told(&no.message) < at,
            "{no:?}"
        );
        let asked = pb::CountChangesRequest {
            server: upload.clone(),
            ..pb::CountChangesRequest::default()
        };
        let refused = replica.ask(&analyst, asked).await.unwrap_err();
        assert_eq!(refused.reason, "UPLOAD_NOT_READY", "{refused:?}");
        world
            .gone(&format!("upload_file WHERE upload_id = '{upload}'"))
            .await;
        // It stays so until somebody wants what came before.
        let again = replica.finish(&operator, &upload, false).await.unwrap_err();
        assert_eq!(again, no);
        let kept = replica.finish(&operator, &upload, true).await.unwrap();
        assert_eq!(kept.state(), pb::UploadState::Ready);
        assert!(
            kept.problem.contains("checksum") && told(&kept.problem) == told(&no.message),
            "{kept:?}"
        );
        let before = log.rows(log.bytes.len());
        assert!(!before.is_empty() && !before.concat().contains("lost"));
        assert_eq!(rows(&replica, &analyst, &upload).await, before);
        assert_eq!(kept.changes, before.len() as u64);
    }
}

/// What its end says comes next would come before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_not_called_what_it_is_says_so() {
    let world = World::new().await;
    let replica = world.replica().await;
    let operator = world.person(Role::Operator);
    for engine in Engine::ALL {
        let log = Log::record(engine, "");
        let name = format!("{}-renamed", engine.name());
        let size = log.bytes.len() as u64;
        let upload = replica.create(&operator, &name, "zz.900001", size).await.id;
        replica.send(&operator, &upload, &log.bytes, 0, 1 << 20).await;
        let no = replica.finish(&operator, &upload, false).await.unwrap_err();
        assert_eq!(no.reason, "UPLOAD_DAMAGED", "{no:?}");
        assert!(no.message.contains("under the server's own name"), "{no:?}");
        let kept = replica.finish(&operator, &upload, true).await.unwrap();
        assert_eq!(kept.state(), pb::UploadState::Ready, "{kept:?}");
        assert_eq!(kept.changes, log.rows(log.bytes.len()).len() as u64);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_cut_goes_on_where_it_ended() {
    let world = World::new().await;
    let replica = world.replica().await;
    let (operator, analyst) = (world.person(Role::Operator), world.person(Role::Analyst));
    let log = Log::record(Engine::Mysql8, "");
    let half = log.bytes.windows(4).rposition(|bytes| bytes == b"lost").unwrap();
    let upload = replica.create(&operator, "cut", &log.file, 0).await.id;
    replica
        .send(&operator, &upload, &log.bytes[..half], 0, 1 << 20)
        .await;
    let no = replica.finish(&operator, &upload, false).await.unwrap_err();
    assert_eq!(no.reason, "UPLOAD_INCOMPLETE", "{no:?}");
    assert!(told(&no.message) < half && no.message.contains("cut"), "{no:?}");
    replica.send(&operator, &upload, &log.bytes, half, 1 << 20).await;
    let done = replica.finish(&operator, &upload, false).await.unwrap();
    assert_eq!(
        (done.state(), done.problem.as_str()),
        (pb::UploadState::Ready, "")
    );
    assert_eq!(rows(&replica, &analyst, &upload).await, log.rows(log.bytes.len()));
    // Or it is kept as it is.
    let upload = replica.create(&operator, "kept", &log.file, 0).await.id;
    replica
        .send(&operator, &upload, &log.bytes[..half], 0, 1 << 20)
        .await;
    let kept = replica.finish(&operator, &upload, true).await.unwrap();
    assert!(kept.problem.contains("cut"), "{kept:?}");
    assert_eq!(rows(&replica, &analyst, &upload).await, log.rows(half));
}

/// A log with a row of `hr.salaries`, of whose columns it does not say the names.
fn nameless(real: &[u8]) -> Vec<u8> {
    let (format, previous) = beginning(real);
    let mut map = vec![7, 0, 0, 0, 0, 0, 0, 0];
    map.extend(b"\x02hr\0\x08salaries\0");
    map.extend([1, 1, 0, 1]);
    // One column, and the row has NULL in it.
    let rows = [7, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1, 1, 0xFF];
    let (begin, map, rows) = (
        event(QUERY, &query("BEGIN")),
        event(TABLE_MAP, &map),
        event(WRITE_ROWS, &rows),
    );
    [format, previous, begin, map, rows].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_see_everything_is_told_where_a_file_is_damaged_and_not_in_which_table() {
    let world = World::new().await;
    let replica = world.replica().await;
    let bound = [Role::Operator, Role::Analyst, Role::Viewer];
    let wire = [
        common::Role::Operator,
        common::Role::Analyst,
        common::Role::Viewer,
    ];
    let rules = wire.map(|role| tenant::AccessRule {
        id: types::RuleId::fresh().to_string(),
        role: role.into(),
        schema_name: "hr".to_owned(),
        table_name: "salaries".to_owned(),
        effect: tenant::Effect::Deny.into(),
        ..tenant::AccessRule::default()
    });
    world.neighbours.rule(rules.to_vec());
    let (owner, operator) = (world.person(Role::Owner), world.person(Role::Operator));
    let log = nameless(&Log::record(Engine::Mysql8, "").bytes);
    let upload = replica.create(&operator, "nameless", "binlog.000001", 0).await.id;
    replica.send(&operator, &upload, &log, 0, 1 << 20).await;
    let plain = |words: &str| {
        words.starts_with("at binlog.000001:")
            && words.contains(": the file cannot be read further")
            && !words.contains("salaries")
    };
    let no = replica.finish(&operator, &upload, false).await.unwrap_err();
    assert!(no.reason == "UPLOAD_DAMAGED" && plain(&no.message), "{no:?}");
    let no = replica.finish(&owner, &upload, false).await.unwrap_err();
    assert!(no.message.contains("the columns of hr.salaries"), "{no:?}");
    let kept = replica.finish(&operator, &upload, true).await.unwrap();
    assert!(
        kept.state() == pb::UploadState::Ready && plain(&kept.problem),
        "{kept:?}"
    );
    let told = get(&replica, &owner, &upload).await.unwrap().problem;
    assert!(told.contains("the columns of hr.salaries"), "{told}");
    for role in bound {
        let person = world.person(role);
        let told = get(&replica, &person, &upload).await.unwrap();
        assert!(plain(&told.problem), "{role:?}: {told:?}");
        let listed = replica
            .ask(&person, pb::ListUploadsRequest::default())
            .await
            .unwrap();
        assert!(plain(&listed.uploads[0].problem), "{role:?}: {listed:?}");
        let status = pb::GetServerStatusRequest {
            server: upload.clone(),
        };
        let status = format!("{:?}", replica.ask(&person, status).await);
        assert!(!status.contains("salaries"), "{role:?}: {status}");
    }
}
