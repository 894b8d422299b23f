//! The methods that answer with a stream of changes. Where no rule hides anything, frames go on as the bytes that came; else they are read,
//! and what is left of them is written anew, in frames of our own, so that the lengths of frames tell nothing either.

use std::{
    pin::Pin,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use chassis::places::Place;
use futures_util::{Stream, TryStreamExt as _, stream};
use prost::Message;
use proto::{agent::v1 as agent, change::v1 as change, query::v1 as pb};
use tonic::{Request, Status};
use types::AgentId;

use super::{
    Core, Reply,
    changes::order,
    collect::{Most, Put, collect, write_change},
    error::Error,
    frame::Frame,
    inquiry::{AsOf, Inquiry},
    narrow,
    page::{Looked, Question},
};
use crate::{
    redact::{Left, Redactor},
    source::Messages,
};

/// The field of ChangesResponse that tells which descents are known.
const DESCENTS: u32 = 3;

/// About so many bytes are a frame.
const FRAME: usize = 64 * 1024;

/// How long nothing is said at most while following.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// A stream that follows ends so long before its deadline: as one that ended, and not as one that was cut off.
const BEFORE_DEADLINE: Duration = Duration::from_secs(1);

/// The most changes that following begins with.
const MOST_LAST: u32 = 1_000;

/// Encoded answers.
pub(super) type Answers = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// The changes that a source sends, and what is left of them.
struct Reading {
    inquiry: Inquiry,
    filter: change::Filter,
    redactor: Redactor,
    messages: Messages,
    /// Who sends them.
    by: Option<AgentId>,
    /// What tokens are for.
    question: Question,
    /// The last change that came, whether or not the caller sees it.
    looked: Option<change::Position>,
    _place: Place,
}

impl Reading {
    /// Before anything is said: the caller may see less than a moment ago.
    async fn look_again(&mut self) -> Result<(), Error> {
        if self.inquiry.look_again().await? {
            self.redactor = self.inquiry.redactor(&self.filter);
            self.inquiry.leave_room();
        }
        Ok(())
    }

    /// Before a frame is judged: it may have rows that have come under another name.
    async fn judge(&mut self, frame: &Frame) -> Result<(), Error> {
        self.look_again().await?;
        let as_of = AsOf {
            by: self.by,
            told: frame.descents(DESCENTS),
        };
        if frame.changes() > 0 && self.inquiry.learn_from(as_of).await? {
            let held = self.inquiry.tables().await?;
            narrow::permit_as_of(&self.inquiry.sight, &held, &self.filter)?;
            self.redactor = self.inquiry.redactor(&self.filter);
            self.inquiry.leave_room();
        }
        Ok(())
    }

    /// How far this has looked, for whoever asks again.
    fn resume_token(&self) -> Result<String, Error> {
        self.question.resume_token(self.looked.as_ref())
    }

    /// That a frame was looked at as a whole.
    fn has_looked_at(&mut self, frame: &Frame) -> Result<(), Error> {
        self.looked = frame.last_position()?.or_else(|| self.looked.take());
        Ok(())
    }

    /// The next frame. Nothing is lost if it is given up.
    async fn frame(&mut self) -> Result<Frame, Error> {
        let message = self.inquiry.next(&mut self.messages).await?;
        Ok(Frame::of_agent(message.ok_or(Error::Answer)?)?)
    }

    fn end(&self, frame: &Frame) -> Result<Option<agent::End>, Error> {
        let mut end = frame.messages::<agent::End>(2)?.pop();
        if let Some(coverage) = end.as_mut().and_then(|end| end.coverage.as_mut()) {
            self.redactor.coverage(coverage);
        }
        Ok(end)
    }
}

struct Streaming {
    reading: Option<Reading>,
    /// The source was asked for more than the caller may be told.
    sieved: bool,
    out: BytesMut,
    count: u64,
    limit: u64,
    redacted: bool,
}

impl Streaming {
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let quiet = Instant::now() + SIGN_OF_LIFE;
        loop {
            let Some(reading) = &mut self.reading else {
                return Ok(None);
            };
            // Also where frame after frame comes, of which nothing is for the caller.
            if Instant::now() >= quiet {
                return self.sign_of_life().map(Some);
            }
            let Ok(frame) = tokio::time::timeout_at(quiet.into(), reading.frame()).await else {
                reading.look_again().await?;
                return self.sign_of_life().map(Some);
            };
            let frame = frame?;
            reading.judge(&frame).await?;
            let pass = !self.sieved && !reading.inquiry.restricted();
            if pass && frame.plain() && self.out.is_empty() {
                reading.has_looked_at(&frame)?;
                return Ok(Some(frame.into_bytes()));
            }
            if pass {
                frame.write_changes(&mut self.out);
            } else if self.redact(&frame)? {
                return self.finish(None).await.map(Some);
            }
            let Some(reading) = &mut self.reading else {
                return Ok(None);
            };
            reading.has_looked_at(&frame)?;
            if let Some(end) = reading.end(&frame)? {
                return self.finish(Some(end)).await.map(Some);
            }
            if self.out.len() >= FRAME {
                return Ok(Some(self.cut(pb::StreamChangesResponse::default())));
            }
        }
    }

    /// Takes what is left of a frame's changes; `true` if there is more than the limit lets through.
    fn redact(&mut self, frame: &Frame) -> Result<bool, Error> {
        let Some(reading) = &mut self.reading else {
            return Ok(true);
        };
        for change in frame.read_changes() {
            let mut change = change?;
            let left = reading.redactor.change(&mut change);
            if left.stays() && self.limit > 0 && self.count >= self.limit {
                return Ok(true);
            }
            self.redacted |= left.is_said();
            if !left.stays() {
                continue;
            }
            self.count += 1;
            write_change(&change, &mut self.out);
        }
        Ok(false)
    }

    /// What there is, which may be nothing, and how far this has looked.
    fn sign_of_life(&mut self) -> Result<Bytes, Error> {
        let token = self.reading.as_ref().map(Reading::resume_token).transpose()?;
        let sign = pb::StreamChangesResponse {
            resume_token: token.unwrap_or_default(),
            ..pb::StreamChangesResponse::default()
        };
        if self.out.is_empty() {
            // That something was taken out is said with what was left, or at the end: here it would tell when.
            return Ok(sign.encode_to_vec().into());
        }
        Ok(self.cut(sign))
    }

    fn cut(&mut self, rest: pb::StreamChangesResponse) -> Bytes {
        let mut out = std::mem::take(&mut self.out);
        let rest = pb::StreamChangesResponse {
            redacted: std::mem::take(&mut self.redacted),
            ..rest
        };
        // A BytesMut grows as it needs.
        let _ = rest.encode(&mut out);
        out.freeze()
    }

    /// The last frame. Without an end of the source's, the limit was reached before it.
    async fn finish(&mut self, end: Option<agent::End>) -> Result<Bytes, Error> {
        let reading = self.reading.take();
        let (more, mut coverage) = match end {
            Some(end) => (end.more, end.coverage),
            None => (true, None),
        };
        if let (None, Some(reading)) = (&coverage, &reading) {
            coverage = reading.inquiry.coverage().await?;
        }
        Ok(self.cut(pb::StreamChangesResponse {
            coverage,
            more,
            ..pb::StreamChangesResponse::default()
        }))
    }
}

