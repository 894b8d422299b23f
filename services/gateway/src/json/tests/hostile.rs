//! Texts and messages that are made to hurt.

use std::time::{Duration, Instant};

use super::{decoded, encoded, kinds, wrong};
use crate::json::{Broken, DEPTH_LIMIT};

const NOT_JSON: &[&str] = &[
    "{",
    "",
    " \n",
    "{\"",
    "{\"a",
    "{\"a\"",
    "{\"a\":",
    "{\"int32Value\":1",
    "{\"int32Value\":1,",
    "{\"int32Value\":1,}",
    "{,}",
    "{\"int32List\":[1,]}",
    "{\"int32List\":[,1]}",
    "{\"int32List\":[1 2]}",
    "{int32Value:1}",
    "{'int32Value':1}",
    "{\"int32Value\" 1}",
    "{\"int32Value\":01}",
    "{\"int32Value\":+1}",
    "{\"int32Value\":.5}",
    "{\"int32Value\":1.}",
    "{\"int32Value\":1e}",
    "{\"int32Value\":0x10}",
    "{\"int32Value\":-}",
    "{\"doubleValue\":NaN}",
    "{\"doubleValue\":Infinity}",
    "{\"doubleValue\":-Infinity}",
    "{\"boolValue\":True}",
    "{\"boolValue\":tru}",
    "{\"boolValue\":truee}",
    "{\"at\":nul}",
    "{} {}",
    "{}x",
    "{}\u{0}",
    "\u{feff}{}",
    "/* */{}",
    "{\"stringValue\":\"\u{1}\"}",
    "{\"stringValue\":\"a\nb\"}",
    "{\"stringValue\":\"\\x\"}",
    "{\"stringValue\":\"\\u12\"}",
    "{\"stringValue\":\"\\u12g4\"}",
    "{\"stringValue\":\"\\ud800\"}",
    "{\"stringValue\":\"\\udc00\"}",
    "{\"stringValue\":\"\\ud800\\u0041\"}",
    "{\"stringValue\":\"\\ud800\\ud800\"}",
    "{\"stringValue\":\"\\",
    "{\"stringValue\":\"\\u",
    "\u{0}",
    "\u{a0}{}",
    "{\"no\":[1,}",
    "{\"no\":{\"a\" 1}}",
];

#[test]
fn what_is_not_json_is_refused_with_its_place() {
    for text in NOT_JSON {
        let wrong = wrong(text);
        let last = wrong.last().unwrap();
        assert!(
            last.0.is_empty() && last.1.starts_with("the body is not valid JSON: line "),
            "{text:?}: {wrong:?}"
        );
    }
    for text in [
        &b"\xff"[..],
        b"{\"stringValue\":\"\xc0\x80\"}",
        b"{\"stringValue\":\"\xed\xa0\x80\"}",
        b"{\"a\":\"\xf5\"}",
        b"{\"stringValue\":\"\xe2\x82",
    ] {
        assert!(wrong(text)[0].1.ends_with("this is not UTF-8"), "{text:?}");
    }
    assert!(
        wrong("{\n \"boolValue\": yes}")[0]
            .1
            .contains("line 2, column 15"),
        "{:?}",
        wrong("{\n \"boolValue\": yes}")
    );
}

#[test]
fn a_value_that_is_no_object_is_refused() {
    for text in ["1", "\"a\"", "[]", "true", "null", "[", "\""] {
        assert_eq!(
            wrong(text),
            [(String::new(), "expected an object".to_owned())],
            "{text}"
        );
    }
}

#[test]
fn depth_has_a_limit_wherever_it_is() {
    let deep = |before: &str, after: &str, levels: usize| before.repeat(levels) + &after.repeat(levels);
    let open = |levels: usize| format!("{{\"no\":{}}}", deep("[", "]", levels));
    assert_eq!(wrong(open(DEPTH_LIMIT - 1))[0].0, "no");
    for text in [
        open(DEPTH_LIMIT),
        open(500_000),
        format!("{{\"value\":{}}}", deep("[", "]", 100_000)),
        format!("{{\"no\":{}1{}}}", "{\"a\":".repeat(100_000), "}".repeat(100_000)),
        format!("{}{}", "{\"inner\":".repeat(100_000), "}".repeat(100_000)),
        "[".repeat(500_000),
        "{\"no\":".to_owned() + &"[".repeat(500_000),
    ] {
        let last = wrong(&text).pop().unwrap();
        assert!(
            last.1.contains("64 levels")
                || last.1.contains("expected an object")
                || last.1.contains("too deeply"),
            "{last:?}"
        );
    }
    let inner = |levels: usize| format!("{}{{}}{}", "{\"inner\":".repeat(levels), "}".repeat(levels));
    let wire = decoded(&kinds(), inner(DEPTH_LIMIT - 1).as_bytes()).unwrap();
    assert!(encoded(&kinds(), &wire).is_ok());
    let list = |levels: usize| format!("{{\"value\":{}}}", deep("[", "]", levels));
    let wire = decoded(&kinds(), list(40).as_bytes()).unwrap();
    assert!(prost_reflect::DynamicMessage::decode(kinds(), wire.as_slice()).is_ok());
    assert!(wrong(list(60))[0].1.contains("nested too deeply"));
}

