//! From the first part to the end, and the questions between.

use proto::{
    change::v1 as change,
    query::v1 as pb,
    tenant::v1::{self as tenant},
};
use testkit::Engine;
use types::{Plan, Role};

use crate::{
    logs::{Log, json},
    world::{Replica, World, eventually},
};

/// All changes of an upload that somebody sees, the oldest first, and whether something was taken out.
pub(crate) async fn changes(
    replica: &Replica,
    person: &types::Context,
    upload: &str,
) -> (Vec<change::Change>, bool) {
    let mut request = pb::QueryChangesRequest {
        server: upload.to_owned(),
        order: change::Order::Oldest.into(),
        page_size: 100,
        ..pb::QueryChangesRequest::default()
    };
    let (mut all, mut redacted) = (Vec::new(), false);
    loop {
        let page = replica.ask(person, request.clone()).await.unwrap();
        all.extend(page.changes);
        redacted |= page.redacted;
        if page.next_page_token.is_empty() {
            return (all, redacted);
        }
        request.page_token = page.next_page_token;
    }
}

/// The same as lines of JSON.
pub(crate) async fn rows(replica: &Replica, person: &types::Context, upload: &str) -> Vec<String> {
    let (changes, _) = changes(replica, person, upload).await;
    changes.iter().map(json).collect()
}

