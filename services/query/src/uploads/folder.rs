//! The folder of a store that lies sealed in PostgreSQL.
//!
//! What is finished (segments, definitions, at the end the manifest) is kept piece by piece, each sealed for its place. What is temporary is in memory:
//! a tail, of which no more than [`HELD`] pieces stay there when one transaction makes it longer. The manifest is written last: an attempt
//! that comes to no end has none, and its files are good for nothing.
//!
//! All calls block: they come from threads that may, and wait here for the database.

use std::{
    collections::HashMap,
    fmt,
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::runtime::Handle;
use trail::{FileKind, Folder, Lock, ReadAt, WriteAt, WriteOnce};
use types::{Errand, TenantId};
use zeroize::Zeroizing;

use super::{
    error::Error,
    keys::Keys,
    pieces::{Piece, Pieces},
    seal::Place,
    store::{Files, Store},
    upload::PART,
};

/// For one piece, from the vault to the database.
const AT_MOST: Duration = Duration::from_secs(30);

/// Pieces of one tail that stay in memory.
const HELD: usize = 16;

/// What the manifest is called.
const MANIFEST: &str = "manifest.json";

/// What all files of one store share.
struct Inner {
    store: Store,
    keys: Keys,
    pieces: Pieces,
    runtime: Handle,
    tenant: TenantId,
    files: Files,
    place: PathBuf,
    draft: Mutex<Draft>,
    /// Bytes that may still be kept.
    room: AtomicU64,
}

/// What is there before a store is whole.
#[derive(Default)]
struct Draft {
    manifest: Option<Vec<u8>>,
    tails: HashMap<String, Arc<Tail>>,
    /// Files of which something was kept and that are no part of the store.
    temporary: Vec<String>,
}

/// A store's folder. Clones are the same.
#[derive(Clone)]
pub(super) struct Shelf(Arc<Inner>);

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shelf({})", self.0.place.display())
    }
}

fn failed(error: Error) -> io::Error {
    match error {
        Error::Missing => io::Error::new(ErrorKind::NotFound, error),
        other => io::Error::other(other),
    }
}

fn has<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn index(offset: u64) -> u64 {
    offset / PART as u64
}

/// Where within its piece.
fn within(offset: u64) -> usize {
    // Less than the length of a piece.
    (offset % PART as u64) as usize
}

impl Shelf {
    /// Of these files. To be made inside a runtime.
    pub(super) fn new(store: Store, keys: Keys, pieces: Pieces, tenant: TenantId, files: Files) -> Self {
        Self(Arc::new(Inner {
            store,
            keys,
            pieces,
            runtime: Handle::current(),
            tenant,
            place: PathBuf::from(files.upload.to_string()),
            files,
            draft: Mutex::default(),
            room: AtomicU64::new(0),
        }))
    }

    /// Takes so many bytes, and no more; none before it is told.
    pub(super) fn give_room(&self, bytes: u64) {
        self.0.room.store(bytes, Relaxed);
    }

    /// Keeps the manifest: from now on the store is whole. Gives the names of files that are no part of it.
    pub(super) fn publish(&self) -> io::Result<Vec<String>> {
        let manifest = has(&self.0.draft).manifest.take();
        let manifest = manifest.ok_or_else(|| io::Error::from(ErrorKind::NotFound))?;
        let mut file = Once::new(self, MANIFEST);
        file.write_all(&manifest)?;
        Box::new(file).finish()?;
        Ok(std::mem::take(&mut has(&self.0.draft).temporary))
    }

    fn errand(&self) -> Errand {
        Errand {
            tenant: self.0.tenant,
            deadline: Instant::now() + AT_MOST,
        }
    }

    fn wait<T>(&self, work: impl Future<Output = Result<T, Error>>) -> io::Result<T> {
        self.0.runtime.block_on(work).map_err(failed)
    }

    fn place<'a>(&self, name: &'a str, number: u64, last: bool) -> Place<'a> {
        Place {
            tenant: self.0.tenant,
            upload: self.0.files.upload,
            file: Some((self.0.files.attempt, name)),
            number,
            last,
        }
    }

    fn piece(&self, name: &str, number: u64, last: bool) -> io::Result<Piece> {
        let (tenant, upload) = (self.0.tenant, self.0.files.upload);
        let kept = || self.0.pieces.get(self.0.files, name, number);
        if self.0.keys.is_open(tenant, upload)
            && let Some(piece) = kept()
        {
            return Ok(piece);
        }
        let errand = self.errand();
        let piece = self.wait(async {
            let key = self.0.keys.get(&errand, upload).await;
            if matches!(key, Err(Error::Missing)) {
                self.0.pieces.forget(upload);
            }
            let key = key?;
            if let Some(piece) = kept() {
                return Ok(piece);
            }
            let sealed = self.0.store.piece(&errand, self.0.files, name, number).await?;
            let open = key.open(&self.place(name, number, last), sealed)?;
            Ok(Arc::new(Zeroizing::new(open)))
        })?;
        self.0.pieces.put(self.0.files, name, number, &piece);
        Ok(piece)
    }

    /// Keeps a piece of a file that is `bytes` long with it.
    fn keep(&self, name: &str, (number, last): (u64, bool), bytes: u64, plain: &[u8]) -> io::Result<()> {
        let taken = |room: u64| room.checked_sub(plain.len() as u64);
        let room = self.0.room.fetch_update(Relaxed, Relaxed, taken);
        room.map_err(|_| failed(Error::OpensTooFar))?;
        let errand = self.errand();
        self.wait(async {
            let key = self.0.keys.get(&errand, self.0.files.upload).await?;
            let sealed = key.seal(&self.place(name, number, last), plain)?;
            let piece = (!plain.is_empty()).then_some((number, sealed));
            self.0.store.put(&errand, self.0.files, name, bytes, piece).await
        })
    }

    fn new_tail(&self, name: &str) -> Arc<Tail> {
        let tail = Arc::new(Tail {
            shelf: self.clone(),
            name: name.to_owned(),
            slots: Mutex::default(),
        });
        has(&self.0.draft).tails.insert(name.to_owned(), tail.clone());
        tail
    }
}

