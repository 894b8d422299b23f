//! Path, query and body together; streams and uploads.

use http::Method;
use prost_reflect::DynamicMessage;
use serde_json::json;

use super::{ROUTES, request};
use crate::{
    json::{self, Invalid, upload},
    routes::{Found, Kind},
};

fn fields(result: Result<serde_json::Value, Invalid>) -> Vec<String> {
    result
        .unwrap_err()
        .violations
        .into_iter()
        .map(|violation| violation.field)
        .collect()
}

#[test]
fn a_query_binds_every_kind_by_either_name() {
    let query = "kinds.int32Value=-5&kinds.int64_value=9007199254740993&kinds.boolValue=true&kinds.stringValue=a+b%2Bc%26%C3%A9&kinds.bytesValue=-_8\
                 &kinds.colour=COLOUR_RED&kinds.inner.inner.doubleValue=1.5&kinds.int32List=1&kinds.int32List=2&kinds.stringList=x&kinds.colourList=COLOUR_BLUE\
                 &kinds.at=2026-01-31T12:00:00Z&kinds.mask=fooBar,baz_qux&kinds.wrappedInt32=0&wait=1.5s&kinds.choiceText=t&kinds.maybeString=";
    let value = request(Method::GET, "/v1/echo", Some(query), "").unwrap();
    assert_eq!(
        value,
        json!({"kinds": {
            "int32Value": -5, "int64Value": "9007199254740993", "boolValue": true, "stringValue": "a b+c&é", "bytesValue": "+/8=",
            "colour": "COLOUR_RED", "inner": {"inner": {"doubleValue": 1.5}}, "int32List": [1, 2], "stringList": ["x"],
            "colourList": ["COLOUR_BLUE"], "at": "2026-01-31T12:00:00Z", "mask": "fooBar,bazQux", "wrappedInt32": 0, "choiceText": "t",
            "maybeString": "",
        }, "wait": "1.500s"})
    );
}

#[test]
fn a_query_that_does_not_fit_is_refused_with_the_parameters() {
    for (query, field) in [
        ("nothing=1", "nothing"),
        ("kinds=1", "kinds"),
        ("kinds.int32Value=x", "kinds.int32_value"),
        ("kinds.int32Value=", "kinds.int32_value"),
        ("kinds.int32Value", "kinds.int32_value"),
        ("kinds.int32Value=1&kinds.int32_value=1", "kinds.int32_value"),
        ("kinds.boolValue=1", "kinds.bool_value"),
        ("kinds.stringMap=a", "kinds.string_map"),
        ("kinds.structure=a", "kinds.structure"),
        ("kinds.innerList.int32Value=1", "kinds.innerList.int32Value"),
        ("kinds.at.seconds=1", "kinds.at.seconds"),
        ("kinds.colour=COLOUR_NONE", "kinds.colour"),
        ("kinds.colour=7", "kinds.colour"),
        ("kinds.choiceText=a&kinds.choiceNumber=1", "kinds.choice_text"),
        ("kinds.stringValue=%zz", ""),
        ("kinds.stringValue=%ff", ""),
        ("kinds..stringValue=a", "kinds..stringValue"),
        ("=a", ""),
    ] {
        assert_eq!(
            fields(request(Method::GET, "/v1/echo", Some(query), ""))[0],
            field,
            "{query}"
        );
    }
    let many = vec!["kinds.int32List=1"; 257].join("&");
    assert_eq!(fields(request(Method::GET, "/v1/echo", Some(&many), "")), [""]);
    assert!(request(Method::GET, "/v1/echo", Some("&&"), "").is_ok());
}

#[test]
fn a_method_without_a_body_refuses_one() {
    assert_eq!(fields(request(Method::GET, "/v1/echo", None, "{}")), [""]);
    assert!(request(Method::GET, "/v1/echo", None, " \r\n").is_ok());
}

