//! The files of the write-ahead log: which are needed, which one comes next, and how the room behind them is bounded.
//!
//! A file that recovery does not need any more is used again under the next number, so that its blocks are there and
//! written already: a sync then writes data and no metadata. A new file is written with zeros first for the same reason.
//! That happens ahead of the writer, in [`Files::prepare`]; when nothing is prepared the writer reserves the blocks only.

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::env::mutant::Mutant;
use crate::env::{Disk, File, Open};

/// Zeros are written in pieces of this size, of which two are on their way to the disk: the log's own syncs wait behind
/// them.
const ZEROS: usize = 256 * 1024;

/// See the module.
pub(in crate::store) struct Files {
    dir: PathBuf,
    file_bytes: u64,
    /// Needed files before the writer waits for a checkpoint.
    count_max: usize,
    inner: Mutex<Inner>,
    /// A file may be prepared, or a checkpoint be due.
    pub wanted: Notify,
    /// A needed file is needed no more, or a checkpoint wants to be written.
    room: Notify,
}

#[derive(Default)]
struct Inner {
    /// Files that recovery needs; the last is being written.
    needed: BTreeSet<u32>,
    /// Files that may be used again.
    free: BTreeSet<u32>,
    /// Files that recovery has found: what was reserved for them may have gone with the power.
    found: BTreeSet<u32>,
    /// The next file, ready to be begun.
    prepared: Option<(u32, Arc<dyn File>)>,
    preparing: bool,
    /// The writer is far enough in its file that the next should be prepared.
    wanted: bool,
    /// The disk has no room for another file: a checkpoint gives some.
    starved: bool,
    /// What is written next begins another file.
    rolls: bool,
    /// A checkpoint is being taken, or none can be yet: what is waited for must be written, room or not.
    pressing: bool,
}

impl Files {
    pub fn new(dir: &Path, file_bytes: u64, count_max: usize) -> Files {
        Files {
            dir: dir.to_owned(),
            file_bytes,
            count_max,
            inner: Mutex::new(Inner { pressing: true, ..Inner::default() }),
            wanted: Notify::new(),
            room: Notify::new(),
        }
    }

    pub fn name(number: u32) -> String {
        format!("{number:010}.wal")
    }

