//! How a stream of answers looks over HTTP. It always ends in a frame that says so; a stream without one was cut off.
//!
//! * NDJSON: a line `{"result":…}` for each message; the last line is `{"done":true}` or `{"error":{…}}`.
//! * Server-sent events, where the client accepts nothing else or prefers them: `event: message`, and last `event: done` or `event: error`. A comment
//!   every 15 seconds of silence keeps proxies from closing the connection.

use super::{Broken, encode_into};
use crate::{answer::Answer, routes::Route};

/// One of the two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// One JSON object per line.
    NdJson,
    /// Server-sent events.
    Sse,
}

impl Framing {
    /// What the header `Accept` asks for: events where it names them before, or with more weight than, anything that NDJSON is.
    pub fn of(accept: Option<&str>) -> Self {
        let mut best = (0_u16, Self::NdJson);
        for range in accept.unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let framing = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
                "text/event-stream" => Self::Sse,
                "application/x-ndjson" | "application/json" | "application/*" | "*/*" => Self::NdJson,
                _ => continue,
            };
            let weight = parts
                .find_map(|part| part.strip_prefix("q="))
                .map_or(Some(1000), weight);
            if let Some(weight) = weight.filter(|weight| *weight > best.0) {
                best = (weight, framing);
            }
        }
        best.1
    }

    /// The header `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::NdJson => "application/x-ndjson",
            Self::Sse => "text/event-stream; charset=utf-8",
        }
    }

    /// One message of the stream.
    pub fn message(self, route: &Route, message: &[u8]) -> Result<Vec<u8>, Broken> {
        let (before, after) = match self {
            Self::NdJson => (&b"{\"result\":"[..], &b"}\n"[..]),
            Self::Sse => (&b"event: message\ndata: "[..], &b"\n\n"[..]),
        };
        let mut out = Vec::with_capacity(2 * message.len() + 64);
        out.extend_from_slice(before);
        encode_into(route, message, &mut out)?;
        out.extend_from_slice(after);
        Ok(out)
    }

    /// The last frame of a stream that ended well.
    pub fn done(self) -> Vec<u8> {
        match self {
            Self::NdJson => b"{\"done\":true}\n".to_vec(),
            Self::Sse => b"event: done\ndata: {\"done\":true}\n\n".to_vec(),
        }
    }

    /// The last frame of a stream that failed after its first message.
    pub fn error(self, answer: &Answer) -> Vec<u8> {
        match self {
            Self::NdJson => [answer.body.as_slice(), b"\n"].concat(),
            Self::Sse => [b"event: error\ndata: ", answer.body.as_slice(), b"\n\n"].concat(),
        }
    }

    /// What keeps a silent stream open; NDJSON has nothing of the kind.
    pub fn heartbeat(self) -> Option<&'static [u8]> {
        match self {
            Self::NdJson => None,
            Self::Sse => Some(b": still here\n\n"),
        }
    }
}

/// Thousandths of a weight such as `0.8`.
fn weight(text: &str) -> Option<u16> {
    let value: f32 = text.parse().ok()?;
    (0.0..=1.0).contains(&value).then_some((value * 1000.0) as u16)
}

#[cfg(test)]
mod tests {
    use super::Framing::{self, NdJson, Sse};

    #[test]
    fn the_client_chooses_the_framing() {
        for (accept, framing) in [
            (None, NdJson),
            (Some(""), NdJson),
            (Some("*/*"), NdJson),
            (Some("application/json"), NdJson),
            (Some("text/event-stream"), Sse),
            (Some("Text/Event-Stream, */*;q=0.5"), Sse),
            (Some("application/x-ndjson, text/event-stream"), NdJson),
            (Some("text/event-stream;q=0.5, application/x-ndjson"), NdJson),
            (Some("text/event-stream;q=0"), NdJson),
            (Some("text/event-stream;q=x"), NdJson),
            (Some("text/html"), NdJson),
        ] {
            assert_eq!(Framing::of(accept), framing, "{accept:?}");
        }
    }
}
