//! ECS 8.11: <https://www.elastic.co/guide/en/ecs/8.11>.

use serde_json::{Map, Value, json};

use super::{
    PRODUCT, VERSION,
    fields::{Fields, timestamp},
    method::{Area, Deed},
};
use crate::{Kind, Outcome};

const SCHEMA: &str = "8.11.0";

/// The entry as a document of ECS.
pub(super) fn json(fields: &Fields) -> Value {
    let mut document = json!({
        "@timestamp": timestamp(fields.begun),
        "ecs": {"version": SCHEMA},
        "message": fields.message(),
        "event": event(fields),
        "observer": {"vendor": PRODUCT, "product": PRODUCT, "version": VERSION, "type": "audit"},
        "service": {"name": "trailmesh", "type": "trailmesh"},
        "labels": labels(fields),
    });
    let mut put = |name: &str, value: Value| document[name] = value;
    if !fields.tenant.is_empty() {
        put("organization", json!({"id": fields.tenant}));
    }
    if let Some(user) = some(&[("id", &fields.user)]) {
        let mut user = user;
        if !fields.role.is_empty() {
            user["roles"] = json!([fields.role]);
        }
        put("user", user);
    }
    if let Some(address) = fields.address {
        put(
            "source",
            json!({"ip": address.to_string(), "address": address.to_string()}),
        );
    }
    if let Some(agent) = some(&[("original", &fields.user_agent)]) {
        put("user_agent", agent);
    }
    if let Some(request) = some(&[("method", &fields.http_method), ("id", &fields.request)]) {
        put("http", json!({"request": request}));
    }
    if let Some(url) = some(&[("path", &fields.path)]) {
        put("url", url);
    }
    if fields.outcome == Outcome::Failed
        && let Some(error) = some(&[("code", &fields.code), ("type", &fields.reason)])
    {
        put("error", error);
    }
    if let Some(related) = related(fields) {
        put("related", related);
    }
    document
}

fn event(fields: &Fields) -> Value {
    let (category, types) = categories(fields);
    let mut event = json!({
        "kind": "event",
        "category": [category],
        "type": types,
        "outcome": match fields.outcome {
            Outcome::Succeeded => "success",
            Outcome::Failed => "failure",
            Outcome::Unknown => "unknown",
        },
        "action": fields.method.name,
        "provider": "trailmesh",
        "module": "trailmesh",
        "dataset": "trailmesh.audit",
        "sequence": fields.sequence,
        "severity": fields.severity(),
        "start": timestamp(fields.begun),
        "end": timestamp(fields.ended),
        "duration": (fields.ended - fields.begun).saturating_mul(1_000),
    });
    for (name, value) in [
        ("id", &fields.id),
        ("code", &fields.code),
        ("reason", &fields.reason),
    ] {
        if !value.is_empty() {
            event[name] = value.clone().into();
        }
    }
    event
}

/// The category, and types that it may have.
fn categories(fields: &Fields) -> (&'static str, Vec<&'static str>) {
    if fields.kind == Kind::Refusal {
        return ("api", vec!["access", "denied"]);
    }
    let change = match fields.method.deed {
        Deed::Create | Deed::Enrol => "creation",
        Deed::Update => "change",
        Deed::Delete => "deletion",
        Deed::Read | Deed::Other => "info",
    };
    match fields.method.area {
        Area::Session => (
            "authentication",
            vec![match fields.method.name.as_str() {
                "LogIn" => "start",
                "LogOut" | "RevokeSession" | "RevokeOtherSessions" => "end",
                _ => "info",
            }],
        ),
        Area::Account => (
            "iam",
            vec!["user", if change == "info" { "change" } else { change }],
        ),
        Area::Entity if fields.kind == Kind::Read || fields.method.deed == Deed::Read => {
            ("api", vec!["access"])
        }
        Area::Entity if is_about_people(fields) => ("iam", vec!["user", change]),
        Area::Entity => ("configuration", vec![change]),
    }
}

fn is_about_people(fields: &Fields) -> bool {
    matches!(
        fields.method.service.rsplit('.').next(),
        Some("MemberService" | "ApiKeyService")
    )
}

/// Strings by name, as ECS wants labels.
fn labels(fields: &Fields) -> Value {
    let mut labels = Map::new();
    for (name, value) in [
        ("region", &fields.region),
        ("rpc_service", &fields.method.service),
        ("session_id", &fields.session),
        ("key_id", &fields.key),
        ("agent_id", &fields.agent),
        ("actor_service", &fields.service),
        ("step_up_id", &fields.grant),
    ] {
        if !value.is_empty() {
            labels.insert(name.to_owned(), value.clone().into());
        }
    }
    if fields.count > 1 {
        labels.insert("count".to_owned(), fields.count.to_string().into());
    }
    for (field, id) in &fields.targets {
        // A dot would make it an object of its own.
        labels.insert(format!("target_{}", field.replace('.', "_")), id.clone().into());
    }
    Value::Object(labels)
}

fn related(fields: &Fields) -> Option<Value> {
    let mut related = Map::new();
    if !fields.user.is_empty() {
        related.insert("user".to_owned(), json!([fields.user]));
    }
    if let Some(address) = fields.address {
        related.insert("ip".to_owned(), json!([address.to_string()]));
    }
    (!related.is_empty()).then_some(Value::Object(related))
}

/// Those that are not empty, if there is one.
fn some(fields: &[(&str, &String)]) -> Option<Value> {
    let held: Map<String, Value> = fields
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| ((*name).to_owned(), Value::from((*value).clone())))
        .collect();
    (!held.is_empty()).then_some(Value::Object(held))
}
