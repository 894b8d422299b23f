//! What is known about one request from its head alone.
use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, Method, Uri, Version, header::CONTENT_TYPE, request::Parts};
use types::RequestId;

/// How the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// JSON over HTTP.
    Http,
    /// gRPC over HTTP/2.
    Grpc,
    /// gRPC-Web, with bytes or with base64.
    GrpcWeb {
        /// Whether frames are base64.
        text: bool,
    },
}

impl Protocol {
    /// By the content type.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = content_type.map(|text| text.split(';').next().unwrap_or_default().trim());
        match essence {
            Some("application/grpc" | "application/grpc+proto") => Self::Grpc,
            Some("application/grpc-web" | "application/grpc-web+proto") => Self::GrpcWeb { text: false },
            Some("application/grpc-web-text" | "application/grpc-web-text+proto") => {
                Self::GrpcWeb { text: true }
            }
            _ => Self::Http,
        }
    }

    /// Whether messages are protobuf in gRPC frames.
    pub(crate) fn is_grpc(self) -> bool {
        self != Self::Http
    }

    /// Its name in metrics.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::GrpcWeb { .. } => "grpc_web",
        }
    }
}

/// One request, from its head to the last byte of its answer.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// Our number for it.
    pub(crate) request: RequestId,
    /// When its head was complete.
    pub(crate) began: Instant,
    /// When its caller stops waiting; known since the route is.
    pub(crate) deadline: Instant,
    /// GET and so on.
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) uri: Uri,
    /// HTTP/1.1 or HTTP/2.
    pub(crate) version: Version,
    /// The client's headers: untrusted.
    pub(crate) headers: HeaderMap,
    /// How the client speaks.
    pub(crate) protocol: Protocol,
    /// Where it comes from.
    pub(crate) client: IpAddr,
    /// W3C trace context for the service.
    pub(crate) traceparent: HeaderValue,
    /// What layers have to say in the answer's headers.
    pub(crate) answer: HeaderMap,
}

/// A request that nobody has routed has so long.
const UNROUTED: Duration = Duration::from_secs(15);

impl Exchange {
    /// Takes the head apart.
    pub(crate) fn new(parts: Parts, client: IpAddr) -> Self {
        let began = Instant::now();
        Self {
            request: RequestId::fresh(),
            began,
            deadline: began + UNROUTED,
            protocol: Protocol::of(&parts.headers),
            method: parts.method,
            uri: parts.uri,
            version: parts.version,
            headers: parts.headers,
            client,
            traceparent: HeaderValue::from_static(""),
            answer: HeaderMap::new(),
        }
    }

    /// A header as text, if it is there and readable.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}
