//! What a partition remembers of its idempotent producers: enough to answer a repeated batch with its first offset and
//! to refuse a gap or an old epoch.

use std::collections::{BTreeMap, VecDeque};

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

/// See the module. Ordered maps, for what is saved must not depend on hashing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Producers {
    known: BTreeMap<i64, Known>,
    /// Counts changes: who was heard of last.
    clock: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    epoch: i16,
    /// The newest batches, oldest first; empty behind a marker of a new epoch.
    batches: VecDeque<Remembered>,
    /// First offset of the open transaction.
    open: Option<Offset>,
    heard: u64,
    /// The largest timestamp of its newest batch, and the coordinator's epoch of its newest marker or -1: for Kafka's tools.
    timestamp_ms: i64,
    coordinator_epoch: i32,
}

impl Known {
    fn decode(from: &mut &[u8]) -> Result<(i64, Known), &'static str> {
        let short = |_| "it ends early";
        let (id, epoch) = (from.try_get_i64_le().map_err(short)?, from.try_get_i16_le().map_err(short)?);
        let open = Some(from.try_get_i64_le().map_err(short)?).filter(|open| *open != -1).map(Offset);
        let heard = from.try_get_u64_le().map_err(short)?;
        let timestamp_ms = from.try_get_i64_le().map_err(short)?;
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
        Ok((id, Known { epoch, batches, open, heard, timestamp_ms, coordinator_epoch }))
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
    pub fn check(&self, producer: Producer, count: u32) -> Result<Verdict, Error> {
        let out_of_order = |expected| Error::OutOfOrderSequence {
            producer_id: producer.id,
            sequence: producer.base_sequence,
            expected,
        };
        // Unknown: forgotten or its records are gone; where it stands is its own affair.
        let Some(known) = self.known.get(&producer.id) else { return Ok(Verdict::Append) };
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

    /// Takes note of a batch that has its offset: data or marker.
    pub fn apply(&mut self, batch: &Batch) {
        let Some(producer) = batch.producer() else { return };
        self.clock += 1;
        let heard = self.clock;
        let fresh = || Known {
            epoch: producer.epoch,
            batches: VecDeque::new(),
            open: None,
            heard,
            timestamp_ms: -1,
            coordinator_epoch: -1,
        };
        let known = self.known.entry(producer.id).or_insert_with(fresh);
        known.heard = heard;
        known.timestamp_ms = batch.max_timestamp_ms();
        if producer.epoch > known.epoch {
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
        self.forget();
    }

    fn forget(&mut self) {
        if self.known.len() <= PRODUCERS_MAX {
            return;
        }
        let closed = self.known.iter().filter(|(_, known)| known.open.is_none());
        if let Some((&id, _)) = closed.min_by_key(|(_, known)| known.heard) {
            self.known.remove(&id);
        }
    }

    /// As part of a checkpoint's record, little endian:
    ///
    /// ```text
    /// u64  changes counted
    /// u32  producers, each:  i64 id, rising, i16 epoch, i64 first offset of the open transaction (-1: none), u64 changes
    ///                        when last heard of, i64 timestamp, i32 coordinator epoch (-1: none), u8 batches, at most
    ///                        five, each i32 first sequence, i32 last sequence, i64 offset, rising
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
            out.put_i64_le(known.timestamp_ms);
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
            timestamp_ms: known.timestamp_ms,
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
        Ok(Producers { known, clock })
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
    pub fn last_batches(&self) -> LastBatches {
        let mut last_batches = LastBatches::default();
        for (&id, known) in &self.known {
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
mod tests {
    use super::*;
    use crate::LeaderEpoch;
    use crate::record::NewRecord;
    use crate::record::build::{Frame, Marker};

    fn batch(epoch: i16, base_sequence: i32, count: usize, offset: i64) -> Batch {
        let producer = Some(Producer { id: 9, epoch, base_sequence });
        let frame = Frame { now_ms: 0, producer, transactional: false, batch_bytes_max: 1 << 20 };
        let mut batch = Batch::build(&vec![NewRecord::default(); count], &frame).unwrap();
        batch.place(Offset(offset), LeaderEpoch(0));
        batch
    }

    fn check(seen: &[(i16, i32, usize)], next: (i16, i32, u32)) -> Result<Verdict, String> {
        let mut producers = Producers::default();
        let mut offset = 100;
        for &(epoch, sequence, count) in seen {
            producers.apply(&batch(epoch, sequence, count, offset));
            offset += count as i64;
        }
        let producer = Producer { id: 9, epoch: next.0, base_sequence: next.1 };
        producers.check(producer, next.2).map_err(|error| error.to_string())
    }

    #[test]
    fn sequences() {
        assert_eq!(check(&[], (0, 7, 1)), Ok(Verdict::Append));
        assert_eq!(check(&[(0, 0, 3)], (0, 3, 1)), Ok(Verdict::Append));
        assert_eq!(check(&[(0, 0, 3), (0, 3, 1)], (0, 0, 3)), Ok(Verdict::Repeated(Offset(100))));
        assert!(check(&[(0, 0, 3)], (0, 4, 1)).is_err());
        assert!(check(&[(0, 0, 3)], (0, 1, 1)).is_err());
        let six = [(0, 0, 1), (0, 1, 1), (0, 2, 1), (0, 3, 1), (0, 4, 1), (0, 5, 1)];
        assert!(check(&six, (0, 0, 1)).is_err());
        assert_eq!(check(&six, (0, 1, 1)), Ok(Verdict::Repeated(Offset(101))));
    }

    #[test]
    fn epochs() {
        assert!(check(&[(3, 0, 1)], (2, 1, 1)).is_err());
        assert_eq!(check(&[(3, 0, 1)], (4, 0, 1)), Ok(Verdict::Append));
        assert!(check(&[(3, 0, 1)], (4, 1, 1)).is_err());
    }

    #[test]
    fn sequences_wrap_to_zero() {
        assert_eq!(check(&[(0, i32::MAX, 1)], (0, 0, 1)), Ok(Verdict::Append));
        assert_eq!(check(&[(0, i32::MAX - 1, 3)], (0, 1, 1)), Ok(Verdict::Append));
    }

    #[test]
    fn a_marker_closes_the_transaction_and_raises_the_epoch() {
        let mut producers = Producers::default();
        let frame = Frame {
            now_ms: 0,
            producer: Some(Producer { id: 9, epoch: 1, base_sequence: 0 }),
            transactional: true,
            batch_bytes_max: 1 << 20,
        };
        let mut data = Batch::build(&[NewRecord::default()], &frame).unwrap();
        data.place(Offset(5), LeaderEpoch(0));
        producers.apply(&data);
        assert_eq!(producers.open_all(), vec![Open { producer_id: 9, epoch: 1, first: Offset(5) }]);
        producers.apply(&Batch::build_marker(9, 2, Marker { commit: true, coordinator_epoch: 0 }, 0));
        assert_eq!(producers.open_all(), vec![]);
        assert_eq!(producers.epochs().collect::<Vec<_>>(), vec![(9, 2)]);
    }
}
