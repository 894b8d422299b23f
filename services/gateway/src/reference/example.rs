//! Bodies for examples: the names that a message has, with a value of the right kind each.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use crate::routes::{BodyRule, Route};

/// How many members an object of an example has.
const MOST: usize = 6;

/// What one writes after `curl -d`.
pub(super) fn body(route: &Route) -> String {
    let bound: Vec<_> = route
        .variables
        .iter()
        .map(|path| path.text(&route.schema))
        .collect();
    let message = match route.body {
        BodyRule::Field(index) => {
            let field = route.schema.message(route.input_id).fields.get(index);
            let field = field.and_then(|field| route.input.get_field_by_name(&field.name));
            field.and_then(|field| field.kind().as_message().cloned())
        }
        _ => Some(route.input.clone()),
    };
    message.map_or_else(|| "{}".to_owned(), |message| object(&message, &bound, 0))
}

fn object(of: &MessageDescriptor, bound: &[String], depth: usize) -> String {
    let given = |field: &FieldDescriptor| {
        bound
            .iter()
            .any(|path| path.rsplit('.').next() == Some(field.name()))
    };
    // What the service makes is not asked for.
    let made = |field: &FieldDescriptor| {
        matches!(field.name(), "id" | "etag" | "create_time" | "update_time")
            || field.name() == "recovery_code"
    };
    let shown = of
        .fields()
        .filter(|field| !given(field) && !made(field))
        .take(MOST);
    let members: Vec<_> = shown
        .map(|field| format!("\"{}\": {}", field.json_name(), value(&field, depth)))
        .collect();
    format!("{{{}}}", members.join(", "))
}

fn value(field: &FieldDescriptor, depth: usize) -> String {
    match field.kind() {
        _ if field.is_map() => "{}".to_owned(),
        _ if field.is_list() => "[]".to_owned(),
        Kind::Message(of) => match of.full_name() {
            "google.protobuf.Timestamp" => "\"2026-01-31T12:00:00Z\"".to_owned(),
            "google.protobuf.Duration" => "\"1.5s\"".to_owned(),
            _ if depth == 0 => object(&of, &[], 1),
            _ => "{}".to_owned(),
        },
        Kind::Enum(of) => {
            let name = of.values().nth(1).map(|value| value.name().to_owned());
            format!("\"{}\"", name.unwrap_or_default())
        }
        Kind::Bool => "true".to_owned(),
        Kind::String | Kind::Bytes => "\"…\"".to_owned(),
        _ => "0".to_owned(),
    }
}
