//! `Changes`, `History` and `Transaction`: changes in frames.

use std::{sync::Arc, time::Duration};

use binlog::Position;
use proto::agent::v1 as pb;
use trail::{Filter, Order, Reader, Stop};

use crate::{
    error::Error,
    follow::end,
    frame::Frame,
    pump::{Next, Out, Sent, Work},
    question::{Choice, Question},
    store::Store,
    undo::just_after,
    wire,
};

/// How soon a new commit is seen.
const POLL: Duration = Duration::from_millis(200);

/// What is to be answered.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Which changes.
    pub(crate) question: Question,
    /// In which order.
    pub(crate) order: Order,
    /// After this one, in that order.
    pub(crate) after: Option<Position>,
    /// At most so many; 0 is no limit.
    pub(crate) limit: u64,
    /// End once so many bytes were given; 0 is no limit.
    pub(crate) max_bytes: u64,
    /// Go on with what comes; and with how many of those that there are to begin.
    pub(crate) follow: Option<Option<u64>>,
    /// The answer is about one transaction as a whole.
    pub(crate) whole_transaction: bool,
    /// Messages say how many descents of tables are known.
    pub(crate) tell_descents: bool,
}

/// An answer that is being given.
pub(crate) struct Rows {
    store: Arc<dyn Store>,
    request: Request,
    /// Field 2 of the answers of Changes and History; 3 of Transaction's.
    end_tag: u8,
    /// The field after it.
    descents_field: u32,
    open: Option<Open>,
    /// How far it is, with the frame that is being filled.
    told: Told,
    /// How far it is without.
    sent: Told,
    ended: bool,
}

/// How far an answer is.
#[derive(Clone, Debug, Default)]
struct Told {
    /// The statements of a transaction were given.
    statements: bool,
    /// The last change that was given.
    last: Option<Position>,
    given: u64,
    bytes: u64,
}

/// The moment of the store that is answered from.
struct Open {
    reader: Reader,
    choice: Choice,
    /// When following: everything of that moment has been given.
    told: bool,
}

impl Rows {
    /// An answer about a server.
    pub(crate) fn new(store: Arc<dyn Store>, request: Request) -> Self {
        let end = if request.whole_transaction { 3 } else { 2 };
        Self {
            store,
            request,
            end_tag: end << 3 | 2,
            descents_field: u32::from(end) + 1,
            open: None,
            told: Told::default(),
            sent: Told::default(),
            ended: false,
        }
    }

    /// Opens the store, and when following takes in what came; false if there is nothing new to look at.
    fn open(&mut self, stop: &Stop) -> Result<bool, Error> {
        match &mut self.open {
            Some(open) if self.request.follow.is_some() && open.told => {
                let Some(now) = self.store.reader(stop)? else {
                    return Ok(false);
                };
                if now.is_as_of(&open.reader) {
                    return Ok(false);
                }
                // Everything up to there was given.
                open.choice.filter.after = end(&open.reader).max(open.choice.filter.after.take());
                open.reader = now;
                open.told = false;
                self.told.last = None;
                self.sent.last = None;
                Ok(true)
            }
            Some(_) => Ok(true),
            None => {
                let Some(reader) = self.store.reader(stop)? else {
                    return Ok(false);
                };
                let choice = self.choice(&reader)?;
                self.open = Some(Open {
                    reader,
                    choice,
                    told: false,
                });
                Ok(true)
            }
        }
    }

    fn choice(&self, reader: &Reader) -> Result<Choice, Error> {
        let mut choice = self.request.question.choice(reader)?;
        choice.filter.order = self.request.order;
        go_on(&mut choice.filter, self.request.after.as_ref());
        if let (Some(Some(count)), None) = (self.request.follow, &self.request.after) {
            choice.filter.after = before_the_last(reader, &choice, count)?;
        }
        Ok(choice)
    }

    /// How many more may be given, those that would not fit being one more.
    fn left(&self) -> Option<u64> {
        (self.request.limit > 0 && self.request.follow.is_none())
            .then(|| self.request.limit.saturating_sub(self.told.given))
    }

    /// Gives changes until there are no more, the limits are reached, or the slice is over; whether it is over.
    fn give(&mut self, frame: &mut Frame, out: &mut Out) -> Result<Given, Error> {
        let Some(open) = &self.open else {
            return Ok(Given::All);
        };
        let mut choice = open.choice.clone();
        go_on(&mut choice.filter, self.told.last.as_ref());
        let left = self.left();
        if choice.only.is_empty() {
            choice.filter.limit =
                left.map(|left| usize::try_from(left.saturating_add(1)).unwrap_or(usize::MAX));
        }
        for (nth, change) in (0_u64..).zip(choice.find(&open.reader)?) {
            let change = change?;
            let enough = self.request.max_bytes > 0 && self.told.bytes >= self.request.max_bytes;
            if left.is_some_and(|left| nth >= left) || enough && self.told.given > 0 {
                return Ok(Given::Limit);
            }
            self.told.bytes += frame.change(&change)? as u64;
            self.told.given += 1;
            self.told.last = Some(change.position);
            if frame.is_full() {
                match out.send(frame.take())? {
                    Sent::On => self.sent.clone_from(&self.told),
                    Sent::Over => {
                        self.sent.clone_from(&self.told);
                        return Ok(Given::Slice);
                    }
                    Sent::Back => {
                        self.told.clone_from(&self.sent);
                        return Ok(Given::Slice);
                    }
                }
            }
        }
        Ok(Given::All)
    }

