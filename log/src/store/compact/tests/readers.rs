//! Readers of a compacted log: two ways to tell aborted records, a second implementation, and what recovery finds.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use kafka_protocol::records::RecordBatchDecoder;
use proptest::prelude::*;

use crate::record::batch::Producer;
use crate::record::codec::Codec;
use crate::record::{Batch, Offset, RecordView};
use crate::store::partition::Aborted;
use crate::store::producers::{ExpiredTo, Producers, Verdict};

pub(super) fn bytes_of(log: &[Batch]) -> Bytes {
    let mut out = Vec::new();
    log.iter().for_each(|batch| batch.write_to(&mut out));
    Bytes::from(out)
}

/// All batches, checksums verified.
pub(super) fn split(mut bytes: Bytes) -> Result<Vec<Batch>, TestCaseError> {
    let mut log = Vec::new();
    while let Some(batch) = Batch::split_from(&mut bytes).map_err(|error| TestCaseError::fail(format!("{error:?}")))? {
        log.push(batch);
    }
    prop_assert!(bytes.is_empty(), "bytes behind the last batch");
    Ok(log)
}

pub(super) fn records(batch: &Batch) -> Result<Vec<RecordView>, TestCaseError> {
    let records = batch.records().and_then(|records| records.collect());
    records.map_err(|error| TestCaseError::fail(format!("{error:?}")))
}

/// As Kafka's consumer: a producer is aborted from the first offset of its transaction until its abort marker.
pub(super) fn consume(log: &[Batch], aborted: &[Aborted], stable: Offset) -> Result<Vec<RecordView>, TestCaseError> {
    let mut coming = aborted.iter().peekable();
    let mut void = BTreeSet::new();
    let mut out = Vec::new();
    for batch in log {
        while let Some(next) = coming.next_if(|next| next.first <= batch.last_offset()) {
            void.insert(next.producer_id);
        }
        let id = batch.producer().map(|producer| producer.id);
        if batch.is_control() {
            if batch.marker().expect("a marker is whole").is_some_and(|marker| !marker.commit) {
                void.remove(&id.expect("a marker has a producer"));
            }
        } else if !(batch.is_transactional() && id.is_some_and(|id| void.contains(&id))) {
            out.extend(records(batch)?.into_iter().filter(|record| record.offset < stable));
        }
    }
    Ok(out)
}

/// As our own readers: a record is aborted when it lies in a range of its producer.
pub(super) fn consume_ranges(
    log: &[Batch],
    aborted: &[Aborted],
    stable: Offset,
) -> Result<Vec<RecordView>, TestCaseError> {
    let mut out = Vec::new();
    for batch in log.iter().filter(|batch| !batch.is_control()) {
        let id = batch.producer().filter(|_| batch.is_transactional()).map(|producer| producer.id);
        let void = |a: &Aborted| Some(a.producer_id) == id && (a.first..a.last).contains(&batch.base_offset());
        if !aborted.iter().any(void) {
            out.extend(records(batch)?.into_iter().filter(|record| record.offset < stable));
        }
    }
    Ok(out)
}

/// Plain batches as another implementation reads them: as many records, at the same offsets.
pub(super) fn check_with_theirs(batch: &Batch) -> Result<(), TestCaseError> {
    if batch.codec().expect("checked") != Codec::None {
        return Ok(());
    }
    let mut bytes = BytesMut::from(&bytes_of(std::slice::from_ref(batch))[..]).freeze();
    let theirs = RecordBatchDecoder::decode(&mut bytes).map_err(|error| TestCaseError::fail(format!("{error:?}")))?;
    let ours = records(batch)?;
    prop_assert_eq!(theirs.records.len(), ours.len());
    for (theirs, ours) in theirs.records.iter().zip(ours) {
        prop_assert_eq!((theirs.offset, &theirs.key, &theirs.value), (ours.offset.0, &ours.key, &ours.value));
        prop_assert_eq!(theirs.delete_horizon, batch.delete_horizon_ms().is_some());
        if !batch.is_log_append_time() {
            prop_assert_eq!(theirs.timestamp, ours.timestamp_ms);
        }
    }
    Ok(())
}

/// What recovery makes of a log: its producers and its aborted transactions.
pub(super) fn recover(log: &[Batch]) -> (Producers, Vec<Aborted>) {
    let mut producers = Producers::default();
    let mut aborted = Vec::new();
    for batch in log {
        if let (Some(producer), Ok(Some(marker))) = (batch.producer(), batch.marker())
            && let (Some(first), false) = (producers.open(producer.id), marker.commit)
        {
            aborted.push(Aborted { producer_id: producer.id, first, last: batch.base_offset() });
        }
        producers.apply(batch, 0);
    }
    aborted.sort_by_key(|aborted| aborted.first);
    (producers, aborted)
}

fn verdict(producers: &Producers, id: i64, epoch: i16, base_sequence: i32, count: u32) -> Result<Verdict, String> {
    let never = ExpiredTo::new(0, i64::MAX);
    producers.check(Producer { id, epoch, base_sequence }, count, never).map_err(|error| error.to_string())
}

/// A log and what compaction made of it answer each producer alike: the next batch, a repeated last one, a gap, an old and
/// a new epoch. Only for a batch before the last the answer may be another one, that it is known or that it comes too late;
/// it is never taken.
pub(super) fn same_verdicts(written: &[Batch], log: &[Batch]) -> Result<(), TestCaseError> {
    let (before, after) = (recover(written).0, recover(log).0);
    prop_assert_eq!(before.open_all(), after.open_all(), "verdict: open transactions");
    let mut last: BTreeMap<i64, (Producer, Offset, u32)> = BTreeMap::new();
    for batch in written.iter().filter(|batch| !batch.is_control()) {
        if let Some(producer) = batch.producer() {
            last.insert(producer.id, (producer, batch.base_offset(), batch.record_count()));
        }
    }
    let epochs: BTreeMap<i64, i16> = before.epochs().collect();
    prop_assert_eq!(&epochs, &after.epochs().collect(), "verdict: epochs");
    for (id, epoch) in epochs {
        let (base_sequence, base, count) =
            last.get(&id).map_or((0, Offset(-1), 1), |(producer, base, count)| (producer.base_sequence, *base, *count));
        let next = ((i64::from(base_sequence) + i64::from(count)) & i64::from(i32::MAX)) as i32;
        for epoch in [epoch - 1, epoch, epoch + 1] {
            let sequences = [0, 1, base_sequence, next, next.wrapping_add(1) & i32::MAX, next.wrapping_sub(1).max(0)];
            for (sequence, count) in sequences.into_iter().flat_map(|sequence| [(sequence, 1), (sequence, count)]) {
                let expected = verdict(&before, id, epoch, sequence, count);
                let found = verdict(&after, id, epoch, sequence, count);
                let takes = [&expected, &found].contains(&&Ok(Verdict::Append));
                let of_last = [&expected, &found].contains(&&Ok(Verdict::Repeated(base)));
                prop_assert!(
                    expected == found || !(takes || of_last),
                    "verdict: producer {id}, epoch {epoch}, sequence {sequence}: {found:?}, not {expected:?}"
                );
            }
        }
    }
    Ok(())
}
