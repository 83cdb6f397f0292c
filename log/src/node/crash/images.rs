//! Crash images: one recorded run is ended at many of its operations, and in several ways at each. Every image recovers;
//! of each partition a prefix of what the run wrote is there, at the same offsets, with all that was acknowledged until
//! then; batches of idempotent producers that are sent again are there once.
//!
//! 10,000 images; `tests/run --images 100000` asks for more. A failure prints what
//! [`check_image`] needs to see it again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::clients::{STEPS, run_clients};
use super::model::{Model, Sent, Shared, lock, partitions, read_all, verify};
use super::{config, life};
use crate::cluster::backend::Backend;
use crate::env::{Damage, SimDisk};
use crate::node::Node;
use crate::store::Acknowledge;
use crate::{Env, Error, Isolation, Offset, TopicPartition};

/// At one of so many operations a run is ended.
const EVERY: u32 = 5;
/// In so many ways each.
const FATES: u64 = 4;

/// A run, and how it was at some of its operations.
pub(super) struct Run {
    pub points: Vec<Point>,
    pub truth: Truth,
    pub failures: Vec<String>,
    pub disk: SimDisk,
    pub model: Model,
}

pub(super) struct Point {
    pub operation: u64,
    disk: SimDisk,
    model: Model,
}

/// What partitions held that stood at the end of a run.
#[derive(Default)]
pub(super) struct Truth {
    partitions: BTreeMap<TopicPartition, (Offset, BTreeMap<Offset, String>)>,
}

/// A number that depends on all of these.
fn draw(of: &[u64]) -> u32 {
    of.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, &part.to_le_bytes()))
}

/// Runs the clients once, on an empty disk or on what a life before left.
pub(super) fn record(seed: u64) -> Run {
    let disk = SimDisk::new(seed);
    let env = Env::simulated(seed).with_disk(Arc::new(disk.clone()));
    let model = Shared::default();
    if env.random_u64().is_multiple_of(2) {
        disk.plan(Damage::PowerCut { operation: 50 + env.random_u64() % 300 });
        env.run(life(&env, &model, Acknowledge::AfterSync));
        env.drop_tasks();
        disk.crash();
    }
    let points = Arc::new(Mutex::new(Vec::new()));
    let (into, shared) = (Arc::clone(&points), Arc::clone(&model));
    disk.watch(move |operation, copy| {
        if draw(&[seed, operation]).is_multiple_of(EVERY) {
            let model = lock(&shared).clone();
            into.lock().unwrap().push(Point { operation, disk: copy(), model });
        }
    });
    let mut truth = Truth::default();
    env.run(async {
        let node = match Node::open(env.clone(), Path::new("/data"), config(Acknowledge::AfterSync)).await {
            Ok(node) => node,
            Err(error) => return lock(&model).failures.push(format!("cannot open: {error}")),
        };
        if let Err(error) = verify(&node, &model).await {
            return lock(&model).failures.push(format!("cannot read: {error}"));
        }
        run_clients(&env, &node, &model, STEPS).await;
        match Truth::of(&node).await {
            Ok(found) => truth = found,
            Err(error) => lock(&model).failures.push(format!("cannot read at the end: {error}")),
        }
        if env.random_u64().is_multiple_of(2) {
            node.shutdown().await;
        }
    });
    env.drop_tasks();
    // Ends the watch.
    let disk = disk.snapshot();
    let model = lock(&model).clone();
    let points = std::mem::take(&mut *points.lock().unwrap());
    Run { points, truth, failures: model.failures.clone(), disk, model }
}

/// The partitions that clients write to.
async fn all(node: &Node) -> Vec<TopicPartition> {
    let mut all = Vec::new();
    for prefix in ["x", "y", "z"] {
        all.extend(partitions(node, prefix).await);
    }
    all
}

impl Truth {
    async fn of(node: &Node) -> Result<Truth, Error> {
        let mut truth = Truth::default();
        for partition in all(node).await {
            let start = node.bounds(partition)?.start;
            let records = read_all(node, partition, Offset(i64::MAX), Isolation::Uncommitted).await?;
            truth.partitions.insert(partition, (start, records.into_iter().collect()));
        }
        Ok(truth)
    }

