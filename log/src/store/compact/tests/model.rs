//! What compaction should do, told as simply as can be: lists of records, batches and transactions, gone through from end
//! to end. It shares no code with what it judges and knows transactions by number, not by ranges of offsets.

use std::collections::{BTreeMap, BTreeSet};

use super::world::Record;
use crate::record::{Batch, Offset};

#[derive(Clone, Debug)]
pub(super) struct ModelRecord {
    pub offset: i64,
    pub key: Option<u8>,
    pub value: Option<Vec<u8>>,
    batch: usize,
    here: bool,
}

#[derive(Clone, Debug)]
struct ModelBatch {
    base: i64,
    next: i64,
    producer: Option<(i64, i16)>,
    marker: bool,
    /// The transaction that it belongs to or ends.
    transaction: Option<usize>,
    horizon_ms: Option<i64>,
    here: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Transaction {
    first: Option<i64>,
    /// Whether it was committed; `None` while it is open.
    outcome: Option<bool>,
}

/// See the module.
#[derive(Clone, Default)]
pub(super) struct Model {
    pub records: Vec<ModelRecord>,
    batches: Vec<ModelBatch>,
    transactions: Vec<Transaction>,
}

/// What a pass is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub from: i64,
    pub mapped_end: i64,
    pub high_watermark: i64,
    pub now_ms: i64,
    pub retention_ms: i64,
    /// Last batches of producers are those below this.
    pub last_below: i64,
}

/// A batch as it should be: base offset, offset behind it, delete horizon, offsets of its records.
pub(super) type Expected = (i64, i64, Option<i64>, Vec<i64>);

impl Model {
    pub fn begin(&mut self) -> usize {
        self.transactions.push(Transaction::default());
        self.transactions.len() - 1
    }

    fn push(&mut self, batch: &Batch, marker: bool, transaction: Option<usize>) -> usize {
        self.batches.push(ModelBatch {
            base: batch.base_offset().0,
            next: batch.next_offset().0,
            producer: batch.producer().map(|producer| (producer.id, producer.epoch)),
            marker,
            transaction,
            horizon_ms: None,
            here: true,
        });
        self.batches.len() - 1
    }

    pub fn append(&mut self, batch: &Batch, transaction: Option<usize>, records: &[Record]) {
        if let Some(transaction) = transaction {
            self.transactions[transaction].first.get_or_insert(batch.base_offset().0);
        }
        let at = self.push(batch, false, transaction);
        for (index, (key, value, _)) in records.iter().enumerate() {
            let offset = batch.base_offset().0 + index as i64;
            self.records.push(ModelRecord { offset, key: *key, value: value.clone(), batch: at, here: true });
        }
    }

    /// Returns where the transaction began, if it has a record.
    pub fn end(&mut self, marker: &Batch, transaction: Option<usize>, commit: bool) -> Option<Offset> {
        let transaction = transaction.unwrap_or_else(|| self.begin());
        self.transactions[transaction].outcome = Some(commit);
        self.push(marker, true, Some(transaction));
        self.transactions[transaction].first.map(Offset)
    }

    pub fn first_open(&self) -> Option<Offset> {
        let open = self.transactions.iter().filter(|transaction| transaction.outcome.is_none());
        open.filter_map(|transaction| transaction.first.map(Offset)).min()
    }

    fn outcome(&self, batch: usize) -> Option<bool> {
        match self.batches[batch].transaction {
            Some(transaction) => self.transactions[transaction].outcome,
            None => Some(true),
        }
    }

    /// Committed records below the last stable offset, compacted or not.
    pub fn committed(&self) -> impl Iterator<Item = &ModelRecord> {
        let stable = self.first_open().map_or(i64::MAX, |offset| offset.0);
        self.records.iter().filter(move |record| record.offset < stable && self.outcome(record.batch) == Some(true))
    }

    /// The newest value of each key, and where it is.
    pub fn newest(&self) -> BTreeMap<u8, (i64, Vec<u8>)> {
        let mut newest = BTreeMap::new();
        for record in self.committed() {
            match (record.key, &record.value) {
                (Some(key), Some(value)) => drop(newest.insert(key, (record.offset, value.clone()))),
                (Some(key), None) => drop(newest.remove(&key)),
                (None, _) => {}
            }
        }
        newest
    }

    /// Where a map of so many keys is full: at the first record that does not fit.
    pub fn mapped_end(&self, from: i64, end: i64, keys_max: usize) -> i64 {
        let mut keys = BTreeSet::new();
        for record in self.records.iter().filter(|record| record.here && (from..end).contains(&record.offset)) {
            if let (Some(key), Some(true)) = (record.key, self.outcome(record.batch)) {
                if !keys.contains(&key) && keys.len() == keys_max {
                    return record.offset;
                }
                keys.insert(key);
            }
        }
        end
    }