pub(super) async fn stream_changes(
    core: Core,
    request: Request<pb::StreamChangesRequest>,
) -> Result<Reply<Answers>, Error> {
    let mut inquiry = Inquiry::begin(&core, &request, &request.get_ref().server).await?;
    let asked = request.into_inner();
    let place = core.places.take(inquiry.scope.tenant())?;
    let bare = pb::StreamChangesRequest {
        filter: asked.filter.clone(),
        order: asked.order,
        ..pb::StreamChangesRequest::default()
    };
    let question = inquiry.question(&bare, "StreamChanges").await?;
    let resumed = question.resumed(&asked.resume_token)?;
    let after = resumed.map_or(asked.after, |Looked(last)| last);
    let filter = asked.filter.unwrap_or_default();
    let order = order(asked.order, "order")?;
    let narrowed = narrow::narrow(&mut inquiry, &filter).await?;
    let hidden = narrowed.hidden > 0;
    let Some(narrowed) = narrowed.one(&filter) else {
        let only = pb::StreamChangesResponse {
            coverage: inquiry.coverage().await?,
            redacted: hidden,
            ..pb::StreamChangesResponse::default()
        };
        let only: Bytes = only.encode_to_vec().into();
        let only: Answers = Box::pin(stream::iter([Ok(only)]));
        return Ok(inquiry.reply(only));
    };
    let put = Put::changes(&inquiry, narrowed, order).after(after.clone());
    let redactor = inquiry.redactor(&filter);
    // Those that the caller does not see do not count.
    let sieved = inquiry.restricted();
    let put = put.limited(if sieved { 0 } else { asked.limit }, 0);
    let answer = put.ask(&inquiry).await?;
    inquiry.leave_room();
    let reply = inquiry.reply(());
    let streaming = Streaming {
        out: BytesMut::new(),
        count: 0,
        limit: asked.limit,
        redacted: hidden,
        sieved,
        reading: Some(Reading {
            redactor,
            question,
            looked: after,
            inquiry,
            filter,
            messages: answer.messages,
            by: answer.agent,
            _place: place,
        }),
    };
    let answers = stream::try_unfold(streaming, |mut streaming| async move {
        Ok(streaming.next().await?.map(|answer| (answer, streaming)))
    });
    Ok(reply.of(Box::pin(answers.map_err(|error: Error| Status::from(error)))))
}

