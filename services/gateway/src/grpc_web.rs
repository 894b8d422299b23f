//! gRPC-Web (PROTOCOL-WEB.md of gRPC): the same frames, with the trailers as a last frame in the body, and all of it in base64 where the
//! content type ends in `-text`.
use std::{
    pin::Pin,
    task::{Context, Poll},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{BufMut as _, Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;
use tonic::{Status, body::Body};

use crate::error::Cause;

/// Marks the frame that holds the trailers.
const TRAILERS: u8 = 0x80;

/// The content type of an answer.
pub(crate) fn content_type(text: bool) -> &'static str {
    if text {
        "application/grpc-web-text+proto"
    } else {
        "application/grpc-web+proto"
    }
}

/// The trailers as the last frame of a body.
pub(crate) fn trailers_frame(trailers: &HeaderMap) -> Bytes {
    let mut lines = Vec::new();
    for (name, value) in trailers {
        lines.extend_from_slice(name.as_str().as_bytes());
        lines.extend_from_slice(b": ");
        lines.extend_from_slice(value.as_bytes());
        lines.extend_from_slice(b"\r\n");
    }
    let mut frame = BytesMut::with_capacity(5 + lines.len());
    frame.put_u8(TRAILERS);
    frame.put_u32(u32::try_from(lines.len()).unwrap_or(u32::MAX));
    frame.put_slice(&lines);
    frame.freeze()
}

/// Base64 in pieces of any length, padded wherever the client flushed.
#[derive(Debug, Default)]
pub(crate) struct TextDecoder {
    rest: Vec<u8>,
}

impl TextDecoder {
    /// The bytes of all whole groups of four so far; none if it is no base64.
    pub(crate) fn decode(&mut self, text: &[u8]) -> Option<Bytes> {
        self.rest.extend_from_slice(text);
        let whole = self.rest.len() / 4 * 4;
        let mut bytes = Vec::with_capacity(whole / 4 * 3);
        let mut start = 0;
        while start < whole {
            // A padded group ends a piece; what follows begins anew.
            let groups = self.rest[start..whole].chunks(4);
            let unpadded = groups.take_while(|group| group[3] != b'=').count();
            let end = (start + (unpadded + 1) * 4).min(whole);
            STANDARD.decode_vec(&self.rest[start..end], &mut bytes).ok()?;
            start = end;
        }
        self.rest.drain(..whole);
        Some(bytes.into())
    }

    /// Whether nothing is left over.
    pub(crate) fn is_complete(&self) -> bool {
        self.rest.is_empty()
    }
}

/// A request's body in base64 as bytes.
#[derive(Debug)]
pub(crate) struct DecodedText {
    body: Body,
    decoder: TextDecoder,
}

impl DecodedText {
    /// Decodes `body`.
    pub(crate) fn new(body: Body) -> Self {
        Self {
            body,
            decoder: TextDecoder::default(),
        }
    }
}

impl http_body::Body for DecodedText {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let broken = || Poll::Ready(Some(Err(chassis::status(&Cause::BodyBroken))));
        match std::task::ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => match self.decoder.decode(&data) {
                    Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                    None => broken(),
                },
                Err(frame) => Poll::Ready(Some(Ok(frame))),
            },
            None if !self.decoder.is_complete() => broken(),
            other => Poll::Ready(other),
        }
    }
}

/// An answer's body with its trailers as a frame, and in base64 if the client wants text.
#[derive(Debug)]
pub(crate) struct Encoded {
    body: Body,
    text: bool,
}

impl Encoded {
    /// Encodes `body`.
    pub(crate) fn new(body: Body, text: bool) -> Self {
        Self { body, text }
    }
}

impl http_body::Body for Encoded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(frame) = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx)?) else {
            return Poll::Ready(None);
        };
        let bytes = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => trailers_frame(&frame.into_trailers().unwrap_or_default()),
        };
        let bytes = if self.text {
            STANDARD.encode(&bytes).into()
        } else {
            bytes
        };
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use http::HeaderMap;
    use proptest::prelude::*;

    use super::{TextDecoder, trailers_frame};

    proptest! {
        #[test]
        fn text_is_read_however_it_was_cut_and_padded(pieces: Vec<Vec<u8>>, cut in 1_usize..9) {
            let text: String = pieces.iter().map(|piece| STANDARD.encode(piece)).collect();
            let mut decoder = TextDecoder::default();
            let mut read = Vec::new();
            for chunk in text.as_bytes().chunks(cut) {
                read.extend_from_slice(&decoder.decode(chunk).expect("base64"));
            }
            prop_assert!(decoder.is_complete());
            prop_assert_eq!(read, pieces.concat());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = TextDecoder::default().decode(&bytes);
        }
    }

    #[test]
    fn trailers_are_a_marked_frame_of_lines() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().expect("a value"));
        assert_eq!(
            &trailers_frame(&trailers)[..],
            b"\x80\0\0\0\x10grpc-status: 0\r\n"
        );
    }
}
