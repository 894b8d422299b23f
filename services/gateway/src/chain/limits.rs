//! Limits on head, body and time.
use std::{
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Version, header, uri::Authority};
use http_body::Frame;
use tonic::body::Body;

use crate::{
    error::{Cause, Layer, Refusal},
    exchange::Exchange,
};

/// Names and values together, 32 bytes more for each (as HTTP/2 counts).
const HEADER_BYTES: usize = 16 * 1024;
/// How many.
const HEADERS: usize = 100;
/// Path and query.
const URI_BYTES: usize = 8 * 1024;
/// A JSON body, or a message that takes a second factor.
pub(crate) const BODY_BYTES: u64 = 1024 * 1024;
/// 1 KiB per second, after five seconds to begin.
const PACE: Pace = Pace::Average {
    grace: Duration::from_secs(5),
    bytes_per_sec: 1024,
};
/// What lasts as long as bytes come may not live on those that came fast before.
const STREAM_PACE: Pace = Pace::Wait(Duration::from_secs(30));

/// Nobody waits longer.
const LONGEST: Duration = Duration::from_secs(60);
/// Except for a stream, which ends then and is begun anew by its reader.
const LONGEST_STREAM: Duration = Duration::from_secs(600);

/// Headers of which a second one could mean something else to somebody else.
const SINGLE: [&str; 10] = [
    "authorization",
    "content-length",
    "content-type",
    "cookie",
    "grpc-timeout",
    "host",
    "stripe-signature",
    "traceparent",
    "x-mfa-code",
    "x-trailmesh-tenant",
];

/// Refuses a head that is too large, ambiguous or unreadable.
pub(crate) fn check(exchange: &Exchange) -> Result<(), Refusal> {
    let refuse = |cause| Err(Refusal::new(Layer::Limits, cause));
    let headers = &exchange.headers;
    if exchange
        .uri
        .path_and_query()
        .is_some_and(|path| path.as_str().len() > URI_BYTES)
    {
        return refuse(Cause::UriTooLong);
    }
    let bytes: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 32)
        .sum();
    if bytes > HEADER_BYTES || headers.len() > HEADERS {
        return refuse(Cause::HeadersTooLarge);
    }
    for name in SINGLE {
        // HTTP/2 lets clients split cookies.
        let split = name == "cookie" && exchange.version == Version::HTTP_2;
        if !split && headers.get_all(name).iter().nth(1).is_some() {
            return refuse(Cause::HeaderRepeated(name));
        }
    }
    let host = headers.get(header::HOST);
    let authority = exchange.uri.authority();
    let differ = |host: &HeaderValue, authority: &Authority| {
        !host
            .as_bytes()
            .eq_ignore_ascii_case(authority.as_str().as_bytes())
    };
    let two = host
        .zip(authority)
        .is_some_and(|(host, authority)| differ(host, authority));
    if two || exchange.version == Version::HTTP_11 && host.is_none() {
        return refuse(Cause::HeaderInvalid("host"));
    }
    timeout(headers).map_err(|cause| Refusal::new(Layer::Limits, cause))?;
    Ok(())
}

/// What the client asks for in `grpc-timeout`, over gRPC and over plain HTTP.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Cause> {
    let Some(value) = headers.get("grpc-timeout") else {
        return Ok(None);
    };
    let parsed = value.to_str().ok().and_then(chassis::deadline::parse_timeout);
    parsed.map(Some).ok_or(Cause::HeaderInvalid("grpc-timeout"))
}

/// When the client stops waiting: what it asked for, else `usual`, and never later than the limit.
pub(crate) fn deadline(exchange: &Exchange, usual: Duration, stream: bool) -> Instant {
    let longest = if stream { LONGEST_STREAM } else { LONGEST };
    let asked = timeout(&exchange.headers).ok().flatten();
    let usual = if stream { usual.max(LONGEST_STREAM) } else { usual };
    exchange.began + asked.unwrap_or(usual).min(longest)
}

/// How fast a body must come.
#[derive(Clone, Copy, Debug)]
enum Pace {
    /// On average since it began.
    Average { grace: Duration, bytes_per_sec: u64 },
    /// Nobody waits longer for the next bytes. Time in which nobody asks for them does not count.
    Wait(Duration),
}

