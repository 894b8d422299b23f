//! The file that changes go to first.

mod append;

use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    Error,
    durable::{MARKS, Marks},
    folder::{Files, ReadAt},
    manifest::tail_name,
    places::Places,
    record::{FRAME, Record},
    run::Run,
    stop::{STOP_RECORDS, Stop},
};

pub(crate) use append::Appender;

/// Bytes read at once.
const READ: usize = 256 << 10;
/// How often a mark is read before it is called damaged. Writing one takes less than a microsecond, and the next comes after a sync.
const ATTEMPTS: usize = 10;

/// A record as the file holds it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    /// Where it begins in the file.
    pub(crate) at: u64,
    /// Where it ends.
    pub(crate) end: u64,
    pub(crate) payload: &'a [u8],
}

/// Walks the frames of a tail. What does not check out ends the walk: it is the torn end of a write, or damage.
#[derive(Debug)]
pub(crate) struct Frames<'a> {
    file: &'a dyn ReadAt,
    path: &'a Path,
    /// Bytes of the file that may be read.
    end: u64,
    /// Where the next frame begins.
    at: u64,
    buffer: Vec<u8>,
    /// Where the next frame begins in the buffer.
    start: usize,
    /// Why the walk ended before `end`.
    damage: Option<&'static str>,
}

impl<'a> Frames<'a> {
    /// Walks from `from`, which must be the start of a frame, to `end`.
    pub(crate) fn new(file: &'a dyn ReadAt, path: &'a Path, from: u64, end: u64) -> Self {
        Self {
            file,
            path,
            end,
            at: from,
            buffer: Vec::new(),
            start: 0,
            damage: None,
        }
    }

    /// The next frame.
    pub(crate) fn next(&mut self) -> Result<Option<Frame<'_>>, Error> {
        if self.at >= self.end || self.damage.is_some() {
            return Ok(None);
        }
        if self.end - self.at < FRAME as u64 {
            self.damage = Some("it ends in the middle of a record");
            return Ok(None);
        }
        if !self.fill(FRAME)? {
            return Ok(None);
        }
        let head = &self.buffer[self.start..self.start + FRAME];
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let crc = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        if self.end - self.at < (FRAME + length) as u64 {
            self.damage = Some("it ends in the middle of a record");
            return Ok(None);
        }
        if !self.fill(FRAME + length)? {
            return Ok(None);
        }
        let payload = self.start + FRAME..self.start + FRAME + length;
        if crc32fast::hash(&self.buffer[payload.clone()]) != crc {
            self.damage = Some("the checksum of a record does not match");
            return Ok(None);
        }
        let from = self.at;
        self.at += (FRAME + length) as u64;
        self.start = payload.end;
        Ok(Some(Frame {
            at: from,
            end: self.at,
            payload: &self.buffer[payload],
        }))
    }

    /// Why the walk ended early, and where.
    pub(crate) fn damage(&self) -> Option<(u64, &'static str)> {
        self.damage.map(|what| (self.at, what))
    }

    /// Makes sure that `need` bytes from `at` are in the buffer. They are not if a new writer has just cut off what did not count.
    fn fill(&mut self, need: usize) -> Result<bool, Error> {
        if self.buffer.len() - self.start >= need {
            return Ok(true);
        }
        self.buffer.drain(..self.start);
        self.start = 0;
        let have = self.buffer.len();
        let left = self.end - self.at - have as u64;
        let more = (need - have).max(READ.min(usize::try_from(left).unwrap_or(READ)));
        self.buffer.resize(have + more, 0);
        match self
            .file
            .read_exact_at(&mut self.buffer[have..], self.at + have as u64)
        {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                self.damage = Some("it was cut off while it was read");
                Ok(false)
            }
            Err(e) => Err(Error::io(self.path, e)),
        }
    }
}

