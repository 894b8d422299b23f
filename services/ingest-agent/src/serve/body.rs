//! A request's message, and an answer as the body of a response: gRPC over HTTP/2, without tonic's buffers between.
//!
//! A message goes to the connection as the bytes that it is and is not copied, so that what it takes of the budget it takes until it is written.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use answer::Messages;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use http_body::Frame;
use tonic::{Status, body::Body};

use super::error::Error;

/// Before each message: whether it is compressed, and its length (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX: usize = 5;

/// The one message of a request's body.
pub(super) fn message(body: &Bytes) -> Result<Bytes, Error> {
    let broken = || answer::Error::filter("", "it is not one message without compression");
    let (prefix, message) = body.split_at_checked(PREFIX).ok_or_else(broken)?;
    let whole = prefix[0] == 0
        && u32::try_from(message.len()).is_ok_and(|length| prefix[1..] == length.to_be_bytes());
    if !whole {
        return Err(broken().into());
    }
    Ok(body.slice(PREFIX..))
}

/// A response of these messages. What fails as a whole is told as a whole if `at_once` waits for the first one.
pub(super) async fn response(mut messages: Messages, at_once: bool) -> http::Response<Body> {
    if !at_once {
        let first = match messages.next().await {
            Some(Err(error)) => return Error::from(error).status().into_http(),
            first => first,
        };
        messages = Box::pin(stream::iter(first).chain(messages));
    }
    let mut response = http::Response::new(Body::new(Answer {
        messages,
        message: None,
        ended: false,
    }));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, tonic::metadata::GRPC_CONTENT_TYPE);
    response
}

/// An answer on its way.
struct Answer {
    messages: Messages,
    /// Its prefix has gone.
    message: Option<Bytes>,
    ended: bool,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if let Some(message) = this.message.take() {
            return Poll::Ready(Some(Ok(Frame::data(message))));
        }
        if this.ended {
            return Poll::Ready(None);
        }
        let next = ready!(this.messages.as_mut().poll_next(cx));
        let frame = match next.map(|next| next.and_then(|message| Ok((prefix(&message)?, message)))) {
            Some(Ok((prefix, message))) => {
                this.message = Some(message).filter(|message| !message.is_empty());
                Frame::data(prefix)
            }
            Some(Err(error)) => this.end(&Error::from(error).status()),
            None => this.end(&Status::ok("")),
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

impl Answer {
    /// The trailers; nothing is read any more.
    fn end(&mut self, status: &Status) -> Frame<Bytes> {
        self.ended = true;
        self.messages = Box::pin(stream::empty());
        let mut trailers = HeaderMap::new();
        if status.add_header(&mut trailers).is_err() {
            let internal = HeaderValue::from(tonic::Code::Internal as i32);
            trailers.insert(Status::GRPC_STATUS, internal);
        }
        Frame::trailers(trailers)
    }
}

fn prefix(message: &Bytes) -> Result<Bytes, answer::Error> {
    let length = u32::try_from(message.len());
    let length = length.map_err(|_| answer::Error::ChangeTooLarge(message.len()))?;
    let mut prefix = BytesMut::with_capacity(PREFIX);
    prefix.put_u8(0);
    prefix.put_u32(length);
    Ok(prefix.freeze())
}
