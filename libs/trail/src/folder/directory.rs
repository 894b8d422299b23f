//! The files of a directory, as durable as the store needs them.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{FlockOperation, flock};

use super::{Folder, Lock, ReadAt, WriteAt, WriteOnce};

/// A directory of the file system. Only its owner may read what is made in it: it holds rows of a database.
#[derive(Clone, Debug)]
pub struct Directory {
    dir: PathBuf,
}

impl Directory {
    /// The directory of this path, whether it is there or not.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Makes it if it is not there; only its owner may enter it then.
    pub(crate) fn make(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)
    }

    fn create_file(&self, name: &str) -> io::Result<File> {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(self.dir.join(name))
    }
}

impl Folder for Directory {
    fn place(&self) -> &Path {
        &self.dir
    }

    /// Names that are not UTF-8 have replacements in them; they cannot be a store's.
    fn list(&self) -> io::Result<Vec<String>> {
        fs::read_dir(&self.dir)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn ReadAt>> {
        Ok(Arc::new(File::open(self.dir.join(name))?))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn WriteOnce>> {
        Ok(Box::new(self.create_file(name)?))
    }

    fn create_tail(&self, name: &str) -> io::Result<Box<dyn WriteAt>> {
        Ok(Box::new(self.create_file(name)?))
    }

    fn open_tail(&self, name: &str) -> io::Result<Box<dyn WriteAt>> {
        let file = OpenOptions::new().write(true).open(self.dir.join(name))?;
        Ok(Box::new(file))
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let draft = format!("{name}.tmp");
        let mut file = self.create_file(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(self.dir.join(draft), self.dir.join(name))?;
        self.sync()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.dir.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    /// The lock is the system's, so it ends with the process (flock(2)).
    fn lock(&self, name: &str) -> io::Result<Lock> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.dir.join(name))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(file))
    }
}

impl ReadAt for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }
}

impl WriteOnce for File {
    fn finish(self: Box<Self>) -> io::Result<()> {
        self.sync_all()
    }
}

impl WriteAt for File {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn set_length(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}
