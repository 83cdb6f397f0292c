//! Everything that moves the bounds of partitions at once, under kills: appends, deletion of records, retention by size
//! and by time, rolls, holds, checkpoints, topics that go and come. Bounds only go up, a start goes no further than
//! somebody asked, what was acknowledged above it is there, and options are what was last agreed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::SHAPES;
use super::clients::record;
use super::config;
use crate::env::{Damage, SimDisk};
use crate::node::{Node, NodeConfig};
use crate::record::TopicId;
use crate::store::Acknowledge;
use crate::{Cluster, ConfigChanges, Env, Error, Isolation, NewTopic, Offset, TopicPartition};

const NAMES: [&str; 4] = ["z0", "z1", OS, OS];
/// Has `flush=os`: a power cut may take its newest records, acknowledged or not, and nothing else may.
const OS: &str = "z2";
const STEPS: u64 = 25;
const LIVES: usize = 6;

/// Options, each with the values that one client gives it; `None` takes it back.
const OPTIONS: [(&str, [Option<&str>; 3]); 4] = [
    ("retention.bytes", [Some("700"), Some("4000"), None]),
    ("retention.ms", [Some("40"), Some("500"), None]),
    ("segment.ms", [Some("5"), Some("60"), None]),
    ("cleanup.policy", [Some(""), Some("delete"), None]),
];

/// What is known of a topic.
#[derive(Default)]
struct Known {
    name: String,
    /// By offset, as acknowledged.
    records: BTreeMap<i64, String>,
    /// The highest that was seen.
    start: i64,
    high_watermark: i64,
    /// How far somebody asked records to be deleted.
    asked: i64,
    /// Retention may have deleted more.
    retained: bool,
    /// What each option may be: the last agreed, and what was asked for since.
    options: BTreeMap<&'static str, Vec<Option<String>>>,
    /// The power went, and nobody has looked yet what that has taken.
    cut: bool,
    /// Asked to go, and agreed.
    going: bool,
    gone: bool,
}

impl Known {
    /// Forgets what a power cut may have taken; returns how many acknowledged records it has.
    fn after_a_cut(&mut self, end: i64) -> usize {
        if !std::mem::take(&mut self.cut) || self.name != OS {
            return 0;
        }
        self.high_watermark = self.high_watermark.min(end);
        self.records.split_off(&end).len()
    }
}

#[derive(Default)]
struct World {
    topics: BTreeMap<TopicId, Known>,
    next: u64,
    failures: Vec<String>,
    /// How often each kind of thing was agreed.
    done: BTreeMap<&'static str, usize>,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<World>>);

impl Shared {
    fn with<T>(&self, what: impl FnOnce(&mut World) -> T) -> T {
        what(&mut self.0.lock().unwrap())
    }

    fn fail(&self, what: String) {
        self.with(|world| world.failures.push(what));
    }

    fn done(&self, what: &'static str) {
        self.with(|world| *world.done.entry(what).or_default() += 1);
    }

    fn of<T>(&self, at: TopicPartition, what: impl FnOnce(&mut Known) -> T) -> T {
        self.with(|world| what(world.topics.entry(at.topic).or_default()))
    }

