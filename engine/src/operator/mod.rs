//! Incremental operators. After every epoch the accumulated output equals the batch query over the accumulated input.

pub mod aggregate;
pub mod filter;
pub mod join;
pub mod normalize;
#[cfg(test)]
mod tests;
pub mod union;

use arrow::array::RecordBatch;

use crate::delta::Delta;
pub use crate::error::Error;
use crate::expr::ExprRef;
use crate::time::Epoch;

/// Which input of an operator a delta comes in by, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(pub usize);

/// How the rows of a port are spread over workers.
#[derive(Clone, Debug)]
pub enum Exchange {
    /// Wherever they are.
    Any,
    /// Rows with equal keys meet on one worker (by 256 stable virtual shards).
    Hash(Vec<ExprRef>),
    Broadcast,
    /// All on worker 0.
    Single,
}

/// What an operator may do besides keeping state.
pub struct Context<'a> {
    out: &'a mut Vec<Delta>,
    /// Rows of state read or written so far: the measure of "work in proportion to what changed".
    pub rows_touched: u64,
}

/// Makes a fresh instance for one worker.
pub type Factory = std::sync::Arc<dyn Fn() -> Box<dyn Operator> + Send + Sync>;

/// Rows a chunk of output may have.
pub const CHUNK_ROWS_MAX: usize = 8192;

/// Where a chunk ends although it has few rows: long before its strings reach the 2 GiB that Arrow's offsets can count.
pub const CHUNK_BYTES_MAX: usize = 64 << 20;

impl<'a> Context<'a> {
    pub fn new(out: &'a mut Vec<Delta>) -> Self {
        Self { out, rows_touched: 0 }
    }

    /// Hands a delta on, in chunks of at most [`CHUNK_ROWS_MAX`] rows.
    pub fn emit(&mut self, delta: Delta) {
        let mut at = 0;
        while at < delta.len() {
            let len = CHUNK_ROWS_MAX.min(delta.len() - at);
            let rows: RecordBatch = delta.rows.slice(at, len);
            self.out.push(Delta { rows, weights: delta.weights.as_ref().map(|w| w.slice(at, len)) });
            at += len;
        }
    }
}

/// One worker's instance of an operator. Synchronous, deterministic, without IO, clock or randomness; sees no barrier
/// and no commit. A stateful operator gathers in `on_delta` and emits consolidated changes in `on_flush`.
pub trait Operator: Send {
    /// Names the operator in errors, metrics and EXPLAIN.
    fn name(&self) -> &'static str;
    fn exchange(&self, port: Port) -> Exchange;
    fn on_delta(&mut self, port: Port, delta: Delta, cx: &mut Context<'_>) -> Result<(), Error>;
    /// Called once an epoch in which a delta came, after the last one; and once at the job's first epoch, whether a
    /// delta came or not (an aggregate without keys then gives its one row). Where a port's exchange is
    /// [`Exchange::Single`], only worker 0's instance is flushed.
    fn on_flush(&mut self, epoch: &Epoch, cx: &mut Context<'_>) -> Result<(), Error>;
    /// Writes the whole state, by virtual shard, so that it can be loaded at another worker count.
    fn save(&self, out: &mut dyn crate::state::Writer) -> Result<(), Error>;
    /// Loads the entries of the virtual shards in `shards`; called on a fresh instance.
    fn load(&mut self, from: &mut dyn crate::state::Reader) -> Result<(), Error>;
    /// Bytes of state, about.
    fn state_bytes(&self) -> usize {
        0
    }
}
