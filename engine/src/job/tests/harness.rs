//! A simulated world with a node and an engine in it, and what the tests do with them.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use log::env::SimDisk;

use super::model::{Rows, VIEWS, expected, folded, keyed};
use super::operators::{Even, Pairs, Plain, Sum, Union, record, rows, schema};
use crate::graph::{Graph, RelationId};
use crate::io::Gate;
use crate::job::commit::{self, CommitRecord, Commits};
use crate::job::{Engine, EngineConfig, TableDef, ViewDef};
use crate::operator::{Factory, Operator};
use crate::time::Epoch;
use crate::timeline::{self, Timeline};

pub const ACCOUNTS: RelationId = RelationId(1);
pub const EVENTS: RelationId = RelationId(2);

/// Long enough for everything, in simulated time.
pub const LONG: Duration = Duration::from_secs(600);

/// What outlives a crash.
pub struct World {
    pub env: log::Env,
    pub disk: SimDisk,
}

/// A node and an engine between two crashes.
pub struct Session {
    pub cluster: Arc<dyn log::Cluster>,
    pub engine: Engine,
    writer: Box<dyn log::Producer>,
}

/// How a session differs from the usual.
#[derive(Clone)]
pub struct Setup {
    pub workers: usize,
    pub views: Vec<&'static str>,
    pub plan_version: u64,
    pub gate: Option<tokio::sync::watch::Receiver<Gate>>,
    /// Values at which the view `even` fails or panics.
    pub error_at: Option<i64>,
    pub panic_at: Option<i64>,
}

impl Default for Setup {
    fn default() -> Self {
        let views = VIEWS.to_vec();
        Self { workers: 2, views, plan_version: 1, gate: None, error_at: None, panic_at: None }
    }
}

