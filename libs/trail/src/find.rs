//! Changes in the order of the log, from segments and tails.

use std::{borrow::Cow, collections::VecDeque, sync::Arc};

use binlog::{Change, Gtid, Op, Position, RowKey, SchemaChange};

use crate::{
    Error, Filter, Order,
    delta::{new_key, restore},
    record::DdlRecord,
    segment::{batch::SegmentRow, hits::Hits},
    snapshot::{Part, Snapshot},
    stop::Stop,
    tail_find::{Found, TailHits},
    wanted::Wanted,
};

/// Changes in the order that was asked for; see [`crate::Reader::find`]. In memory are at a time the places of
/// the wanted rows of one segment, and some thousand of the rows.
#[derive(Debug)]
pub struct Changes {
    snapshot: Arc<Snapshot>,
    wanted: Wanted,
    /// What was not looked at yet.
    groups: VecDeque<Vec<Part>>,
    /// What is being handed out.
    open: Vec<OpenPart>,
    /// How many more may be handed out.
    left: Option<usize>,
    known: Known,
}

#[derive(Debug)]
struct OpenPart {
    part: Part,
    next: usize,
    hits: PartHits,
}

#[derive(Debug)]
enum PartHits {
    Segment(Hits),
    Tail(TailHits),
}

impl OpenPart {
    fn position(&self) -> Option<Position> {
        match &self.hits {
            PartHits::Segment(hits) => (self.next < hits.len()).then(|| hits.position(self.next)),
            PartHits::Tail(hits) => (self.next < hits.len()).then(|| hits.position(self.next)),
        }
    }
}

impl Changes {
    pub(crate) fn new(snapshot: Arc<Snapshot>, filter: &Filter, stop: &Stop) -> Self {
        let wanted = Wanted::new(filter, &snapshot.catalogue, stop);
        let groups = snapshot.parts(|segment| {
            wanted.may_be_in(segment) && segment.tables.iter().any(|table| wanted.may_be_of(table))
        });
        let mut groups = VecDeque::from(groups);
        if filter.order == Order::Newest {
            groups.make_contiguous().reverse();
        }
        Self {
            snapshot,
            wanted,
            groups,
            open: Vec::new(),
            left: filter.limit,
            known: Known::default(),
        }
    }

    /// The part whose next hit comes next; opens the next group when the last one is used up.
    fn turn(&mut self) -> Result<Option<usize>, Error> {
        loop {
            self.open.retain(|part| part.position().is_some());
            // With one part, as it nearly always is, there is nothing to compare.
            let places = (0..self.open.len()).filter_map(|nth| Some((self.open[nth].position()?, nth)));
            let next = match self.wanted.filter.order {
                Order::Oldest => places.min(),
                Order::Newest => places.max(),
            };
            if let Some((_, nth)) = next {
                return Ok(Some(nth));
            }
            let Some(group) = self.groups.pop_front() else {
                return Ok(None);
            };
            self.wanted.stop.pause()?;
            for part in group {
                let hits = self.search(part)?;
                self.open.push(OpenPart { part, next: 0, hits });
            }
        }
    }

    fn search(&self, part: Part) -> Result<PartHits, Error> {
        self.wanted.stop.check()?;
        match part {
            Part::Segment(nth) => {
                let segment = &self.snapshot.manifest.segments[nth];
                self.snapshot
                    .open(segment)?
                    .changes(segment, &self.wanted, self.left)
                    .map(PartHits::Segment)
            }
            Part::Tail(nth) => {
                TailHits::search(&self.snapshot.tails[nth], &self.wanted, self.left).map(PartHits::Tail)
            }
        }
    }

    fn take(&mut self, nth: usize) -> Result<Change, Error> {
        let OpenPart { part, next, hits } = &mut self.open[nth];
        let hit = *next;
        *next += 1;
        match (hits, *part) {
            (PartHits::Segment(hits), Part::Segment(nth)) => {
                if !hits.holds(hit) {
                    let segment = &self.snapshot.manifest.segments[nth];
                    self.snapshot.open(segment)?.fill(hits, hit, &self.wanted.stop)?;
                }
                let path = || {
                    self.snapshot
                        .files()
                        .path(&self.snapshot.manifest.segments[nth].file)
                };
                let odd = |what: String| Error::corrupt(&path(), what);
                self.known
                    .of_segment(&self.snapshot, hits.row(hit), hits.position(hit))
                    .map_err(odd)
            }
            (PartHits::Tail(hits), Part::Tail(nth)) => {
                let tail = &self.snapshot.tails[nth];
                let position = hits.position(hit);
                let found = hits.get(tail, hit)?;
                self.known
                    .of_tail(&self.snapshot, &found, position)
                    .map_err(|what| Error::corrupt(&tail.path, what))
            }
            _ => Err(Error::corrupt(
                self.snapshot.files().place(),
                "a part is not what it was",
            )),
        }
    }
}

