//! [`Normalize`]: the only way from what records say of rows to a [`Delta`].
//!
//! The last record of a key wins. What a record says about the past (`before`) is not looked at: the rows to retract
//! come from our own copy, which also serves SELECT. A delete of a key that is not there is a tombstone behind a delete
//! and says nothing. Not an [`super::Operator`]: it comes before the graph and one serves all jobs over the relation.

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};

use super::{CHUNK_BYTES_MAX, CHUNK_ROWS_MAX, Error};
use crate::codec::{Decoded, RowOp};
use crate::delta::Delta;
use crate::state::consolidate::{to_batch, types, with_weights};
use crate::state::decoding::{describe, split};
use crate::state::digest::hash;
use crate::state::encoding::Encoded;
use crate::state::groups::Groups;
use crate::state::versioned::Versioned;

/// One relation's. `apply` gathers an epoch's records, `flush` ends the epoch.
pub struct Normalize {
    schema: SchemaRef,
    types: Vec<DataType>,
    kind: Kind,
    pending: Pending,
}

enum Kind {
    /// Rows only come: nothing is kept.
    AppendOnly,
    /// A relation with a key, these columns, and its rows.
    Keyed { key: Vec<usize>, store: Arc<Versioned> },
    /// A relation without a key: the rows and how often each is there.
    Multiset { store: Arc<Versioned> },
}

/// What the epoch changes so far.
#[derive(Default)]
struct Pending {
    appended: Vec<Delta>,
    /// Keys (of a multiset: rows) in the order of their first record; none is removed before the flush.
    keys: Groups,
    /// By slot, for a relation with a key: its row, `None` when it is gone.
    rows: Vec<Option<Box<[u8]>>>,
    /// By slot, for a multiset: the change of its count.
    counts: Vec<i64>,
    deleted: Deleted,
}

/// The row that the record just before deleted: a row that gets another key comes as a delete and a create, and a value
/// the source left unchanged is found under the key it had.
#[derive(Default)]
enum Deleted {
    #[default]
    None,
    Pending(Box<[u8]>),
    Stored {
        hash: u64,
        key: Vec<u8>,
    },
}

/// One row of a relation with a key, encoded.
struct Keyed<'a> {
    hash: u64,
    key: &'a [u8],
    row: &'a [u8],
    /// Columns whose value the record did not carry.
    unchanged: &'a [(u32, u32)],
}

impl Normalize {
    /// Rows only come ([`crate::codec::Decode::upsert`] is false).
    pub fn append_only(schema: SchemaRef) -> Self {
        Self::new(schema, Kind::AppendOnly)
    }

    /// `key` are the indices of the key's columns; an empty one means that the whole row identifies it.
    pub fn upsert(schema: SchemaRef, key: Vec<usize>) -> Self {
        let store_key = Some(key.clone()).filter(|key| !key.is_empty());
        let store = Arc::new(Versioned::new(SchemaRef::clone(&schema), store_key));
        let kind = if key.is_empty() { Kind::Multiset { store } } else { Kind::Keyed { key, store } };
        Self::new(schema, kind)
    }

    fn new(schema: SchemaRef, kind: Kind) -> Self {
        Self { types: types(&schema), schema, kind, pending: Pending::default() }
    }

    /// The rows, for SELECT; an append-only relation has none.
    pub fn store(&self) -> Option<Arc<Versioned>> {
        match &self.kind {
            Kind::AppendOnly => None,
            Kind::Keyed { store, .. } | Kind::Multiset { store } => Some(Arc::clone(store)),
        }
    }

