//! A node with compacted topics, writers of every kind, and what they have written: offsets are known beforehand, for
//! everything is written by one hand.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::cluster::backend::Backend;
use crate::env::SimDisk;
use crate::node::{Node, NodeConfig};
use crate::record::batch::Producer as Author;
use crate::record::build::Frame;
use crate::{Batch, Cluster, Env, NewRecord, NewTopic, Offset, Producer, TopicPartition};

const KEYS: u64 = 7;
const TRANSACTIONAL: usize = 2;
const IDEMPOTENT: usize = 2;

/// Small, so that segments roll and memory does not hold everything.
pub(super) fn config() -> NodeConfig {
    NodeConfig {
        wal_file_bytes: 6000,
        wal_group_bytes: 1500,
        segment_bytes_max: 1500,
        tail_bytes: 3000,
        pending_bytes: 4000,
        compact_bytes_per_second: 0,
        compact_map_bytes: 24 * 1000,
        ..NodeConfig::default()
    }
}

/// A record as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub timestamp_ms: i64,
    /// Which transaction it belongs to.
    transaction: Option<usize>,
}

/// A partition as its writers see it.
#[derive(Default)]
pub(super) struct Model {
    pub records: BTreeMap<i64, Written>,
    pub end: i64,
    /// Somebody asked for a trim to here.
    pub trimmed: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    Committed,
    Aborted,
}

struct Transaction {
    producer: Box<dyn Producer>,
    /// While it has written something.
    open: Option<(usize, Vec<TopicPartition>)>,
}

struct Idempotent {
    id: i64,
    sequence: i32,
    at: TopicPartition,
    /// The newest batch and its offset.
    last: Option<(Batch, Offset)>,
}

/// See the module.
pub(super) struct World {
    pub env: Env,
    pub disk: SimDisk,
    pub node: Option<Arc<Node>>,
    pub models: BTreeMap<TopicPartition, Model>,
    fates: Vec<Fate>,
    transactions: Vec<Transaction>,
    idempotent: Vec<Idempotent>,
    pub config: NodeConfig,
    number: u64,
}

impl World {
    pub fn new(seed: u64) -> World {
        let disk = SimDisk::new(seed);
        let env = Env::simulated(seed).with_disk(Arc::new(disk.clone()));
        let mut config = config();
        if env.random_u64().is_multiple_of(4) {
            // A map that is soon full.
            config.compact_map_bytes = 24 * 4;
        }
        if env.random_u64().is_multiple_of(2) {
            // Everything is in memory.
            config.tail_bytes = 1 << 20;
        }
        World {
            env,
            disk,
            node: None,
            models: BTreeMap::new(),
            fates: Vec::new(),
            transactions: Vec::new(),
            idempotent: Vec::new(),
            config,
            number: 0,
        }
    }

    pub fn node(&self) -> Arc<Node> {
        Arc::clone(self.node.as_ref().expect("it is open"))
    }

    /// Opens the node, and makes the topics where they are missing.
    pub async fn open(&mut self) {
        let node = Node::open(self.env.clone(), Path::new("/data"), self.config.clone()).await.expect("it recovers");
        self.node = Some(Arc::clone(&node));
        self.settle();
        if self.models.is_empty() {
            let retention = ["0", "40", "86400000"][self.random(3) as usize];
            for (name, policy, ratio) in [("a", "compact", "0"), ("b", "compact,delete", "0.3")] {
                let options = [("cleanup.policy", policy), ("min.cleanable.dirty.ratio", ratio)];
                let mut config: crate::TopicConfig =
                    options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
                config.insert("delete.retention.ms".to_owned(), retention.to_owned());
                let topic = NewTopic { name: name.to_owned(), partitions: 2, config };
                let topic = node.create_topic(topic).await.unwrap().id;
                for partition in 0..2 {
                    self.models.insert(TopicPartition { topic, partition }, Model::default());
                }
            }
        }
        for number in 0..TRANSACTIONAL {
            let producer = node.producer(&format!("t{number}")).await.unwrap();
            self.transactions.push(Transaction { producer, open: None });
        }
    }

    /// What was open when the node went is aborted.
    fn settle(&mut self) {
        for transaction in std::mem::take(&mut self.transactions) {
            if let Some((number, partitions)) = transaction.open {
                self.fates[number] = Fate::Aborted;
                partitions.iter().for_each(|partition| self.models.get_mut(partition).unwrap().end += 1);
            }
        }
    }

    /// Stops it, politely or not.
    pub async fn close(&mut self) {
        if let Some(node) = self.node.take() {
            node.shutdown().await;
        }
    }

    pub fn random(&self, below: u64) -> u64 {
        self.env.random_u64() % below
    }

    fn partition(&self) -> TopicPartition {
        *self.models.keys().nth(self.random(self.models.len() as u64) as usize).unwrap()
    }

