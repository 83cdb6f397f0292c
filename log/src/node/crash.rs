//! Power cuts and failing syncs at any operation of the disk, under concurrent writers: what was acknowledged or seen
//! stays, transactions are there as a whole or not at all, and every start goes on where the one before ended.
//!
//! A failure prints its seed; `check_seed(seed, …)` runs it again, step for step.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::{Node, NodeConfig};
use crate::cluster::backend::Backend;
use crate::env::{Damage, SimDisk};
use crate::record::batch::Producer as Author;
use crate::record::build::Frame;
use crate::store::Acknowledge;
use crate::{Batch, Cluster, Cut, Env, Error, Isolation, LeaderEpoch, NewRecord, NewTopic, Offset, TopicPartition};

const ROUNDS: u64 = 6;
const STEPS: u64 = 14;

/// What must hold after any crash.
#[derive(Default)]
struct Model {
    /// Every record that was acknowledged or read, at its place.
    seen: BTreeMap<(TopicPartition, Offset), String>,
    /// Every record somebody tried to write; none may appear twice.
    tried: BTreeSet<String>,
    /// Fate of each transaction; those without an entry were not acknowledged either way.
    committed: BTreeMap<u64, bool>,
    /// How many records a transaction wrote to each partition.
    wrote: BTreeMap<u64, BTreeMap<TopicPartition, usize>>,
    /// Topics whose deletion was asked for: gone or not.
    deleting: BTreeSet<String>,
    /// How far a trim was asked for.
    trimmed: BTreeMap<TopicPartition, Offset>,
    epochs: BTreeMap<TopicPartition, LeaderEpoch>,
    next: u64,
    failures: Vec<String>,
    acknowledged: usize,
}

type Shared = Arc<Mutex<Model>>;

fn lock(model: &Shared) -> std::sync::MutexGuard<'_, Model> {
    model.lock().unwrap()
}

impl Model {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn see(&mut self, partition: TopicPartition, offset: Offset, text: &str) {
        let before = self.seen.entry((partition, offset)).or_insert_with(|| text.to_owned());
        if before != text {
            self.failures.push(format!("{partition:?} at {offset:?} was {before}, is {text}"));
        }
    }
}

fn record(text: &str) -> NewRecord {
    NewRecord { value: Some(Bytes::copy_from_slice(text.as_bytes())), ..NewRecord::default() }
}

