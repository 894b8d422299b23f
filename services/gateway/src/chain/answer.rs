//! What the client gets: the service's answer in the client's protocol, or why there is none. The words of what failed inside stay inside.
use std::{
    borrow::Cow,
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full};
use tonic::{Code, Status, body::Body};
use tonic_types::StatusExt as _;
use types::{Fault as _, Region, RequestId};

use super::{authenticate::Watch, call::COOKIE, route::Target, step_up::challenge_of};
use crate::{
    answer::{self, Answer},
    error::{Cause, Layer, Refusal, WRONG_REGION, reason_of},
    exchange::{Exchange, Protocol},
    frame::{Messages, broken},
    grpc_web::{self, Encoded},
    json::{
        self,
        raw::{self, Piece},
        stream::Framing,
    },
    routes::{AnswerRule, Kind},
    stream,
    unread::Complete,
};

/// The largest message that becomes JSON.
const MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// The largest answer over gRPC that is read before it is sent on.
const GATHERED: usize = 256 * 1024;
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
/// The most that a session lives; the cookie with it.
const COOKIE_SECS: u32 = 30 * 24 * 3600;
/// Where to ask instead.
const REGION_HOST: HeaderName = HeaderName::from_static("trailmesh-region-host");
/// SHA-256 of what an answer gives, where the service says it: before the first byte and after the last.
pub(crate) const DIGEST: HeaderName = HeaderName::from_static("trailmesh-digest");
/// Set by auth, made a cookie here.
const SET_COOKIE: HeaderName = HeaderName::from_static("trailmesh-set-refresh-cookie");

/// Turns the service's answer into the client's; a stream ends when `watching` does.
pub(crate) async fn answer(
    exchange: &mut Exchange,
    target: &Target,
    answered: Response<Body>,
    watching: Option<Watch>,
) -> Result<Response<Body>, Refusal> {
    let (parts, body) = answered.into_parts();
    if target.route.service == "auth"
        && let Some(cookie) = parts.headers.get(SET_COOKIE).and_then(set_cookie)
    {
        exchange.answer.insert(header::SET_COOKIE, cookie);
    }
    match exchange.protocol {
        Protocol::Http => json(exchange, target, &parts.headers, body, watching).await,
        _ => Ok(frames(exchange, target, &parts.headers, body, watching).await),
    }
}

fn set_cookie(token: &HeaderValue) -> Option<HeaderValue> {
    let token = token.to_str().ok()?;
    let safe = token
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-_.~+/=".contains(&byte));
    let age = if token.is_empty() { 0 } else { COOKIE_SECS };
    let text = format!("{COOKIE}={token}; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age={age}");
    let mut value = HeaderValue::from_str(&text).ok().filter(|_| safe)?;
    value.set_sensitive(true);
    Some(value)
}

/// The digest in a service's metadata, if it is one: the only metadata of a service that clients get.
pub(crate) fn digest(metadata: &HeaderMap) -> Option<HeaderValue> {
    let digest = metadata.get(DIGEST)?;
    let hexadecimal = digest.as_bytes().iter().all(u8::is_ascii_hexdigit);
    (hexadecimal && digest.len() == 64).then(|| digest.clone())
}

