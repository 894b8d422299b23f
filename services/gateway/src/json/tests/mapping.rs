//! One test for each rule of the proto3 JSON mapping.

use serde_json::{Value, json};

use super::{again, decoded, encoded, kinds, wrong};

/// Of what `Kinds` of this JSON looks like when written again, the member `name`.
fn member(json: &str, name: &str) -> Value {
    let value: Value = serde_json::from_str(&again(json)).unwrap();
    value.get(name).cloned().unwrap_or(Value::Null)
}

#[test]
fn an_empty_message_has_every_field_without_presence() {
    assert_eq!(
        again("{}"),
        concat!(
            r#"{"doubleValue":0,"floatValue":0,"int32Value":0,"int64Value":"0","uint32Value":0,"uint64Value":"0","#,
            r#""sint32Value":0,"sint64Value":"0","fixed32Value":0,"fixed64Value":"0","sfixed32Value":0,"#,
            r#""sfixed64Value":"0","boolValue":false,"stringValue":"","bytesValue":"","colour":"COLOUR_UNSPECIFIED","#,
            r#""int32List":[],"doubleList":[],"sint64List":[],"stringList":[],"bytesList":[],"colourList":[],"#,
            r#""innerList":[],"stringMap":{},"int64Map":{},"boolMap":{},"colourMap":{},"nullValue":null,"#,
            r#""atList":[],"valueList":[],"valueMap":{},"wrappedList":[],"secretNumber":0,"@odd":""}"#
        )
    );
}

#[test]
fn integers_are_numbers_or_strings_and_exact() {
    for (name, text, written) in [
        ("int32Value", "-2147483648", json!(-2_147_483_648_i64)),
        ("int32Value", "\"2147483647\"", json!(2_147_483_647)),
        ("int32Value", "1e5", json!(100_000)),
        ("int32Value", "1.0", json!(1)),
        ("int64Value", "9223372036854775807", json!("9223372036854775807")),
        (
            "int64Value",
            "\"-9223372036854775808\"",
            json!("-9223372036854775808"),
        ),
        ("int64Value", "9007199254740993", json!("9007199254740993")),
        ("int64Value", "9007199254740993.0", json!("9007199254740993")),
        ("uint32Value", "4294967295", json!(4_294_967_295_u32)),
        (
            "uint64Value",
            "18446744073709551615",
            json!("18446744073709551615"),
        ),
        ("uint64Value", "\"1e3\"", json!("1000")),
        ("sint32Value", "-2147483648", json!(-2_147_483_648_i64)),
        (
            "sint64Value",
            "-9223372036854775808",
            json!("-9223372036854775808"),
        ),
        ("fixed32Value", "4294967295", json!(4_294_967_295_u32)),
        (
            "fixed64Value",
            "18446744073709551615",
            json!("18446744073709551615"),
        ),
        ("sfixed32Value", "-2147483648", json!(-2_147_483_648_i64)),
        ("sfixed64Value", "-1", json!("-1")),
    ] {
        assert_eq!(
            member(&format!("{{\"{name}\":{text}}}"), name),
            written,
            "{name} {text}"
        );
    }
}

#[test]
fn integers_out_of_range_or_not_whole_are_refused() {
    for (name, path, text) in [
        ("int32Value", "int32_value", "2147483648"),
        ("int32Value", "int32_value", "0.5"),
        ("int32Value", "int32_value", "\"\""),
        ("int32Value", "int32_value", "\" 1\""),
        ("int32Value", "int32_value", "\"01\""),
        ("int32Value", "int32_value", "\"+1\""),
        ("int32Value", "int32_value", "\"0x1\""),
        ("int32Value", "int32_value", "true"),
        ("int32Value", "int32_value", "[1]"),
        ("int64Value", "int64_value", "9223372036854775808"),
        ("int64Value", "int64_value", "1e400"),
        ("uint32Value", "uint32_value", "-1"),
        ("uint64Value", "uint64_value", "18446744073709551616"),
        ("uint64Value", "uint64_value", "1e99999999999999999999"),
        ("sfixed32Value", "sfixed32_value", "\"NaN\""),
    ] {
        let wrong = wrong(format!("{{\"{name}\":{text}}}"));
        assert_eq!(wrong.len(), 1, "{name} {text}");
        assert_eq!(wrong[0].0, path);
        assert!(wrong[0].1.starts_with("expected a whole number"), "{wrong:?}");
    }
}

