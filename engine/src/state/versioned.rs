//! [`Versioned`]: the rows of a relation as of each epoch that somebody may still read. The [`ViewStore`] of views and
//! upsert tables.
//!
//! One writer applies epochs in ascending order. A reader at an epoch sees exactly the rows of that epoch, provided the
//! epoch is not below the floor that [`Versioned::release`] set and is not being applied now; so readers read published
//! epochs under a pin, and the engine releases what no pin holds. Rows lie in 256 shards with a lock each, held for one
//! row by the writer, for the copying of one shard by a scan.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};

use super::consolidate::{to_batch, types};
use super::decoding::describe;
use super::digest::{hash, shard};
use super::encoding::Encoded;
use super::groups::Groups;
use super::scan::Scan;
use super::{Reader, VIRTUAL_SHARDS, ViewStore, Writer};
use crate::delta::Delta;
use crate::error::Error;

/// Rows by key, or a multiset of rows, in versions by epoch.
pub struct Versioned {
    schema: SchemaRef,
    types: Vec<DataType>,
    key: Option<Vec<usize>>,
    shards: Vec<RwLock<Shard>>,
    /// Epochs below are gone.
    floor: AtomicU64,
    /// Entries in the shards' `stale`: whether a release has anything to do.
    stale: AtomicUsize,
}

/// The rows of one virtual shard. The key of a row without a key is the whole row.
#[derive(Default)]
pub(super) struct Shard {
    keys: Groups,
    /// By slot of `keys`.
    rows: Vec<Row>,
    /// (epoch, slot): from this epoch on, the versions before it are not needed. Ascending.
    stale: VecDeque<(u64, u32)>,
    row_bytes: usize,
    /// Rows of the newest version, each counted as often as it is there.
    count: i64,
}

struct Row {
    newest: Version,
    /// Ascending; empty but for rows that changed lately.
    older: Vec<Version>,
}

/// What a key is from an epoch on.
struct Version {
    from: u64,
    /// How often the row is there; 0: not at all.
    count: i64,
    /// The encoded row; empty in a multiset, where the key says it all.
    row: Box<[u8]>,
}

/// `from` of a slot that is not in use.
const UNUSED: u64 = u64::MAX;

impl Versioned {
    /// An empty relation; `key` are the indices of its key's columns, `None` for a multiset of rows.
    pub fn new(schema: SchemaRef, key: Option<Vec<usize>>) -> Self {
        let shards = (0..VIRTUAL_SHARDS).map(|_| RwLock::default()).collect();
        let types = types(&schema);
        Self { schema, types, key, shards, floor: AtomicU64::new(0), stale: AtomicUsize::new(0) }
    }

    /// Applies the consolidated change of an epoch, not below any applied before. A key that would have two rows, or a
    /// row taken away that is not there, is an error; part of the change is then applied and the store is of no use
    /// any more, except to readers of earlier epochs.
    pub fn apply(&self, epoch: u64, delta: &Delta) -> Result<(), Error> {
        let rows = Encoded::rows(delta.rows.columns(), delta.len())?;
        let Some(key) = &self.key else {
            for (index, row) in rows.iter().enumerate() {
                self.add(epoch, hash(row), row, delta.weight(index))?;
            }
            return Ok(());
        };
        let keys = Encoded::keys(delta.rows.project(key)?.columns(), delta.len())?;
        for index in (0..delta.len()).filter(|index| delta.weight(*index) < 0) {
            self.retract(epoch, keys.get(index), rows.get(index), delta.weight(index))?;
        }
        for index in (0..delta.len()).filter(|index| delta.weight(*index) > 0) {
            let (key, row) = (keys.get(index), rows.get(index));
            let mut unique = delta.weight(index) == 1;
            self.replace(epoch, hash(key), key, Some(row), |old| unique &= old.is_none());
            if !unique {
                return Err(Error::Value(format!("two rows have the key of {}", describe(&self.types, row))));
            }
        }
        Ok(())
    }

    fn retract(&self, epoch: u64, key: &[u8], row: &[u8], weight: i64) -> Result<(), Error> {
        let mut there = weight == -1;
        self.replace(epoch, hash(key), key, None, |old| there &= old == Some(row));
        if there { Ok(()) } else { Err(Error::NegativeWeight(describe(&self.types, row))) }
    }

    /// Makes `new` the row of a key as of `epoch`; `old` sees the row before.
    pub fn replace(&self, epoch: u64, hash: u64, key: &[u8], new: Option<&[u8]>, old: impl FnOnce(Option<&[u8]>)) {
        assert!(self.key.is_some(), "a relation with a key");
        let mut shard = self.write(shard(hash));
        let before = shard.newest(hash, key).filter(|version| version.count > 0).map(|version| &*version.row);
        let same = before == new;
        old(before);
        if !same {
            let row = new.map_or_else(Box::default, Box::from);
            let stale = shard.put(hash, key, Version { from: epoch, count: new.is_some() as i64, row });
            self.stale.fetch_add(stale.into(), Ordering::Relaxed);
        }
    }

