//! What is asked: JSON becomes a protobuf message, gRPC frames pass as they are.
use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use chassis::policy::StepUp;
use futures_util::stream;
use http::header;
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use tonic::{Status, body::Body};
use types::Plan;

use super::{
    limits::{self, BODY_BYTES, Limited},
    route::Target,
};
use crate::{
    error::{Cause, Layer, Refusal},
    exchange::{Exchange, Protocol},
    frame,
    grpc_web::DecodedText,
    json::{self, raw, upload},
    routes::{BodyRule, Kind, Route},
};

/// A message over gRPC, with its prefix: services take 4 MiB.
const MESSAGE_BYTES: u64 = 4 * 1024 * 1024 + 5;

/// What goes to the service.
pub(crate) struct Outgoing {
    /// gRPC frames.
    pub(crate) body: Body,
    /// The message in them; none of a stream.
    pub(crate) message: Option<Bytes>,
    /// Why the client's body ended early, once it has.
    pub(crate) broken: Broken,
}

/// Filled when an upload fails on the client's side, so that the client is told this and not what the service made of it.
pub(crate) type Broken = Arc<Mutex<Option<Cause>>>;

/// Makes it.
pub(crate) async fn decode(exchange: &Exchange, target: &Target, body: Body) -> Result<Outgoing, Refusal> {
    match (exchange.protocol, target.route.kind) {
        (Protocol::Http, Kind::ClientUpload) => chunks(exchange, target, body),
        (Protocol::Http, _) => one(exchange, target, body).await,
        (protocol, _) => frames(exchange, target, protocol, body).await,
    }
}

fn refuse(cause: Cause) -> Refusal {
    Refusal::new(Layer::Decode, cause)
}

fn message(message: Vec<u8>) -> Outgoing {
    let message = Bytes::from(message);
    Outgoing {
        body: Body::new(Full::new(frame::wrap(&message))),
        message: Some(message),
        broken: Broken::default(),
    }
}

async fn one(exchange: &Exchange, target: &Target, body: Body) -> Result<Outgoing, Refusal> {
    let body = limits::collect(&exchange.headers, body, BODY_BYTES).await?;
    let query = exchange.uri.query();
    let invalid = |invalid| refuse(Cause::Invalid(invalid));
    if let BodyRule::Raw(_) = target.route.body {
        let content_type = exchange.header("content-type").unwrap_or_default();
        let decoded = raw::request(&target.route, &target.bindings, query, content_type, &body);
        return decoded.map(message).map_err(invalid);
    }
    let json = match exchange.headers.get(header::CONTENT_TYPE) {
        None => body.is_empty(),
        Some(value) => body.is_empty() || value.to_str().is_ok_and(is_json),
    };
    if !json {
        return Err(refuse(Cause::MediaType("application/json")));
    }
    let decoded = json::decode(&target.route, &target.bindings, query, &body);
    decoded.map(message).map_err(invalid)
}

/// JSON has one encoding, so a charset may be named and must be UTF-8.
fn is_json(content_type: &str) -> bool {
    let mut parts = content_type.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    essence.eq_ignore_ascii_case("application/json")
        && parts.all(|part| {
            let charset = part.to_ascii_lowercase();
            charset
                .strip_prefix("charset=")
                .is_none_or(|charset| charset.trim_matches('"') == "utf-8")
        })
}

/// The largest upload of any plan; what the tenant's own takes, the service knows.
fn upload_bytes() -> u64 {
    Plan::Enterprise.limits().upload_bytes
}

/// An upload: the first message says what it is, each of the others carries a piece of the body.
fn chunks(exchange: &Exchange, target: &Target, body: Body) -> Result<Outgoing, Refusal> {
    let most = upload_bytes();
    limits::announced(&exchange.headers, most)?;
    let first = upload::first(&target.route, &target.bindings, exchange.uri.query());
    let first = first.map_err(|invalid| refuse(Cause::Invalid(invalid)))?;
    let broken = Broken::default();
    let upload = Upload {
        route: Arc::clone(&target.route),
        body: Limited::stream(body, most),
        first: Some(frame::wrap(&first)),
        rest: BytesMut::new(),
        ended: false,
        broken: Arc::clone(&broken),
    };
    let frames = stream::unfold(upload, |mut upload| async {
        let frame = upload.next().await?;
        Some((frame.map(Frame::data), upload))
    });
    Ok(Outgoing {
        body: Body::new(StreamBody::new(Box::pin(frames))),
        message: None,
        broken,
    })
}

/// Nothing is read from the client before the service takes what was read: HTTP/2's windows do the rest.
struct Upload {
    route: Arc<Route>,
    body: Limited,
    first: Option<Bytes>,
    rest: BytesMut,
    ended: bool,
    broken: Broken,
}

impl Upload {
    async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        if let Some(first) = self.first.take() {
            return Some(Ok(first));
        }
        while !self.ended && self.rest.len() < upload::CHUNK_BYTES {
            match self.body.frame().await {
                Some(Ok(frame)) => self
                    .rest
                    .extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new())),
                Some(Err(cause)) => {
                    self.ended = true;
                    self.rest.clear();
                    *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(cause);
                    return Some(Err(chassis::status(&Cause::BodyBroken)));
                }
                None => self.ended = true,
            }
        }
        let length = self.rest.len().min(upload::CHUNK_BYTES);
        let piece = self.rest.split_to(length);
        (length > 0).then(|| Ok(frame::wrap(&upload::chunk(&self.route, &piece))))
    }
}

async fn frames(
    exchange: &Exchange,
    target: &Target,
    protocol: Protocol,
    body: Body,
) -> Result<Outgoing, Refusal> {
    let encoding = exchange.headers.get("grpc-encoding");
    if encoding.is_some_and(|encoding| encoding != "identity") {
        return Err(refuse(Cause::Compressed));
    }
    let body = match protocol {
        Protocol::GrpcWeb { text: true } => Body::new(DecodedText::new(body)),
        _ => body,
    };
    if matches!(target.route.kind, Kind::ClientUpload | Kind::Bidi) {
        return Ok(Outgoing {
            body: Body::new(Data(body)),
            message: None,
            broken: Broken::default(),
        });
    }
    // Read as a whole, so that what is known of the caller is of the moment that the service begins, and so that a code is for these bytes.
    let confirmed = target.route.rule.step_up == StepUp::Totp;
    let limit = if confirmed { BODY_BYTES } else { MESSAGE_BYTES };
    let bytes = limits::collect(&exchange.headers, body, limit).await?;
    let message = frame::unwrap(bytes.clone()).ok_or_else(|| refuse(Cause::FrameInvalid))?;
    Ok(Outgoing {
        body: Body::new(Full::new(bytes)),
        message: Some(message),
        broken: Broken::default(),
    })
}

/// A client's body without its trailers: they would be metadata that nobody has looked at.
struct Data(Body);

impl http_body::Body for Data {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match ready!(Pin::new(&mut self.0).poll_frame(cx)?) {
            Some(frame) if frame.is_data() => Poll::Ready(Some(Ok(frame))),
            _ => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.0.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::is_json;

    #[test]
    fn json_is_json_in_utf_8() {
        for good in [
            "application/json",
            "Application/JSON",
            "application/json; charset=UTF-8",
            "application/json;charset=\"utf-8\"",
        ] {
            assert!(is_json(good), "{good}");
        }
        for bad in [
            "",
            "text/json",
            "application/json; charset=utf-16",
            "application/jsonp",
            "application/x-www-form-urlencoded",
            "multipart/form-data",
        ] {
            assert!(!is_json(bad), "{bad}");
        }
    }
}
