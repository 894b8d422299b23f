//! Messages and enums as JSON Schema.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, Value as Proto};
use serde_json::{Map, Value, json};

use crate::{
    json::own::{self, Own, What},
    routes::{Route, comments::Comments},
};

/// The schemas that operations refer to, made when they are first referred to.
pub(super) struct Schemas<'c> {
    comments: &'c Comments,
    names: HashMap<String, String>,
    /// Messages that are part of a request, by full name.
    asked: BTreeMap<String, String>,
    made: BTreeMap<String, Value>,
}

impl<'c> Schemas<'c> {
    /// For everything that the routes' requests and answers lead to.
    pub(super) fn new<'r>(comments: &'c Comments, routes: impl Iterator<Item = &'r Arc<Route>>) -> Self {
        let (mut asked, mut answered) = (BTreeMap::new(), BTreeMap::new());
        for route in routes {
            reach(&route.input, &mut asked);
            reach(&route.output, &mut answered);
        }
        answered.extend(asked.clone());
        Self {
            comments,
            names: short_names(&answered),
            asked,
            made: BTreeMap::new(),
        }
    }

    /// What was referred to, by name.
    pub(super) fn into_made(self) -> BTreeMap<String, Value> {
        self.made
    }

    /// The schema of one message, by reference where it has a name of its own.
    pub(super) fn message(&mut self, of: &MessageDescriptor) -> Value {
        if let Some(known) = well_known(of.full_name()) {
            return known;
        }
        let name = self.name(of.full_name());
        if !self.made.contains_key(&name) {
            self.made.insert(name.clone(), Value::Null);
            let schema = match Own::of(of.full_name()) {
                Some(own) => self.own(own, of),
                None => self.object(of, &[]),
            };
            self.made.insert(name.clone(), schema);
        }
        reference(&name)
    }

    /// A message that has a JSON of its own.
    fn own(&mut self, own: Own, of: &MessageDescriptor) -> Value {
        let mut schema = match own {
            Own::Change => self.change(of),
            Own::Row => {
                let value = own::inner(of, Own::Value).map(|value| self.message(&value));
                json!({"type": "object", "additionalProperties": value.unwrap_or_else(|| json!({}))})
            }
            // Anything that a column can hold.
            Own::Value => json!({}),
        };
        describe(&mut schema, self.comments.message(of));
        schema
    }

    fn change(&mut self, of: &MessageDescriptor) -> Value {
        let row = own::inner(of, Own::Row).map(|row| self.message(&row));
        let row = row.unwrap_or_else(|| json!({}));
        let number = json!({"type": "integer", "minimum": 0});
        let (mut properties, mut required) = (Map::new(), Vec::new());
        for member in own::CHANGE {
            let mut schema = match member.what {
                What::Position => json!({
                    "type": "object",
                    "properties": {"epoch": number, "file": {"type": "string"}, "offset": number, "ordinal": number},
                    "required": ["epoch", "file", "offset", "ordinal"],
                }),
                What::TextOrNull => json!({"type": ["string", "null"]}),
                What::Instant => {
                    json!({"type": "string", "format": "date-time", "example": "2026-01-31T12:00:00.000001Z"})
                }
                What::NumberOrNull => json!({"type": ["integer", "null"], "minimum": 0, "maximum": u32::MAX}),
                What::Number => json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}),
                What::Text => json!({"type": "string"}),
                What::Op => json!({"type": "string", "enum": ["insert", "update", "delete"]}),
                What::RowOrNull => json!({"anyOf": [row, {"type": "null"}]}),
                What::Texts => json!({"type": "array", "items": {"type": "string"}}),
            };
            describe(&mut schema, member.about(of, self.comments));
            properties.insert(member.name.to_owned(), schema);
            if member.name != own::SOMETIMES {
                required.push(member.name);
            }
        }
        json!({"type": "object", "properties": properties, "required": required})
    }

    /// A message as an object, without the fields of those names.
    pub(super) fn object(&mut self, of: &MessageDescriptor, without: &[String]) -> Value {
        let mut properties = Map::new();
        for field in of
            .fields()
            .filter(|field| !without.iter().any(|name| name == field.name()))
        {
            properties.insert(field.json_name().to_owned(), self.field(&field));
        }
        let mut schema = json!({"type": "object"});
        describe(&mut schema, self.comments.message(of));
        if !properties.is_empty() {
            schema["properties"] = Value::Object(properties);
        }
        // Requests with other members are refused; what is in answers only may get new ones.
        if self.asked.contains_key(of.full_name()) {
            schema["additionalProperties"] = false.into();
        }
        schema
    }

    /// A field with its comment.
    pub(super) fn field(&mut self, field: &FieldDescriptor) -> Value {
        let mut schema = match field.kind() {
            Kind::Message(entry) if field.is_map() => {
                let value = self.kind(&entry.map_entry_value_field().kind());
                json!({"type": "object", "additionalProperties": value})
            }
            kind if field.is_list() => {
                let items = self.kind(&kind);
                json!({"type": "array", "items": items})
            }
            kind => self.kind(&kind),
        };
        if secret(field) && schema["type"] == "string" {
            schema["format"] = "password".into();
        }
        describe(&mut schema, self.comments.field(field));
        schema
    }

    fn kind(&mut self, kind: &Kind) -> Value {
        match kind {
            Kind::Double | Kind::Float => json!({"anyOf": [
                {"type": "number"},
                {"type": "string", "enum": ["NaN", "Infinity", "-Infinity"]},
            ]}),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!({"type": "integer", "format": "int32"}),
            Kind::Uint32 | Kind::Fixed32 => json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
                json!({"type": "string", "pattern": "^-?[0-9]{1,19}$"})
            }
            Kind::Uint64 | Kind::Fixed64 => json!({"type": "string", "pattern": "^[0-9]{1,20}$"}),
            Kind::Bool => json!({"type": "boolean"}),
            Kind::String => json!({"type": "string"}),
            Kind::Bytes => json!({"type": "string", "contentEncoding": "base64"}),
            Kind::Enum(of) => self.enumeration(of),
            Kind::Message(of) => self.message(of),
        }
    }

    fn enumeration(&mut self, of: &EnumDescriptor) -> Value {
        if of.full_name() == "google.protobuf.NullValue" {
            return json!({"type": "null"});
        }
        let name = self.name(of.full_name());
        let mut text = self.comments.enumeration(of).to_owned();
        text.push('\n');
        for value in of.values() {
            text.push_str(&format!(
                "\n* `{}`: {}",
                value.name(),
                self.comments.value(&value)
            ));
        }
        let values: Vec<_> = of.values().map(|value| value.name().to_owned()).collect();
        let mut schema = json!({"type": "string", "enum": values});
        describe(&mut schema, &text);
        self.made.insert(name.clone(), schema);
        reference(&name)
    }

    fn name(&self, full: &str) -> String {
        self.names.get(full).cloned().unwrap_or_else(|| full.to_owned())
    }
}

