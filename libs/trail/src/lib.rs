//! The store: append transactions, seal segments, find changes, certify coverage.

mod catalogue;
mod codec;
mod coverage;
mod delta;
mod disk;
mod error;
mod filter;
mod find;
mod manifest;
mod reader;
mod record;
mod run;
mod seal;
mod segment;
mod snapshot;
mod summary;
mod tail;
mod tail_find;
mod verify;
mod wanted;
mod writer;

pub use coverage::{Coverage, Gap, Interval, Place};
pub use error::Error;
pub use filter::{Filter, Order, TableFilter};
pub use find::Changes;
pub use reader::Reader;
pub use summary::{Status, TableSummary};
pub use verify::{Progress, Verified, verify};
pub use writer::{Options, Resume, Source, Start, Writer};
