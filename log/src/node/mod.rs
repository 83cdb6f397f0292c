//! A node: the store, the cluster's topics over the quorum, and the transaction coordinator put together, behind the
//! traits [`Cluster`] and [`Backend`].
//!
//! ```text
//! data/  LOCK · format · wal/ · topics/<topic id>/<partition>/
//! ```

mod directory;
mod format;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod local;
pub mod offline;
mod protocol;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use self::directory::{Directory, OpenTopic, TopicEffects};
use self::format::{Format, read_or_write_format};
use self::local::LocalLog;
use crate::cluster::alter::AlterConfig;
use crate::cluster::topics::{Command, PRODUCER_ID_BLOCK, Reply, Topics};
use crate::env::mutant::Mutant;
use crate::env::{Env, Lock};
use crate::machine::Host;
use crate::quorum::{Leadership, OneVoter};
use crate::record::{LeaderEpoch, TopicId, TopicPartition};
use crate::store::compact::task::CompactConfig;
use crate::store::partition::Partition;
use crate::store::{Acknowledge, Found, Replayed, Store, StoreConfig, StoreMetrics, Transactions};
use crate::txn::coordinator::Coordinator;
use crate::txn::producer::LocalProducer;
use crate::txn::{self, Surroundings};
use crate::{Cluster, ConfigChanges, Cut, Error, Log, LogJournal, NewTopic, Producer, Topic};

/// The partition that holds the cluster's metadata, under the id Kafka gives it.
const METADATA: TopicPartition =
    TopicPartition { topic: TopicId([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]), partition: 0 };

/// The limits of a node. Every queue and buffer of the log is bounded by one of these or by a constant beside it.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    pub node_id: i32,
    /// Threads that own partitions.
    pub shards: usize,
    /// A file of the write-ahead log ends at about this size, in bytes.
    pub wal_file_bytes: u64,
    /// Files of the log that recovery may have to read before a checkpoint is taken.
    pub checkpoint_files: usize,
    /// The most files of the log: over it writers wait for a checkpoint.
    pub wal_files_max: usize,
    /// No segment of a partition is larger, in bytes, whatever `segment.bytes` of its topic says.
    pub segment_bytes_max: u32,
    /// One write to it, at most about this, in bytes.
    pub wal_group_bytes: usize,
    /// The newest batches kept in memory for readers, in bytes.
    pub tail_bytes: usize,
    /// Bytes taken and not yet durable, for each shard; over it writers wait.
    pub pending_bytes: usize,
    /// Files of segments that are open because not all of them is synced; a checkpoint may hold as many again.
    pub dirty_files_max: usize,
    /// Reads of history, of what is not in memory, at a time; others wait.
    pub cold_reads: usize,
    /// What they read into together, in bytes.
    pub cold_read_bytes: usize,
    /// Room on the disk that is left to the log itself, in bytes: with less, nothing is taken from producers, while what
    /// was acknowledged reaches its segments and topics can be deleted.
    pub reserve_bytes: u64,
    /// Time between two looks at what retention removes, in milliseconds.
    pub retention_check_interval_ms: u64,
    /// How long a partition remembers an idempotent producer that appends nothing to it and has no open transaction, in
    /// milliseconds (Kafka's `producer.id.expiration.ms`). After that a batch that is sent once more is there twice.
    pub producer_expiration_ms: u64,
    /// Memory for the keys of a pass of compaction, in bytes, 24 for each (Kafka's `log.cleaner.dedupe.buffer.size`).
    pub compact_map_bytes: usize,
    /// Bytes that compaction reads and writes in a second, together; 0: as fast as it can
    /// (`log.cleaner.io.max.bytes.per.second`).
    pub compact_bytes_per_second: u64,
    /// Time between two looks at what compaction is due, in milliseconds (`log.cleaner.backoff.ms`).
    pub compact_check_interval_ms: u64,
    #[cfg(test)]
    pub(crate) acknowledge: Acknowledge,
}

