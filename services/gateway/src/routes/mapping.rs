//! One `google.api.http` mapping, and what it binds to.

use http::Method;
use prost_reflect::{DynamicMessage, Kind as Described, MessageDescriptor, MethodDescriptor};

use super::{
    AnswerRule, BodyRule, Form, Kind, Route,
    template::{Segment, Template},
};
use crate::json::schema::{self, Field, MessageId, Schema, Shape};

/// Where a field is, from the request down: each step's message and the field's index in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FieldPath(pub(crate) Vec<(MessageId, usize)>);

impl FieldPath {
    /// The field that `text` names, in names of the proto or of JSON with dots between; none where there is no such field, or the way to it
    /// leads through an array, a map or a type that JSON writes in its own way.
    pub(crate) fn resolve(schema: &Schema, root: MessageId, text: &str) -> Option<Self> {
        let mut steps = Vec::new();
        let mut message = Some(root);
        for name in text.split('.') {
            let id = message?;
            let index = schema.message(id).named(name, 0)?;
            let field = &schema.message(id).fields[index];
            message = match (field.shape, field.kind) {
                (Shape::Single, schema::Kind::Message(next))
                    if schema.message(next).form == schema::Form::Plain =>
                {
                    Some(next)
                }
                _ => None,
            };
            steps.push((id, index));
        }
        Some(Self(steps))
    }

    /// The field at its end.
    pub(crate) fn field<'s>(&self, schema: &'s Schema) -> Option<&'s Field> {
        self.0
            .last()
            .map(|(message, index)| &schema.message(*message).fields[*index])
    }

    /// Every field on it.
    pub(crate) fn fields<'s>(&self, schema: &'s Schema) -> impl Iterator<Item = &'s Field> {
        self.0
            .iter()
            .map(|(message, index)| &schema.message(*message).fields[*index])
    }

    /// In names of the proto, with dots between.
    pub(crate) fn text(&self, schema: &Schema) -> String {
        self.fields(schema)
            .map(|field| field.name.as_str())
            .collect::<Vec<_>>()
            .join(".")
    }
}

/// What the option says.
#[derive(Debug)]
pub(crate) struct Mapping {
    pub(crate) method: Method,
    pub(crate) template: String,
    body: String,
    answer: String,
}

/// Bytes with their content type.
const HTTP_BODY: &str = "google.api.HttpBody";

impl Mapping {
    /// The mappings of a method: none, one, or more.
    pub(crate) fn of(method: &MethodDescriptor) -> Vec<Self> {
        let Some(extension) = method.parent_pool().get_extension_by_name("google.api.http") else {
            return Vec::new();
        };
        let options = method.options();
        if !options.has_extension(&extension) {
            return Vec::new();
        }
        let value = options.get_extension(&extension);
        value.as_message().map(Self::all).unwrap_or_default()
    }

    fn all(rule: &DynamicMessage) -> Vec<Self> {
        let text = |name: &str| {
            let value = rule.get_field_by_name(name)?;
            value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let verbs = [
            ("get", Method::GET),
            ("put", Method::PUT),
            ("post", Method::POST),
            ("delete", Method::DELETE),
            ("patch", Method::PATCH),
        ];
        let first = verbs
            .into_iter()
            .find_map(|(name, method)| Some((method, text(name)?)));
        let mut mappings: Vec<Self> = first
            .map(|(method, template)| Self {
                method,
                template,
                body: text("body").unwrap_or_default(),
                answer: text("response_body").unwrap_or_default(),
            })
            .into_iter()
            .collect();
        if let Some(more) = rule.get_field_by_name("additional_bindings")
            && let Some(more) = more.as_list()
        {
            mappings.extend(
                more.iter()
                    .filter_map(|rule| rule.as_message())
                    .flat_map(Self::all),
            );
        }
        mappings
    }

    /// The route of this mapping of the method that `plain` is the gRPC route of.
    pub(crate) fn bind(&self, plain: &Route) -> Result<(Template, Route), String> {
        let template = Template::parse(&self.template)?;
        let mut route = plain.clone();
        route.http = Some(Form {
            method: self.method.clone(),
            template: self.template.clone(),
        });
        for segment in &template.segments {
            if let Segment::Variable(name) = segment {
                let path = variable(plain, name)?;
                if route.variables.contains(&path) {
                    return Err(format!("{name} is bound twice"));
                }
                route.variables.push(path);
            }
        }
        route.body = self.body_rule(plain)?;
        route.answer = self.answer_rule(plain)?;
        Ok((template, route))
    }

    fn body_rule(&self, plain: &Route) -> Result<BodyRule, String> {
        let message = plain.schema.message(plain.input_id);
        let rule = match self.body.as_str() {
            "" => BodyRule::None,
            "*" => BodyRule::Whole,
            name => {
                let index = message.fields.iter().position(|field| field.name == name);
                let index = index.ok_or_else(|| format!("the body's field {name} does not exist"))?;
                if is_raw(&plain.input, name) {
                    BodyRule::Raw(index)
                } else {
                    BodyRule::Field(index)
                }
            }
        };
        if self.method == Method::GET && rule != BodyRule::None {
            return Err("GET takes no body".into());
        }
        match (plain.kind, rule) {
            (Kind::Bidi, _) => Err("streams in both directions have no HTTP form".into()),
            (Kind::ClientUpload, BodyRule::Field(index)) => {
                let field = &message.fields[index];
                if field.kind == schema::Kind::Bytes && field.shape == Shape::Single {
                    Ok(rule)
                } else {
                    Err("the body of an upload is one field of bytes".into())
                }
            }
            (Kind::ClientUpload, _) => Err("the body of an upload names its field of bytes".into()),
            _ => Ok(rule),
        }
    }

    fn answer_rule(&self, plain: &Route) -> Result<AnswerRule, String> {
        let name = self.answer.as_str();
        if name.is_empty() {
            return Ok(AnswerRule::Whole);
        }
        let field = plain.output.get_field_by_name(name);
        match field.filter(|_| is_raw(&plain.output, name)) {
            Some(field) => Ok(AnswerRule::Raw(field.number())),
            None => Err(format!("response_body {name} is no field of type {HTTP_BODY}")),
        }
    }
}

/// Whether the field holds raw bytes.
fn is_raw(message: &MessageDescriptor, name: &str) -> bool {
    let field = message.get_field_by_name(name).filter(|field| !field.is_list());
    field.is_some_and(|field| matches!(field.kind(), Described::Message(of) if of.full_name() == HTTP_BODY))
}

/// The field that a variable names: one value, and no message.
fn variable(plain: &Route, name: &str) -> Result<FieldPath, String> {
    let path = FieldPath::resolve(&plain.schema, plain.input_id, name);
    let path = path.ok_or_else(|| format!("the variable's field {name} does not exist"))?;
    match path.field(&plain.schema) {
        Some(field) if field.shape == Shape::Single && !matches!(field.kind, schema::Kind::Message(_)) => {
            Ok(path)
        }
        _ => Err(format!("{name} is no single value")),
    }
}
