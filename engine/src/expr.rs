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
