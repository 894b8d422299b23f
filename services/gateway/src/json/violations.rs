//! What is wrong with a request, where, and without ever repeating a value.

use std::{borrow::Cow, fmt::Write as _};

use types::{Code, Fault};

use super::text::{Syntax, Text};

/// How many violations one answer names.
const MOST: usize = 16;
/// How much of a key that the client made up is repeated.
const KEY_CHARACTERS: usize = 64;

/// One thing that is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field, as its proto path, for example `server.labels["a"]`. Empty: the whole request.
    pub field: String,
    /// What is wrong. Never the value.
    pub description: String,
}

/// A request that is not what its method takes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.sentence())]
pub struct Invalid {
    /// What is wrong: at least one thing, at most 16.
    pub violations: Vec<Violation>,
}

impl Invalid {
    /// One violation.
    pub(crate) fn one(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self {
            violations: vec![Violation {
                field: field.into(),
                description: description.into(),
            }],
        }
    }

    /// A body that is not JSON.
    pub(crate) fn syntax(body: &[u8], syntax: Syntax) -> Self {
        let (line, column) = Text::place(body, syntax.at);
        Self::one(
            "",
            format!(
                "the body is not valid JSON: line {line}, column {column}: {}",
                syntax.what
            ),
        )
    }

    fn sentence(&self) -> String {
        match self.violations.first() {
            Some(Violation { field, description }) if field.is_empty() => description.clone(),
            Some(Violation { field, description }) => format!("{field}: {description}"),
            None => "the request is not valid".to_owned(),
        }
    }
}

impl Fault for Invalid {
    fn code(&self) -> Code {
        Code::Invalid
    }

    fn reason(&self) -> &'static str {
        "REQUEST_INVALID"
    }

    fn field(&self) -> Option<&str> {
        self.violations
            .first()
            .map(|violation| violation.field.as_str())
            .filter(|field| !field.is_empty())
    }
}

/// One step of a path.
#[derive(Clone, Debug)]
pub(crate) enum Step<'s> {
    /// Into a field.
    Field(&'s str),
    /// To an element.
    Index(usize),
    /// To the value of a key.
    Key(Box<str>),
}

/// What was noted so far, and where the reader is.
#[derive(Debug, Default)]
pub(crate) struct Violations<'s> {
    noted: Vec<Violation>,
    path: Vec<Step<'s>>,
}

impl<'s> Violations<'s> {
    /// How deep the reader is.
    pub(crate) fn depth(&self) -> usize {
        self.path.len()
    }

    /// One step further in.
    pub(crate) fn enter(&mut self, step: Step<'s>) {
        self.path.push(step);
    }

    /// Back out to `depth`.
    pub(crate) fn leave(&mut self, depth: usize) {
        self.path.truncate(depth);
    }

    /// Notes what is wrong here; false when that is enough.
    pub(crate) fn note(&mut self, description: impl Into<Cow<'static, str>>) -> bool {
        self.noted.push(Violation {
            field: self.path_text(),
            description: description.into().into_owned(),
        });
        self.noted.len() < MOST
    }

    /// Notes what is wrong with the field of that path; false when that is enough.
    pub(crate) fn note_at(&mut self, field: String, description: &'static str) -> bool {
        self.noted.push(Violation {
            field,
            description: description.to_owned(),
        });
        self.noted.len() < MOST
    }

    /// Notes what is wrong with a member that the schema does not know.
    pub(crate) fn note_member(&mut self, key: &str, description: &'static str) -> Result<(), ()> {
        let mut field = self.path_text();
        if !field.is_empty() {
            field.push('.');
        }
        field.push_str(&shown(key));
        if self.note_at(field, description) {
            Ok(())
        } else {
            Err(())
        }
    }

    fn path_text(&self) -> String {
        let mut text = String::new();
        for step in &self.path {
            match step {
                Step::Field(name) if text.is_empty() => text.push_str(name),
                Step::Field(name) => {
                    text.push('.');
                    text.push_str(name);
                }
                // Writing to a String does not fail.
                Step::Index(index) => {
                    let _ = write!(text, "[{index}]");
                }
                Step::Key(key) => {
                    let _ = write!(text, "[\"{}\"]", shown(key));
                }
            }
        }
        text
    }

    /// `value`, if nothing was noted.
    pub(crate) fn into_result<T>(self, value: T) -> Result<T, Invalid> {
        if self.noted.is_empty() {
            Ok(value)
        } else {
            Err(Invalid {
                violations: self.noted,
            })
        }
    }
}

/// A key of the client's as it may be shown: short and printable.
pub(crate) fn shown(key: &str) -> String {
    let mut text: String = key
        .chars()
        .take(KEY_CHARACTERS)
        .map(|character| {
            if character.is_control() || character == '"' {
                '\u{fffd}'
            } else {
                character
            }
        })
        .collect();
    if key.chars().nth(KEY_CHARACTERS).is_some() {
        text.push('…');
    }
    text
}
