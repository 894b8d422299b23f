//! A frame of changes, looked at without reading the changes in it: field 1 of every such message is a change, and the other fields say how
//! the answer ends.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use proto::change::v1 as pb;

use super::shape::{Shaped, check, read};

/// The field of the changes, in every message that has them.
const CHANGES: u32 = 1;

/// Fields of one frame: an agent's has about 64 KiB, or one change.
pub(super) const FIELDS: usize = 20_000;

/// A frame is not what a message looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame that cannot be read")]
pub(crate) struct Torn;

/// A field of the frame: its number, where it lies with its tag, and its content if that has a length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) number: u32,
    pub(super) whole: Range<usize>,
    pub(super) content: Option<Range<usize>>,
}

/// One frame.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    bytes: Bytes,
    fields: Vec<Field>,
}

impl Frame {
    /// Finds the fields of a message.
    pub(crate) fn read(bytes: Bytes) -> Result<Self, Torn> {
        let mut fields = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let field = field(&bytes, at)?;
            at = field.whole.end;
            fields.push(field);
            if fields.len() > FIELDS {
                return Err(Torn);
            }
        }
        Ok(Self { bytes, fields })
    }

    /// As [`Self::read`], of an agent's answer: none of its changes is larger in memory than its bytes allow for, whoever reads it.
    pub(crate) fn of_agent(bytes: Bytes) -> Result<Self, Torn> {
        let frame = Self::read(bytes)?;
        for change in frame.contents(CHANGES) {
            check::<pb::Change>(&frame.bytes[change.clone()])?;
        }
        Ok(frame)
    }

    fn contents(&self, number: u32) -> impl DoubleEndedIterator<Item = &Range<usize>> {
        let of = move |field: &&Field| field.number == number;
        self.fields
            .iter()
            .filter(of)
            .filter_map(|field| field.content.as_ref())
    }

    /// Which descents of tables were known when it was read, if it says so in this field.
    pub(crate) fn descents(&self, number: u32) -> Option<u64> {
        let field = self.fields.iter().find(|field| field.number == number)?;
        let mut at = field.whole.start;
        varint(&self.bytes, &mut at).ok()?;
        varint(&self.bytes, &mut at)
            .ok()
            .filter(|_| field.content.is_none())
    }

    /// How many changes it has.
    pub(crate) fn changes(&self) -> usize {
        self.contents(CHANGES).count()
    }

    /// How many bytes it has.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it has nothing but changes: it can go on as it is.
    pub(crate) fn plain(&self) -> bool {
        self.fields
            .iter()
            .all(|field| field.number == CHANGES && field.content.is_some())
    }

    /// Appends the changes as they are, and nothing else.
    pub(crate) fn write_changes(&self, out: &mut BytesMut) {
        if self.plain() {
            out.extend_from_slice(&self.bytes);
            return;
        }
        for field in self.fields.iter().filter(|field| field.number == CHANGES) {
            if field.content.is_some() {
                out.extend_from_slice(&self.bytes[field.whole.clone()]);
            }
        }
    }

    /// The frame as it came.
    pub(crate) fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// Where its first change stands.
    pub(crate) fn first_position(&self) -> Result<Option<pb::Position>, Torn> {
        let first = self.contents(CHANGES).next();
        first.map(|first| position(&self.bytes, first)).transpose()
    }

    /// Where its last change stands.
    pub(crate) fn last_position(&self) -> Result<Option<pb::Position>, Torn> {
        let last = self.contents(CHANGES).next_back();
        last.map(|last| position(&self.bytes, last)).transpose()
    }

    /// Each change as a field of its own, with its tag: for an answer that turns their order round.
    pub(crate) fn each_change(&self) -> impl DoubleEndedIterator<Item = Bytes> {
        let of = |field: &&Field| field.number == CHANGES && field.content.is_some();
        let fields = self.fields.iter().filter(of);
        fields.map(|field| self.bytes.slice(field.whole.clone()))
    }

    /// The changes, read.
    pub(crate) fn read_changes(&self) -> impl Iterator<Item = Result<pb::Change, Torn>> {
        self.contents(CHANGES)
            .map(|content| read(self.bytes.slice(content.clone())))
    }

    /// The messages of another field.
    pub(super) fn messages<M: Shaped>(&self, number: u32) -> Result<Vec<M>, Torn> {
        self.contents(number)
            .map(|content| read(self.bytes.slice(content.clone())))
            .collect()
    }
}

