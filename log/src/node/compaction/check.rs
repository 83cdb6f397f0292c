//! What readers of a compacted partition must find, however they read it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::world::World;
use crate::cluster::backend::{Backend, Fetched, TimestampQuery};
use crate::node::Node;
use crate::{Batch, Cluster, Env, Error, Isolation, Offset, RecordView, TopicPartition};

/// The newest value of each key that is not deleted, at its offset.
type Newest = BTreeMap<Bytes, (i64, Bytes)>;

/// Every batch that the partition has, markers too.
pub(super) async fn batches(node: &Node, at: TopicPartition) -> Vec<Batch> {
    let mut from = node.bounds(at).unwrap().start;
    let mut found: Vec<Batch> = Vec::new();
    loop {
        let read = node.fetch_raw(at, from, 700, Isolation::Uncommitted).await.unwrap();
        let Some(last) = read.batches.last() else { return found };
        assert!(read.batches[0].next_offset() > from, "what was read does not come again");
        from = last.next_offset();
        found.extend(read.batches);
    }
}

fn records(batch: &Batch) -> Vec<RecordView> {
    batch.records().unwrap().map(|record| record.unwrap()).collect()
}

/// Offsets that a reader has passed without finding a record there: none ever comes back.
#[derive(Debug, Default)]
pub(super) struct Gone(BTreeMap<TopicPartition, BTreeSet<i64>>);

impl Gone {
    /// Reads what there is.
    pub async fn look(&mut self, node: &Node, partitions: &[TopicPartition]) -> Result<(), Error> {
        for &at in partitions {
            let gone = self.0.entry(at).or_default();
            let mut from = node.bounds(at)?.start;
            gone.extend(0..from.0);
            loop {
                let batches = node.fetch_raw(at, from, 700, Isolation::Uncommitted).await?.batches;
                let Some(next) = batches.last().map(Batch::next_offset) else { break };
                let there: BTreeSet<i64> = batches.iter().flat_map(records).map(|record| record.offset.0).collect();
                let back: Vec<&i64> = there.range(from.0..).filter(|offset| gone.contains(offset)).collect();
                assert!(back.is_empty(), "{at:?} has records that had gone: {back:?}");
                gone.extend((from.0..next.0).filter(|offset| !there.contains(offset)));
                from = next;
            }
        }
        Ok(())
    }

    /// Reads again and again, in the midst of whatever happens, until it is told to stop or the node does.
    pub async fn keep_looking(
        mut self,
        env: Env,
        node: &Node,
        partitions: &[TopicPartition],
        stop: &AtomicBool,
    ) -> Gone {
        while !stop.load(Ordering::Relaxed) && self.look(node, partitions).await.is_ok() {
            match env.random_u64() % 8 {
                0 => env.sleep(std::time::Duration::from_micros(100)).await,
                _ => env.step().await,
            }
        }
        self
    }
}

fn fold(records: impl Iterator<Item = (i64, Option<Bytes>, Option<Bytes>)>) -> Newest {
    let mut newest = Newest::new();
    for (offset, key, value) in records {
        match (key, value) {
            (Some(key), Some(value)) => drop(newest.insert(key, (offset, value))),
            (Some(key), None) => drop(newest.remove(&key)),
            (None, _) => {}
        }
    }
    newest
}

/// As Kafka's consumer reads under read_committed, a few batches at a time.
async fn consume(node: &Node, at: TopicPartition) -> Vec<RecordView> {
    let start = node.bounds(at).unwrap().start;
    let mut from = start;
    let mut out = Vec::new();
    loop {
        let Fetched { batches, aborted, .. } = node.fetch_raw(at, from, 700, Isolation::Committed).await.unwrap();
        let Some(last) = batches.last() else { return out };
        from = last.next_offset();
        let mut coming = aborted.iter().peekable();
        let mut void = BTreeSet::new();
        for batch in &batches {
            while let Some(next) = coming.next_if(|next| next.first_offset <= batch.last_offset()) {
                void.insert(next.producer_id);
            }
            let id = batch.producer().map(|producer| producer.id);
            if batch.is_control() {
                if batch.marker().unwrap().is_some_and(|marker| !marker.commit) {
                    void.remove(&id.unwrap());
                }
            } else if !(batch.is_transactional() && id.is_some_and(|id| void.contains(&id))) {
                out.extend(records(batch).into_iter().filter(|record| record.offset >= start));
            }
        }
    }
}

