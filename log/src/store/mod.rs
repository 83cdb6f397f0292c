//! The durable store: one write-ahead log a data directory, segments in Kafka's format behind it, checkpoints that keep
//! the log short, and what readers need in memory.
//!
//! ```text
//!  callers ──▶ mailbox ──▶ shard: offset, place, producer check ──▶ queue ──▶ writer: write, sync
//!                            ▲    │ no await in between                          │
//!                            │    ▼                                              │ durable, in order
//!                        visible: hot tail, high watermark ◀─────────────────────┘
//!                            │  └──▶ stable: last stable offsets and cuts, one lock
//!                            ▼
//!                        flusher: segments ──▶ checkpoint: sync, where all partitions stand ──▶ the log's files anew
//! ```
//!
//! Memory is bounded by the shards' admission (bytes that are not durable yet), the hot tail's budget (which what is not
//! in segments yet counts into), and a sparse index of the segments that are being written.

mod checkpoint;
mod cold;
pub(crate) mod compact;
pub(crate) mod config;
mod epochs;
mod flush;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod forge;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod handles;
mod history;
#[allow(dead_code, reason = "the other way of each format is read by tests and by Kafka's tools")]
pub(crate) mod layout;
pub(crate) mod offline;
mod owned;
pub(crate) mod partition;
mod producers;
mod recovery;
mod retain;
mod room;
mod seal;
mod search;
mod segment;
pub(crate) mod session;
mod shard;
pub(crate) mod stable;
mod tail;
mod wal;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use self::checkpoint::Checkpointer;
use self::cold::Cursors;
use self::compact::figures::{CompactionMetrics, Figures};
use self::compact::task::{CompactConfig, Compactor, Pause};
use self::config::PartitionConfig;
use self::flush::{Flush, Flusher, Unflushed};
use self::handles::Handles;
use self::history::History;
use self::owned::{Active, Owned};
use self::partition::{Aborted, Partition, Plan};
pub(crate) use self::recovery::Replayed;
use self::room::Room;
use self::segment::Place;
use self::session::Ticket;
use self::shard::{Append, How, Mailbox, Message, Shard};
use self::stable::Stable;
use self::tail::Tail;
use self::wal::Wal;
use self::wal::files::Files;
use self::wal::writer::Writer;
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
    /// A checkpoint is taken when recovery would read more files of the log than this.
    pub checkpoint_files: usize,
    /// The most files of the log: over it the writer waits for a checkpoint.
    pub files_max: usize,
    pub group_bytes: usize,
    /// No segment is larger, whatever its topic says.
    pub segment_bytes_max: u32,
    pub tail_bytes: usize,
    /// For each shard: bytes taken and not yet durable.
    pub pending_bytes: usize,
    /// Files of segments that are open because not all of them is synced.
    pub dirty_files_max: usize,
    /// A segment with so many unsynced bytes is synced, and not only by the next checkpoint.
    pub segment_sync_bytes: u32,
    /// Reads of files at a time, and bytes that they read into.
    pub cold_reads: usize,
    pub cold_read_bytes: usize,
    pub compact: CompactConfig,
    /// How long a producer is remembered that is silent.
    pub producer_expiration_ms: i64,
    /// Room on the disk that producers leave to the log itself.
    pub reserve_bytes: u64,
    pub acknowledge: Acknowledge,
}

/// What shards, writer and readers share.
struct Shared {
    wal: Arc<Wal>,
    files: Arc<Files>,
    flush: Arc<Flush>,
    handles: Handles,
    cursors: Cursors,
    history: History,
    stable: Stable,
    tail: Tail,
    compaction: Figures,
    producer_expiration_ms: i64,
    /// Whether tasks give way between messages: only where a simulation looks for orders.
    env_steps: bool,
}

impl Shared {
    /// Returns when everything that is durable by now is in its segment's file; none when the log ends first.
    async fn all_flushed(&self) -> Option<()> {
        tokio::select! {
            biased;
            () = self.wal.stopped() => None,
            flushed = self.flush.all() => flushed,
        }
    }
}

