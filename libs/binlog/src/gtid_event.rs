//! GTID events of both families, and the sets at the head of a file.

use mysql_common::{
    binlog::{
        BinlogCtx,
        consts::BinlogVersion,
        events::{FormatDescriptionEvent, GtidEvent, PreviousGtidsEvent},
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

/// MariaDB: the group is one statement without a commit of its own.
const MARIADB_STANDALONE: u8 = 1;
/// MariaDB: the group prepares an XA transaction.
const MARIADB_PREPARED_XA: u8 = 64;
/// MariaDB: the group ends an XA transaction prepared before.
const MARIADB_COMPLETED_XA: u8 = 128;

fn malformed(event: &'static str, error: &std::io::Error) -> Problem {
    Problem::Event {
        event,
        what: error.to_string(),
    }
}

/// GTID, ANONYMOUS_GTID and GTID_TAGGED events of MySQL.
pub(crate) fn mysql(kind: u8, body: &[u8]) -> Result<Announced, Problem> {
    let format = FormatDescriptionEvent::new(BinlogVersion::Version4);
    // An anonymous transaction's event has the fields of a GTID event.
    let read_as = if kind == kind::ANONYMOUS_GTID {
        kind::GTID
    } else {
        kind
    };
    let context = BinlogCtx::new(HEADER_BYTES + body.len(), &format, read_as);
    let event: GtidEvent = ParseBuf(body)
        .parse(context)
        .map_err(|error| malformed("GTID_LOG_EVENT", &error))?;
    let tag = event.tag().map(|tag| tag.as_str().to_owned());
    let gtid = (kind != kind::ANONYMOUS_GTID).then(|| Gtid::Mysql {
        uuid: event.sid(),
        tag,
        number: event.gno(),
    });
    let micros = i64::try_from(event.immediate_commit_timestamp()).unwrap_or_default();
    Ok(Announced {
        gtid,
        commit_time: (micros > 0).then_some(Micros(micros)),
        begins: false,
    })
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

/// PREVIOUS_GTIDS: what was executed before a file was begun.
pub(crate) fn previous(body: &[u8]) -> Result<GtidSet, Problem> {
    let format = FormatDescriptionEvent::new(BinlogVersion::Version4);
    let context = BinlogCtx::new(HEADER_BYTES + body.len(), &format, kind::PREVIOUS_GTIDS);
    let event: PreviousGtidsEvent<'_> = ParseBuf(body)
        .parse(context)
        .map_err(|error| malformed("PREVIOUS_GTIDS_LOG_EVENT", &error))?;
    let mut set = GtidSet::default();
    for source in event.sids() {
        for interval in source.intervals() {
            let tag = source.tag().map(|tag| tag.as_str().to_owned());
            // The event's intervals exclude their end.
            set.add_interval(
                (source.uuid(), tag),
                interval.start(),
                interval.end().saturating_sub(1),
            );
        }
    }
    Ok(set)
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
