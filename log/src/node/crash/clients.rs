//! The clients of the crash tests: plain, idempotent and transactional writers, readers at cuts, topics that come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::model::{Sent, Shared, check_whole, lock, partitions, read_all};
use crate::cluster::backend::Backend;
use crate::node::Node;
use crate::record::batch::Producer as Author;
use crate::record::build::Frame;
use crate::{Batch, Cluster, Cut, Env, Error, Isolation, NewRecord, NewTopic, Offset, TopicPartition};

/// What each client does in one life of the node.
pub(super) const STEPS: u64 = 14;

pub(super) async fn run_clients(env: &Env, node: &Arc<Node>, model: &Shared, steps: u64) {
    let clients = (0..4).map(|number| {
        // Two share an id: they fence each other.
        let name = format!("id{}", number / 2);
        env.spawn("client", client(env.clone(), Arc::clone(node), Arc::clone(model), name, steps))
    });
    let clients: Vec<_> = clients.collect();
    for client in clients {
        client.await.unwrap();
    }
}

pub(super) fn record(text: &str) -> NewRecord {
    NewRecord { value: Some(Bytes::copy_from_slice(text.as_bytes())), ..NewRecord::default() }
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
async fn idempotent(node: &Node, model: &Shared, at: TopicPartition, now_ms: i64, random: u64) -> Result<(), Error> {
    let id = node.new_producer_id().await?;
    for sequence in 0..(random % 3) as i32 + 1 {
        let text = format!("i|{}", lock(model).number());
        lock(model).tried.insert(text.clone());
        let author = Author { id, epoch: 0, base_sequence: sequence };
        let frame = Frame { now_ms, producer: Some(author), transactional: false, batch_bytes_max: 1 << 20 };
        let batch = Batch::build(&[record(&text)], &frame).unwrap();
        lock(model).sent.insert((at, id), Sent { batch: batch.clone(), at: None });
        let one = node.append_raw(at, batch.clone()).await?;
        let two = node.append_raw(at, batch.clone()).await?;
        let two = two.await.map_err(|_| Error::Unknown)??.base_offset;
        {
            let mut model = lock(model);
            model.acknowledged += 1;
            model.see(at, two, &text);
            model.sent.insert((at, id), Sent { batch, at: Some(two) });
        }
        let one = one.await.map_err(|_| Error::Unknown)??.base_offset;
        if one != two {
            lock(model).failures.push(format!("a repeated batch went to {one:?} and {two:?}"));
        }
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
        return create(node, model, &name, (random % 2) as i32 + 1, &[]).await;
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
        return create(node, model, "y", 1, &[]).await;
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

/// A topic of which the newest bytes are kept.
async fn retained(env: &Env, node: &Node, model: &Shared, random: u64) -> Result<(), Error> {
    let Some(at) = partitions(node, "z").await.first().copied() else {
        return create(node, model, "z", 1, &[("retention.bytes", "1500")]).await;
    };
    for _ in 0..4 {
        let text = format!("r|{}|{:300}", lock(model).number(), "");
        lock(model).tried.insert(text.clone());
        let offset = node.log(at)?.append(vec![record(&text)]).await?;
        let mut model = lock(model);
        model.acknowledged += 1;
        model.see(at, offset, &text);
    }
    if random.is_multiple_of(2) {
        // Retention looks once a second.
        env.sleep(Duration::from_millis(1100)).await;
    }
    Ok(())
}

async fn create(
    node: &Node,
    model: &Shared,
    name: &str,
    partitions: i32,
    config: &[(&str, &str)],
) -> Result<(), Error> {
    let config = config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    match node.create_topic(NewTopic { name: name.to_owned(), partitions, config }).await {
        Ok(topic) => drop(lock(model).created.insert(topic.id, topic.name)),
        Err(Error::TopicExists(_)) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// One client; ends at the first error that says the node is gone.
async fn client(env: Env, node: Arc<Node>, model: Shared, name: String, steps: u64) {
    let mut last = Cut::default();
    for _ in 0..steps {
        let all = partitions(&node, "x").await;
        let random = env.random_u64();
        let result = match (all.is_empty(), random % 10) {
            (_, 9) => retained(&env, &node, &model, random >> 16).await,
            (_, 8) => trimmed(&node, &model, random >> 16).await,
            (true, _) | (false, 0) => topics(&node, &model, random >> 8).await,
            (false, 1 | 2) => plain(&node, &model, all[(random >> 8) as usize % all.len()], random >> 16).await,
            (false, 3) => {
                let at = all[(random >> 8) as usize % all.len()];
                idempotent(&node, &model, at, env.now_ms(), random >> 16).await
            }
            (false, 4..=6) => transaction(&node, &model, &name, &all, &env).await,
            _ => look(&node, &model, &mut last).await,
        };
        match result {
            // A disk that is full refuses what could be tried again.
            Ok(()) | Err(Error::UnknownPartition(_) | Error::UnknownTopic(_) | Error::Fenced(_) | Error::Busy(_)) => {}
            Err(Error::Closed(_) | Error::Unknown | Error::Io(_)) => return,
            // A sync that fails may take back what a file had; the log stops for it.
            Err(Error::Corrupt { detail, .. }) if detail.starts_with("the file ends here") => return,
            Err(error) => lock(&model).failures.push(format!("unexpected: {error}")),
        }
    }
}
