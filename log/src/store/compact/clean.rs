//! Second half of a pass: each batch from the log start on, as it is, with fewer records, without any, or gone.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Unreadable;
use super::aborted::{AbortedRanges, Void};
use super::mapping::Mapped;
use super::producers::LastBatches;
use crate::record::{Batch, BatchError, Offset};
use crate::store::partition::Aborted;

/// What decides on a record.
pub(crate) struct Retain {
    pub mapped: Arc<Mapped>,
    pub last_batches: LastBatches,
    /// A batch that ends here is kept even if nothing of it is left: where the log ends stays written in it.
    pub high_watermark: Offset,
    /// `delete.retention.ms`: how long tombstones and markers stay from their first cleaning on.
    pub delete_retention_ms: i64,
    pub now_ms: i64,
}

/// See the module. One for a pass, whatever the segments: what it knows of transactions goes from one to the next.
pub(crate) struct Cleaner {
    retain: Retain,
    aborted: AbortedRanges,
    /// Producers with a batch left since their last marker: their next marker is needed.
    unfinished: BTreeSet<i64>,
    /// No batch begins below.
    next: Offset,
    stats: Stats,
}

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stats {
    pub batches_in: u64,
    pub batches_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Records of data batches.
    pub records_in: u64,
    /// Dropped for a newer record of their key.
    pub superseded: u64,
    pub keyless: u64,
    /// Tombstones behind their horizon.
    pub expired: u64,
    /// Of aborted transactions.
    pub aborted: u64,
    /// Transaction markers.
    pub markers: u64,
    /// The earliest time at which a pass would take a tombstone or a marker, though nothing is written until then.
    pub next_ms: Option<i64>,
}

/// A pass over the whole cleanable part, done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub stats: Stats,
    /// The aborted transactions that readers must still know of, out of those handed in.
    pub aborted: Vec<Aborted>,
}

impl Cleaner {
    /// `aborted`: all aborted transactions with a record below the mapped end, as for the mapping.
    pub fn new(retain: Retain, aborted: &[Aborted]) -> Cleaner {
        let aborted = AbortedRanges::new(aborted);
        Cleaner { retain, aborted, unfinished: BTreeSet::new(), next: Offset(0), stats: Stats::default() }
    }

    #[cfg(test)]
    pub fn with_mutant(mut self, mutant: super::Mutant) -> Cleaner {
        match mutant {
            super::Mutant::ProducerStateLost => self.retain.last_batches = LastBatches::default(),
        }
        self
    }

    /// What takes the place of the next batch. Batches at or above the mapped end come back as they are: they need not
    /// be handed in, except those of segments that are replaced.
    pub fn clean(&mut self, batch: Batch) -> Result<Option<Batch>, Unreadable> {
        // Offsets lie outside of a batch's checksum.
        if batch.base_offset() < self.next {
            return Err(Unreadable::of(&batch)(BatchError::Malformed("it begins before the end of the batch before")));
        }
        self.next = batch.next_offset();
        self.stats.batches_in += 1;
        self.stats.bytes_in += batch.size() as u64;
        if !batch.is_control() {
            self.stats.records_in += u64::from(batch.record_count());
        }
        let end = self.retain.mapped.end;
        let left = if batch.base_offset() >= end {
            Some(batch)
        } else if batch.is_control() {
            self.clean_marker(batch)?
        } else if self.aborted.contains(&batch) {
            self.clean_aborted(batch)
        } else {
            self.clean_data(batch)?
        };
        if let Some(left) = &left {
            self.stats.batches_out += 1;
            self.stats.bytes_out += left.size() as u64;
            self.note_left(left);
        }
        Ok(left)
    }

    /// Of the aborted transactions handed in those of which nothing is left below `end`, all of whose batches were handed
    /// in: what takes the place of these batches goes together with them.
    pub fn void(&self, end: Offset) -> Void {
        self.aborted.void(end)
    }

    fn note_left(&mut self, batch: &Batch) {
        if batch.is_control() || !batch.is_transactional() {
            return;
        }
        self.aborted.note_left(batch);
        if let Some(producer) = batch.producer() {
            self.unfinished.insert(producer.id);
        }
    }