    /// What is wrong with a partition that starts at `start` and holds these records.
    fn check(&self, partition: TopicPartition, start: Offset, found: &[(Offset, String)]) -> Option<String> {
        let (kept, all) = self.partitions.get(&partition)?;
        if start > *kept {
            return Some(format!("{partition:?} starts at {start:?}, in the run at {kept:?}"));
        }
        let (last, _) = found.last()?;
        if last < kept {
            return None;
        }
        let expect: Vec<(&Offset, &String)> = all.range(*kept..=*last).collect();
        let found: Vec<(&Offset, &String)> =
            found.iter().map(|(offset, text)| (offset, text)).filter(|(offset, _)| *offset >= kept).collect();
        (expect != found).then(|| format!("{partition:?} holds {found:?}, no prefix of {expect:?}"))
    }
}

/// What is wrong with one image: one of those that a run leaves when it is ended at this point.
pub(super) fn check_image(point: &Point, truth: &Truth, seed: u64, fate: u64) -> Vec<String> {
    let at = u64::from(draw(&[seed, point.operation, fate]));
    let disk = match at % 8 {
        // The process was killed, the machine stays on.
        0 => point.disk.snapshot(),
        _ => point.disk.crash_image(at),
    };
    let env = Env::simulated(at).with_disk(Arc::new(disk.clone()));
    let model: Shared = Arc::new(Mutex::new(point.model.clone()));
    if at.is_multiple_of(5) {
        // And once more, in recovery or soon after.
        disk.plan(Damage::PowerCut { operation: 1 + env.random_u64() % 60 });
        env.run(async {
            if let Ok(node) = Node::open(env.clone(), Path::new("/data"), config(Acknowledge::AfterSync)).await {
                // The power goes.
                let _ = verify(&node, &model).await;
            }
        });
        env.drop_tasks();
        disk.crash();
    }
    env.run(async {
        if let Err(error) = recover(&env, &model, truth).await {
            lock(&model).failures.push(format!("cannot go on: {error}"));
        }
        if at.is_multiple_of(17)
            && let Err(error) = live_on(&env, &model).await
        {
            lock(&model).failures.push(format!("cannot live on: {error}"));
        }
    });
    env.drop_tasks();
    std::mem::take(&mut lock(&model).failures)
}

async fn recover(env: &Env, model: &Shared, truth: &Truth) -> Result<(), Error> {
    let node = Node::open(env.clone(), Path::new("/data"), config(Acknowledge::AfterSync)).await?;
    for partition in all(&node).await {
        let found = read_all(&node, partition, Offset(i64::MAX), Isolation::Uncommitted).await?;
        let wrong = truth.check(partition, node.bounds(partition)?.start, &found);
        lock(model).failures.extend(wrong);
    }
    let sent = lock(model).sent.clone();
    let standing: BTreeSet<TopicPartition> = partitions(&node, "x").await.into_iter().collect();
    let sent = sent.into_iter().filter(|((partition, _), _)| standing.contains(partition));
    for ((partition, producer), Sent { batch, at }) in sent {
        let again = node.append_raw(partition, batch).await?.await.map_err(|_| Error::Unknown)?;
        match again {
            Ok(again) if at.is_none_or(|at| at == again.base_offset) => {}
            again => {
                let again = again.map(|appended| appended.base_offset);
                let told = format!("the last batch of producer {producer}, acknowledged at {at:?}, is now {again:?}");
                lock(model).failures.push(told);
            }
        }
    }
    verify(&node, model).await?;
    node.shutdown().await;
    Ok(())
}

/// The recovered log takes more, and is whole after the next start.
async fn live_on(env: &Env, model: &Shared) -> Result<(), Error> {
    let open = || Node::open(env.clone(), Path::new("/data"), config(Acknowledge::AfterSync));
    let node = open().await?;
    run_clients(env, &node, model, 4).await;
    node.shutdown().await;
    drop(node);
    verify(&*open().await?, model).await
}

