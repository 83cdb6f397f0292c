//! The store's life: recovery and the start of its tasks, the partitions that it opens, and its end.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, mpsc, watch};

use super::checkpoint::Checkpointer;
use super::cold::Cursors;
use super::compact::figures::Figures;
use super::compact::task::{Compactor, Pause};
use super::config::PartitionConfig;
use super::flush::{Flush, Flusher, Unflushed};
use super::handles::Handles;
use super::history::History;
use super::owned::{Active, Owned};
use super::partition::Partition;
use super::recovery::{self, Replayed};
use super::room::Room;
use super::segment::Place;
use super::shard::{Mailbox, Message, Shard};
use super::stable::Stable;
use super::tail::Tail;
use super::wal::Wal;
use super::wal::files::Files;
use super::wal::writer::Writer;
use super::{LeftOpen, Shared, Store, StoreConfig, Transactions};
use crate::Error;
use crate::env::{Env, Lock, Task};
use crate::record::{Batch, LeaderEpoch, Offset, TopicPartition};

/// Messages that may wait for a shard; their bytes are bounded by admission.
const MAILBOX: usize = 4096;
/// How far the store has come in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Somebody waits for it to begin.
    Opens,
    Runs,
    /// Nothing new is begun, and somebody waits for the end.
    Stops,
    /// Everything is durable.
    Ended,
}

impl Stage {
    pub fn stops(self) -> bool {
        matches!(self, Stage::Stops | Stage::Ended)
    }
}

/// Says the stage to tasks, each through a watch of its own: who waits for one together wakes in no order that a
/// simulation could repeat.
pub(super) struct Stages {
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
pub(super) fn stops(stop: &watch::Receiver<Stage>) -> bool {
    stop.borrow().stops() || stop.has_changed().is_err()
}

/// What the log held of partitions that nobody has opened yet.
pub(crate) struct Found {
    partitions: BTreeMap<TopicPartition, Replayed>,
    /// Bytes of the log.
    pub bytes: u64,
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
        let flusher = Flusher { env: env.clone(), shared: Arc::clone(&shared), room: room.clone(), stop: stop.clone() };
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
        let owned =
            Owned { partition: Arc::clone(&partition), producers, end, config, active, aborted, touched, queued: 0 };
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

/// Held by every shard: when the last has ended, what is queued is still written; then writer and flusher end too.
pub(super) struct Closer(Arc<Shared>);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.wal.close();
        self.0.flush.close();
    }
}
