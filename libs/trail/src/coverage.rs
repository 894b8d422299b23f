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
            .is_some_and(|(until, after)| after >= until)
            || filter
                .before
                .as_ref()
                .is_some_and(|p| (p.epoch, &p.at, p.ordinal) <= (self.after.epoch, &self.after.at, 0));
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

/// Damage in a tail: what was read after a place is not readable any more.
#[derive(Clone, Debug)]
pub(crate) struct Damage {
    /// The tail.
    pub(crate) file: String,
    /// Its first byte that is not good.
    pub(crate) at: u64,
    /// Everything up to here is good.
    pub(crate) after: Place,
    pub(crate) after_time: Option<Micros>,
}

impl Damage {
    /// Whether something that was asked for may lie in it. Doubt counts as yes.
    fn concerns(&self, filter: &Filter) -> bool {
        let too_late = filter
            .until
            .zip(self.after_time)
            .is_some_and(|(until, after)| after >= until)
            || filter
                .before
                .as_ref()
                .is_some_and(|p| (p.epoch, &p.at, p.ordinal) <= (self.after.epoch, &self.after.at, 0));
        !too_late && filter.epoch.is_none_or(|epoch| epoch == self.after.epoch)
    }
}

impl Coverage {
    /// The same, if what `damage` took may have been asked for.
    pub(crate) fn short_of(mut self, damage: &Damage, filter: &Filter) -> Self {
        // A transaction that was read is whole, whatever is damaged elsewhere.
        let read = filter.transaction.is_some() && self.complete;
        if damage.concerns(filter) && !read {
            self.complete = false;
            self.because = Some(format!(
                "{} is damaged at byte {}: what was read after {} is lost until it is read again with `trail watch` or `trail index`",
                damage.file, damage.at, damage.after
            ));
        }
        self
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
            .is_some_and(|(until, from)| from >= until)
            || filter
                .before
                .as_ref()
                .is_some_and(|p| (p.epoch, &p.at, p.ordinal) <= (self.epoch, &self.from, 0));
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

#[cfg(test)]
mod tests {
    use binlog::{GtidSet, LogPos, Position};
    use types::Micros;

    use super::{Coverage, Interval, join};
    use crate::Filter;

    const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

    fn gtids(numbers: &str) -> GtidSet {
        if numbers.is_empty() {
            GtidSet::default()
        } else {
            format!("{UUID}:{numbers}").parse().unwrap()
        }
    }

    /// An interval from one offset of a file to another, with commits at these seconds.
    fn interval(
        epoch: u32,
        from: &str,
        to: &str,
        times: (i64, i64),
        before: &str,
        numbers: &str,
    ) -> Interval {
        let mut interval = Interval::starting(epoch, from.parse().unwrap(), gtids(before));
        interval.to = to.parse().unwrap();
        interval.saw(Micros::from_secs(times.0));
        interval.saw(Micros::from_secs(times.1));
        interval.gtids = gtids(numbers);
        (interval.transactions, interval.changes) = (1, 10);
        interval
    }

    /// Seconds 10 to 20, a gap, then 40 to 50.
    fn broken() -> Vec<Interval> {
        join(vec![
            interval(0, "b.2:4", "b.2:900", (40, 50), "", ""),
            interval(0, "b.1:4", "b.1:300", (10, 20), "1-5", "6-9"),
        ])
    }

    fn since(seconds: i64) -> Filter {
        Filter {
            since: Some(Micros::from_secs(seconds)),
            ..Filter::default()
        }
    }

    #[test]
    fn intervals_that_touch_are_one() {
        let a = interval(0, "b.1:4", "b.1:300", (10, 20), "1-5", "6-9");
        let b = interval(0, "b.1:300", "b.2:4", (19, 30), "1-9", "10-12");
        let c = interval(1, "b.2:4", "b.2:50", (31, 32), "", "");
        let joined = join(vec![c.clone(), b.clone(), a.clone()]);
        assert_eq!(joined.len(), 2);
        let expected = Interval {
            to: b.to,
            to_time: b.to_time,
            gtids: gtids("6-12"),
            transactions: 2,
            changes: 20,
            ..a
        };
        assert_eq!(joined, [expected, c]);
        assert_eq!(joined[0].executed(), gtids("1-12"));
    }

    #[test]
    fn an_interval_that_stands_apart_stays_apart() {
        let a = interval(0, "b.1:4", "b.1:300", (10, 20), "", "");
        let b = Interval {
            apart: true,
            reason: Some("an incident".into()),
            ..interval(0, "b.1:300", "b.1:400", (21, 22), "", "")
        };
        let coverage = Coverage::judge(join(vec![a, b]), &Filter::default());
        assert_eq!((coverage.intervals.len(), coverage.complete), (2, false));
        assert_eq!(coverage.gaps[0].reason, "an incident");
        assert_eq!(
            coverage.because.as_deref(),
            Some("between b.1:300 and b.1:300 nothing was read: an incident")
        );
    }

    #[test]
    fn a_gap_concerns_those_who_ask_across_it() {
        let complete = |filter: &Filter| Coverage::judge(broken(), filter).complete;
        let until = |seconds| Filter {
            until: Some(Micros::from_secs(seconds)),
            ..Filter::default()
        };
        let after = |at: &str| {
            let after = Some(Position {
                epoch: 0,
                at: at.parse().unwrap(),
                ordinal: 0,
            });
            Filter {
                after,
                ..Filter::default()
            }
        };
        let transaction = |at: &str| Filter {
            transaction: Some(at.parse().unwrap()),
            ..Filter::default()
        };
        assert!(!complete(&Filter::default()));
        assert!(!complete(&since(15)));
        assert!(
            !complete(&since(40)),
            "what was committed at 40 may lie in the gap too"
        );
        assert!(complete(&since(41)));
        assert!(complete(&until(20)), "before 20 there is nothing in the gap");
        assert!(!complete(&until(21)));
        assert!(complete(&after("b.2:4")));
        assert!(!complete(&after("b.1:200")));
        assert!(complete(&transaction("b.1:200")));
        assert!(!complete(&transaction("b.1:300")));
    }

    #[test]
    fn what_was_before_history_is_not_claimed() {
        let coverage = Coverage::judge(broken(), &since(9));
        assert_eq!(
            coverage.because.as_deref(),
            Some("history begins at 1970-01-01T00:00:10Z (b.1:4)")
        );
        assert_eq!(coverage.earliest, Some(Micros::from_secs(10)));
        let gtid = |number: u64| Filter {
            gtid: format!("{UUID}:{number}").parse().ok(),
            until: Some(Micros(1)),
            ..Filter::default()
        };
        assert!(!Coverage::judge(broken(), &gtid(5)).complete);
        assert!(Coverage::judge(broken(), &gtid(6)).complete);
        assert_eq!(
            Coverage::judge(Vec::new(), &Filter::default()).because.as_deref(),
            Some("nothing has been read yet")
        );
        let silent = vec![Interval::starting(0, LogPos::new("b.1", 4), GtidSet::default())];
        assert!(Coverage::judge(silent.clone(), &Filter::default()).complete);
        assert!(!Coverage::judge(silent, &since(1)).complete);
    }

    #[test]
    fn gtids_prove_that_nothing_is_missing() {
        let first = interval(0, "b.1:4", "b.1:300", (10, 20), "1-5", "6-9");
        for (epoch, from) in [(0, "b.2:4"), (1, "other.1:4")] {
            let next = |before| {
                vec![
                    first.clone(),
                    interval(epoch, from, "other.9:4", (40, 50), before, "10"),
                ]
            };
            assert!(Coverage::judge(next("1-9"), &Filter::default()).complete);
            assert!(!Coverage::judge(next("1-10"), &Filter::default()).complete);
            assert!(!Coverage::judge(next(""), &Filter::default()).complete);
        }
    }
}
