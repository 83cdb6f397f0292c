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
use crate::store::room::Room;
use crate::store::shard::Message;
use crate::store::{Shared, Stage, Waits, shard_of, stops};

/// Bytes of replaced segments that wait for a checkpoint, at most about: beyond, one is taken in the midst of a round.
const REPLACED_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// How often the time until something is tried again doubles: from 15 seconds to an hour.
const DOUBLINGS_MAX: u32 = 8;

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
    pub room: Room,
    pub checkpoints: mpsc::Sender<Waits>,
    /// Somebody wants everything compacted that is due.
    pub requests: mpsc::Receiver<Waits>,
    /// The store stops when this says so, or nobody is left to say it.
    pub stop: watch::Receiver<Stage>,
    /// Nobody else may open the directory before this task has ended.
    pub _lock: Arc<dyn Lock>,
    pub known: BTreeMap<TopicPartition, Known>,
    /// Of this round, and of those before that had no checkpoint, or could not remove it.
    pub replaced: Vec<Replaced>,
    /// After a removal that met trouble.
    pub removals: Pause,
    /// How many of them could not be removed then.
    pub stuck: usize,
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
    /// After a pass that met trouble.
    pause: Pause,
}

/// How long something is left alone that goes wrong again and again.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::store) struct Pause {
    /// How often it went wrong, one time after the other.
    times: u32,
    until: Duration,
}

impl Pause {
    /// It has gone wrong. Returns the time until it is tried again.
    fn begin(&mut self, now: Duration, interval: Duration) -> Duration {
        let pause = interval.saturating_mul(1 << self.times.min(DOUBLINGS_MAX));
        *self = Pause { times: self.times.saturating_add(1), until: now.saturating_add(pause) };
        pause
    }
}

/// Why a pass, or everything, ends.
#[derive(Debug)]
pub(super) enum Halt {
    /// The log stops.
    Stopped,
    /// Nothing is wrong: later it may go.
    Later(&'static str),
    /// The disk is full: nothing of any partition is written anew.
    Full,
    /// A call to the system has failed on which nothing hangs that was acknowledged: it is tried again after a while.
    Trouble(Error),
    /// The partition cannot be compacted before somebody has looked.
    Aside(Error),
    /// Packed anew a segment would be larger than one may be.
    TooLarge,
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
            Error::Corrupt { .. } => Halt::Aside(error),
            error => Halt::Trouble(error),
        }
    }
}

impl Halt {
    /// Of a call that makes or removes names.
    pub fn of_call(error: io::Error) -> Halt {
        match error.kind() {
            io::ErrorKind::StorageFull => Halt::Full,
            // The directory went with the partition.
            io::ErrorKind::NotFound => Halt::Later("it was deleted"),
            _ => Halt::Trouble(Error::Io(error)),
        }
    }

    /// Of a write to a new segment.
    pub fn of_write(error: io::Error) -> Halt {
        match error.kind() {
            io::ErrorKind::StorageFull => Halt::Full,
            io::ErrorKind::FileTooLarge => Halt::TooLarge,
            _ => Halt::Failed(error),
        }
    }

