//! What an answer rests on, from messages to the store's own words, so that both are told alike.

use binlog::{GtidSet, LogPos};
use proto::change::v1 as pb;
use trail::{Coverage, Gap, Interval, Place};
use types::Micros;

use crate::render::micros;

/// The coverage of a message.
pub(crate) fn coverage(message: &pb::Coverage) -> Coverage {
    Coverage {
        intervals: message.intervals.iter().map(interval).collect(),
        gaps: message.gaps.iter().map(gap).collect(),
        complete: message.complete,
        because: Some(message.because.clone()).filter(|because| !because.is_empty()),
        earliest: time(message.earliest.as_ref()),
    }
}

/// The gap of a message.
pub(crate) fn gap(message: &pb::Gap) -> Gap {
    Gap {
        after: place(message.after.as_ref()),
        before: place(message.before.as_ref()),
        after_time: time(message.after_time.as_ref()),
        before_time: time(message.before_time.as_ref()),
        reason: message.reason.clone(),
    }
}

fn interval(message: &pb::Interval) -> Interval {
    let (from, to) = (place(message.from.as_ref()), place(message.to.as_ref()));
    Interval {
        epoch: from.epoch,
        from: from.at,
        to: to.at,
        from_time: time(message.from_time.as_ref()),
        to_time: time(message.to_time.as_ref()),
        gtids_before: gtids(&message.gtids_before),
        gtids: gtids(&message.gtids),
        transactions: message.transactions,
        changes: message.changes,
        reason: None,
        apart: false,
    }
}

/// A place of a message; the beginning of everything if there is none.
pub(crate) fn place(message: Option<&pb::Place>) -> Place {
    let none = pb::Place::default();
    let message = message.unwrap_or(&none);
    Place {
        epoch: message.epoch,
        at: LogPos::new(&message.file, message.offset),
    }
}

/// A time of a message.
pub(crate) fn time(message: Option<&prost_types::Timestamp>) -> Option<Micros> {
    message.map(micros)
}

fn gtids(text: &str) -> GtidSet {
    text.parse().unwrap_or_default()
}
