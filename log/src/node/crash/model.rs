//! What the clients of the crash tests have seen and may expect, and the check of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use crate::node::Node;
use crate::{Batch, Cluster, Error, Isolation, LeaderEpoch, Offset, TopicId, TopicPartition};

/// What must hold after any crash.
#[derive(Clone, Default)]
pub(super) struct Model {
    /// Every record that was acknowledged or read, at its place.
    pub(super) seen: BTreeMap<(TopicPartition, Offset), String>,
    /// Every record somebody tried to write; none may appear twice.
    pub(super) tried: BTreeSet<String>,
    /// Fate of each transaction; those without an entry were not acknowledged either way.
    pub(super) committed: BTreeMap<u64, bool>,
    /// How many records a transaction wrote to each partition.
    pub(super) wrote: BTreeMap<u64, BTreeMap<TopicPartition, usize>>,
    /// The newest batch of each idempotent producer.
    pub(super) sent: BTreeMap<(TopicPartition, i64), Sent>,
    /// Topics whose creation was acknowledged.
    pub(super) created: BTreeMap<TopicId, String>,
    /// Topics whose deletion was asked for: gone or not.
    pub(super) deleting: BTreeSet<String>,
    /// How far a trim was asked for.
    pub(super) trimmed: BTreeMap<TopicPartition, Offset>,
    pub(super) epochs: BTreeMap<TopicPartition, LeaderEpoch>,
    pub(super) next: u64,
    pub(super) failures: Vec<String>,
    pub(super) acknowledged: usize,
}

/// A batch of an idempotent producer, and where it is, once that was acknowledged.
#[derive(Clone)]
pub(super) struct Sent {
    pub(super) batch: Batch,
    pub(super) at: Option<Offset>,
}

pub(super) type Shared = Arc<Mutex<Model>>;

pub(super) fn lock(model: &Shared) -> std::sync::MutexGuard<'_, Model> {
    model.lock().unwrap()
}

impl Model {
    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn see(&mut self, partition: TopicPartition, offset: Offset, text: &str) {
        let before = self.seen.entry((partition, offset)).or_insert_with(|| text.to_owned());
        if before != text {
            self.failures.push(format!("{partition:?} at {offset:?} was {before}, is {text}"));
        }
    }
}

pub(super) async fn read_all(
    node: &Node,
    partition: TopicPartition,
    up_to: Offset,
    isolation: Isolation,
) -> Result<Vec<(Offset, String)>, Error> {
    let log = node.log(partition)?;
    let mut from = log.bounds().start;
    let mut found = Vec::new();
    loop {
        let read = log.read(from, up_to, 700, isolation).await?;
        for record in read.batches.iter().flat_map(|batch| batch.records().unwrap()) {
            let record = record.unwrap();
            if record.offset >= from && record.offset < up_to {
                found.push((record.offset, String::from_utf8(record.value.unwrap().to_vec()).unwrap()));
            }
        }
        if read.next == from {
            return Ok(found);
        }
        from = read.next;
    }
}

/// `t|<transaction>|…` for records of transactions.
fn transaction_of(text: &str) -> Option<u64> {
    text.strip_prefix("t|")?.split('|').next()?.parse().ok()
}

/// Every transaction is in what was read as a whole or not at all, counting only partitions that were read.
pub(super) fn check_whole(model: &mut Model, read: &BTreeMap<TopicPartition, Vec<(Offset, String)>>, what: &str) {
    let mut found: BTreeMap<u64, usize> = BTreeMap::new();
    for (_, text) in read.values().flatten() {
        if let Some(number) = transaction_of(text) {
            *found.entry(number).or_default() += 1;
        }
    }
    for (number, count) in found {
        let wrote = model.wrote.get(&number).cloned().unwrap_or_default();
        let whole: usize = wrote.iter().filter(|(partition, _)| read.contains_key(partition)).map(|(_, n)| n).sum();
        if count != whole {
            model.failures.push(format!("{what}: {count} of {whole} records of transaction {number}"));
        }
        if model.committed.get(&number) == Some(&false) {
            model.failures.push(format!("{what}: records of aborted transaction {number}"));
        }
    }
}

/// Of topics whose name begins so: `x` come and go and see transactions, `y` is trimmed, `z` is kept to a size.
pub(super) async fn partitions(node: &Node, prefix: &str) -> Vec<TopicPartition> {
    let topics = node.topics().into_iter().filter(|topic| topic.name.starts_with(prefix));
    let each =
        |topic: crate::Topic| (0..topic.partitions).map(move |partition| TopicPartition { topic: topic.id, partition });
    topics.flat_map(each).collect()
}

/// Everything that the model knows must be there again.
pub(super) async fn verify(node: &Node, model: &Shared) -> Result<(), Error> {
    let mut committed = BTreeMap::new();
    let mut texts: Vec<String> = Vec::new();
    let mut all = partitions(node, "x").await;
    all.extend(partitions(node, "y").await);
    let retained = partitions(node, "z").await;
    all.extend(retained.iter().copied());
    for partition in &all {
        let bounds = node.log(*partition)?.bounds();
        if retained.contains(partition) {
            lock(model).trimmed.insert(*partition, bounds.start);
        }
        for (offset, text) in read_all(node, *partition, Offset(i64::MAX), Isolation::Uncommitted).await? {
            lock(model).see(*partition, offset, &text);
            texts.push(text);
        }
        committed.insert(*partition, read_all(node, *partition, Offset(i64::MAX), Isolation::Committed).await?);
        let mut model = lock(model);
        if bounds.last_stable != bounds.high_watermark {
            model.failures.push(format!("{partition:?} has an open transaction after recovery: {bounds:?}"));
        }
        if model.epochs.insert(*partition, bounds.epoch).is_some_and(|before| before >= bounds.epoch) {
            model.failures.push(format!("{partition:?}: the leader epoch did not go up"));
        }
    }
    let mut model = lock(model);
    let model = &mut *model;
    let there: BTreeSet<&String> = texts.iter().collect();
    if there.len() != texts.len() {
        model.failures.push("a record is there twice".to_owned());
    }
    if let Some(phantom) = texts.iter().find(|text| !model.tried.contains(*text)) {
        model.failures.push(format!("{phantom} was never written"));
    }
    // Topics whose deletion was never asked for still exist, with all that was seen in them.
    let stands = |id: &TopicId| all.iter().any(|partition| partition.topic == *id);
    let gone = model.created.iter().filter(|(id, name)| !model.deleting.contains(*name) && !stands(id));
    let gone: Vec<String> = gone.map(|(_, name)| format!("topic {name} is gone")).collect();
    model.failures.extend(gone);
    let kept = |partition: &TopicPartition| model.trimmed.get(partition).copied().unwrap_or_default();
    let lost = model.seen.iter().filter(|((p, offset), _)| all.contains(p) && *offset >= kept(p));
    let lost = lost.filter(|(_, text)| !there.contains(text));
    let lost: Vec<String> = lost.map(|(at, text)| format!("{text} at {at:?} is lost")).collect();
    model.failures.extend(lost);
    check_whole(model, &committed, "after recovery");
    for (number, commit) in model.committed.clone() {
        let wrote = model.wrote.get(&number).into_iter().flatten();
        let expect: usize = wrote.filter(|(partition, _)| committed.contains_key(partition)).map(|(_, n)| n).sum();
        let of = |text: &str| transaction_of(text) == Some(number);
        let found = committed.values().flatten().filter(|(_, text)| of(text)).count();
        if commit && found != expect {
            model.failures.push(format!("{found} of {expect} records of committed transaction {number} are there"));
        }
    }
    Ok(())
}