    /// Done: all batches below the mapped end have been handed in.
    pub fn finish(self) -> Outcome {
        Outcome { stats: self.stats, aborted: self.aborted.into_left(self.retain.mapped.end) }
    }

    /// A marker is one record, so it lies wholly below the mapped end.
    fn clean_marker(&mut self, batch: Batch) -> Result<Option<Batch>, Unreadable> {
        // Control batches of no producer are not ours to judge.
        let Some(producer) = batch.producer() else { return Ok(Some(batch)) };
        if self.unfinished.remove(&producer.id) {
            return Ok(Some(batch));
        }
        let needed = self.must_stay(&batch);
        let Some(horizon_ms) = batch.delete_horizon_ms() else {
            let horizon_ms = self.new_horizon_ms();
            if !needed {
                self.note_horizon(horizon_ms);
            }
            return self.rebuild_whole(&batch, horizon_ms).map(Some);
        };
        if needed {
            return Ok(Some(batch));
        }
        if self.has_passed(horizon_ms) {
            self.stats.markers += 1;
            return Ok(None);
        }
        self.note_horizon(horizon_ms);
        Ok(Some(batch))
    }

    fn rebuild_whole(&self, batch: &Batch, horizon_ms: i64) -> Result<Batch, Unreadable> {
        let rebuilt = batch.sift(|_| true).and_then(|all| batch.rebuild(all, Some(horizon_ms)));
        rebuilt.map_err(Unreadable::of(batch))
    }

    fn clean_aborted(&mut self, batch: Batch) -> Option<Batch> {
        if batch.next_offset() > self.retain.mapped.end {
            return Some(batch);
        }
        self.stats.aborted += u64::from(batch.record_count());
        self.emptied_or_gone(&batch)
    }

    fn clean_data(&mut self, batch: Batch) -> Result<Option<Batch>, Unreadable> {
        let Mapped { map, end, .. } = &*self.retain.mapped;
        // The mapped end may lie within a batch; then its tombstones are not all cleaned.
        let whole = batch.next_offset() <= *end;
        let expired = batch.delete_horizon_ms().is_some_and(|horizon_ms| self.has_passed(horizon_ms));
        let stats = &mut self.stats;
        let mut tombstones = false;
        let sifted = batch.sift(|record| {
            if record.offset >= *end {
                return true;
            }
            let Some(key) = record.key else {
                stats.keyless += 1;
                return false;
            };
            if map.latest(key).is_some_and(|latest| latest > record.offset) {
                stats.superseded += 1;
                return false;
            }
            let goes = record.tombstone && expired;
            stats.expired += u64::from(goes);
            tombstones |= record.tombstone && !goes;
            !goes
        });
        let sifted = sifted.map_err(Unreadable::of(&batch))?;
        if sifted.kept == 0 {
            return Ok(self.emptied_or_gone(&batch));
        }
        let first_cleaned = whole && tombstones && batch.delete_horizon_ms().is_none();
        let horizon_ms = first_cleaned.then(|| self.new_horizon_ms());
        if let (true, Some(horizon_ms)) = (tombstones, horizon_ms.or(batch.delete_horizon_ms())) {
            self.note_horizon(horizon_ms);
        }
        if sifted.dropped == 0 && horizon_ms.is_none() {
            return Ok(Some(batch));
        }
        batch.rebuild(sifted, horizon_ms).map(Some).map_err(Unreadable::of(&batch))
    }

    fn emptied_or_gone(&self, batch: &Batch) -> Option<Batch> {
        self.must_stay(batch).then(|| batch.emptied())
    }

    /// Whether something is known from this batch even without its records.
    fn must_stay(&self, batch: &Batch) -> bool {
        batch.next_offset() == self.retain.high_watermark || self.retain.last_batches.contains(batch)
    }

    fn new_horizon_ms(&self) -> i64 {
        self.retain.now_ms.saturating_add(self.retain.delete_retention_ms)
    }

    fn has_passed(&self, horizon_ms: i64) -> bool {
        self.retain.now_ms > horizon_ms
    }

    fn note_horizon(&mut self, horizon_ms: i64) {
        let due_ms = horizon_ms.saturating_add(1);
        self.stats.next_ms = Some(self.stats.next_ms.map_or(due_ms, |next_ms| next_ms.min(due_ms)));
    }
}
