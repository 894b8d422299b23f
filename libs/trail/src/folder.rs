//! Where the files of a store lie: in a directory, in memory, or wherever else somebody keeps them.
//!
//! A store needs little of a file system. [`Folder`] is all of it, so that the same [`crate::Writer`] and [`crate::Reader`] work on a
//! [`Directory`], on [`Memory`], and on a database that keeps files sealed. What a folder must hold to for the store's promises:
//!
//! * *A file of [`Folder::create`] is written once, front to back, and never changed.* Once it is finished and [`Folder::sync`]
//!   returned, it survives whatever the folder survives.
//! * *[`Folder::replace`] is all or nothing*: whoever opens the file meanwhile, or after a crash, has the old one or the new one. What
//!   was synced before it is not lost if it is there.
//! * *What was opened stays readable* when its file is replaced or removed. A tail may be opened while it is written, and then shows
//!   what was written so far.
//! * *Tails alone are written by place*: at their end, but for the two marks of their head (`durable`), which every sync writes again.
//!   What they hold is in segments once [`crate::Writer::finish_sealed`] returned, so a folder need not keep them for longer.
//!
//! All calls may block. They come from the threads of whoever uses the store, and those that seal a tail from a thread of the crate's
//! own, named `seal`. Errors are the system's, or the folder's own; the crate adds the file's name to them.

mod directory;
mod memory;

use std::{
    fmt,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    Error,
    manifest::{LOCK, MANIFEST},
};

pub use directory::Directory;
pub use memory::Memory;

/// The files of one store, by name. The module's description says what an implementation must hold to.
pub trait Folder: fmt::Debug + Send + Sync {
    /// What errors call it; the name of the file follows it. Nobody opens it.
    fn place(&self) -> &Path;

    /// The names of all files.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens a file for reading; [`io::ErrorKind::NotFound`] if it is not there.
    fn open(&self, name: &str) -> io::Result<Arc<dyn ReadAt>>;

    /// Makes a file that is written once, front to back. What had its name is overwritten. One that is dropped before its end counts
    /// for nothing, whether it is listed or not.
    fn create(&self, name: &str) -> io::Result<Box<dyn WriteOnce>>;

    /// Makes an empty tail. What had its name is overwritten.
    fn create_tail(&self, name: &str) -> io::Result<Box<dyn WriteAt>>;

    /// Opens a tail to go on with it; [`io::ErrorKind::NotFound`] if it is not there. Only a store that was not finished has one.
    fn open_tail(&self, name: &str) -> io::Result<Box<dyn WriteAt>>;

    /// Puts `bytes` in the place of a file as a whole, whether there was one or not. It lasts when this returns.
    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Removes a file; that it is gone already is fine.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes the names of finished files last.
    fn sync(&self) -> io::Result<()>;

    /// Takes the lock of this name, or fails with [`io::ErrorKind::WouldBlock`] if another writer holds it.
    fn lock(&self, name: &str) -> io::Result<Lock>;

    /// The whole of a small file: the manifest, or definitions.
    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let file = self.open(name)?;
        let length = usize::try_from(file.length()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}

/// A lock that is held until it is dropped.
pub type Lock = Box<dyn fmt::Debug + Send + Sync>;

/// A file that is read by place. Several threads may do so at once.
///
/// Of segments the footer is read first, in one piece; then blocks of 8 KiB to some MiB, most of them near the one before.
pub trait ReadAt: fmt::Debug + Send + Sync {
    /// Its length in bytes as it is now.
    fn length(&self) -> io::Result<u64>;

    /// Fills `buffer` from byte `offset` on; [`io::ErrorKind::UnexpectedEof`] if the file ends before.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

/// A file that is written once, front to back. It comes in pieces of many sizes, hardly ever small ones.
pub trait WriteOnce: Write + Send {
    /// The file is whole. Its bytes last when this returns, and its name after [`Folder::sync`].
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// A tail as its writer has it.
pub trait WriteAt: fmt::Debug + Send + Sync {
    /// Writes all of `bytes` at `offset`, which is not beyond the end.
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Cuts it off.
    fn set_length(&mut self, length: u64) -> io::Result<()>;

