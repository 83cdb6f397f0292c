//! Records to rows and rows to records: the seams [`Format`], [`Decode`] and [`Encode`], implemented in `connectors`.

use std::collections::BTreeMap;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::SchemaRef;

use crate::delta::Delta;

/// What one record says of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOp {
    /// One more row, whatever its key (append-only topics).
    Insert,
    /// The row of this key is now this.
    Upsert,
    /// The row of this key is gone; only the key columns of the row are meaningful.
    Delete,
    /// One row equal to this one is gone (relations without a key, where the whole row identifies it).
    Retract,
    /// All rows of the relation are gone; the row is all null.
    Truncate,
}

/// The rows of a run of records, in offset order. Records that say nothing (a tombstone after a delete, an envelope of
/// another kind) give no row.
#[derive(Debug)]
pub struct Decoded {
    pub rows: RecordBatch,
    pub ops: Vec<RowOp>,
    /// Values the record did not carry because the source left them unchanged (TOAST): (row, column). The column is
    /// null there; normalize fills it from its own copy.
    pub unchanged: Vec<(u32, u32)>,
}

/// A record that is not what its topic was declared to hold.
#[derive(Debug, thiserror::Error)]
#[error("record at offset {} cannot be decoded: {reason}", .offset.0)]
pub struct DecodeError {
    pub offset: log::Offset,
    pub reason: String,
}

/// Turns committed records into rows. Deterministic; keeps nothing between calls. The rows before a failing record are
/// not lost: the caller decodes again up to it.
pub trait Decode: Send + Sync {
    /// The declared columns, every one nullable: of a deleted row only its key is known.
    fn schema(&self) -> SchemaRef;
    /// Whether the rows need normalize (anything but [`RowOp::Insert`] may occur).
    fn upsert(&self) -> bool;
    fn decode(&self, partition: log::TopicPartition, records: &[log::RecordView]) -> Result<Decoded, DecodeError>;
}

/// Turns the consolidated change of one epoch into records of an output topic, at most one a key.
pub trait Encode: Send + Sync {
    /// `delta` holds each distinct row once with its net weight; the retractions of a key may stand anywhere in it.
    /// `epoch` becomes the header `epoch` (decimal digits). `totals` holds how often each row of `delta` stands in the
    /// relation after the epoch; needed where [`Encode::totals`] says so, ignored elsewhere.
    fn encode(
        &self,
        epoch: u64,
        delta: &Delta,
        totals: Option<&Int64Array>,
        out: &mut Vec<log::NewRecord>,
    ) -> Result<(), crate::error::Error>;
    /// Whether `encode` needs `totals` (flat JSON of a relation without a key, for its `_count`).
    fn totals(&self) -> bool {
        false
    }
}

/// How a relation's records are written: name (`json`, `debezium-json`, `raw`) and both directions.
pub trait Format: Send + Sync {
    fn name(&self) -> &'static str;
    /// `schema` are the declared columns (`None`: the format's own), `key` the indices of the primary key's.
    /// An unknown option is an error that names it.
    fn decode(
        &self,
        schema: Option<SchemaRef>,
        key: &[usize],
        options: &BTreeMap<String, String>,
    ) -> Result<Box<dyn Decode>, String>;
    /// `key`: `Some(&[])` is the one-row relation with the key `{}`; `None` has null keys when `append_only`, else the
    /// row is the key and the value carries `_count`.
    fn encode(
        &self,
        schema: SchemaRef,
        key: Option<&[usize]>,
        append_only: bool,
        options: &BTreeMap<String, String>,
    ) -> Result<Box<dyn Encode>, String>;
}
