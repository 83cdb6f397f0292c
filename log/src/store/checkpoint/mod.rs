//! Checkpoints: from time to time everything in front of a file of the write-ahead log is made durable in its place, so
//! that recovery begins there and the files before are used again.
//!
//! ```text
//!  1  settle    what the log holds in front of its newest file is visible, and flushed to segments
//!  2  sync      large unsynced ends of segments, few at a time; small ones are written to the log once more instead
//!  3  capture   where every partition stands that has changed, some at a time, when all of that is durable
//!  4  write     the captured records and the number of the newest file, synced: from here on recovery begins there
//!  5  release   the files before are free; segments below the log starts go
//! ```
//!
//! A crash at any point leaves the checkpoint before in force, with all files that it needs.

mod record;
mod table;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

pub(super) use self::record::{Standing, decode};
pub(super) use self::table::Table;
use super::cold;
use super::handles::{Dirty, Name, syncs_at_once};
use super::layout::Suffix;
use super::owned::Slot;
use super::partition::Cold;
use super::room::FULL_INTERVAL;
use super::shard::Message;
use super::{Shared, Stage, Waits, stops};
use crate::Error;
use crate::env::mutant::Mutant;
use crate::env::{Env, Lock};
use crate::record::{Batch, Offset, TopicPartition};

/// What the shards said: where partitions stand, encoded, and which are gone.
pub(super) struct Captured {
    pub records: Vec<(TopicPartition, Bytes)>,
    pub removed: Vec<TopicPartition>,
}

/// The task. See the module.
pub(super) struct Checkpointer {
    pub env: Env,
    pub shared: Arc<Shared>,
    /// Weak: when everybody else is gone the shards end.
    pub shards: Vec<mpsc::WeakSender<Message>>,
    pub table: Arc<Mutex<Table>>,
    pub requests: mpsc::Receiver<Waits>,
    pub stop: watch::Receiver<Stage>,
    /// Nobody else may open the directory before this task has ended.
    pub _lock: Arc<dyn Lock>,
    /// A checkpoint is due when recovery would read so many files.
    pub files: usize,
    /// An unsynced end of a segment of at most so many bytes is copied.
    pub copy_bytes: u32,
    /// Bytes copied in one checkpoint.
    pub copy_bytes_all: usize,
}

/// What a shard tells of its partitions at once, in entries of their records: some 0.3 ms.
const CAPTURE_ENTRIES: usize = if cfg!(test) { 3 } else { 8192 };

/// A partition that has changed, and how many entries about its record has.
pub(super) struct Changed {
    pub partition: TopicPartition,
    pub entries: usize,
}

/// The first of them, at least one where there is one, and as many as fit.
fn take_part(changed: &mut VecDeque<Changed>) -> Vec<TopicPartition> {
    let mut left = CAPTURE_ENTRIES;
    let mut part = Vec::new();
    while let Some(next) = changed.pop_front_if(|next| part.is_empty() || next.entries <= left) {
        left = left.saturating_sub(next.entries);
        part.push(next.partition);
    }
    part
}

/// Files and what of them is not synced.
type Ends = Vec<(Name, Dirty)>;

/// Why the work ends.
enum End {
    /// The log stops: somebody who is asked is gone.
    Stopped,
    Failed(io::Error),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> End {
        End::Failed(error)
    }
}

impl Checkpointer {
    /// Works until the log stops or a write fails.
    pub async fn run(mut self) {
        self.work_until_the_end().await;
        // The writer waits for no checkpoint any more.
        self.shared.files.press(true);
    }

