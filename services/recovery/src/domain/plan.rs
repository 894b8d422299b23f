//! A plan, as it is kept: what was chosen, numbers and a digest. No value of a row but the keys that its author typed into the filter.

use std::{fmt, str::FromStr};

use prost_types::Timestamp;
use proto::{
    agent::v1::PlanHead,
    change::v1::{Filter, Position, TableFilter, UndoMode, UndoSummary},
    recovery::v1::{self as pb, PlanState},
};
use types::{Micros, PlanId, ServerId, UploadId, UserId};

use chassis::directory::UNREAD;

use super::sight::Sight;
use crate::error::Error;

/// Characters of the reason why a plan is incomplete.
const MAX_BECAUSE: usize = 2_000;

/// Whose changes are undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// A registered server.
    Server(ServerId),
    /// An uploaded log.
    Upload(UploadId),
}

impl FromStr for Place {
    type Err = types::IdError;

    fn from_str(text: &str) -> Result<Self, types::IdError> {
        match text.parse() {
            Ok(upload) => Ok(Self::Upload(upload)),
            Err(_) => text.parse().map(Self::Server),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(id) => id.fmt(f),
            Self::Upload(id) => id.fmt(f),
        }
    }
}

/// SHA-256 of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digest(pub(crate) [u8; 32]);

impl FromStr for Digest {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let digits = text.as_bytes();
        let mut bytes = [0; 32];
        let small = |digit: &u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(digit);
        if digits.len() != 64 || !digits.iter().all(small) {
            return Err(());
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = str::from_utf8(pair).map_err(|_| ())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| ())?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Whose client a script is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `mysql`
    Mysql,
    /// `mariadb`
    Mariadb,
}

impl Dialect {
    /// As messages and tables write it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Mysql => "mysql",
            Self::Mariadb => "mariadb",
        }
    }

    /// Reads the word.
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        [Self::Mysql, Self::Mariadb]
            .into_iter()
            .find(|dialect| dialect.word() == word)
    }
}

/// What a plan does about later changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Leaves them.
    Safe,
    /// Overwrites those that it shows.
    Force,
}

impl Mode {
    /// As the table writes it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Safe => "safe",
            Self::Force => "force",
        }
    }

    /// Reads the word.
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        [Self::Safe, Self::Force]
            .into_iter()
            .find(|mode| mode.word() == word)
    }

    /// Reads the number of a request.
    pub(crate) fn from_wire(number: i32) -> Result<Self, Error> {
        match UndoMode::try_from(number) {
            Ok(UndoMode::Unspecified | UndoMode::Safe) => Ok(Self::Safe),
            Ok(UndoMode::Force) => Ok(Self::Force),
            Err(_) => Err(Error::Field {
                field: "mode",
                problem: "not a mode that is known",
            }),
        }
    }

    /// The number of a message.
    pub(crate) fn wire(self) -> i32 {
        match self {
            Self::Safe => UndoMode::Safe.into(),
            Self::Force => UndoMode::Force.into(),
        }
    }
}

/// A plan.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    /// Its id.
    pub(crate) id: PlanId,
    /// Whose changes it undoes.
    pub(crate) place: Place,
    /// Which, as they were chosen: after access rules.
    pub(crate) filter: Filter,
    /// What it does about later changes.
    pub(crate) mode: Mode,
    /// Its numbers. `until` says up to where history was taken into account, and is there.
    pub(crate) summary: UndoSummary,
    /// Of its script.
    pub(crate) digest: Digest,
    /// Of its script.
    pub(crate) script_bytes: u64,
    /// Of its script.
    pub(crate) dialect: Dialect,
    /// Whether everything that it had to take into account was read.
    pub(crate) complete: bool,
    /// If not: why.
    pub(crate) because: String,
    /// Who made it.
    pub(crate) author: UserId,
    /// When.
    pub(crate) created: Micros,
    /// Until when its script can be had.
    pub(crate) expires: Micros,
    /// The first later change that is known to have touched one of its rows.
    pub(crate) stale_since: Option<Position>,
}

/// What a new plan is made of.
#[derive(Clone, Debug)]
pub(crate) struct New {
    pub(crate) place: Place,
    pub(crate) filter: Filter,
    pub(crate) mode: Mode,
    pub(crate) author: UserId,
    pub(crate) created: Micros,
    pub(crate) expires: Micros,
}

impl New {
    /// With what the agent answered.
    pub(crate) fn plan(self, head: PlanHead) -> Result<Plan, Error> {
        let wrong = |what: &str| Error::Answer {
            who: "an agent",
            what: what.to_owned(),
        };
        let summary = head.summary.ok_or_else(|| wrong("a plan without numbers"))?;
        if summary.changes == 0 {
            return Err(Error::NothingToUndo);
        }
        if summary.until.is_none() {
            return Err(wrong("a plan that does not say up to where"));
        }
        let coverage = head.coverage.unwrap_or_default();
        Ok(Plan {
            id: PlanId::fresh(),
            place: self.place,
            filter: self.filter,
            mode: self.mode,
            summary,
            digest: head.digest.parse().map_err(|()| wrong("no digest"))?,
            script_bytes: head.script_bytes,
            dialect: Dialect::from_word(&head.dialect).ok_or_else(|| wrong("no dialect"))?,
            complete: coverage.complete,
            because: coverage.because.chars().take(MAX_BECAUSE).collect(),
            author: self.author,
            created: self.created,
            expires: self.expires,
            stale_since: None,
        })
    }
}

