//! One HTTP route as an operation.

use std::collections::HashMap;

use chassis::policy::{CallerKind, Idempotency, StepUp};
use prost_reflect::{FieldDescriptor, Kind as Described, MessageDescriptor};
use serde_json::{Value, json};

use super::schema::{Schemas, describe};
use crate::chain::STRIPE;
use crate::routes::{
    AnswerRule, BodyRule, Kind, Route,
    comments::{Comments, first_sentence},
};

/// How deeply fields of nested messages become query parameters.
const QUERY_DEPTH: usize = 3;

pub(super) struct Operations<'c, 's> {
    comments: &'c Comments,
    schemas: &'s mut Schemas<'c>,
    ids: HashMap<String, usize>,
}

impl<'c, 's> Operations<'c, 's> {
    pub(super) fn new(comments: &'c Comments, schemas: &'s mut Schemas<'c>) -> Self {
        Self {
            comments,
            schemas,
            ids: HashMap::new(),
        }
    }

    pub(super) fn operation(&mut self, route: &Route) -> Value {
        let service = route.method.parent_service();
        let text = self.comments.method(&route.method);
        let (summary, rest) = first_sentence(text);
        let callers = callers(route);
        let description = if rest.is_empty() {
            callers
        } else {
            format!("{rest}\n\n{callers}")
        };
        let mut operation = json!({
            "operationId": self.id(&format!("{}_{}", service.name(), route.method.name())),
            "tags": [service.name()],
            "summary": if summary.is_empty() { route.method.name() } else { summary },
            "description": description,
            "security": security(route),
            "responses": self.responses(route),
        });
        let parameters = self.parameters(route);
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        if let Some(body) = self.body(route) {
            operation["requestBody"] = body;
        }
        operation
    }

    fn id(&mut self, name: &str) -> String {
        let uses = self.ids.entry(name.to_owned()).or_default();
        *uses += 1;
        if *uses == 1 {
            name.to_owned()
        } else {
            format!("{name}_{uses}")
        }
    }

    fn parameters(&mut self, route: &Route) -> Vec<Value> {
        let mut parameters = Vec::new();
        let mut bound = Vec::new();
        for path in &route.variables {
            let text = path.text(&route.schema);
            if let Some(field) = find(&route.input, &text) {
                let mut schema = self.schemas.field(&field);
                let description = take_description(&mut schema);
                let mut parameter =
                    json!({"name": text.replace('.', "_"), "in": "path", "required": true, "schema": schema});
                describe(&mut parameter, &description);
                parameters.push(parameter);
            }
            bound.push(text);
        }
        if route.body != BodyRule::Whole {
            let skip = match route.body {
                BodyRule::Field(index) | BodyRule::Raw(index) => route
                    .schema
                    .message(route.input_id)
                    .fields
                    .get(index)
                    .map(|field| field.name.clone()),
                _ => None,
            };
            bound.extend(skip);
            self.query(&route.input, "", "", 0, &bound, &mut parameters);
        }
        if route.path == STRIPE {
            parameters.push(json!({
                "name": "Stripe-Signature", "in": "header", "required": true,
                "description": "Proves that the body is Stripe's.",
                "schema": {"type": "string"},
            }));
        }
        let user = route.rule.caller == CallerKind::User;
        if user && route.rule.lowest_role.is_some() {
            parameters.push(json!({"$ref": "#/components/parameters/Tenant"}));
        }
        if route.rule.step_up != StepUp::None {
            parameters.push(json!({"$ref": "#/components/parameters/MfaCode"}));
        }
        parameters
    }

