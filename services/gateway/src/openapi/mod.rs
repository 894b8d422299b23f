//! The HTTP side of the edge as an OpenAPI 3.1 document, from the descriptors and their comments.

mod operation;
mod schema;
#[cfg(test)]
mod tests;
mod yaml;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::routes::{
    Routes,
    comments::{Comments, title},
};
use operation::Operations;
use schema::{Schemas, reference};

/// How the committed copy begins.
const HEAD: &str = "# Made from proto/ by `./dev docs`; a test fails when it is not what the protos say.\n";

const ABOUT: &str = "Every method of Trailmesh that people and programs may call, as HTTP with JSON. The same methods are served as gRPC and gRPC-Web on the \
same port.

A request names its tenant in `X-Trailmesh-Tenant`; a member of one tenant only may leave it out, and an API key always speaks for its own.

JSON follows the mapping of proto3: lowerCamelCase names, 64-bit integers and instants as strings, enums by name. Fields that do not exist are refused. \
Every answer carries `X-Request-Id`; name it when something is wrong.";

/// The document.
pub fn document(routes: &Routes) -> Value {
    let comments = Comments::of(routes.table().pool());
    let mut schemas = Schemas::new(&comments, routes.http());
    let mut operations = Operations::new(&comments, &mut schemas);
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for route in routes.http() {
        let Some(form) = &route.http else { continue };
        let operation = operations.operation(route);
        let path = operation::path(&form.template);
        paths
            .entry(path)
            .or_default()
            .insert(form.method.as_str().to_ascii_lowercase(), operation);
    }
    let mut made = schemas.into_made();
    made.insert("Error".into(), error_schema());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Trailmesh",
            "version": "1",
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "The gateway that serves this document."}],
        "tags": tags(routes, &comments),
        "paths": paths,
        "components": {
            "schemas": made,
            "securitySchemes": security_schemes(),
            "headers": headers(),
            "parameters": parameters(),
            "responses": responses(),
        },
    })
}

/// The document as it is committed.
pub fn yaml(routes: &Routes) -> String {
    format!("{HEAD}{}", yaml::write(&document(routes)))
}

fn tags(routes: &Routes, comments: &Comments) -> Vec<Value> {
    let mut tags = BTreeMap::new();
    for route in routes.http() {
        let service = route.method.parent_service();
        let about = comments.service(service);
        let tag = json!({"name": service.name(), "description": about, "x-displayName": title(about)});
        tags.insert(service.full_name().to_owned(), tag);
    }
    tags.into_values().collect()
}

fn security_schemes() -> Value {
    json!({
        "accessToken": {
            "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
            "description": "What `POST /v1/auth/login` answers; it lives for 15 minutes.",
        },
        "apiKey": {
            "type": "http", "scheme": "bearer", "bearerFormat": "bt_live_…",
            "description": "What `POST /v1/keys` answers, once. A key does what its scopes say and its owner's role still allows.",
        },
    })
}

fn headers() -> Value {
    json!({
        "X-Request-Id": {
            "description": "The request's id, which logs and errors carry too.",
            "schema": {"type": "string", "pattern": "^req_[0-9a-z]{26}$"},
        },
        "RateLimit-Policy": {
            "description": "The limits that count this request: `q` units in `w` seconds.",
            "schema": {"type": "string", "example": "\"tenant\";q=6000;w=60, \"user\";q=600;w=60"},
        },
        "RateLimit": {
            "description": "What is left of the tightest limit (`r`), and in how many seconds it is renewed (`t`).",
            "schema": {"type": "string", "example": "\"user\";r=599;t=60"},
        },
        "Retry-After": {
            "description": "In how many seconds trying again makes sense.",
            "schema": {"type": "integer", "minimum": 0},
        },
        "Trailmesh-Region-Host": {
            "description": "Where to send the request instead, without the path; absent where it is not known.",
            "schema": {"type": "string", "format": "uri", "example": "https://eu.trail.example.com"},
        },
        "WWW-Authenticate": {
            "description": "How to present a credential.",
            "schema": {"type": "string"},
        },
    })
}

