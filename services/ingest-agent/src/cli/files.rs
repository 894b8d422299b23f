//! Files that `trail` writes for a person: whole or not at all, readable by that person only, never over another one unasked.

use std::{
    fs,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;
use types::Code;

use crate::error::Error;

/// A file that appears under its name only when [`NewFile::publish`] is called.
pub(super) struct NewFile {
    path: PathBuf,
    overwrite: bool,
    file: BufWriter<NamedTempFile>,
}

impl NewFile {
    /// Refuses at once what would be refused in the end. The temporary file lies beside `path` and has mode 0600.
    pub(super) fn create(path: &Path, overwrite: bool) -> Result<Self, Error> {
        if !overwrite && path.symlink_metadata().is_ok() {
            return Err(exists(path));
        }
        if path.is_dir() {
            return Err(Error::new(Code::Invalid, path.display(), "it is a folder"));
        }
        let folder = folder_of(path);
        let file = NamedTempFile::new_in(folder).map_err(|error| Error::from_io(path.display(), &error))?;
        Ok(Self {
            path: path.to_owned(),
            overwrite,
            file: BufWriter::new(file),
        })
    }

    /// Writes the content.
    pub(super) fn write(
        &mut self,
        content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Error> {
        content(&mut self.file)
            .and_then(|()| self.file.flush())
            .and_then(|()| self.file.get_ref().as_file().sync_all())
            .map_err(|error| Error::from_io(self.path.display(), &error))
    }

    /// Gives the file its name.
    pub(super) fn publish(self) -> Result<(), Error> {
        let Self {
            path,
            overwrite,
            file,
        } = self;
        let file = file
            .into_inner()
            .map_err(|error| Error::from_io(path.display(), error.error()))?;
        let named = if overwrite {
            file.persist(&path)
        } else {
            file.persist_noclobber(&path)
        };
        named.map_err(|failed| match failed.error.kind() {
            io::ErrorKind::AlreadyExists => exists(&path),
            _ => Error::from_io(path.display(), &failed.error),
        })?;
        let folder = folder_of(&path);
        // The content is on disk already; should the name be lost in a crash, the person runs the command again.
        let _ = fs::File::open(folder).and_then(|folder| folder.sync_all());
        Ok(())
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn exists(path: &Path) -> Error {
    Error::new(Code::Conflict, path.display(), "the file exists already")
        .hint("choose another name, or give --overwrite")
}
