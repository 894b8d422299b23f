//! Files that are bytes of this process.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{Folder, Lock, ReadAt, WriteAt, WriteOnce};

/// Bytes that a file takes at once. A file that grows is never moved, as a single buffer of its size would be.
const BLOCK: usize = 256 << 10;

/// A folder in memory, which goes with its last user: for stores that need not last, and as a part of folders that keep their tails in
/// memory. Nothing bounds it; [`Memory::bytes`] tells how much it holds.
pub struct Memory {
    place: PathBuf,
    files: Mutex<BTreeMap<String, Arc<Stored>>>,
    locked: Arc<AtomicBool>,
}

impl Memory {
    /// An empty folder that errors call `place`.
    pub fn new(place: impl Into<PathBuf>) -> Self {
        Self {
            place: place.into(),
            files: Mutex::default(),
            locked: Arc::default(),
        }
    }

    /// Bytes of all files. One that was removed and is still read is not counted.
    pub fn bytes(&self) -> u64 {
        self.files().values().map(|file| file.content().length()).sum()
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Stored>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, name: &str) -> io::Result<Arc<Stored>> {
        self.files()
            .get(name)
            .map(Arc::clone)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn put(&self, name: &str, content: Content) -> Arc<Stored> {
        let file = Arc::new(Stored(RwLock::new(content)));
        self.files().insert(name.to_owned(), Arc::clone(&file));
        file
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new("memory")
    }
}

impl fmt::Debug for Memory {
    /// Without what the files hold: it is somebody's rows.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = &self.place;
        f.debug_struct("Memory")
            .field("place", place)
            .finish_non_exhaustive()
    }
}

impl Folder for Memory {
    fn place(&self) -> &Path {
        &self.place
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.files().keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn ReadAt>> {
        Ok(self.get(name)?)
    }

    /// It is listed from now on, as in a directory.
    fn create(&self, name: &str) -> io::Result<Box<dyn WriteOnce>> {
        Ok(Box::new(Writing(self.put(name, Content::default()))))
    }

    fn create_tail(&self, name: &str) -> io::Result<Box<dyn WriteAt>> {
        Ok(Box::new(Writing(self.put(name, Content::default()))))
    }

    fn open_tail(&self, name: &str) -> io::Result<Box<dyn WriteAt>> {
        Ok(Box::new(Writing(self.get(name)?)))
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut content = Content::default();
        content.write(bytes, 0)?;
        self.put(name, content);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files().remove(name);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    /// A store has one lock, so its name does not matter.
    fn lock(&self, _: &str) -> io::Result<Lock> {
        if self.locked.swap(true, Ordering::Acquire) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Held(Arc::clone(&self.locked))))
    }
}

#[derive(Debug)]
struct Held(Arc<AtomicBool>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// The bytes of a file: blocks of which all but the last are full.
#[derive(Default)]
struct Content(Vec<Vec<u8>>);

impl Content {
    fn length(&self) -> u64 {
        match self.0.split_last() {
            Some((last, full)) => (full.len() * BLOCK + last.len()) as u64,
            None => 0,
        }
    }

    /// Copies from byte `at` on; false if the file ends before `out` does.
    fn read(&self, mut out: &mut [u8], at: u64) -> bool {
        let Ok(mut at) = usize::try_from(at) else {
            return out.is_empty();
        };
        while !out.is_empty() {
            let block = self.0.get(at / BLOCK).and_then(|block| block.get(at % BLOCK..));
            let Some(block) = block.filter(|block| !block.is_empty()) else {
                return false;
            };
            let (now, later) = out.split_at_mut(block.len().min(out.len()));
            now.copy_from_slice(&block[..now.len()]);
            at += now.len();
            out = later;
        }
        true
    }

    fn write(&mut self, mut bytes: &[u8], at: u64) -> io::Result<()> {
        if at > self.length() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a write beyond the end of a file",
            ));
        }
        // Not beyond what is in memory.
        let mut at = at as usize;
        while !bytes.is_empty() {
            if at / BLOCK == self.0.len() {
                self.0.push(Vec::new());
            }
            let (block, from) = (&mut self.0[at / BLOCK], at % BLOCK);
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - from));
            let over = now.len().min(block.len() - from);
            block[from..from + over].copy_from_slice(&now[..over]);
            block.extend_from_slice(&now[over..]);
            at += now.len();
            bytes = later;
        }
        Ok(())
    }

    fn cut(&mut self, length: u64) {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        self.0.truncate(length.div_ceil(BLOCK));
        if let Some(last) = self.0.get_mut(length / BLOCK) {
            last.truncate(length % BLOCK);
        }
    }
}

