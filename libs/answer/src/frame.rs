//! Messages with changes, encoded as they come. `ChangesResponse`, `HistoryResponse` and `TransactionResponse` have their changes in field 1.

use bytes::Bytes;
use prost::Message;
use trail::Descents;

use crate::error::Error;

/// A frame has about so many bytes.
const FRAME: usize = 64 << 10;
/// No change may have more.
const CHANGE: usize = 15 << 20;
/// Field 1, with a length.
const CHANGES: u8 = 1 << 3 | 2;

/// What an answer says of the descents that a store knows.
pub(crate) fn told_of(known: &Descents) -> u64 {
    types::access::told(known.known.len(), known.left_out)
}

/// A message under construction.
#[derive(Debug, Default)]
pub(crate) struct Frame {
    bytes: Vec<u8>,
    /// What each message says besides, and in which field.
    descents: Option<(u32, u64)>,
    encoder: change::Encoder,
}

impl Frame {
    /// Has each message say of which descents of tables it knows.
    pub(crate) fn tell_descents(&mut self, field: u32, known: &Descents) {
        self.descents = Some((field, told_of(known)));
    }

    /// Adds a change; how many bytes it took.
    pub(crate) fn change(&mut self, change: &binlog::Change) -> Result<usize, Error> {
        let message = self.encoder.encode(change).map_err(|problem| {
            tracing::warn!(error = types::chain(&problem), "a stored change cannot be read");
            Error::Store
        })?;
        if message.len() > CHANGE {
            return Err(Error::ChangeTooLarge(message.len()));
        }
        self.bytes.push(CHANGES);
        prost::encoding::encode_varint(message.len() as u64, &mut self.bytes);
        self.bytes.extend_from_slice(message);
        Ok(message.len())
    }

    /// Adds a message as a field.
    pub(crate) fn field(&mut self, tag: u8, message: &impl Message) -> Result<(), Error> {
        let length = message.encoded_len();
        if length > CHANGE {
            return Err(Error::ChangeTooLarge(length));
        }
        self.bytes.push(tag);
        prost::encoding::encode_varint(length as u64, &mut self.bytes);
        // A Vec has room for everything.
        message.encode_raw(&mut self.bytes);
        Ok(())
    }

    /// Whether it is time to send it.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() >= FRAME
    }

    /// The message.
    pub(crate) fn take(&mut self) -> Bytes {
        if let Some((field, descents)) = self.descents {
            prost::encoding::uint64::encode(field, &descents, &mut self.bytes);
        }
        let next = Vec::with_capacity(FRAME + FRAME / 8);
        std::mem::replace(&mut self.bytes, next).into()
    }
}