    /// Takes records in partition and offset order. After an error the relation is of no use any more.
    pub fn apply(&mut self, decoded: &Decoded) -> Result<(), Error> {
        assert_eq!(decoded.rows.num_rows(), decoded.ops.len(), "one op a row");
        let (pending, types) = (&mut self.pending, &self.types);
        match &self.kind {
            Kind::AppendOnly => pending.append(decoded),
            Kind::Keyed { key, store } => {
                let keys = Encoded::keys(decoded.rows.project(key)?.columns(), decoded.ops.len())?;
                let rows = Encoded::rows(decoded.rows.columns(), decoded.ops.len())?;
                let mut unchanged = decoded.unchanged.clone();
                unchanged.sort_unstable();
                let mut unchanged = unchanged.as_slice();
                for (index, op) in decoded.ops.iter().enumerate() {
                    let here = unchanged.partition_point(|(row, _)| *row as usize <= index);
                    let (of_row, rest) = unchanged.split_at(here);
                    unchanged = rest;
                    let (key, row) = (keys.get(index), rows.get(index));
                    pending.keyed(*op, Keyed { hash: hash(key), key, row, unchanged: of_row }, store, types)?;
                }
                Ok(())
            }
            Kind::Multiset { store } => {
                if let Some((row, column)) = decoded.unchanged.first() {
                    let column = self.schema.field(*column as usize).name();
                    let message =
                        format!("column {column} of row {row} is unknown and the relation has no key to find it");
                    return Err(Error::Value(message));
                }
                let rows = Encoded::rows(decoded.rows.columns(), decoded.ops.len())?;
                decoded.ops.iter().zip(rows.iter()).try_for_each(|(op, row)| pending.multiset(*op, row, store, types))
            }
        }
    }

    /// Ends the epoch: its net change, in chunks, applied to the store as of `epoch`. Of an upsert relation each distinct
    /// row stands in it once; rows of an append-only one are handed on as they came.
    pub fn flush(&mut self, epoch: u64) -> Result<Vec<Delta>, Error> {
        let pending = std::mem::take(&mut self.pending);
        let mut out = Chunks { schema: &self.schema, rows: Encoded::default(), weights: Vec::new(), done: Vec::new() };
        let slots = || (0..pending.keys.slots() as u32).map(|slot| (pending.keys.hash(slot), pending.keys.key(slot)));
        match &self.kind {
            Kind::AppendOnly => return Ok(pending.appended),
            Kind::Keyed { store, .. } => {
                for ((hash, key), new) in slots().zip(&pending.rows) {
                    let new = new.as_deref();
                    store.replace(epoch, hash, key, new, |old| {
                        if old != new {
                            out.push(old, -1);
                            out.push(new, 1);
                        }
                    });
                    out.cut()?;
                }
            }
            Kind::Multiset { store } => {
                for ((hash, row), count) in slots().zip(&pending.counts).filter(|(_, count)| **count != 0) {
                    store.add(epoch, hash, row, *count)?;
                    out.push(Some(row), *count);
                    out.cut()?;
                }
            }
        }
        out.end()
    }

    /// Bytes gathered for the epoch, about; the store counts its own.
    pub fn pending_bytes(&self) -> usize {
        let rows: usize = self.pending.rows.iter().flatten().map(|row| row.len()).sum();
        let appended: usize = self.pending.appended.iter().map(|delta| delta.rows.get_array_memory_size()).sum();
        rows + appended
            + self.pending.keys.bytes()
            + self.pending.rows.capacity() * size_of::<Option<Box<[u8]>>>()
            + self.pending.counts.capacity() * size_of::<i64>()
    }
}

impl Pending {
    fn append(&mut self, decoded: &Decoded) -> Result<(), Error> {
        if let Some(other) = decoded.ops.iter().find(|op| **op != RowOp::Insert) {
            return Err(Error::Bug(format!("{other:?} in a relation that was declared append-only")));
        }
        if decoded.rows.num_rows() > 0 {
            self.appended.push(Delta::appended(decoded.rows.clone()));
        }
        Ok(())
    }

    /// One record of a relation with a key.
    fn keyed(&mut self, op: RowOp, it: Keyed<'_>, store: &Versioned, types: &[DataType]) -> Result<(), Error> {
        let deleted = std::mem::take(&mut self.deleted);
        match op {
            RowOp::Insert | RowOp::Upsert if it.unchanged.is_empty() => self.set(it.hash, it.key, Some(it.row.into())),
            RowOp::Insert | RowOp::Upsert => {
                let row = self.fill(&it, deleted, store, types)?;
                self.set(it.hash, it.key, Some(row.into_boxed_slice()));
            }
            RowOp::Delete | RowOp::Retract => {
                let pending = self.keys.slot(it.hash, it.key).map(|slot| self.rows[slot as usize].take());
                self.deleted = match pending {
                    Some(Some(row)) => Deleted::Pending(row),
                    Some(None) => Deleted::None,
                    None => Deleted::Stored { hash: it.hash, key: it.key.to_vec() },
                };
                self.set(it.hash, it.key, None);
            }
            RowOp::Truncate => {
                self.keys.clear();
                self.rows.clear();
                for shard in 0..=u8::MAX {
                    store.newest_of(shard).into_iter().for_each(|(key, _)| self.set(hash(&key), &key, None));
                }
            }
        }
        Ok(())
    }

