//! Changes of an answer that is one message: put together from the frames of the source, up to a number and about 1 MiB.

use bytes::{BufMut as _, BytesMut};
use prost::Message;
use proto::{agent::v1 as agent, change::v1 as pb};
use types::AgentId;

use super::{
    error::Error,
    frame::Frame,
    inquiry::{AsOf, Held, Inquiry},
    narrow,
    page::PAGE_BYTES,
};
use crate::{
    redact::Redactor,
    source::{Answer, Method},
};

/// How many changes are looked at for one page where most of them may be such that the caller does not see them.
pub(super) const LOOKED_AT: u64 = 100_000;

/// Bytes of all changes of one answer: of an agent's one has 15 MiB at most, and the gateway takes 16 MiB with what stands around them.
pub(super) const ANSWER_BYTES: usize = 15 * (1 << 20) + (512 << 10);

/// What is put to the source.
pub(super) enum Put {
    /// AgentService.Changes.
    Changes(agent::ChangesRequest),
    /// AgentService.History.
    History(agent::HistoryRequest),
    /// AgentService.Transaction.
    Transaction(agent::TransactionRequest),
}

impl Put {
    /// Changes that this filter asks for.
    pub(super) fn changes(inquiry: &Inquiry, filter: pb::Filter, order: pb::Order) -> Self {
        Self::Changes(agent::ChangesRequest {
            server_id: inquiry.id.clone(),
            filter: Some(filter),
            order: order.into(),
            tell_descents: inquiry.restricted(),
            ..agent::ChangesRequest::default()
        })
    }

    /// Begins after this change.
    pub(super) fn after(mut self, position: Option<pb::Position>) -> Self {
        match &mut self {
            Self::Changes(request) => request.after = position,
            Self::History(request) => request.after = position,
            Self::Transaction(request) => request.after = position,
        }
        self
    }

    /// Ends after so many changes or bytes; 0 is no limit.
    pub(super) fn limited(mut self, changes: u64, bytes: usize) -> Self {
        let bytes = bytes as u64;
        let limits = match &mut self {
            Self::Changes(request) => (&mut request.limit, &mut request.max_bytes),
            Self::History(request) => (&mut request.limit, &mut request.max_bytes),
            Self::Transaction(request) => (&mut request.limit, &mut request.max_bytes),
        };
        (*limits.0, *limits.1) = (changes, bytes);
        self
    }

    pub(super) async fn ask(&self, inquiry: &Inquiry) -> Result<Answer, Error> {
        match self {
            Self::Changes(request) => inquiry.ask(Method::Changes, request).await,
            Self::History(request) => inquiry.ask(Method::History, request).await,
            Self::Transaction(request) => inquiry.ask(Method::Transaction, request).await,
        }
    }

    fn fields(&self) -> Fields {
        let (statements, end) = match self {
            Self::Changes(_) | Self::History(_) => (None, 2),
            Self::Transaction(_) => (Some(2), 3),
        };
        Fields {
            statements,
            end,
            descents: end + 1,
        }
    }
}

/// The fields of a frame that are no changes.
#[derive(Clone, Copy, Debug)]
struct Fields {
    /// Statements that changed definitions.
    statements: Option<u32>,
    end: u32,
    descents: u32,
}

/// What was put together.
#[derive(Debug, Default)]
pub(super) struct Collected {
    /// The changes, encoded as field 1 of a message.
    pub(super) changes: BytesMut,
    /// How many.
    pub(super) count: usize,
    /// Where the first of them stands.
    pub(super) first: Option<pb::Position>,
    /// After which change the rest begins.
    pub(super) last: Option<pb::Position>,
    /// Whether there is a rest.
    pub(super) more: bool,
    /// Statements that changed definitions.
    pub(super) schema_changes: Vec<pb::SchemaChange>,
    /// What it rests on.
    pub(super) coverage: Option<pb::Coverage>,
    /// Whether something was taken out.
    pub(super) redacted: bool,
    /// What the answer was judged by, where that was learnt since it was asked.
    pub(super) learnt: Option<Held>,
}

/// How much to put together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Most {
    /// Changes.
    pub(super) changes: usize,
    /// The change with which there are so many bytes is the last.
    pub(super) bytes: usize,
    /// A change with which there would be more bytes is not taken.
    pub(super) room: usize,
}

impl Most {
    /// So many changes of a page.
    pub(super) fn page(changes: u32) -> Self {
        Self {
            changes: changes as usize,
            bytes: PAGE_BYTES,
            room: ANSWER_BYTES,
        }
    }
}

/// Asks what stands for a question with this filter, and puts together what comes.
pub(super) async fn collect(
    inquiry: &Inquiry,
    put: Put,
    most: Most,
    filter: &pb::Filter,
) -> Result<Collected, Error> {
    // Where a page ends must not tell how many changes there are that the caller does not see, nor how long they are: then it is cut here.
    let put = if inquiry.restricted() {
        put.limited(LOOKED_AT, 0)
    } else {
        put.limited(most.changes as u64, most.bytes)
    };
    let mut collecting = Collecting {
        inquiry,
        fields: put.fields(),
        most,
        redactor: inquiry.redactor(filter),
        got: Collected::default(),
    };
    let mut answer = put.ask(inquiry).await?;
    let mut ended = false;
    while !ended {
        let message = inquiry.next(&mut answer.messages).await?;
        let frame = Frame::of_agent(message.ok_or(Error::Answer)?)?;
        collecting.learn_from(&frame, answer.agent, filter).await?;
        ended = collecting.take(frame)?;
    }
    // Whoever answers stops, if there is more of it.
    drop(answer);
    let mut got = collecting.got;
    if got.coverage.is_none() {
        got.coverage = inquiry.coverage().await?;
    }
    Ok(got)
}

