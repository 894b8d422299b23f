//! The store: append transactions, seal segments, find changes, certify coverage.

mod coverage;
mod error;
mod filter;
mod reader;
mod summary;
mod verify;
mod writer;

pub use coverage::{Coverage, Gap, Interval, Place};
pub use error::Error;
pub use filter::{Filter, Order, TableFilter};
pub use reader::{Changes, Reader};
pub use summary::{Status, TableSummary};
pub use verify::{Progress, Verified, verify};
pub use writer::{Options, Resume, Source, Start, Writer};
