//! The end of a service: what runs may finish, within a bound.

use std::time::{Duration, Instant};

use proto::auth::v1::guard_service_client::GuardServiceClient;
use testkit::eventually;
use tonic::{Code, Request};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::scene::{CONSUME, Guard, Mesh, Service, bind, call, order};

fn hold() -> Request<proto::auth::v1::AuthenticateRequest> {
    let mut request = Request::new(order("hold"));
    request.set_timeout(Duration::from_secs(50));
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_running_calls_finish_and_begins_no_new_ones() {
    let mesh = Mesh::new();
    let guard = Guard::default();
    let auth = mesh.serve("auth", guard.routes()).await;
    let caller = mesh.caller("gateway", &[("auth", auth.address)]).await;
    let peer = caller.peer("auth").unwrap();
    let mut client = GuardServiceClient::new(peer.clone());
    let running = tokio::spawn(async move { client.authenticate(hold()).await });
    eventually("the call to be in work", || (guard.calls() == 1).then_some(()));

    auth.stopping.cancel();
    eventually("the port to be closed", || {
        std::net::TcpStream::connect(auth.address).is_err().then_some(())
    });
    let status = call(peer.clone(), CONSUME, &[]).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(!auth.ended.is_finished());

    guard.release.cancel();
    running.await.unwrap().unwrap();
    auth.ended.await.unwrap().unwrap();
    assert_eq!((guard.calls(), guard.dropped()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_within_its_bound_whatever_runs() {
    let mesh = Mesh::new();
    let guard = Guard::default();
    let mut settings = mesh.settings("auth", &[]);
    settings.drain_timeout = Duration::from_millis(300);
    let auth = Service::start(bind("auth", &settings).await, guard.routes());
    let caller = mesh.caller("gateway", &[("auth", auth.address)]).await;
    let mut client = GuardServiceClient::new(caller.peer("auth").unwrap());
    let running = tokio::spawn(async move { client.authenticate(hold()).await });
    eventually("the call to be in work", || (guard.calls() == 1).then_some(()));
    let told = Instant::now();
    auth.stopping.cancel();
    auth.ended.await.unwrap().unwrap();
    assert!(told.elapsed() < Duration::from_secs(10));
    let status = running.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    eventually("the handler to be dropped", || {
        (guard.dropped() == 1).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_told_to_any_peer_and_a_watch_does_not_hold_the_drain_up() {
    let mesh = Mesh::new();
    let auth = mesh.serve("auth", Guard::default().routes()).await;
    let caller = mesh.caller("stranger", &[("auth", auth.address)]).await;
    let mut health = HealthClient::new(caller.peer("auth").unwrap());
    for service in ["", "trailmesh.auth.v1.GuardService"] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status, 1, "{service}");
    }
    let mut request = Request::new(HealthCheckRequest::default());
    request.set_timeout(Duration::from_secs(50));
    let mut watch = health.watch(request).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 1);
    let told = Instant::now();
    auth.stopping.cancel();
    auth.ended.await.unwrap().unwrap();
    assert!(told.elapsed() < Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_panics_stops_the_service_and_is_named() {
    let mesh = Mesh::new();
    let runtime = bind("auth", &mesh.settings("auth", &[])).await;
    runtime.spawn("sweeper", async { panic!("on order") });
    let error = runtime.serve(Guard::default().routes()).await.unwrap_err();
    assert!(matches!(error, chassis::Error::Task("sweeper")), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_and_peers_end_with_the_service() {
    let mesh = Mesh::new();
    let runtime = bind("auth", &mesh.settings("auth", &[])).await;
    let (sender, ended) = tokio::sync::oneshot::channel::<()>();
    runtime.spawn("for ever", async move {
        let _alive = sender;
        std::future::pending::<()>().await;
    });
    runtime.stop();
    runtime.serve(Guard::default().routes()).await.unwrap();
    assert!(ended.await.is_err());
}
