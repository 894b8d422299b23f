//! Spans on their way to the collector.

use std::time::Duration;

use opentelemetry::{Array, KeyValue, StringValue, Value, trace::Status};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SpanData, SpanExporter},
};

use super::scrub;

/// An exporter whose spans have lost whatever looks like a credential.
#[derive(Debug)]
pub(super) struct Scrubbed<E>(pub(super) E);

impl<E: SpanExporter> SpanExporter for Scrubbed<E> {
    fn export(&self, mut batch: Vec<SpanData>) -> impl Future<Output = OTelSdkResult> + Send {
        batch.iter_mut().for_each(span);
        self.0.export(batch)
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.0.set_resource(resource);
    }
}

fn span(span: &mut SpanData) {
    span.attributes.iter_mut().for_each(attribute);
    for event in &mut span.events.events {
        event.name = scrub::text(&event.name).into_owned().into();
        event.attributes.iter_mut().for_each(attribute);
    }
    if let Status::Error { description } = &mut span.status {
        *description = scrub::text(description).into_owned().into();
    }
}

fn attribute(attribute: &mut KeyValue) {
    if scrub::is_secret(attribute.key.as_str()) {
        attribute.value = scrub::BLANK.into();
        return;
    }
    match &mut attribute.value {
        Value::String(text) => blank(text),
        Value::Array(Array::String(texts)) => texts.iter_mut().for_each(blank),
        _ => {}
    }
}

fn blank(text: &mut StringValue) {
    *text = scrub::text(text.as_str()).into_owned().into();
}
