//! From memory to segments: durable batches are written to their places in their files, through the page cache, in
//! the order of the log and many of a partition at once. Nobody waits for it but a checkpoint, and writers when too much
//! is in memory only.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::handles::Name;
use super::layout::Suffix;
use super::partition::Partition;
use super::producers::Producers;
use super::room::{FULL_INTERVAL, Room};
use super::{Shared, Stage, seal, stops};
use crate::env::mutant::Mutant;
use crate::env::{Disk, Env};
use crate::record::{Batch, Offset, TopicPartition};

/// Between two looks at files that are written no more.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);

/// A durable batch that is not in its segment's file.
pub(super) struct Unflushed {
    pub partition: Arc<Partition>,
    pub batch: Batch,
    pub segment: Offset,
    pub position: u32,
    /// Of the first batch of a segment: what was known of producers in front of it.
    pub producers: Option<Box<Producers>>,
}

enum Work {
    Batch(Unflushed),
    /// The partition's sealed segments want their indexes, which recovery may have left to be written.
    Seal(Arc<Partition>),
    /// The partition is deleted for good: its files go.
    Remove(TopicPartition),
}

impl Work {
    fn partition(&self) -> Option<TopicPartition> {
        match self {
            Work::Batch(unflushed) => Some(unflushed.partition.id),
            Work::Seal(_) | Work::Remove(_) => None,
        }
    }
}

/// The queue. See the module.
pub(super) struct Flush {
    queue: Mutex<Queue>,
    /// Something is due.
    work: Notify,
    /// Something was written, or removed.
    done: Notify,
    /// There is something to remove.
    removal: Notify,
    /// There may be something to sync.
    written_much: Notify,
    /// Bytes that are worth a round of writes.
    enough: usize,
    /// Bytes in memory over which writers wait.
    bytes_max: usize,
}

#[derive(Default)]
struct Queue {
    work: Vec<Work>,
    bytes: usize,
    /// Bytes that a round is writing now.
    writing: usize,
    queued: u64,
    written: u64,
    /// Everything up to this is wanted now.
    urgent: u64,
    closed: bool,
    /// Nobody writes any more, and not everything was written.
    given_up: bool,
    /// The disk has less room than the reserve, or had none for the last write.
    full: bool,
    /// Partitions whose files go, and how many there were of them and how many are gone.
    removing: VecDeque<TopicPartition>,
    to_remove: u64,
    removed: u64,
    /// Nothing more is written to segments.
    ended: bool,
}