#[test]
fn floating_point_numbers_come_back_as_they_were() {
    for text in [
        "1.5",
        "-0.1",
        "1e+300",
        "5e-324",
        "1.7976931348623157e+308",
        "123456789.12345679",
        "1e-7",
    ] {
        assert!(
            again(&format!("{{\"doubleValue\":{text}}}")).starts_with(&format!("{{\"doubleValue\":{text},")),
            "{text}"
        );
    }
    assert!(again(r#"{"floatValue":0.1}"#).contains("\"floatValue\":0.1,"));
    for special in ["NaN", "Infinity", "-Infinity"] {
        assert_eq!(
            member(&format!("{{\"doubleValue\":\"{special}\"}}"), "doubleValue"),
            json!(special)
        );
        assert_eq!(
            member(&format!("{{\"floatValue\":\"{special}\"}}"), "floatValue"),
            json!(special)
        );
    }
    assert_eq!(member(r#"{"doubleValue":"1.5e3"}"#, "doubleValue"), json!(1500.0));
    for text in [
        "1e400",
        "-1e400",
        "\"1e400\"",
        "\"nan\"",
        "\"inf\"",
        "\"0x1p3\"",
        "\"\"",
        "true",
    ] {
        assert_eq!(
            wrong(format!("{{\"doubleValue\":{text}}}"))[0].0,
            "double_value",
            "{text}"
        );
    }
    for text in ["3.5e38", "-3.5e38"] {
        assert_eq!(
            wrong(format!("{{\"floatValue\":{text}}}"))[0].0,
            "float_value",
            "{text}"
        );
    }
    let minus_zero = decoded(&kinds(), br#"{"doubleValue":-0.0}"#).unwrap();
    assert!(
        encoded(&kinds(), &minus_zero)
            .unwrap()
            .starts_with("{\"doubleValue\":-0.0,")
    );
}

#[test]
fn strings_keep_every_character() {
    let text = "a\"\\/\u{8}\u{c}\n\r\t\u{0}\u{1f}\u{7f}é\u{2028}😀";
    let json = json!({"stringValue": text}).to_string();
    assert_eq!(member(&json, "stringValue"), json!(text));
    assert_eq!(
        member(r#"{"stringValue":"\ud83d\ude00\u00e9\/"}"#, "stringValue"),
        json!("😀é/")
    );
    assert!(again(r#"{"stringValue":"\u0000\u007f"}"#).contains(r#""stringValue":"\u0000\u007f""#));
}

#[test]
fn bytes_are_base64_of_either_alphabet() {
    for text in ["+/8=", "-_8", "+/8", "-_8="] {
        assert_eq!(
            member(&format!("{{\"bytesValue\":\"{text}\"}}"), "bytesValue"),
            json!("+/8="),
            "{text}"
        );
    }
    assert_eq!(
        wrong(r#"{"bytesValue":"a*b"}"#),
        [("bytes_value".into(), "expected a string of base64".into())]
    );
    assert_eq!(wrong(r#"{"bytesValue":[1]}"#)[0].0, "bytes_value");
}

#[test]
fn enums_are_names_and_may_be_numbers() {
    assert_eq!(
        member(r#"{"colour":"COLOUR_BLUE"}"#, "colour"),
        json!("COLOUR_BLUE")
    );
    assert_eq!(member(r#"{"colour":7}"#, "colour"), json!("COLOUR_BLUE"));
    assert_eq!(member(r#"{"colour":-1}"#, "colour"), json!("COLOUR_NEGATIVE"));
    assert_eq!(member(r#"{"colour":99}"#, "colour"), json!(99));
    assert_eq!(
        wrong(r#"{"colour":"colour_blue"}"#),
        [("colour".into(), "no such name in the enum".into())]
    );
    for text in ["1.5", "true", "{}", "\"7\"", "2147483648"] {
        assert_eq!(wrong(format!("{{\"colour\":{text}}}"))[0].0, "colour", "{text}");
    }
}

#[test]
fn booleans_are_words_only() {
    assert_eq!(member(r#"{"boolValue":true}"#, "boolValue"), json!(true));
    for text in ["\"true\"", "1", "0", "\"\""] {
        assert_eq!(
            wrong(format!("{{\"boolValue\":{text}}}"))[0].1,
            "expected true or false",
            "{text}"
        );
    }
}

#[test]
fn fields_are_found_by_both_names_but_once() {
    assert_eq!(member(r#"{"int32_value":1}"#, "int32Value"), json!(1));
    assert_eq!(member(r#"{"@odd":"a"}"#, "@odd"), json!("a"));
    assert_eq!(member(r#"{"odd_name":"a"}"#, "@odd"), json!("a"));
    assert_eq!(
        wrong(r#"{"int32_value":1,"int32Value":1}"#),
        [("int32_value".into(), "given twice".into())]
    );
    assert_eq!(
        wrong(r#"{"inner":{"stringValue":"a","stringValue":"b"}}"#),
        [("inner.string_value".into(), "given twice".into())]
    );
    assert_eq!(
        wrong(r#"{"INT32VALUE":1}"#),
        [("INT32VALUE".into(), "there is no such field".into())]
    );
}

#[test]
fn null_is_absence_but_not_an_element() {
    let empty = again("{}");
    for name in [
        "int32Value",
        "stringValue",
        "inner",
        "int32List",
        "stringMap",
        "at",
        "wrappedBool",
        "maybeInt32",
        "structure",
        "list",
        "any",
    ] {
        assert_eq!(again(&format!("{{\"{name}\":null}}")), empty, "{name}");
    }
    assert_eq!(
        wrong(r#"{"int32List":[1,null]}"#),
        [("int32_list[1]".into(), "null is no element".into())]
    );
    assert_eq!(wrong(r#"{"innerList":[null]}"#)[0].0, "inner_list[0]");
    assert_eq!(
        wrong(r#"{"stringMap":{"a":null}}"#),
        [("string_map[\"a\"]".into(), "null is no value".into())]
    );
    assert_eq!(member(r#"{"value":null}"#, "value"), Value::Null);
    assert!(again(r#"{"value":null}"#).contains("\"value\":null"));
    assert_eq!(
        member(r#"{"valueList":[null,1]}"#, "valueList"),
        json!([null, 1.0])
    );
    assert!(again(r#"{"choiceNull":null}"#).contains("\"choiceNull\":null"));
}

#[test]
fn presence_survives_zero() {
    assert!(again(r#"{"maybeInt32":0,"maybeString":""}"#).contains(r#""maybeInt32":0,"maybeString":"""#));
    assert!(again(r#"{"choiceNumber":0}"#).contains(r#""choiceNumber":0"#));
    assert!(again(r#"{"inner":{}}"#).contains(r#""inner":{"doubleValue":0"#));
}

#[test]
fn of_a_choice_only_one_may_be_given() {
    let path = "choice_text".to_owned();
    let problem = "another field of the same choice is given too".to_owned();
    assert_eq!(wrong(r#"{"choiceNumber":1,"choiceText":"a"}"#), [(path, problem)]);
    assert_eq!(
        member(r#"{"choiceNumber":null,"choiceText":"a"}"#, "choiceText"),
        json!("a")
    );
}

#[test]
fn maps_have_keys_of_their_kind_once() {
    assert_eq!(
        member(
            r#"{"int64Map":{"9223372036854775807":true,"-1":false}}"#,
            "int64Map"
        ),
        json!({"9223372036854775807": true, "-1": false})
    );
    assert_eq!(
        member(r#"{"colourMap":{"-5":"COLOUR_RED"}}"#, "colourMap"),
        json!({"-5": "COLOUR_RED"})
    );
    assert!(again(r#"{"boolMap":{"true":{"int32Value":1}}}"#).contains(r#""boolMap":{"true":{"#));
    assert!(
        again(r#"{"stringMap":{"b":"2","a":"1","":"0"}}"#)
            .contains(r#""stringMap":{"":"0","a":"1","b":"2"}"#)
    );
    assert_eq!(
        wrong(r#"{"stringMap":{"a":"1","\u0061":"2"}}"#),
        [("string_map[\"a\"]".into(), "given twice".into())]
    );
    assert_eq!(wrong(r#"{"int64Map":{"1":true,"1.0":true}}"#)[0].1, "given twice");
    assert_eq!(
        wrong(r#"{"int64Map":{"x":true}}"#),
        [("int64_map[\"x\"]".into(), "the key is of the wrong kind".into())]
    );
    assert_eq!(wrong(r#"{"boolMap":{"True":{}}}"#)[0].0, "bool_map[\"True\"]");
    assert_eq!(
        wrong(r#"{"boolMap":{"true":{"int32Value":"x"}}}"#)[0].0,
        "bool_map[\"true\"].int32_value"
    );
}

#[test]
fn instants_durations_and_masks_are_strings() {
    assert_eq!(
        member(r#"{"at":"2026-01-31T12:00:00.5+02:00"}"#, "at"),
        json!("2026-01-31T10:00:00.500Z")
    );
    assert_eq!(member(r#"{"lasting":"-1.50s"}"#, "lasting"), json!("-1.500s"));
    assert_eq!(member(r#"{"mask":"fooBar,a.bC"}"#, "mask"), json!("fooBar,a.bC"));
    assert_eq!(member(r#"{"mask":""}"#, "mask"), json!(""));
    for (json, path) in [
        (r#"{"at":"2026-13-01T00:00:00Z"}"#, "at"),
        (r#"{"at":1700000000}"#, "at"),
        (r#"{"at":{"seconds":1}}"#, "at"),
        (r#"{"atList":["1970-01-01T00:00:00Z","x"]}"#, "at_list[1]"),
        (r#"{"lasting":"1"}"#, "lasting"),
        (r#"{"lasting":1.5}"#, "lasting"),
        (r#"{"mask":"foo_bar"}"#, "mask"),
        (r#"{"mask":["foo"]}"#, "mask"),
    ] {
        assert_eq!(wrong(json)[0].0, path, "{json}");
    }
}

#[test]
fn wrappers_are_their_value() {
    let json = concat!(
        r#"{"wrappedDouble":1.5,"wrappedFloat":2.5,"wrappedInt64":"-1","wrappedUint64":"1","wrappedInt32":0,"#,
        r#""wrappedUint32":7,"wrappedBool":false,"wrappedString":"","wrappedBytes":"AA=="}"#
    );
    let written: Value = serde_json::from_str(&again(json)).unwrap();
    let given: Value = serde_json::from_str(json).unwrap();
    for (name, value) in given.as_object().unwrap() {
        assert_eq!(&written[name], value, "{name}");
    }
    assert_eq!(
        member(r#"{"wrappedList":["a",""]}"#, "wrappedList"),
        json!(["a", ""])
    );
    assert_eq!(wrong(r#"{"wrappedList":[null]}"#)[0].0, "wrapped_list[0]");
    assert_eq!(wrong(r#"{"wrappedInt32":{"value":1}}"#)[0].0, "wrapped_int32");
}

#[test]
fn structs_values_and_lists_are_json() {
    let any = json!({"a": null, "b": [1.0, "x", true, {"c": {}}, []], "": -0.5});
    for name in ["structure", "value"] {
        assert_eq!(member(&json!({name: any}).to_string(), name), any);
    }
    assert_eq!(
        member(r#"{"list":[1,[2],{"a":null}]}"#, "list"),
        json!([1.0, [2.0], {"a": null}])
    );
    assert_eq!(
        member(r#"{"valueMap":{"a":null,"b":"x"}}"#, "valueMap"),
        json!({"a": null, "b": "x"})
    );
    assert_eq!(
        wrong(r#"{"structure":{"a":1,"a":2}}"#),
        [("structure[\"a\"]".into(), "given twice".into())]
    );
    assert_eq!(
        wrong(r#"{"structure":[]}"#),
        [("structure".into(), "expected an object".into())]
    );
    assert_eq!(
        wrong(r#"{"list":{}}"#),
        [("list".into(), "expected an array".into())]
    );
    assert_eq!(
        wrong(r#"{"value":{"a":[0,1e999]}}"#),
        [("value[\"a\"][1]".into(), "the number is too large".into())]
    );
}

#[test]
fn any_is_an_object_of_a_known_type() {
    let url = "type.googleapis.com/trailmesh.echo.v1.ChatRequest";
    let written = json!({"@type": url, "text": "hi"});
    assert_eq!(
        member(&format!(r#"{{"any":{{"@type":"{url}","text":"hi"}}}}"#), "any"),
        written
    );
    assert_eq!(
        member(&format!(r#"{{"any":{{"text":"hi","@type":"{url}"}}}}"#), "any"),
        written
    );
    let wrapped = json!({"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1.500s"});
    assert_eq!(member(&json!({"any": wrapped}).to_string(), "any"), wrapped);
    let nested = json!({"@type": "x/google.protobuf.Any", "value": written});
    assert_eq!(member(&json!({"any": nested}).to_string(), "any"), nested);
    for (json, problem) in [
        (
            json!({"any": {"@type": "x/no.Such"}}),
            "`@type` names no known message",
        ),
        (
            json!({"any": {"@type": "trailmesh.echo.v1.ChatRequest"}}),
            "`@type` names no known message",
        ),
        (json!({"any": {"text": "hi"}}), "`@type` is missing"),
        (json!({"any": {"@type": 5}}), "expected a string"),
        (
            json!({"any": {"@type": "x/google.protobuf.Duration"}}),
            "`value` is missing",
        ),
        (
            json!({"any": {"@type": "x/google.protobuf.Duration", "value": "1s", "more": 1}}),
            "expected `@type` and one `value`, and nothing else",
        ),
    ] {
        assert_eq!(
            wrong(json.to_string()),
            [("any".into(), problem.into())],
            "{json}"
        );
    }
    let twice = format!(r#"{{"any":{{"@type":"{url}","@type":"{url}"}}}}"#);
    assert_eq!(wrong(twice), [("any".into(), "`@type` is given twice".into())]);
    let unknown = json!({"any": {"@type": url, "txt": ""}}).to_string();
    assert_eq!(
        wrong(unknown),
        [("any.txt".into(), "there is no such field".into())]
    );
}

#[test]
fn one_answer_names_all_that_is_wrong() {
    let json = r#"{"int32Value":"x","no":{"deep":[1,2,{}]},"inner":{"boolValue":1,"what":2},"innerList":[{},{"stringValue":5}],"colour":"NO","stringValue":"kept"}"#;
    let paths: Vec<_> = wrong(json).into_iter().map(|(path, _)| path).collect();
    assert_eq!(
        paths,
        [
            "int32_value",
            "no",
            "inner.bool_value",
            "inner.what",
            "inner_list[1].string_value",
            "colour"
        ]
    );
    let many = format!(
        "{{{}}}",
        (0..100)
            .map(|n| format!("\"no{n}\":0"))
            .collect::<Vec<_>>()
            .join(",")
    );
    assert_eq!(wrong(many).len(), 16);
}

#[test]
fn what_is_wrong_is_said_without_the_value() {
    for json in [
        r#"{"secretNumber":"canary-5309"}"#,
        r#"{"int32Value":"canary-5309"}"#,
        r#"{"colour":"canary-5309"}"#,
        r#"{"at":"canary-5309"}"#,
        r#"{"any":{"@type":"canary-5309"}}"#,
        r#"{"bytesValue":"canary-5309!"}"#,
        r#"{"mask":"canary-5309"}"#,
        r#"{"stringValue":"canary-5309"#,
    ] {
        assert!(!format!("{:?}", wrong(json)).contains("canary"), "{json}");
    }
}
