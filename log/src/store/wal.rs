//! The write-ahead log's writer: drain the queue, one vectored write, one sync, one message a shard; meanwhile the next
//! group gathers. There is no linger: a group is what came while the one before was on its way to the disk.
//!
//! After a failed write or sync nobody knows what is on the disk: the log is poisoned, everything that waits learns it,
//! and the process is to stop and recover. A sync is never repeated.

use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, watch};

use super::files::Files;
use super::format::{ENTRY_HEADER, EntryHeader, FILE_HEADER, FileHeader, GROUP_HEADER, GroupHeader, Kind};
use super::partition::Place;
use crate::env::{Env, File, Lock, Open};
use crate::record::{BATCH_HEADER, Batch, LeaderEpoch, Offset, TopicId, TopicPartition};

/// Bodies up to this size are copied beside their headers: one slice instead of two for the system to walk.
const COPY_MAX: usize = 4096;
/// Lazy items wait for company up to this many bytes: as much as one write carries at the cost of its sync.
const LAZY_BYTES: usize = 1024 * 1024;

/// For entries that are not about a partition.
const NONE: TopicPartition = TopicPartition { topic: TopicId([0; 16]), partition: 0 };

/// What the log is asked to keep.
#[derive(Clone, Debug)]
pub(super) enum Item {
    Batch { partition: TopicPartition, batch: Batch },
    LogStart { partition: TopicPartition, epoch: LeaderEpoch, start: Offset },
    State { partition: TopicPartition, epoch: LeaderEpoch, bytes: Bytes },
    Freed { files: Vec<u32> },
}

impl Item {
    /// Bytes in the file, but for the group's header.
    fn size(&self) -> usize {
        ENTRY_HEADER
            + match self {
                Item::Batch { batch, .. } => batch.size(),
                Item::LogStart { .. } => 0,
                Item::State { bytes, .. } => bytes.len(),
                Item::Freed { files } => files.len() * 4,
            }
    }

