//! Power cuts and failing syncs at any operation of the disk, under concurrent writers: what was acknowledged or seen
//! stays, transactions are there as a whole or not at all, and every start goes on where the one before ended.
//!
//! A failure prints its seed; `check_seed(seed, …)` runs it again, step for step.

mod bounds;
pub(super) mod calls;
mod clients;
mod damage;
mod errors;
mod full;
mod hostile;
mod images;
mod model;
#[cfg(feature = "mutants")]
mod mutants;
mod syncs;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::clients::{STEPS, record, run_clients};
use self::model::{Shared, lock, verify};
use super::{Node, NodeConfig};
use crate::env::{Damage, SimDisk, SyncFailure};
use crate::store::Acknowledge;
use crate::{Cluster, Env, Error, NewTopic, Offset, TopicPartition};

const ROUNDS: u64 = 6;

/// How a sync fails. Not late: that takes what is acknowledged before it comes, and no promise could be checked.
const SHAPES: [SyncFailure; 3] = [SyncFailure::Clean, SyncFailure::Reverted, SyncFailure::Unseen];

fn config(acknowledge: Acknowledge) -> NodeConfig {
    // Small, so that files roll, memory does not hold everything, and writers wait.
    NodeConfig {
        wal_file_bytes: 6000,
        wal_group_bytes: 1500,
        segment_bytes_max: 2500,
        tail_bytes: 3000,
        pending_bytes: 4000,
        dirty_files_max: 3,
        reserve_bytes: 0,
        acknowledge,
        ..NodeConfig::default()
    }
}

struct Outcome {
    failures: Vec<String>,
    acknowledged: usize,
    image: BTreeMap<PathBuf, Vec<u8>>,
}

/// Several lives of one data directory; each ends by what the seed says.
fn check_seed(seed: u64, acknowledge: Acknowledge) -> Outcome {
    let disk = SimDisk::new(seed);
    let env = Env::simulated(seed).with_disk(Arc::new(disk.clone()));
    let model = Shared::default();
    for _ in 0..ROUNDS {
        let operation = disk.operations() + 1 + env.random_u64() % 160;
        let damage = match env.random_u64() % 6 {
            0 => Some(Damage::SyncFails { operation, how: SHAPES[env.random_u64() as usize % SHAPES.len()] }),
            1 => Some(Damage::WriteFails { operation }),
            2 => None,
            _ => Some(Damage::PowerCut { operation }),
        };
        damage.into_iter().for_each(|damage| disk.plan(damage));
        let polite = env.run(life(&env, &model, acknowledge));
        env.drop_tasks();
        if !polite || env.random_u64().is_multiple_of(2) {
            // A process that was killed is mostly followed by a start on the same machine, sometimes by a power cut.
            let cut = matches!(damage, Some(Damage::PowerCut { .. })) || env.random_u64().is_multiple_of(2);
            if cut {
                disk.crash();
            } else {
                disk.heal();
            }
        }
        if !lock(&model).failures.is_empty() {
            break;
        }
    }
    disk.heal();
    env.run(async {
        match Node::open(env.clone(), Path::new("/data"), config(acknowledge)).await {
            Ok(node) => {
                if let Err(error) = verify(&node, &model).await {
                    lock(&model).failures.push(format!("cannot read at the end: {error}"));
                }
            }
            Err(error) => lock(&model).failures.push(format!("cannot open at the end: {error}")),
        }
    });
    env.drop_tasks();
    let mut model = lock(&model);
    let failures = std::mem::take(&mut model.failures);
    Outcome { failures, acknowledged: model.acknowledged, image: disk.image() }
}

/// From a start to an end; whether it was a clean one.
async fn life(env: &Env, model: &Shared, acknowledge: Acknowledge) -> bool {
    let node = match Node::open(env.clone(), Path::new("/data"), config(acknowledge)).await {
        Ok(node) => node,
        Err(Error::Io(_) | Error::Closed(_) | Error::Unknown) => return false,
        Err(error) => {
            lock(model).failures.push(format!("cannot open: {error}"));
            return false;
        }
    };
    match verify(&node, model).await {
        Ok(()) | Err(Error::Io(_) | Error::Closed(_) | Error::Unknown) => {}
        Err(error) => lock(model).failures.push(format!("cannot read: {error}")),
    }
    run_clients(env, &node, model, STEPS).await;
    let polite = env.random_u64().is_multiple_of(3);
    if polite {
        node.shutdown().await;
    }
    polite
}

