//! A JSON value as YAML, always the same for the same value: known keys in a reader's order, the rest by name.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// The order of keys that readers know.
const ORDER: &[&str] = &[
    "openapi",
    "info",
    "title",
    "version",
    "servers",
    "url",
    "tags",
    "paths",
    "operationId",
    "name",
    "in",
    "required",
    "summary",
    "description",
    "license",
    "identifier",
    "security",
    "parameters",
    "requestBody",
    "headers",
    "content",
    "responses",
    "components",
    "schema",
    "$ref",
    "type",
    "format",
    "pattern",
    "enum",
    "example",
    "additionalProperties",
    "items",
    "properties",
    "securitySchemes",
    "schemas",
];

/// The document.
pub(super) fn write(value: &Value) -> String {
    let mut out = String::new();
    block(value, 0, &mut out);
    out
}

fn sorted(map: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut entries: Vec<_> = map.iter().collect();
    let place = |key: &str| {
        ORDER
            .iter()
            .position(|known| *known == key)
            .unwrap_or(ORDER.len())
    };
    entries.sort_by(|(a, _), (b, _)| place(a).cmp(&place(b)).then_with(|| a.cmp(b)));
    entries
}

fn block(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in sorted(map) {
                out.push_str(&" ".repeat(indent));
                entry(key, value, indent, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                out.push_str(&" ".repeat(indent));
                out.push_str("- ");
                match item {
                    Value::Object(map) if !map.is_empty() => {
                        for (index, (key, value)) in sorted(map).into_iter().enumerate() {
                            if index > 0 {
                                out.push_str(&" ".repeat(indent + 2));
                            }
                            entry(key, value, indent + 2, out);
                        }
                    }
                    other => inline(other, out),
                }
            }
        }
        other => {
            out.push_str(&" ".repeat(indent));
            inline(other, out);
        }
    }
}

fn entry(key: &str, value: &Value, indent: usize, out: &mut String) {
    out.push_str(&scalar(key));
    out.push(':');
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            block(value, indent + 2, out);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            block(value, indent + 2, out);
        }
        Value::String(text) if text.contains('\n') => {
            out.push_str(" |-\n");
            for line in text.lines() {
                if line.is_empty() {
                    out.push('\n');
                } else {
                    // Writing to a String does not fail.
                    let _ = writeln!(out, "{}{line}", " ".repeat(indent + 2));
                }
            }
        }
        other => {
            out.push(' ');
            inline(other, out);
        }
    }
}

/// A value on the rest of the line.
fn inline(value: &Value, out: &mut String) {
    match value {
        Value::String(text) => out.push_str(&scalar(text)),
        // Numbers, words, empty arrays and empty objects are YAML as they are.
        other => out.push_str(&other.to_string()),
    }
    out.push('\n');
}

/// Plain where no reader of YAML could take it for anything else, and quoted as in JSON elsewhere.
fn scalar(text: &str) -> String {
    const WORDS: [&str; 10] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n", "~"];
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let plain = text
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || " _-./()".contains(c));
    if starts_well
        && plain
        && !text.ends_with(' ')
        && !text.contains(" -")
        && !WORDS.contains(&text.to_ascii_lowercase().as_str())
    {
        return text.to_owned();
    }
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn what_is_written_reads_back_as_it_was() {
        let value = json!({
            "a": "plain words", "b": "yes", "c": "1.0", "d": "", "e": "a: b", "f": "# no", "g": "line\n\n  two\nthree", "h": [], "i": {},
            "j": [1, -2.5, null, true, "x", {"k": [{"l": 1, "m": {}}], "n": "o"}, {}], "404": {"$ref": "#/x"}, "p q": "é \"quoted\" \\ `ticks`",
            "/v1/{a}:b": "- dash", "null": "~", "r": "2026-01-31", "s": "a - b", "t": "ends ",
        });
        let text = super::write(&value);
        let back: serde_json::Value = serde_yaml_ng::from_str(&text).unwrap();
        assert_eq!(back, value, "{text}");
    }
}
