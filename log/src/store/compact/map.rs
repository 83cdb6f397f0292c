//! The last offset of each key, in memory that is known beforehand: 24 bytes a slot.
//!
//! ```text
//! hashes:  [u128]  128-bit hash of the key, 0: the slot is empty
//! offsets: [i64]   the highest offset put for it
//! ```
//!
//! Open addressing with linear steps. Keys are known by their hash alone, as in Kafka: two keys of one hash would cost the
//! older one its value, which at 128 bits and a billion keys has a chance of 10⁻²¹. The seed keeps writers from choosing
//! keys that meet.

use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::record::Offset;

/// Bytes of a slot: the hash and the offset.
pub(crate) const SLOT_BYTES: usize = size_of::<u128>() + size_of::<i64>();
/// Slots taken of a hundred, at most: beyond that a miss costs more than fifty steps.
const LOAD_PERCENT_MAX: usize = 90;

/// See the module.
pub(crate) struct OffsetMap {
    hashes: Vec<u128>,
    offsets: Vec<i64>,
    len: usize,
    seed: u64,
}

/// The key is new and there is no room for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl OffsetMap {
    /// A map of at most `bytes`, which is room for two slots at least. The memory is touched as keys come.
    pub fn new(bytes: usize, seed: u64) -> OffsetMap {
        let slots = bytes / SLOT_BYTES;
        assert!(slots >= 2, "a map that holds nothing makes no progress");
        OffsetMap { hashes: vec![0; slots], offsets: vec![0; slots], len: 0, seed }
    }

    /// How many keys it takes.
    pub fn capacity(&self) -> usize {
        // In u128, for slots times a hundred may not fit; never 0, as there are two slots.
        (self.hashes.len() as u128 * LOAD_PERCENT_MAX as u128 / 100) as usize
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Memory held, however full.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.hashes.capacity() * size_of::<u128>() + self.offsets.capacity() * size_of::<i64>()
    }

    /// Notes that `key` is at `offset`; the highest one counts.
    pub fn put(&mut self, key: &[u8], offset: Offset) -> Result<(), Full> {
        let hash = self.hash(key);
        let slot = self.slot_of(hash);
        if self.hashes[slot] == hash {
            self.offsets[slot] = self.offsets[slot].max(offset.0);
            return Ok(());
        }
        if self.len == self.capacity() {
            return Err(Full);
        }
        self.hashes[slot] = hash;
        self.offsets[slot] = offset.0;
        self.len += 1;
        Ok(())
    }

    pub fn latest(&self, key: &[u8]) -> Option<Offset> {
        let hash = self.hash(key);
        let slot = self.slot_of(hash);
        (self.hashes[slot] == hash).then(|| Offset(self.offsets[slot]))
    }

    fn hash(&self, key: &[u8]) -> u128 {
        // 0 says empty.
        xxh3_128_with_seed(key, self.seed).max(1)
    }

    /// The slot that holds `hash`, or the empty one where it would go: there is always one, for the map is never full.
    fn slot_of(&self, hash: u128) -> usize {
        let slots = self.hashes.len();
        let mut slot = (((hash >> 64) * slots as u128) >> 64) as usize;
        while self.hashes[slot] != 0 && self.hashes[slot] != hash {
            slot += 1;
            if slot == slots {
                slot = 0;
            }
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_budget_holds() {
        for bytes in [48, 71, 72, 24 * 100, 1 << 20] {
            let mut map = OffsetMap::new(bytes, 7);
            let slots = bytes / SLOT_BYTES;
            assert!(map.bytes() <= bytes);
            let fitted = (0u64..).take_while(|n| map.put(&n.to_be_bytes(), Offset(*n as i64)).is_ok()).count();
            assert_eq!((fitted, map.len()), (map.capacity(), map.capacity()));
            assert!(fitted >= 1 && fitted * 10 <= slots * 9 && fitted < slots);
            assert!(map.bytes() <= bytes);
            // A key that is known moves on in a full map.
            assert_eq!(map.put(&0u64.to_be_bytes(), Offset(1 << 40)), Ok(()));
            assert_eq!(map.latest(&0u64.to_be_bytes()), Some(Offset(1 << 40)));
            assert_eq!(map.latest(b"unknown"), None);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// As a map of the standard library, whatever the seed, up to its capacity.
        #[test]
        fn agrees_with_a_plain_map(
            seed in any::<u64>(),
            slots in 2usize..40,
            puts in prop::collection::vec((prop::collection::vec(0u8..3, 0..4), 0i64..1000), 0..80),
        ) {
            let mut map = OffsetMap::new(slots * SLOT_BYTES, seed);
            let mut model: BTreeMap<Vec<u8>, i64> = BTreeMap::new();
            for (key, offset) in puts {
                let fits = model.contains_key(&key) || model.len() < map.capacity();
                prop_assert_eq!(map.put(&key, Offset(offset)).is_ok(), fits);
                if fits {
                    let last = model.entry(key).or_insert(offset);
                    *last = (*last).max(offset);
                }
                prop_assert_eq!(map.len(), model.len());
            }
            for (key, offset) in &model {
                prop_assert_eq!(map.latest(key), Some(Offset(*offset)));
            }
            prop_assert_eq!(map.latest(&[9]), None);
        }
    }
}
