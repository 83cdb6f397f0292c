//! A start on a disk without any room: the node opens, shows everything that was acknowledged, has topics deleted, and
//! refuses producers until there is room. Where it cannot it says what to do.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{PAGE, free_pages, open, used_pages};
use crate::env::{Damage, Disk, SimDisk};
use crate::node::crash::clients::{STEPS, record, run_clients};
use crate::node::crash::config;
use crate::node::crash::model::{Shared, lock, partitions, verify};
use crate::node::{Node, NodeConfig};
use crate::store::Acknowledge;
use crate::{Cluster, Env, Error};

#[derive(Debug, Default)]
struct Counts {
    opened: usize,
    full: usize,
    refused: usize,
    /// Of these, those whose memory would have been enough: the newest file of the log was full.
    no_file: usize,
    /// Records that stood in the write-ahead log alone.
    unwritten: usize,
    /// The file of the log was full, too: deletions waited for room.
    waited: usize,
}

const WAIT_MAX: Duration = Duration::from_secs(30);

async fn wait<T>(env: &Env, what: &str, future: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    env.timeout(WAIT_MAX, future).await.unwrap_or_else(|| panic!("{what} does not end"))
}

/// What the node does without room.
async fn live_on(
    env: &Env,
    disk: &SimDisk,
    node: &Arc<Node>,
    model: &Shared,
    counts: &mut Counts,
) -> Result<(), Error> {
    verify(node, model).await?;
    // The room is looked for from time to time. Recovery may have made some.
    env.sleep(Duration::from_secs(2)).await;
    if free_pages(disk) == 0 {
        counts.full += 1;
        for at in partitions(node, "x").await {
            let refused = node.log(at)?.append(vec![record("no room")]).await;
            assert!(matches!(refused, Err(Error::Busy(_))), "{refused:?}");
        }
    }
    for topic in node.topics().into_iter().filter(|topic| topic.name.starts_with('x')) {
        lock(model).deleting.insert(topic.name.clone());
        let mut deletion = std::pin::pin!(node.delete_topic(&topic.name));
        match env.timeout(WAIT_MAX, deletion.as_mut()).await {
            Some(deleted) => deleted?,
            None => {
                counts.waited += 1;
                disk.set_capacity(None);
                wait(env, "a deletion", deletion).await?;
            }
        }
    }
    disk.set_capacity(None);
    env.sleep(Duration::from_secs(2)).await;
    wait(env, "a checkpoint", node.checkpoint()).await?;
    run_clients(env, node, model, 3).await;
    Ok(())
}

/// Some have so little memory that what has no room on the disk has none there either.
async fn start(env: &Env, seed: u64) -> Result<Arc<Node>, Error> {
    let config = NodeConfig { reserve_bytes: 0, ..config(Acknowledge::AfterSync) };
    let config =
        if seed.is_multiple_of(5) { NodeConfig { tail_bytes: 300, pending_bytes: 300, ..config } } else { config };
    Node::open(env.clone(), Path::new("/data"), config).await
}

fn check(seed: u64, counts: &mut Counts) {
    let disk = SimDisk::new(seed);
    let env = Env::simulated(seed).with_disk(Arc::new(disk.clone()));
    let model = Shared::default();
    disk.plan(Damage::PowerCut { operation: 100 + env.random_u64() % 500 });
    env.run(async {
        if let Ok(node) = open(&env, 0).await {
            run_clients(&env, &node, &model, STEPS).await;
        }
    });
    env.drop_tasks();
    disk.crash();
    // The process is killed while the system has not written everything back, or the power goes.
    if disk.free_bytes(Path::new("/data")).is_err() {
        return;
    }
    let used = used_pages(&disk);
    disk.set_capacity(Some(used * PAGE));
    env.run(async {
        match env.timeout(WAIT_MAX, start(&env, seed)).await.unwrap_or_else(|| panic!("seed {seed}: a start ends")) {
            Ok(node) => {
                counts.opened += 1;
                counts.unwritten += node.inner.store.in_memory().unflushed;
                if let Err(error) = live_on(&env, &disk, &node, &model, counts).await {
                    lock(&model).failures.push(format!("without room: {error}"));
                }
            }
            Err(error) => {
                counts.refused += 1;
                let told = error.to_string();
                assert!(told.contains("make room"), "seed {seed}: {told}");
                if !seed.is_multiple_of(5) {
                    assert!(told.contains("bytes at /data/wal and"), "seed {seed}, which has memory for it: {told}");
                    counts.no_file += 1;
                }
            }
        }
    });
    env.drop_tasks();
    disk.set_capacity(None);
    if seed.is_multiple_of(2) {
        disk.crash();
    } else {
        disk.heal();
    }
    env.run(async {
        let verified = async { verify(&*open(&env, 0).await?, &model).await };
        if let Err(error) = verified.await {
            lock(&model).failures.push(format!("with room: {error}"));
        }
    });
    env.drop_tasks();
    let failures = std::mem::take(&mut lock(&model).failures);
    assert!(failures.is_empty(), "seed {seed}: {failures:#?}");
}

#[test]
fn a_node_opens_on_a_disk_without_room() {
    let mut counts = Counts::default();
    (0..150).for_each(|seed| check(seed, &mut counts));
    println!("{counts:?}");
    assert!(counts.opened > 60 && counts.full > 40 && counts.unwritten > 60 && counts.refused > 0, "{counts:?}");
    assert!(counts.no_file < 8, "{counts:?}");
}