/// As a job in the process reads.
async fn read(node: &Node, at: TopicPartition) -> Vec<RecordView> {
    let log = node.log(at).unwrap();
    let start = log.bounds().start;
    let mut from = start;
    let mut out = Vec::new();
    loop {
        let read = log.read(from, Offset(i64::MAX), 700, Isolation::Committed).await.unwrap();
        out.extend(read.batches.iter().flat_map(records).filter(|record| record.offset >= start));
        if read.next == from {
            return out;
        }
        from = read.next;
    }
}

/// Checks all partitions. Returns how many records are there, of those that were written.
pub(super) async fn check(world: &World) -> (usize, usize) {
    let node = world.node();
    let (mut there, mut written) = (0, 0);
    for (&at, model) in &world.models {
        let bounds = node.bounds(at).unwrap();
        // What a transaction has handed over lately may not be written yet.
        let stable = world.last_stable(at);
        assert_eq!(bounds.last_stable.0, stable.min(bounds.high_watermark.0), "{at:?} {bounds:?} {}", model.end);
        assert!(bounds.end.0 == model.end || stable < model.end, "{at:?} {bounds:?} {}", model.end);
        assert!(bounds.start.0 <= model.trimmed, "{bounds:?} {}", model.trimmed);
        let batches = batches(&node, at).await;
        let mut next = 0;
        for record in batches.iter().filter(|batch| !batch.is_control()).flat_map(records) {
            let offset = record.offset.0;
            assert!(offset >= next, "offsets go up");
            next = offset + 1;
            let as_written = &model.records[&offset];
            assert_eq!((&record.key, &record.value), (&as_written.key, &as_written.value));
            assert_eq!(record.timestamp_ms, as_written.timestamp_ms);
            there += 1;
        }
        written += model.records.len();
        let (start, stable) = (bounds.start.0, bounds.last_stable.0);
        let committed = model.records.range(start..stable).filter(|(_, written)| world.is_committed(written));
        let expect = fold(committed.map(|(offset, written)| (*offset, written.key.clone(), written.value.clone())));
        for (how, found) in [("consumer", consume(&node, at).await), ("job", read(&node, at).await)] {
            let of_committed = |record: &RecordView| world.is_committed(&model.records[&record.offset.0]);
            assert!(found.iter().all(of_committed), "{how} {at:?}: a record that was not committed");
            let found = fold(found.into_iter().map(|record| (record.offset.0, record.key, record.value)));
            assert_eq!(found, expect, "{how} {at:?} from {start} to {stable}");
        }
        check_times(world, &node, at, &batches, start).await;
    }
    assert_eq!(node.metrics().tail_bytes, node.inner.store.in_memory().bytes, "what the tail counts is in memory");
    (there, written)
}

/// The first record at or behind a time is the first one there is.
async fn check_times(world: &World, node: &Node, at: TopicPartition, batches: &[Batch], start: i64) {
    let all: Vec<RecordView> = batches
        .iter()
        .filter(|batch| !batch.is_control())
        .flat_map(records)
        .filter(|record| record.offset.0 >= start)
        .collect();
    let now_ms = world.env.now_ms();
    for at_ms in [0, now_ms - world.random(500) as i64, now_ms - world.random(50) as i64] {
        let found = node.find_timestamp(at, TimestampQuery::AtOrAfter(at_ms), Isolation::Uncommitted).await.unwrap();
        let expect = all.iter().find(|record| record.timestamp_ms >= at_ms).map(|record| record.offset);
        // Markers have times, too.
        let found = found.map(|found| found.offset).filter(|offset| world.models[&at].records.contains_key(&offset.0));
        if found.is_some() {
            assert_eq!(found, expect, "{at:?} at {at_ms}");
        }
    }
}
