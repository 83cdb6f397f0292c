//! The durable store: one write-ahead log a data directory, replayed at start, and what readers need in memory.
//!
//! ```text
//!  callers ──▶ mailbox ──▶ shard: offset, stamp, producer check ──▶ queue ──▶ writer: write, sync
//!                            ▲    │ no await in between                          │
//!                            │    ▼                                              │ places, in order
//!                        visible: index, hot tail, high watermark ◀──────────────┘
//!                            └──▶ stable: last stable offsets and cuts, one lock
//! ```
//!
//! Memory is bounded by the shards' admission (bytes that are not durable yet), the hot tail's budget, and 32 bytes a
//! batch for the index.

#[allow(dead_code)]
mod compact;
mod files;
mod format;
#[allow(dead_code)]
mod layout;
pub(crate) mod partition;
mod producers;
mod recovery;
pub(crate) mod session;
mod shard;
pub(crate) mod stable;
mod tail;
mod wal;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use self::files::Files;
use self::partition::{Partition, Piece};
pub(crate) use self::recovery::Replayed;
use self::session::Ticket;
use self::shard::{Append, How, Mailbox, Message, Owned, Shard};
use self::stable::Stable;
use self::tail::Tail;
use self::wal::{Wal, Writer};
use crate::env::{Env, Lock, Task};
use crate::record::{Batch, LeaderEpoch, Offset, TopicPartition};
use crate::{Appended, Error};

pub(crate) use self::wal::Acknowledge;

/// Messages that may wait for a shard; their bytes are bounded by admission.
const MAILBOX: usize = 4096;
/// What a batch costs in admission beside its bytes, so that small ones are bounded in number.
const BATCH_COST: usize = 256;

/// The store's limits, from [`crate::node::NodeConfig`].
#[derive(Clone, Debug)]
pub(crate) struct StoreConfig {
    pub shards: usize,
    pub file_bytes: u64,
    pub group_bytes: usize,
    pub tail_bytes: usize,
    /// For each shard: bytes taken and not yet durable.
    pub pending_bytes: usize,
    pub acknowledge: Acknowledge,
}

/// What shards, writer and readers share.
struct Shared {
    wal: Arc<Wal>,
    files: Arc<Files>,
    stable: Stable,
    tail: Tail,
    /// Whether tasks give way between messages: only where a simulation looks for orders.
    env_steps: bool,
}

/// See the module.
pub(crate) struct Store {
    env: Env,
    dir: PathBuf,
    shared: Arc<Shared>,
    shards: Vec<Mailbox>,
    tasks: Mutex<Vec<Task<()>>>,
    writer: Mutex<Option<Task<()>>>,
    reclaiming: AtomicBool,
}

/// What the log held of partitions that nobody has opened yet.
pub(crate) struct Found {
    partitions: BTreeMap<TopicPartition, Replayed>,
    /// Bytes of the log.
    pub bytes: u64,
}

/// An open transaction found by recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeftOpen {
    pub partition: TopicPartition,
    pub producer_id: i64,
    pub epoch: i16,
    pub first: Offset,
}

/// What recovery knows of transactions in the partitions that were opened.
#[derive(Debug, Default)]
pub(crate) struct Transactions {
    pub open: Vec<LeftOpen>,
    /// The newest epoch of each producer.
    pub epochs: BTreeMap<i64, i16>,
}

/// How much went through the log since the start, and what is in flight. Times in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreMetrics {
    pub groups: u64,
    pub entries: u64,
    pub bytes_written: u64,
    pub write_us: u64,
    pub sync_us: u64,
    pub queued_bytes: usize,
    pub tail_bytes: usize,
    pub live_bytes: u64,
    pub files: usize,
}

impl Found {
    /// Takes what the log held of a partition that stands; an error when some of it is missing.
    pub fn take(&mut self, partition: TopicPartition) -> Result<Option<Replayed>, Error> {
        let replayed = self.partitions.remove(&partition);
        replayed.as_ref().map_or(Ok(()), |replayed| replayed.check(partition))?;
        Ok(replayed)
    }
}

