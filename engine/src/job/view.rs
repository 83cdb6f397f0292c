//! A view's job while it runs: its dataflow, its state for readers, its hand on the log.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::Int64Array;

use super::commit::{CommitRecord, Committer, Output};
use super::status::{JobMetrics, JobState};
use super::{EngineConfig, ViewDef};
use crate::delta::Delta;
use crate::graph::{Node, RelationId};
use crate::run::{self, Dataflow};
use crate::state::consolidate::consolidate;
use crate::state::digest::Digest;
use crate::state::versioned::Versioned;
use crate::time::Epoch;

/// A view and how it stands.
pub(super) struct View {
    pub def: ViewDef,
    /// The relations it reads.
    pub inputs: BTreeSet<RelationId>,
    pub phase: Phase,
    /// The newest epoch it has been through.
    pub epoch: u64,
    pub metrics: JobMetrics,
}

pub(super) enum Phase {
    /// Takes part from the next epoch on, when everything it reads does.
    Waiting {
        progress: String,
    },
    Running(Box<Running>),
    Failed {
        reason: String,
    },
}

pub(super) struct Running {
    dataflow: Dataflow,
    store: Option<Arc<Versioned>>,
    /// Of everything put out so far.
    digest: Digest,
    pub committer: Committer,
    /// What the log holds of it already: output up to this epoch is suppressed and compared.
    replayed: Option<CommitRecord>,
    /// It has a commit record.
    committed: bool,
    /// Something came since the last flush, or nothing was ever flushed.
    touched: bool,
}

impl View {
    pub fn new(def: ViewDef) -> Self {
        let input = |node: &Node| match node {
            Node::Input { relation, .. } => Some(*relation),
            Node::Operator { .. } => None,
        };
        let inputs = def.graph.nodes.iter().filter_map(input).collect();
        let phase = Phase::Waiting { progress: "waits for the next epoch".into() };
        Self { def, inputs, phase, epoch: 0, metrics: JobMetrics::default() }
    }

    /// Makes it take part, with nothing fed yet.
    pub fn begin(
        &mut self,
        env: &log::Env,
        config: &EngineConfig,
        committer: Committer,
        replayed: Option<CommitRecord>,
    ) {
        let def = &self.def;
        let keeps = def.queryable || def.encode.totals();
        let store = keeps.then(|| Arc::new(Versioned::new(Arc::clone(&def.schema), def.key.clone())));
        self.phase = Phase::Running(Box::new(Running {
            dataflow: Dataflow::new(env, &def.graph, config.workers, config.parallel_rows_min),
            store,
            digest: Digest::default(),
            committer,
            committed: replayed.is_some(),
            replayed,
            touched: true,
        }));
    }

    pub fn running(&mut self) -> Option<&mut Running> {
        match &mut self.phase {
            Phase::Running(running) => Some(running),
            Phase::Waiting { .. } | Phase::Failed { .. } => None,
        }
    }

