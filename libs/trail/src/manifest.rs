//! The one file that says what the store is. Everything it names is there and does not change, except that the last tail grows; what
//! it does not name does not exist.

use std::{collections::BTreeMap, io, path::Path};

use binlog::Position;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use crate::{
    Error, Interval, Source,
    folder::{FileKind, Files},
    hash::{hex, sha256},
    run::Counts,
};

/// The format this release writes, and the newest it reads.
pub(crate) const FORMAT: u32 = 1;
pub(crate) const MANIFEST: &str = "manifest.json";
pub(crate) const LOCK: &str = "lock";

/// See the module's description.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// Version of the format; first, so that a later release may change everything after it.
    pub(crate) format: u32,
    /// Random identity of the store.
    pub(crate) store: String,
    /// Counts the manifests.
    pub(crate) generation: u64,
    pub(crate) source: Option<Source>,
    /// In the order of sealing.
    pub(crate) segments: Vec<Segment>,
    /// The oldest first; the last one is appended to, those before it are being sealed.
    pub(crate) tails: Vec<TailEntry>,
    pub(crate) next_tail: u64,
    pub(crate) schemas: Vec<SchemaFile>,
    /// Where sealed rows use a definition first and last.
    pub(crate) usage: BTreeMap<u32, Span>,
    /// What the segments cover, joined.
    pub(crate) intervals: Vec<Interval>,
    /// Files that keep what stood behind damage in a tail.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) damaged: Vec<String>,
}

/// An immutable Parquet file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Segment {
    pub(crate) file: String,
    pub(crate) bytes: u64,
    /// Rows of the file, arrivals and statements included.
    pub(crate) rows: u64,
    /// Digest of the file.
    pub(crate) sha256: String,
    /// Where its footer begins, and the checksum of that.
    pub(crate) footer_at: u64,
    pub(crate) footer_crc32: u32,
    /// Digest of the chain up to here; see [`link`].
    pub(crate) chain: String,
    pub(crate) first: Position,
    pub(crate) last: Position,
    pub(crate) first_time: i64,
    pub(crate) last_time: i64,
    /// Smallest and greatest GTID number.
    pub(crate) gtids: Option<(u64, u64)>,
    /// Statements, which stand before all rows.
    pub(crate) statements: u64,
    /// In the order of the file: each table's rows follow those of the one before.
    pub(crate) tables: Vec<SegmentTable>,
}

/// The part of a segment that belongs to one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SegmentTable {
    pub(crate) schema: String,
    pub(crate) table: String,
    /// Rows of the file, arrivals included.
    pub(crate) rows: u64,
    pub(crate) counts: Counts,
    pub(crate) first_time: i64,
    pub(crate) last_time: i64,
}

/// A file of appended records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TailEntry {
    pub(crate) number: u64,
    /// Its length, once nothing more is appended.
    pub(crate) length: Option<u64>,
}

/// A file of definitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SchemaFile {
    pub(crate) file: String,
    pub(crate) sha256: String,
}

/// From the first to the last use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Span {
    pub(crate) first: Position,
    pub(crate) last: Position,
}

impl Span {
    pub(crate) fn extend(&mut self, first: &Position, last: &Position) {
        if *first < self.first {
            self.first = first.clone();
        }
        if *last > self.last {
            self.last = last.clone();
        }
    }
}

/// The chain's digest after a file: SHA-256 over the digest before it and the file's own, both in hexadecimal digits. So no segment
/// can be changed, dropped or swapped without every later link telling.
pub(crate) fn link(before: &str, digest: &str) -> String {
    sha256(format!("{before}{digest}").as_bytes())
}

pub(crate) fn tail_name(number: u64) -> String {
    format!("tail-{number}.log")
}

impl Manifest {
    /// A new store.
    pub(crate) fn new(place: &Path) -> Result<Self, Error> {
        let mut id = [0; 16];
        SystemRandom::new()
            .fill(&mut id)
            .map_err(|_| Error::io(place, io::Error::other("the system gives no random bytes")))?;
        Ok(Self {
            format: FORMAT,
            store: hex(&id),
            generation: 0,
            source: None,
            segments: Vec::new(),
            tails: Vec::new(),
            next_tail: 1,
            schemas: Vec::new(),
            usage: BTreeMap::new(),
            intervals: Vec::new(),
            damaged: Vec::new(),
        })
    }

    /// Reads the manifest of a store.
    pub(crate) fn load(files: &Files) -> Result<Self, Error> {
        let path = files.path(MANIFEST);
        let place = || files.place().to_owned();
        let bytes = match files.read(MANIFEST) {
            Err(Error::Io { source, .. })
                if matches!(
                    source.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Err(Error::NoStore { dir: place() });
            }
            other => other?,
        };
        let text = String::from_utf8(bytes).map_err(|_| Error::corrupt(&path, "it is not text"))?;
        Self::parse(&text).map_err(|what| match what {
            Unreadable::Newer(found) => Error::NewerVersion {
                dir: place(),
                found,
                known: FORMAT,
            },
            Unreadable::Damaged(what) => Error::corrupt(&path, what),
        })
    }

