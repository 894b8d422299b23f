//! `WatchUndo`: says when a plan is not what it was any more.

use std::{sync::Arc, time::Duration};

use binlog::Position;
use bytes::Bytes;
use prost::Message as _;
use proto::agent::v1 as pb;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use trail::{Reader, Stop};

use crate::{
    error::Error,
    follow::end,
    plan::{Size, chosen_up_to},
    pump::{Next, Out, Sent, Work},
    question::Question,
    store::Store,
    touched::Touched,
    undo::{Selection, history},
};

/// How soon a change is seen.
const POLL: Duration = Duration::from_millis(200);

/// A plan that is watched. What is kept of it is the keys of its rows.
pub(crate) struct Watching {
    store: Arc<dyn Store>,
    question: Question,
    until: Position,
    places: Arc<Semaphore>,
    watched: Option<Watched>,
    ended: bool,
}

struct Watched {
    /// None if nothing was chosen, so that nothing can touch it.
    rows: Option<(Selection, Touched)>,
    seen: Option<Reader>,
    _places: Option<OwnedSemaphorePermit>,
}

impl Watching {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        question: Question,
        until: Position,
        places: Arc<Semaphore>,
    ) -> Self {
        Self {
            store,
            question,
            until,
            places,
            watched: None,
            ended: false,
        }
    }

    fn begin(&self, reader: &Reader) -> Result<Watched, Error> {
        let choice = chosen_up_to(&self.question, reader, &self.until)?;
        // What is too much for a plan is too much here.
        let mut size = Size::default();
        let selection = Selection::find(reader, &choice, |change| size.add(change))?;
        let (mut rows, mut places) = (None, None);
        if let Some(selection) = selection {
            let (mut touched, mut size) = (Touched::default(), Size::default());
            history(
                reader,
                &choice,
                &selection,
                Some(&self.until),
                |change, chosen| {
                    if touched.see(change, chosen) {
                        size.add(change)?;
                    }
                    Ok::<(), Error>(())
                },
            )?;
            let count = u32::try_from(touched.rows()).unwrap_or(u32::MAX);
            let taken = Arc::clone(&self.places).try_acquire_many_owned(count);
            places = Some(taken.map_err(|_| Error::Busy)?);
            rows = Some((selection, touched));
        }
        Ok(Watched {
            rows,
            seen: None,
            _places: places,
        })
    }
}

impl Work for Watching {
    fn run(&mut self, stop: &Stop, out: &mut Out) -> Result<Next, Error> {
        if self.ended {
            return Ok(Next::End);
        }
        let Some(reader) = self.store.reader(stop)? else {
            return Ok(Next::After(POLL));
        };
        if self.watched.is_none() {
            self.watched = Some(self.begin(&reader)?);
            if out.send(message(None))? != Sent::On {
                return Ok(Next::Later);
            }
        }
        let Some(watched) = &mut self.watched else {
            return Ok(Next::End);
        };
        let known = watched.seen.as_ref();
        if known.is_some_and(|seen| seen.is_as_of(&reader)) {
            return Ok(Next::After(POLL));
        }
        if let Some((selection, touched)) = &watched.rows {
            // What was looked at before held nothing.
            let from = known.and_then(end).max(Some(self.until.clone()));
            let from = from.unwrap_or_else(|| self.until.clone());
            if let Some(stale) = touched.first_after(&reader, selection, &from)? {
                self.ended = true;
                out.send(message(Some(&stale)))?;
                return Ok(Next::End);
            }
        }
        watched.seen = Some(reader);
        Ok(Next::After(POLL))
    }

    fn is_plan(&self) -> bool {
        // Beginning goes through the rows as making the plan does.
        self.watched.is_none()
    }
}

fn message(stale_since: Option<&Position>) -> Bytes {
    let response = pb::WatchUndoResponse {
        stale_since: stale_since.map(change::position),
    };
    response.encode_to_vec().into()
}
