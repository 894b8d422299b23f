//! A request's body that can be sent more than once, if it is one short message.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt as _, Full};
use tonic::{Status, body::Body};

/// Longer ones are sent once.
const LONGEST: usize = 1 << 20;

pub(super) enum Replay {
    /// The whole, as often as needed.
    Whole(Bytes),
    /// A stream or a long message: once.
    Once(Option<Body>),
}

impl Replay {
    /// Reads `body` as far as it is short. A stream is not touched: its messages may depend on the answer.
    pub(super) async fn of(mut body: Body, streaming: bool) -> Result<Self, Status> {
        if streaming {
            return Ok(Self::Once(Some(body)));
        }
        let mut read = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            read.extend_from_slice(&data);
            if read.len() > LONGEST {
                let head = Some(read.freeze());
                return Ok(Self::Once(Some(Body::new(Rest { head, tail: body }))));
            }
        }
        Ok(Self::Whole(read.freeze()))
    }

    /// For one attempt; none if it was sent before and cannot be again.
    pub(super) fn next(&mut self) -> Option<Body> {
        match self {
            Self::Whole(bytes) => Some(Body::new(Full::new(bytes.clone()))),
            Self::Once(body) => body.take(),
        }
    }

    pub(super) fn replayable(&self) -> bool {
        matches!(self, Self::Whole(_))
    }

    /// It was not sent after all.
    pub(super) fn give_back(&mut self, unsent: Body) {
        if let Self::Once(body) = self {
            *body = Some(unsent);
        }
    }
}

/// What was read already, and then the rest.
struct Rest {
    head: Option<Bytes>,
    tail: Body,
}

impl http_body::Body for Rest {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(head) = self.head.take() {
            return Poll::Ready(Some(Ok(Frame::data(head))));
        }
        Pin::new(&mut self.tail).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.head.is_none() && self.tail.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::{BodyExt as _, Full};
    use tonic::body::Body;

    use super::{LONGEST, Replay};

    fn body(length: usize) -> Body {
        Body::new(Full::new(Bytes::from(vec![7; length])))
    }

    #[tokio::test]
    async fn short_messages_are_sent_as_often_as_needed_and_long_ones_once() {
        for (length, streaming, again) in [
            (10, false, true),
            (LONGEST, false, true),
            (LONGEST + 1, false, false),
            (10, true, false),
        ] {
            let mut replay = Replay::of(body(length), streaming).await.unwrap();
            assert_eq!(replay.replayable(), again);
            let sent = replay.next().unwrap().collect().await.unwrap().to_bytes();
            assert_eq!(sent.len(), length);
            assert_eq!(replay.next().is_some(), again);
        }
    }
}
