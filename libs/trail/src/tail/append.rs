//! A tail as its writer has it.

use std::path::PathBuf;

use super::Tail;
use crate::{
    Error,
    codec::Malformed,
    durable::Marks,
    folder::{Files, WriteAt},
    manifest::tail_name,
    record::{Record, RunStart, frame},
    run::Run,
};

/// A tail as it is written: records are held back in memory until there are enough of them, or until somebody wants them on disk.
#[derive(Debug)]
pub(crate) struct Appender {
    pub(crate) number: u64,
    path: PathBuf,
    file: Box<dyn WriteAt>,
    marks: Option<Marks>,
    pub(crate) run: Run,
    /// Bytes written to the file, on disk or not.
    written: u64,
    buffer: Vec<u8>,
    buffer_max: usize,
    /// Whether the file holds bytes that may not be on disk.
    dirty: bool,
}

impl Appender {
    /// Makes tail `number`. Its beginning is on disk when this returns.
    pub(crate) fn create(
        files: &Files,
        store: &str,
        number: u64,
        start: &RunStart,
        buffer_max: usize,
    ) -> Result<Self, Error> {
        let mut buffer = Vec::with_capacity(buffer_max.min(64 << 10));
        let header = Record::Header {
            store,
            number,
            marked: true,
        };
        frame(&header, &mut buffer);
        frame(&Record::Start(Box::new(start.clone())), &mut buffer);
        let marks = Some(Marks::put(&mut buffer));
        let name = tail_name(number);
        let (path, file) = (files.path(&name), files.create_tail(&name)?);
        let run = Run::new(start, buffer.len() as u64);
        let mut appender = Self {
            number,
            path,
            file,
            marks,
            run,
            written: 0,
            buffer,
            buffer_max,
            dirty: false,
        };
        appender.sync()?;
        Ok(appender)
    }

    /// Goes on with a tail that was read; what does not count is cut off.
    pub(crate) fn reopen(files: &Files, tail: Tail, buffer_max: usize) -> Result<Self, Error> {
        let Tail {
            number,
            path,
            run,
            marks,
            ..
        } = tail;
        let file = files.open_tail(&tail_name(number))?;
        let written = run.visible;
        let mut appender = Self {
            number,
            path,
            file,
            marks,
            run,
            written,
            buffer: Vec::new(),
            buffer_max,
            dirty: true,
        };
        // The marks first: what is cut off on purpose must not look lost.
        appender.mark()?;
        appender.mark()?;
        appender.sync_data()?;
        appender
            .file
            .set_length(written)
            .map_err(|e| Error::io(&appender.path, e))?;
        appender.sync()?;
        Ok(appender)
    }

    /// Bytes of the tail, written or held back.
    pub(crate) fn len(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Takes a record.
    pub(crate) fn append(&mut self, record: &Record<'_>) -> Result<(), Error> {
        frame(record, &mut self.buffer);
        let end = self.len();
        self.run
            .apply(record, end)
            .map_err(|Malformed| Error::corrupt(&self.path, "a record was made that does not belong here"))?;
        if self.buffer.len() >= self.buffer_max {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// Hands what is held back to the system.
    pub(crate) fn flush(&mut self) -> Result<(), Error> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.file
            .write_all_at(&self.buffer, self.written)
            .map_err(|e| Error::io(&self.path, e))?;
        self.written += self.buffer.len() as u64;
        self.dirty = true;
        self.buffer.clear();
        self.buffer.shrink_to(self.buffer_max);
        Ok(())
    }

    /// Puts everything on disk.
    pub(crate) fn sync(&mut self) -> Result<(), Error> {
        self.flush()?;
        if std::mem::take(&mut self.dirty) {
            self.sync_data()?;
            self.mark()?;
        }
        Ok(())
    }

    /// Puts everything on disk, the mark that says so included.
    pub(crate) fn finish(&mut self) -> Result<(), Error> {
        self.sync()?;
        self.sync_data()
    }

    fn sync_data(&mut self) -> Result<(), Error> {
        self.file.sync().map_err(|e| Error::io(&self.path, e))
    }

    /// Marks what is written as on disk.
    fn mark(&mut self) -> Result<(), Error> {
        match &mut self.marks {
            Some(marks) => marks
                .set(&mut *self.file, self.written)
                .map_err(|e| Error::io(&self.path, e)),
            None => Ok(()),
        }
    }

    /// The run, once nothing more is appended.
    pub(crate) fn into_run(self) -> Run {
        self.run
    }
}
