//! Keyed state of operators and views, in our own structures; persisted keys in our own order-preserving encoding.

pub mod consolidate;
pub mod decoding;
pub mod digest;
pub mod encoding;
pub mod groups;
pub mod multimap;
pub mod ordered;
mod scan;
pub mod versioned;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use crate::error::Error;

/// Keys hash to this many virtual shards, for ever; workers own ranges of them.
pub const VIRTUAL_SHARDS: usize = 256;

/// Where an operator saves its state: (virtual shard, table within the operator, key, value).
pub trait Writer {
    fn put(&mut self, shard: u8, table: u8, key: &[u8], value: &[u8]) -> Result<(), Error>;
}

/// What was saved, for the shards of one worker, in any order.
pub trait Reader {
    #[allow(clippy::type_complexity, reason = "the entry of `Writer::put`, read back")]
    fn next(&mut self) -> Result<Option<(u8, u8, Vec<u8>, Vec<u8>)>, Error>;
}

/// What SELECT reads of a view or an upsert table. Versioned by epoch: a reader that holds a pin on an epoch sees
/// exactly its state, whatever is applied meanwhile.
pub trait ViewStore: Send + Sync {
    fn schema(&self) -> SchemaRef;
    /// Indices of the key columns; `None` when the relation is a multiset of rows.
    fn key(&self) -> Option<&[usize]>;
    /// The rows of these keys (one row of key columns each, in key order), found ones only, in the order asked.
    fn get(&self, epoch: u64, keys: &RecordBatch) -> Result<RecordBatch, Error>;
    /// All rows (a row of weight n comes n times) in batches of at most 8,192, columns `projection` only.
    fn scan(
        &self,
        epoch: u64,
        projection: Option<&[usize]>,
    ) -> Result<Box<dyn Iterator<Item = Result<RecordBatch, Error>> + Send + '_>, Error>;
}

#[cfg(test)]
mod tests;