/// How far the store has come in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Somebody waits for it to begin.
    Opens,
    Runs,
    /// Nothing new is begun, and somebody waits for the end.
    Stops,
    /// Everything is durable.
    Ended,
}

impl Stage {
    fn stops(self) -> bool {
        matches!(self, Stage::Stops | Stage::Ended)
    }
}

/// Says the stage to tasks, each through a watch of its own: who waits for one together wakes in no order that a
/// simulation could repeat.
struct Stages {
    compactor: watch::Sender<Stage>,
    checkpointer: watch::Sender<Stage>,
}

impl Stages {
    fn set(&self, stage: Stage) {
        self.compactor.send_replace(stage);
        self.checkpointer.send_replace(stage);
    }
}

/// Whether the store is to end: somebody has said so, or nobody is left to say it.
fn stops(stop: &watch::Receiver<Stage>) -> bool {
    stop.borrow().stops() || stop.has_changed().is_err()
}

/// Who waits for a piece of work in the background. [`Error::Busy`]: not now.
type Waits = oneshot::Sender<Result<(), Error>>;

/// See the module.
pub(crate) struct Store {
    env: Env,
    shared: Arc<Shared>,
    shards: Vec<Mailbox>,
    segment_bytes_max: u32,
    /// Asks for a checkpoint.
    checkpoints: mpsc::Sender<Waits>,
    /// Asks for compaction.
    compactions: mpsc::Sender<Waits>,
    /// Until they are started.
    background: Mutex<Option<(Checkpointer, Compactor)>>,
    compactor: Mutex<Option<Task<()>>>,
    checkpointing: Mutex<Option<Task<()>>>,
    stages: Stages,
    tasks: Mutex<Vec<Task<()>>>,
    writer: Mutex<Option<Task<()>>>,
    flusher: Mutex<Option<Task<()>>>,
}

/// Which of so many shards owns a partition.
fn shard_of(partition: TopicPartition, shards: usize) -> usize {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&partition.topic.0), &partition.partition.to_le_bytes());
    crc as usize % shards
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
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StoreMetrics {
    pub groups: u64,
    pub entries: u64,
    pub bytes_written: u64,
    pub write_us: u64,
    pub sync_us: u64,
    pub queued_bytes: usize,
    pub tail_bytes: usize,
    /// Durable in the write-ahead log, not in segments yet.
    pub unflushed_bytes: usize,
    pub files: usize,
    pub compaction: CompactionMetrics,
}

impl Found {
    /// Takes what the log held of a partition that stands.
    pub fn take(&mut self, partition: TopicPartition) -> Option<Replayed> {
        self.partitions.remove(&partition)
    }

    /// Partitions that nobody took.
    pub fn rest(&self) -> Vec<TopicPartition> {
        self.partitions.keys().copied().collect()
    }
}

impl Replayed {
    /// The epoch in which the last batch was written.
    pub fn last_epoch(&self) -> LeaderEpoch {
        self.view.epochs.last().map_or(LeaderEpoch(0), |(epoch, _)| *epoch)
    }
}

