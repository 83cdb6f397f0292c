//! Changes in commit order become records in bounded chunks: the rules that all databases share.
//!
//! - An update of the key is a delete of the old key, its tombstone and a create of the new key, side by side, with
//!   Debezium's headers `__debezium.newkey` and `__debezium.oldkey`.
//! - A delete is followed by a tombstone. A relation without a key has null keys and no tombstones; its updates and
//!   deletes carry the whole row in `before`.
//! - What `after` lacks because it is unchanged is taken from `before` where that has it, and left out otherwise.

use bytes::Bytes;
use engine::io::RECORD_BYTES_MAX;
use log::{Header, NewRecord};

use crate::cdc::envelope::{Frame, Order, Relation};
use crate::change::{Change, Op, Value};

/// A chunk is handed over at this size, inside a transaction too.
const CHUNK_RECORDS_MAX: usize = 4096;
const CHUNK_BYTES_MAX: usize = 1 << 20;
/// A chunk that ends at a commit is handed over at this size even when more is at hand: small transactions then seldom
/// straddle two chunks.
const CHUNK_BYTES_WHOLE: usize = 256 << 10;
/// Of a key in a message.
const KEY_SHOWN_BYTES: usize = 200;

/// A change that cannot be written as a record without inventing something.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("a change of {relation} does not carry its key column {column}")]
    NoKey { relation: String, column: String },
    #[error(
        "a change of {relation}, which has no key, does not carry the whole row before it (column {column} is missing)"
    )]
    NoBefore { relation: String, column: String },
    #[error(
        "the row of {relation} with the key {key} makes a record of {size} bytes (value before and after, as JSON), over the limit of {limit} bytes"
    )]
    TooLarge { relation: String, key: String, size: usize, limit: usize },
}

/// Gathers the records of one chunk.
#[derive(Debug, Default)]
pub struct Assembler {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    timestamp_ms: i64,
    /// The transaction's id and how many events it has had: in all and for each relation. Only kept when asked for.
    transaction: Option<Counts>,
    open: bool,
}

#[derive(Debug)]
struct Entry {
    relation: usize,
    key: Option<(usize, usize)>,
    value: Option<(usize, usize)>,
    timestamp_ms: i64,
    /// The other key of a key update.
    header: Option<(&'static str, Bytes)>,
}

#[derive(Debug, Default)]
struct Counts {
    id: String,
    total: u64,
    in_collection: Vec<u64>,
}

impl Assembler {
    /// `order`: whether records carry their place in the transaction.
    pub fn new(order: bool) -> Assembler {
        Assembler { transaction: order.then(Counts::default), ..Assembler::default() }
    }

    /// A transaction begins. `timestamp_ms`: its commit time, which its records bear.
    pub fn begin(&mut self, id: std::fmt::Arguments<'_>, timestamp_ms: i64) {
        assert!(!self.open, "transactions do not nest");
        self.open = true;
        self.timestamp_ms = timestamp_ms;
        if let Some(counts) = &mut self.transaction {
            counts.id.clear();
            std::fmt::Write::write_fmt(&mut counts.id, id).expect("a string takes everything");
            counts.total = 0;
            counts.in_collection.clear();
        }
    }

    /// The transaction is whole.
    pub fn commit(&mut self) {
        assert!(self.open, "a commit ends a transaction");
        self.open = false;
    }