    /// The number in a file's name; `None` for a name that [`Files::name`] does not give.
    pub fn number(path: &Path) -> Option<u32> {
        let name = path.file_name()?.to_str()?;
        name.strip_suffix(".wal")?.parse().ok().filter(|number| Self::name(*number) == name)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn path(&self, number: u32) -> PathBuf {
        self.dir.join(Self::name(number))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file that recovery has read, or found unused.
    pub fn found(&self, number: u32, needed: bool) {
        let mut inner = self.lock();
        inner.found.insert(number);
        if needed {
            inner.needed.insert(number)
        } else {
            inner.free.insert(number)
        };
    }

    /// How many files recovery would read now.
    pub fn needed(&self) -> usize {
        self.lock().needed.len()
    }

    /// The file that is being written.
    pub fn newest(&self) -> u32 {
        self.lock().needed.last().copied().unwrap_or(0)
    }

    /// All files there are, for figures.
    pub fn count(&self) -> usize {
        let inner = self.lock();
        inner.needed.len() + inner.free.len() + usize::from(inner.prepared.is_some())
    }

    /// What is written next begins another file: a checkpoint is to pass what stands in this one.
    pub fn roll(&self) {
        self.lock().rolls = true;
    }

    pub fn take_roll(&self) -> bool {
        std::mem::take(&mut self.lock().rolls)
    }

    /// The writer wants the next file to be prepared.
    pub fn want(&self) {
        let mut inner = self.lock();
        if !inner.wanted && !inner.preparing && inner.prepared.is_none() {
            inner.wanted = true;
            self.wanted.notify_one();
        }
    }

    /// The file with this number, to be begun: prepared, or new. Waits for a checkpoint while there are too many.
    /// `StorageFull` when the disk has no room for another: then a checkpoint is wanted, and it can be tried again.
    pub async fn take(&self, disk: &dyn Disk, number: u32) -> io::Result<Arc<dyn File>> {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if let Some(file) = self.try_take(disk, number)? {
                self.wanted.notify_one();
                return Ok(file);
            }
            self.wanted.notify_one();
            room.await;
        }
    }

    fn try_take(&self, disk: &dyn Disk, number: u32) -> io::Result<Option<Arc<dyn File>>> {
        {
            let mut inner = self.lock();
            if inner.needed.len() >= self.count_max && !inner.pressing {
                return Ok(None);
            }
            if inner.preparing {
                // It is on its way: two must not make the same file.
                return Ok(None);
            }
            inner.wanted = false;
            if let Some((prepared, file)) = inner.prepared.take() {
                assert_eq!(prepared, number, "the prepared file is the next one");
                inner.needed.insert(number);
                return Ok(Some(file));
            }
        }
        match self.make(disk, number, false) {
            Ok(file) => {
                self.lock().needed.insert(number);
                Ok(Some(file))
            }
            Err(error) => {
                self.lock().starved |= error.kind() == io::ErrorKind::StorageFull;
                self.wanted.notify_one();
                Err(error)
            }
        }
    }

    /// Makes the next file ready where the writer wants one: one that is free, else a new one of zeros. Without room
    /// on the disk there is none.
    pub fn prepare(&self, disk: &dyn Disk) -> io::Result<()> {
        let number = {
            let mut inner = self.lock();
            let due = inner.wanted && !inner.preparing && inner.prepared.is_none();
            let Some(last) = inner.needed.last().copied().filter(|_| due) else { return Ok(()) };
            inner.wanted = false;
            inner.preparing = true;
            last + 1
        };
        let made = self.make(disk, number, true);
        let mut inner = self.lock();
        inner.preparing = false;
        let result = match made {
            Ok(file) => {
                inner.prepared = Some((number, file));
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(()),
            Err(error) => Err(error),
        };
        drop(inner);
        self.room.notify_one();
        result
    }

    /// A file under this number whose blocks are there; `written`: and hold something.
    fn make(&self, disk: &dyn Disk, number: u32, written: bool) -> io::Result<Arc<dyn File>> {
        let path = self.path(number);
        let free = {
            let mut inner = self.lock();
            // One that has the number already comes first: another must not take its name.
            if inner.free.remove(&number) { Some(number) } else { inner.free.pop_first() }
        };
        if let Some(free) = free {
            if free != number {
                disk.rename(&self.path(free), &path)?;
                if !Mutant::UsedLogFileUnnamed.is_on() {
                    // Whatever the reason, it is not to be tried again.
                    disk.sync_dir(&self.dir).map_err(io::Error::other)?;
                }
            }
            let file = disk.open(&path, Open::Write)?;
            if self.lock().found.remove(&free)
                && let Err(error) = self.reserve(&*file, 0)
            {
                let mut inner = self.lock();
                inner.found.insert(number);
                inner.free.insert(number);
                return Err(error);
            }
            return Ok(file);
        }
        let file = disk.open(&path, Open::Create)?;
        let filled = self.reserve(&*file, 0).and_then(|()| if written { self.fill(&*file, 0) } else { Ok(()) });
        let sync_dir = || disk.sync_dir(&self.dir).map_err(io::Error::other);
        let named = || if Mutant::NewLogFileUnnamed.is_on() { Ok(()) } else { sync_dir() };
        if let Err(error) = filled.and_then(|()| named()) {
            // It was never part of the log.
            drop(file);
            disk.unlink(&path)?;
            return Err(error);
        }
        Ok(file)
    }

    /// Has room kept for what comes from here on in a file.
    pub fn reserve(&self, file: &dyn File, from: u64) -> io::Result<()> {
        if from >= self.file_bytes {
            return Ok(());
        }
        match file.allocate(from, self.file_bytes - from) {
            // What is written over is there as well, on most file systems.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.fill(file, from),
            reserved => reserved,
        }
    }

    fn fill(&self, file: &dyn File, from: u64) -> io::Result<()> {
        let zeros = vec![0; ZEROS.min(self.file_bytes as usize)];
        let (mut at, mut before) = (from, None);
        while at < self.file_bytes {
            let piece = &zeros[..zeros.len().min((self.file_bytes - at) as usize)];
            let bytes = piece.len() as u64;
            file.write_at(at, &[IoSlice::new(piece)])?;
            file.start_writeback(at, bytes)?;
            if let Some((at, bytes)) = before.replace((at, bytes)) {
                file.await_writeback(at, bytes)?;
            }
            at += bytes;
        }
        file.sync_data()
    }

    /// Recovery does not read files below this one any more; they may be used again.
    pub fn release_below(&self, number: u32) {
        let mut inner = self.lock();
        let rest = inner.needed.split_off(&number);
        let released = std::mem::replace(&mut inner.needed, rest);
        inner.free.extend(released);
        drop(inner);
        self.room.notify_one();
    }

    /// Whether the writer has found no room for another file since the last call.
    pub fn take_starved(&self) -> bool {
        std::mem::take(&mut self.lock().starved)
    }

    /// While a checkpoint is being taken, and until the first can be, the writer does not wait for one.
    pub fn press(&self, pressing: bool) {
        self.lock().pressing = pressing;
        self.room.notify_one();
    }
}