impl Default for NodeConfig {
    fn default() -> NodeConfig {
        NodeConfig {
            node_id: 1,
            shards: 2,
            wal_file_bytes: 128 * 1024 * 1024,
            checkpoint_files: 2,
            wal_files_max: 8,
            segment_bytes_max: i32::MAX as u32,
            wal_group_bytes: 8 * 1024 * 1024,
            tail_bytes: 128 * 1024 * 1024,
            pending_bytes: 32 * 1024 * 1024,
            dirty_files_max: 256,
            cold_reads: 4,
            cold_read_bytes: 64 * 1024 * 1024,
            // What is in memory only, and as much again for indexes and checkpoints.
            reserve_bytes: 256 * 1024 * 1024,
            retention_check_interval_ms: if cfg!(test) { 1_000 } else { 60_000 },
            producer_expiration_ms: 24 * 60 * 60 * 1000,
            compact_map_bytes: 128 * 1024 * 1024,
            compact_bytes_per_second: 64 * 1024 * 1024,
            compact_check_interval_ms: 15_000,
            #[cfg(test)]
            acknowledge: Acknowledge::AfterSync,
        }
    }
}

/// A running node. [`Node::shutdown`] stops it and waits; dropping it has it stop behind the caller, and the data
/// directory stays locked until that is done.
pub struct Node {
    env: Env,
    config: NodeConfig,
    format: Format,
    inner: Arc<Inner>,
    coordinator: Coordinator,
}

/// What the node's parts share.
pub(crate) struct Inner {
    env: Env,
    store: Arc<Store>,
    directory: Arc<Directory>,
    topics: Host<Topics>,
    /// Producer ids taken from the quorum and not given out: next, end.
    producer_ids: Mutex<(i64, i64)>,
}

impl Node {
    /// Opens the data directory (created where missing), recovers, and serves. Returns when everything acknowledged
    /// before is readable again.
    ///
    /// On a full disk it opens as well, as far as there is room for its own records, and takes nothing from producers.
    ///
    /// Errors: [`Error::Busy`] when another process has it open, [`Error::Corrupt`] with the place when bytes that were
    /// durable are damaged.
    pub async fn open(env: Env, data_dir: &Path, config: NodeConfig) -> Result<Arc<Node>, Error> {
        Node::recover(env, data_dir, config).await.map_err(|error| match error {
            Error::Io(error) if error.kind() == std::io::ErrorKind::StorageFull && error.get_ref().is_none() => {
                let what = format!("it is full: make room at {} and start again", data_dir.display());
                Error::Io(std::io::Error::new(std::io::ErrorKind::StorageFull, what))
            }
            error => error,
        })
    }

    async fn recover(env: Env, data_dir: &Path, config: NodeConfig) -> Result<Arc<Node>, Error> {
        env.disk().create_dir(data_dir)?;
        let lock = lock_directory(&env, data_dir)?;
        let format = read_or_write_format(&env, data_dir, config.node_id)?;
        let store_config = StoreConfig {
            shards: config.shards,
            file_bytes: config.wal_file_bytes,
            checkpoint_files: config.checkpoint_files,
            files_max: config.wal_files_max,
            segment_bytes_max: config.segment_bytes_max,
            group_bytes: config.wal_group_bytes,
            tail_bytes: config.tail_bytes,
            pending_bytes: config.pending_bytes,
            dirty_files_max: config.dirty_files_max,
            cold_reads: config.cold_reads,
            cold_read_bytes: config.cold_read_bytes,
            compact: CompactConfig {
                map_bytes: config.compact_map_bytes,
                bytes_per_second: config.compact_bytes_per_second,
                interval: Duration::from_millis(config.compact_check_interval_ms),
            },
            producer_expiration_ms: i64::try_from(config.producer_expiration_ms).unwrap_or(i64::MAX),
            reserve_bytes: config.reserve_bytes,
            #[cfg(test)]
            acknowledge: config.acknowledge,
            #[cfg(not(test))]
            acknowledge: Acknowledge::AfterSync,
        };
        let began = env.monotonic();
        let (store, found) = Store::open(&env, data_dir, &store_config, lock).await?;
        let (store, bytes) = (Arc::new(store), found.bytes);
        let node = Node::begin(env, config, format, Arc::clone(&store), found).await;
        let node = node.map_err(|error| match error {
            // What has failed says more.
            Error::Unknown if store.poisoned().borrow().is_some() => store.closed(),
            error => error,
        })?;
        let ms = (node.env.monotonic() - began).as_millis() as u64;
        tracing::info!(bytes, ms, "log recovered");
        Ok(node)
    }

