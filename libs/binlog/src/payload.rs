//! Compressed events: MySQL's TRANSACTION_PAYLOAD, and the compressed rows and queries of MariaDB.

use std::io::{self, Read};

use crate::{
    error::Problem,
    event::{Event, HEADER_BYTES, Header, Limits},
    read::{Bytes, fill},
};

/// Fields of a TRANSACTION_PAYLOAD event (`libbinlogevents/include/codecs`).
const FIELD_END: u64 = 0;
const FIELD_COMPRESSION: u64 = 2;
const ZSTD: u64 = 0;
const UNCOMPRESSED: u64 = 255;

/// What the zstd library itself allows a frame to look back, 128 MiB, as a power of two.
const WINDOW_LOG_MAX: u32 = 27;

fn malformed(what: impl Into<String>) -> Problem {
    Problem::Event {
        event: "TRANSACTION_PAYLOAD_EVENT",
        what: what.into(),
    }
}

/// The events inside a payload, decompressed one at a time: a transaction of gigabytes needs the memory of its largest event.
pub(crate) struct Payload<'a> {
    input: Box<dyn Read + 'a>,
    limits: Limits,
    buffer: Vec<u8>,
}

/// A decoder that never holds more than the longest event.
fn zstd(bytes: &[u8], limits: Limits) -> io::Result<impl Read> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(bytes)?;
    let window = limits.event_bytes_max.max(1).ilog2();
    decoder.window_log_max(window.clamp(10, WINDOW_LOG_MAX))?;
    Ok(decoder)
}

fn unreadable(error: &io::Error) -> Problem {
    let words = error.to_string();
    // ZSTD_error_frameParameter_windowTooLarge has no other sign here.
    if words.contains("too much memory") {
        return Problem::Unsupported {
            event: "a TRANSACTION_PAYLOAD_EVENT that takes more memory to decompress than the longest event",
            remedy: "; let the agent beside the server read this log",
        };
    }
    malformed(words)
}

impl<'a> Payload<'a> {
    /// Body: fields of (type, length, value), an end mark, then the payload.
    pub(crate) fn open(body: &'a [u8], limits: Limits) -> Result<Self, Problem> {
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
            ZSTD => Box::new(zstd(bytes.0, limits).map_err(|error| unreadable(&error))?),
            UNCOMPRESSED => Box::new(bytes.0),
            other => return Err(malformed(format!("compression {other} is not known"))),
        };
        Ok(Self {
            input,
            limits,
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
        let size = self.limits.admit(&header)?;
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
        fill(&mut self.input, count, &mut self.buffer)
            .map(|_| ())
            .map_err(|error| unreadable(&error))
    }
}

/// What MariaDB compressed (`sql/log_event.cc`, `binlog_buf_uncompress`): a byte with the algorithm in bits 4 to 6 (0 is zlib) and the
/// number of length bytes in bits 0 to 2, the length big-endian, then the data. It is added to `out`; the number of bytes comes back.
pub(crate) fn mariadb_unpack(raw: &[u8], limits: &Limits, out: &mut Vec<u8>) -> Result<u64, Problem> {
    let malformed = |what: &str| Problem::Event {
        event: "a compressed event",
        what: what.into(),
    };
    let mut bytes = Bytes(raw);
    let head = bytes.u8()?;
    if head & 0xF0 != 0x80 {
        return Err(malformed("its algorithm is not zlib"));
    }
    let length = limits.admit_content(crate::read::be_uint(bytes.take(usize::from(head & 7))?))?;
    // One byte more than promised, so that a longer content shows.
    let read = fill(&mut flate2::read::ZlibDecoder::new(bytes.0), length + 1, out)
        .map_err(|error| malformed(&error.to_string()))?;
    if read == length {
        Ok(length)
    } else {
        Err(malformed("its content is not as long as it says"))
    }
}

/// A QUERY_COMPRESSED event's body as that of the QUERY event it stands for.
pub(crate) fn mariadb_query(body: &[u8], limits: &Limits) -> Result<Vec<u8>, Problem> {
    let mut bytes = Bytes(body);
    let fixed = bytes.take(13)?;
    let schema = usize::from(fixed[8]);
    let status = usize::from(u16::from_le_bytes([fixed[11], fixed[12]]));
    bytes.take(status + schema + 1)?;
    let mut whole = body[..body.len() - bytes.0.len()].to_vec();
    mariadb_unpack(bytes.0, limits, &mut whole)?;
    Ok(whole)
}
