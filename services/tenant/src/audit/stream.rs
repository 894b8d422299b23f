//! Logs that are read from a place on: as entries, while they come, and as files.
//!
//! Whoever reads is asked for its role again with each part: a stream outlives the context token that opened it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use audit::{Entry, format, native::Header};
use chassis::places::Place;
use futures_util::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use proto::{google::api::HttpBody, tenant::v1 as pb};
use tonic::Status;
use types::{Errand, Scope};

use super::{Error, Log, filter::Filter, read, task, wire};
use crate::{
    domain::{Problem, member::still},
    store,
};

/// Records that are looked at for one part.
const PART: i64 = 500;

/// For one part.
const AT_MOST: Duration = Duration::from_secs(10);

/// How often to look for what is new.
const PAUSE: Duration = Duration::from_millis(500);

/// A stream ends so long before its deadline: as one that ended, and not as one that was cut off.
const BEFORE_DEADLINE: Duration = Duration::from_secs(1);

/// What every stream here has.
struct Reading {
    log: Log,
    scope: Scope,
    /// The number after which to go on.
    after: i64,
    _place: Place,
}

impl Reading {
    fn begin(log: &Log, scope: Scope, after: i64) -> Result<Self, Error> {
        Ok(Self {
            _place: log.streams.take(scope.tenant())?,
            log: log.clone(),
            scope,
            after,
        })
    }

    /// When it is over.
    fn end(&self) -> Instant {
        self.scope
            .deadline
            .checked_sub(BEFORE_DEADLINE)
            .unwrap_or(self.scope.deadline)
    }

    /// A transaction on the log, for somebody who may still read it.
    async fn part(&self) -> Result<pg::Transaction, Error> {
        let errand = Errand {
            tenant: self.scope.tenant(),
            deadline: (Instant::now() + AT_MOST).min(self.scope.deadline),
        };
        let mut tx = self.log.store.errand(&errand).await?;
        tx.enter_shared().await?;
        let roles = store::member::roles(&mut tx, errand.tenant, self.scope.subject.user()).await?;
        let (role, pools) = roles.ok_or(crate::error::Error::NotAMember)?;
        if still(&self.scope.seat, role, pools).role < Some(self.scope.needed) {
            return Err(crate::error::Error::RoleTooLow.into());
        }
        tx.enter_tenant().await?;
        Ok(tx)
    }

    async fn ended(&mut self) -> Result<read::Ended, Error> {
        let mut tx = self.part().await?;
        let ended = read::ended_after(&mut tx, &self.log.unreadable, self.after, PART).await?;
        self.after = ended.last;
        Ok(ended)
    }
}

struct Following {
    reading: Reading,
    filter: Filter,
    follow: bool,
    ready: VecDeque<Entry>,
}

impl Following {
    async fn next(&mut self) -> Result<Option<Entry>, Error> {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                return Ok(Some(entry));
            }
            let end = self.reading.end();
            if Instant::now() >= end {
                return Ok(None);
            }
            let ended = self.reading.ended().await?;
            let more = ended.first.is_some();
            self.ready
                .extend(ended.entries.into_iter().filter(|entry| self.filter.takes(entry)));
            if !more && !self.follow {
                return Ok(None);
            }
            if !more {
                tokio::time::sleep_until((Instant::now() + PAUSE).min(end).into()).await;
            }
        }
    }
}

/// The entries as they end.
pub(super) fn entries(
    log: &Log,
    scope: Scope,
    request: &pb::StreamAuditEntriesRequest,
) -> Result<BoxStream<'static, Result<pb::StreamAuditEntriesResponse, Status>>, Error> {
    let after = match request.cursor.as_str() {
        "" => 0,
        text => text
            .parse()
            .ok()
            .filter(|after| *after >= 0)
            .ok_or_else(|| Problem::from("not a cursor of this stream").at("cursor"))?,
    };
    let following = Following {
        filter: Filter::parse(request.filter.as_ref())?,
        follow: request.follow,
        reading: Reading::begin(log, scope, after)?,
        ready: VecDeque::new(),
    };
    let answers = stream::try_unfold(following, |mut following| async move {
        let next = following.next().await?;
        Ok(next.map(|entry| {
            let answer = pb::StreamAuditEntriesResponse {
                cursor: entry.sequence.to_string(),
                entry: Some(wire::entry(entry)),
            };
            (answer, following)
        }))
    });
    Ok(answers.map_err(|error: Error| Status::from(error)).boxed())
}

/// In which form a file is.
#[derive(Clone, Copy)]
enum Form {
    Native,
    Other(format::Format),
}

