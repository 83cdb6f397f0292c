//! Open files of segments: a few for readers, and those with bytes that are not synced yet, which stay open until they
//! are, for only then is an error of writing them back told. When there are too many of these, those that were written to
//! first are synced before their time ([`Handles::shrink`]), and so are those that nobody writes to any more
//! ([`Handles::sync_idle`]): partitions at rest have no open file.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::layout::{self, Suffix};
use super::segment::Place;
use crate::env::mutant::Mutant;
use crate::env::{Disk, Env, File, Open};
use crate::record::{Offset, TopicPartition};

/// Files open for readers; the one opened first is closed for the next.
const READERS_MAX: usize = 128;
/// What the system writes back is whole pages.
const PAGE_BYTES: u32 = if cfg!(test) { 64 } else { 4096 };
/// A file is at rest when it was not written to between so many calls of [`Handles::sync_idle`].
const IDLE_LOOKS: u32 = if cfg!(test) { 2 } else { 10 };
/// Files that one such call syncs. A checkpoint has small ends copied, so that nothing presses.
const IDLE_SYNCS: usize = if cfg!(test) { 3 } else { 128 };
/// Of so many files one more is synced at a time, but never more than the second.
const SYNCS_PART: usize = if cfg!(test) { 2 } else { 128 };
const SYNCS_MAX: usize = 8;

/// How many of so many files to sync at a time. Few are synced one after the other, for the write-ahead log's syncs wait
/// behind them; what a file system and a disk do for each beside its bytes takes too long when there are many, and those
/// that wait together share it.
pub(super) fn syncs_at_once(files: usize) -> usize {
    (files / SYNCS_PART).clamp(1, SYNCS_MAX)
}

/// One file of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub partition: TopicPartition,
    pub segment: Offset,
    /// See [`super::segment::Segment`].
    pub generation: u32,
    pub suffix: Suffix,
}

/// Bytes of a file that are not synced.
#[derive(Clone)]
pub(super) struct Dirty {
    pub file: Arc<dyn File>,
    pub from: u32,
    pub to: u32,
    /// Where what is not on its way to the disk begins, at a page.
    started: u32,
    /// The look ([`Handles::sync_idle`]) before it was written to.
    look: u32,
    /// The number of the last write: an index is written anew in its length.
    write: u64,
}

impl Dirty {
    /// Has the system begin with what is not on its way to the disk.
    pub fn start_rest(&self) -> io::Result<()> {
        let (from, bytes) = self.rest();
        self.file.start_writeback(from, bytes)
    }

    /// Returns when that is no longer on its way.
    pub fn await_rest(&self) -> io::Result<()> {
        let (from, bytes) = self.rest();
        self.file.await_writeback(from, bytes)
    }

    fn rest(&self) -> (u64, u64) {
        (self.started.into(), self.to.saturating_sub(self.started).into())
    }
}

/// See the module.
pub(super) struct Handles {
    place: Place,
    /// Files open for bytes that are not synced.
    dirty_max: usize,
    inner: Mutex<Inner>,
    early: Early,
    /// Held by who removes directories, and by who makes files in one that may be removed.
    shape: Mutex<()>,
}

/// Files are synced before their time, or waited for, see [`Handles::check_synced`].
#[derive(Default)]
struct Early {
    /// Whoever does it reads it meanwhile.
    under_way: RwLock<()>,
    /// Once.
    failed: AtomicBool,
}

#[derive(Default)]
struct Inner {
    dirty: BTreeMap<Name, Dirty>,
    /// The names in it, those first that came first.
    dirty_since: VecDeque<Name>,
    /// How often idle files were looked for.
    look: u32,
    /// How often anything was written.
    writes: u64,
    /// Time indexes that were synced before their time.
    synced_indexes: Vec<Name>,
    /// Directories in which names have changed.
    directories: BTreeSet<PathBuf>,
    /// And the look before each was used last.
    reading: BTreeMap<Name, (Arc<dyn File>, u32)>,
    order: VecDeque<Name>,
}

impl Handles {
    pub fn new(place: Place, dirty_max: usize) -> Handles {
        Handles { place, dirty_max, inner: Mutex::default(), early: Early::default(), shape: Mutex::default() }
    }

