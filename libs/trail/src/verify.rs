//! Reads every byte of a store again and holds it against what was written.

mod rows;

use std::{fs::File, io::Read, path::Path};

use ring::digest;

use crate::{
    Error,
    disk::hex,
    manifest::{MANIFEST, Segment, link},
    snapshot::{Part, Snapshot},
};

use rows::Rows;

/// How far a verification has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// Bytes checked.
    pub done: u64,
    /// Bytes there are.
    pub total: u64,
    /// Name of the file being checked.
    pub file: &'a str,
}

/// What was checked and found whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Segments.
    pub segments: u64,
    /// Row changes in segments and tails.
    pub changes: u64,
    /// Bytes of segments and tails.
    pub bytes: u64,
    /// Bytes at the end of the last tail that do not count: a write that is going on, or one that a crash cut off. No mark says that
    /// they were acknowledged, and the next writer removes them.
    pub torn: u64,
}

/// Bytes hashed at once.
const READ: usize = 1 << 20;

/// Reads every byte of the store in `dir`. The first thing that is wrong ends it as [`Error::Corrupt`] with the file's name.
pub fn verify(dir: &Path, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Verified, Error> {
    let snapshot = Snapshot::take(dir)?;
    let total = snapshot
        .manifest
        .segments
        .iter()
        .map(|s| s.bytes)
        .chain(snapshot.tails.iter().map(|t| t.run.visible))
        .sum();
    let mut done = Verified::default();
    let mut head = snapshot.manifest.store.clone();
    let mut rows = Rows::new(&snapshot);
    for segment in &snapshot.manifest.segments {
        progress(Progress {
            done: done.bytes,
            total,
            file: &segment.file,
        });
        head = link(&head, &segment.sha256);
        if head != segment.chain {
            return Err(Error::corrupt(
                &dir.join(MANIFEST),
                format!("the chain of digests breaks at {}", segment.file),
            ));
        }
        check_digest(&dir.join(&segment.file), segment)?;
        done.changes += rows.check_segment(segment)?;
        done.bytes += segment.bytes;
        done.segments += 1;
    }
    for tail in &snapshot.tails {
        let name = tail.path.file_name().unwrap_or_default().to_string_lossy();
        progress(Progress {
            done: done.bytes,
            total,
            file: &name,
        });
        tail.check()?;
        done.changes += rows.check_tail(tail)?;
        done.bytes += tail.run.visible;
        let length = tail.file.metadata().map_err(|e| Error::io(&tail.path, e))?.len();
        done.torn += length.saturating_sub(tail.run.visible);
    }
    check_whole(&snapshot, done.changes)?;
    progress(Progress {
        done: total,
        total,
        file: MANIFEST,
    });
    Ok(done)
}

fn check_digest(path: &Path, segment: &Segment) -> Result<(), Error> {
    let io = |e| Error::io(path, e);
    let mut file = match File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::corrupt(path, "the manifest names it, and it is not there"));
        }
        other => other.map_err(io)?,
    };
    let mut context = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; READ];
    loop {
        let count = file.read(&mut buffer).map_err(io)?;
        if count == 0 {
            break;
        }
        context.update(&buffer[..count]);
    }
    if hex(context.finish().as_ref()) == segment.sha256 {
        Ok(())
    } else {
        Err(Error::corrupt(path, "its digest is not the one in the manifest"))
    }
}

/// What only the store as a whole can tell.
fn check_whole(snapshot: &Snapshot, changes: u64) -> Result<(), Error> {
    let manifest = snapshot.dir().join(MANIFEST);
    let counted: u64 = snapshot.intervals().iter().map(|interval| interval.changes).sum();
    if counted != changes {
        return Err(Error::corrupt(
            &manifest,
            format!("it counts {counted} changes, and there are {changes}"),
        ));
    }
    let twice = snapshot.parts(|_| true).into_iter().find(|group| group.len() > 1);
    let names = |part: &Part| match part {
        Part::Segment(nth) => snapshot.manifest.segments[*nth].file.clone(),
        Part::Tail(nth) => snapshot.tails[*nth].path.to_string_lossy().into_owned(),
    };
    match twice {
        Some(group) => {
            let names: Vec<String> = group.iter().map(names).collect();
            Err(Error::corrupt(
                &manifest,
                format!("the same part of the log is in {}", names.join(" and ")),
            ))
        }
        None => Ok(()),
    }
}
