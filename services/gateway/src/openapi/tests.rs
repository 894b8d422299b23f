use std::{collections::BTreeSet, fs, path::Path, sync::Arc};

use chassis::policy::Table;
use serde_json::{Value, json};

use super::{document, yaml};
use crate::{json::tests::echo, matrix, routes::Routes};

fn routes() -> Routes {
    Routes::load(Arc::new(Table::load(proto::DESCRIPTOR_SET).unwrap())).unwrap()
}

fn echo() -> Value {
    let table = Table::load(&echo::descriptor_set()).unwrap();
    document(&Routes::load(Arc::new(table)).unwrap())
}

#[test]
fn the_committed_documents_are_what_the_protos_say() {
    let routes = routes();
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    for (name, made) in [
        ("api/openapi.yaml", yaml(&routes)),
        ("permissions.md", matrix::markdown(&routes)),
    ] {
        let committed = fs::read_to_string(docs.join(name)).unwrap_or_default();
        assert!(
            committed == made,
            "docs/{name} is stale: run `./dev docs` and commit what it writes"
        );
    }
}

#[test]
fn the_yaml_is_the_document() {
    let routes = routes();
    let read: Value = serde_yaml_ng::from_str(&yaml(&routes)).unwrap();
    assert_eq!(read, document(&routes));
}

/// Every operation, as (path, verb, operation).
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().unwrap();
    let all = paths.iter().flat_map(|(path, item)| {
        item.as_object()
            .unwrap()
            .iter()
            .map(|(verb, operation)| (path.clone(), verb.clone(), operation.clone()))
    });
    all.collect()
}

#[test]
fn every_route_is_an_operation_and_no_other() {
    let routes = routes();
    let operations = operations(&document(&routes));
    let ids: BTreeSet<_> = operations
        .iter()
        .map(|(_, _, operation)| operation["operationId"].to_string())
        .collect();
    assert_eq!(ids.len(), operations.len());
    assert_eq!(operations.len(), routes.http().count());
    for (path, verb, operation) in &operations {
        let public = operation["security"] == json!([]);
        assert_eq!(
            public,
            operation["responses"].get("403").is_none(),
            "{verb} {path}"
        );
        assert!(
            !operation["summary"].as_str().unwrap().is_empty(),
            "{verb} {path}"
        );
    }
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value.as_str().and_then(|text| text.strip_prefix('#')) {
                    Some(pointer) if key == "$ref" => drop(found.insert(pointer.to_owned())),
                    _ => references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_schema_is_used() {
    for document in [document(&routes()), echo()] {
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        for pointer in &found {
            assert!(
                document.pointer(pointer).is_some_and(|value| !value.is_null()),
                "{pointer}"
            );
        }
        for name in document["components"]["schemas"].as_object().unwrap().keys() {
            assert!(found.contains(&format!("/components/schemas/{name}")), "{name}");
        }
    }
}

#[test]
fn the_rule_of_a_method_shows() {
    let document = document(&routes());
    let operation = |path: &str, verb: &str| document["paths"][path][verb].clone();
    let register = operation("/v1/servers", "post");
    assert_eq!(
        register["parameters"][0]["$ref"],
        "#/components/parameters/Tenant"
    );
    assert_eq!(
        register["parameters"][1]["$ref"],
        "#/components/parameters/MfaCode"
    );
    assert_eq!(register["security"], json!([{"accessToken": []}, {"apiKey": []}]));
    let login = operation("/v1/auth/login", "post");
    assert_eq!(login["security"], json!([]));
    assert!(login["responses"]["401"].is_object());
    assert_eq!(
        document["components"]["schemas"]["LogInRequest"]["properties"]["password"]["format"],
        "password"
    );
    assert_eq!(
        document["components"]["schemas"]["LogInRequest"]["additionalProperties"],
        false
    );
    assert_eq!(
        document["components"]["schemas"]["Server"]["additionalProperties"],
        false
    );
    assert!(
        document["components"]["schemas"]["Session"]
            .get("additionalProperties")
            .is_none()
    );
    let keys = operation("/v1/keys", "get");
    assert_eq!(keys["security"], json!([{"accessToken": []}]));
    let update = operation("/v1/servers/{server_id}", "patch");
    assert_eq!(update["parameters"][0]["name"], "server_id");
    assert_eq!(update["parameters"][1]["name"], "updateMask");
    let body = &update["requestBody"]["content"]["application/json"]["schema"];
    assert_eq!(body["$ref"], "#/components/schemas/Server");
    let revoke = operation("/v1/agents/{agent_id}:revoke", "post");
    assert_eq!(revoke["requestBody"]["required"], false);
}

#[test]
fn streams_uploads_and_further_bindings_show() {
    let document = echo();
    let operation = |path: &str, verb: &str| document["paths"][path][verb].clone();
    let count = operation("/v1/count/{to}", "get");
    assert!(count["responses"]["200"]["content"]["application/x-ndjson"].is_object());
    let upload = operation("/v1/files/{header_name}", "post");
    assert!(upload["requestBody"]["content"]["application/octet-stream"].is_object());
    assert_eq!(upload["parameters"][0]["name"], "header_name");
    let ids: BTreeSet<_> = operations(&document)
        .into_iter()
        .map(|(_, _, operation)| operation["operationId"].to_string())
        .collect();
    assert!(
        ids.contains("\"EchoService_Echo\"") && ids.contains("\"EchoService_Echo_4\""),
        "{ids:?}"
    );
    let query = operation("/v1/echo", "get")["parameters"]
        .as_array()
        .unwrap()
        .clone();
    let names: BTreeSet<_> = query
        .iter()
        .filter_map(|parameter| parameter["name"].as_str())
        .collect();
    for name in [
        "kinds.int32Value",
        "kinds.inner.boolValue",
        "kinds.int32List",
        "kinds.at",
        "kinds.wrappedBool",
        "wait",
    ] {
        assert!(names.contains(name), "{name}");
    }
    assert!(!names.contains("kinds.stringMap") && !names.contains("kinds.structure"));
    assert!(!document["paths"].as_object().unwrap().contains_key("/v1/inside"));
}

#[test]
fn the_matrix_has_every_method_once() {
    let routes = routes();
    let page = matrix::markdown(&routes);
    let rows = page
        .lines()
        .skip_while(|line| *line != "## Methods")
        .filter(|line| line.starts_with("| "));
    let heads = page.matches("| Method | HTTP |").count();
    assert_eq!(rows.count() - heads, routes.table().rules().count());
}