    fn goes(&self, record: &ModelRecord, told: Told) -> bool {
        let batch = &self.batches[record.batch];
        if self.outcome(record.batch) == Some(false) {
            return batch.next <= told.mapped_end;
        }
        if record.offset >= told.mapped_end {
            return false;
        }
        let newer = |other: &ModelRecord| {
            other.here
                && other.key == record.key
                && other.offset > record.offset
                && (told.from..told.mapped_end).contains(&other.offset)
                && self.outcome(other.batch) == Some(true)
        };
        let expired = record.value.is_none() && batch.horizon_ms.is_some_and(|horizon_ms| horizon_ms < told.now_ms);
        record.key.is_none() || self.records.iter().any(newer) || expired
    }

    /// Whether the state of its producer, or of the log's end, hangs on the batch.
    fn must_stay(&self, at: usize, told: Told) -> bool {
        let batch = &self.batches[at];
        let Some((id, epoch)) = batch.producer else { return batch.next == told.high_watermark };
        let known: Vec<_> = (0..self.batches.len())
            .filter(|&other| self.batches[other].here && self.batches[other].base < told.last_below)
            .filter(|&other| self.batches[other].producer.is_some_and(|producer| producer.0 == id))
            .collect();
        let newest = known.iter().filter_map(|&other| self.batches[other].producer).map(|producer| producer.1).max();
        let of_epoch = |&other: &usize| self.batches[other].producer.map(|producer| producer.1) == newest;
        let last_data = known.iter().copied().filter(of_epoch).rfind(|&other| !self.batches[other].marker);
        let last = match last_data {
            Some(last) => last == at,
            None => batch.marker && newest == Some(epoch),
        };
        last || batch.next == told.high_watermark
    }

    /// Goes through a pass; returns the earliest time at which there is more to take.
    pub fn clean(&mut self, told: Told) -> Option<i64> {
        let stays: Vec<bool> = (0..self.batches.len()).map(|at| self.must_stay(at, told)).collect();
        let goes: Vec<bool> = self.records.iter().map(|record| record.here && self.goes(record, told)).collect();
        for (record, goes) in self.records.iter_mut().zip(goes) {
            record.here &= !goes;
        }
        let mut next_ms: Option<i64> = None;
        let mut due = |horizon_ms: i64| {
            next_ms = Some(next_ms.map_or(horizon_ms + 1, |next_ms| next_ms.min(horizon_ms + 1)));
        };
        for (at, must_stay) in stays.into_iter().enumerate() {
            let batch = &self.batches[at];
            if !batch.here || batch.base >= told.mapped_end {
                continue;
            }
            let new_horizon_ms = Some(told.now_ms + told.retention_ms);
            if batch.marker {
                let same = |other: &ModelBatch| other.here && !other.marker && other.transaction == batch.transaction;
                if self.batches.iter().any(same) {
                    continue;
                }
                let batch = &mut self.batches[at];
                batch.here = must_stay || batch.horizon_ms.is_none_or(|horizon_ms| horizon_ms >= told.now_ms);
                batch.horizon_ms = batch.horizon_ms.or(new_horizon_ms);
                if let (true, false, Some(horizon_ms)) = (batch.here, must_stay, batch.horizon_ms) {
                    due(horizon_ms);
                }
                continue;
            }
            let left = || self.records.iter().filter(|record| record.here && record.batch == at);
            let tombstones = left().any(|record| record.value.is_none() && record.offset < told.mapped_end);
            let (whole, aborted) = (batch.next <= told.mapped_end, self.outcome(at) == Some(false));
            let empty = left().next().is_none();
            let batch = &mut self.batches[at];
            if empty && (whole || !aborted) {
                batch.here = must_stay;
                batch.horizon_ms = None;
            } else if tombstones && !aborted {
                batch.horizon_ms = batch.horizon_ms.or(new_horizon_ms.filter(|_| whole));
                batch.horizon_ms.iter().for_each(|&horizon_ms| due(horizon_ms));
            }
        }
        next_ms
    }

    pub fn expected(&self) -> Vec<Expected> {
        let batches = self.batches.iter().enumerate().filter(|(_, batch)| batch.here);
        batches
            .map(|(at, batch)| {
                let offsets = self.records.iter().filter(|record| record.here && record.batch == at);
                let offsets = if batch.marker { vec![batch.base] } else { offsets.map(|r| r.offset).collect() };
                (batch.base, batch.next, batch.horizon_ms, offsets)
            })
            .collect()
    }
}
