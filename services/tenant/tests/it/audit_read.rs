//! What is read from an audit log, by whom, and as what.

use std::sync::atomic::{AtomicBool, Ordering};

use audit::native::{Proof, Reader};
use http::uri::PathAndQuery;
use proto::tenant::v1::*;
use tonic::{Code, Request, Status, client::Grpc};
use types::Role;

use crate::{
    audit::{act, call_of, intent, owner, report, result, schema},
    rpc::Rpc,
    world::{Caller, World},
};

/// Everything that a stream answers, until it ends.
pub(crate) async fn all<Q: Rpc>(
    world: &World,
    caller: &Caller<'_>,
    message: Q,
) -> (Vec<Q::Answer>, Option<Status>) {
    let mut client = Grpc::new(world.door());
    client.ready().await.unwrap();
    let codec: tonic_prost::ProstCodec<Q, Q::Answer> = tonic_prost::ProstCodec::default();
    let path = PathAndQuery::from_static(Q::PATH);
    let mut stream = match client
        .server_streaming(caller.request(message), path, codec)
        .await
    {
        Ok(answer) => answer.into_inner(),
        Err(status) => return (Vec::new(), Some(status)),
    };
    let mut answers = Vec::new();
    loop {
        match stream.message().await {
            Ok(Some(answer)) => answers.push(answer),
            Ok(None) => return (answers, None),
            Err(status) => return (answers, Some(status)),
        }
    }
}

pub(crate) async fn export(
    world: &World,
    caller: &Caller<'_>,
    format: AuditFormat,
    after_sequence: i64,
) -> String {
    let request = ExportAuditEntriesRequest {
        format: format.into(),
        after_sequence,
    };
    let (parts, end) = all(world, caller, request).await;
    assert!(end.is_none(), "{end:?}");
    let bytes: Vec<u8> = parts
        .into_iter()
        .flat_map(|part| part.chunk.unwrap().data.to_vec())
        .collect();
    String::from_utf8(bytes).unwrap()
}

pub(crate) async fn pages(caller: &Caller<'_>, filter: &AuditFilter, page_size: i32) -> Vec<AuditEntry> {
    let mut entries = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListAuditEntriesRequest {
            page_size,
            page_token,
            filter: Some(filter.clone()),
        };
        let page = caller.call(request).await.unwrap();
        assert!(page.entries.len() <= usize::try_from(page_size).unwrap());
        entries.extend(page.entries);
        if page.next_page_token.is_empty() {
            return entries;
        }
        page_token = page.next_page_token;
    }
}

/// A log with some of everything.
async fn full_log(anna: &Caller<'_>, bert: &Caller<'_>) {
    for n in 0..12 {
        let who = if n % 3 == 0 { bert } else { anna };
        let mut begun = intent(who, ["RegisterServer", "DeleteServer"][n % 2], 60);
        begun.call.as_mut().unwrap().kind =
            [AuditKind::Change, AuditKind::Read, AuditKind::Security][n % 3].into();
        begun.tenant_id = anna.tenant().to_string();
        anna.send(Request::new(begun.clone())).await.unwrap();
        if n % 5 != 4 {
            let outcome = [Outcome::Succeeded, Outcome::Failed, Outcome::Unknown][n % 3];
            anna.send(Request::new(result(&begun, outcome))).await.unwrap();
        }
    }
    let refusals = vec![Refusal {
        tenant_id: anna.tenant().to_string(),
        entry_id: types::AuditId::fresh().to_string(),
        call: Some(call_of(bert, "DeleteServer")),
        code: "PERMISSION_DENIED".to_owned(),
        reason: "ROLE_TOO_LOW".to_owned(),
        time: Some(prost_types::Timestamp {
            seconds: 1_700_000_000,
            nanos: 0,
        }),
        count: 3,
    }];
    anna.send(Request::new(RecordRefusalsRequest { refusals }))
        .await
        .unwrap();
}