/// What the images were made of: a test that never sees a thing tests nothing of it.
#[derive(Default)]
pub(super) struct Seen {
    images: AtomicUsize,
    unsynced: AtomicUsize,
    acknowledged: AtomicUsize,
    rolled: AtomicUsize,
    checkpoints: AtomicUsize,
    retained: AtomicUsize,
    trimmed: AtomicUsize,
    deleted: AtomicUsize,
    aborted: AtomicUsize,
}

/// All images of the run of one seed; what is wrong with the first that is.
pub(super) fn check_run(seed: u64, seen: &Seen) -> Result<(), String> {
    let run = record(seed);
    if !run.failures.is_empty() {
        return Err(format!("record({seed}): {:#?}", run.failures));
    }
    let count = |counter: &AtomicUsize, count: usize| {
        counter.fetch_add(count, Ordering::Relaxed);
    };
    for point in &run.points {
        let fates = if point.disk.unsynced() == 0 { 1 } else { FATES };
        for fate in 0..fates {
            let failures = check_image(point, &run.truth, seed, fate);
            if !failures.is_empty() {
                let operation = point.operation;
                return Err(format!("record({seed}), operation {operation}, fate {fate}: {failures:#?}"));
            }
        }
        count(&seen.images, fates as usize);
        count(&seen.unsynced, usize::from(fates > 1));
    }
    count(&seen.acknowledged, run.model.acknowledged);
    count(&seen.aborted, run.model.committed.values().filter(|committed| !**committed).count());
    count(&seen.deleted, run.model.deleting.len());
    let files = run.disk.image();
    let is = |what: &dyn Fn(&str) -> bool| files.keys().any(|path| what(&path.display().to_string()));
    let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    count(&seen.checkpoints, usize::from(is(&|path| name(path).starts_with("checkpoint-"))));
    count(&seen.rolled, usize::from(is(&|path| path.ends_with(".log") && name(path).trim_matches('0') != ".log")));
    let started = |node: &str| {
        let starts = run.truth.partitions.iter().filter(|(_, (start, _))| start.0 > 0);
        starts.filter(|(id, _)| run.model.created.get(&id.topic).is_some_and(|name| name == node)).count()
    };
    count(&seen.retained, started("z"));
    count(&seen.trimmed, started("y"));
    Ok(())
}

#[test]
fn every_crash_image_recovers_to_a_prefix_with_all_that_was_acknowledged() {
    let wanted = std::env::var("RIVERRUN_CRASH_IMAGES").map_or(10_000, |n| n.parse().expect("RIVERRUN_CRASH_IMAGES"));
    let (seen, next) = (Seen::default(), AtomicU64::new(0));
    let failures: Vec<String> = std::thread::scope(|scope| {
        let work = || loop {
            if seen.images.load(Ordering::Relaxed) >= wanted {
                return None;
            }
            if let Err(failure) = check_run(next.fetch_add(1, Ordering::Relaxed), &seen) {
                return Some(failure);
            }
        };
        let workers: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        workers.into_iter().filter_map(|worker| worker.join().unwrap()).collect()
    });
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let Seen { images, unsynced, acknowledged, rolled, checkpoints, retained, trimmed, deleted, aborted } = seen;
    let [images, unsynced, acknowledged] = [images, unsynced, acknowledged].map(AtomicUsize::into_inner);
    let others = [rolled, checkpoints, retained, trimmed, deleted, aborted].map(AtomicUsize::into_inner);
    println!("{images} images, {unsynced} points with unsynced changes, {acknowledged} acknowledged, {others:?}");
    assert!(unsynced * 20 > images, "{unsynced} points of {images} images had something to lose");
    assert!(acknowledged * 20 > images, "only {acknowledged} writes were acknowledged: the test tests little");
    assert!(others.iter().all(|count| count * 1000 > images), "the runs do not meet everything: {others:?}");
}
