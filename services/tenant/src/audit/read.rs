//! The reading end: entries and records of one tenant's log, in a transaction on that tenant's side.

use std::collections::BTreeMap;

use audit::{Entry, Hash, Link, Outcome, Record};
use opentelemetry::metrics::{Counter, Meter};
use pg::Connection;

use super::Error;

/// Number, id, part, time and body of a record; number, time and body of its other half.
type Halves = (
    i64,
    String,
    String,
    i64,
    String,
    Option<i64>,
    Option<i64>,
    Option<String>,
);

/// A time of the table in microseconds, whatever was written there.
macro_rules! time_of {
    ($column:literal) => {
        concat!(
            "(extract(epoch FROM least(greatest(",
            $column,
            ", 'epoch'), '9999-12-31 00:00:00+00')) * 1000000)::bigint"
        )
    };
}

/// Counts records that cannot be read: no JSON of ours, or what only a later release writes.
#[derive(Clone, Debug)]
pub(crate) struct Unreadable(Counter<u64>);

impl Unreadable {
    pub(crate) fn new(meter: &Meter) -> Self {
        let counter = meter.u64_counter("tenant.audit.unreadable");
        Self(
            counter
                .with_description("Times that a record of an audit log was read and not understood")
                .build(),
        )
    }

    fn note(&self, lost: &[i64]) {
        if let Some(first) = lost.first() {
            self.0.add(lost.len() as u64, &[]);
            tracing::warn!(
                first,
                count = lost.len(),
                "records of an audit log cannot be read"
            );
        }
    }
}

/// A row without its id and its part.
struct Row {
    sequence: i64,
    time: i64,
    body: String,
}

impl Row {
    fn whole(sequence: Option<i64>, time: Option<i64>, body: Option<String>) -> Option<Self> {
        Some(Self {
            sequence: sequence?,
            time: time?,
            body: body?,
        })
    }

    /// What it says, if that is what its column promises.
    fn read(&self, part: &str) -> Option<Record> {
        Record::read(&self.body)
            .ok()
            .filter(|record| record.heading().1 == part)
    }
}

/// The entry of these records. Numbers of those that cannot be read go to `lost`; the entry then says what is left.
fn entry(id: String, part: &str, first: &Row, last: Option<&Row>, lost: &mut Vec<i64>) -> Entry {
    let end = last.map(|last| {
        let end = last.read("result").unwrap_or_else(|| {
            lost.push(last.sequence);
            Record::Result {
                id: id.clone(),
                time: last.time,
                outcome: Outcome::Unknown,
                code: "DATA_LOSS".to_owned(),
                reason: Entry::UNREADABLE.to_owned(),
                targets: BTreeMap::new(),
            }
        });
        (last.sequence, end)
    });
    let whole = first
        .read(part)
        .and_then(|beginning| Entry::of((first.sequence, beginning), end));
    whole.unwrap_or_else(|| {
        lost.push(first.sequence);
        let sequence = last.map_or(first.sequence, |last| last.sequence);
        Entry::unreadable(sequence, part == "event" || last.is_some(), id, first.time)
    })
}

/// What ended within some records.
pub(crate) struct Ended {
    /// The entries, in the order in which they ended.
    pub(crate) entries: Vec<Entry>,
    /// The number of the first record that was looked at.
    pub(super) first: Option<i64>,
    /// The number of the last one, from which to go on.
    pub(crate) last: i64,
    /// Where one of them ends what retention has left without a beginning: the number of the first record of the log.
    pub(super) oldest: Option<i64>,
}