    fn set(&mut self, hash: u64, key: &[u8], row: Option<Box<[u8]>>) {
        let (slot, new) = self.keys.insert(hash, key);
        if new {
            self.rows.push(row);
        } else {
            self.rows[slot as usize] = row;
        }
    }

    /// The row with its unchanged values taken from our own copy.
    fn fill(&self, it: &Keyed<'_>, deleted: Deleted, store: &Versioned, types: &[DataType]) -> Result<Vec<u8>, Error> {
        let from = |own: Option<&[u8]>| own.map(|own| splice(types, it, own));
        let filled = match self.keys.slot(it.hash, it.key) {
            Some(slot) => from(self.rows[slot as usize].as_deref()),
            None => store.newest(it.hash, it.key, from),
        };
        let filled = filled.or_else(|| match deleted {
            Deleted::None => None,
            Deleted::Pending(row) => from(Some(&row)),
            Deleted::Stored { hash, key } => store.newest(hash, &key, from),
        });
        filled.unwrap_or_else(|| {
            let row = describe(types, it.row);
            Err(Error::Value(format!("{row} leaves values unchanged, but no row with its key has come before")))
        })
    }

    /// One record of a relation without a key.
    fn multiset(&mut self, op: RowOp, row: &[u8], store: &Versioned, types: &[DataType]) -> Result<(), Error> {
        match op {
            RowOp::Insert | RowOp::Upsert => self.count(row, 1, types),
            RowOp::Retract | RowOp::Delete => self.count(row, -1, types),
            RowOp::Truncate => {
                self.keys.clear();
                self.counts.clear();
                let mut rows = (0..=u8::MAX).flat_map(|shard| store.newest_of(shard));
                rows.try_for_each(|(row, count)| self.count(&row, -count, types))
            }
        }
    }

    fn count(&mut self, row: &[u8], weight: i64, types: &[DataType]) -> Result<(), Error> {
        let (slot, new) = self.keys.insert(hash(row), row);
        if new {
            self.counts.push(0);
        }
        let count = &mut self.counts[slot as usize];
        *count = count.checked_add(weight).ok_or_else(|| {
            Error::Overflow(format!("how often the row {} comes", describe(types, row)), "bigint".to_owned())
        })?;
        Ok(())
    }
}

/// `it` with its unchanged columns as in `own`.
fn splice(types: &[DataType], it: &Keyed<'_>, own: &[u8]) -> Result<Vec<u8>, Error> {
    let mut columns = split(types, it.row)?;
    let own = split(types, own)?;
    for (_, column) in it.unchanged {
        columns[*column as usize] = own[*column as usize];
    }
    Ok(columns.concat())
}

/// Encoded rows to deltas of at most about [`CHUNK_ROWS_MAX`] rows.
struct Chunks<'a> {
    schema: &'a SchemaRef,
    rows: Encoded,
    weights: Vec<i64>,
    done: Vec<Delta>,
}

impl Chunks<'_> {
    fn push(&mut self, row: Option<&[u8]>, weight: i64) {
        if let Some(row) = row {
            self.rows.push(row);
            self.weights.push(weight);
        }
    }

    /// Ends the chunk if it is full; the two rows of an update stay together.
    fn cut(&mut self) -> Result<(), Error> {
        let full = self.rows.len() + 1 >= CHUNK_ROWS_MAX || self.rows.bytes() >= CHUNK_BYTES_MAX;
        if full { self.chunk() } else { Ok(()) }
    }

    fn chunk(&mut self) -> Result<(), Error> {
        let rows = to_batch(self.schema, &self.rows.iter().collect::<Vec<_>>())?;
        self.done.push(with_weights(rows, std::mem::take(&mut self.weights)));
        self.rows.clear();
        Ok(())
    }

    fn end(mut self) -> Result<Vec<Delta>, Error> {
        if !self.rows.is_empty() {
            self.chunk()?;
        }
        Ok(self.done)
    }
}
