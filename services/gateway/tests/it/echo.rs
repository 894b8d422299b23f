//! The services behind the gateway, from their descriptors: they answer what they were asked, and fail when asked to.
use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MapKey, Value};
use tokio::sync::Semaphore;
use tonic::{Code, Status, body::Body, server::NamedService};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{client::frame, house::descriptors, record::Record};

/// The id of every note that is made.
pub(crate) const MADE: &str = "not_01hzz0000000000000000000zz";

/// The server that every note is read from.
pub(crate) const SERVER: &str = "srv_01hzz0000000000000000000zz";

type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;
type Outcome = Result<Response<Body>, Status>;

/// EchoService of `echo.proto`.
#[derive(Clone)]
pub(crate) struct Echo {
    pool: DescriptorPool,
    /// Calls for signed-in callers that came here.
    pub(crate) served: Arc<AtomicUsize>,
    /// Slow streams that began.
    pub(crate) begun: Arc<AtomicUsize>,
    /// Those of them that ended, however.
    pub(crate) ended: Arc<AtomicUsize>,
    /// How many files called `held` may be read, and notes of that word answered.
    pub(crate) held: Arc<Semaphore>,
    /// Who keeps the record.
    pub(crate) record: Record,
    /// Of each call that is recorded: whether its intent was there when it came.
    pub(crate) intended: Arc<Mutex<Vec<bool>>>,
}

