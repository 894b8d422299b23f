//! A store at one moment.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{Arc, Mutex, PoisonError},
};

use binlog::Position;

use crate::{
    Error, Interval,
    catalogue::Catalogue,
    coverage::{Damage, join},
    folder::Files,
    manifest::{Manifest, Segment, Span, TailEntry, tail_name},
    segment::read::Opened,
    stop::Stop,
    tail::Tail,
};

/// How often a manifest is read again because a tail it names was sealed before it could be opened. Sealing takes a good part of a
/// second, opening a tail some milliseconds.
const ATTEMPTS: usize = 100;
/// Footers kept in memory, of about 100 KB each.
const OPENED_MAX: usize = 256;

/// Footers of segments. Segments do not change, so those of one snapshot serve the next.
#[derive(Debug, Default)]
struct Footers(Mutex<HashMap<String, Arc<Opened>>>);

/// The manifest, the definitions, and the tails: open, so that they stay readable when they have been sealed and deleted. Segments are
/// opened when they are needed: nothing deletes them.
#[derive(Debug)]
pub(crate) struct Snapshot {
    files: Files,
    pub(crate) manifest: Manifest,
    pub(crate) catalogue: Catalogue,
    pub(crate) tails: Vec<Tail>,
    footers: Arc<Footers>,
}

impl Snapshot {
    /// The store in a folder as it is now.
    pub(crate) fn take(files: Files, stop: &Stop) -> Result<Self, Error> {
        Self::after(&files, None, stop)
    }

    /// The same store as it is now.
    pub(crate) fn renew(&self, stop: &Stop) -> Result<Self, Error> {
        Self::after(&self.files, Some(self), stop)
    }

    fn after(files: &Files, before: Option<&Self>, stop: &Stop) -> Result<Self, Error> {
        for _ in 1..ATTEMPTS {
            match Self::attempt(files, before, stop) {
                // A file that the manifest named went away: there is a newer manifest.
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                other => return other,
            }
        }
        Self::attempt(files, before, stop)
    }

    fn attempt(files: &Files, before: Option<&Self>, stop: &Stop) -> Result<Self, Error> {
        let manifest = Manifest::load(files)?;
        let before = before.filter(|before| before.manifest.store == manifest.store);
        let mut catalogue = Catalogue::default();
        let known = before.filter(|before| before.manifest.schemas == manifest.schemas);
        match known {
            Some(before) => catalogue = before.catalogue.clone(),
            None => {
                for schemas in &manifest.schemas {
                    catalogue.load(files, &schemas.file, &schemas.sha256)?;
                }
            }
        }
        let mut tails = Vec::with_capacity(manifest.tails.len());
        for entry in &manifest.tails {
            let tail = open_tail(files, &manifest.store, entry, before, stop)?;
            for (version, table) in &tail.run.definitions {
                if catalogue.get(*version).is_none() {
                    catalogue.insert(*version, table);
                }
            }
            tails.push(tail);
        }
        let footers = before
            .map(|before| Arc::clone(&before.footers))
            .unwrap_or_default();
        Ok(Self {
            files: files.clone(),
            manifest,
            catalogue,
            tails,
            footers,
        })
    }

    /// Whether `other` holds the same.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        let state = |s: &Self| {
            (
                s.manifest.generation,
                s.tails
                    .iter()
                    .map(|tail| (tail.run.visible, tail.lost))
                    .collect::<Vec<_>>(),
            )
        };
        state(self) == state(other)
    }

    pub(crate) fn files(&self) -> &Files {
        &self.files
    }

    /// A segment's footer and indexes.
    pub(crate) fn open(&self, segment: &Segment) -> Result<Arc<Opened>, Error> {
        let mut known = self.footers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = known.get(&segment.file) {
            return Ok(Arc::clone(opened));
        }
        let opened = Arc::new(Opened::open(&self.files, segment)?);
        if known.len() == OPENED_MAX {
            known.clear();
        }
        known.insert(segment.file.clone(), Arc::clone(&opened));
        Ok(opened)
    }

    /// What is covered, joined.
    pub(crate) fn intervals(&self) -> Vec<Interval> {
        let tails = self.tails.iter().map(|tail| &tail.run.interval);
        join(self.manifest.intervals.iter().chain(tails).cloned().collect())
    }

    /// What cannot be read although it was acknowledged.
    pub(crate) fn damage(&self) -> Option<Damage> {
        self.tails.iter().find_map(|tail| {
            let (at, _) = tail.lost?;
            Some(Damage {
                file: tail_name(tail.number),
                at,
                after: tail.run.interval.end(),
                after_time: tail.run.interval.to_time,
            })
        })
    }

    /// From where to where each definition is used.
    pub(crate) fn usage(&self) -> BTreeMap<u32, Span> {
        let mut all = self.manifest.usage.clone();
        for (version, usage) in self.tails.iter().flat_map(|tail| &tail.run.usage) {
            let span = || Span {
                first: usage.first.clone(),
                last: usage.last.clone(),
            };
            all.entry(*version)
                .or_insert_with(span)
                .extend(&usage.first, &usage.last);
        }
        all
    }

    /// The segments and tails in the order of the log. They do not overlap, because the store takes each transaction once; should they
    /// all the same, they stand in one group, to be merged.
    pub(crate) fn parts(&self, segments: impl Fn(&Segment) -> bool) -> Vec<Vec<Part>> {
        let segments = self
            .manifest
            .segments
            .iter()
            .enumerate()
            .filter(|(_, segment)| segments(segment));
        let segments = segments.map(|(nth, segment)| {
            let end = Position {
                ordinal: segment.last.ordinal + 1,
                ..segment.last.clone()
            };
            (segment.first.clone(), end, Part::Segment(nth))
        });
        let tails = self.tails.iter().enumerate().filter_map(|(nth, tail)| {
            let (first, end) = tail.bounds()?;
            Some((first, end, Part::Tail(nth)))
        });
        let mut parts: Vec<(Position, Position, Part)> = segments.chain(tails).collect();
        parts.sort_by(|(a, ..), (b, ..)| a.cmp(b));
        let mut groups: Vec<(Position, Vec<Part>)> = Vec::new();
        for (first, end, part) in parts {
            match groups.last_mut() {
                Some((until, group)) if first < *until => {
                    group.push(part);
                    *until = until.clone().max(end);
                }
                _ => groups.push((end, vec![part])),
            }
        }
        groups.into_iter().map(|(_, group)| group).collect()
    }
}

/// A part of the store that holds changes, by its place in the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Segment(usize),
    Tail(usize),
}

fn open_tail(
    files: &Files,
    store: &str,
    entry: &TailEntry,
    before: Option<&Snapshot>,
    stop: &Stop,
) -> Result<Tail, Error> {
    let known = before.and_then(|before| before.tails.iter().find(|tail| tail.number == entry.number));
    let tail = match known {
        Some(known) => {
            let mut tail = known.clone();
            tail.advance(entry.length, stop)?;
            tail
        }
        None => Tail::open(files, store, entry.number, stop)?,
    };
    match (entry.length, tail.damage) {
        // The last tail may end in the middle of a write.
        (None, _) => Ok(tail),
        (Some(length), None) if length == tail.run.visible => Ok(tail),
        (Some(length), damage) => {
            let (at, what) = damage.unwrap_or((tail.run.visible, "it is too short"));
            Err(Error::corrupt(
                &tail.path,
                format!("at byte {at} of {length} {what}"),
            ))
        }
    }
}
