//! The write-ahead log: the queue from which its one writer takes groups, and what the shards hear of them.
//!
//! After a failed write or sync nobody knows what is on the disk: the log is poisoned, everything that waits learns it,
//! and the process is to stop and recover. A sync is never repeated.

pub(super) mod files;
pub(super) mod format;
pub(super) mod scan;
pub(super) mod writer;

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use self::format::{ENTRY_HEADER, EntryHeader, Kind};
use crate::record::{Batch, LeaderEpoch, Offset, TopicPartition};

/// Lazy items wait for company up to this many bytes: as much as one write carries at the cost of its sync.
const LAZY_BYTES: usize = 1024 * 1024;

/// What the log is asked to keep.
#[derive(Clone, Debug)]
pub(super) enum Item {
    /// A batch and its place in its segment.
    Batch {
        partition: TopicPartition,
        batch: Batch,
        segment: Offset,
        position: u32,
        /// Its shard is told when it is written, and not only when it is durable.
        eager: bool,
    },
    LogStart {
        partition: TopicPartition,
        epoch: LeaderEpoch,
        start: Offset,
    },
    Deleted {
        partition: TopicPartition,
    },
}

impl Item {
    /// Bytes in the file, but for the group's header.
    fn size(&self) -> usize {
        match self {
            Item::Batch { batch, .. } => ENTRY_HEADER + batch.size(),
            Item::LogStart { .. } | Item::Deleted { .. } => ENTRY_HEADER,
        }
    }

    fn header(&self) -> EntryHeader {
        let len = (self.size() - ENTRY_HEADER) as u32;
        let about = |kind, partition, epoch, base_offset| EntryHeader {
            kind,
            len,
            partition,
            epoch,
            base_offset,
            segment: Offset(0),
            position: 0,
        };
        match self {
            Item::Batch { partition, batch, segment, position, .. } => EntryHeader {
                segment: *segment,
                position: *position,
                ..about(Kind::Batch, *partition, batch.leader_epoch(), batch.base_offset())
            },
            Item::LogStart { partition, epoch, start } => about(Kind::LogStart, *partition, *epoch, *start),
            Item::Deleted { partition } => about(Kind::Deleted, *partition, LeaderEpoch(0), Offset(0)),
        }
    }
}

/// Figures since the start; times in microseconds.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub groups: AtomicU64,
    pub entries: AtomicU64,
    pub bytes: AtomicU64,
    pub write_us: AtomicU64,
    pub sync_us: AtomicU64,
}

/// When a shard is told that its items are safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acknowledge {
    AfterSync,
    /// Wrong, for the test that must notice.
    #[cfg(test)]
    BeforeSync,
}

/// The queue's side of the log: shards push, and collect what has become durable.
pub(super) struct Wal {
    queue: Mutex<Queue>,
    work: Notify,
    shards: Vec<Durable>,
    /// Why the log has stopped.
    poison: watch::Sender<Option<Arc<str>>>,
    /// As `poison`, for the log's own tasks: it wakes them in the order they came, which a simulation counts on.
    stopped: Notify,
    pub figures: Figures,
}

#[derive(Default)]
struct Queue {
    items: Vec<(usize, Item)>,
    bytes: usize,
    closed: bool,
}

/// A shard's items that have become durable, in the order it pushed them.
#[derive(Default)]
struct Durable {
    runs: Mutex<Vec<Run>>,
    some: Notify,
}