    /// The fields of a message that a query can give: `path` in names of JSON, `proto` in those of the proto.
    fn query(
        &mut self,
        of: &MessageDescriptor,
        path: &str,
        proto: &str,
        depth: usize,
        bound: &[String],
        parameters: &mut Vec<Value>,
    ) {
        for field in of.fields() {
            let (name, proto) = (
                format!("{path}{}", field.json_name()),
                format!("{proto}{}", field.name()),
            );
            if field.is_map() || bound.contains(&proto) {
                continue;
            }
            if let Described::Message(inner) = field.kind()
                && !in_query(inner.full_name())
            {
                if depth + 1 < QUERY_DEPTH
                    && !field.is_list()
                    && !inner.full_name().starts_with("google.protobuf.")
                {
                    self.query(
                        &inner,
                        &format!("{name}."),
                        &format!("{proto}."),
                        depth + 1,
                        bound,
                        parameters,
                    );
                }
                continue;
            }
            let mut schema = self.schemas.field(&field);
            let description = take_description(&mut schema);
            let mut parameter = json!({"name": name, "in": "query", "required": false, "schema": schema});
            describe(&mut parameter, &description);
            parameters.push(parameter);
        }
    }

    fn body(&mut self, route: &Route) -> Option<Value> {
        if route.kind == Kind::ClientUpload {
            return Some(json!({
                "required": true,
                "description": "The bytes themselves, of any length up to the limit of the edge.",
                "content": {"application/octet-stream": {}},
            }));
        }
        let bound: Vec<String> = route
            .variables
            .iter()
            .map(|path| path.text(&route.schema))
            .collect();
        let (schema, required) = match route.body {
            BodyRule::None => return None,
            BodyRule::Raw(_) => {
                return Some(json!({
                    "required": true,
                    "description": "The bytes exactly as they are, of any content type, at most 1 MiB.",
                    "content": {"*/*": {}},
                }));
            }
            // No body is an empty message, whose fields all have their defaults.
            BodyRule::Whole if bound.is_empty() => (self.schemas.message(&route.input), false),
            BodyRule::Whole => (self.schemas.object(&route.input, &bound), false),
            BodyRule::Field(index) => {
                let name = &route.schema.message(route.input_id).fields.get(index)?.name;
                (self.schemas.field(&route.input.get_field_by_name(name)?), true)
            }
        };
        Some(json!({"required": required, "content": {"application/json": {"schema": schema}}}))
    }

    fn content(&mut self, route: &Route) -> Value {
        if let AnswerRule::Raw(_) = route.answer {
            return json!({"*/*": {}});
        }
        let schema = self.schemas.message(&route.output);
        if route.kind == Kind::ServerStream {
            json!({
                "application/x-ndjson": {"schema": {
                    "description": "One such object per line. The last line is `done` or `error`.",
                    "anyOf": [
                        {"type": "object", "required": ["result"], "properties": {"result": schema}},
                        {"type": "object", "required": ["done"], "properties": {"done": {"type": "boolean"}}},
                        {"$ref": "#/components/schemas/Error"},
                    ],
                }},
                "text/event-stream": {"schema": {
                    "type": "string",
                    "description": "Events `message` with the same objects as data, and last `done` or `error`.",
                }},
            })
        } else {
            json!({"application/json": {"schema": schema}})
        }
    }

    fn responses(&mut self, route: &Route) -> Value {
        let content = self.content(route);
        let done = match (route.answer, route.kind) {
            (AnswerRule::Raw(_), Kind::ServerStream) => {
                "The bytes themselves. When something fails after they have begun, the answer ends abnormally: HTTP/2 resets the stream, \
                 HTTP/1.1 closes the connection without the last chunk. What ends normally is complete."
            }
            (AnswerRule::Raw(_), _) => "The bytes themselves.",
            _ => "It is done.",
        };
        let header = |name: &str| json!({"$ref": format!("#/components/headers/{name}")});
        let mut headers = json!({"X-Request-Id": header("X-Request-Id")});
        let user = route.rule.caller == CallerKind::User;
        if user {
            headers["RateLimit"] = header("RateLimit");
            headers["RateLimit-Policy"] = header("RateLimit-Policy");
        }
        let answer = |name: &str| json!({"$ref": format!("#/components/responses/{name}")});
        let mut responses = json!({
            "200": {"description": done, "headers": headers, "content": content},
            "400": answer("Invalid"),
            "429": answer("TooMany"),
            "default": answer("Failure"),
        });
        if user || route.rule.step_up != StepUp::None {
            responses["401"] = answer("Unauthenticated");
        }
        if user {
            responses["403"] = answer("Forbidden");
            responses["421"] = answer("Elsewhere");
        }
        if user || !route.variables.is_empty() {
            responses["404"] = answer("Missing");
        }
        if route.rule.idempotency != Idempotency::NoSideEffects {
            responses["409"] = answer("Conflict");
        }
        responses
    }
}

