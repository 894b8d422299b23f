//! Event frames: the common header, the checksum, and where an event stands.
//!
//! Layout (MySQL internals manual, "Binlog event header"): timestamp u32, type u8, server id u32, size u32, end position u32, flags u16,
//! then the body, then a CRC32 over everything before it if the file's format description says so.

use crate::{error::Problem, read::Bytes};

/// The largest event read: servers bound an event by `max_allowed_packet`, at most 1 GiB, plus its own fields.
pub const EVENT_BYTES_MAX: u64 = (1 << 30) + (1 << 20);

/// The longest format description: a server's has some 120 bytes.
const FORMAT_BYTES_MAX: u64 = 1 << 20;

/// How much memory the events of a log may ask for. Whoever reads says so: a machine of its own may take what its server writes, a process
/// that reads for many must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one event, as it stands in the file and as it comes out of a compressed one.
    pub event_bytes_max: u64,
    /// Bytes of an event that states GTIDs: all of them are held at once.
    pub gtids_bytes_max: u64,
    /// Bytes of a table map: a definition takes many times as much.
    pub map_bytes_max: u64,
    /// Bytes that all compressed events of the log open to together.
    pub opened_bytes_max: u64,
}

impl Default for Limits {
    /// All that a server may write.
    fn default() -> Self {
        Self {
            event_bytes_max: EVENT_BYTES_MAX,
            gtids_bytes_max: EVENT_BYTES_MAX,
            map_bytes_max: EVENT_BYTES_MAX,
            opened_bytes_max: u64::MAX,
        }
    }
}

impl Limits {
    /// The event's length, if it may be read.
    pub(crate) fn admit(&self, header: &Header) -> Result<u64, Problem> {
        let size = u64::from(header.size);
        let possible = match header.kind {
            kind::FORMAT_DESCRIPTION => FORMAT_BYTES_MAX,
            _ => EVENT_BYTES_MAX,
        };
        if size < HEADER_BYTES as u64 || size > possible {
            return Err(Problem::Length(size));
        }
        let most = match header.kind {
            kind::PREVIOUS_GTIDS | kind::MARIADB_GTID_LIST => self.gtids_bytes_max,
            kind::TABLE_MAP => self.map_bytes_max,
            _ => EVENT_BYTES_MAX,
        };
        within(size, most.min(self.event_bytes_max))
    }

    /// The length of what an event's compressed content says it has, if it may be read.
    pub(crate) fn admit_content(&self, length: u64) -> Result<u64, Problem> {
        if length > EVENT_BYTES_MAX {
            return Err(Problem::Length(length));
        }
        within(length, self.event_bytes_max)
    }
}

fn within(bytes: u64, most: u64) -> Result<u64, Problem> {
    if bytes > most {
        return Err(Problem::TooLong { bytes, most });
    }
    Ok(bytes)
}

/// Length of the common header.
pub const HEADER_BYTES: usize = 19;

const CHECKSUM_BYTES: usize = 4;

/// Set in the header of a format description while its file is open; not part of the checksum.
const FLAG_IN_USE: u16 = 0x1;
/// Set on events the server made up for this connection, which stand in no file.
const FLAG_ARTIFICIAL: u16 = 0x20;
/// Set on events that a reader may ignore.
const FLAG_IGNORABLE: u16 = 0x80;

