//! Reads a chain from the front, a record at a time, and names the first record that is not as it was written.

use std::fmt;

use crate::{Hash, Head, Record, genesis, link};

/// What the plan that keeps least keeps: nothing younger is ever removed.
const LEAST_DAYS: i64 = 30;

const DAY: i64 = 86_400_000_000;

/// A record as the chain has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub sequence: i64,
    /// The hash of the one before.
    pub prev: Hash,
    /// Its own.
    pub hash: Hash,
    /// Its JSON, to the byte.
    pub body: String,
}

impl Link {
    fn holds_as(&self, sequence: i64) -> bool {
        link(sequence, self.prev, &self.body) == self.hash
    }

    fn holds(&self) -> bool {
        self.holds_as(self.sequence)
    }
}

/// The first thing that is wrong with a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// This record is not what was written.
    Changed {
        /// Its number.
        sequence: i64,
    },
    /// This record was put in.
    Inserted {
        /// The number it bears.
        sequence: i64,
    },
    /// These records are gone.
    Removed {
        /// The first of them.
        first: i64,
        /// The last.
        last: i64,
    },
    /// This record stands in another place.
    Moved {
        /// Its number.
        sequence: i64,
    },
    /// The end is gone.
    CutOff {
        /// The first record that is missing.
        first: i64,
    },
    /// The chain holds in itself, but it is not the one whose head was signed.
    Rewritten {
        /// What a signed head covers up to here is right.
        after: i64,
        /// The number that the head covers.
        by: i64,
    },
    /// It is the chain of another tenant.
    Foreign,
}

impl Finding {
    /// The number of the first record that is not as it was.
    pub fn sequence(self) -> i64 {
        match self {
            Self::Changed { sequence } | Self::Inserted { sequence } | Self::Moved { sequence } => sequence,
            Self::Removed { first, .. } | Self::CutOff { first } => first,
            Self::Rewritten { after, .. } => after + 1,
            Self::Foreign => 1,
        }
    }

    /// One word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Changed { .. } => "changed",
            Self::Inserted { .. } => "inserted",
            Self::Removed { .. } => "removed",
            Self::Moved { .. } => "moved",
            Self::CutOff { .. } => "cut_off",
            Self::Rewritten { .. } => "rewritten",
            Self::Foreign => "foreign",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed { sequence } => write!(f, "record {sequence} was changed"),
            Self::Inserted { sequence } => write!(f, "a record {sequence} was inserted"),
            Self::Removed { first, last } if first == last => write!(f, "record {first} was removed"),
            Self::Removed { first, last } => write!(f, "records {first} to {last} were removed"),
            Self::Moved { sequence } => {
                write!(f, "record {sequence} is not in its place: records were reordered")
            }
            Self::CutOff { first } => write!(
                f,
                "the end was cut off: record {first} is the first that is missing"
            ),
            Self::Rewritten { after, by } => write!(
                f,
                "the records from {} on were written anew: record {by} is not the one that was signed",
                after + 1
            ),
            Self::Foreign => f.write_str("the chain is that of another tenant"),
        }
    }
}

/// What a chain was found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The first thing that is wrong.
    pub finding: Option<Finding>,
    /// Where the chain breaks further on: what is missing before its first record. It may be that the record which told of its removal is what
    /// was touched.
    pub front: Option<Finding>,
    /// How many records were read.
    pub records: u64,
    /// The number of the first one; 0 when there is none.
    pub first: i64,
    /// The number of the last one in order.
    pub last: i64,
    /// Up to where a head covers it; 0 when none does.
    pub covered: i64,
    /// Heads of records that retention has removed since, by their size: they prove nothing now.
    pub outdated: Vec<i64>,
}

impl Report {
    /// The first and the last of the records that no head covers: they hold together, and whoever wrote the file may have made them.
    pub fn unsigned(&self) -> Option<(i64, i64)> {
        (self.last > self.covered).then(|| (self.first.max(self.covered + 1), self.last))
    }
}

/// What a trim says is gone.
#[derive(Clone, Copy)]
struct Trim {
    through: i64,
    hash: Hash,
}

/// Reads a chain.
pub struct Verifier {
    tenant: String,
    /// By size.
    heads: Vec<Head>,
    next_head: usize,
    records: u64,
    /// The first record, where it stands for more that was removed.
    start: Option<(i64, Hash)>,
    last: Option<(i64, Hash, Hash)>,
    trims: Vec<Trim>,
    covered: i64,
    outdated: Vec<i64>,
    finding: Option<Finding>,
    /// The first record is wrong; its own number is known by the next one.
    first_is_wrong: bool,
}

impl Verifier {
    /// Of the chain of this tenant (`tnt_…`), which these heads cover. Whether a head is genuine is for [`crate::SignedHead::verify`] to say.
    pub fn new(tenant: &str, mut heads: Vec<Head>) -> Self {
        heads.sort_by_key(|head| head.size);
        Self {
            tenant: tenant.to_owned(),
            heads,
            next_head: 0,
            records: 0,
            start: None,
            last: None,
            trims: Vec::new(),
            covered: 0,
            outdated: Vec::new(),
            finding: None,
            first_is_wrong: false,
        }
    }