/// Counts the end of a stream.
struct Ending(Arc<AtomicUsize>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl NamedService for Echo {
    const NAME: &'static str = "trailmesh.echo.v1.EchoService";
}

/// A message of `echo.proto` from its JSON.
pub(crate) fn message(name: &str, json: &str) -> Vec<u8> {
    static POOL: std::sync::OnceLock<DescriptorPool> = std::sync::OnceLock::new();
    let pool = POOL.get_or_init(|| Echo::new().pool);
    let descriptor = pool
        .get_message_by_name(&format!("trailmesh.echo.v1.{name}"))
        .expect("a message");
    let mut json = serde_json::Deserializer::from_str(json);
    DynamicMessage::deserialize(descriptor, &mut json)
        .expect("its JSON")
        .encode_to_vec()
}

/// A message of `echo.proto` as JSON.
pub(crate) fn json_of(name: &str, bytes: &[u8]) -> serde_json::Value {
    let descriptor = Echo::new()
        .pool
        .get_message_by_name(&format!("trailmesh.echo.v1.{name}"))
        .expect("a message");
    let message = DynamicMessage::decode(descriptor, bytes).expect("a message");
    serde_json::to_value(&message).expect("JSON")
}

impl Echo {
    pub(crate) fn new() -> Self {
        let pool = DescriptorPool::decode(descriptors()).expect("descriptors");
        Self {
            pool,
            served: Arc::default(),
            begun: Arc::default(),
            ended: Arc::default(),
            held: Arc::new(Semaphore::new(0)),
            record: Record::default(),
            intended: Arc::default(),
        }
    }

    fn decode(&self, name: &str, bytes: &[u8]) -> DynamicMessage {
        let descriptor = self
            .pool
            .get_message_by_name(&format!("trailmesh.echo.v1.{name}"))
            .expect("a message");
        DynamicMessage::decode(descriptor, bytes).expect("bytes of that message")
    }

    fn make(&self, name: &str) -> DynamicMessage {
        self.decode(name, b"")
    }

    async fn answer(self, request: Request<Body>) -> Outcome {
        let (parts, body) = request.into_parts();
        let method = parts.uri.path().rsplit('/').next().unwrap_or_default().to_owned();
        if matches!(method.as_str(), "ChangeNote" | "EchoPrivately" | "EchoQuietly") {
            let request = parts.headers["trailmesh-request-id"].to_str().expect("an id");
            let known = self.record.intent_of(request).is_some();
            self.intended.lock().expect("no panic").push(known);
        }
        match method.as_str() {
            "Upload" => self.upload(body).await,
            "Chat" => Ok(chat(body)),
            _ => {
                let bytes = body.collect().await?.to_bytes();
                let message = bytes.slice(5..);
                match method.as_str() {
                    "Count" | "CountPrivately" | "CountOnRecord" => self.count(&message).await,
                    "EchoPrivately" | "EchoQuietly" => {
                        self.served.fetch_add(1, Ordering::SeqCst);
                        let asked = self.decode("EchoPrivatelyRequest", &message);
                        let mut answer = self.make("EchoPrivatelyResponse");
                        answer.set_field_by_name(
                            "text",
                            asked.get_field_by_name("text").expect("text").into_owned(),
                        );
                        Ok(unary(&answer))
                    }
                    "ChangeNote" => self.change_note(&message).await,
                    "ReadNote" => read_note(self.change_note(&message).await),
                    "Mirror" => Ok(unary(&self.mirrored(&message))),
                    "Fetch" => self.fetch(&message),
                    "Costly" => Ok(unary(&self.make("InsideResponse"))),
                    "Echo" => self.echo(&parts.headers, &message).await,
                    _ => Err(failure(12)),
                }
            }
        }
    }

    async fn echo(&self, headers: &HeaderMap, message: &[u8]) -> Outcome {
        let asked = self.decode("EchoRequest", message);
        tokio::time::sleep(duration(&asked, "wait")).await;
        fail(number(&asked, "fail_with"))?;
        let mut answer = self.make("EchoResponse");
        answer.set_field_by_name(
            "kinds",
            asked.get_field_by_name("kinds").expect("kinds").into_owned(),
        );
        let metadata = headers.iter().map(|(name, value)| {
            let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (MapKey::String(name.to_string()), Value::String(text))
        });
        answer.set_field_by_name("metadata", Value::Map(metadata.collect()));
        Ok(unary(&answer))
    }

    async fn change_note(&self, message: &[u8]) -> Outcome {
        self.served.fetch_add(1, Ordering::SeqCst);
        let asked = self.decode("ChangeNoteRequest", message);
        let field = |name: &str| asked.get_field_by_name(name).expect("a field").into_owned();
        match field("words").as_str() {
            Some("held") => self.held.acquire().await.expect("no end").forget(),
            Some("not at all") => fail(5)?,
            _ => {}
        }
        let mut note = self.make("Note");
        note.set_field_by_name("id", Value::String(MADE.to_owned()));
        note.set_field_by_name("words", field("words"));
        let mut answer = self.make("ChangeNoteResponse");
        answer.set_field_by_name("note", Value::Message(note));
        Ok(unary(&answer))
    }

    fn mirrored(&self, message: &[u8]) -> DynamicMessage {
        let asked = self.decode("MirrorRequest", message);
        let mut answer = self.make("MirrorResponse");
        answer.set_field_by_name(
            "payload",
            asked.get_field_by_name("payload").expect("bytes").into_owned(),
        );
        answer
    }

    fn fetch(&self, message: &[u8]) -> Outcome {
        let asked = self.decode("CountRequest", message);
        let to = match asked.get_field_by_name("to").as_deref() {
            Some(Value::U32(to)) => *to,
            _ => 0,
        };
        let code = number(&asked, "fail_with");
        if to == 0 {
            fail(code)?;
        }
        let answer = self.make("MirrorResponse");
        let field = answer.get_field_by_name("payload").expect("a field");
        let mut body = field.as_message().expect("a body").clone();
        body.set_field_by_name("content_type", Value::String("application/x-pieces".to_owned()));
        body.set_field_by_name("data", Value::Bytes((0..=255).collect()));
        let mut piece = answer.clone();
        piece.set_field_by_name("payload", Value::Message(body));
        let piece = Bytes::from(frame(&piece.encode_to_vec()));
        let frames = (0..to).map(move |_| Ok::<_, Status>(Frame::data(piece.clone())));
        let mut trailers = end(code);
        let digest = |of: &str| of.repeat(32).parse::<http::HeaderValue>().expect("a value");
        trailers.insert("trailmesh-digest", digest("b1"));
        let frames = frames.chain([Ok(Frame::trailers(trailers))]);
        let mut answer = grpc(Body::new(StreamBody::new(stream::iter(frames))));
        // As long as a digest, but none, where so much is asked for.
        let first = if to == 7 { "no" } else { "a0" };
        answer.headers_mut().insert("trailmesh-digest", digest(first));
        Ok(answer)
    }

    async fn count(&self, message: &[u8]) -> Outcome {
        let asked = self.decode("CountRequest", message);
        let to = match asked.get_field_by_name("to").as_deref() {
            Some(Value::U32(to)) => *to,
            _ => 0,
        };
        let (every, code) = (duration(&asked, "every"), number(&asked, "fail_with"));
        if to == 0 {
            fail(code)?;
        }
        let numbers = stream::iter(1..=to).then(move |number| {
            let mut answer = self.make("CountResponse");
            answer.set_field_by_name("number", Value::U32(number));
            async move {
                tokio::time::sleep(every).await;
                Ok(Frame::data(Bytes::from(frame(&answer.encode_to_vec()))))
            }
        });
        let numbers: Vec<_> = if every.is_zero() {
            numbers.collect().await
        } else {
            return Ok(self.slowly(to, every, code));
        };
        let frames = numbers
            .into_iter()
            .chain([Ok::<_, Status>(Frame::trailers(end(code)))]);
        Ok(grpc(Body::new(StreamBody::new(stream::iter(frames)))))
    }

    fn slowly(&self, to: u32, every: Duration, code: i32) -> Response<Body> {
        let echo = self.clone();
        self.begun.fetch_add(1, Ordering::SeqCst);
        let ending = Ending(Arc::clone(&self.ended));
        let frames = stream::unfold(1, move |number| {
            let _ = &ending;
            let echo = echo.clone();
            async move {
                if number > to + 1 {
                    return None;
                }
                tokio::time::sleep(every).await;
                if number == to + 1 {
                    return Some((Ok::<_, Status>(Frame::trailers(end(code))), number + 1));
                }
                let mut answer = echo.make("CountResponse");
                answer.set_field_by_name("number", Value::U32(number));
                Some((
                    Ok(Frame::data(Bytes::from(frame(&answer.encode_to_vec())))),
                    number + 1,
                ))
            }
        });
        grpc(Body::new(StreamBody::new(Box::pin(frames))))
    }

    async fn upload(&self, mut body: Body) -> Outcome {
        let (mut buffer, mut name, mut bytes, mut chunks) = (BytesMut::new(), String::new(), 0_i64, 0);
        while let Some(piece) = body.frame().await {
            buffer.extend_from_slice(&piece?.into_data().unwrap_or_default());
            while buffer.len() >= 5 {
                let length = u32::from_be_bytes([buffer[1], buffer[2], buffer[3], buffer[4]]) as usize;
                if buffer.len() < 5 + length {
                    break;
                }
                buffer.advance(5);
                let message = self.decode("UploadRequest", &buffer.split_to(length));
                if let Some(Value::Message(header)) = message
                    .get_field_by_name("header")
                    .as_deref()
                    .filter(|_| message.has_field_by_name("header"))
                {
                    name = header
                        .get_field_by_name("name")
                        .and_then(|name| name.as_str().map(str::to_owned))
                        .unwrap_or_default();
                    match name.as_str() {
                        "held" => self.held.acquire().await.expect("no end").forget(),
                        "refused" => return Err(refused()),
                        _ => {}
                    }
                } else {
                    let chunk = message.get_field_by_name("chunk").expect("a chunk");
                    bytes += i64::try_from(chunk.as_bytes().map_or(0, Bytes::len)).expect("a size");
                    chunks += 1;
                }
            }
        }
        let mut answer = self.make("UploadResponse");
        answer.set_field_by_name("name", Value::String(name));
        answer.set_field_by_name("bytes", Value::I64(bytes));
        answer.set_field_by_name("chunks", Value::I32(chunks));
        Ok(unary(&answer))
    }
}

/// What a service says that has seen enough.
fn refused() -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info("ECHO_REFUSED", "trailmesh.dev", []);
    Status::with_error_details(Code::FailedPrecondition, "not this file", details)
}