/// Type numbers (`libbinlogevents/include/binlog_event.h`; from 160 on MariaDB's `sql/log_event.h`).
#[allow(missing_docs)]
pub mod kind {
    pub const QUERY: u8 = 2;
    pub const STOP: u8 = 3;
    pub const ROTATE: u8 = 4;
    pub const INTVAR: u8 = 5;
    pub const APPEND_BLOCK: u8 = 9;
    pub const DELETE_FILE: u8 = 11;
    pub const RAND: u8 = 13;
    pub const USER_VAR: u8 = 14;
    pub const FORMAT_DESCRIPTION: u8 = 15;
    pub const XID: u8 = 16;
    pub const BEGIN_LOAD_QUERY: u8 = 17;
    pub const EXECUTE_LOAD_QUERY: u8 = 18;
    pub const TABLE_MAP: u8 = 19;
    pub const WRITE_ROWS_V1: u8 = 23;
    pub const UPDATE_ROWS_V1: u8 = 24;
    pub const DELETE_ROWS_V1: u8 = 25;
    pub const INCIDENT: u8 = 26;
    pub const HEARTBEAT: u8 = 27;
    pub const IGNORABLE: u8 = 28;
    pub const ROWS_QUERY: u8 = 29;
    pub const WRITE_ROWS: u8 = 30;
    pub const UPDATE_ROWS: u8 = 31;
    pub const DELETE_ROWS: u8 = 32;
    pub const GTID: u8 = 33;
    pub const ANONYMOUS_GTID: u8 = 34;
    pub const PREVIOUS_GTIDS: u8 = 35;
    pub const TRANSACTION_CONTEXT: u8 = 36;
    pub const VIEW_CHANGE: u8 = 37;
    pub const XA_PREPARE: u8 = 38;
    pub const PARTIAL_UPDATE_ROWS: u8 = 39;
    pub const TRANSACTION_PAYLOAD: u8 = 40;
    pub const HEARTBEAT_V2: u8 = 41;
    pub const GTID_TAGGED: u8 = 42;
    pub const MARIADB_ANNOTATE_ROWS: u8 = 160;
    pub const MARIADB_BINLOG_CHECKPOINT: u8 = 161;
    pub const MARIADB_GTID: u8 = 162;
    pub const MARIADB_GTID_LIST: u8 = 163;
    pub const MARIADB_START_ENCRYPTION: u8 = 164;
    pub const MARIADB_QUERY_COMPRESSED: u8 = 165;
    pub const MARIADB_WRITE_ROWS_COMPRESSED_V1: u8 = 166;
    pub const MARIADB_UPDATE_ROWS_COMPRESSED_V1: u8 = 167;
    pub const MARIADB_DELETE_ROWS_COMPRESSED_V1: u8 = 168;
    pub const MARIADB_WRITE_ROWS_COMPRESSED: u8 = 169;
    pub const MARIADB_UPDATE_ROWS_COMPRESSED: u8 = 170;
    pub const MARIADB_DELETE_ROWS_COMPRESSED: u8 = 171;
}

/// The common header of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Seconds since the epoch, when the statement began.
    pub timestamp: u32,
    /// The type, see [`kind`].
    pub kind: u8,
    /// The server that made the event.
    pub server_id: u32,
    /// Length of the whole event in bytes.
    pub size: u32,
    /// Where the event ends in its file, modulo 2³²; 0 in made-up events.
    pub end: u32,
    /// Flags.
    pub flags: u16,
}

impl Header {
    /// Reads the header at the start of `raw`.
    pub fn parse(raw: &[u8]) -> Result<Self, Problem> {
        let mut bytes = Bytes(raw);
        Ok(Self {
            timestamp: bytes.u32()?,
            kind: bytes.u8()?,
            server_id: bytes.u32()?,
            size: bytes.u32()?,
            end: bytes.u32()?,
            flags: bytes.u16()?,
        })
    }

    /// Whether the server made the event up for this connection.
    pub fn is_artificial(&self) -> bool {
        self.flags & FLAG_ARTIFICIAL != 0
    }

    /// Whether the writer allows readers that do not know the event to ignore it.
    pub fn is_ignorable(&self) -> bool {
        self.flags & FLAG_IGNORABLE != 0
    }
}

/// One event, its checksum verified and taken off.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// The common header.
    pub header: Header,
    /// What follows it.
    pub body: &'a [u8],
}

/// Checksums of a stream of events: what the last format description announced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksums {
    /// No format description has been seen.
    #[default]
    Unknown,
    /// Events carry none.
    Off,
    /// Events end with a CRC32.
    Crc32,
}

/// Takes frames apart, one whole event at a time, in the order of the log.
#[derive(Clone, Copy, Debug, Default)]
pub struct Frames {
    checksums: Checksums,
}