    /// Goes on from what the store has found.
    async fn begin(
        env: Env,
        config: NodeConfig,
        format: Format,
        store: Arc<Store>,
        mut found: Found,
    ) -> Result<Arc<Node>, Error> {
        let (inner, transactions) = open_topics(&env, &store, &mut found, config.node_id).await?;
        let states = inner.states_partition().await?;
        let around: Arc<dyn Surroundings> = Arc::clone(&inner) as Arc<dyn Surroundings>;
        let Transactions { open, epochs } = transactions;
        let coordinator = Coordinator::start(&env, Arc::clone(&store), around, states, open, epochs).await?;
        let interval = Duration::from_millis(config.retention_check_interval_ms);
        drop(env.spawn("log-retention", retain(env.clone(), Arc::downgrade(&store), interval)));
        store.opened();
        Ok(Arc::new(Node { env, config, format, inner, coordinator }))
    }

    /// Stops the intake, makes durable what was taken, and releases the data directory.
    pub async fn shutdown(&self) {
        self.inner.store.stop().await;
    }

    /// Takes a checkpoint now: recovery will begin here. Without it one is taken from time to time.
    pub async fn checkpoint(&self) -> Result<(), Error> {
        self.inner.store.checkpoint().await
    }

    /// Compacts now whatever is due; returns when the segments that were replaced are gone. Without it that happens from
    /// time to time.
    pub async fn compact(&self) -> Result<(), Error> {
        self.inner.store.compact().await
    }

    /// Becomes the reason once a write to the disk has failed. Nothing is acknowledged from then on: the process must
    /// stop, and the next start recovers.
    pub fn fatal(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.inner.store.poisoned()
    }

    /// What went through the log since the start, and what is in flight.
    pub fn metrics(&self) -> StoreMetrics {
        self.inner.store.metrics()
    }
}

/// From time to time removes what retention removes and forgets producers that have expired, until the log stops.
async fn retain(env: Env, store: Weak<Store>, interval: Duration) {
    loop {
        env.sleep(interval).await;
        let Some(store) = store.upgrade() else { return };
        let retained = async {
            store.forget_producers().await?;
            store.retain(env.now_ms()).await
        };
        if let Err(error) = retained.await {
            // The log has stopped, or will say itself why it must.
            tracing::debug!(%error, "retention ends");
            return;
        }
    }
}

