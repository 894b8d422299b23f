//! The records of one message by field, and put in order.

use super::{
    Broken,
    schema::{Kind, Message, Shape},
    wire::{self, Reader, WireType},
};

/// Takes the records of field `number` that follow each other.
pub(super) fn run<'m>(
    number: u32,
    reader: &mut Reader<'m>,
    values: &mut Vec<(WireType, &'m [u8])>,
) -> Result<(), Broken> {
    while !reader.is_empty() {
        let mut ahead = *reader;
        let (of, wire_type) = ahead.key()?;
        if of != number {
            return Ok(());
        }
        values.push((wire_type, ahead.value(wire_type)?));
        *reader = ahead;
    }
    Ok(())
}

/// Every record of field `number`.
pub(super) fn occurrences(wire: &[u8], number: u32) -> Result<Vec<(WireType, &[u8])>, Broken> {
    let mut reader = Reader::new(wire);
    let mut values = Vec::new();
    while !reader.is_empty() {
        let (of, wire_type) = reader.key()?;
        let value = reader.value(wire_type)?;
        if of == number {
            values.push((wire_type, value));
        }
    }
    Ok(values)
}

/// The last value of field `number`, its length before it where it has one; messages that come again are not merged here.
pub(super) fn last(wire: &[u8], number: u32, expected: WireType) -> Result<Option<&[u8]>, Broken> {
    match occurrences(wire, number)?.last() {
        Some((wire_type, value)) if *wire_type == expected => Ok(Some(value)),
        Some(_) => Err(Broken::Malformed("a value is written in the wrong way")),
        None => Ok(None),
    }
}

/// The same message with its records in the order of their numbers, each single field once: the last value counts, messages are merged, and
/// of a choice the last one given stays.
pub(super) fn ordered(message: &Message, wire: &[u8]) -> Result<Vec<u8>, Broken> {
    let mut values: Vec<Vec<(WireType, &[u8])>> = vec![Vec::new(); message.fields.len()];
    let mut reader = Reader::new(wire);
    while !reader.is_empty() {
        let (number, wire_type) = reader.key()?;
        let value = reader.value(wire_type)?;
        let Some(index) = message.numbered(number) else {
            continue;
        };
        if let Some(oneof) = message.fields[index].oneof {
            for (other, field) in message.fields.iter().enumerate() {
                if other != index && field.oneof == Some(oneof) {
                    values[other].clear();
                }
            }
        }
        values[index].push((wire_type, value));
    }
    let mut out = Vec::with_capacity(wire.len());
    for (field, values) in message.fields.iter().zip(values) {
        let Some((wire_type, last)) = values.last() else {
            continue;
        };
        if field.shape != Shape::Single {
            for (wire_type, value) in &values {
                wire::put_varint(&mut out, wire::tag(field.number, *wire_type));
                out.extend_from_slice(value);
            }
            continue;
        }
        wire::put_varint(&mut out, wire::tag(field.number, *wire_type));
        if matches!(field.kind, Kind::Message(_)) && *wire_type == WireType::Length {
            let mut merged = Vec::new();
            for (_, value) in &values {
                merged.extend_from_slice(Reader::new(value).bytes()?);
            }
            wire::put_bytes(&mut out, &merged);
        } else {
            out.extend_from_slice(last);
        }
    }
    Ok(out)
}
