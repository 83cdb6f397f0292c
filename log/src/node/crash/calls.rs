//! A disk of which single calls fail, with any error, before anything of them is done.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::env::{Disk, File, Lock, Open, SimDisk};

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::node) enum Call {
    Open(Open),
    Rename,
    Unlink,
    CreateDir,
    RemoveDir,
    SyncDir,
    List,
    Write,
    Read,
    Sync,
    StartWriteback,
    AwaitWriteback,
}

/// Says which call fails, and how.
type Plan = Box<dyn FnMut(Call, &Path) -> Option<io::Error> + Send>;

/// See the module. Clones share the plan.
#[derive(Clone)]
pub(in crate::node) struct Calls {
    disk: SimDisk,
    plan: Arc<Mutex<Plan>>,
}

impl Calls {
    pub fn of(disk: &SimDisk) -> Calls {
        Calls { disk: disk.clone(), plan: Arc::new(Mutex::new(Box::new(|_, _| None))) }
    }

    pub fn plan(&self, plan: impl FnMut(Call, &Path) -> Option<io::Error> + Send + 'static) {
        *self.plan.lock().unwrap() = Box::new(plan);
    }

    fn ask(&self, call: Call, path: &Path) -> io::Result<()> {
        let failure = (self.plan.lock().unwrap())(call, path);
        failure.map_or(Ok(()), Err)
    }
}

impl Disk for Calls {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        self.ask(Call::Open(how), path)?;
        let file = self.disk.open(path, how)?;
        Ok(Arc::new(CalledFile { calls: self.clone(), path: path.to_owned(), file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.ask(Call::Rename, to)?;
        self.disk.rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.ask(Call::Unlink, path)?;
        self.disk.unlink(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.ask(Call::CreateDir, path)?;
        self.disk.create_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.ask(Call::RemoveDir, path)?;
        self.disk.remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.ask(Call::SyncDir, path)?;
        self.disk.sync_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.ask(Call::List, path)?;
        self.disk.list(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        self.disk.lock(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.disk.free_bytes(path)
    }
}

struct CalledFile {
    calls: Calls,
    path: PathBuf,
    file: Arc<dyn File>,
}

impl File for CalledFile {
    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()> {
        self.calls.ask(Call::Write, &self.path)?;
        self.file.write_at(offset, slices)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.calls.ask(Call::Read, &self.path)?;
        self.file.read_at(offset, into)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.calls.ask(Call::Sync, &self.path)?;
        self.file.sync_data()
    }

    fn start_writeback(&self, offset: u64, len: u64) -> io::Result<()> {
        self.calls.ask(Call::StartWriteback, &self.path)?;
        self.file.start_writeback(offset, len)
    }

    fn await_writeback(&self, offset: u64, len: u64) -> io::Result<()> {
        self.calls.ask(Call::AwaitWriteback, &self.path)?;
        self.file.await_writeback(offset, len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.allocate(offset, len)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}