/// Loads the topics from the quorum, counts this start, and opens every partition.
async fn open_topics(
    env: &Env,
    store: &Arc<Store>,
    found: &mut Found,
    node_id: i32,
) -> Result<(Arc<Inner>, Transactions), Error> {
    let mut transactions = Transactions::default();
    let metadata = found.take(METADATA);
    let last = metadata.as_ref().map_or(LeaderEpoch(0), Replayed::last_epoch);
    let metadata_corrupt = |detail: String| Error::Corrupt { place: format!("the metadata, {METADATA}"), detail };
    let raised = if Mutant::EpochNotRaised.is_on() { Some(last.0.max(1)) } else { last.0.checked_add(1) };
    let raised =
        raised.ok_or_else(|| metadata_corrupt(format!("a batch of leader epoch {}: there is none above", last.0)));
    let epoch = LeaderEpoch(raised?);
    let config = directory::metadata_config();
    let metadata = store.open_partition(METADATA, epoch, config, metadata, &mut transactions).await?;
    let log = LocalLog::new(env.clone(), Arc::clone(store), Arc::new(OpenTopic::metadata(&metadata)), metadata);
    let journal = Arc::new(LogJournal::new(Arc::new(log)));
    let quorum = Arc::new(OneVoter::new(journal, Leadership { node_id, term: epoch.0 }));

    let directory = Arc::new(Directory::new(Arc::clone(store), epoch));
    let effects = Box::new(TopicEffects::new(Arc::clone(&directory)));
    let topics = Host::start(env, "log-topics", quorum, Topics::default(), effects).await?;
    let (standing, removed) = match topics.ask(Command::Start { epoch }).await? {
        Reply::Started { topics, removed } => (topics, removed),
        Reply::NotRaised(before) => {
            let detail = format!("a start of epoch {} is told of, the last batch has epoch {}", before.0, last.0);
            return Err(metadata_corrupt(detail));
        }
        _ => unreachable!("a start is answered as one"),
    };
    for topic in standing {
        directory.open(topic, Some(&mut *found), &mut transactions).await?;
    }
    forget_removed(store, &topics, &found.rest(), &removed).await?;
    store.start_background();
    let inner =
        Inner { env: env.clone(), store: Arc::clone(store), directory, topics, producer_ids: Mutex::new((0, 0)) };
    tracing::info!(epoch = epoch.0, "topics are open");
    Ok((Arc::new(inner), transactions))
}

/// Removes what is left of topics that do not stand. Of removed ones without a trace the topics need not know any more.
async fn forget_removed(
    store: &Store,
    topics: &Host<Topics>,
    left: &[TopicPartition],
    removed: &[TopicId],
) -> Result<(), Error> {
    let traces: BTreeSet<TopicId> = left.iter().map(|partition| partition.topic).collect();
    let gone: Vec<TopicId> = removed.iter().filter(|id| !traces.contains(id)).copied().collect();
    // What is decided at once has to fit into one batch.
    for ids in gone.chunks(1_000) {
        topics.ask(Command::Forgotten { ids: ids.to_vec() }).await?;
    }
    for partition in left {
        if removed.contains(&partition.topic) {
            tracing::info!(%partition, "what is left of a deleted topic is removed");
        } else {
            // Topics are known before anything is written to them.
            tracing::warn!(%partition, "what the log holds of a topic that nobody knows is removed");
        }
        store.forget(*partition).await?;
    }
    Ok(())
}

impl Inner {
    async fn create_topic(&self, topic: NewTopic) -> Result<Topic, Error> {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.env.random_u64().to_be_bytes());
        id[8..].copy_from_slice(&self.env.random_u64().to_be_bytes());
        match self.topics.ask(Command::Create { topic, id: TopicId(id) }).await? {
            Reply::Created(created) => created,
            _ => unreachable!("a creation is answered as one"),
        }
    }

    async fn delete_topic(&self, name: &str) -> Result<(), Error> {
        match self.topics.ask(Command::Delete { name: name.to_owned() }).await? {
            Reply::Deleted(deleted) => deleted.map(drop),
            _ => unreachable!("a deletion is answered as one"),
        }
    }

    async fn alter_topic(&self, name: &str, alter: AlterConfig) -> Result<Topic, Error> {
        match self.topics.ask(Command::Configure { name: name.to_owned(), alter }).await? {
            Reply::Configured(configured) => configured,
            _ => unreachable!("a configuration is answered as one"),
        }
    }

    async fn add_partitions(&self, name: &str, partitions: i32) -> Result<Topic, Error> {
        match self.topics.ask(Command::AddPartitions { name: name.to_owned(), partitions }).await? {
            Reply::PartitionsAdded(grown) => grown,
            _ => unreachable!("growth is answered as such"),
        }
    }

    /// The partition of the transactions' states, created at the first start.
    async fn states_partition(&self) -> Result<Arc<Partition>, Error> {
        if self.directory.by_name(txn::TOPIC).is_none() {
            let config = [("cleanup.policy".to_owned(), "compact".to_owned())].into();
            self.create_topic(NewTopic { name: txn::TOPIC.to_owned(), partitions: 1, config }).await?;
        }
        let topic = self.directory.by_name(txn::TOPIC).ok_or_else(|| Error::UnknownTopic(txn::TOPIC.to_owned()))?;
        Ok(Arc::clone(&topic.partitions[0]))
    }
}

