//! What retention and trims remove is gone from the disk soon, on a node to which nobody writes, too; and then nothing
//! happens any more.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Node, NodeConfig};
use crate::env::SimDisk;
use crate::{Cluster, Env, Isolation, NewRecord, NewTopic, Offset, TopicPartition};

/// Time between two looks, in tests.
const LOOK: Duration = Duration::from_secs(1);

fn config() -> NodeConfig {
    // Small segments, and a log that is long beside them.
    NodeConfig { segment_bytes_max: 2000, wal_file_bytes: 100_000, ..NodeConfig::default() }
}

async fn open(env: &Env) -> Arc<Node> {
    Node::open(env.clone(), Path::new("/data"), config()).await.unwrap()
}

async fn topic(node: &Node, options: &[(&str, &str)]) -> TopicPartition {
    let config = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let topic = NewTopic { name: "r".to_owned(), partitions: 1, config };
    TopicPartition { topic: node.create_topic(topic).await.unwrap().id, partition: 0 }
}

/// About ten fill a segment.
async fn fill(node: &Node, at: TopicPartition, count: usize) {
    for i in 0..count {
        let record = NewRecord { value: Some(Bytes::from(format!("{i:120}"))), ..NewRecord::default() };
        node.log(at).unwrap().append(vec![record]).await.unwrap();
    }
}

/// How many files of segments the partition has.
fn segments(disk: &SimDisk, at: TopicPartition) -> usize {
    let directory = format!("/data/topics/{:032x}", u128::from_be_bytes(at.topic.0));
    let files = disk.image().into_keys().filter(|path| path.starts_with(&directory));
    files.filter(|path| path.extension().is_some_and(|end| end == "log")).count()
}

/// How segments come to lie below the log start.
#[derive(Clone, Copy, Debug)]
enum How {
    Age,
    Size,
    Trim,
    /// And the node starts anew before it looks.
    TrimAndCrash,
}

/// So many segments are left; `checkpointed`: what was written is in front of a checkpoint.
fn check(how: How, checkpointed: bool, expect: usize) {
    let disk = SimDisk::new(1);
    let env = Env::simulated(1).with_disk(Arc::new(disk.clone()));
    let options: &[(&str, &str)] = match how {
        How::Age => &[("retention.ms", "60000")],
        How::Size => &[("retention.bytes", "100000")],
        How::Trim | How::TrimAndCrash => &[],
    };
    let mut node = env.run(open(&env));
    let at = env.run(async {
        let at = topic(&node, options).await;
        fill(&node, at, 100).await;
        if checkpointed {
            node.checkpoint().await.unwrap();
        }
        env.sleep(3 * LOOK).await;
        let flushed = node.metrics().unflushed_bytes == 0;
        assert!(!checkpointed || flushed);
        match how {
            How::Age => env.sleep(Duration::from_secs(60)).await,
            How::Size => {
                let changes = [("retention.bytes".to_owned(), Some("2000".to_owned()))].into();
                node.configure_topic("r", changes).await.map(drop).unwrap();
            }
            How::Trim | How::TrimAndCrash => drop(node.log(at).unwrap().trim(Offset(95)).await.unwrap()),
        }
        at
    });
    if let How::TrimAndCrash = how {
        drop(node);
        env.drop_tasks();
        disk.crash();
        node = env.run(open(&env));
    }
    env.run(async {
        env.sleep(2 * LOOK).await;
        let left = segments(&disk, at);
        assert_eq!(left, expect, "{how:?}, checkpointed: {checkpointed}");
        // What is left is synced and closed.
        env.sleep(10 * LOOK).await;
        let quiet = disk.operations();
        env.sleep(100 * LOOK).await;
        assert_eq!(disk.operations(), quiet, "{how:?}: a node to which nobody writes does nothing");
        fill(&node, at, 30).await;
        assert_eq!(node.log(at).unwrap().bounds().end, Offset(130));
        node.shutdown().await;
        drop(node);
        let node = open(&env).await;
        let bounds = node.log(at).unwrap().bounds();
        assert_eq!(bounds.end, Offset(130));
        let mut from = bounds.start;
        while from < bounds.end {
            let read = node.log(at).unwrap().read(from, bounds.end, 1 << 20, Isolation::Committed).await.unwrap();
            assert!(read.next > from && read.batches[0].base_offset() <= from, "{from:?} is missing");
            from = read.next;
        }
        node.shutdown().await;
    });
}

#[test]
fn what_is_old_goes_from_a_quiet_node_within_two_looks() {
    for checkpointed in [false, true] {
        check(How::Age, checkpointed, 0);
        check(How::Size, checkpointed, 2);
        check(How::Trim, checkpointed, 1);
        check(How::TrimAndCrash, checkpointed, 1);
    }
}

/// A look that finds the disk full is not the last one.
#[test]
fn retention_goes_on_behind_a_full_disk() {
    let disk = SimDisk::new(1);
    let env = Env::simulated(1).with_disk(Arc::new(disk.clone()));
    env.run(async {
        let node = open(&env).await;
        let at = topic(&node, &[("retention.ms", "60000")]).await;
        fill(&node, at, 100).await;
        node.checkpoint().await.unwrap();
        disk.set_capacity(Some(0));
        env.sleep(Duration::from_secs(70)).await;
        let start = node.log(at).unwrap().bounds().start;
        assert_eq!(start, Offset(100), "the log starts there, whether its files are there or not");
        disk.set_capacity(None);
        env.sleep(3 * LOOK).await;
        assert_eq!(segments(&disk, at), 0);
        fill(&node, at, 10).await;
        env.sleep(Duration::from_secs(70)).await;
        assert_eq!(segments(&disk, at), 0);
        node.shutdown().await;
    });
}