/// Each frame comes back as it came.
fn chat(body: Body) -> Response<Body> {
    let frames = stream::unfold(Some(body), |body| async {
        let mut body = body?;
        match body.frame().await {
            Some(Ok(frame)) if frame.is_data() => Some((Ok::<_, Status>(frame), Some(body))),
            Some(Err(status)) => Some((Err(status), None)),
            _ => Some((Ok(Frame::trailers(end(0))), None)),
        }
    });
    grpc(Body::new(StreamBody::new(Box::pin(frames))))
}

fn number(message: &DynamicMessage, field: &str) -> i32 {
    message
        .get_field_by_name(field)
        .and_then(|value| value.as_i32())
        .unwrap_or_default()
}

fn duration(message: &DynamicMessage, field: &str) -> Duration {
    let value = message.get_field_by_name(field).expect("a field");
    let value = value.as_message().expect("a duration");
    let secs = value
        .get_field_by_name("seconds")
        .and_then(|secs| secs.as_i64())
        .unwrap_or_default();
    let nanos = value
        .get_field_by_name("nanos")
        .and_then(|nanos| nanos.as_i32())
        .unwrap_or_default();
    Duration::new(secs.unsigned_abs(), nanos.unsigned_abs())
}

/// What a service says when it fails: with a secret in the words of every failure.
pub(crate) const WORDS: &str = "words of the service";

