//! Messages and enums as tables.

use std::collections::BTreeMap;

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};

use super::html::{escape, rich};
use crate::{
    json::own::{self, Own, What},
    routes::{BodyRule, Route, comments::Comments},
};

/// Types that are described once and referred to.
#[derive(Default)]
pub(super) struct Types {
    messages: BTreeMap<String, MessageDescriptor>,
    enums: BTreeMap<String, EnumDescriptor>,
}

impl Types {
    /// What a value of the field is, with a link where it has a description of its own.
    fn of(&mut self, field: &FieldDescriptor) -> String {
        if let (true, Kind::Message(entry)) = (field.is_map(), field.kind()) {
            return format!("map to {}", self.kind(&entry.map_entry_value_field().kind()));
        }
        let kind = self.kind(&field.kind());
        if field.is_list() {
            format!("list of {kind}")
        } else {
            kind
        }
    }

    fn kind(&mut self, kind: &Kind) -> String {
        match kind {
            Kind::Message(of) => match well_known(of.full_name()) {
                Some(words) => words.to_owned(),
                None => {
                    self.message(of);
                    link(of.full_name(), of.name())
                }
            },
            Kind::Enum(of) => {
                self.enums.insert(of.full_name().to_owned(), of.clone());
                link(of.full_name(), of.name())
            }
            Kind::Double | Kind::Float => "number".to_owned(),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 | Kind::Uint32 | Kind::Fixed32 => {
                "integer".to_owned()
            }
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 | Kind::Uint64 | Kind::Fixed64 => {
                "integer in a string".to_owned()
            }
            Kind::Bool => "true or false".to_owned(),
            Kind::String => "string".to_owned(),
            Kind::Bytes => "base64".to_owned(),
        }
    }

    fn message(&mut self, of: &MessageDescriptor) {
        if self
            .messages
            .insert(of.full_name().to_owned(), of.clone())
            .is_some()
        {
            return;
        }
        match Own::of(of.full_name()) {
            None => of.fields().for_each(|field| {
                self.of(&field);
            }),
            Some(_) => {
                let inside = [Own::Row, Own::Value].into_iter();
                let inside: Vec<_> = inside.filter_map(|own| own::inner(of, own)).collect();
                inside.iter().for_each(|of| self.message(of));
            }
        }
    }

    /// The request's fields, and where HTTP has them.
    pub(super) fn request(&mut self, route: &Route, comments: &Comments) -> String {
        let in_path: Vec<String> = route
            .variables
            .iter()
            .map(|path| path.text(&route.schema))
            .collect();
        let body = match route.body {
            BodyRule::Field(index) | BodyRule::Raw(index) => route
                .schema
                .message(route.input_id)
                .fields
                .get(index)
                .map(|field| field.name.as_str()),
            _ => None,
        };
        let mut rows = String::new();
        for path in in_path.iter().filter(|path| path.contains('.')) {
            let about = "Which one.";
            rows.push_str(&format!(
                "<tr><td><code>{}</code></td><td>string</td><td>path</td><td>{about}</td></tr>\n",
                escape(path)
            ));
        }
        for field in route.input.fields() {
            let place = match route.body {
                _ if in_path.iter().any(|path| path == field.name()) => "path",
                _ if route.http.is_none() => "",
                BodyRule::Whole => "body",
                BodyRule::Field(_) | BodyRule::Raw(_) if body == Some(field.name()) => "is the body",
                _ => "query",
            };
            rows.push_str(&self.row(&field, Some(place), comments));
        }
        table(
            "Request",
            "<th>Field</th><th>Type</th><th>Where</th><th></th>",
            "three",
            &rows,
        )
    }

    /// The answer's fields.
    pub(super) fn answer(&mut self, of: &MessageDescriptor, comments: &Comments) -> String {
        let rows: String = of
            .fields()
            .map(|field| self.row(&field, None, comments))
            .collect();
        table("Answer", "<th>Field</th><th>Type</th><th></th>", "", &rows)
    }

