//! [`Delta`]: Arrow rows with a signed weight each; the only form in which changes move through operators.

use arrow::array::{Array, Int64Array, RecordBatch};

/// Rows and how often each comes (+) or goes (-). A weight of 0 does not occur. No weights at all means that every row
/// is +1: the append-only fast path. The order of rows means nothing.
#[derive(Clone, Debug)]
pub struct Delta {
    pub rows: RecordBatch,
    pub weights: Option<Int64Array>,
}

impl Delta {
    /// Rows that all come once.
    pub fn appended(rows: RecordBatch) -> Self {
        Self { rows, weights: None }
    }

    pub fn weighted(rows: RecordBatch, weights: Int64Array) -> Self {
        assert_eq!(rows.num_rows(), weights.len(), "one weight a row");
        assert_eq!(weights.null_count(), 0, "a weight is never null");
        Self { rows, weights: Some(weights) }
    }

    pub fn len(&self) -> usize {
        self.rows.num_rows()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.num_rows() == 0
    }

    pub fn weight(&self, row: usize) -> i64 {
        self.weights.as_ref().map_or(1, |w| w.value(row))
    }
}