    pub fn directory(&self, partition: TopicPartition) -> PathBuf {
        self.place.partition(partition)
    }

    /// Where the files of a generation's segments lie.
    pub fn generation(&self, partition: TopicPartition, generation: u32) -> PathBuf {
        self.place.generation(partition, generation)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn path(&self, name: Name) -> PathBuf {
        self.place.generation(name.partition, name.generation).join(layout::segment_file(name.segment, name.suffix))
    }

    /// A file for writing, created where missing.
    pub fn for_writing(&self, disk: &dyn Disk, name: Name) -> io::Result<Arc<dyn File>> {
        if let Some(dirty) = self.lock().dirty.get(&name) {
            return Ok(Arc::clone(&dirty.file));
        }
        match disk.open(&self.path(name), Open::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let directory = self.place.partition(name.partition);
        disk.create_dir(&directory)?;
        let file = disk.open(&self.path(name), Open::Create)?;
        self.changed(name.partition);
        Ok(file)
    }

    /// Names of a partition's files, or of its directory, may not be durable.
    pub fn changed(&self, partition: TopicPartition) {
        let mut inner = self.lock();
        inner.directories.insert(self.place.partition(partition));
        inner.directories.insert(self.place.topic(partition));
        inner.directories.insert(self.place.topics.clone());
    }

    /// Bytes `from..to` of a file were written and are not synced.
    pub fn written(&self, name: Name, file: Arc<dyn File>, from: u32, to: u32) {
        let mut inner = self.lock();
        inner.writes += 1;
        let (look, write) = (inner.look, inner.writes);
        if let Some(dirty) = inner.dirty.get_mut(&name) {
            dirty.from = dirty.from.min(from);
            dirty.to = dirty.to.max(to);
            (dirty.look, dirty.write) = (look, write);
        } else {
            let started = from - from % PAGE_BYTES;
            inner.dirty.insert(name, Dirty { file, from, to, started, look, write });
            inner.dirty_since.push_back(name);
        }
    }

    /// What a checkpoint took and did not sync. It has been at rest for as long as before.
    pub fn put_back(&self, name: Name, unsynced: Dirty) {
        let mut inner = self.lock();
        if let Some(dirty) = inner.dirty.get_mut(&name) {
            dirty.from = dirty.from.min(unsynced.from);
            dirty.to = dirty.to.max(unsynced.to);
        } else {
            inner.dirty.insert(name, unsynced);
            inner.dirty_since.push_back(name);
        }
    }

    /// Syncs files until few enough of them are open. Whoever writes calls it behind every file. A file that is being
    /// synced here is still dirty to everybody else.
    pub fn shrink(&self, env: &Env) -> io::Result<()> {
        let oldest = {
            let mut inner = self.lock();
            let over = inner.dirty.len().saturating_sub(self.dirty_max);
            if over == 0 {
                return Ok(());
            }
            // Some more than needed, so that it is not needed again at once.
            let count = (over + self.dirty_max / 4).min(inner.dirty_since.len());
            let names: Vec<Name> = inner.dirty_since.drain(..count).collect();
            names.into_iter().filter_map(|name| Some((name, inner.dirty.get(&name)?.clone()))).collect::<Vec<_>>()
        };
        self.sync_and_close(env, oldest)
    }

    /// A file that was written to meanwhile stays open.
    fn sync_and_close(&self, env: &Env, files: Vec<(Name, Dirty)>) -> io::Result<()> {
        for some in files.chunks(syncs_at_once(files.len())) {
            env.at_once(some, |(_, dirty)| self.told_early(|| dirty.file.sync_data()))?;
            some.iter().for_each(|(name, synced)| self.close(*name, synced));
        }
        Ok(())
    }

    fn close(&self, name: Name, synced: &Dirty) {
        let mut inner = self.lock();
        // A checkpoint has taken it meanwhile, or it is gone.
        let Some(dirty) = inner.dirty.get(&name) else { return };
        if (dirty.from, dirty.to, dirty.write) != (synced.from, synced.to, synced.write) {
            inner.dirty_since.push_back(name);
            return;
        }
        inner.dirty.remove(&name);
        if name.suffix == Suffix::TimeIndex {
            inner.synced_indexes.push(name);
        }
    }

    /// Closes the files that nobody has read for a while, and syncs and closes some of those that nobody has written to. To
    /// be called from time to time.
    pub fn sync_idle(&self, env: &Env) -> io::Result<()> {
        let idle = {
            let mut inner = self.lock();
            inner.look = inner.look.wrapping_add(1);
            let Inner { dirty, dirty_since, look, reading, order, .. } = &mut *inner;
            let is_idle = |used: u32| look.wrapping_sub(used) > IDLE_LOOKS;
            reading.retain(|_, (_, used)| !is_idle(*used));
            order.retain(|name| reading.contains_key(name));
            let idle = dirty.iter().filter(|(_, dirty)| is_idle(dirty.look)).take(IDLE_SYNCS);
            let idle: BTreeMap<Name, Dirty> = idle.map(|(name, dirty)| (*name, dirty.clone())).collect();
            if !idle.is_empty() {
                dirty_since.retain(|name| !idle.contains_key(name));
            }
            idle
        };
        self.sync_and_close(env, idle.into_iter().collect())
    }

    /// Runs what may be told of a failure that the next sync of a file is not told any more. Nobody knows what is durable
    /// after an error: whatever the reason, it is not to be tried again.
    fn told_early(&self, call: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let _under_way = self.early.under_way.read().unwrap_or_else(PoisonError::into_inner);
        let outcome = call();
        if outcome.is_err() {
            self.early.failed.store(true, Ordering::SeqCst);
        }
        outcome.map_err(io::Error::other)
    }

    /// An error of writing back is told to one sync only. What was synced by others than this one's caller may be lost
    /// when it was told before its time: an error then. To be called behind the last of the caller's syncs.
    pub fn check_synced(&self) -> io::Result<()> {
        let _none_under_way = self.early.under_way.write().unwrap_or_else(PoisonError::into_inner);
        let failed = self.early.failed.load(Ordering::SeqCst);
        if failed { Err(io::Error::other("a sync of another file has failed")) } else { Ok(()) }
    }

    /// Where the next whole piece of a file begins that is not on its way to the disk: the caller's to start.
    pub fn next_piece(&self, name: Name, bytes: u32) -> Option<u32> {
        let mut inner = self.lock();
        let dirty = inner.dirty.get_mut(&name)?;
        let from = dirty.started;
        (dirty.to.saturating_sub(from) >= bytes).then(|| {
            dirty.started += bytes;
            from
        })
    }

    /// Returns when a piece that was started is no longer on its way: at once when it is synced, or is to be.
    pub fn await_writeback(&self, name: Name, from: u32, bytes: u32) -> io::Result<()> {
        let Some(file) = self.lock().dirty.get(&name).map(|dirty| Arc::clone(&dirty.file)) else { return Ok(()) };
        let wait = || file.await_writeback(from.into(), bytes.into());
        if Mutant::WritebackErrorIgnored.is_on() {
            return wait().or(Ok(()));
        }
        self.told_early(wait)
    }

    /// Segments whose indexes were synced before their time.
    pub fn take_synced_indexes(&self) -> Vec<Name> {
        std::mem::take(&mut self.lock().synced_indexes)
    }

    /// Everything that is to be synced; it is the caller's from now on.
    pub fn take_dirty(&self) -> BTreeMap<Name, Dirty> {
        let mut inner = self.lock();
        inner.dirty_since.clear();
        std::mem::take(&mut inner.dirty)
    }

    /// The directories to be synced, behind the files in them.
    pub fn take_directories(&self) -> BTreeSet<PathBuf> {
        std::mem::take(&mut self.lock().directories)
    }

    /// A file for reading.
    pub fn for_reading(&self, disk: &dyn Disk, name: Name) -> io::Result<Arc<dyn File>> {
        {
            let Inner { dirty, reading, look, .. } = &mut *self.lock();
            if let Some(dirty) = dirty.get(&name) {
                return Ok(Arc::clone(&dirty.file));
            }
            if let Some((file, used)) = reading.get_mut(&name) {
                *used = *look;
                return Ok(Arc::clone(file));
            }
        }
        let file = disk.open(&self.path(name), Open::Read)?;
        let mut inner = self.lock();
        let look = inner.look;
        if inner.reading.insert(name, (Arc::clone(&file), look)).is_none() {
            inner.order.push_back(name);
        }
        while inner.reading.len() > READERS_MAX {
            let Some(oldest) = inner.order.pop_front() else { break };
            inner.reading.remove(&oldest);
        }
        Ok(file)
    }

    /// Removes the files of a segment; those that are not there are gone already.
    pub fn remove(
        &self,
        disk: &dyn Disk,
        partition: TopicPartition,
        segment: Offset,
        generation: u32,
    ) -> io::Result<()> {
        let _shape = self.shape();
        self.forget(|name| (name.partition, name.segment, name.generation) == (partition, segment, generation));
        if generation > 0 {
            disk.remove_dir(&self.place.generation(partition, generation))?;
        } else {
            for suffix in Suffix::ALL {
                match disk.unlink(&self.path(Name { partition, segment, generation, suffix })) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        self.lock().directories.insert(self.place.partition(partition));
        Ok(())
    }

    /// While this is held nothing is removed.
    pub fn shape(&self) -> MutexGuard<'_, ()> {
        self.shape.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes everything of a partition, and its topic's directory when it was the last in it.
    pub fn remove_partition(&self, disk: &dyn Disk, partition: TopicPartition) -> io::Result<()> {
        let _shape = self.shape();
        self.forget(|name| name.partition == partition);
        let directory = self.place.partition(partition);
        disk.remove_dir(&directory)?;
        let topic = self.place.topic(partition);
        let mut inner = self.lock();
        inner.directories.remove(&directory);
        if disk.list(&topic)?.is_empty() {
            disk.remove_dir(&topic)?;
            inner.directories.remove(&topic);
            inner.directories.insert(self.place.topics.clone());
        } else {
            inner.directories.insert(topic);
        }
        Ok(())
    }

    fn forget(&self, gone: impl Fn(&Name) -> bool) {
        let mut inner = self.lock();
        inner.dirty.retain(|name, _| !gone(name));
        inner.dirty_since.retain(|name| !gone(name));
        inner.synced_indexes.retain(|name| !gone(name));
        inner.reading.retain(|name, _| !gone(name));
        inner.order.retain(|name| !gone(name));
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use super::*;
    use crate::record::TopicId;

    /// While it is synced, it is written anew if a write is waiting.
    struct Rewritten {
        handles: Arc<Handles>,
        name: Name,
        write: Mutex<Option<Arc<dyn File>>>,
    }

    impl File for Rewritten {
        fn sync_data(&self) -> io::Result<()> {
            if let Some(file) = self.write.lock().expect("no panic").take() {
                self.handles.written(self.name, file, 0, 12);
            }
            Ok(())
        }

        fn write_at(&self, _: u64, _: &[IoSlice<'_>]) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn start_writeback(&self, _: u64, _: u64) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn await_writeback(&self, _: u64, _: u64) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn set_len(&self, _: u64) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn allocate(&self, _: u64, _: u64) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn len(&self) -> io::Result<u64> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    #[test]
    fn a_file_that_is_written_anew_while_it_is_synced_stays_open() {
        let env = Env::real();
        let handles = Arc::new(Handles::new(Place::new(&PathBuf::new()), 8));
        let partition = TopicPartition { topic: TopicId([1; 16]), partition: 0 };
        let name = Name { partition, segment: Offset(0), generation: 0, suffix: Suffix::TimeIndex };
        let file = Arc::new(Rewritten { handles: Arc::clone(&handles), name, write: Mutex::default() });
        let again = Arc::clone(&file) as Arc<dyn File>;
        handles.written(name, Arc::clone(&again), 0, 12);
        *file.write.lock().expect("no panic") = Some(again);
        for _ in 0..=IDLE_LOOKS {
            handles.sync_idle(&env).expect("no error");
        }
        assert_eq!(handles.take_synced_indexes(), []);
        // The second write is now as old as the first one was.
        for _ in 0..=IDLE_LOOKS {
            handles.sync_idle(&env).expect("no error");
        }
        assert_eq!(handles.take_synced_indexes(), [name]);
        assert!(handles.take_dirty().is_empty());
    }
}
