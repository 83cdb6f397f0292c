//! Jobs as others see them: what a table and a view are to the engine, how a job stands, and [`Engine`], the handle
//! to the driver that runs them all.

mod base;
mod commit;
mod driver;
mod epoch;
mod handle;
mod recover;
mod status;
mod view;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use tokio::sync::watch;

pub use handle::Engine;
pub use status::{EngineMetrics, JobMetrics, JobState, JobStatus, Pin};

use crate::codec::{Decode, Encode};
use crate::graph::{Graph, RelationId};
use crate::io::Gate;

/// What can go wrong between the engine and those who use it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("the relation with the id {} does not run", .0.0)]
    UnknownRelation(RelationId),
    #[error("a relation with the id {} runs already", .0.0)]
    RelationExists(RelationId),
    /// RESTRICT: the named views read the relation.
    #[error("relation {name} is read by {}", dependents.join(", "))]
    HasDependents { name: String, dependents: Vec<String> },
    #[error("view {name} reads the relation with the id {}, which does not run", .input.0)]
    UnknownInput { name: String, input: RelationId },
    /// A topic sink, or a table whose rows are in its topic alone.
    #[error("relation {0} keeps no state to read")]
    NoStore(String),
    /// The job stands at its last epoch and does not go on; `reason` says why.
    #[error("{name} stopped at epoch {epoch}: {reason}")]
    Stopped { name: String, epoch: u64, reason: String },
    /// Not readable yet; `progress` says how far it is.
    #[error("{name} has not caught up: {progress}")]
    NotCaughtUp { name: String, progress: String },
    #[error("epoch {epoch} does not cover the offsets asked for within the time given")]
    NotCovered { epoch: u64 },
    #[error("too many requests wait for the engine (limit {limit})")]
    Busy { limit: usize },
    /// The driver has ended; nothing goes on before a restart.
    #[error("the engine has stopped: {0}")]
    Closed(String),
    #[error("corrupt record in {topic} at offset {offset}: {detail}")]
    Corrupt { topic: String, offset: i64, detail: String },
    #[error("the log")]
    Log(#[source] Arc<log::Error>),
}

impl From<log::Error> for Error {
    fn from(error: log::Error) -> Self {
        Self::Log(Arc::new(error))
    }
}

/// Limits and sizes of the engine, read once.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Workers a job's rows are spread over.
    pub workers: usize,
    /// Shortest time between the begins of two epochs: the bound on epochs a second while little changes.
    pub epoch_interval_min: Duration,
    /// Bytes of log read at a time: what one slice of an epoch may hold undecoded.
    pub slice_bytes_max: usize,
    /// Rows of work below which an epoch's step is done on the driver's thread alone: waking threads costs more.
    pub parallel_rows_min: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            workers: std::thread::available_parallelism().map_or(1, |n| n.get()),
            epoch_interval_min: Duration::from_millis(2),
            slice_bytes_max: 4 << 20,
            parallel_rows_min: 8192,
        }
    }
}

/// A base relation over a topic.
#[derive(Clone)]
pub struct TableDef {
    pub id: RelationId,
    pub name: String,
    pub topic: log::Topic,
    pub schema: SchemaRef,
    /// Indices of the key columns; empty where the whole row identifies a row or nothing does.
    pub key: Vec<usize>,
    pub decode: Arc<dyn Decode>,
    pub gate: Option<watch::Receiver<Gate>>,
}

/// A view: a graph, its output topic and, where `queryable`, a state that SELECT reads.
#[derive(Clone)]
pub struct ViewDef {
    pub id: RelationId,
    pub name: String,
    pub graph: Graph,
    pub schema: SchemaRef,
    /// `Some(vec![])` is the key of a relation with at most one row; `None` is a multiset of rows.
    pub key: Option<Vec<usize>>,
    pub append_only: bool,
    pub topic: log::Topic,
    pub encode: Arc<dyn Encode>,
    /// Replay is promised within one plan version.
    pub plan_version: u64,
    /// False for a topic sink: no state is kept for readers.
    pub queryable: bool,
}