impl Flush {
    pub fn new(enough: usize, bytes_max: usize) -> Flush {
        Flush {
            queue: Mutex::default(),
            work: Notify::new(),
            done: Notify::new(),
            removal: Notify::new(),
            written_much: Notify::new(),
            enough,
            bytes_max,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Batches have become durable.
    pub fn push(&self, batches: Vec<Unflushed>) {
        if batches.is_empty() {
            return;
        }
        let mut queue = self.lock();
        queue.queued += batches.len() as u64;
        queue.bytes += batches.iter().map(|unflushed| unflushed.batch.size()).sum::<usize>();
        queue.work.extend(batches.into_iter().map(Work::Batch));
        let due = queue.bytes >= self.enough;
        drop(queue);
        if due {
            self.work.notify_one();
        }
    }

    /// Recovery has found no room for these. They are not counted: nobody is to wait for them to be written.
    pub fn push_recovered(&self, batches: Vec<Unflushed>) {
        if batches.is_empty() {
            return;
        }
        let mut queue = self.lock();
        queue.queued += batches.len() as u64;
        queue.urgent = queue.queued;
        queue.work.extend(batches.into_iter().map(Work::Batch));
        drop(queue);
        self.work.notify_one();
    }

    /// A partition's deletion is durable.
    pub fn remove(&self, partition: TopicPartition) {
        self.push_urgent(Work::Remove(partition));
    }

    /// Has the indexes written of all segments of a partition that are sealed.
    pub fn seal(&self, partition: Arc<Partition>) {
        self.push_urgent(Work::Seal(partition));
    }

    fn push_urgent(&self, work: Work) {
        let mut queue = self.lock();
        queue.queued += 1;
        queue.urgent = queue.queued;
        queue.work.push(work);
        drop(queue);
        self.work.notify_one();
    }

    /// Returns when everything that was queued before the call is in its file, or removed; none when it will never be.
    pub async fn all(&self) -> Option<()> {
        let target = {
            let mut queue = self.lock();
            queue.urgent = queue.queued;
            queue.queued
        };
        self.work.notify_one();
        self.until(|queue| queue.written >= target || queue.given_up).await;
        let target_removed = {
            let queue = self.lock();
            (queue.written >= target).then_some(queue.to_remove)?
        };
        self.until(|queue| queue.removed >= target_removed).await;
        Some(())
    }

    /// Returns when there is room for more in memory, or nobody makes room any more: then the log ends, and little comes.
    pub async fn room(&self) {
        let max = self.bytes_max;
        if self.bytes() > max {
            self.work.notify_one();
            self.until(|queue| queue.bytes + queue.writing <= max || queue.given_up).await;
        }
    }

    async fn until(&self, reached: impl Fn(&Queue) -> bool) {
        loop {
            let done = self.done.notified();
            tokio::pin!(done);
            done.as_mut().enable();
            if reached(&self.lock()) {
                return;
            }
            done.await;
        }
    }

    /// Bytes that are durable and not in their files.
    pub fn bytes(&self) -> usize {
        let queue = self.lock();
        queue.bytes + queue.writing
    }

    /// Whether nothing is to be taken from producers because the disk is full.
    pub fn is_full(&self) -> bool {
        self.lock().full
    }

    /// Returns when the disk has room for producers, or the log ends. Cancel safe.
    pub async fn not_full(&self) {
        if self.is_full() {
            self.until(|queue| !queue.full || queue.closed).await;
        }
    }

    /// So much room was found on the disk.
    pub fn set_free(&self, free_bytes: u64, reserve_bytes: u64) {
        // Without a reserve, too, nothing fits where there is nothing.
        let full = free_bytes < reserve_bytes.max(1);
        let was = std::mem::replace(&mut self.lock().full, full);
        match (was, full) {
            (false, true) => tracing::warn!(free_bytes, reserve_bytes, "the disk is full: producers have to wait"),
            (true, false) => tracing::info!(free_bytes, "the disk has room again"),
            _ => {}
        }
        if was && !full {
            self.done.notify_waiters();
        }
    }

    /// A write found no room at all.
    pub fn set_full(&self) {
        if !std::mem::replace(&mut self.lock().full, true) {
            tracing::warn!("the disk has no room left: producers have to wait");
        }
    }

    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Partitions in the queue whose files are to go. They stay in it.
    fn removals(&self) -> Vec<TopicPartition> {
        let removed = |work: &Work| match work {
            Work::Remove(partition) => Some(*partition),
            Work::Batch(_) | Work::Seal(_) => None,
        };
        self.lock().work.iter().filter_map(removed).collect()
    }

    /// What is queued is not written any more.
    fn give_up(&self) {
        self.lock().given_up = true;
        self.done.notify_waiters();
    }

    /// What is queued is still written; then the flusher ends.
    pub fn close(&self) {
        self.lock().closed = true;
        self.work.notify_one();
        self.done.notify_waiters();
    }

    /// The next round; `None` when closed and empty.
    async fn take(&self) -> Option<Vec<Work>> {
        loop {
            {
                let mut queue = self.lock();
                let due = queue.bytes >= self.enough || queue.urgent > queue.written || queue.closed;
                if due && !queue.work.is_empty() {
                    queue.writing = std::mem::take(&mut queue.bytes);
                    return Some(std::mem::take(&mut queue.work));
                }
                if queue.closed {
                    return None;
                }
            }
            self.work.notified().await;
        }
    }

    /// Nothing writes into the directories of these partitions any more.
    fn hand_over(&self, removed: &BTreeSet<TopicPartition>) {
        let mut queue = self.lock();
        queue.to_remove += removed.len() as u64;
        queue.removing.extend(removed);
        drop(queue);
        self.removal.notify_one();
    }

    /// The next partition whose files go; `None` at the end.
    async fn next_removal(&self) -> Option<TopicPartition> {
        loop {
            {
                let mut queue = self.lock();
                let next = queue.removing.pop_front();
                if next.is_some() || queue.ended {
                    return next;
                }
            }
            self.removal.notified().await;
        }
    }

    fn is_removed(&self) {
        self.lock().removed += 1;
        self.done.notify_waiters();
    }

    fn end(&self) {
        self.lock().ended = true;
        self.removal.notify_one();
        self.written_much.notify_one();
    }

    fn written(&self, count: usize) {
        let mut queue = self.lock();
        queue.written += count as u64;
        queue.writing = 0;
        drop(queue);
        self.done.notify_waiters();
    }
}

/// The one that writes segments. See the module.
pub(super) struct Flusher {
    pub env: Env,
    pub shared: Arc<Shared>,
    pub room: Room,
    /// A segment of which so much is not synced is synced.
    pub sync_bytes: u32,
    pub stop: watch::Receiver<Stage>,
}

/// Consecutive batches of one segment.
struct Run {
    partition: Arc<Partition>,
    batches: Vec<Batch>,
    position: u32,
    producers: Option<Box<Producers>>,
}

impl Flusher {
    /// Writes until the queue is closed and empty, or a write fails for good.
    pub async fn run(self) {
        let shared = Arc::clone(&self.shared);
        tokio::select! {
            biased;
            () = shared.wal.stopped() => {}
            () = self.work() => {}
        }
    }

    async fn work(&self) {
        tokio::join!(biased; self.write_all(), self.remove_all(), self.sync_all());
    }

    async fn write_all(&self) {
        self.write_rounds().await;
        self.shared.flush.end();
    }

    /// Removes files beside the writing: it takes the longer the larger they are.
    async fn remove_all(&self) {
        while let Some(partition) = self.shared.flush.next_removal().await {
            let (disk, shared) = (self.env.disk(), Arc::clone(&self.shared));
            let removed = self.env.offload(move || shared.handles.remove_partition(&*disk, partition)).await;
            if let Err(error) = removed {
                return self.shared.wal.set_poison("a removal of a partition's files", &error);
            }
            self.shared.flush.is_removed();
            self.env.step().await;
        }
    }

    /// Syncs segments that have got much since their last sync, and closes those that nobody uses any more, beside the
    /// writing.
    async fn sync_all(&self) {
        let bytes_min = self.sync_bytes;
        let mut look_at = self.env.monotonic() + IDLE_INTERVAL;
        while !self.shared.flush.lock().ended {
            let (shared, written_much) = (Arc::clone(&self.shared), self.shared.flush.written_much.notified());
            let wait = look_at.saturating_sub(self.env.monotonic());
            if wait.is_zero() {
                look_at = self.env.monotonic() + IDLE_INTERVAL;
            }
            let sync = move || {
                if wait.is_zero() {
                    shared.handles.sync_idle()?;
                }
                shared.handles.sync_largest(bytes_min)
            };
            match self.env.offload(sync).await {
                Ok(true) => self.env.step().await,
                Ok(false) => drop(self.env.timeout(wait, written_much).await),
                Err(error) => return self.shared.wal.set_poison("a sync of a segment", &error),
            }
        }
    }

    async fn write_rounds(&self) {
        let mut written = BTreeSet::new();
        while let Some(work) = self.shared.flush.take().await {
            let count = work.len();
            written.extend(work.iter().filter_map(Work::partition));
            match self.round(work).await {
                Ok(()) => {}
                // The next start writes it: it stands in the write-ahead log.
                Err(error) if error.kind() == io::ErrorKind::StorageFull && stops(&self.stop) => {
                    tracing::warn!("the log stops with a full disk");
                    return self.shared.flush.give_up();
                }
                Err(error) => return self.shared.wal.set_poison("a write to a segment", &error),
            }
            self.room.look(&*self.env.disk(), &self.shared.flush);
            self.shared.flush.written(count);
            self.shared.flush.written_much.notify_one();
            self.shared.tail.evict();
            self.env.step().await;
        }
        let disk = self.env.disk();
        for partition in written.into_iter().filter_map(|id| self.shared.stable.partition(id)) {
            if let Err(error) = seal::describe(&*disk, &self.shared.handles, &partition) {
                tracing::warn!(%error, partition = ?partition.id, "a file for Kafka's tools was not written");
            }
        }
    }

    async fn round(&self, work: Vec<Work>) -> io::Result<()> {
        let mut runs: BTreeMap<(TopicPartition, Offset), Run> = BTreeMap::new();
        let mut removed = BTreeSet::new();
        let mut sealed = Vec::new();
        for work in work {
            match work {
                Work::Batch(Unflushed { partition, batch, segment, position, producers }) => {
                    let key = (partition.id, segment);
                    let fresh = || Run { partition, batches: Vec::new(), position, producers };
                    let run = runs.entry(key).or_insert_with(fresh);
                    run.batches.push(batch);
                }
                Work::Seal(partition) => sealed.push(partition),
                Work::Remove(partition) => drop(removed.insert(partition)),
            }
        }
        // First, for that gives room.
        self.shared.flush.hand_over(&removed);
        for ((id, segment), run) in runs {
            if !removed.contains(&id) && !run.partition.is_closed() {
                self.write(segment, &run).await?;
                let handles = &self.shared.handles;
                let producers = run.producers.as_deref();
                let beside = |disk: &dyn Disk| {
                    seal::begin(disk, handles, &run.partition, segment, producers)?;
                    seal::end(disk, handles, &run.partition)
                };
                self.with_room(&run.partition, beside).await?;
                self.shared.handles.shrink()?;
            }
        }
        for partition in sealed.iter().filter(|partition| !removed.contains(&partition.id) && !partition.is_closed()) {
            self.with_room(partition, |disk| seal::end(disk, &self.shared.handles, partition)).await?;
        }
        Ok(())
    }

    /// Writes, again and again until the disk has room for it or the partition is deleted: it is in memory and in the
    /// write-ahead log. `StorageFull` when the log is to end before.
    async fn with_room(
        &self,
        partition: &Partition,
        mut write: impl FnMut(&dyn Disk) -> io::Result<()>,
    ) -> io::Result<()> {
        let disk = self.env.disk();
        loop {
            match write(&*disk) {
                Err(error) if error.kind() == io::ErrorKind::StorageFull && !Mutant::FullDiskForgets.is_on() => {
                    let flush = &self.shared.flush;
                    flush.set_full();
                    // No checkpoint comes before there is room, and what gives room has to be written.
                    self.shared.files.press(true);
                    if stops(&self.stop) {
                        return Err(error);
                    }
                    let gone = flush.removals();
                    gone.into_iter().try_for_each(|id| self.shared.handles.remove_partition(&*disk, id))?;
                    if partition.is_closed() {
                        return Ok(());
                    }
                    self.env.sleep(FULL_INTERVAL).await;
                }
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
                other => return other,
            }
        }
    }

    /// Writes batches that lie one behind the other, and says so.
    async fn write(&self, segment: Offset, run: &Run) -> io::Result<()> {
        let name = Name { partition: run.partition.id, segment, generation: 0, suffix: Suffix::Log };
        let slices: Vec<IoSlice<'_>> =
            run.batches.iter().flat_map(|batch| [IoSlice::new(batch.header()), IoSlice::new(batch.body())]).collect();
        let end = run.position + slices.iter().map(|slice| slice.len() as u32).sum::<u32>();
        let handles = &self.shared.handles;
        let write = |disk: &dyn Disk| {
            let file = handles.for_writing(disk, name)?;
            file.write_at(u64::from(run.position), &slices)?;
            handles.written(name, file, run.position, end);
            Ok(())
        };
        self.with_room(&run.partition, write).await?;
        if run.partition.is_closed() {
            return Ok(());
        }
        let next = run.batches.last().map_or(segment, Batch::next_offset);
        run.partition.write_view().set_flushed(segment, end, next);
        Ok(())
    }
}