    fn records(&mut self) -> Vec<NewRecord> {
        let count = self.random(4) + 1;
        (0..count)
            .map(|_| {
                self.number += 1;
                let key = format!("key {}", self.random(KEYS));
                let value = format!("{} {}", self.number, "x".repeat(self.random(60) as usize));
                let tombstone = self.random(5) == 0;
                NewRecord {
                    key: Some(Bytes::from(key)),
                    value: (!tombstone).then(|| Bytes::from(value)),
                    timestamp_ms: Some(self.env.now_ms() - self.random(20) as i64),
                    ..NewRecord::default()
                }
            })
            .collect()
    }

    fn note(&mut self, at: TopicPartition, records: &[NewRecord], transaction: Option<usize>) -> Offset {
        let model = self.models.get_mut(&at).unwrap();
        let first = Offset(model.end);
        for record in records {
            let NewRecord { key, value, timestamp_ms, .. } = record.clone();
            let written = Written { key, value, timestamp_ms: timestamp_ms.unwrap(), transaction };
            model.records.insert(model.end, written);
            model.end += 1;
        }
        first
    }

    /// One thing that a writer does.
    pub async fn step(&mut self) {
        match self.random(10) {
            0..3 => self.plain(self.partition()).await,
            3..5 => self.idempotent().await,
            5..8 => self.transaction().await,
            8 => self.env.sleep(std::time::Duration::from_millis(self.random(30))).await,
            _ => self.trim().await,
        }
    }

    /// Has everything durable that was handed over.
    pub async fn all_durable(&mut self) {
        for at in self.models.keys().copied().collect::<Vec<_>>() {
            self.plain(at).await;
        }
    }

    async fn plain(&mut self, at: TopicPartition) {
        let records = self.records();
        let offset = self.node().log(at).unwrap().append(records.clone()).await.unwrap();
        assert_eq!(offset, self.note(at, &records, None));
    }

    /// A new batch, or the newest once more.
    async fn idempotent(&mut self) {
        let node = self.node();
        if self.idempotent.len() < IDEMPOTENT {
            let (id, at) = (node.new_producer_id().await.unwrap(), self.partition());
            self.idempotent.push(Idempotent { id, sequence: 0, at, last: None });
        }
        let which = self.random(self.idempotent.len() as u64) as usize;
        let Idempotent { id, sequence, at, last } = &self.idempotent[which];
        let (id, sequence, at, last) = (*id, *sequence, *at, last.clone());
        if let Some((batch, offset)) = last.filter(|_| self.random(2) == 0) {
            let again = node.append_raw(at, batch).await.unwrap().await.unwrap().unwrap();
            assert_eq!(again.base_offset, offset, "a repeated batch is where it was");
            return;
        }
        let records = self.records();
        let author = Author { id, epoch: 0, base_sequence: sequence };
        let now_ms = self.env.now_ms();
        let frame = Frame { now_ms, producer: Some(author), transactional: false, batch_bytes_max: 1 << 20 };
        let batch = Batch::build(&records, &frame).unwrap();
        let appended = node.append_raw(at, batch.clone()).await.unwrap().await.unwrap().unwrap();
        assert_eq!(appended.base_offset, self.note(at, &records, None));
        let producer = &mut self.idempotent[which];
        producer.sequence += records.len() as i32;
        producer.last = Some((batch, appended.base_offset));
    }

    /// Goes on with a transaction, begins one, or ends it.
    async fn transaction(&mut self) {
        let which = self.random(TRANSACTIONAL as u64) as usize;
        if self.transactions[which].open.is_some() && self.random(3) == 0 {
            let commit = self.random(2) == 0;
            let transaction = &mut self.transactions[which];
            let (number, partitions) = transaction.open.take().unwrap();
            if commit {
                transaction.producer.commit().await.unwrap();
            } else {
                transaction.producer.abort().await.unwrap();
            }
            self.fates[number] = if commit { Fate::Committed } else { Fate::Aborted };
            partitions.iter().for_each(|partition| self.models.get_mut(partition).unwrap().end += 1);
            return;
        }
        let (at, records) = (self.partition(), self.records());
        self.transactions[which].producer.append(at, records.clone()).await.unwrap();
        let number = match &mut self.transactions[which].open {
            Some((number, partitions)) => {
                if !partitions.contains(&at) {
                    partitions.push(at);
                }
                *number
            }
            open => {
                self.fates.push(Fate::Open);
                *open = Some((self.fates.len() - 1, vec![at]));
                self.fates.len() - 1
            }
        };
        self.note(at, &records, Some(number));
    }

    async fn trim(&mut self) {
        if self.random(6) != 0 {
            return;
        }
        let at = self.partition();
        let asked = self.models[&at].end / 4;
        self.node().log(at).unwrap().trim(Offset(asked)).await.unwrap();
        let model = self.models.get_mut(&at).unwrap();
        model.trimmed = model.trimmed.max(asked);
    }

    /// The first offset of an open transaction, or the end.
    pub fn last_stable(&self, at: TopicPartition) -> i64 {
        let model = &self.models[&at];
        let open = |written: &Written| written.transaction.is_some_and(|t| self.fates[t] == Fate::Open);
        model.records.iter().find(|(_, written)| open(written)).map_or(model.end, |(offset, _)| *offset)
    }

    pub fn is_committed(&self, written: &Written) -> bool {
        written.transaction.is_none_or(|t| self.fates[t] == Fate::Committed)
    }
}