fn wanted(filter: &AuditFilter, entry: &AuditEntry) -> bool {
    let call = entry.call.as_ref().unwrap();
    let actor = call.actor.as_ref().unwrap();
    let seconds = |time: &Option<prost_types::Timestamp>| {
        let time = time.as_ref().unwrap();
        (time.seconds, time.nanos)
    };
    (filter.actor_id.is_empty() || actor.user_id == filter.actor_id)
        && match filter.method.strip_suffix('*') {
            Some(beginning) => call.method.starts_with(beginning),
            None => filter.method.is_empty() || filter.method == call.method,
        }
        && (filter.target_id.is_empty() || call.targets.values().any(|id| *id == filter.target_id))
        && (filter.outcome == 0 || filter.outcome == entry.outcome)
        && (filter.kind == 0 || filter.kind == call.kind)
        && (filter.since.is_none() || seconds(&entry.time) >= seconds(&filter.since))
        && (filter.until.is_none() || seconds(&entry.time) < seconds(&filter.until))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_page_and_filter_as_a_model_does() {
    let world = World::new().await;
    let anna = owner(&world, "anna@example.com").await;
    let bert = world.member(&anna, Some(Role::Analyst), &[]).await;
    full_log(&anna, &bert).await;
    let model = pages(&bert, &AuditFilter::default(), 200).await;
    assert_eq!(model.len(), 13);
    assert_eq!(model[0].count, 3);
    let target = model[5].call.as_ref().unwrap().targets.values().next().cloned();
    let with = |change: &dyn Fn(&mut AuditFilter)| {
        let mut filter = AuditFilter::default();
        change(&mut filter);
        filter
    };
    let mut filters = vec![
        AuditFilter::default(),
        with(&|f| f.actor_id = bert.user().to_string()),
        with(&|f| f.actor_id = "usr_nobody".to_owned()),
        with(&|f| f.method = "/trailmesh.tenant.v1.ServerService/DeleteServer".to_owned()),
        with(&|f| f.method = "/trailmesh.tenant.v1.*".to_owned()),
        with(&|f| f.method = "/trailmesh.auth.v1.*".to_owned()),
        with(&|f| f.target_id = target.clone().unwrap_or_default()),
        with(&|f| f.since = model[6].time),
        with(&|f| f.until = model[6].time),
        with(&|f| {
            f.outcome = Outcome::Failed.into();
            f.kind = AuditKind::Read.into();
            f.actor_id = anna.user().to_string();
        }),
    ];
    filters.extend((1..=4).map(|outcome| with(&|f| f.outcome = outcome)));
    filters.extend((1..=4).map(|kind| with(&|f| f.kind = kind)));
    for filter in filters {
        let expected: Vec<&AuditEntry> = model.iter().filter(|entry| wanted(&filter, entry)).collect();
        for size in [1, 3, 200] {
            let got = pages(&bert, &filter, size).await;
            assert_eq!(got.iter().collect::<Vec<_>>(), expected, "{filter:?} {size}");
        }
        // The stream tells the same of what has ended, in the order in which it ended.
        let request = StreamAuditEntriesRequest {
            filter: Some(filter.clone()),
            ..Default::default()
        };
        let (answers, end) = all(&world, &bert, request).await;
        assert!(end.is_none(), "{end:?}");
        let streamed: Vec<AuditEntry> = answers.into_iter().filter_map(|answer| answer.entry).collect();
        let mut ended: Vec<AuditEntry> = expected
            .iter()
            .filter(|entry| entry.outcome() != Outcome::Pending)
            .map(|entry| (*entry).clone())
            .collect();
        ended.sort_by_key(|entry| entry.sequence);
        assert_eq!(streamed, ended, "{filter:?}");
    }
    let bad = with(&|f| f.kind = 99);
    let request = ListAuditEntriesRequest {
        filter: Some(bad),
        ..Default::default()
    };
    assert_eq!(anna.refused(request).await.field, "filter.kind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_that_finds_little_still_comes_to_its_end() {
    let world = World::new().await;
    let anna = owner(&world, "anna@example.com").await;
    let first = act(&anna, "DeleteServer", Outcome::Succeeded).await;
    let pool = world.pool().await;
    let call = r#"{"actor":{},"kind":"read","method":"/m"}"#;
    for _ in 0..6 {
        let body = |_| {
            let (id, now) = (types::AuditId::fresh(), crate::audit_whole::micros());
            format!(
                r#"{{"part":"intent","id":"{id}","time":{now},"deadline":9000000000000000,"call":{call}}}"#
            )
        };
        let bodies: Vec<String> = (0..1_000).map(body).collect();
        crate::audit::append(&pool, anna.tenant(), &bodies).await;
    }
    let filter = AuditFilter {
        kind: AuditKind::Change.into(),
        ..AuditFilter::default()
    };
    let request = ListAuditEntriesRequest {
        filter: Some(filter.clone()),
        ..Default::default()
    };
    let page = anna.call(request).await.unwrap();
    assert!(page.entries.is_empty() && !page.next_page_token.is_empty());
    let found = pages(&anna, &filter, 50).await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].id, first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn analysts_and_above_read_a_log_and_nobody_reads_anothers() {
    let world = World::new().await;
    let anna = owner(&world, "anna@example.com").await;
    let other = owner(&world, "other@example.com").await;
    act(&anna, "DeleteServer", Outcome::Succeeded).await;
    let pool = anna.pool("eu").await;
    let only_there = world.member(&anna, None, &[(&pool, Role::Operator)]).await;
    let mut people = vec![(only_there, false)];
    for role in Role::ALL {
        let person = world.member(&anna, Some(*role), &[]).await;
        people.push((person.clone(), *role >= Role::Analyst));
        people.push((person.key(&["audit:read"]), *role >= Role::Analyst));
        people.push((person.key(&["servers:read"]), false));
    }
    for (person, may) in people {
        let list = person.call(ListAuditEntriesRequest::default()).await;
        assert_eq!(list.is_ok(), may, "{:?} {list:?}", person.context);
        for refused in [
            all(&world, &person, StreamAuditEntriesRequest::default()).await.1,
            all(&world, &person, ExportAuditEntriesRequest::default()).await.1,
        ] {
            assert_eq!(refused.is_none(), may, "{refused:?}");
            assert!(refused.is_none_or(|status| status.code() == Code::PermissionDenied));
        }
        let head = person.call(GetAuditHeadRequest {}).await;
        assert_eq!(head.is_err_and(|no| no.code == Code::PermissionDenied), !may);
    }
    let list = other.call(ListAuditEntriesRequest::default()).await.unwrap();
    assert!(list.entries.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_on_from_its_cursor_and_follows() {
    let world = World::new().await;
    let anna = owner(&world, "anna@example.com").await;
    let mut acted = Vec::new();
    for _ in 0..3 {
        acted.push(act(&anna, "DeleteServer", Outcome::Succeeded).await);
    }
    let (answers, _) = all(&world, &anna, StreamAuditEntriesRequest::default()).await;
    let request = StreamAuditEntriesRequest {
        cursor: answers[0].cursor.clone(),
        follow: true,
        filter: None,
    };
    let mut client = Grpc::new(world.door());
    client.ready().await.unwrap();
    let codec: tonic_prost::ProstCodec<StreamAuditEntriesRequest, StreamAuditEntriesResponse> =
        tonic_prost::ProstCodec::default();
    let path = PathAndQuery::from_static(StreamAuditEntriesRequest::PATH);
    let stream = client.server_streaming(anna.request(request), path, codec);
    let mut stream = stream.await.unwrap().into_inner();
    let mut next = async || stream.message().await.unwrap().unwrap().entry.unwrap().id;
    assert_eq!(next().await, acted[1]);
    assert_eq!(next().await, acted[2]);
    let fresh = act(&anna, "DeleteServer", Outcome::Succeeded).await;
    assert_eq!(next().await, fresh);
    // Who is no member any more is told nothing more.
    world.db.sql(&format!(
        "DELETE FROM tenant.member WHERE user_id = '{}'",
        anna.user()
    ));
    let status = stream.message().await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let bad = StreamAuditEntriesRequest {
        cursor: "x".to_owned(),
        ..Default::default()
    };
    let status = all(&world, &anna, bad).await.1.unwrap();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_native_export_verifies_and_one_that_was_touched_does_not() {
    let world = World::new().await;
    let anna = owner(&world, "anna@example.com").await;
    for _ in 0..600 {
        act(&anna, "DeleteServer", Outcome::Succeeded).await;
    }
    let file = export(&world, &anna, AuditFormat::Native, 0).await;
    let lines: Vec<&str> = file.lines().collect();
    assert_eq!(lines.len(), 1_201);
    let keys = world.vault.keys();
    let read = |lines: &[&str]| {
        let mut reader = Reader::new(lines[0], Some(&keys), &[]).unwrap();
        lines[1..].iter().for_each(|line| reader.push_line(line, true));
        reader.finish()
    };
    let (whole, proof) = read(&lines);
    assert_eq!(
        (whole.finding, whole.covered, proof),
        (None, 1_200, Proof::Signed)
    );
    let mut touched = lines.clone();
    let line = touched[701].replace("DeleteServer", "UpdateServer");
    touched[701] = &line;
    assert_eq!(read(&touched).0.finding.map(audit::Finding::sequence), Some(701));
    assert_eq!(
        read(&lines[..1_000]).0.finding,
        Some(audit::Finding::CutOff { first: 1_000 })
    );
    assert_eq!(report(&world, anna.tenant()).finding, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_native_export_ends_with_what_was_signed_for_it_while_others_write() {
    let world = World::new().await;
    let anna = owner(&world, "anna@example.com").await;
    let keys = world.vault.keys();
    let proof = |file: &str| {
        let mut lines = file.lines();
        let mut reader = Reader::new(lines.next().unwrap(), Some(&keys), &[]).unwrap();
        lines.for_each(|line| reader.push_line(line, true));
        let (report, proof) = reader.finish();
        (report.finding, report.unsigned(), proof)
    };
    let stop = AtomicBool::new(false);
    let writing = async {
        while !stop.load(Ordering::Relaxed) {
            act(&anna, "UpdateServer", Outcome::Succeeded).await;
        }
    };
    let exporting = async {
        for _ in 0..20 {
            // As the gateway does it: what is exported says who exports it.
            let own = act(&anna, "ExportAuditEntries", Outcome::Succeeded).await;
            let file = export(&world, &anna, AuditFormat::Native, 0).await;
            assert_eq!(proof(&file), (None, None, Proof::Signed));
            assert!(file.contains(&own));
        }
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(writing, exporting);
    // The vault is away: all is there, and the end is not proven.
    world.vault.seal(true);
    let own = act(&anna, "ExportAuditEntries", Outcome::Succeeded).await;
    let file = export(&world, &anna, AuditFormat::Native, 0).await;
    let (finding, unsigned, _) = proof(&file);
    assert!(finding.is_none() && unsigned.is_some() && file.contains(&own));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_forms_have_a_line_for_each_entry_that_ended() {
    let world = World::new().await;
    let anna = owner(&world, "anna@example.com").await;
    let bert = world.member(&anna, Some(Role::Analyst), &[]).await;
    full_log(&anna, &bert).await;
    let ended = pages(&anna, &AuditFilter::default(), 200)
        .await
        .iter()
        .filter(|entry| entry.outcome() != Outcome::Pending)
        .count();
    for format in [AuditFormat::Ocsf, AuditFormat::Ecs, AuditFormat::Cef] {
        let file = export(&world, &anna, format, 0).await;
        assert_eq!(file.lines().count(), ended, "{format:?}");
        assert_eq!(export(&world, &anna, format, 2).await.lines().count(), ended - 1);
    }
    let request = ExportAuditEntriesRequest {
        format: AuditFormat::Native.into(),
        after_sequence: 3,
    };
    let status = all(&world, &anna, request).await.1.unwrap();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(schema(anna.tenant()).len(), 28);
}
