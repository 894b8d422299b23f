//! The file that a tenant travels in.
//!
//! `TMARCH1\n`, 32 random bytes (the salt), 16 bytes that show whether a key is the right one, and chunks: four bytes of length (big endian),
//! then AES-256-GCM ciphertext with its tag, of at most 64 KiB of text. The key of a file is HKDF-SHA256 of the operator's key and the salt, so
//! that two files never share one. A chunk's nonce is its number and whether it is the last, and what it authenticates beside its text is the
//! head of the file: chunks that are left out, put in, swapped, cut off or brought from another file do not open. The text is lines, see
//! `crate::tenant::content`.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use chassis::SecretString;
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, KeyType, Salt},
};

const MAGIC: &[u8; 8] = b"TMARCH1\n";
const SALT: usize = 32;
const CHECK: usize = 16;
const HEAD: usize = MAGIC.len() + SALT + CHECK;
const TAG: usize = 16;
/// Text of one chunk.
const CHUNK: usize = 64 << 10;

/// Why a file is not taken, or not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("TRAILMESH_ARCHIVE_KEY is not 32 bytes in base64; make one with: openssl rand -base64 32")]
    Key,
    #[error("{} exists already: name another file", .0.display())]
    Exists(PathBuf),
    #[error("{} exists already: another export writes it, or one that was killed has left it; then remove it", .0.display())]
    Begun(PathBuf),
    #[error("{} cannot be written", .0.display())]
    Write(PathBuf, #[source] io::Error),
    #[error("{} cannot be read", .0.display())]
    Read(PathBuf, #[source] io::Error),
    #[error("{} is no archive of a tenant, or one of another version of this program", .0.display())]
    Foreign(PathBuf),
    #[error("{} was made with another key than TRAILMESH_ARCHIVE_KEY, or its beginning is damaged", .0.display())]
    OtherKey(PathBuf),
    #[error("{} is damaged: chunk {} was changed, moved, or left out", .0.display(), .1)]
    Damaged(PathBuf, u64),
    #[error("{} is not whole: it ends after chunk {}", .0.display(), .1)]
    CutOff(PathBuf, u64),
    #[error("{} has something after its end", .0.display())]
    Longer(PathBuf),
    #[error("the system has no randomness")]
    Randomness,
}

/// The operator's key.
pub(crate) struct Key([u8; 32]);

impl Key {
    pub(crate) fn new(text: &SecretString) -> Result<Self, Error> {
        let bytes = BASE64_STANDARD
            .decode(text.expose().trim())
            .map_err(|_| Error::Key)?;
        bytes.try_into().map(Self).map_err(|_| Error::Key)
    }

    /// The key of one file, and what shows that it is the right one.
    fn of_file(&self, salt: &[u8]) -> Result<(LessSafeKey, [u8; CHECK]), Error> {
        struct Length(usize);
        impl KeyType for Length {
            fn len(&self) -> usize {
                self.0
            }
        }
        let fail = |_: ring::error::Unspecified| Error::Key;
        let derived = Salt::new(HKDF_SHA256, salt).extract(&self.0);
        let mut check = [0; CHECK];
        let words: [&[u8]; 1] = [b"trailmesh archive check"];
        derived
            .expand(&words, Length(CHECK))
            .and_then(|text| text.fill(&mut check))
            .map_err(fail)?;
        let words: [&[u8]; 1] = [b"trailmesh archive chunks"];
        let key = derived.expand(&words, &AES_256_GCM).map_err(fail)?;
        Ok((LessSafeKey::new(UnboundKey::from(key)), check))
    }
}

fn nonce(number: u64, last: bool) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes[NONCE_LEN - 1] = u8::from(last);
    Nonce::assume_unique_for_key(bytes)
}

/// A file that is being made: it has its name only when it is whole.
pub(crate) struct Writer {
    path: PathBuf,
    partial: PathBuf,
    file: BufWriter<File>,
    key: LessSafeKey,
    head: Vec<u8>,
    number: u64,
    text: Vec<u8>,
}