#[test]
fn nothing_acknowledged_is_lost_and_transactions_are_whole() {
    let mut acknowledged = 0;
    for seed in 0..40 {
        let outcome = check_seed(seed, Acknowledge::AfterSync);
        assert!(outcome.failures.is_empty(), "seed {seed}: {:#?}", outcome.failures);
        acknowledged += outcome.acknowledged;
    }
    assert!(acknowledged > 2000, "only {acknowledged} writes were acknowledged: the test tests little");
}

/// Writes and trims until files are freed, with crashes in between: the log stays short, its end is never forgotten.
#[test]
fn a_trimmed_log_stays_short_and_remembers_its_end() {
    let mut freed = 0;
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        let env = Env::simulated(seed).with_disk(Arc::new(disk.clone()));
        let (mut end, mut asked) = (Offset(0), Offset(0));
        for _ in 0..6 {
            disk.plan(Damage::PowerCut { operation: disk.operations() + 20 + env.random_u64() % 1500 });
            let life = async {
                let node = Node::open(env.clone(), Path::new("/data"), config(Acknowledge::AfterSync)).await?;
                let topic = NewTopic { name: "y".to_owned(), partitions: 1, config: Default::default() };
                let id = match node.topic("y") {
                    Some(topic) => topic.id,
                    None => node.create_topic(topic).await?.id,
                };
                let log = node.log(TopicPartition { topic: id, partition: 0 })?;
                let bounds = log.bounds();
                assert!(bounds.end >= end, "seed {seed}: the end went back to {bounds:?} from {end:?}");
                assert!(bounds.start <= asked, "seed {seed}: {bounds:?} is trimmed beyond {asked:?}");
                for i in 0..200 {
                    let text = format!("{i:200}");
                    end = Offset(log.append(vec![record(&text)]).await?.0 + 1);
                    if i % 10 == 9 {
                        asked = Offset(end.0 - 1);
                        log.trim(asked).await?;
                    }
                }
                let files = node.metrics().files;
                // Each start leaves a record of the topics that keeps its file.
                assert!(files <= 10, "seed {seed}: {files} files are left");
                freed += 1;
                Ok::<(), Error>(())
            };
            if let Err(error) = env.run(life) {
                assert!(matches!(error, Error::Io(_) | Error::Closed(_) | Error::Unknown), "seed {seed}: {error}");
            }
            env.drop_tasks();
            disk.crash();
        }
    }
    assert!(freed > 10, "only {freed} lives went long enough to free files");
}

/// The same clients on real threads, where the machine and not a seed decides the order.
#[test]
fn real_threads_keep_the_same_promises() {
    let env = Env::memory();
    let model = Shared::default();
    env.run(async {
        for _ in 0..20 {
            let node = Node::open(env.clone(), Path::new("/data"), config(Acknowledge::AfterSync)).await.unwrap();
            verify(&node, &model).await.unwrap();
            run_clients(&env, &node, &model, STEPS).await;
            node.shutdown().await;
        }
    });
    let model = lock(&model);
    assert!(model.failures.is_empty(), "{:#?}", model.failures);
    assert!(model.acknowledged > 100, "only {} writes were acknowledged", model.acknowledged);
}

#[test]
fn acknowledging_before_the_sync_is_caught() {
    let caught = (0..30).find(|seed| !check_seed(*seed, Acknowledge::BeforeSync).failures.is_empty());
    assert!(caught.is_some(), "30 seeds did not notice that nothing was synced");
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    for seed in [3, 4, 5] {
        let (one, two) = (check_seed(seed, Acknowledge::AfterSync), check_seed(seed, Acknowledge::AfterSync));
        assert!(!one.image.is_empty());
        assert!(one.image == two.image, "seed {seed}");
        assert_eq!(one.acknowledged, two.acknowledged);
    }
}
