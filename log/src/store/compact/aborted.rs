//! Which batches belong to aborted transactions, and which of these transactions still have a batch in the log.

use std::collections::BTreeMap;

use crate::record::{Batch, Offset};
use crate::store::partition::Aborted;

/// The aborted transactions of a partition, by producer and first offset.
pub(super) struct AbortedRanges {
    ranges: BTreeMap<(i64, Offset), Range>,
}

/// Aborted transactions of which nothing is left. There may be many, and many to be looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Void {
    /// By producer and first offset.
    sorted: Vec<Aborted>,
}

impl Void {
    pub fn contains(&self, aborted: &Aborted) -> bool {
        let key = |void: &Aborted| (void.producer_id, void.first);
        let found = self.sorted.binary_search_by_key(&key(aborted), key);
        found.is_ok_and(|at| self.sorted[at] == *aborted)
    }
}

struct Range {
    /// Offset of the marker.
    last: Offset,
    /// Whether a batch of it is left.
    left: bool,
}

impl AbortedRanges {
    pub fn new(aborted: &[Aborted]) -> AbortedRanges {
        let range = |a: &Aborted| ((a.producer_id, a.first), Range { last: a.last, left: false });
        AbortedRanges { ranges: aborted.iter().map(range).collect() }
    }

    fn key_of(&self, batch: &Batch) -> Option<(i64, Offset)> {
        let producer = batch.producer().filter(|_| batch.is_transactional() && !batch.is_control())?;
        let up_to = ..=(producer.id, batch.base_offset());
        let (&key, range) = self.ranges.range(up_to).next_back()?;
        (key.0 == producer.id && batch.last_offset() < range.last).then_some(key)
    }

    /// Whether the batch is data of an aborted transaction.
    pub fn contains(&self, batch: &Batch) -> bool {
        self.key_of(batch).is_some()
    }

    /// Takes note that this batch stays.
    pub fn note_left(&mut self, batch: &Batch) {
        if let Some(key) = self.key_of(batch)
            && let Some(range) = self.ranges.get_mut(&key)
        {
            range.left = true;
        }
    }

    /// The transactions that end below `end` and have no batch left.
    pub fn void(&self, end: Offset) -> Void {
        let void = self.ranges.iter().filter(|(_, range)| !range.left && range.last < end);
        let void = void.map(|(&(producer_id, first), range)| Aborted { producer_id, first, last: range.last });
        Void { sorted: void.collect() }
    }

    /// The transactions that readers must still know of, by first offset: all but those that end below `end` and have no
    /// batch left. Without its marker such a one would hide what its producer committed later.
    pub fn into_left(self, end: Offset) -> Vec<Aborted> {
        let left = self.ranges.into_iter().filter(|(_, range)| range.left || range.last >= end);
        let mut left: Vec<_> =
            left.map(|((producer_id, first), range)| Aborted { producer_id, first, last: range.last }).collect();
        left.sort_by_key(|aborted| (aborted.first, aborted.producer_id));
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_void_is_found_among_many() {
        let aborted = |producer_id, first, last| Aborted { producer_id, first: Offset(first), last: Offset(last) };
        let all: Vec<Aborted> =
            (0..200).map(|n| aborted(n * 7919 % 13, n * 10 % 270, n * 10 % 270 + 5 + n % 2)).collect();
        let ranges = AbortedRanges::new(&all);
        for end in [0, 6, 100, 1000] {
            let void = ranges.void(Offset(end));
            for one in &all {
                assert_eq!(void.contains(one), void.sorted.contains(one), "{one:?} below {end}");
                assert!(!void.contains(&Aborted { last: Offset(one.last.0 + 100), ..*one }));
            }
            assert_eq!(void.sorted.is_empty(), end <= 5);
        }
    }
}
