//! Calling another service: whom it accepts, what it repeats, and what it does when the other side is not there.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use chassis::{Error, PeerAddress, Runtime};
use futures_util::future::join_all;
use proto::auth::v1::guard_service_client::GuardServiceClient;
use testkit::{ChaosProxy, eventually};
use tonic::{Code, Request};

use crate::scene::{AUTHENTICATE, CONSUME, Guard, Mesh, Service, bind, call, order, reason, settings};

#[tokio::test(flavor = "multi_thread")]
async fn only_idempotent_calls_are_repeated_and_three_times_at_most() {
    let mesh = Mesh::new();
    let guard = Guard::default();
    let auth = mesh.serve("auth", guard.routes()).await;
    for (failing, path, answered, sent) in [
        (0, AUTHENTICATE, true, 1),
        (2, AUTHENTICATE, true, 3),
        (3, AUTHENTICATE, false, 3),
        (1, CONSUME, false, 1),
    ] {
        let caller = mesh.caller("gateway", &[("auth", auth.address)]).await;
        guard.calls.store(0, Ordering::SeqCst);
        guard.failures.store(failing, Ordering::SeqCst);
        let answer = call(caller.peer("auth").unwrap(), path, &[]).await;
        assert_eq!(
            (answer.is_ok(), guard.calls()),
            (answered, sent),
            "{failing} {path} {answer:?}"
        );
        if let Err(status) = answer {
            assert_eq!((status.code(), status.message()), (Code::Unavailable, "on order"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_failures_are_not_repeated() {
    let mesh = Mesh::new();
    let guard = Guard::default();
    let auth = mesh.serve("auth", guard.routes()).await;
    let caller = mesh.caller("gateway", &[("auth", auth.address)]).await;
    let mut client = GuardServiceClient::new(caller.peer("auth").unwrap());
    client.authenticate(order("panic")).await.unwrap_err();
    assert_eq!(guard.calls(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_fails_altogether_gets_a_fifth_more_calls_and_no_more() {
    let mesh = Mesh::new();
    let guard = Guard::default();
    let auth = mesh.serve("auth", guard.routes()).await;
    guard.failures.store(usize::MAX, Ordering::SeqCst);
    let caller = mesh.caller("gateway", &[("auth", auth.address)]).await;
    let peer = caller.peer("auth").unwrap();
    let patience = [("grpc-timeout", "50S".to_owned())];
    let answers = join_all((0..200).map(|_| call(peer.clone(), AUTHENTICATE, &patience))).await;
    assert!(answers.iter().all(Result::is_err));
    // 200, a fifth of them, the three of the beginning, and a little for the time it took.
    assert!((205..=248).contains(&guard.calls()), "{}", guard.calls());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_is_made_anew_and_the_idempotent_call_with_it() {
    let mesh = Mesh::new();
    let guard = Guard::default();
    let auth = mesh.serve("auth", guard.routes()).await;
    let proxy = ChaosProxy::start(auth.address);
    let caller = mesh.caller("gateway", &[("auth", proxy.address())]).await;
    let peer = caller.peer("auth").unwrap();
    let mut request = Request::new(order("hold"));
    request.set_timeout(Duration::from_secs(50));
    let mut client = GuardServiceClient::new(peer.clone());
    let call = tokio::spawn(async move { client.authenticate(request).await });
    eventually("the call to be in work", || (guard.calls() == 1).then_some(()));
    proxy.reset();
    eventually("the call to be in work again", || {
        (guard.calls() == 2).then_some(())
    });
    guard.release.cancel();
    call.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_does_not_hang_a_call_past_its_deadline() {
    let mesh = Mesh::new();
    let auth = mesh.serve("auth", Guard::default().routes()).await;
    let proxy = ChaosProxy::start(auth.address);
    let caller = mesh.caller("gateway", &[("auth", proxy.address())]).await;
    let peer = caller.peer("auth").unwrap();
    call(peer.clone(), AUTHENTICATE, &[]).await.unwrap();
    proxy.half_open();
    let mut request = Request::new(order(""));
    request.set_timeout(Duration::from_millis(500));
    let started = Instant::now();
    let status = GuardServiceClient::new(peer)
        .authenticate(request)
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_not_there_is_unavailable_and_found_when_it_comes() {
    let mesh = Mesh::new();
    let address = ([127, 0, 0, 1], testkit::free_port()).into();
    let caller = mesh.caller("gateway", &[("auth", address)]).await;
    let peer = caller.peer("auth").unwrap();
    let status = call(peer.clone(), CONSUME, &[]).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unavailable, "PEER_UNREACHABLE")
    );

    let mut settings = mesh.settings("auth", &[]);
    settings.listen = address;
    let _auth = Service::start(bind("auth", &settings).await, Guard::default().routes());
    call(peer, CONSUME, &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_the_wanted_service_is_called() {
    let mesh = Mesh::new();
    let guard = Guard::default();
    let foreign = ["spiffe://elsewhere/eu/service/auth"];
    let region = ["spiffe://trailmesh/us/service/auth"];
    let two = [
        "spiffe://trailmesh/eu/service/auth",
        "spiffe://trailmesh/eu/service/tenant",
    ];
    let mut servers = vec![
        ("another service", mesh.authority.issue("tenant")),
        (
            "another trust domain",
            mesh.authority.issue_as("foreign", &foreign, 600),
        ),
        ("another region", mesh.authority.issue_as("region", &region, 600)),
        ("no URI", mesh.authority.issue_as("none", &[], 600)),
        ("two URIs", mesh.authority.issue_as("two", &two, 600)),
        ("for calling only", mesh.authority.issue_for("auth", false, true)),
        ("for no use", mesh.authority.issue_for("auth", false, false)),
        ("expired", mesh.authority.issue_as("old", &two[..1], -60)),
    ];
    let gateway = mesh.authority.issue("gateway");
    let other = Mesh::new();
    servers.push(("another authority", other.authority.issue("auth")));
    for (what, identity) in servers {
        let address = crate::rotation::tls_server(&identity).await;
        let runtime = bind("gateway", &settings(&gateway, &[("auth", address)])).await;
        let status = call(runtime.peer("auth").unwrap(), CONSUME, &[])
            .await
            .unwrap_err();
        assert_eq!(reason(&status), "PEER_UNREACHABLE", "{what}");
    }
    // The same with the right one, so that it is not the server of this test that fails.
    mesh.authority.issue("auth");
    let auth = mesh.serve("auth", guard.routes()).await;
    let runtime = bind("gateway", &settings(&gateway, &[("auth", auth.address)])).await;
    call(runtime.peer("auth").unwrap(), CONSUME, &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_without_address_or_without_tls_are_refused() {
    let mesh = Mesh::new();
    let mut settings = mesh.settings("gateway", &[]);
    settings.peers.push(PeerAddress {
        name: "tenant".to_owned(),
        url: "http://127.0.0.1:1".parse().unwrap(),
    });
    let runtime = bind("gateway", &settings).await;
    assert!(matches!(runtime.peer("auth"), Err(Error::UnknownPeer(name)) if name == "auth"));
    assert!(matches!(runtime.peer("tenant"), Err(Error::PlainPeer(name)) if name == "tenant"));
}

#[tokio::test(flavor = "multi_thread")]
async fn auths_keys_are_fetched_and_until_then_nothing_is_ready() {
    let mesh = Mesh::new();
    let address = ([127, 0, 0, 1], testkit::free_port()).into();
    let runtime: Runtime = mesh.caller("tenant", &[("auth", address)]).await;
    assert!(runtime.keys().is_empty());
    let mut settings = mesh.settings("auth", &[]);
    settings.listen = address;
    let _auth = Service::start(bind("auth", &settings).await, Guard::default().routes());
    let keys = runtime.keys();
    eventually("the keys to come", || (!keys.is_empty()).then_some(()));
}