fn failure(code: i32) -> Status {
    let details =
        ErrorDetails::with_error_info("ASKED_TO_FAIL", "trailmesh", [("k".to_owned(), "v".to_owned())]);
    Status::with_error_details(Code::from(code), WORDS, details)
}

/// What a read of a note answers, or why there is none, with what it is about.
fn read_note(read: Outcome) -> Outcome {
    read.map(|mut answer| {
        let server = SERVER.parse().expect("a value");
        answer.headers_mut().insert("trailmesh-server-id", server);
        answer
    })
    .map_err(|mut status| {
        let server = SERVER.parse().expect("a value");
        status.metadata_mut().insert("trailmesh-server-id", server);
        status
    })
}

fn fail(code: i32) -> Result<(), Status> {
    if code == 0 { Ok(()) } else { Err(failure(code)) }
}

fn end(code: i32) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if code == 0 {
        trailers.insert("grpc-status", "0".parse().expect("a value"));
    } else {
        failure(code).add_header(&mut trailers).expect("a status");
    }
    trailers.insert("x-internal", "never to be seen".parse().expect("a value"));
    trailers
}

fn grpc(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert("content-type", "application/grpc".parse().expect("a value"));
    response
        .headers_mut()
        .insert("x-internal", "never to be seen".parse().expect("a value"));
    response
}

fn unary(message: &DynamicMessage) -> Response<Body> {
    let frames = [
        Ok::<_, Status>(Frame::data(Bytes::from(frame(&message.encode_to_vec())))),
        Ok(Frame::trailers(end(0))),
    ];
    grpc(Body::new(StreamBody::new(stream::iter(frames))))
}

impl tower::Service<Request<Body>> for Echo {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answering {
        let echo = self.clone();
        Box::pin(async move {
            Ok(echo
                .answer(request)
                .await
                .unwrap_or_else(|status| status.into_http()))
        })
    }
}

/// SessionService of auth, which answers with what came as a cookie, and sets it.
#[derive(Clone)]
pub(crate) struct Session;

impl NamedService for Session {
    const NAME: &'static str = "trailmesh.auth.v1.SessionService";
}

impl tower::Service<Request<Body>> for Session {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answering {
        use proto::auth::v1 as pb;

        let cookie = request.headers().get("trailmesh-refresh-cookie");
        let seen = cookie
            .and_then(|value| value.to_str().ok())
            .unwrap_or("none")
            .to_owned();
        let code = request
            .headers()
            .get("mfa-code")
            .and_then(|value| value.to_str().ok())
            .unwrap_or("none")
            .to_owned();
        let tokens = pb::Tokens {
            access_token: seen,
            refresh_token: code,
            ..pb::Tokens::default()
        };
        let gives_tokens =
            request.uri().path().ends_with("LogIn") || request.uri().path().ends_with("RefreshSession");
        let tokens = gives_tokens.then_some(tokens);
        let answer = pb::RefreshSessionResponse { tokens }.encode_to_vec();
        let frames = [
            Ok::<_, Status>(Frame::data(Bytes::from(frame(&answer)))),
            Ok(Frame::trailers(end(0))),
        ];
        let mut response = grpc(Body::new(StreamBody::new(stream::iter(frames))));
        response.headers_mut().insert(
            "trailmesh-set-refresh-cookie",
            "next-token".parse().expect("a value"),
        );
        Box::pin(async move { Ok(response) })
    }
}