    fn header(&self) -> EntryHeader {
        let len = (self.size() - ENTRY_HEADER) as u32;
        match self {
            Item::Batch { partition, batch } => EntryHeader {
                kind: Kind::Batch,
                len,
                partition: *partition,
                epoch: batch.leader_epoch(),
                base_offset: batch.base_offset(),
            },
            Item::LogStart { partition, epoch, start } => {
                EntryHeader { kind: Kind::LogStart, len, partition: *partition, epoch: *epoch, base_offset: *start }
            }
            Item::State { partition, epoch, .. } => {
                EntryHeader { kind: Kind::State, len, partition: *partition, epoch: *epoch, base_offset: Offset(0) }
            }
            Item::Freed { .. } => {
                EntryHeader { kind: Kind::Freed, len, partition: NONE, epoch: LeaderEpoch(0), base_offset: Offset(0) }
            }
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

/// The places of a shard's items in the order it pushed them.
#[derive(Default)]
struct Durable {
    places: Mutex<Vec<Place>>,
    some: Notify,
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

    /// The next places of a shard's items, in order; waits for some.
    pub async fn durable(&self, shard: usize) -> Vec<Place> {
        let durable = &self.shards[shard];
        loop {
            let places = std::mem::take(&mut *lock(&durable.places));
            if !places.is_empty() {
                return places;
            }
            durable.some.notified().await;
        }
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

    fn set_poison(&self, error: &std::io::Error) {
        self.poison.send_replace(Some(Arc::from(format!("a write to the write-ahead log failed: {error}"))));
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

    fn complete(&self, group: &[(usize, Item)], places: &[Place]) {
        for (shard, durable) in self.shards.iter().enumerate() {
            let own = group.iter().zip(places).filter(|((of, _), _)| *of == shard).map(|(_, place)| *place);
            let mut waiting = lock(&durable.places);
            let before = waiting.len();
            waiting.extend(own);
            let some = waiting.len() > before;
            drop(waiting);
            if some {
                durable.some.notify_one();
            }
        }
    }
}

/// Where the log ends: what recovery found, or a new log's beginning.
pub(super) struct End {
    pub file: Option<OpenFile>,
    pub next_number: u32,
    pub next_sequence: u64,
    pub previous_end: u64,
}

/// The file that is being written.
pub(super) struct OpenFile {
    pub number: u32,
    pub generation: u64,
    pub file: Arc<dyn File>,
    pub end: u64,
}

/// The one writer. See [`Writer::run`].
pub(super) struct Writer {
    pub env: Env,
    pub dir: PathBuf,
    pub wal: Arc<Wal>,
    pub files: Arc<Files>,
    pub end: End,
    pub file_bytes: u64,
    pub group_bytes: usize,
    pub acknowledge: Acknowledge,
    /// Of the data directory: nobody else opens it while this writes.
    pub _lock: Box<dyn Lock>,
}

impl Writer {
    /// Writes until the queue is closed and empty, or a write fails.
    pub async fn run(mut self) {
        let mut group = Vec::new();
        let mut arena = Vec::new();
        while self.wal.take(self.group_bytes, &mut group).await {
            if let Err(error) = self.write(&group, &mut arena).await {
                tracing::error!(%error, "the write-ahead log cannot go on; stop and start again to recover");
                self.wal.set_poison(&error);
                return;
            }
            group.clear();
            // Others may run between groups, so that a simulation sees every order.
            self.env.step().await;
        }
    }

    async fn write(&mut self, group: &[(usize, Item)], arena: &mut Vec<u8>) -> std::io::Result<()> {
        let body = group.iter().map(|(_, item)| item.size()).sum::<usize>();
        self.make_room(body as u64 + GROUP_HEADER as u64)?;
        let file = self.end.file.as_mut().expect("there is room in one");
        let places = lay_out(group, file.number, file.end + GROUP_HEADER as u64, arena);
        let slices = slices_of(group, arena);
        let body_crc = slices.iter().fold(0, |crc, slice| crc32c::crc32c_append(crc, slice));
        let header = GroupHeader {
            body_len: u32::try_from(body).map_err(|_| std::io::ErrorKind::InvalidInput)?,
            sequence: self.end.next_sequence,
            previous_end: self.end.previous_end,
            generation: file.generation,
            entries: group.len() as u32,
            body_crc,
        }
        .encode();
        let mut all = Vec::with_capacity(slices.len() + 1);
        all.push(IoSlice::new(&header));
        all.extend(slices.into_iter().map(IoSlice::new));

        let began = self.env.monotonic();
        file.file.write_at(file.end, &all)?;
        let written = self.env.monotonic();
        // Counted before anybody can take it away, and before the next file begins.
        self.files.live(places.iter().copied(), true);
        #[cfg(test)]
        if self.acknowledge == Acknowledge::BeforeSync {
            self.wal.complete(group, &places);
            self.env.step().await;
        }
        file.file.sync_data()?;
        let synced = self.env.monotonic();

        file.end += (GROUP_HEADER + body) as u64;
        self.end.previous_end = file.end;
        self.end.next_sequence += 1;
        let figures = &self.wal.figures;
        figures.groups.fetch_add(1, Ordering::Relaxed);
        figures.entries.fetch_add(group.len() as u64, Ordering::Relaxed);
        figures.bytes.fetch_add((GROUP_HEADER + body) as u64, Ordering::Relaxed);
        figures.write_us.fetch_add((written - began).as_micros() as u64, Ordering::Relaxed);
        figures.sync_us.fetch_add((synced - written).as_micros() as u64, Ordering::Relaxed);
        for (_, item) in group {
            if let Item::Freed { files } = item {
                self.files.free(files);
            }
        }
        if self.acknowledge == Acknowledge::AfterSync {
            self.wal.complete(group, &places);
        }
        Ok(())
    }

    /// Begins a new file where `bytes` do not fit into the current one.
    fn make_room(&mut self, bytes: u64) -> std::io::Result<()> {
        let fits = self.end.file.as_ref().is_some_and(|file| file.end + bytes <= self.file_bytes);
        if !fits {
            self.end.file = Some(self.begin_file()?);
        }
        Ok(())
    }

    /// Creates the next file, with the list of files in its first group, durable under its name.
    fn begin_file(&mut self) -> std::io::Result<OpenFile> {
        let number = self.end.next_number;
        let generation = self.env.random_u64();
        let disk = self.env.disk();
        let file = disk.open(&self.dir.join(Files::name(number)), Open::Create)?;
        let head = FileHeader { number, generation, first_sequence: self.end.next_sequence }.encode();

        let mut numbers = self.files.named();
        numbers.push(number);
        let list: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let entry = EntryHeader {
            kind: Kind::Files,
            len: list.len() as u32,
            partition: NONE,
            epoch: LeaderEpoch(0),
            base_offset: Offset(0),
        }
        .encode();
        let group = GroupHeader {
            body_len: (entry.len() + list.len()) as u32,
            sequence: self.end.next_sequence,
            previous_end: self.end.previous_end,
            generation,
            entries: 1,
            body_crc: crc32c::crc32c_append(crc32c::crc32c(&entry), &list),
        }
        .encode();
        let slices = [&head[..], &group, &entry, &list];
        file.write_at(0, &slices.map(IoSlice::new))?;
        file.sync_data()?;
        disk.sync_dir(&self.dir)?;

        let end = slices.iter().map(|slice| slice.len() as u64).sum();
        assert!(end >= FILE_HEADER as u64, "groups stand behind the header");
        self.end.next_number += 1;
        self.end.next_sequence += 1;
        self.end.previous_end = end;
        self.files.add(number, Arc::clone(&file));
        Ok(OpenFile { number, generation, file, end })
    }
}

/// Fills the arena with entry headers, batch headers and small bodies, and gives the place of each item's payload.
fn lay_out(group: &[(usize, Item)], file: u32, mut at: u64, arena: &mut Vec<u8>) -> Vec<Place> {
    arena.clear();
    let mut places = Vec::with_capacity(group.len());
    for (_, item) in group {
        arena.extend_from_slice(&item.header().encode());
        match item {
            Item::Batch { batch, .. } => {
                arena.extend_from_slice(batch.header());
                if batch.body().len() <= COPY_MAX {
                    arena.extend_from_slice(batch.body());
                }
            }
            Item::LogStart { .. } => {}
            Item::State { bytes, .. } => arena.extend_from_slice(bytes),
            Item::Freed { files } => files.iter().for_each(|number| arena.extend_from_slice(&number.to_le_bytes())),
        }
        let size = item.size();
        let position = u32::try_from(at + ENTRY_HEADER as u64).expect("files are smaller than 4 GiB");
        places.push(Place { file, position, len: (size - ENTRY_HEADER) as u32 });
        at += size as u64;
    }
    places
}

/// The group's body as slices: runs of the arena, and large bodies where they are.
fn slices_of<'a>(group: &'a [(usize, Item)], arena: &'a [u8]) -> Vec<&'a [u8]> {
    let mut slices = Vec::new();
    let (mut from, mut to) = (0, 0);
    for (_, item) in group {
        match item {
            Item::Batch { batch, .. } if batch.body().len() > COPY_MAX => {
                to += ENTRY_HEADER + BATCH_HEADER;
                slices.push(&arena[from..to]);
                slices.push(&batch.body()[..]);
                from = to;
            }
            item => to += item.size(),
        }
    }
    if from < to {
        slices.push(&arena[from..to]);
    }
    slices
}
