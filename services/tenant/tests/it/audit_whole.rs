//! Logs with records that nobody can read, logs that are trimmed under those who read them, and readers who want too much.

use std::time::SystemTime;

use http::uri::PathAndQuery;
use proto::tenant::v1::*;
use serde_json::json;
use tonic::{Code, Request, Status, Streaming, client::Grpc};
use types::AuditId;

use crate::{
    audit::{act, append, intent, owner, schema},
    audit_read::{all, export, pages},
    rpc::Rpc,
    world::{Caller, No, World},
};

/// Microseconds since 1970.
pub(crate) fn micros() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(since.unwrap().as_micros()).unwrap()
}

/// Begins a stream, whose answers nobody reads yet.
async fn open<Q: Rpc>(
    world: &World,
    caller: &Caller<'_>,
    message: Q,
) -> Result<Streaming<Q::Answer>, Status> {
    let mut client = Grpc::new(world.door());
    client.ready().await.unwrap();
    let codec: tonic_prost::ProstCodec<Q, Q::Answer> = tonic_prost::ProstCodec::default();
    let path = PathAndQuery::from_static(Q::PATH);
    let answer = client.server_streaming(caller.request(message), path, codec);
    Ok(answer.await?.into_inner())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_cannot_be_read_is_told_of_and_hides_no_other() {
    let world = World::new().await;
    let pool = world.pool().await;
    let anna = owner(&world, "anna@example.com").await;
    let (tenant, now) = (anna.tenant(), micros());
    let first = act(&anna, "DeleteServer", Outcome::Succeeded).await;
    // No event; one of a kind that a later release may have; an intent without a call, that goes on; a result of a kind of its own.
    let ids: Vec<String> = (0..3).map(|_| AuditId::fresh().to_string()).collect();
    let begun = intent(&anna, "UpdateServer", 60);
    anna.send(Request::new(begun.clone())).await.unwrap();
    let later = json!({
        "id": ids[1], "time": now, "end_time": now, "actor": {}, "kind": "teleport", "method": "/m", "outcome": "succeeded", "code": "OK",
    });
    let bodies = [
        json!({"part": "event", "id": ids[0], "time": now}),
        json!({"part": "event", "id": ids[1], "time": now, "event": later}),
        json!({"part": "intent", "id": ids[2], "time": now, "deadline": now + 3_600_000_000}),
        json!({"part": "result", "id": begun.entry_id, "time": now, "outcome": "half"}),
    ];
    append(&pool, tenant, &bodies.map(|body| body.to_string())).await;
    let last = act(&anna, "DeleteServer", Outcome::Failed).await;

    let told = |entry: &AuditEntry| {
        (
            entry.id.clone(),
            entry.sequence,
            entry.outcome(),
            entry.reason.clone(),
        )
    };
    let lost =
        |id: &str, sequence: i64, outcome| (id.to_owned(), sequence, outcome, "RECORD_UNREADABLE".to_owned());
    let done = (first, 2, Outcome::Succeeded, String::new());
    let failed = (last, 9, Outcome::Failed, "SERVER_NOT_FOUND".to_owned());
    let half = lost(&begun.entry_id, 7, Outcome::Unknown);
    let (none, new) = (
        lost(&ids[0], 4, Outcome::Unknown),
        lost(&ids[1], 5, Outcome::Unknown),
    );
    let goes_on = lost(&ids[2], 6, Outcome::Pending);
    let listed = pages(&anna, &AuditFilter::default(), 2).await;
    assert_eq!(
        listed.iter().map(told).collect::<Vec<_>>(),
        [&failed, &goes_on, &new, &none, &half, &done].map(Clone::clone)
    );
    assert!(listed.iter().all(|entry| {
        entry
            .time
            .is_some_and(|time| time.seconds >= now / 1_000_000 - 60)
    }));
    assert_eq!(
        listed[4].call.as_ref().unwrap().method,
        "/trailmesh.tenant.v1.ServerService/UpdateServer"
    );
    let unknown = AuditFilter {
        outcome: Outcome::Unknown.into(),
        ..AuditFilter::default()
    };
    assert_eq!(pages(&anna, &unknown, 50).await.len(), 3);

    let (answers, end) = all(&world, &anna, StreamAuditEntriesRequest::default()).await;
    assert!(end.is_none(), "{end:?}");
    let streamed: Vec<AuditEntry> = answers.into_iter().filter_map(|answer| answer.entry).collect();
    assert_eq!(
        streamed.iter().map(told).collect::<Vec<_>>(),
        [done, none, new, half, failed]
    );
    for format in [AuditFormat::Ocsf, AuditFormat::Ecs, AuditFormat::Cef] {
        let file = export(&world, &anna, format, 0).await;
        let unread: Vec<&str> = file
            .lines()
            .filter(|line| line.contains("RECORD_UNREADABLE"))
            .collect();
        assert_eq!((file.lines().count(), unread.len()), (5, 3), "{format:?}");
        assert!(
            unread[0].contains(&ids[0]) && unread[1].contains(&ids[1]),
            "{format:?}"
        );
    }
    let file = export(&world, &anna, AuditFormat::Native, 0).await;
    assert_eq!(file.lines().count(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_tenant_follows_so_many_streams_and_the_others_have_theirs() {
    let world = World::new().await;
    let anna = owner(&world, "anna@example.com").await;
    let bert = owner(&world, "bert@example.com").await;
    let follow = || StreamAuditEntriesRequest {
        follow: true,
        ..StreamAuditEntriesRequest::default()
    };
    let mut open_ones = Vec::new();
    for _ in 0..8 {
        open_ones.push(open(&world, &anna, follow()).await.unwrap());
    }
    for refused in [
        open(&world, &anna, follow()).await.unwrap_err(),
        open(&world, &anna, ExportAuditEntriesRequest::default())
            .await
            .unwrap_err(),
    ] {
        let no = No::from(refused);
        assert_eq!(
            (no.code, no.reason.as_str()),
            (Code::ResourceExhausted, "AUDIT_STREAM_LIMIT")
        );
        assert!(no.retry_after.is_some());
    }
    open_ones.push(open(&world, &bert, follow()).await.unwrap());
    let _ = export(&world, &bert, AuditFormat::Native, 0).await;
    // Whoever goes away leaves a place.
    open_ones.remove(0);
    let mut again = open(&world, &anna, follow()).await;
    for _ in 0..200 {
        if again.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        again = open(&world, &anna, follow()).await;
    }
    again.unwrap();
}

/// Appends events that fill an export: no client takes more than a few parts before it reads.
async fn much(pool: &pg::Pool, anna: &Caller<'_>) {
    let now = micros();
    let targets: std::collections::BTreeMap<String, String> = (0..16)
        .map(|n| (format!("field_{n:02}"), "x".repeat(250)))
        .collect();
    for _ in 0..12 {
        let event = |_| {
            let id = AuditId::fresh().to_string();
            let event = json!({
                "id": id, "time": now, "end_time": now, "actor": {}, "kind": "change", "method": "/trailmesh.tenant.v1.ServerService/DeleteServer",
                "targets": targets, "outcome": "succeeded", "code": "OK",
            });
            json!({"part": "event", "id": id, "time": now, "event": event}).to_string()
        };
        let bodies: Vec<String> = (0..250).map(event).collect();
        append(pool, anna.tenant(), &bodies).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_that_is_trimmed_under_way_does_not_end_as_if_it_were_whole() {
    let world = World::new().await;
    let pool = world.pool().await;
    // With the front go entries that are not written yet; with the first record alone goes the beginning of the last entry.
    for (format, gone) in [
        (AuditFormat::Ocsf, 2_900),
        (AuditFormat::Ecs, 1),
        (AuditFormat::Cef, 2_900),
        (AuditFormat::Native, 2_900),
    ] {
        let anna = owner(&world, &format!("anna{}{gone}@example.com", format as i32)).await;
        let begun = intent(&anna, "DeleteServer", 60);
        anna.send(Request::new(begun.clone())).await.unwrap();
        much(&pool, &anna).await;
        let end = crate::audit::result(&begun, Outcome::Succeeded);
        anna.send(Request::new(end)).await.unwrap();
        let request = ExportAuditEntriesRequest {
            format: format.into(),
            after_sequence: 0,
        };
        let mut stream = open(&world, &anna, request).await.unwrap();
        stream.message().await.unwrap().unwrap();
        world.db.sql(&format!(
            "DELETE FROM {}.audit_record WHERE seq <= {gone}",
            schema(anna.tenant())
        ));
        let refused = loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("{format:?} ended as if it were whole"),
                Err(status) => break No::from(status),
            }
        };
        assert_eq!(refused.reason, "AUDIT_TRIMMED", "{format:?}");
        // From the beginning, it is whole again, without what is gone.
        export(&world, &anna, format, 0).await;
    }
}
