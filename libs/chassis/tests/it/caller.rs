//! Context tokens and grants on the wire, and what handlers learn of them.

use std::sync::{Arc, Mutex};

use chassis::{Peer, Runtime, account, context_token, origin, scope, token};
use proto::{
    auth::v1::{self as auth, mfa_service_server as mfa},
    tenant::v1::{self as pb, server_service_client::ServerServiceClient, server_service_server as servers},
};
use ring::digest::{SHA256, digest};
use tonic::{Code, Request, Response, Status, service::Routes};
use types::{Context, Region, RequestId, Role, Scope, Subject};

use crate::scene::{GET_TENANT, Mesh, Service, bearer, bind, call, person, reason, signer};

const REGISTER: &str = "/trailmesh.tenant.v1.ServerService/RegisterServer";

type Seen = Arc<Mutex<Vec<Scope>>>;

/// Keeps the scope and the token of what reaches it.
#[derive(Clone, Default)]
struct Servers(Seen, Arc<Mutex<Vec<String>>>);

impl Servers {
    fn keep<T, R: Default>(&self, request: &Request<T>) -> Result<Response<R>, Status> {
        self.0.lock().expect("no panic").push(scope(request)?);
        let token = context_token(request).map(|token| token.expose().clone());
        self.1.lock().expect("no panic").extend(token);
        Ok(Response::new(R::default()))
    }
}

#[tonic::async_trait]
impl servers::ServerService for Servers {
    async fn register_server(
        &self,
        request: Request<pb::RegisterServerRequest>,
    ) -> Result<Response<pb::RegisterServerResponse>, Status> {
        self.keep(&request)
    }
    async fn get_server(
        &self,
        request: Request<pb::GetServerRequest>,
    ) -> Result<Response<pb::GetServerResponse>, Status> {
        self.keep(&request)
    }
    async fn list_servers(
        &self,
        request: Request<pb::ListServersRequest>,
    ) -> Result<Response<pb::ListServersResponse>, Status> {
        self.keep(&request)
    }
    async fn update_server(
        &self,
        request: Request<pb::UpdateServerRequest>,
    ) -> Result<Response<pb::UpdateServerResponse>, Status> {
        self.keep(&request)
    }
    async fn delete_server(
        &self,
        request: Request<pb::DeleteServerRequest>,
    ) -> Result<Response<pb::DeleteServerResponse>, Status> {
        self.keep(&request)
    }
    async fn set_server_credential(
        &self,
        request: Request<pb::SetServerCredentialRequest>,
    ) -> Result<Response<pb::SetServerCredentialResponse>, Status> {
        self.keep(&request)
    }
    async fn list_server_credentials(
        &self,
        request: Request<pb::ListServerCredentialsRequest>,
    ) -> Result<Response<pb::ListServerCredentialsResponse>, Status> {
        self.keep(&request)
    }
    async fn delete_server_credential(
        &self,
        request: Request<pb::DeleteServerCredentialRequest>,
    ) -> Result<Response<pb::DeleteServerCredentialResponse>, Status> {
        self.keep(&request)
    }
}

struct Scene {
    _mesh: Mesh,
    _service: Service,
    _gateway: Runtime,
    peer: Peer,
    seen: Seen,
    tokens: Arc<Mutex<Vec<String>>>,
}