    /// Adds `weight` to the count of a row of a multiset as of `epoch`.
    pub fn add(&self, epoch: u64, hash: u64, row: &[u8], weight: i64) -> Result<(), Error> {
        assert!(self.key.is_none(), "a relation without a key");
        let mut shard = self.write(shard(hash));
        let before = shard.newest(hash, row).map_or(0, |version| version.count);
        let count = before.checked_add(weight).ok_or_else(|| {
            Error::Overflow(format!("how often the row {} is there", describe(&self.types, row)), "bigint".to_owned())
        })?;
        if count < 0 {
            return Err(Error::NegativeWeight(describe(&self.types, row)));
        }
        if count != before {
            let stale = shard.put(hash, row, Version { from: epoch, count, row: Box::default() });
            self.stale.fetch_add(stale.into(), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Shows the newest row of a key, published or not.
    pub fn newest<R>(&self, hash: u64, key: &[u8], see: impl FnOnce(Option<&[u8]>) -> R) -> R {
        let shard = self.read(shard(hash));
        see(shard.newest(hash, key).filter(|version| version.count > 0).map(|version| &*version.row))
    }

    /// The keys that have a newest row, of one virtual shard, in order, and how often each is there.
    pub fn newest_of(&self, shard: u8) -> Vec<(Box<[u8]>, i64)> {
        let shard = self.read(shard);
        let slots = shard.keys.sorted().into_iter();
        let newest = slots.map(|slot| (shard.keys.key(slot).into(), shard.rows[slot as usize].newest.count));
        newest.filter(|(_, count)| *count > 0).collect()
    }

    /// How often each of `rows` is in a multiset at `epoch`.
    pub fn totals(&self, epoch: u64, rows: &RecordBatch) -> Result<Int64Array, Error> {
        assert!(self.key.is_none(), "a relation without a key");
        let rows = Encoded::rows(rows.columns(), rows.num_rows())?;
        let total = |row: &[u8]| {
            let hash = hash(row);
            let shard = self.read_at(shard(hash), epoch)?;
            Ok(shard.keys.slot(hash, row).and_then(|slot| shard.rows[slot as usize].at(epoch)).map_or(0, |v| v.count))
        };
        rows.iter().map(total).collect::<Result<Vec<_>, Error>>().map(Int64Array::from)
    }

    /// No reader will read below `epoch` any more: what only those could see may go. Never goes back.
    pub fn release(&self, epoch: u64) {
        let before = self.floor.fetch_max(epoch, Ordering::AcqRel);
        if epoch <= before || self.stale.load(Ordering::Relaxed) == 0 {
            return;
        }
        for shard in 0..=u8::MAX {
            if self.read(shard).stale.front().is_some_and(|(from, _)| *from <= epoch) {
                let collected = self.write(shard).collect(epoch);
                self.stale.fetch_sub(collected, Ordering::Relaxed);
            }
        }
    }

    /// Rows of the newest version.
    pub fn len(&self) -> u64 {
        (0..=u8::MAX).map(|shard| self.read(shard).count.unsigned_abs()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keys held, those too that only older epochs see.
    pub fn held_rows(&self) -> usize {
        (0..=u8::MAX).map(|shard| self.read(shard).keys.len()).sum()
    }

    /// Bytes of memory, about.
    pub fn bytes(&self) -> usize {
        (0..=u8::MAX).map(|shard| self.read(shard).bytes()).sum()
    }

    /// Writes the newest version as table `table`.
    pub fn save(&self, table: u8, out: &mut dyn Writer) -> Result<(), Error> {
        for number in 0..=u8::MAX {
            let shard = self.read(number);
            for slot in shard.keys.sorted() {
                let newest = &shard.rows[slot as usize].newest;
                match &self.key {
                    _ if newest.count == 0 => {}
                    Some(_) => out.put(number, table, shard.keys.key(slot), &newest.row)?,
                    None => out.put(number, table, shard.keys.key(slot), &newest.count.to_be_bytes())?,
                }
            }
        }
        Ok(())
    }

    /// Loads what was saved as the state of `epoch`.
    pub fn load(&self, epoch: u64, from: &mut dyn Reader) -> Result<(), Error> {
        while let Some((_, _, key, value)) = from.next()? {
            let (count, row) = match &self.key {
                Some(_) => (1, value.into_boxed_slice()),
                None => {
                    let count = value.as_slice().try_into().map(i64::from_be_bytes);
                    (count.map_err(|_| Error::Bug("a saved count is damaged".to_owned()))?, Box::default())
                }
            };
            let hash = hash(&key);
            self.write(shard(hash)).put(hash, &key, Version { from: epoch, count, row });
        }
        Ok(())
    }

    pub(super) fn types(&self) -> &[DataType] {
        &self.types
    }

    /// The shard, if `epoch` can still be read.
    pub(super) fn read_at(&self, shard: u8, epoch: u64) -> Result<RwLockReadGuard<'_, Shard>, Error> {
        let guard = self.read(shard);
        let floor = self.floor.load(Ordering::Acquire);
        if epoch < floor {
            return Err(Error::Bug(format!("epoch {epoch} is read without a pin, the oldest kept is {floor}")));
        }
        Ok(guard)
    }

    // A writer that panicked ended its job; the versions it wrote are of an epoch that nobody will publish.
    fn read(&self, shard: u8) -> RwLockReadGuard<'_, Shard> {
        self.shards[shard as usize].read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, shard: u8) -> RwLockWriteGuard<'_, Shard> {
        self.shards[shard as usize].write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ViewStore for Versioned {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    fn key(&self) -> Option<&[usize]> {
        self.key.as_deref()
    }

    fn get(&self, epoch: u64, keys: &RecordBatch) -> Result<RecordBatch, Error> {
        let Some(key) = &self.key else {
            return Err(Error::Bug("a relation without a key is asked by key".to_owned()));
        };
        let same = |(column, index): (&arrow::array::ArrayRef, &usize)| *column.data_type() == self.types[*index];
        if keys.num_columns() != key.len() || !keys.columns().iter().zip(key).all(same) {
            return Err(Error::Bug(format!("a key of the types {:?} is asked for", keys.schema())));
        }
        let keys = Encoded::keys(keys.columns(), keys.num_rows())?;
        let mut found = Encoded::default();
        for key in keys.iter() {
            let hash = hash(key);
            let shard = self.read_at(shard(hash), epoch)?;
            let version = shard.keys.slot(hash, key).and_then(|slot| shard.rows[slot as usize].at(epoch));
            if let Some(version) = version.filter(|version| version.count > 0) {
                found.push(&version.row);
            }
        }
        to_batch(&self.schema, &found.iter().collect::<Vec<_>>())
    }

    fn scan(
        &self,
        epoch: u64,
        projection: Option<&[usize]>,
    ) -> Result<Box<dyn Iterator<Item = Result<RecordBatch, Error>> + Send + '_>, Error> {
        Ok(Box::new(Scan::new(self, epoch, projection)?))
    }
}

impl Shard {
    fn newest(&self, hash: u64, key: &[u8]) -> Option<&Version> {
        self.keys.slot(hash, key).map(|slot| &self.rows[slot as usize].newest)
    }

    /// Copies the rows of an epoch to `rows`, how often each is there to `counts`.
    pub(super) fn copy(&self, epoch: u64, keyed: bool, rows: &mut Encoded, counts: &mut Vec<i64>) {
        for slot in self.keys.iter() {
            if let Some(version) = self.rows[slot as usize].at(epoch).filter(|version| version.count > 0) {
                rows.push(if keyed { &version.row } else { self.keys.key(slot) });
                counts.push(version.count);
            }
        }
    }

    /// Whether something can be collected for it later.
    fn put(&mut self, hash: u64, key: &[u8], version: Version) -> bool {
        let (slot, new) = self.keys.insert(hash, key);
        let (from, gone) = (version.from, version.count == 0);
        self.row_bytes += version.row.len();
        self.count += version.count;
        if new {
            let row = Row { newest: version, older: Vec::new() };
            match self.rows.get_mut(slot as usize) {
                Some(place) => *place = row,
                None => self.rows.push(row),
            }
            return false;
        }
        let row = &mut self.rows[slot as usize];
        assert!(row.newest.from <= from, "epochs are applied in ascending order");
        let before = std::mem::replace(&mut row.newest, version);
        self.count -= before.count;
        if before.from == from {
            self.row_bytes -= before.row.len();
        } else {
            row.older.push(before);
        }
        let stale = (gone || !row.older.is_empty()) && self.stale.back() != Some(&(from, slot));
        if stale {
            self.stale.push_back((from, slot));
        }
        stale
    }

    /// Drops the versions that no epoch from `floor` on sees; how many entries of `stale` that took.
    fn collect(&mut self, floor: u64) -> usize {
        let before = self.stale.len();
        while let Some((_, slot)) = self.stale.front().copied().filter(|(from, _)| *from <= floor) {
            self.stale.pop_front();
            let row = &mut self.rows[slot as usize];
            let unseen = match row.newest.from <= floor {
                true => row.older.len(),
                false => row.older.iter().rposition(|version| version.from <= floor).unwrap_or(0),
            };
            self.row_bytes -= row.older.drain(..unseen).map(|version| version.row.len()).sum::<usize>();
            if row.older.is_empty() {
                row.older = Vec::new();
            }
            if row.newest.count == 0 && row.newest.from <= floor {
                row.newest.from = UNUSED;
                self.keys.remove(slot);
            }
        }
        before - self.stale.len()
    }

    fn bytes(&self) -> usize {
        self.keys.bytes()
            + self.row_bytes
            + self.rows.capacity() * size_of::<Row>()
            + self.stale.len() * (size_of::<(u64, u32)>() + size_of::<Version>())
    }
}

impl Row {
    fn at(&self, epoch: u64) -> Option<&Version> {
        if self.newest.from <= epoch {
            return Some(&self.newest);
        }
        self.older.iter().rev().find(|version| version.from <= epoch)
    }
}
