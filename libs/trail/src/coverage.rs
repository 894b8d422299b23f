//! What a store has seen of its source, and what it has not: intervals of the log, the gaps between them, and the judgement whether
//! an answer is complete. All of it is computed from what was read; nothing is assumed.

use std::{cmp::Ordering, fmt};

use binlog::{GtidSet, LogPos};
use serde::{Deserialize, Serialize};
use types::Micros;

use crate::Filter;

/// A place in the log of one of the source's timelines.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The timeline; see [`binlog::Position::epoch`].
    pub epoch: u32,
    /// Where in its log.
    #[serde(flatten)]
    pub at: LogPos,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.epoch {
            0 => write!(f, "{}", self.at),
            epoch => write!(f, "{} (epoch {epoch})", self.at),
        }
    }
}

/// A stretch of the log that was read without a break: everything that begins at `from` or later and before `to`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interval {
    /// The timeline.
    pub epoch: u32,
    /// Where reading began.
    pub from: LogPos,
    /// Up to where it came.
    pub to: LogPos,
    /// Commit time of the earliest transaction in it; none while there is none.
    #[serde(with = "optional_micros")]
    pub from_time: Option<Micros>,
    /// Commit time of the latest transaction in it.
    #[serde(with = "optional_micros")]
    pub to_time: Option<Micros>,
    /// What the source had executed before `from`, as far as it is known.
    pub gtids_before: GtidSet,
    /// The transactions in it.
    pub gtids: GtidSet,
    /// How many transactions took effect in it.
    pub transactions: u64,
    /// How many row changes they made.
    pub changes: u64,
    /// Why it does not continue the interval before it, as whoever began it put it.
    pub reason: Option<String>,
    /// Something is missing just before `from`, even if another interval ends there.
    pub apart: bool,
}

/// A stretch of the log that was not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Everything up to here was read.
    pub after: Place,
    /// Everything from here was read.
    pub before: Place,
    /// Commit time of the last transaction read before it.
    pub after_time: Option<Micros>,
    /// Commit time of the first transaction read after it.
    pub before_time: Option<Micros>,
    /// Why it was not read.
    pub reason: String,
}

/// What an answer rests on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// What was read, in the order of the log.
    pub intervals: Vec<Interval>,
    /// What lies between and was not read.
    pub gaps: Vec<Gap>,
    /// Whether everything that was asked for has been read.
    pub complete: bool,
    /// If it is not complete: why, as a sentence for people.
    pub because: Option<String>,
    /// Commit time of the earliest transaction of the store: where its history begins.
    pub earliest: Option<Micros>,
}

impl Interval {
    /// An interval that begins, and as yet ends, at `from`.
    pub(crate) fn starting(epoch: u32, from: LogPos, gtids_before: GtidSet) -> Self {
        Self {
            epoch,
            to: from.clone(),
            from,
            from_time: None,
            to_time: None,
            gtids_before,
            gtids: GtidSet::default(),
            transactions: 0,
            changes: 0,
            reason: None,
            apart: false,
        }
    }

    /// Where it ends.
    pub fn end(&self) -> Place {
        Place {
            epoch: self.epoch,
            at: self.to.clone(),
        }
    }

    /// Where it begins.
    pub fn start(&self) -> Place {
        Place {
            epoch: self.epoch,
            at: self.from.clone(),
        }
    }

    /// Everything the source had executed at its end.
    pub fn executed(&self) -> GtidSet {
        let mut all = self.gtids_before.clone();
        all.extend(&self.gtids);
        all
    }

    /// Whether a transaction that begins at `at` is in it.
    pub fn covers(&self, at: &LogPos) -> bool {
        self.from <= *at && *at < self.to
    }

    pub(crate) fn saw(&mut self, time: Micros) {
        self.from_time = Some(self.from_time.map_or(time, |earliest| earliest.min(time)));
        self.to_time = Some(self.to_time.map_or(time, |latest| latest.max(time)));
    }

    /// Whether `next` begins where this one ends, or before.
    fn touches(&self, next: &Interval) -> bool {
        self.epoch == next.epoch && next.from <= self.to && !next.apart
    }

    /// Takes in `next`, which begins where this one ends.
    fn absorb(&mut self, next: Interval) {
        self.to = self.to.clone().max(next.to);
        self.from_time = [self.from_time, next.from_time].into_iter().flatten().min();
        self.to_time = [self.to_time, next.to_time].into_iter().flatten().max();
        self.gtids.extend(&next.gtids);
        self.transactions += next.transactions;
        self.changes += next.changes;
    }

    /// The hole between this one and the next; none if there is proof that there is none.
    fn gap_to(&self, next: &Interval) -> Option<Gap> {
        // Places may be far apart and yet nothing be missing: a server that crashed leaves a file without an end, and a replica that
        // takes over has files of its own. The GTIDs know.
        let proven = !next.gtids_before.is_empty() && self.executed().includes(&next.gtids_before);
        if !next.apart && (self.touches(next) || proven) {
            return None;
        }
        let reason = next
            .reason
            .clone()
            .unwrap_or_else(|| match self.epoch.cmp(&next.epoch) {
                Ordering::Equal => "this part of the log was not read".to_owned(),
                _ => {
                    "the source was replaced or set back, and nothing proves that no transaction lies between"
                        .to_owned()
                }
            });
        Some(Gap {
            after: self.end(),
            before: next.start(),
            after_time: self.to_time,
            before_time: next.from_time,
            reason,
        })
    }
}

