//! First half of a pass: the last offset of each key in the dirty part of the log.

use std::ops::ControlFlow;

use super::Unreadable;
use super::aborted::AbortedRanges;
use super::map::OffsetMap;
use crate::record::{Batch, Offset};
use crate::store::partition::Aborted;

/// Fills a map with the keys of `from..end`.
pub(crate) struct Mapping {
    map: OffsetMap,
    from: Offset,
    end: Offset,
    /// All below is mapped.
    at: Offset,
    aborted: AbortedRanges,
    full: bool,
}

/// A filled map and how far it goes.
pub(crate) struct Mapped {
    pub map: OffsetMap,
    /// The records of `from..end` are in the map, none beyond.
    pub end: Offset,
    /// Whether the map was full before the end of the dirty part.
    pub full: bool,
}

impl Mapping {
    /// An empty `map` for `from..end`: first dirty and cleanable end, which need not be borders of batches. Of `aborted`
    /// are all aborted transactions with a record below `end`, wherever their markers lie; no other transaction with a
    /// record there may be open or aborted later.
    pub fn new(map: OffsetMap, from: Offset, end: Offset, aborted: &[Aborted]) -> Mapping {
        assert_eq!(map.len(), 0, "a pass begins with an empty map");
        assert!(from <= end, "the cleanable part does not shrink below what was cleaned");
        Mapping { map, from, end, at: from, aborted: AbortedRanges::new(aborted), full: false }
    }

    /// Maps the next batch; the first is the one that holds `from`. `Break` when the map is full or the end is reached:
    /// more batches would change nothing.
    pub fn add(&mut self, batch: &Batch) -> Result<ControlFlow<()>, Unreadable> {
        let next = batch.next_offset().min(self.end);
        if self.full || next <= self.at {
            return Ok(self.flow());
        }
        if !batch.is_control() && !self.aborted.contains(batch) {
            let Mapping { map, from, end, .. } = self;
            let mut unfit = None;
            let seen = batch.glance(|record| {
                let Some(key) = record.key.filter(|_| record.offset >= *from) else { return ControlFlow::Continue(()) };
                if record.offset >= *end {
                    return ControlFlow::Break(());
                }
                if map.put(key, record.offset).is_err() {
                    unfit = Some(record.offset);
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            });
            seen.map_err(Unreadable::of(batch))?;
            if let Some(offset) = unfit {
                (self.full, self.at) = (true, offset);
                return Ok(self.flow());
            }
        }
        self.at = next;
        Ok(self.flow())
    }

    fn flow(&self) -> ControlFlow<()> {
        if self.full || self.at == self.end { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// What is mapped so far; the pass may stop here for any reason.
    pub fn finish(self) -> Mapped {
        assert!(self.from <= self.at && self.at <= self.end, "the mapped part lies within the dirty part");
        Mapped { map: self.map, end: self.at, full: self.full }
    }
}