fn parameters() -> Value {
    json!({
        "Tenant": {
            "name": "X-Trailmesh-Tenant", "in": "header", "required": false,
            "description": "The tenant that the request is for. It may be left out with an API key, and by a member of one tenant only.",
            "schema": {"type": "string", "pattern": "^tnt_[0-7][0-9a-hjkmnp-tv-z]{25}$"},
        },
        "MfaCode": {
            "name": "X-MFA-Code", "in": "header", "required": false,
            "description": "The six digits of the second factor. They are needed where the caller has one, and are good for one call.",
            "schema": {"type": "string", "pattern": "^[0-9]{6}$"},
        },
    })
}

fn error_schema() -> Value {
    json!({
        "type": "object",
        "description": "Why a request failed.",
        "required": ["error"],
        "properties": {"error": {
            "type": "object",
            "required": ["code", "status", "message", "details"],
            "properties": {
                "code": {"type": "integer", "description": "The HTTP status."},
                "status": {"type": "string", "description": "The gRPC code by name.", "example": "NOT_FOUND"},
                "message": {"type": "string", "description": "What is wrong, for people. It may change."},
                "details": {
                    "type": "array",
                    "description": "For programs: `google.rpc.ErrorInfo` with a stable `reason`, `BadRequest` with the fields that are wrong, \
                        `RetryInfo`, `QuotaFailure`, and always `RequestInfo`.",
                    "items": {
                        "type": "object",
                        "required": ["@type"],
                        "properties": {
                            "@type": {"type": "string"},
                            "reason": {"type": "string", "example": "SERVER_NAME_TAKEN"},
                            "domain": {"type": "string", "example": "trailmesh"},
                            "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
                            "fieldViolations": {"type": "array", "items": {"type": "object", "properties": {
                                "field": {"type": "string", "example": "server.port"},
                                "description": {"type": "string"},
                            }}},
                            "retryDelay": {"type": "string", "example": "12s"},
                            "violations": {"type": "array", "items": {"type": "object", "properties": {
                                "subject": {"type": "string"},
                                "description": {"type": "string"},
                            }}},
                            "requestId": {"type": "string"},
                        },
                    },
                },
            },
        }},
    })
}

/// The error answers, by the name of their component.
fn responses() -> Value {
    let response = |description: &str, more: &[&str]| {
        let names = ["X-Request-Id"].iter().chain(more);
        let headers: Map<String, Value> = names
            .map(|name| {
                (
                    (*name).to_owned(),
                    json!({"$ref": format!("#/components/headers/{name}")}),
                )
            })
            .collect();
        json!({
            "description": description,
            "headers": headers,
            "content": {"application/json": {"schema": reference("Error")}},
        })
    };
    json!({
        "Invalid": response("The request is not what the method takes, or the state of things forbids it.", &[]),
        "Unauthenticated": response("There is no valid credential, or a code of the second factor is missing, wrong or used.", &["WWW-Authenticate"]),
        "Forbidden": response("The caller's role or key does not allow it.", &[]),
        "Missing": response("There is no such thing, or the caller may not see it.", &[]),
        "Conflict": response("The name is taken, or the thing was changed meanwhile.", &[]),
        "Elsewhere": response("The credential or the tenant belongs to another region or cell, and its data does not leave it: `WRONG_REGION`, `TENANT_MOVED`. Nothing of the request's body was read.", &["Trailmesh-Region-Host"]),
        "TooMany": response("A limit is reached.", &["Retry-After", "RateLimit", "RateLimit-Policy"]),
        "Failure": response("Anything else: 405, 413, 415 and 431 for requests that are no such method's, 500, 503 and 504 for failures of ours.", &[]),
    })
}
