//! Who is let in.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use chassis::token::{Signer, now};
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use proto::agent::v1 as pb;
use tonic::{Code, Request, Status, body::Body};
use tower::Service as _;
use types::{AgentId, Region, ServerId, TenantId};

use super::{Calls, Scene, connect, dial, path, person, with};
use crate::shop;
use ingest_agent::agent::seam::Word;

/// Delegations that are not for Status of this agent now.
fn wrong(scene: &Scene) -> Vec<(&'static str, String)> {
    let now = now();
    let about = |signer: &Signer, tenant, agent, server, method: &str, region, at| {
        let for_whom = person(tenant);
        let made = signer.delegation(&for_whom, at + 60, (agent, server), &path(method), region, at);
        made.expect("a delegation")
    };
    let make = |signer: &Signer, tenant, agent, method: &str, region, at| {
        about(signer, tenant, agent, scene.server, method, region, at)
    };
    let ours = &scene.signer;
    let (tenant, agent, eu) = (scene.tenant, scene.agent, Region::Eu);
    let stranger = Signer::new("k1".into(), &[8; 32]).expect("a key");
    let other_agent = make(ours, tenant, AgentId::fresh(), "Status", eu, now);
    vec![
        ("nonsense", "nonsense".to_owned()),
        (
            "another signer",
            make(&stranger, tenant, agent, "Status", eu, now),
        ),
        (
            "another tenant",
            make(ours, TenantId::fresh(), agent, "Status", eu, now),
        ),
        ("another agent", other_agent),
        (
            "another server",
            about(ours, tenant, agent, ServerId::fresh(), "Status", eu, now),
        ),
        ("another method", make(ours, tenant, agent, "Changes", eu, now)),
        (
            "another region",
            make(ours, tenant, agent, "Status", Region::Us, now),
        ),
        ("too late", make(ours, tenant, agent, "Status", eu, now - 100)),
        ("too early", make(ours, tenant, agent, "Status", eu, now + 100)),
        (
            "a context",
            ours.context(&person(tenant), eu, now).expect("a token"),
        ),
    ]
}

#[tokio::test]
async fn a_call_without_a_delegation_for_exactly_it_is_refused() {
    let (store, _) = shop::accident();
    let mut scene = Scene::over(&store.path()).await;
    let status = pb::StatusRequest {
        server_id: scene.server.to_string(),
    };
    let good = scene.delegation("Status");
    let header = |scheme: &str| format!("{scheme} {good}").parse().expect("a header");
    let mut twice = with(status.clone(), &good);
    twice.metadata_mut().append("authorization", header("Bearer"));
    let mut basic = Request::new(status.clone());
    basic.metadata_mut().insert("authorization", header("Basic"));
    let mut bad = vec![
        ("none", Request::new(status.clone())),
        ("twice", twice),
        ("another scheme", basic),
    ];
    for (what, token) in wrong(&scene) {
        bad.push((what, with(status.clone(), &token)));
    }
    for (what, request) in bad {
        let refused = scene.client.status(request).await.expect_err(what);
        assert_eq!(refused.code(), Code::Unauthenticated, "{what}: {refused}");
        let details = String::from_utf8_lossy(refused.details()).into_owned();
        // What only a clock can be wrong about has its own name.
        let reason = match what {
            "too late" | "too early" => "DELEGATION_TIME",
            _ => "DELEGATION_INVALID",
        };
        assert!(details.contains(reason), "{what}: {details}");
    }
    scene.client.status(with(status, &good)).await.expect("let in");
}

#[tokio::test]
async fn every_method_with_rows_asks_for_its_delegation() {
    let (store, _) = shop::accident();
    let scene = Scene::over(&store.path()).await;
    let mut client = scene.client.clone();
    macro_rules! refused {
        ($($method:ident: $message:expr),* $(,)?) => {
            $(let refused = client.$method(Request::new($message)).await.expect_err(stringify!($method));
              assert_eq!(refused.code(), Code::Unauthenticated, stringify!($method));)*
        };
    }
    refused! {
        changes: pb::ChangesRequest::default(),
        count: pb::CountRequest::default(),
        history: pb::HistoryRequest::default(),
        transaction: pb::TransactionRequest::default(),
        tables: pb::TablesRequest::default(),
        schema_changes: pb::SchemaChangesRequest::default(),
        plan_undo: pb::PlanUndoRequest::default(),
        watch_undo: pb::WatchUndoRequest::default(),
        coverage: pb::CoverageRequest::default(),
        status: pb::StatusRequest::default(),
    }
}

#[tokio::test]
async fn what_the_mesh_says_about_a_connection_reaches_its_line() {
    let (store, _) = shop::accident();
    let mut scene = Scene::over(&store.path()).await;
    let hello = pb::HelloRequest {
        replica_id: "r1".into(),
        connections: 2,
        replicas: 3,
        ..Default::default()
    };
    let answer = scene.client.hello(hello).await.expect("an answer").into_inner();
    assert_eq!(
        (&*answer.boot_id, answer.generation, answer.protocol),
        ("boot", 3, 1)
    );
    assert_eq!(answer.server_ids, [scene.server.to_string()]);
    let said = Word::Hello {
        replica: "r1".into(),
        connections: 2,
        replicas: 3,
    };
    assert_eq!(scene.heard.recv().await, Some(said));
    let (mut other, mut heard) = connect(&scene.service).await;
    other
        .configure(pb::ConfigureRequest {
            refresh: true,
            leaving: true,
            duplicate: true,
        })
        .await
        .expect("an answer");
    assert_eq!(heard.recv().await, Some(Word::Refresh));
    assert_eq!(heard.recv().await, Some(Word::Leaving));
    assert_eq!(heard.recv().await, Some(Word::Duplicate));
    assert!(scene.heard.try_recv().is_err(), "it was said on another line");
}

/// A call whose message never comes.
fn wordless(
    calls: &mut Calls,
    delegation: &str,
    timeout: &str,
) -> impl Future<Output = Result<http::Response<Incoming>, hyper::Error>> + use<> {
    let request = http::Request::post(format!("http://agent{}", path("Count")))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", timeout)
        .header("authorization", format!("Bearer {delegation}"))
        .body(Body::new(StreamBody::new(stream::pending::<
            Result<Frame<Bytes>, Status>,
        >())))
        .expect("a request");
    calls.call(request)
}

#[tokio::test]
async fn who_says_nothing_takes_no_place_and_is_not_waited_for() {
    let (store, _) = shop::accident();
    let mut scene = Scene::over(&store.path()).await;
    let delegation = scene.delegation("Count");
    let (mut calls, _heard) = dial(&scene.service).await;
    let mut wordless_ones = Vec::new();
    for _ in 0..64 {
        wordless_ones.push(tokio::spawn(wordless(&mut calls, &delegation, "30S")));
    }
    let short = tokio::spawn(wordless(&mut calls, &delegation, "200m"));
    // An answer on the same connection: the agent has seen them all.
    let origin = "http://agent".parse().expect("an origin");
    let mut client = proto::agent::v1::agent_service_client::AgentServiceClient::with_origin(calls, origin);
    client
        .hello(pb::HelloRequest::default())
        .await
        .expect("an answer");
    let request = pb::CountRequest {
        server_id: scene.server.to_string(),
        ..Default::default()
    };
    let request = scene.ask("Count", request);
    scene.client.count(request).await.expect("a place");
    let told = tokio::time::timeout(Duration::from_secs(4), short).await;
    let told = told.expect("an end").expect("a task").expect("an answer");
    assert_eq!(
        told.headers()["grpc-status"],
        (Code::DeadlineExceeded as i32).to_string()
    );
}
