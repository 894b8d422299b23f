//! Random messages of every type, against prost-reflect's own mapping as the other implementation.

use std::collections::HashMap;

use prost::Message as _;
use prost_reflect::{
    DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor,
    ReflectMessage as _, SerializeOptions, Value,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{decoded, encoded, pool};

const ROUNDS: u64 = 60;

struct Maker {
    random: StdRng,
    /// How many more fields may be made.
    left: usize,
}

impl Maker {
    fn message(&mut self, of: &MessageDescriptor, depth: usize) -> DynamicMessage {
        let mut message = DynamicMessage::new(of.clone());
        match of.full_name() {
            "google.protobuf.Timestamp" => {
                self.set(&mut message, "seconds", |r| {
                    Value::I64(r.random_range(-62_135_596_800..=253_402_300_799))
                });
                self.set(&mut message, "nanos", |r| {
                    Value::I32(r.random_range(0..=999_999_999))
                });
            }
            "google.protobuf.Duration" => {
                let negative = self.random.random_bool(0.5);
                let sign = if negative { -1 } else { 1 };
                self.set(&mut message, "seconds", |r| {
                    Value::I64(sign * r.random_range(0..315_576_000_000))
                });
                self.set(&mut message, "nanos", |r| {
                    Value::I32(sign as i32 * r.random_range(0..=999_999_999))
                });
            }
            "google.protobuf.FieldMask" => {
                let paths = ["a", "foo_bar", "foo_bar.baz_q", "x1.y2"].map(|path| Value::String(path.into()));
                let count = self.random.random_range(0..=paths.len());
                message.set_field_by_name("paths", Value::List(paths[..count].to_vec()));
            }
            "google.protobuf.Any" => {
                let inner = if self.random.random_bool(0.5) {
                    "trailmesh.echo.v1.ChatRequest"
                } else {
                    "google.protobuf.Duration"
                };
                let of = pool().get_message_by_name(inner).unwrap();
                let value = self.message(&of, depth + 1).encode_to_vec();
                message.set_field_by_name("type_url", Value::String(format!("type.googleapis.com/{inner}")));
                message.set_field_by_name("value", Value::Bytes(value.into()));
            }
            // The other implementation writes a wrapped NaN as null, which reads as absent.
            "google.protobuf.DoubleValue" => message.set_field_by_name("value", Value::F64(0.5)),
            "google.protobuf.FloatValue" => message.set_field_by_name("value", Value::F32(0.5)),
            "google.protobuf.Value" => self.value(&mut message, depth),
            _ => {
                for field in of.fields() {
                    if self.left > 0 && self.random.random_bool(0.4) && depth < 6 {
                        self.left -= 1;
                        let value = self.field(&field, depth);
                        message.set_field(&field, value);
                    }
                }
            }
        }
        message
    }

    fn set(&mut self, message: &mut DynamicMessage, name: &str, make: impl FnOnce(&mut StdRng) -> Value) {
        let value = make(&mut self.random);
        message.set_field_by_name(name, value);
    }

    fn value(&mut self, message: &mut DynamicMessage, depth: usize) {
        let fields: Vec<_> = message.descriptor().fields().collect();
        let choices = if depth < 6 { fields.len() } else { 4 };
        let field = &fields[self.random.random_range(0..choices)];
        let value = match field.kind() {
            Kind::Double => Value::F64(f64::from(self.random.random::<i32>()) / 16.0),
            kind => self.single(&kind, depth),
        };
        message.set_field(field, value);
    }

    fn field(&mut self, field: &FieldDescriptor, depth: usize) -> Value {
        let count = self.random.random_range(0..4);
        if let (true, Kind::Message(entry)) = (field.is_map(), field.kind()) {
            let (key, value) = (
                entry.map_entry_key_field().kind(),
                entry.map_entry_value_field().kind(),
            );
            let entries = (0..count).map(|_| (self.key(&key), self.single(&value, depth)));
            return Value::Map(entries.collect::<HashMap<_, _>>());
        }
        if field.is_list() {
            return Value::List((0..count).map(|_| self.single(&field.kind(), depth)).collect());
        }
        self.single(&field.kind(), depth)
    }

    fn key(&mut self, kind: &Kind) -> MapKey {
        match kind {
            Kind::Bool => MapKey::Bool(self.random.random()),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => MapKey::I32(self.random.random()),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => MapKey::I64(self.random.random()),
            Kind::Uint32 | Kind::Fixed32 => MapKey::U32(self.random.random()),
            Kind::Uint64 | Kind::Fixed64 => MapKey::U64(self.random.random()),
            _ => MapKey::String(self.text()),
        }
    }

    fn text(&mut self) -> String {
        const CHARACTERS: [char; 12] = [
            'a', 'Z', '0', ' ', '"', '\\', '\n', '\u{0}', '\u{7f}', 'é', '\u{2028}', '😀',
        ];
        let length = self.random.random_range(0..12);
        (0..length)
            .map(|_| CHARACTERS[self.random.random_range(0..CHARACTERS.len())])
            .collect()
    }

    fn single(&mut self, kind: &Kind, depth: usize) -> Value {
        let edge = self.random.random_bool(0.3);
        let pick = |r: &mut StdRng, low: i128, high: i128| -> i128 {
            if edge {
                [0, 1, low, high][r.random_range(0..4)]
            } else {
                r.random_range(low..=high)
            }
        };
        let r = &mut self.random;
        match kind {
            // Numbers that serde_json, which reads for the other implementation, reads exactly.
            Kind::Double if edge => {
                Value::F64([f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0][r.random_range(0..4)])
            }
            Kind::Float if edge => {
                Value::F32([f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0][r.random_range(0..4)])
            }
            Kind::Double => Value::F64(f64::from(r.random::<i32>()) / 16.0),
            Kind::Float => Value::F32(f32::from(r.random::<i16>()) / 16.0),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
                Value::I32(pick(r, i32::MIN.into(), i32::MAX.into()) as i32)
            }
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
                Value::I64(pick(r, i64::MIN.into(), i64::MAX.into()) as i64)
            }
            Kind::Uint32 | Kind::Fixed32 => Value::U32(pick(r, 0, u32::MAX.into()) as u32),
            Kind::Uint64 | Kind::Fixed64 => Value::U64(pick(r, 0, u64::MAX.into()) as u64),
            Kind::Bool => Value::Bool(r.random()),
            Kind::String => Value::String(self.text()),
            Kind::Bytes => Value::Bytes(
                (0..r.random_range(0..20))
                    .map(|_| r.random::<u8>())
                    .collect::<Vec<_>>()
                    .into(),
            ),
            Kind::Enum(of) => {
                let values: Vec<_> = of.values().map(|value| value.number()).collect();
                Value::EnumNumber(values[r.random_range(0..values.len())])
            }
            Kind::Message(of) => Value::Message(self.message(of, depth + 1)),
        }
    }
}

