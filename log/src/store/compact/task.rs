//! The task that compacts: one for all partitions, so that memory and load are bounded. It looks from time to time which
//! partition needs it most, and works through the pool for cold reads, in small pieces and not faster than it may.
//!
//! Segments that were replaced stay until a checkpoint names the new ones: one for all passes of a round.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::Unreadable;
use super::due::{Limits, Work};
use super::producers::LastBatches;
use super::swap::{self, Replaced};
use crate::Error;
use crate::env::{Env, Lock};
use crate::record::TopicPartition;
use crate::store::partition::Partition;
use crate::store::shard::Message;
use crate::store::{Shared, Stage, shard_of};

/// Bytes of replaced segments that wait for a checkpoint, at most about: beyond, one is taken in the midst of a round.
const REPLACED_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// Limits of compaction, see [`crate::NodeConfig`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct CompactConfig {
    pub map_bytes: usize,
    pub bytes_per_second: u64,
    pub interval: Duration,
}

/// See the module.
pub(in crate::store) struct Compactor {
    pub env: Env,
    pub shared: Arc<Shared>,
    pub config: CompactConfig,
    /// Weak: when everybody else is gone the shards end.
    pub shards: Vec<mpsc::WeakSender<Message>>,
    pub checkpoints: mpsc::Sender<oneshot::Sender<()>>,
    /// Somebody wants everything compacted that is due.
    pub requests: mpsc::Receiver<oneshot::Sender<()>>,
    /// The store stops when this says so, or nobody is left to say it.
    pub stop: watch::Receiver<Stage>,
    /// Nobody else may open the directory before this task has ended.
    pub _lock: Arc<dyn Lock>,
    pub known: BTreeMap<TopicPartition, Known>,
    /// Of this round.
    pub replaced: Vec<Replaced>,
}

/// What is remembered of a partition between passes.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::store) struct Known {
    /// Of its newest segment, in use or not.
    generation: u32,
    /// It cannot be read: somebody has to look.
    aside: bool,
    /// When tombstones and markers alone may be reason for a pass again.
    expiry_from_ms: i64,
}

/// Why a pass, or everything, ends.
pub(super) enum Halt {
    /// The log stops.
    Stopped,
    /// Nothing is wrong: later it may go.
    Later(&'static str),
    /// The partition cannot be compacted before somebody has looked.
    Aside(Error),
    /// A write has failed: nobody knows what is on the disk.
    Failed(io::Error),
}

impl From<Unreadable> for Halt {
    fn from(unreadable: Unreadable) -> Halt {
        let place = format!("the batch at offset {}", unreadable.offset);
        Halt::Aside(Error::Corrupt { place, detail: unreadable.source.to_string() })
    }
}

impl From<Error> for Halt {
    /// Of a read.
    fn from(error: Error) -> Halt {
        match error {
            Error::Io(error) if error.kind() == io::ErrorKind::NotFound => Halt::Later("it was trimmed or deleted"),
            error => Halt::Aside(error),
        }
    }
}

impl Compactor {
    /// Works until the store stops or a write fails.
    pub async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        loop {
            let request = tokio::select! {
                biased;
                () = shared.wal.stopped() => return,
                // Said, or everybody is gone: either way it is over.
                _ = self.stop.wait_for(|stage| *stage != Stage::Runs) => return,
                request = self.requests.recv() => match request {
                    Some(done) => Some(done),
                    None => return,
                },
                () = self.env.sleep(self.config.interval) => None,
            };
            match self.round().await {
                Ok(()) => drop(request.map(|done| done.send(()))),
                Err(Halt::Failed(error)) => {
                    self.shared.wal.set_poison("a write of compaction", &error);
                    return;
                }
                Err(Halt::Stopped | Halt::Later(_) | Halt::Aside(_)) => return,
            }
        }
    }

    /// Compacts every partition that is due, the most urgent first.
    async fn round(&mut self) -> Result<(), Halt> {
        let open: BTreeSet<TopicPartition> = self.shared.stable.partitions().iter().map(|p| p.id).collect();
        self.known.retain(|id, _| open.contains(id));
        let mut done = BTreeSet::new();
        let soon = self.due(&done, true).await?;
        if !soon.is_empty() {
            // What was sealed lately may be in memory only.
            soon.into_iter().for_each(|(partition, _)| self.shared.flush.seal(partition));
            self.shared.all_flushed().await.ok_or(Halt::Stopped)?;
        }
        loop {
            let due = self.due(&done, false).await?.into_iter();
            let most = due.max_by(|(_, one), (_, other)| one.urgency.total_cmp(&other.urgency));
            let Some((partition, work)) = most else { break };
            self.goes_on()?;
            match self.pass(&partition, &work).await {
                Ok(pass) => {
                    if !pass.full {
                        done.insert(partition.id);
                    }
                    self.note(&partition, &work, &pass.stats, pass.full);
                }
                Err(Halt::Later(reason)) => {
                    done.insert(partition.id);
                    tracing::debug!(partition = ?partition.id, reason, "compaction has to wait");
                }
                Err(Halt::Aside(error)) => {
                    self.known.entry(partition.id).or_default().aside = true;
                    tracing::error!(%error, partition = ?partition.id, "a partition is not compacted any more: it cannot be read");
                }
                Err(halt) => return Err(halt),
            }
            if self.replaced.iter().map(|replaced| u64::from(replaced.size)).sum::<u64>() >= REPLACED_BYTES_MAX {
                self.remove_replaced().await?;
            }
            self.env.step().await;
        }
        self.remove_replaced().await
    }

