//! A disk in memory that forgets, as disks do: a crash keeps synced bytes and names, and does to each unsynced write
//! what the seed says (lost, whole, torn by sectors, zeros).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, File, Lock, Open};
use super::mix;

/// The unit in which a write can be torn.
const SECTOR_BYTES: usize = 512;

/// What to do to the disk at one of its operations, counted from 1 since the last [`SimDisk::crash`] or start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// From this operation on every call fails: the machine has lost its power.
    PowerCut { operation: u64 },
    /// The first sync from this operation on fails, once; what it should have made durable never will be.
    SyncFails { operation: u64 },
    /// The first write from this operation on fails, once, with part of it written.
    WriteFails { operation: u64 },
}

/// See the module. Clones share the disk.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

struct State {
    /// Names as programs see them, and as a crash would find them.
    names: BTreeMap<PathBuf, Node>,
    durable_names: BTreeMap<PathBuf, Node>,
    dirs: BTreeSet<PathBuf>,
    /// Changes of names since the last `sync_dir`, in order.
    pending_names: Vec<(PathBuf, NameChange)>,
    locks: BTreeSet<PathBuf>,
    damage: Vec<Damage>,
    operations: u64,
    dead: bool,
    random: u64,
}

type Node = Arc<Mutex<Content>>;

#[derive(Clone)]
enum NameChange {
    Put(Node),
    Remove,
}

#[derive(Default)]
struct Content {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimDisk {
    pub fn new(seed: u64) -> SimDisk {
        let state = State {
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            dirs: BTreeSet::new(),
            pending_names: Vec::new(),
            locks: BTreeSet::new(),
            damage: Vec::new(),
            operations: 0,
            dead: false,
            random: mix(seed ^ 0xd15c),
        };
        SimDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// Plans damage; several may be planned.
    pub fn plan(&self, damage: Damage) {
        lock(&self.state).damage.push(damage);
    }

    /// Operations that changed something since the last crash or start.
    pub fn operations(&self) -> u64 {
        lock(&self.state).operations
    }

    /// The power goes and comes back: unsynced writes and names are lost, kept or torn, locks are free, planned damage is
    /// forgotten. Handles opened before write into the void.
    pub fn crash(&self) {
        let mut state = lock(&self.state);
        let state = &mut *state;
        let kept = usize::try_from(next(&mut state.random) % (state.pending_names.len() as u64 + 1)).unwrap_or(0);
        let pending = std::mem::take(&mut state.pending_names);
        for (path, change) in pending.into_iter().take(kept) {
            change.apply(path, &mut state.durable_names);
        }
        state.names.clear();
        for (path, node) in &state.durable_names {
            let content = lock(node).after_crash(&mut state.random);
            state.names.insert(path.clone(), Arc::new(Mutex::new(content)));
        }
        state.durable_names = state.names.clone();
        let dirs: Vec<PathBuf> =
            state.names.keys().flat_map(|path| path.ancestors().skip(1)).map(Path::to_owned).collect();
        state.dirs.extend(dirs);
        state.locks.clear();
        state.damage.clear();
        state.operations = 0;
        state.dead = false;
    }

    /// The process ends and planned damage with it, the machine stays on: what was written stays readable.
    pub fn heal(&self) {
        let mut state = lock(&self.state);
        if state.dead {
            drop(state);
            return self.crash();
        }
        state.locks.clear();
        state.damage.clear();
    }

    /// Flips one bit of a file, behind everybody's back.
    pub fn flip_bit(&self, path: &Path, offset: usize) {
        let node = lock(&self.state).names.get(path).map(Arc::clone).expect("the file is there");
        let mut content = lock(&node);
        content.bytes[offset] ^= 1;
        if let Some(byte) = content.durable.get_mut(offset) {
            *byte ^= 1;
        }
    }

    /// All files as programs read them: for comparing runs.
    pub fn image(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let names = lock(&self.state).names.clone();
        names.into_iter().map(|(path, node)| (path, lock(&node).bytes.clone())).collect()
    }

    /// A file's bytes as a program reads them.
    pub fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        let node = lock(&self.state).names.get(path).map(Arc::clone)?;
        let bytes = lock(&node).bytes.clone();
        Some(bytes)
    }
}

fn next(random: &mut u64) -> u64 {
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mix(*random)
}

fn dead() -> io::Error {
    io::Error::other("the power is off")
}

impl State {
    /// Counts an operation that changes something; fails when the power is off.
    fn operate(&mut self) -> io::Result<()> {
        self.operations += 1;
        let now = self.operations;
        if self.damage.iter().any(|d| matches!(d, Damage::PowerCut { operation } if *operation <= now)) {
            self.dead = true;
        }
        if self.dead { Err(dead()) } else { Ok(()) }
    }