impl Store {
    /// Reads the log below `dir` and starts the writer and the shards.
    /// `lock` is held until the last write is done.
    pub async fn open(
        env: &Env,
        dir: &Path,
        config: &StoreConfig,
        lock: Box<dyn Lock>,
    ) -> Result<(Store, Found), Error> {
        assert!(config.shards > 0, "somebody must own the partitions");
        let wal_dir = dir.join("wal");
        env.disk().create_dir(&wal_dir)?;
        env.disk().sync_dir(dir)?;
        let files = Arc::new(Files::default());
        let recovered = {
            let (env2, dir, files) = (env.clone(), wal_dir.clone(), Arc::clone(&files));
            env.offload(move || recovery::recover(&env2, &dir, &files)).await?
        };
        let wal = Arc::new(Wal::new(config.shards));
        let writer = Writer {
            env: env.clone(),
            dir: wal_dir.clone(),
            wal: Arc::clone(&wal),
            files: Arc::clone(&files),
            end: recovered.end,
            file_bytes: config.file_bytes,
            group_bytes: config.group_bytes,
            acknowledge: config.acknowledge,
            _lock: lock,
        };
        let writer = env.place("log-wal", writer.run())?;
        let shared = Arc::new(Shared {
            wal,
            files,
            stable: Stable::new(),
            tail: Tail::new(config.tail_bytes),
            env_steps: env.is_simulated(),
        });
        let closer = Arc::new(Closer(Arc::clone(&shared.wal)));
        let mut shards = Vec::with_capacity(config.shards);
        let mut tasks = Vec::with_capacity(config.shards);
        for number in 0..config.shards {
            let (send, mailbox) = mpsc::channel(MAILBOX);
            let waiters = Arc::new(AtomicUsize::new(0));
            let (all, closer) = (Arc::clone(&shared), Arc::clone(&closer));
            let shard = Shard::new(env.clone(), number, all, mailbox, Arc::clone(&waiters), closer);
            tasks.push(env.place("log-shard", shard.run())?);
            let room_bytes = config.pending_bytes.min(Semaphore::MAX_PERMITS).min(u32::MAX as usize);
            shards.push(Mailbox { send, room: Arc::new(Semaphore::new(room_bytes)), room_bytes, waiters });
        }
        let store = Store {
            env: env.clone(),
            dir: wal_dir,
            shared,
            shards,
            tasks: Mutex::new(tasks),
            writer: Mutex::new(Some(writer)),
            reclaiming: AtomicBool::new(false),
        };
        Ok((store, Found { partitions: recovered.partitions, bytes: recovered.bytes }))
    }

    /// Last stable offsets and cuts.
    pub fn stable(&self) -> &Stable {
        &self.shared.stable
    }

    /// Becomes the reason once a write has failed: nothing will be acknowledged any more.
    pub fn poisoned(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.shared.wal.poisoned()
    }

    /// What to answer when a shard does not: the log has stopped.
    pub fn closed(&self) -> Error {
        let reason = self.shared.wal.poisoned().borrow().clone();
        Error::Closed(reason.map_or_else(|| "it is shut down".to_owned(), |reason| reason.to_string()))
    }

    fn shard(&self, partition: TopicPartition) -> &Mailbox {
        let crc = crc32c::crc32c_append(crc32c::crc32c(&partition.topic.0), &partition.partition.to_le_bytes());
        &self.shards[crc as usize % self.shards.len()]
    }

    async fn send(&self, partition: TopicPartition, message: Message) -> Result<(), Error> {
        self.shard(partition).send.send(message).await.map_err(|_| self.closed())
    }

    /// The epoch in which the last batch of a partition that is not open yet was written.
    pub fn last_epoch(&self, id: TopicPartition, replayed: &Replayed) -> Result<LeaderEpoch, Error> {
        let Some(last) = replayed.view.index.back() else { return Ok(LeaderEpoch(0)) };
        let batches = self.shared.files.read(id, &[*last])?;
        Ok(batches.last().map_or(LeaderEpoch(0), Batch::leader_epoch))
    }

