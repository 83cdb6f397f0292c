//! [`Scan`]: all rows of a [`Versioned`] at an epoch, in batches.

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;

use super::consolidate::take_rows;
use super::decoding::decode;
use super::encoding::Encoded;
use super::versioned::Versioned;
use super::{VIRTUAL_SHARDS, ViewStore};
use crate::error::Error;

/// Rows a batch of a scan has at most.
const BATCH_ROWS_MAX: usize = 8192;

/// Where a batch ends although it has few rows: long before its strings reach the 2 GiB that Arrow's offsets can count.
const BATCH_BYTES_MAX: usize = 64 << 20;

/// Copies a shard at a time under its lock, gathers small ones, decodes outside of the lock.
pub(super) struct Scan<'a> {
    store: &'a Versioned,
    epoch: u64,
    projection: Option<Vec<usize>>,
    schema: SchemaRef,
    /// The next shard to copy.
    shard: usize,
    rows: Encoded,
    /// How often each of `rows` is there.
    counts: Vec<i64>,
    /// The next of `rows` to give, and how often it was given already.
    next: usize,
    given: i64,
}

impl<'a> Scan<'a> {
    pub(super) fn new(store: &'a Versioned, epoch: u64, projection: Option<&[usize]>) -> Result<Self, Error> {
        let schema = match projection {
            Some(projection) => SchemaRef::new(store.schema().project(projection)?),
            None => store.schema(),
        };
        drop(store.read_at(0, epoch)?);
        let projection = projection.map(<[usize]>::to_vec);
        let (rows, counts) = (Encoded::default(), Vec::new());
        Ok(Self { store, epoch, projection, schema, shard: 0, rows, counts, next: 0, given: 0 })
    }

    /// Copies shards until a batch is full or there are no more.
    fn gather(&mut self) -> Result<(), Error> {
        if self.next == self.rows.len() {
            self.rows.clear();
            self.counts.clear();
            self.next = 0;
        }
        while self.rows.len() - self.next < BATCH_ROWS_MAX && self.shard < VIRTUAL_SHARDS {
            let shard = self.store.read_at(self.shard as u8, self.epoch)?;
            shard.copy(self.epoch, self.store.key().is_some(), &mut self.rows, &mut self.counts);
            self.shard += 1;
        }
        Ok(())
    }

    /// At most a batch of rows from `next` on, each as often as it is there.
    fn batch(&mut self) -> Result<RecordBatch, Error> {
        let first = self.next;
        let mut indices = Vec::new();
        let mut bytes = 0;
        while indices.len() < BATCH_ROWS_MAX && bytes < BATCH_BYTES_MAX && self.next < self.rows.len() {
            let left = self.counts[self.next] - self.given;
            let len = self.rows.get(self.next).len().max(1);
            let room = (BATCH_ROWS_MAX - indices.len()).min((BATCH_BYTES_MAX - bytes).div_ceil(len));
            let now = left.min(room as i64);
            bytes += len * now as usize;
            indices.extend(std::iter::repeat_n((self.next - first) as u32, now as usize));
            self.given += now;
            if now == left {
                self.next += 1;
                self.given = 0;
            }
        }
        let last = indices.last().map_or(first, |last| first + *last as usize + 1);
        let rows: Vec<&[u8]> = (first..last).map(|row| self.rows.get(row)).collect();
        let columns = decode(self.store.types(), &rows, self.projection.as_deref())?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let batch = RecordBatch::try_new_with_options(SchemaRef::clone(&self.schema), columns, &options)?;
        if indices.len() == rows.len() {
            return Ok(batch);
        }
        take_rows(&batch, indices)
    }
}

impl Iterator for Scan<'_> {
    type Item = Result<RecordBatch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Err(error) = self.gather() {
            return Some(Err(error));
        }
        if self.next == self.rows.len() { None } else { Some(self.batch()) }
    }
}