/// Sorts the intervals and makes one of those that touch.
pub(crate) fn join(mut intervals: Vec<Interval>) -> Vec<Interval> {
    intervals.sort_by(|a, b| (a.epoch, &a.from, &a.to).cmp(&(b.epoch, &b.from, &b.to)));
    let mut joined: Vec<Interval> = Vec::with_capacity(intervals.len());
    for interval in intervals {
        match joined.last_mut() {
            Some(last) if last.touches(&interval) => last.absorb(interval),
            _ => joined.push(interval),
        }
    }
    joined
}

impl Gap {
    /// Whether something that was asked for may lie in it. Doubt counts as yes.
    fn concerns(&self, filter: &Filter) -> bool {
        let too_early = filter
            .since
            .zip(self.before_time)
            .is_some_and(|(since, before)| before < since)
            || filter
                .after
                .as_ref()
                .is_some_and(|p| (p.epoch, &p.at) >= (self.before.epoch, &self.before.at));
        let too_late = filter
            .until
            .zip(self.after_time)
            .is_some_and(|(until, after)| after >= until);
        !too_early && !too_late
    }
}

impl Coverage {
    /// What `intervals`, joined and in order, say about the completeness of an answer to `filter`.
    pub(crate) fn judge(intervals: Vec<Interval>, filter: &Filter) -> Self {
        let earliest = intervals.iter().filter_map(|i| i.from_time).min();
        let intervals: Vec<Interval> = intervals
            .into_iter()
            .filter(|i| filter.epoch.is_none_or(|epoch| epoch == i.epoch))
            .collect();
        let intervals = without_empty(intervals);
        let mut gaps: Vec<Gap> = intervals
            .windows(2)
            .filter_map(|pair| pair[0].gap_to(&pair[1]))
            .collect();
        let because = if let Some(at) = &filter.transaction {
            gaps.clear();
            let read = intervals.iter().any(|i| i.covers(at));
            (!read).then(|| format!("the log at {at} has not been read"))
        } else {
            gaps.retain(|gap| gap.concerns(filter));
            before_history(&intervals, filter).or_else(|| {
                let gap = gaps.first()?;
                Some(format!(
                    "between {} and {} nothing was read: {}",
                    gap.after, gap.before, gap.reason
                ))
            })
        };
        let intervals = intervals.into_iter().filter(|i| i.concerns(filter)).collect();
        Self {
            intervals,
            gaps,
            complete: because.is_none(),
            because,
            earliest,
        }
    }
}

/// Where reading began and nothing came says nothing, unless it is all there is, or the place of something missing.
fn without_empty(intervals: Vec<Interval>) -> Vec<Interval> {
    let is_something = |i: &Interval| i.from < i.to || i.apart;
    if !intervals.iter().any(is_something) {
        return intervals;
    }
    intervals.into_iter().filter(is_something).collect()
}

impl Interval {
    fn concerns(&self, filter: &Filter) -> bool {
        let too_early = filter
            .since
            .zip(self.to_time)
            .is_some_and(|(since, to)| to < since)
            || filter
                .after
                .as_ref()
                .is_some_and(|p| (p.epoch, &p.at) >= (self.epoch, &self.to));
        let too_late = filter
            .until
            .zip(self.from_time)
            .is_some_and(|(until, from)| from >= until);
        !too_early && !too_late && filter.transaction.as_ref().is_none_or(|at| self.covers(at))
    }
}

/// Why the beginning of what `filter` asks for lies before the first interval, if it does.
fn before_history(intervals: &[Interval], filter: &Filter) -> Option<String> {
    let Some(first) = intervals.first() else {
        return Some("nothing has been read yet".to_owned());
    };
    let begins = match first.from_time {
        Some(time) => format!("history begins at {time} ({})", first.start()),
        None => format!(
            "history begins at {}, and no transaction has been seen since",
            first.start()
        ),
    };
    let asked_earlier = filter
        .since
        .is_some_and(|since| first.from_time.is_none_or(|from| since < from))
        || filter
            .after
            .as_ref()
            .is_some_and(|p| (p.epoch, &p.at) < (first.epoch, &first.from))
        || filter
            .gtid
            .as_ref()
            .is_some_and(|gtid| first.gtids_before.contains(gtid));
    asked_earlier.then_some(begins)
}

/// [`Micros`] as a bare number.
mod optional_micros {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use types::Micros;

    #[allow(clippy::ref_option, reason = "serde's `with` passes the field by reference")]
    pub(super) fn serialize<S: Serializer>(time: &Option<Micros>, serializer: S) -> Result<S::Ok, S::Error> {
        time.map(|micros| micros.0).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Micros>, D::Error> {
        Ok(Option::<i64>::deserialize(deserializer)?.map(Micros))
    }
}
