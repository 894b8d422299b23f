//! The request's number, and W3C trace context.
//!
//! The number is always ours. A client's `traceparent` is kept if it is well formed, so that its trace goes on through the mesh, but its
//! wish to be sampled is not: whoever is outside does not decide what we record. `baggage` ends here.
use http::{HeaderName, HeaderValue};
use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState},
};
use rand::Rng as _;

use crate::exchange::Exchange;

/// The answer names the request by it.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Numbers the request and puts it into a trace; `share` of the traces that clients began are recorded. Gives what our span is a part of.
pub(crate) fn number(exchange: &mut Exchange, share: f64) -> Context {
    let client = exchange.header("traceparent").and_then(parse);
    let record = rand::rng().random_bool(share.clamp(0.0, 1.0));
    let trace = client.map_or_else(|| TraceId::from(rand::random::<u128>() | 1), |(trace, _)| trace);
    exchange.traceparent = traceparent(trace, record);
    if let Ok(value) = HeaderValue::from_str(&exchange.request.to_string()) {
        exchange.answer.insert(X_REQUEST_ID, value);
    }
    let Some((trace, span)) = client else {
        return Context::new();
    };
    let flags = TraceFlags::default().with_sampled(record);
    let parent = SpanContext::new(trace, span, flags, true, TraceState::default());
    Context::new().with_remote_span_context(parent)
}

/// A well-formed `traceparent` (W3C Trace Context, §3.2).
fn parse(text: &str) -> Option<(TraceId, SpanId)> {
    let bytes = text.as_bytes();
    let lower_hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let fields = bytes.len() == 55 && bytes[2] == b'-' && bytes[35] == b'-' && bytes[52] == b'-';
    let (trace, span) = fields.then(|| (&bytes[3..35], &bytes[36..52]))?;
    if &bytes[..2] != b"00" || !lower_hex(trace) || !lower_hex(span) || !lower_hex(&bytes[53..]) {
        return None;
    }
    let trace = TraceId::from_hex(&text[3..35]).ok()?;
    let span = SpanId::from_hex(&text[36..52]).ok()?;
    (trace != TraceId::INVALID && span != SpanId::INVALID).then_some((trace, span))
}

/// A span of ours in `trace`: what services see where this process keeps no traces itself.
fn traceparent(trace: TraceId, record: bool) -> HeaderValue {
    let span = SpanId::from(rand::random::<u64>() | 1);
    let text = format!("00-{trace}-{span}-{:02x}", u8::from(record));
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::{parse, traceparent};

    #[test]
    fn a_wellformed_trace_goes_on_and_is_not_recorded_for_its_client() {
        let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let (trace, _) = parse(given).expect("a trace");
        let ours = traceparent(trace, false);
        let ours = ours.to_str().expect("text");
        assert!(ours.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && ours.ends_with("-00"));
        assert!(!ours.contains("00f067aa0ba902b7"));
        assert_eq!(parse(ours).map(|(trace, _)| trace), Some(trace));
    }

    #[test]
    fn anything_else_begins_a_new_trace() {
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
