//! Changes as they come from the mesh, frame by frame, by whichever method gives them.

use std::time::Duration;

use proto::{
    change::v1 as pb,
    query::v1::{GetRowHistoryRequest, GetTransactionRequest, StreamChangesRequest, StreamChangesResponse},
};
use tokio::time::timeout;
use tonic::{Response, Streaming};
use types::Code;

use super::{Server, query};
use crate::{
    error::Error,
    remote::{LONG, SHORT, Said},
};

/// A stream that is silent for so long is broken.
const SILENCE: Duration = Duration::from_secs(90);
/// Changes of a page at most, as the mesh has it.
const PAGE: u64 = 1_000;
/// How often a stream is taken up again without a single change in between.
const FRUITLESS_MAX: u32 = 3;

/// Some changes; the last frame has the end.
#[derive(Debug, Default)]
pub(super) struct Frame {
    pub(super) changes: Vec<pb::Change>,
    /// Access rules took something out.
    pub(super) redacted: bool,
    pub(super) end: Option<End>,
}

/// How an answer ended.
#[derive(Debug, Default)]
pub(super) struct End {
    /// There is more than the limit let through.
    pub(super) more: bool,
    /// What it rests on.
    pub(super) coverage: Option<pb::Coverage>,
}

/// Changes in order.
pub(super) struct Rows<'s> {
    server: &'s Server,
    from: Origin,
    /// How many are still wanted; none for all.
    left: Option<u64>,
    /// What the pages so far rest on, if that is not everything.
    lacking: Option<pb::Coverage>,
    ended: bool,
}

/// Which method gives them.
enum Origin {
    Stream(Box<Stream>),
    History(Box<GetRowHistoryRequest>),
    Transaction(GetTransactionRequest),
}

struct Stream {
    request: StreamChangesRequest,
    open: Option<Streaming<StreamChangesResponse>>,
    fruitless: u32,
}

impl<'s> Rows<'s> {
    /// Those of a filter.
    pub(super) fn stream(server: &'s Server, mut request: StreamChangesRequest, limit: Option<u64>) -> Self {
        request.server = server.name.clone();
        Self::of(
            server,
            Origin::Stream(Box::new(Stream {
                request,
                open: None,
                fruitless: 0,
            })),
            limit,
        )
    }

    /// Those of a row.
    pub(super) fn history(server: &'s Server, mut request: GetRowHistoryRequest, limit: Option<u64>) -> Self {
        request.server = server.name.clone();
        Self::of(server, Origin::History(Box::new(request)), limit)
    }

    /// Those of a transaction.
    pub(super) fn transaction(
        server: &'s Server,
        mut request: GetTransactionRequest,
        limit: Option<u64>,
    ) -> Self {
        request.server = server.name.clone();
        Self::of(server, Origin::Transaction(request), limit)
    }

    fn of(server: &'s Server, from: Origin, limit: Option<u64>) -> Self {
        Self {
            server,
            from,
            left: limit,
            lacking: None,
            ended: false,
        }
    }

    /// The next frame; none after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, Error> {
        if self.ended {
            return Ok(None);
        }
        let mut frame = match &mut self.from {
            Origin::Stream(stream) => {
                stream.request.limit = self.left.unwrap_or_default();
                stream.next(self.server).await?
            }
            Origin::History(request) => history_page(self.server, request, self.left).await?,
            Origin::Transaction(request) => {
                let page = transaction_page(self.server, request, self.left).await?;
                // It was there a moment ago: a store that forgets says so in its coverage.
                page.map(|(frame, _)| frame).unwrap_or_default()
            }
        };
        let came = frame.changes.len() as u64;
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(came);
        }
        if let Some(end) = &mut frame.end {
            let paged = !matches!(self.from, Origin::Stream(_));
            let whole = end.coverage.as_ref().is_some_and(|coverage| coverage.complete);
            if paged && !whole && self.lacking.is_none() {
                self.lacking = end.coverage.take();
            }
            if paged && end.more && self.left != Some(0) {
                // Another page follows.
                frame.end = None;
                return Ok(Some(frame));
            }
            if let Some(lacking) = self.lacking.take() {
                end.coverage = Some(lacking);
            }
            self.ended = true;
        }
        Ok(Some(frame))
    }
}

