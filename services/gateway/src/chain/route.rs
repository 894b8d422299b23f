//! Which method is called.
use std::sync::Arc;

use bytes::Bytes;
use chassis::policy::StepUp;
use http::{HeaderValue, Method, Response, header};
use tonic::body::Body;

use super::Gateway;
use crate::{
    error::{Cause, Layer, Refusal},
    exchange::Exchange,
    pages,
    routes::{Bindings, Found, Kind, Route},
    unread::Shared,
};

/// The method and the values in its path.
pub(crate) struct Target {
    /// The method.
    pub(crate) route: Arc<Route>,
    /// What the path says, over HTTP.
    pub(crate) bindings: Bindings,
}

impl Target {
    /// Whether its answer, or what is sent to it, is a stream.
    pub(crate) fn streams(&self) -> bool {
        self.route.kind != Kind::Unary
    }
}

/// Where a request goes.
pub(crate) enum Destination {
    /// To a service.
    Method(Target),
    /// To the health check of the gateway itself.
    Health,
    /// Nowhere: it is answered here.
    Page(Response<Body>),
}

/// Documents that the gateway serves itself.
#[derive(Debug)]
pub(crate) struct Pages {
    /// OpenAPI as JSON.
    pub(crate) openapi_json: Bytes,
    /// OpenAPI as YAML.
    pub(crate) openapi_yaml: Bytes,
    /// The reference for people.
    pub(crate) reference: Bytes,
    /// What a browser may load for it.
    pub(crate) reference_policy: HeaderValue,
}

const POINTER: &[u8] =
    b"{\"name\":\"Trailmesh\",\"documentation\":\"/docs\",\"openapi\":\"/openapi.json\"}\n";

impl Pages {
    fn find(&self, exchange: &Exchange) -> Option<Response<Body>> {
        if exchange.method != Method::GET && exchange.method != Method::HEAD {
            return None;
        }
        if let Some(page) = pages::find(exchange.uri.path()) {
            return Some(page);
        }
        let (content_type, text) = match exchange.uri.path() {
            "/" => ("application/json", &Bytes::from_static(POINTER)),
            "/openapi.json" => ("application/json", &self.openapi_json),
            "/openapi.yaml" => ("application/yaml", &self.openapi_yaml),
            "/docs" => ("text/html; charset=utf-8", &self.reference),
            _ => return None,
        };
        let mut response = Response::new(Body::new(http_body_util::Full::from(text.clone())));
        response.extensions_mut().insert(Shared);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        if exchange.uri.path() == "/docs" {
            headers.insert(header::CONTENT_SECURITY_POLICY, self.reference_policy.clone());
        }
        Some(response)
    }
}

/// Finds it.
pub(crate) fn find(gateway: &Gateway, exchange: &Exchange) -> Result<Destination, Refusal> {
    let refuse = |cause| Err(Refusal::new(Layer::Route, cause));
    let path = exchange.uri.path();
    if exchange.protocol.is_grpc() {
        if exchange.method != Method::POST {
            return refuse(Cause::MethodNotAllowed);
        }
        if path.starts_with("/grpc.health.v1.Health/") {
            return Ok(Destination::Health);
        }
        let route = gateway.routes.grpc(path);
        return match route {
            Some(route) => checked(Target {
                route: Arc::clone(route),
                bindings: Bindings::default(),
            }),
            None => refuse(Cause::NoMethod),
        };
    }
    if let Some(page) = gateway.pages.find(exchange) {
        return Ok(Destination::Page(page));
    }
    match gateway.routes.find(&exchange.method, path) {
        Found::Route(route, bindings) => checked(Target { route, bindings }),
        Found::NotFound => refuse(Cause::NoRoute),
        Found::Malformed => refuse(Cause::PathMalformed),
        Found::MethodNotAllowed(methods) => {
            let allowed: Vec<&str> = methods.iter().map(Method::as_str).collect();
            let allowed = HeaderValue::from_str(&allowed.join(", ")).into_iter();
            let said = allowed.map(|allowed| (header::ALLOW, allowed)).collect();
            Err(Refusal::new(Layer::Route, Cause::MethodNotAllowed).saying(said))
        }
    }
}

/// A code is bound to the bytes of one message, so a stream cannot take one.
fn checked(target: Target) -> Result<Destination, Refusal> {
    if target.streams() && target.route.rule.step_up == StepUp::Totp {
        let words = format!("{} is a stream and takes a code", target.route.path);
        return Err(Refusal::new(Layer::Route, Cause::Internal(words)));
    }
    Ok(Destination::Method(target))
}
