//! Stripe as far as this service speaks with it: its endpoint, over TLS, and its events, signed as its documentation says. The real one is
//! not asked by these tests.

use std::{
    collections::HashMap,
    fs,
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Bytes, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use proto::{google::api::HttpBody, tenant::v1 as pb};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::{Value, json};
use testkit::Authority;
use tokio::{net::TcpListener, sync::watch};
use tokio_rustls::TlsAcceptor;
use types::TenantId;

use crate::world::{Caller, No};

pub(crate) const KEY: &str = "sk_test_canary";
pub(crate) const SECRETS: [&str; 2] = ["whsec_new_0123456789abcdef", "whsec_old_0123456789abcdef"];

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) line: String,
    pub(crate) authorization: String,
    pub(crate) idempotency_key: String,
    pub(crate) version: String,
    pub(crate) form: HashMap<String, String>,
}

#[derive(Clone)]
pub(crate) struct Stripe {
    pub(crate) flags: Vec<String>,
    subscriptions: Arc<Mutex<HashMap<String, Value>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    failures: Arc<Mutex<Vec<u16>>>,
    /// While true, answers wait; they say what was so when the question came.
    held: watch::Sender<bool>,
    _folder: Arc<tempfile::TempDir>,
}

impl Stripe {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let identity = Authority::new(folder.path()).issue_for("stripe", true, false);
        let certificates = CertificateDer::pem_file_iter(&identity.cert_file).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&fs::read(&identity.key_file).unwrap()).unwrap();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(certificates.map(Result::unwrap).collect(), key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Self {
            flags: vec![
                format!("--tenant-stripe-url=https://localhost:{port}"),
                format!("--tenant-stripe-ca-file={}", identity.bundle_file.display()),
                format!("--tenant-stripe-key={KEY}"),
                format!("--tenant-stripe-webhook-secrets={}", SECRETS.join(",")),
                "--tenant-stripe-prices=pro=price_old,pro=price_pro,premium=price_premium".to_owned(),
                "--tenant-stripe-return-url=https://trail.example/billing".to_owned(),
            ],
            subscriptions: Arc::default(),
            asked: Arc::default(),
            failures: Arc::default(),
            held: watch::Sender::new(false),
            _folder: Arc::new(folder),
        };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (server, acceptor) = (serving.clone(), acceptor.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let service = service_fn(move |request| {
                        let server = server.clone();
                        async move { server.answer(request).await }
                    });
                    let _ = http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        server
    }

    async fn answer(
        &self,
        request: Request<hyper::body::Incoming>,
    ) -> Result<Response<Full<Bytes>>, hyper::Error> {
        let header = |name: &str| {
            let value = request.headers().get(name);
            value
                .map(|value| value.to_str().unwrap().to_owned())
                .unwrap_or_default()
        };
        let path = request.uri().path().to_owned();
        let mut asked = Asked {
            line: format!("{} {path}", request.method()),
            authorization: header("authorization"),
            idempotency_key: header("idempotency-key"),
            version: header("stripe-version"),
            form: HashMap::new(),
        };
        let body = request.into_body().collect().await?.to_bytes();
        asked.form = url::form_urlencoded::parse(&body).into_owned().collect();
        self.asked.lock().unwrap().push(asked);
        let failure = self.failures.lock().unwrap().pop();
        let found = path
            .strip_prefix("/v1/subscriptions/")
            .and_then(|id| self.subscriptions.lock().unwrap().get(id).cloned());
        let (status, answer) = match (failure, path.as_str(), found) {
            (Some(status), ..) => (status, json!({"error": {"type": "api_error", "message": "no"}})),
            (_, "/v1/checkout/sessions", _) => (
                200,
                json!({"id": "cs_1", "object": "checkout.session", "url": "https://checkout.stripe.example/c/pay/cs_1#f"}),
            ),
            (_, "/v1/billing_portal/sessions", _) => (
                200,
                json!({"id": "bps_1", "object": "billing_portal.session", "url": "https://billing.stripe.example/p/session/1"}),
            ),
            (.., Some(subscription)) => (200, subscription),
            _ => (
                404,
                json!({"error": {"type": "invalid_request_error", "code": "resource_missing"}}),
            ),
        };
        let mut held = self.held.subscribe();
        held.wait_for(|held| !held).await.unwrap();
        let answer = Response::builder()
            .status(status)
            .body(Full::new(Bytes::from(answer.to_string())));
        Ok(answer.unwrap())
    }

    /// What was asked since this was asked last.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    /// Lets answers wait, or go.
    pub(crate) fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// The next answers have these statuses.
    pub(crate) fn fail(&self, statuses: &[u16]) {
        *self.failures.lock().unwrap() = statuses.iter().rev().copied().collect();
    }

    /// A subscription is now so.
    pub(crate) fn becomes(&self, subscription: &Value) {
        let id = subscription["id"].as_str().unwrap().to_owned();
        self.subscriptions
            .lock()
            .unwrap()
            .insert(id, subscription.clone());
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

/// A subscription to `price`, whose period began `days` ago and is of thirty.
pub(crate) fn subscription(id: &str, tenant: TenantId, status: &str, price: &str, days: i64) -> Value {
    let start = now() - days * 86_400;
    json!({
        "id": id, "object": "subscription", "status": status, "customer": format!("cus_{}", &id[4..]), "livemode": false,
        "metadata": {"trailmesh_tenant": tenant.to_string()}, "cancel_at_period_end": false,
        "items": {"object": "list", "data": [{
            "id": "si_1", "object": "subscription_item", "price": {"id": price, "object": "price"}, "quantity": 1,
            "current_period_start": start, "current_period_end": start + 30 * 86_400
        }]}
    })
}

/// An event of Stripe's, as its bytes.
pub(crate) fn event(id: &str, kind: &str, object: &Value) -> Vec<u8> {
    let event = json!({
        "id": id, "object": "event", "api_version": "2025-03-31.basil", "created": now(), "livemode": false, "type": kind,
        "pending_webhooks": 1, "request": {"id": null, "idempotency_key": null}, "data": {"object": object}
    });
    serde_json::to_vec_pretty(&event).unwrap()
}

/// The header with which Stripe sends `body`, signed with `secret` at `time`.
pub(crate) fn signature(secret: &str, time: i64, body: &[u8]) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    let tag = ring::hmac::sign(&key, &[format!("{time}.").as_bytes(), body].concat());
    let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={time},v1={hex},v0={}", "0".repeat(64))
}

/// Sends an event with these headers; who calls does not matter.
pub(crate) async fn send(caller: &Caller<'_>, headers: &[&str], body: &[u8]) -> Result<(), No> {
    let mut request = tonic::Request::new(pb::ReceiveStripeEventRequest {
        payload: Some(HttpBody {
            content_type: "application/json; charset=utf-8".to_owned(),
            data: body.to_vec().into(),
        }),
    });
    for header in headers {
        request
            .metadata_mut()
            .append("stripe-signature", header.parse().unwrap());
    }
    caller.send(request).await.map(drop)
}

/// Sends an event as Stripe does.
pub(crate) async fn deliver(caller: &Caller<'_>, body: &[u8]) {
    let header = signature(SECRETS[0], now(), body);
    send(caller, &[&header], body).await.unwrap();
}
