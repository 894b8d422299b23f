//! The record: an intent that is durable before the call is dispatched, and how the call ended. Of a read it is durable before the first
//! byte of the answer is let out.
//!
//! A call of one message and one answer whose intent is written is carried to its end though its client goes away: who breaks off cannot
//! make it unknown what was done. A stream ends with its reader.
use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, Response, response::Parts};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use proto::tenant::v1::AuditKind;
use tonic::{Status, body::Body};
use tracing::Instrument as _;
use types::Subject;

use super::{Gateway, answer::status, authenticate::Caller, call::Calling, route::Target};
use crate::{
    answer::status_of,
    audit::{Alike, Described, Entry, Intent, Targets, described, is_of_tenant},
    context_cache::Identity,
    error::{Cause, Layer, Refusal},
    exchange::Exchange,
    frame::{self, broken},
    routes::Kind,
    upstream::Proof,
};

/// The largest answer that is kept while its result is written; services answer no more than 4 MiB.
const ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// Writes down what is about to be done, and does it.
pub(crate) async fn call(
    gateway: &Arc<Gateway>,
    exchange: &Exchange,
    target: &Target,
    caller: Option<&Identity>,
    proof: Option<&Proof>,
    calling: Calling,
) -> Result<Response<Body>, Refusal> {
    let intending = begin(gateway, exchange, target, caller, proof, calling.message());
    let unary = target.route.kind == Kind::Unary;
    if target
        .route
        .audited
        .as_ref()
        .is_some_and(|audited| audited.is_read())
    {
        // Both at once take more room than calls that are not recorded should have.
        if unary {
            let both = Box::pin(together(intending, gather(gateway, calling)));
            let (entry, gathered) = both.await?;
            return ended(entry, gathered);
        }
        let both = Box::pin(together(intending, calling.send(&gateway.upstream)));
        let (entry, answered) = both.await?;
        return begun(entry, answered);
    }
    let Some(entry) = intending.await? else {
        return calling.send(&gateway.upstream).await;
    };
    if unary {
        let gateway_of_call = Arc::clone(gateway);
        let carried = async move { ended(Some(entry), gather(&gateway_of_call, calling).await) };
        return match gateway.recorder.carry(carried.in_current_span()).await {
            Ok(answered) => answered,
            Err(_) => Err(Refusal::new(
                Layer::Audit,
                Cause::Internal("a call was cut off".to_owned()),
            )),
        };
    }
    begun(Some(entry), calling.send(&gateway.upstream).await)
}

/// A read goes on while its intent is written, and nothing of its answer is let out before that is durable. It changes nothing, so one whose
/// client goes away ends.
async fn together<D: Future>(
    intending: impl Future<Output = Result<Option<Entry>, Refusal>>,
    doing: D,
) -> Result<(Option<Entry>, D::Output), Refusal> {
    let (mut intending, mut doing) = (pin!(intending), pin!(doing));
    tokio::select! {
        biased;
        entry = &mut intending => Ok((entry?, doing.await)),
        done = &mut doing => Ok((intending.await?, done)),
    }
}

/// The entry of a call that is to be recorded.
async fn begin(
    gateway: &Gateway,
    exchange: &Exchange,
    target: &Target,
    caller: Option<&Identity>,
    proof: Option<&Proof>,
    message: Option<Bytes>,
) -> Result<Option<Entry>, Refusal> {
    let Some(audited) = &target.route.audited else {
        return Ok(None);
    };
    let refuse = |cause| Refusal::new(Layer::Audit, cause);
    let context = caller.map(|caller| &caller.context);
    let seat = context.and_then(|context| context.seat.as_ref());
    let (Some(context), Some(seat)) = (context, seat) else {
        let words = "a call that is recorded has a caller and a tenant".to_owned();
        return Err(refuse(Cause::Internal(words)));
    };
    let targets = audited.asked(message.as_deref());
    let call = described(Described {
        exchange,
        route: &target.route,
        context,
        grant: proof.map_or("", |proof| &proof.id),
        targets: targets.clone(),
        kind: audited.kind(),
    });
    let intent = Intent {
        tenant: seat.tenant,
        call,
        targets,
        audited: Arc::clone(audited),
        request: exchange.request,
        deadline: exchange.deadline,
        at_once: audited.is_read(),
    };
    gateway.recorder.intend(intent).await.map(Some).map_err(refuse)
}

/// The call up to the last byte of its answer.
async fn gather(gateway: &Gateway, calling: Calling) -> Result<(Parts, Read), Refusal> {
    let deadline = calling.deadline();
    let answered = calling.send(&gateway.upstream).await?;
    let (parts, mut body) = answered.into_parts();
    let reading = tokio::time::timeout_at(deadline.into(), Read::of(&parts.headers, &mut body));
    let read = reading.await.unwrap_or_else(|_| Read {
        frames: Vec::new(),
        status: chassis::status(&Cause::DeadlineExceeded),
        message: None,
    });
    Ok((parts, read))
}

