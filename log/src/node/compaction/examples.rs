//! Readers and holds while segments are replaced.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::check::batches;
use super::world::config;
use crate::cluster::backend::{Backend, TimestampQuery};
use crate::node::{Node, NodeConfig};
use crate::{Batch, Cluster, Env, Isolation, NewRecord, NewTopic, Offset, TopicPartition};

fn record(key: &str, value: Option<&str>) -> NewRecord {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    NewRecord { key: Some(bytes(key)), value: value.map(bytes), ..NewRecord::default() }
}

pub(super) async fn open(env: &Env, config: NodeConfig) -> Arc<Node> {
    Node::open(env.clone(), Path::new("/data"), config).await.unwrap()
}

pub(super) async fn topic(node: &Node, options: &[(&str, &str)]) -> TopicPartition {
    let options = [("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0")].iter().chain(options);
    let config = options.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let topic = NewTopic { name: "c".to_owned(), partitions: 1, config };
    TopicPartition { topic: node.create_topic(topic).await.unwrap().id, partition: 0 }
}

/// Writes so many records, each in a batch of its own, to keys that come again and again; eight fill a segment.
pub(super) async fn fill(node: &Node, at: TopicPartition, count: usize) {
    let log = node.log(at).unwrap();
    for i in 0..count {
        let value = format!("{i:100}");
        log.append(vec![record(&format!("key {}", i % 3), Some(&value))]).await.unwrap();
    }
}

/// Offsets of the records that are there.
pub(super) async fn offsets(node: &Node, at: TopicPartition) -> Vec<i64> {
    let batches = batches(node, at).await;
    batches.iter().flat_map(|batch| batch.records().unwrap()).map(|record| record.unwrap().offset.0).collect()
}

#[test]
fn nothing_that_is_held_is_compacted() {
    let env = Env::simulated(1);
    env.run(async {
        let node = open(&env, config()).await;
        let at = topic(&node, &[]).await;
        fill(&node, at, 50).await;
        let held = node.log(at).unwrap().hold("somebody", Offset(22));
        node.compact().await.unwrap();
        let there = offsets(&node, at).await;
        // Whole segments below the hold only.
        assert!(there.len() < 50, "something below was compacted: {there:?}");
        assert!((22..50).all(|offset| there.contains(&offset)), "{there:?}");
        drop(held);
        node.compact().await.unwrap();
        let there = offsets(&node, at).await;
        assert!(there.iter().filter(|offset| **offset < 40).count() == 0, "{there:?}");
        node.shutdown().await;
    });
}

/// Whoever has begun to read before goes on behind: in the old files' offsets, out of the new ones.
#[test]
fn a_reader_goes_on_over_a_swap() {
    let env = Env::simulated(1);
    env.run(async {
        let node = open(&env, config()).await;
        let at = topic(&node, &[]).await;
        fill(&node, at, 50).await;
        let before = node.fetch_raw(at, Offset(0), 300, Isolation::Uncommitted).await.unwrap();
        let next = before.batches.last().unwrap().next_offset();
        assert!(next.0 < 10, "{next:?}");
        node.compact().await.unwrap();
        let read = node.fetch_raw(at, next, 1 << 20, Isolation::Uncommitted).await.unwrap();
        let found: Vec<i64> = read.batches.iter().map(|batch: &Batch| batch.base_offset().0).collect();
        let all = offsets(&node, at).await;
        assert_eq!(found[0], all[0], "everything between went: {found:?}, {all:?}");
        // In a gap nothing is an error, and a time is found behind it.
        assert!(all[0] > 20);
        for from in 0..all[0] {
            let read = node.fetch_raw(at, Offset(from), 1, Isolation::Committed).await.unwrap();
            assert_eq!(read.batches[0].base_offset().0, all[0]);
        }
        let first = node.find_timestamp(at, TimestampQuery::AtOrAfter(0), Isolation::Committed).await.unwrap();
        assert_eq!(first.map(|found| found.offset.0), Some(all[0]));
        node.shutdown().await;
    });
}

#[test]
fn tombstones_go_behind_their_time_without_anything_new() {
    let env = Env::simulated(1);
    env.run(async {
        let node = open(&env, config()).await;
        let at = topic(&node, &[("delete.retention.ms", "60000")]).await;
        let log = node.log(at).unwrap();
        log.append(vec![record("gone", Some("value"))]).await.unwrap();
        log.append(vec![record("gone", None)]).await.unwrap();
        fill(&node, at, 50).await;
        node.compact().await.unwrap();
        assert_eq!(offsets(&node, at).await[0], 1, "the tombstone stays for readers to see");
        // The task looks by itself, again and again; it is restarted in between.
        env.sleep(std::time::Duration::from_millis(40_000)).await;
        assert_eq!(offsets(&node, at).await[0], 1);
        node.shutdown().await;
        drop((node, log));
        let node = open(&env, config()).await;
        env.sleep(std::time::Duration::from_millis(60_000)).await;
        let there = offsets(&node, at).await;
        assert!(there[0] > 30, "{there:?}");
        node.shutdown().await;
    });
}

/// Writers, readers and passes on real threads: each reader sees offsets go up, and the newest of each key in the end.
#[test]
fn readers_and_passes_on_real_threads() {
    let env = Env::memory();
    env.run(async {
        let node = open(&env, NodeConfig { tail_bytes: 5000, ..config() }).await;
        let at = topic(&node, &[("delete.retention.ms", "0")]).await;
        let stop = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let (node, stop) = (Arc::clone(&node), Arc::clone(&stop));
                env.spawn("reader", async move {
                    let (mut reads, mut from) = (0u64, Offset(0));
                    while !stop.load(Ordering::Relaxed) {
                        let read = node.fetch_raw(at, from, 2000, Isolation::Committed).await.unwrap();
                        let mut next = from;
                        for batch in &read.batches {
                            assert!(batch.base_offset() >= next || next == from, "batches go up");
                            next = batch.next_offset();
                            let aborted = batch.producer().is_some_and(|producer| {
                                read.aborted.iter().any(|aborted| {
                                    aborted.producer_id == producer.id && aborted.first_offset <= batch.base_offset()
                                })
                            });
                            let void = |record: crate::RecordView| record.value.is_some_and(|v| v.starts_with(b"void"));
                            let void = batch.records().unwrap().any(|record| void(record.unwrap()));
                            assert!(aborted || batch.is_control() || !void, "what was aborted is shown");
                        }
                        reads += 1;
                        // What is in memory is there at once: others want to run, too.
                        tokio::task::yield_now().await;
                        from = if read.batches.is_empty() { Offset(0) } else { next };
                    }
                    reads
                })
            })
            .collect();
        let mut producer = node.producer("t").await.unwrap();
        for round in 0..30 {
            fill(&node, at, 12).await;
            let value = format!("void {round:80}");
            producer.append(at, vec![record("key 1", Some(&value)), record("other", Some(&value))]).await.unwrap();
            producer.abort().await.unwrap();
            node.compact().await.unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.await.unwrap() > 10);
        }
        let there = offsets(&node, at).await;
        assert!(there.len() < 100, "{} of 450 are there", there.len());
        node.shutdown().await;
    });
}