    async fn work_until_the_end(&mut self) {
        let shared = Arc::clone(&self.shared);
        loop {
            let request = tokio::select! {
                biased;
                () = shared.wal.stopped() => return,
                _ = self.stop.wait_for(|stage| *stage == Stage::Ended) => return,
                request = self.requests.recv() => match request {
                    Some(done) => Some(done),
                    None => return,
                },
                () = shared.files.wanted.notified() => None,
            };
            let worked = tokio::select! {
                biased;
                // Whom this waits for may have ended.
                () = shared.wal.stopped() => return,
                worked = self.work(request.is_some()) => worked,
            };
            match worked {
                Ok(()) => drop(request.map(|done| done.send(Ok(())))),
                Err(End::Stopped) => return,
                // The checkpoint before stays in force. Whoever asked for this one hears that it is not.
                Err(End::Failed(error)) if error.kind() == io::ErrorKind::StorageFull => {
                    self.shared.flush.set_full();
                    drop(request.map(|done| done.send(Err(Error::Busy("the disk is full")))));
                    if stops(&self.stop) {
                        return;
                    }
                    self.env.sleep(FULL_INTERVAL).await;
                    self.shared.files.wanted.notify_one();
                }
                Err(End::Failed(error)) => {
                    self.shared.wal.set_poison("a checkpoint", &error);
                    return;
                }
            }
            self.env.step().await;
        }
    }

    async fn work(&mut self, asked: bool) -> Result<(), End> {
        let (files, disk) = (Arc::clone(&self.shared.files), self.env.disk());
        self.env.offload(move || files.prepare(&*disk)).await?;
        if self.shared.files.take_starved() || asked || self.shared.files.needed() > self.files {
            let outcome = self.checkpoint().await;
            self.shared.files.press(false);
            outcome?;
        }
        Ok(())
    }

    async fn ask<T>(
        &self,
        shard: &mpsc::WeakSender<Message>,
        message: impl FnOnce(oneshot::Sender<T>) -> Message,
    ) -> Result<T, End> {
        let (done, outcome) = oneshot::channel();
        shard.upgrade().ok_or(End::Stopped)?.send(message(done)).await.map_err(|_| End::Stopped)?;
        outcome.await.map_err(|_| End::Stopped)
    }

    async fn checkpoint(&self) -> Result<(), End> {
        let began = self.env.monotonic();
        let first_file = self.shared.files.newest();
        for shard in &self.shards {
            self.ask(shard, Message::Settle).await?;
        }
        self.shared.flush.all().await.ok_or(End::Stopped)?;
        let (small, large) = self.split(self.shared.handles.take_dirty());
        let synced = large.len();
        let mut indexed = self.shared.handles.take_synced_indexes();
        indexed.extend(large.iter().map(|(name, _)| *name).filter(|name| name.suffix == Suffix::TimeIndex));
        if !Mutant::CheckpointBeforeSync.is_on() {
            self.sync(large).await?;
        }
        if Mutant::LogReleasedEarly.is_on() {
            self.shared.files.release_below(first_file);
        }
        indexed.into_iter().for_each(|name| self.forget_index(name));
        // What the following waits for has to be written, room or not.
        self.shared.files.press(true);
        if !Mutant::SmallEndsForgotten.is_on() {
            self.copy(small).await?;
        }
        if !Mutant::SegmentsUnnamed.is_on() {
            self.sync_directories().await?;
        }
        let captured = self.capture().await?;
        let partitions = captured.records.len();
        let (table, disk) = (Arc::clone(&self.table), self.env.disk());
        let write = move || table.lock().unwrap_or_else(PoisonError::into_inner).write(&*disk, captured, first_file);
        self.env.offload(write).await?;
        self.shared.files.press(false);
        self.shared.files.release_below(first_file);
        self.sweep(first_file).await?;
        let ms = (self.env.monotonic() - began).as_millis() as u64;
        tracing::debug!(first_file, synced, partitions, ms, "checkpoint");
        Ok(())
    }

