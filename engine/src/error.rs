//! What stops a job: the one [`Error`] of deltas, state and operators.

/// Stops the job at its last epoch; the message names the value and the operator's place in the query.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data's fault: (value, type).
    #[error("{0} is out of range for {1}")]
    Overflow(String, String),
    /// The data's fault.
    #[error("{0}")]
    Value(String),
    /// The limit is the configuration's.
    #[error("state of {operator} would need {bytes} bytes, over the limit of {limit}")]
    StateFull { operator: &'static str, bytes: usize, limit: usize },
    /// An input that takes back what it never gave: the fault of whoever wrote it.
    #[error("the row {0} is taken away more often than it came")]
    NegativeWeight(String),
    /// Ours.
    #[error("bug: {0}")]
    Bug(String),
    #[error("arrow")]
    Arrow(#[from] arrow::error::ArrowError),
}
