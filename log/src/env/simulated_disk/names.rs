//! Directories: the names programs see, those a crash would find, and the steps between them, each of which survives a
//! crash or not.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::crash::Fates;

/// The directory that is always there.
const ROOT: u64 = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Dir(u64),
    File(u64),
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    dir: u64,
    name: OsString,
}

/// One change of names. It reaches the disk as a whole, and not before those that it builds on: earlier ones of the
/// same name in the same directory.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Put(Place, Entry),
    Move { from: Place, to: Place },
    Remove(Place),
}

impl Step {
    fn places(&self) -> impl Iterator<Item = &Place> {
        let (one, two) = match self {
            Step::Put(place, _) | Step::Remove(place) => (place, None),
            Step::Move { from, to } => (from, Some(to)),
        };
        std::iter::once(one).chain(two)
    }
}

#[derive(Clone, Debug, Default)]
struct Tree {
    dirs: BTreeMap<u64, Arc<BTreeMap<OsString, Entry>>>,
}

/// What can be reached from some directories.
#[derive(Default)]
struct Reach {
    dirs: BTreeSet<u64>,
    files: BTreeSet<u64>,
}

impl Tree {
    fn get(&self, dir: u64, name: &OsStr) -> Option<Entry> {
        self.dirs.get(&dir)?.get(name).copied()
    }

    fn entries(&self, dir: u64) -> impl Iterator<Item = (&OsString, Entry)> {
        self.dirs.get(&dir).into_iter().flat_map(|entries| entries.iter()).map(|(name, entry)| (name, *entry))
    }

    fn put(&mut self, place: &Place, entry: Entry) {
        let entries = self.dirs.entry(place.dir).or_default();
        Arc::make_mut(entries).insert(place.name.clone(), entry);
    }

