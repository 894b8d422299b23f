//! How far a tail is known to be on disk: what tells damage from a write that was cut off.
//!
//! A record that does not check out may be the end of a write that a crash cut off, which nobody was promised, or a changed byte in
//! what [`crate::Writer::sync`] had acknowledged. Two marks in the tail's head, of one length each, tell them apart: if the good
//! records end before the length that is marked, something that was on disk is gone, and that is damage.
//!
//! * *A mark is written after the `fdatasync` it speaks of*, never with the same one: power could be lost when the mark is on disk
//!   and the records are not, and a torn write would be called damage. So a mark never says more than what was acknowledged.
//! * *A mark is not synced itself*, which would double the cost of each sync: the next sync takes it along, and the end of writing
//!   syncs it. It is in the system's cache at once, so a killed process leaves it behind; only a loss of power soon after a sync loses
//!   it. Then the mark before it counts, and damage in that last batch would pass for a torn write, as if there were no marks.
//! * *There are two, written in turn*, each a record with its own checksum: should power be lost while one is written, the other holds.
//!   The greater one counts, for a tail only grows. A writer that opens the store sets both back to what it keeps, before it cuts.
//! * Readers read the marks before they ask for the file's length: then the records are at least as new as the marks.

use std::io;

use crate::{
    folder::{ReadAt, WriteAt},
    record::{FRAME, Record, frame},
};

/// Bytes of a mark: its frame, its kind, a length.
const MARK: usize = FRAME + 9;
/// Bytes of both.
pub(crate) const MARKS: u64 = 2 * MARK as u64;

/// The marks of a tail that is written or read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Marks {
    /// Where they stand in the file.
    at: u64,
    /// Which is written next.
    second: bool,
}

impl Marks {
    /// Those that stand at byte `at`.
    pub(crate) fn at(at: u64) -> Self {
        Self { at, second: false }
    }

    /// Ends the head of a new tail with both. They speak of the head alone, which is synced before the tail is used.
    pub(crate) fn put(head: &mut Vec<u8>) -> Self {
        let at = head.len() as u64;
        for _ in 0..2 {
            frame(&Record::Durable(at + MARKS), head);
        }
        Self::at(at)
    }

    /// Marks that everything before byte `length` is on disk.
    pub(crate) fn set(&mut self, file: &mut dyn WriteAt, length: u64) -> io::Result<()> {
        let mut mark = Vec::with_capacity(MARK);
        frame(&Record::Durable(length), &mut mark);
        let at = self.at + if self.second { MARK as u64 } else { 0 };
        self.second = !self.second;
        file.write_all_at(&mark, at)
    }

    /// What both say; none for one that is damaged.
    pub(crate) fn read(self, file: &dyn ReadAt) -> io::Result<[Option<u64>; 2]> {
        let mut bytes = [0; 2 * MARK];
        match file.read_exact_at(&mut bytes, self.at) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok([None; 2]),
            other => other?,
        }
        let (first, second) = bytes.split_at(MARK);
        Ok([parse(first), parse(second)])
    }
}

fn parse(mark: &[u8]) -> Option<u64> {
    let Ok(Record::Durable(length)) = Record::parse(&mark[FRAME..]) else {
        return None;
    };
    let mut expected = Vec::with_capacity(MARK);
    frame(&Record::Durable(length), &mut expected);
    (expected == mark).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::{MARK, MARKS, Marks};

    #[test]
    fn the_marks_take_turns_and_one_of_them_always_holds() {
        let mut file = tempfile::tempfile().unwrap();
        let mut head = b"head".to_vec();
        let mut marks = Marks::put(&mut head);
        assert_eq!(head.len() as u64, 4 + MARKS);
        std::os::unix::fs::FileExt::write_all_at(&file, &head, 0).unwrap();
        assert_eq!(marks.read(&file).unwrap(), [Some(4 + MARKS); 2]);
        marks.set(&mut file, 500).unwrap();
        assert_eq!(marks.read(&file).unwrap(), [Some(500), Some(4 + MARKS)]);
        marks.set(&mut file, 700).unwrap();
        assert_eq!(marks.read(&file).unwrap(), [Some(500), Some(700)]);
        for at in 4..4 + 2 * MARK as u64 {
            let mut byte = [0];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut byte, at).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &[byte[0] ^ 4], at).unwrap();
            let left = marks.read(&file).unwrap();
            assert!(
                left == [None, Some(700)] || left == [Some(500), None],
                "{at}: {left:?}"
            );
            std::os::unix::fs::FileExt::write_all_at(&file, &byte, at).unwrap();
        }
        file.set_len(20).unwrap();
        assert_eq!(marks.read(&file).unwrap(), [None; 2]);
    }
}
