//! What a crash, or a damaged disk, left of the tails.

use std::{fmt, io::Write};

use super::Writer;
use crate::{
    Error, Stop,
    manifest::{TailEntry, tail_name},
    tail::{Appender, Tail},
};

/// Bytes copied at once.
const COPY: usize = 256 << 10;

/// Damage that was found when a store was opened for writing: what stood behind it has to be read from the source again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The tail's name.
    pub tail: String,
    /// Its first byte that is not good.
    pub at: u64,
    /// Name of the file that keeps what stood behind the last good transaction; none if nothing stood there.
    pub file: Option<String>,
    /// How much that is.
    pub bytes: u64,
}

impl fmt::Display for Recovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            tail,
            at,
            file,
            bytes,
        } = self;
        write!(
            f,
            "{tail} was damaged at byte {at}, in what was on disk already; "
        )?;
        if let Some(file) = file {
            write!(
                f,
                "the {bytes} bytes after the last good transaction are kept in {file}; "
            )?;
        }
        write!(
            f,
            "what they held is stored again when the log is read again from there"
        )
    }
}

impl Writer {
    /// Takes up the tails: the last one is cut after its last whole record and goes on, one before it is sealed.
    pub(super) fn recover(&mut self) -> Result<(), Error> {
        for TailEntry { number, length } in self.manifest.tails.clone() {
            let tail = Tail::open(&self.files, &self.manifest.store, number, &Stop::default())?;
            for (version, table) in &tail.run.definitions {
                self.catalogue.insert(*version, table);
            }
            match length {
                None => {
                    self.set_aside(&tail)?;
                    self.tail = Some(Appender::reopen(
                        &self.files,
                        tail,
                        self.options.buffer_bytes_max,
                    )?);
                }
                Some(length) if length == tail.run.visible => self.seal(number, tail.run)?,
                Some(length) => {
                    let (at, what) = tail.damage.unwrap_or((tail.run.visible, "it is too short"));
                    return Err(Error::corrupt(
                        &tail.path,
                        format!("at byte {at} of {length} {what}"),
                    ));
                }
            }
        }
        Ok(())
    }

    /// Keeps what stands behind damage in `tail`, which is cut there.
    fn set_aside(&mut self, tail: &Tail) -> Result<(), Error> {
        let Some((at, _)) = tail.lost else { return Ok(()) };
        let from = tail.run.visible;
        let bytes = tail.length()?.saturating_sub(from);
        let mut file = None;
        if bytes > 0 {
            let name = format!("damaged-{}-{from}.log", tail.number);
            self.copy(tail, from, bytes, &name)?;
            if !self.manifest.damaged.contains(&name) {
                self.manifest.damaged.push(name.clone());
            }
            // It syncs the folder too, so the file is there before the tail is cut.
            self.manifest.store(&self.files)?;
            file = Some(name);
        }
        self.recovered = Some(Recovered {
            tail: tail_name(tail.number),
            at,
            file,
            bytes,
        });
        Ok(())
    }

    /// Copies `length` bytes of `tail` to the new file `name`.
    fn copy(&self, tail: &Tail, mut from: u64, mut length: u64, name: &str) -> Result<(), Error> {
        let failed = |e| Error::io(&self.files.path(name), e);
        let mut aside = self.files.create(name)?;
        let mut buffer = vec![0; COPY];
        while length > 0 {
            let now = &mut buffer[..usize::try_from(length).unwrap_or(COPY).min(COPY)];
            tail.file
                .read_exact_at(now, from)
                .map_err(|e| Error::io(&tail.path, e))?;
            aside.write_all(now).map_err(failed)?;
            from += now.len() as u64;
            length -= now.len() as u64;
        }
        aside.finish().map_err(failed)
    }
}