    /// Puts this manifest in the place of the one that is there.
    pub(crate) fn store(&mut self, files: &Files) -> Result<(), Error> {
        self.generation += 1;
        let text = self
            .to_text()
            .map_err(|e| Error::corrupt(&files.path(MANIFEST), e.to_string()))?;
        files.replace(MANIFEST, text.as_bytes())
    }

    /// One JSON object, whose last member is the digest of the object without it.
    fn to_text(&self) -> Result<String, serde_json::Error> {
        let body = serde_json::to_string(self)?;
        let sum = sha256(body.as_bytes());
        Ok(format!("{},{SUM}\"{sum}\"}}\n", &body[..body.len() - 1]))
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let damaged = |e: serde_json::Error| Unreadable::Damaged(e.to_string());
        let Version { format } = serde_json::from_str(text).map_err(damaged)?;
        if format > FORMAT {
            return Err(Unreadable::Newer(format));
        }
        let unsummed = || Unreadable::Damaged("its own digest is missing".to_owned());
        let (body, sum) = text.rsplit_once(&format!(",{SUM}")).ok_or_else(unsummed)?;
        let body = format!("{body}}}");
        if sum != format!("\"{}\"}}\n", sha256(body.as_bytes())) {
            return Err(Unreadable::Damaged("its own digest does not match".to_owned()));
        }
        serde_json::from_str(&body).map_err(damaged)
    }

    /// The digest that the next segment is chained to: the last segment's, or the store's identity.
    pub(crate) fn chain_head(&self) -> &str {
        self.segments.last().map_or(&self.store, |segment| &segment.chain)
    }

    /// Whether a file of this name belongs to a store and is made anew when it is needed. Only such files are ever deleted.
    fn is_ours(name: &str) -> bool {
        match FileKind::of(name) {
            None | Some(FileKind::Manifest | FileKind::Lock) => false,
            Some(
                FileKind::Draft | FileKind::Tail | FileKind::Segment | FileKind::Schemas | FileKind::Damaged,
            ) => true,
        }
    }

    /// Whether this manifest names the file.
    fn names(&self, file: &str) -> bool {
        self.segments.iter().any(|segment| segment.file == file)
            || self.schemas.iter().any(|schemas| schemas.file == file)
            || self.tails.iter().any(|tail| tail_name(tail.number) == file)
            || self.damaged.iter().any(|damaged| damaged == file)
    }

    /// Deletes what a crash left behind: files of ours that the manifest does not name.
    pub(crate) fn sweep(&self, files: &Files) -> Result<(), Error> {
        for name in files.list()? {
            if Self::is_ours(&name) && !self.names(&name) {
                files.remove(&name)?;
            }
        }
        Ok(())
    }
}

const SUM: &str = "\"sha256\":";

enum Unreadable {
    Newer(u32),
    Damaged(String),
}

/// Refuses a folder that holds something else than the beginnings of a store.
pub(crate) fn check_empty(files: &Files) -> Result<(), Error> {
    let begins = |name: &str| matches!(FileKind::of(name), Some(FileKind::Lock | FileKind::Draft));
    match files.list()?.into_iter().find(|name| !begins(name)) {
        Some(found) => Err(Error::NotAStore {
            dir: files.place().to_owned(),
            found,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Manifest, Unreadable, link};

    #[test]
    fn a_manifest_is_written_and_read_back() {
        let manifest = Manifest::new(Path::new("/")).unwrap();
        let text = manifest.to_text().unwrap();
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
        assert!(Manifest::parse(&text).is_ok_and(|read| read == manifest));
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let text = Manifest::new(Path::new("/")).unwrap().to_text().unwrap();
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            if let Ok(changed) = std::str::from_utf8(&bytes) {
                assert!(Manifest::parse(changed).is_err(), "byte {at}: {changed}");
            }
        }
    }

    #[test]
    fn a_later_format_is_told_from_damage() {
        assert!(matches!(
            Manifest::parse("{\"format\":7,\"news\":[]}"),
            Err(Unreadable::Newer(7))
        ));
        assert!(matches!(
            Manifest::parse("{\"format\":1}"),
            Err(Unreadable::Damaged(_))
        ));
        assert!(matches!(Manifest::parse(""), Err(Unreadable::Damaged(_))));
    }

    #[test]
    fn only_names_of_ours_are_ours() {
        for name in [
            "tail-1.log",
            "seg-12-0.parquet",
            "schemas-3.json",
            "manifest.json.tmp",
        ] {
            assert!(Manifest::is_ours(name), "{name}");
        }
        for name in [
            "tail-.log",
            "tail-1.log.bak",
            "seg-x.parquet",
            "lock",
            "manifest.json",
            "notes.txt",
            "my-tail-1.log",
        ] {
            assert!(!Manifest::is_ours(name), "{name}");
        }
    }

    #[test]
    fn the_chain_depends_on_order() {
        assert_ne!(link(&link("s", "a"), "b"), link(&link("s", "b"), "a"));
    }
}