impl Store {
    /// Recovers what lies below `dir` and starts the writer, the flusher, the checkpointer and the shards.
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
        env.disk().create_dir(&dir.join("topics"))?;
        env.disk().sync_dir(dir)?;
        let flush = Arc::new(Flush::new((config.tail_bytes / 4).min(8 * 1024 * 1024), config.tail_bytes));
        let lock: Arc<dyn Lock> = Arc::from(lock);
        let shared = Arc::new(Shared {
            wal: Arc::new(Wal::new(config.shards)),
            files: Arc::new(Files::new(&wal_dir, config.file_bytes, config.files_max)),
            flush: Arc::clone(&flush),
            handles: Handles::new(Place::new(dir), config.dirty_files_max),
            cursors: Cursors::default(),
            stable: Stable::new(),
            history: History::new(config.cold_reads, config.cold_read_bytes),
            tail: Tail::new(config.tail_bytes),
            compaction: Figures::default(),
            producer_expiration_ms: config.producer_expiration_ms,
            env_steps: env.is_simulated(),
        });
        // As much as there may be in memory at any time.
        let pending_bytes = config.shards.saturating_mul(config.pending_bytes);
        let unflushed_bytes_max = config.tail_bytes.saturating_add(pending_bytes);
        let recovered = {
            let (env2, shared, dir) = (env.clone(), Arc::clone(&shared), wal_dir.clone());
            let recover = move || recovery::recover(&env2, &dir, &shared.files, &shared.handles, unflushed_bytes_max);
            env.offload(recover).await?
        };
        let (compactor, stop) = watch::channel(Stage::Opens);
        let (checkpointer, checkpointer_stop) = watch::channel(Stage::Opens);
        let stages = Stages { compactor, checkpointer };
        let room = Room { dir: dir.to_owned(), reserve_bytes: config.reserve_bytes };
        // Before anything is taken from producers.
        room.look(&*env.disk(), &flush);
        let writer = Writer {
            env: env.clone(),
            stop: stop.clone(),
            wal: Arc::clone(&shared.wal),
            files: Arc::clone(&shared.files),
            flush,
            end: recovered.end,
            file_bytes: config.file_bytes,
            group_bytes: config.group_bytes,
            acknowledge: config.acknowledge,
            _lock: Arc::clone(&lock),
        };
        let writer = env.place("log-wal", writer.run())?;
        let flusher = Flusher {
            env: env.clone(),
            shared: Arc::clone(&shared),
            room: room.clone(),
            sync_bytes: config.segment_sync_bytes,
            stop: stop.clone(),
        };
        let flusher = env.place("log-flush", flusher.run())?;
        drop(env.spawn("log-room", room.clone().watch(env.clone(), Arc::downgrade(&shared.flush))));
        let (shards, tasks) = start_shards(env, config, &shared)?;
        let (checkpoints, requests) = mpsc::channel(1);
        let weak: Vec<_> = shards.iter().map(|shard| shard.send.downgrade()).collect();
        let checkpointer = Checkpointer {
            env: env.clone(),
            shared: Arc::clone(&shared),
            shards: weak.clone(),
            stop: checkpointer_stop,
            _lock: Arc::clone(&lock),
            table: Arc::new(Mutex::new(recovered.table)),
            requests,
            files: config.checkpoint_files,
            copy_bytes: (config.file_bytes / 1024).clamp(256, 64 * 1024) as u32,
            copy_bytes_all: (config.file_bytes / 4) as usize,
        };
        let (compactions, requests) = mpsc::channel(1);
        let compactor = Compactor {
            env: env.clone(),
            shared: Arc::clone(&shared),
            config: config.compact,
            shards: weak,
            room,
            checkpoints: checkpoints.clone(),
            requests,
            stop,
            _lock: lock,
            known: BTreeMap::new(),
            replaced: Vec::new(),
            removals: Pause::default(),
            stuck: 0,
        };
        let store = Store {
            env: env.clone(),
            shared,
            shards,
            segment_bytes_max: config.segment_bytes_max,
            checkpoints,
            compactions,
            background: Mutex::new(Some((checkpointer, compactor))),
            compactor: Mutex::new(None),
            checkpointing: Mutex::new(None),
            stages,
            tasks: Mutex::new(tasks),
            writer: Mutex::new(Some(writer)),
            flusher: Mutex::new(Some(flusher)),
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
        &self.shards[shard_of(partition, self.shards.len())]
    }

    async fn send(&self, partition: TopicPartition, message: Message) -> Result<(), Error> {
        self.shard(partition).send.send(message).await.map_err(|_| self.closed())
    }

