//! Compaction of a node's topics: whatever was written, restarted, trimmed, held or cut off in between, readers find the
//! newest value of each key, and never anything that was not written.
//!
//! A failure prints its seed; `run(seed)` runs it again, step for step.

mod check;
mod during;
mod examples;
mod full;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use self::check::{Gone, check};
use self::world::World;
use super::offline::{Directory, Found, PartitionSummary};
use crate::env::{Damage, SyncFailure};
use crate::{Offset, TopicPartition};

/// A history: writes, passes, restarts.
fn run(seed: u64) -> (usize, usize) {
    let mut world = World::new(seed);
    let env = world.env.clone();
    env.run(async {
        world.open().await;
        for _ in 0..world.random(150) + 50 {
            match world.random(20) {
                0 => {
                    world.node().compact().await.unwrap();
                    check(&world).await;
                }
                1 => {
                    world.close().await;
                    world.open().await;
                    check(&world).await;
                }
                _ => world.step().await,
            }
        }
        // Whatever is open is aborted.
        world.close().await;
        world.open().await;
        world.node().compact().await.unwrap();
        let counts = check(&world).await;
        world.close().await;
        check_stored(&world);
        counts
    })
}

/// What lies in the directory: files of the log's segments only, all of them whole; and in those of the topic that is
/// compacted however little is dirty, each key once, but for the active one.
fn check_stored(world: &World) {
    let stored = Directory::open(&world.env, Path::new("/data")).unwrap();
    let mut segments = 0;
    for partition in stored.partitions() {
        let mut records: BTreeMap<Offset, Vec<Bytes>> = BTreeMap::new();
        let see = &mut |found: Found| {
            let batch = found.batch.unwrap_or_else(|why| panic!("{:?}: {why}", partition.id));
            let keys = records.entry(found.segment).or_default();
            if !batch.is_control() {
                let records = batch.records().unwrap().map(|record| record.unwrap());
                keys.extend(records.filter(|record| record.offset >= partition.start).filter_map(|record| record.key));
            }
        };
        stored.visit(partition.id, see).unwrap();
        segments += records.len() + trimmed(world, &partition, records.keys());
        records.pop_last();
        let keys: Vec<Bytes> = records.into_values().flatten().collect();
        if partition.topic.as_deref() == Some("a") {
            let each: BTreeSet<&Bytes> = keys.iter().collect();
            assert_eq!(each.len(), keys.len(), "{:?}: {keys:?}", partition.id);
        }
    }
    let files = world.disk.image().into_keys().filter(|path| path.extension().is_some_and(|end| end == "log")).count();
    assert!(files <= segments, "{files} files of {segments} segments");
}

#[test]
fn the_newest_of_each_key_is_read_after_any_history() {
    let (mut there, mut written) = (0, 0);
    for seed in 0..60 {
        let caught = std::panic::catch_unwind(|| run(seed));
        let (there_now, written_now) = caught.unwrap_or_else(|_| panic!("seed {seed}"));
        (there, written) = (there + there_now, written + written_now);
    }
    assert!(there * 2 < written, "of {written} records {there} are still there: little was compacted");
}

/// Files of segments below the log start: they wait until the write-ahead log has moved on.
fn trimmed<'a>(
    world: &World,
    partition: &PartitionSummary,
    segments: impl Iterator<Item = &'a Offset> + Clone,
) -> usize {
    let TopicPartition { topic, partition: number } = partition.id;
    let directory = format!("/data/topics/{:032x}/{number}", u128::from_be_bytes(topic.0));
    let logs = world.disk.image().into_keys().filter(|path| path.starts_with(&directory));
    let logs = logs.filter(|path| path.extension().is_some_and(|end| end == "log"));
    let bases = logs.map(|path| Offset(path.file_stem().unwrap().to_str().unwrap().parse().unwrap()));
    bases.filter(|base| *base < partition.start && segments.clone().all(|segment| segment != base)).count()
}

/// A history that a power cut ends in the midst of a pass, at any operation of the disk; then the next one begins. What
/// was left half done is finished or gone, and what a reader has seen to be gone stays so.
fn run_with_cuts(seed: u64) -> usize {
    let mut world = World::new(seed);
    let env = world.env.clone();
    let mut cut = 0;
    let mut gone = Gone::default();
    for _ in 0..6 {
        let seen = std::mem::take(&mut gone);
        let (survived, seen) = env.run(async {
            world.open().await;
            check(&world).await;
            for _ in 0..world.random(60) + 20 {
                world.step().await;
            }
            world.all_durable().await;
            let operation = world.disk.operations() + 1 + world.random(120);
            let damage = match world.random(5) {
                0 => Damage::SyncFails { operation, how: SyncFailure::Clean },
                1 => Damage::SyncFails { operation, how: SyncFailure::Reverted },
                2 => Damage::WriteFails { operation },
                _ => Damage::PowerCut { operation },
            };
            world.disk.plan(damage);
            let stop = Arc::new(AtomicBool::new(false));
            let partitions: Vec<_> = world.models.keys().copied().collect();
            let (looking, node, told) = (env.clone(), world.node(), Arc::clone(&stop));
            let reader =
                env.spawn("reader", async move { seen.keep_looking(looking, &node, &partitions, &told).await });
            let compacted = world.node().compact().await;
            // What others were about to do meets it now, or nobody does.
            env.sleep(std::time::Duration::from_millis(1)).await;
            let survived = compacted.is_ok() && world.node().fatal().borrow().is_none();
            if survived {
                check(&world).await;
            }
            stop.store(true, Ordering::Relaxed);
            (survived, reader.await.expect("the reader goes on to its end"))
        });
        gone = seen;
        cut += usize::from(!survived);
        world.node = None;
        env.drop_tasks();
        if world.random(3) == 0 {
            world.disk.heal();
        } else {
            world.disk.crash();
        }
    }
    env.run(async {
        world.open().await;
        let partitions: Vec<_> = world.models.keys().copied().collect();
        gone.look(&world.node(), &partitions).await.unwrap();
        world.node().compact().await.unwrap();
        check(&world).await;
        world.close().await;
    });
    check_stored(&world);
    cut
}

#[test]
fn a_pass_that_is_cut_off_anywhere_leaves_the_one_side_or_the_other() {
    let mut cut = 0;
    for seed in 0..60 {
        let caught = std::panic::catch_unwind(|| run_with_cuts(seed));
        cut += caught.unwrap_or_else(|_| panic!("seed {seed}"));
    }
    assert!(cut > 100, "only {cut} passes were cut off");
}