    /// Small ends to be copied, and the rest.
    fn split(&self, dirty: BTreeMap<Name, Dirty>) -> (Ends, Ends) {
        // Not of a file that compaction has replaced: its name may be gone soon, and nobody would forget it again. Nor of
        // one below the log start: it goes only when the log holds nothing of it.
        let is_needed = |name: &Name| {
            let partition = self.shared.stable.partition(name.partition);
            partition.is_some_and(|partition| partition.read_view().needs((name.segment, name.generation)))
        };
        let may_copy = |(name, dirty): &(Name, Dirty)| {
            name.suffix == Suffix::Log && dirty.to - dirty.from <= self.copy_bytes && is_needed(name)
        };
        // All of some was synced before.
        let unsynced = dirty.into_iter().filter(|(_, dirty)| dirty.from < dirty.to);
        let (mut small, mut large): (Vec<_>, Vec<_>) = unsynced.partition(may_copy);
        small.sort_by_key(|(name, dirty)| (dirty.to - dirty.from, *name));
        let mut left = self.copy_bytes_all;
        let fits = |(_, dirty): &(Name, Dirty)| {
            let bytes = (dirty.to - dirty.from) as usize;
            left.checked_sub(bytes).map(|rest| left = rest).is_some()
        };
        let count = small.iter().map(fits).take_while(|fits| *fits).count();
        large.extend(small.drain(count..));
        (small, large)
    }

    /// The index of a sealed segment is durable in its files: it need not be in memory.
    fn forget_index(&self, name: Name) {
        let Some(partition) = self.shared.stable.partition(name.partition) else { return };
        let forgotten = partition.write_view().forget_index(name.segment, name.generation);
        if forgotten {
            partition.touch();
        }
    }

    /// Little at a time, for the log's syncs wait behind it: first what is left of each file is brought to the disk, with
    /// two on their way. A file system with a journal then has one commit for all of them, at the first sync.
    async fn sync(&self, files: Ends) -> Result<(), End> {
        let mut before: Option<Dirty> = None;
        for (_, dirty) in &files {
            let (dirty, before) = (dirty.clone(), before.replace(dirty.clone()));
            let write_back = move || {
                dirty.start_rest()?;
                before.map_or(Ok(()), |before| before.await_rest())
            };
            self.sync_step(write_back).await?;
        }
        for some in files.chunks(syncs_at_once(files.len())) {
            let (env, some) = (self.env.clone(), some.to_vec());
            self.sync_step(move || env.at_once(&some, |(_, dirty)| dirty.file.sync_data())).await?;
        }
        let shared = Arc::clone(&self.shared);
        Ok(self.env.offload(move || shared.handles.check_synced()).await?)
    }

    async fn sync_step(&self, step: impl FnOnce() -> io::Result<()> + Send + 'static) -> Result<(), End> {
        // Nobody knows what is durable after an error: whatever the reason, it is not to be tried again.
        self.env.offload(step).await.map_err(io::Error::other)?;
        self.env.step().await;
        Ok(())
    }

    async fn sync_directories(&self) -> Result<(), End> {
        let (env, disk) = (self.env.clone(), self.env.disk());
        let paths: Vec<_> = self.shared.handles.take_directories().into_iter().collect();
        let sync_all = move || {
            let mut parts = paths.chunks(syncs_at_once(paths.len()));
            parts.try_for_each(|some| env.at_once(some, |path| sync_dir(&*disk, path)))
        };
        Ok(self.env.offload(sync_all).await?)
    }

    /// Some partitions at a time: a shard does nothing else while it says where they stand. What has changed in front of
    /// the checkpoint's file has done so by now, and what changes meanwhile stands in the log behind.
    async fn capture(&self) -> Result<Captured, End> {
        let mut captured = Captured { records: Vec::new(), removed: Vec::new() };
        for shard in &self.shards {
            let mut changed = self.ask(shard, Message::Changed).await?;
            loop {
                let partitions = take_part(&mut changed);
                let Captured { records, removed } =
                    self.ask(shard, |done| Message::Capture { partitions, done }).await?;
                captured.records.extend(records);
                captured.removed.extend(removed);
                if changed.is_empty() {
                    break;
                }
                self.env.step().await;
            }
        }
        Ok(captured)
    }