impl Writer {
    pub(crate) fn create(path: &Path, key: &Key) -> Result<Self, Error> {
        if path.exists() {
            return Err(Error::Exists(path.to_owned()));
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let partial = path.with_file_name(name);
        // Never one that is there, nor one that a link leads to: somebody else may be writing it, or be able to read it.
        let options = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&partial);
        let file = options.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Error::Begun(partial.clone()),
            _ => Error::Write(path.to_owned(), error),
        })?;
        let mut salt = [0; SALT];
        let random = ring::rand::SystemRandom::new();
        ring::rand::SecureRandom::fill(&random, &mut salt).map_err(|_| Error::Randomness)?;
        let (key, check) = key.of_file(&salt)?;
        let head = [&MAGIC[..], &salt, &check].concat();
        let mut writer = Self {
            path: path.to_owned(),
            partial,
            file: BufWriter::new(file),
            key,
            number: 0,
            text: Vec::with_capacity(CHUNK * 2),
            head,
        };
        let head = writer.head.clone();
        writer.put(&head)?;
        Ok(writer)
    }

    /// Adds a line.
    pub(crate) fn line(&mut self, line: &str) -> Result<(), Error> {
        self.text.extend_from_slice(line.as_bytes());
        self.text.push(b'\n');
        if self.text.len() <= CHUNK {
            return Ok(());
        }
        // The last chunk is another one than those before it, so something is kept for it.
        let text = std::mem::take(&mut self.text);
        let mut chunks = text.chunks(CHUNK).peekable();
        while let Some(chunk) = chunks.next() {
            match chunks.peek() {
                Some(_) => self.chunk(chunk.to_vec(), false)?,
                None => self.text.extend_from_slice(chunk),
            }
        }
        Ok(())
    }

    /// Ends the file, and gives it its name once all of it is on the disk.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        let text = std::mem::take(&mut self.text);
        self.chunk(text, true)?;
        let failed = |error| Error::Write(self.path.clone(), error);
        self.file.flush().map_err(failed)?;
        self.file.get_ref().sync_all().map_err(failed)?;
        // Unlike renaming, this never replaces a file that has come to be meanwhile.
        fs::hard_link(&self.partial, &self.path).map_err(failed)?;
        fs::remove_file(&self.partial).map_err(failed)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder =
            File::open(folder.unwrap_or_else(|| Path::new("."))).and_then(|folder| folder.sync_all());
        folder.map_err(failed)
    }

    fn chunk(&mut self, mut text: Vec<u8>, last: bool) -> Result<(), Error> {
        let sealed =
            self.key
                .seal_in_place_append_tag(nonce(self.number, last), Aad::from(&self.head), &mut text);
        sealed.map_err(|_| Error::Key)?;
        self.number += 1;
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes();
        self.put(&length)?;
        self.put(&text)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file
            .write_all(bytes)
            .map_err(|error| Error::Write(self.path.clone(), error))
    }
}

impl Drop for Writer {
    /// What is not whole stays nowhere. After `finish` there is nothing of this name.
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.partial);
    }
}

/// A file that is being read. Lines come out only of chunks that are what was written.
pub(crate) struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    key: LessSafeKey,
    head: Vec<u8>,
    number: u64,
    text: Vec<u8>,
    read: usize,
    ended: bool,
}