    /// Begins to lead a partition, from what the log held of it. What it left open goes into `transactions`.
    pub async fn open_partition(
        &self,
        id: TopicPartition,
        epoch: LeaderEpoch,
        mut config: PartitionConfig,
        replayed: Option<Replayed>,
        transactions: &mut Transactions,
    ) -> Result<Arc<Partition>, Error> {
        let Replayed { view, producers, touched, unflushed, damage, .. } = replayed.unwrap_or_default();
        config.segment_bytes = config.segment_bytes.min(self.segment_bytes_max);
        let end = view.high_watermark;
        let last = view.segments.last();
        // Behind a start that has passed everything a new segment begins: the old one's file may be gone.
        let last = last.filter(|last| last.next > view.start);
        let active = last.map(|last| Active { base: last.base, size: last.size, created_ms: last.created_ms });
        // A checkpoint is to know what is damaged.
        let touched = touched || damage.is_some();
        let partition = Arc::new(Partition::new(id, epoch, config, view).fenced(damage));
        let mut open = BTreeMap::new();
        for left in producers.open_all() {
            open.insert(left.producer_id, left.first);
            let (producer_id, epoch, first) = (left.producer_id, left.epoch, left.first);
            // What is fenced takes no marker either.
            if partition.damage().is_none() {
                transactions.open.push(LeftOpen { partition: id, producer_id, epoch, first });
            }
        }
        for (producer, epoch) in producers.epochs() {
            let newest = transactions.epochs.entry(producer).or_insert(epoch);
            *newest = (*newest).max(epoch);
        }
        self.shared.stable.add(Arc::clone(&partition), end, open);
        self.keep_unflushed(&partition, unflushed);
        let aborted = Vec::new();
        let owned = Owned { partition: Arc::clone(&partition), producers, end, config, active, aborted, touched };
        self.send(id, Message::Open(Box::new(owned))).await?;
        Ok(partition)
    }

    /// Takes over what recovery has left in memory.
    fn keep_unflushed(&self, partition: &Arc<Partition>, places: Vec<(Offset, u32)>) {
        let batches: Vec<Batch> = partition.read_view().hot.iter().cloned().collect();
        let hot = batches.iter().map(|batch| (Arc::downgrade(partition), batch.next_offset(), batch.size()));
        self.shared.tail.added(hot);
        let unflushed = batches.into_iter().zip(places).map(|(batch, (segment, position))| Unflushed {
            partition: Arc::clone(partition),
            batch,
            segment,
            position,
            producers: None,
        });
        self.shared.flush.push_recovered(unflushed.collect());
    }

    /// Every partition that stands is open, or was forgotten: from now on checkpoints are taken, and segments compacted.
    /// Not before, for a checkpoint says of each where it stands.
    pub fn start_background(&self) {
        let background = self.background.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((checkpointer, compactor)) = background {
            // What recovery found may be enough for one.
            self.shared.files.wanted.notify_one();
            let put = |place: &Mutex<_>, task| *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
            put(&self.checkpointing, self.env.spawn("log-checkpoint", checkpointer.run()));
            put(&self.compactor, self.env.spawn("log-compact", compactor.run()));
        }
    }

    /// Whoever has opened the log goes on: what finds no room on the disk waits for it from now on, as long as it takes.
    pub fn opened(&self) {
        self.shared.files.press(false);
        self.stages.set(Stage::Runs);
    }

    /// Removes what the log held of a partition whose topic is gone.
    pub async fn forget(&self, id: TopicPartition) -> Result<(), Error> {
        self.send(id, Message::Close(id)).await
    }

    /// What is appended from now on is under this configuration, and so is what retention removes.
    pub async fn configure(&self, partition: &Partition, mut config: PartitionConfig) -> Result<(), Error> {
        config.segment_bytes = config.segment_bytes.min(self.segment_bytes_max);
        partition.configure(config);
        self.send(partition.id, Message::Configure { partition: partition.id, config: Box::new(config) }).await
    }

