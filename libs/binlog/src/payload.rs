//! Compressed events: MySQL's TRANSACTION_PAYLOAD, and the compressed rows and queries of MariaDB.

use std::io::Read;

use crate::{
    error::Problem,
    event::{EVENT_BYTES_MAX, Event, HEADER_BYTES, Header},
    read::Bytes,
};

/// Fields of a TRANSACTION_PAYLOAD event (`libbinlogevents/include/codecs`).
const FIELD_END: u64 = 0;
const FIELD_COMPRESSION: u64 = 2;
const ZSTD: u64 = 0;
const UNCOMPRESSED: u64 = 255;

fn malformed(what: impl Into<String>) -> Problem {
    Problem::Event {
        event: "TRANSACTION_PAYLOAD_EVENT",
        what: what.into(),
    }
}

/// The events inside a payload, decompressed one at a time: a transaction of gigabytes needs the memory of its largest event.
pub(crate) struct Payload<'a> {
    input: Box<dyn Read + 'a>,
    buffer: Vec<u8>,
}

impl<'a> Payload<'a> {
    /// Body: fields of (type, length, value), an end mark, then the payload.
    pub(crate) fn open(body: &'a [u8]) -> Result<Self, Problem> {
        let mut bytes = Bytes(body);
        let mut compression = UNCOMPRESSED;
        loop {
            let field = bytes.lenenc()?;
            if field == FIELD_END {
                break;
            }
            let mut value = Bytes(bytes.lenenc_bytes()?);
            if field == FIELD_COMPRESSION {
                compression = value.lenenc()?;
            }
        }
        let input: Box<dyn Read + 'a> = match compression {
            ZSTD => Box::new(
                zstd::stream::read::Decoder::with_buffer(bytes.0)
                    .map_err(|error| malformed(error.to_string()))?,
            ),
            UNCOMPRESSED => Box::new(bytes.0),
            other => return Err(malformed(format!("compression {other} is not known"))),
        };
        Ok(Self {
            input,
            buffer: Vec::new(),
        })
    }

    /// The next event; events inside a payload carry no checksum.
    pub(crate) fn next_event(&mut self) -> Result<Option<Event<'_>>, Problem> {
        self.buffer.clear();
        self.read(HEADER_BYTES as u64)?;
        if self.buffer.is_empty() {
            return Ok(None);
        }
        let header = Header::parse(&self.buffer)?;
        let size = u64::from(header.size);
        if size < HEADER_BYTES as u64 || size > EVENT_BYTES_MAX {
            return Err(Problem::Length(size));
        }
        self.read(size - HEADER_BYTES as u64)?;
        if self.buffer.len() as u64 != size {
            return Err(malformed("its last event is cut"));
        }
        Ok(Some(Event {
            header,
            body: &self.buffer[HEADER_BYTES..],
        }))
    }

    fn read(&mut self, count: u64) -> Result<(), Problem> {
        self.input
            .by_ref()
            .take(count)
            .read_to_end(&mut self.buffer)
            .map_err(|error| malformed(error.to_string()))?;
        Ok(())
    }
}

/// What MariaDB compressed (`sql/log_event.cc`, `binlog_buf_uncompress`): a byte with the algorithm in bits 4 to 6 (0 is zlib) and the
/// number of length bytes in bits 0 to 2, the length big-endian, then the data.
pub(crate) fn mariadb_unpack(raw: &[u8]) -> Result<Vec<u8>, Problem> {
    let malformed = |what: &str| Problem::Event {
        event: "a compressed event",
        what: what.into(),
    };
    let mut bytes = Bytes(raw);
    let head = bytes.u8()?;
    if head & 0xF0 != 0x80 {
        return Err(malformed("its algorithm is not zlib"));
    }
    let length = crate::read::be_uint(bytes.take(usize::from(head & 7))?);
    if length > EVENT_BYTES_MAX {
        return Err(Problem::Length(length));
    }
    let mut out = Vec::new();
    // One byte more than promised, so that a longer content shows.
    flate2::read::ZlibDecoder::new(bytes.0)
        .take(length + 1)
        .read_to_end(&mut out)
        .map_err(|error| malformed(&error.to_string()))?;
    if out.len() as u64 == length {
        Ok(out)
    } else {
        Err(malformed("its content is not as long as it says"))
    }
}

/// A QUERY_COMPRESSED event's body as that of the QUERY event it stands for.
pub(crate) fn mariadb_query(body: &[u8]) -> Result<Vec<u8>, Problem> {
    let mut bytes = Bytes(body);
    let fixed = bytes.take(13)?;
    let schema = usize::from(fixed[8]);
    let status = usize::from(u16::from_le_bytes([fixed[11], fixed[12]]));
    bytes.take(status + schema + 1)?;
    let mut whole = body[..body.len() - bytes.0.len()].to_vec();
    whole.extend(mariadb_unpack(bytes.0)?);
    Ok(whole)
}
