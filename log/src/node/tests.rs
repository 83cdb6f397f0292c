//! The node from outside: what [`Cluster`] and [`Log`] promise.

mod configs;
mod deletion;
mod fixture;
mod flush;
mod idle;
mod producers;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::{Node, NodeConfig, offline};
use crate::cluster::backend::{Backend, TimestampQuery};
use crate::cluster::conformance;
use crate::cluster::topics::{Command, Reply};
use crate::env::{Damage, SimDisk, SyncFailure};
use crate::record::{LeaderEpoch, TopicId};
use crate::{AlterConfig, Cluster, Env, Error, Isolation, NewRecord, NewTopic, Offset, Read, TopicPartition};

fn dir() -> &'static Path {
    Path::new("/data")
}

async fn open(env: &Env) -> Arc<Node> {
    Node::open(env.clone(), dir(), NodeConfig::default()).await.unwrap()
}

fn record(text: &str) -> NewRecord {
    NewRecord { value: Some(Bytes::copy_from_slice(text.as_bytes())), ..NewRecord::default() }
}

async fn topic(node: &Node, name: &str) -> TopicPartition {
    let topic = NewTopic { name: name.to_owned(), partitions: 1, config: Default::default() };
    TopicPartition { topic: node.create_topic(topic).await.unwrap().id, partition: 0 }
}

fn texts(read: &Read) -> Vec<String> {
    let records = read.batches.iter().flat_map(|batch| batch.records().unwrap());
    records.map(|record| String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap()).collect()
}

async fn all(node: &Node, partition: TopicPartition, isolation: Isolation) -> Vec<String> {
    let log = node.log(partition).unwrap();
    let mut from = log.bounds().start;
    let mut found = Vec::new();
    loop {
        let read = log.read(from, Offset(i64::MAX), 1 << 20, isolation).await.unwrap();
        found.extend(texts(&read));
        if read.next == from {
            return found;
        }
        from = read.next;
    }
}

#[test]
fn what_was_acknowledged_is_there_after_a_restart() {
    let env = Env::simulated(1);
    env.run(async {
        let node = open(&env).await;
        let (a, b) = (topic(&node, "a").await, topic(&node, "b").await);
        assert_eq!(node.log(a).unwrap().append(vec![record("1"), record("2")]).await.unwrap(), Offset(0));
        assert_eq!(node.log(a).unwrap().append(vec![record("3")]).await.unwrap(), Offset(2));
        let mut producer = node.producer("t").await.unwrap();
        producer.append(a, vec![record("4")]).await.unwrap();
        producer.append(b, vec![record("5")]).await.unwrap();
        let committed = producer.commit().await.unwrap();
        let mut ranges = vec![(a, Offset(3), Offset(4)), (b, Offset(0), Offset(1))];
        ranges.sort();
        assert_eq!(committed.ranges, ranges);
        producer.append(a, vec![record("void")]).await.unwrap();
        producer.abort().await.unwrap();
        let cut = node.cut(&[a, b]).unwrap();
        assert_eq!(cut.0[&a], Offset(7));
        assert_eq!(cut.0[&b], Offset(2));
        node.shutdown().await;
        drop(node);
        let node = open(&env).await;
        assert_eq!(all(&node, a, Isolation::Committed).await, ["1", "2", "3", "4"]);
        assert_eq!(all(&node, a, Isolation::Uncommitted).await, ["1", "2", "3", "4", "void"]);
        assert_eq!(all(&node, b, Isolation::Committed).await, ["5"]);
        assert_eq!(node.cut(&[a, b]).unwrap(), cut);
        assert_eq!(node.topics().len(), 3);
        node.log(a).unwrap().append(vec![record("6")]).await.unwrap();
        assert_eq!(all(&node, a, Isolation::Committed).await, ["1", "2", "3", "4", "6"]);
    });
}

