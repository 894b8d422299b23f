//! A stream of request messages from an HTTP body of bytes.
//!
//! A method that takes a stream and answers once has an HTTP form when its mapping's `body` names a field of bytes. The first message carries
//! what path and query give, and nothing else; it is sent also for an empty body. Each further message carries only the next piece of the
//! body, of at most 64 KiB, in that field. The body is of type `application/octet-stream` and no JSON.

use super::{
    Invalid, bind,
    wire::{self, WireType},
};
use crate::routes::{Bindings, BodyRule, Route};

/// The most bytes of the body in one message.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// The first message, from path and query.
pub fn first(route: &Route, bindings: &Bindings, query: Option<&str>) -> Result<Vec<u8>, Invalid> {
    bind::without_body(route, bindings, query)
}

/// The message that carries `bytes`, which are the next [`CHUNK_BYTES`] of the body or, at its end, fewer.
pub fn chunk(route: &Route, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 8);
    if let BodyRule::Field(index) = route.body {
        let number = route.schema.message(route.input_id).fields[index].number;
        wire::put_varint(&mut out, wire::tag(number, WireType::Length));
        wire::put_bytes(&mut out, bytes);
    }
    out
}
