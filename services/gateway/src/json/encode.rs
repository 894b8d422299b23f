//! The encoded message to JSON, in one pass over its records.
//!
//! A field without presence is written also when it is absent: zero, `""`, `false`, `[]`, `{}`, an enum's first name. 64-bit integers are strings. Maps
//! are written in the order of their keys, so that equal messages give equal text. Records that are out of order or come again are first
//! put in order, the way readers of messages merge them.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    Broken,
    records::{last, occurrences, ordered, run},
    schema::{EnumId, Field, Form, Kind, Message, MessageId, Schema, Shape},
    wellknown,
    wire::{self, Reader, WireType},
};

/// How deeply messages may be nested, as with every reader of ours.
const NESTING_LIMIT: usize = 100;

/// Writes one message.
pub(crate) struct Encoder<'s, 'o> {
    schema: &'s Schema,
    out: &'o mut Vec<u8>,
    nesting: usize,
}

impl<'s, 'o> Encoder<'s, 'o> {
    /// Appends to `out`.
    pub(crate) fn new(schema: &'s Schema, out: &'o mut Vec<u8>) -> Self {
        Self {
            schema,
            out,
            nesting: 0,
        }
    }

    /// Writes `wire` as the message `id`.
    pub(crate) fn message(&mut self, id: MessageId, wire: &[u8]) -> Result<(), Broken> {
        if self.nesting == NESTING_LIMIT {
            return Err(Broken::Malformed("nested more than 100 levels deep"));
        }
        self.nesting += 1;
        let schema = self.schema;
        let message = schema.message(id);
        match message.form {
            Form::Plain => self.object(message, wire)?,
            Form::Timestamp => self.instant(wire, wellknown::write_timestamp)?,
            Form::Duration => self.instant(wire, wellknown::write_duration)?,
            Form::FieldMask => self.mask(wire)?,
            Form::Wrapper => self.wrapper(message, wire)?,
            Form::Struct => match message.fields.first() {
                Some(field) => self.map(field, Kind::String, &occurrences(wire, 1)?)?,
                None => self.text("{}"),
            },
            Form::Value => self.value(message, wire)?,
            Form::List => match message.fields.first() {
                Some(field) => self.list(field, &occurrences(wire, 1)?)?,
                None => self.text("[]"),
            },
            Form::Any => self.any(wire)?,
            Form::Own(own) => own.write(wire, self.out)?,
        }
        self.nesting -= 1;
        Ok(())
    }