/// One change: a topic, a key, a value or none.
pub type Change = (&'static str, i64, Option<i64>);

impl World {
    pub fn new(seed: u64) -> Self {
        let disk = SimDisk::new(seed);
        Self { env: log::Env::simulated(seed).with_disk(Arc::new(disk.clone())), disk }
    }

    pub fn run<F: Future>(&self, future: F) -> F::Output {
        self.env.run(future)
    }

    /// The power goes and comes back.
    pub fn crash(&self) {
        self.env.drop_tasks();
        self.disk.crash();
    }

    pub async fn open(&self, setup: &Setup) -> Session {
        self.try_open(setup).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Fails where the power goes meanwhile.
    pub async fn try_open(&self, setup: &Setup) -> Result<Session, String> {
        let text = |error: log::Error| error.to_string();
        let node = open_node(&self.env).await.map_err(text)?;
        let cluster: Arc<dyn log::Cluster> = node;
        for (name, partitions) in [("accounts", 2), ("events", 1)] {
            ensure_topic(&*cluster, name, partitions).await.map_err(text)?;
        }
        for view in &setup.views {
            ensure_topic(&*cluster, view, 1).await.map_err(text)?;
        }
        let config = EngineConfig {
            workers: setup.workers,
            slice_bytes_max: 512,
            parallel_rows_min: 16,
            ..EngineConfig::default()
        };
        let start = Engine::start(self.env.clone(), Arc::clone(&cluster), config).await;
        let engine = start.map_err(|error| error.to_string())?;
        let writer = cluster.producer("writer").await.map_err(text)?;
        let session = Session { cluster, engine, writer };
        session.declare(setup).await?;
        session.engine.resume().await.map_err(|error| error.to_string())?;
        Ok(session)
    }
}

/// A node in the world's data directory.
pub async fn open_node(env: &log::Env) -> Result<Arc<log::Node>, log::Error> {
    let mut config = log::NodeConfig::default();
    (config.wal_file_bytes, config.tail_bytes) = (1 << 20, 1 << 20);
    log::Node::open(env.clone(), Path::new("/data"), config).await
}

async fn ensure_topic(cluster: &dyn log::Cluster, name: &str, partitions: i32) -> Result<(), log::Error> {
    if cluster.topic(name).is_none() {
        let config = BTreeMap::new();
        cluster.create_topic(log::NewTopic { name: name.to_owned(), partitions, config }).await?;
    }
    Ok(())
}

/// The id of a view.
pub fn id(view: &str) -> RelationId {
    RelationId(11 + VIEWS.iter().position(|name| *name == view).unwrap() as u64)
}

fn graph(view: &str, setup: &Setup) -> Graph {
    let (error_at, panic_at) = (setup.error_at, setup.panic_at);
    let factory = |make: Box<dyn Fn() -> Box<dyn Operator> + Send + Sync>| -> Factory { Arc::from(make) };
    let mut graph = Graph::default();
    let mut over = |inputs: &[RelationId], make: Factory| {
        let inputs = inputs.iter().map(|input| graph.input(*input, schema())).collect();
        graph.operator("", make, inputs, schema());
    };
    match view {
        "even" => over(&[ACCOUNTS], factory(Box::new(move || Box::new(Even { error_at, panic_at })))),
        "sums" => over(&[ACCOUNTS], factory(Box::new(|| Box::new(Sum::new(true))))),
        "total" => over(&[id("sums")], factory(Box::new(|| Box::new(Sum::new(false))))),
        "events_copy" => drop(graph.input(EVENTS, schema())),
        "pairs" => over(&[ACCOUNTS, id("events_copy")], factory(Box::new(|| Box::new(Union)))),
        other => panic!("no view {other}"),
    }
    graph
}

impl Session {
    async fn declare(&self, setup: &Setup) -> Result<(), String> {
        for (id, name, upsert) in [(ACCOUNTS, "accounts", true), (EVENTS, "events", false)] {
            let table = TableDef {
                id,
                name: name.into(),
                topic: self.cluster.topic(name).unwrap(),
                schema: schema(),
                key: if upsert { vec![0] } else { Vec::new() },
                decode: Arc::new(Pairs { upsert }),
                gate: setup.gate.clone().filter(|_| upsert),
            };
            self.engine.add_table(table).await.map_err(|error| error.to_string())?;
        }
        for view in &setup.views {
            self.engine.add_view(self.view(view, setup)).await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    pub fn view(&self, view: &str, setup: &Setup) -> ViewDef {
        ViewDef {
            id: id(view),
            name: view.into(),
            graph: graph(view, setup),
            schema: schema(),
            key: keyed(view).then(|| vec![0]),
            append_only: false,
            topic: self.cluster.topic(view).unwrap(),
            encode: Arc::new(Plain { keyed: keyed(view) }),
            plan_version: setup.plan_version,
            queryable: true,
        }
    }

    /// One log transaction; waits until the engine has it.
    pub async fn write(&mut self, changes: &[Change]) -> Result<u64, String> {
        for (name, k, v) in changes {
            let topic = self.cluster.topic(name).unwrap();
            let partition = log::TopicPartition { topic: topic.id, partition: *k as i32 % topic.partitions };
            self.writer.append(partition, vec![record(*k, *v)]).await.map_err(|error| error.to_string())?;
        }
        let committed = self.writer.commit().await.map_err(|error| error.to_string())?;
        let cut = log::Cut(committed.ranges.iter().map(|(at, _, end)| (*at, *end)).collect());
        self.engine.wait_for(&cut).await.map_err(|error| error.to_string())
    }

    pub async fn caught_up(&self, views: &[&str]) -> Result<u64, String> {
        let ids: Vec<_> = views.iter().map(|view| id(view)).collect();
        self.engine.caught_up(&ids, LONG).await.map_err(|error| error.to_string())
    }

    /// Committed records of a topic, up to a cut or all.
    pub async fn records(&self, topic: &str, cut: Option<&log::Cut>) -> Vec<log::RecordView> {
        records(&*self.cluster, topic, cut).await
    }

    /// What SELECT shows of a view at an epoch.
    pub fn shown(&self, view: &str, epoch: u64) -> Rows {
        let store = self.engine.store(id(view)).unwrap();
        let mut shown = Rows::new();
        for batch in store.scan(epoch, None).unwrap() {
            rows(&batch.unwrap()).into_iter().for_each(|row| *shown.entry(row).or_default() += 1);
        }
        shown
    }

    /// Every view shows what it must at the newest epoch, all at the same.
    pub async fn check(&self, views: &[&str]) {
        let pin = self.engine.pin();
        for view in views {
            let expected = expected(self, view, pin.cut()).await;
            assert_eq!(self.shown(view, pin.epoch()), expected, "{view} at epoch {}", pin.epoch());
        }
    }

    /// Every epoch that an output topic holds is whole and what the query gives over the recorded cut.
    pub async fn check_prefixes(&self, views: &[&str]) {
        let epochs = self.epochs().await;
        for view in views {
            let records = self.records(view, None).await;
            let first = records.first().and_then(|record| super::operators::parse(&record.header("epoch")));
            for epoch in epochs.iter().filter(|epoch| first.is_some_and(|first| epoch.number >= first as u64)) {
                let expected = expected(self, view, &epoch.cut).await;
                assert_eq!(folded(view, &records, epoch.number), expected, "{view} at epoch {}", epoch.number);
            }
        }
    }

    pub async fn epochs(&self) -> Vec<Epoch> {
        epochs(&*self.cluster).await
    }

    pub async fn commits(&self) -> BTreeMap<RelationId, CommitRecord> {
        commits(&*self.cluster).await
    }
}

/// Committed records of a topic, up to a cut or all; none when there is no such topic.
pub async fn records(cluster: &dyn log::Cluster, topic: &str, cut: Option<&log::Cut>) -> Vec<log::RecordView> {
    let mut records = Vec::new();
    let Some(topic) = cluster.topic(topic) else { return records };
    for partition in 0..topic.partitions {
        let at = log::TopicPartition { topic: topic.id, partition };
        let log = cluster.log(at).unwrap();
        let end = log.bounds().last_stable;
        let end = cut.map_or(end, |cut| cut.0.get(&at).copied().unwrap_or_default());
        let mut reader = crate::run::Reader::new(&topic.name, 1 << 20);
        reader.add(log, log::Offset(0), end);
        let each = |record| {
            records.push(record);
            Ok(())
        };
        reader.for_each(each).await.unwrap();
    }
    records
}

/// The timeline.
pub async fn epochs(cluster: &dyn log::Cluster) -> Vec<Epoch> {
    let mut timeline = Timeline::default();
    let records = records(cluster, timeline::TOPIC, None).await;
    records.iter().map(|record| timeline.apply(record.value.as_deref().unwrap()).unwrap().clone()).collect()
}

/// The newest commit records by job.
pub async fn commits(cluster: &dyn log::Cluster) -> BTreeMap<RelationId, CommitRecord> {
    let mut commits = Commits::default();
    for record in records(cluster, commit::TOPIC, None).await {
        commits.apply(&record).unwrap();
    }
    commits.0
}