#[test]
fn a_body_that_is_the_request_leaves_nothing_to_the_query() {
    assert_eq!(
        fields(request(
            Method::POST,
            "/v1/echo",
            Some("kinds.int32Value=1"),
            "{}"
        )),
        ["kinds.int32_value"]
    );
    let value = request(
        Method::POST,
        "/v1/echo",
        None,
        r#"{"kinds":{"int32Value":1},"failWith":3}"#,
    )
    .unwrap();
    assert_eq!(value, json!({"kinds": {"int32Value": 1}, "failWith": 3}));
    assert_eq!(request(Method::POST, "/v1/echo", None, "").unwrap(), json!({}));
    assert_eq!(fields(request(Method::POST, "/v1/echo", None, "[]")), [""]);
}

#[test]
fn a_body_that_is_a_field_is_joined_with_path_and_query() {
    let value = request(
        Method::PUT,
        "/v1/echo/a%20b%2Fc",
        Some("failWith=3"),
        r#"{"int32Value":1}"#,
    )
    .unwrap();
    assert_eq!(
        value,
        json!({"kinds": {"stringValue": "a b/c", "int32Value": 1}, "failWith": 3})
    );
    let same = r#"{"stringValue":"x","int32Value":1}"#;
    assert!(request(Method::PUT, "/v1/echo/x", None, same).is_ok());
    assert_eq!(
        fields(request(Method::PUT, "/v1/echo/y", None, same)),
        ["kinds.string_value"]
    );
    assert_eq!(
        fields(request(
            Method::PUT,
            "/v1/echo/x",
            Some("kinds.int32Value=1"),
            "{}"
        )),
        ["kinds.int32_value"]
    );
    assert_eq!(
        fields(request(
            Method::PUT,
            "/v1/echo/x",
            None,
            r#"{"int32Value":"q","no":1}"#
        )),
        ["kinds.int32_value", "kinds.no"]
    );
    assert_eq!(
        request(Method::PUT, "/v1/echo/x", None, "").unwrap(),
        json!({"kinds": {"stringValue": "x"}})
    );
    assert_eq!(
        request(Method::PUT, "/v1/echo/x", None, "null").unwrap(),
        json!({"kinds": {"stringValue": "x"}})
    );
}

#[test]
fn path_variables_have_kinds_and_are_decoded_once() {
    let value = request(Method::GET, "/v1/echo/%2541/by/-7", None, "").unwrap();
    assert_eq!(
        value,
        json!({"kinds": {"stringValue": "%41", "int64Value": "-7"}})
    );
    assert_eq!(
        fields(request(Method::GET, "/v1/echo/a/by/x", None, "")),
        ["kinds.int64_value"]
    );
    assert_eq!(
        fields(request(
            Method::GET,
            "/v1/echo/a/by/1",
            Some("kinds.stringValue=a"),
            ""
        )),
        ["kinds.string_value"]
    );
}

#[test]
fn a_patch_is_its_body_and_the_mask_of_its_query() {
    let body = r#"{"id":"n1","words":"w","author":{"fullName":"x"},"at":null}"#;
    let note = json!({"id": "n1", "words": "w", "author": {"fullName": "x"}});
    let value = request(Method::PATCH, "/v1/notes/n1", None, body).unwrap();
    assert_eq!(value, json!({"note": note}));
    for (query, mask) in [
        ("updateMask=words,author.fullName", "words,author.fullName"),
        ("update_mask=author.full_name", "author.fullName"),
    ] {
        let value = request(Method::PATCH, "/v1/notes/n1", Some(query), body).unwrap();
        assert_eq!(value, json!({"note": note, "updateMask": mask}));
    }
    assert_eq!(
        fields(request(
            Method::PATCH,
            "/v1/notes/n1",
            Some("updateMask=a-b"),
            body
        )),
        ["update_mask"]
    );
}

