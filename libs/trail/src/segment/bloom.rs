//! Bloom filters of row groups, asked without reading them whole.
//!
//! Parquet's filter is made of blocks of 32 bytes, and a value sets bits in one block only ("Parquet Bloom Filter", split block Bloom
//! filters). So a question needs one block. The library keeps the hash to itself; but a filter that holds nothing else than the value
//! shows by its only block that is not zero which block and which bits are the value's. Filters are folded to fit what they hold, each
//! fold halving the number of a value's block, so the largest filter tells for all.

use parquet::{
    bloom_filter::Sbbf,
    file::{metadata::ColumnChunkMetaData, reader::ChunkReader},
};

const BLOCK: usize = 32;
/// Blocks of the filter that tells a value's place. Row groups have at most 65,536 keys, for which the largest filter is this large.
const PROBE_BLOCKS: usize = 4_096;

/// The bits of one value.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    /// Its block among [`PROBE_BLOCKS`].
    block: usize,
    bits: [u8; BLOCK],
}

impl Probe {
    pub(crate) fn of(value: &[u8]) -> Option<Self> {
        let mut filter = Sbbf::new_with_num_of_bytes(PROBE_BLOCKS * BLOCK);
        filter.insert(value);
        let mut bytes = Vec::with_capacity(PROBE_BLOCKS * BLOCK);
        filter.write_bitset(&mut bytes).ok()?;
        let set = bytes.iter().position(|byte| *byte != 0)?;
        let bits = bytes.chunks_exact(BLOCK).nth(set / BLOCK)?.try_into().ok()?;
        Some(Self {
            block: set / BLOCK,
            bits,
        })
    }

    /// Whether the filter of `column` may hold one of `probes`. If that cannot be told, it may.
    pub(crate) fn any_in(
        probes: &[Self],
        column: &ColumnChunkMetaData,
        data: &impl ChunkReader,
    ) -> parquet::errors::Result<bool> {
        let (Some(at), Some(length)) = (column.bloom_filter_offset(), column.bloom_filter_length()) else {
            return Ok(true);
        };
        let (at, length) = (
            u64::try_from(at).unwrap_or_default(),
            usize::try_from(length).unwrap_or_default(),
        );
        // The bits, a power of two, follow a header that is shorter than they are or than one block.
        let bits = if length < 2 * BLOCK {
            BLOCK
        } else {
            1 << length.ilog2()
        };
        let blocks = bits / BLOCK;
        if length < bits || blocks > PROBE_BLOCKS || !PROBE_BLOCKS.is_multiple_of(blocks) {
            return Ok(true);
        }
        let first = at + (length - bits) as u64;
        for probe in probes {
            let block = probe.block / (PROBE_BLOCKS / blocks);
            let bytes = data.get_bytes(first + (block * BLOCK) as u64, BLOCK)?;
            if probe
                .bits
                .iter()
                .zip(bytes.iter())
                .all(|(wanted, set)| wanted & set == *wanted)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use parquet::bloom_filter::Sbbf;

    use super::{BLOCK, PROBE_BLOCKS, Probe};

    /// What a filter of `blocks` says about the value, by its one block.
    fn asked(filter: &Bytes, blocks: usize, value: &[u8]) -> bool {
        let probe = Probe::of(value).unwrap();
        let block = &filter[probe.block / (PROBE_BLOCKS / blocks) * BLOCK..][..BLOCK];
        probe
            .bits
            .iter()
            .zip(block)
            .all(|(wanted, set)| wanted & set == *wanted)
    }

    #[test]
    fn one_block_answers_as_the_whole_filter_does() {
        for blocks in [1, 2, 64, 2_048, PROBE_BLOCKS] {
            let mut filter = Sbbf::new_with_num_of_bytes(blocks * BLOCK);
            (0..blocks as u32 * 8).for_each(|n| filter.insert(&n.to_be_bytes()[..]));
            let mut bytes = Vec::new();
            filter.write_bitset(&mut bytes).unwrap();
            let bytes = Bytes::from(bytes);
            for n in (0..blocks as u32 * 16).step_by(1 + blocks / 16) {
                let value = n.to_be_bytes();
                assert_eq!(
                    asked(&bytes, blocks, &value),
                    filter.check(&value[..]),
                    "{n} in {blocks}"
                );
            }
        }
    }
}