    /// Has the unsynced ends of these segments written to the log once more. They stay unsynced.
    async fn copy(&self, files: Ends) -> Result<(), End> {
        let mut waiting = Vec::with_capacity(files.len());
        for (name, dirty) in files {
            self.shared.handles.put_back(name, dirty.clone());
            let (disk, shared) = (self.env.disk(), Arc::clone(&self.shared));
            let read = self.env.offload(move || read_end(&*disk, &shared, name, &dirty)).await;
            // A partition that is being deleted has nothing to lose.
            let Some(batches) = read? else { continue };
            let shard = &self.shards[super::shard_of(name.partition, self.shards.len())];
            let (done, outcome) = oneshot::channel();
            let message = Message::Copy { partition: name.partition, batches, done };
            shard.upgrade().ok_or(End::Stopped)?.send(message).await.map_err(|_| End::Stopped)?;
            waiting.push(outcome);
        }
        for outcome in waiting {
            outcome.await.map_err(|_| End::Stopped)?;
        }
        Ok(())
    }

    /// Segments that are wholly below the log start go.
    async fn sweep(&self, first_file: u32) -> Result<(), End> {
        for partition in self.shared.stable.partitions() {
            let (gone, forgotten) = partition.write_view().take_trimmed(first_file);
            self.shared.tail.forgotten(forgotten);
            if gone.is_empty() {
                continue;
            }
            partition.touch();
            self.shared.cursors.forget(partition.id);
            let (shared, disk, id) = (Arc::clone(&self.shared), self.env.disk(), partition.id);
            let remove = move || {
                gone.iter().try_for_each(|segment| shared.handles.remove(&*disk, id, segment.base, segment.generation))
            };
            self.env.offload(remove).await?;
        }
        Ok(())
    }
}

fn sync_dir(disk: &dyn crate::env::Disk, path: &std::path::Path) -> io::Result<()> {
    match disk.sync_dir(path) {
        // Its partition was deleted meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Nobody knows what is durable then: whatever the reason, it is not to be tried again.
        other => other.map_err(io::Error::other),
    }
}

/// The batches of an unsynced end and their places; none when the file is gone.
fn read_end(
    disk: &dyn crate::env::Disk,
    shared: &Shared,
    name: Name,
    dirty: &Dirty,
) -> io::Result<Option<Vec<(Batch, Slot)>>> {
    let cold = Cold {
        segment: name.segment,
        generation: name.generation,
        position: Some(dirty.from),
        end: dirty.to,
        next: Offset(i64::MAX),
        whole: false,
    };
    let partition = name.partition;
    let wanted = cold::Wanted { partition, from: Offset(0), up_to: Offset(i64::MAX), bytes_max: usize::MAX };
    let batches = match cold::read(disk, &shared.handles, &shared.cursors, &cold, wanted) {
        Ok(batches) => batches,
        Err(crate::Error::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(crate::Error::Io(error)) => return Err(error),
        Err(error) => return Err(io::Error::other(error)),
    };
    let mut position = dirty.from;
    let slot = |batch: Batch| {
        let slot = Slot { segment: name.segment, position, created_ms: 0, index_interval: 0, producers: None };
        position += batch.size() as u32;
        (batch, slot)
    };
    Ok(Some(batches.into_iter().map(slot).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::TopicId;

    fn check(entries: &[usize], expect: &[&[i32]]) {
        let id = |partition| TopicPartition { topic: TopicId([1; 16]), partition };
        let changed = entries.iter().zip(0..).map(|(&entries, at)| Changed { partition: id(at), entries });
        let mut changed: VecDeque<Changed> = changed.collect();
        for part in expect {
            let taken: Vec<i32> = take_part(&mut changed).iter().map(|id| id.partition).collect();
            assert_eq!(taken, *part, "{entries:?}");
        }
        assert!(changed.is_empty(), "{entries:?}");
    }

    #[test]
    fn partitions_are_captured_in_parts_of_few_entries() {
        check(&[], &[&[]]);
        check(&[1, 1, 1, 1], &[&[0, 1, 2], &[3]]);
        check(&[2, 2, 1, 1], &[&[0], &[1, 2], &[3]]);
        // A large one goes alone.
        check(&[1, 9, 1], &[&[0], &[1], &[2]]);
    }
}