async fn json(
    exchange: &Exchange,
    target: &Target,
    head: &HeaderMap,
    body: Body,
    watching: Option<Watch>,
) -> Result<Response<Body>, Refusal> {
    let service = |status: Status| {
        if is_ours(&status) {
            return Refusal::new(Layer::Answer, Cause::AuthUnavailable);
        }
        let said = challenge_of(&status);
        Refusal::new(Layer::Answer, Cause::Service(Box::new(status))).saying(said)
    };
    let mut messages = Messages::new(head, body, MESSAGE_BYTES);
    let first = messages.next().await.map_err(service)?;
    let internal = |words: &str| Refusal::new(Layer::Answer, Cause::Internal(words.to_owned()));
    let raw = matches!(target.route.answer, AnswerRule::Raw(_));
    let piece = first
        .as_ref()
        .filter(|_| raw)
        .map(|first| raw::piece(&target.route, first));
    let piece = piece
        .transpose()
        .map_err(|broken| internal(&types::chain(&broken)))?;
    if target.route.kind == Kind::ServerStream {
        let framing = (!raw).then(|| Framing::of(exchange.header("accept")));
        let source = stream::Source {
            route: target.route.clone(),
            framing,
            request: exchange.request,
            heartbeat: stream::HEARTBEAT,
            deadline: exchange.deadline,
            watching,
            first,
            messages,
        };
        let mut response = Response::new(stream::body(source));
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            match framing {
                Some(framing) => HeaderValue::from_static(framing.content_type()),
                None => content_type(piece.as_ref()),
            },
        );
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        if let Some(digest) = digest(head) {
            headers.insert(DIGEST, digest);
            headers.insert(header::TRAILER, HeaderValue::from(DIGEST));
        }
        return Ok(response);
    }
    let message = first.ok_or_else(|| internal("the service answered without a message"))?;
    if messages.next().await.map_err(service)?.is_some() {
        return Err(internal("the service answered with two messages"));
    }
    if let Some(piece) = piece {
        let content_type = content_type(Some(&piece));
        let mut response = Response::new(Body::new(Full::from(piece.data)));
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        return Ok(response);
    }
    let body = json::encode(&target.route, &message).map_err(|broken| internal(&types::chain(&broken)))?;
    Ok(with_json(StatusCode::OK, body))
}

/// Of raw bytes.
fn content_type(piece: Option<&Piece>) -> HeaderValue {
    let named = piece.and_then(|piece| HeaderValue::from_str(&piece.content_type).ok());
    let named = named.filter(|named| !named.is_empty());
    named.unwrap_or(HeaderValue::from_static("application/octet-stream"))
}

fn with_json(status: StatusCode, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// gRPC as it came, but for metadata that is not part of the protocol.
async fn frames(
    exchange: &Exchange,
    target: &Target,
    head: &HeaderMap,
    body: Body,
    watching: Option<Watch>,
) -> Response<Body> {
    let digest = digest(head);
    let head = head
        .contains_key("grpc-status")
        .then(|| trailers(head, exchange.request));
    let answered = Answered {
        ended: head.is_some(),
        body,
        request: exchange.request,
        clock: Box::pin(tokio::time::sleep_until(exchange.deadline.into())),
        watching,
    };
    let (body, complete) = match (&head, target.route.kind) {
        (Some(head), _) => (Body::empty(), Some(complete(0, head))),
        (None, Kind::Unary) => gathered(answered).await,
        (None, _) => (Body::new(answered), None),
    };
    let (content_type, body) = match exchange.protocol {
        Protocol::GrpcWeb { text } => (grpc_web::content_type(text), Body::new(Encoded::new(body, text))),
        _ => ("application/grpc", body),
    };
    let mut response = Response::new(body);
    if let Some(complete) = complete {
        response.extensions_mut().insert(complete);
    }
    if let Some(head) = head {
        response.headers_mut().extend(head);
    }
    if let Some(digest) = digest {
        response.headers_mut().insert(DIGEST, digest);
    }
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn complete(bytes: usize, status: &HeaderMap) -> Complete {
    let succeeded = status.get(STATUS).is_some_and(|status| status == "0");
    Complete { bytes, succeeded }
}

/// The answer of a unary call, read to its end if it is small: then it needs nobody any more but its reader.
async fn gathered(mut answered: Answered) -> (Body, Option<Complete>) {
    let (mut frames, mut bytes) = (VecDeque::with_capacity(2), 0);
    let mut ended = None;
    while bytes <= GATHERED
        && ended.is_none()
        && let Some(Ok(frame)) = answered.frame().await
    {
        bytes += frame.data_ref().map_or(0, Bytes::len);
        ended = frame.trailers_ref().map(|status| complete(bytes, status));
        frames.push_back(frame);
    }
    let body = Body::new(Gathered {
        frames,
        rest: answered,
    });
    (body, ended)
}

/// Frames that were read, and what comes after them.
struct Gathered {
    frames: VecDeque<Frame<Bytes>>,
    rest: Answered,
}

impl http_body::Body for Gathered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.frames.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && self.rest.is_end_stream()
    }
}