impl Iterator for Changes {
    type Item = Result<Change, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == Some(0) {
            return None;
        }
        let change = match self.turn() {
            Ok(None) => return None,
            Ok(Some(nth)) => self.take(nth),
            Err(e) => Err(e),
        };
        match &change {
            Ok(_) => self.left = self.left.map(|left| left - 1),
            // There is no going on after an error.
            Err(_) => self.left = Some(0),
        }
        Some(change)
    }
}

/// Values that come again and again, so that they are made once.
#[derive(Debug, Default)]
pub(crate) struct Known {
    gtid: Option<(String, Gtid)>,
    query: Option<Arc<str>>,
}

impl Known {
    fn gtid(&mut self, source: &str, number: u64) -> Option<Gtid> {
        if self.gtid.as_ref().is_none_or(|(known, _)| known != source) {
            let mark = if source.contains(':') || source.len() >= 36 {
                ':'
            } else {
                '-'
            };
            self.gtid = Some((source.to_owned(), format!("{source}{mark}1").parse().ok()?));
        }
        let mut gtid = self.gtid.as_ref()?.1.clone();
        let (Gtid::Mysql { number: n, .. } | Gtid::Mariadb { number: n, .. }) = &mut gtid;
        *n = number;
        Some(gtid)
    }

    fn query(&mut self, text: &str) -> Arc<str> {
        match &self.query {
            Some(known) if **known == *text => Arc::clone(known),
            _ => Arc::clone(self.query.insert(text.into())),
        }
    }

    /// A change from a row of a segment.
    pub(crate) fn of_segment(
        &mut self,
        snapshot: &Snapshot,
        row: SegmentRow<'_>,
        position: Position,
    ) -> Result<Change, String> {
        let odd = || "a row lacks what it must have".to_owned();
        let version = row.version().ok_or_else(odd)?;
        let parts = Parts {
            op: row.op().ok_or_else(odd)?,
            key: row.key().ok_or_else(odd)?,
            arrival: row.arrival().ok_or_else(odd)?,
            changed: row.changed(),
            before: row.before(),
            after: row.after(),
        };
        let gtid = match (row.gtid_source(), row.gtid_number()) {
            (Some(source), Some(number)) => Some(
                self.gtid(source, number)
                    .ok_or_else(|| "a GTID cannot be read".to_owned())?,
            ),
            _ => None,
        };
        let head = Head {
            position,
            gtid,
            commit_time: row.time().ok_or_else(odd)?,
            thread_id: row.thread_id(),
            query: row.query().map(|text| self.query(text)),
        };
        head.with(snapshot, version, &parts)
    }

    /// A change from a row of a tail.
    pub(crate) fn of_tail(
        &mut self,
        snapshot: &Snapshot,
        found: &Found<'_>,
        position: Position,
    ) -> Result<Change, String> {
        let row = found
            .row()
            .ok_or_else(|| "a record is not what it was".to_owned())?;
        let parts = Parts {
            op: row.op,
            key: row.key,
            arrival: false,
            changed: row.changed,
            before: row.before,
            after: row.after,
        };
        let head = Head {
            position,
            gtid: found.begin.gtid.clone(),
            commit_time: found.time,
            thread_id: found.begin.thread_id,
            query: found.query.as_deref().map(|text| self.query(text)),
        };
        head.with(snapshot, row.version, &parts)
    }
}

/// What a change has from its transaction.
struct Head {
    position: Position,
    gtid: Option<Gtid>,
    commit_time: types::Micros,
    thread_id: Option<u32>,
    query: Option<Arc<str>>,
}

/// What it has of its own, as it is kept.
struct Parts<'a> {
    op: Op,
    key: &'a [u8],
    arrival: bool,
    changed: Option<&'a [u8]>,
    before: Option<&'a [u8]>,
    after: Option<&'a [u8]>,
}

