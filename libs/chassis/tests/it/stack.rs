//! The layers before a handler: deadlines, panics, too many calls.

use std::time::{Duration, Instant};

use proto::auth::v1::guard_service_client::GuardServiceClient;
use testkit::eventually;
use tonic::{Code, Request};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest,
};
use tonic_types::StatusExt as _;

use crate::scene::{AUTHENTICATE, CONSUME, Guard, Mesh, Service, bind, call, order, reason};

fn within(what: &str, timeout: Duration) -> Request<proto::auth::v1::AuthenticateRequest> {
    let mut request = Request::new(order(what));
    request.set_timeout(timeout);
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_is_dropped_at_the_deadline_over_two_hops() {
    let mesh = Mesh::new();
    let second = Guard::default();
    let auth = mesh.serve("auth", second.routes()).await;
    let middle = bind("gateway", &mesh.settings("gateway", &[("auth", auth.address)])).await;
    let first = Guard {
        next: middle.peer("auth").ok(),
        ..Guard::default()
    };
    let middle = Service::start(middle, first.routes());
    let caller = mesh.caller("gateway", &[("gateway", middle.address)]).await;
    let mut client = GuardServiceClient::new(caller.peer("gateway").unwrap());

    let answer = client
        .authenticate(within("forward ", Duration::from_secs(20)))
        .await
        .unwrap();
    let left: u64 = answer.into_inner().context_token.parse().unwrap();
    assert!((10_000..=19_990).contains(&left), "{left} ms");

    let started = Instant::now();
    let status = client
        .authenticate(within("forward for ever", Duration::from_secs(3)))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(started.elapsed() < Duration::from_secs(15));
    // The first one may have got the second one's refusal in time.
    eventually("the second handler to be dropped", || {
        (second.dropped() == 1).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_is_dropped_when_its_caller_goes_away() {
    let mesh = Mesh::new();
    let guard = Guard::default();
    let auth = mesh.serve("auth", guard.routes()).await;
    let caller = mesh.caller("gateway", &[("auth", auth.address)]).await;
    let mut client = GuardServiceClient::new(caller.peer("auth").unwrap());
    let call = tokio::spawn(async move {
        client
            .authenticate(within("for ever", Duration::from_secs(50)))
            .await
    });
    eventually("the handler to work", || (guard.calls() == 1).then_some(()));
    call.abort();
    eventually("the handler to be dropped", || {
        (guard.dropped() == 1).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_without_time_is_not_sent() {
    let mesh = Mesh::new();
    let guard = Guard::default();
    let auth = mesh.serve("auth", guard.routes()).await;
    let caller = mesh.caller("gateway", &[("auth", auth.address)]).await;
    let peer = caller.peer("auth").unwrap();
    for left in [Duration::ZERO, Duration::from_millis(4)] {
        let work = call(peer.clone(), AUTHENTICATE, &[]);
        let status = chassis::deadline::within(Instant::now() + left, work)
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
    }
    assert_eq!(guard.calls(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_without_a_deadline_gets_its_rules() {
    let mesh = Mesh::new();
    let auth = mesh.serve("auth", Guard::default().routes()).await;
    let caller = mesh.caller("gateway", &[("auth", auth.address)]).await;
    let answer = GuardServiceClient::new(caller.peer("auth").unwrap())
        .authenticate(order(""))
        .await
        .unwrap();
    let left: u64 = answer.into_inner().context_token.parse().unwrap();
    assert!((1..=2_000).contains(&left), "{left} ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_answers_internal_and_the_service_lives() {
    let mesh = Mesh::new();
    let guard = Guard::default();
    let auth = mesh.serve("auth", guard.routes()).await;
    let caller = mesh.caller("gateway", &[("auth", auth.address)]).await;
    let mut client = GuardServiceClient::new(caller.peer("auth").unwrap());
    for _ in 0..3 {
        let status = client.authenticate(order("panic")).await.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::Internal, "PANICKED")
        );
        assert!(
            status.message().starts_with("internal error in request req_"),
            "{status:?}"
        );
        client.authenticate(order("")).await.unwrap();
    }
    assert_eq!(guard.calls(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_over_the_limit_are_refused_at_once_and_health_is_not() {
    let mesh = Mesh::new();
    let guard = Guard::default();
    let mut settings = mesh.settings("auth", &[]);
    settings.max_in_flight = 2;
    let auth = Service::start(bind("auth", &settings).await, guard.routes());
    let caller = mesh.caller("gateway", &[("auth", auth.address)]).await;
    let peer = caller.peer("auth").unwrap();
    let held: Vec<_> = (0..2)
        .map(|_| {
            let mut client = GuardServiceClient::new(peer.clone());
            tokio::spawn(async move { client.authenticate(within("hold", Duration::from_secs(50))).await })
        })
        .collect();
    eventually("two calls to be in work", || (guard.calls() == 2).then_some(()));

    let status = call(peer.clone(), CONSUME, &[]).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unavailable, "OVERLOADED")
    );
    assert!(status.get_details_retry_info().is_some());
    assert_eq!(guard.calls(), 2);
    let health = HealthClient::new(peer.clone())
        .check(HealthCheckRequest::default())
        .await;
    assert!(health.is_ok(), "{health:?}");

    guard.release.cancel();
    for call in held {
        call.await.unwrap().unwrap();
    }
    call(peer, CONSUME, &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_timeout_is_refused() {
    let mesh = Mesh::new();
    let guard = Guard::default();
    let auth = mesh.serve("auth", guard.routes()).await;
    let identity = mesh.authority.issue("gateway");
    let channel = crate::rotation::channel(&identity, auth.address).await;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let mut request = Request::new(());
    request
        .metadata_mut()
        .insert("grpc-timeout", "soon".parse().unwrap());
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let status = client
        .unary(request, AUTHENTICATE.parse().unwrap(), codec)
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::InvalidArgument, "TIMEOUT_INVALID")
    );
    assert_eq!(guard.calls(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_at_its_deadline_too() {
    let mesh = Mesh::new();
    let auth = mesh.serve("auth", Guard::default().routes()).await;
    let identity = mesh.authority.issue("stranger");
    // Not our client, which would end it by itself.
    let channel = crate::rotation::channel(&identity, auth.address).await;
    let mut request = Request::new(HealthCheckRequest::default());
    request.set_timeout(Duration::from_secs(3));
    let mut watch = HealthClient::new(channel)
        .watch(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 1);
    let status = watch.message().await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::DeadlineExceeded, "DEADLINE_EXCEEDED")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn services_describe_themselves_in_dev_only() {
    let mesh = Mesh::new();
    for dev in [true, false] {
        let mut settings = mesh.settings("auth", &[]);
        settings.dev = dev;
        let auth = Service::start(bind("auth", &settings).await, Guard::default().routes());
        let caller = mesh.caller("stranger", &[("auth", auth.address)]).await;
        let mut client = ServerReflectionClient::new(caller.peer("auth").unwrap());
        let request = ServerReflectionRequest {
            message_request: Some(MessageRequest::ListServices(String::new())),
            ..ServerReflectionRequest::default()
        };
        let answer = client
            .server_reflection_info(futures_util::stream::iter([request]))
            .await;
        if !dev {
            assert_eq!(answer.unwrap_err().code(), Code::PermissionDenied);
            continue;
        }
        let answer = answer.unwrap().into_inner().message().await.unwrap().unwrap();
        let described = format!("{:?}", answer.message_response);
        assert!(
            described.contains("trailmesh.auth.v1.GuardService"),
            "{described}"
        );
    }
}
