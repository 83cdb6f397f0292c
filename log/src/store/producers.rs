//! What a partition remembers of its idempotent producers: enough to answer a repeated batch with its first offset and
//! to refuse a gap or an old epoch. One that was silent for so long that it has expired counts as never heard of, unless
//! its transaction is open; it is forgotten when somebody looks.
//!
//! It is heard of when its batch is appended, by this node's clock: what its records say of the time may be years ago.
//! Where a batch is applied again by recovery that is the time of the recovery: it never expires too early.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{Buf, BufMut};

use super::compact::producers::{Last, LastBatches};
use super::layout::producer_snapshot::{LastBatch, ProducerEntry};
use crate::Error;
use crate::env::mutant::Mutant;
use crate::record::batch::Producer;
use crate::record::{Batch, Offset};

/// A client has at most this many requests in flight, so no older batch can be repeated (Kafka's number).
const REMEMBERED: usize = 5;
/// Producers remembered in a partition; over it the one that has been silent longest is forgotten. 10,000 take about 3 MB.
const PRODUCERS_MAX: usize = 10_000;

/// Those heard of last at this time or before, in milliseconds since 1970, have expired.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExpiredTo(i64);

impl ExpiredTo {
    pub fn new(now_ms: i64, expiration_ms: i64) -> ExpiredTo {
        ExpiredTo(now_ms.saturating_sub(expiration_ms))
    }
}

/// See the module. Ordered maps, for what is saved must not depend on hashing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Producers {
    known: BTreeMap<i64, Known>,
    /// Counts changes: who was heard of last.
    clock: u64,
    /// Those without an open transaction, by when they were heard of last, and their ids.
    idle: BTreeSet<(u64, i64)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    epoch: i16,
    /// The newest batches, oldest first; empty behind a marker of a new epoch.
    batches: VecDeque<Remembered>,
    /// First offset of the open transaction.
    open: Option<Offset>,
    heard: u64,
    /// And by the clock.
    heard_ms: i64,
    /// Of its newest marker, or -1: for Kafka's tools.
    coordinator_epoch: i32,
}

impl Known {
    fn decode(from: &mut &[u8]) -> Result<(i64, Known), &'static str> {
        let short = |_| "it ends early";
        let (id, epoch) = (from.try_get_i64_le().map_err(short)?, from.try_get_i16_le().map_err(short)?);
        let open = Some(from.try_get_i64_le().map_err(short)?).filter(|open| *open != -1).map(Offset);
        let heard = from.try_get_u64_le().map_err(short)?;
        let heard_ms = from.try_get_i64_le().map_err(short)?;
        let coordinator_epoch = from.try_get_i32_le().map_err(short)?;
        let mut batches = VecDeque::new();
        for _ in 0..from.try_get_u8().map_err(short)? {
            let (first_sequence, last_sequence) =
                (from.try_get_i32_le().map_err(short)?, from.try_get_i32_le().map_err(short)?);
            let base_offset = Offset(from.try_get_i64_le().map_err(short)?);
            let rises = batches.back().is_none_or(|last: &Remembered| last.base_offset < base_offset);
            if first_sequence < 0 || last_sequence < 0 || !base_offset.is_stored() || !rises {
                return Err("a producer's batches are none that it can have sent");
            }
            batches.push_back(Remembered { first_sequence, last_sequence, base_offset });
        }
        if id < 0 || epoch < 0 || batches.len() > REMEMBERED || open.is_some_and(|open| !open.is_stored()) {
            return Err("a producer is none that there can be");
        }
        Ok((id, Known { epoch, batches, open, heard, heard_ms, coordinator_epoch }))
    }

    fn has_expired(&self, expired_to: ExpiredTo) -> bool {
        self.open.is_none() && self.heard_ms <= expired_to.0
    }

    /// Whether a data batch that was appended cannot have been while this was known of its producer: that was forgotten
    /// before.
    fn was_forgotten(&self, producer: Producer) -> bool {
        let follows = |newest: &Remembered| sequence_after(newest.last_sequence, 1) == producer.base_sequence;
        producer.epoch < self.epoch || (producer.epoch == self.epoch && !self.batches.back().is_none_or(follows))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Remembered {
    first_sequence: i32,
    last_sequence: i32,
    base_offset: Offset,
}

/// An open transaction of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Open {
    pub producer_id: i64,
    pub epoch: i16,
    pub first: Offset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Append,
    /// It is here already, from this offset on.
    Repeated(Offset),
}

