//! Checksums of a segment, so that a read never takes a changed byte for data. Parquet itself would have the reader trust the disk:
//! at best a changed byte makes it panic, at worst it is somebody's balance.
//!
//! The data (pages and bloom filters) are summed in blocks; the sums stand in the footer. The footer with the page index is summed as a
//! whole; its sum stands in the manifest, which is summed itself.

use std::{
    io::{self, BufWriter, Read, Write},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use crc32fast::Hasher;
use parquet::{
    errors::{ParquetError, Result},
    file::reader::{ChunkReader, Length},
};
use ring::digest;

use crate::{
    Error,
    folder::{ReadAt, WriteOnce},
    hash::hex,
};

/// Bytes of a block. What is read is read with the blocks it lies in, and a question to a bloom filter is 32 bytes; the sums take a
/// thousandth of the file.
const BLOCK: u64 = 8 << 10;
/// Name of the footer's entry that holds the blocks' sums, eight hexadecimal digits each.
pub(crate) const SUMS: &str = "trailmesh.crc32";

/// A file that is summed while it is written.
pub(crate) struct Summed {
    file: BufWriter<Box<dyn WriteOnce>>,
    digest: digest::Context,
    bytes: u64,
    block: Hasher,
    sums: Vec<u32>,
    /// Where the footer begins, once it does.
    footer_at: Option<u64>,
}

/// What was written.
pub(crate) struct Written {
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
    pub(crate) footer_at: u64,
    pub(crate) footer_crc32: u32,
}

impl Summed {
    pub(crate) fn new(file: Box<dyn WriteOnce>) -> Self {
        let file = BufWriter::with_capacity(256 << 10, file);
        let digest = digest::Context::new(&digest::SHA256);
        Self {
            file,
            digest,
            bytes: 0,
            block: Hasher::new(),
            sums: Vec::new(),
            footer_at: None,
        }
    }

    /// What follows is the footer. Returns the sums of what was before.
    pub(crate) fn begin_footer(&mut self) -> String {
        if !self.bytes.is_multiple_of(BLOCK) {
            self.end_block();
        }
        self.footer_at = Some(self.bytes);
        self.sums.iter().map(|sum| format!("{sum:08x}")).collect()
    }

    fn end_block(&mut self) {
        self.sums.push(std::mem::take(&mut self.block).finalize());
    }

    /// Puts the file on disk.
    pub(crate) fn finish(self) -> io::Result<Written> {
        self.file
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?
            .finish()?;
        let footer_at = self.footer_at.unwrap_or(self.bytes);
        Ok(Written {
            bytes: self.bytes,
            sha256: hex(self.digest.finish().as_ref()),
            footer_at,
            footer_crc32: self.block.finalize(),
        })
    }
}

impl Write for Summed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        self.digest.update(bytes);
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = if self.footer_at.is_some() {
                rest.len()
            } else {
                (BLOCK - self.bytes % BLOCK) as usize
            };
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.block.update(now);
            self.bytes += now.len() as u64;
            rest = later;
            if self.footer_at.is_none() && self.bytes.is_multiple_of(BLOCK) {
                self.end_block();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The footer of a segment, in memory.
pub(crate) struct Footer {
    at: u64,
    bytes: Bytes,
}

impl Footer {
    /// Reads the footer that begins at `at`.
    pub(crate) fn read(file: &dyn ReadAt, at: u64, end: u64, crc32: u32) -> io::Result<Self> {
        let length = end
            .checked_sub(at)
            .and_then(|length| usize::try_from(length).ok())
            .ok_or_else(|| damaged(at))?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, at)?;
        if crc32fast::hash(&bytes) != crc32 {
            return Err(damaged(at));
        }
        Ok(Self {
            at,
            bytes: bytes.into(),
        })
    }
}

fn damaged(at: u64) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the checksum of what begins at byte {at} does not match"),
    )
}

impl Length for Footer {
    fn len(&self) -> u64 {
        self.at + self.bytes.len() as u64
    }
}

