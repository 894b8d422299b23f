//! gRPC's length-prefixed messages.
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::BodyExt as _;
use tonic::{Code, Status, body::Body};

use crate::error::Cause;

/// The flag and the length.
const PREFIX: usize = 5;

/// A message with its prefix, not compressed.
pub(crate) fn wrap(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

/// The message of a body that is exactly one uncompressed frame.
pub(crate) fn unwrap(mut body: Bytes) -> Option<Bytes> {
    if body.len() < PREFIX || body[0] != 0 {
        return None;
    }
    body.advance(1);
    let length = body.get_u32();
    (usize::try_from(length) == Ok(body.len())).then_some(body)
}

/// Messages out of an answer's body, one after the other, and then its status.
#[derive(Debug)]
pub(crate) struct Messages {
    body: Body,
    buffer: BytesMut,
    /// The largest message.
    limit: usize,
    trailers: Option<HeaderMap>,
}

impl Messages {
    /// Reads `body`. `head` may already hold the status, when there is nothing else.
    pub(crate) fn new(head: &HeaderMap, body: Body, limit: usize) -> Self {
        let trailers = head.contains_key("grpc-status").then(|| head.clone());
        Self {
            body,
            buffer: BytesMut::new(),
            limit,
            trailers,
        }
    }

    /// The next message; none after the last one, and an error if the status is one.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
                Some(Err(status)) => return Err(status),
                None => return self.end(),
            }
        }
    }

    /// What came with the status, once it has come.
    pub(crate) fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_ref()
    }

    fn take(&mut self) -> Result<Option<Bytes>, Status> {
        let [flag, a, b, c, d, ..] = self.buffer[..] else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if flag != 0 || length > self.limit {
            return Err(broken("a message is compressed or too large"));
        }
        if self.buffer.len() < PREFIX + length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    fn end(&mut self) -> Result<Option<Bytes>, Status> {
        let status = self.trailers.as_ref().and_then(Status::from_header_map);
        match status {
            Some(status) if status.code() != Code::Ok => Err(status),
            Some(_) if self.buffer.is_empty() => Ok(None),
            _ => Err(broken("the answer ended too early")),
        }
    }
}

/// An answer that breaks the protocol. The words are for the log.
pub(crate) fn broken(words: &str) -> Status {
    chassis::status(&Cause::Internal(words.to_owned()))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::stream;
    use http::HeaderMap;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use proptest::prelude::*;
    use tonic::{Code, Status, body::Body};

    use super::{Messages, unwrap, wrap};

    fn body(chunks: Vec<Vec<u8>>, status: Option<&'static str>) -> Body {
        let mut frames: Vec<Result<Frame<Bytes>, Status>> = chunks
            .into_iter()
            .map(|chunk| Ok(Frame::data(chunk.into())))
            .collect();
        if let Some(status) = status {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", status.parse().expect("a value"));
            frames.push(Ok(Frame::trailers(trailers)));
        }
        Body::new(StreamBody::new(stream::iter(frames)))
    }

    proptest! {
        #[test]
        fn messages_survive_any_chunking(messages: Vec<Vec<u8>>, cut in 1_usize..20) {
            let bytes: Vec<u8> = messages.iter().flat_map(|message| wrap(message)).collect();
            let chunks = bytes.chunks(cut).map(<[u8]>::to_vec).collect();
            let mut reader = Messages::new(&HeaderMap::new(), body(chunks, Some("0")), 1 << 20);
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let read: Vec<Vec<u8>> = runtime.block_on(async {
                let mut read = Vec::new();
                while let Some(message) = reader.next().await.expect("a message") {
                    read.push(message.to_vec());
                }
                read
            });
            prop_assert_eq!(read, messages);
        }

        #[test]
        fn one_frame_is_unwrapped_and_nothing_else(message: Vec<u8>, tail: Vec<u8>) {
            let frame = wrap(&message);
            prop_assert_eq!(unwrap(frame.clone()), Some(Bytes::from(message)));
            let longer = [&frame[..], &tail[..]].concat();
            prop_assert_eq!(unwrap(longer.into()).is_some(), tail.is_empty());
            prop_assert_eq!(unwrap(frame.slice(..frame.len() - 1)), None);
        }
    }

    #[tokio::test]
    async fn an_answer_cut_off_is_an_error_and_so_is_a_large_or_compressed_message() {
        let whole = wrap(b"hello").to_vec();
        for (chunks, status, limit) in [
            (vec![whole[..7].to_vec()], Some("0"), 100),
            (vec![], None, 100),
            (vec![whole.clone()], None, 100),
            (vec![whole.clone()], Some("0"), 4),
            (vec![vec![1, 0, 0, 0, 0]], Some("0"), 100),
        ] {
            let mut reader = Messages::new(&HeaderMap::new(), body(chunks, status), limit);
            let error = loop {
                match reader.next().await {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("no error"),
                    Err(error) => break error,
                }
            };
            assert_eq!(error.code(), Code::Internal);
        }
        let mut reader = Messages::new(&HeaderMap::new(), body(vec![whole], Some("5")), 100);
        assert_eq!(
            reader.next().await.expect("a message"),
            Some(Bytes::from_static(b"hello"))
        );
        assert_eq!(reader.next().await.expect_err("a status").code(), Code::NotFound);
    }
}