#[test]
fn topics_come_back_as_they_were_changed() {
    let env = Env::simulated(1);
    env.run(async {
        let node = open(&env).await;
        let a = topic(&node, "a").await;
        let grown = node.add_partitions("a", 3).await.unwrap();
        assert_eq!((grown.id, grown.partitions), (a.topic, 3));
        let last = TopicPartition { partition: 2, ..a };
        let stamped = [("message.timestamp.type".to_owned(), "LogAppendTime".to_owned())].into();
        let changed = node.alter_topic("a", AlterConfig::Replace(stamped)).await.unwrap();
        node.log(last).unwrap().append(vec![record("1")]).await.unwrap();
        assert!(matches!(node.add_partitions("a", 2).await, Err(Error::InvalidPartitions { .. })));
        assert!(matches!(node.add_partitions("b", 2).await, Err(Error::UnknownTopic(_))));
        let needed = node.alter_topic("__transaction_state", AlterConfig::Replace(Default::default())).await;
        assert!(matches!(needed, Err(Error::InvalidTopic { .. })));
        node.shutdown().await;
        drop(node);
        let node = open(&env).await;
        assert_eq!(node.topic("a"), Some(changed));
        assert_eq!(all(&node, last, Isolation::Committed).await, ["1"]);
        let old = NewRecord { timestamp_ms: Some(5), ..record("2") };
        node.log(last).unwrap().append(vec![old]).await.unwrap();
        let found = node.fetch_raw(last, Offset(1), 1, Isolation::Uncommitted).await.unwrap();
        assert_eq!(found.batches[0].max_timestamp_ms(), env.now_ms(), "opened with what its topic says");
    });
}

#[test]
fn epochs_outlive_the_files_their_records_lay_in() {
    let env = Env::simulated(1);
    env.run(async {
        let config = NodeConfig { wal_file_bytes: 2000, ..NodeConfig::default() };
        for life in 1..=3 {
            let node = Node::open(env.clone(), dir(), config.clone()).await.unwrap();
            let a = match node.topic("a") {
                Some(found) => TopicPartition { topic: found.id, partition: 0 },
                None => topic(&node, "a").await,
            };
            let log = node.log(a).unwrap();
            for i in 0..10 {
                log.append(vec![record(&format!("record number {i} of life {life}"))]).await.unwrap();
            }
            // Files before go, and what is needed of them is written anew.
            log.trim(Offset(life * 10 - 5)).await.unwrap();
            node.shutdown().await;
        }
        let node = Node::open(env.clone(), dir(), config).await.unwrap();
        let a = TopicPartition { topic: node.topic("a").unwrap().id, partition: 0 };
        let end_of = |epoch| node.epoch_end(a, LeaderEpoch(epoch)).unwrap().map(|found| (found.epoch.0, found.end.0));
        assert_eq!(node.bounds(a).unwrap().start, Offset(25));
        assert_eq!([1, 2, 3, 4, 5].map(end_of), [Some((1, 25)), Some((2, 25)), Some((3, 30)), Some((4, 30)), None]);
    });
}