/// Every message type with random values: ours reads what the other writes, the other reads what ours writes, and ours reads its own.
#[test]
fn every_message_type_comes_back_from_json() {
    let messages: Vec<_> = pool()
        .all_messages()
        .filter(|message| !message.is_map_entry())
        .collect();
    assert!(messages.len() > 40);
    for descriptor in messages
        .iter()
        .filter(|message| !message.full_name().starts_with("google.protobuf."))
    {
        for seed in 0..ROUNDS {
            let mut maker = Maker {
                random: StdRng::seed_from_u64(seed),
                left: 40,
            };
            let message = maker.message(descriptor, 0);
            one(&message, seed);
        }
    }
    for name in [
        "Timestamp",
        "Duration",
        "FieldMask",
        "Struct",
        "Value",
        "ListValue",
        "Any",
        "Int64Value",
        "BytesValue",
        "DoubleValue",
    ] {
        let descriptor = pool()
            .get_message_by_name(&format!("google.protobuf.{name}"))
            .unwrap();
        for seed in 0..ROUNDS {
            let mut maker = Maker {
                random: StdRng::seed_from_u64(seed),
                left: 40,
            };
            let message = maker.message(&descriptor, 1);
            one(&message, seed);
        }
    }
}

fn one(message: &DynamicMessage, seed: u64) {
    let descriptor = message.descriptor();
    let name = format!("{} of seed {seed}", descriptor.full_name());
    let json =
        encoded(&descriptor, &message.encode_to_vec()).unwrap_or_else(|error| panic!("{name}: {error}"));
    let back =
        decoded(&descriptor, json.as_bytes()).unwrap_or_else(|error| panic!("{name}: {error} in {json}"));
    same(
        message,
        &DynamicMessage::decode(descriptor.clone(), back.as_slice()).unwrap(),
        &name,
    );

    let mut other = Vec::new();
    let options = SerializeOptions::new().skip_default_fields(seed.is_multiple_of(2));
    message
        .serialize_with_options(&mut serde_json::Serializer::new(&mut other), &options)
        .unwrap();
    let read = decoded(&descriptor, &other).unwrap_or_else(|error| panic!("{name}: {error} in {other:?}"));
    same(
        message,
        &DynamicMessage::decode(descriptor.clone(), read.as_slice()).unwrap(),
        &name,
    );

    let mut deserializer = serde_json::Deserializer::from_str(&json);
    let read =
        DynamicMessage::deserialize_with_options(descriptor, &mut deserializer, &DeserializeOptions::new());
    same(
        message,
        &read.unwrap_or_else(|error| panic!("{name}: {error} in {json}")),
        &name,
    );
}