struct Following {
    reading: Reading,
    /// The last word was said.
    ended: bool,
    /// What there was to begin with.
    first: Option<Bytes>,
    /// Stretches that were known to be missing, once anything is known.
    gaps: Option<Vec<change::Gap>>,
}

impl Following {
    fn over(&self) -> Instant {
        let deadline = self.reading.inquiry.scope.deadline;
        deadline.checked_sub(BEFORE_DEADLINE).unwrap_or(deadline)
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        if self.ended {
            return Ok(None);
        }
        let until = self.over().min(Instant::now() + SIGN_OF_LIFE);
        loop {
            if Instant::now() >= until {
                // Of all that came nothing was for the caller.
                return self.sign_of_life().map(Some);
            }
            let next = tokio::time::timeout_at(until.into(), self.reading.frame()).await;
            let Ok(frame) = next else {
                self.reading.look_again().await?;
                return self.sign_of_life().map(Some);
            };
            let frame = frame?;
            self.reading.judge(&frame).await?;
            self.reading.has_looked_at(&frame)?;
            if let Some(answer) = self.answer(frame)? {
                return Ok(Some(answer));
            }
        }
    }

    /// That this lives, how far it has looked, and at the end that it ends.
    fn sign_of_life(&mut self) -> Result<Bytes, Error> {
        self.ended = Instant::now() >= self.over();
        let sign = pb::FollowChangesResponse {
            resume_token: self.reading.resume_token()?,
            ..pb::FollowChangesResponse::default()
        };
        Ok(sign.encode_to_vec().into())
    }

    fn answer(&mut self, frame: Frame) -> Result<Option<Bytes>, Error> {
        let restricted = self.reading.inquiry.restricted();
        if !restricted && frame.plain() {
            return Ok(Some(frame.into_bytes()).filter(|bytes| !bytes.is_empty()));
        }
        let mut out = BytesMut::new();
        let mut rest = pb::FollowChangesResponse::default();
        if restricted {
            for change in frame.read_changes() {
                let mut change = change?;
                let left = self.reading.redactor.change(&mut change);
                if left.stays() {
                    write_change(&change, &mut out);
                    // That there was something in another table is not said: it would tell when.
                    rest.redacted |= left == Left::Part;
                }
            }
        } else {
            frame.write_changes(&mut out);
        }
        if let Some(coverage) = self.reading.end(&frame)?.and_then(|end| end.coverage) {
            let known = self.gaps.replace(coverage.gaps.clone());
            let new = |gap: &change::Gap| known.as_ref().is_some_and(|known| !known.contains(gap));
            rest.gaps = coverage.gaps.into_iter().filter(new).collect();
        }
        // A BytesMut grows as it needs.
        let _ = rest.encode(&mut out);
        Ok(Some(out.freeze()).filter(|bytes| !bytes.is_empty()))
    }
}

/// The last change that there is, whatever it is about.
async fn newest(inquiry: &Inquiry) -> Result<Option<change::Position>, Error> {
    let put = Put::changes(inquiry, change::Filter::default(), change::Order::Newest);
    let mut answer = put.limited(1, 0).ask(inquiry).await?;
    let message = inquiry.next(&mut answer.messages).await?;
    // Its position stays here.
    Ok(Frame::of_agent(message.ok_or(Error::Answer)?)?.last_position()?)
}

