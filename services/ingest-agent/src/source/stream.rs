//! Events of a live replication stream, as bytes again, with their place in the source's files.

use std::time::Duration;

use binlog::{
    FileName, GtidSet, LogPos,
    event::{Event, Frames, Header, kind},
};
use futures_util::StreamExt;
use mysql_async::{BinlogStream, BinlogStreamRequest, Conn, Sid, prelude::Queryable};
use mysql_common::proto::MySerialize;
use tokio::time::timeout;
use types::{Code, chain};

use super::{
    connect::Connector,
    fault::{Fault, judge},
    identity::Identity,
    sql,
};
use crate::error::Error;

/// Three heartbeats: a source that says nothing for so long is gone, or the way to it.
const SILENCE: Duration = Duration::from_secs(30);

/// What is asked for.
pub(super) enum Request<'a> {
    /// Everything from this place on, and what will come.
    From(&'a LogPos),
    /// What the log holds now, but these transactions.
    Without(&'a GtidSet),
}

/// What came.
enum Pulled {
    Event,
    /// None has arrived yet.
    Nothing,
    /// The server ended the stream.
    End,
}

/// A stream of events.
pub(super) struct Events {
    stream: BinlogStream,
    frames: Frames,
    raw: Vec<u8>,
    /// Where the last event that stands in a file ended.
    end: u64,
    /// When the last event was written; 0 before the first one.
    written: u32,
    /// Events the client library may still unpack from a payload that has been decoded already; none outside of one.
    unpacked: Option<usize>,
}

impl Events {
    /// Asks for the log.
    pub(super) async fn open(
        connector: &Connector,
        mut conn: Conn,
        identity: &Identity,
        wanted: &Request<'_>,
        mariadb: bool,
    ) -> Result<Self, Fault> {
        connector
            .answer(conn.exec_drop(sql::REPLICA, (&identity.uuid,)))
            .await?;
        if mariadb {
            connector.answer(conn.query_drop(sql::MARIADB_CAPABILITY)).await?;
        }
        let (file, pos, gtids) = match wanted {
            Request::From(at) => (at.file.as_str(), at.offset, None),
            Request::Without(gtids) if mariadb => {
                connector
                    .answer(conn.exec_drop(sql::MARIADB_START, (gtids.to_string(),)))
                    .await?;
                ("", 4, None)
            }
            Request::Without(gtids) => ("", 4, Some(sids(gtids)?)),
        };
        let mut request = BinlogStreamRequest::new(identity.server_id)
            .with_filename(file.as_bytes())
            .with_pos(pos);
        if let Some(sids) = gtids {
            request = request.with_gtid().with_gtid_set(sids);
        }
        if matches!(wanted, Request::Without(_)) {
            request = request.with_non_blocking();
        }
        let stream = connector.answer(conn.get_binlog_stream(request)).await?;
        Ok(Self {
            stream,
            frames: Frames::default(),
            raw: Vec::new(),
            end: pos,
            written: 0,
            unpacked: None,
        })
    }

    /// Where the first event stands that the server sends of those it was asked for; `end`, before which there was none when the
    /// server was asked, if it has none.
    pub(super) async fn first(mut self, connector: &Connector, end: &LogPos) -> Result<LogPos, Fault> {
        let broken = |problem: binlog::Problem| {
            Fault::Permanent(Error::new(Code::Corrupt, &connector.what, chain(&problem)))
        };
        let mut file = FileName::new("");
        let found = loop {
            match self.pull(connector, false).await? {
                Pulled::Nothing => continue,
                Pulled::End => break end.clone(),
                Pulled::Event => {}
            }
            self.place().map_err(broken)?;
            let (at, event) = self.current().map_err(broken)?;
            match event.header.kind {
                kind::ROTATE => {
                    let name = event.body.get(8..).unwrap_or_default();
                    file = FileName::new(&String::from_utf8_lossy(name));
                }
                kind::GTID | kind::ANONYMOUS_GTID | kind::GTID_TAGGED | kind::MARIADB_GTID => {
                    break LogPos { file, offset: at };
                }
                _ => {}
            }
        };
        self.close().await;
        Ok(found)
    }

    /// Takes the next event off the stream; none when `ready_only` and no event has arrived yet. The result of [`Events::current`] is
    /// then that event.
    pub(super) async fn advance(&mut self, connector: &Connector, ready_only: bool) -> Result<bool, Fault> {
        match self.pull(connector, ready_only).await? {
            Pulled::Event => Ok(true),
            Pulled::Nothing => Ok(false),
            Pulled::End => Err(Fault::Transient(Error::new(
                Code::Unavailable,
                &connector.what,
                "the server ended the stream",
            ))),
        }
    }

    async fn pull(&mut self, connector: &Connector, ready_only: bool) -> Result<Pulled, Fault> {
        loop {
            let next = if ready_only {
                match futures_util::FutureExt::now_or_never(self.stream.next()) {
                    None => return Ok(Pulled::Nothing),
                    Some(next) => next,
                }
            } else {
                let silent = |_| {
                    Fault::Transient(Error::new(
                        Code::Unavailable,
                        &connector.what,
                        format!("no sign of life for {} s", SILENCE.as_secs()),
                    ))
                };
                timeout(SILENCE, self.stream.next()).await.map_err(silent)?
            };
            let event = match next {
                Some(Ok(event)) => event,
                Some(Err(error)) => return Err(judge(&connector.what, &error)),
                None => return Ok(Pulled::End),
            };
            if self.is_unpacked(connector, event.header().event_type_raw())? {
                continue;
            }
            self.raw.clear();
            event.header().serialize(&mut self.raw);
            self.raw.extend_from_slice(event.data());
            if event.header().event_type_raw() == kind::FORMAT_DESCRIPTION {
                let algorithm = event.footer().get_checksum_alg().ok().flatten();
                self.raw.push(algorithm.map_or(0, |algorithm| algorithm as u8));
            }
            if let Some(checksum) = event.checksum() {
                self.raw.extend_from_slice(&checksum);
            }
            return Ok(Pulled::Event);
        }
    }

    /// Whether an event of this kind is one that the client library unpacked from a payload. It unpacks a payload only if it can, so their
    /// number alone says nothing: what stands outside of transactions ends them.
    fn is_unpacked(&mut self, connector: &Connector, kind: u8) -> Result<bool, Fault> {
        let Some(left) = self.unpacked else {
            return Ok(false);
        };
        if stands_alone(kind) {
            self.unpacked = None;
            return Ok(false);
        }
        if left == 0 {
            let why = format!("after a compressed transaction comes an event of type {kind} without one");
            return Err(Fault::Permanent(Error::new(Code::Corrupt, &connector.what, why)));
        }
        self.unpacked = Some(left - 1);
        Ok(true)
    }

    /// The event taken last, checked, with the offset it begins at.
    pub(super) fn current(&mut self) -> Result<(u64, Event<'_>), binlog::Problem> {
        let event = self.frames.open(&self.raw)?;
        Ok((self.end.saturating_sub(u64::from(event.header.size)), event))
    }

    /// Follows the position of the event taken last, which must come before [`Events::current`].
    pub(super) fn place(&mut self) -> Result<Header, binlog::Problem> {
        let header = Header::parse(&self.raw)?;
        // A heartbeat stands in no file, but its position is where the server has got to.
        let made_up = header.end == 0 || (header.is_artificial() && header.kind != kind::HEARTBEAT);
        if header.kind == kind::ROTATE && header.is_artificial() {
            let offset = self
                .raw
                .get(19..27)
                .and_then(|raw| raw.try_into().ok())
                .map_or(4, u64::from_le_bytes);
            self.end = offset;
        } else if !made_up {
            self.end = unwrap(self.end, header.end);
        }
        if header.timestamp != 0 {
            self.written = header.timestamp;
        }
        Ok(header)
    }

    /// Tells that the payload taken last has been decoded, and how many events it held.
    pub(super) fn skip(&mut self, events: usize) {
        self.unpacked = Some(events);
    }

    /// When the last event was written, in seconds since 1970; 0 if that is not known.
    pub(super) fn written(&self) -> u32 {
        self.written
    }

    /// Where the event taken last ends in `file`.
    pub(super) fn end(&self, file: &FileName) -> LogPos {
        LogPos {
            file: file.clone(),
            offset: self.end,
        }
    }

    /// Tells the server that no more is wanted.
    pub(super) async fn close(self) {
        // The connection goes either way; a server that is gone need not be told.
        let _ = timeout(Duration::from_secs(2), self.stream.close()).await;
    }
}

/// Whether events of this kind stand before, between or after transactions and never in one.
fn stands_alone(kind: u8) -> bool {
    matches!(
        kind,
        kind::GTID
            | kind::ANONYMOUS_GTID
            | kind::GTID_TAGGED
            | kind::ROTATE
            | kind::STOP
            | kind::FORMAT_DESCRIPTION
            | kind::PREVIOUS_GTIDS
            | kind::HEARTBEAT
            | kind::HEARTBEAT_V2
            | kind::INCIDENT
            | kind::VIEW_CHANGE
            | kind::TRANSACTION_CONTEXT
            | kind::TRANSACTION_PAYLOAD
    )
}

/// The full offset of an event's end, of which the header holds the lower 32 bits.
fn unwrap(last: u64, low: u32) -> u64 {
    let high = last & !u64::from(u32::MAX);
    let end = high | u64::from(low);
    if end < last { end + (1 << 32) } else { end }
}

/// The set as the client library takes it, one member per source and tag.
fn sids(gtids: &GtidSet) -> Result<Vec<Sid<'static>>, Fault> {
    let wrong = |error| Fault::Permanent(Error::new(Code::Invalid, "the GTID set", error));
    gtids
        .to_string()
        .split(',')
        .map(|member| member.parse().map_err(wrong))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::unwrap;

    #[test]
    fn offsets_beyond_four_gigabytes_are_followed() {
        assert_eq!(unwrap(100, 200), 200);
        assert_eq!(unwrap(0xFFFF_FF00, 0x10), 0x1_0000_0010);
        assert_eq!(unwrap(0x1_0000_0010, 0x20), 0x1_0000_0020);
    }
}