impl ChunkReader for Footer {
    type T = io::Cursor<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        let length = self.len().checked_sub(start).ok_or_else(|| damaged(start))?;
        Ok(io::Cursor::new(self.get_bytes(
            start,
            usize::try_from(length).unwrap_or(usize::MAX),
        )?))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let from = start
            .checked_sub(self.at)
            .and_then(|from| usize::try_from(from).ok());
        let range = from
            .and_then(|from| Some(from..from.checked_add(length)?))
            .filter(|range| range.end <= self.bytes.len());
        range
            .map(|range| self.bytes.slice(range))
            .ok_or_else(|| ParquetError::from(damaged(start)))
    }
}

/// What the folder said when it failed a read. The error that goes through Parquet and Arrow comes out as a text, which does not tell a
/// folder that could not be reached from a damaged file.
#[derive(Clone, Debug, Default)]
struct Failed(Arc<Mutex<Option<io::Error>>>);

impl Failed {
    /// Keeps `error`, and gives another to hand on. That the file is too short is damage.
    fn note(&self, error: io::Error) -> io::Error {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return error;
        }
        let told = io::Error::new(error.kind(), error.to_string());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        told
    }
}

/// The data of a segment. Several may read it at once: each read says where, and none moves the other's place.
#[derive(Clone, Debug)]
pub(crate) struct Data {
    file: Arc<dyn ReadAt>,
    sums: Arc<[u32]>,
    end: u64,
    failed: Failed,
}

impl Data {
    /// The data of `file` up to byte `end`, with their sums as the footer has them. None if those are not as many as there must be.
    pub(crate) fn new(file: Arc<dyn ReadAt>, end: u64, sums: &str) -> Option<Self> {
        let digits = sums.as_bytes().chunks(8);
        let sum = |digits: &[u8]| u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        let sums = digits.map(sum).collect::<Option<Arc<[u32]>>>()?;
        (sums.len() as u64 == end.div_ceil(BLOCK)).then(|| Self {
            file,
            sums,
            end,
            failed: Failed::default(),
        })
    }

    /// The same data for a read of its own, whose failure is its own too.
    pub(crate) fn apart(&self) -> Self {
        Self {
            failed: Failed::default(),
            ..self.clone()
        }
    }

    /// What failed in reading the file at `path`, if it was the folder.
    pub(crate) fn failure(&self, path: &Path) -> Option<Error> {
        let failed = self
            .failed
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        failed.map(|e| Error::io(path, e))
    }
}

impl Length for Data {
    fn len(&self) -> u64 {
        self.end
    }
}

impl ChunkReader for Data {
    type T = Stream;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        Ok(Stream {
            data: self.clone(),
            at: start,
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let end = start
            .checked_add(length as u64)
            .filter(|end| *end <= self.end)
            .ok_or_else(|| damaged(start))?;
        let first = start / BLOCK;
        let from = first * BLOCK;
        let until = end.div_ceil(BLOCK).saturating_mul(BLOCK).min(self.end);
        let mut bytes = vec![0; (until - from) as usize];
        self.file
            .read_exact_at(&mut bytes, from)
            .map_err(|e| self.failed.note(e))?;
        for (nth, block) in (first..).zip(bytes.chunks(BLOCK as usize)) {
            if self.sums.get(nth as usize) != Some(&crc32fast::hash(block)) {
                return Err(damaged(nth * BLOCK).into());
            }
        }
        let start = (start - from) as usize;
        Ok(Bytes::from(bytes).slice(start..start + length))
    }
}

/// The data from some place on.
#[derive(Debug)]
pub(crate) struct Stream {
    data: Data,
    at: u64,
}

impl Read for Stream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = self.data.end.saturating_sub(self.at);
        let count = (BLOCK - self.at % BLOCK).min(left).min(out.len() as u64) as usize;
        let bytes = self.data.get_bytes(self.at, count)?;
        out[..count].copy_from_slice(&bytes);
        self.at += count as u64;
        Ok(count)
    }
}