impl Reader {
    pub(crate) fn open(path: &Path, key: &Key) -> Result<Self, Error> {
        let failed = |error| Error::Read(path.to_owned(), error);
        let mut file = BufReader::new(File::open(path).map_err(failed)?);
        let mut head = vec![0; HEAD];
        match file.read_exact(&mut head) {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(failed(error)),
            Ok(()) if head.starts_with(MAGIC) => {}
            _ => return Err(Error::Foreign(path.to_owned())),
        }
        let (key, check) = key.of_file(&head[MAGIC.len()..MAGIC.len() + SALT])?;
        if head[MAGIC.len() + SALT..] != check {
            return Err(Error::OtherKey(path.to_owned()));
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            key,
            head,
            number: 0,
            text: Vec::new(),
            read: 0,
            ended: false,
        })
    }

    /// The next line; none after the last, once it is certain that it was the last.
    pub(crate) fn line(&mut self) -> Result<Option<String>, Error> {
        let mut searched = self.read;
        loop {
            let end = self.text[searched..].iter().position(|byte| *byte == b'\n');
            if let Some(end) = end.map(|end| searched + end) {
                let line = self.text[self.read..end].to_vec();
                self.read = end + 1;
                let damaged = |_| Error::Damaged(self.path.clone(), self.number);
                return String::from_utf8(line).map(Some).map_err(damaged);
            }
            if self.ended {
                let whole = self.read == self.text.len();
                return whole
                    .then_some(None)
                    .ok_or_else(|| Error::CutOff(self.path.clone(), self.number));
            }
            self.text.drain(..self.read);
            self.read = 0;
            searched = self.text.len();
            self.chunk()?;
        }
    }

    fn chunk(&mut self) -> Result<(), Error> {
        let mut length = [0; 4];
        self.fill(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if !(TAG..=CHUNK + TAG).contains(&length) {
            return Err(Error::Damaged(self.path.clone(), self.number + 1));
        }
        let mut sealed = vec![0; length];
        self.fill(&mut sealed)?;
        for last in [false, true] {
            let mut copy = sealed.clone();
            let opened = self
                .key
                .open_in_place(nonce(self.number, last), Aad::from(&self.head), &mut copy);
            if let Ok(text) = opened {
                self.text.extend_from_slice(text);
                self.number += 1;
                self.ended = last;
                return if last { self.nothing_more() } else { Ok(()) };
            }
        }
        Err(Error::Damaged(self.path.clone(), self.number + 1))
    }

    fn nothing_more(&mut self) -> Result<(), Error> {
        let mut one = [0; 1];
        match self.file.read(&mut one) {
            Ok(0) => Ok(()),
            Ok(_) => Err(Error::Longer(self.path.clone())),
            Err(error) => Err(Error::Read(self.path.clone(), error)),
        }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        self.file.read_exact(bytes).map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                Error::CutOff(self.path.clone(), self.number)
            } else {
                Error::Read(self.path.clone(), error)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{CHUNK, Error, HEAD, Key, Reader, Writer};

    const KEY: Key = Key([7; 32]);

    fn lines() -> Vec<String> {
        (0..3_000)
            .map(|n| format!("{n} {}", "x".repeat(n % 200)))
            .collect()
    }

    fn read(path: &std::path::Path, key: &Key) -> Result<Vec<String>, Error> {
        let mut reader = Reader::open(path, key)?;
        let mut lines = Vec::new();
        while let Some(line) = reader.line()? {
            lines.push(line);
        }
        Ok(lines)
    }

    fn archive() -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tma");
        let mut writer = Writer::create(&path, &KEY).unwrap();
        for line in lines() {
            writer.line(&line).unwrap();
        }
        writer.finish().unwrap();
        (folder, path)
    }

    /// Where each chunk begins.
    fn chunks(bytes: &[u8]) -> Vec<usize> {
        let (mut at, mut starts) = (HEAD, vec![]);
        while at < bytes.len() {
            starts.push(at);
            let length: [u8; 4] = bytes[at..at + 4].try_into().unwrap();
            at += 4 + u32::from_be_bytes(length) as usize;
        }
        starts
    }

    #[test]
    fn what_is_written_is_read_and_nothing_of_it_is_legible() {
        let (folder, path) = archive();
        assert_eq!(read(&path, &KEY).unwrap(), lines());
        let bytes = fs::read(&path).unwrap();
        assert!(!bytes.windows(20).any(|window| window == [b'x'; 20]));
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "nothing else is left"
        );
        assert!(matches!(Writer::create(&path, &KEY), Err(Error::Exists(_))));
    }

    #[test]
    fn a_line_longer_than_a_chunk_and_a_file_without_lines_are_read_too() {
        let folder = tempfile::tempdir().unwrap();
        for lines in [vec!["y".repeat(CHUNK * 3)], vec![], vec!["z".repeat(CHUNK - 1)]] {
            let path = folder
                .path()
                .join(lines.iter().map(String::len).sum::<usize>().to_string());
            let mut writer = Writer::create(&path, &KEY).unwrap();
            lines.iter().for_each(|line| writer.line(line).unwrap());
            writer.finish().unwrap();
            assert_eq!(read(&path, &KEY).unwrap(), lines);
        }
    }

    #[test]
    fn another_key_a_cut_a_swap_and_any_changed_byte_are_refused() {
        let (folder, path) = archive();
        assert!(matches!(read(&path, &Key([8; 32])), Err(Error::OtherKey(_))));
        let bytes = fs::read(&path).unwrap();
        let starts = chunks(&bytes);
        assert!(starts.len() > 3);
        let spoilt = folder.path().join("spoilt");
        let refused = |spoil: &[u8]| {
            fs::write(&spoilt, spoil).unwrap();
            read(&spoilt, &KEY).unwrap_err()
        };
        for cut in [
            starts[1],
            starts[2] + 1,
            bytes.len() - 1,
            starts[starts.len() - 1],
        ] {
            assert!(matches!(refused(&bytes[..cut]), Error::CutOff(..)), "{cut}");
        }
        for cut in [0, 1, HEAD - 1] {
            assert!(matches!(refused(&bytes[..cut]), Error::Foreign(_)), "{cut}");
        }
        let (first, second) = (&bytes[starts[0]..starts[1]], &bytes[starts[1]..starts[2]]);
        let swapped = [&bytes[..starts[0]], second, first, &bytes[starts[2]..]].concat();
        assert!(matches!(refused(&swapped), Error::Damaged(_, 1)));
        let without = [&bytes[..starts[1]], &bytes[starts[2]..]].concat();
        assert!(matches!(refused(&without), Error::Damaged(_, 2)));
        let twice = [&bytes[..starts[1]], &bytes[starts[0]..]].concat();
        assert!(matches!(refused(&twice), Error::Damaged(_, 2)));
        assert!(matches!(refused(&[&bytes[..], b"!"].concat()), Error::Longer(_)));
        for at in (0..bytes.len()).step_by(977).chain([bytes.len() - 1]) {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            refused(&changed);
        }
    }

    #[test]
    fn what_somebody_else_writes_is_not_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mut first = Writer::create(&path, &KEY).unwrap();
        assert!(matches!(Writer::create(&path, &KEY), Err(Error::Begun(_))));
        first.line("line").unwrap();
        first.finish().unwrap();
        assert_eq!(read(&path, &KEY).unwrap(), ["line"]);
        // Nor is what a link leads to.
        let (other, target) = (folder.path().join("b"), folder.path().join("c"));
        fs::write(&target, "theirs").unwrap();
        std::os::unix::fs::symlink(&target, folder.path().join("b.partial")).unwrap();
        assert!(matches!(Writer::create(&other, &KEY), Err(Error::Begun(_))));
        assert_eq!(fs::read(&target).unwrap(), b"theirs");
    }

    #[test]
    fn what_is_not_finished_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        Writer::create(&path, &KEY).unwrap().line("line").unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