/// A tail as it is read: what of it counts, and what that amounts to.
#[derive(Clone, Debug)]
pub(crate) struct Tail {
    pub(crate) number: u64,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn ReadAt>,
    pub(crate) run: Run,
    marks: Option<Marks>,
    pub(crate) places: Places,
    /// Why what follows the visible part does not count, if something follows.
    pub(crate) damage: Option<(u64, &'static str)>,
    /// Where something is wrong with what was on disk already, and what: no write that was cut off looks like that.
    pub(crate) lost: Option<(u64, &'static str)>,
}

impl Tail {
    /// Reads tail `number` of `store`.
    pub(crate) fn open(files: &Files, store: &str, number: u64, stop: &Stop) -> Result<Self, Error> {
        let name = tail_name(number);
        let (path, file) = (files.path(&name), files.open(&name)?);
        let length = file.length().map_err(|e| Error::io(&path, e))?;
        let mut frames = Frames::new(&*file, &path, 0, length);
        let header = frames.next()?.map(|frame| Record::parse(frame.payload));
        let marked = match header {
            Some(Ok(Record::Header {
                store: s,
                number: n,
                marked,
            })) if s == store && n == number => marked,
            _ => {
                return Err(Error::corrupt(
                    &path,
                    "it does not begin as this tail of this store must",
                ));
            }
        };
        let (marks, run) = match frames.next()? {
            Some(Frame { end, payload, .. }) => match Record::parse(payload) {
                Ok(Record::Start(start)) if marked => (Some(Marks::at(end)), Run::new(&start, end + MARKS)),
                Ok(Record::Start(start)) => (None, Run::new(&start, end)),
                _ => {
                    return Err(Error::corrupt(
                        &path,
                        "its second record does not say where its run begins",
                    ));
                }
            },
            None => return Err(Error::corrupt(&path, "its second record is damaged")),
        };
        let mut tail = Self {
            number,
            path,
            file,
            run,
            marks,
            places: Places::default(),
            damage: None,
            lost: None,
        };
        tail.advance(None, stop)?;
        Ok(tail)
    }

    /// Takes in what was appended since, up to byte `limit` if there is one; true if something counts that did not before.
    pub(crate) fn advance(&mut self, limit: Option<u64>, stop: &Stop) -> Result<bool, Error> {
        // In this order: the marks speak of what is in the file by now.
        let durable = self.marks()?.into_iter().flatten().max().unwrap_or_default();
        let length = self.length()?;
        let from = self.run.visible;
        let mut frames = Frames::new(
            &*self.file,
            &self.path,
            from,
            limit.map_or(length, |limit| limit.min(length)),
        );
        self.damage = None;
        let mut seen = 0_u32;
        while let Some(Frame { at, end, payload }) = frames.next()? {
            seen = seen.wrapping_add(1);
            if seen.is_multiple_of(STOP_RECORDS) {
                stop.check()?;
            }
            let Ok(record) = Record::parse(payload) else {
                self.damage = Some((at, "a record cannot be read"));
                break;
            };
            if self.run.apply(&record, end).is_err() {
                self.damage = Some((at, "a record is not one that belongs here"));
                break;
            }
            match record {
                Record::Begin(_) => self.places.begin(at),
                Record::Row(row) => [Some(row.key), row.new_key]
                    .into_iter()
                    .flatten()
                    .for_each(|key| self.places.key(key)),
                _ => {}
            }
        }
        self.damage = self.damage.or_else(|| frames.damage());
        let (good, what) = self.damage.unwrap_or((frames.at, "it is too short"));
        self.lost = (good < durable).then_some((good, what));
        if self.run.is_open() {
            self.run.close();
            self.places.keep(self.run.outcomes.len());
            self.damage = self
                .damage
                .or(Some((self.run.visible, "its last transaction has no end")));
        }
        Ok(self.run.visible > from)
    }

    /// Bytes of the file as it is now.
    pub(crate) fn length(&self) -> Result<u64, Error> {
        self.file.length().map_err(|e| Error::io(&self.path, e))
    }

    /// What the marks say. A tail of an earlier release has none.
    fn marks(&self) -> Result<[Option<u64>; 2], Error> {
        let Some(marks) = self.marks else {
            return Ok([None; 2]);
        };
        match marks.read(&*self.file).map_err(|e| Error::io(&self.path, e))? {
            [None, None] => Err(Error::corrupt(
                &self.path,
                "the marks of what is on disk are damaged",
            )),
            marks => Ok(marks),
        }
    }

    /// Whether it is as it was written, as far as its marks tell. That one of them holds is enough to go on.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if let Some((at, what)) = self.lost {
            let what = format!("at byte {at} of what was on disk already {what}");
            return Err(Error::corrupt(&self.path, what));
        }
        if self.marks.is_none() {
            return Ok(());
        }
        // A writer may be at one of them just now.
        for _ in 0..ATTEMPTS {
            if !self.marks()?.contains(&None) {
                return Ok(());
            }
        }
        Err(Error::corrupt(&self.path, "a mark of what is on disk is damaged"))
    }

    /// The frames that count.
    pub(crate) fn frames(&self) -> Frames<'_> {
        self.frames_in(self.run.body..self.run.visible)
    }

    /// The frames that begin and end within `bytes`.
    pub(crate) fn frames_in(&self, bytes: Range<u64>) -> Frames<'_> {
        Frames::new(&*self.file, &self.path, bytes.start, bytes.end)
    }
}
