//! The transcoder against the mapping's rules, against another implementation of it, and against what is hostile.

mod binding;
mod hostile;
mod mapping;
mod property;

use std::sync::{Arc, LazyLock};

use chassis::policy::Table;
use http::Method;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};

use super::{Broken, Invalid, decode::Decoder, encode::Encoder, schema::Schema};
use crate::routes::{Found, Routes};

#[path = "../../../tests/protos/echo.rs"]
pub(crate) mod echo;

static ROUTES: LazyLock<Routes> = LazyLock::new(|| {
    let table = Table::load(&echo::descriptor_set()).unwrap();
    Routes::load(Arc::new(table)).unwrap()
});
static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::new(pool()));

fn pool() -> &'static DescriptorPool {
    ROUTES.table().pool()
}

fn kinds() -> MessageDescriptor {
    pool().get_message_by_name("trailmesh.echo.v1.Kinds").unwrap()
}

/// JSON to the encoded message.
fn decoded(message: &MessageDescriptor, json: &[u8]) -> Result<Vec<u8>, Invalid> {
    let id = SCHEMA.id(message.full_name()).unwrap();
    Decoder::new(&SCHEMA, json)?.whole(json, id)
}

/// The encoded message to JSON.
fn encoded(message: &MessageDescriptor, wire: &[u8]) -> Result<String, Broken> {
    let mut out = Vec::new();
    Encoder::new(&SCHEMA, &mut out).message(SCHEMA.id(message.full_name()).unwrap(), wire)?;
    Ok(String::from_utf8(out).unwrap())
}

/// What `Kinds` of this JSON looks like when written again.
fn again(json: &str) -> String {
    encoded(&kinds(), &decoded(&kinds(), json.as_bytes()).unwrap()).unwrap()
}

/// Path and description of everything that is wrong with this JSON as `Kinds`.
fn wrong(json: impl AsRef<[u8]>) -> Vec<(String, String)> {
    let invalid = decoded(&kinds(), json.as_ref()).unwrap_err();
    invalid
        .violations
        .into_iter()
        .map(|violation| (violation.field, violation.description))
        .collect()
}

/// A request through its route: the message that the service would see, as JSON of the other implementation.
fn request(
    method: Method,
    path: &str,
    query: Option<&str>,
    body: &str,
) -> Result<serde_json::Value, Invalid> {
    let Found::Route(route, bindings) = ROUTES.find(&method, path) else {
        panic!("{method} {path} leads nowhere");
    };
    let wire = super::decode(&route, &bindings, query, body.as_bytes())?;
    let message = DynamicMessage::decode(route.input.clone(), wire.as_slice()).unwrap();
    Ok(serde_json::to_value(&message).unwrap())
}