/// What the entry is told of a call that has ended, and its answer.
fn ended(entry: Option<Entry>, gathered: Result<(Parts, Read), Refusal>) -> Result<Response<Body>, Refusal> {
    match (gathered, entry) {
        (Ok((parts, read)), entry) => {
            if let Some(mut entry) = entry {
                entry.begun(&parts.headers);
                entry.end(&read.status, read.message.as_deref());
            }
            let frames = stream::iter(read.frames);
            Ok(Response::from_parts(parts, Body::new(StreamBody::new(frames))))
        }
        (Err(refusal), entry) => Err(failed(entry, refusal)),
    }
}

/// A stream that has begun tells its entry how it ends.
fn begun(entry: Option<Entry>, answered: Result<Response<Body>, Refusal>) -> Result<Response<Body>, Refusal> {
    match (answered, entry) {
        (Ok(answered), Some(mut entry)) => {
            entry.begun(answered.headers());
            Ok(watched(answered, entry))
        }
        (Ok(answered), None) => Ok(answered),
        (Err(refusal), entry) => Err(failed(entry, refusal)),
    }
}

fn failed(entry: Option<Entry>, refusal: Refusal) -> Refusal {
    if let Some(entry) = entry {
        entry.end(&status(&refusal.cause), None);
    }
    refusal
}

/// An answer that was read to its end.
struct Read {
    frames: Vec<Result<Frame<Bytes>, Status>>,
    status: Status,
    message: Option<Bytes>,
}

impl Read {
    async fn of(head: &HeaderMap, body: &mut Body) -> Self {
        let (mut frames, mut bytes) = (Vec::with_capacity(2), 0);
        let mut status = Status::from_header_map(head);
        while let Some(frame) = body.frame().await {
            match &frame {
                Ok(frame) => {
                    bytes += frame.data_ref().map_or(0, Bytes::len);
                    status = frame.trailers_ref().and_then(Status::from_header_map).or(status);
                }
                Err(failed) => status = Some(failed.clone()),
            }
            let failed = frame.is_err();
            frames.push(frame);
            if bytes > ANSWER_BYTES {
                status = Some(broken("an answer is too large"));
                frames = Vec::new();
            }
            if failed || bytes > ANSWER_BYTES {
                break;
            }
        }
        let status = status.unwrap_or_else(|| broken("the answer has no status"));
        let message = (status.code() == tonic::Code::Ok)
            .then(|| message(&frames))
            .flatten();
        Self {
            frames,
            status,
            message,
        }
    }
}

fn message(frames: &[Result<Frame<Bytes>, Status>]) -> Option<Bytes> {
    let mut data = frames.iter().filter_map(|frame| frame.as_ref().ok()?.data_ref());
    let first = data.next()?;
    let mut rest = data.peekable();
    if rest.peek().is_none() {
        return frame::unwrap(first.clone());
    }
    let mut whole = BytesMut::from(&first[..]);
    rest.for_each(|data| whole.extend_from_slice(data));
    frame::unwrap(whole.freeze())
}

/// A stream that tells its entry how it ended; dropped before, it was its reader who ended it, or the time.
fn watched(answered: Response<Body>, entry: Entry) -> Response<Body> {
    if let Some(status) = Status::from_header_map(answered.headers()) {
        entry.end(&status, None);
        return answered;
    }
    answered.map(|body| {
        Body::new(Watched {
            body,
            entry: Some(entry),
        })
    })
}

struct Watched {
    body: Body,
    entry: Option<Entry>,
}

impl Watched {
    fn end(&mut self, status: &Status) {
        if let Some(entry) = self.entry.take() {
            entry.end(status, None);
        }
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(status) = frame.trailers_ref().and_then(Status::from_header_map) {
                    self.end(&status);
                }
            }
            Some(Err(status)) => {
                let status = status.clone();
                self.end(&status);
            }
            None => self.end(&broken("the answer ended without a status")),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// Counts a refusal for lack of a right, if it is one.
pub(crate) fn refused(
    gateway: &Gateway,
    exchange: &Exchange,
    target: &Target,
    caller: &Caller,
    message: Option<&[u8]>,
    refusal: &Refusal,
) {
    let context = &caller.identity.context;
    let Some(seat) = &context.seat else { return };
    let lacking = match refusal.layer {
        Layer::Permit => !matches!(refusal.cause, Cause::TenantRequired | Cause::CredentialMissing),
        // What auth decided, and not that it could not be asked.
        Layer::StepUp => matches!(refusal.cause, Cause::Service(_)),
        _ => false,
    };
    if !lacking || !is_of_tenant(&target.route.rule) {
        return;
    }
    let alike = Alike {
        tenant: seat.tenant,
        subject: match &context.subject {
            Subject::Person { session, .. } => session.to_string(),
            Subject::Key { key, .. } => key.to_string(),
        },
        method: target.route.path.clone(),
        reason: refusal.reason(),
    };
    let (_, code) = status_of(status(&refusal.cause).code());
    gateway.recorder.refused(alike, code, || {
        let targets = match (&target.route.audited, message) {
            (Some(audited), Some(_)) => audited.asked(message),
            _ => Targets::new(),
        };
        described(Described {
            exchange,
            route: &target.route,
            context,
            grant: "",
            targets,
            kind: AuditKind::Refusal,
        })
    });
}
