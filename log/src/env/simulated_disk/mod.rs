//! A disk in memory that forgets and fails, as disks do, the same way each time for the same seed. A crash keeps synced
//! bytes and names, and every change that was not synced meets a fate of its own: a write is lost, whole, torn by
//! sectors or leaves zeros, later ones may survive earlier ones, and names do not wait for bytes or for each other.

mod crash;
mod damage;
mod files;
mod image;
mod inode;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use self::damage::{Damage, SyncFailure};

use self::crash::Fates;
use self::image::PAGE_BYTES;
use self::inode::Inode;
use self::names::Names;
use super::mix;

/// See the module. Clones share the disk.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Clone)]
struct State {
    names: Names,
    /// The files, by a number of their own: names and handles come and go.
    inodes: BTreeMap<u64, Inode>,
    /// The number of the next file or directory.
    next: u64,
    /// How many inodes there may be before those that nobody can reach are looked for.
    sweep_at: usize,
    locks: BTreeSet<PathBuf>,
    damage: Vec<Damage>,
    settings: Settings,
    watcher: Option<Watcher>,
    operations: u64,
    dead: bool,
    /// Counts machines that crashed and processes that ended: handles from before are void.
    life: u64,
    random: Seeded,
}

/// Called before an operation with its number and a way to a copy of the disk as it is then.
type Watcher = Arc<dyn Fn(u64, &dyn Fn() -> SimDisk) + Send + Sync>;

/// What outlives a crash besides the files.
#[derive(Clone, Copy, Default)]
struct Settings {
    /// In pages; none: there is always room.
    capacity: Option<u64>,
    short_reads: bool,
}

/// Whether an operation is the last one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Power {
    On,
    /// The power goes while it is under way: it is to change what it does, and to fail.
    Going,
}

/// A stream of numbers from a seed (SplitMix64).
#[derive(Clone)]
struct Seeded(u64);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimDisk {
    pub fn new(seed: u64) -> SimDisk {
        State { random: Seeded(mix(seed ^ 0xd15c)), ..State::new(1, 0) }.into()
    }

    /// Plans damage; several may be planned.
    pub fn plan(&self, damage: Damage) {
        lock(&self.state).damage.push(damage);
    }

    /// How much of the damage that was planned is still to come.
    pub fn planned(&self) -> usize {
        lock(&self.state).damage.len()
    }

    /// Operations that changed something since the last crash or start.
    pub fn operations(&self) -> u64 {
        lock(&self.state).operations
    }

    /// Calls `watcher` before each operation, with its number and a way to a [`SimDisk::snapshot`] of that moment: a run
    /// can be looked at as if it had ended anywhere. It sees nothing of copies and nothing behind a crash.
    pub fn watch(&self, watcher: impl Fn(u64, &dyn Fn() -> SimDisk) + Send + Sync + 'static) {
        lock(&self.state).watcher = Some(Arc::new(watcher));
    }

    /// Changes that a crash would decide about.
    pub fn unsynced(&self) -> usize {
        lock(&self.state).pending()
    }

    /// The room for all files together, or as much as they like. A disk that holds more already gets no more.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        lock(&self.state).settings.capacity = bytes.map(|bytes| bytes / PAGE_BYTES as u64);
    }

    /// Whether reads give fewer bytes than asked for now and then, as the seed says.
    pub fn set_short_reads(&self, short: bool) {
        lock(&self.state).settings.short_reads = short;
    }

    /// The power goes and comes back: each unsynced change meets the fate that the seed draws, locks are free, planned
    /// damage is forgotten. Handles opened before fail.
    pub fn crash(&self) {
        let mut state = lock(&self.state);
        let mut fates = Fates::drawn(state.random.next());
        *state = state.after_crash(&mut fates).expect("drawn fates do not contradict each other");
    }

    /// The process ends and planned damage with it, the machine stays on: what was written stays readable. Handles
    /// opened before fail.
    pub fn heal(&self) {
        let mut state = lock(&self.state);
        if state.dead {
            drop(state);
            return self.crash();
        }
        state.end_process();
    }

    /// A copy with a life of its own: the same files and unsynced changes, no process that has one open.
    pub fn snapshot(&self) -> SimDisk {
        lock(&self.state).copy()
    }

    /// All files as programs read them: for comparing runs.
    pub fn image(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = lock(&self.state);
        let files = state.names.files().into_iter();
        files.map(|(path, file)| (path, state.inodes[&file].cache.to_vec())).collect()
    }

    /// The files that are open.
    pub fn open_files(&self) -> Vec<PathBuf> {
        let state = lock(&self.state);
        let files = state.names.files().into_iter();
        files.filter(|(_, file)| state.inodes[file].handles > 0).map(|(path, _)| path).collect()
    }

    /// A file's bytes as a program reads them.
    pub fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        let state = lock(&self.state);
        let file = state.names.file(path).ok()?;
        Some(state.inodes[&file].cache.to_vec())
    }
}