    pub fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running(_))
    }

    /// What SELECT and later views read, while it runs.
    pub fn store(&self) -> Option<Arc<Versioned>> {
        match &self.phase {
            Phase::Running(running) if self.def.queryable => running.store.clone(),
            Phase::Running(_) | Phase::Waiting { .. } | Phase::Failed { .. } => None,
        }
    }

    /// Lets go of versions that nobody reads any more.
    pub fn release(&self, epoch: u64) {
        if let Phase::Running(running) = &self.phase
            && let Some(store) = &running.store
        {
            store.release(epoch);
        }
    }

    pub fn state(&self) -> JobState {
        match &self.phase {
            Phase::Waiting { progress } => JobState::Waiting { progress: progress.clone() },
            Phase::Running(_) => JobState::Running,
            Phase::Failed { reason } => JobState::Failed { reason: reason.clone() },
        }
    }

    /// Feeds a slice of an input's change, if it runs and reads it.
    pub fn feed(&mut self, env: &log::Env, relation: RelationId, deltas: &[Delta]) -> Result<(), run::Error> {
        if !self.inputs.contains(&relation) || deltas.is_empty() {
            return Ok(());
        }
        let Phase::Running(running) = &mut self.phase else { return Ok(()) };
        let begun = env.monotonic();
        running.touched = true;
        self.metrics.rows_in += deltas.iter().map(|delta| delta.len() as u64).sum::<u64>();
        running.dataflow.feed(relation, deltas)?;
        self.metrics.busy_us += micros(env.monotonic() - begun);
        Ok(())
    }

    /// Ends the epoch for it: the consolidated change of the view, which its store shows from then on, and what is to
    /// be committed, if anything.
    pub fn flush(&mut self, env: &log::Env, epoch: &Epoch) -> Result<(Option<Delta>, Option<Output>), run::Error> {
        let Phase::Running(running) = &mut self.phase else { return Ok((None, None)) };
        let begun = env.monotonic();
        let (delta, totals) = if std::mem::take(&mut running.touched) {
            run::guarded("the view's output", || running.change(&self.def, epoch))?
        } else {
            (None, None)
        };
        self.metrics.rows_out += delta.as_ref().map_or(0, |delta| delta.len() as u64);
        self.metrics.rows_touched = running.dataflow.rows_touched();
        self.metrics.busy_us += micros(env.monotonic() - begun);
        let suppressed = running.compare(epoch.number)?;
        self.epoch = epoch.number;
        if suppressed || (delta.is_none() && running.committed) {
            return Ok((delta, None));
        }
        let empty = || Delta::appended(arrow::array::RecordBatch::new_empty(Arc::clone(&self.def.schema)));
        let output = delta.clone().unwrap_or_else(empty);
        Ok((delta, Some(Output { epoch: epoch.number, delta: output, totals, digest: running.digest })))
    }

    /// Brings the metrics up to date that cost a look at all of the state.
    pub fn measure(&mut self) {
        let (bytes, operators) = match &self.phase {
            Phase::Running(running) => {
                let store = running.store.as_ref().map_or(0, |store| store.bytes());
                (running.dataflow.state_bytes() + store, running.dataflow.operators())
            }
            Phase::Waiting { .. } | Phase::Failed { .. } => (0, Vec::new()),
        };
        self.metrics.state_bytes = bytes;
        self.metrics.operators = operators.into();
    }
}

impl Running {
    /// Ends the epoch in the operators and takes what comes out into digest and store.
    fn change(&mut self, def: &ViewDef, epoch: &Epoch) -> Result<(Option<Delta>, Option<Int64Array>), run::Error> {
        let output = self.dataflow.flush(epoch)?;
        let delta = consolidate(&def.schema, &output).map_err(at_output)?;
        if delta.is_empty() {
            return Ok((None, None));
        }
        self.digest.add(&delta).map_err(at_output)?;
        let mut totals = None;
        if let Some(store) = &self.store {
            store.apply(epoch.number, &delta).map_err(at_output)?;
            if def.encode.totals() {
                totals = Some(store.totals(epoch.number, &delta.rows).map_err(at_output)?);
            }
        }
        Ok((Some(delta), totals))
    }

    /// Whether the log holds the output of this epoch already. At the epoch of the last commit the sums must agree.
    fn compare(&mut self, epoch: u64) -> Result<bool, run::Error> {
        match &self.replayed {
            Some(commit) if epoch < commit.epoch => Ok(true),
            Some(commit) if epoch == commit.epoch && commit.digest != self.digest => {
                Err(run::Error::Replay { epoch, committed: commit.digest.0, replayed: self.digest.0 })
            }
            Some(commit) if epoch == commit.epoch => {
                self.replayed = None;
                Ok(true)
            }
            Some(_) | None => Ok(false),
        }
    }

    pub async fn commit(&mut self, output: &Output, timeline: Option<&str>) -> Result<(), run::Error> {
        self.committer.commit(output, timeline).await?;
        self.committed = true;
        Ok(())
    }
}

fn at_output(source: crate::operator::Error) -> run::Error {
    run::Error::Operator { operator: "the view's output".into(), source }
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
