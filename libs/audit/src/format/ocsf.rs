//! OCSF 1.6: <https://schema.ocsf.io/1.6.0>. Sessions are Authentication (3002), accounts Account Change (3001), changes of everything
//! else Entity Management (3004), and what is read or refused API Activity (6003).

use serde_json::{Map, Value, json};

use super::{
    PRODUCT, VERSION,
    fields::{Fields, timestamp},
    method::{Area, Deed},
};
use crate::{Kind, Outcome};

const SCHEMA: &str = "1.6.0";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Account,
    Authentication,
    Entity,
    Api,
}

impl Class {
    fn of(fields: &Fields) -> Self {
        match (fields.kind, fields.method.area) {
            (Kind::Refusal | Kind::Read, _) => Self::Api,
            (_, Area::Session) => Self::Authentication,
            (_, Area::Account) => Self::Account,
            (_, Area::Entity) if matches!(fields.method.deed, Deed::Read | Deed::Other) => Self::Api,
            (_, Area::Entity) => Self::Entity,
        }
    }

    fn uid(self) -> (u32, &'static str) {
        match self {
            Self::Account => (3001, "Account Change"),
            Self::Authentication => (3002, "Authentication"),
            Self::Entity => (3004, "Entity Management"),
            Self::Api => (6003, "API Activity"),
        }
    }

    fn category(self) -> (u32, &'static str) {
        match self {
            Self::Api => (6, "Application Activity"),
            _ => (3, "Identity & Access Management"),
        }
    }

    /// The activity's number and name; those without a number have the method's words for a name.
    fn activity(self, fields: &Fields) -> (u32, String) {
        let (number, name) = match (self, fields.method.name.as_str()) {
            (Self::Authentication, "LogIn") => (1, "Logon"),
            (Self::Authentication, "LogOut" | "RevokeSession" | "RevokeOtherSessions") => (2, "Logoff"),
            (Self::Account, "SignUp") => (1, "Create"),
            (Self::Account, "VerifyEmail") => (2, "Enable"),
            (Self::Account, "ChangePassword") => (3, "Password Change"),
            (Self::Account, "ResetPassword") => (4, "Password Reset"),
            (Self::Account, "ActivateTotp") => (10, "MFA Factor Enable"),
            (Self::Account, "DisableTotp") => (11, "MFA Factor Disable"),
            (Self::Entity, _) => match fields.method.deed {
                Deed::Create => (1, "Create"),
                Deed::Update => (3, "Update"),
                Deed::Delete => (4, "Delete"),
                Deed::Enrol => (6, "Enroll"),
                Deed::Read | Deed::Other => (99, ""),
            },
            (Self::Api, _) => match fields.method.deed {
                Deed::Create => (1, "Create"),
                Deed::Read => (2, "Read"),
                Deed::Update => (3, "Update"),
                Deed::Delete => (4, "Delete"),
                Deed::Enrol | Deed::Other => (99, ""),
            },
            _ => (99, ""),
        };
        if name.is_empty() {
            (number, fields.method.words())
        } else {
            (number, name.to_owned())
        }
    }
}

/// The entry as an event of OCSF.
pub(super) fn json(fields: &Fields) -> Value {
    let class = Class::of(fields);
    let mut event = common(fields, class);
    event.insert("actor".to_owned(), actor(fields));
    if let Some(http) = http_request(fields) {
        event.insert("http_request".to_owned(), http);
    }
    // An address where there is one; the class of API calls takes no event without a word of its source.
    match (source(fields), class) {
        (Some(source), _) => drop(event.insert("src_endpoint".to_owned(), source)),
        (None, Class::Api) => drop(event.insert("src_endpoint".to_owned(), json!({"name": "unknown"}))),
        (None, _) => {}
    }
    let own = match class {
        Class::Authentication => authentication(fields),
        Class::Account => json!({"user": subject(fields)}),
        Class::Entity => json!({"entity": entity(fields)}),
        Class::Api => api(fields),
    };
    if let Value::Object(own) = own {
        event.extend(own);
    }
    event.insert("unmapped".to_owned(), unmapped(fields, class));
    Value::Object(event)
}

fn common(fields: &Fields, class: Class) -> Map<String, Value> {
    let (class_uid, class_name) = class.uid();
    let (category_uid, category_name) = class.category();
    let (activity_id, activity_name) = class.activity(fields);
    let (severity_id, severity) = match fields.severity() {
        1 => (1, "Informational"),
        2 => (2, "Low"),
        _ => (3, "Medium"),
    };
    let (status_id, status) = match fields.outcome {
        Outcome::Succeeded => (1, "Success"),
        Outcome::Failed => (2, "Failure"),
        Outcome::Unknown => (0, "Unknown"),
    };
    let mut event = Map::new();
    let mut put = |name: &str, value: Value| drop(event.insert(name.to_owned(), value));
    put("class_uid", class_uid.into());
    put("class_name", class_name.into());
    put("category_uid", category_uid.into());
    put("category_name", category_name.into());
    put("activity_id", activity_id.into());
    put("type_uid", (class_uid * 100 + activity_id).into());
    put("type_name", format!("{class_name}: {activity_name}").into());
    put("activity_name", activity_name.into());
    put("severity_id", severity_id.into());
    put("severity", severity.into());
    put("status_id", status_id.into());
    put("status", status.into());
    put_text(&mut put, "status_code", &fields.code);
    put_text(&mut put, "status_detail", &fields.reason);
    put("time", (fields.begun / 1_000).into());
    put("start_time", (fields.begun / 1_000).into());
    put("end_time", (fields.ended / 1_000).into());
    put("duration", ((fields.ended - fields.begun) / 1_000).into());
    put("count", fields.count.into());
    put("message", fields.message().into());
    put("metadata", metadata(fields));
    event
}

