//! The well-known types that JSON writes as whatever they hold: structs, values, lists, and messages of any type.

use std::{borrow::Cow, collections::HashSet};

use super::{
    decode::{Decoder, Stop},
    schema::{Form, Kind, MessageId},
    text::Token,
    violations::Step,
    wire::{self, WireType},
};

impl<'t> Decoder<'_, 't> {
    /// `google.protobuf.Struct`: any object.
    pub(super) fn structure(&mut self) -> Result<(), Stop> {
        self.open_object()?;
        let mut keys: HashSet<Cow<'t, str>> = HashSet::new();
        let mut first = true;
        while let Some(key) = self.key(&mut first)? {
            let steps = self.violations.depth();
            self.violations.enter(Step::Key(key.as_ref().into()));
            self.forgiving(|decoder| {
                if keys.contains(&key) {
                    return Err(decoder.refuse("given twice"));
                }
                wire::put_varint(&mut decoder.out, wire::tag(1, WireType::Length));
                decoder.nested(|decoder| {
                    wire::put_varint(&mut decoder.out, wire::tag(1, WireType::Length));
                    wire::put_bytes(&mut decoder.out, key.as_bytes());
                    wire::put_varint(&mut decoder.out, wire::tag(2, WireType::Length));
                    decoder.nested(Self::value)
                })?;
                keys.insert(key);
                Ok(())
            })?;
            self.violations.leave(steps);
        }
        Ok(())
    }

    /// `google.protobuf.ListValue`: any array.
    pub(super) fn list(&mut self) -> Result<(), Stop> {
        self.open_array()?;
        let (mut first, mut index) = (true, 0);
        while self.item(&mut first)? {
            let steps = self.violations.depth();
            self.violations.enter(Step::Index(index));
            self.forgiving(|decoder| {
                wire::put_varint(&mut decoder.out, wire::tag(1, WireType::Length));
                decoder.nested(Self::value)
            })?;
            self.violations.leave(steps);
            index += 1;
        }
        Ok(())
    }

    /// `google.protobuf.Value`: anything.
    pub(super) fn value(&mut self) -> Result<(), Stop> {
        let (number, kind) = match self.peek()? {
            Token::Null => {
                self.null()?;
                self.out.extend_from_slice(&[0x08, 0]);
                return Ok(());
            }
            Token::Number => (2, Kind::Double),
            Token::String => (3, Kind::String),
            Token::True | Token::False => (4, Kind::Bool),
            Token::Object => {
                wire::put_varint(&mut self.out, wire::tag(5, WireType::Length));
                return self.nested(Self::structure);
            }
            Token::Array => {
                wire::put_varint(&mut self.out, wire::tag(6, WireType::Length));
                return self.nested(Self::list);
            }
        };
        let value = self.scalar(kind)?;
        wire::put_varint(&mut self.out, wire::tag(number, kind.wire_type()));
        value.put(&mut self.out);
        Ok(())
    }

    /// `google.protobuf.Any`: an object whose `@type`, wherever it stands, names a known message.
    pub(super) fn any(&mut self) -> Result<(), Stop> {
        let mark = self.text.mark();
        let Some(url) = self.type_url()? else {
            return Ok(());
        };
        let name = url.rsplit_once('/').map(|(_, name)| name);
        let Some(id) = name.and_then(|name| self.schema.id(name)) else {
            return Err(self.refuse("`@type` names no known message"));
        };
        self.text.reset(mark);
        wire::put_varint(&mut self.out, wire::tag(1, WireType::Length));
        wire::put_bytes(&mut self.out, url.as_bytes());
        let before = self.out.len();
        wire::put_varint(&mut self.out, wire::tag(2, WireType::Length));
        self.nested(|decoder| {
            if decoder.schema.message(id).form == Form::Plain {
                return decoder.object(id, Some("@type"));
            }
            decoder.packed_value(id)
        })?;
        if self.out.ends_with(&[0]) && self.out.len() == before + 2 {
            self.out.truncate(before);
        }
        Ok(())
    }

    /// Passes over the object; gives its `@type`, or none where it is empty.
    pub(super) fn type_url(&mut self) -> Result<Option<Cow<'t, str>>, Stop> {
        self.open_object()?;
        let (mut first, mut url, mut empty) = (true, None, true);
        while let Some(key) = self.key(&mut first)? {
            empty = false;
            if key != "@type" {
                self.skip()?;
            } else if url.is_some() {
                return Err(self.refuse("`@type` is given twice"));
            } else {
                url = Some(self.string()?);
            }
        }
        if url.is_none() && !empty {
            return Err(self.refuse("`@type` is missing"));
        }
        Ok(url)
    }

    /// The member `value` of an Any of a type that JSON does not write as an object of its fields.
    pub(super) fn packed_value(&mut self, id: MessageId) -> Result<(), Stop> {
        self.open_object()?;
        let (mut first, mut found) = (true, false);
        while let Some(key) = self.key(&mut first)? {
            match &*key {
                "@type" => self.skip()?,
                "value" if !found => {
                    found = true;
                    self.message(id)?;
                }
                _ => return Err(self.refuse("expected `@type` and one `value`, and nothing else")),
            }
        }
        if found {
            Ok(())
        } else {
            Err(self.refuse("`value` is missing"))
        }
    }
}
