//! Answers go out as the bytes that they are: most of them came so from an agent.

use std::marker::PhantomData;

use bytes::{BufMut as _, Bytes};
use prost::Message;
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};
use types::{Code, Fault};

/// Reads requests `Q` and writes encoded answers.
#[derive(Debug)]
pub(super) struct Answers<Q>(PhantomData<fn() -> Q>);

impl<Q> Default for Answers<Q> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

/// Writes a message that is encoded already.
#[derive(Debug)]
pub(super) struct Encoded;

/// Reads a request.
#[derive(Debug)]
pub(super) struct Requests<Q>(PhantomData<fn() -> Q>);

impl<Q: Message + Default + 'static> Codec for Answers<Q> {
    type Encode = Bytes;
    type Decode = Q;
    type Encoder = Encoded;
    type Decoder = Requests<Q>;

    fn encoder(&mut self) -> Encoded {
        Encoded
    }

    fn decoder(&mut self) -> Requests<Q> {
        Requests(PhantomData)
    }
}

impl Encoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(message.len());
        out.put(message);
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the request cannot be read")]
struct Unreadable;

impl Fault for Unreadable {
    fn code(&self) -> Code {
        Code::Invalid
    }

    fn reason(&self) -> &'static str {
        "REQUEST_MALFORMED"
    }
}

impl<Q: Message + Default> Decoder for Requests<Q> {
    type Item = Q;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<Q>, Status> {
        let read = Q::decode(message);
        read.map(Some).map_err(|_| chassis::status(&Unreadable))
    }
}
