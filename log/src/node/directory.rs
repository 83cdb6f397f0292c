//! The topics that are open on this node, for everybody to look up.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::cluster::config;
use crate::cluster::topics::Effect;
use crate::machine::Effects;
use crate::record::{BATCH_HEADER, LeaderEpoch, TopicId, TopicPartition};
use crate::store::config::PartitionConfig;
use crate::store::partition::Partition;
use crate::store::{Found, Store, Transactions};
use crate::{Error, Topic, TopicConfig};

/// A topic with its partitions, by number.
pub(super) struct OpenTopic {
    pub topic: Topic,
    pub partitions: Vec<Arc<Partition>>,
    pub batch_bytes_max: usize,
}

impl OpenTopic {
    /// The topic of the cluster's metadata, which stands in no list.
    pub fn metadata(partition: &Arc<Partition>) -> OpenTopic {
        let topic = Topic {
            name: "__cluster_metadata".to_owned(),
            id: partition.id.topic,
            partitions: 1,
            config: TopicConfig::new(),
        };
        OpenTopic { topic, partitions: vec![Arc::clone(partition)], batch_bytes_max: BATCH_HEADER }
    }
}

/// See the module.
pub(super) struct Directory {
    store: Arc<Store>,
    epoch: LeaderEpoch,
    topics: RwLock<Maps>,
    version: watch::Sender<u64>,
}

#[derive(Default)]
struct Maps {
    by_name: BTreeMap<String, Arc<OpenTopic>>,
    by_id: BTreeMap<TopicId, Arc<OpenTopic>>,
}

impl Directory {
    pub fn new(store: Arc<Store>, epoch: LeaderEpoch) -> Directory {
        Directory { store, epoch, topics: RwLock::default(), version: watch::channel(0).0 }
    }

    fn read(&self) -> RwLockReadGuard<'_, Maps> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Maps> {
        self.topics.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a topic's partitions, with what the log held of them, and makes it known.
    pub async fn open(
        &self,
        topic: Topic,
        mut found: Option<&mut Found>,
        transactions: &mut Transactions,
    ) -> Result<(), Error> {
        let stored = stored_config(&topic.config);
        let limit = config::integer(&topic.config, "max.message.bytes");
        // Below the size of a header nothing fits; the builder counts from there.
        let batch_bytes_max = usize::try_from(limit).unwrap_or(0).max(BATCH_HEADER);
        let mut partitions = Vec::with_capacity(topic.partitions.max(0) as usize);
        for partition in 0..topic.partitions {
            let id = TopicPartition { topic: topic.id, partition };
            let replayed = found.as_mut().and_then(|found| found.take(id));
            partitions.push(self.store.open_partition(id, self.epoch, stored, replayed, transactions).await?);
        }
        let open = Arc::new(OpenTopic { partitions, batch_bytes_max, topic });
        let mut maps = self.write();
        maps.by_id.insert(open.topic.id, Arc::clone(&open));
        maps.by_name.insert(open.topic.name.clone(), open);
        drop(maps);
        self.version.send_modify(|version| *version += 1);
        Ok(())
    }

    /// Makes known what has changed of an open topic's configuration.
    fn change(&self, topic: Topic) {
        let mut maps = self.write();
        if let Some(open) = maps.by_id.get(&topic.id) {
            let (partitions, batch_bytes_max) = (open.partitions.clone(), open.batch_bytes_max);
            let changed = Arc::new(OpenTopic { partitions, batch_bytes_max, topic });
            maps.by_id.insert(changed.topic.id, Arc::clone(&changed));
            maps.by_name.insert(changed.topic.name.clone(), changed);
        }
        drop(maps);
        self.version.send_modify(|version| *version += 1);
    }

    async fn close(&self, topic: &Topic) -> Result<(), Error> {
        let open = {
            let mut maps = self.write();
            maps.by_name.remove(&topic.name);
            maps.by_id.remove(&topic.id)
        };
        self.version.send_modify(|version| *version += 1);
        if let Some(open) = open {
            for partition in &open.partitions {
                self.store.close_partition(partition).await?;
            }
        }
        Ok(())
    }

    pub fn by_name(&self, name: &str) -> Option<Arc<OpenTopic>> {
        self.read().by_name.get(name).map(Arc::clone)
    }

    pub fn by_id(&self, id: TopicId) -> Option<Arc<OpenTopic>> {
        self.read().by_id.get(&id).map(Arc::clone)
    }

    /// All topics by name.
    pub fn all(&self) -> Vec<Topic> {
        self.read().by_name.values().map(|open| open.topic.clone()).collect()
    }

    pub fn partition(&self, id: TopicPartition) -> Result<(Arc<OpenTopic>, Arc<Partition>), Error> {
        let topic = self.by_id(id.topic).ok_or(Error::UnknownPartition(id))?;
        let partition = usize::try_from(id.partition).ok().and_then(|at| topic.partitions.get(at)).map(Arc::clone);
        partition.map(|partition| (topic, partition)).ok_or(Error::UnknownPartition(id))
    }

    /// Changes whenever a topic comes or goes.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}

/// Opens and closes what the topics' machine has decided.
pub(super) struct TopicEffects {
    directory: Arc<Directory>,
}

impl TopicEffects {
    pub fn new(directory: Arc<Directory>) -> TopicEffects {
        TopicEffects { directory }
    }
}

#[async_trait]
impl Effects<Effect> for TopicEffects {
    async fn run(&mut self, effect: Effect) -> Result<(), Error> {
        match effect {
            Effect::Opened(topic) => self.directory.open(topic, None, &mut Transactions::default()).await,
            Effect::Changed(topic) => {
                self.directory.change(topic);
                Ok(())
            }
            Effect::Closed(topic) => self.directory.close(&topic).await,
        }
    }
}

/// The cluster's metadata keep everything: what they say of topics is as long as the topics are many.
pub(super) fn metadata_config() -> PartitionConfig {
    PartitionConfig { delete: false, ..stored_config(&TopicConfig::new()) }
}

/// What a topic's options ask of the store.
pub(super) fn stored_config(config: &TopicConfig) -> PartitionConfig {
    let integer = |name| config::integer(config, name);
    let bytes = |name| u32::try_from(integer(name)).unwrap_or(u32::MAX);
    let policies: Vec<&str> = config::value(config, "cleanup.policy").split(',').map(str::trim).collect();
    PartitionConfig {
        log_append_time: config::value(config, "message.timestamp.type") == "LogAppendTime",
        segment_bytes: bytes("segment.bytes"),
        segment_ms: integer("segment.ms"),
        segment_jitter_ms: integer("segment.jitter.ms"),
        index_interval_bytes: bytes("index.interval.bytes"),
        retention_ms: integer("retention.ms"),
        retention_bytes: integer("retention.bytes"),
        delete: policies.contains(&"delete"),
        compact: policies.contains(&"compact"),
        delete_retention_ms: integer("delete.retention.ms"),
        min_compaction_lag_ms: integer("min.compaction.lag.ms"),
        max_compaction_lag_ms: integer("max.compaction.lag.ms"),
        min_cleanable_dirty_ratio: config::value(config, "min.cleanable.dirty.ratio").parse().unwrap_or(0.5),
        flush_os: config::value(config, "flush") == "os",
        file_delete_delay_ms: integer("file.delete.delay.ms"),
    }
}
