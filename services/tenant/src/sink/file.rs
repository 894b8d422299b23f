//! A file in the operator's folder: one subfolder a tenant, one file a sink. It is opened by its name for every batch and only ever appended
//! to, so that it can be rotated by renaming at any time. What was written is on the disk, and still in the folder, before it counts.
//!
//! A disk may hang for longer than anybody waits. So a batch holds its sink's place in this process ([`Writers`]) and a lock of the file until
//! its thread is through, not until it is given up: nobody else appends meanwhile, and what a late failure takes back is its own.

use std::{
    collections::HashSet,
    fs::{self, DirBuilder, File, Metadata, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::fs::{FlockOperation, OFlags};
use types::{SinkId, TenantId};

use super::{Failure, send::Letter};

/// The most files of a folder that are looked through for one that was renamed.
const MOST_FILES: usize = 10_000;

/// Files that one process writes at once: more would take the threads that looking names up needs.
const MOST_WRITERS: usize = 64;

/// The sinks whose files are being written by this process.
#[derive(Clone, Debug, Default)]
pub(super) struct Writers(Arc<Mutex<HashSet<SinkId>>>);

/// The place of one of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Writer {
    of: Writers,
    sink: SinkId,
}

impl Writers {
    /// A place for the sink, if it has none and there is one.
    pub(super) fn begin(&self, sink: SinkId) -> Result<Writer, Failure> {
        let mut writing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if writing.len() >= MOST_WRITERS || !writing.insert(sink) {
            return Err(Failure::FileBusy);
        }
        Ok(Writer {
            of: self.clone(),
            sink,
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut writing = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        writing.remove(&self.sink);
    }
}

/// Which file was written last, and how long it was then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    device: u64,
    inode: u64,
    size: u64,
}

impl Mark {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':').map(str::parse);
        Some(Self {
            device: parts.next()?.ok()?,
            inode: parts.next()?.ok()?,
            size: parts.next()?.ok()?,
        })
    }

    fn is_same_file(self, other: Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// What became of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    /// To be given with the next batch.
    pub(super) mark: String,
    /// What somebody else has done to the file since the last batch; empty when nothing.
    pub(super) notice: &'static str,
}

/// Appends the letters to the file of the sink `name`. Blocks.
pub(super) fn write(
    folder: &Path,
    tenant: TenantId,
    name: &str,
    mark: &str,
    letters: &[Letter],
) -> Result<Written, Failure> {
    let failed = |error: io::Error| Failure::File(error.kind());
    let home = folder.join(tenant.to_string());
    make_home(folder, &home).map_err(failed)?;
    if !home.symlink_metadata().map_err(failed)?.is_dir() {
        return Err(Failure::NoFile);
    }
    let path = home.join(format!("{name}.log"));
    let mut file = open(&path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(Failure::NoFile);
    }
    // Of all processes and machines that share the folder one appends at a time.
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(Failure::FileBusy),
        Err(error) => return Err(failed(error.into())),
    }
    let before = file.metadata().map_err(failed)?;
    let notice = Mark::parse(mark).map_or("", |last| what_happened(last, Mark::of(&before), &home));
    let mut written = 0;
    if let Err(error) = append(&mut file, before.len(), letters, &mut written) {
        take_back(&file, before.len(), written);
        return Err(failed(error));
    }
    if before.len() == 0 {
        File::open(&home)
            .and_then(|home| home.sync_all())
            .map_err(failed)?;
    }
    let after = Mark::of(&file.metadata().map_err(failed)?);
    if !is_at(&path, after) && !is_within(&home, after) {
        return Err(Failure::File(io::ErrorKind::NotFound));
    }
    Ok(Written {
        mark: format!("{}:{}:{}", after.device, after.inode, after.size),
        notice,
    })
}

fn make_home(folder: &Path, home: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o750).create(home) {
        Ok(()) => File::open(folder)?.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// A link, a pipe or a device in the file's place is not followed and not waited for.
fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(flags.cast_signed())
        .open(path)
}

/// What there was no room for is taken back, so that the next attempt begins at the end of a line; unless something of others is behind it.
fn take_back(file: &File, before: u64, written: u64) {
    if file.metadata().is_ok_and(|now| now.len() == before + written) {
        let _ = file.set_len(before);
    }
}

/// Counts in `written` what the file has got, whatever comes of it.
fn append(file: &mut File, length: u64, letters: &[Letter], written: &mut u64) -> io::Result<()> {
    let mut text = String::new();
    if length > 0 {
        // A process that was killed may have left half a line.
        let mut last = [0];
        file.seek(SeekFrom::Start(length - 1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            text.push('\n');
        }
    }
    for letter in letters {
        text.push_str(&letter.line);
        text.push('\n');
    }
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match file.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                *written += count as u64;
                rest = &rest[count..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    file.sync_all()
}

fn what_happened(last: Mark, now: Mark, home: &Path) -> &'static str {
    if last.is_same_file(now) {
        return if now.size < last.size {
            "the file was cut short from outside"
        } else {
            ""
        };
    }
    if is_within(home, last) {
        return "";
    }
    "the file that was written last is not in the folder any more; a new one was begun"
}

fn is_at(path: &Path, file: Mark) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| Mark::of(&metadata).is_same_file(file))
}

