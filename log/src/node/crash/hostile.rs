//! Files that were changed on purpose: bits, lengths, numbers, blocks and whole files, with checksums that are right
//! again. Whatever they hold, a node that opens them never panics, takes no more memory than they account for, and says
//! where it is that it cannot go on. Where nobody made the checksums right, what it serves is what was written.
//!
//! 4,000 changes; `tests/run --files 40000` asks for more. A failure prints what [`check_one`] needs to see it again.

mod change;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use self::change::{Change, change};
use super::clients::{STEPS, record as text_record, run_clients};
use super::model::Shared;
use crate::cluster::backend::{Backend, TimestampQuery};
use crate::env::SimDisk;
use crate::node::offline::Directory;
use crate::node::{Node, NodeConfig};
use crate::store::Acknowledge;
use crate::wire::tests::largest;
use crate::{Cluster, Env, Error, Isolation, NewRecord, NewTopic, Offset, TopicPartition};

const DATA: &str = "/data";
/// Changes tried in one directory.
const CHANGES: u64 = 500;
/// At once, besides as many times the largest file.
const ALLOCATED: usize = 256 << 10;
const ALLOCATED_TIMES: usize = 4;
/// Nothing here takes so long on the simulated clock.
const PATIENCE: Duration = Duration::from_secs(600);
/// What is looked for by time: of the compacted topic, and of the others.
const TIMES: [i64; 6] = [1, 7_500, 20_000, 33_333, 45_001, 1_767_225_600_000];
/// Reads of a partition; it has fewer batches.
const READS_MAX: usize = 2_000;

fn config() -> NodeConfig {
    NodeConfig { compact_map_bytes: 24 * 1000, compact_bytes_per_second: 0, ..super::config(Acknowledge::AfterSync) }
}

/// A record as a reader gets it.
type Read = (Offset, Option<Bytes>, Option<Bytes>);

/// A directory, and what its partitions hold.
struct Base {
    disk: SimDisk,
    truth: BTreeMap<TopicPartition, Truth>,
}