async fn read_all(
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
fn check_whole(model: &mut Model, read: &BTreeMap<TopicPartition, Vec<(Offset, String)>>, what: &str) {
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

/// Of topics whose name begins so: `x` come and go and see transactions, `y` is trimmed.
async fn partitions(node: &Node, prefix: &str) -> Vec<TopicPartition> {
    let topics = node.topics().into_iter().filter(|topic| topic.name.starts_with(prefix));
    let each =
        |topic: crate::Topic| (0..topic.partitions).map(move |partition| TopicPartition { topic: topic.id, partition });
    topics.flat_map(each).collect()
}

async fn plain(node: &Node, model: &Shared, at: TopicPartition, random: u64) -> Result<(), Error> {
    let texts: Vec<String> = (0..random % 3 + 1).map(|_| format!("p|{}", lock(model).number())).collect();
    lock(model).tried.extend(texts.iter().cloned());
    let records = texts.iter().map(|text| record(text)).collect();
    let first = node.log(at)?.append(records).await?;
    let mut model = lock(model);
    model.acknowledged += 1;
    for (i, text) in texts.iter().enumerate() {
        model.see(at, Offset(first.0 + i as i64), text);
    }
    Ok(())
}

/// An idempotent producer that sends each batch twice and must find it once.
async fn idempotent(node: &Node, model: &Shared, at: TopicPartition, random: u64) -> Result<(), Error> {
    let id = node.new_producer_id().await?;
    for sequence in 0..(random % 3) as i32 + 1 {
        let text = format!("i|{}", lock(model).number());
        lock(model).tried.insert(text.clone());
        let author = Author { id, epoch: 0, base_sequence: sequence };
        let frame = Frame { now_ms: 1, producer: Some(author), transactional: false, batch_bytes_max: 1 << 20 };
        let batch = Batch::build(&[record(&text)], &frame).unwrap();
        let one = node.append_raw(at, batch.clone()).await?;
        let two = node.append_raw(at, batch).await?;
        let (one, two) = (one.await.map_err(|_| Error::Unknown)??, two.await.map_err(|_| Error::Unknown)??);
        let mut model = lock(model);
        model.acknowledged += 1;
        if one.base_offset != two.base_offset {
            model.failures.push(format!("a repeated batch went to {:?} and {:?}", one.base_offset, two.base_offset));
        }
        model.see(at, one.base_offset, &text);
    }
    Ok(())
}

async fn transaction(node: &Node, model: &Shared, name: &str, all: &[TopicPartition], env: &Env) -> Result<(), Error> {
    let mut producer = node.producer(name).await?;
    for _ in 0..env.random_u64() % 3 + 1 {
        let number = lock(model).number();
        for i in 0..env.random_u64() % 5 + 1 {
            let at = all[env.random_u64() as usize % all.len()];
            let text = format!("t|{number}|{i}");
            {
                let mut model = lock(model);
                model.tried.insert(text.clone());
                *model.wrote.entry(number).or_default().entry(at).or_default() += 1;
            }
            producer.append(at, vec![record(&text)]).await?;
        }
        match env.random_u64() % 5 {
            0 => {
                lock(model).committed.insert(number, false);
                producer.abort().await?;
            }
            1 => {
                // Left open, and with it the producer.
                lock(model).committed.insert(number, false);
                return Ok(());
            }
            _ => match producer.commit().await {
                Ok(committed) => {
                    let mut model = lock(model);
                    model.committed.insert(number, true);
                    model.acknowledged += 1;
                    let wrote: BTreeSet<_> = model.wrote[&number].keys().copied().collect();
                    let said: BTreeSet<_> = committed.ranges.iter().map(|(partition, _, _)| *partition).collect();
                    if !said.is_subset(&wrote) {
                        model.failures.push(format!("transaction {number} wrote {wrote:?}, the outcome says {said:?}"));
                    }
                }
                Err(Error::UnknownPartition(_) | Error::Fenced(_)) => {
                    lock(model).committed.insert(number, false);
                }
                Err(error) => return Err(error),
            },
        }
    }
    Ok(())
}

/// Reads at a cut: whole transactions only.
async fn look(node: &Node, model: &Shared, last: &mut Cut) -> Result<(), Error> {
    let all = partitions(node, "x").await;
    let cut = node.cut(&all)?;
    let mut read = BTreeMap::new();
    for (partition, end) in &cut.0 {
        let found = read_all(node, *partition, *end, Isolation::Committed).await?;
        for (offset, text) in &found {
            lock(model).see(*partition, *offset, text);
        }
        read.insert(*partition, found);
    }
    let mut model = lock(model);
    if last.0.keys().eq(cut.0.keys()) && last.0.iter().any(|(partition, end)| cut.0[partition] < *end) {
        model.failures.push(format!("a cut went back from {last:?} to {cut:?}"));
    }
    *last = cut;
    check_whole(&mut model, &read, "at a cut");
    Ok(())
}

async fn topics(node: &Node, model: &Shared, random: u64) -> Result<(), Error> {
    let name = format!("x{}", random % 4);
    if node.topic(&name).is_none() {
        let topic = NewTopic { name, partitions: (random % 2) as i32 + 1, config: Default::default() };
        return match node.create_topic(topic).await {
            Ok(_) | Err(Error::TopicExists(_)) => Ok(()),
            Err(error) => Err(error),
        };
    }
    if random.is_multiple_of(5) {
        lock(model).deleting.insert(name.clone());
        return match node.delete_topic(&name).await {
            Ok(()) | Err(Error::UnknownTopic(_)) => Ok(()),
            Err(error) => Err(error),
        };
    }
    Ok(())
}

/// A topic of which only the newest records are kept.
async fn trimmed(node: &Node, model: &Shared, random: u64) -> Result<(), Error> {
    let Some(at) = partitions(node, "y").await.first().copied() else {
        let topic = NewTopic { name: "y".to_owned(), partitions: 1, config: Default::default() };
        return match node.create_topic(topic).await {
            Ok(_) | Err(Error::TopicExists(_)) => Ok(()),
            Err(error) => Err(error),
        };
    };
    for _ in 0..3 {
        plain(node, model, at, random).await?;
    }
    let log = node.log(at)?;
    let held = log.hold("test", Offset(log.bounds().last_stable.0 - 1));
    let before = Offset(log.bounds().last_stable.0 - (random % 3) as i64);
    let limit = lock(model).trimmed.get(&at).copied().unwrap_or_default().max(before);
    lock(model).trimmed.insert(at, limit);
    let start = log.trim(before).await?;
    // Others trim too: as far as anybody asked, not further.
    let asked = lock(model).trimmed[&at];
    if start > asked {
        lock(model).failures.push(format!("asked to trim to {asked:?}, the start is {start:?}"));
    }
    drop(held);
    Ok(())
}

/// One client; ends at the first error that says the node is gone.
async fn client(env: Env, node: Arc<Node>, model: Shared, name: String) {
    let mut last = Cut::default();
    for _ in 0..STEPS {
        let all = partitions(&node, "x").await;
        let random = env.random_u64();
        let result = match (all.is_empty(), random % 9) {
            (_, 8) => trimmed(&node, &model, random >> 16).await,
            (true, _) | (false, 0) => topics(&node, &model, random >> 8).await,
            (false, 1 | 2) => plain(&node, &model, all[(random >> 8) as usize % all.len()], random >> 16).await,
            (false, 3) => idempotent(&node, &model, all[(random >> 8) as usize % all.len()], random >> 16).await,
            (false, 4..=6) => transaction(&node, &model, &name, &all, &env).await,
            _ => look(&node, &model, &mut last).await,
        };
        match result {
            Ok(()) | Err(Error::UnknownPartition(_) | Error::UnknownTopic(_) | Error::Fenced(_)) => {}
            Err(Error::Closed(_) | Error::Unknown | Error::Io(_)) => return,
            Err(error) => lock(&model).failures.push(format!("unexpected: {error}")),
        }
    }
}

/// Everything that the model knows must be there again.
async fn verify(node: &Node, model: &Shared) -> Result<(), Error> {
    let mut committed = BTreeMap::new();
    let mut texts: Vec<String> = Vec::new();
    let mut all = partitions(node, "x").await;
    all.extend(partitions(node, "y").await);
    for partition in &all {
        let bounds = node.log(*partition)?.bounds();
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

fn config(acknowledge: Acknowledge) -> NodeConfig {
    // Small, so that files roll, memory does not hold everything, and writers wait.
    NodeConfig {
        wal_file_bytes: 6000,
        wal_group_bytes: 1500,
        tail_bytes: 3000,
        pending_bytes: 4000,
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
            0 => Some(Damage::SyncFails { operation }),
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
            Ok(node) => verify(&node, &model).await.unwrap(),
            Err(error) => lock(&model).failures.push(format!("cannot open at the end: {error}")),
        }
    });
    env.drop_tasks();
    let mut model = lock(&model);
    let failures = std::mem::take(&mut model.failures);
    Outcome { failures, acknowledged: model.acknowledged, image: disk.image() }
}

async fn run_clients(env: &Env, node: &Arc<Node>, model: &Shared) {
    let clients = (0..4).map(|number| {
        // Two share an id: they fence each other.
        let name = format!("id{}", number / 2);
        env.spawn("client", client(env.clone(), Arc::clone(node), Arc::clone(model), name))
    });
    let clients: Vec<_> = clients.collect();
    for client in clients {
        client.await.unwrap();
    }
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
    run_clients(env, &node, model).await;
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
            run_clients(&env, &node, &model).await;
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
