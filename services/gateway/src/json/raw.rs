//! Bodies that are no JSON: fields of type `google.api.HttpBody`, whose bytes go through as they are.
//!
//! * A request's `body` that names such a field: the message has the bytes exactly as they came, and the `Content-Type` that came with them.
//! * An answer's `response_body` that names one: the body is the bytes, of one message or of a stream's messages one after the other, with
//!   the content type of the first. A stream that fails after its head ends abnormally: HTTP/2 resets it, HTTP/1.1 closes without the last
//!   chunk. So what was cut off is never taken for whole.
//!
//! Over gRPC both are plain messages.

use bytes::Bytes;

use super::{
    Broken, Invalid, bind,
    wire::{self, Reader, WireType},
};
use crate::routes::{AnswerRule, Bindings, BodyRule, Route};

/// Numbers in `google.api.HttpBody`.
const CONTENT_TYPE: u32 = 1;
const DATA: u32 = 2;

/// The encoded request of path, query and a raw body.
pub fn request(
    route: &Route,
    bindings: &Bindings,
    query: Option<&str>,
    content_type: &str,
    body: &[u8],
) -> Result<Vec<u8>, Invalid> {
    let mut out = bind::without_body(route, bindings, query)?;
    if let BodyRule::Raw(index) = route.body {
        let number = route.schema.message(route.input_id).fields[index].number;
        wire::put_varint(&mut out, wire::tag(number, WireType::Length));
        let mut raw = Vec::with_capacity(body.len() + content_type.len() + 16);
        for (number, value) in [(CONTENT_TYPE, content_type.as_bytes()), (DATA, body)] {
            wire::put_varint(&mut raw, wire::tag(number, WireType::Length));
            wire::put_bytes(&mut raw, value);
        }
        wire::put_bytes(&mut out, &raw);
    }
    Ok(out)
}

/// What one message of an answer gives to the body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Empty where the service did not say.
    pub content_type: String,
    /// The bytes.
    pub data: Bytes,
}

/// The bytes in `message`.
pub fn piece(route: &Route, message: &Bytes) -> Result<Piece, Broken> {
    let mut piece = Piece::default();
    let AnswerRule::Raw(number) = route.answer else {
        return Ok(piece);
    };
    let mut reader = Reader::new(message);
    while !reader.is_empty() {
        let (of, wire_type) = reader.key()?;
        let value = reader.value(wire_type)?;
        if of != number || wire_type != WireType::Length {
            continue;
        }
        let mut inner = Reader::new(Reader::new(value).bytes()?);
        while !inner.is_empty() {
            let (of, wire_type) = inner.key()?;
            let value = inner.value(wire_type)?;
            let taken = matches!(of, CONTENT_TYPE | DATA) && wire_type == WireType::Length;
            let bytes = if taken {
                Reader::new(value).bytes()?
            } else {
                continue;
            };
            if of == DATA {
                piece.data = message.slice_ref(bytes);
            } else {
                let text = str::from_utf8(bytes);
                piece.content_type = text
                    .map_err(|_| Broken::Malformed("a content type is no text"))?
                    .to_owned();
            }
        }
    }
    Ok(piece)
}