fn is_temporary(name: &str) -> bool {
    FileKind::of(name).is_some_and(FileKind::is_temporary)
}

impl Folder for Shelf {
    fn place(&self) -> &Path {
        &self.0.place
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let errand = self.errand();
        let mut names = self.wait(self.0.store.names(&errand, self.0.files))?;
        // What is kept of a tail is for its own reading.
        names.retain(|name| !is_temporary(name));
        let draft = has(&self.0.draft);
        names.extend(draft.tails.keys().cloned());
        names.extend(draft.manifest.is_some().then(|| MANIFEST.to_owned()));
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn ReadAt>> {
        let draft = has(&self.0.draft);
        if let Some(tail) = draft.tails.get(name) {
            return Ok(tail.clone());
        }
        if name == MANIFEST
            && let Some(manifest) = &draft.manifest
        {
            return Ok(Arc::new(Whole(manifest.clone())));
        }
        drop(draft);
        if is_temporary(name) {
            return Err(ErrorKind::NotFound.into());
        }
        let errand = self.errand();
        let length = self.wait(self.0.store.length(&errand, self.0.files, name))?;
        let gone = || match name {
            MANIFEST => ErrorKind::NotFound.into(),
            // The manifest names it: it is not damaged, but the upload was deleted while somebody asks it.
            _ => io::Error::other(Error::Missing),
        };
        Ok(Arc::new(Stored {
            shelf: self.clone(),
            name: name.to_owned(),
            bytes: length.ok_or_else(gone)?,
        }))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn WriteOnce>> {
        Ok(Box::new(Once::new(self, name)))
    }

    fn create_tail(&self, name: &str) -> io::Result<Box<dyn WriteAt>> {
        Ok(Box::new(Open(self.new_tail(name))))
    }

    fn open_tail(&self, name: &str) -> io::Result<Box<dyn WriteAt>> {
        let tail = has(&self.0.draft).tails.get(name).cloned();
        Ok(Box::new(Open(tail.ok_or(ErrorKind::NotFound)?)))
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if name != MANIFEST {
            return Err(ErrorKind::Unsupported.into());
        }
        has(&self.0.draft).manifest = Some(bytes.to_vec());
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        if has(&self.0.draft).tails.remove(name).is_some() || is_temporary(name) {
            return Ok(());
        }
        let errand = self.errand();
        self.wait(self.0.store.remove(&errand, self.0.files, name))
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, _: &str) -> io::Result<Lock> {
        // The lease of the upload is the lock.
        Ok(Box::new(()))
    }
}

/// A file in memory.
#[derive(Debug)]
struct Whole(Vec<u8>);

impl ReadAt for Whole {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let range = from..from.saturating_add(buffer.len());
        let bytes = self.0.get(range).ok_or(ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

/// A file that is finished.
#[derive(Debug)]
struct Stored {
    shelf: Shelf,
    name: String,
    bytes: u64,
}

impl ReadAt for Stored {
    fn length(&self) -> io::Result<u64> {
        Ok(self.bytes)
    }

    fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.bytes) {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        while !buffer.is_empty() {
            let number = index(offset);
            let last = number == index(self.bytes - 1);
            let piece = self.shelf.piece(&self.name, number, last)?;
            let bytes = piece.get(within(offset)..).filter(|bytes| !bytes.is_empty());
            // A piece that opens is as long as it was when it was sealed.
            let bytes = bytes.ok_or_else(|| failed(Error::Changed))?;
            let count = bytes.len().min(buffer.len());
            let (now, rest) = buffer.split_at_mut(count);
            now.copy_from_slice(&bytes[..count]);
            offset += count as u64;
            buffer = rest;
        }
        Ok(())
    }
}

/// A file that is written front to back.
struct Once {
    shelf: Shelf,
    name: String,
    pending: Zeroizing<Vec<u8>>,
    number: u64,
}

impl Once {
    fn new(shelf: &Shelf, name: &str) -> Self {
        has(&shelf.0.draft).temporary.push(name.to_owned());
        Self {
            shelf: shelf.clone(),
            name: name.to_owned(),
            // It never grows, so nothing of it is left behind.
            pending: Zeroizing::new(Vec::with_capacity(PART)),
            number: 0,
        }
    }

    fn keep(&mut self, last: bool) -> io::Result<()> {
        let bytes = self.number * PART as u64 + self.pending.len() as u64;
        let place = (self.number, last);
        self.shelf.keep(&self.name, place, bytes, &self.pending)?;
        self.number += 1;
        self.pending.clear();
        Ok(())
    }
}

impl Write for Once {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Not before there is more: the last piece is sealed as the last one.
        if self.pending.len() == PART && !bytes.is_empty() {
            self.keep(false)?;
        }
        let count = bytes.len().min(PART - self.pending.len());
        self.pending.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl WriteOnce for Once {
    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.keep(true)?;
        has(&self.shelf.0.draft)
            .temporary
            .retain(|name| *name != self.name);
        Ok(())
    }
}

/// A file that grows at its end. Its first piece stays in memory, because parts of it are written again.
struct Tail {
    shelf: Shelf,
    name: String,
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    /// All but the last are full.
    all: Vec<Slot>,
    /// Those from the second up to here are out of memory.
    kept: usize,
}

enum Slot {
    Held(Zeroizing<Vec<u8>>),
    Kept,
}

impl fmt::Debug for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tail({})", self.name)
    }
}

impl Slots {
    fn length(&self) -> u64 {
        let last = match self.all.last() {
            None => return 0,
            Some(Slot::Held(bytes)) => bytes.len(),
            Some(Slot::Kept) => PART,
        };
        (self.all.len() - 1) as u64 * PART as u64 + last as u64
    }