fn metadata(fields: &Fields) -> Value {
    let mut metadata = Map::new();
    let mut put = |name: &str, value: Value| drop(metadata.insert(name.to_owned(), value));
    put("version", SCHEMA.into());
    put(
        "product",
        json!({"name": PRODUCT, "vendor_name": PRODUCT, "version": VERSION, "feature": {"name": "audit"}}),
    );
    put("log_name", "audit".into());
    put("log_provider", PRODUCT.into());
    put("event_code", fields.method.name.clone().into());
    put("sequence", fields.sequence.into());
    put("original_time", timestamp(fields.begun).into());
    put_text(&mut put, "uid", &fields.id);
    put_text(&mut put, "tenant_uid", &fields.tenant);
    put_text(&mut put, "correlation_uid", &fields.request);
    Value::Object(metadata)
}

fn put_text(put: &mut impl FnMut(&str, Value), name: &str, value: &str) {
    if !value.is_empty() {
        put(name, value.into());
    }
}

/// A person, by id or as a stranger.
fn subject(fields: &Fields) -> Value {
    if fields.user.is_empty() {
        return json!({"name": "unknown", "type_id": 0, "type": "Unknown"});
    }
    let mut user = json!({"uid": fields.user, "type_id": 1, "type": "User"});
    if !fields.key.is_empty() {
        user["credential_uid"] = fields.key.clone().into();
    }
    user
}

fn actor(fields: &Fields) -> Value {
    let mut actor = Map::new();
    let mut put = |name: &str, value: Value| drop(actor.insert(name.to_owned(), value));
    if !fields.user.is_empty() {
        put("user", subject(fields));
    }
    if !fields.session.is_empty() {
        put(
            "session",
            json!({"uid": fields.session, "is_mfa": !fields.grant.is_empty(), "is_remote": true}),
        );
    }
    put_text(&mut put, "app_uid", &fields.agent);
    put_text(&mut put, "app_name", &fields.service);
    if actor.is_empty() {
        actor.insert("app_name".to_owned(), "unknown".into());
    }
    Value::Object(actor)
}

fn source(fields: &Fields) -> Option<Value> {
    match fields.address {
        Some(address) => Some(json!({"ip": address.to_string()})),
        None if !fields.agent.is_empty() => {
            Some(json!({"uid": fields.agent, "type_id": 99, "type": "Agent"}))
        }
        None if !fields.service.is_empty() => Some(json!({"svc_name": fields.service})),
        None => None,
    }
}

fn http_request(fields: &Fields) -> Option<Value> {
    let mut http = Map::new();
    let mut put = |name: &str, value: Value| drop(http.insert(name.to_owned(), value));
    put_text(&mut put, "http_method", &fields.http_method);
    put_text(&mut put, "user_agent", &fields.user_agent);
    put_text(&mut put, "uid", &fields.request);
    if !fields.path.is_empty() {
        put("url", json!({"path": fields.path}));
    }
    (!http.is_empty()).then_some(Value::Object(http))
}

fn authentication(fields: &Fields) -> Value {
    let mut own = json!({
        "user": subject(fields),
        "service": {"name": PRODUCT},
        "is_mfa": !fields.grant.is_empty(),
        "is_remote": true,
        "is_cleartext": false,
    });
    if !fields.session.is_empty() {
        own["session"] = json!({"uid": fields.session});
    }
    own
}

fn entity(fields: &Fields) -> Value {
    let mut entity = json!({"type_id": 99, "type": fields.method.noun});
    match fields.object() {
        Some((_, id)) => entity["uid"] = id.into(),
        None => entity["name"] = "unknown".into(),
    }
    entity
}

fn api(fields: &Fields) -> Value {
    let mut api = json!({
        "operation": fields.method.name,
        "service": {"name": if fields.method.service.is_empty() { PRODUCT } else { &fields.method.service }},
    });
    if !fields.request.is_empty() {
        api["request"] = json!({"uid": fields.request});
    }
    if fields.outcome != Outcome::Succeeded {
        api["response"] = json!({"error": fields.code, "error_message": fields.reason});
    }
    let mut own = json!({"api": api});
    let resources: Vec<Value> = fields
        .targets
        .iter()
        .filter(|(_, id)| !id.is_empty())
        .map(|(field, id)| json!({"uid": id, "type": field}))
        .collect();
    if !resources.is_empty() {
        own["resources"] = resources.into();
    }
    own
}

/// What the class has no place for.
fn unmapped(fields: &Fields, class: Class) -> Value {
    let mut rest = Map::new();
    let mut put = |name: &str, value: Value| drop(rest.insert(name.to_owned(), value));
    put("region", fields.region.clone().into());
    put_text(&mut put, "rpc_service", &fields.method.service);
    put_text(&mut put, "role", &fields.role);
    put_text(&mut put, "key_uid", &fields.key);
    put_text(&mut put, "step_up_uid", &fields.grant);
    if class != Class::Api && !fields.targets.is_empty() {
        put("targets", json!(fields.targets));
    }
    Value::Object(rest)
}
