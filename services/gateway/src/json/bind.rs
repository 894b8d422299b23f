//! A request from its three parts: the path's variables, the query, the body.
//!
//! A query names a field as JSON or as the proto does, fields of nested messages with dots between; a repeated field is named repeatedly; a
//! field mask is one list with commas. What the path or the body gives, the query may not give; what the path gives, the body may repeat
//! but not contradict.

use std::borrow::Cow;

use super::{
    Invalid,
    decode::{self, Decoder},
    scalar,
    schema::{Field, Form, Kind, Schema, Shape},
    violations::{Violations, shown},
    wellknown,
    wire::{self, Reader},
};
use crate::routes::{Bindings, BodyRule, FieldPath, Route, percent_decoded};

/// How many parameters a query may have.
const MOST_PARAMETERS: usize = 256;

/// A field that the path or the query gives.
struct Bound {
    path: FieldPath,
    /// The encoded value, its length before it where it has one.
    value: Vec<u8>,
    by_path: bool,
}

/// The encoded request.
pub(super) fn request(
    route: &Route,
    bindings: &Bindings,
    query: Option<&str>,
    body: &[u8],
) -> Result<Vec<u8>, Invalid> {
    let bound = parameters(route, bindings, query)?;
    let mut out = self::body(route, body)?;
    let schema = &*route.schema;
    contradictions(schema, &bound, &out)?;
    for given in &bound {
        put(schema, &given.path, &given.value, &mut out);
    }
    choices(route, &bound, &out)?;
    Ok(out)
}

/// The path's and the query's part of the request, encoded.
pub(super) fn without_body(
    route: &Route,
    bindings: &Bindings,
    query: Option<&str>,
) -> Result<Vec<u8>, Invalid> {
    let bound = parameters(route, bindings, query)?;
    let mut out = Vec::new();
    for given in &bound {
        put(&route.schema, &given.path, &given.value, &mut out);
    }
    choices(route, &bound, &out)?;
    Ok(out)
}

fn body(route: &Route, body: &[u8]) -> Result<Vec<u8>, Invalid> {
    let empty = body.iter().all(u8::is_ascii_whitespace);
    match route.body {
        _ if empty => Ok(Vec::new()),
        // Raw bytes are no JSON: see `raw`.
        BodyRule::None | BodyRule::Raw(_) => Err(Invalid::one("", "this method takes no body")),
        BodyRule::Whole => Decoder::new(&route.schema, body)?.whole(body, route.input_id),
        BodyRule::Field(index) => {
            let field = &route.schema.message(route.input_id).fields[index];
            Decoder::new(&route.schema, body)?.field_of(body, field)
        }
    }
}

fn parameters(route: &Route, bindings: &Bindings, query: Option<&str>) -> Result<Vec<Bound>, Invalid> {
    let schema = &*route.schema;
    let mut violations = Violations::default();
    let mut bound = Vec::new();
    for (path, value) in route.variables.iter().zip(&bindings.0) {
        match value_of(schema, path, value) {
            Ok(value) => bound.push(Bound {
                path: path.clone(),
                value,
                by_path: true,
            }),
            Err(problem) => drop(violations.note_at(path.text(schema), problem)),
        }
    }
    let pairs = query
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty());
    for (index, pair) in pairs.enumerate() {
        let more = if index == MOST_PARAMETERS {
            violations.note_at(String::new(), "the query has too many parameters");
            false
        } else {
            parameter(route, pair, &mut bound, &mut violations)
        };
        if !more {
            break;
        }
    }
    violations.into_result(bound)
}

/// Takes one parameter; false when enough is wrong.
fn parameter(route: &Route, pair: &str, bound: &mut Vec<Bound>, violations: &mut Violations<'_>) -> bool {
    let schema = &*route.schema;
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    let decoded = |text: &str| percent_decoded(&text.replace('+', " "));
    let (Some(name), Some(value)) = (decoded(name), decoded(value)) else {
        return violations.note_at(String::new(), "the query has a broken percent-escape");
    };
    let Some(path) = FieldPath::resolve(schema, route.input_id, &name) else {
        return violations.note_at(shown(&name), "there is no such query parameter");
    };
    let refused = match (route.body, path.0.first()) {
        (BodyRule::Whole, _) => Some("it comes in the body, not in the query"),
        (BodyRule::Field(index) | BodyRule::Raw(index), Some((_, first))) if *first == index => {
            Some("it comes in the body, not in the query")
        }
        _ if bound.iter().any(|given| given.by_path && given.path == path) => {
            Some("the path gives it already")
        }
        _ => None,
    };
    let single = path
        .field(schema)
        .is_some_and(|field| field.shape == Shape::Single);
    let twice = (single && bound.iter().any(|given| given.path == path)).then_some("given twice");
    let result = match refused.or(twice) {
        Some(problem) => Err(problem),
        None => value_of(schema, &path, &value),
    };
    match result {
        Ok(value) => {
            bound.push(Bound {
                path,
                value,
                by_path: false,
            });
            true
        }
        Err(problem) => violations.note_at(path.text(schema), problem),
    }
}

