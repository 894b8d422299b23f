//! Many small byte strings, kept until the plan is dropped.

/// Bytes of one chunk. A longer string gets a chunk of its own; a chunk is never moved, so growing copies nothing.
const CHUNK_BYTES: usize = 1 << 20;

/// Where a string stands in an [`Arena`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    chunk: u32,
    start: u32,
    length: u32,
}

/// An append-only heap.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    chunks: Vec<Vec<u8>>,
}

impl Arena {
    /// Keeps a copy of `bytes`; none if it or the arena is too large to be counted in 32 bits.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Option<Span> {
        let fits = self
            .chunks
            .last()
            .is_some_and(|chunk| chunk.capacity() - chunk.len() >= bytes.len());
        if !fits {
            self.chunks.push(Vec::with_capacity(bytes.len().max(CHUNK_BYTES)));
        }
        let chunk = u32::try_from(self.chunks.len() - 1).ok()?;
        let heap = self.chunks.last_mut()?;
        let span = Span {
            chunk,
            start: u32::try_from(heap.len()).ok()?,
            length: u32::try_from(bytes.len()).ok()?,
        };
        heap.extend_from_slice(bytes);
        Some(span)
    }

    /// The string at `span`.
    pub(crate) fn get(&self, span: Span) -> Option<&[u8]> {
        let start = span.start as usize;
        self.chunks
            .get(span.chunk as usize)?
            .get(start..start + span.length as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::{Arena, CHUNK_BYTES, Span};

    #[test]
    fn strings_come_back_as_they_went_in() {
        let mut arena = Arena::default();
        let long = vec![7; CHUNK_BYTES + 1];
        let spans: Vec<Span> = [&b"one"[..], b"", &long, b"two"]
            .iter()
            .map(|bytes| arena.put(bytes).expect("there is room"))
            .collect();
        assert_eq!(arena.get(spans[0]), Some(&b"one"[..]));
        assert_eq!(arena.get(spans[1]), Some(&b""[..]));
        assert_eq!(arena.get(spans[2]), Some(&long[..]));
        assert_eq!(arena.get(spans[3]), Some(&b"two"[..]));
    }
}