    /// Ends a partition whose topic is deleted. Its records are gone for readers at once.
    pub async fn close_partition(&self, partition: &Partition) -> Result<(), Error> {
        self.shared.stable.remove(partition.id);
        partition.close();
        let forgotten = {
            let mut view = partition.write_view();
            view.segments.clear();
            view.forget_hot(|_| true)
        };
        self.shared.tail.forgotten(forgotten);
        self.shared.cursors.forget(partition.id);
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
        // What a caller expects at an offset is the cluster's own, for which there is room in memory.
        if expect.is_none() && self.shared.flush.is_full() {
            return Err(Error::Busy("the disk is full"));
        }
        let permit = Some(self.admit(partition, batch.size()).await?);
        let (durable, outcome) = oneshot::channel();
        let how = expect.map_or(How::Plain, How::Expect);
        let append = Append { partition, batch, how, permit, placed: None, durable: Some(durable) };
        self.send(partition, Message::Append(Box::new(append))).await?;
        Ok(outcome)
    }

    /// Queues a batch of a session's transaction. Its fate is the session's to tell, also when this future is dropped.
    /// Waits while the disk is full.
    pub async fn append_in(&self, partition: TopicPartition, batch: Batch, ticket: Ticket) -> Result<(), Error> {
        tokio::select! {
            biased;
            () = self.shared.flush.not_full() => {}
            () = self.shared.wal.stopped() => return Err(self.closed()),
        }
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
    /// Which of them are void is said for the same moment: compaction takes both away together.
    pub async fn read(
        &self,
        partition: &Arc<Partition>,
        from: Offset,
        up_to: Offset,
        bytes_max: usize,
    ) -> Result<Batches, Error> {
        let mut at = from;
        loop {
            if partition.is_closed() {
                return Err(Error::UnknownPartition(partition.id));
            }
            partition.check()?;
            let (plan, aborted) = {
                let view = partition.read_view();
                (view.plan(at, up_to, bytes_max)?, view.aborted_in(at, up_to))
            };
            let (batches, next) = match plan {
                // Where there are none up to the end, compaction has taken them.
                Plan::Hot(batches) => (batches, up_to.min(partition.read_view().high_watermark)),
                Plan::Cold(cold) => {
                    let wanted = cold::Wanted { partition: partition.id, from: at, up_to, bytes_max };
                    let (shared, disk, next) = (Arc::clone(&self.shared), self.env.disk(), cold.next);
                    let segment = (cold.segment, cold.generation);
                    let read = move || cold::read(&*disk, &shared.handles, &shared.cursors, &cold, wanted);
                    match self.shared.history.read(&self.env, wanted.bytes_max, read).await {
                        // Its segment was trimmed away or compacted under the reader: the next plan says so.
                        Err(Error::Io(error))
                            if error.kind() == std::io::ErrorKind::NotFound
                                && (partition.is_closed() || !partition.read_view().has(segment)) =>
                        {
                            continue;
                        }
                        Err(Error::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                            let (segment, generation) = segment;
                            let suffix = layout::Suffix::Log;
                            let name = handles::Name { partition: partition.id, segment, generation, suffix };
                            let place = self.shared.handles.path(name).display().to_string();
                            return Err(Error::Corrupt { place, detail: "the file is missing".to_owned() });
                        }
                        read => (read?, next),
                    }
                }
            };
            if let Some(last) = batches.last() {
                let next = last.next_offset();
                let aborted = aborted.into_iter().filter(|aborted| aborted.first < next).collect();
                return Ok(Batches { batches, next, aborted });
            }
            if next <= at || next >= up_to {
                return Ok(Batches { batches, next: next.min(up_to).max(at), aborted: Vec::new() });
            }
            at = next;
        }
    }

    /// Moves the log start as far as holds and open transactions allow; returns it when it is durable.
    pub async fn trim(&self, partition: TopicPartition, start: Offset) -> Result<Offset, Error> {
        self.move_start(partition, start, false).await
    }

    /// As [`Store::trim`]; `again`: the log is told also where that is where it starts already.
    async fn move_start(&self, partition: TopicPartition, start: Offset, again: bool) -> Result<Offset, Error> {
        let (done, outcome) = oneshot::channel();
        self.send(partition, Message::Trim { partition, start, again, done }).await?;
        outcome.await.map_err(|_| self.closed())?
    }

    /// Forgets the producers that have expired: what they had in memory and in checkpoints is given back.
    pub async fn forget_producers(&self) -> Result<(), Error> {
        for shard in &self.shards {
            shard.send.send(Message::ForgetProducers).await.map_err(|_| self.closed())?;
        }
        Ok(())
    }

    /// Takes a checkpoint now; returns when it is in force. [`Error::Busy`]: the disk is full, the one before stays.
    pub async fn checkpoint(&self) -> Result<(), Error> {
        self.ask(&self.checkpoints).await
    }

    /// Compacts now what is due; returns when that is done and the segments before are gone. [`Error::Busy`]: not all of
    /// it could be done; the rest is tried again from time to time.
    pub async fn compact(&self) -> Result<(), Error> {
        self.ask(&self.compactions).await
    }

    async fn ask(&self, whom: &mpsc::Sender<Waits>) -> Result<(), Error> {
        let (done, outcome) = oneshot::channel();
        whom.send(done).await.map_err(|_| self.closed())?;
        outcome.await.map_err(|_| self.closed())?
    }

    /// Takes no more, makes what was taken durable, ends all tasks. A poisoned log ends at once, and so does one whose
    /// disk is full: what was not acknowledged is given up then, what is not in its segment is there after the next start.
    pub async fn stop(&self) {
        self.stages.set(Stage::Stops);
        let take = |task: &Mutex<Option<Task<()>>>| task.lock().unwrap_or_else(PoisonError::into_inner).take();
        // It is in the midst of a step at most, and may wait for a checkpoint, for which all others are needed.
        if let Some(compactor) = take(&self.compactor) {
            let _ = compactor.await;
        }
        for shard in &self.shards {
            // A shard that is gone has nothing left to do.
            drop(shard.send.send(Message::Stop).await);
        }
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            // One that was stopped has stopped.
            let _ = task.await;
        }
        if let Some(writer) = take(&self.writer) {
            let _ = writer.await;
        }
        if let Some(flusher) = take(&self.flusher) {
            let _ = flusher.await;
        }
        // The others may have waited for one of its checkpoints until now.
        self.stages.set(Stage::Ended);
        if let Some(checkpointer) = take(&self.checkpointing) {
            let _ = checkpointer.await;
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
            unflushed_bytes: self.shared.flush.bytes(),
            files: files.count(),
            compaction: self.shared.compaction.metrics(),
        }
    }
}