/// Whether the file is in the folder, under whatever name.
fn is_within(home: &Path, file: Mark) -> bool {
    fs::read_dir(home).is_ok_and(|entries| {
        entries
            .take(MOST_FILES)
            .flatten()
            .any(|entry| is_at(&entry.path(), file))
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use rustix::fs::{FlockOperation, flock};
    use types::{SinkId, TenantId};

    use super::{Failure, Letter, MOST_WRITERS, Writers, take_back, write};

    fn letters(lines: &[&str]) -> Vec<Letter> {
        lines
            .iter()
            .map(|line| Letter {
                sequence: 1,
                event: serde_json::from_str(
                    r#"{"id":"aud_1","time":0,"end_time":0,"actor":{},"kind":"change","method":"","outcome":"unknown","code":""}"#,
                )
                .unwrap(),
                line: (*line).to_owned(),
            })
            .collect()
    }

    #[test]
    fn lines_are_appended_and_rotation_loses_none() {
        let folder = tempfile::tempdir().unwrap();
        let tenant = TenantId::fresh();
        let path = folder.path().join(tenant.to_string()).join("siem.log");
        let first = write(folder.path(), tenant, "siem", "", &letters(&["a", "b"])).unwrap();
        let second = write(folder.path(), tenant, "siem", &first.mark, &letters(&["c"])).unwrap();
        assert_eq!((first.notice, second.notice), ("", ""));
        assert_eq!(fs::read_to_string(&path).unwrap(), "a\nb\nc\n");
        fs::rename(&path, path.with_extension("log.1")).unwrap();
        let third = write(folder.path(), tenant, "siem", &second.mark, &letters(&["d"])).unwrap();
        assert_eq!(third.notice, "");
        assert_eq!(fs::read_to_string(&path).unwrap(), "d\n");
    }

    #[test]
    fn while_an_attempt_hangs_nobody_else_writes() {
        let folder = tempfile::tempdir().unwrap();
        let tenant = TenantId::fresh();
        let path = folder.path().join(tenant.to_string()).join("siem.log");
        write(folder.path(), tenant, "siem", "", &letters(&["a"])).unwrap();
        let hanging = fs::File::open(&path).unwrap();
        flock(&hanging, FlockOperation::LockExclusive).unwrap();
        let busy = write(folder.path(), tenant, "siem", "", &letters(&["b"]));
        assert!(matches!(busy, Err(Failure::FileBusy)));
        drop(hanging);
        write(folder.path(), tenant, "siem", "", &letters(&["b"])).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "a\nb\n");
    }

    #[test]
    fn a_late_failure_takes_back_what_it_wrote_and_nothing_of_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("siem.log");
        let file = fs::File::options().append(true).create(true).open(&path).unwrap();
        fs::write(&path, "a\nhal").unwrap();
        take_back(&file, 2, 3);
        assert_eq!(fs::read_to_string(&path).unwrap(), "a\n");
        fs::write(&path, "a\nhalc\n").unwrap();
        take_back(&file, 2, 3);
        assert_eq!(fs::read_to_string(&path).unwrap(), "a\nhalc\n");
    }

    #[test]
    fn a_sink_has_one_writer_and_all_together_have_some() {
        let writers = Writers::default();
        let sink = SinkId::fresh();
        let place = writers.begin(sink).unwrap();
        assert!(matches!(writers.begin(sink), Err(Failure::FileBusy)));
        drop(place);
        let places: Vec<_> = (0..MOST_WRITERS)
            .map(|_| writers.begin(SinkId::fresh()).unwrap())
            .collect();
        assert!(matches!(writers.begin(sink), Err(Failure::FileBusy)));
        drop(places);
        assert!(writers.begin(sink).is_ok());
    }

    #[test]
    fn a_file_that_was_removed_or_cut_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let tenant = TenantId::fresh();
        let path = folder.path().join(tenant.to_string()).join("siem.log");
        let first = write(folder.path(), tenant, "siem", "", &letters(&["a", "b"])).unwrap();
        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(1)
            .unwrap();
        let second = write(folder.path(), tenant, "siem", &first.mark, &letters(&["c"])).unwrap();
        assert!(second.notice.contains("cut short"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "a\nc\n");
        // Something keeps the inode's number from being given out again.
        let _held = fs::File::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let third = write(folder.path(), tenant, "siem", &second.mark, &letters(&["d"])).unwrap();
        assert!(third.notice.contains("not in the folder"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "d\n");
    }

    #[test]
    fn nothing_but_a_plain_file_of_the_folder_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let tenant = TenantId::fresh();
        let home = folder.path().join(tenant.to_string());
        fs::create_dir(&home).unwrap();
        let outside = folder.path().join("outside");
        fs::write(&outside, "mine").unwrap();
        symlink(&outside, home.join("siem.log")).unwrap();
        assert!(write(folder.path(), tenant, "siem", "", &letters(&["a"])).is_err());
        rustix::fs::mkfifoat(rustix::fs::CWD, home.join("pipe.log"), rustix::fs::Mode::RWXU).unwrap();
        assert!(matches!(
            write(folder.path(), tenant, "pipe", "", &letters(&["a"])),
            Err(Failure::NoFile)
        ));
        assert_eq!(fs::read_to_string(&outside).unwrap(), "mine");
        let other = TenantId::fresh();
        symlink(folder.path(), folder.path().join(other.to_string())).unwrap();
        assert!(matches!(
            write(folder.path(), other, "siem", "", &letters(&["a"])),
            Err(Failure::NoFile)
        ));
    }
}