/// A body that ends in an error when it is too large or too slow.
pub(crate) struct Limited {
    body: Body,
    limit: u64,
    pace: Pace,
    read: u64,
    began: Instant,
    clock: Pin<Box<tokio::time::Sleep>>,
    /// Somebody waits for bytes, and the clock runs.
    waits: bool,
}

impl Limited {
    /// At most `limit` bytes, which are read as a whole.
    pub(crate) fn new(body: Body, limit: u64) -> Self {
        Self::paced(body, limit, PACE)
    }

    /// The same for one that goes through as it comes, for as long as it comes.
    pub(crate) fn stream(body: Body, limit: u64) -> Self {
        Self::paced(body, limit, STREAM_PACE)
    }

    fn paced(body: Body, limit: u64, pace: Pace) -> Self {
        Self {
            body,
            limit,
            pace,
            read: 0,
            began: Instant::now(),
            clock: Box::pin(tokio::time::sleep(Duration::ZERO)),
            waits: false,
        }
    }

    /// When more must have come.
    fn due(&self) -> Instant {
        match self.pace {
            Pace::Average { grace, bytes_per_sec } => {
                self.began + grace + Duration::from_millis(self.read * 1000 / bytes_per_sec)
            }
            Pace::Wait(longest) => Instant::now() + longest,
        }
    }
}