#[test]
fn every_finite_number_comes_back_to_the_bit() {
    let mut random = StdRng::seed_from_u64(3);
    for _ in 0..20_000 {
        let (double, float) = (f64::from_bits(random.random()), f32::from_bits(random.random()));
        let mut message = DynamicMessage::new(super::kinds());
        message.set_field_by_name(
            "double_value",
            Value::F64(if double.is_finite() { double } else { 0.5 }),
        );
        message.set_field_by_name(
            "float_value",
            Value::F32(if float.is_finite() { float } else { 0.5 }),
        );
        let wire = message.encode_to_vec();
        let json = encoded(&super::kinds(), &wire).unwrap();
        assert_eq!(decoded(&super::kinds(), json.as_bytes()).unwrap(), wire, "{json}");
    }
}

/// As JSON, because NaN is not equal to itself.
fn same(one: &DynamicMessage, other: &DynamicMessage, name: &str) {
    let (one, other) = (
        serde_json::to_value(one).unwrap(),
        serde_json::to_value(other).unwrap(),
    );
    assert_eq!(one, other, "{name}");
}

/// Bytes that no service sent: never a panic, and what is written is JSON.
#[test]
fn random_bytes_are_refused_or_become_json() {
    let mut random = StdRng::seed_from_u64(7);
    let mut written = 0;
    for _ in 0..20_000 {
        let length = random.random_range(0..40);
        let bytes: Vec<u8> = (0..length)
            .map(|_| {
                if random.random_bool(0.5) {
                    random.random_range(0..130)
                } else {
                    random.random()
                }
            })
            .collect();
        if let Ok(json) = encoded(&super::kinds(), &bytes) {
            written += 1;
            serde_json::from_str::<serde_json::Value>(&json).unwrap();
        }
    }
    assert!(written > 50, "{written}");
}

/// Texts that differ from good ones in a few bytes: never a panic, and what is taken is a message.
#[test]
fn mutated_texts_are_refused_or_become_messages() {
    let mut random = StdRng::seed_from_u64(11);
    for seed in 0..400 {
        let mut maker = Maker {
            random: StdRng::seed_from_u64(seed),
            left: 30,
        };
        let message = maker.message(&super::kinds(), 0);
        let text = encoded(&super::kinds(), &message.encode_to_vec())
            .unwrap()
            .into_bytes();
        for _ in 0..20 {
            let mut mutated = text.clone();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..mutated.len());
                match random.random_range(0..3) {
                    0 => mutated[at] = random.random(),
                    1 => drop(mutated.remove(at)),
                    _ => mutated.insert(at, b"{}[]\",:\\0e-"[random.random_range(0..11)]),
                }
            }
            if let Ok(wire) = decoded(&super::kinds(), &mutated) {
                DynamicMessage::decode(super::kinds(), wire.as_slice()).unwrap();
                assert!(serde_json::from_slice::<serde_json::Value>(&mutated).is_ok());
            }
        }
    }
}
