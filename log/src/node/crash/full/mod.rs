//! A disk that fills up: producers are told to come again, what was acknowledged reaches its segment, the log's own
//! records and deletions have a reserve, and all goes on when there is room.

mod opens;
mod stops;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::clients::{STEPS, record, run_clients};
use super::config;
use super::model::{Shared, lock, read_all, verify};
use crate::env::{Disk, SimDisk};
use crate::node::{Node, NodeConfig};
use crate::store::Acknowledge;
use crate::{Cluster, Env, Error, Isolation, NewTopic, Offset, TopicPartition};

const PAGE: u64 = 4096;

async fn open(env: &Env, reserve_bytes: u64) -> Result<Arc<Node>, Error> {
    let config = NodeConfig { reserve_bytes, ..config(Acknowledge::AfterSync) };
    Node::open(env.clone(), Path::new("/data"), config).await
}

/// How many pages are free on a disk that has a limit.
fn free_pages(disk: &SimDisk) -> u64 {
    disk.free_bytes(Path::new("/")).unwrap() / PAGE
}

/// How many pages the files take. The disk has a limit then that is far away.
fn used_pages(disk: &SimDisk) -> u64 {
    const MANY: u64 = 1 << 30;
    disk.set_capacity(Some(MANY * PAGE));
    MANY - free_pages(disk)
}

async fn create(node: &Node, name: &str) -> Result<TopicPartition, Error> {
    let topic = NewTopic { name: name.to_owned(), partitions: 1, config: Default::default() };
    Ok(TopicPartition { topic: node.create_topic(topic).await?.id, partition: 0 })
}

/// Appends until the disk is full; how many were taken.
async fn fill(node: &Node, partition: TopicPartition, from: usize) -> Result<usize, Error> {
    for number in from..from + 5000 {
        match node.log(partition)?.append(vec![record(&format!("{number:500}"))]).await {
            Ok(offset) => assert_eq!(offset, Offset(number as i64)),
            Err(Error::Busy(_)) => return Ok(number),
            Err(error) => return Err(error),
        }
    }
    panic!("the disk does not fill up")
}

#[test]
fn a_full_disk_refuses_producers_and_serves_the_rest() {
    let disk = SimDisk::new(1);
    let env = Env::simulated(1).with_disk(Arc::new(disk.clone()));
    disk.set_capacity(Some(400 * PAGE));
    let (a, b) = env.run(async {
        let node = open(&env, 120 * PAGE).await.unwrap();
        let (a, b) = (create(&node, "a").await.unwrap(), create(&node, "b").await.unwrap());
        let mut begun = node.producer("t").await.unwrap();
        begun.append(b, vec![record("in a transaction")]).await.unwrap();
        let count = fill(&node, a, 0).await.unwrap();
        assert!(count > 50, "{count}");

        begun.commit().await.unwrap();
        for i in 0..5 {
            create(&node, &format!("new{i}")).await.unwrap();
            node.delete_topic(&format!("new{i}")).await.unwrap();
        }
        // The first brings what could wait so far.
        node.checkpoint().await.unwrap();
        node.checkpoint().await.unwrap();
        assert_eq!(node.metrics().unflushed_bytes, 0, "what was acknowledged is in its segment");
        let mut count = count;
        for _ in 0..3 {
            env.sleep(Duration::from_secs(1)).await;
            count = fill(&node, a, count).await.unwrap();
        }
        let read = read_all(&node, a, Offset(i64::MAX), Isolation::Committed).await.unwrap();
        assert_eq!(read.len(), count);
        assert_eq!(read_all(&node, b, Offset(i64::MAX), Isolation::Committed).await.unwrap().len(), 1);

        // A transaction waits, and goes on when there is room.
        let (node2, env2) = (Arc::clone(&node), env.clone());
        let waiting = env.spawn("waiting", async move {
            let mut producer = node2.producer("u").await?;
            producer.append(b, vec![record("that waited")]).await?;
            producer.commit().await?;
            Ok::<Duration, Error>(env2.monotonic())
        });
        env.sleep(Duration::from_secs(5)).await;
        let room = env.monotonic();
        node.delete_topic("a").await.unwrap();
        assert!(waiting.await.unwrap().unwrap() >= room, "it did not wait");
        let a = create(&node, "a").await.unwrap();
        assert!(fill(&node, a, 0).await.unwrap() > count / 2);
        (a, b)
    });
    env.drop_tasks();
    disk.crash();
    env.run(async {
        let node = open(&env, 120 * PAGE).await.unwrap();
        let read = read_all(&node, b, Offset(i64::MAX), Isolation::Committed).await.unwrap();
        assert_eq!(read.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>(), ["in a transaction", "that waited"]);
        let before = read_all(&node, a, Offset(i64::MAX), Isolation::Committed).await.unwrap().len();
        disk.set_capacity(Some(600 * PAGE));
        env.sleep(Duration::from_secs(2)).await;
        assert!(fill(&node, a, before).await.unwrap() > before);
    });
}

/// No reserve, and a disk that fills up at any time, gets room, loses power: what went wrong.
pub(super) fn check(seed: u64) -> Vec<String> {
    let disk = SimDisk::new(seed);
    let env = Env::simulated(seed).with_disk(Arc::new(disk.clone()));
    let model = Shared::default();
    for round in 0..3 {
        let outcome = env.run(async {
            let node = open(&env, 0).await?;
            verify(&node, &model).await?;
            disk.set_capacity(Some((20 + 15 * round + env.random_u64() % 40) * PAGE));
            let clients = env.spawn("clients", {
                let (env, node, model) = (env.clone(), Arc::clone(&node), Arc::clone(&model));
                async move { run_clients(&env, &node, &model, STEPS).await }
            });
            // Some of them may wait for room.
            env.sleep(Duration::from_secs(10)).await;
            if let Some(reason) = &*node.fatal().borrow() {
                lock(&model).failures.push(format!("a full disk ended the node: {reason}"));
            }
            disk.set_capacity(None);
            if env.timeout(Duration::from_secs(60), clients).await.is_none() {
                lock(&model).failures.push("there is room, and the clients still wait".to_owned());
            }
            // The first brings what could wait so far.
            node.checkpoint().await?;
            node.checkpoint().await?;
            if node.metrics().unflushed_bytes > 0 {
                lock(&model).failures.push("acknowledged bytes did not reach their segment".to_owned());
            }
            Ok::<(), Error>(())
        });
        if let Err(error) = outcome {
            lock(&model).failures.push(format!("round {round}: {error}"));
        }
        env.drop_tasks();
        disk.crash();
    }
    env.run(async {
        let verified = async { verify(&*open(&env, 0).await?, &model).await };
        if let Err(error) = verified.await {
            lock(&model).failures.push(format!("at the end: {error}"));
        }
    });
    env.drop_tasks();
    std::mem::take(&mut lock(&model).failures)
}

#[test]
fn nothing_is_lost_to_a_full_disk_and_all_goes_on_when_there_is_room() {
    for seed in 0..60 {
        let failures = check(seed);
        assert!(failures.is_empty(), "check({seed}): {failures:#?}");
    }
}