impl Stream {
    /// The next frame. An answer that breaks off is taken up after the last change that came.
    async fn next(&mut self, server: &Server) -> Result<Frame, Error> {
        loop {
            let mut open = match self.open.take() {
                Some(open) => open,
                None => self.begin(server).await?.into_inner(),
            };
            let said = match timeout(SILENCE, open.message()).await {
                Ok(Ok(Some(message))) => {
                    if let Some(last) = message.changes.last() {
                        self.request.after.clone_from(&last.position);
                        self.request.resume_token.clear();
                        self.fruitless = 0;
                    }
                    if !message.resume_token.is_empty() {
                        // It has looked further than it told.
                        self.request.resume_token = message.resume_token;
                        self.fruitless = 0;
                    }
                    let end = message.coverage.map(|coverage| End {
                        more: message.more,
                        coverage: Some(coverage),
                    });
                    self.open = Some(open);
                    return Ok(Frame {
                        changes: message.changes,
                        redacted: message.redacted,
                        end,
                    });
                }
                Ok(Ok(None)) => Said::own(Code::Unavailable, "", "the answer ended before its last frame"),
                Ok(Err(status)) => Said::from(&status),
                Err(_) => Said::late(SILENCE),
            };
            self.fruitless += 1;
            if self.fruitless > FRUITLESS_MAX || !(said.passes() || said.code == Code::Timeout) {
                return Err(server.mesh.failure(&server.what, &said));
            }
        }
    }

    async fn begin(&self, server: &Server) -> Result<Response<Streaming<StreamChangesResponse>>, Error> {
        let request = self.request.clone();
        let asked = server
            .mesh
            .ask(&server.what, request, LONG, |channel, request| async move {
                query(channel).stream_changes(request).await
            });
        asked.await
    }
}

fn page_size(left: Option<u64>) -> i32 {
    i32::try_from(left.unwrap_or(PAGE).clamp(1, PAGE)).unwrap_or(1)
}

async fn history_page(
    server: &Server,
    request: &mut GetRowHistoryRequest,
    left: Option<u64>,
) -> Result<Frame, Error> {
    request.page_size = page_size(left);
    let asked = server.mesh.ask(
        &server.what,
        request.clone(),
        LONG_PAGE,
        |channel, request| async move { query(channel).get_row_history(request).await },
    );
    let answer = asked.await?.into_inner();
    let more = !answer.next_page_token.is_empty();
    request.page_token = answer.next_page_token;
    Ok(Frame {
        changes: answer.changes,
        redacted: answer.redacted,
        end: Some(End {
            more,
            coverage: answer.coverage,
        }),
    })
}

/// A page of a transaction, and its statements on the first; none if the store would know it, and does not.
pub(super) async fn transaction_page(
    server: &Server,
    request: &mut GetTransactionRequest,
    left: Option<u64>,
) -> Result<Option<(Frame, Vec<pb::SchemaChange>)>, Error> {
    request.page_size = page_size(left);
    request.server = server.name.clone();
    let asked = server
        .mesh
        .try_ask(request.clone(), LONG_PAGE, |channel, request| async move {
            query(channel).get_transaction(request).await
        });
    let answer = match asked.await? {
        Ok(answer) => answer.into_inner(),
        Err(said) if said.reason == "TRANSACTION_NOT_FOUND" => return Ok(None),
        Err(said) => return Err(server.mesh.failure(&server.what, &said)),
    };
    let more = !answer.next_page_token.is_empty();
    request.page_token = answer.next_page_token;
    let end = End {
        more,
        coverage: answer.coverage,
    };
    let frame = Frame {
        changes: answer.changes,
        redacted: answer.redacted,
        end: Some(end),
    };
    Ok(Some((frame, answer.schema_changes)))
}

/// For a page.
const LONG_PAGE: Duration = SHORT.saturating_mul(2);
