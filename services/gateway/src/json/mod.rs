//! JSON to protobuf and back by descriptors: the proto3 JSON mapping, without generated code and without a message in between.
//!
//! Where the mapping leaves a choice, the strict one is taken for requests: unknown fields, keys given twice, two fields of one choice, texts
//! after the value, halves of surrogate pairs and more than 64 levels are refused, each with its path and never with the value.
//! Answers have every field without presence, 64-bit integers as strings, and enums by name.

mod bind;
mod decode;
mod encode;
mod freeform;
pub(crate) mod own;
pub mod raw;
mod records;
mod scalar;
pub(crate) mod schema;
pub mod stream;
#[cfg(test)]
pub(crate) mod tests;
mod text;
pub mod upload;
mod violations;
mod wellknown;
pub(crate) mod wire;

use crate::routes::{Bindings, Route};
pub use text::DEPTH_LIMIT;
pub use violations::{Invalid, Violation};

/// A message from a service that is not what its method answers. Its words are for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// It cannot be read.
    #[error("the answer of the service is not a message that its method gives: {0}")]
    Malformed(&'static str),
}

impl types::Fault for Broken {
    fn code(&self) -> types::Code {
        types::Code::Corrupt
    }

    fn reason(&self) -> &'static str {
        "ANSWER_MALFORMED"
    }
}

/// The encoded request message of an HTTP request. An empty body is an empty message.
pub fn decode(
    route: &Route,
    bindings: &Bindings,
    query: Option<&str>,
    body: &[u8],
) -> Result<Vec<u8>, Invalid> {
    bind::request(route, bindings, query, body)
}

/// The answer's message as JSON.
pub fn encode(route: &Route, message: &[u8]) -> Result<Vec<u8>, Broken> {
    let mut out = Vec::with_capacity(2 * message.len() + 64);
    encode_into(route, message, &mut out)?;
    Ok(out)
}

fn encode_into(route: &Route, message: &[u8], out: &mut Vec<u8>) -> Result<(), Broken> {
    encode::Encoder::new(&route.schema, out).message(route.output_id, message)
}