fn sequence_after(sequence: i32, steps: i32) -> i32 {
    // Behind i32::MAX comes 0.
    ((i64::from(sequence) + i64::from(steps)) & i64::from(i32::MAX)) as i32
}

impl Producers {
    /// What is to be done with a data batch of `producer` that holds `count` records.
    pub fn check(&self, producer: Producer, count: u32, expired_to: ExpiredTo) -> Result<Verdict, Error> {
        let out_of_order = |expected| Error::OutOfOrderSequence {
            producer_id: producer.id,
            sequence: producer.base_sequence,
            expected,
        };
        // Unknown: forgotten or its records are gone; where it stands is its own affair.
        let known = self.known.get(&producer.id).filter(|known| !known.has_expired(expired_to));
        let Some(known) = known else { return Ok(Verdict::Append) };
        if producer.epoch < known.epoch {
            return Err(Error::ProducerEpoch { producer_id: producer.id, epoch: producer.epoch, current: known.epoch });
        }
        if producer.epoch > known.epoch {
            return if producer.base_sequence == 0 { Ok(Verdict::Append) } else { Err(out_of_order(0)) };
        }
        let Some(newest) = known.batches.back() else { return Ok(Verdict::Append) };
        let last = sequence_after(producer.base_sequence, count.saturating_sub(1) as i32);
        let same = |b: &&Remembered| b.first_sequence == producer.base_sequence && b.last_sequence == last;
        if let Some(repeated) = known.batches.iter().find(same) {
            return Ok(Verdict::Repeated(repeated.base_offset));
        }
        let expected = sequence_after(newest.last_sequence, 1);
        if producer.base_sequence == expected { Ok(Verdict::Append) } else { Err(out_of_order(expected)) }
    }

    /// Takes note of a batch that has its offset, data or marker, and is heard of now.
    pub fn apply(&mut self, batch: &Batch, now_ms: i64) {
        let Some(producer) = batch.producer() else { return };
        self.clock += 1;
        let heard = self.clock;
        let fresh = || Known {
            epoch: producer.epoch,
            batches: VecDeque::new(),
            open: None,
            heard,
            heard_ms: now_ms,
            coordinator_epoch: -1,
        };
        let known = self.known.entry(producer.id).or_insert_with(fresh);
        self.idle.remove(&(known.heard, producer.id));
        (known.heard, known.heard_ms) = (heard, now_ms);
        if producer.epoch > known.epoch || (!batch.is_control() && known.was_forgotten(producer)) {
            known.epoch = producer.epoch;
            known.batches.clear();
        }
        if batch.is_control() {
            known.open = None;
            if let Ok(Some(marker)) = batch.marker() {
                known.coordinator_epoch = marker.coordinator_epoch;
            }
        } else {
            if batch.is_transactional() && known.open.is_none() {
                known.open = Some(batch.base_offset());
            }
            if known.batches.len() == REMEMBERED {
                known.batches.pop_front();
            }
            let records = (batch.last_offset().0 - batch.base_offset().0) as i32;
            known.batches.push_back(Remembered {
                first_sequence: producer.base_sequence,
                last_sequence: sequence_after(producer.base_sequence, records),
                base_offset: batch.base_offset(),
            });
        }
        if known.open.is_none() {
            self.idle.insert((heard, producer.id));
        }
        if self.known.len() > PRODUCERS_MAX
            && let Some((_, id)) = self.idle.pop_first()
        {
            self.known.remove(&id);
        }
    }

