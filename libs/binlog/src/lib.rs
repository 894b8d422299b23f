//! Bytes of a MySQL or MariaDB binary log into transactions of row changes.
//!
//! This crate is pure: it opens no socket and no file. It is handed event bytes, by [`file::Reader`] from anything that reads or by
//! a replication client one event at a time, and hands what they mean to a [`Sink`]. Three parties meet here, each with its own words:
//!
//! * [`Table`], [`Column`], [`ColumnType`]: the definition a table had at a position of the log, from the `TABLE_MAP` event.
//! * [`Image`]: one row in the server's own encoding. It is stored as it came; [`Image::cells`] walks it, [`Column::decode`] gives a
//!   [`Value`]. Absent is not NULL.
//! * [`RowChange`], [`Begin`], [`Commit`]: what a transaction did, in the order of the log.
//!
//! Events, GTIDs and transaction payloads are read with `mysql_common` where it knows them; MariaDB's own events, the table map and the
//! rows are read here, because rows are where the time goes and where a wrong byte costs somebody a row.
//!
//! What must hold, and holds in this crate: nothing passes unread. An event that cannot be decoded fully is an [`Error`] that names the
//! file, the offset and the remedy. No input panics, and no input makes memory grow beyond one event and the definitions of
//! tables that are kept. How long an event may be is said by whoever reads ([`event::Limits`]), outside and inside of compressed ones.

mod change;
mod charset;
mod decimal;
mod decode;
mod definition;
mod error;
pub mod event;
pub mod file;
mod gtid;
mod gtid_event;
mod image;
pub mod jsonb;
mod key;
mod known;
mod payload;
mod position;
mod present;
mod query;
mod read;
mod row;
mod secret;
mod survey;
mod table;
mod table_map;
mod time;
mod transaction;
mod undefined;
mod value;

pub use change::{Change, Position, Row, SchemaChange};
pub use charset::Charset;
pub use decode::{Decoder, End, FeedError};
pub use definition::{ColumnDefinition, Definition};
pub use error::{Error, Problem};
pub use gtid::{Gtid, GtidParseError, GtidSet};
pub use image::{Cell, Cells, Image};
pub use key::{KeyError, RowKey};
pub use position::{FileName, LogPos};
pub use query::{DdlTarget, Descended, Descent, Statement, descents};
pub use secret::masked;
pub use survey::{Present, Survey};
pub use table::{Column, ColumnFacts, ColumnType, KeyPart, Table};
pub use transaction::{Begin, Commit, Ddl, Op, RowChange, Sink};
pub use value::Value;
