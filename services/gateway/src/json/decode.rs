//! JSON to the encoded message, in one pass over the text.
//!
//! A value of the wrong kind is noted with its path and passed over, so that one answer names all that is wrong; what is not JSON ends
//! the reading at once.

use std::{borrow::Cow, collections::HashSet};

use super::{
    Invalid,
    scalar::{self, Scalar},
    schema::{Field, Form, Kind, MessageId, Schema, Shape},
    text::{Syntax, Text, Token},
    violations::{Step, Violations},
    wellknown,
    wire::{self, WireType},
};

/// How deeply messages may be nested on the wire: readers of ours refuse more than 100.
const NESTING_LIMIT: usize = 90;

/// Why a value was not taken.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It is noted; what comes after the value is still of interest.
    Refused,
    /// The text is not JSON, or too much is noted already.
    Ended,
}

impl Stop {
    /// A noted violation as the reason to pass over a value.
    fn after(taken: bool) -> Self {
        if taken { Self::Refused } else { Self::Ended }
    }
}

/// Reads one text into one message.
pub(crate) struct Decoder<'s, 't> {
    pub(super) schema: &'s Schema,
    pub(super) text: Text<'t>,
    pub(super) violations: Violations<'s>,
    pub(super) out: Vec<u8>,
    nesting: usize,
    syntax: Option<Syntax>,
}

impl<'s, 't> Decoder<'s, 't> {
    /// Of `body`, which must be UTF-8.
    pub(crate) fn new(schema: &'s Schema, body: &'t [u8]) -> Result<Self, Invalid> {
        let text = Text::new(body).map_err(|syntax| Invalid::syntax(body, syntax))?;
        Ok(Self {
            schema,
            text,
            violations: Violations::default(),
            out: Vec::with_capacity(body.len()),
            nesting: 0,
            syntax: None,
        })
    }

    /// Reads the whole text as the message `id`.
    pub(crate) fn whole(mut self, body: &[u8], id: MessageId) -> Result<Vec<u8>, Invalid> {
        let result = self.message(id);
        self.finish(body, result)
    }

    /// Reads the whole text as the value of `field`.
    pub(crate) fn field_of(mut self, body: &[u8], field: &'s Field) -> Result<Vec<u8>, Invalid> {
        self.violations.enter(Step::Field(&field.name));
        let result = self.field(field);
        self.violations.leave(0);
        self.finish(body, result)
    }

    fn finish(mut self, body: &[u8], result: Result<(), Stop>) -> Result<Vec<u8>, Invalid> {
        if result.is_ok()
            && let Err(syntax) = self.text.end()
        {
            self.syntax = Some(syntax);
        }
        match self.syntax {
            Some(syntax) => Err(Invalid::syntax(body, syntax)),
            None => self.violations.into_result(self.out),
        }
    }

    fn ended<T>(&mut self, result: Result<T, Syntax>) -> Result<T, Stop> {
        result.map_err(|syntax| {
            self.syntax = Some(syntax);
            Stop::Ended
        })
    }

    pub(super) fn refuse(&mut self, description: impl Into<Cow<'static, str>>) -> Stop {
        Stop::after(self.violations.note(description))
    }

    pub(super) fn peek(&mut self) -> Result<Token, Stop> {
        let token = self.text.peek();
        self.ended(token)
    }

    pub(super) fn open_object(&mut self) -> Result<(), Stop> {
        if self.peek()? != Token::Object {
            return Err(self.refuse("expected an object"));
        }
        let opened = self.text.open();
        self.ended(opened)
    }

    pub(super) fn open_array(&mut self) -> Result<(), Stop> {
        if self.peek()? != Token::Array {
            return Err(self.refuse("expected an array"));
        }
        let opened = self.text.open();
        self.ended(opened)
    }