impl Frames {
    /// Checks the event in `raw`, which must be exactly one event as it stands in the file or after the status byte of a packet.
    pub fn open<'a>(&mut self, raw: &'a [u8]) -> Result<Event<'a>, Problem> {
        let header = Header::parse(raw)?;
        if header.size as usize != raw.len() {
            return Err(Problem::Length(u64::from(header.size)));
        }
        if header.kind == kind::FORMAT_DESCRIPTION {
            return self.format_description(header, raw);
        }
        let checked = match self.checksums {
            Checksums::Off => false,
            Checksums::Crc32 => {
                verify(raw, header)?;
                true
            }
            // The rotate that a server makes up at the start of a stream precedes the format description that would say so.
            Checksums::Unknown => verify(raw, header).is_ok(),
        };
        let end = if checked {
            raw.len() - CHECKSUM_BYTES
        } else {
            raw.len()
        };
        Ok(Event {
            header,
            body: &raw[HEADER_BYTES..end],
        })
    }

    /// The format description itself always ends with the algorithm and four bytes for its checksum.
    fn format_description<'a>(&mut self, header: Header, raw: &'a [u8]) -> Result<Event<'a>, Problem> {
        let end = raw
            .len()
            .checked_sub(CHECKSUM_BYTES + 1)
            .filter(|end| *end >= HEADER_BYTES)
            .ok_or(Problem::Short)?;
        match raw[end] {
            0 => self.checksums = Checksums::Off,
            1 => {
                verify(raw, header)?;
                self.checksums = Checksums::Crc32;
            }
            other => {
                return Err(Problem::Event {
                    event: "FORMAT_DESCRIPTION",
                    what: format!("it announces checksum algorithm {other}"),
                });
            }
        }
        Ok(Event {
            header,
            body: &raw[HEADER_BYTES..end],
        })
    }
}

fn verify(raw: &[u8], header: Header) -> Result<(), Problem> {
    let (event, checksum) = raw.split_last_chunk::<CHECKSUM_BYTES>().ok_or(Problem::Short)?;
    let (head, body) = event.split_at_checked(HEADER_BYTES).ok_or(Problem::Short)?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head[..17]);
    let flags = if header.kind == kind::FORMAT_DESCRIPTION {
        header.flags & !FLAG_IN_USE
    } else {
        header.flags
    };
    hasher.update(&flags.to_le_bytes());
    hasher.update(body);
    let (found, computed) = (u32::from_le_bytes(*checksum), hasher.finalize());
    if found == computed {
        Ok(())
    } else {
        Err(Problem::Checksum { found, computed })
    }
}

/// What a format description says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatDescription {
    /// The server's version, such as `8.0.45` or `10.11.19-MariaDB-log`.
    pub server_version: String,
    /// Lengths of the fixed part of each event type's body, from type 1 on.
    pub post_header_lengths: Vec<u8>,
}

impl FormatDescription {
    /// Reads the body of a format description.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        let mut bytes = Bytes(body);
        let version = bytes.u16()?;
        if version != 4 {
            return Err(Problem::Event {
                event: "FORMAT_DESCRIPTION",
                what: format!("binary log format {version} is not 4 (MySQL 5.0 and later)"),
            });
        }
        let name = bytes.take(50)?;
        let name = name.split(|b| *b == 0).next().unwrap_or_default();
        let server_version = String::from_utf8_lossy(name).into_owned();
        bytes.u32()?;
        let header = bytes.u8()?;
        if usize::from(header) != HEADER_BYTES {
            return Err(Problem::Event {
                event: "FORMAT_DESCRIPTION",
                what: format!("event headers are {header} bytes long, not {HEADER_BYTES}"),
            });
        }
        Ok(Self {
            server_version,
            post_header_lengths: bytes.0.to_vec(),
        })
    }

    /// Whether the log is MariaDB's.
    pub fn is_mariadb(&self) -> bool {
        self.server_version.contains("MariaDB")
            || self.post_header_lengths.len() >= usize::from(kind::MARIADB_ANNOTATE_ROWS)
    }
}