    /// The next record.
    pub fn push(&mut self, record: &Link) {
        self.records += 1;
        self.note_trim(record);
        match (self.finding, self.last) {
            (Some(_), _) => self.look_back(record),
            (None, None) => self.begin(record),
            (None, Some(last)) => self.go_on(record, last),
        }
    }

    /// In the place of the next record is something that is none.
    pub fn push_unreadable(&mut self) {
        self.records += 1;
        if self.finding.is_none() {
            let sequence = self.next();
            self.first_is_wrong = self.last.is_none();
            self.finding = Some(Finding::Changed { sequence });
        }
    }

    /// The number that the next record has to have.
    pub fn next(&self) -> i64 {
        self.last.map_or(1, |(sequence, ..)| sequence + 1)
    }

    fn accept(&mut self, record: &Link) {
        self.last = Some((record.sequence, record.prev, record.hash));
        while let Some(head) = self.heads.get(self.next_head) {
            if head.size > record.sequence {
                break;
            }
            if head.size < record.sequence {
                self.outdated.push(head.size);
            } else if head.hash == record.hash {
                self.covered = head.size;
            } else if self.finding.is_none() {
                self.finding = Some(Finding::Rewritten {
                    after: self.covered,
                    by: head.size,
                });
            }
            self.next_head += 1;
        }
    }

    fn begin(&mut self, record: &Link) {
        if !record.holds() {
            let sequence = if record.holds_as(1) && record.prev == genesis(&self.tenant) {
                1
            } else {
                self.first_is_wrong = true;
                record.sequence
            };
            self.finding = Some(Finding::Changed { sequence });
        } else if record.sequence < 1 || record.sequence == 1 && record.prev != genesis(&self.tenant) {
            self.finding = Some(Finding::Foreign);
        } else {
            self.start = Some((record.sequence, record.prev));
            self.accept(record);
        }
    }

    fn go_on(&mut self, record: &Link, (sequence, prev, hash): (i64, Hash, Hash)) {
        let (next, holds) = (sequence + 1, record.holds());
        if record.sequence == next && record.prev == hash && holds {
            let says_what_cannot_be = self.says_what_cannot_be(record);
            self.accept(record);
            if says_what_cannot_be {
                self.finding = Some(Finding::Changed { sequence: next });
            }
            return;
        }
        let finding = if record.sequence == next && holds {
            // It is whole, and names another one before it.
            Finding::Changed { sequence }
        } else if record.prev == prev && record.holds_as(sequence) && !holds {
            // It is the one before in truth: what passed for that was put in.
            Finding::Inserted { sequence }
        } else if !holds {
            Finding::Changed { sequence: next }
        } else if record.sequence > next {
            Finding::Removed {
                first: next,
                last: record.sequence - 1,
            }
        } else {
            Finding::Inserted {
                sequence: record.sequence,
            }
        };
        self.finding = Some(finding);
    }

    /// What came later may tell more about the first finding.
    fn look_back(&mut self, record: &Link) {
        if std::mem::take(&mut self.first_is_wrong) && record.holds() && record.sequence > 1 {
            self.finding = Some(Finding::Changed {
                sequence: record.sequence - 1,
            });
        }
        if let Some(Finding::Removed { first, .. }) = self.finding
            && record.sequence == first
            && record.holds()
        {
            self.finding = Some(Finding::Moved { sequence: first });
        }
    }

    fn note_trim(&mut self, record: &Link) {
        if let Ok(Record::Trim { through, hash, .. }) = Record::read(&record.body)
            && let Some(hash) = Hash::from_hex(&hash)
        {
            self.trims.push(Trim { through, hash });
        }
    }

    /// Whether it removes what no plan lets go.
    fn says_what_cannot_be(&self, record: &Link) -> bool {
        match Record::read(&record.body) {
            Ok(Record::Trim {
                time,
                through,
                days,
                before,
                ..
            }) => through >= record.sequence || days < LEAST_DAYS || before > time - days.saturating_mul(DAY),
            _ => false,
        }
    }

    /// The records before the first one must be those that the last trim removed.
    fn front(&self) -> Option<Finding> {
        let (first, prev) = self.start?;
        let trimmed = self.trims.iter().max_by_key(|trim| trim.through);
        let through = trimmed.map_or(0, |trim| trim.through);
        if first > through + 1 {
            return Some(Finding::Removed {
                first: through + 1,
                last: first - 1,
            });
        }
        if first <= through {
            return Some(Finding::Inserted { sequence: first });
        }
        let fits = trimmed.is_none_or(|trim| trim.hash == prev);
        (!fits).then_some(Finding::Changed { sequence: first })
    }

    /// There is no more.
    pub fn finish(mut self) -> Report {
        let last = self.last.map_or(0, |(sequence, ..)| sequence);
        let mut front = self.front();
        let broken = self.finding.is_some() && !matches!(self.finding, Some(Finding::Rewritten { .. }));
        if front.is_some() && !broken {
            self.finding = front.take();
        }
        if self.finding.is_none() && self.heads.last().is_some_and(|head| head.size > last) {
            self.finding = Some(Finding::CutOff { first: last + 1 });
        }
        Report {
            finding: self.finding,
            front,
            records: self.records,
            first: self.start.map_or(0, |(sequence, _)| sequence),
            last,
            covered: self.covered,
            outdated: self.outdated,
        }
    }
}
