use std::sync::Arc;

use chassis::policy::Table;
use http::Method;
use types::Feature;

use super::{AnswerRule, BodyRule, Error, Found, Kind, Routes};

const HEAD: &str = r#"
    syntax = "proto3";
    package trailmesh.maps.v1;
    import "google/api/annotations.proto";
    import "google/api/httpbody.proto";
    import "google/protobuf/field_mask.proto";
    import "trailmesh/policy/v1/policy.proto";
    message Inner { string id = 1; }
    message M {
      string a = 1; string b = 2; Inner inner = 3; repeated string many = 4; map<string, string> map = 5; bytes data = 6;
      google.protobuf.FieldMask mask = 7; repeated bytes datas = 8;
      google.api.HttpBody raw = 9; repeated google.api.HttpBody raws = 10;
    }
"#;

/// The routes of one service whose methods have these mappings.
fn routes(mappings: &[&str]) -> Result<Routes, Error> {
    let methods = mappings
        .iter()
        .enumerate()
        .map(|(index, mapping)| ("", index, "", *mapping));
    routes_of(methods)
}

fn routes_of<'m>(methods: impl Iterator<Item = (&'m str, usize, &'m str, &'m str)>) -> Result<Routes, Error> {
    let methods: String = methods
        .map(|(takes, index, gives, mapping)| {
            format!(
                "rpc M{index}({takes} M) returns ({gives} M) {{
                   option (google.api.http) = {{ {mapping} }};
                   option (trailmesh.policy.v1.rule) = {{
                     caller: CALLER_PUBLIC, audit: AUDIT_NONE, no_step_up_because: \"a test\"
                   }};
                 }}"
            )
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("maps.proto");
    std::fs::write(&file, format!("{HEAD} service MapService {{ {methods} }}")).unwrap();
    let protos = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let mut compiler = protox::Compiler::new([folder.path().to_owned(), protos]).unwrap();
    compiler.include_imports(true).open_file(&file).unwrap();
    let table = Table::load(&compiler.encode_file_descriptor_set()).unwrap();
    Routes::load(Arc::new(table))
}

/// `M0 a b`: the method and its variables' values, or what is found instead.
fn found(routes: &Routes, method: Method, path: &str) -> String {
    match routes.find(&method, path) {
        Found::Route(route, bindings) => {
            let mut text = route.rule.method().to_owned();
            for value in &bindings.0 {
                text.push(' ');
                text.push_str(value);
            }
            text
        }
        Found::MethodNotAllowed(methods) => {
            format!(
                "only {}",
                methods.iter().map(Method::as_str).collect::<Vec<_>>().join(",")
            )
        }
        Found::NotFound => "nothing".to_owned(),
        Found::Malformed => "malformed".to_owned(),
    }
}