    pub fn is_open(&self) -> bool {
        self.open
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the chunk wants to be taken before more is added.
    pub fn is_full(&self) -> bool {
        let bytes_max = if self.open { CHUNK_BYTES_MAX } else { CHUNK_BYTES_WHOLE };
        self.bytes.len() >= bytes_max || self.entries.len() >= CHUNK_RECORDS_MAX
    }

    /// Adds one change; `source` writes the source block of its envelope.
    pub fn push(
        &mut self,
        relation: &Relation,
        change: Change<'_>,
        now_us: i64,
        source: impl Fn(&mut Vec<u8>),
    ) -> Result<(), Unfit> {
        assert!(self.open, "a change belongs to a transaction");
        let filled: Vec<Value<'_>>;
        let mut after = change.after;
        if let (Some(new), Some(old)) = (change.after, change.before)
            && new.contains(&Value::Absent)
        {
            filled = new.iter().zip(old).map(|(new, old)| if *new == Value::Absent { *old } else { *new }).collect();
            after = Some(&filled);
        }
        if relation.key().is_empty() {
            return self.push_keyless(relation, change, after, now_us, source);
        }
        match (change.op, change.before, after) {
            (Op::Truncate, ..) => self.event(relation, (Op::Truncate, None, None), now_us, &source).map(|_| ()),
            (Op::Delete, before, _) => self.delete(relation, before, now_us, &source).map(|_| ()),
            (Op::Update, Some(before), Some(after)) if key_differs(relation, before, after)? => {
                let deleted = self.delete(relation, Some(before), now_us, &source)?;
                let created = self.event(relation, (Op::Create, None, Some(after)), now_us, &source)?;
                let (old, new) = (self.key_bytes(deleted), self.key_bytes(created));
                self.entries[deleted].header = Some(("__debezium.newkey", new));
                self.entries[created].header = Some(("__debezium.oldkey", old));
                Ok(())
            }
            (op, before, after) => self.event(relation, (op, before, after), now_us, &source).map(|_| ()),
        }
    }

    /// The chunk so far, as (relation, record).
    pub fn take(&mut self) -> Vec<(usize, NewRecord)> {
        // A small chunk is copied out so that it does not keep the room of a large one.
        let bytes = if self.bytes.len() > CHUNK_BYTES_MAX / 2 {
            Bytes::from(std::mem::replace(&mut self.bytes, Vec::with_capacity(CHUNK_BYTES_MAX)))
        } else {
            Bytes::copy_from_slice(&self.bytes)
        };
        self.bytes.clear();
        let slice = |range: Option<(usize, usize)>| range.map(|(from, to)| bytes.slice(from..to));
        self.entries
            .drain(..)
            .map(|entry| {
                let headers = entry
                    .header
                    .map(|(name, value)| Header { key: Bytes::from_static(name.as_bytes()), value: Some(value) });
                let record = NewRecord {
                    key: slice(entry.key),
                    value: slice(entry.value),
                    headers: headers.into_iter().collect(),
                    timestamp_ms: Some(entry.timestamp_ms),
                };
                (entry.relation, record)
            })
            .collect()
    }

    fn push_keyless(
        &mut self,
        relation: &Relation,
        change: Change<'_>,
        after: Option<&[Value<'_>]>,
        now_us: i64,
        source: impl Fn(&mut Vec<u8>),
    ) -> Result<(), Unfit> {
        if matches!(change.op, Op::Update | Op::Delete) {
            let missing = match change.before {
                None => Some(0),
                Some(row) => row.iter().position(|value| *value == Value::Absent),
            };
            if let Some(at) = missing {
                let column = relation.column(at).to_owned();
                return Err(Unfit::NoBefore { relation: relation.name.clone(), column });
            }
        }
        self.event(relation, (change.op, change.before, after), now_us, &source).map(|_| ())
    }

    /// A delete and its tombstone; returns the entry of the delete.
    fn delete(
        &mut self,
        relation: &Relation,
        before: Option<&[Value<'_>]>,
        now_us: i64,
        source: &impl Fn(&mut Vec<u8>),
    ) -> Result<usize, Unfit> {
        let at = self.event(relation, (Op::Delete, before, None), now_us, source)?;
        let key = self.entries[at].key;
        self.entries.push(Entry {
            relation: relation.index,
            key,
            value: None,
            timestamp_ms: self.timestamp_ms,
            header: None,
        });
        Ok(at)
    }

    /// One record with an envelope; returns its entry. On an error nothing is added.
    fn event(
        &mut self,
        relation: &Relation,
        (op, before, after): (Op, Option<&[Value<'_>]>, Option<&[Value<'_>]>),
        now_us: i64,
        source: &impl Fn(&mut Vec<u8>),
    ) -> Result<usize, Unfit> {
        let from = self.bytes.len();
        let keyed = !relation.key().is_empty() && op != Op::Truncate;
        if keyed {
            let row = after.or(before).unwrap_or(&[]);
            if let Err(column) = relation.write_key(&mut self.bytes, row) {
                self.bytes.truncate(from);
                return Err(no_key(relation, column));
            }
        }
        let middle = self.bytes.len();
        let transaction = self.transaction.as_mut().map(|counts| counts.next(relation.index));
        let frame = Frame { op, now_us, transaction };
        relation.write_value(&mut self.bytes, &frame, before, after, source);
        let size = self.bytes.len() - from;
        if size > RECORD_BYTES_MAX {
            let shown = &self.bytes[from..middle.min(from + KEY_SHOWN_BYTES)];
            let key = if keyed { String::from_utf8_lossy(shown).into_owned() } else { "none".to_owned() };
            self.bytes.truncate(from);
            let relation = relation.name.clone();
            return Err(Unfit::TooLarge { relation, key, size, limit: RECORD_BYTES_MAX });
        }
        self.entries.push(Entry {
            relation: relation.index,
            key: keyed.then_some((from, middle)),
            value: Some((middle, self.bytes.len())),
            timestamp_ms: self.timestamp_ms,
            header: None,
        });
        Ok(self.entries.len() - 1)
    }

    fn key_bytes(&self, entry: usize) -> Bytes {
        let (from, to) = self.entries[entry].key.expect("events of relations with a key have one");
        Bytes::copy_from_slice(&self.bytes[from..to])
    }
}

impl Counts {
    fn next(&mut self, relation: usize) -> Order<'_> {
        if self.in_collection.len() <= relation {
            self.in_collection.resize(relation + 1, 0);
        }
        self.total += 1;
        self.in_collection[relation] += 1;
        Order { id: &self.id, total: self.total, in_collection: self.in_collection[relation] }
    }
}

/// Whether `before` carries the key and it is another than `after`'s. A `before` without the key says that the key is
/// as it was; one with a part of it says nothing that could be relied on.
fn key_differs(relation: &Relation, before: &[Value<'_>], after: &[Value<'_>]) -> Result<bool, Unfit> {
    let absent = |at: &&usize| before[**at] == Value::Absent;
    match relation.key().iter().find(absent) {
        None => Ok(relation.key().iter().any(|&at| before[at] != after[at])),
        Some(&column) => Err(no_key(relation, column)),
    }
}

fn no_key(relation: &Relation, column: usize) -> Unfit {
    Unfit::NoKey { relation: relation.name.clone(), column: relation.column(column).to_owned() }
}