fn form(number: i32) -> Result<Form, Error> {
    match pb::AuditFormat::try_from(number) {
        Ok(pb::AuditFormat::Unspecified | pb::AuditFormat::Native) => Ok(Form::Native),
        Ok(pb::AuditFormat::Ocsf) => Ok(Form::Other(format::Format::Ocsf)),
        Ok(pb::AuditFormat::Ecs) => Ok(Form::Other(format::Format::Ecs)),
        Ok(pb::AuditFormat::Cef) => Ok(Form::Other(format::Format::Cef)),
        Err(_) => Err(Problem::from("not a format that is known").at("format").into()),
    }
}

struct Exporting {
    reading: Reading,
    form: Form,
    source: format::Source,
    /// The first number that was there when the file was begun.
    first: i64,
    /// The last number that belongs into the file: what is written meanwhile, the end of this export included, does not. A native file ends
    /// with the record that was signed for it, if one was.
    until: i64,
    header: Option<String>,
}

impl Exporting {
    async fn next(&mut self) -> Result<Option<String>, Error> {
        if let Some(header) = self.header.take() {
            return Ok(Some(header + "\n"));
        }
        loop {
            if self.reading.after >= self.until {
                return Ok(None);
            }
            let text = match self.form {
                Form::Native => self.records().await?,
                Form::Other(form) => self.entries(form).await?,
            };
            if text.as_ref().is_none_or(|text| !text.is_empty()) {
                return Ok(text);
            }
        }
    }

    /// The number of the next record, unless retention removes it while the file is written: then the file ends as one that is cut off.
    fn next_number(&self) -> i64 {
        (self.reading.after + 1).max(self.first)
    }

    async fn records(&mut self) -> Result<Option<String>, Error> {
        let mut tx = self.reading.part().await?;
        let (after, next) = (self.reading.after, self.next_number());
        let links = read::links_after(&mut tx, after, self.until, PART).await?;
        match (links.first(), links.last()) {
            (Some(first), Some(last)) if first.sequence == next => self.reading.after = last.sequence,
            _ => return Err(Error::Trimmed),
        }
        let mut text = String::new();
        for link in &links {
            text += &link.line().map_err(|_| Error::Stored(link.sequence))?;
            text.push('\n');
        }
        Ok(Some(text))
    }

    async fn entries(&mut self, form: format::Format) -> Result<Option<String>, Error> {
        let next = self.next_number();
        let ended = self.reading.ended().await?;
        let beginning_gone = ended.oldest.is_some_and(|oldest| oldest > self.first);
        if ended.first != Some(next) || beginning_gone {
            return Err(Error::Trimmed);
        }
        let mut text = String::new();
        for entry in ended.entries.iter().filter(|entry| entry.sequence <= self.until) {
            text += &format::line(form, &self.source, entry.sequence, &entry.event);
            text.push('\n');
        }
        Ok(Some(text))
    }
}

/// A file of the log.
pub(super) async fn export(
    log: &Log,
    scope: Scope,
    request: &pb::ExportAuditEntriesRequest,
) -> Result<BoxStream<'static, Result<pb::ExportAuditEntriesResponse, Status>>, Error> {
    let form = form(request.format)?;
    let after = request.after_sequence;
    if after < 0 {
        return Err(Problem::from("less than 0").at("after_sequence").into());
    }
    let tenant = scope.tenant();
    let mut signed = None;
    let header = match form {
        Form::Native if after > 0 => {
            return Err(Problem::from("a native export has all records")
                .at("after_sequence")
                .into());
        }
        Form::Native => {
            let (head, fresh) = task::sign_now(log, tenant).await?;
            if fresh {
                signed = head.as_ref().and_then(|head| head.read().ok());
            }
            let header = Header::new(tenant.to_string(), head);
            Some(header.line().map_err(|_| Error::Stored(0))?)
        }
        Form::Other(_) => None,
    };
    let reading = Reading::begin(log, scope, after)?;
    let (first, last) = read::bounds(&mut *reading.part().await?).await?;
    let until = signed.map_or(last, |signed| signed.size.min(last));
    let exporting = Exporting {
        reading,
        form,
        source: format::Source {
            tenant: tenant.to_string(),
            region: log.region.word().to_owned(),
        },
        first,
        until,
        header,
    };
    let content_type = match form {
        Form::Other(format::Format::Cef) => "text/plain; charset=utf-8",
        _ => "application/x-ndjson",
    };
    let parts = stream::try_unfold(exporting, move |mut exporting| async move {
        let next = exporting.next().await?;
        Ok(next.map(|text| {
            let chunk = HttpBody {
                content_type: content_type.to_owned(),
                data: text.into_bytes().into(),
            };
            (pb::ExportAuditEntriesResponse { chunk: Some(chunk) }, exporting)
        }))
    });
    Ok(parts.map_err(|error: Error| Status::from(error)).boxed())
}