    /// Begins to lead a partition, from what the log held of it. What it left open goes into `transactions`.
    pub async fn open_partition(
        &self,
        id: TopicPartition,
        epoch: LeaderEpoch,
        log_append_time: bool,
        replayed: Option<Replayed>,
        transactions: &mut Transactions,
    ) -> Result<Arc<Partition>, Error> {
        let Replayed { view, producers, touched, .. } = replayed.unwrap_or_default();
        let end = view.high_watermark;
        self.shared.files.live(view.index.iter().map(|entry| entry.place), true);
        let partition = Arc::new(Partition::new(id, epoch, view));
        let mut open = BTreeMap::new();
        for left in producers.open_all() {
            open.insert(left.producer_id, left.first);
            let (producer_id, epoch, first) = (left.producer_id, left.epoch, left.first);
            transactions.open.push(LeftOpen { partition: id, producer_id, epoch, first });
        }
        for (producer, epoch) in producers.epochs() {
            let newest = transactions.epochs.entry(producer).or_insert(epoch);
            *newest = (*newest).max(epoch);
        }
        self.shared.stable.add(Arc::clone(&partition), end, open);
        let owned = Owned { partition: Arc::clone(&partition), producers, end, log_append_time, touched };
        self.send(id, Message::Open(Box::new(owned))).await?;
        Ok(partition)
    }

    /// Ends a partition whose topic is deleted. Its records are gone for readers at once.
    pub async fn close_partition(&self, partition: &Partition) -> Result<(), Error> {
        self.shared.stable.remove(partition.id);
        partition.close();
        let gone: Vec<partition::Entry> = {
            let mut view = partition.write_view();
            view.hot.clear();
            view.index.drain(..).collect()
        };
        self.shared.files.live(gone.iter().map(|entry| entry.place), false);
        self.send(partition.id, Message::Close(partition.id)).await
    }

    /// Waits for room for a batch; bytes count until they are durable. Cancel safe.
    pub async fn admit(&self, partition: TopicPartition, bytes: usize) -> Result<OwnedSemaphorePermit, Error> {
        let shard = self.shard(partition);
        // A batch larger than all room goes alone.
        let cost = u32::try_from((bytes + BATCH_COST).min(shard.room_bytes)).expect("room is counted in u32");
        if let Ok(permit) = Arc::clone(&shard.room).try_acquire_many_owned(cost) {
            return Ok(permit);
        }
        let _waiting = Waiting::begin(&shard.waiters);
        self.wake();
        tokio::select! {
            biased;
            permit = Arc::clone(&shard.room).acquire_many_owned(cost) => permit.map_err(|_| self.closed()),
            () = self.shared.wal.stopped() => Err(self.closed()),
        }
    }

    /// Queues a plain batch; the receiver gets the outcome when it is durable.
    pub async fn append(
        &self,
        partition: TopicPartition,
        batch: Batch,
        expect: Option<Offset>,
    ) -> Result<oneshot::Receiver<Result<Appended, Error>>, Error> {
        let permit = Some(self.admit(partition, batch.size()).await?);
        let (durable, outcome) = oneshot::channel();
        let how = expect.map_or(How::Plain, How::Expect);
        let append = Append { partition, batch, how, permit, placed: None, durable: Some(durable) };
        self.send(partition, Message::Append(Box::new(append))).await?;
        Ok(outcome)
    }

    /// Queues a batch of a session's transaction. Its fate is the session's to tell, also when this future is dropped.
    pub async fn append_in(&self, partition: TopicPartition, batch: Batch, ticket: Ticket) -> Result<(), Error> {
        let permit = Some(self.admit(partition, batch.size()).await?);
        let how = How::Transactional(ticket);
        let append = Append { partition, batch, how, permit, placed: None, durable: None };
        self.send(partition, Message::Append(Box::new(append))).await
    }

    /// Queues a decision or marker of the coordinator. The first receiver hears when its place in the order is taken:
    /// whatever is queued afterwards becomes durable after it. It is not written before something else is, or somebody
    /// calls [`Store::wake`].
    pub async fn append_lazy(&self, partition: TopicPartition, batch: Batch) -> Result<Queued, Error> {
        let (placed, queued) = oneshot::channel();
        let (durable, outcome) = oneshot::channel();
        let (placed, durable) = (Some(placed), Some(durable));
        let append = Append { partition, batch, how: How::Lazy, permit: None, placed, durable };
        self.send(partition, Message::Append(Box::new(append))).await?;
        Ok(Queued { place: queued, durable: outcome })
    }

    /// Has everything written that has its place.
    pub fn wake(&self) {
        self.shared.wal.wake();
    }

