//! Which batch says where a producer stands: compaction keeps it, so that a log read from its start gives each producer
//! the same last sequence and epoch as before, and a repeated batch is never taken for a new one.

use std::collections::BTreeMap;

use crate::record::{Batch, Offset};

/// The last batch of each producer, up to one offset. Taken from what the partition knows of
/// its producers ([`LastBatches::insert`]). That offset must never be truncated away: batches
/// below the one named here are no longer kept for their producer. A producer that has expired is not among them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LastBatches(BTreeMap<i64, Last>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Last {
    pub epoch: i16,
    /// Last offset of its last data batch in that epoch; `None` where only a marker has told of the epoch.
    pub data: Option<Offset>,
}

impl LastBatches {
    pub fn insert(&mut self, producer_id: i64, last: Last) {
        self.0.insert(producer_id, last);
    }

    /// Takes note of the next batch of the log.
    #[cfg(test)]
    pub fn note(&mut self, batch: &Batch) {
        let Some(producer) = batch.producer() else { return };
        let new = Last { epoch: producer.epoch, data: None };
        let last = self.0.entry(producer.id).or_insert(new);
        if producer.epoch > last.epoch {
            *last = new;
        }
        if !batch.is_control() {
            last.data = Some(batch.last_offset());
        }
    }

    /// Whether a producer's state hangs on this batch.
    pub(super) fn contains(&self, batch: &Batch) -> bool {
        let last = batch.producer().and_then(|producer| Some((producer, self.0.get(&producer.id)?)));
        last.is_some_and(|(producer, last)| match last.data {
            Some(offset) => !batch.is_control() && batch.last_offset() == offset,
            None => batch.is_control() && producer.epoch == last.epoch,
        })
    }
}