/// What a service sent as its status, for a client.
fn trailers(sent: &HeaderMap, request: RequestId) -> HeaderMap {
    let status = Status::from_header_map(sent);
    let status = status.unwrap_or_else(|| broken("the answer has no status"));
    let mut trailers = told(&status, request);
    trailers.extend(digest(sent).map(|digest| (DIGEST, digest)));
    trailers
}

/// A status as headers: none of its metadata, and of failures of ours no words.
fn told(status: &Status, request: RequestId) -> HeaderMap {
    if is_ours(status) {
        tracing::error!("a service does not take a token that auth signed");
        return told(&chassis::status(&Cause::AuthUnavailable), request);
    }
    let mut all = HeaderMap::new();
    if status.add_header(&mut all).is_err() {
        all.insert(STATUS, HeaderValue::from(status.code() as u16));
    }
    let mut headers = HeaderMap::new();
    for name in [STATUS, MESSAGE, DETAILS] {
        if let Some(value) = all.remove(&name) {
            headers.insert(name, value);
        }
    }
    if matches!(status.code(), Code::Internal | Code::Unknown | Code::DataLoss) {
        tracing::error!(code = ?status.code(), "a failure was answered");
        headers.remove(DETAILS);
        headers.remove(MESSAGE);
        // Percent-encoded, as gRPC wants it.
        let words = format!("internal%20error%20in%20request%20{request}");
        headers.extend(
            HeaderValue::from_str(&words)
                .into_iter()
                .map(|words| (MESSAGE, words)),
        );
    }
    headers
}

/// Whether a service refused a token that we got from auth a moment ago: nothing that the client could mend by signing in again.
fn is_ours(status: &Status) -> bool {
    let unknown = status.code() == Code::Unauthenticated;
    unknown
        && reason_of(status)
            .is_some_and(|reason| matches!(reason.as_str(), "CONTEXT_INVALID" | "GRANT_INVALID"))
}

/// A service's frames, always ended by a status: the service's, or ours if it broke off or took too long.
struct Answered {
    body: Body,
    request: RequestId,
    ended: bool,
    clock: Pin<Box<tokio::time::Sleep>>,
    watching: Option<Watch>,
}

impl Answered {
    fn end(&mut self, status: &Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.ended = true;
        self.body = Body::empty();
        Poll::Ready(Some(Ok(Frame::trailers(told(status, self.request)))))
    }
}

