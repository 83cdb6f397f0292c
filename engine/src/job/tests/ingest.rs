//! The driver of a source: under crashes and broken connections every source transaction is in the log once, in order,
//! and nothing is called durable that is not.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use log::env::Damage;

use super::harness::{LONG, World, open_node};
use super::operators::{parse, record, schema};
use crate::io::{Error, Gate, Source, SourceBatch, SourceRelation};
use crate::run::ingest::{Ingest, IngestConfig, IngestState};

/// A database: what it holds already and the transactions since, each a run of numbers.
struct Outside {
    snapshot: i64,
    transactions: Vec<Vec<i64>>,
    /// Transactions it may forget.
    durable: usize,
    /// Calls until it breaks off; then it counts anew.
    breaks_after: u64,
    calls: u64,
    lost: bool,
    /// At the end it says nothing more.
    patient: bool,
}

struct Script {
    env: log::Env,
    outside: Arc<Mutex<Outside>>,
    relations: Vec<SourceRelation>,
    /// Rows of the snapshot handed over; none when it is done.
    copying: Option<i64>,
    /// The transaction and how many of its rows have been handed over.
    at: (usize, usize),
}

fn script(env: &log::Env, outside: &Arc<Mutex<Outside>>) -> Box<dyn Source> {
    let relation = SourceRelation {
        schema_name: "public".into(),
        name: "t".into(),
        schema: schema(),
        key: vec![0],
        format: "debezium-json",
    };
    let (env, outside) = (env.clone(), Arc::clone(outside));
    Box::new(Script { env, outside, relations: vec![relation], copying: Some(0), at: (0, 0) })
}

fn rows(numbers: impl IntoIterator<Item = i64>) -> Vec<(usize, log::NewRecord)> {
    numbers.into_iter().map(|number| (0, record(number, Some(number)))).collect()
}

#[async_trait]
impl Source for Script {
    fn relations(&self) -> &[SourceRelation] {
        &self.relations
    }

    fn keep(&mut self, _: &BTreeSet<(String, String)>) -> Result<(), Error> {
        Ok(())
    }

    async fn start(&mut self, position: Option<Vec<u8>>) -> Result<(), Error> {
        let position = position.map(|bytes| usize::from_be_bytes(bytes.try_into().unwrap()));
        if position.is_some_and(|position| position < self.outside.lock().unwrap().durable) {
            panic!("{position:?} was called durable");
        }
        self.copying = position.is_none().then_some(0);
        self.at = (position.unwrap_or(0), 0);
        Ok(())
    }

    async fn next(&mut self) -> Result<SourceBatch, Error> {
        self.env.sleep(Duration::from_micros(300)).await;
        let over = |outside: &Outside| outside.patient && self.at.0 == outside.transactions.len();
        if over(&self.outside.lock().unwrap()) {
            return std::future::pending().await;
        }
        let mut outside = self.outside.lock().unwrap();
        outside.calls += 1;
        if outside.lost {
            return Err(Error::Lost { message: "the slot is gone".into(), hint: None });
        }
        if outside.calls.is_multiple_of(outside.breaks_after) {
            return Err(Error::Outside("connection reset".into()));
        }
        let position = |transaction: usize| Some(transaction.to_be_bytes().to_vec());
        if let Some(copied) = self.copying {
            let end = (copied + 10).min(outside.snapshot);
            let done = end == outside.snapshot;
            self.copying = (!done).then_some(end);
            let position = if done { position(0) } else { None };
            return Ok(SourceBatch { records: rows(-end..-copied), position, snapshot_done: done });
        }
        let Some(transaction) = outside.transactions.get(self.at.0) else {
            return Ok(SourceBatch { records: Vec::new(), position: position(self.at.0), snapshot_done: true });
        };
        let rest = &transaction[self.at.1..];
        let part = &rest[..rest.len().min(3)];
        let whole = part.len() == rest.len();
        self.at = if whole { (self.at.0 + 1, 0) } else { (self.at.0, self.at.1 + part.len()) };
        let position = if whole { position(self.at.0) } else { None };
        Ok(SourceBatch { records: rows(part.iter().copied()), position, snapshot_done: true })
    }

    fn durable(&mut self, position: &[u8]) {
        let mut outside = self.outside.lock().unwrap();
        let position = usize::from_be_bytes(position.try_into().unwrap());
        assert!(position >= outside.durable && position <= outside.transactions.len());
        outside.durable = position;
    }