struct Collecting<'a> {
    inquiry: &'a Inquiry,
    fields: Fields,
    most: Most,
    redactor: Redactor,
    got: Collected,
}

impl Collecting<'_> {
    fn full(&self) -> bool {
        self.got.count >= self.most.changes || self.got.changes.len() >= self.most.bytes
    }

    /// Before a frame is judged: it may have rows that came under another name since the tables were asked for.
    async fn learn_from(
        &mut self,
        frame: &Frame,
        by: Option<AgentId>,
        filter: &pb::Filter,
    ) -> Result<(), Error> {
        let as_of = AsOf {
            by,
            told: frame.descents(self.fields.descents),
        };
        let known = self.got.learnt.as_ref().or_else(|| self.inquiry.held());
        if !self.inquiry.restricted() || known.is_some_and(|held| held.covers(as_of)) {
            return Ok(());
        }
        let held = self.inquiry.held_as_of(as_of).await?;
        self.redactor.among(held.lineage());
        narrow::permit_as_of(self.redactor.sight(), held.tables()?, filter)?;
        self.got.learnt = Some(held);
        Ok(())
    }

    /// Takes a frame, and tells whether it was the last that is needed.
    fn take(&mut self, frame: Frame) -> Result<bool, Error> {
        if let Some(field) = self.fields.statements {
            for mut change in frame.messages::<pb::SchemaChange>(field)? {
                let left = self.redactor.schema_change(&mut change);
                self.got.redacted |= left.is_said();
                if left.stays() {
                    self.got.schema_changes.push(change);
                }
            }
        }
        let cut = if self.inquiry.restricted() {
            self.redact(&frame)?
        } else {
            self.pass(&frame)?
        };
        if cut {
            self.got.more = true;
            return Ok(true);
        }
        let Some(end) = frame.messages::<agent::End>(self.fields.end)?.pop() else {
            return Ok(false);
        };
        self.got.more = end.more;
        self.got.coverage = end.coverage;
        if let Some(coverage) = &mut self.got.coverage {
            self.redactor.coverage(coverage);
        }
        Ok(true)
    }

    /// Whether there is room for so many bytes more; an error if not even for the first change.
    fn has_room(&self, bytes: usize) -> Result<bool, Error> {
        let fits = self.got.changes.len() + bytes <= self.most.room;
        if !fits && self.got.count == 0 {
            return Err(Error::Large);
        }
        Ok(fits)
    }

    /// Takes the changes as they are; `true` if there are more than asked for.
    fn pass(&mut self, frame: &Frame) -> Result<bool, Error> {
        if frame.changes() == 0 {
            return Ok(false);
        }
        if self.full() {
            return Ok(true);
        }
        let first = frame.first_position()?;
        if self.got.changes.len() + frame.len() > self.most.room {
            return self.pass_each(frame);
        }
        self.got.first = self.got.first.take().or(first);
        frame.write_changes(&mut self.got.changes);
        self.got.count += frame.changes();
        self.got.last = frame.last_position()?;
        Ok(false)
    }

    /// The same of a frame of which not all may fit.
    fn pass_each(&mut self, frame: &Frame) -> Result<bool, Error> {
        for change in frame.each_change() {
            if !self.has_room(change.len())? {
                return Ok(true);
            }
            self.got.changes.extend_from_slice(&change);
            self.got.count += 1;
            let at = Frame::read(change)?.first_position()?;
            self.got.first = self.got.first.take().or_else(|| at.clone());
            self.got.last = at;
        }
        Ok(false)
    }

    /// Takes what is left of the changes; `true` if that is enough.
    fn redact(&mut self, frame: &Frame) -> Result<bool, Error> {
        for change in frame.read_changes() {
            let mut change = change?;
            let position = change.position.clone().ok_or(Error::Answer)?;
            let left = self.redactor.change(&mut change);
            if left.stays() {
                if self.full() || !self.has_room(change.encoded_len() + TAG_BYTES)? {
                    return Ok(true);
                }
                write_change(&change, &mut self.got.changes);
                self.got.count += 1;
                self.got.first.get_or_insert_with(|| position.clone());
            }
            self.got.redacted |= left.is_said();
            self.got.last = Some(position);
        }
        Ok(false)
    }
}

/// What stands before a change in its message: its tag and its length.
const TAG_BYTES: usize = 10;

/// Appends a change as field 1 of a message.
pub(super) fn write_change(change: &pb::Change, out: &mut BytesMut) {
    /// The tag of field 1 with a length.
    const TAG: u8 = 1 << 3 | 2;
    out.put_u8(TAG);
    out.reserve(change.encoded_len() + TAG_BYTES);
    // A BytesMut grows as it needs.
    let _ = change.encode_length_delimited(out);
}
