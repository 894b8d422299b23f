//! An answer's body: it ends at the deadline, and until it ends its endpoint counts as busy.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;
use tonic::{Code, Status};

use super::Unanswered;
use crate::status;

/// One call in work at an endpoint.
pub(super) struct Busy(Arc<AtomicUsize>);

impl Busy {
    pub(super) fn new(calls: &Arc<AtomicUsize>) -> Self {
        calls.fetch_add(1, Ordering::Relaxed);
        Self(calls.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) struct Answer {
    inner: Incoming,
    over: Pin<Box<Sleep>>,
    peer: String,
    _busy: Busy,
}

impl Answer {
    pub(super) fn new(inner: Incoming, deadline: Instant, peer: String, busy: Busy) -> Self {
        Self {
            inner,
            over: Box::pin(tokio::time::sleep_until(deadline.into())),
            peer,
            _busy: busy,
        }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(broken(error, &self.peer)))),
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(frame))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending if self.over.as_mut().poll(cx).is_ready() => {
                Poll::Ready(Some(Err(status(&Unanswered::Deadline))))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// What a broken stream means: what HTTP/2's reason says (gRPC over HTTP/2, "Errors"), or UNAVAILABLE.
fn broken(error: hyper::Error, peer: &str) -> Status {
    let read = Status::from_error(Box::new(error));
    if read.code() == Code::Unknown {
        return status(&Unanswered::Broken(peer.to_owned()));
    }
    read
}