#[test]
fn large_texts_take_time_in_proportion() {
    let started = Instant::now();
    let keys: String = (0..60_000).map(|n| format!("\"{n}\":\"\",")).collect();
    let map = format!("{{\"stringMap\":{{{}\"x\":\"\"}}}}", keys);
    assert!(decoded(&kinds(), map.as_bytes()).is_ok());
    let list = format!("{{\"int32List\":[{}0]}}", "1,".repeat(500_000));
    assert!(decoded(&kinds(), list.as_bytes()).is_ok());
    let digits = format!("{{\"int64Value\":{}}}", "9".repeat(1_000_000));
    assert_eq!(wrong(digits)[0].0, "int64_value");
    let zeros = format!("{{\"int64Value\":1{}e-1000000}}", "0".repeat(1_000_000));
    assert!(decoded(&kinds(), zeros.as_bytes()).is_ok());
    let escapes = format!("{{\"stringValue\":\"{}\"}}", "\\u0041".repeat(170_000));
    assert!(decoded(&kinds(), escapes.as_bytes()).is_ok());
    let text = format!("{{\"stringValue\":\"{}\"}}", "a".repeat(1_000_000));
    assert!(decoded(&kinds(), text.as_bytes()).is_ok());
    // An Any reads its object once for `@type`: nested ones cost their depth times their length, which the depth limit bounds.
    let any = "{\"@type\":\"x/google.protobuf.Any\",\"value\":".repeat(30) + "{}" + &"}".repeat(30);
    assert!(decoded(&kinds(), format!("{{\"any\":{any}}}").as_bytes()).is_ok());
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn keys_that_a_client_made_up_are_shown_short_and_clean() {
    let wrong = wrong(format!(
        "{{\"{}\":1,\"\\u0000\\u001b[31m\\\"\":2}}",
        "k".repeat(10_000)
    ));
    assert_eq!(wrong[0].0.chars().count(), 65);
    assert_eq!(wrong[1].0, "\u{fffd}\u{fffd}[31m\u{fffd}");
}

#[test]
fn any_cut_of_a_text_is_refused_and_none_hangs() {
    let text = r#"{"int32Value":1,"inner":{"stringValue":"aé😀\u00e9"},"int32List":[1,2],"structure":{"a":[null,{"b":1.5e3}]},"any":{"@type":"x/trailmesh.echo.v1.ChatRequest","text":"hi"},"at":"2026-01-31T12:00:00Z"}"#;
    assert!(decoded(&kinds(), text.as_bytes()).is_ok());
    for end in 0..text.len() {
        assert!(decoded(&kinds(), &text.as_bytes()[..end]).is_err(), "{end}");
    }
}

#[test]
fn broken_messages_of_a_service_are_told_apart() {
    let good = decoded(
        &kinds(),
        br#"{"int32Value":300,"stringValue":"abc","inner":{"doubleList":[1,2]},"stringMap":{"a":"b"},"at":"2026-01-31T12:00:00Z"}"#,
    )
    .unwrap();
    assert!(encoded(&kinds(), &good).is_ok());
    for bytes in [
        &b"\x08\x01"[..],                                                // double as varint
        b"\x72\x05ab",                                                   // a length beyond the end
        b"\x72\x02\xff\xfe",                                             // not UTF-8
        b"\x18",                                                         // nothing after the tag
        b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",                 // more than 64 bits
        b"\x00\x00",                                                     // field number 0
        b"\x1b\x1c",                                                     // a group
        b"\x8a\x01\x03\x18\x01",                                         // an inner message cut off
        b"\xc2\x02\x02\x10\xff",                                         // nanos cut off
        b"\xc2\x02\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x10\x00", // beyond year 9999
        b"\xf2\x02\x05\x0a\x03abc",                                      // an Any without a known type
        b"\xe2\x02\x00",                                                 // a Value without a value
    ] {
        assert!(
            matches!(encoded(&kinds(), bytes), Err(Broken::Malformed(_))),
            "{bytes:?}"
        );
    }
}

#[test]
fn records_out_of_order_or_again_are_merged_as_readers_do() {
    // int32_value 1, then string "a", then int32_value 2, inner {int32_value: 5}, inner {string_value: "b"}, choice_text, choice_number.
    let wire = b"\x18\x01\x72\x01a\x18\x02\x8a\x01\x02\x18\x05\x8a\x01\x03\x72\x01b\x82\x02\x01x\xf8\x01\x07\xa0\x01\x09";
    let ours: serde_json::Value = serde_json::from_str(&encoded(&kinds(), wire).unwrap()).unwrap();
    assert_eq!(ours["int32Value"], 2);
    assert_eq!(ours["inner"]["int32Value"], 5);
    assert_eq!(ours["inner"]["stringValue"], "b");
    assert_eq!(ours["choiceNumber"], 7);
    assert_eq!(ours.get("choiceText"), None);
    assert_eq!(ours["int32List"], serde_json::json!([9]));
}

#[test]
fn unknown_fields_of_a_newer_service_are_left_out() {
    let wire = b"\x98\x3f\x01\x18\x05\x9a\x3f\x03abc";
    assert_eq!(encoded(&kinds(), wire), encoded(&kinds(), b"\x18\x05"));
}