async fn scene() -> Scene {
    let mesh = Mesh::new();
    let handlers = Servers::default();
    let runtime = bind("tenant", &mesh.settings("tenant", &[])).await;
    runtime.publish_keys(vec![signer().verifying_key()]);
    let routes = Routes::new(servers::ServerServiceServer::new(handlers.clone()));
    let service = Service::start(runtime, routes);
    let gateway = mesh.caller("gateway", &[("tenant", service.address)]).await;
    Scene {
        peer: gateway.peer("tenant").expect("a peer"),
        seen: handlers.0,
        tokens: handlers.1,
        _mesh: mesh,
        _service: service,
        _gateway: gateway,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_valid_context_token_names_a_user() {
    let scene = scene().await;
    let context = person(Some(Role::Owner));
    let good = bearer(&context);
    let now = token::now();
    let other = token::Signer::new("key-1".into(), &[8; 32]).unwrap();
    let unknown = token::Signer::new("key-2".into(), &[7; 32]).unwrap();
    let token = |token: Result<String, token::Error>| format!("Bearer {}", token.unwrap());
    let sha = [0; 32];
    let access = "eyJhbGciOiJIUzI1NiIsInR5cCI6ImF0K2p3dCIsImtpZCI6ImtleS0xIn0.eyJzdWIiOiJ1c3JfMSJ9.c2ln";
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiY3R4K2p3dCIsImtpZCI6ImtleS0xIn0";
    let claims = good.split('.').nth(1).unwrap();
    for (bad, wanted) in [
        (None, "CONTEXT_MISSING"),
        (Some(good.replace("Bearer ", "bearer ")), "CONTEXT_MISSING"),
        (Some(good.replace("Bearer ", "Basic ")), "CONTEXT_MISSING"),
        (Some("Bearer ".to_owned()), "CONTEXT_INVALID"),
        (Some(format!("{good}A")), "CONTEXT_INVALID"),
        (Some(format!("Bearer {access}")), "CONTEXT_INVALID"),
        (Some(format!("Bearer {none}.{claims}.")), "CONTEXT_INVALID"),
        (
            Some(token(signer().context(&context, Region::Us, now))),
            "CONTEXT_INVALID",
        ),
        (
            Some(token(signer().context(&context, Region::Eu, now - 91))),
            "CONTEXT_INVALID",
        ),
        (
            Some(token(signer().context(&context, Region::Eu, now + 60))),
            "CONTEXT_INVALID",
        ),
        (
            Some(token(signer().grant(&context, Region::Eu, GET_TENANT, &sha, now))),
            "CONTEXT_INVALID",
        ),
        (
            Some(token(other.context(&context, Region::Eu, now))),
            "CONTEXT_INVALID",
        ),
        (
            Some(token(unknown.context(&context, Region::Eu, now))),
            "CONTEXT_INVALID",
        ),
    ] {
        let metadata: Vec<_> = bad.into_iter().map(|bad| ("authorization", bad)).collect();
        let status = call(scene.peer.clone(), GET_TENANT, &metadata).await.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::Unauthenticated, wanted),
            "{metadata:?}"
        );
    }
    let status = call(scene.peer.clone(), GET_TENANT, &[("authorization", good)])
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_authorizations_are_none() {
    let scene = scene().await;
    let mut request = Request::new(pb::GetServerRequest::default());
    let good = bearer(&person(Some(Role::Owner)));
    request
        .metadata_mut()
        .append("authorization", good.parse().unwrap());
    request
        .metadata_mut()
        .append("authorization", good.parse().unwrap());
    let status = ServerServiceClient::new(scene.peer.clone())
        .get_server(request)
        .await
        .unwrap_err();
    assert_eq!(reason(&status), "CONTEXT_MISSING");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_learns_who_asks_for_which_tenant_until_when() {
    let scene = scene().await;
    let context = person(Some(Role::Operator));
    let number = RequestId::fresh();
    let mut request = Request::new(pb::GetServerRequest::default());
    request
        .metadata_mut()
        .insert("authorization", bearer(&context).parse().unwrap());
    request
        .metadata_mut()
        .insert("trailmesh-request-id", number.to_string().parse().unwrap());
    request.set_timeout(std::time::Duration::from_secs(5));
    let bearer = request.metadata().get("authorization").unwrap();
    let bearer = bearer.to_str().unwrap().to_owned();
    let before = std::time::Instant::now();
    ServerServiceClient::new(scene.peer.clone())
        .get_server(request)
        .await
        .unwrap();
    let seen = scene.seen.lock().unwrap()[0].clone();
    assert_eq!(
        (&seen.subject, Some(&seen.seat)),
        (&context.subject, context.seat.as_ref())
    );
    assert_eq!(
        (seen.needed, seen.request, seen.grant),
        (Role::Viewer, number, None)
    );
    assert_eq!(
        bearer.strip_prefix("Bearer "),
        Some(scene.tokens.lock().unwrap()[0].as_str())
    );
    let left = seen.deadline - before;
    assert!(
        left.as_millis() > 4_000 && left.as_millis() <= 5_000 + before.elapsed().as_millis(),
        "{left:?}"
    );
}

fn registration(name: &str) -> pb::RegisterServerRequest {
    pb::RegisterServerRequest {
        server: Some(pb::Server {
            name: name.to_owned(),
            ..pb::Server::default()
        }),
        ..Default::default()
    }
}

fn sha256(request: &impl prost::Message) -> [u8; 32] {
    let hash = digest(&SHA256, &request.encode_to_vec());
    hash.as_ref().try_into().expect("32 bytes")
}

async fn register(scene: &Scene, context: &Context, grant: Option<String>, name: &str) -> Result<(), Status> {
    let mut request = Request::new(registration(name));
    let metadata = request.metadata_mut();
    metadata.insert("authorization", bearer(context).parse().expect("metadata"));
    if let Some(grant) = grant {
        metadata.insert("trailmesh-grant", grant.parse().expect("metadata"));
    }
    let mut client = ServerServiceClient::new(scene.peer.clone());
    client.register_server(request).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_is_good_for_one_method_one_request_one_subject_and_a_minute() {
    let scene = scene().await;
    let context = person(Some(Role::Operator));
    let (now, sha) = (token::now(), sha256(&registration("one")));
    let grant = |context: &Context, path: &str, sha: &[u8; 32], now: i64| {
        signer().grant(context, Region::Eu, path, sha, now).ok()
    };
    let mut elsewhere = context.clone();
    elsewhere.seat = person(Some(Role::Operator)).seat;
    let mut by_key = context.clone();
    by_key.subject = Subject::Key {
        key: types::KeyId::fresh(),
        owner: context.subject.user(),
    };
    let delete = "/trailmesh.tenant.v1.ServerService/DeleteServer";
    for (bad, wanted) in [
        (None, "GRANT_REQUIRED"),
        (Some(String::new()), "GRANT_INVALID"),
        (grant(&context, delete, &sha, now), "GRANT_INVALID"),
        (
            grant(&context, REGISTER, &sha256(&registration("two")), now),
            "GRANT_INVALID",
        ),
        (grant(&context, REGISTER, &sha, now - 91), "GRANT_INVALID"),
        (
            grant(&person(Some(Role::Operator)), REGISTER, &sha, now),
            "GRANT_INVALID",
        ),
        (grant(&elsewhere, REGISTER, &sha, now), "GRANT_INVALID"),
        (grant(&by_key, REGISTER, &sha, now), "GRANT_INVALID"),
        (signer().context(&context, Region::Eu, now).ok(), "GRANT_INVALID"),
    ] {
        let status = register(&scene, &context, bad.clone(), "one").await.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::PermissionDenied, wanted),
            "{bad:?}"
        );
    }
    assert!(scene.seen.lock().unwrap().is_empty());
    let good = grant(&context, REGISTER, &sha, now);
    register(&scene, &context, good.clone(), "one").await.unwrap();
    let seen = scene.seen.lock().unwrap()[0].clone();
    let confirmed = seen.grant.unwrap();
    assert!(!confirmed.id.is_empty());
    assert_eq!(confirmed.expires, now + 60);
    // Using it once only is the handler's part: it keeps the id with what it does.
    register(&scene, &context, good, "one").await.unwrap();
    assert_eq!(
        scene.seen.lock().unwrap()[1]
            .grant
            .as_ref()
            .map(|grant| &grant.id),
        Some(&confirmed.id)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_over_one_mebibyte_cannot_be_confirmed() {
    let scene = scene().await;
    let context = person(Some(Role::Operator));
    let name = "x".repeat(1 << 20);
    let grant = signer().grant(
        &context,
        Region::Eu,
        REGISTER,
        &sha256(&registration(&name)),
        token::now(),
    );
    let status = register(&scene, &context, grant.ok(), &name).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::InvalidArgument, "REQUEST_TOO_LARGE")
    );
}

/// Answers with what it learned, in the one text field it has.
#[derive(Clone)]
struct Mfa;

#[tonic::async_trait]
impl mfa::MfaService for Mfa {
    async fn get_mfa(
        &self,
        request: Request<auth::GetMfaRequest>,
    ) -> Result<Response<auth::GetMfaResponse>, Status> {
        let caller = account(&request)?;
        assert!(scope(&request).is_err());
        assert_eq!(caller.context.subject, caller.subject);
        Ok(Response::new(Default::default()))
    }
    async fn enrol_totp(
        &self,
        request: Request<auth::EnrolTotpRequest>,
    ) -> Result<Response<auth::EnrolTotpResponse>, Status> {
        let origin = origin(&request);
        assert_eq!(origin.client_address, "192.0.2.7".parse().ok());
        assert_eq!(origin.user_agent, "curl/8");
        assert_eq!(origin.mfa_code.as_ref().map(|code| code.expose()), Some("123456"));
        assert!(origin.refresh_cookie.is_none());
        Ok(Response::new(Default::default()))
    }
    async fn activate_totp(
        &self,
        _: Request<auth::ActivateTotpRequest>,
    ) -> Result<Response<auth::ActivateTotpResponse>, Status> {
        Ok(Response::new(Default::default()))
    }
    async fn disable_totp(
        &self,
        _: Request<auth::DisableTotpRequest>,
    ) -> Result<Response<auth::DisableTotpResponse>, Status> {
        Ok(Response::new(Default::default()))
    }
    async fn regenerate_recovery_codes(
        &self,
        _: Request<auth::RegenerateRecoveryCodesRequest>,
    ) -> Result<Response<auth::RegenerateRecoveryCodesResponse>, Status> {
        Ok(Response::new(Default::default()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_about_an_account_know_it_and_where_the_call_comes_from() {
    let mesh = Mesh::new();
    let runtime = bind("auth", &mesh.settings("auth", &[])).await;
    runtime.publish_keys(vec![signer().verifying_key()]);
    let service = Service::start(runtime, Routes::new(mfa::MfaServiceServer::new(Mfa)));
    let gateway = mesh.caller("gateway", &[("auth", service.address)]).await;
    let mut context = person(None);
    context.seat = None;
    let metadata = [
        ("authorization", bearer(&context)),
        ("trailmesh-client-address", "192.0.2.7".to_owned()),
        ("trailmesh-user-agent", "curl/8".to_owned()),
        ("mfa-code", "123456".to_owned()),
    ];
    for method in ["GetMfa", "EnrolTotp"] {
        let path = format!("/trailmesh.auth.v1.MfaService/{method}");
        call(gateway.peer("auth").unwrap(), &path, &metadata)
            .await
            .unwrap();
    }
}
