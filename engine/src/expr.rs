//! What a streaming plan evaluates: scalar expressions and aggregate functions. `sql` gives the expressions.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::DataType;

use crate::error::Error;

/// A deterministic scalar expression over the columns of a batch. Does no IO, reads no clock. An error names the value
/// that could not be computed (overflow, division by zero, a cast) and stops the job.
pub trait Expr: Send + Sync + std::fmt::Debug {
    fn data_type(&self) -> DataType;
    /// One value a row of `rows`.
    fn evaluate(&self, rows: &RecordBatch) -> Result<ArrayRef, Error>;
}

/// Shared because every worker evaluates the same expression.
pub type ExprRef = Arc<dyn Expr>;

/// A column by its index: the expression that everyone needs.
#[derive(Clone, Debug)]
pub struct Column {
    pub index: usize,
    pub data_type: DataType,
}

impl Expr for Column {
    fn data_type(&self) -> DataType {
        self.data_type.clone()
    }

    fn evaluate(&self, rows: &RecordBatch) -> Result<ArrayRef, Error> {
        Ok(Arc::clone(rows.column(self.index)))
    }
}

/// An aggregate function over a type of input. The five built-in ones are in [`crate::operator::aggregate`].
pub trait Aggregate: Send + Sync + std::fmt::Debug {
    fn name(&self) -> &'static str;
    /// The type of the result.
    fn data_type(&self) -> DataType;
    /// The states of one worker's groups, none yet.
    fn accumulator(&self) -> Box<dyn Accumulator>;
}

/// The states of one aggregate function, one a group; a group is named by its slot. A result depends only on the
/// weighted values that a group holds, not on the order in which they came and went.
pub trait Accumulator: Send + Sync {
    /// Makes room for the slots below `slots`, empty ones.
    fn grow(&mut self, slots: usize);
    /// For each row `i`, the value `values[i]` comes `weights[i]` times (goes, where negative) in the group `slots[i]`.
    /// `values` is `None` for a function without input. What takes a value away may come before what brings it.
    fn update(&mut self, values: Option<&ArrayRef>, slots: &[u32], weights: &[i64]) -> Result<(), Error>;
    /// The results of these groups; only asked for where [`Accumulator::sound`].
    fn results(&self, slots: &[u32]) -> Result<ArrayRef, Error>;
    /// Whether the group holds nothing less often than never, and, where it is said to be `empty`, nothing at all.
    fn sound(&self, slot: u32, empty: bool) -> bool;
    /// Empties the slot.
    fn clear(&mut self, slot: u32);
    /// Appends the state of a group; its layout is persisted.
    fn save(&self, slot: u32, out: &mut Vec<u8>);
    /// Takes what [`Accumulator::save`] appended off the front of `from`, into an empty slot.
    fn load(&mut self, slot: u32, from: &mut &[u8]) -> Result<(), Error>;
    /// As [`Accumulator::load`], added to what the slot holds: for batch queries that count in parts. Only asked of
    /// functions whose parts can be added.
    fn merge(&mut self, slot: u32, from: &mut &[u8]) -> Result<(), Error> {
        let _ = (slot, from);
        Err(Error::Bug("the parts of this aggregate cannot be added".to_owned()))
    }
    /// Bytes of memory, about.
    fn bytes(&self) -> usize;
}
