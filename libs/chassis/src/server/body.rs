//! The answer's body, in which a stream's handler goes on working: what holds for the handler holds for it too.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use tokio::{sync::OwnedSemaphorePermit, time::Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, body::Body};
use tracing::Span;
use types::{Fault, RequestId};

use super::{Refusal, measure::Measure};
use crate::{deadline, status};

/// What goes on holding.
pub(super) struct Guard {
    pub(super) deadline: Instant,
    pub(super) number: RequestId,
    pub(super) span: Span,
    /// Ends the body early.
    pub(super) until: Option<CancellationToken>,
}

/// A body that ends at the deadline, whose panics are caught, and that gives its place among the calls in flight back when it is over.
pub(super) struct Guarded {
    inner: Body,
    guard: Guard,
    over: Pin<Box<Sleep>>,
    until: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    measure: Option<Measure>,
    place: Option<OwnedSemaphorePermit>,
}

impl Guarded {
    pub(super) fn new(
        inner: Body,
        mut guard: Guard,
        measure: Measure,
        place: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let until = guard.until.take().map(|token| Box::pin(token.cancelled_owned()));
        Self {
            inner,
            over: Box::pin(tokio::time::sleep_until(guard.deadline.into())),
            guard,
            until,
            measure: Some(measure),
            place,
        }
    }

    /// Polls the handler's body as a part of its call.
    fn work(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let inner = Pin::new(&mut self.inner);
        let poll = AssertUnwindSafe(|| {
            deadline::sync_within_request(self.guard.deadline, self.guard.number, || inner.poll_frame(cx))
        });
        match catch_unwind(poll) {
            Ok(polled) => polled,
            Err(_) => Poll::Ready(Some(Ok(self.end(&Refusal::Panic)))),
        }
    }

    /// The last frame, which says why.
    fn end(&mut self, why: &dyn Fault) -> Frame<Bytes> {
        self.inner = Body::empty();
        let mut trailers = HeaderMap::new();
        // Our own words and details are always fit for headers.
        let _ = status(why).add_header(&mut trailers);
        Frame::trailers(trailers)
    }

    fn ended(&mut self) {
        self.measure = None;
        self.place = None;
    }
}

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let span = this.guard.span.clone();
        let _in = span.enter();
        let mut polled = this.work(cx);
        if polled.is_pending() {
            let stopped = this
                .until
                .as_mut()
                .is_some_and(|until| until.as_mut().poll(cx).is_ready());
            if stopped {
                polled = Poll::Ready(Some(Ok(this.end(&Refusal::Stopping))));
            } else if this.over.as_mut().poll(cx).is_ready() {
                polled = Poll::Ready(Some(Ok(this.end(&Refusal::Deadline))));
            }
        }
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(trailers), Some(measure)) = (frame.trailers_ref(), &mut this.measure) {
                    measure.headers(trailers);
                }
            }
            Poll::Ready(Some(Err(error))) => {
                if let Some(measure) = &mut this.measure {
                    measure.code(error.code());
                }
            }
            Poll::Ready(None) => this.ended(),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
