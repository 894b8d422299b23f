//! Tenant as a test orders it: it keeps the record, and takes what Stripe sends.
use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use prost::Message as _;
use proto::tenant::v1 as pb;
use tonic::{Status, body::Body, server::NamedService, service::Routes};
use types::{Code, Fault};

use crate::client::frame;

/// What tenant was told.
#[derive(Clone, Default)]
pub(crate) struct Record {
    told: Arc<Mutex<Told>>,
    /// So many intents are written and never answered.
    pub(crate) unanswered: Arc<AtomicUsize>,
    /// Whether nothing can be written.
    pub(crate) broken: Arc<AtomicBool>,
    /// Tenants of which nothing can be written.
    pub(crate) broken_of: Arc<Mutex<HashSet<String>>>,
}

#[derive(Default)]
pub(crate) struct Told {
    pub(crate) intents: Vec<pb::RecordIntentRequest>,
    pub(crate) results: HashMap<String, pb::RecordResultRequest>,
    pub(crate) refusals: Vec<pb::Refusal>,
    /// Bodies and signatures.
    pub(crate) events: Vec<(pb::ReceiveStripeEventRequest, String)>,
}

#[derive(Debug, thiserror::Error)]
#[error("nothing can be written")]
struct Broken;

impl Fault for Broken {
    fn code(&self) -> Code {
        Code::Unavailable
    }
    fn reason(&self) -> &'static str {
        "DATABASE_UNAVAILABLE"
    }
}

impl Record {
    pub(crate) fn routes(&self) -> Routes {
        Routes::new(Audit(self.clone())).add_service(Billing(self.clone()))
    }

    pub(crate) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().expect("no panic")
    }

    /// The intent of a request.
    pub(crate) fn intent_of(&self, request: &str) -> Option<pb::RecordIntentRequest> {
        let of = |intent: &&pb::RecordIntentRequest| {
            intent
                .call
                .as_ref()
                .is_some_and(|call| call.request_id == request)
        };
        self.told().intents.iter().find(of).cloned()
    }

    /// The result of a request, when it is there.
    pub(crate) async fn result_of(&self, request: &str) -> pb::RecordResultRequest {
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            let intent = self.intent_of(request);
            let result = intent.and_then(|intent| self.told().results.get(&intent.entry_id).cloned());
            if let Some(result) = result {
                return result;
            }
            assert!(tokio::time::Instant::now() < deadline, "no result of {request}");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    fn write(&self, method: &str, message: &[u8]) -> Result<(), Status> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(chassis::status(&Broken));
        }
        let broken = |tenants: &[&str]| {
            let broken = self.broken_of.lock().expect("no panic");
            match tenants.iter().any(|tenant| broken.contains(*tenant)) {
                true => Err(chassis::status(&Broken)),
                false => Ok(()),
            }
        };
        let mut told = self.told();
        match method {
            "RecordIntent" => {
                let intent = pb::RecordIntentRequest::decode(message).expect("an intent");
                broken(&[&intent.tenant_id])?;
                told.intents.push(intent);
            }
            "RecordResult" => {
                let result = pb::RecordResultRequest::decode(message).expect("a result");
                broken(&[&result.tenant_id])?;
                told.results.insert(result.entry_id.clone(), result);
            }
            "RecordRefusals" => {
                let refusals = pb::RecordRefusalsRequest::decode(message).expect("refusals");
                let tenants = refusals.refusals.iter().map(|refusal| refusal.tenant_id.as_str());
                broken(&tenants.collect::<Vec<_>>())?;
                told.refusals.extend(refusals.refusals);
            }
            _ => {}
        }
        Ok(())
    }
}

type Answering = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

fn done() -> http::Response<Body> {
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().expect("a value"));
    let frames = [
        Ok::<_, Status>(Frame::data(Bytes::from(frame(b"")))),
        Ok(Frame::trailers(trailers)),
    ];
    let mut response = http::Response::new(Body::new(StreamBody::new(futures_util::stream::iter(frames))));
    response
        .headers_mut()
        .insert("content-type", "application/grpc".parse().expect("a value"));
    response
}

/// AuditService, as far as the gateway calls it.
#[derive(Clone)]
struct Audit(Record);

impl NamedService for Audit {
    const NAME: &'static str = "trailmesh.tenant.v1.AuditService";
}

impl tower::Service<http::Request<Body>> for Audit {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answering {
        let record = self.0.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            assert!(
                !parts.headers.contains_key("authorization"),
                "the gateway writes in its own name"
            );
            let method = parts.uri.path().rsplit('/').next().unwrap_or_default().to_owned();
            let bytes = body.collect().await.expect("a body").to_bytes();
            let written = record.write(&method, &bytes[5..]);
            let less = |count: usize| count.checked_sub(1);
            let unanswered = &record.unanswered;
            if method == "RecordIntent"
                && unanswered
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
                    .is_ok()
            {
                std::future::pending::<()>().await;
            }
            Ok(match written {
                Ok(()) => done(),
                Err(status) => status.into_http(),
            })
        })
    }
}

/// BillingService, as far as Stripe calls it.
#[derive(Clone)]
struct Billing(Record);

impl NamedService for Billing {
    const NAME: &'static str = "trailmesh.tenant.v1.BillingService";
}

impl tower::Service<http::Request<Body>> for Billing {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answering {
        let record = self.0.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let signature = parts.headers.get("stripe-signature");
            let signature = signature
                .map_or("none", |value| value.to_str().expect("text"))
                .to_owned();
            let bytes = body.collect().await.expect("a body").to_bytes();
            let event = pb::ReceiveStripeEventRequest::decode(&bytes[5..]).expect("an event");
            record.told().events.push((event, signature));
            Ok(done())
        })
    }
}