    async fn remove(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

fn outside(transactions: i64, breaks_after: u64) -> Arc<Mutex<Outside>> {
    let transactions = (0..transactions).map(|at| (at * 100..at * 100 + 1 + at % 8).collect()).collect();
    let now = Outside { snapshot: 45, transactions, durable: 0, breaks_after, calls: 0, lost: false, patient: false };
    Arc::new(Mutex::new(now))
}

async fn begin(world: &World, outside: &Arc<Mutex<Outside>>) -> Result<(Arc<log::Node>, Ingest), String> {
    let node = open_node(&world.env).await.map_err(|error| error.to_string())?;
    let cluster: Arc<dyn log::Cluster> = Arc::<log::Node>::clone(&node);
    let topic = match cluster.topic("t") {
        Some(topic) => topic,
        None => {
            let topic = log::NewTopic { name: "t".into(), partitions: 1, config: Default::default() };
            cluster.create_topic(topic).await.map_err(|error| error.to_string())?
        }
    };
    let config = IngestConfig { commit_bytes: 700, ahead_bytes_max: 2000, ..IngestConfig::default() };
    let source = script(&world.env, outside);
    let ingest = Ingest::start(world.env.clone(), cluster, "shop", vec![topic], source, config).await;
    Ok((node, ingest.map_err(|error| error.to_string())?))
}

/// All numbers in the topic, in order.
async fn numbers(cluster: &dyn log::Cluster) -> Vec<i64> {
    let topic = cluster.topic("t").unwrap();
    let log = cluster.log(log::TopicPartition { topic: topic.id, partition: 0 }).unwrap();
    let end = log.bounds().last_stable;
    let mut reader = crate::run::Reader::new("t", 1 << 20);
    reader.add(log, log::Offset(0), end);
    let mut numbers = Vec::new();
    let each = |record: log::RecordView| {
        numbers.push(parse(&record.value).unwrap());
        Ok(())
    };
    reader.for_each(each).await.unwrap();
    numbers
}

fn all(outside: &Mutex<Outside>) -> Vec<i64> {
    let outside = outside.lock().unwrap();
    let copied = (0..outside.snapshot).step_by(10).flat_map(|at| -(at + 10).min(outside.snapshot)..-at);
    copied.chain(outside.transactions.iter().flatten().copied()).collect()
}

async fn done(world: &World, outside: &Mutex<Outside>) {
    let all_durable = async {
        let behind = |outside: &Outside| outside.durable < outside.transactions.len();
        while behind(&outside.lock().unwrap()) {
            world.env.sleep(Duration::from_millis(10)).await;
        }
    };
    world.env.timeout(LONG, all_durable).await.expect("it gets to the end");
}

#[test]
fn every_transaction_comes_once_through_crashes_and_broken_connections() {
    for seed in 1..20u64 {
        let world = World::new(seed);
        let outside = outside(60, 17 + seed);
        for round in 0..4 {
            world.disk.plan(Damage::PowerCut { operation: 5 + (seed * 7 + round * 23) % 60 });
            // Ends with the power: early in the start or in the middle of it.
            let cut_off = async {
                let (_node, ingest) = begin(&world, &outside).await?;
                let mut status = ingest.status();
                let over = |state: &IngestState| matches!(state, IngestState::Failed { .. });
                let failed = status.wait_for(|status| over(&status.state));
                let _ = world.env.timeout(Duration::from_millis(200), failed).await;
                Ok(())
            };
            let _: Option<Result<(), String>> = world.run(world.env.timeout(LONG, cut_off));
            world.crash();
        }
        world.run(async {
            let (node, ingest) = begin(&world, &outside).await.unwrap();
            done(&world, &outside).await;
            assert_eq!(*ingest.gate().borrow(), Gate::Open);
            ingest.stop().await;
            assert_eq!(numbers(&*node).await, all(&outside));
        });
    }
}

#[test]
fn what_is_lost_is_said_and_not_tried_again() {
    let world = World::new(3);
    let outside = outside(5, 1000);
    world.run(async {
        let (_node, ingest) = begin(&world, &outside).await.unwrap();
        done(&world, &outside).await;
        outside.lock().unwrap().lost = true;
        let mut status = ingest.status();
        let failed = status.wait_for(|status| matches!(status.state, IngestState::Failed { .. }));
        let failed = world.env.timeout(LONG, failed).await.unwrap().unwrap().clone();
        assert_eq!(failed.state, IngestState::Failed { message: "the slot is gone".into(), hint: None });
        assert_eq!(failed.rows, all(&outside).len() as u64);
        ingest.stop().await;
    });
}

/// A PostgreSQL that shuts down waits for it and sends nothing.
#[test]
fn what_is_durable_is_said_while_the_source_waits_for_more() {
    let world = World::new(5);
    let outside = outside(5, 1000);
    outside.lock().unwrap().patient = true;
    world.run(async {
        let (_node, ingest) = begin(&world, &outside).await.unwrap();
        done(&world, &outside).await;
        ingest.stop().await;
    });
}

#[test]
fn the_gate_is_open_after_a_restart_when_the_snapshot_was_done() {
    let world = World::new(4);
    let outside = outside(3, 1000);
    world.run(async {
        let (_node, ingest) = begin(&world, &outside).await.unwrap();
        assert!(matches!(&*ingest.gate().borrow(), Gate::Closed { .. }));
        ingest.gate().wait_for(|gate| *gate == Gate::Open).await.unwrap();
        ingest.stop().await;
    });
    world.crash();
    world.run(async {
        let (_node, ingest) = begin(&world, &outside).await.unwrap();
        assert_eq!(*ingest.gate().borrow(), Gate::Open);
        ingest.stop().await;
    });
}