#[test]
fn an_upload_is_a_header_and_then_pieces() {
    let Found::Route(route, bindings) = ROUTES.find(&Method::POST, "/v1/files/a.txt") else {
        panic!()
    };
    assert_eq!(route.kind, Kind::ClientUpload);
    let message = |wire: Vec<u8>| {
        let message = DynamicMessage::decode(route.input.clone(), wire.as_slice()).unwrap();
        serde_json::to_value(&message).unwrap()
    };
    let first = upload::first(&route, &bindings, Some("header.mediaType=text/plain")).unwrap();
    assert_eq!(
        message(first),
        json!({"header": {"name": "a.txt", "mediaType": "text/plain"}})
    );
    assert_eq!(
        message(upload::chunk(&route, b"\0\xff")),
        json!({"chunk": "AP8="})
    );
    assert_eq!(
        upload::chunk(&route, &vec![7; upload::CHUNK_BYTES]).len(),
        upload::CHUNK_BYTES + 4
    );
    assert!(upload::first(&route, &bindings, Some("chunk=AA")).is_err());
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a status as a service would send it")]
fn a_stream_ends_in_a_frame_that_says_so() {
    let Found::Route(route, _) = ROUTES.find(&Method::GET, "/v1/count/3") else {
        panic!()
    };
    assert_eq!(route.kind, Kind::ServerStream);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (lines, events) = (json::stream::Framing::NdJson, json::stream::Framing::Sse);
    assert_eq!(
        text(lines.message(&route, b"\x08\x03").unwrap()),
        "{\"result\":{\"number\":3}}\n"
    );
    assert_eq!(text(lines.done()), "{\"done\":true}\n");
    assert_eq!(
        text(events.message(&route, b"\x08\x03").unwrap()),
        "event: message\ndata: {\"number\":3}\n\n"
    );
    assert_eq!(text(events.done()), "event: done\ndata: {\"done\":true}\n\n");
    let answer = crate::answer::error(&tonic::Status::unavailable("gone"), &types::RequestId::fresh());
    let last: serde_json::Value = serde_json::from_slice(&lines.error(&answer)).unwrap();
    assert_eq!(last["error"]["status"], "UNAVAILABLE");
    assert!(text(events.error(&answer)).starts_with("event: error\ndata: {\"error\":"));
    assert!(text(events.error(&answer)).ends_with("}\n\n"));
    assert_eq!(
        (lines.heartbeat().is_none(), events.heartbeat().is_some()),
        (true, true)
    );
}

#[test]
fn a_file_is_the_body_of_a_put_and_its_offset_in_the_query() {
    use prost::Message as _;
    use proto::query::v1::UploadFileRequest;

    let table = chassis::policy::Table::load(proto::DESCRIPTOR_SET).unwrap();
    let routes = crate::routes::Routes::load(std::sync::Arc::new(table)).unwrap();
    let path = "/v1/uploads/upl_01hzz0000000000000000000zz/data";
    let crate::routes::Found::Route(route, bindings) = routes.find(&Method::PUT, path) else {
        panic!("{path} leads nowhere");
    };
    let first = |query| upload::first(&route, &bindings, query);
    let offset = first(Some("offset=18446744073709551615")).unwrap();
    let offset = UploadFileRequest::decode(&*offset).unwrap();
    assert_eq!(offset.upload_id, "upl_01hzz0000000000000000000zz");
    assert_eq!(offset.offset, u64::MAX);
    let plain = UploadFileRequest::decode(&*first(None).unwrap()).unwrap();
    assert_eq!((plain.offset, plain.data.len()), (0, 0));
    assert!(first(Some("offset=-1")).is_err() && first(Some("data=AA")).is_err());
    let body: Vec<u8> = (0..=255).collect();
    let rest = UploadFileRequest::decode(&*upload::chunk(&route, &body)).unwrap();
    assert_eq!((rest.upload_id.as_str(), rest.data.as_ref()), ("", &body[..]));
}