pub(crate) async fn get(
    replica: &Replica,
    person: &types::Context,
    id: &str,
) -> Result<pb::Upload, crate::world::No> {
    let request = pb::GetUploadRequest {
        upload_id: id.to_owned(),
    };
    Ok(replica.ask(person, request).await?.upload.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_answers_what_a_store_beside_the_database_does() {
    let world = World::new().await;
    let replica = world.replica().await;
    let (operator, analyst) = (world.person(Role::Operator), world.person(Role::Analyst));
    for engine in Engine::ALL {
        let log = Log::record(engine, "");
        let whole = log.rows(log.bytes.len());
        let size = log.bytes.len() as u64;
        let made = replica.create(&operator, engine.name(), &log.file, size).await;
        assert_eq!((made.state(), made.bytes), (pb::UploadState::Open, 0));
        // Parts of any length.
        replica.send(&operator, &made.id, &log.bytes, 0, 7_777).await;
        let done = replica.finish(&operator, &made.id, false).await.unwrap();
        assert_eq!(done.state(), pb::UploadState::Ready, "{done:?}");
        assert_eq!(done.changes, whole.len() as u64);
        assert_eq!(done, get(&replica, &analyst, &made.id).await.unwrap());
        // Asked again it is the same.
        assert_eq!(done, replica.finish(&operator, &made.id, false).await.unwrap());
        // The file as it came goes.
        world.gone("upload_part").await;
        assert_eq!(rows(&replica, &analyst, &made.id).await, whole, "{engine:?}");
        asked(&replica, &analyst, &made.id, &log).await;
    }
    world.gone("upload_file WHERE name LIKE '%tail%'").await;
}

/// The other questions.
async fn asked(replica: &Replica, analyst: &types::Context, upload: &str, log: &Log) {
    let server = upload.to_owned();
    let count = pb::CountChangesRequest {
        server: server.clone(),
        ..pb::CountChangesRequest::default()
    };
    let count = replica.ask(analyst, count).await.unwrap();
    let counted: u64 = count
        .tables
        .iter()
        .map(|table| table.inserts + table.updates + table.deletes)
        .sum();
    assert_eq!(counted, 200 + 1 + 20 + 2);
    let tables = pb::ListTablesRequest {
        server: server.clone(),
    };
    assert_eq!(replica.ask(analyst, tables).await.unwrap().tables.len(), 2);
    let history = pb::GetRowHistoryRequest {
        server: server.clone(),
        table: Some(change::TableFilter {
            schema: log.schema.clone(),
            table: "orders".to_owned(),
        }),
        key: "7".to_owned(),
        ..pb::GetRowHistoryRequest::default()
    };
    let history = replica.ask(analyst, history).await.unwrap().changes;
    assert_eq!(history.len(), 3);
    let transaction = pb::GetTransactionRequest {
        server: server.clone(),
        transaction: history
            .iter()
            .map(|change| change.gtid.clone())
            .next_back()
            .unwrap(),
        ..pb::GetTransactionRequest::default()
    };
    assert!(
        !replica
            .ask(analyst, transaction)
            .await
            .unwrap()
            .changes
            .is_empty()
    );
    let schema = pb::ListSchemaChangesRequest {
        server: server.clone(),
        ..pb::ListSchemaChangesRequest::default()
    };
    assert!(replica.ask(analyst, schema).await.unwrap().schema_changes.len() >= 3);
    let coverage = pb::GetCoverageRequest {
        server: server.clone(),
    };
    let coverage = replica.ask(analyst, coverage).await.unwrap().coverage.unwrap();
    assert!(coverage.complete, "{coverage:?}");
    let status = pb::GetServerStatusRequest { server };
    let status = replica.ask(analyst, status).await.unwrap();
    assert_eq!(status.state.unwrap().changes, counted);
}

/// Of no other upload anything is stored, in a moment.
async fn only(world: &World, id: &str) {
    for table in [
        "upload_key",
        "upload_part",
        "upload_file",
        "upload_piece",
        "upload_rest",
    ] {
        world.gone(&format!("{table} WHERE upload_id <> '{id}'")).await;
    }
    world.gone(&format!("upload WHERE id <> '{id}'")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_are_listed_and_go_with_all_that_is_theirs() {
    let world = World::new().await;
    let replica = world.replica().await;
    let (operator, viewer) = (world.person(Role::Operator), world.person(Role::Viewer));
    let log = Log::record(Engine::Mariadb, "");
    let mut ids = Vec::new();
    for name in ["one", "two", "three"] {
        ids.push(replica.upload(&operator, name, log.named()).await);
    }
    let mut request = pb::ListUploadsRequest {
        page_size: 2,
        page_token: String::new(),
    };
    let first = replica.ask(&viewer, request.clone()).await.unwrap();
    request.page_token = first.next_page_token;
    let second = replica.ask(&viewer, request).await.unwrap();
    let listed: Vec<String> = [first.uploads, second.uploads]
        .concat()
        .into_iter()
        .map(|one| one.id)
        .collect();
    assert!(listed.iter().eq(ids.iter().rev()) && second.next_page_token.is_empty());
    // Deleted by a person.
    let gone = pb::DeleteUploadRequest {
        upload_id: ids[0].clone(),
    };
    assert_eq!(
        replica.ask(&viewer, gone.clone()).await.unwrap_err().reason,
        "ROLE_TOO_LOW"
    );
    replica.ask(&operator, gone.clone()).await.unwrap();
    assert_eq!(
        replica.ask(&operator, gone).await.unwrap_err().reason,
        "UPLOAD_NOT_FOUND"
    );
    // Kept no longer.
    world.sql(&format!(
        "UPDATE upload SET expire_time = now() WHERE id = '{}'",
        ids[1]
    ));
    world.db.sql("UPDATE query.upload_due SET due_time = now()");
    eventually("the upload to go", async || {
        let left = world.sql(&format!(
            "SELECT count(*) FROM upload_key WHERE upload_id = '{}'",
            ids[1]
        ));
        (left == "0").then_some(())
    })
    .await;
    for id in &ids[..2] {
        assert_eq!(
            get(&replica, &viewer, id).await.unwrap_err().reason,
            "UPLOAD_NOT_FOUND"
        );
        let asked = pb::CountChangesRequest {
            server: id.clone(),
            ..pb::CountChangesRequest::default()
        };
        let no = replica
            .ask(&world.person(Role::Analyst), asked)
            .await
            .unwrap_err();
        assert_eq!(
            (no.code, no.reason.as_str()),
            (tonic::Code::NotFound, "UPLOAD_NOT_FOUND")
        );
    }
    only(&world, &ids[2]).await;
    assert!(!rows(&replica, &operator, &ids[2]).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_what() {
    let world = World::new().await;
    let replica = world.replica().await;
    let operator = world.person(Role::Operator);
    let log = Log::record(Engine::Mysql8, "");
    let id = replica.upload(&operator, "accident", log.named()).await;
    let create = pb::CreateUploadRequest {
        name: "another".to_owned(),
        file: log.file.clone(),
        ..pb::CreateUploadRequest::default()
    };
    for role in [Role::Viewer, Role::Analyst] {
        let no = replica
            .ask(&world.person(role), create.clone())
            .await
            .unwrap_err();
        assert_eq!(no.reason, "ROLE_TOO_LOW", "{role:?}");
    }
    let asked = pb::CountChangesRequest {
        server: id.clone(),
        ..pb::CountChangesRequest::default()
    };
    let no = replica
        .ask(&world.person(Role::Viewer), asked.clone())
        .await
        .unwrap_err();
    assert_eq!(no.reason, "ROLE_TOO_LOW");
    // Another tenant's is as missing as one that there is not.
    let other = world.new_tenant().await;
    let stranger = world.of(other, Role::Owner, Plan::Enterprise);
    assert_eq!(
        get(&replica, &stranger, &id).await.unwrap_err().reason,
        "UPLOAD_NOT_FOUND"
    );
    assert_eq!(
        replica.ask(&stranger, asked).await.unwrap_err().reason,
        "UPLOAD_NOT_FOUND"
    );
    assert_eq!(
        replica.part(&stranger, &id, 0, b"x").await.unwrap_err().reason,
        "UPLOAD_NOT_FOUND"
    );
    let gone = pb::DeleteUploadRequest {
        upload_id: id.clone(),
    };
    assert_eq!(
        replica.ask(&stranger, gone).await.unwrap_err().reason,
        "UPLOAD_NOT_FOUND"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_plan_has_no_room_for_is_refused() {
    let world = World::new().await;
    let replica = world.replica().await;
    let operator = world.person(Role::Operator);
    replica.create(&operator, "accident", "binlog.000001", 0).await;
    let create = pb::CreateUploadRequest {
        name: "another".to_owned(),
        file: "binlog.000001".to_owned(),
        ..pb::CreateUploadRequest::default()
    };
    // What the plan has no room for.
    let free = world.of(world.tenant, Role::Owner, Plan::Free);
    assert_eq!(
        replica.ask(&free, create.clone()).await.unwrap_err().reason,
        "PLAN_LIMIT"
    );
    let pro = world.of(world.tenant, Role::Owner, Plan::Pro);
    let large = pb::CreateUploadRequest {
        size: (1 << 30) + 1,
        ..create.clone()
    };
    assert_eq!(replica.ask(&pro, large).await.unwrap_err().reason, "PLAN_LIMIT");
    let insert = "INSERT INTO upload_key (upload_id, envelope, key_version) SELECT 'upl_' || n, '', 1 FROM generate_series(1, 19) AS n;
                  INSERT INTO upload (id, name, file, size, expire_time) SELECT 'upl_' || n, 'n' || n, 'f.1', 0, now() + interval '1 day'
                  FROM generate_series(1, 19) AS n";
    world.sql(insert);
    assert_eq!(
        replica.ask(&pro, create.clone()).await.unwrap_err().reason,
        "PLAN_LIMIT"
    );
    let taken = pb::CreateUploadRequest {
        name: "accident".to_owned(),
        ..create
    };
    let again = taken.clone();
    let no = replica.ask(&operator, taken).await.unwrap_err();
    assert_eq!(
        (no.code, no.reason.as_str()),
        (tonic::Code::AlreadyExists, "NAME_TAKEN")
    );
    // What is kept no longer takes no room and no name, also when nobody has come to delete it.
    world.sql("UPDATE upload SET expire_time = now() WHERE name = 'accident'");
    let begun = replica.ask(&pro, again).await.unwrap().upload.unwrap();
    assert_eq!(
        world.sql("SELECT id FROM upload WHERE name = 'accident'"),
        begun.id
    );
    assert_eq!(world.sql("SELECT count(*) FROM upload_key"), "20");
}

fn deny(schema: &str, table: &str, columns: &[&str]) -> tenant::AccessRule {
    tenant::AccessRule {
        id: types::RuleId::fresh().to_string(),
        role: proto::common::v1::Role::Analyst.into(),
        schema_name: schema.to_owned(),
        table_name: table.to_owned(),
        columns: columns.iter().map(|column| (*column).to_owned()).collect(),
        effect: tenant::Effect::Deny.into(),
        ..tenant::AccessRule::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_hold_for_uploads_too() {
    let world = World::new().await;
    let replica = world.replica().await;
    let log = Log::record(Engine::Mysql9, "");
    let id = replica
        .upload(&world.person(Role::Operator), "accident", log.named())
        .await;
    let analyst = world.person(Role::Analyst);
    assert!(!changes(&replica, &analyst, &id).await.1);
    world.neighbours.rule(vec![
        deny(&log.schema, "secrets", &[]),
        deny(&log.schema, "orders", &["note"]),
    ]);
    eventually("the rules to hold", async || {
        changes(&replica, &analyst, &id).await.1.then_some(())
    })
    .await;
    let (changes, _) = changes(&replica, &analyst, &id).await;
    assert!(!changes.is_empty() && changes.iter().all(|change| change.table == "orders"));
    let told = changes.iter().map(json).collect::<String>();
    assert!(!told.contains(crate::logs::CANARY) && told.contains("lost"));
    let hidden = pb::GetRowHistoryRequest {
        server: id.clone(),
        table: Some(change::TableFilter {
            schema: log.schema.clone(),
            table: "secrets".to_owned(),
        }),
        key: "1".to_owned(),
        ..pb::GetRowHistoryRequest::default()
    };
    assert_eq!(
        replica.ask(&analyst, hidden).await.unwrap_err().reason,
        "TABLE_DENIED"
    );
    let tables = pb::ListTablesRequest { server: id };
    assert_eq!(replica.ask(&analyst, tables).await.unwrap().tables.len(), 1);
}