    fn row(&mut self, field: &FieldDescriptor, place: Option<&str>, comments: &Comments) -> String {
        let place = place.map(|place| format!("<td>{place}</td>")).unwrap_or_default();
        format!(
            "<tr><td><code>{}</code></td><td>{}</td>{place}<td>{}</td></tr>\n",
            escape(field.json_name()),
            self.of(field),
            rich(comments.field(field)),
        )
    }

    /// Every type that was referred to.
    pub(super) fn all(&mut self, comments: &Comments) -> String {
        let messages: Vec<_> = self.messages.values().cloned().collect();
        let mut out = String::new();
        for of in messages {
            let rows: String = match Own::of(of.full_name()) {
                None => of
                    .fields()
                    .map(|field| self.row(&field, None, comments))
                    .collect(),
                Some(Own::Change) => change(&of, comments),
                Some(Own::Row | Own::Value) => String::new(),
            };
            let head = "<th>Field</th><th>Type</th><th></th>";
            out.push_str(&article(
                of.full_name(),
                of.name(),
                comments.message(&of),
                &table("", head, "", &rows),
            ));
        }
        for of in self.enums.values() {
            let value = |value: prost_reflect::EnumValueDescriptor| {
                format!(
                    "<tr><td><code>{}</code></td><td>{}</td></tr>\n",
                    escape(value.name()),
                    rich(comments.value(&value))
                )
            };
            let rows: String = of.values().map(value).collect();
            out.push_str(&article(
                of.full_name(),
                of.name(),
                comments.enumeration(of),
                &table("", "<th>Value</th><th></th>", "values", &rows),
            ));
        }
        out
    }
}

/// The rows of a change, whose JSON is its own.
fn change(of: &MessageDescriptor, comments: &Comments) -> String {
    let row = own::inner(of, Own::Row).map(|row| link(row.full_name(), row.name()));
    let row = row.unwrap_or_default();
    let line = |member: &own::Member| {
        let what = match member.what {
            What::Position => {
                "object with <code>epoch</code>, <code>file</code>, <code>offset</code>, <code>ordinal</code>"
            }
            What::TextOrNull => "string or null",
            What::Instant => "instant, RFC 3339",
            What::NumberOrNull => "integer or null",
            What::Number => "integer",
            What::Text => "string",
            What::Op => "<code>insert</code>, <code>update</code> or <code>delete</code>",
            What::RowOrNull => &format!("{row} or null"),
            What::Texts => "list of string",
        };
        format!(
            "<tr><td><code>{}</code></td><td>{what}</td><td>{}</td></tr>\n",
            member.name,
            rich(member.about(of, comments)),
        )
    };
    own::CHANGE.iter().map(line).collect()
}

fn article(full: &str, name: &str, comment: &str, table: &str) -> String {
    let (full, name) = (escape(full), escape(name));
    format!(
        "<article id=\"{full}\">\n<h3>{name}</h3>\n<p>{}</p>\n{table}</article>\n",
        rich(comment)
    )
}

fn table(title: &str, head: &str, class: &str, rows: &str) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let title = if title.is_empty() {
        String::new()
    } else {
        format!("<h4>{title}</h4>\n")
    };
    let class = if class.is_empty() {
        String::new()
    } else {
        format!(" class=\"{class}\"")
    };
    format!(
        "{title}<div class=\"table\"><table{class}>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n"
    )
}

fn link(full: &str, name: &str) -> String {
    format!("<a href=\"#{}\">{}</a>", escape(full), escape(name))
}

fn well_known(name: &str) -> Option<&'static str> {
    Some(match name.strip_prefix("google.protobuf.")? {
        "Timestamp" => "instant, RFC 3339",
        "Duration" => "seconds such as \"1.5s\"",
        "FieldMask" => "field names with commas",
        "Struct" => "any object",
        "Value" => "anything",
        "ListValue" => "any list",
        "Any" => "object with <code>@type</code>",
        "BoolValue" => "true, false or null",
        "StringValue" | "BytesValue" | "Int64Value" | "UInt64Value" => "string or null",
        _ => "number or null",
    })
}
