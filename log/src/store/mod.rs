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

mod append;
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
mod life;
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
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use self::append::Queued;
use self::checkpoint::Checkpointer;
use self::cold::Cursors;
use self::compact::figures::{CompactionMetrics, Figures};
use self::compact::task::{CompactConfig, Compactor};
use self::config::PartitionConfig;
use self::flush::Flush;
use self::handles::Handles;
use self::history::History;
pub(crate) use self::life::Found;
use self::life::{Closer, Stage, Stages, stops};
use self::partition::{Aborted, Partition, Plan};
pub(crate) use self::recovery::Replayed;
use self::shard::{Mailbox, Message};
use self::stable::Stable;
use self::tail::Tail;
pub(crate) use self::wal::Acknowledge;
use self::wal::Wal;
use self::wal::files::Files;
use crate::Error;
use crate::env::{Env, Task};
use crate::record::{Batch, LeaderEpoch, Offset, TopicPartition};

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

impl Replayed {
    /// The epoch in which the last batch was written.
    pub fn last_epoch(&self) -> LeaderEpoch {
        self.view.epochs.last().map_or(LeaderEpoch(0), |(epoch, _)| *epoch)
    }
}

impl Store {
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
            view.outgoing.clear();
            view.forget_hot(|_| true)
        };
        self.shared.tail.forgotten(forgotten);
        self.shared.cursors.forget(partition.id);
        self.send(partition.id, Message::Close(partition.id)).await
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