/// The ids of removed topics that the topics' machine still knows. The node must not be started again afterwards.
async fn removed(node: &Node) -> Vec<TopicId> {
    match node.inner.topics.ask(Command::Start { epoch: LeaderEpoch(1_000_000) }).await.unwrap() {
        Reply::Started { removed, .. } => removed,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_deleted_topic_is_remembered_until_nothing_is_left_of_it() {
    for starts in [1, 2] {
        let disk = SimDisk::new(7);
        let env = Env::simulated(7).with_disk(Arc::new(disk.clone()));
        env.run(async {
            let node = open(&env).await;
            let a = topic(&node, "a").await;
            node.log(a).unwrap().append(vec![record("1")]).await.unwrap();
            node.delete_topic("a").await.unwrap();
            // The deletion is durable, that the records have gone is not yet.
            disk.crash();
            env.drop_tasks();
            let mut node = open(&env).await;
            for _ in 1..starts {
                node.shutdown().await;
                drop(node);
                node = open(&env).await;
            }
            assert!(node.topic("a").is_none());
            assert_eq!(removed(&node).await, if starts == 1 { vec![a.topic] } else { vec![] });
            node.shutdown().await;
        });
    }
}

#[test]
fn a_node_is_a_cluster() {
    for env in [Env::simulated(1), Env::simulated(2), Env::memory()] {
        env.run(async {
            let node = open(&env).await;
            conformance::run(&env, Arc::clone(&node) as Arc<dyn Cluster>).await;
            node.shutdown().await;
        });
    }
}

/// A disk with `count` records in topic `a`, each in a group of its own, closed politely; files of `file_bytes`.
fn written(count: usize, file_bytes: u64) -> (Env, SimDisk) {
    let disk = SimDisk::new(7);
    let env = Env::simulated(7).with_disk(Arc::new(disk.clone()));
    env.run(async {
        // No checkpoint: everything stays in the log.
        let (checkpoint_files, wal_files_max) = (1000, 1000);
        let config =
            NodeConfig { wal_file_bytes: file_bytes, checkpoint_files, wal_files_max, ..NodeConfig::default() };
        let node = Node::open(env.clone(), dir(), config).await.unwrap();
        let a = topic(&node, "a").await;
        for i in 0..count {
            node.log(a).unwrap().append(vec![record(&format!("record number {i}"))]).await.unwrap();
        }
        node.shutdown().await;
    });
    (env, disk)
}

fn open_error(env: &Env) -> String {
    env.run(async {
        match Node::open(env.clone(), dir(), NodeConfig::default()).await {
            Ok(_) => panic!("the damage was not seen"),
            Err(error) => format!("{error}"),
        }
    })
}

fn position_of(bytes: &[u8], text: &str) -> usize {
    bytes.windows(text.len()).position(|window| window == text.as_bytes()).unwrap()
}

/// Damage in the payload of one entry: its partition is fenced, also at later starts, and the rest is served.
#[test]
fn damage_in_the_log_fences_the_partition_and_no_other() {
    let (env, disk) = written(20, 1 << 20);
    let path = Path::new("/data/wal/0000000001.wal");
    disk.flip_bit(path, position_of(&disk.bytes(path).unwrap(), "record number 3"));
    // What is told from outside, before recovery has seen it and afterwards.
    let outside = || {
        let directory = offline::Directory::open(&env, dir()).unwrap();
        let partition = directory.partitions().into_iter().find(|found| found.topic.as_deref() == Some("a")).unwrap();
        let (mut there, mut wrong) = (Vec::new(), Vec::new());
        let seen = &mut |found: offline::Found| match found.batch {
            Ok(batch) => there.extend(batch.base_offset().0..=batch.last_offset().0),
            Err(why) => wrong.push(why),
        };
        directory.visit(partition.id, seen).unwrap();
        (partition.end.0, there, wrong)
    };
    let before = outside();
    assert_eq!((before.0, &before.1), (3, &vec![0, 1, 2]), "nothing behind the damage counts");
    assert!(before.2.len() == 1 && before.2[0].contains("/data/wal/0000000001.wal at byte"), "{before:?}");
    env.run(async {
        for start in 0..3 {
            let node = open(&env).await;
            let a = TopicPartition { topic: node.topic("a").unwrap().id, partition: 0 };
            let log = node.log(a).unwrap();
            let read = log.read(Offset(0), Offset(1), 1 << 20, Isolation::Committed).await;
            let error = read.unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }), "{error}");
            assert!(before.2[0].ends_with(&error.to_string()), "{error} is not {before:?}");
            assert_eq!(log.bounds().end, Offset(before.0));
            let append = log.append(vec![record("x")]).await;
            assert!(matches!(append, Err(Error::Corrupt { .. })), "{append:?}");
            let b = topic(&node, &format!("b{start}")).await;
            node.log(b).unwrap().append(vec![record("fine")]).await.unwrap();
            assert_eq!(all(&node, b, Isolation::Committed).await, vec!["fine"]);
            node.checkpoint().await.unwrap();
            node.shutdown().await;
            drop((node, log));
            assert_eq!(outside(), before, "the checkpoint knows it");
        }
    });
    assert!(disk.bytes(Path::new("/data/wal/0000000001.wal-damaged")).is_some());
}

