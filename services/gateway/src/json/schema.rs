//! Descriptors as the transcoder wants them: names looked up once at start, every message, field and enum by index.

use std::collections::HashMap;

use prost_reflect::{
    Cardinality, DescriptorPool, EnumDescriptor, FieldDescriptor, Kind as Described, MessageDescriptor,
};

use super::{
    own::Own,
    wire::{self, WireType},
};

/// Every message and enum of a descriptor pool.
#[derive(Debug)]
pub(crate) struct Schema {
    messages: Vec<Message>,
    enums: Vec<Enum>,
    by_name: HashMap<String, MessageId>,
}

/// A message's place in its [`Schema`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MessageId(usize);

/// An enum's place in its [`Schema`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EnumId(usize);

/// A message.
#[derive(Debug)]
pub(crate) struct Message {
    /// In the order of their numbers.
    pub(crate) fields: Vec<Field>,
    /// How it looks in JSON.
    pub(crate) form: Form,
    names: HashMap<Box<str>, usize>,
}

/// How a message looks in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// An object with a member for each field.
    Plain,
    /// `"1970-01-01T00:00:00Z"`.
    Timestamp,
    /// `"1.5s"`.
    Duration,
    /// `"fooBar,baz"`.
    FieldMask,
    /// Any object.
    Struct,
    /// Any value.
    Value,
    /// Any array.
    List,
    /// The value of its one field.
    Wrapper,
    /// An object with `@type`.
    Any,
    /// A change of a row, or a part of it, as `trail` prints it.
    Own(Own),
}

/// A field.
#[derive(Debug)]
pub(crate) struct Field {
    /// As the proto names it.
    pub(crate) name: String,
    /// As JSON names it.
    pub(crate) json: String,
    /// `"name":`, ready to be written.
    pub(crate) member: String,
    /// Its number.
    pub(crate) number: u32,
    /// What one value of it is; of a map, what its values are.
    pub(crate) kind: Kind,
    /// How many values it has.
    pub(crate) shape: Shape,
    /// Whether absent differs from the default value.
    pub(crate) presence: bool,
    /// The oneof it is a member of.
    pub(crate) oneof: Option<usize>,
}

/// How many values a field has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One.
    Single,
    /// Any number.
    Repeated {
        /// Whether they go into one record.
        packed: bool,
    },
    /// One for each key of this kind.
    Map(Kind),
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Double,
    Float,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
    Bool,
    String,
    Bytes,
    Enum(EnumId),
    Message(MessageId),
}

impl Kind {
    /// How a value of this kind is written.
    pub(crate) fn wire_type(self) -> WireType {
        match self {
            Self::Double | Self::Fixed64 | Self::Sfixed64 => WireType::Fixed64,
            Self::Float | Self::Fixed32 | Self::Sfixed32 => WireType::Fixed32,
            Self::String | Self::Bytes | Self::Message(_) => WireType::Length,
            _ => WireType::Varint,
        }
    }
}

impl Field {
    /// What stands before one value on the wire.
    pub(crate) fn tag(&self) -> u64 {
        wire::tag(self.number, self.kind.wire_type())
    }
}

/// An enum.
#[derive(Debug)]
pub(crate) struct Enum {
    /// Whether it is `google.protobuf.NullValue`.
    pub(crate) null: bool,
    names: HashMap<Box<str>, i32>,
    numbers: Vec<(i32, Box<str>)>,
}

impl Enum {
    /// The number of a name.
    pub(crate) fn number(&self, name: &str) -> Option<i32> {
        self.names.get(name).copied()
    }

    /// The first name of a number.
    pub(crate) fn name(&self, number: i32) -> Option<&str> {
        let near = usize::try_from(number)
            .ok()
            .and_then(|index| self.numbers.get(index));
        if let Some((_, name)) = near.filter(|(of, _)| *of == number) {
            return Some(name);
        }
        let place = self.numbers.binary_search_by_key(&number, |(of, _)| *of).ok()?;
        self.numbers.get(place).map(|(_, name)| &**name)
    }
}

impl Message {
    /// The index of the field of that name; `near` is tried first.
    pub(crate) fn named(&self, name: &str, near: usize) -> Option<usize> {
        if self.fields.get(near).is_some_and(|field| field.json == name) {
            return Some(near);
        }
        self.names.get(name).copied()
    }

    /// The index of the field of that number.
    pub(crate) fn numbered(&self, number: u32) -> Option<usize> {
        let near = (number as usize).wrapping_sub(1);
        if self.fields.get(near).is_some_and(|field| field.number == number) {
            return Some(near);
        }
        self.fields
            .binary_search_by_key(&number, |field| field.number)
            .ok()
    }
}

impl Schema {
    /// Of everything in `pool`.
    pub(crate) fn new(pool: &DescriptorPool) -> Self {
        let messages: Vec<_> = pool.all_messages().collect();
        let enums: Vec<_> = pool.all_enums().collect();
        let places = Places {
            messages: places(messages.iter().map(MessageDescriptor::full_name)),
            enums: places(enums.iter().map(EnumDescriptor::full_name)),
        };
        Self {
            messages: messages.iter().map(|message| places.message(message)).collect(),
            enums: enums.iter().map(enumeration).collect(),
            by_name: places
                .messages
                .into_iter()
                .map(|(name, place)| (name, MessageId(place)))
                .collect(),
        }
    }