    /// Whether planned damage of this kind is due; it is then used up.
    fn due(&mut self, kind: fn(&Damage) -> Option<u64>) -> bool {
        let now = self.operations;
        let due = self.damage.iter().position(|damage| kind(damage).is_some_and(|operation| operation <= now));
        due.map(|at| self.damage.remove(at)).is_some()
    }

    fn change_name(&mut self, path: &Path, change: NameChange) {
        change.clone().apply(path.to_owned(), &mut self.names);
        self.pending_names.push((path.to_owned(), change));
    }
}

impl NameChange {
    fn apply(self, path: PathBuf, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            NameChange::Put(node) => drop(names.insert(path, node)),
            NameChange::Remove => drop(names.remove(&path)),
        }
    }
}

impl Content {
    fn after_crash(&self, random: &mut u64) -> Content {
        let mut bytes = self.durable.clone();
        for change in &self.pending {
            let fate = next(random) % 4;
            match change {
                Change::SetLen(len) if fate < 2 => bytes.resize(*len, 0),
                Change::SetLen(_) => {}
                Change::Write { offset, bytes: new } => match fate {
                    0 => {}
                    1 => put(&mut bytes, *offset, new),
                    2 => {
                        for (sector, part) in new.chunks(SECTOR_BYTES).enumerate() {
                            if next(random).is_multiple_of(2) {
                                put(&mut bytes, offset + sector * SECTOR_BYTES, part);
                            }
                        }
                    }
                    _ => {
                        let end = (offset + new.len()).max(bytes.len());
                        bytes.resize(end, 0);
                    }
                },
            }
        }
        Content { durable: bytes.clone(), bytes, pending: Vec::new() }
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, new: &[u8]) {
    let end = offset + new.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(new);
}

struct SimFile {
    disk: Arc<Mutex<State>>,
    node: Node,
}

struct SimLock {
    disk: Arc<Mutex<State>>,
    path: PathBuf,
}

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        lock(&self.disk).locks.remove(&self.path);
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let mut state = lock(&self.state);
        let there = state.names.get(path).map(Arc::clone);
        let node = match (how, there) {
            (Open::Create, Some(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Open::Create, None) => {
                state.operate()?;
                let node = Node::default();
                state.change_name(path, NameChange::Put(Arc::clone(&node)));
                node
            }
            (_, None) => return Err(io::ErrorKind::NotFound.into()),
            (_, Some(node)) => node,
        };
        Ok(Arc::new(SimFile { disk: Arc::clone(&self.state), node }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.operate()?;
        let node = state.names.get(from).map(Arc::clone).ok_or(io::ErrorKind::NotFound)?;
        // One step for whoever looks after a crash: the new name first, so that the file is never without one.
        state.change_name(to, NameChange::Put(node));
        state.change_name(from, NameChange::Remove);
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.operate()?;
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change_name(path, NameChange::Remove);
        Ok(())
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = lock(&self.state);
        let dirs: Vec<PathBuf> = path.ancestors().map(Path::to_owned).collect();
        state.dirs.extend(dirs);
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.operate()?;
        let inside: Vec<PathBuf> = state.names.keys().filter(|name| name.starts_with(path)).cloned().collect();
        for name in inside {
            state.change_name(&name, NameChange::Remove);
        }
        state.dirs.retain(|dir| !dir.starts_with(path));
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.operate()?;
        let state = &mut *state;
        let pending = std::mem::take(&mut state.pending_names);
        for (name, change) in pending {
            // What lay in a directory goes with it.
            let mut above = name.ancestors().skip(1).take_while(|above| *above != path);
            let gone = above.any(|above| above.parent() == Some(path) && !state.dirs.contains(above));
            if name.parent() == Some(path) || gone {
                change.apply(name, &mut state.durable_names);
            } else {
                state.pending_names.push((name, change));
            }
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let state = lock(&self.state);
        let below = |names: Vec<&PathBuf>| -> BTreeSet<PathBuf> {
            let child = |name: &&PathBuf| name.parent() == Some(path);
            names.into_iter().filter(child).cloned().collect()
        };
        let mut found = below(state.names.keys().collect());
        found.extend(below(state.dirs.iter().collect()));
        Ok(found.into_iter().collect())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        if !lock(&self.state).locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock { disk: Arc::clone(&self.state), path: path.to_owned() }))
    }
}

impl File for SimFile {
    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()> {
        let mut bytes = slices.iter().flat_map(|slice| slice.iter().copied()).collect::<Vec<u8>>();
        let mut state = lock(&self.disk);
        let result = state.operate();
        let failed = state.due(|damage| match damage {
            Damage::WriteFails { operation } => Some(*operation),
            _ => None,
        });
        if failed || result.is_err() {
            let kept = usize::try_from(next(&mut state.random) % (bytes.len() as u64 + 1)).unwrap_or(0);
            bytes.truncate(kept);
        }
        let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut content = lock(&self.node);
        put(&mut content.bytes, offset, &bytes);
        content.pending.push(Change::Write { offset, bytes });
        if failed {
            return Err(io::ErrorKind::StorageFull.into());
        }
        result
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        if lock(&self.disk).dead {
            return Err(dead());
        }
        let content = lock(&self.node);
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(content.bytes.len());
        let count = into.len().min(content.bytes.len() - from);
        into[..count].copy_from_slice(&content.bytes[from..from + count]);
        Ok(count)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = lock(&self.disk);
        state.operate()?;
        let failed = state.due(|damage| match damage {
            Damage::SyncFails { operation } => Some(*operation),
            _ => None,
        });
        let mut content = lock(&self.node);
        if failed {
            // As Linux does: the pages count as clean, what was meant to be written is forgotten at the next crash.
            content.pending.clear();
            return Err(io::Error::other("input/output error"));
        }
        let content = &mut *content;
        for change in content.pending.drain(..) {
            match change {
                Change::Write { offset, bytes } => put(&mut content.durable, offset, &bytes),
                Change::SetLen(len) => content.durable.resize(len, 0),
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        lock(&self.disk).operate()?;
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut content = lock(&self.node);
        content.bytes.resize(len, 0);
        content.pending.push(Change::SetLen(len));
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.node).bytes.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(file: &dyn File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        file.write_at(offset, &[IoSlice::new(bytes)])
    }

    #[test]
    fn a_crash_keeps_what_was_synced_and_only_sometimes_the_rest() {
        let path = Path::new("/d/f");
        let mut whole = 0;
        for seed in 0..64 {
            let disk = SimDisk::new(seed);
            let file = disk.open(path, Open::Create).unwrap();
            disk.sync_dir(Path::new("/d")).unwrap();
            write(&*file, 0, &[1; 2048]).unwrap();
            file.sync_data().unwrap();
            write(&*file, 2048, &[2; 2048]).unwrap();
            disk.crash();
            let bytes = disk.bytes(path).unwrap();
            assert_eq!(bytes[..2048], [1; 2048]);
            whole += usize::from(bytes.len() == 4096 && bytes[2048..] == [2; 2048]);
        }
        assert!((1..64).contains(&whole), "{whole} of 64 kept the unsynced write");
    }

    #[test]
    fn a_failed_sync_is_forgotten_though_the_next_one_succeeds() {
        let disk = SimDisk::new(1);
        let file = disk.open(Path::new("/f"), Open::Create).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        write(&*file, 0, b"abc").unwrap();
        disk.plan(Damage::SyncFails { operation: 1 });
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
        disk.crash();
        assert_eq!(disk.bytes(Path::new("/f")).unwrap(), b"");
    }

    #[test]
    fn what_lay_in_a_removed_directory_goes_with_it() {
        let back = |synced: bool| {
            let back = (0..32).filter(|seed| {
                let (disk, path) = (SimDisk::new(*seed), Path::new("/a/b/f"));
                disk.create_dir(Path::new("/a/b")).unwrap();
                disk.open(path, Open::Create).unwrap();
                disk.sync_dir(Path::new("/a/b")).unwrap();
                disk.remove_dir(Path::new("/a/b")).unwrap();
                if synced {
                    disk.sync_dir(Path::new("/a")).unwrap();
                }
                disk.crash();
                disk.bytes(path).is_some()
            });
            back.count()
        };
        assert_eq!(back(true), 0);
        assert!((1..32).contains(&back(false)), "what is not synced may come back");
    }

    #[test]
    fn a_name_needs_its_directory_synced() {
        let lost = (0..32).filter(|seed| {
            let disk = SimDisk::new(*seed);
            let file = disk.open(Path::new("/f"), Open::Create).unwrap();
            write(&*file, 0, b"abc").unwrap();
            file.sync_data().unwrap();
            disk.crash();
            disk.bytes(Path::new("/f")).is_none()
        });
        assert!((1..32).contains(&lost.count()));
    }
}
