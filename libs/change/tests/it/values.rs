//! Every kind of value, there and back.

use std::borrow::Cow;

use binlog::Value;
use proptest::prelude::*;
use prost::Message;
use proto::change::v1 as pb;

fn text() -> impl Strategy<Value = String> {
    prop_oneof![".*", Just(String::new()), Just("\u{0}\"\\\u{1f600}".to_owned())]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..64)
}

/// Any value; NaN, which no column holds, is left out.
fn value() -> impl Strategy<Value = Value<'static>> {
    prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::Int),
        any::<u64>().prop_map(Value::UInt),
        any::<f32>()
            .prop_filter("a number", |v| !v.is_nan())
            .prop_map(Value::Float),
        any::<f64>()
            .prop_filter("a number", |v| !v.is_nan())
            .prop_map(Value::Double),
        text().prop_map(Value::Decimal),
        any::<u16>().prop_map(Value::Year),
        text().prop_map(Value::Date),
        text().prop_map(Value::Time),
        text().prop_map(Value::DateTime),
        text().prop_map(Value::Timestamp),
        any::<u64>().prop_map(Value::Bit),
        (any::<u16>(), text()).prop_map(|(index, label)| Value::Enum(index, Cow::Owned(label))),
        (any::<u64>(), text()).prop_map(|(bits, labels)| Value::Set(bits, labels)),
        text().prop_map(|v| Value::Text(Cow::Owned(v))),
        bytes().prop_map(|v| Value::Bytes(Cow::Owned(v))),
        text().prop_map(Value::Json),
        (any::<u32>(), bytes()).prop_map(|(srid, wkb)| Value::Geometry(srid, Cow::Owned(wkb))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_value_is_at_the_other_end_what_it_was(value in value()) {
        let bytes = change::value(&value).encode_to_vec();
        let message = pb::Value::decode(&bytes[..]).expect("a message");
        let back = change::value_of(&message);
        prop_assert_eq!(back.as_ref(), Some(&value));
        let (mut here, mut there) = (String::new(), String::new());
        value.write_json(&mut here);
        change::write_value(&message, &mut there);
        prop_assert_eq!(here, there);
    }

    #[test]
    fn a_position_is_at_the_other_end_what_it_was(epoch: u32, number in 0_u32..2_000_000, offset: u64, ordinal: u64) {
        let position = binlog::Position {
            epoch,
            at: binlog::LogPos::new(&format!("binlog.{number:06}"), offset),
            ordinal,
        };
        prop_assert_eq!(change::position_of(&change::position(&position)), position);
    }
}

#[test]
fn a_message_that_carries_nothing_or_too_large_a_number_is_no_value() {
    use pb::value::Kind;
    let none = |kind| change::value_of(&pb::Value { kind }).is_none();
    assert!(none(None));
    assert!(none(Some(Kind::Year(70_000))));
    let label = pb::EnumValue {
        index: 70_000,
        label: "x".to_owned(),
    };
    assert!(none(Some(Kind::Enum(label))));
    let mut out = String::new();
    change::write_value(&pb::Value { kind: None }, &mut out);
    assert_eq!(out, "null");
}