/// The template as OpenAPI writes it: `{server.id}` is `{server_id}`.
pub(super) fn path(template: &str) -> String {
    let mut path = String::with_capacity(template.len());
    let mut inside = false;
    for character in template.chars() {
        inside = match character {
            '{' => true,
            '}' => false,
            _ => inside,
        };
        path.push(if inside && character == '.' {
            '_'
        } else {
            character
        });
    }
    path.replace("=*}", "}")
}

fn take_description(schema: &mut Value) -> String {
    let taken = schema
        .as_object_mut()
        .and_then(|schema| schema.remove("description"));
    taken
        .and_then(|text| text.as_str().map(str::to_owned))
        .unwrap_or_default()
}

/// The field that a path of proto names leads to.
fn find(root: &MessageDescriptor, path: &str) -> Option<FieldDescriptor> {
    let (first, rest) = path
        .split_once('.')
        .map_or((path, None), |(first, rest)| (first, Some(rest)));
    let field = root.get_field_by_name(first)?;
    match (rest, field.kind()) {
        (None, _) => Some(field),
        (Some(rest), Described::Message(inner)) => find(&inner, rest),
        _ => None,
    }
}

fn in_query(name: &str) -> bool {
    let name = name.strip_prefix("google.protobuf.");
    name.is_some_and(|name| {
        matches!(name, "Timestamp" | "Duration" | "FieldMask")
            || name.ends_with("Value") && !matches!(name, "Value" | "ListValue")
    })
}

fn security(route: &Route) -> Value {
    match route.rule.caller {
        CallerKind::User if route.rule.session_only => json!([{"accessToken": []}]),
        CallerKind::User => json!([{"accessToken": []}, {"apiKey": []}]),
        _ => json!([]),
    }
}

/// Who may call, as a paragraph.
fn callers(route: &Route) -> String {
    let rule = &route.rule;
    let mut text = match (&rule.caller, rule.lowest_role) {
        (CallerKind::User, Some(role)) => {
            let key = if rule.session_only {
                "API keys may not".to_owned()
            } else {
                format!("API keys need the scope `{}`", rule.permission)
            };
            format!("For the role {} and above; {key}.", role.word())
        }
        (CallerKind::User, None) if rule.session_only => {
            "For everyone with an account; API keys may not.".to_owned()
        }
        (CallerKind::User, None) => format!(
            "For everyone with an account; API keys need the scope `{}`.",
            rule.permission
        ),
        _ => "For anyone.".to_owned(),
    };
    match rule.step_up {
        StepUp::Totp if rule.session_only => {
            text.push_str(" Takes a code in `X-MFA-Code` from whoever has a second factor.")
        }
        StepUp::Totp => {
            text.push_str(" Takes a code in `X-MFA-Code`: from people who have a second factor, and with an API key always its owner's.");
        }
        StepUp::Own => text.push_str(" Consumes the code in `X-MFA-Code` itself."),
        StepUp::None => {}
    }
    if rule.cost > 1 {
        text.push_str(&format!(" Costs {} units of the rate limits.", rule.cost));
    }
    if let Some(feature) = &rule.feature {
        text.push_str(&format!(" Takes a plan with `{feature}`."));
    }
    text
}
