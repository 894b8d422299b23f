//! `--follow` through a mesh: what there is, then what comes, however often the connection breaks.

use std::time::Duration;

use proto::{
    change::v1 as pb,
    query::v1::{FollowChangesRequest, FollowChangesResponse, StreamChangesRequest},
};
use tokio::{sync::watch, time::timeout};
use tonic::Streaming;
use types::Code;

use super::{Server, list::Out, query, rows::Rows};
use crate::{
    cli::{args, cover, list::FOLLOW_LIMIT, note, parse::Limit, stop::Stop},
    error::Error,
    exit::Exit,
    remote::{LONG, Said, coverage as told},
    render::screen::Style,
};

/// The mesh gives a sign of life more often than that.
const SILENCE: Duration = Duration::from_secs(90);
/// The wait before a stream is opened again; each further one in a row is twice as long.
const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// Changes that following begins with at most, as the mesh has it; so many may come between a look at a store without a single change and the
/// stream.
const MOST: u32 = 1_000;

/// Prints what there is, then what comes, until somebody wants the end.
pub(super) fn follow(
    name: &str,
    mesh: &args::Mesh,
    filter: &pb::Filter,
    listing: &args::Listing,
) -> Result<Exit, Error> {
    let stop = Stop::listen()?;
    stop.run(|wanted| async {
        let mut out = Out::new(listing.format);
        let work = async {
            let server = Server::open(name, mesh).await?;
            let mut following = Following {
                server: &server,
                filter,
                after: None,
                looked: String::new(),
            };
            following.begin(listing, &mut out).await?;
            following.go_on(&mut out).await
        };
        tokio::select! {
            () = is(wanted) => {}
            Err(error) = work => return Err(error),
        }
        out.finish()?;
        out.tell();
        Ok(Exit::Done)
    })
}

/// Waits until the end is wanted.
async fn is(mut wanted: watch::Receiver<bool>) {
    // Whoever tells lives as long as the runtime.
    let _ = wanted.wait_for(|wanted| *wanted).await;
}

/// Whether whoever follows waits for the end of it.
fn is_passing(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::Timeout | Code::Exhausted)
}

struct Following<'a> {
    server: &'a Server,
    filter: &'a pb::Filter,
    /// What comes after this one is new; none while nothing at all was seen.
    after: Option<pb::Position>,
    /// How far the mesh has looked since, or nothing.
    looked: String,
}

impl<'a> Following<'a> {
    /// Prints what there is to begin with, and finds where the rest begins.
    async fn begin(&mut self, listing: &args::Listing, out: &mut Out) -> Result<(), Error> {
        let chosen = self.filter.since.is_some()
            || !self.filter.gtid.is_empty()
            || !self.filter.transaction.is_empty();
        let limit = match listing.limit {
            Some(limit) => limit,
            None if chosen => Limit::All,
            None => Limit::Of(FOLLOW_LIMIT),
        };
        let count = match limit {
            Limit::Of(count) => Some(u64::try_from(count).unwrap_or(u64::MAX)),
            Limit::All => None,
        };
        if count.is_some_and(|count| count > u64::from(MOST)) {
            return Err(Error::new(
                Code::Invalid,
                "--limit",
                format!("following through a mesh begins with {MOST} changes at most"),
            )
            .hint("choose them by time instead: --since 1h"));
        }
        // Whatever comes from here on is not missed, however the streams break and whether or not anything was printed before.
        let now = self.newest().await?;
        match count {
            Some(0) => {}
            Some(count) => {
                let start = self.before_the_last(count).await?;
                self.print(start, out).await?;
            }
            None => self.print(None, out).await?,
        }
        self.after = self.after.take().or(now);
        Ok(())
    }

    /// The newest change of all.
    async fn newest(&self) -> Result<Option<pb::Position>, Error> {
        let request = StreamChangesRequest {
            order: pb::Order::Newest.into(),
            ..StreamChangesRequest::default()
        };
        let mut rows = Rows::stream(self.server, request, Some(1));
        while let Some(frame) = rows.next().await? {
            if let Some(change) = frame.changes.into_iter().next() {
                return Ok(change.position);
            }
        }
        Ok(None)
    }

    /// After which change the last few stand; none if there are no more than these.
    async fn before_the_last(&self, count: u64) -> Result<Option<pb::Position>, Error> {
        let mut rows = self.rows(pb::Order::Newest, Some(count + 1), None);
        let mut seen = 0;
        while let Some(frame) = rows.next().await? {
            for change in frame.changes {
                if seen == count {
                    return Ok(change.position);
                }
                seen += 1;
            }
        }
        Ok(None)
    }

    /// Prints what there is after a change.
    async fn print(&mut self, after: Option<pb::Position>, out: &mut Out) -> Result<(), Error> {
        let mut rows = self.rows(pb::Order::Oldest, None, after);
        while let Some(frame) = rows.next().await? {
            for change in &frame.changes {
                out.change(change)?;
                self.after.clone_from(&change.position);
            }
        }
        out.flush()
    }

    fn rows(&self, order: pb::Order, limit: Option<u64>, after: Option<pb::Position>) -> Rows<'a> {
        let request = StreamChangesRequest {
            filter: Some(self.filter.clone()),
            order: order.into(),
            after,
            ..StreamChangesRequest::default()
        };
        Rows::stream(self.server, request, limit)
    }

    /// Prints what comes, for ever.
    async fn go_on(&mut self, out: &mut Out) -> Result<(), Error> {
        let (mut pause, mut begun) = (PAUSE, false);
        loop {
            let mut stream = match self.open(out).await {
                Err(Error::Failed(failure)) if begun && is_passing(failure.code) => {
                    note::note(&format!("{}: {}; trying again", failure.what, failure.why));
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                    continue;
                }
                opened => opened?,
            };
            begun = true;
            let said = loop {
                match timeout(SILENCE, stream.message()).await {
                    Ok(Ok(Some(message))) => {
                        pause = PAUSE;
                        self.take(message, out)?;
                    }
                    Ok(Ok(None)) => break None,
                    Ok(Err(status)) => break Some(Said::from(&status)),
                    Err(_) => break Some(Said::late(SILENCE)),
                }
            };
            if let Some(said) = said.filter(|said| !said.passes() && !is_passing(said.code)) {
                return Err(self.server.mesh.failure(&self.server.what, &said));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn open(&mut self, out: &mut Out) -> Result<Streaming<FollowChangesResponse>, Error> {
        if self.after.is_none() && self.looked.is_empty() {
            // There was nothing at all, so all that there is is new.
            self.print(None, out).await?;
        }
        let server = self.server;
        let request = FollowChangesRequest {
            server: server.name.clone(),
            filter: Some(self.filter.clone()),
            last: MOST,
            after: self.after.clone(),
            resume_token: self.looked.clone(),
        };
        let asked = server
            .mesh
            .ask(&server.what, request, LONG, |channel, request| async move {
                query(channel).follow_changes(request).await
            });
        Ok(asked.await?.into_inner())
    }

    fn take(&mut self, message: FollowChangesResponse, out: &mut Out) -> Result<(), Error> {
        for change in &message.changes {
            out.change(change)?;
        }
        out.flush()?;
        out.saw(message.redacted);
        for gap in &message.gaps {
            note::line("INCOMPLETE", Style::Yellow, &cover::gap(&told::gap(gap)));
        }
        if let Some(change) = message.changes.last() {
            self.after.clone_from(&change.position);
            self.looked.clear();
        }
        if !message.resume_token.is_empty() {
            self.looked = message.resume_token;
        }
        Ok(())
    }
}