#[test]
fn damage_before_the_end_is_an_error_that_names_the_place() {
    let (env, disk) = written(20, 1 << 20);
    let path = Path::new("/data/wal/0000000001.wal");
    // The header of an entry: nobody knows whose it was.
    disk.flip_bit(path, position_of(&disk.bytes(path).unwrap(), "record number 3") - 100);
    let error = open_error(&env);
    assert!(error.contains("0000000001.wal at byte") && error.contains("damaged"), "{error}");

    let (env, disk) = written(20, 2000);
    let path = Path::new("/data/wal/0000000002.wal");
    let bytes = disk.bytes(path).unwrap();
    let last = bytes.windows(13).rposition(|window| window == b"record number").unwrap();
    disk.flip_bit(path, last);
    assert!(open_error(&env).contains("0000000002.wal"), "the end of a file that is not the last is no tail");

    let (env, disk) = written(20, 2000);
    env.disk().unlink(path).unwrap();
    assert!(disk.bytes(path).is_none());
    assert!(open_error(&env).contains("missing"));
}

#[test]
fn damage_found_by_a_read_is_an_error() {
    let (env, disk) = written(20, 1 << 20);
    env.run(async {
        let node = open(&env).await;
        let a = TopicPartition { topic: node.topic("a").unwrap().id, partition: 0 };
        let path = format!("/data/topics/{:032x}/0/{:020}.log", u128::from_be_bytes(a.topic.0), 0);
        let path = Path::new(&path);
        disk.flip_bit(path, position_of(&disk.bytes(path).unwrap(), "record number 3"));
        let log = node.log(a).unwrap();
        assert!(log.read(Offset(0), Offset(3), 1 << 20, Isolation::Committed).await.is_ok());
        let read = log.read(Offset(0), Offset(20), 1 << 20, Isolation::Committed).await;
        assert!(matches!(read, Err(Error::Corrupt { .. })), "{read:?}");
    });
}

#[test]
fn a_failed_sync_stops_the_node_and_the_next_start_goes_on() {
    let disk = SimDisk::new(3);
    let env = Env::simulated(3).with_disk(Arc::new(disk.clone()));
    env.run(async {
        let node = open(&env).await;
        let a = topic(&node, "a").await;
        let log = node.log(a).unwrap();
        log.append(vec![record("1")]).await.unwrap();
        disk.plan(Damage::SyncFails { operation: disk.operations() + 1, how: SyncFailure::Clean });
        assert!(log.append(vec![record("2")]).await.is_err());
        assert!(node.fatal().borrow().as_ref().unwrap().contains("Input/output error"));
        assert!(matches!(log.append(vec![record("3")]).await, Err(Error::Closed(_))));
        assert_eq!(all(&node, a, Isolation::Committed).await, ["1"], "what was durable can still be read");
        node.shutdown().await;
        drop((node, log));
        let node = open(&env).await;
        let texts = all(&node, a, Isolation::Committed).await;
        assert!(texts == ["1"] || texts == ["1", "2"], "{texts:?}");
        node.log(a).unwrap().append(vec![record("4")]).await.unwrap();
        disk.crash();
        env.drop_tasks();
        let node = open(&env).await;
        assert_eq!(all(&node, a, Isolation::Committed).await[..texts.len()], texts[..]);
    });
}

#[test]
fn one_process_a_directory_and_no_newer_format() {
    let env = Env::simulated(1);
    env.run(async {
        let node = open(&env).await;
        let second = Node::open(env.clone(), dir(), NodeConfig::default()).await;
        assert!(matches!(second, Err(Error::Busy(_))));
        let id = node.cluster_id();
        assert_eq!(id.len(), 22);
        node.shutdown().await;
        let node = open(&env).await;
        assert_eq!(node.cluster_id(), id);
        node.shutdown().await;
        let path = Path::new("/data/format");
        env.disk().unlink(path).unwrap();
        let file = env.disk().open(path, crate::env::Open::Create).unwrap();
        let newer = br#"{"version":9,"oldest_reader":9,"cluster_id":"x","node_id":1,"disk_id":"x"}"#;
        file.write_at(0, &[std::io::IoSlice::new(newer)]).unwrap();
        let refused = Node::open(env.clone(), dir(), NodeConfig::default()).await;
        assert!(matches!(refused, Err(Error::Corrupt { .. })));
    });
}

