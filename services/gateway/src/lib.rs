//! The one public door of the mesh: HTTPS with JSON, gRPC and gRPC-Web in, mTLS gRPC out.
//!
//! A request passes the layers of `chain`, one a file, and each can refuse it alone: request id and trace · CORS · limits on head, body
//! and time · route · authenticate · permit · rate limit · decode · step-up · audit · call · answer. JSON, gRPC and gRPC-Web go the same way and
//! differ only where messages are read and written.
//!
//! What the gateway is not: it holds no key that signs and no database. Who a caller is says auth, in a token that every service verifies
//! itself, so that whoever steals a gateway cannot invent a user. What a caller may do stands in the protos' rules; services check them
//! again. A service sees what the gateway found out, and no header that a client wrote.
//!
//! * [`routes`], [`json`] and [`answer`] are made from the descriptors of the protos, as are [`openapi`], [`reference`] and [`matrix`].
//! * Agents come to the same port by a protocol of their own, and are connected to the service that they ask for (`door`).
//! * Rate limits are exact: in no window are more requests admitted than the limit, across all gateways (`rate`).
//! * When something is down: without Redis each gateway counts for itself; without auth what was known is good for five seconds, and
//!   nothing else is let in; without a service its calls get 503. Nothing waits past its deadline.

pub mod answer;
mod audit;
mod bounded;
mod chain;
mod client_address;
mod config;
mod context_cache;
mod door;
mod edge;
mod error;
mod exchange;
mod frame;
mod grpc_web;
pub mod json;
mod load;
pub mod matrix;
mod metrics;
pub mod openapi;
mod pages;
mod rate;
pub mod reference;
pub mod routes;
mod strangers;
mod stream;
mod tls;
mod unread;
mod upstream;

use std::sync::Arc;

use chassis::{Error, Runtime};
use deadpool_redis::redis::{Client, TlsCertificates};
use tower::util::BoxCloneSyncService;

use audit::Recorder;
use chain::{Gateway, cors::Origins, route::Pages};
use client_address::Trust;
pub use config::{Config, PlanRate};
use context_cache::ContextCache;
use door::Door;
use edge::Edge;
use error::StartError;
use load::Load;
use metrics::Metrics;
use rate::{Limit, Limiter, Options, Store};
use routes::Routes;
use strangers::Strangers;
use tls::Certificate;
use unread::Unread;
use upstream::Upstream;

/// Opens the door, and returns when it was closed and the last request answered.
///
/// # Errors
/// What cannot be used of the configuration, and what made a task of the gateway end.
pub async fn start(config: Config, mut runtime: Runtime) -> Result<(), Error> {
    // Without an identity of the mesh, which only `--dev` allows, there are no agents.
    let agents = runtime.agent_trust().ok();
    let certificate = Certificate::load(&config, agents.clone()).await;
    let certificate = certificate.map_err(Error::service)?;
    let routes = Routes::load(runtime.policy()).map_err(|error| Error::service(StartError::Routes(error)))?;
    let limiter = Arc::new(Limiter::new(
        store(&config, &runtime).await.map_err(Error::service)?,
    ));
    let (reporter, health) = tonic_health::server::health_reporter();
    let load = Load::new(runtime.settings().max_in_flight, config.tenant_share);
    let audits = routes.methods().any(|route| route.audited.is_some());
    let recorder = Recorder::new(&runtime, audits)?;
    let gateway = Arc::new(Gateway {
        region: runtime.region(),
        hosts: hosts(runtime.settings()),
        recorder: Arc::clone(&recorder),
        upstream: Upstream::new(&runtime, &routes)?,
        pages: pages(&routes)?,
        routes,
        origins: Origins::new(config.cors_origins.iter().cloned()),
        trust: Trust::new(config.trusted_hops, config.trusted_proxies.clone()),
        rates: config.rates(),
        strict_rate: Limit::per_minute(config.strict_rate),
        limiter: Arc::clone(&limiter),
        strangers: Strangers::new(Limit::per_minute(config.refused_rate), Arc::clone(&limiter)),
        contexts: ContextCache::new(),
        metrics: Metrics::new(&runtime.meter(), Arc::clone(&load)),
        load,
        health: BoxCloneSyncService::new(health),
        trace_share: runtime.settings().trace_share,
    });
    let stopping = runtime.stopping();
    let edge = Edge {
        gateway,
        unread: Unread::new(),
        certificate: certificate.current(),
        door: agents
            .as_ref()
            .map(|agents| Door::new(&config, &runtime, agents.clone())),
        max_connections: config.max_connections,
        stopping: stopping.clone(),
    };
    runtime.spawn("certificate", certificate.follow());
    if let (Some(agents), Ok(vault)) = (agents, runtime.peer("vault")) {
        runtime.spawn("agent authorities", chassis::agents::follow(vault, agents));
    }
    runtime.spawn("rate", limiter.tend());
    runtime.spawn("health", async move {
        stopping.cancelled().await;
        reporter
            .set_service_status("", tonic_health::ServingStatus::NotServing)
            .await;
    });
    let listener = runtime
        .listener()
        .ok_or_else(|| Error::service(StartError::NoListener))?;
    let work = async {
        let serving = async {
            edge::serve(edge, listener).await;
            recorder.close().await;
        };
        tokio::join!(serving, Arc::clone(&recorder).run());
        Ok(())
    };
    runtime.run_until_drained(Box::pin(work)).await
}

fn hosts(settings: &chassis::Settings) -> Vec<(types::Region, String)> {
    let all = types::Region::ALL.iter();
    all.filter_map(|region| Some((*region, settings.host_of(*region)?.to_owned())))
        .collect()
}

fn pages(routes: &Routes) -> Result<Pages, Error> {
    let policy = reference::content_security_policy();
    Ok(Pages {
        reference_policy: policy.parse().map_err(Error::service)?,
        openapi_json: openapi::document(routes).to_string().into(),
        openapi_yaml: openapi::yaml(routes).into(),
        reference: reference::page(routes).into(),
    })
}

async fn store(config: &Config, runtime: &Runtime) -> Result<Option<Arc<Store>>, StartError> {
    let Some(url) = &config.redis_url else {
        return Ok(None);
    };
    let client = match &config.redis_ca_file {
        None => Client::open(url.expose()),
        Some(file) => {
            let root_cert = tokio::fs::read(file).await.map_err(|source| StartError::File {
                file: file.display().to_string(),
                source,
            })?;
            let certificates = TlsCertificates {
                client_tls: None,
                root_cert: Some(root_cert),
            };
            Client::build_with_tls(url.expose(), certificates)
        }
    };
    let options = Options {
        prefix: config.redis_prefix.clone(),
        home: format!("{}/{}", runtime.region().word(), runtime.cell()),
        call_timeout: config.redis_timeout,
        connect_timeout: config.redis_connect_timeout,
    };
    let store = Store::new(client.map_err(StartError::Redis)?, options);
    store.settle().await.map_err(StartError::ForeignRedis)?;
    Ok(Some(store))
}