    /// The partitions that need a pass, of those that were not done in this round.
    async fn due(
        &mut self,
        done: &BTreeSet<TopicPartition>,
        as_if_flushed: bool,
    ) -> Result<Vec<(Arc<Partition>, Work)>, Halt> {
        let now_ms = self.env.now_ms();
        let mut due = Vec::new();
        for partition in self.shared.stable.partitions() {
            let config = partition.config();
            if !config.compact || done.contains(&partition.id) || partition.check().is_err() {
                continue;
            }
            let known = self.known(&partition).await?;
            if known.aside {
                continue;
            }
            let limits = Limits {
                now_ms,
                last_stable: partition.last_stable(),
                held_from: partition.held_from(),
                as_if_flushed,
                expiry: now_ms >= known.expiry_from_ms,
            };
            let work = partition.read_view().compactable(&config, &limits);
            due.extend(work.map(|work| (partition, work)));
        }
        Ok(due)
    }

    /// What is remembered of a partition; the first time, what a crash has left is swept away.
    async fn known(&mut self, partition: &Arc<Partition>) -> Result<Known, Halt> {
        if let Some(known) = self.known.get(&partition.id) {
            return Ok(*known);
        }
        let (shared, disk, swept) = (Arc::clone(&self.shared), self.env.disk(), Arc::clone(partition));
        let sweep = move || swap::sweep(&*disk, &shared.handles, &swept);
        let generation = self.env.offload(sweep).await.map_err(Halt::Failed)?;
        let known = Known { generation, ..Known::default() };
        self.known.insert(partition.id, known);
        Ok(known)
    }

    pub(super) fn next_generation(&mut self, partition: TopicPartition) -> u32 {
        let known = self.known.entry(partition).or_default();
        known.generation = known.generation.checked_add(1).expect("four billion segments are never compacted");
        known.generation
    }

    /// Which batches say where producers stand.
    pub(super) async fn last_batches(&self, partition: TopicPartition) -> Result<LastBatches, Halt> {
        let (done, outcome) = oneshot::channel();
        let shard = self.shards[shard_of(partition, self.shards.len())].upgrade().ok_or(Halt::Stopped)?;
        shard.send(Message::Producers { partition, done }).await.map_err(|_| Halt::Stopped)?;
        drop(shard);
        outcome.await.map_err(|_| Halt::Later("it was deleted"))
    }

    fn note(&mut self, partition: &Arc<Partition>, work: &Work, stats: &super::clean::Stats, full: bool) {
        let config = partition.config();
        let now_ms = self.env.now_ms();
        // Each batch has a time of its own: not a pass for each of them.
        let pause_ms = config.delete_retention_ms / 2;
        self.known.entry(partition.id).or_default().expiry_from_ms = now_ms.saturating_add(pause_ms);
        tracing::info!(
            partition = ?partition.id,
            from = work.first_dirty.0,
            end = work.end.0,
            bytes_in = stats.bytes_in,
            bytes_out = stats.bytes_out,
            superseded = stats.superseded,
            tombstones = stats.expired,
            aborted = stats.aborted,
            full,
            "compacted"
        );
    }

    /// Has a checkpoint name what is new, and removes what it has replaced.
    async fn remove_replaced(&mut self) -> Result<(), Halt> {
        if self.replaced.is_empty() {
            return Ok(());
        }
        let (done, outcome) = oneshot::channel();
        self.checkpoints.send(done).await.map_err(|_| Halt::Stopped)?;
        outcome.await.map_err(|_| Halt::Stopped)?;
        for Replaced { partition, base, generation, .. } in std::mem::take(&mut self.replaced) {
            self.goes_on()?;
            let (shared, disk) = (Arc::clone(&self.shared), self.env.disk());
            let remove = move || shared.handles.remove(&*disk, partition, base, generation);
            self.env.offload(remove).await.map_err(Halt::Failed)?;
        }
        Ok(())
    }

    /// An error when the store stops. Nothing is left half done: a step on the disk is never dropped in its midst.
    pub(super) fn goes_on(&self) -> Result<(), Halt> {
        let stops = *self.stop.borrow() != Stage::Runs || self.stop.has_changed().is_err();
        if stops || self.shared.wal.poisoned().borrow().is_some() { Err(Halt::Stopped) } else { Ok(()) }
    }

    /// Keeps to the rate.
    pub(super) async fn pause(&self, bytes: usize) {
        let rate = self.config.bytes_per_second;
        if let Some(us) = (bytes as u64).saturating_mul(1_000_000).checked_div(rate) {
            self.env.sleep(Duration::from_micros(us).min(Duration::from_secs(1))).await;
        }
    }
}