/// What a reader gets of a partition.
#[derive(Debug, PartialEq, Eq)]
struct Truth {
    start: Offset,
    records: Vec<Read>,
    /// The first record at or behind some offsets, and at or behind some times.
    from: Vec<Option<Read>>,
    at: Vec<Option<Offset>>,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reaction {
    Harmless,
    Refused,
    /// Some partitions are not served, or not all is done that is asked.
    Fenced,
}

async fn open(env: &Env) -> Result<Arc<Node>, Error> {
    Node::open(env.clone(), Path::new(DATA), config()).await
}

fn standing(node: &Node) -> Vec<TopicPartition> {
    let each =
        |topic: crate::Topic| (0..topic.partitions).map(move |partition| TopicPartition { topic: topic.id, partition });
    node.topics().into_iter().flat_map(each).collect()
}

/// All that a reader gets of a partition; an error says what is wrong with what it got.
async fn read_all(node: &Node, at: TopicPartition, isolation: Isolation) -> Result<Result<Vec<Read>, String>, Error> {
    let log = node.log(at)?;
    let mut from = log.bounds().start;
    let mut found: Vec<Read> = Vec::new();
    for _ in 0..READS_MAX {
        let read = log.read(from, Offset(i64::MAX), 700, isolation).await?;
        for batch in &read.batches {
            let corrupt = |error: crate::record::BatchError| Error::Corrupt {
                place: format!("{at} at offset {}", batch.base_offset().0),
                detail: error.to_string(),
            };
            for record in batch.records().map_err(corrupt)? {
                let record = record.map_err(corrupt)?;
                if record.offset < from {
                    continue;
                }
                if found.last().is_some_and(|last| last.0 >= record.offset) {
                    return Ok(Err(format!("{at}: offset {:?} comes behind {:?}", record.offset, found.last())));
                }
                found.push((record.offset, record.key, record.value));
            }
        }
        if read.next == from {
            return Ok(Ok(found));
        }
        if read.next < from {
            return Ok(Err(format!("{at}: the read at {from:?} goes on at {:?}", read.next)));
        }
        from = read.next;
    }
    Ok(Err(format!("{at}: reading never ends")))
}

/// Looks into the midst of a partition, for which readers go by indexes.
async fn look_up(node: &Node, at: TopicPartition) -> Result<(Vec<Option<Read>>, Vec<Option<Offset>>), Error> {
    let log = node.log(at)?;
    let bounds = log.bounds();
    let (mut from, mut times) = (Vec::new(), Vec::new());
    for part in 0..8 {
        let wanted = Offset(bounds.start.0 + (bounds.high_watermark.0 - bounds.start.0) / 8 * part);
        let read = log.read(wanted, Offset(i64::MAX), 1, Isolation::Uncommitted).await?;
        let records = read.batches.iter().flat_map(|batch| batch.records().into_iter().flatten().flatten());
        let first = records.into_iter().find(|record| record.offset >= wanted);
        from.push(first.map(|record| (record.offset, record.key, record.value)));
    }
    for at_ms in TIMES {
        let found = node.find_timestamp(at, TimestampQuery::AtOrAfter(at_ms), Isolation::Uncommitted).await?;
        times.push(found.map(|found| found.offset));
    }
    let last = node.find_timestamp(at, TimestampQuery::Max, Isolation::Uncommitted).await?;
    times.push(last.map(|found| found.offset));
    Ok((from, times))
}

/// Two directories: one that a node has left, and one that it was killed in.
fn bases(seed: u64) -> Vec<Base> {
    let disk = SimDisk::new(seed);
    let env = Env::simulated(seed).with_disk(Arc::new(disk.clone()));
    let model = Shared::default();
    let mut disks = Vec::new();
    for stops in [true, false] {
        env.run(async {
            let node = open(&env).await.unwrap();
            run_clients(&env, &node, &model, STEPS).await;
            fill_compacted(&node).await;
            if stops {
                node.checkpoint().await.unwrap();
            }
            run_clients(&env, &node, &model, 6).await;
            // The last group of the log cannot be told from one that was being written: it holds what nobody asks for.
            let last = NewTopic { name: format!("last-{stops}"), partitions: 1, config: Default::default() };
            let last = TopicPartition { topic: node.create_topic(last).await.unwrap().id, partition: 0 };
            for _ in 0..2 {
                node.log(last).unwrap().append(vec![text_record("last")]).await.unwrap();
            }
            if stops {
                node.shutdown().await;
            }
            disks.push(disk.snapshot());
            node.shutdown().await;
        });
        env.drop_tasks();
    }
    let with_truth = |disk: SimDisk| {
        let env = Env::simulated(seed).with_disk(Arc::new(disk.snapshot()));
        let mut truth = BTreeMap::new();
        env.run(async {
            let node = open(&env).await.unwrap();
            for at in standing(&node) {
                let records = read_all(&node, at, Isolation::Uncommitted).await.unwrap().unwrap();
                let (from, times) = look_up(&node, at).await.unwrap();
                truth.insert(at, Truth { start: node.bounds(at).unwrap().start, records, from, at: times });
            }
        });
        env.drop_tasks();
        Base { disk, truth }
    };
    disks.into_iter().map(with_truth).collect()
}

/// Batches of 256 bytes, some of them without an entry in an index: another bit in an entry may name another batch.
async fn fill_compacted(node: &Node) {
    if node.topic("c").is_none() {
        let interval = ("index.interval.bytes", "500");
        let config = [("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0"), interval];
        let config = config.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        node.create_topic(NewTopic { name: "c".to_owned(), partitions: 1, config }).await.unwrap();
    }
    let at = TopicPartition { topic: node.topic("c").unwrap().id, partition: 0 };
    for i in 0..50 {
        // Something goes of each segment, and something stays.
        let key = Some(Bytes::from(format!("key {:03}", if i % 4 == 0 { 100 + i % 28 } else { i % 7 })));
        let keyed = NewRecord { key, timestamp_ms: Some(1_000 * i), ..text_record(&format!("{i:179}")) };
        node.log(at).unwrap().append(vec![keyed]).await.unwrap();
        if i == 40 {
            node.compact().await.unwrap();
        }
    }
}

/// Whether an error names a place.
fn told(error: &Error) -> Result<(), String> {
    match error {
        Error::Corrupt { place, detail } if !place.is_empty() && !detail.is_empty() => Ok(()),
        error => Err(format!("it is told as: {error:?}")),
    }
}

/// What was served against what was written: a run of it, all of it where only a file beside the log was changed.
fn check_found(base: &Base, at: TopicPartition, found: &[Read], change: &Change) -> Result<(), String> {
    let Some(Truth { start, records: truth, .. }) = base.truth.get(&at) else {
        return Err(format!("{at} was never there"));
    };
    if change.is_beside() {
        return if found == truth { Ok(()) } else { Err(format!("{at} holds {found:?}, not {truth:?}")) };
    }
    // Where it starts may have stood in what is gone.
    let found = &found[found.partition_point(|record| record.0 < *start)..];
    let Some(first) = found.first() else { return Ok(()) };
    let from = truth.iter().position(|record| record == first).ok_or(format!("{at} holds {first:?}"))?;
    let same = truth.get(from..from + found.len()).is_some_and(|run| run == found);
    if same { Ok(()) } else { Err(format!("{at} holds {found:?}, no run of {truth:?}")) }
}

/// Opens, reads, and goes on to use what is there.
async fn live(env: &Env, base: &Base, change: &Change) -> Result<Reaction, String> {
    let node = match open(env).await {
        Ok(node) => node,
        Err(error) => return told(&error).map(|()| Reaction::Refused),
    };
    let mut reaction = Reaction::Harmless;
    let all = standing(&node);
    for at in &all {
        for isolation in [Isolation::Uncommitted, Isolation::Committed] {
            match read_all(&node, *at, isolation).await {
                // What was forged may be read as anything.
                Ok(_) if change.forged => {}
                Ok(found) => {
                    let found = found?;
                    if isolation == Isolation::Uncommitted {
                        check_found(base, *at, &found, change)?;
                    }
                }
                Err(error) => {
                    told(&error)?;
                    reaction = Reaction::Fenced;
                }
            }
        }
        match look_up(&node, *at).await {
            Ok(found) if !change.forged && change.is_beside() => {
                let expect = base.truth.get(at).map(|truth| (truth.from.clone(), truth.at.clone()));
                if expect.as_ref() != Some(&found) {
                    return Err(format!("{at}: looked up {found:?}, not {expect:?}"));
                }
            }
            Ok(_) => {}
            Err(error) => {
                told(&error)?;
                reaction = Reaction::Fenced;
            }
        }
    }
    let kept = go_on(env, &node, &all).await;
    node.shutdown().await;
    drop(node);
    match open(env).await {
        Ok(node) => {
            for (at, offset, text) in kept {
                let there = match read_all(&node, at, Isolation::Uncommitted).await {
                    Ok(Err(wrong)) if !change.forged => return Err(wrong),
                    Ok(Err(_)) => true,
                    Ok(Ok(found)) => found.iter().any(|(o, _, value)| *o == offset && value.as_deref() == Some(&*text)),
                    Err(error) => told(&error).map(|()| true)?,
                };
                if !there {
                    return Err(format!("{at}: what was acknowledged at {offset:?} is gone"));
                }
            }
            node.shutdown().await;
            Ok(reaction)
        }
        Err(error) => told(&error).map(|()| Reaction::Refused),
    }
}

/// Writes to every partition, and has the log do all that it does from time to time. What it acknowledged.
async fn go_on(env: &Env, node: &Arc<Node>, all: &[TopicPartition]) -> Vec<(TopicPartition, Offset, Bytes)> {
    let mut kept = Vec::new();
    let states = node.topic("__transaction_state").map(|topic| topic.id);
    let clients: Vec<TopicPartition> = all.iter().copied().filter(|at| Some(at.topic) != states).collect();
    for (number, at) in clients.iter().enumerate() {
        let text = Bytes::from(format!("hostile|{number}|{:300}", ""));
        let keyed = NewRecord { key: Some(text.clone()), value: Some(text.clone()), ..NewRecord::default() };
        if let Ok(offset) = node.log(*at).expect("it stands").append(vec![keyed]).await {
            kept.push((*at, offset, text));
        }
    }
    // That they may be refused is told by their errors; what counts here is that they come back.
    if let Ok(mut producer) = node.producer("id0").await {
        for at in &clients {
            let _ = producer.append(*at, vec![text_record("hostile")]).await;
        }
        let _ = producer.commit().await;
        for at in clients.iter().take(1) {
            let _ = producer.append(*at, vec![text_record("hostile")]).await;
        }
        let _ = producer.abort().await;
    }
    let _ = node.new_producer_id().await;
    let _ = node.compact().await;
    let _ = node.checkpoint().await;
    env.sleep(Duration::from_millis(1100)).await;
    if let Some(at) = clients.first() {
        let log = node.log(*at).expect("it stands");
        let before = Offset(log.bounds().start.0.saturating_add(1));
        if log.trim(before).await.is_ok() {
            kept.retain(|(partition, offset, _)| partition != at || *offset >= log.bounds().start);
        }
    }
    let _ = node.checkpoint().await;
    kept
}

/// The same from outside: what cannot be read is told in place.
fn dump(env: &Env) -> Result<(), String> {
    let directory = match Directory::open(env, Path::new(DATA)) {
        Ok(directory) => directory,
        Err(error) => return told(&error),
    };
    for partition in directory.partitions() {
        let mut records = 0;
        let visited = directory.visit(partition.id, &mut |found| {
            if let Ok(batch) = found.batch {
                records += batch.records().into_iter().flatten().count();
            }
        });
        visited.or_else(|error| told(&error))?;
    }
    Ok(())
}

/// What comes of one change, or what is wrong about that.
fn check_one(base: &Base, seed: u64) -> Option<Result<Reaction, String>> {
    let disk = base.disk.snapshot();
    let change = change(&disk, &Env::simulated(seed))?;
    let biggest = disk.image().values().map(Vec::len).max().unwrap_or(0);
    let outside = Env::simulated(seed).with_disk(Arc::new(disk.snapshot()));
    let env = Env::simulated(seed).with_disk(Arc::new(disk));
    let look = || {
        largest(|| {
            dump(&outside)?;
            let mut outcome = Err("it never ends".to_owned());
            env.run(async {
                if let Some(ended) = env.timeout(PATIENCE, live(&env, base, &change)).await {
                    outcome = ended;
                }
            });
            env.drop_tasks();
            outcome
        })
    };
    let outcome = match catch_unwind(AssertUnwindSafe(look)) {
        Ok((_, allocated)) if allocated > ALLOCATED + ALLOCATED_TIMES * biggest => {
            Err(format!("{allocated} bytes were asked for at once, the largest file has {biggest}"))
        }
        Ok((outcome, _)) => outcome,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            Err(format!(
                "panic: {}",
                text.or(panic.downcast_ref::<&str>().map(|t| (*t).to_owned())).unwrap_or_default()
            ))
        }
    };
    Some(outcome.map_err(|wrong| format!("{}: {}: {wrong}", change.path.display(), change.what)))
}

