//! Silent damage to what is durable, anywhere: it is told with file and place, or costs nothing. Where one partition is
//! hit it is fenced and the others serve; nothing that was acknowledged is missing without a word.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::clients::record as text_record;
use super::config;
use super::images::{Run, record};
use super::model::{Model, partitions, read_all};
use crate::env::SimDisk;
use crate::node::Node;
use crate::store::Acknowledge;
use crate::{Cluster, Env, Error, Isolation, NewTopic, Offset, TopicPartition};

/// What was done to a disk.
struct Hit {
    path: PathBuf,
    unreadable: bool,
    /// For people.
    what: String,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reaction {
    Harmless,
    /// The node does not start, and says where.
    Refused,
    /// Some partitions are not served, and say where.
    Fenced,
}

/// A run's disk behind two more records of a topic that nobody asks for: the last group of the log cannot be told from
/// one that was being written.
fn quiet(run: &Run, seed: u64) -> (SimDisk, SimDisk) {
    let disk = run.disk.snapshot();
    let env = Env::simulated(seed).with_disk(Arc::new(disk.clone()));
    let mut older = None;
    env.run(async {
        let node = Node::open(env.clone(), Path::new("/data"), config(Acknowledge::AfterSync)).await.unwrap();
        let topic = NewTopic { name: "w".to_owned(), partitions: 1, config: Default::default() };
        let id = node.create_topic(topic).await.unwrap().id;
        let log = node.log(TopicPartition { topic: id, partition: 0 }).unwrap();
        for i in 0..3 {
            older = Some(disk.snapshot());
            log.append(vec![text_record(&format!("w|{i}"))]).await.unwrap();
        }
    });
    env.drop_tasks();
    (disk.snapshot(), older.unwrap())
}

/// Hits the disk once; none where there is nothing to hit.
fn hit(disk: &SimDisk, older: &SimDisk, env: &Env) -> Option<Hit> {
    let files: Vec<(PathBuf, Vec<u8>)> = disk.image().into_iter().filter(|(_, bytes)| !bytes.is_empty()).collect();
    let newest = files.iter().rposition(|(path, _)| path.extension().is_some_and(|suffix| suffix == "wal"));
    // Often the end of the log: that must not be taken for torn.
    let at = newest.filter(|_| env.random_u64().is_multiple_of(3));
    let (path, bytes) = &files[at.unwrap_or(env.random_u64() as usize % files.len())];
    let written = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
    let at = env.random_u64() as usize % written;
    let (what, unreadable) = match env.random_u64() % 4 {
        0 | 1 => {
            disk.flip_bit(path, at);
            ("a flipped bit", false)
        }
        2 if older.bytes(path).is_some() => {
            disk.stale_sector(path, at, older);
            ("a stale sector", false)
        }
        2 => return None,
        _ => {
            disk.unreadable_sector(path, at);
            ("an unreadable sector", true)
        }
    };
    let hit = Hit { path: path.clone(), unreadable, what: format!("{what} at {at} of {}", path.display()) };
    (unreadable || disk.bytes(path).as_ref() != Some(bytes)).then_some(hit)
}

/// What comes of a hit; an error says what is wrong about that.
fn check(seed: u64, disk: &SimDisk, model: &Model, hit: &Hit) -> Result<Reaction, String> {
    let env = Env::simulated(seed).with_disk(Arc::new(disk.clone()));
    let outcome = Mutex::new(Ok(Reaction::Harmless));
    env.run(async {
        let outcome_is = look(&env, model, hit).await;
        *outcome.lock().unwrap() = outcome_is;
    });
    env.drop_tasks();
    outcome.into_inner().unwrap()
}

async fn look(env: &Env, model: &Model, hit: &Hit) -> Result<Reaction, String> {
    let node = match Node::open(env.clone(), Path::new("/data"), config(Acknowledge::AfterSync)).await {
        Ok(node) => node,
        Err(error) => return told(&error, hit).map(|()| Reaction::Refused),
    };
    let mut reaction = Reaction::Harmless;
    let mut standing = Vec::new();
    for prefix in ["x", "y", "z"] {
        standing.extend(partitions(&node, prefix).await);
    }
    for (id, name) in &model.created {
        if !model.deleting.contains(name) && !standing.iter().any(|partition| partition.topic == *id) {
            return Err(format!("topic {name} is gone"));
        }
    }
    for partition in standing {
        let found = match read_all(&node, partition, Offset(i64::MAX), Isolation::Uncommitted).await {
            Ok(found) => found,
            Err(error) => {
                told(&error, hit)?;
                reaction = Reaction::Fenced;
                continue;
            }
        };
        let start = node.log(partition).map_err(|error| error.to_string())?.bounds().start;
        let expect = model.seen.range((partition, start)..=(partition, Offset(i64::MAX)));
        for ((_, offset), text) in expect {
            if !found.contains(&(*offset, text.clone())) {
                return Err(format!("{partition:?} starts at {start:?} and has no {text} at {offset:?}"));
            }
        }
        if let Some((offset, text)) = found.iter().find(|(_, text)| !model.tried.contains(text)) {
            return Err(format!("{partition:?} has {text} at {offset:?}, which nobody wrote"));
        }
    }
    Ok(reaction)
}

/// Whether an error is one that names the file. A sector that cannot be read is what the system says of it.
fn told(error: &Error, hit: &Hit) -> Result<(), String> {
    let file = hit.path.file_name().unwrap_or_default().to_string_lossy();
    match error {
        Error::Corrupt { place, .. } if place.contains(&*file) => Ok(()),
        Error::Io(_) if hit.unreadable => Ok(()),
        error => Err(format!("it is told as: {error}")),
    }
}

/// Hits one run's disk again and again; how often it came to what, or the first that is wrong.
pub(super) fn check_run(seed: u64, hits: u64) -> Result<Vec<Reaction>, String> {
    let run = record(seed);
    let (disk, older) = quiet(&run, seed);
    let env = Env::simulated(!seed);
    let mut reactions = Vec::new();
    for number in 0..hits {
        let image = disk.snapshot();
        let Some(hit) = hit(&image, &older, &env) else { continue };
        let reaction = check(seed, &image, &run.model, &hit);
        reactions.push(reaction.map_err(|wrong| format!("check_run({seed}), hit {number}, {}: {wrong}", hit.what))?);
    }
    Ok(reactions)
}

#[test]
fn damage_is_told_or_costs_nothing() {
    let mut all = Vec::new();
    for seed in 0..20 {
        all.extend(check_run(seed, 100).unwrap_or_else(|wrong| panic!("{wrong}")));
    }
    let count = |of: Reaction| all.iter().filter(|reaction| **reaction == of).count();
    let counts = [Reaction::Harmless, Reaction::Refused, Reaction::Fenced].map(count);
    println!("harmless, refused, fenced: {counts:?}");
    assert!(counts.iter().all(|count| *count > 50), "harmless, refused, fenced: {counts:?}");
}
