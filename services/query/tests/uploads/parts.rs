//! How a file comes: in one stream or several, from where it was cut off, and nothing but a binary log.

use std::time::Duration;

use proto::query::v1 as pb;
use testkit::Engine;
use tokio::sync::mpsc::{self, Sender};
use tokio_stream::wrappers::ReceiverStream;
use types::{Context, Plan, Role};

use crate::{
    child::Running,
    life::{get, rows},
    logs::Log,
    world::{No, Replica, World, eventually, messages},
};

const MIB: usize = 1 << 20;

/// A log of several MiB.
fn long() -> Log {
    let more = "INSERT INTO {s}.secrets SELECT id + 10, 'x' FROM {s}.orders; ALTER TABLE {s}.secrets ADD COLUMN blob_ LONGBLOB;
                UPDATE {s}.secrets SET blob_ = REPEAT('y', 20000) WHERE id > 10";
    let log = Log::record(Engine::Mariadb, more);
    assert!(log.bytes.len() > 3 * MIB, "{}", log.bytes.len());
    log
}

/// A stream that stays open, and who fills it.
fn open(
    first: Vec<pb::UploadFileRequest>,
) -> (
    Sender<pb::UploadFileRequest>,
    ReceiverStream<pb::UploadFileRequest>,
) {
    let (sender, receiver) = mpsc::channel(first.len() + 1_000);
    for message in first {
        sender.try_send(message).unwrap();
    }
    (sender, ReceiverStream::new(receiver))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_cut_off_asks_how_far_it_came_and_goes_on() {
    let world = World::new().await;
    let (replica, second) = (world.replica().await, world.replica().await);
    let operator = world.person(Role::Operator);
    let log = long();
    let whole = log.bytes.len();
    let upload = replica.create(&operator, "cut", &log.file, whole as u64).await.id;
    let part = async |from: usize, to: usize| {
        replica
            .part(&operator, &upload, from as u64, &log.bytes[from..to])
            .await
    };
    // A stream that ends in order leaves all of its bytes there.
    assert_eq!(part(0, 3).await, Ok(3));
    assert_eq!(part(3, 700_000).await, Ok(700_000));
    assert_eq!(part(700_000, 700_000).await, Ok(700_000));
    for wrong in [
        (700_001, 700_002),
        (699_999, 700_001),
        (0, 1_000_000),
        (0, 700_000),
    ] {
        let no = part(wrong.0, wrong.1).await.unwrap_err();
        assert_eq!(no.reason, "UPLOAD_OFFSET_WRONG");
        assert!(no.message.contains("700000"), "{no:?}");
    }
    // One that is cut off leaves what fills whole chunks.
    let sent = messages(&upload, 700_000, &log.bytes[700_000..2_500_000], 65_536);
    let (sender, stream) = open(sent);
    let cut = tokio::spawn({
        let (second, operator) = (second.clone(), operator.clone());
        async move { second.stream(&operator, stream).await }
    });
    let came = async || get(&replica, &operator, &upload).await.unwrap().bytes;
    eventually("two chunks", async || {
        (came().await == 2 * MIB as u64).then_some(())
    })
    .await;
    cut.abort();
    let _ = cut.await;
    drop(sender);
    // Nobody finishes what is not whole.
    let no = replica.finish(&operator, &upload, false).await.unwrap_err();
    assert_eq!(no.reason, "UPLOAD_INCOMPLETE");
    // Another replica takes the rest.
    replica
        .send(&operator, &upload, &log.bytes, 2 * MIB, 300_000)
        .await;
    let no = part_beyond(&replica, &operator, &upload, whole).await;
    assert_eq!(no.reason, "UPLOAD_TOO_LARGE");
    assert_eq!(
        world.sql("SELECT count(*) FROM upload_part"),
        whole.div_ceil(MIB).to_string()
    );
    replica.finish(&operator, &upload, false).await.unwrap();
    let analyst = world.person(Role::Analyst);
    assert_eq!(rows(&second, &analyst, &upload).await, log.rows(whole));
    let no = part_beyond(&replica, &operator, &upload, whole).await;
    assert_eq!(no.reason, "UPLOAD_NOT_OPEN");
}

async fn part_beyond(replica: &Replica, operator: &Context, upload: &str, end: usize) -> No {
    replica
        .part(operator, upload, end as u64, b"more")
        .await
        .unwrap_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_are_too_long_or_empty_or_about_another_upload_are_refused() {
    let world = World::new().await;
    let replica = world.replica().await;
    let operator = world.person(Role::Operator);
    let id = replica.create(&operator, "wrong", "binlog.000001", 0).await.id;
    let good = messages(&id, 0, b"\xfebin", 4);
    let data = |length: usize| pb::UploadFileRequest {
        data: vec![0; length].into(),
        ..pb::UploadFileRequest::default()
    };
    let (about, far) = (messages(&id, 0, b"", 1), messages("", 4, b"", 1));
    for (wrong, field) in [
        (data(MIB + 1), "data: "),
        (data(8 * MIB), "data: "),
        // It would cost nothing to send, and keep the stream open.
        (data(0), "data: "),
        (about[0].clone(), "upload_id: "),
        (far[0].clone(), "upload_id: "),
    ] {
        let sent = [good.clone(), vec![wrong]].concat();
        let no = replica
            .stream(&operator, futures_util::stream::iter(sent))
            .await
            .unwrap_err();
        assert_eq!(
            (no.code, no.reason.as_str()),
            (tonic::Code::InvalidArgument, "FIELD_INVALID"),
            "{no:?}"
        );
        assert!(no.message.starts_with(field), "{no:?}");
    }
    let nothing = futures_util::stream::empty();
    let no = replica.stream(&operator, nothing).await.unwrap_err();
    assert_eq!(no.reason, "FIELD_INVALID");
    let nobody = messages("upl_01j00000000000000000000000", 0, b"", 1);
    let no = replica
        .stream(&operator, futures_util::stream::iter(nobody))
        .await
        .unwrap_err();
    assert_eq!(no.reason, "UPLOAD_NOT_FOUND");
    // Nothing of these was kept, and a message may be as long as a chunk.
    let sent = [good, vec![data(MIB)]].concat();
    let end = replica.stream(&operator, futures_util::stream::iter(sent)).await;
    assert_eq!(end, Ok(MIB as u64 + 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_stream_at_a_time_fills_an_upload_and_the_newest_one_does() {
    let world = World::new().await;
    let (replica, second) = (world.replica().await, world.replica().await);
    let operator = world.person(Role::Operator);
    let log = long();
    let size = log.bytes.len() as u64;
    for (name, newer) in [("same", &replica), ("another", &second)] {
        let id = replica.create(&operator, name, &log.file, size).await.id;
        let (sender, stream) = open(messages(&id, 0, &log.bytes[..MIB + 5], 65_536));
        let older = tokio::spawn({
            let (replica, operator) = (replica.clone(), operator.clone());
            async move { replica.stream(&operator, stream).await }
        });
        let came = async || get(&replica, &operator, &id).await.unwrap().bytes;
        eventually("a chunk", async || (came().await == MIB as u64).then_some(())).await;
        newer.send(&operator, &id, &log.bytes, MIB, 65_536).await;
        // In another replica nobody knows of it, and it has nowhere to go on.
        drop(sender);
        let no = older.await.unwrap().unwrap_err();
        let reason = if name == "same" {
            "UPLOAD_STREAM_REPLACED"
        } else {
            "UPLOAD_OFFSET_WRONG"
        };
        assert_eq!(no.reason, reason, "{no:?}");
        replica.finish(&operator, &id, false).await.unwrap();
        assert_eq!(rows(&replica, &operator, &id).await, log.rows(log.bytes.len()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_begins_elsewhere_ends_nobody_elses() {
    let world = World::new().await;
    let replica = world.replica().await;
    let operator = world.person(Role::Operator);
    let log = long();
    let id = replica
        .create(&operator, "log", &log.file, log.bytes.len() as u64)
        .await
        .id;
    let (sender, stream) = open(messages(&id, 0, &log.bytes[..2 * MIB + 5], 65_536));
    let first = tokio::spawn({
        let (replica, operator) = (replica.clone(), operator.clone());
        async move { replica.stream(&operator, stream).await }
    });
    let came = async || get(&replica, &operator, &id).await.unwrap().bytes;
    eventually("two chunks", async || {
        (came().await == 2 * MIB as u64).then_some(())
    })
    .await;
    let no = replica
        .part(&operator, &id, 0, &log.bytes[..MIB])
        .await
        .unwrap_err();
    assert_eq!(no.reason, "UPLOAD_OFFSET_WRONG", "{no:?}");
    for message in &messages("", 0, &log.bytes[2 * MIB + 5..], 65_536)[1..] {
        sender.send(message.clone()).await.expect("it still takes bytes");
    }
    drop(sender);
    assert_eq!(first.await.unwrap(), Ok(log.bytes.len() as u64));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_must_end_says_so_and_keeps_what_came() {
    let world = World::new().await;
    let replica = world.replica().await;
    let operator = world.person(Role::Operator);
    let id = replica.create(&operator, "long", "binlog.000001", 0).await.id;
    let (sender, stream) = open(messages(&id, 0, b"\xfebin and more", 5));
    // Its sender waits no longer, and would go on sending.
    let longest = Duration::from_secs(6);
    let no = replica
        .stream_within(&operator, longest, stream)
        .await
        .unwrap_err();
    assert_eq!(
        (no.code, no.reason.as_str()),
        (tonic::Code::Unavailable, "UPLOAD_TO_BE_CONTINUED"),
        "{no:?}"
    );
    assert!(no.message.contains("13 bytes"), "{no:?}");
    drop(sender);
    assert_eq!(get(&replica, &operator, &id).await.unwrap().bytes, 13);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_tenant_has_few_streams_in_a_replica_and_others_have_theirs() {
    let world = World::new().await;
    let replica = world.replica().await;
    let operator = world.person(Role::Operator);
    let mut open_ones = Vec::new();
    for name in ["one", "two"] {
        let id = replica.create(&operator, name, "binlog.000001", 0).await.id;
        let (sender, stream) = open(messages(&id, 0, b"\xfebin", 4));
        let (replica, operator) = (replica.clone(), operator.clone());
        let call = tokio::spawn(async move { replica.stream(&operator, stream).await });
        open_ones.push((sender, call));
    }
    let third = replica.create(&operator, "three", "binlog.000001", 0).await.id;
    let no = eventually("both streams to be there", async || {
        replica.part(&operator, &third, 0, b"").await.err()
    })
    .await;
    assert_eq!(
        (no.code, no.reason.as_str()),
        (tonic::Code::ResourceExhausted, "STREAM_LIMIT")
    );
    let other = world.of(world.new_tenant().await, Role::Operator, Plan::Enterprise);
    let theirs = replica.create(&other, "one", "binlog.000001", 0).await.id;
    assert_eq!(replica.part(&other, &theirs, 0, b"\xfebin").await, Ok(4));
    for (sender, call) in open_ones {
        drop(sender);
        assert_eq!(call.await.unwrap(), Ok(4));
    }
    assert_eq!(replica.part(&operator, &third, 0, b"\xfebin").await, Ok(4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_never_wholly_in_memory() {
    let world = World::new().await;
    let child = Running::start(&world);
    let replica = world.callers(child.address).await;
    let operator = world.person(Role::Operator);
    // What any stream needs is there before it is measured.
    let small = replica.create(&operator, "small", "binlog.000001", 0).await.id;
    let head = |id: &str| messages(id, 0, b"\xfebin", 4);
    let pieces = |count| {
        (0..count).map(|_| pb::UploadFileRequest {
            data: vec![0; MIB].into(),
            ..pb::UploadFileRequest::default()
        })
    };
    let sent = head(&small).into_iter().chain(pieces(4));
    replica
        .stream(&operator, futures_util::stream::iter(sent))
        .await
        .unwrap();
    let before = child.peak_kib();
    let large = replica.create(&operator, "large", "binlog.000002", 0).await.id;
    let sent = head(&large).into_iter().chain(pieces(64));
    let end = replica.stream(&operator, futures_util::stream::iter(sent)).await;
    assert_eq!(end, Ok(64 * MIB as u64 + 4));
    let grown = child.peak_kib().saturating_sub(before);
    assert!(grown < 16 << 10, "{grown} KiB more for a file of 64 MiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_binary_log_is_refused_at_its_first_bytes() {
    let world = World::new().await;
    let replica = world.replica().await;
    let operator = world.person(Role::Operator);
    let upload = replica.create(&operator, "wrong", "binlog.000001", 0).await.id;
    for wrong in [&b"-- MySQL dump"[..], b"\xfdbin\x01", b"\xfebix"] {
        let no = replica.part(&operator, &upload, 0, wrong).await.unwrap_err();
        assert_eq!(
            (no.code, no.reason.as_str()),
            (tonic::Code::InvalidArgument, "UPLOAD_NOT_A_BINLOG")
        );
    }
    assert_eq!(replica.part(&operator, &upload, 0, b"\xfeb").await, Ok(2));
    let no = replica.part(&operator, &upload, 2, b"ix").await.unwrap_err();
    assert_eq!(no.reason, "UPLOAD_NOT_A_BINLOG");
    let no = replica.finish(&operator, &upload, true).await.unwrap_err();
    assert_eq!(no.reason, "UPLOAD_DAMAGED", "{no:?}");
    // More than the plan has room for, though nobody said how long it is.
    let upload = replica.create(&operator, "long", "binlog.000001", 0).await.id;
    assert_eq!(replica.part(&operator, &upload, 0, b"\xfebin").await, Ok(4));
    world.sql(&format!(
        "UPDATE upload SET bytes = 1::bigint << 30 WHERE id = '{upload}'"
    ));
    let pro = world.of(world.tenant, Role::Operator, Plan::Pro);
    let no = replica.part(&pro, &upload, 1 << 30, b"x").await.unwrap_err();
    assert_eq!(no.reason, "PLAN_LIMIT");
}