    /// Of a sync. Whatever the reason, it is not to be tried again.
    pub fn of_sync(error: io::Error) -> Halt {
        match error.kind() {
            // The directory went with the partition.
            io::ErrorKind::NotFound => Halt::Later("it was deleted"),
            _ => Halt::Failed(error),
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
                _ = self.stop.wait_for(|stage| stage.stops()) => return,
                request = self.requests.recv() => match request {
                    Some(done) => Some(done),
                    None => return,
                },
                () = self.env.sleep(self.config.interval) => None,
            };
            let done = match self.round(request.is_some()).await {
                Ok(()) => Ok(()),
                Err(Halt::Stopped) => return,
                Err(Halt::Failed(error)) => return self.shared.wal.set_poison("a write of compaction", &error),
                Err(Halt::Later(reason)) => Err(Error::Busy(reason)),
                Err(Halt::Full) => Err(Error::Busy("the disk is full")),
                Err(Halt::TooLarge) => Err(Error::Busy("a segment would be too large")),
                Err(Halt::Trouble(error) | Halt::Aside(error)) => Err(error),
            };
            if let Err(error) = &done {
                tracing::debug!(%error, "a round of compaction was not all that was due");
            }
            drop(request.map(|request| request.send(done)));
        }
    }

    async fn round(&mut self, asked: bool) -> Result<(), Halt> {
        let passed = self.passes(asked).await;
        if let Err(Halt::Stopped | Halt::Failed(_)) = passed {
            return passed;
        }
        self.note_dirt();
        // On a full disk above all: that gives room.
        self.remove_replaced(asked).await?;
        passed
    }

    /// Tells how much is left to be done.
    fn note_dirt(&self) {
        let now_ms = self.env.now_ms();
        let ratio = |partition: Arc<Partition>| {
            let limits = limits(&partition, now_ms, true, false);
            let config = partition.config();
            partition.read_view().dirty_ratio(&config, &limits)
        };
        let most = self.shared.stable.partitions().into_iter().map(ratio).fold(0.0, f64::max);
        self.shared.compaction.found_dirty(most);
    }

    /// Whether the disk is full: the reserve is not for compaction.
    async fn is_full(&self) -> bool {
        let (shared, disk, room) = (Arc::clone(&self.shared), self.env.disk(), self.room.clone());
        self.env.offload(move || room.look(&*disk, &shared.flush)).await;
        self.shared.flush.is_full()
    }

    /// Compacts every partition that is due, the most urgent first; `asked`: those that met trouble, too, whenever that
    /// was. At the end the first trouble is told.
    async fn passes(&mut self, asked: bool) -> Result<(), Halt> {
        let mut trouble = Ok(());
        let open: BTreeSet<TopicPartition> = self.shared.stable.partitions().iter().map(|p| p.id).collect();
        self.known.retain(|id, _| open.contains(id));
        let mut done = BTreeSet::new();
        let soon = self.due(&done, true, asked, &mut trouble).await?;
        if soon.is_empty() {
            return trouble;
        }
        if self.is_full().await {
            return Err(Halt::Full);
        }
        // What was sealed lately may be in memory only.
        soon.into_iter().for_each(|(partition, _)| self.shared.flush.seal(partition));
        self.shared.all_flushed().await.ok_or(Halt::Stopped)?;
        loop {
            let due = self.due(&done, false, asked, &mut trouble).await?.into_iter();
            let most = due.max_by(|(_, one), (_, other)| one.urgency.total_cmp(&other.urgency));
            let Some((partition, work)) = most else { return trouble };
            self.goes_on()?;
            if self.is_full().await {
                return Err(Halt::Full);
            }
            let began = self.env.monotonic();
            let passed = self.pass(&partition, &work).await;
            if let Ok(pass) = &passed {
                self.shared.compaction.passed(self.env.monotonic() - began, self.env.now_ms());
                self.note(&partition, &work, &pass.stats, pass.full);
            }
            if !matches!(&passed, Ok(pass) if pass.full) {
                done.insert(partition.id);
            }
            match passed.map(drop).or_else(|halt| self.put_off(&partition, halt)) {
                Err(halt @ (Halt::Stopped | Halt::Full | Halt::Failed(_))) => return Err(halt),
                put_off => trouble = trouble.and(put_off),
            }
            if self.replaced.iter().map(|replaced| u64::from(replaced.size)).sum::<u64>() >= REPLACED_BYTES_MAX {
                self.remove_replaced(asked).await?;
            }
            self.env.step().await;
        }
    }

    /// A pass over this partition has not come to its end. An error where that is to be told, or ends the round.
    fn put_off(&mut self, partition: &Arc<Partition>, halt: Halt) -> Result<(), Halt> {
        let (now, interval) = (self.env.monotonic(), self.config.interval);
        let known = self.known.entry(partition.id).or_default();
        let partition = partition.id;
        match halt {
            Halt::Later(reason) => {
                tracing::debug!(?partition, reason, "compaction has to wait");
                Ok(())
            }
            Halt::Trouble(error) => {
                let again_in = known.pause.begin(now, interval);
                tracing::warn!(%error, ?partition, ?again_in, "a partition could not be compacted");
                Err(Halt::Trouble(error))
            }
            Halt::Aside(error) => {
                known.aside = true;
                tracing::error!(%error, ?partition, "a partition is not compacted any more: it cannot be read");
                Ok(())
            }
            Halt::TooLarge => {
                known.aside = true;
                tracing::error!(
                    ?partition,
                    "a partition is not compacted any more: packed anew, a segment of it would have over 2 GiB; \
                     give its topic a smaller segment.bytes"
                );
                Ok(())
            }
            Halt::Stopped | Halt::Full | Halt::Failed(_) => Err(halt),
        }
    }

    /// The partitions that need a pass, of those that were not done in this round.
    async fn due(
        &mut self,
        done: &BTreeSet<TopicPartition>,
        as_if_flushed: bool,
        asked: bool,
        trouble: &mut Result<(), Halt>,
    ) -> Result<Vec<(Arc<Partition>, Work)>, Halt> {
        let (now_ms, now) = (self.env.now_ms(), self.env.monotonic());
        let mut due = Vec::new();
        for partition in self.shared.stable.partitions() {
            let config = partition.config();
            if !config.compact || done.contains(&partition.id) || partition.check().is_err() {
                continue;
            }
            let known = match self.known(&partition).await {
                Ok(known) => known,
                Err(error) => {
                    tracing::warn!(%error, partition = ?partition.id, "what is left of earlier passes could not be removed");
                    if trouble.is_ok() {
                        *trouble = Err(Halt::Trouble(error));
                    }
                    continue;
                }
            };
            if known.aside || (known.pause.until > now && !asked) {
                continue;
            }
            let limits = limits(&partition, now_ms, as_if_flushed, now_ms >= known.expiry_from_ms);
            let work = partition.read_view().compactable(&config, &limits);
            due.extend(work.map(|work| (partition, work)));
        }
        Ok(due)
    }

    /// What is remembered of a partition; the first time, what a crash has left is swept away.
    async fn known(&mut self, partition: &Arc<Partition>) -> Result<Known, Error> {
        if let Some(known) = self.known.get(&partition.id) {
            return Ok(*known);
        }
        let (shared, disk, swept) = (Arc::clone(&self.shared), self.env.disk(), Arc::clone(partition));
        let sweep = move || swap::sweep(&*disk, &shared.handles, &swept);
        let generation = self.env.offload(sweep).await?;
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
        let known = self.known.entry(partition.id).or_default();
        known.expiry_from_ms = now_ms.saturating_add(pause_ms);
        known.pause = Pause::default();
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
    async fn remove_replaced(&mut self, asked: bool) -> Result<(), Halt> {
        // What was replaced since does not wait for what is stuck: all of it takes room.
        let pauses = self.removals.until > self.env.monotonic() && self.replaced.len() <= self.stuck;
        if self.replaced.is_empty() || (pauses && !asked) {
            return Ok(());
        }
        let (done, outcome) = oneshot::channel();
        self.checkpoints.send(done).await.map_err(|_| Halt::Stopped)?;
        match outcome.await {
            Ok(Ok(())) => {}
            Ok(Err(Error::Busy(_))) => return Err(Halt::Full),
            Ok(Err(error)) => return Err(Halt::Trouble(error)),
            Err(_) => return Err(Halt::Stopped),
        }
        let held = self.show_swapped();
        let mut trouble = Ok(());
        for replaced in std::mem::take(&mut self.replaced) {
            self.goes_on()?;
            if held.contains(&replaced.partition) {
                self.replaced.push(replaced);
                continue;
            }
            let removed = self.discard(replaced).await;
            trouble = trouble.and(removed);
        }
        self.stuck = self.replaced.len();
        if trouble.is_ok() && held.is_empty() {
            self.removals = Pause::default();
        } else {
            self.removals.begin(self.env.monotonic(), self.config.interval);
        }
        trouble.map_err(Halt::Trouble)
    }

    /// Readers see what was swapped. Returns the partitions of which somebody needs some of the old for now.
    fn show_swapped(&self) -> BTreeSet<TopicPartition> {
        let swapped: BTreeSet<TopicPartition> = self.replaced.iter().map(|replaced| replaced.partition).collect();
        let is_held = |id: &TopicPartition| {
            let partition = self.shared.stable.partition(*id);
            let held = partition.is_some_and(|partition| !partition.show_swapped());
            self.shared.cursors.forget(*id);
            held
        };
        swapped.into_iter().filter(is_held).collect()
    }

    /// Removes the files of a segment that is not in use; later, where that does not work.
    pub(super) async fn discard(&mut self, replaced: Replaced) -> Result<(), Error> {
        let Replaced { partition, base, generation, .. } = replaced;
        let (shared, disk) = (Arc::clone(&self.shared), self.env.disk());
        let remove = move || shared.handles.remove(&*disk, partition, base, generation);
        let removed = self.env.offload(remove).await;
        if let Err(error) = &removed {
            tracing::warn!(%error, ?partition, base = base.0, generation, "a segment that is not in use was not removed");
            self.replaced.push(replaced);
        }
        Ok(removed?)
    }

    /// An error when the store stops. Nothing is left half done: a step on the disk is never dropped in its midst.
    pub(super) fn goes_on(&self) -> Result<(), Halt> {
        if stops(&self.stop) || self.shared.wal.poisoned().borrow().is_some() { Err(Halt::Stopped) } else { Ok(()) }
    }

    /// Keeps to the rate.
    pub(super) async fn pause(&self, bytes: usize) -> Result<(), Halt> {
        let rate = self.config.bytes_per_second;
        if rate == 0 {
            return Ok(());
        }
        let us = (bytes as u64).saturating_mul(1_000_000).div_ceil(rate);
        let mut stop = self.stop.clone();
        tokio::select! {
            biased;
            () = self.shared.wal.stopped() => Err(Halt::Stopped),
            _ = stop.wait_for(|stage| stage.stops()) => Err(Halt::Stopped),
            () = self.env.sleep(Duration::from_micros(us)) => Ok(()),
        }
    }
}

fn limits(partition: &Partition, now_ms: i64, as_if_flushed: bool, expiry: bool) -> Limits {
    let (last_stable, held_from) = (partition.last_stable(), partition.held_from());
    Limits { now_ms, last_stable, held_from, as_if_flushed, expiry }
}