    /// The message of that full name.
    pub(crate) fn id(&self, name: &str) -> Option<MessageId> {
        self.by_name.get(name).copied()
    }

    /// A message.
    pub(crate) fn message(&self, id: MessageId) -> &Message {
        &self.messages[id.0]
    }

    /// An enum.
    pub(crate) fn enumeration(&self, id: EnumId) -> &Enum {
        &self.enums[id.0]
    }

    /// Whether JSON `null` is a value of `kind` and not its absence.
    pub(crate) fn takes_null(&self, kind: Kind) -> bool {
        match kind {
            Kind::Message(id) => self.message(id).form == Form::Value,
            Kind::Enum(id) => self.enumeration(id).null,
            _ => false,
        }
    }
}

fn places<'n>(names: impl Iterator<Item = &'n str>) -> HashMap<String, usize> {
    names
        .enumerate()
        .map(|(place, name)| (name.to_owned(), place))
        .collect()
}

fn enumeration(described: &EnumDescriptor) -> Enum {
    let mut numbers: Vec<(i32, Box<str>)> = described
        .values()
        .map(|value| (value.number(), value.name().into()))
        .collect();
    numbers.sort_by_key(|(number, _)| *number);
    numbers.dedup_by_key(|(number, _)| *number);
    Enum {
        null: described.full_name() == "google.protobuf.NullValue",
        names: described
            .values()
            .map(|value| (value.name().into(), value.number()))
            .collect(),
        numbers,
    }
}

fn form(name: &str) -> Form {
    match name {
        "google.protobuf.Timestamp" => Form::Timestamp,
        "google.protobuf.Duration" => Form::Duration,
        "google.protobuf.FieldMask" => Form::FieldMask,
        "google.protobuf.Struct" => Form::Struct,
        "google.protobuf.Value" => Form::Value,
        "google.protobuf.ListValue" => Form::List,
        "google.protobuf.Any" => Form::Any,
        "google.protobuf.DoubleValue"
        | "google.protobuf.FloatValue"
        | "google.protobuf.Int64Value"
        | "google.protobuf.UInt64Value"
        | "google.protobuf.Int32Value"
        | "google.protobuf.UInt32Value"
        | "google.protobuf.BoolValue"
        | "google.protobuf.StringValue"
        | "google.protobuf.BytesValue" => Form::Wrapper,
        name => Own::of(name).map_or(Form::Plain, Form::Own),
    }
}

/// Where each name will be.
struct Places {
    messages: HashMap<String, usize>,
    enums: HashMap<String, usize>,
}

impl Places {
    fn message(&self, described: &MessageDescriptor) -> Message {
        let mut fields: Vec<_> = described.fields().map(|field| self.field(&field)).collect();
        fields.sort_by_key(|field| field.number);
        let names = fields.iter().enumerate().flat_map(|(place, field)| {
            [
                (field.name.as_str().into(), place),
                (field.json.as_str().into(), place),
            ]
        });
        Message {
            form: form(described.full_name()),
            names: names.collect(),
            fields,
        }
    }

    fn field(&self, described: &FieldDescriptor) -> Field {
        let (shape, kind) = match described.kind() {
            Described::Message(entry) if described.is_map() => (
                Shape::Map(self.kind(&entry.map_entry_key_field().kind())),
                self.kind(&entry.map_entry_value_field().kind()),
            ),
            kind if described.cardinality() == Cardinality::Repeated => (
                Shape::Repeated {
                    packed: described.is_packed(),
                },
                self.kind(&kind),
            ),
            kind => (Shape::Single, self.kind(&kind)),
        };
        Field {
            name: described.name().to_owned(),
            json: described.json_name().to_owned(),
            member: format!("\"{}\":", described.json_name()),
            number: described.number(),
            kind,
            shape,
            presence: described.supports_presence(),
            oneof: described
                .containing_oneof()
                .filter(|oneof| !oneof.is_synthetic())
                .and_then(|oneof| {
                    let message = described.parent_message();
                    message.oneofs().position(|of| of == oneof)
                }),
        }
    }

    fn kind(&self, described: &Described) -> Kind {
        match described {
            Described::Double => Kind::Double,
            Described::Float => Kind::Float,
            Described::Int32 => Kind::Int32,
            Described::Int64 => Kind::Int64,
            Described::Uint32 => Kind::Uint32,
            Described::Uint64 => Kind::Uint64,
            Described::Sint32 => Kind::Sint32,
            Described::Sint64 => Kind::Sint64,
            Described::Fixed32 => Kind::Fixed32,
            Described::Fixed64 => Kind::Fixed64,
            Described::Sfixed32 => Kind::Sfixed32,
            Described::Sfixed64 => Kind::Sfixed64,
            Described::Bool => Kind::Bool,
            Described::String => Kind::String,
            Described::Bytes => Kind::Bytes,
            Described::Enum(of) => Kind::Enum(EnumId(self.enums[of.full_name()])),
            Described::Message(of) => Kind::Message(MessageId(self.messages[of.full_name()])),
        }
    }
}
