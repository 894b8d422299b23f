//! Global transaction identifiers of both families, and sets of them.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    error::Problem,
    event::{Event, kind},
    gtid_event,
};

/// The identity of one transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Gtid {
    /// MySQL: `uuid:number` or, since 8.3, `uuid:tag:number`.
    Mysql {
        /// The originating server.
        uuid: [u8; 16],
        /// The tag, if any.
        tag: Option<String>,
        /// The transaction's number, from 1.
        number: u64,
    },
    /// MariaDB: `domain-server-number`.
    Mariadb {
        /// Replication domain.
        domain: u32,
        /// The originating server.
        server: u32,
        /// Sequence number in the domain.
        number: u64,
    },
}

impl Gtid {
    /// Everything before the number: `uuid`, `uuid:tag` or `domain-server`.
    pub fn source(&self) -> String {
        match self {
            Self::Mysql { uuid, tag: None, .. } => uuid_text(uuid),
            Self::Mysql {
                uuid, tag: Some(tag), ..
            } => format!("{}:{tag}", uuid_text(uuid)),
            Self::Mariadb { domain, server, .. } => format!("{domain}-{server}"),
        }
    }

    /// The number after the source.
    pub fn number(&self) -> u64 {
        match self {
            Self::Mysql { number, .. } | Self::Mariadb { number, .. } => *number,
        }
    }
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if matches!(self, Self::Mysql { .. }) {
            ':'
        } else {
            '-'
        };
        write!(f, "{}{mark}{}", self.source(), self.number())
    }
}

/// The text is not a GTID or a GTID set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a GTID: MySQL's look like 3e11fa47-71ca-11e1-9e33-c80aa9429562:23 (or …:tag:23), MariaDB's like 0-1-23"
)]
pub struct GtidParseError;

impl FromStr for Gtid {
    type Err = GtidParseError;

    fn from_str(text: &str) -> Result<Self, GtidParseError> {
        let text = text.trim();
        if let Some((source, number)) = text.rsplit_once(':') {
            let (uuid, tag) = parse_source(source)?;
            return Ok(Self::Mysql {
                uuid,
                tag,
                number: parse_number(number)?,
            });
        }
        let mut parts = text.splitn(3, '-');
        let mut next = || parts.next().ok_or(GtidParseError);
        let (domain, server, number) = (next()?, next()?, next()?);
        Ok(Self::Mariadb {
            domain: domain.parse().map_err(|_| GtidParseError)?,
            server: server.parse().map_err(|_| GtidParseError)?,
            number: parse_number(number)?,
        })
    }
}

fn parse_number(text: &str) -> Result<u64, GtidParseError> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(GtidParseError),
    }
}

fn uuid_text(uuid: &[u8; 16]) -> String {
    let hex: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

fn parse_source(text: &str) -> Result<([u8; 16], Option<String>), GtidParseError> {
    let (uuid, tag) = match text.split_once(':') {
        Some((uuid, tag)) => (uuid, Some(parse_tag(tag)?)),
        None => (text, None),
    };
    let digits: Vec<u8> = uuid.bytes().filter(|b| *b != b'-').collect();
    if digits.len() != 32 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(GtidParseError);
    }
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| GtidParseError)?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| GtidParseError)?;
    }
    Ok((bytes, tag))
}

/// Tags are 1 to 32 of `[a-z0-9_]`, not beginning with a digit (MySQL manual, "GTID format and storage").
fn parse_tag(text: &str) -> Result<String, GtidParseError> {
    let tag = text.to_ascii_lowercase();
    let fits = (1..=32).contains(&tag.len()) && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if fits && !tag.as_bytes()[0].is_ascii_digit() {
        Ok(tag)
    } else {
        Err(GtidParseError)
    }
}

type MysqlSource = ([u8; 16], Option<String>);

/// A set of transactions. For MySQL intervals per source; for MariaDB the last transaction per domain, which stands for all before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GtidSet {
    /// Sorted, disjoint, not adjacent; both ends inclusive.
    mysql: BTreeMap<MysqlSource, Vec<(u64, u64)>>,
    mariadb: BTreeMap<u32, (u32, u64)>,
}

impl GtidSet {
    /// What the head of a file says was executed before it: a PREVIOUS_GTIDS event, or MariaDB's GTID_LIST.
    pub fn stated_by(event: &Event<'_>) -> Result<Self, Problem> {
        match event.header.kind {
            kind::PREVIOUS_GTIDS => gtid_event::previous(event.body),
            kind::MARIADB_GTID_LIST => gtid_event::mariadb_list(event.body),
            other => Err(Problem::UnknownEvent(other)),
        }
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.mysql.is_empty() && self.mariadb.is_empty()
    }

    /// Adds one transaction. For MariaDB it becomes the last one of its domain, as the server's own position does.
    pub fn add(&mut self, gtid: &Gtid) {
        match gtid {
            Gtid::Mysql { uuid, tag, number } => self.add_interval((*uuid, tag.clone()), *number, *number),
            Gtid::Mariadb {
                domain,
                server,
                number,
            } => {
                self.mariadb.insert(*domain, (*server, *number));
            }
        }
    }

    /// Adds everything in `other`; where both know a MariaDB domain, the higher number stays.
    pub fn extend(&mut self, other: &GtidSet) {
        for (source, intervals) in &other.mysql {
            for (from, to) in intervals {
                self.add_interval(source.clone(), *from, *to);
            }
        }
        for (domain, (server, number)) in &other.mariadb {
            let entry = self.mariadb.entry(*domain).or_insert((*server, *number));
            if entry.1 < *number {
                *entry = (*server, *number);
            }
        }
    }

