//! What the gateway counts.
use std::{sync::Arc, time::Instant};

use http::StatusCode;
use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, Meter, UpDownCounter},
};

use crate::{
    error::Refusal,
    exchange::Protocol,
    load::Load,
    rate::{Decision, Source},
};

/// The gateway's instruments.
#[derive(Debug)]
pub(crate) struct Metrics {
    requests: Counter<u64>,
    duration: Histogram<f64>,
    refusals: Counter<u64>,
    rate: Counter<u64>,
    connections: UpDownCounter<i64>,
    closed: Counter<u64>,
    cut: Counter<u64>,
}

impl Metrics {
    /// Makes them.
    pub(crate) fn new(meter: &Meter, load: Arc<Load>) -> Self {
        // Observed for as long as the meter lives.
        let _in_flight = meter
            .u64_observable_gauge("gateway_in_flight")
            .with_description("Requests whose answer is not complete")
            .with_callback(move |observer| observer.observe(load.in_flight() as u64, &[]))
            .build();
        Self {
            requests: meter
                .u64_counter("gateway_requests")
                .with_description("Requests by protocol, method and HTTP status")
                .build(),
            duration: meter
                .f64_histogram("gateway_request_duration")
                .with_unit("s")
                .with_description("From a request's head to its answer's head")
                .build(),
            refusals: meter
                .u64_counter("gateway_refusals")
                .with_description("Requests that went no further, by layer and reason")
                .build(),
            rate: meter
                .u64_counter("gateway_rate_decisions")
                .with_description("Decisions of the rate limiter, by who decided and how")
                .build(),
            connections: meter
                .i64_up_down_counter("gateway_connections")
                .with_description("Open client connections")
                .build(),
            closed: meter
                .u64_counter("gateway_connections_refused")
                .with_description("Connections closed before their first request, by reason")
                .build(),
            cut: meter
                .u64_counter("gateway_connections_cut")
                .with_description("Connections ended because answers stayed unread, by reason")
                .build(),
        }
    }

    /// A request has its answer's head. `method` is a path of ours and never one of the client's making.
    pub(crate) fn request(&self, protocol: Protocol, method: &str, status: StatusCode, began: Instant) {
        let protocol = KeyValue::new("protocol", protocol.word());
        let method = KeyValue::new("method", method.to_owned());
        self.duration
            .record(began.elapsed().as_secs_f64(), &[protocol.clone(), method.clone()]);
        let status = KeyValue::new("status", i64::from(status.as_u16()));
        self.requests.add(1, &[protocol, method, status]);
    }

    /// A request went no further.
    pub(crate) fn refusal(&self, refusal: &Refusal) {
        let layer = KeyValue::new("layer", refusal.layer.word());
        self.refusals
            .add(1, &[layer, KeyValue::new("reason", refusal.reason())]);
    }

    /// The limiter decided.
    pub(crate) fn rate(&self, decision: &Decision) {
        let source = match decision.source {
            Source::Redis => "redis",
            Source::Local => "local",
            Source::Memory => "memory",
        };
        let admitted = KeyValue::new("admitted", decision.admitted);
        self.rate.add(1, &[KeyValue::new("source", source), admitted]);
    }

    /// A connection was opened (1) or closed (-1).
    pub(crate) fn connection(&self, change: i64) {
        self.connections.add(change, &[]);
    }

    /// A connection was cut off for what its client does not read.
    pub(crate) fn connection_cut(&self, reason: &'static str) {
        self.cut.add(1, &[KeyValue::new("reason", reason)]);
    }

    /// A connection was closed before its first request.
    pub(crate) fn connection_refused(&self, reason: &'static str) {
        self.closed.add(1, &[KeyValue::new("reason", reason)]);
    }
}