/// What readers from each offset and each second on find first in the compacted topic, and where its files lie.
fn looked_up(disk: &SimDisk) -> (Vec<Option<i64>>, String) {
    let env = Env::simulated(1).with_disk(Arc::new(disk.clone()));
    let (mut found, mut place) = (Vec::new(), String::new());
    env.run(async {
        let node = open(&env).await.unwrap();
        let at = TopicPartition { topic: node.topic("c").unwrap().id, partition: 0 };
        place = format!("{DATA}/topics/{:032x}/0/compacted-", u128::from_be_bytes(at.topic.0));
        let (log, bounds) = (node.log(at).unwrap(), node.bounds(at).unwrap());
        // Backwards: a read that goes on where one has ended needs no index.
        for from in (bounds.start.0..bounds.high_watermark.0).rev().map(Offset) {
            let read = log.read(from, Offset(i64::MAX), 1, Isolation::Uncommitted).await.unwrap();
            found.push(read.batches.first().map(|batch| batch.base_offset().0));
        }
        for at_ms in (0..51).map(|second| 1_000 * second) {
            let query = TimestampQuery::AtOrAfter(at_ms);
            found.push(
                node.find_timestamp(at, query, Isolation::Uncommitted).await.unwrap().map(|found| found.offset.0),
            );
        }
    });
    env.drop_tasks();
    (found, place)
}