fn timestamp(time: Micros) -> Timestamp {
    Timestamp {
        seconds: time.0.div_euclid(1_000_000),
        nanos: i32::try_from(time.0.rem_euclid(1_000_000) * 1_000).unwrap_or_default(),
    }
}

impl Plan {
    /// Whether it holds, as far as is known.
    pub(crate) fn state(&self, now: Micros) -> PlanState {
        if self.stale_since.is_some() {
            PlanState::Stale
        } else if self.expires <= now {
            PlanState::Expired
        } else {
            PlanState::Ready
        }
    }

    /// The tables that it is about.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &TableFilter> {
        let named = |table: &&TableFilter| !table.table.is_empty();
        self.filter
            .tables
            .iter()
            .filter(named)
            .chain(&self.summary.tables)
    }

    /// Refuses who does not see one of its tables, or the column that it was chosen by.
    pub(crate) fn allows(&self, sight: &Sight) -> Result<(), Error> {
        sight.sees_all(self.tables())?;
        let column = &self.filter.column;
        let hidden = |table: &TableFilter| !sight.of(&table.schema, &table.table).shows(column);
        if !column.is_empty() && self.tables().any(hidden) {
            return Err(Error::ColumnDenied);
        }
        Ok(())
    }

    /// For a message to `viewer`. Keys are values of rows: they are for the author, and for who sees every column of the table.
    pub(crate) fn message(&self, now: Micros, sight: &Sight, viewer: UserId) -> pb::Plan {
        let mut filter = self.filter.clone();
        let whole = |table: &TableFilter| sight.of(&table.schema, &table.table).is_whole();
        if viewer != self.author && !self.tables().all(whole) {
            filter.keys.clear();
        }
        pb::Plan {
            id: self.id.to_string(),
            server_id: self.place.to_string(),
            state: self.state(now).into(),
            filter: Some(filter),
            mode: self.mode.wire(),
            summary: Some(self.summary.clone()),
            digest: self.digest.to_string(),
            script_bytes: self.script_bytes,
            dialect: self.dialect.word().to_owned(),
            complete: self.complete,
            because: if self.because.is_empty() || sight.is_whole() {
                self.because.clone()
            } else {
                UNREAD.to_owned()
            },
            author_id: self.author.to_string(),
            create_time: Some(timestamp(self.created)),
            expire_time: Some(timestamp(self.expires)),
            stale_since: self.stale_since.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::{
        agent::v1::PlanHead,
        change::v1::{Coverage, Position, UndoSummary},
        recovery::v1::PlanState,
    };
    use types::{Fault as _, Micros, ServerId, UploadId, UserId};

    use super::{Digest, Mode, New, Place, Plan};
    use crate::error::Error;

    fn head() -> PlanHead {
        PlanHead {
            summary: Some(UndoSummary {
                changes: 1,
                until: Some(Position::default()),
                ..UndoSummary::default()
            }),
            digest: "0f".repeat(32),
            dialect: "mysql".to_owned(),
            coverage: Some(Coverage {
                complete: false,
                because: "ü".repeat(3_000),
                ..Coverage::default()
            }),
            ..PlanHead::default()
        }
    }

    fn plan(head: PlanHead) -> Result<Plan, Error> {
        let new = New {
            place: Place::Server(ServerId::fresh()),
            filter: proto::change::v1::Filter::default(),
            mode: Mode::Safe,
            author: UserId::fresh(),
            created: Micros(1),
            expires: Micros(10),
        };
        new.plan(head)
    }

    #[test]
    fn places_and_digests_are_read_and_written() {
        let (server, upload) = (ServerId::fresh(), UploadId::fresh());
        assert_eq!(server.to_string().parse(), Ok(Place::Server(server)));
        assert_eq!(upload.to_string().parse(), Ok(Place::Upload(upload)));
        assert_eq!(Place::Upload(upload).to_string(), upload.to_string());
        assert!("pln_1".parse::<Place>().is_err());
        let text = "0f".repeat(32);
        assert_eq!(text.parse::<Digest>().unwrap().to_string(), text);
        for bad in [
            "",
            "0F",
            &"0F".repeat(32),
            &"0f".repeat(33),
            &"ü".repeat(32),
            &"+f".repeat(32),
        ] {
            assert_eq!(bad.parse::<Digest>(), Err(()), "{bad}");
        }
    }

    #[test]
    fn a_plan_is_stale_before_it_is_expired() {
        let mut plan = plan(head()).unwrap();
        assert_eq!(plan.state(Micros(9)), PlanState::Ready);
        assert_eq!(plan.state(Micros(10)), PlanState::Expired);
        plan.stale_since = Some(Position::default());
        assert_eq!(plan.state(Micros(10)), PlanState::Stale);
    }

    #[test]
    fn what_an_agent_answers_is_checked_before_it_is_kept() {
        let made = plan(head()).unwrap();
        assert_eq!(made.because.chars().count(), 2_000);
        let spoiled = |spoil: fn(&mut PlanHead)| {
            let mut head = head();
            spoil(&mut head);
            plan(head).unwrap_err().reason()
        };
        assert_eq!(spoiled(|head| head.summary = None), "ANSWER_WRONG");
        assert_eq!(spoiled(|head| head.digest.truncate(63)), "ANSWER_WRONG");
        assert_eq!(spoiled(|head| head.dialect = "oracle".to_owned()), "ANSWER_WRONG");
        assert_eq!(
            spoiled(|head| head.summary.as_mut().unwrap().until = None),
            "ANSWER_WRONG"
        );
        assert_eq!(
            spoiled(|head| head.summary.as_mut().unwrap().changes = 0),
            "NOTHING_TO_UNDO"
        );
    }
}
