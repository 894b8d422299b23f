//! Where what is still to come begins.

use binlog::{LogPos, Position};
use trail::Reader;

/// The position that every change still to come stands after; none before the first start.
pub fn end(reader: &Reader) -> Option<Position> {
    let place = reader.status().position?;
    // The next transaction may begin exactly where the log has been read to, so the mark lies just before.
    let at = LogPos {
        offset: place.at.offset.saturating_sub(1),
        ..place.at
    };
    Some(Position {
        epoch: place.epoch,
        at,
        ordinal: u64::MAX,
    })
}
