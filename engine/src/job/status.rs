//! How jobs stand, and [`Pin`]: the claim that keeps an epoch readable.

use std::sync::Arc;

use crate::graph::RelationId;
use crate::run::OperatorMetrics;
use crate::time::Epoch;

use super::handle::Shared;

/// How one relation stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    /// Not readable yet: waits for a snapshot, for its backfill or for recovery.
    Waiting { progress: String },
    /// Follows the timeline.
    Running,
    /// Stands at its last epoch for good; reading it is an error with this reason.
    Failed { reason: String },
}

/// One relation of the engine: a table or a view.
#[derive(Clone, Debug)]
pub struct JobStatus {
    pub id: RelationId,
    pub name: String,
    /// False for a table.
    pub view: bool,
    pub state: JobState,
    /// The newest epoch it has committed; 0 before the first.
    pub epoch: u64,
    pub metrics: JobMetrics,
}

/// Counts since the start of the process.
#[derive(Clone, Debug, Default)]
pub struct JobMetrics {
    /// Records read (tables) or rows taken in (views).
    pub rows_in: u64,
    /// Rows handed on: consolidated changes.
    pub rows_out: u64,
    /// Rows of state read or written by its operators.
    pub rows_touched: u64,
    /// Microseconds spent in its operators.
    pub busy_us: u64,
    /// Bytes of state, about.
    pub state_bytes: usize,
    /// Of a view's operators, in the order of its graph; up to a second old.
    pub operators: Arc<[OperatorMetrics]>,
}

/// The engine as a whole; counts since the start of the process.
#[derive(Clone, Debug, Default)]
pub struct EngineMetrics {
    /// The newest published epoch and its `now`, microseconds since 1970.
    pub epoch: u64,
    pub now_us: i64,
    /// Epochs published.
    pub epochs: u64,
    /// Microseconds of the newest epoch: reading and computing, committing.
    pub last_compute_us: u64,
    pub last_commit_us: u64,
    /// Microseconds over all epochs.
    pub compute_us: u64,
    pub commit_us: u64,
    pub jobs: Vec<JobStatus>,
}

/// Keeps one published epoch readable while it is held. Cheap; meant to live for one statement.
pub struct Pin {
    pub(super) epoch: Epoch,
    pub(super) shared: Arc<Shared>,
}

impl Pin {
    /// The number of the epoch, 0 when nothing has been published.
    pub fn epoch(&self) -> u64 {
        self.epoch.number
    }

    /// Where every input ends in this epoch: the bound for reading a table from its topic.
    pub fn cut(&self) -> &Arc<log::Cut> {
        &self.epoch.cut
    }

    /// `now()` of the epoch, microseconds since 1970.
    pub fn now_us(&self) -> i64 {
        self.epoch.now_us
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.shared.unpin(self.epoch.number);
    }
}
