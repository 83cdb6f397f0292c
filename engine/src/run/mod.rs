//! The mechanics of a running engine: a graph over workers ([`Dataflow`]), tables fed from their topics ([`Table`]),
//! sources written to theirs ([`ingest`]). Who decides when is `job`.

mod dataflow;
mod exchange;
pub mod ingest;
pub mod partition;
pub mod positions;
mod reader;
mod table;

pub use dataflow::{Dataflow, OperatorMetrics};
pub use reader::{Reader, Slice, Slices};
pub use table::Table;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::codec::DecodeError;
use crate::delta::Delta;
use crate::operator;

/// Stops one job (or a table and what reads it) at its last epoch.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{operator}: {source}")]
    Operator { operator: String, source: operator::Error },
    #[error("bug: {operator} has panicked: {message}")]
    Panic { operator: String, message: String },
    #[error("topic {topic} partition {partition}: {source}")]
    Decode { topic: String, partition: i32, source: DecodeError },
    #[error("topic {topic} partition {partition} is corrupt after offset {offset}: {detail}")]
    Corrupt { topic: String, partition: i32, offset: i64, detail: String },
    #[error("the log: {0}")]
    Log(#[from] log::Error),
    /// Replay is only promised for the same input and plan.
    #[error(
        "replay up to epoch {epoch} gives another output (digest {replayed:032x}) than was committed \
             ({committed:032x}); drop and create the view again"
    )]
    Replay { epoch: u64, committed: u128, replayed: u128 },
    #[error(
        "it was made by plan version {committed}, this program plans version {planned}; \
             drop and create the view again"
    )]
    PlanVersion { committed: u64, planned: u64 },
    #[error("it has committed epoch {0}, which is not in the timeline")]
    UnknownEpoch(u64),
    /// The engine was asked to end.
    #[error("interrupted by shutdown")]
    Interrupted,
}

/// Runs code of an operator or a format: a panic in it ends the job, not the process. The caller does not use what the
/// code has left behind.
pub fn guarded<T>(operator: &str, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let message = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into());
        Err(Error::Panic { operator: operator.to_owned(), message })
    })
}

/// Some rows of a delta.
pub fn slice(delta: &Delta, at: usize, len: usize) -> Delta {
    let weights = delta.weights.as_ref().map(|weights| weights.slice(at, len));
    Delta { rows: delta.rows.slice(at, len), weights }
}

/// The only partition of one of our own topics, created where missing.
pub async fn internal_topic(
    cluster: &dyn log::Cluster,
    name: &str,
    cleanup: &str,
) -> Result<log::TopicPartition, log::Error> {
    let config = [("cleanup.policy", cleanup), ("retention.ms", "-1"), ("retention.bytes", "-1")];
    let config = config.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let topic = match cluster.topic(name) {
        Some(topic) => topic,
        None => cluster.create_topic(log::NewTopic { name: name.to_owned(), partitions: 1, config }).await?,
    };
    Ok(log::TopicPartition { topic: topic.id, partition: 0 })
}
