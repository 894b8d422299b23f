//! An entry whose every text is safe to write, as all forms need it.

use std::{collections::BTreeMap, net::IpAddr};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Source, method::Method, text};
use crate::{Event, Kind, Outcome};

/// The most ids of an entry that are written.
const MOST_TARGETS: usize = 16;

/// The same entry, made safe. What does not apply is empty.
#[derive(Debug)]
pub(super) struct Fields {
    pub(super) tenant: String,
    pub(super) region: String,
    pub(super) sequence: i64,
    pub(super) id: String,
    pub(super) method: Method,
    /// The method of HTTP.
    pub(super) http_method: String,
    /// The template of the path.
    pub(super) path: String,
    pub(super) user: String,
    pub(super) session: String,
    pub(super) key: String,
    pub(super) agent: String,
    pub(super) service: String,
    pub(super) role: String,
    pub(super) grant: String,
    pub(super) targets: BTreeMap<String, String>,
    pub(super) address: Option<IpAddr>,
    pub(super) user_agent: String,
    pub(super) request: String,
    pub(super) code: String,
    pub(super) reason: String,
    pub(super) kind: Kind,
    pub(super) outcome: Outcome,
    pub(super) count: u64,
    /// Microseconds since 1970, within the years 1970 to 9999.
    pub(super) begun: i64,
    /// No less than `begun`.
    pub(super) ended: i64,
}

impl Fields {
    /// With at most `room` bytes for each text.
    pub(super) fn of(source: &Source, sequence: i64, event: &Event, room: usize) -> Self {
        let clean = |value: &str| text::clean(value, room);
        let (http_method, path) = event.path.split_once(' ').unwrap_or(("", &event.path));
        let begun = event.time.clamp(0, LATEST);
        let actor = &event.actor;
        Self {
            tenant: clean(&source.tenant),
            region: text::word(&source.region, 16),
            sequence: sequence.max(0),
            id: clean(&event.id),
            method: Method::of(&event.method),
            http_method: text::word(http_method, 16),
            path: clean(path),
            user: clean(&actor.user_id),
            session: clean(&actor.session_id),
            key: clean(&actor.key_id),
            agent: clean(&actor.agent_id),
            service: clean(&actor.service),
            role: clean(&actor.role),
            grant: clean(&actor.grant_id),
            targets: event
                .targets
                .iter()
                .take(MOST_TARGETS)
                .map(|(field, id)| (text::word(field, 40), clean(id)))
                .collect(),
            address: event.client_address.map(|address| address.to_canonical()),
            user_agent: clean(&event.user_agent),
            request: clean(&event.request_id),
            code: clean(&event.code),
            reason: clean(&event.reason),
            kind: event.kind,
            outcome: event.outcome,
            count: event.count.clamp(1, i32::MAX as u64),
            begun,
            ended: event.end_time.clamp(begun, LATEST),
        }
    }

    /// How bad it is, from 1 (informational) to 3 (medium).
    pub(super) fn severity(&self) -> u8 {
        match (self.kind, self.outcome) {
            (_, Outcome::Succeeded) => 1,
            (Kind::Change | Kind::Read, Outcome::Failed) => 2,
            _ => 3,
        }
    }

    /// What it is about: the id of the thing that the method names, else of the last one named.
    pub(super) fn object(&self) -> Option<(&str, &str)> {
        let field = self.method.id_field();
        let named = self
            .targets
            .get_key_value(&field)
            .or_else(|| self.targets.last_key_value())?;
        Some((named.0.as_str(), named.1.as_str())).filter(|(_, id)| !id.is_empty())
    }

    /// In a sentence.
    pub(super) fn message(&self) -> String {
        let end = match self.outcome {
            Outcome::Succeeded => "succeeded",
            Outcome::Failed if self.kind == Kind::Refusal => "was refused",
            Outcome::Failed => "failed",
            Outcome::Unknown => "ended unknown",
        };
        format!("{} {end}", self.method.words())
    }
}

/// The last microsecond of the year 9999.
const LATEST: i64 = 253_402_300_799_999_999;

/// RFC 3339 in UTC with microseconds, of microseconds since 1970.
pub(super) fn timestamp(micros: i64) -> String {
    let nanos = i128::from(micros.clamp(0, LATEST)) * 1_000;
    let time = OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let whole = time
        .replace_nanosecond(0)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default();
    format!("{}.{:06}Z", whole.trim_end_matches('Z'), time.microsecond())
}

#[cfg(test)]
mod tests {
    use super::timestamp;

    #[test]
    fn times_have_six_digits_whatever_they_are() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(timestamp(1_700_000_000_000_001), "2023-11-14T22:13:20.000001Z");
        assert_eq!(timestamp(i64::MIN), "1970-01-01T00:00:00.000000Z");
        assert_eq!(timestamp(i64::MAX), "9999-12-31T23:59:59.999999Z");
    }
}