struct Stored(RwLock<Content>);

impl Stored {
    fn content(&self) -> std::sync::RwLockReadGuard<'_, Content> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn content_mut(&self) -> std::sync::RwLockWriteGuard<'_, Content> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Stored {
    /// See [`Memory`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.content().length();
        f.debug_struct("Stored")
            .field("bytes", &bytes)
            .finish_non_exhaustive()
    }
}

impl ReadAt for Stored {
    fn length(&self) -> io::Result<u64> {
        Ok(self.content().length())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if self.content().read(buffer, offset) {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}

/// A file that is written.
#[derive(Debug)]
struct Writing(Arc<Stored>);

impl Write for Writing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut content = self.0.content_mut();
        let end = content.length();
        content.write(bytes, end)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl WriteOnce for Writing {
    fn finish(self: Box<Self>) -> io::Result<()> {
        Ok(())
    }
}

impl WriteAt for Writing {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.content_mut().write(bytes, offset)
    }

    fn set_length(&mut self, length: u64) -> io::Result<()> {
        self.0.content_mut().cut(length);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{BLOCK, Folder, Memory};

    /// What `Vec` makes of the same writes.
    #[test]
    fn bytes_are_where_they_were_written_across_blocks() {
        let memory = Memory::default();
        let mut tail = memory.create_tail("tail-1.log").unwrap();
        let mut expected: Vec<u8> = Vec::new();
        let writes = [
            (0, 10),
            (10, BLOCK),
            (3, 4),
            (BLOCK, 2 * BLOCK),
            (BLOCK - 1, 2),
            (BLOCK + 10, 0),
        ];
        for (nth, (at, length)) in (1..).zip(writes) {
            let bytes = vec![nth; length];
            tail.write_all_at(&bytes, at as u64).unwrap();
            expected.resize(expected.len().max(at + length), 0);
            expected[at..at + length].copy_from_slice(&bytes);
            assert_eq!(memory.read("tail-1.log").unwrap(), expected, "write {nth}");
        }
        assert!(tail.write_all_at(&[1], expected.len() as u64 + 1).is_err());
        for length in [3 * BLOCK, 2 * BLOCK, BLOCK + 1, BLOCK - 1, 0] {
            tail.set_length(length as u64).unwrap();
            expected.truncate(length);
            assert_eq!(memory.read("tail-1.log").unwrap(), expected, "{length}");
            assert_eq!(memory.bytes(), length as u64);
        }
    }

    #[test]
    fn what_was_opened_stays_readable_and_ends_where_it_ends() {
        let memory = Memory::default();
        memory.replace("manifest.json", b"old").unwrap();
        let old = memory.open("manifest.json").unwrap();
        memory.replace("manifest.json", b"newer").unwrap();
        memory.remove("manifest.json").unwrap();
        memory.remove("manifest.json").unwrap();
        let mut bytes = [0; 3];
        old.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!((&bytes, old.length().unwrap()), (b"old", 3));
        for at in [1, 3, u64::MAX] {
            let beyond = old.read_exact_at(&mut bytes, at).unwrap_err();
            assert_eq!(beyond.kind(), std::io::ErrorKind::UnexpectedEof, "{at}");
        }
        let gone = memory.open("manifest.json").unwrap_err();
        assert_eq!(gone.kind(), std::io::ErrorKind::NotFound);
    }

    #[test]
    fn nothing_of_the_files_is_in_what_is_printed_of_them() {
        let memory = Memory::new("upload");
        memory.replace("manifest.json", b"7777").unwrap();
        let printed = format!("{memory:?} {:?}", memory.open("manifest.json").unwrap());
        assert!(
            printed.contains("upload") && printed.contains("bytes: 4") && !printed.contains("55"),
            "{printed}"
        );
    }
}