/// The position in the change that lies there: its field 1.
fn position(bytes: &Bytes, change: &Range<usize>) -> Result<pb::Position, Torn> {
    let frame = Frame::read(bytes.slice(change.clone()))?;
    let mut found = frame.messages::<pb::Position>(1)?;
    found.pop().ok_or(Torn)
}

fn varint(bytes: &[u8], at: &mut usize) -> Result<u64, Torn> {
    let mut value = 0_u64;
    for shift in (0..70).step_by(7) {
        let byte = *bytes.get(*at).ok_or(Torn)?;
        *at += 1;
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Torn)
}

/// The field that begins there.
pub(super) fn field(bytes: &[u8], begin: usize) -> Result<Field, Torn> {
    let mut at = begin;
    let tag = varint(bytes, &mut at)?;
    let number = u32::try_from(tag >> 3).map_err(|_| Torn)?;
    let mut content = None;
    let end = match tag & 7 {
        0 => {
            varint(bytes, &mut at)?;
            at
        }
        1 => at.checked_add(8).ok_or(Torn)?,
        2 => {
            let length = usize::try_from(varint(bytes, &mut at)?).map_err(|_| Torn)?;
            let end = at.checked_add(length).ok_or(Torn)?;
            content = Some(at..end);
            end
        }
        5 => at.checked_add(4).ok_or(Torn)?,
        _ => return Err(Torn),
    };
    if end > bytes.len() || number == 0 {
        return Err(Torn);
    }
    Ok(Field {
        number,
        whole: begin..end,
        content,
    })
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use proptest::prelude::*;
    use prost::Message as _;
    use proto::{agent::v1::ChangesResponse, agent::v1::End, change::v1 as pb};

    use super::Frame;

    fn change(number: u64) -> pb::Change {
        pb::Change {
            position: Some(pb::Position {
                epoch: 1,
                file: "binlog.1".into(),
                offset: 4,
                ordinal: number,
            }),
            schema: "shop".into(),
            ..pb::Change::default()
        }
    }

    fn frame(count: u64, end: bool) -> (ChangesResponse, Frame) {
        let message = ChangesResponse {
            changes: (0..count).map(change).collect(),
            end: end.then_some(End {
                more: true,
                coverage: None,
            }),
            descents: if end { 8 } else { 0 },
        };
        let bytes = Bytes::from(message.encode_to_vec());
        (message, Frame::read(bytes).unwrap())
    }

    #[test]
    fn changes_are_found_without_being_read() {
        let (message, plain) = frame(3, false);
        assert!(plain.plain() && plain.changes() == 3);
        assert_eq!(plain.last_position().unwrap(), change(2).position);
        let read: Result<Vec<_>, _> = plain.read_changes().collect();
        assert_eq!(read.unwrap(), message.changes);
        let (message, last) = frame(2, true);
        assert!(!last.plain() && last.changes() == 2);
        assert_eq!(last.messages::<End>(2).unwrap(), [message.end.unwrap()]);
        let mut out = BytesMut::new();
        last.write_changes(&mut out);
        let again = ChangesResponse::decode(out).unwrap();
        assert_eq!((again.changes, again.end), (message.changes, None));
        assert_eq!((plain.descents(3), last.descents(3)), (None, Some(8)));
        let turned: Vec<u8> = last.each_change().rev().flatten().collect();
        let turned = ChangesResponse::decode(turned.as_slice()).unwrap();
        assert_eq!(turned.changes, [change(1), change(0)]);
        assert_eq!(frame(0, false).1.last_position().unwrap(), None);
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_reader_and_what_it_reads_prost_reads_too(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let bytes = Bytes::from(bytes);
            if let Ok(frame) = Frame::read(bytes.clone()) {
                let mut out = BytesMut::new();
                frame.write_changes(&mut out);
                prop_assert!(out.len() <= bytes.len());
            } else {
                prop_assert!(ChangesResponse::decode(bytes).is_err());
            }
        }
    }
}