    fn remove(&mut self, place: &Place) -> Option<Entry> {
        self.dirs.get_mut(&place.dir).and_then(|entries| Arc::make_mut(entries).remove(&place.name))
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Put(place, entry) => self.put(place, *entry),
            Step::Move { from, to } => {
                let entry = self.remove(from).expect("a step is applied after those that it builds on");
                self.put(to, entry);
            }
            Step::Remove(place) => drop(self.remove(place)),
        }
    }

    fn reach(&self, mut from: Vec<u64>, into: &mut Reach) {
        while let Some(dir) = from.pop() {
            into.dirs.insert(dir);
            for (_, entry) in self.entries(dir) {
                match entry {
                    Entry::Dir(below) => from.push(below),
                    Entry::File(file) => drop(into.files.insert(file)),
                }
            }
        }
    }

    fn walk(&self, dir: u64, path: &Path, into: &mut Vec<(PathBuf, u64)>) {
        for (name, entry) in self.entries(dir) {
            match entry {
                Entry::Dir(below) => self.walk(below, &path.join(name), into),
                Entry::File(file) => into.push((path.join(name), file)),
            }
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    seen: Tree,
    durable: Tree,
    /// Between the two, in order.
    pending: Vec<Step>,
}

impl Names {
    pub fn find(&self, path: &Path) -> io::Result<Entry> {
        let mut found = Entry::Dir(ROOT);
        for name in names(path)? {
            let Entry::Dir(dir) = found else { return Err(io::ErrorKind::NotADirectory.into()) };
            found = self.seen.get(dir, name).ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(found)
    }

    pub fn file(&self, path: &Path) -> io::Result<u64> {
        match self.find(path)? {
            Entry::File(file) => Ok(file),
            Entry::Dir(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    pub fn dir(&self, path: &Path) -> io::Result<u64> {
        match self.find(path)? {
            Entry::Dir(dir) => Ok(dir),
            Entry::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn place(&self, path: &Path) -> io::Result<Place> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        Ok(Place { dir: self.dir(parent)?, name: name.to_owned() })
    }

    fn change(&mut self, step: Step) {
        self.seen.apply(&step);
        self.pending.push(step);
    }

    pub fn create_file(&mut self, path: &Path, file: u64) -> io::Result<()> {
        let place = self.place(path)?;
        if self.seen.get(place.dir, &place.name).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.change(Step::Put(place, Entry::File(file)));
        Ok(())
    }

    /// With its parents; `next` gives numbers to new directories.
    pub fn create_dir(&mut self, path: &Path, mut next: impl FnMut() -> u64) -> io::Result<()> {
        let mut dir = ROOT;
        for name in names(path)? {
            dir = match self.seen.get(dir, name) {
                Some(Entry::Dir(there)) => there,
                Some(Entry::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                None => {
                    let new = next();
                    self.change(Step::Put(Place { dir, name: name.to_owned() }, Entry::Dir(new)));
                    new
                }
            };
        }
        Ok(())
    }

    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let moved = self.find(from)?;
        let (from_place, to_place) = (self.place(from)?, self.place(to)?);
        let replaced = self.seen.get(to_place.dir, &to_place.name);
        if replaced == Some(moved) {
            return Ok(());
        }
        if matches!(moved, Entry::Dir(_)) && to.starts_with(from) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        match (moved, replaced) {
            (_, None) | (Entry::File(_), Some(Entry::File(_))) => {}
            (Entry::Dir(_), Some(Entry::Dir(dir))) if self.seen.entries(dir).next().is_none() => {}
            (Entry::Dir(_), Some(Entry::Dir(_))) => return Err(io::ErrorKind::DirectoryNotEmpty.into()),
            (Entry::Dir(_), Some(Entry::File(_))) => return Err(io::ErrorKind::NotADirectory.into()),
            (Entry::File(_), Some(Entry::Dir(_))) => return Err(io::ErrorKind::IsADirectory.into()),
        }
        self.change(Step::Move { from: from_place, to: to_place });
        Ok(())
    }

    pub fn unlink(&mut self, path: &Path) -> io::Result<()> {
        self.file(path)?;
        let place = self.place(path)?;
        self.change(Step::Remove(place));
        Ok(())
    }

    /// A directory with all that is in it: one step each, from the inside out.
    pub fn remove_dir(&mut self, path: &Path) -> io::Result<()> {
        let dir = self.dir(path)?;
        let place = self.place(path)?;
        self.empty(dir);
        self.change(Step::Remove(place));
        Ok(())
    }

    fn empty(&mut self, dir: u64) {
        let entries: Vec<_> = self.seen.entries(dir).map(|(name, entry)| (name.clone(), entry)).collect();
        for (name, entry) in entries {
            if let Entry::Dir(below) = entry {
                self.empty(below);
            }
            self.change(Step::Remove(Place { dir, name }));
        }
    }

    pub fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let dir = self.dir(path)?;
        Ok(self.seen.entries(dir).map(|(name, _)| path.join(name)).collect())
    }

    /// All files, by path.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let mut found = Vec::new();
        self.seen.walk(ROOT, Path::new("/"), &mut found);
        found
    }

    /// Makes the steps in this directory durable, and those in others that they build on or are one with.
    pub fn sync(&mut self, dir: u64) {
        let mut places = BTreeSet::new();
        let mut due = vec![false; self.pending.len()];
        for (at, step) in self.pending.iter().enumerate().rev() {
            due[at] = step.places().any(|place| place.dir == dir || places.contains(place));
            if due[at] {
                places.extend(step.places().cloned());
            }
        }
        let mut due = due.into_iter();
        let durable = &mut self.durable;
        self.pending.retain(|step| {
            let due = due.next().expect("one for each step");
            if due {
                durable.apply(step);
            }
            !due
        });
    }

    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// The names after a crash; `None` when the fates want a step without one that it builds on.
    pub fn after_crash(&self, fates: &mut Fates) -> Option<Names> {
        let mut durable = self.durable.clone();
        let mut lost: BTreeSet<&Place> = BTreeSet::new();
        for step in &self.pending {
            let blocked = step.places().any(|place| lost.contains(place));
            if fates.step(blocked)? {
                durable.apply(step);
            } else {
                lost.extend(step.places());
            }
        }
        let mut reach = Reach::default();
        durable.reach(vec![ROOT], &mut reach);
        durable.dirs.retain(|dir, _| reach.dirs.contains(dir));
        Some(Names { seen: durable.clone(), durable, pending: Vec::new() })
    }

    /// Files that are there, or may be there after a crash.
    pub fn possible_files(&self) -> BTreeSet<u64> {
        let mut reach = self.possible();
        self.seen.reach(vec![ROOT], &mut reach);
        reach.files
    }

    /// Files that may be there after a crash.
    pub fn lasting_files(&self) -> BTreeSet<u64> {
        self.possible().files
    }

    /// Files that are there.
    pub fn seen_files(&self) -> BTreeSet<u64> {
        let mut reach = Reach::default();
        self.seen.reach(vec![ROOT], &mut reach);
        reach.files
    }

    /// What may be reached after a crash.
    fn possible(&self) -> Reach {
        let mut reach = Reach::default();
        let mut from = vec![ROOT];
        for step in &self.pending {
            match step {
                Step::Put(_, Entry::Dir(dir)) => from.push(*dir),
                Step::Put(_, Entry::File(file)) => drop(reach.files.insert(*file)),
                Step::Move { .. } | Step::Remove(_) => {}
            }
        }
        self.durable.reach(from, &mut reach);
        reach
    }

    /// Forgets directories that nobody will see again.
    pub fn sweep(&mut self) {
        let mut reach = self.possible();
        self.seen.reach(vec![ROOT], &mut reach);
        self.seen.dirs.retain(|dir, _| reach.dirs.contains(dir));
        self.durable.dirs.retain(|dir, _| reach.dirs.contains(dir));
    }
}

/// The names in a path; the directory in which the process stands is the root.
fn names(path: &Path) -> io::Result<Vec<&OsStr>> {
    let plain = |component| match component {
        Component::Normal(name) => Some(Ok(name)),
        Component::RootDir | Component::CurDir => None,
        Component::ParentDir | Component::Prefix(_) => Some(Err(io::ErrorKind::InvalidInput.into())),
    };
    path.components().filter_map(plain).collect()
}