/// The text as the field's encoded value.
fn value_of(schema: &Schema, path: &FieldPath, text: &str) -> Result<Vec<u8>, &'static str> {
    let Some(field) = path.field(schema) else {
        return Err("there is no such field");
    };
    let mut out = Vec::new();
    match (field.shape, field.kind) {
        (Shape::Map(_), _) => return Err("a map cannot be given in a query"),
        (_, Kind::Message(id)) => {
            let mut message = Vec::new();
            well_known(schema, id, text, &mut message)?;
            wire::put_bytes(&mut out, &message);
        }
        (_, kind) => scalar::from_text(schema, kind, Cow::Borrowed(text))?.put(&mut out),
    }
    Ok(out)
}

fn well_known(
    schema: &Schema,
    id: super::schema::MessageId,
    text: &str,
    out: &mut Vec<u8>,
) -> Result<(), &'static str> {
    let message = schema.message(id);
    match message.form {
        Form::Timestamp => {
            let (seconds, nanos) =
                wellknown::parse_timestamp(text).ok_or("expected an RFC 3339 date and time")?;
            decode::put_instant(out, seconds, nanos);
        }
        Form::Duration => {
            let (seconds, nanos) = wellknown::parse_duration(text).ok_or("expected seconds such as 1.5s")?;
            decode::put_instant(out, seconds, nanos);
        }
        Form::FieldMask => {
            let paths =
                wellknown::parse_mask(text, true).ok_or("expected field names, separated by commas")?;
            decode::put_mask(out, &paths);
        }
        Form::Wrapper => {
            let field = message.fields.first().ok_or("expected a value")?;
            let value = scalar::from_text(schema, field.kind, Cow::Borrowed(text))?;
            wire::put_varint(out, field.tag());
            value.put(out);
        }
        _ => return Err("a message cannot be given in a query; name its fields"),
    }
    Ok(())
}

/// Appends a field with the messages around it: readers merge them with what is there.
fn put(schema: &Schema, path: &FieldPath, value: &[u8], out: &mut Vec<u8>) {
    let mut fields: Vec<&Field> = path.fields(schema).collect();
    let Some(last) = fields.pop() else { return };
    let mut record = Vec::with_capacity(value.len() + 8);
    wire::put_varint(&mut record, last.tag());
    record.extend_from_slice(value);
    for field in fields.into_iter().rev() {
        let inner = std::mem::take(&mut record);
        wire::put_varint(&mut record, field.tag());
        wire::put_bytes(&mut record, &inner);
    }
    out.extend_from_slice(&record);
}

/// Refuses a body whose value for a variable of the path is another one.
fn contradictions(schema: &Schema, bound: &[Bound], body: &[u8]) -> Result<(), Invalid> {
    for given in bound.iter().filter(|given| given.by_path) {
        let Some((last, around)) = given.path.0.split_last() else {
            continue;
        };
        let number = schema.message(last.0).fields[last.1].number;
        let mut found = None;
        for message in within(schema, around, body) {
            let mut reader = Reader::new(message);
            while let Ok((of, wire_type)) = reader.key() {
                let Ok(value) = reader.value(wire_type) else { break };
                if of == number {
                    found = Some(value);
                }
            }
        }
        if found.is_some_and(|found| found != given.value) {
            return Err(Invalid::one(
                given.path.text(schema),
                "the body gives another value than the path",
            ));
        }
    }
    Ok(())
}

/// Refuses two fields of one choice, of which path or query gave one.
fn choices(route: &Route, bound: &[Bound], request: &[u8]) -> Result<(), Invalid> {
    let schema = &*route.schema;
    for given in bound {
        for (depth, (id, index)) in given.path.0.iter().enumerate() {
            let field = &schema.message(*id).fields[*index];
            let Some(oneof) = field.oneof else { continue };
            for message in within(schema, &given.path.0[..depth], request) {
                let mut reader = Reader::new(message);
                while let Ok((number, wire_type)) = reader.key() {
                    let other = schema
                        .message(*id)
                        .numbered(number)
                        .map(|other| &schema.message(*id).fields[other]);
                    if other.is_some_and(|other| other.oneof == Some(oneof) && other.number != field.number) {
                        let path = given.path.text(schema);
                        return Err(Invalid::one(
                            path,
                            "another field of the same choice is given too",
                        ));
                    }
                    if reader.value(wire_type).is_err() {
                        break;
                    }
                }
            }
        }
    }
    Ok(())
}

/// Every piece of the message that the steps lead to.
fn within<'m>(
    schema: &Schema,
    steps: &[(super::schema::MessageId, usize)],
    message: &'m [u8],
) -> Vec<&'m [u8]> {
    let mut pieces = vec![message];
    for (id, index) in steps {
        let number = schema.message(*id).fields[*index].number;
        let mut inner = Vec::new();
        for piece in pieces {
            let mut reader = Reader::new(piece);
            while let Ok((of, wire_type)) = reader.key() {
                let Ok(value) = reader.value(wire_type) else { break };
                if of == number
                    && let Ok(bytes) = Reader::new(value).bytes()
                {
                    inner.push(bytes);
                }
            }
        }
        pieces = inner;
    }
    pieces
}