#[test]
fn timestamps_are_found_exactly() {
    let env = Env::simulated(1);
    env.run(async {
        let node = open(&env).await;
        let a = topic(&node, "a").await;
        let log = node.log(a).unwrap();
        let at = |timestamp_ms| NewRecord { timestamp_ms: Some(timestamp_ms), ..record("x") };
        log.append(vec![at(10), at(30), at(20)]).await.unwrap();
        log.append(vec![at(25), at(40), at(40)]).await.unwrap();
        let find = async |query| {
            let found = node.find_timestamp(a, query, Isolation::Uncommitted).await.unwrap();
            found.map(|found| (found.offset.0, found.timestamp_ms))
        };
        assert_eq!(find(TimestampQuery::AtOrAfter(0)).await, Some((0, 10)));
        assert_eq!(find(TimestampQuery::AtOrAfter(11)).await, Some((1, 30)));
        assert_eq!(find(TimestampQuery::AtOrAfter(31)).await, Some((4, 40)));
        assert_eq!(find(TimestampQuery::AtOrAfter(41)).await, None);
        assert_eq!(find(TimestampQuery::Max).await, Some((4, 40)));
        log.trim(Offset(2)).await.unwrap();
        assert_eq!(find(TimestampQuery::AtOrAfter(26)).await, Some((4, 40)));
        log.trim(Offset(6)).await.unwrap();
        assert_eq!(find(TimestampQuery::Max).await, None);
    });
}

#[test]
fn deleting_a_topic_frees_its_files() {
    let (env, _disk) = written(200, 2000);
    env.run(async {
        let node = open(&env).await;
        let id = node.topic("a").unwrap().id;
        let directory = Path::new("/data/topics").join(format!("{:032x}", u128::from_be_bytes(id.0)));
        assert!(!env.disk().list(&directory).unwrap().is_empty());
        node.delete_topic("a").await.unwrap();
        // The files go behind the caller.
        while !env.disk().list(&directory).unwrap().is_empty() {
            env.step().await;
        }
        node.shutdown().await;
        let node = open(&env).await;
        assert!(env.disk().list(&directory).unwrap().is_empty());
        assert!(node.topic("a").is_none());
    });
}

/// Whoever waits for a checkpoint is told when there will be none.
#[test]
fn a_checkpoint_ends_whatever_fails() {
    let mut refused = 0;
    let kinds: [fn(u64) -> Damage; 2] = [
        |operation| Damage::SyncFails { operation, how: SyncFailure::Clean },
        |operation| Damage::WriteFails { operation },
    ];
    for seed in 1..60 {
        for fails in kinds {
            let disk = SimDisk::new(seed);
            let env = Env::simulated(seed).with_disk(Arc::new(disk.clone()));
            env.run(async {
                let config = NodeConfig { segment_bytes_max: 2_500, ..NodeConfig::default() };
                let node = Node::open(env.clone(), dir(), config).await.unwrap();
                for partition in [topic(&node, "a").await, topic(&node, "b").await] {
                    for i in 0..20 {
                        node.log(partition).unwrap().append(vec![record(&format!("{i:>400}"))]).await.unwrap();
                    }
                }
                node.delete_topic("a").await.unwrap();
                disk.plan(fails(disk.operations() + seed));
                match node.checkpoint().await {
                    Ok(()) => {}
                    Err(Error::Closed(_)) => refused += 1,
                    Err(other) => panic!("{other:?}"),
                }
            });
        }
    }
    assert!(refused > 10, "only {refused} checkpoints met a failure");
}
