//! The services behind the gateway, in its own words.
use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use chassis::{Peer, Runtime, deadline, token::KeySet};
use http::{HeaderMap, HeaderValue, Request, Response, Uri, Version, header};
use proto::auth::v1::{
    self as pb, authenticate_request::Credential, guard_service_client::GuardServiceClient,
};
use tonic::{Code, Status, body::Body};
use tower::Service as _;
use types::RequestId;

use crate::{
    chain::shortened,
    context_cache::{Identity, Vouched},
    error::Cause,
    routes::Routes,
};

/// Auth answers from an index or not at all.
const GUARD_TIMEOUT: Duration = Duration::from_secs(2);

/// Every service that has a route, and auth.
#[derive(Debug)]
pub(crate) struct Upstream {
    peers: HashMap<String, Peer>,
    guard: GuardServiceClient<Peer>,
    keys: KeySet,
}

/// What confirms a call with a second factor.
pub(crate) struct Confirmation<'a> {
    /// Who calls.
    pub(crate) identity: &'a Identity,
    /// `/package.Service/Method`
    pub(crate) method: &'a str,
    /// Of the request message.
    pub(crate) sha256: [u8; 32],
    /// What the client sent in `X-MFA-Code`.
    pub(crate) code: Option<&'a str>,
}

/// For whom auth is asked, which it writes down.
#[derive(Clone, Copy)]
pub(crate) struct By<'a> {
    /// Which request.
    pub(crate) request: RequestId,
    /// Where it comes from.
    pub(crate) client: IpAddr,
    /// What the client says it is.
    pub(crate) agent: Option<&'a HeaderValue>,
}

/// That a second factor was consumed for one call.
pub(crate) struct Proof {
    /// What the service asks for.
    pub(crate) token: String,
    /// Its name, for the record.
    pub(crate) id: String,
}

impl Upstream {
    /// Finds the address of each service that `routes` lead to.
    pub(crate) fn new(runtime: &Runtime, routes: &Routes) -> Result<Self, chassis::Error> {
        let mut peers = HashMap::new();
        for route in routes.methods() {
            if !peers.contains_key(&route.service) {
                peers.insert(route.service.clone(), runtime.peer(&route.service)?);
            }
        }
        Ok(Self {
            peers,
            guard: GuardServiceClient::new(runtime.peer("auth")?),
            keys: runtime.keys(),
        })
    }

    /// Asks auth who is behind a credential.
    pub(crate) async fn vouch(&self, credential: Credential, tenant: String, by: By<'_>) -> Vouched {
        let asked = pb::AuthenticateRequest {
            credential: Some(credential),
            tenant_id: tenant,
            client_address: by.client.to_string(),
        };
        let mut guard = self.guard.clone();
        let answer = guarded(by, asked, |asked| async move { guard.authenticate(asked).await }).await;
        let token = match answer {
            Ok(answer) => answer.context_token,
            Err(status) if is_absence(&status) => {
                tracing::warn!(code = ?status.code(), "auth cannot be asked");
                return Vouched::Unreachable;
            }
            Err(status) => return Vouched::Refused(status),
        };
        // What auth says is believed for its signature.
        match self.keys.context(&token) {
            Ok((context, _)) => match HeaderValue::from_str(&format!("Bearer {token}")) {
                Ok(mut bearer) => {
                    bearer.set_sensitive(true);
                    let token = types::Secret::new(token);
                    Vouched::Good(Identity {
                        context,
                        token,
                        bearer,
                    })
                }
                Err(_) => Vouched::Unreachable,
            },
            Err(error) => {
                tracing::error!(cause = error.cause(), "a context token of auth does not verify");
                Vouched::Unreachable
            }
        }
    }

    /// Has auth consume a code for exactly one call, and gives the proof.
    pub(crate) async fn confirm(&self, call: Confirmation<'_>, by: By<'_>) -> Result<Proof, Status> {
        let asked = pb::ConsumeStepUpRequest {
            context_token: call.identity.token.expose().clone(),
            method: call.method.to_owned(),
            request_sha256: call.sha256.to_vec().into(),
            code: call.code.unwrap_or_default().to_owned(),
        };
        let mut guard = self.guard.clone();
        let answer = guarded(
            by,
            asked,
            |asked| async move { guard.consume_step_up(asked).await },
        )
        .await?;
        let token = answer.grant_token;
        // The service would refuse it too; here its id is wanted.
        match self
            .keys
            .grant(&token, call.method, &call.sha256, &call.identity.context)
        {
            Ok(grant) => Ok(Proof { token, id: grant.id }),
            Err(error) => {
                tracing::error!(cause = error.cause(), "a grant of auth does not verify");
                Err(chassis::status(&Cause::AuthUnavailable))
            }
        }
    }

    /// Sends a gRPC request to a service; the answer's body comes as it is written.
    pub(crate) async fn call(
        &self,
        service: &str,
        path: &str,
        headers: HeaderMap,
        body: Body,
    ) -> Result<Response<Body>, Status> {
        let Some(mut peer) = self.peers.get(service).cloned() else {
            return Err(chassis::status(&Cause::Internal(format!(
                "service {service} has no peer"
            ))));
        };
        let uri: Uri = path.parse().map_err(|_| chassis::status(&Cause::NoMethod))?;
        let mut request = Request::new(body);
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = headers;
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        std::future::poll_fn(|cx| peer.poll_ready(cx)).await?;
        peer.call(request).await
    }
}

/// One question to auth, with its own deadline.
async fn guarded<A, B, F>(
    by: By<'_>,
    message: A,
    ask: impl FnOnce(tonic::Request<A>) -> F,
) -> Result<B, Status>
where
    F: Future<Output = Result<tonic::Response<B>, Status>>,
{
    let with_client = |mut message: tonic::Request<A>| {
        let metadata = message.metadata_mut();
        if let Ok(client) = by.client.to_string().parse() {
            metadata.insert("trailmesh-client-address", client);
        }
        let agent = by.agent.and_then(|agent| agent.to_str().ok());
        if let Some(Ok(agent)) = agent.map(|agent| shortened(agent).parse()) {
            metadata.insert("trailmesh-user-agent", agent);
        }
        ask(message)
    };
    asked(by.request, Instant::now() + GUARD_TIMEOUT, message, with_client).await
}

/// One question to a neighbour in the gateway's own name, answered by `until` or not at all.
pub(crate) async fn asked<A, B, F>(
    request: RequestId,
    until: Instant,
    message: A,
    ask: impl FnOnce(tonic::Request<A>) -> F,
) -> Result<B, Status>
where
    F: Future<Output = Result<tonic::Response<B>, Status>>,
{
    let mut message = tonic::Request::new(message);
    if let Ok(number) = request.to_string().parse() {
        message.metadata_mut().insert("trailmesh-request-id", number);
    }
    let answer = tokio::time::timeout_at(until.into(), deadline::within(until, ask(message))).await;
    match answer {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(chassis::status(&Cause::DeadlineExceeded)),
    }
}

/// Whether a status says that nobody decided.
pub(crate) fn is_absence(status: &Status) -> bool {
    !matches!(
        status.code(),
        Code::Unauthenticated
            | Code::NotFound
            | Code::InvalidArgument
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::FailedPrecondition
    )
}