    /// Forgets those that have expired, those silent longest first and so many at most. Returns how many.
    pub fn expire(&mut self, expired_to: ExpiredTo, count_max: usize) -> usize {
        let mut count = 0;
        while count < count_max
            && let Some(&(heard, id)) = self.idle.first()
            && self.known.get(&id).is_none_or(|known| known.has_expired(expired_to))
        {
            self.idle.remove(&(heard, id));
            self.known.remove(&id);
            count += 1;
        }
        count
    }

    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// As part of a checkpoint's record, little endian:
    ///
    /// ```text
    /// u64  changes counted
    /// u32  producers, each:  i64 id, rising, i16 epoch, i64 first offset of the open transaction (-1: none), u64 changes
    ///                        when last heard of, i64 when that was in milliseconds since 1970, i32 coordinator epoch
    ///                        (-1: none), u8 batches, at most five, each i32 first sequence, i32 last sequence,
    ///                        i64 offset, rising
    /// ```
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64_le(self.clock);
        out.put_u32_le(self.known.len() as u32);
        for (id, known) in &self.known {
            out.put_i64_le(*id);
            out.put_i16_le(known.epoch);
            let open = known.open.filter(|_| !Mutant::CheckpointForgetsOpenTransactions.is_on());
            out.put_i64_le(open.map_or(-1, |open| open.0));
            out.put_u64_le(known.heard);
            out.put_i64_le(known.heard_ms);
            out.put_i32_le(known.coordinator_epoch);
            let kept = if Mutant::CheckpointForgetsProducers.is_on() { 0 } else { known.batches.len() };
            out.put_u8(kept as u8);
            for batch in known.batches.iter().take(kept) {
                out.put_i32_le(batch.first_sequence);
                out.put_i32_le(batch.last_sequence);
                out.put_i64_le(batch.base_offset.0);
            }
        }
    }

    /// As Kafka keeps it beside a segment.
    pub fn snapshot(&self) -> Vec<ProducerEntry> {
        let entry = |(&producer_id, known): (&i64, &Known)| ProducerEntry {
            producer_id,
            epoch: known.epoch,
            last_batch: known.batches.back().map(|batch| {
                let offset_delta = batch.last_sequence.wrapping_sub(batch.first_sequence) & i32::MAX;
                let last_offset = Offset(batch.base_offset.0 + i64::from(offset_delta));
                LastBatch { last_sequence: batch.last_sequence, last_offset, offset_delta }
            }),
            timestamp_ms: known.heard_ms,
            coordinator_epoch: known.coordinator_epoch,
            current_txn_first_offset: known.open,
        };
        self.known.iter().map(entry).collect()
    }

    /// An error when the bytes are not what [`Producers::encode`] writes of a log that ends at `end`.
    pub fn decode(from: &mut &[u8], end: Offset) -> Result<Producers, &'static str> {
        let short = |_| "it ends early";
        let clock = from.try_get_u64_le().map_err(short)?;
        let mut known = BTreeMap::new();
        for _ in 0..from.try_get_u32_le().map_err(short)? {
            let (id, producer) = Known::decode(from)?;
            let behind = producer.open.into_iter().chain(producer.batches.iter().map(|batch| batch.base_offset));
            let behind = behind.max().is_some_and(|offset| offset >= end);
            if behind || producer.heard > clock || known.insert(id, producer).is_some() {
                return Err("a producer is there twice, or was heard of behind the end");
            }
        }
        // One batch is counted after the other: it never gets there.
        if clock > u64::MAX >> 1 {
            return Err("the producers' clock is none that a log has");
        }
        let idle =
            known.iter().filter(|(_, known)| known.open.is_none()).map(|(id, known)| (known.heard, *id)).collect();
        Ok(Producers { known, clock, idle })
    }

    pub fn open(&self, producer_id: i64) -> Option<Offset> {
        self.known.get(&producer_id).and_then(|known| known.open)
    }

    /// All open transactions, by producer id.
    pub fn open_all(&self) -> Vec<Open> {
        let open = |(&producer_id, known): (&i64, &Known)| {
            known.open.map(|first| Open { producer_id, epoch: known.epoch, first })
        };
        self.known.iter().filter_map(open).collect()
    }

    /// What compaction keeps for each producer.
    pub fn last_batches(&self, expired_to: ExpiredTo) -> LastBatches {
        let mut last_batches = LastBatches::default();
        for (&id, known) in self.known.iter().filter(|(_, known)| !known.has_expired(expired_to)) {
            let end =
                |b: &Remembered| b.base_offset.0 + i64::from(b.last_sequence.wrapping_sub(b.first_sequence) & i32::MAX);
            let data = known.batches.back().map(|batch| Offset(end(batch)));
            last_batches.insert(id, Last { epoch: known.epoch, data });
        }
        last_batches
    }

    /// The newest epoch of each producer.
    pub fn epochs(&self) -> impl Iterator<Item = (i64, i16)> + '_ {
        self.known.iter().map(|(&id, known)| (id, known.epoch))
    }
}

#[cfg(test)]
mod tests;