    pub(super) fn key(&mut self, first: &mut bool) -> Result<Option<Cow<'t, str>>, Stop> {
        let key = self.text.key(*first);
        *first = false;
        self.ended(key)
    }

    pub(super) fn item(&mut self, first: &mut bool) -> Result<bool, Stop> {
        let item = self.text.item(*first);
        *first = false;
        self.ended(item)
    }

    pub(super) fn string(&mut self) -> Result<Cow<'t, str>, Stop> {
        if self.peek()? != Token::String {
            return Err(self.refuse("expected a string"));
        }
        let string = self.text.string();
        self.ended(string)
    }

    pub(super) fn skip(&mut self) -> Result<(), Stop> {
        let skipped = self.text.skip();
        self.ended(skipped)
    }

    pub(super) fn null(&mut self) -> Result<(), Stop> {
        let word = self.text.word("null");
        self.ended(word)
    }

    /// Writes what `write` writes as a record with a length.
    pub(super) fn nested(&mut self, write: impl FnOnce(&mut Self) -> Result<(), Stop>) -> Result<(), Stop> {
        if self.nesting == NESTING_LIMIT {
            return Err(self.refuse("nested too deeply"));
        }
        self.nesting += 1;
        let start = wire::open(&mut self.out);
        let result = write(self);
        self.nesting -= 1;
        wire::close(&mut self.out, start);
        result
    }

    /// Does `read`; what it refused is passed over as one value, and nothing of it is written.
    pub(super) fn forgiving(&mut self, read: impl FnOnce(&mut Self) -> Result<(), Stop>) -> Result<(), Stop> {
        let (mark, written) = (self.text.mark(), self.out.len());
        let (steps, nesting) = (self.violations.depth(), self.nesting);
        match read(self) {
            Err(Stop::Refused) => {
                self.text.reset(mark);
                self.out.truncate(written);
                self.violations.leave(steps);
                self.nesting = nesting;
                self.skip()
            }
            other => other,
        }
    }

    /// The fields of a message, without tag and length.
    pub(super) fn message(&mut self, id: MessageId) -> Result<(), Stop> {
        match self.schema.message(id).form {
            Form::Plain => self.object(id, None),
            Form::Wrapper => self.wrapper(id),
            Form::Timestamp => self.instant(
                wellknown::parse_timestamp,
                "expected an RFC 3339 date and time such as 2026-01-31T12:00:00Z",
            ),
            Form::Duration => self.instant(wellknown::parse_duration, "expected seconds such as \"1.5s\""),
            Form::FieldMask => {
                let text = self.string()?;
                let Some(paths) = wellknown::parse_mask(&text, false) else {
                    return Err(self.refuse("expected field names in lowerCamelCase, separated by commas"));
                };
                put_mask(&mut self.out, &paths);
                Ok(())
            }
            Form::Struct => self.structure(),
            Form::Value => self.value(),
            Form::List => self.list(),
            Form::Any => self.any(),
            Form::Own(_) => Err(self.refuse("it is answered, never asked")),
        }
    }

    fn instant(&mut self, parse: fn(&str) -> Option<(i64, i32)>, expected: &'static str) -> Result<(), Stop> {
        let text = self.string()?;
        let Some((seconds, nanos)) = parse(&text) else {
            return Err(self.refuse(expected));
        };
        put_instant(&mut self.out, seconds, nanos);
        Ok(())
    }

    fn wrapper(&mut self, id: MessageId) -> Result<(), Stop> {
        let schema = self.schema;
        match schema.message(id).fields.first() {
            Some(field) => self.single(field),
            None => Err(self.refuse("expected a value")),
        }
    }

    /// An object's members as a message's fields; `except` is a member that is none.
    pub(super) fn object(&mut self, id: MessageId, except: Option<&str>) -> Result<(), Stop> {
        let schema = self.schema;
        let message = schema.message(id);
        self.open_object()?;
        let (mut seen, mut oneofs) = (Seen::default(), Seen::default());
        let (mut first, mut near) = (true, 0);
        while let Some(key) = self.key(&mut first)? {
            if except == Some(&*key) {
                self.skip()?;
                continue;
            }
            let Some(index) = message.named(&key, near) else {
                self.violations
                    .note_member(&key, "there is no such field")
                    .map_err(|()| Stop::Ended)?;
                self.skip()?;
                continue;
            };
            near = index + 1;
            let field = &message.fields[index];
            let steps = self.violations.depth();
            self.violations.enter(Step::Field(&field.name));
            self.forgiving(|decoder| {
                if !seen.insert(index) {
                    return Err(decoder.refuse("given twice"));
                }
                if let Some(oneof) = field.oneof
                    && (decoder.peek()? != Token::Null || schema.takes_null(field.kind))
                    && !oneofs.insert(oneof)
                {
                    return Err(decoder.refuse("another field of the same choice is given too"));
                }
                decoder.field(field)
            })?;
            self.violations.leave(steps);
        }
        Ok(())
    }

    /// A field with its tag; `null` is its absence.
    fn field(&mut self, field: &'s Field) -> Result<(), Stop> {
        if self.peek()? == Token::Null
            && !(field.shape == Shape::Single && self.schema.takes_null(field.kind))
        {
            return self.null();
        }
        match field.shape {
            Shape::Single => self.single(field),
            Shape::Repeated { packed } => self.repeated(field, packed),
            Shape::Map(key) => self.map(field, key),
        }
    }

    fn single(&mut self, field: &Field) -> Result<(), Stop> {
        if let Kind::Message(id) = field.kind {
            wire::put_varint(&mut self.out, field.tag());
            return self.nested(|decoder| decoder.message(id));
        }
        let value = self.scalar(field.kind)?;
        if field.presence || !value.is_default() {
            wire::put_varint(&mut self.out, field.tag());
            value.put(&mut self.out);
        }
        Ok(())
    }

    pub(super) fn scalar(&mut self, kind: Kind) -> Result<Scalar<'t>, Stop> {
        let parsed = match self.peek()? {
            Token::Number => {
                let number = self.text.number();
                scalar::from_number(kind, self.ended(number)?)
            }
            Token::String => {
                let string = self.text.string();
                scalar::from_string(self.schema, kind, self.ended(string)?)
            }
            Token::True if kind == Kind::Bool => {
                let word = self.text.word("true");
                self.ended(word)?;
                Ok(Scalar::Varint(1))
            }
            Token::False if kind == Kind::Bool => {
                let word = self.text.word("false");
                self.ended(word)?;
                Ok(Scalar::Varint(0))
            }
            Token::Null if self.schema.takes_null(kind) => {
                self.null()?;
                Ok(Scalar::Varint(0))
            }
            _ => Err(scalar::expected(kind)),
        };
        parsed.map_err(|expected| self.refuse(expected))
    }

    fn repeated(&mut self, field: &Field, packed: bool) -> Result<(), Stop> {
        self.open_array()?;
        let before = self.out.len();
        if packed {
            wire::put_varint(&mut self.out, wire::tag(field.number, WireType::Length));
        }
        let start = packed.then(|| wire::open(&mut self.out));
        let (mut first, mut index) = (true, 0);
        while self.item(&mut first)? {
            let steps = self.violations.depth();
            self.violations.enter(Step::Index(index));
            self.forgiving(|decoder| decoder.element(field, packed))?;
            self.violations.leave(steps);
            index += 1;
        }
        match start {
            Some(_) if index == 0 => self.out.truncate(before),
            Some(start) => wire::close(&mut self.out, start),
            None => {}
        }
        Ok(())
    }

    fn element(&mut self, field: &Field, packed: bool) -> Result<(), Stop> {
        if self.peek()? == Token::Null && !self.schema.takes_null(field.kind) {
            return Err(self.refuse("null is no element"));
        }
        if packed {
            let value = self.scalar(field.kind)?;
            value.put(&mut self.out);
            return Ok(());
        }
        wire::put_varint(&mut self.out, field.tag());
        self.bare(field.kind)
    }

    /// A value without its tag.
    fn bare(&mut self, kind: Kind) -> Result<(), Stop> {
        if let Kind::Message(id) = kind {
            return self.nested(|decoder| decoder.message(id));
        }
        let value = self.scalar(kind)?;
        value.put(&mut self.out);
        Ok(())
    }

    fn map(&mut self, field: &Field, key_kind: Kind) -> Result<(), Stop> {
        self.open_object()?;
        let mut keys = HashSet::new();
        let mut first = true;
        while let Some(key) = self.key(&mut first)? {
            let steps = self.violations.depth();
            self.violations.enter(Step::Key(key.as_ref().into()));
            self.forgiving(|decoder| {
                let parsed = scalar::from_text(decoder.schema, key_kind, key);
                let parsed = parsed.map_err(|_| decoder.refuse("the key is of the wrong kind"))?;
                let mut encoded = Vec::new();
                parsed.put(&mut encoded);
                if keys.contains(&encoded) {
                    return Err(decoder.refuse("given twice"));
                }
                decoder.entry(field, key_kind, &encoded)?;
                keys.insert(encoded);
                Ok(())
            })?;
            self.violations.leave(steps);
        }
        Ok(())
    }

    fn entry(&mut self, field: &Field, key_kind: Kind, key: &[u8]) -> Result<(), Stop> {
        if self.peek()? == Token::Null && !self.schema.takes_null(field.kind) {
            return Err(self.refuse("null is no value"));
        }
        wire::put_varint(&mut self.out, wire::tag(field.number, WireType::Length));
        self.nested(|decoder| {
            wire::put_varint(&mut decoder.out, wire::tag(1, key_kind.wire_type()));
            decoder.out.extend_from_slice(key);
            wire::put_varint(&mut decoder.out, wire::tag(2, field.kind.wire_type()));
            decoder.bare(field.kind)
        })
    }
}

/// Seconds and nanoseconds as timestamp.proto and duration.proto number them.
pub(crate) fn put_instant(out: &mut Vec<u8>, seconds: i64, nanos: i32) {
    for (tag, value) in [(0x08, seconds), (0x10, i64::from(nanos))] {
        if value != 0 {
            out.push(tag);
            wire::put_varint(out, value as u64);
        }
    }
}

/// The paths of a `google.protobuf.FieldMask`.
pub(crate) fn put_mask(out: &mut Vec<u8>, paths: &[String]) {
    for path in paths {
        out.push(0x0a);
        wire::put_bytes(out, path.as_bytes());
    }
}

/// Which indices were met.
#[derive(Debug, Default)]
struct Seen {
    low: u64,
    high: Vec<usize>,
}

impl Seen {
    /// Whether it is new.
    fn insert(&mut self, index: usize) -> bool {
        if index < 64 {
            let bit = 1 << index;
            let new = self.low & bit == 0;
            self.low |= bit;
            return new;
        }
        let new = !self.high.contains(&index);
        if new {
            self.high.push(index);
        }
        new
    }
}
