//! Nothing of a file can be read in the database, and nothing that is stored is taken for something else.

use proto::query::v1 as pb;
use testkit::Engine;
use types::{Plan, Role};

use crate::{
    life::rows,
    logs::{CANARY, Log},
    world::{No, Replica, World, eventually},
};

fn holds(haystack: &[u8], needle: &str) -> bool {
    let hexadecimal: String = needle.bytes().map(|byte| format!("{byte:02x}")).collect();
    [needle.as_bytes(), hexadecimal.as_bytes()]
        .iter()
        .any(|needle| haystack.windows(needle.len()).any(|bytes| bytes == *needle))
}

async fn count(replica: &Replica, person: &types::Context, upload: &str) -> Result<(), No> {
    let asked = pb::QueryChangesRequest {
        server: upload.to_owned(),
        ..pb::QueryChangesRequest::default()
    };
    replica.ask(person, asked).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_value_of_a_file_is_in_the_database() {
    let world = World::new().await;
    let replica = world.replica().await;
    let operator = world.person(Role::Operator);
    // One transaction that does not fit into the memory that a tail may have.
    let more = "ALTER TABLE {s}.secrets ADD COLUMN big LONGBLOB; INSERT INTO {s}.secrets SELECT id + 10, 'x', NULL FROM {s}.orders;
                UPDATE {s}.secrets SET big = CONCAT('big-canary-5d1', REPEAT('y', 120000)) WHERE id > 10";
    let log = Log::record(Engine::Mariadb, more);
    assert!(log.bytes.len() > 20 << 20 && holds(&log.bytes, CANARY));
    let half = log.bytes.len() / 2;
    let upload = replica
        .create(&operator, "canary", &log.file, log.bytes.len() as u64)
        .await
        .id;
    replica
        .send(&operator, &upload, &log.bytes[..half], 0, 1 << 20)
        .await;
    let open = world.db.dump();
    replica.send(&operator, &upload, &log.bytes, half, 1 << 20).await;
    let done = replica.finish(&operator, &upload, false).await.unwrap();
    assert_eq!(done.state(), pb::UploadState::Ready, "{done:?}");
    let ready = world.db.dump();
    for dump in [open, ready] {
        assert!(!holds(&dump, CANARY) && !holds(&dump, "big-canary"));
        assert!(holds(&dump, &upload), "the dump has what is stored of the upload");
    }
    // What of the transaction was kept before it ended goes, all of it.
    for table in ["upload_file", "upload_piece"] {
        world.gone(&format!("{table} WHERE name LIKE 'tail-%'")).await;
    }
    world.gone("upload_part").await;
    let told = rows(&replica, &operator, &upload).await;
    assert!(told.concat().contains(CANARY));
    assert_eq!(told, log.rows(log.bytes.len()));
}

/// The pieces of two uploads of one tenant, and one of another tenant, all of the same file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_moved_or_changed_does_not_open() {
    let world = World::new().await;
    let replica = world.replica().await;
    let operator = world.person(Role::Operator);
    let log = Log::record(Engine::Mysql8, "");
    let one = replica.upload(&operator, "one", log.named()).await;
    let two = replica.upload(&operator, "two", log.named()).await;
    let other = world.new_tenant().await;
    let stranger = world.of(other, Role::Operator, Plan::Enterprise);
    let theirs = replica.upload(&stranger, "one", log.named()).await;
    let schema = |tenant: types::TenantId| tenant.to_string().replace("tnt_", "t_");
    let sealed = |upload: &str, name: &str| {
        format!("(SELECT sealed FROM upload_piece WHERE upload_id = '{upload}' AND name = '{name}')")
    };
    let segment = world.sql(&format!(
        "SELECT name FROM upload_piece WHERE upload_id = '{one}' AND name LIKE 'seg%' LIMIT 1"
    ));
    let foreign = format!(
        "(SELECT sealed FROM {}.upload_piece WHERE upload_id = '{theirs}' AND name = '{segment}')",
        schema(other)
    );
    let wrong = [
        sealed(&two, &segment),
        sealed(&one, "manifest.json"),
        foreign,
        format!("set_byte({0}, 20, get_byte({0}, 20) # 1)", sealed(&one, &segment)),
        format!("substr({0}, 1, octet_length({0}) - 1)", sealed(&one, &segment)),
    ];
    let right = world.sql(&format!("SELECT encode({}, 'hex')", sealed(&one, &segment)));
    for value in wrong {
        let update = format!(
            "UPDATE upload_piece SET sealed = {value} WHERE upload_id = '{one}' AND name = '{segment}'"
        );
        world.sql(&update);
        // A replica that has nothing of it open.
        let fresh = world.replica().await;
        let no = count(&fresh, &operator, &one).await.unwrap_err();
        assert!(!no.message.contains(CANARY), "{no:?}");
        count(&fresh, &operator, &two).await.unwrap();
        let back = format!(
            "UPDATE upload_piece SET sealed = decode('{right}', 'hex') WHERE upload_id = '{one}' AND name = '{segment}'"
        );
        world.sql(&back);
        count(&fresh, &operator, &one).await.unwrap();
    }
    // The key of another upload opens nothing either.
    let swap = format!(
        "UPDATE upload_key SET envelope = (SELECT envelope FROM upload_key WHERE upload_id = '{two}') WHERE upload_id = '{one}'"
    );
    world.sql(&swap);
    let fresh = world.replica().await;
    assert!(count(&fresh, &operator, &one).await.is_err());
    count(&fresh, &operator, &two).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_uploads_are_sealed_anew_with_the_tenants_next_key() {
    let world = World::new().await;
    let replica = world.replica().await;
    let operator = world.person(Role::Operator);
    let log = Log::record(Engine::Mysql9, "");
    let upload = replica.upload(&operator, "rotated", log.named()).await;
    let before = world.sql("SELECT envelope FROM upload_key");
    let version = world.rotate().await;
    eventually("the key to be sealed anew", async || {
        let now = world.sql("SELECT key_version FROM upload_key");
        (now == version.to_string()).then_some(())
    })
    .await;
    assert_ne!(world.sql("SELECT envelope FROM upload_key"), before);
    let fresh = world.replica().await;
    assert_eq!(rows(&fresh, &operator, &upload).await, log.rows(log.bytes.len()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_that_were_moved_are_not_read() {
    let world = World::new().await;
    let replica = world.replica().await;
    let operator = world.person(Role::Operator);
    let more = "ALTER TABLE {s}.secrets ADD COLUMN big LONGBLOB; INSERT INTO {s}.secrets SELECT id + 10, 'x', NULL FROM {s}.orders;
                UPDATE {s}.secrets SET big = REPEAT('y', 15000) WHERE id > 10";
    let log = Log::record(Engine::Mariadb, more);
    assert!(log.bytes.len() > 2 << 20);
    let upload = replica.create(&operator, "moved", &log.file, 0).await.id;
    replica.send(&operator, &upload, &log.bytes, 0, 1 << 20).await;
    world.sql(
        "UPDATE upload_part SET sealed = (SELECT sealed FROM upload_part WHERE number = 0) WHERE number = 1",
    );
    let finish = pb::FinishUploadRequest {
        upload_id: upload.clone(),
        keep_what_came: true,
    };
    let soon = std::time::Duration::from_secs(2);
    let told = replica.ask_within(soon, &operator, finish).await.unwrap();
    assert_eq!(told.upload.unwrap().state(), pb::UploadState::Reading);
    // What ends with a word is tried again, and not given up for it.
    eventually("the attempt to be put off", async || {
        let now = tokio::task::block_in_place(|| world.sql("SELECT attempt > 0 AND tries = 0 FROM upload"));
        (now == "t").then_some(())
    })
    .await;
    let state = world.sql("SELECT state, changes FROM upload");
    assert_eq!(state, "reading|0", "nothing is kept of it");
}
