//! Binary log files, from anything that reads.

use std::io::{self, Read};

use crate::{
    Error, FileName, LogPos,
    error::Problem,
    event::{Event, Frames, HEADER_BYTES, Header, Limits},
    read,
};

const MAGIC: [u8; 4] = [0xFE, b'b', b'i', b'n'];
/// MySQL's encrypted files begin with this instead (MySQL manual, "Encrypting binary log files").
const MAGIC_ENCRYPTED: [u8; 4] = [0xFD, b'b', b'i', b'n'];

/// Why a file cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The bytes are not a good binary log.
    #[error(transparent)]
    Log(#[from] Error),
    /// The bytes cannot be had.
    #[error("reading failed at {at}")]
    Io {
        /// Where.
        at: LogPos,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Reads one file event by event, holding one event in memory at a time.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    file: FileName,
    offset: u64,
    frames: Frames,
    limits: Limits,
    buffer: Vec<u8>,
}

impl<R: Read> Reader<R> {
    /// Begins to read; `name` is the file's name on the server that wrote it.
    pub fn new(name: &str, input: R) -> Result<Self, ReadError> {
        let mut reader = Self {
            input,
            file: FileName::new(name),
            offset: 0,
            frames: Frames::default(),
            limits: Limits::default(),
            buffer: Vec::new(),
        };
        let mut magic = [0; 4];
        let have = reader.fill(&mut magic)?;
        if magic == MAGIC_ENCRYPTED {
            return Err(reader.error(Problem::Encrypted));
        }
        if have < magic.len() || magic != MAGIC {
            return Err(reader.error(Problem::NotABinlog));
        }
        reader.offset = 4;
        Ok(reader)
    }

    /// Refuses events that ask for more; without it those that no server writes.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The file's name.
    pub fn file(&self) -> &FileName {
        &self.file
    }

    /// Where the next event begins.
    pub fn position(&self) -> LogPos {
        LogPos {
            file: self.file.clone(),
            offset: self.offset,
        }
    }

    /// The next event and the offset it begins at; none at the end of the file.
    pub fn next_event(&mut self) -> Result<Option<(u64, Event<'_>)>, ReadError> {
        let mut head = [0; HEADER_BYTES];
        let have = self.fill(&mut head)?;
        if have == 0 {
            return Ok(None);
        }
        if have < HEADER_BYTES {
            return Err(self.error(Problem::Cut {
                need: HEADER_BYTES as u64,
                have: have as u64,
            }));
        }
        let header = Header::parse(&head).map_err(|problem| self.error(problem))?;
        let size = self
            .limits
            .admit(&header)
            .map_err(|problem| self.error(problem))?;
        self.buffer.clear();
        self.buffer.extend_from_slice(&head);
        let body = size - HEADER_BYTES as u64;
        let read = read::fill(&mut self.input, body, &mut self.buffer).map_err(|source| ReadError::Io {
            at: self.position(),
            source,
        })?;
        if read < body {
            return Err(self.error(Problem::Cut {
                need: size,
                have: HEADER_BYTES as u64 + read,
            }));
        }
        let at = self.offset;
        let event = match self.frames.open(&self.buffer) {
            Ok(event) => event,
            Err(problem) => {
                return Err(ReadError::Log(Error {
                    at: LogPos {
                        file: self.file.clone(),
                        offset: at,
                    },
                    problem,
                }));
            }
        };
        self.offset += size;
        Ok(Some((at, event)))
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let mut have = 0;
        while have < buffer.len() {
            match self.input.read(&mut buffer[have..]) {
                Ok(0) => break,
                Ok(count) => have += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(ReadError::Io {
                        at: self.position(),
                        source,
                    });
                }
            }
        }
        Ok(have)
    }

    fn error(&self, problem: Problem) -> ReadError {
        ReadError::Log(Error {
            at: self.position(),
            problem,
        })
    }
}
