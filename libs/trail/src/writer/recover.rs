//! What a crash, or a damaged disk, left of the tails.

use std::{
    fmt,
    fs::File,
    io::{self, Seek, SeekFrom},
};

use super::Writer;
use crate::{
    Error, disk,
    manifest::{TailEntry, tail_name},
    tail::{Appender, Tail},
};

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
            let path = self.dir.join(tail_name(number));
            let file = File::open(&path).map_err(|e| Error::io(&path, e))?;
            let tail = Tail::open(path, &self.manifest.store, number, file)?;
            for (version, table) in &tail.run.definitions {
                self.catalogue.insert(*version, table);
            }
            match length {
                None => {
                    self.set_aside(&tail)?;
                    self.tail = Some(Appender::reopen(tail, self.options.buffer_bytes_max)?);
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
        let failed = |e| Error::io(&tail.path, e);
        let from = tail.run.visible;
        let bytes = tail.file.metadata().map_err(failed)?.len().saturating_sub(from);
        let mut file = None;
        if bytes > 0 {
            let name = format!("damaged-{}-{from}.log", tail.number);
            let path = self.dir.join(&name);
            let mut aside = disk::create(&path)?;
            let mut rest = File::open(&tail.path).map_err(failed)?;
            rest.seek(SeekFrom::Start(from)).map_err(failed)?;
            io::copy(&mut rest, &mut aside)
                .and_then(|_| aside.sync_all())
                .map_err(|e| Error::io(&path, e))?;
            if !self.manifest.damaged.contains(&name) {
                self.manifest.damaged.push(name.clone());
            }
            // It syncs the folder too, so the file is there before the tail is cut.
            self.manifest.store(&self.dir)?;
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
}