    /// Adds the numbers `from` to `to`, both included, of one MySQL source.
    pub fn add_interval(&mut self, source: ([u8; 16], Option<String>), from: u64, to: u64) {
        let intervals = self.mysql.entry(source).or_default();
        // The common case is the number after the last one.
        let at = intervals.partition_point(|(_, end)| end.saturating_add(1) < from);
        let mut merged = (from, to);
        let mut until = at;
        while let Some((start, end)) = intervals.get(until) {
            if *start > merged.1.saturating_add(1) {
                break;
            }
            merged = (merged.0.min(*start), merged.1.max(*end));
            until += 1;
        }
        intervals.splice(at..until, [merged]);
    }

    /// Whether the transaction is in the set.
    pub fn contains(&self, gtid: &Gtid) -> bool {
        match gtid {
            Gtid::Mysql { uuid, tag, number } => {
                let intervals = self
                    .mysql
                    .get(&(*uuid, tag.clone()))
                    .map_or(&[][..], Vec::as_slice);
                intervals.iter().any(|(from, to)| (from..=to).contains(&number))
            }
            Gtid::Mariadb { domain, number, .. } => {
                self.mariadb.get(domain).is_some_and(|(_, last)| number <= last)
            }
        }
    }

    /// Whether everything in `other` is in this set.
    pub fn includes(&self, other: &GtidSet) -> bool {
        let mut both = self.clone();
        both.extend(other);
        both == *self
    }

    /// MySQL sources with their intervals, both ends included, in order.
    pub fn mysql_intervals(&self) -> impl Iterator<Item = (&[u8; 16], Option<&str>, &[(u64, u64)])> {
        self.mysql
            .iter()
            .map(|((uuid, tag), intervals)| (uuid, tag.as_deref(), intervals.as_slice()))
    }
}

impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for ((uuid, tag), intervals) in &self.mysql {
            write!(f, "{separator}{}", uuid_text(uuid))?;
            if let Some(tag) = tag {
                write!(f, ":{tag}")?;
            }
            for (from, to) in intervals {
                if from == to {
                    write!(f, ":{from}")?
                } else {
                    write!(f, ":{from}-{to}")?
                }
            }
            separator = ",";
        }
        for (domain, (server, number)) in &self.mariadb {
            write!(f, "{separator}{domain}-{server}-{number}")?;
            separator = ",";
        }
        Ok(())
    }
}

impl FromStr for GtidSet {
    type Err = GtidParseError;

    /// `uuid:1-5:7:tag:1-3,uuid:9` or `0-1-23,1-1-5`; white space around the commas, and an empty text, are allowed.
    fn from_str(text: &str) -> Result<Self, GtidParseError> {
        let mut set = Self::default();
        for member in text.split(',').map(str::trim).filter(|member| !member.is_empty()) {
            let Some((uuid, intervals)) = member.split_once(':') else {
                set.add(&member.parse()?);
                continue;
            };
            let (uuid, _) = parse_source(uuid)?;
            let mut tag = None;
            for interval in intervals.split(':').map(str::trim) {
                if !interval.starts_with(|c: char| c.is_ascii_digit()) {
                    tag = Some(parse_tag(interval)?);
                    continue;
                }
                let (from, to) = interval.split_once('-').unwrap_or((interval, interval));
                let (from, to) = (parse_number(from)?, parse_number(to)?);
                if from > to {
                    return Err(GtidParseError);
                }
                set.add_interval((uuid, tag.clone()), from, to);
            }
        }
        Ok(set)
    }
}

impl Serialize for GtidSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GtidSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::{Gtid, GtidSet};

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

    #[test]
    fn gtids_are_written_and_read_back() {
        for text in [&format!("{A}:23"), &format!("{A}:nightly_job:1"), "0-1-23"] {
            assert_eq!(text.parse::<Gtid>().map(|g| g.to_string()).as_deref(), Ok(text));
        }
        for text in [
            "",
            "23",
            "0-1",
            "0-1-0",
            &format!("{A}:0"),
            &format!("{A}:9tag:1"),
            "0-1--5",
            "binlog.000001:4",
        ] {
            assert!(text.parse::<Gtid>().is_err(), "{text}");
        }
    }

    #[test]
    fn sets_merge_their_intervals() {
        let mut set: GtidSet = format!("{A}:1-3:5:job:7").parse().expect("a set");
        set.add(&format!("{A}:4").parse().expect("a gtid"));
        assert_eq!(set.to_string(), format!("{A}:1-5,{A}:job:7"));
        assert!(set.contains(&format!("{A}:job:7").parse().expect("a gtid")));
        assert!(!set.contains(&format!("{A}:6").parse().expect("a gtid")));
        assert!(set.includes(&format!("{A}:2-4").parse().expect("a set")));
        assert!(!set.includes(&format!("{A}:2-6").parse().expect("a set")));
        assert_eq!(set.to_string().parse::<GtidSet>().as_ref(), Ok(&set));
    }

    #[test]
    fn mariadb_keeps_the_last_of_each_domain() {
        let mut set: GtidSet = "0-1-5, 1-2-9".parse().expect("a set");
        set.add(&"0-3-6".parse().expect("a gtid"));
        assert_eq!(set.to_string(), "0-3-6,1-2-9");
        assert!(set.contains(&"0-1-4".parse().expect("a gtid")));
    }
}
