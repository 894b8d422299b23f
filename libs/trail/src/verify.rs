//! Reads every byte of a store again and holds it against what was written.

mod rows;

use std::{path::Path, sync::Arc};

use ring::digest;

use crate::{
    Error, Stop,
    folder::{Directory, Files, Folder},
    hash::hex,
    manifest::{MANIFEST, Segment, link, tail_name},
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
    verify_in(Arc::new(Directory::new(dir)), progress)
}

/// The same for a store in any folder.
pub fn verify_in(folder: Arc<dyn Folder>, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Verified, Error> {
    let files = Files::new(folder);
    let snapshot = Snapshot::take(files.clone(), &Stop::default())?;
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
                &files.path(MANIFEST),
                format!("the chain of digests breaks at {}", segment.file),
            ));
        }
        check_digest(&files, segment)?;
        done.changes += rows.check_segment(segment)?;
        done.bytes += segment.bytes;
        done.segments += 1;
    }
    for tail in &snapshot.tails {
        let name = tail_name(tail.number);
        progress(Progress {
            done: done.bytes,
            total,
            file: &name,
        });
        tail.check()?;
        done.changes += rows.check_tail(tail)?;
        done.bytes += tail.run.visible;
        done.torn += tail.length()?.saturating_sub(tail.run.visible);
    }
    check_whole(&snapshot, done.changes)?;
    progress(Progress {
        done: total,
        total,
        file: MANIFEST,
    });
    Ok(done)
}

fn check_digest(files: &Files, segment: &Segment) -> Result<(), Error> {
    let path = &files.path(&segment.file);
    let io = |e| Error::io(path, e);
    let file = files.open_kept(&segment.file)?;
    let length = file.length().map_err(io)?;
    let mut context = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; READ];
    let mut at = 0;
    while at < length {
        let now = &mut buffer[..usize::try_from(length - at).unwrap_or(READ).min(READ)];
        file.read_exact_at(now, at).map_err(io)?;
        context.update(now);
        at += now.len() as u64;
    }
    if hex(context.finish().as_ref()) == segment.sha256 {
        Ok(())
    } else {
        Err(Error::corrupt(path, "its digest is not the one in the manifest"))
    }
}

/// What only the store as a whole can tell.
fn check_whole(snapshot: &Snapshot, changes: u64) -> Result<(), Error> {
    let manifest = snapshot.files().path(MANIFEST);
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