/// The last changes that a filter asks for, in the order in which they happened, as a frame.
async fn last_few(
    inquiry: &Inquiry,
    filter: &change::Filter,
    count: u32,
) -> Result<(Option<Bytes>, Option<change::Position>), Error> {
    let put = Put::changes(inquiry, filter.clone(), change::Order::Newest);
    let most = Most {
        changes: count as usize,
        ..Most::page(0)
    };
    let got = collect(inquiry, put, most, filter).await?;
    let turned = Frame::read(got.changes.freeze())?;
    let mut out = BytesMut::new();
    for change in turned.each_change().rev() {
        out.extend_from_slice(&change);
    }
    let rest = pb::FollowChangesResponse {
        redacted: got.redacted,
        ..pb::FollowChangesResponse::default()
    };
    let _ = rest.encode(&mut out);
    Ok((Some(out.freeze()).filter(|bytes| !bytes.is_empty()), got.first))
}

/// Where following begins.
#[derive(Debug, Default)]
struct Beginning {
    /// Changes that are told before.
    first: Option<Bytes>,
    after: Option<change::Position>,
    /// In place of `after`, with how many of those that there are; none is all of them.
    last: Option<u64>,
    /// Nothing is missed by who asks again for what comes after this; none if there is nothing yet.
    looked: Option<change::Position>,
}

impl Beginning {
    async fn find(
        inquiry: &Inquiry,
        filter: &change::Filter,
        last: u32,
        resumed: Option<Looked>,
        after: Option<change::Position>,
    ) -> Result<Self, Error> {
        // Who has looked at nothing, because there was nothing, begins with all that there is.
        if let Some(after) = resumed.map(|Looked(last)| last).or_else(|| after.map(Some)) {
            return Ok(Self {
                looked: after.clone(),
                after,
                ..Self::default()
            });
        }
        let newest = newest(inquiry).await?;
        let count = last.min(MOST_LAST);
        if count == 0 {
            return Ok(Self {
                last: Some(0).filter(|_| newest.is_none()),
                after: newest.clone(),
                looked: newest,
                ..Self::default()
            });
        }
        if !inquiry.restricted() {
            return Ok(Self {
                last: Some(count.into()),
                looked: newest,
                ..Self::default()
            });
        }
        // The last few are of what the caller sees. What comes between this and what follows is in what follows.
        let (first, after) = last_few(inquiry, filter, count).await?;
        let after = after.or_else(|| newest.clone());
        Ok(Self {
            last: Some(count.into()).filter(|_| after.is_none()),
            first,
            after,
            looked: newest,
        })
    }
}

pub(super) async fn follow_changes(
    core: Core,
    request: Request<pb::FollowChangesRequest>,
) -> Result<Reply<Answers>, Error> {
    let mut inquiry = Inquiry::begin(&core, &request, &request.get_ref().server).await?;
    let asked = request.into_inner();
    let place = core.places.take(inquiry.scope.tenant())?;
    let bare = pb::FollowChangesRequest {
        filter: asked.filter.clone(),
        ..pb::FollowChangesRequest::default()
    };
    let question = inquiry.question(&bare, "FollowChanges").await?;
    let resumed = question.resumed(&asked.resume_token)?;
    let filter = asked.filter.unwrap_or_default();
    // Tables that are made meanwhile are followed too: so what comes is sieved here, and not narrowed there. What is refused is the same.
    narrow::narrow(&mut inquiry, &filter).await?;
    let begin = Beginning::find(&inquiry, &filter, asked.last, resumed, asked.after).await?;
    let put = Put::Changes(agent::ChangesRequest {
        server_id: inquiry.id.clone(),
        filter: Some(filter.clone()),
        order: change::Order::Oldest.into(),
        last: begin.last,
        after: begin.after,
        follow: true,
        tell_descents: inquiry.restricted(),
        ..agent::ChangesRequest::default()
    });
    let answer = put.ask(&inquiry).await?;
    inquiry.leave_room();
    let reply = inquiry.reply(());
    let following = Following {
        first: begin.first,
        ended: false,
        gaps: None,
        reading: Reading {
            redactor: inquiry.redactor(&filter),
            question,
            looked: begin.looked,
            inquiry,
            filter,
            messages: answer.messages,
            by: answer.agent,
            _place: place,
        },
    };
    let answers = stream::try_unfold(following, |mut following| async move {
        Ok(following.next().await?.map(|answer| (answer, following)))
    });
    Ok(reply.of(Box::pin(answers.map_err(|error: Error| Status::from(error)))))
}
