//! Between entries and messages.

use std::collections::BTreeMap;

use audit::{Actor, Call, Entry, Event, Kind, Outcome};
use prost_types::Timestamp;
use proto::tenant::v1 as pb;

use crate::domain::{Invalid, Problem};

/// The last second of the year 9999.
const LATEST: i64 = 253_402_300_799_000_000;

pub(super) fn micros(time: Timestamp, field: &'static str) -> Result<i64, Invalid> {
    let whole = time.seconds.checked_mul(1_000_000);
    whole
        .and_then(|whole| whole.checked_add(i64::from(time.nanos / 1_000)))
        .filter(|micros| (0..=LATEST).contains(micros))
        .ok_or_else(|| Problem::from("not a time of our era").at(field))
}

/// A record may say any number; what is no time of our era has no form in JSON.
pub(super) fn timestamp(micros: i64) -> Option<Timestamp> {
    let micros = micros.clamp(0, LATEST);
    Some(Timestamp {
        seconds: micros.div_euclid(1_000_000),
        nanos: i32::try_from(micros.rem_euclid(1_000_000) * 1_000).unwrap_or_default(),
    })
}

pub(super) fn kind(number: i32, field: &'static str) -> Result<Kind, Invalid> {
    match pb::AuditKind::try_from(number) {
        Ok(pb::AuditKind::Change) => Ok(Kind::Change),
        Ok(pb::AuditKind::Security) => Ok(Kind::Security),
        Ok(pb::AuditKind::Read) => Ok(Kind::Read),
        Ok(pb::AuditKind::Refusal) => Ok(Kind::Refusal),
        Ok(pb::AuditKind::Unspecified) | Err(_) => Err(Problem::from("not a kind that is known").at(field)),
    }
}

pub(super) fn outcome(number: i32) -> Result<Outcome, Invalid> {
    match pb::Outcome::try_from(number) {
        Ok(pb::Outcome::Succeeded) => Ok(Outcome::Succeeded),
        Ok(pb::Outcome::Failed) => Ok(Outcome::Failed),
        Ok(pb::Outcome::Unknown) => Ok(Outcome::Unknown),
        _ => Err(Problem::from("not how something ends").at("outcome")),
    }
}

/// What the gateway tells of a call.
pub(super) fn call(call: Option<pb::AuditCall>, field: &'static str) -> Result<Call, Invalid> {
    let call = call.ok_or_else(|| Problem::from("a call is needed").at(field))?;
    let actor = call.actor.unwrap_or_default();
    Ok(Call {
        kind: kind(call.kind, field)?,
        actor: Actor {
            user_id: actor.user_id,
            session_id: actor.session_id,
            key_id: actor.key_id,
            agent_id: actor.agent_id,
            service: actor.service,
            role: actor.role,
            grant_id: actor.grant_id,
        },
        method: call.method,
        path: call.path_template,
        targets: targets(call.targets),
        // What is no address is left out, as an unknown one is.
        client_address: call.client_address.parse().ok(),
        user_agent: call.user_agent,
        request_id: call.request_id,
    })
}

pub(super) fn targets(targets: impl IntoIterator<Item = (String, String)>) -> BTreeMap<String, String> {
    targets.into_iter().collect()
}

fn pb_kind(kind: Kind) -> pb::AuditKind {
    match kind {
        Kind::Change => pb::AuditKind::Change,
        Kind::Security => pb::AuditKind::Security,
        Kind::Read => pb::AuditKind::Read,
        Kind::Refusal => pb::AuditKind::Refusal,
    }
}

fn pb_outcome(outcome: Outcome) -> pb::Outcome {
    match outcome {
        Outcome::Succeeded => pb::Outcome::Succeeded,
        Outcome::Failed => pb::Outcome::Failed,
        Outcome::Unknown => pb::Outcome::Unknown,
    }
}

pub(super) fn entry(entry: Entry) -> pb::AuditEntry {
    let Entry {
        sequence,
        ended,
        event,
    } = entry;
    let outcome = if ended {
        pb_outcome(event.outcome)
    } else {
        pb::Outcome::Pending
    };
    pb::AuditEntry {
        sequence,
        time: timestamp(event.time),
        end_time: ended.then(|| timestamp(event.end_time)).flatten(),
        outcome: outcome.into(),
        id: event.id.clone(),
        code: event.code.clone(),
        reason: event.reason.clone(),
        count: i64::try_from(event.count).unwrap_or(i64::MAX),
        call: Some(pb_call(event)),
    }
}

fn pb_call(event: Event) -> pb::AuditCall {
    let actor = event.actor;
    pb::AuditCall {
        actor: Some(pb::AuditActor {
            user_id: actor.user_id,
            session_id: actor.session_id,
            key_id: actor.key_id,
            agent_id: actor.agent_id,
            service: actor.service,
            role: actor.role,
            grant_id: actor.grant_id,
        }),
        kind: pb_kind(event.kind).into(),
        method: event.method,
        path_template: event.path,
        targets: event.targets.into_iter().collect(),
        client_address: event
            .client_address
            .map(|address| address.to_string())
            .unwrap_or_default(),
        user_agent: event.user_agent,
        request_id: event.request_id,
    }
}
