//! What the door counts.
use opentelemetry::{
    KeyValue,
    metrics::{Counter, Meter, UpDownCounter},
};

use super::{preface::To, splice::Moved};

/// The door's instruments.
#[derive(Debug)]
pub(super) struct Metrics {
    open: UpDownCounter<i64>,
    refused: Counter<u64>,
    ended: Counter<u64>,
    bytes: Counter<u64>,
}

impl Metrics {
    /// Makes them.
    pub(super) fn new(meter: &Meter) -> Self {
        Self {
            open: meter
                .i64_up_down_counter("gateway_agent_connections")
                .with_description("Open connections of agents, by where they lead to")
                .build(),
            refused: meter
                .u64_counter("gateway_agent_connections_refused")
                .with_description("Connections of agents that lead nowhere, by reason")
                .build(),
            ended: meter
                .u64_counter("gateway_agent_connections_ended")
                .with_description("Connections of agents that came to an end, by reason")
                .build(),
            bytes: meter
                .u64_counter("gateway_agent_bytes")
                .with_description("What passed between agents and services, by direction")
                .build(),
        }
    }

    /// One more (1) or one less (-1).
    pub(super) fn open(&self, to: To, change: i64) {
        self.open.add(change, &[KeyValue::new("to", to.word())]);
    }

    /// One that leads nowhere.
    pub(super) fn refused(&self, reason: &'static str) {
        self.refused.add(1, &[KeyValue::new("reason", reason)]);
    }

    /// One that is over.
    pub(super) fn ended(&self, reason: &'static str) {
        self.ended.add(1, &[KeyValue::new("reason", reason)]);
    }

    /// So many more bytes.
    pub(super) fn moved(&self, moved: Moved) {
        for (direction, bytes) in [("in", moved.inwards), ("out", moved.outwards)] {
            if bytes > 0 {
                self.bytes.add(bytes, &[KeyValue::new("direction", direction)]);
            }
        }
    }
}