    /// The piece that `offset` is in, if it is in memory; a new one at the end.
    fn held(&mut self, offset: u64) -> io::Result<&mut Zeroizing<Vec<u8>>> {
        if offset > self.length() {
            return Err(ErrorKind::InvalidInput.into());
        }
        let number = usize::try_from(index(offset)).unwrap_or(usize::MAX);
        if number == self.all.len() {
            let new = Zeroizing::new(Vec::with_capacity(PART));
            self.all.push(Slot::Held(new));
        }
        match self.all.get_mut(number) {
            Some(Slot::Held(bytes)) => Ok(bytes),
            _ => Err(ErrorKind::Unsupported.into()),
        }
    }
}

impl Tail {
    /// Puts pieces out of memory that are too many there.
    fn make_room(&self, slots: &mut Slots) -> io::Result<()> {
        while slots.all.len() - slots.kept > HELD {
            let number = slots.kept + 1;
            let Some(Slot::Held(bytes)) = slots.all.get(number) else {
                return Ok(());
            };
            if slots.kept == 0 {
                has(&self.shelf.0.draft).temporary.push(self.name.clone());
            }
            let place = (number as u64, false);
            self.shelf.keep(&self.name, place, 0, bytes)?;
            slots.all[number] = Slot::Kept;
            slots.kept += 1;
        }
        Ok(())
    }
}

impl ReadAt for Tail {
    fn length(&self) -> io::Result<u64> {
        Ok(has(&self.slots).length())
    }

    fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            let number = index(offset);
            let slots = has(&self.slots);
            let slot = usize::try_from(number).ok().and_then(|at| slots.all.get(at));
            let kept;
            let bytes = match slot.ok_or(ErrorKind::UnexpectedEof)? {
                Slot::Held(bytes) => bytes,
                Slot::Kept => {
                    kept = self.shelf.piece(&self.name, number, false)?;
                    &*kept
                }
            };
            let bytes = bytes.get(within(offset)..).filter(|bytes| !bytes.is_empty());
            let bytes = bytes.ok_or(ErrorKind::UnexpectedEof)?;
            let count = bytes.len().min(buffer.len());
            let (now, rest) = buffer.split_at_mut(count);
            now.copy_from_slice(&bytes[..count]);
            offset += count as u64;
            buffer = rest;
        }
        Ok(())
    }
}

/// A tail, for its one writer.
#[derive(Debug)]
struct Open(Arc<Tail>);

impl WriteAt for Open {
    fn write_all_at(&mut self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        let mut slots = has(&self.0.slots);
        while !bytes.is_empty() {
            let piece = slots.held(offset)?;
            let at = within(offset);
            let count = bytes.len().min(PART - at);
            let (now, rest) = bytes.split_at(count);
            let over = count.min(piece.len().saturating_sub(at));
            piece[at..at + over].copy_from_slice(&now[..over]);
            piece.extend_from_slice(&now[over..]);
            offset += count as u64;
            bytes = rest;
            self.0.make_room(&mut slots)?;
        }
        Ok(())
    }

    fn set_length(&mut self, length: u64) -> io::Result<()> {
        let mut slots = has(&self.0.slots);
        if length >= slots.length() {
            return (length == slots.length())
                .then_some(())
                .ok_or_else(|| ErrorKind::Unsupported.into());
        }
        let piece = slots.held(length)?;
        piece.truncate(within(length));
        let count = usize::try_from(index(length)).unwrap_or(usize::MAX);
        slots.all.truncate(count.saturating_add(1));
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}