    /// Whole batches from the one that holds `from` on, those that begin below `up_to`; from memory, else from disk.
    pub async fn read(
        &self,
        partition: &Partition,
        from: Offset,
        up_to: Offset,
        bytes_max: usize,
    ) -> Result<Vec<Batch>, Error> {
        if partition.is_closed() {
            return Err(Error::UnknownPartition(partition.id));
        }
        let pieces = partition.read_view().pieces(from, up_to, bytes_max)?;
        let cold: Vec<partition::Entry> = pieces.iter().filter_map(Piece::cold).collect();
        let mut read = Vec::new();
        if !cold.is_empty() {
            let (files, id) = (Arc::clone(&self.shared.files), partition.id);
            read = self.env.offload(move || files.read(id, &cold)).await?;
        }
        let mut read = read.into_iter();
        let whole = |piece| match piece {
            Piece::Hot(batch) => batch,
            Piece::Cold(_) => read.next().expect("as many were read as asked for"),
        };
        Ok(pieces.into_iter().map(whole).collect())
    }

    /// Moves the log start as far as holds and open transactions allow; returns it when it is durable.
    pub async fn trim(&self, partition: TopicPartition, start: Offset) -> Result<Offset, Error> {
        let (done, outcome) = oneshot::channel();
        self.send(partition, Message::Trim { partition, start, done }).await?;
        outcome.await.map_err(|_| self.closed())?
    }

    /// Frees files in which nothing is of use any more. One at a time; another call meanwhile does nothing.
    pub async fn reclaim(&self) -> Result<usize, Error> {
        if self.reclaiming.swap(true, Ordering::AcqRel) {
            return Ok(0);
        }
        let freed = self.reclaim_alone().await;
        self.reclaiming.store(false, Ordering::Release);
        freed
    }

    async fn reclaim_alone(&self) -> Result<usize, Error> {
        let files = self.shared.files.useless();
        if files.is_empty() {
            return Ok(0);
        }
        for shard in &self.shards {
            let (done, outcome) = oneshot::channel();
            shard.send.send(Message::Carry { files: files.clone(), done }).await.map_err(|_| self.closed())?;
            outcome.await.map_err(|_| self.closed())??;
        }
        let (done, outcome) = oneshot::channel();
        let message = Message::Freed { files: files.clone(), done };
        self.shards[0].send.send(message).await.map_err(|_| self.closed())?;
        outcome.await.map_err(|_| self.closed())??;
        let (env, dir, held, count) = (self.env.clone(), self.dir.clone(), Arc::clone(&self.shared.files), files.len());
        self.env.offload(move || held.remove(&*env.disk(), &dir, &files)).await?;
        tracing::debug!(files = count, "files of the write-ahead log freed");
        Ok(count)
    }

    /// Takes no more, makes what was taken durable, ends all tasks. A poisoned log ends at once.
    pub async fn stop(&self) {
        for shard in &self.shards {
            // A shard that is gone has nothing left to do.
            drop(shard.send.send(Message::Stop).await);
        }
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            // One that was stopped has stopped.
            let _ = task.await;
        }
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            let _ = writer.await;
        }
    }

    pub fn metrics(&self) -> StoreMetrics {
        let (figures, files) = (&self.shared.wal.figures, &self.shared.files);
        StoreMetrics {
            groups: figures.groups.load(Ordering::Relaxed),
            entries: figures.entries.load(Ordering::Relaxed),
            bytes_written: figures.bytes.load(Ordering::Relaxed),
            write_us: figures.write_us.load(Ordering::Relaxed),
            sync_us: figures.sync_us.load(Ordering::Relaxed),
            queued_bytes: self.shared.wal.queued_bytes(),
            tail_bytes: self.shared.tail.bytes(),
            live_bytes: files.live_bytes(),
            files: files.numbers().len(),
        }
    }
}

/// What [`Store::append_lazy`] queued.
pub(crate) struct Queued {
    place: oneshot::Receiver<Offset>,
    durable: oneshot::Receiver<Result<Appended, Error>>,
}

impl Queued {
    /// Returns when the batch has its place, or was refused.
    pub async fn placed(&mut self) {
        // A refusal is told by `durable`.
        let _ = (&mut self.place).await;
    }

    /// Where it is, once it is durable.
    pub async fn durable(self, store: &Store) -> Result<Appended, Error> {
        self.durable.await.map_err(|_| store.closed())?
    }
}

/// Held by every shard: when the last has ended, the writer writes what is queued and ends too.
struct Closer(Arc<Wal>);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Somebody waits for room, until this is dropped.
struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    fn begin(waiters: &Arc<AtomicUsize>) -> Waiting {
        waiters.fetch_add(1, Ordering::SeqCst);
        Waiting(Arc::clone(waiters))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