#[async_trait]
impl Surroundings for Inner {
    async fn producer_id(&self) -> Result<i64, Error> {
        let lock = || self.producer_ids.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            {
                let mut ids = lock();
                if ids.0 < ids.1 {
                    ids.0 += 1;
                    return Ok(ids.0 - 1);
                }
            }
            let Reply::ProducerIds(first) = self.topics.ask(Command::ProducerIds).await? else {
                unreachable!("producer ids are answered as such");
            };
            // Two callers may both have asked: then a block is left unused, never used twice.
            *lock() = (first, first + PRODUCER_ID_BLOCK);
        }
    }

    fn topic(&self, partition: TopicPartition) -> Result<(String, usize), Error> {
        let (topic, _) = self.directory.partition(partition)?;
        Ok((topic.topic.name.clone(), topic.batch_bytes_max()))
    }
}

#[async_trait]
impl Cluster for Node {
    async fn create_topic(&self, topic: NewTopic) -> Result<Topic, Error> {
        self.inner.create_topic(topic).await
    }

    async fn configure_topic(&self, name: &str, changes: ConfigChanges) -> Result<Topic, Error> {
        self.inner.alter_topic(name, changes.into()).await
    }

    async fn delete_topic(&self, name: &str) -> Result<(), Error> {
        check_not_needed(name)?;
        self.inner.delete_topic(name).await
    }

    fn topic(&self, name: &str) -> Option<Topic> {
        self.inner.directory.by_name(name).map(|topic| topic.topic.clone())
    }

    fn topics(&self) -> Vec<Topic> {
        self.inner.directory.all()
    }

    fn watch_topics(&self) -> watch::Receiver<u64> {
        self.inner.directory.watch()
    }

    fn watch_stable(&self) -> watch::Receiver<u64> {
        self.inner.store.stable().watch()
    }

    fn log(&self, partition: TopicPartition) -> Result<Arc<dyn Log>, Error> {
        let (topic, partition) = self.inner.directory.partition(partition)?;
        Ok(Arc::new(LocalLog::new(self.env.clone(), Arc::clone(&self.inner.store), topic, partition)))
    }

    fn cut(&self, partitions: &[TopicPartition]) -> Result<Cut, Error> {
        self.inner.store.stable().cut(partitions)
    }

    async fn producer(&self, transactional_id: &str) -> Result<Box<dyn Producer>, Error> {
        let session = self.coordinator.grant(transactional_id).await?;
        Ok(Box::new(LocalProducer::new(
            self.env.clone(),
            Arc::clone(&self.inner.store),
            Arc::clone(&self.inner) as Arc<dyn Surroundings>,
            self.coordinator.clone(),
            session,
        )))
    }
}

/// The topic of the transactions' states is as the coordinator wants it.
fn check_not_needed(name: &str) -> Result<(), Error> {
    if name == txn::TOPIC {
        return Err(Error::InvalidTopic { name: name.to_owned(), reason: "the node needs it as it is" });
    }
    Ok(())
}

fn lock_directory(env: &Env, data_dir: &Path) -> Result<Box<dyn Lock>, Error> {
    match env.disk().lock(&data_dir.join("LOCK")) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            Err(Error::Busy("another process has the data directory open"))
        }
        other => Ok(other?),
    }
}

#[cfg(test)]
mod compaction;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod retention;
#[cfg(test)]
mod tests;