#[test]
fn paths_lead_to_methods() {
    let routes = routes(&[
        r#"get: "/v1/things/{a}""#,
        r#"get: "/v1/things/new""#,
        r#"post: "/v1/things/{a}:move" body: "*""#,
        r#"post: "/v1/things:all" body: "*""#,
        r#"get: "/v1/things/{a}/parts/{inner.id}""#,
        r#"get: "/v1/things/new/more""#,
        r#"delete: "/v1/things/{b}""#,
        r#"get: "/v1/{a}/things/{b}/x""#,
    ])
    .unwrap();
    for (method, path, expected) in [
        (Method::GET, "/v1/things/x", "M0 x"),
        (Method::HEAD, "/v1/things/x", "M0 x"),
        (Method::GET, "/v1/things/new", "M1"),
        (Method::GET, "/v1/things/ne%77", "M1"),
        (Method::DELETE, "/v1/things/new", "M6 new"),
        (Method::POST, "/v1/things/x", "only DELETE,GET"),
        (Method::POST, "/v1/things/x:move", "M2 x"),
        (Method::GET, "/v1/things/x:move", "only POST"),
        (Method::GET, "/v1/things/x%3Amove", "M0 x:move"),
        (Method::GET, "/v1/things/x:y", "M0 x:y"),
        (Method::POST, "/v1/things/x:y:move", "M2 x:y"),
        (Method::POST, "/v1/things:all", "M3"),
        (Method::POST, "/v1/things", "nothing"),
        (Method::POST, "/v1/things:none", "nothing"),
        (Method::GET, "/v1/things/a%2Fb/parts/%25", "M4 a/b %"),
        (Method::GET, "/v1/things/new/parts/p", "M4 new p"),
        (Method::GET, "/v1/things/new/more", "M5"),
        (Method::GET, "/v1/things/things/z/x", "M7 things z"),
        (Method::GET, "/v1/things/%C3%A9", "M0 é"),
        (Method::GET, "/v1/things/+", "M0 +"),
        (Method::GET, "/v1/things/..", "M0 .."),
        (Method::GET, "/v1/things/", "nothing"),
        (Method::GET, "/v1/things//parts/p", "nothing"),
        (Method::GET, "/v1/things/x/", "nothing"),
        (Method::GET, "//v1/things/x", "nothing"),
        (Method::GET, "/V1/things/x", "nothing"),
        (Method::GET, "/v1/things/:move", "M0 :move"),
        (Method::GET, "", "nothing"),
        (Method::GET, "/", "nothing"),
        (Method::GET, "*", "nothing"),
        (Method::GET, "/v1/things/%", "malformed"),
        (Method::GET, "/v1/things/%4", "malformed"),
        (Method::GET, "/v1/things/%zz", "malformed"),
        (Method::GET, "/v1/things/%+1", "malformed"),
        (Method::GET, "/v1/things/%ff", "malformed"),
        (Method::OPTIONS, "/v1/things/x", "only DELETE,GET"),
    ] {
        assert_eq!(found(&routes, method.clone(), path), expected, "{method} {path}");
    }
    let long = "/a".repeat(100_000);
    assert_eq!(found(&routes, Method::GET, &long), "nothing");
}

