//! What is counted of each call.

use std::{sync::Arc, time::Instant};

use http::HeaderMap;
use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, Meter, UpDownCounter},
};
use tonic::Code;
use tracing::Span;

use super::Call;

/// The instruments of a server.
pub(super) struct Instruments {
    duration: Histogram<f64>,
    in_flight: UpDownCounter<i64>,
    refusals: Counter<u64>,
}

impl Instruments {
    pub(super) fn new(meter: &Meter) -> Self {
        Self {
            duration: meter
                .f64_histogram("rpc.server.call.duration")
                .with_unit("s")
                .with_description("How long calls took, by method, caller and status code")
                .build(),
            in_flight: meter
                .i64_up_down_counter("trailmesh.server.in_flight")
                .with_description("Calls in work")
                .build(),
            refusals: meter
                .u64_counter("trailmesh.server.refusals")
                .with_description("Calls that a layer refused before or instead of their handler, by reason")
                .build(),
        }
    }

    pub(super) fn refused(&self, reason: &'static str) {
        self.refusals.add(1, &[KeyValue::new("reason", reason)]);
    }
}

/// Measures one call from its head to the end of its answer, also when that end is that the caller went away.
pub(super) struct Measure {
    instruments: Arc<Instruments>,
    method: String,
    caller: String,
    started: Instant,
    code: Option<Code>,
    /// Whether a rule says what the method is.
    ruled: bool,
    span: Span,
}

impl Measure {
    pub(super) fn start(instruments: Arc<Instruments>, call: &Call) -> Self {
        instruments.in_flight.add(1, &[]);
        // Only known methods: a stranger must not be able to make new time series.
        let method = call
            .rule
            .as_ref()
            .map_or("unknown", |rule| rule.path.trim_start_matches('/'));
        Self {
            instruments,
            method: method.to_owned(),
            caller: call.peer.label().to_owned(),
            started: Instant::now(),
            code: None,
            ruled: call.rule.is_some(),
            span: call.span.clone(),
        }
    }

    /// Takes the code from headers or trailers that have one.
    pub(super) fn headers(&mut self, headers: &HeaderMap) {
        if let Some(code) = headers.get("grpc-status") {
            self.code = Some(Code::from_bytes(code.as_bytes()));
        }
    }

    /// The call ended with `code`.
    pub(super) fn code(&mut self, code: Code) {
        self.code = Some(code);
    }
}

impl Drop for Measure {
    fn drop(&mut self) {
        let code = word(self.code.unwrap_or(Code::Cancelled));
        let elapsed = self.started.elapsed().as_secs_f64();
        self.instruments.in_flight.add(-1, &[]);
        self.instruments.duration.record(
            elapsed,
            &[
                KeyValue::new("rpc.system.name", "grpc"),
                KeyValue::new("rpc.method", std::mem::take(&mut self.method)),
                KeyValue::new("caller", std::mem::take(&mut self.caller)),
                KeyValue::new("rpc.response.status_code", code),
            ],
        );
        self.span.record("code", code);
        let duration_ms = elapsed * 1_000.0;
        // One line for each call that somebody meant; probes come every few seconds.
        self.span.in_scope(|| {
            if self.ruled {
                tracing::info!(code, duration_ms, "answered");
            } else {
                tracing::debug!(code, duration_ms, "answered");
            }
        });
    }
}

/// A code as gRPC's documentation writes it.
fn word(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
