//! From memory to segments: durable batches are written to their places in their files, through the page cache, in
//! the order of the log and many of a partition at once. Nobody waits for it but a checkpoint, and writers when too much
//! is in memory only.

mod writeback;
mod writer;

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

pub(super) use self::writer::Flusher;
use super::partition::Partition;
use super::producers::Producers;
use crate::record::{Batch, Offset, TopicPartition};

/// A round of writes is worth it for so much of each partition, and never for less in all. The smaller the rounds, the
/// shorter are the syncs that the write-ahead log's have to share the disk with; the larger, the fewer writes.
const RUN_BYTES: usize = 64 * 1024;
const ROUND_BYTES: usize = 1024 * 1024;

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
    /// Nothing more is written to segments.
    no_more: Notify,
    /// Bytes that are worth a round of writes, whatever the partitions.
    enough: usize,
    /// Bytes in memory over which writers wait.
    bytes_max: usize,
}

#[derive(Default)]
struct Queue {
    work: Vec<Work>,
    bytes: usize,
    /// Of the batches in `work`.
    partitions: BTreeSet<TopicPartition>,
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

impl Queue {
    fn is_worth_it(&self, enough: usize) -> bool {
        self.bytes >= (RUN_BYTES * self.partitions.len()).max(ROUND_BYTES).min(enough)
    }
}

impl Flush {
    pub fn new(enough: usize, bytes_max: usize) -> Flush {
        Flush {
            queue: Mutex::default(),
            work: Notify::new(),
            done: Notify::new(),
            removal: Notify::new(),
            no_more: Notify::new(),
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
        queue.partitions.extend(batches.iter().map(|unflushed| unflushed.partition.id));
        queue.work.extend(batches.into_iter().map(Work::Batch));
        let due = queue.is_worth_it(self.enough);
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
                let due = queue.is_worth_it(self.enough) || queue.urgent > queue.written || queue.closed;
                if due && !queue.work.is_empty() {
                    queue.writing = std::mem::take(&mut queue.bytes);
                    queue.partitions.clear();
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
        self.no_more.notify_one();
    }

    fn written(&self, count: usize) {
        let mut queue = self.lock();
        queue.written += count as u64;
        queue.writing = 0;
        drop(queue);
        self.done.notify_waiters();
    }
}