    /// Takes note of where the partition stands now.
    fn look(&self, node: &Node, at: TopicPartition) -> Result<(), Error> {
        let bounds = node.log(at)?.bounds();
        let (start, end) = (bounds.start.0, bounds.high_watermark.0);
        let wrong = self.of(at, |known| {
            let back = start < known.start || end < known.high_watermark;
            let far = !known.retained && start > known.asked;
            known.start = known.start.max(start);
            known.high_watermark = known.high_watermark.max(end);
            let order = bounds.start <= bounds.last_stable
                && bounds.last_stable <= bounds.high_watermark
                && bounds.high_watermark <= bounds.end;
            (back || far || !order)
                .then(|| format!("{at:?}: {bounds:?} after {}..{}", known.start, known.high_watermark))
        });
        if let Some(wrong) = wrong {
            self.fail(wrong);
        }
        Ok(())
    }
}

async fn append(node: &Node, shared: &Shared, at: TopicPartition, random: u64) -> Result<(), Error> {
    let number = shared.with(|world| {
        world.next += 1;
        world.next
    });
    let texts: Vec<String> = (0..random % 3 + 1).map(|i| format!("{number}|{i}|{:>160}", "")).collect();
    let first = node.log(at)?.append(texts.iter().map(|text| record(text)).collect()).await?;
    shared.of(at, |known| {
        known.records.extend(texts.into_iter().enumerate().map(|(i, text)| (first.0 + i as i64, text)));
    });
    shared.done("append");
    Ok(())
}

async fn trim(node: &Node, shared: &Shared, at: TopicPartition, random: u64) -> Result<(), Error> {
    let log = node.log(at)?;
    let before = Offset((log.bounds().high_watermark.0 - (random % 6) as i64).max(0));
    shared.of(at, |known| known.asked = known.asked.max(before.0));
    let start = log.trim(before).await?;
    if start < before {
        // Somebody held it back.
        shared.done("trim, held back");
    }
    shared.of(at, |known| known.start = known.start.max(start.0));
    shared.done("trim");
    Ok(())
}

async fn hold(env: &Env, node: &Node, shared: &Shared, at: TopicPartition, random: u64) -> Result<(), Error> {
    let log = node.log(at)?;
    let bounds = log.bounds();
    let from = Offset((bounds.high_watermark.0 - (random % 12) as i64).max(bounds.start.0));
    let hold = log.hold("test", from);
    // A trim that was on its way when the hold came is done when this is.
    node.checkpoint().await?;
    append(node, shared, at, random >> 8).await?;
    let limit = log.bounds().start.max(from);
    trim(node, shared, at, random >> 16).await?;
    env.sleep(Duration::from_millis(random % 60)).await;
    let start = log.bounds().start;
    if start > limit {
        shared.fail(format!("{at:?} begins at {start:?}, though {limit:?} is held"));
    }
    drop(hold);
    shared.done("hold");
    Ok(())
}

async fn configure(node: &Node, shared: &Shared, at: TopicPartition, client: usize, random: u64) -> Result<(), Error> {
    let (option, values) = OPTIONS[client];
    let value = values[random as usize % values.len()].map(str::to_owned);
    let name = shared.of(at, |known| {
        known.options.entry(option).or_insert_with(|| vec![None]).push(value.clone());
        known.retained |= option.starts_with("retention") && value.is_some();
        known.name.clone()
    });
    let changes = ConfigChanges::from([(option.to_owned(), value.clone())]);
    let topic = node.configure_topic(&name, changes).await?;
    if topic.id == at.topic {
        shared.of(at, |known| known.options.insert(option, vec![value]));
        shared.done("configure");
    } else {
        // A namesake has taken its place meanwhile.
        let at = TopicPartition { topic: topic.id, partition: 0 };
        shared.of(at, |known| known.retained = true);
        shared.of(at, |known| known.options.insert(option, vec![value]));
    }
    Ok(())
}

async fn create(node: &Node, shared: &Shared, name: &str) -> Result<(), Error> {
    let option = (name == OS).then(|| ("flush".to_owned(), "os".to_owned()));
    let topic = NewTopic { name: name.to_owned(), partitions: 1, config: option.into_iter().collect() };
    match node.create_topic(topic).await {
        Ok(_) | Err(Error::TopicExists(_)) => {}
        Err(error) => return Err(error),
    }
    if let Some(topic) = node.topic(name) {
        shared.of(TopicPartition { topic: topic.id, partition: 0 }, |known| known.name = name.to_owned());
    }
    Ok(())
}

async fn delete(node: &Node, shared: &Shared, at: TopicPartition) -> Result<(), Error> {
    let name = shared.of(at, |known| {
        known.going = true;
        known.name.clone()
    });
    // Only this client deletes: it is still the topic of that name.
    node.delete_topic(&name).await?;
    shared.of(at, |known| known.gone = true);
    shared.done("delete");
    Ok(())
}

async fn step(env: &Env, node: &Node, shared: &Shared, client: usize) -> Result<(), Error> {
    let random = env.random_u64();
    let name = NAMES[random as usize % NAMES.len()];
    let random = random >> 8;
    let Some(topic) = node.topic(name) else { return create(node, shared, name).await };
    let at = TopicPartition { topic: topic.id, partition: 0 };
    shared.of(at, |known| known.name = name.to_owned());
    shared.look(node, at)?;
    match random % 24 {
        0..=10 => append(node, shared, at, random >> 8).await?,
        11..=13 => trim(node, shared, at, random >> 8).await?,
        14 | 15 => hold(env, node, shared, at, random >> 8).await?,
        16..=18 => configure(node, shared, at, client, random >> 8).await?,
        19 => node.checkpoint().await?,
        20 if client == 0 => return delete(node, shared, at).await,
        _ => env.sleep(Duration::from_millis(random % 50)).await,
    }
    shared.look(node, at)
}

fn is_end(error: &Error) -> bool {
    matches!(error, Error::Closed(_) | Error::Unknown | Error::Io(_))
}

async fn client(env: Env, node: Arc<Node>, shared: Shared, client: usize) {
    for _ in 0..STEPS {
        match step(&env, &node, &shared, client).await {
            Ok(()) | Err(Error::UnknownPartition(_) | Error::UnknownTopic(_) | Error::Busy(_)) => {}
            Err(error) if is_end(&error) => return,
            Err(error) => shared.fail(format!("unexpected: {error}")),
        }
    }
}

/// Everything that was agreed before is so.
async fn verify(node: &Node, shared: &Shared) -> Result<(), Error> {
    let standing: BTreeMap<TopicId, _> = node.topics().into_iter().map(|topic| (topic.id, topic)).collect();
    let ids: Vec<TopicId> = shared.with(|world| world.topics.keys().copied().collect());
    for id in ids {
        let at = TopicPartition { topic: id, partition: 0 };
        let (going, gone, options) = shared.of(at, |known| (known.going, known.gone, known.options.clone()));
        let Some(topic) = standing.get(&id) else {
            if !going {
                shared.fail(format!("{at:?} is gone, and nobody asked for it"));
            }
            continue;
        };
        if gone {
            shared.fail(format!("{at:?} is back after its deletion"));
        }
        for (option, may_be) in options {
            if !may_be.contains(&topic.config.get(option).cloned()) {
                shared.fail(format!("{option} of {at:?} is none of {may_be:?}: {:?}", topic.config));
            }
        }
        let bounds = node.log(at)?.bounds();
        let taken = shared.of(at, |known| known.after_a_cut(bounds.high_watermark.0));
        if taken > 0 {
            shared.done("taken by a power cut");
        }
        shared.look(node, at)?;
        let found = super::model::read_all(node, at, Offset(i64::MAX), Isolation::Uncommitted).await?;
        // Retention may move the start while this reads.
        let from = found.first().map_or(bounds.high_watermark.0, |(offset, _)| offset.0);
        let offsets: Vec<i64> = found.iter().map(|(offset, _)| offset.0).collect();
        if offsets != (from..bounds.high_watermark.0).collect::<Vec<_>>() {
            shared.fail(format!("{at:?} with {bounds:?} has {offsets:?}"));
        }
        if from != bounds.start.0 && from != node.log(at)?.bounds().start.0 {
            shared.fail(format!("{at:?} with {bounds:?} begins at {from}"));
        }
        let there: BTreeMap<i64, String> = found.into_iter().map(|(offset, text)| (offset.0, text)).collect();
        let lost = shared.of(at, |known| {
            let lost = known.records.iter().find(|(offset, text)| **offset >= from && there.get(offset) != Some(text));
            lost.map(|(offset, text)| format!("{} at {offset} of {at:?} is lost", text.trim()))
        });
        if let Some(lost) = lost {
            shared.fail(lost);
        }
    }
    Ok(())
}

fn node_config() -> NodeConfig {
    NodeConfig { retention_check_interval_ms: 15, ..config(Acknowledge::AfterSync) }
}

/// One life; whether it ended by a stop.
async fn life(env: &Env, shared: &Shared) -> bool {
    let node = match Node::open(env.clone(), Path::new("/data"), node_config()).await {
        Ok(node) => node,
        Err(error) => {
            if !is_end(&error) {
                shared.fail(format!("cannot open: {error}"));
            }
            return false;
        }
    };
    if let Err(error) = verify(&node, shared).await {
        if !is_end(&error) {
            shared.fail(format!("cannot read: {error}"));
        }
        return false;
    }
    let clients: Vec<_> = (0..OPTIONS.len())
        .map(|number| env.spawn("client", client(env.clone(), Arc::clone(&node), shared.clone(), number)))
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    let stops = env.random_u64().is_multiple_of(3);
    if stops {
        node.shutdown().await;
    }
    stops
}

/// What is left of topics that do not stand, when retention and a checkpoint have passed.
async fn left_over(env: &Env, disk: &SimDisk) -> Result<Vec<String>, Error> {
    let node = Node::open(env.clone(), Path::new("/data"), node_config()).await?;
    env.sleep(Duration::from_secs(1)).await;
    node.checkpoint().await?;
    node.shutdown().await;
    let hex = |id: TopicId| format!("{:032x}", u128::from_be_bytes(id.0));
    let standing: BTreeSet<String> =
        node.topics().iter().map(|topic| hex(topic.id)).chain([hex(super::super::METADATA.topic)]).collect();
    let image = disk.image();
    let of = |path: &std::path::PathBuf| {
        let topic = path.strip_prefix("/data/topics").ok()?.components().next()?;
        Some(topic.as_os_str().to_string_lossy().into_owned())
    };
    let left = image.into_keys().filter(|path| of(path).is_some_and(|topic| !standing.contains(&topic)));
    Ok(left.map(|path| path.display().to_string()).collect())
}

fn check_seed(seed: u64, done: &mut BTreeMap<&'static str, usize>) {
    let disk = SimDisk::new(seed);
    let env = Env::simulated(seed).with_disk(Arc::new(disk.clone()));
    let shared = Shared::default();
    for _ in 0..LIVES {
        let operation = disk.operations() + 1 + env.random_u64() % 400;
        let damage = match env.random_u64() % 6 {
            0 => Some(Damage::SyncFails { operation, how: SHAPES[env.random_u64() as usize % SHAPES.len()] }),
            1 => Some(Damage::WriteFails { operation }),
            2 => None,
            _ => Some(Damage::PowerCut { operation }),
        };
        damage.into_iter().for_each(|damage| disk.plan(damage));
        let stopped = env.run(life(&env, &shared));
        env.drop_tasks();
        // A process that was killed leaves what it wrote to the system; a power cut what was synced.
        let cut = !stopped && env.random_u64().is_multiple_of(2);
        if cut {
            disk.crash();
        } else {
            disk.heal();
        }
        if cut || matches!(damage, Some(Damage::PowerCut { .. } | Damage::SyncFails { .. })) {
            shared.with(|world| world.topics.values_mut().for_each(|known| known.cut = true));
        }
    }
    env.run(async {
        let node = Node::open(env.clone(), Path::new("/data"), node_config()).await.unwrap();
        verify(&node, &shared).await.unwrap();
        node.shutdown().await;
    });
    env.drop_tasks();
    let left = env.run(async { left_over(&env, &disk).await.unwrap() });
    let failures = shared.with(|world| std::mem::take(&mut world.failures));
    assert!(failures.is_empty(), "seed {seed}: {failures:#?}");
    assert!(left.is_empty(), "seed {seed}: {left:?} are left");
    shared.with(|world| world.done.iter().for_each(|(what, count)| *done.entry(what).or_default() += count));
}

#[test]
fn bounds_only_go_up_and_nothing_above_the_start_is_lost() {
    let mut done = BTreeMap::new();
    for seed in 0..60 {
        check_seed(seed, &mut done);
    }
    for (what, least) in
        [("append", 2000), ("trim", 400), ("trim, held back", 30), ("hold", 150), ("configure", 300), ("delete", 30)]
    {
        assert!(done.get(what).is_some_and(|count| *count >= least), "too little was tried: {done:?}");
    }
}