/// So many items of a shard went into this file. A run that was written is told once more when it is durable; in between
/// no other of the shard is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub file: u32,
    pub items: usize,
    pub stage: Stage,
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It outlives the process, not the machine. Only told where an item is eager.
    Written,
    Durable,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Wal {
    pub fn new(shards: usize) -> Wal {
        Wal {
            queue: Mutex::default(),
            work: Notify::new(),
            shards: (0..shards).map(|_| Durable::default()).collect(),
            poison: watch::channel(None).0,
            stopped: Notify::new(),
            figures: Figures::default(),
        }
    }

    /// Queues items of one shard in order; `lazy` ones wait for the next group that somebody needs, or for enough of
    /// them. Bounded by what the shards admit.
    pub fn push(&self, shard: usize, items: &mut Vec<Item>, lazy: bool) {
        let mut queue = lock(&self.queue);
        queue.bytes += items.iter().map(Item::size).sum::<usize>();
        queue.items.extend(items.drain(..).map(|item| (shard, item)));
        let enough = queue.bytes >= LAZY_BYTES;
        drop(queue);
        if !lazy || enough {
            self.work.notify_one();
        }
    }

    /// What has become of a shard's items since the last call, in order; waits for some.
    pub async fn durable(&self, shard: usize) -> Vec<Run> {
        loop {
            let runs = self.durable_now(shard);
            if !runs.is_empty() {
                return runs;
            }
            self.shards[shard].some.notified().await;
        }
    }

    /// As [`Wal::durable`], without waiting.
    pub fn durable_now(&self, shard: usize) -> Vec<Run> {
        std::mem::take(&mut *lock(&self.shards[shard].runs))
    }

    /// Has lazy items written too.
    pub fn wake(&self) {
        self.work.notify_one();
    }

    /// Everything queued is still written; then the writer ends.
    pub fn close(&self) {
        lock(&self.queue).closed = true;
        self.work.notify_one();
    }

    pub fn queued_bytes(&self) -> usize {
        lock(&self.queue).bytes
    }

    pub fn poisoned(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.poison.subscribe()
    }

    /// Returns when the log is poisoned.
    pub async fn stopped(&self) {
        loop {
            let notified = self.stopped.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.poison.borrow().is_some() {
                return;
            }
            notified.await;
        }
    }

    /// Nothing is acknowledged from now on: `what` has failed, and nobody knows what is on the disk.
    pub fn set_poison(&self, what: &str, error: &std::io::Error) {
        tracing::error!(%error, what, "the log cannot go on; stop and start again to recover");
        self.poison.send_replace(Some(Arc::from(format!("{what} failed: {error}"))));
        self.stopped.notify_waiters();
    }

    /// The next group: what is queued, up to about `bytes_max`; `None` when closed and empty.
    async fn take(&self, bytes_max: usize, into: &mut Vec<(usize, Item)>) -> bool {
        loop {
            {
                let mut queue = lock(&self.queue);
                if !queue.items.is_empty() {
                    let mut bytes = 0;
                    let fits = |(_, item): &&(usize, Item)| {
                        let fits = bytes < bytes_max;
                        bytes += item.size();
                        fits
                    };
                    let count = queue.items.iter().take_while(fits).count();
                    if count == queue.items.len() {
                        std::mem::swap(&mut queue.items, into);
                        queue.bytes = 0;
                    } else {
                        into.extend(queue.items.drain(..count));
                        queue.bytes -= into.iter().map(|(_, item)| item.size()).sum::<usize>();
                        self.work.notify_one();
                    }
                    return true;
                }
                if queue.closed {
                    return false;
                }
            }
            self.work.notified().await;
        }
    }

    /// The group is written, and not synced; whether somebody was told.
    fn written(&self, group: &[(usize, Item)], file: u32) -> bool {
        let eager = |(shard, item): &(usize, Item)| matches!(item, Item::Batch { eager: true, .. }).then_some(*shard);
        let shards: BTreeSet<usize> = group.iter().filter_map(eager).collect();
        self.tell(group, file, Stage::Written, |shard| shards.contains(&shard));
        !shards.is_empty()
    }

    fn complete(&self, group: &[(usize, Item)], file: u32) {
        self.tell(group, file, Stage::Durable, |_| true);
    }

    fn tell(&self, group: &[(usize, Item)], file: u32, stage: Stage, whom: impl Fn(usize) -> bool) {
        for (shard, durable) in self.shards.iter().enumerate().filter(|(shard, _)| whom(*shard)) {
            let items = group.iter().filter(|(of, _)| *of == shard).count();
            if items > 0 {
                lock(&durable.runs).push(Run { file, items, stage });
                durable.some.notify_one();
            }
        }
    }
}
