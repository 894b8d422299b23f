//! The store: append transactions, seal segments, find changes, certify coverage.
//!
//! A store is a folder that one [`Writer`] appends to and any number of [`Reader`]s ask, each in a process of its own. It needs no
//! server. The folder is a directory, or whatever else keeps files by name ([`Folder`]). A writer is a [`binlog::Sink`]: it takes
//! transactions as the decoder finds them, and keeps with them how far the log was read. So a store is at the same time the history and
//! the position to go on from, and the two cannot disagree.
//!
//! ```text
//! lock              held by the writer
//! manifest.json     names everything below; replaced as a whole; what it does not name does not exist
//! tail-7.log        where changes go first: framed, checksummed records, durable at `sync`; the last tail is appended to
//! seg-5-0.parquet   sealed changes, sorted by table and key; never changed; each digest covers the one before it
//! schemas-5.json    definitions of tables that were new in a tail; never changed
//! damaged-6-90.log  what stood behind a damaged byte of a tail; for people, never read
//! ```
//!
//! The way of a change: [`Writer`] turns it into a record (`record`) of the tail (`tail`); it counts once the commit's record is
//! there. A full tail is sealed (`seal`) by a thread beside the writer: read in chunks of bounded size, each sorted and written as a
//! Parquet file (`segment`); then the manifest is swapped and the tail deleted. [`Reader`] takes a snapshot of the manifest and the
//! tails, and [`Reader::find`] goes through them in the order of the log, part by part.
//!
//! # What holds, and which test keeps it
//!
//! 1. A transaction is seen whole or not at all, once, from its commit on; whatever moment the writer is killed at (`crash`), the disk
//!    is full at (`bounds`), or a tail is cut or changed at (`damage`).
//! 2. What [`Writer::sync`] returned survives (`crash`). Position and changes are in one file, so they become durable together.
//! 3. Answers come in the order of the log: epoch, file number, offset, ordinal. However the log was read, in pieces, out of order or
//!    twice, the answers are those of a list (`property`, `reading`).
//! 4. Memory does not grow with a transaction: its rows go to the tail as they come, and are sealed in chunks (`bounds`).
//! 5. A byte that changed on disk is an error that names the file, never a wrong answer and never a panic (`damage`).
//! 6. Coverage is computed: intervals that touch are one, what lies between others is a gap, with its reason (`coverage`, `reading`).
//! 7. Nothing is deleted that the store did not make (`refusal`).
//! 8. It does not matter where the files lie: in any folder the answers are the same, and one that fails is named, not called damaged
//!    (`folder`, `property`).
//!
//! # Decisions
//!
//! * *An update's after-image is kept as what changed* when both images are full, and is restored byte for byte (`delta`). It halves
//!   what updates of wide rows cost to write, compress and keep.
//! * *Segments carry checksums of their blocks* (`segment`) beside the digests that [`verify`] checks, because Parquet's reader
//!   trusts its input: a changed byte would be an answer, or a panic.
//! * *Only images and texts are compressed*; see `segment::properties` for what a decompressor per column costs in a virtual machine.
//! * *Tails are held open by readers*, so sealing never disturbs an answer. Segments are opened when they are needed, because nothing
//!   deletes them yet; merging small segments will have to leave the old ones for a while.
//! * *Definitions have one number in the whole store*, not one per table: a row finds its definition by the number alone.
//! * *A damaged record ends a tail*, even if whole ones follow. Readers answer from what stands before it, and coverage says that it
//!   is not complete (`durable` tells damage from a torn write). The next writer puts the rest aside as `damaged-…`, and the position
//!   steps back, so the log is read again from there; if the server has purged it by then, that is a gap like any other. A damaged
//!   segment is not repaired; it is named.

mod catalogue;
mod codec;
mod coverage;
mod delta;
mod descents;
mod durable;
mod error;
mod filter;
mod find;
mod folder;
mod hash;
mod manifest;
mod places;
mod reader;
mod record;
mod run;
mod seal;
mod segment;
mod snapshot;
mod stop;
mod summary;
mod tail;
mod tail_find;
mod verify;
mod wanted;
mod writer;

pub use coverage::{Coverage, Gap, Interval, Place};
pub use descents::Descents;
pub use error::Error;
pub use filter::{Filter, Order, TableFilter};
pub use find::Changes;
pub use folder::{Directory, FileKind, Folder, Lock, Memory, ReadAt, WriteAt, WriteOnce};
pub use reader::Reader;
pub use stop::Stop;
pub use summary::{Status, TableSummary};
pub use verify::{Progress, Verified, verify, verify_in};
pub use writer::{Options, Recovered, Resume, Source, Start, Writer};
