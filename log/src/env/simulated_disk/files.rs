//! The simulated disk as [`Disk`] and [`File`].

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::image::{PAGE_BYTES, SECTOR_BYTES};
use super::inode::{Inode, end_of, range};
use super::{Damage, Power, SimDisk, State, SyncFailure, input_output_error, lock};
use crate::env::disk::{Disk, File, Lock, Open};

struct SimFile {
    disk: Arc<Mutex<State>>,
    file: u64,
    life: u64,
    writes: bool,
    /// How many failures of writing back it has reported, or came after.
    seen: AtomicU64,
}

struct SimLock {
    disk: Arc<Mutex<State>>,
    path: PathBuf,
    life: u64,
}

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = lock(&self.disk);
        if state.life == self.life {
            state.locks.remove(&self.path);
        }
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = lock(&self.disk);
        if state.life == self.life {
            state.inode(self.file).handles -= 1;
        }
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let mut state = lock(&self.state);
        state.alive()?;
        let file = match (how, state.names.file(path)) {
            (Open::Create, Ok(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Open::Create, Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                let power = state.operate()?;
                let file = state.number();
                state.names.create_file(path, file)?;
                state.inodes.insert(file, Inode::default());
                power.result()?;
                file
            }
            (_, there) => there?,
        };
        let inode = state.inode(file);
        inode.handles += 1;
        let seen = AtomicU64::new(inode.failures);
        let (disk, life) = (Arc::clone(&self.state), state.life);
        Ok(Arc::new(SimFile { disk, file, life, writes: how != Open::Read, seen }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = lock(&self.state);
        let power = state.operate()?;
        state.names.rename(from, to)?;
        power.result()
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut state = lock(&self.state);
        let power = state.operate()?;
        state.names.unlink(path)?;
        power.result()
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.alive()?;
        if state.names.dir(path).is_ok() {
            return Ok(());
        }
        let power = state.operate()?;
        let State { names, next, .. } = &mut *state;
        names.create_dir(path, || {
            *next += 1;
            *next - 1
        })?;
        power.result()
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = lock(&self.state);
        let power = state.operate()?;
        match state.names.remove_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        power.result()
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.operate()?.result()?;
        let dir = state.names.dir(path)?;
        state.names.sync(dir);
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let state = lock(&self.state);
        state.alive()?;
        match state.names.list(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            other => other,
        }
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let mut state = lock(&self.state);
        state.alive()?;
        if !state.locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock { disk: Arc::clone(&self.state), path: path.to_owned(), life: state.life }))
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let state = lock(&self.state);
        state.alive()?;
        state.names.find(path)?;
        Ok(state.free_pages() * PAGE_BYTES as u64)
    }
}

impl SimFile {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = lock(&self.disk);
        if state.life != self.life {
            return Err(io::Error::other("the process that opened the file has ended"));
        }
        state.alive()?;
        Ok(state)
    }

    fn state_to_write(&self) -> io::Result<(MutexGuard<'_, State>, Power)> {
        let mut state = self.state()?;
        if !self.writes {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the file was opened for reading"));
        }
        let power = state.operate()?;
        Ok((state, power))
    }

    /// An error when this handle has not heard of that many failures.
    fn tell(&self, failures: u64) -> io::Result<()> {
        if self.seen.swap(failures, Ordering::Relaxed) < failures { Err(input_output_error()) } else { Ok(()) }
    }
}

impl File for SimFile {
    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()> {
        let (mut state, power) = self.state_to_write()?;
        let (offset, end) = end_of(offset, slices)?;
        let failed = state.due(|damage| matches!(damage, Damage::WriteFails { .. })).is_some();
        let asked = if failed { offset + state.random.below(end - offset + 1) } else { end };
        let free = state.free_pages();
        let reached = state.inode(self.file).cache.reach(offset, asked, free);
        state.inode(self.file).write(offset, slices, reached);
        if reached > offset {
            state.spoil_last_write(self.file);
        }
        power.result()?;
        if reached < asked {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if failed { Err(input_output_error()) } else { Ok(()) }
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state()?;
        if state.due(|damage| matches!(damage, Damage::ReadFails { .. })).is_some() {
            return Err(input_output_error());
        }
        let mut count = into.len();
        if state.settings.short_reads && count > 1 && state.random.coin() {
            count = 1 + state.random.below(count - 1);
        }
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        state.inode(self.file).read(offset, &mut into[..count])
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state()?;
        state.operate()?.result()?;
        let fails = |damage: &Damage| matches!(damage, Damage::SyncFails { how, .. } if *how != SyncFailure::Unseen);
        let due = state.due(fails);
        let lengths = due.is_some() && state.random.coin();
        let inode = state.inode(self.file);
        // What is reported now: a late failure is not.
        let failures = match due {
            Some(Damage::SyncFails { how: SyncFailure::Reverted, .. }) => {
                inode.lose(false);
                inode.drop_cache();
                inode.failures
            }
            Some(Damage::SyncFails { how: SyncFailure::Late, .. }) => {
                inode.lose(lengths);
                inode.failures - 1
            }
            Some(_) => {
                inode.lose(lengths);
                inode.failures
            }
            None => {
                inode.sync();
                inode.failures
            }
        };
        self.tell(failures)
    }

    /// What it brings to the disk a crash keeps or not, as before.
    fn start_writeback(&self, _: u64, _: u64) -> io::Result<()> {
        self.state().map(drop)
    }

    fn await_writeback(&self, _: u64, _: u64) -> io::Result<()> {
        let failures = self.state()?.inode(self.file).failures;
        self.tell(failures)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (mut state, power) = self.state_to_write()?;
        let (_, len) = range(0, len)?;
        let free = state.free_pages();
        let inode = state.inode(self.file);
        if inode.cache.reach(inode.cache.len(), len, free) < len {
            // Stricter than most systems, which promise the length without the room.
            return Err(io::ErrorKind::StorageFull.into());
        }
        inode.set_len(len);
        power.result()
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let (mut state, power) = self.state_to_write()?;
        let (from, to) = range(offset, len)?;
        let free = state.free_pages();
        let inode = state.inode(self.file);
        let reached = inode.cache.reach(from, to, free);
        if reached > from {
            inode.allocate(from, reached);
        }
        power.result()?;
        if reached < to { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.state()?.inode(self.file).cache.len() as u64)
    }
}

impl State {
    /// Planned damage to a write that reports success.
    fn spoil_last_write(&mut self, file: u64) {
        if self.due(|damage| matches!(damage, Damage::WriteLost { .. })).is_some() {
            self.inode(file).lose_last_write();
        }
        if self.due(|damage| matches!(damage, Damage::WriteMisdirected { .. })).is_some() {
            let sectors = self.inode(file).cache.len().div_ceil(SECTOR_BYTES);
            let to = self.random.below(sectors + 2);
            self.inode(file).misdirect_last_write(to);
        }
        let unseen = |damage: &Damage| matches!(damage, Damage::SyncFails { how: SyncFailure::Unseen, .. });
        if self.due(unseen).is_some() {
            let lengths = self.random.coin();
            self.inode(file).lose(lengths);
        }
    }
}