    fn text(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    fn object(&mut self, message: &'s Message, wire: &[u8]) -> Result<(), Broken> {
        self.out.push(b'{');
        self.members(message, wire, true)?;
        self.out.push(b'}');
        Ok(())
    }

    /// The members of an object, after a comma unless they are the first.
    fn members(&mut self, message: &'s Message, wire: &[u8], first: bool) -> Result<(), Broken> {
        let start = self.out.len();
        if !self.in_order(message, wire, first)? {
            self.out.truncate(start);
            let ordered = ordered(message, wire)?;
            self.in_order(message, &ordered, first)?;
        }
        Ok(())
    }

    /// As `members`; false where the records are not in order or come again.
    fn in_order(&mut self, message: &'s Message, wire: &[u8], mut first: bool) -> Result<bool, Broken> {
        let mut reader = Reader::new(wire);
        let (mut next, mut oneofs) = (0, 0_u64);
        while !reader.is_empty() {
            let (number, wire_type) = reader.key()?;
            let Some(index) = message.numbered(number) else {
                reader.value(wire_type)?;
                continue;
            };
            if index < next {
                return Ok(false);
            }
            let field = &message.fields[index];
            if let Some(oneof) = field.oneof {
                let bit = 1_u64.checked_shl(oneof as u32).unwrap_or(0);
                if oneofs & bit != 0 || bit == 0 {
                    return Ok(false);
                }
                oneofs |= bit;
            }
            self.absent(&message.fields[next..index], &mut first);
            self.name(field, &mut first);
            if field.shape == Shape::Single {
                self.single(field, wire_type, &mut reader)?;
            } else {
                let mut values = vec![(wire_type, reader.value(wire_type)?)];
                run(number, &mut reader, &mut values)?;
                match field.shape {
                    Shape::Map(key) => self.map(field, key, &values)?,
                    _ => self.list(field, &values)?,
                }
            }
            next = index + 1;
        }
        self.absent(&message.fields[next..], &mut first);
        Ok(true)
    }

    fn name(&mut self, field: &Field, first: &mut bool) {
        if !*first {
            self.out.push(b',');
        }
        *first = false;
        self.out.extend_from_slice(field.member.as_bytes());
    }

    /// Fields that the message does not have, where JSON has them.
    fn absent(&mut self, fields: &'s [Field], first: &mut bool) {
        for field in fields {
            if field.presence {
                continue;
            }
            self.name(field, first);
            match (field.shape, field.kind) {
                (Shape::Repeated { .. }, _) => self.text("[]"),
                (Shape::Map(_), _) => self.text("{}"),
                (Shape::Single, kind) => self.zero(kind),
            }
        }
    }

    fn zero(&mut self, kind: Kind) {
        match kind {
            Kind::String | Kind::Bytes => self.text("\"\""),
            Kind::Bool => self.text("false"),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 | Kind::Uint64 | Kind::Fixed64 => self.text("\"0\""),
            Kind::Enum(id) => self.enumeration(id, 0),
            Kind::Message(_) => self.text("{}"),
            Kind::Double
            | Kind::Float
            | Kind::Int32
            | Kind::Sint32
            | Kind::Sfixed32
            | Kind::Uint32
            | Kind::Fixed32 => {
                self.text("0");
            }
        }
    }

    fn single(&mut self, field: &Field, wire_type: WireType, reader: &mut Reader<'_>) -> Result<(), Broken> {
        if wire_type != field.kind.wire_type() {
            return Err(Broken::Malformed("a value is written in the wrong way"));
        }
        self.value_of(field.kind, reader)
    }

    /// One value as its kind writes it.
    fn value_of(&mut self, kind: Kind, reader: &mut Reader<'_>) -> Result<(), Broken> {
        match kind {
            Kind::Double => self.float(f64::from_le_bytes(reader.fixed64()?))?,
            Kind::Float => self.float32(f32::from_le_bytes(reader.fixed32()?))?,
            Kind::Int32 => self.number(i64::from(reader.varint()? as i32)),
            Kind::Uint32 => self.number(i64::from(reader.varint()? as u32)),
            Kind::Sint32 => self.number(i64::from(wire::unzigzag(reader.varint()?) as i32)),
            Kind::Fixed32 => self.number(i64::from(u32::from_le_bytes(reader.fixed32()?))),
            Kind::Sfixed32 => self.number(i64::from(i32::from_le_bytes(reader.fixed32()?))),
            Kind::Int64 => self.quoted(i128::from(reader.varint()? as i64)),
            Kind::Uint64 => self.quoted(i128::from(reader.varint()?)),
            Kind::Sint64 => self.quoted(i128::from(wire::unzigzag(reader.varint()?))),
            Kind::Fixed64 => self.quoted(i128::from(u64::from_le_bytes(reader.fixed64()?))),
            Kind::Sfixed64 => self.quoted(i128::from(i64::from_le_bytes(reader.fixed64()?))),
            Kind::Bool => match reader.varint()? {
                0 => self.text("false"),
                _ => self.text("true"),
            },
            Kind::String => {
                let text = std::str::from_utf8(reader.bytes()?)
                    .map_err(|_| Broken::Malformed("a string is not UTF-8"))?;
                self.string(text);
            }
            Kind::Bytes => self.base64(reader.bytes()?),
            Kind::Enum(id) => {
                let number = reader.varint()? as i32;
                self.enumeration(id, number);
            }
            Kind::Message(id) => {
                let bytes = reader.bytes()?;
                self.message(id, bytes)?;
            }
        }
        Ok(())
    }

    fn number(&mut self, value: i64) {
        let mut digits = [0_u8; 20];
        let mut at = digits.len();
        let mut rest = value.unsigned_abs();
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if value < 0 {
            self.out.push(b'-');
        }
        self.out.extend_from_slice(&digits[at..]);
    }

    fn quoted(&mut self, value: i128) {
        self.out.push(b'"');
        match i64::try_from(value) {
            Ok(value) => self.number(value),
            Err(_) => self.text(&value.to_string()),
        }
        self.out.push(b'"');
    }

    fn float(&mut self, value: f64) -> Result<(), Broken> {
        if value.is_finite() {
            return serde_json::to_writer(&mut *self.out, &value).map_err(|_| Broken::Malformed("no number"));
        }
        self.text(match value {
            f64::INFINITY => "\"Infinity\"",
            f64::NEG_INFINITY => "\"-Infinity\"",
            _ => "\"NaN\"",
        });
        Ok(())
    }

    fn float32(&mut self, value: f32) -> Result<(), Broken> {
        if value.is_finite() {
            return serde_json::to_writer(&mut *self.out, &value).map_err(|_| Broken::Malformed("no number"));
        }
        self.float(value.into())
    }

    fn string(&mut self, text: &str) {
        self.out.push(b'"');
        let mut rest = text.as_bytes();
        while let Some(at) = rest
            .iter()
            .position(|byte| matches!(byte, 0..=0x1f | b'"' | b'\\' | 0x7f))
        {
            self.out.extend_from_slice(&rest[..at]);
            match rest[at] {
                b'"' => self.text("\\\""),
                b'\\' => self.text("\\\\"),
                b'\n' => self.text("\\n"),
                b'\r' => self.text("\\r"),
                b'\t' => self.text("\\t"),
                control => {
                    const HEX: &[u8; 16] = b"0123456789abcdef";
                    self.text("\\u00");
                    self.out.push(HEX[usize::from(control >> 4)]);
                    self.out.push(HEX[usize::from(control & 15)]);
                }
            }
            rest = &rest[at + 1..];
        }
        self.out.extend_from_slice(rest);
        self.out.push(b'"');
    }

    fn base64(&mut self, bytes: &[u8]) {
        self.out.push(b'"');
        let encoded = STANDARD.encode(bytes);
        self.text(&encoded);
        self.out.push(b'"');
    }

    fn enumeration(&mut self, id: EnumId, number: i32) {
        let schema = self.schema;
        let of = schema.enumeration(id);
        match of.name(number) {
            Some(_) if of.null => self.text("null"),
            Some(name) => {
                self.out.push(b'"');
                self.text(name);
                self.out.push(b'"');
            }
            None => self.number(number.into()),
        }
    }

    fn list(&mut self, field: &Field, values: &[(WireType, &[u8])]) -> Result<(), Broken> {
        self.out.push(b'[');
        let mut first = true;
        for (wire_type, value) in values {
            let mut reader = Reader::new(value);
            if *wire_type == WireType::Length && field.kind.wire_type() != WireType::Length {
                reader = Reader::new(reader.bytes()?);
            } else if *wire_type != field.kind.wire_type() {
                return Err(Broken::Malformed("a value is written in the wrong way"));
            }
            while !reader.is_empty() {
                if !first {
                    self.out.push(b',');
                }
                first = false;
                self.value_of(field.kind, &mut reader)?;
            }
        }
        self.out.push(b']');
        Ok(())
    }

    fn map(&mut self, field: &Field, key_kind: Kind, entries: &[(WireType, &[u8])]) -> Result<(), Broken> {
        let mut sorted: BTreeMap<String, Option<&[u8]>> = BTreeMap::new();
        for (wire_type, entry) in entries {
            if *wire_type != WireType::Length {
                return Err(Broken::Malformed("a value is written in the wrong way"));
            }
            let entry = Reader::new(entry).bytes()?;
            let key = last(entry, 1, key_kind.wire_type())?;
            sorted.insert(self.key(key_kind, key)?, last(entry, 2, field.kind.wire_type())?);
        }
        self.out.push(b'{');
        let mut first = true;
        for (key, value) in sorted {
            if !first {
                self.out.push(b',');
            }
            first = false;
            self.string(&key);
            self.out.push(b':');
            match value {
                Some(value) => self.value_of(field.kind, &mut Reader::new(value))?,
                None => match field.kind {
                    Kind::Message(id) => self.message(id, &[])?,
                    kind => self.zero(kind),
                },
            }
        }
        self.out.push(b'}');
        Ok(())
    }

    /// A map's key as the text that JSON has of it.
    fn key(&self, kind: Kind, key: Option<&[u8]>) -> Result<String, Broken> {
        let mut text = Vec::new();
        let mut writer = Encoder::new(self.schema, &mut text);
        match key {
            _ if kind == Kind::String => {
                let bytes = key.map_or(Ok(&[][..]), |key| Reader::new(key).bytes())?;
                text.extend_from_slice(bytes);
            }
            Some(key) => writer.value_of(kind, &mut Reader::new(key))?,
            None => writer.zero(kind),
        }
        if kind != Kind::String {
            text.retain(|byte| *byte != b'"');
        }
        String::from_utf8(text).map_err(|_| Broken::Malformed("a string is not UTF-8"))
    }

    fn instant(
        &mut self,
        wire: &[u8],
        write: fn(&mut Vec<u8>, i64, i32) -> Option<()>,
    ) -> Result<(), Broken> {
        let number = |of: u32| -> Result<u64, Broken> {
            last(wire, of, WireType::Varint)?.map_or(Ok(0), |value| Reader::new(value).varint())
        };
        let (seconds, nanos) = (number(1)? as i64, number(2)? as i32);
        self.out.push(b'"');
        write(self.out, seconds, nanos)
            .ok_or(Broken::Malformed("an instant or a duration is out of range"))?;
        self.out.push(b'"');
        Ok(())
    }

    fn mask(&mut self, wire: &[u8]) -> Result<(), Broken> {
        let mut text = String::new();
        for (_, path) in occurrences(wire, 1)? {
            let path = std::str::from_utf8(Reader::new(path).bytes()?)
                .ok()
                .and_then(wellknown::camel_case);
            let path = path.ok_or(Broken::Malformed(
                "a field mask has a path that JSON cannot write",
            ))?;
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(&path);
        }
        self.string(&text);
        Ok(())
    }

    fn wrapper(&mut self, message: &'s Message, wire: &[u8]) -> Result<(), Broken> {
        let Some(field) = message.fields.first() else {
            return Err(Broken::Malformed("a wrapper without a value"));
        };
        match last(wire, field.number, field.kind.wire_type())? {
            Some(value) => self.value_of(field.kind, &mut Reader::new(value)),
            None => {
                self.zero(field.kind);
                Ok(())
            }
        }
    }

    /// `google.protobuf.Value`: of its one choice, the last that is there.
    fn value(&mut self, message: &'s Message, wire: &[u8]) -> Result<(), Broken> {
        let mut reader = Reader::new(wire);
        let mut found = None;
        while !reader.is_empty() {
            let (number, wire_type) = reader.key()?;
            let value = reader.value(wire_type)?;
            if let Some(index) = message.numbered(number) {
                found = Some((&message.fields[index], wire_type, value));
            }
        }
        let Some((field, wire_type, value)) = found else {
            return Err(Broken::Malformed("a google.protobuf.Value without a value"));
        };
        if field.kind == Kind::Double
            && matches!(Reader::new(value).fixed64(), Ok(bytes) if !f64::from_le_bytes(bytes).is_finite())
        {
            return Err(Broken::Malformed(
                "a google.protobuf.Value that is no JSON number",
            ));
        }
        self.single(field, wire_type, &mut Reader::new(value))
    }

    fn any(&mut self, wire: &[u8]) -> Result<(), Broken> {
        let bytes = |of: u32| {
            last(wire, of, WireType::Length)?.map_or(Ok(&[][..]), |value| Reader::new(value).bytes())
        };
        let (url, value) = (bytes(1)?, bytes(2)?);
        if url.is_empty() && value.is_empty() {
            self.text("{}");
            return Ok(());
        }
        let url = std::str::from_utf8(url).map_err(|_| Broken::Malformed("a string is not UTF-8"))?;
        let name = url.rsplit_once('/').map(|(_, name)| name);
        let Some(id) = name.and_then(|name| self.schema.id(name)) else {
            return Err(Broken::Malformed(
                "a google.protobuf.Any of a type that is not known",
            ));
        };
        self.text("{\"@type\":");
        self.string(url);
        let schema = self.schema;
        let message = schema.message(id);
        if message.form == Form::Plain {
            self.members(message, value, false)?;
        } else {
            self.text(",\"value\":");
            self.message(id, value)?;
        }
        self.out.push(b'}');
        Ok(())
    }
}
