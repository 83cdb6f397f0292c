//! The node from outside: what [`Cluster`] and [`Log`] promise.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::{Node, NodeConfig};
use crate::{Cluster, Env, Isolation, NewRecord, NewTopic, Offset, Read, TopicPartition};

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
