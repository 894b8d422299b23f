//! Places in a binary log, ordered as the log is.

use std::{cmp::Ordering, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// A binary log's file name without its folder, such as `binlog.000042`. Ordered by the number after the last dot, then by the text:
/// `binlog.1000000` comes after `binlog.999999`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FileName(Arc<str>);

impl FileName {
    /// Takes the last component of `name`.
    pub fn new(name: &str) -> Self {
        Self(name.rsplit('/').next().unwrap_or(name).into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The number after the last dot; none if there is no such number.
    pub fn number(&self) -> Option<u64> {
        self.0
            .rsplit_once('.')
            .and_then(|(_, digits)| digits.parse().ok())
    }

    /// The file the same server opens after this one: the next number, with at least as many digits.
    pub fn successor(&self) -> Option<Self> {
        let (base, digits) = self.0.rsplit_once('.')?;
        let next = digits.parse::<u64>().ok()?.checked_add(1)?;
        Some(Self(
            format!("{base}.{next:0width$}", width = digits.len()).into(),
        ))
    }

    /// True if `next` is the file the same server opens after this one.
    pub fn is_followed_by(&self, next: &FileName) -> bool {
        self.successor().as_ref() == Some(next)
    }
}

impl PartialOrd for FileName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for FileName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.number()
            .cmp(&other.number())
            .then_with(|| self.0.cmp(&other.0))
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A byte offset in a file: the beginning of an event, or the end of the last one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogPos {
    /// The file.
    pub file: FileName,
    /// Bytes from its start.
    pub offset: u64,
}

impl LogPos {
    /// A place in the file called `file`.
    pub fn new(file: &str, offset: u64) -> Self {
        Self {
            file: FileName::new(file),
            offset,
        }
    }
}

impl fmt::Display for LogPos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.offset)
    }
}

impl std::str::FromStr for LogPos {
    type Err = std::num::ParseIntError;

    /// `FILE:OFFSET`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (file, offset) = text.rsplit_once(':').unwrap_or(("", text));
        Ok(Self::new(file, offset.parse()?))
    }
}

#[cfg(test)]
mod tests {
    use super::{FileName, LogPos};

    #[test]
    fn files_are_ordered_by_number() {
        assert!(FileName::new("binlog.999999") < FileName::new("binlog.1000000"));
        assert!(LogPos::new("binlog.000002", 4) > LogPos::new("binlog.000001", 99_999));
        assert!(
            FileName::new("/var/lib/mysql/binlog.000009").is_followed_by(&FileName::new("binlog.000010"))
        );
        assert!(!FileName::new("binlog.000009").is_followed_by(&FileName::new("other.000010")));
    }
}
