//! A process from start to exit: real ones, with real signals.

use std::{net::SocketAddr, path::Path};

use proto::auth::v1::{self as pb, mail_service_client::MailServiceClient};
use rustix::process::Signal;
use tempfile::TempDir;
use testkit::Identity;
use tonic::{
    Request, Response, Status,
    transport::{Certificate, Channel, ClientTlsConfig},
};

use crate::{
    admin::get,
    child::{Ended, Running},
};

/// The authority of a test, with the identity `auth` for children and `tenant` for those who call them.
pub(crate) struct Mesh {
    pub(crate) auth: Identity,
    pub(crate) tenant: Identity,
    _folder: TempDir,
}

impl Mesh {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = testkit::Authority::new(folder.path());
        Self {
            auth: authority.issue("auth"),
            tenant: authority.issue("tenant"),
            _folder: folder,
        }
    }

    /// Starts a child that is `identity`, with `more` in its environment.
    pub(crate) fn start(&self, identity: &Identity, more: &[(&str, &str)]) -> Running {
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        let files = [
            path(&identity.cert_file),
            path(&identity.key_file),
            path(&identity.bundle_file),
        ];
        let environment = [
            ("TRAILMESH_IDENTITY_CERT_FILE", files[0].as_str()),
            ("TRAILMESH_IDENTITY_KEY_FILE", files[1].as_str()),
            ("TRAILMESH_TRUST_BUNDLE_FILE", files[2].as_str()),
        ];
        Running::start(&[&environment[..], more].concat())
    }

    fn run(&self, more: &[(&str, &str)]) -> Ended {
        self.start(&self.auth, more).wait()
    }

    /// Asks the service at `address` to mail, as the service tenant.
    pub(crate) fn invite(
        &self,
        address: SocketAddr,
        request: Request<pb::SendInvitationRequest>,
    ) -> impl Future<Output = Result<Response<pb::SendInvitationResponse>, Status>> + Send + use<> {
        let read = |path: &Path| std::fs::read(path).unwrap();
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(read(&self.tenant.bundle_file)))
            .identity(tonic::transport::Identity::from_pem(
                read(&self.tenant.cert_file),
                read(&self.tenant.key_file),
            ))
            .domain_name("localhost");
        async move {
            let channel = Channel::from_shared(format!("https://{address}"))
                .unwrap()
                .tls_config(tls)
                .unwrap()
                .connect()
                .await
                .unwrap();
            MailServiceClient::new(channel).send_invitation(request).await
        }
    }
}

pub(crate) fn invitation(email: &str) -> Request<pb::SendInvitationRequest> {
    Request::new(pb::SendInvitationRequest {
        email: email.to_owned(),
        token: "canary-of-the-token".to_owned(),
        ..pb::SendInvitationRequest::default()
    })
}

pub(crate) fn wire() -> tokio::runtime::Runtime {
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Runtime::new().unwrap()
}

#[test]
fn a_service_told_to_stop_drains_and_exits_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let mesh = Mesh::new();
        let mut service = mesh.start(&mesh.auth, &[]);
        let (address, _) = service.addresses();
        let wire = wire();
        let call = wire.spawn(mesh.invite(address, invitation("until told to stop")));
        assert_eq!(service.hear(), "working");
        service.signal(signal);
        wire.block_on(call).unwrap().unwrap();
        let ended = service.wait();
        assert_eq!(ended.code, 0, "{}", ended.log);
        assert!(ended.log.contains("auth has stopped"), "{}", ended.log);
    }
}

#[test]
fn a_service_told_to_stop_is_not_ready_and_still_answers_while_others_hear_of_it() {
    let mesh = Mesh::new();
    let mut service = mesh.start(&mesh.auth, &[("TRAILMESH_PROPAGATION_DELAY", "1m")]);
    let (address, admin) = service.addresses();
    let wire = wire();
    testkit::eventually("it to be ready", || {
        (wire.block_on(get(admin, "/readyz")).0 == 200).then_some(())
    });
    service.signal(Signal::TERM);
    testkit::eventually("it to be not ready", || {
        let (status, words) = wire.block_on(get(admin, "/readyz"));
        (status == 503).then(|| assert_eq!(words, "not ready: stopping\n"))
    });
    wire.block_on(mesh.invite(address, invitation("x@example.org")))
        .unwrap();
    assert_eq!(wire.block_on(get(admin, "/livez")).0, 200);
    service.signal(Signal::TERM);
    assert_eq!(service.wait().code, 1);
}

