//! A stream of messages as a body of NDJSON, of server-sent events, or of raw bytes.
use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::HeaderMap;
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout_at};
use tonic::{Status, body::Body};
use types::RequestId;

use crate::{
    answer,
    chain::{
        answer::{DIGEST, digest, status},
        authenticate::Watch,
    },
    error::{Cause, Refusal},
    frame::{Messages, broken},
    json::{raw, stream::Framing},
    routes::Route,
};

/// Between signs of life while there is nothing to say, for [`Source::heartbeat`].
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(15);

/// What the body is made from.
pub(crate) struct Source {
    /// The method.
    pub(crate) route: Arc<Route>,
    /// How it is written; none: the raw bytes in each message.
    pub(crate) framing: Option<Framing>,
    /// Which request.
    pub(crate) request: RequestId,
    /// Between signs of life.
    pub(crate) heartbeat: Duration,
    /// When it ends, however much there would be.
    pub(crate) deadline: std::time::Instant,
    /// Ends the stream when its reader may no longer read.
    pub(crate) watching: Option<Watch>,
    /// The first message, already read: before it an error had been a status of its own. None: there is no message.
    pub(crate) first: Option<Bytes>,
    /// The others.
    pub(crate) messages: Messages,
}

struct Pump {
    source: Source,
    heartbeat: Interval,
    ended: bool,
    trailers: Option<HeaderMap>,
}

/// The body. Its last frame says that it is complete, or what went wrong; raw bytes have no place for that, so they end in an error, which
/// the connection shows: a reset of the stream, or no last chunk.
pub(crate) fn body(source: Source) -> Body {
    let mut heartbeat = interval_at(Instant::now() + source.heartbeat, source.heartbeat);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let pump = Pump {
        ended: false,
        heartbeat,
        trailers: None,
        source,
    };
    let frames = stream::unfold(pump, |mut pump| async {
        let frame = match pump.next().await {
            Some(bytes) => bytes.map(Frame::data),
            None => Ok(Frame::trailers(pump.trailers.take()?)),
        };
        Some((frame, pump))
    });
    Body::new(StreamBody::new(Box::pin(frames)))
}

async fn watched(watching: &mut Option<Watch>) -> Refusal {
    match watching {
        Some(watching) => watching.await,
        None => std::future::pending().await,
    }
}

impl Pump {
    async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        if self.ended {
            return None;
        }
        let beat = self.source.framing.and_then(Framing::heartbeat);
        let next = match self.source.first.take() {
            Some(first) => Ok(Some(first)),
            None => {
                let deadline = self.source.deadline.into();
                let until = timeout_at(deadline, self.source.messages.next());
                tokio::select! {
                    biased;
                    refusal = watched(&mut self.source.watching) => {
                        self.source.watching = None;
                        Err(status(&refusal.cause).into_owned())
                    }
                    next = until => next.unwrap_or_else(|_| Err(chassis::status(&Cause::DeadlineExceeded))),
                    _ = self.heartbeat.tick(), if beat.is_some() => {
                        return beat.map(|beat| Ok(Bytes::from_static(beat)));
                    }
                }
            }
        };
        let written = match next {
            Ok(Some(message)) => {
                self.heartbeat.reset();
                self.written(&message)
            }
            Ok(None) => {
                self.ended = true;
                let digest = self.source.messages.trailers().and_then(digest);
                self.trailers = digest.map(|digest| HeaderMap::from_iter([(DIGEST, digest)]));
                return self.source.framing.map(|framing| Ok(framing.done().into()));
            }
            Err(status) => Err(status),
        };
        Some(written.or_else(|status| {
            self.ended = true;
            let Some(framing) = self.source.framing else {
                return Err(status);
            };
            Ok(framing
                .error(&answer::error(&status, &self.source.request))
                .into())
        }))
    }

    fn written(&self, message: &Bytes) -> Result<Bytes, Status> {
        let route = &self.source.route;
        let written = match self.source.framing {
            Some(framing) => framing.message(route, message).map(Bytes::from),
            None => raw::piece(route, message).map(|piece| piece.data),
        };
        written.map_err(|error| {
            tracing::error!(request = %self.source.request, error = types::chain(&error), "a message cannot be written");
            broken("a message cannot be written")
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        time::{Duration, Instant},
    };

    use chassis::policy::Table;
    use futures_util::stream;
    use http::HeaderMap;
    use http_body::Frame;
    use http_body_util::{BodyExt as _, StreamBody};
    use tonic::{Status, body::Body};
    use types::RequestId;

    use super::{Source, body};
    use crate::{frame::Messages, json::stream::Framing, routes::Routes};

    /// What a reader gets of a service that says nothing, until the deadline.
    async fn silence(framing: Framing) -> String {
        let table = Table::load(proto::DESCRIPTOR_SET).expect("rules");
        let routes = Routes::load(Arc::new(table)).expect("routes");
        let nothing = stream::pending::<Result<Frame<bytes::Bytes>, Status>>();
        let source = Source {
            route: Arc::clone(routes.methods().next().expect("a route")),
            framing: Some(framing),
            request: RequestId::fresh(),
            heartbeat: Duration::from_millis(50),
            deadline: Instant::now() + Duration::from_millis(420),
            watching: None,
            first: None,
            messages: Messages::new(&HeaderMap::new(), Body::new(StreamBody::new(nothing)), 100),
        };
        let collected = body(source).collect().await.expect("an end");
        String::from_utf8(collected.to_bytes().to_vec()).expect("text")
    }

    #[tokio::test]
    async fn events_have_a_heartbeat_while_nothing_happens_and_lines_have_none() {
        let events = silence(Framing::Sse).await;
        let heartbeat = Framing::Sse.heartbeat().expect("a heartbeat");
        let beats = events.matches(str::from_utf8(heartbeat).expect("text")).count();
        assert!((3..=8).contains(&beats), "{beats}: {events}");
        assert!(
            events.contains("event: error") && events.contains("DEADLINE_EXCEEDED"),
            "{events}"
        );
        let lines = silence(Framing::NdJson).await;
        assert_eq!(lines.lines().count(), 1, "{lines}");
        assert!(lines.contains("DEADLINE_EXCEEDED"));
    }
}
