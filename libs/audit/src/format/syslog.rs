//! A line in a message of syslog (RFC 5424), and the frame in which it goes over TLS (RFC 5425 section 4.3: its length first).

use super::{
    Source,
    fields::{Fields, timestamp},
    text,
};
use crate::{Event, Outcome};

/// "log audit".
const FACILITY: u8 = 13;

/// The structured data's name. 32473 is the number that RFC 5612 sets aside for those who have none of their own.
const ELEMENT: &str = "audit@32473";

/// The line as a message: the header, structured data that tells entries apart, the line. No end of line follows.
///
/// The values of the structured data are words that need no escape: readers in the field take `\\"` for a quote within the value, though
/// RFC 5424 section 6.3.3 does not. Ids are such words; what is no id has other characters as `_` here, and whole in the line.
///
/// `line` is of [`super::line`] for the same entry.
pub fn message(source: &Source, sequence: i64, event: &Event, line: &str) -> String {
    let fields = Fields::of(source, sequence, event, 128);
    let severity = match (fields.outcome, fields.severity()) {
        (Outcome::Succeeded, _) => 6,
        (_, 2) => 5,
        _ => 4,
    };
    let outcome = match fields.outcome {
        Outcome::Succeeded => "success",
        Outcome::Failed => "failure",
        Outcome::Unknown => "unknown",
    };
    format!(
        "<{}>1 {} trailmesh-{} trailmesh - {} [{ELEMENT} id=\"{}\" sequence=\"{}\" tenant=\"{}\" outcome=\"{outcome}\"] {line}",
        FACILITY * 8 + severity,
        timestamp(fields.begun),
        if fields.region.is_empty() {
            "none"
        } else {
            &fields.region
        },
        text::word(&fields.method.name, 32),
        text::word(&event.id, 64),
        fields.sequence,
        text::word(&source.tenant, 64),
    )
}

/// The message with its length, as it goes over the wire.
pub fn frame(message: &str) -> Vec<u8> {
    format!("{} {message}", message.len()).into_bytes()
}