#[test]
fn a_call_that_does_not_end_is_cut_off_at_the_end_of_the_drain() {
    let mesh = Mesh::new();
    let mut service = mesh.start(&mesh.auth, &[("TRAILMESH_DRAIN_TIMEOUT", "300ms")]);
    let (address, _) = service.addresses();
    let wire = wire();
    let call = wire.spawn(mesh.invite(address, invitation("for ever")));
    assert_eq!(service.hear(), "working");
    service.signal(Signal::TERM);
    wire.block_on(call).unwrap().unwrap_err();
    let ended = service.wait();
    assert!(ended.log.contains("cut off"), "{}", ended.log);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mesh = Mesh::new();
    let mut service = mesh.start(
        &mesh.auth,
        &[
            ("TRAILMESH_DRAIN_TIMEOUT", "1h"),
            ("TRAILMESH_PROPAGATION_DELAY", "1m"),
        ],
    );
    let (address, _) = service.addresses();
    let wire = wire();
    let call = wire.spawn(mesh.invite(address, invitation("for ever")));
    assert_eq!(service.hear(), "working");
    service.signal(Signal::TERM);
    testkit::eventually("the first signal to be heeded", || {
        service.log().contains("auth stops").then_some(())
    });
    service.signal(Signal::INT);
    wire.block_on(call).unwrap().unwrap_err();
    let ended = service.wait();
    assert_eq!(ended.code, 1, "{}", ended.log);
    assert!(ended.log.contains("a second time"), "{}", ended.log);
}

#[test]
fn a_service_that_fails_or_ends_by_itself_exits_with_1() {
    let mesh = Mesh::new();
    for (mode, words) in [
        ("fail", "the database is gone"),
        ("return", "ended without being told to"),
        ("panic", "panicked: at the start"),
        ("task", "fragile"),
    ] {
        let ended = mesh.run(&[("TRAILMESH_TEST_MODE", mode)]);
        assert_eq!(ended.code, 1, "{mode}: {}", ended.log);
        assert!(ended.log.contains(words), "{mode}: {}", ended.log);
        ended.lines();
    }
}

#[test]
fn a_port_that_is_taken_is_named_and_nothing_starts() {
    let mesh = Mesh::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for name in ["TRAILMESH_LISTEN", "TRAILMESH_ADMIN_LISTEN"] {
        let ended = mesh.run(&[(name, &address), ("TRAILMESH_TEST_MODE", "panic")]);
        assert_eq!(ended.code, 1, "{}", ended.log);
        assert!(ended.log.contains("PORT_NOT_AVAILABLE") && ended.log.contains(&address));
        assert!(!ended.log.contains("panicked"), "{}", ended.log);
    }
}

#[test]
fn every_problem_of_the_configuration_is_logged_and_the_exit_code_is_2() {
    let mesh = Mesh::new();
    let ended = mesh.run(&[
        ("TRAILMESH_TEST_KEY", "canary!"),
        ("TRAILMESH_MAX_IN_FLIGHT", "0"),
        ("TRAILMESH_OTLP_ENDPOINT", "http://user:canary@127.0.0.1:1"),
    ]);
    assert_eq!(ended.code, 2, "{}", ended.log);
    let settings: Vec<String> = ended
        .lines()
        .iter()
        .map(|line| {
            assert_eq!(line["level"], "ERROR");
            line["fields"]["setting"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(
        settings,
        [
            "TRAILMESH_OTLP_ENDPOINT",
            "TRAILMESH_MAX_IN_FLIGHT",
            "TRAILMESH_TEST_KEY"
        ]
    );
    assert!(!ended.log.contains("canary"), "{}", ended.log);
}

#[test]
fn check_config_prints_the_configuration_without_its_secrets_and_touches_nothing() {
    let mesh = Mesh::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "canary-in-a-file\n").unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for secret in [
        ("TRAILMESH_TEST_KEY", "canary-in-the-environment"),
        ("TRAILMESH_TEST_KEY_FILE", file.to_str().unwrap()),
    ] {
        let ended = mesh.run(&[
            secret,
            ("TRAILMESH_TEST_MODE", "check"),
            ("TRAILMESH_LISTEN", &address),
            ("TRAILMESH_PEERS", "tenant=https://tenant:8443"),
        ]);
        assert_eq!(ended.code, 0, "{}{}", ended.output, ended.log);
        for words in [
            "the configuration of auth can be used",
            &address,
            "tenant=https://tenant:8443/",
            "***",
            "region: eu",
        ] {
            assert!(ended.output.contains(words), "{words}: {}", ended.output);
        }
        assert!(!ended.output.contains("canary-"), "{}", ended.output);
        assert_eq!(ended.log, "");
    }
    let ended = mesh.run(&[
        ("TRAILMESH_TEST_MODE", "check"),
        ("TRAILMESH_TEST_KEY", "canary!"),
        ("TRAILMESH_CELL", "NO"),
    ]);
    assert_eq!(ended.code, 2, "{}", ended.output);
    assert!(ended.log.contains("TRAILMESH_CELL: ") && ended.log.contains("TRAILMESH_TEST_KEY: "));
    assert!(!ended.output.contains("canary") && !ended.log.contains("canary"));
}
