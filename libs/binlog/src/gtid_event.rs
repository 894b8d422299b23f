//! GTID events of both families, and the sets at the head of a file.

use mysql_common::{
    binlog::{
        BinlogCtx,
        consts::BinlogVersion,
        events::{FormatDescriptionEvent, GtidEvent},
    },
    io::ParseBuf,
};
use types::Micros;

use crate::{
    Gtid, GtidSet,
    error::Problem,
    event::{HEADER_BYTES, kind},
    read::Bytes,
};

/// What a GTID event says about the transaction that follows it.
pub(crate) struct Announced {
    pub(crate) gtid: Option<Gtid>,
    /// When it was committed, to the microsecond.
    pub(crate) commit_time: Option<Micros>,
    /// The event itself opens the transaction; no BEGIN follows.
    pub(crate) begins: bool,
}

/// Marks the logical clock in MySQL's GTID event.
const LOGICAL_CLOCK: u8 = 2;
/// Set in the commit time when that of the originating server follows.
const OTHER_ORIGIN: u64 = 1 << 55;
/// MariaDB: the group is one statement without a commit of its own.
const MARIADB_STANDALONE: u8 = 1;
/// MariaDB: the group prepares an XA transaction.
const MARIADB_PREPARED_XA: u8 = 64;
/// MariaDB: the group ends an XA transaction prepared before.
const MARIADB_COMPLETED_XA: u8 = 128;

/// GTID, ANONYMOUS_GTID and GTID_TAGGED events of MySQL.
pub(crate) fn mysql(kind: u8, body: &[u8]) -> Result<Announced, Problem> {
    if kind == kind::GTID_TAGGED {
        return tagged(body);
    }
    let mut bytes = Bytes(body);
    bytes.u8()?;
    let uuid = bytes.array()?;
    let number = bytes.u64()?;
    // From MySQL 5.7.4 on the logical clock follows, from 8.0.1 on the time of commit.
    let has_times = bytes.u8() == Ok(LOGICAL_CLOCK) && bytes.take(16).is_ok();
    let micros = bytes.uint(7).ok().filter(|_| has_times).unwrap_or_default() & !OTHER_ORIGIN;
    let gtid = (kind == kind::GTID).then_some(Gtid::Mysql {
        uuid,
        tag: None,
        number,
    });
    Ok(Announced {
        gtid,
        commit_time: instant(micros),
        begins: false,
    })
}

/// The event that carries a tag is written with MySQL's own serialization library.
fn tagged(body: &[u8]) -> Result<Announced, Problem> {
    let format = FormatDescriptionEvent::new(BinlogVersion::Version4);
    let context = BinlogCtx::new(HEADER_BYTES + body.len(), &format, kind::GTID_TAGGED);
    let event: GtidEvent = ParseBuf(body).parse(context).map_err(|error| Problem::Event {
        event: "GTID_TAGGED_LOG_EVENT",
        what: error.to_string(),
    })?;
    let tag = event.tag().map(|tag| tag.as_str().to_owned());
    let gtid = Gtid::Mysql {
        uuid: event.sid(),
        tag,
        number: event.gno(),
    };
    Ok(Announced {
        gtid: Some(gtid),
        commit_time: instant(event.immediate_commit_timestamp()),
        begins: false,
    })
}

fn instant(micros: u64) -> Option<Micros> {
    i64::try_from(micros)
        .ok()
        .filter(|micros| *micros > 0)
        .map(Micros)
}

/// MariaDB's GTID event (`sql/log_event.h`, `Gtid_log_event`): number u64, domain u32, flags u8.
pub(crate) fn mariadb(server: u32, body: &[u8]) -> Result<Announced, Problem> {
    let mut bytes = Bytes(body);
    let number = bytes.u64()?;
    let domain = bytes.u32()?;
    let flags = bytes.u8()?;
    if flags & (MARIADB_PREPARED_XA | MARIADB_COMPLETED_XA) != 0 {
        return Err(Problem::Unsupported {
            event: "an XA transaction in two phases",
            remedy: "",
        });
    }
    Ok(Announced {
        gtid: Some(Gtid::Mariadb {
            domain,
            server,
            number,
        }),
        commit_time: None,
        begins: flags & MARIADB_STANDALONE == 0,
    })
}

/// PREVIOUS_GTIDS: what was executed before a file was begun (`Gtid_set::encode`). A count of sources, whose top byte says whether they
/// have tags; per source its UUID, the tag, a count of intervals, and their ends, the second one excluded.
pub(crate) fn previous(body: &[u8]) -> Result<GtidSet, Problem> {
    let mut bytes = Bytes(body);
    let head = bytes.u64()?;
    let tagged = head >> 56 != 0;
    let sources = if tagged { head << 8 >> 16 } else { head };
    let mut set = GtidSet::default();
    for _ in 0..sources {
        let uuid: [u8; 16] = bytes.array()?;
        let tag = if tagged { tag(&mut bytes)? } else { None };
        for _ in 0..bytes.u64()? {
            let (from, until) = (bytes.u64()?, bytes.u64()?);
            if from == 0 || from >= until {
                return Err(Problem::Event {
                    event: "PREVIOUS_GTIDS_LOG_EVENT",
                    what: "an interval is empty".into(),
                });
            }
            set.add_interval((uuid, tag.clone()), from, until - 1);
        }
    }
    Ok(set)
}

/// A tag: its length in MySQL's variable-length form (for so few bytes: shifted left by one), then its text.
fn tag(bytes: &mut Bytes<'_>) -> Result<Option<String>, Problem> {
    let malformed = || Problem::Event {
        event: "PREVIOUS_GTIDS_LOG_EVENT",
        what: "a tag is not well-formed".into(),
    };
    let length = bytes.u8()?;
    if length & 1 != 0 {
        return Err(malformed());
    }
    let text = std::str::from_utf8(bytes.take(usize::from(length >> 1))?).map_err(|_| malformed())?;
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// MariaDB's GTID_LIST: a count whose upper four bits are flags, then domain u32, server u32, number u64 each.
pub(crate) fn mariadb_list(body: &[u8]) -> Result<GtidSet, Problem> {
    let mut bytes = Bytes(body);
    let count = bytes.u32()? & 0x0FFF_FFFF;
    let mut set = GtidSet::default();
    for _ in 0..count {
        let (domain, server) = (bytes.u32()?, bytes.u32()?);
        let mut one = GtidSet::default();
        one.add(&Gtid::Mariadb {
            domain,
            server,
            number: bytes.u64()?,
        });
        // A domain may be listed once per server; the highest number is the position.
        set.extend(&one);
    }
    Ok(set)
}