impl Head {
    fn with(self, snapshot: &Snapshot, version: u32, parts: &Parts<'_>) -> Result<Change, String> {
        let table = snapshot
            .catalogue
            .get(version)
            .ok_or_else(|| format!("definition {version} of a row is not known"))?;
        let bad = |problem: binlog::Problem| {
            format!(
                "a row of {} at {}: {problem}",
                table.full_name(),
                self.position.at
            )
        };
        let after = parts
            .after
            .map(|kept| restore(table, parts.before, kept).map_err(bad))
            .transpose()?;
        let stored = RowKey(parts.key.to_vec());
        let (key, new_key) = match (parts.op, parts.before, &after, parts.changed) {
            (Op::Update, Some(before), Some(after), Some(changed)) => {
                let image =
                    || binlog::Image::from_bytes(before, table).and_then(|image| RowKey::of(table, &image));
                let key = if parts.arrival {
                    image().map_err(bad)?
                } else {
                    stored
                };
                let new = new_key(table, &key, before, after, changed).map_err(bad)?;
                (key, new)
            }
            _ => (stored, None),
        };
        Ok(Change {
            position: self.position,
            gtid: self.gtid,
            commit_time: self.commit_time,
            thread_id: self.thread_id,
            table: Arc::clone(table),
            schema_version: version,
            op: parts.op,
            key,
            new_key,
            before: parts.before.map(<[u8]>::to_vec),
            after,
            query: self.query,
        })
    }
}

/// The statements that `filter` asks for.
pub(crate) fn schema_changes(
    snapshot: &Snapshot,
    filter: &Filter,
    stop: &Stop,
) -> Result<Vec<SchemaChange>, Error> {
    let wanted = Wanted::new(
        &Filter {
            keys: Vec::new(),
            limit: None,
            order: Order::Oldest,
            ..filter.clone()
        },
        &snapshot.catalogue,
        stop,
    );
    let mut known = Known::default();
    let mut found: Vec<SchemaChange> = Vec::new();
    let groups = snapshot.parts(|segment| segment.statements > 0 && wanted.may_be_in(segment));
    for part in groups.into_iter().flatten() {
        stop.check()?;
        match part {
            Part::Segment(nth) => {
                let segment = &snapshot.manifest.segments[nth];
                let opened = snapshot.open(segment)?;
                let mut hits = opened.statements(segment, &wanted)?;
                for hit in 0..hits.len() {
                    if !hits.holds(hit) {
                        opened.fill(&mut hits, hit, stop)?;
                    }
                    let statement = known.statement(hits.row(hit), hits.position(hit));
                    found.push(statement.ok_or_else(|| {
                        Error::corrupt(
                            &snapshot.files().path(&segment.file),
                            "a statement cannot be read",
                        )
                    })?);
                }
            }
            Part::Tail(nth) => found.extend(crate::tail_find::statements(&snapshot.tails[nth], &wanted)?),
        }
    }
    found.retain(|change| change.targets.is_empty() && filter.tables.is_empty() || concerns(change, filter));
    found.sort_by(|a, b| a.position.cmp(&b.position));
    if filter.order == Order::Newest {
        found.reverse();
    }
    found.truncate(filter.limit.unwrap_or(usize::MAX));
    // A store keeps statements as the log has them.
    for change in &mut found {
        if let Cow::Owned(text) = binlog::masked(&change.text) {
            change.text = text;
        }
    }
    Ok(found)
}

/// Whether a statement is about a table that is asked for; one about a schema is about all its tables.
fn concerns(change: &SchemaChange, filter: &Filter) -> bool {
    filter.tables.is_empty()
        || change.targets.iter().any(|target| {
            filter
                .tables
                .iter()
                .any(|wanted| match (&target.table, &wanted.table) {
                    (Some(table), Some(_)) => wanted.matches(&target.schema, table),
                    _ => wanted.schema == target.schema,
                })
        })
}

impl Known {
    fn statement(&mut self, row: SegmentRow<'_>, position: Position) -> Option<SchemaChange> {
        let DdlRecord {
            text,
            default_schema,
            targets,
        } = row.statement()?;
        let gtid = match (row.gtid_source(), row.gtid_number()) {
            (Some(source), Some(number)) => Some(self.gtid(source, number)?),
            _ => None,
        };
        let (commit_time, thread_id) = (row.time()?, row.thread_id());
        Some(SchemaChange {
            position,
            gtid,
            commit_time,
            thread_id,
            targets,
            default_schema,
            text,
        })
    }
}