    /// The end of the answer, and what it rests on.
    fn end(&self, open: &Open, more: bool) -> pb::End {
        let mut judged = open.choice.filter.clone();
        match &self.told.last {
            Some(last) if self.request.whole_transaction => {
                // A transaction is stored whole or not at all, whatever is missing elsewhere.
                judged = Filter {
                    transaction: Some(last.at.clone()),
                    epoch: Some(last.epoch),
                    ..Filter::default()
                };
            }
            Some(last) if more => match judged.order {
                Order::Newest => judged.after = Some(last.clone()),
                Order::Oldest => judged.before = Some(just_after(last)),
            },
            _ => {}
        }
        pb::End {
            more,
            coverage: Some(wire::coverage(&open.reader.coverage_of(&judged))),
        }
    }

    /// The statements of a transaction, on its first frame. One that the store would have to know and does not is an error.
    fn statements(&self, frame: &mut Frame) -> Result<(), Error> {
        let Some(open) = &self.open else {
            return Ok(());
        };
        let alone = Filter {
            gtid: open.choice.filter.gtid.clone(),
            transaction: open.choice.filter.transaction.clone(),
            ..Filter::default()
        };
        let statements = open.reader.schema_changes(&alone)?;
        for statement in &statements {
            frame.field(2 << 3 | 2, &wire::schema_change(statement))?;
        }
        let any = Filter {
            limit: Some(1),
            ..alone
        };
        if statements.is_empty()
            && open.reader.find(&any)?.next().transpose()?.is_none()
            && open.reader.coverage_of(&any).complete
        {
            return Err(Error::NoTransaction);
        }
        Ok(())
    }
}

/// Why giving ended.
enum Given {
    All,
    Limit,
    Slice,
}

impl Work for Rows {
    fn run(&mut self, stop: &Stop, out: &mut Out) -> Result<Next, Error> {
        if self.ended {
            return Ok(Next::End);
        }
        let mut frame = Frame::default();
        let opened = self.open(stop)?;
        if let Some(open) = self.open.as_ref().filter(|_| self.request.tell_descents) {
            let known = open.reader.descents()?;
            frame.tell_descents(self.descents_field, &known);
        }
        if !opened {
            return if self.request.follow.is_some() {
                Ok(Next::After(POLL))
            } else {
                self.ended = true;
                let end = pb::End {
                    more: false,
                    coverage: Some(wire::nothing_read()),
                };
                frame.field(self.end_tag, &end)?;
                out.send(frame.take())?;
                Ok(Next::End)
            };
        }
        if self.request.whole_transaction && !self.told.statements {
            self.statements(&mut frame)?;
            self.told.statements = true;
        }
        let more = match self.give(&mut frame, out)? {
            Given::Slice => return Ok(Next::Later),
            Given::All => false,
            Given::Limit => true,
        };
        let Some(open) = &self.open else {
            return Ok(Next::End);
        };
        frame.field(self.end_tag, &self.end(open, more))?;
        if out.send(frame.take())? == Sent::Back {
            self.told.clone_from(&self.sent);
            return Ok(Next::Later);
        }
        self.sent.clone_from(&self.told);
        if self.request.follow.is_none() {
            self.ended = true;
            return Ok(Next::End);
        }
        if let Some(open) = &mut self.open {
            open.told = true;
        }
        Ok(Next::After(POLL))
    }
}

/// Lets a filter begin after `last`, in its own order.
pub(crate) fn go_on(filter: &mut Filter, last: Option<&Position>) {
    let Some(last) = last else { return };
    match filter.order {
        Order::Oldest => filter.after = filter.after.take().max(Some(last.clone())),
        Order::Newest => {
            let before = filter.before.take().into_iter().chain([last.clone()]);
            filter.before = before.min();
        }
    }
}

/// The position after which the last `count` changes stand.
fn before_the_last(reader: &Reader, choice: &Choice, count: u64) -> Result<Option<Position>, Error> {
    if count == 0 {
        return Ok(end(reader).max(choice.filter.after.clone()));
    }
    let mut newest = choice.clone();
    newest.filter.order = Order::Newest;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if newest.only.is_empty() {
        newest.filter.limit = Some(count.saturating_add(1));
    }
    let change = newest.find(reader)?.nth(count).transpose()?;
    Ok(change
        .map(|change| change.position)
        .or_else(|| choice.filter.after.clone()))
}
