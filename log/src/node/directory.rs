//! The topics that are open on this node, for everybody to look up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
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
    /// Shared with the topic as it is after a change of its configuration: who holds one sees the other's.
    batch_bytes_max: Arc<AtomicUsize>,
}

impl OpenTopic {
    fn new(topic: Topic, partitions: Vec<Arc<Partition>>) -> OpenTopic {
        let limit = Arc::new(AtomicUsize::new(batch_bytes_max(&topic.config)));
        OpenTopic { topic, partitions, batch_bytes_max: limit }
    }

    /// Bytes of the largest batch that is taken.
    pub fn batch_bytes_max(&self) -> usize {
        self.batch_bytes_max.load(Ordering::Relaxed)
    }

    /// The topic of the cluster's metadata, which stands in no list.
    pub fn metadata(partition: &Arc<Partition>) -> OpenTopic {
        let topic = Topic {
            name: "__cluster_metadata".to_owned(),
            id: partition.id.topic,
            partitions: 1,
            config: TopicConfig::new(),
        };
        OpenTopic {
            topic,
            partitions: vec![Arc::clone(partition)],
            batch_bytes_max: Arc::new(AtomicUsize::new(BATCH_HEADER)),
        }
    }
}

/// Below the size of a header nothing fits; the builder counts from there.
fn batch_bytes_max(config: &TopicConfig) -> usize {
    usize::try_from(config::integer(config, "max.message.bytes")).unwrap_or(0).max(BATCH_HEADER)
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
        let config = PartitionConfig::of(&topic.config);
        let mut partitions = Vec::with_capacity(topic.partitions.max(0) as usize);
        for partition in 0..topic.partitions {
            let id = TopicPartition { topic: topic.id, partition };
            let replayed = found.as_mut().and_then(|found| found.take(id));
            partitions.push(self.store.open_partition(id, self.epoch, config, replayed, transactions).await?);
        }
        self.publish(OpenTopic::new(topic, partitions));
        Ok(())
    }

    /// Puts a topic's new configuration into effect.
    async fn configure(&self, topic: Topic) -> Result<(), Error> {
        let open = self.by_id(topic.id).expect("a topic is configured between its opening and its closing");
        let config = PartitionConfig::of(&topic.config);
        for partition in &open.partitions {
            self.store.configure(partition, config).await?;
        }
        open.batch_bytes_max.store(batch_bytes_max(&topic.config), Ordering::Relaxed);
        let (partitions, batch_bytes_max) = (open.partitions.clone(), Arc::clone(&open.batch_bytes_max));
        self.publish(OpenTopic { topic, partitions, batch_bytes_max });
        Ok(())
    }

    /// Opens the partitions that a topic has more than before.
    async fn grow(&self, topic: Topic) -> Result<(), Error> {
        let open = self.by_id(topic.id).expect("a topic grows between its opening and its closing");
        let config = PartitionConfig::of(&topic.config);
        let mut partitions = open.partitions.clone();
        for partition in partitions.len() as i32..topic.partitions {
            let id = TopicPartition { topic: topic.id, partition };
            let mut none = Transactions::default();
            partitions.push(self.store.open_partition(id, self.epoch, config, None, &mut none).await?);
        }
        self.publish(OpenTopic { topic, partitions, batch_bytes_max: Arc::clone(&open.batch_bytes_max) });
        Ok(())
    }

    /// Makes a topic known, in the place of what it was.
    fn publish(&self, open: OpenTopic) {
        let open = Arc::new(open);
        let mut maps = self.write();
        maps.by_id.insert(open.topic.id, Arc::clone(&open));
        maps.by_name.insert(open.topic.name.clone(), open);
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

    /// Changes whenever a topic comes, goes or changes.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}

/// Does what the topics' machine has decided.
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
            Effect::Configured(topic) => self.directory.configure(topic).await,
            Effect::Grown(topic) => self.directory.grow(topic).await,
            Effect::Closed(topic) => self.directory.close(&topic).await,
        }
    }
}

/// The cluster's metadata keep everything: what they say of topics is as long as the topics are many.
pub(super) fn metadata_config() -> PartitionConfig {
    PartitionConfig { delete: false, ..PartitionConfig::of(&TopicConfig::new()) }
}
