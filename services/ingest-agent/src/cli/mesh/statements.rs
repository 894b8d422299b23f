//! Statements that changed definitions, to be shown between the changes: somebody who looks for lost rows must see a TRUNCATE.

use std::collections::VecDeque;

use binlog::Position;
use change::position_of;
use proto::{change::v1 as pb, query::v1::ListSchemaChangesRequest};
use types::Micros;

use super::{Server, query};
use crate::{
    error::Error,
    remote::{SHORT, coverage as told},
};

/// Statements of a page, as the mesh has it.
const PAGE: i32 = 1_000;
/// Statements that are held at most to show the oldest first.
const HELD_MAX: usize = 100_000;

/// Statements in an answer's order.
pub(super) struct Statements<'s> {
    server: &'s Server,
    filter: pb::Filter,
    next: Option<ListSchemaChangesRequest>,
    found: VecDeque<pb::SchemaChange>,
    /// How many of them the caller's role does not see.
    pub(super) hidden: u64,
}

impl<'s> Statements<'s> {
    /// None at all.
    pub(super) fn none(server: &'s Server) -> Self {
        Self::given(server, Vec::new())
    }

    /// These, in the order of the log.
    pub(super) fn given(server: &'s Server, found: Vec<pb::SchemaChange>) -> Self {
        Self {
            server,
            filter: pb::Filter::default(),
            next: None,
            found: found.into(),
            hidden: 0,
        }
    }

    /// Those about the filter's tables; none if it asks for kinds of row changes. The newest come first unless `oldest`.
    pub(super) async fn of(server: &'s Server, filter: &pb::Filter, oldest: bool) -> Result<Self, Error> {
        if !filter.ops.is_empty() || !filter.column.is_empty() {
            return Ok(Self::none(server));
        }
        let one = match &filter.tables[..] {
            [one] => one.clone(),
            _ => pb::TableFilter::default(),
        };
        let mut statements = Self {
            server,
            filter: filter.clone(),
            next: Some(ListSchemaChangesRequest {
                server: server.name.clone(),
                schema: one.schema,
                table: one.table,
                page_size: PAGE,
                page_token: String::new(),
            }),
            found: VecDeque::new(),
            hidden: 0,
        };
        if oldest {
            while statements.found.len() < HELD_MAX && statements.page().await? {}
            statements.next = None;
            statements.found.make_contiguous().reverse();
        }
        Ok(statements)
    }

    /// Where the next one stands.
    pub(super) async fn peek(&mut self) -> Result<Option<Position>, Error> {
        while self.found.is_empty() && self.page().await? {}
        let next = self.found.front().and_then(|next| next.position.as_ref());
        Ok(next.map(position_of))
    }

    /// The next one.
    pub(super) fn take(&mut self) -> Option<pb::SchemaChange> {
        self.found.pop_front()
    }

    /// Asks for the next page; false if there is none.
    async fn page(&mut self) -> Result<bool, Error> {
        let Some(request) = self.next.take() else {
            return Ok(false);
        };
        let asked = self.server.mesh.ask(
            &self.server.what,
            request.clone(),
            SHORT,
            |channel, request| async move { query(channel).list_schema_changes(request).await },
        );
        let answer = asked.await?.into_inner();
        self.hidden += u64::from(answer.hidden);
        let since = told::time(self.filter.since.as_ref());
        let oldest = answer.schema_changes.last();
        let oldest = oldest.and_then(|change| told::time(change.commit_time.as_ref()));
        let too_old = oldest.zip(since).is_some_and(|(oldest, since)| oldest < since);
        let wanted = answer
            .schema_changes
            .into_iter()
            .filter(|change| change.position.is_some() && is_wanted(&self.filter, change));
        self.found.extend(wanted);
        if !answer.next_page_token.is_empty() && answer.next_page_token != request.page_token && !too_old {
            self.next = Some(ListSchemaChangesRequest {
                page_token: answer.next_page_token,
                ..request
            });
        }
        Ok(true)
    }
}

/// Whether a statement belongs into the answer: as the store judges, but for tables that the mesh has looked at already.
fn is_wanted(filter: &pb::Filter, change: &pb::SchemaChange) -> bool {
    let time = told::time(change.commit_time.as_ref()).unwrap_or(Micros(0));
    let bound = |time: &Option<prost_types::Timestamp>| told::time(time.as_ref());
    let place = change
        .position
        .as_ref()
        .map(|position| format!("{}:{}", position.file, position.offset));
    let about = |target: &pb::TableFilter| {
        filter.tables.is_empty()
            || filter.tables.iter().any(|wanted| {
                wanted.schema == target.schema
                    && (wanted.table.is_empty() || target.table.is_empty() || wanted.table == target.table)
            })
    };
    change.targets.iter().any(about)
        && bound(&filter.since).is_none_or(|since| time >= since)
        && bound(&filter.until).is_none_or(|until| time <= until)
        && (filter.gtid.is_empty() || filter.gtid == change.gtid)
        && (filter.transaction.is_empty() || place.as_ref() == Some(&filter.transaction))
}
