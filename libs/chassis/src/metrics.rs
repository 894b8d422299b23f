//! Metrics: one set of OpenTelemetry instruments for each service, sent to a collector and shown as Prometheus text.

use std::{sync::Arc, time::Duration};

use opentelemetry::{
    InstrumentationScope, KeyValue,
    metrics::{Meter, MeterProvider},
};
use opentelemetry_otlp::{MetricExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::metrics::{
    Aggregation, Instrument, InstrumentKind, PeriodicReader, SdkMeterProvider, Stream,
};
use prometheus::{Registry, TextEncoder};

use crate::{Settings, telemetry};

/// The instruments of one service. Several services in one process have one each, so each admin port shows its own.
#[derive(Clone, Debug)]
pub(crate) struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    provider: SdkMeterProvider,
    registry: Registry,
    meter: Meter,
}

/// Seconds, from a look-up in memory to the longest deadline. OpenTelemetry's own bounds are made for milliseconds.
const SECONDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// How often the collector gets metrics, as OpenTelemetry proposes.
const EXPORT_INTERVAL: Duration = Duration::from_secs(60);

impl Metrics {
    /// With an OTLP endpoint in `settings`, must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the collector's certificate authority cannot be read, or an exporter cannot be built.
    pub(crate) fn start(service: &str, settings: &Settings) -> Result<Self, telemetry::Error> {
        let labels = [("service".to_owned(), service.to_owned())].into();
        let registry = Registry::new_custom(None, Some(labels)).map_err(telemetry::Error::Prometheus)?;
        let reader = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .without_target_info()
            .build()
            .map_err(|error| telemetry::Error::Exporter(error.to_string()))?;
        let mut provider = SdkMeterProvider::builder()
            .with_resource(telemetry::resource(service, settings))
            .with_view(seconds)
            .with_reader(reader);
        if let Some(endpoint) = &settings.otlp_endpoint {
            let mut exporter = MetricExporter::builder()
                .with_tonic()
                .with_endpoint(endpoint.as_str())
                .with_timeout(telemetry::EXPORT_TIMEOUT);
            if let Some(tls) = telemetry::collector_tls(settings)? {
                exporter = exporter.with_tls_config(tls);
            }
            let exporter = exporter
                .build()
                .map_err(|error| telemetry::Error::Exporter(error.to_string()))?;
            let reader = PeriodicReader::builder(exporter)
                .with_interval(EXPORT_INTERVAL)
                .build();
            provider = provider.with_reader(reader);
        }
        let provider = provider.build();
        let scope = InstrumentationScope::builder("trailmesh")
            .with_attributes([KeyValue::new("service", service.to_owned())])
            .build();
        let meter = provider.meter_with_scope(scope);
        Ok(Self(Arc::new(Inner {
            provider,
            registry,
            meter,
        })))
    }

    /// The one meter of the service: an instrument's name means one thing in it.
    pub(crate) fn meter(&self) -> Meter {
        self.0.meter.clone()
    }

    /// All instruments in Prometheus' text format, version 0.0.4.
    ///
    /// # Errors
    /// When an instrument cannot be written in it.
    pub(crate) fn text(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.0.registry.gather())
    }

    /// Sends what has not been sent. Blocks for at most `within`: not for a thread that runs tasks.
    pub(crate) fn finish(&self, within: Duration) {
        if let Err(error) = self.0.provider.shutdown_with_timeout(within) {
            tracing::warn!(%error, "the last metrics were not sent");
        }
    }
}

/// Buckets for every histogram of seconds, so that no instrument has to name them.
fn seconds(instrument: &Instrument) -> Option<Stream> {
    if instrument.kind() != InstrumentKind::Histogram || instrument.unit() != "s" {
        return None;
    }
    Stream::builder()
        .with_aggregation(Aggregation::ExplicitBucketHistogram {
            boundaries: SECONDS.to_vec(),
            record_min_max: false,
        })
        .build()
        .ok()
}