/// No checksum protects an index, and a compacted segment has gaps in which nobody misses anything.
#[test]
fn a_flipped_bit_of_an_index_changes_nothing() {
    let base = bases(0).swap_remove(0);
    let (expect, place) = looked_up(&base.disk.snapshot());
    let (mut flips, mut batches) = (0, 0);
    for (path, bytes) in base.disk.image() {
        let ends = path.extension().and_then(|end| end.to_str());
        let compacted = path.to_string_lossy().starts_with(&place);
        if compacted && ends == Some("log") {
            assert_eq!(bytes.len() % 256, 0, "batches of another size");
            batches += bytes.len() / 256;
        }
        if !compacted || !matches!(ends, Some("index" | "timeindex")) {
            continue;
        }
        for bit in 0..bytes.len() * 8 {
            let disk = base.disk.snapshot();
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            change::put(&disk, &path, &changed);
            assert_eq!(looked_up(&disk).0, expect, "bit {bit} of {}", path.display());
            flips += 1;
        }
    }
    assert!(flips > 400 && batches > 12, "{flips} bits were flipped beside {batches} batches");
}

#[test]
fn whatever_files_hold_is_told_or_costs_nothing() {
    let wanted = std::env::var("RIVERRUN_HOSTILE_FILES").map_or(4_000, |n| n.parse().expect("RIVERRUN_HOSTILE_FILES"));
    let (mut all, mut wrong) = (Vec::new(), Vec::new());
    for seed in 0..u64::div_ceil(wanted, 2 * CHANGES) {
        for (number, base) in bases(seed).iter().enumerate() {
            for change in 0..CHANGES {
                let change = change << 8 | seed << 4 | number as u64;
                match check_one(base, change) {
                    Some(Ok(reaction)) => all.push(reaction),
                    Some(Err(failure)) => {
                        wrong.push(format!("check_one(bases({seed})[{number}], {change}): {failure}"))
                    }
                    None => {}
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}: {:#?}", wrong.len(), all.len() + wrong.len(), &wrong[..wrong.len().min(20)]);
    let count = |of: Reaction| all.iter().filter(|reaction| **reaction == of).count();
    let counts = [Reaction::Harmless, Reaction::Refused, Reaction::Fenced].map(count);
    println!("harmless, refused, fenced: {counts:?}");
    assert!(counts.iter().all(|count| *count > 100), "harmless, refused, fenced: {counts:?}");
}