/// What a read found.
pub(crate) struct Batches {
    pub batches: Vec<Batch>,
    /// Where to read on; behind the last batch, or where there are none up to.
    pub next: Offset,
    /// The aborted ranges that touch them, by first offset.
    pub aborted: Vec<Aborted>,
}

fn start_shards(env: &Env, config: &StoreConfig, shared: &Arc<Shared>) -> Result<(Vec<Mailbox>, Vec<Task<()>>), Error> {
    let closer = Arc::new(Closer(Arc::clone(shared)));
    let mut shards = Vec::with_capacity(config.shards);
    let mut tasks = Vec::with_capacity(config.shards);
    for number in 0..config.shards {
        let (send, mailbox) = mpsc::channel(MAILBOX);
        let waiters = Arc::new(AtomicUsize::new(0));
        let (all, closer) = (Arc::clone(shared), Arc::clone(&closer));
        let shard = Shard::new(env.clone(), number, all, mailbox, Arc::clone(&waiters), closer);
        tasks.push(env.place("log-shard", shard.run())?);
        let room_bytes = config.pending_bytes.min(Semaphore::MAX_PERMITS).min(u32::MAX as usize);
        shards.push(Mailbox { send, room: Arc::new(Semaphore::new(room_bytes)), room_bytes, waiters });
    }
    Ok((shards, tasks))
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

/// Held by every shard: when the last has ended, what is queued is still written; then writer and flusher end too.
struct Closer(Arc<Shared>);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.wal.close();
        self.0.flush.close();
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