impl http_body::Body for Limited {
    type Data = Bytes;
    type Error = Cause;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cause>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.read += frame.data_ref().map_or(0, |data| data.len() as u64);
                if self.read > self.limit {
                    return Poll::Ready(Some(Err(Cause::BodyTooLarge(self.limit))));
                }
                self.waits = false;
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => Poll::Ready(Some(Err(Cause::BodyBroken))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                if !self.waits {
                    self.waits = true;
                    let due = self.due();
                    self.clock.as_mut().reset(due.into());
                }
                std::task::ready!(self.clock.as_mut().poll(cx));
                Poll::Ready(Some(Err(Cause::BodyTooSlow)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// Refuses a body that says itself that it is too large, before a byte of it is read.
pub(crate) fn announced(headers: &HeaderMap, limit: u64) -> Result<(), Refusal> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > limit) {
        return Err(Refusal::new(Layer::Limits, Cause::BodyTooLarge(limit)));
    }
    Ok(())
}

/// All of `body`, which has at most `limit` bytes.
pub(crate) async fn collect(headers: &HeaderMap, body: Body, limit: u64) -> Result<Bytes, Refusal> {
    use http_body_util::BodyExt as _;

    announced(headers, limit)?;
    let collected = Limited::new(body, limit).collect().await;
    collected
        .map(|body| body.to_bytes())
        .map_err(|cause| Refusal::new(Layer::Limits, cause))
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use bytes::Bytes;
    use futures_util::{StreamExt as _, stream};
    use http::{HeaderMap, Request};
    use http_body::Frame;
    use http_body_util::{BodyExt as _, StreamBody};
    use tonic::{Status, body::Body};
    use types::Fault as _;

    use super::{Limited, Pace, check, collect, deadline};
    use crate::exchange::Exchange;

    fn exchange(path: &str, headers: &[(&str, &str)]) -> Exchange {
        let mut request = Request::builder().uri(path).header("host", "api.example.com");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        Exchange::new(parts, Ipv4Addr::LOCALHOST.into())
    }

    fn reason(exchange: &Exchange) -> Option<&'static str> {
        check(exchange).err().map(|refusal| refusal.cause.reason())
    }

    #[test]
    fn heads_that_are_large_or_ambiguous_are_refused() {
        let long = "x".repeat(9_000);
        let longer = "x".repeat(17_000);
        let many: Vec<(String, String)> = (0..100)
            .map(|number| (format!("h{number}"), String::new()))
            .collect();
        let many: Vec<(&str, &str)> = many
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(reason(&exchange("/", &[])), None);
        assert_eq!(reason(&exchange(&format!("/{long}"), &[])), Some("URI_TOO_LONG"));
        assert_eq!(
            reason(&exchange("/", &[("a", &longer)])),
            Some("HEADERS_TOO_LARGE")
        );
        assert_eq!(reason(&exchange("/", &many)), Some("HEADERS_TOO_LARGE"));
        for name in super::SINGLE {
            let value = if name == "grpc-timeout" { "1S" } else { "1" };
            let twice = exchange("/", &[(name, value), (name, value)]);
            assert_eq!(reason(&twice), Some("HEADER_REPEATED"), "{name}");
        }
        let whole = "https://api.example.com/";
        assert_eq!(reason(&exchange(whole, &[])), None);
        assert_eq!(
            reason(&exchange("https://evil.test/", &[])),
            Some("HEADER_INVALID")
        );
    }

    #[test]
    fn the_client_chooses_its_deadline_up_to_the_limit() {
        let usual = Duration::from_secs(15);
        for (asked, stream, granted) in [
            (None, false, 15_000),
            (None, true, 600_000),
            (Some("250m"), false, 250),
            (Some("2H"), false, 60_000),
            (Some("2H"), true, 600_000),
            (Some("3S"), true, 3_000),
        ] {
            let headers: Vec<_> = asked.map(|asked| ("grpc-timeout", asked)).into_iter().collect();
            let asked = exchange("/", &headers);
            assert_eq!(
                deadline(&asked, usual, stream) - asked.began,
                Duration::from_millis(granted)
            );
        }
        for bad in ["5", "S", "123456789S", "-1S", "1x", "1 S"] {
            assert_eq!(
                reason(&exchange("/", &[("grpc-timeout", bad)])),
                Some("HEADER_INVALID"),
                "{bad}"
            );
        }
    }

    fn chunks(count: u64, pause: Duration) -> Body {
        let frames = stream::iter(0..count).then(move |_| async move {
            tokio::time::sleep(pause).await;
            Ok::<_, Status>(Frame::data(Bytes::from_static(&[b'x'; 1024])))
        });
        Body::new(StreamBody::new(Box::pin(frames)))
    }

    #[tokio::test]
    async fn bodies_are_bounded_in_size_and_time() {
        let pace = Pace::Average {
            grace: Duration::from_millis(200),
            bytes_per_sec: 20 * 1024,
        };
        let collected = |count, millis, limit| async move {
            let body = Limited::paced(chunks(count, Duration::from_millis(millis)), limit, pace);
            let collected = body.collect().await;
            collected
                .map(|body| body.to_bytes().len())
                .map_err(|cause| cause.reason())
        };
        assert_eq!(collected(20, 10, 1 << 20).await, Ok(20 * 1024));
        assert_eq!(collected(20, 0, 5_000).await, Err("BODY_TOO_LARGE"));
        assert_eq!(collected(1_000, 100, 1 << 20).await, Err("BODY_TOO_SLOW"));
        assert_eq!(collected(1, 3_600_000, 1 << 20).await, Err("BODY_TOO_SLOW"));
        let mut headers = HeaderMap::new();
        headers.insert("content-length", "2000000".parse().expect("a value"));
        let refused = collect(&headers, chunks(1, Duration::ZERO), 1 << 20).await;
        assert_eq!(refused.expect_err("too large").cause.reason(), "BODY_TOO_LARGE");
    }

    #[tokio::test]
    async fn a_stream_may_last_while_bytes_come_and_nobody_else_is_slow() {
        let (wait, pause) = (Duration::from_secs(1), Duration::from_millis(50));
        let limited = |body| Limited::paced(body, 1 << 20, Pace::Wait(wait));
        // Longer than one wait.
        let body = limited(chunks(30, pause)).collect().await.expect("it comes");
        assert_eq!(body.to_bytes().len(), 30 * 1024);
        // What came fast before buys no time.
        let fast = stream::iter(0..500).map(|_| Ok(Frame::data(Bytes::from_static(&[b'x'; 1024]))));
        let never = stream::pending::<Result<Frame<Bytes>, Status>>();
        let body = Body::new(StreamBody::new(Box::pin(fast.chain(never))));
        let refused = tokio::time::timeout(Duration::from_secs(20), limited(body).collect()).await;
        let refused = refused.expect("an end").expect_err("too slow");
        assert_eq!(refused.reason(), "BODY_TOO_SLOW");
        // Who does not ask for bytes is the slow one.
        let mut body = limited(chunks(3, pause));
        while let Some(frame) = body.frame().await {
            assert!(frame.is_ok());
            tokio::time::sleep(wait + pause).await;
        }
    }
}
