//! Which entries somebody wants to see.

use audit::{Entry, Kind, Outcome};
use proto::tenant::v1 as pb;

use super::wire;
use crate::domain::{Invalid, Problem};

/// A filter; what is not set takes everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    actor: String,
    method: String,
    target: String,
    /// None within is one that is under way.
    outcome: Option<Option<Outcome>>,
    kind: Option<Kind>,
    pub(super) since: Option<i64>,
    until: Option<i64>,
}

/// The longest text of a filter.
const LONGEST: usize = 256;

impl Filter {
    /// Reads one.
    pub(super) fn parse(wanted: Option<&pb::AuditFilter>) -> Result<Self, Invalid> {
        let Some(wanted) = wanted else {
            return Ok(Self::default());
        };
        let text = |text: &str, field: &'static str| match text.len() {
            0..=LONGEST => Ok(text.to_owned()),
            _ => Err(Problem::from("longer than 256 bytes").at(field)),
        };
        let outcome = match pb::Outcome::try_from(wanted.outcome) {
            Ok(pb::Outcome::Unspecified) => None,
            Ok(pb::Outcome::Pending) => Some(None),
            Ok(pb::Outcome::Succeeded) => Some(Some(Outcome::Succeeded)),
            Ok(pb::Outcome::Failed) => Some(Some(Outcome::Failed)),
            Ok(pb::Outcome::Unknown) => Some(Some(Outcome::Unknown)),
            Err(_) => return Err(Problem::from("not an outcome that is known").at("filter.outcome")),
        };
        let kind = match wanted.kind {
            0 => None,
            number => Some(wire::kind(number, "filter.kind")?),
        };
        let time = |time: Option<prost_types::Timestamp>, field| {
            time.map(|time| wire::micros(time, field)).transpose()
        };
        Ok(Self {
            actor: text(&wanted.actor_id, "filter.actor_id")?,
            method: text(&wanted.method, "filter.method")?,
            target: text(&wanted.target_id, "filter.target_id")?,
            outcome,
            kind,
            since: time(wanted.since, "filter.since")?,
            until: time(wanted.until, "filter.until")?,
        })
    }

    /// Whether this entry is wanted.
    pub(super) fn takes(&self, entry: &Entry) -> bool {
        let event = &entry.event;
        let method = match self.method.strip_suffix('*') {
            Some(beginning) => event.method.starts_with(beginning),
            None => self.method.is_empty() || event.method == self.method,
        };
        method
            && (self.actor.is_empty() || event.actor.is(&self.actor))
            && (self.target.is_empty() || event.targets.values().any(|id| *id == self.target))
            && self
                .outcome
                .is_none_or(|outcome| outcome == entry.ended.then_some(event.outcome))
            && self.kind.is_none_or(|kind| kind == event.kind)
            && self.since.is_none_or(|since| event.time >= since)
            && self.until.is_none_or(|until| event.time < until)
    }

    /// Whether it takes everything.
    pub(super) fn is_open(&self) -> bool {
        *self == Self::default()
    }
}
