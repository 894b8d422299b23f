//! Logs, traces and the panic hook of a process; the W3C trace context between processes.
//!
//! A line of the log is one JSON object (or, for people, one line of text) on stderr, whatever stands in its values. It carries the ids of
//! its trace and span, and from the spans around it `service`, `region`, `request_id`, `tenant`, `caller` and `method`. Spans go to the collector if
//! one is configured; without one they still have ids, so that the logs of two services can be joined. What looks like a credential is
//! blanked in both, as a last net: nothing should log one in the first place.

mod each;
mod line;
mod scrub;
mod spans;

use std::{io, path::PathBuf, time::Duration};

use http::HeaderMap;
use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, Injector, TextMapPropagator},
    trace::TracerProvider,
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracerProvider},
};
use tonic::transport::{Certificate, ClientTlsConfig};
use tracing::{Level, Metadata, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

use crate::Settings;
use each::Each;
use line::Lines;
use spans::Scrubbed;

/// Why logs, traces or metrics cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file of the collector's authority cannot be read.
    #[error("cannot read {path}")]
    CollectorAuthority {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The exporter to the collector cannot be built.
    #[error("the exporter to the collector cannot be built: {0}")]
    Exporter(String),
    /// The registry of metrics cannot be built.
    #[error("the registry of metrics cannot be built")]
    Prometheus(#[source] prometheus::Error),
    /// Something else in this process logs already.
    #[error("this process logs already")]
    Started,
}

/// How long one export may take.
pub(crate) const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// What must be flushed before the process ends.
pub(crate) struct Telemetry(SdkTracerProvider);

impl Telemetry {
    /// Starts the logs and traces of this process. With `export` and an OTLP endpoint in `settings`, must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the exporter cannot be built, or something else logs already.
    pub(crate) fn start(service: &str, settings: &Settings, export: bool) -> Result<Self, Error> {
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(settings.trace_share)));
        let mut provider = SdkTracerProvider::builder()
            .with_resource(resource(service, settings))
            .with_sampler(sampler);
        if let Some(endpoint) = settings.otlp_endpoint.as_ref().filter(|_| export) {
            let mut exporter = SpanExporter::builder()
                .with_tonic()
                .with_endpoint(endpoint.as_str())
                .with_timeout(EXPORT_TIMEOUT);
            if let Some(tls) = collector_tls(settings)? {
                exporter = exporter.with_tls_config(tls);
            }
            let exporter = exporter
                .build()
                .map_err(|error| Error::Exporter(error.to_string()))?;
            provider = provider.with_batch_exporter(Scrubbed(exporter));
        }
        let provider = provider.build();
        let traces = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("trailmesh"))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false);
        // What OpenTelemetry says of its own life is no news; what goes wrong with it is. A filter that cannot be read is a problem of the
        // configuration, and told as one.
        let wanted: Targets = format!("opentelemetry=warn,{}", settings.log)
            .parse()
            .unwrap_or_else(|_| Targets::new().with_default(Level::INFO));
        let lines = Lines::new(service, settings.region, settings.log_format, io::stderr);
        tracing_subscriber::registry()
            .with(traces.with_filter(Each(is_traced)))
            .with(lines.with_filter(Each(move |metadata: &Metadata<'_>| {
                is_traced(metadata) && metadata.is_span()
                    || wanted.would_enable(metadata.target(), metadata.level())
            })))
            .try_init()
            .map_err(|_| Error::Started)?;
        std::panic::set_hook(Box::new(log_panic));
        Ok(Self(provider))
    }

    /// Sends what has not been sent. Blocks for at most `within`: not for a thread that runs tasks.
    pub(crate) fn finish(self, within: Duration) {
        if let Err(error) = self.0.shutdown_with_timeout(within) {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

/// What belongs in traces, whatever is logged: not the exporter's own doing, which would feed itself.
fn is_traced(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= Level::INFO
        && !["opentelemetry", "tonic", "h2", "hyper", "tower"]
            .iter()
            .any(|library| metadata.target().starts_with(library))
}

/// The one line that a panic leaves, instead of the several of the standard library.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let words = panic.payload_as_str().unwrap_or("the panic's value is no text");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(target: "panic", place, thread = thread.name().unwrap_or("unnamed"), "panicked: {words}");
}

/// Who sends: the attributes of every trace and metric.
pub(crate) fn resource(service: &str, settings: &Settings) -> Resource {
    Resource::builder()
        .with_service_name(service.to_owned())
        .with_attributes([
            KeyValue::new("service.namespace", "trailmesh"),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", uuid::Uuid::new_v4().to_string()),
            KeyValue::new("trailmesh.region", settings.region.word()),
            KeyValue::new("trailmesh.cell", settings.cell.clone()),
        ])
        .build()
}

/// How the collector's certificate is verified; nothing for a plain one.
pub(crate) fn collector_tls(settings: &Settings) -> Result<Option<ClientTlsConfig>, Error> {
    if settings
        .otlp_endpoint
        .as_ref()
        .is_none_or(|endpoint| endpoint.scheme() != "https")
    {
        return Ok(None);
    }
    let tls = ClientTlsConfig::new();
    let Some(path) = &settings.otlp_ca_file else {
        return Ok(Some(tls.with_enabled_roots()));
    };
    let pem = std::fs::read(path).map_err(|source| Error::CollectorAuthority {
        path: path.clone(),
        source,
    })?;
    Ok(Some(tls.ca_certificate(Certificate::from_pem(pem))))
}

/// Makes `span` a part of the trace that `headers` name. To be called before anything happens in the span.
pub(crate) fn continue_trace(span: &Span, headers: &HeaderMap) {
    let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &Incoming(headers));
    // Fails only if the span is not traced at all, or has begun; both leave it as it is.
    let _ = span.set_parent(parent);
}

/// Tells the receiver of `headers` which trace the current span is part of.
pub(crate) fn hand_on_trace(headers: &mut HeaderMap) {
    let context = Span::current().context();
    TraceContextPropagator::new().inject_context(&context, &mut Outgoing(headers));
}

struct Incoming<'h>(&'h HeaderMap);

impl Extractor for Incoming<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

struct Outgoing<'h>(&'h mut HeaderMap);

impl Injector for Outgoing<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(name), Ok(value)) = (
            http::HeaderName::try_from(key),
            http::HeaderValue::try_from(value),
        ) {
            self.0.insert(name, value);
        }
    }
}