impl From<State> for SimDisk {
    fn from(state: State) -> SimDisk {
        SimDisk { state: Arc::new(Mutex::new(state)) }
    }
}

impl State {
    fn new(next: u64, life: u64) -> State {
        State {
            names: Names::default(),
            inodes: BTreeMap::new(),
            next,
            sweep_at: 64,
            locks: BTreeSet::new(),
            damage: Vec::new(),
            settings: Settings::default(),
            watcher: None,
            operations: 0,
            dead: false,
            life,
            random: Seeded(0),
        }
    }

    /// Counts an operation that changes something; fails when the power is off.
    fn operate(&mut self) -> io::Result<Power> {
        self.alive()?;
        if let Some(watcher) = &self.watcher {
            watcher(self.operations + 1, &|| self.copy());
        }
        self.operations += 1;
        let now = self.operations;
        self.dead = self.damage.iter().any(|d| matches!(d, Damage::PowerCut { operation } if *operation <= now));
        self.sweep();
        Ok(if self.dead { Power::Going } else { Power::On })
    }

    fn copy(&self) -> SimDisk {
        let mut copy = State { watcher: None, ..self.clone() };
        copy.end_process();
        copy.into()
    }

    fn alive(&self) -> io::Result<()> {
        if self.dead { Err(power_is_off()) } else { Ok(()) }
    }

    /// The planned damage of this kind that is due; it is then used up.
    fn due(&mut self, kind: impl Fn(&Damage) -> bool) -> Option<Damage> {
        let now = self.operations;
        let due = self.damage.iter().position(|damage| kind(damage) && damage.operation() <= now);
        due.map(|at| self.damage.remove(at))
    }

    /// How many pages may still be taken. Files without a name keep theirs while a handle is open.
    fn free_pages(&self) -> u64 {
        const ALWAYS_PAGES: u64 = 1 << 38;
        let Some(capacity) = self.settings.capacity else { return ALWAYS_PAGES };
        let named = self.names.seen_files();
        let taking = self.inodes.iter().filter(|(file, inode)| inode.handles > 0 || named.contains(file));
        capacity.saturating_sub(taking.map(|(_, inode)| inode.cache.pages()).sum())
    }

    fn inode(&mut self, file: u64) -> &mut Inode {
        self.inodes.get_mut(&file).expect("a file that has a name or a handle")
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    fn end_process(&mut self) {
        self.life += 1;
        self.locks.clear();
        self.damage.clear();
        self.inodes.values_mut().for_each(|inode| inode.handles = 0);
    }

    /// Now and then, forgets files that have neither name nor handle.
    fn sweep(&mut self) {
        if self.inodes.len() < self.sweep_at {
            return;
        }
        self.names.sweep();
        let named = self.names.possible_files();
        self.inodes.retain(|file, inode| inode.handles > 0 || named.contains(file));
        self.sweep_at = 2 * self.inodes.len() + 64;
    }
}

impl Power {
    fn result(self) -> io::Result<()> {
        match self {
            Power::On => Ok(()),
            Power::Going => Err(power_is_off()),
        }
    }
}

impl Seeded {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }
}

fn power_is_off() -> io::Error {
    io::Error::other("the power is off")
}

/// EIO, as the system gives it.
fn input_output_error() -> io::Error {
    rustix::io::Errno::IO.into()
}

#[cfg(test)]
mod tests;