    /// Makes what was written last.
    fn sync(&mut self) -> io::Result<()>;
}

/// What a file of a store is, which its name tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// `manifest.json`: names all others, and is replaced as a whole.
    Manifest,
    /// `manifest.json.tmp`: a manifest that is not in its place yet.
    Draft,
    /// `lock`: held by the writer.
    Lock,
    /// `tail-7.log`: changes that are not sealed yet.
    Tail,
    /// `seg-5-0.parquet`: sealed changes.
    Segment,
    /// `schemas-5.json`: definitions of tables.
    Schemas,
    /// `damaged-6-90.log`: what stood behind damage in a tail.
    Damaged,
}

impl FileKind {
    /// The kind of the file of this name; none if a store has no such files.
    pub fn of(name: &str) -> Option<Self> {
        const NUMBERED: [(&str, &str, FileKind); 4] = [
            ("tail-", ".log", FileKind::Tail),
            ("seg-", ".parquet", FileKind::Segment),
            ("schemas-", ".json", FileKind::Schemas),
            ("damaged-", ".log", FileKind::Damaged),
        ];
        match name {
            MANIFEST => return Some(Self::Manifest),
            "manifest.json.tmp" => return Some(Self::Draft),
            LOCK => return Some(Self::Lock),
            _ => {}
        }
        let digits = |digits: &str| {
            !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-')
        };
        let (.., kind) = NUMBERED.iter().find(|(before, after, _)| {
            name.strip_prefix(before)
                .and_then(|rest| rest.strip_suffix(after))
                .is_some_and(digits)
        })?;
        Some(*kind)
    }

    /// Whether nothing of it is needed in a store that [`crate::Writer::finish_sealed`] has finished.
    pub fn is_temporary(self) -> bool {
        match self {
            Self::Draft | Self::Lock | Self::Tail => true,
            Self::Manifest | Self::Segment | Self::Schemas | Self::Damaged => false,
        }
    }
}

/// A folder as this crate uses it: whatever fails, the error names the file.
#[derive(Clone, Debug)]
pub(crate) struct Files(Arc<dyn Folder>);

impl Files {
    pub(crate) fn new(folder: Arc<dyn Folder>) -> Self {
        Self(folder)
    }

    pub(crate) fn place(&self) -> &Path {
        self.0.place()
    }

    /// What errors call the file.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place().join(name)
    }

    fn named<T>(&self, name: &str, done: io::Result<T>) -> Result<T, Error> {
        done.map_err(|e| Error::io(&self.path(name), e))
    }

    fn whole<T>(&self, done: io::Result<T>) -> Result<T, Error> {
        done.map_err(|e| Error::io(self.place(), e))
    }

    pub(crate) fn list(&self) -> Result<Vec<String>, Error> {
        self.whole(self.0.list())
    }

    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.whole(self.0.sync())
    }

    pub(crate) fn open(&self, name: &str) -> Result<Arc<dyn ReadAt>, Error> {
        self.named(name, self.0.open(name))
    }

    /// Opens a file that must be there, because the manifest names it and nothing deletes it.
    pub(crate) fn open_kept(&self, name: &str) -> Result<Arc<dyn ReadAt>, Error> {
        match self.0.open(name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Error::corrupt(
                &self.path(name),
                "the manifest names it, and it is not there",
            )),
            other => self.named(name, other),
        }
    }

    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>, Error> {
        self.named(name, self.0.read(name))
    }

    pub(crate) fn create(&self, name: &str) -> Result<Box<dyn WriteOnce>, Error> {
        self.named(name, self.0.create(name))
    }

    /// Writes a whole file.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let mut file = self.create(name)?;
        self.named(name, file.write_all(bytes).and_then(|()| file.finish()))
    }

    pub(crate) fn create_tail(&self, name: &str) -> Result<Box<dyn WriteAt>, Error> {
        self.named(name, self.0.create_tail(name))
    }

    pub(crate) fn open_tail(&self, name: &str) -> Result<Box<dyn WriteAt>, Error> {
        self.named(name, self.0.open_tail(name))
    }

    pub(crate) fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.named(name, self.0.replace(name, bytes))
    }

    pub(crate) fn remove(&self, name: &str) -> Result<(), Error> {
        self.named(name, self.0.remove(name))
    }

    /// Takes the lock that only one writer can hold.
    pub(crate) fn lock(&self) -> Result<Lock, Error> {
        match self.0.lock(LOCK) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(Error::Locked {
                dir: self.place().to_owned(),
            }),
            other => self.named(LOCK, other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::FileKind;

    #[test]
    fn a_name_tells_what_a_file_is() {
        for (name, kind) in [
            ("manifest.json", FileKind::Manifest),
            ("manifest.json.tmp", FileKind::Draft),
            ("lock", FileKind::Lock),
            ("tail-1.log", FileKind::Tail),
            ("seg-12-0.parquet", FileKind::Segment),
            ("schemas-3.json", FileKind::Schemas),
            ("damaged-6-90.log", FileKind::Damaged),
        ] {
            assert_eq!(FileKind::of(name), Some(kind), "{name}");
        }
        for name in [
            "tail-.log",
            "tail-1.log.bak",
            "seg-x.parquet",
            "notes.txt",
            "my-tail-1.log",
            "",
        ] {
            assert_eq!(FileKind::of(name), None, "{name}");
        }
    }
}