impl http_body::Body for Answered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Some(watching) = &mut self.watching
            && let Poll::Ready(refusal) = watching.as_mut().poll(cx)
        {
            self.watching = None;
            let status = status(&refusal.cause).into_owned();
            return self.end(&status);
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => match frame.into_trailers() {
                Ok(sent) => {
                    self.ended = true;
                    Poll::Ready(Some(Ok(Frame::trailers(trailers(&sent, self.request)))))
                }
                Err(frame) => Poll::Ready(Some(Ok(frame))),
            },
            Poll::Ready(Some(Err(status))) => self.end(&status),
            Poll::Ready(None) => self.end(&broken("the answer ended without a status")),
            Poll::Pending => {
                std::task::ready!(self.clock.as_mut().poll(cx));
                self.end(&chassis::status(&Cause::DeadlineExceeded))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

/// Why there is no answer, in the client's protocol.
pub(crate) fn refuse(exchange: &Exchange, refusal: Refusal) -> Response<Body> {
    let mut response = match exchange.protocol {
        Protocol::Http => refuse_http(exchange, &refusal),
        protocol => refuse_grpc(exchange, protocol, &refusal),
    };
    for (name, value) in refusal.headers {
        response.headers_mut().insert(name, value);
    }
    response
}

/// The cause as a status, the same in every protocol.
pub(crate) fn status(cause: &Cause) -> Cow<'_, Status> {
    match cause {
        Cause::Service(status) => Cow::Borrowed(status),
        cause => Cow::Owned(chassis::status(cause)),
    }
}

fn refuse_grpc(exchange: &Exchange, protocol: Protocol, refusal: &Refusal) -> Response<Body> {
    let mut status = status(&refusal.cause);
    if matches!(refusal.cause, Cause::NoMethod | Cause::Compressed) {
        // gRPC's own code for a method or an encoding that the server does not have. The details carry the code too, and clients compare.
        let details = status.get_error_details();
        status = Cow::Owned(Status::with_error_details(
            Code::Unimplemented,
            status.message(),
            details,
        ));
    }
    let mut response = Response::new(Body::empty());
    *response.headers_mut() = told(&status, exchange.request);
    let content_type = match protocol {
        Protocol::GrpcWeb { text } => grpc_web::content_type(text),
        _ => "application/grpc",
    };
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn refuse_http(exchange: &Exchange, refusal: &Refusal) -> Response<Body> {
    let cause = &refusal.cause;
    let Answer {
        status,
        body,
        retry_after_secs,
        host,
        left_out,
    } = match (cause, cause.http()) {
        (Cause::Invalid(invalid), _) => answer::invalid(invalid, &exchange.request),
        (cause, Some(http)) => {
            let name = http_name(http);
            answer::http(http, name, cause.reason(), &cause.to_string(), &exchange.request)
        }
        (cause, None) => answer::error(&self::status(cause), &exchange.request),
    };
    if left_out > 0 {
        tracing::warn!(request = %exchange.request, left_out, "details of a status are not public");
    }
    let mut response = with_json(status, body);
    if status == StatusCode::MISDIRECTED_REQUEST && refusal.reason() == WRONG_REGION {
        response.extensions_mut().insert(AnotherRegion);
    }
    let host = host.and_then(|host| HeaderValue::from_str(&host).ok());
    response
        .headers_mut()
        .extend(host.map(|host| (REGION_HOST, host)));
    if let Some(secs) = retry_after_secs
        && !exchange.answer.contains_key(header::RETRY_AFTER)
    {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(secs));
    }
    if status == StatusCode::REQUEST_TIMEOUT || status == StatusCode::PAYLOAD_TOO_LARGE {
        // The rest of the body is not read, so HTTP/1.1 cannot go on. HTTP/2 has no such header.
        if exchange.version < http::Version::HTTP_2 {
            response
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
    response
}

/// An extension of answers to what belongs to another region.
#[derive(Clone, Copy)]
struct AnotherRegion;

/// Says where to ask instead, where the service did not and there is one other place.
pub(crate) fn point(response: &mut Response<Body>, hosts: &[(Region, String)], here: Region) {
    if response.extensions_mut().remove::<AnotherRegion>().is_none() {
        return;
    }
    let mut others = hosts.iter().filter(|(region, _)| *region != here);
    if let (Some((_, host)), None) = (others.next(), others.next())
        && let Ok(host) = HeaderValue::from_str(host)
    {
        response.headers_mut().entry(REGION_HOST).or_insert(host);
    }
}

fn http_name(status: StatusCode) -> &'static str {
    match status {
        StatusCode::REQUEST_TIMEOUT => "DEADLINE_EXCEEDED",
        StatusCode::METHOD_NOT_ALLOWED => "UNIMPLEMENTED",
        _ => "INVALID_ARGUMENT",
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::set_cookie;

    #[test]
    fn the_cookie_is_for_this_host_alone_and_ends_with_the_session() {
        let cookie = |token| {
            set_cookie(&HeaderValue::from_static(token)).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(
            cookie("to-ken_1").as_deref(),
            Some("__Host-bt_rt=to-ken_1; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=2592000")
        );
        assert!(cookie("").expect("a cookie").ends_with("Max-Age=0"));
        assert_eq!(cookie("a; Domain=evil.test"), None);
    }
}