/// `#/components/schemas/…`
pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// Adds a description that is not empty.
pub(super) fn describe(schema: &mut Value, text: &str) {
    if !text.is_empty() {
        schema["description"] = text.into();
    }
}

/// Whether the field is marked `debug_redact`.
fn secret(field: &FieldDescriptor) -> bool {
    let options = field.options();
    options
        .get_field_by_name("debug_redact")
        .is_some_and(|value| *value == Proto::Bool(true))
}

/// Every message and enum that `from` leads to, by full name with the short one.
fn reach(from: &MessageDescriptor, reached: &mut BTreeMap<String, String>) {
    if well_known(from.full_name()).is_some() {
        return;
    }
    if Own::of(from.full_name()).is_some() {
        let inside = [Own::Row, Own::Value];
        let own = inside.into_iter().filter_map(|own| own::inner(from, own));
        for of in own.chain([from.clone()]) {
            reached.insert(of.full_name().to_owned(), of.name().to_owned());
        }
        return;
    }
    if !from.is_map_entry()
        && reached
            .insert(from.full_name().to_owned(), from.name().to_owned())
            .is_some()
    {
        return;
    }
    for field in from.fields() {
        match field.kind() {
            Kind::Message(of) => reach(&of, reached),
            Kind::Enum(of) => {
                reached.insert(of.full_name().to_owned(), of.name().to_owned());
            }
            _ => {}
        }
    }
}

/// The short name where only one has it, and the full one elsewhere.
fn short_names(reached: &BTreeMap<String, String>) -> HashMap<String, String> {
    let mut count: HashMap<&str, usize> = HashMap::new();
    for short in reached.values() {
        *count.entry(short).or_default() += 1;
    }
    let name = |(full, short): (&String, &String)| {
        let unique = count.get(short.as_str()) == Some(&1) && short != "Error";
        (full.clone(), if unique { short.clone() } else { full.clone() })
    };
    reached.iter().map(name).collect()
}

/// How the well-known types look in JSON.
fn well_known(name: &str) -> Option<Value> {
    Some(match name.strip_prefix("google.protobuf.")? {
        "Timestamp" => json!({"type": "string", "format": "date-time", "example": "2026-01-31T12:00:00Z"}),
        "Duration" => json!({"type": "string", "pattern": "^-?[0-9]+(\\.[0-9]{1,9})?s$", "example": "1.5s"}),
        "FieldMask" => json!({"type": "string", "example": "name,host"}),
        "Struct" => json!({"type": "object"}),
        "Value" => json!({}),
        "ListValue" => json!({"type": "array"}),
        "Any" => {
            json!({"type": "object", "properties": {"@type": {"type": "string"}}, "required": ["@type"]})
        }
        "DoubleValue" | "FloatValue" => json!({"type": ["number", "null"]}),
        "Int32Value" => json!({"type": ["integer", "null"], "format": "int32"}),
        "UInt32Value" => json!({"type": ["integer", "null"], "minimum": 0}),
        "Int64Value" | "UInt64Value" | "StringValue" => json!({"type": ["string", "null"]}),
        "BytesValue" => json!({"type": ["string", "null"], "contentEncoding": "base64"}),
        "BoolValue" => json!({"type": ["boolean", "null"]}),
        _ => return None,
    })
}