/// The entries that ended after this number, of at most `limit` records that are looked at.
pub(crate) async fn ended_after(
    conn: &mut Connection,
    unreadable: &Unreadable,
    after: i64,
    limit: i64,
) -> Result<Ended, Error> {
    let rows: Vec<Halves> = sqlx::query_as(concat!(
        "SELECT l.seq, l.id, l.part, ",
        time_of!("l.time"),
        ", l.body, f.seq, ",
        time_of!("f.time"),
        ", f.body FROM
             (SELECT seq, id, part, time, body FROM audit_record WHERE seq > $1 ORDER BY seq LIMIT $2) AS l
         LEFT JOIN audit_record AS f ON l.part = 'result' AND f.id = l.id AND (f.part = 'result') = false
         ORDER BY l.seq"
    ))
    .bind(after)
    .bind(limit)
    .fetch_all(&mut *conn)
    .await?;
    let mut ended = Ended {
        entries: Vec::new(),
        first: rows.first().map(|row| row.0),
        last: after,
        oldest: None,
    };
    let (mut lost, mut halved) = (Vec::new(), false);
    for (sequence, id, part, time, body, first, first_time, first_body) in rows {
        ended.last = sequence;
        let row = Row { sequence, time, body };
        let first = Row::whole(first, first_time, first_body);
        let entry = match (part.as_str(), first) {
            ("event", _) => Some(entry(id, "event", &row, None, &mut lost)),
            ("result", Some(first)) => Some(entry(id, "intent", &first, Some(&row), &mut lost)),
            ("result", None) => {
                halved = true;
                None
            }
            // The beginning of what has not ended; a trim.
            _ => None,
        };
        ended.entries.extend(entry);
    }
    unreadable.note(&lost);
    if halved {
        // After the records: whoever removed the beginning had done so before.
        ended.oldest = Some(bounds(conn).await?.0);
    }
    Ok(ended)
}

/// The number of the last record; 0 when there is none.
pub(crate) async fn last_sequence(conn: &mut Connection) -> Result<i64, Error> {
    Ok(bounds(conn).await?.1)
}

/// The numbers of the first and the last record, as they are at one time; 0 when there is none.
pub(super) async fn bounds(conn: &mut Connection) -> Result<(i64, i64), Error> {
    Ok(
        sqlx::query_as("SELECT coalesce(min(seq), 0), coalesce(max(seq), 0) FROM audit_record")
            .fetch_one(&mut *conn)
            .await?,
    )
}

/// An entry with the number of its beginning.
pub(super) struct Begun {
    pub(super) first: i64,
    /// When the beginning was written.
    pub(super) written: i64,
    pub(super) entry: Entry,
}

/// The entries that began before this number, newest first.
pub(super) async fn begun_before(
    conn: &mut Connection,
    unreadable: &Unreadable,
    before: i64,
    limit: i64,
) -> Result<Vec<Begun>, Error> {
    let rows: Vec<Halves> = sqlx::query_as(concat!(
        "SELECT f.seq, f.id, f.part, ",
        time_of!("f.time"),
        ", f.body, l.seq, ",
        time_of!("l.time"),
        ", l.body FROM
             (SELECT seq, id, part, time, body FROM audit_record
              WHERE seq < $1 AND part IN ('intent', 'event') ORDER BY seq DESC LIMIT $2) AS f
         LEFT JOIN audit_record AS l ON f.part = 'intent' AND l.id = f.id AND (l.part = 'result') = true
         ORDER BY f.seq DESC"
    ))
    .bind(before)
    .bind(limit)
    .fetch_all(&mut *conn)
    .await?;
    let mut found = Vec::with_capacity(rows.len());
    let mut lost = Vec::new();
    for (sequence, id, part, time, body, last, last_time, last_body) in rows {
        let first = Row { sequence, time, body };
        let last = Row::whole(last, last_time, last_body);
        found.push(Begun {
            first: sequence,
            written: time,
            entry: entry(id, &part, &first, last.as_ref(), &mut lost),
        });
    }
    unreadable.note(&lost);
    Ok(found)
}

/// The records after this number, as they are.
pub(super) async fn links_after(
    conn: &mut Connection,
    after: i64,
    until: i64,
    limit: i64,
) -> Result<Vec<Link>, Error> {
    let rows: Vec<(i64, Vec<u8>, Vec<u8>, String)> = sqlx::query_as(
        "SELECT seq, prev, hash, body FROM audit_record WHERE seq > $1 AND seq <= $2 ORDER BY seq LIMIT $3",
    )
    .bind(after)
    .bind(until)
    .bind(limit)
    .fetch_all(&mut *conn)
    .await?;
    rows.into_iter()
        .map(|(sequence, prev, hash, body)| {
            let hash_of = |bytes: &[u8]| Hash::from_bytes(bytes).ok_or(Error::Stored(sequence));
            Ok(Link {
                sequence,
                prev: hash_of(&prev)?,
                hash: hash_of(&hash)?,
                body,
            })
        })
        .collect()
}