#[test]
fn mappings_that_mean_the_same_request_are_refused() {
    for mappings in [
        [r#"get: "/v1/x/{a}""#, r#"get: "/v1/x/{b}""#],
        [r#"get: "/v1/x""#, r#"get: "/v1/x""#],
        [r#"post: "/v1/{a}:go" body: "*""#, r#"post: "/v1/{inner.id}:go""#],
        [
            r#"get: "/v1/x" additional_bindings { get: "/v1/y" }"#,
            r#"get: "/v1/y""#,
        ],
    ] {
        assert!(
            matches!(routes(&mappings), Err(Error::Conflict(..))),
            "{mappings:?}"
        );
    }
    assert!(
        routes(&[
            r#"get: "/v1/x""#,
            r#"put: "/v1/x" body: "*""#,
            r#"get: "/v1/x:go""#
        ])
        .is_ok()
    );
}

#[test]
fn mappings_that_cannot_be_bound_are_refused() {
    for mapping in [
        r#"get: "/v1/{nothing}""#,
        r#"get: "/v1/{inner}""#,
        r#"get: "/v1/{inner.nothing}""#,
        r#"get: "/v1/{many}""#,
        r#"get: "/v1/{map}""#,
        r#"get: "/v1/{mask}""#,
        r#"get: "/v1/{mask.paths}""#,
        r#"get: "/v1/{a}/{a}""#,
        r#"get: "/v1/x" body: "*""#,
        r#"post: "/v1/x" body: "nothing""#,
        r#"post: "/v1/x" body: "inner.id""#,
        r#"post: "v1/x""#,
        r#"post: "/v1/{a=**}""#,
    ] {
        assert!(
            matches!(routes(&[mapping]), Err(Error::Mapping { .. })),
            "{mapping}"
        );
    }
}

#[test]
fn streams_have_the_forms_that_http_can_carry() {
    let one = |takes: &str, gives: &str, mapping: &str| routes_of([(takes, 0, gives, mapping)].into_iter());
    let upload = one("stream", "", r#"post: "/v1/{a}" body: "data""#).unwrap();
    let Found::Route(route, _) = upload.find(&Method::POST, "/v1/x") else {
        panic!()
    };
    assert_eq!((route.kind, route.body), (Kind::ClientUpload, BodyRule::Field(5)));
    let stream = one("", "stream", r#"get: "/v1/{a}""#).unwrap();
    assert_eq!(
        stream.grpc("/trailmesh.maps.v1.MapService/M0").unwrap().kind,
        Kind::ServerStream
    );
    for (takes, gives, mapping) in [
        ("stream", "stream", r#"post: "/v1/x" body: "*""#),
        ("stream", "", r#"post: "/v1/x" body: "*""#),
        ("stream", "", r#"post: "/v1/x" body: "a""#),
        ("stream", "", r#"post: "/v1/x" body: "datas""#),
        ("stream", "", r#"post: "/v1/x""#),
    ] {
        assert!(
            matches!(one(takes, gives, mapping), Err(Error::Mapping { .. })),
            "{takes} {gives} {mapping}"
        );
    }
}

#[test]
fn raw_bodies_are_fields_of_their_own_type() {
    let raw = routes(&[r#"post: "/v1/{a}" body: "raw" response_body: "raw""#]).unwrap();
    let Found::Route(route, _) = raw.find(&Method::POST, "/v1/x") else {
        panic!()
    };
    assert_eq!((route.body, route.answer), (BodyRule::Raw(8), AnswerRule::Raw(9)));
    for mapping in [
        r#"get: "/v1/x" body: "raw""#,
        r#"get: "/v1/x" response_body: "a""#,
        r#"get: "/v1/x" response_body: "data""#,
        r#"get: "/v1/x" response_body: "raws""#,
        r#"get: "/v1/x" response_body: "nothing""#,
    ] {
        assert!(
            matches!(routes(&[mapping]), Err(Error::Mapping { .. })),
            "{mapping}"
        );
    }
}

#[test]
fn a_rule_that_takes_an_unknown_feature_does_not_load() {
    let known = Feature::ALL[0].word().as_bytes();
    let found = |bytes: &[u8]| bytes.windows(known.len()).position(|part| part == known);
    let mut bytes = proto::DESCRIPTOR_SET.to_vec();
    while let Some(place) = found(&bytes) {
        bytes[place] = b'X';
    }
    let table = Table::load(&bytes).unwrap();
    assert!(matches!(Routes::load(Arc::new(table)), Err(Error::Feature(..))));
}

#[test]
fn what_only_services_may_call_does_not_exist_at_the_edge() {
    let table = Arc::new(Table::load(proto::DESCRIPTOR_SET).unwrap());
    let routes = Routes::load(Arc::clone(&table)).unwrap();
    for path in [
        "/trailmesh.auth.v1.GuardService/Authenticate",
        "/trailmesh.auth.v1.MailService/SendInvitation",
        "/no.Such/Method",
        "",
    ] {
        assert!(routes.grpc(path).is_none(), "{path}");
    }
    for rule in table.rules() {
        let public = matches!(
            rule.caller,
            chassis::policy::CallerKind::Public | chassis::policy::CallerKind::User
        );
        assert_eq!(routes.grpc(&rule.path).is_some(), public, "{}", rule.path);
        assert_eq!(
            routes.http().any(|route| route.path == rule.path),
            public,
            "{} has its HTTP form",
            rule.path
        );
    }
}

#[test]
fn routes_know_their_service_and_their_rule() {
    let routes = Routes::load(Arc::new(Table::load(proto::DESCRIPTOR_SET).unwrap())).unwrap();
    let Found::Route(route, _) = routes.find(&Method::PATCH, "/v1/servers/srv_1") else {
        panic!()
    };
    assert_eq!(route.path, "/trailmesh.tenant.v1.ServerService/UpdateServer");
    assert_eq!(
        (route.service.as_str(), route.rule.permission.as_str()),
        ("tenant", "servers:manage")
    );
    assert_eq!(route.input.name(), "UpdateServerRequest");
    let form = route.http.as_ref().unwrap();
    assert_eq!(
        (&form.method, form.template.as_str()),
        (&Method::PATCH, "/v1/servers/{server.id}")
    );
    assert!(routes.grpc(&route.path).unwrap().http.is_none());
}
