//! A base table as the driver keeps it: its feed, its gate, how it stands.

use std::sync::Arc;

use tokio::sync::{Notify, watch};

use super::status::{JobMetrics, JobState};
use super::{EngineConfig, TableDef};
use crate::io::Gate;
use crate::run::Table;

pub(super) struct Base {
    pub name: String,
    pub table: Table,
    gate: Option<watch::Receiver<Gate>>,
    /// Ends with the table.
    watcher: Option<log::env::Task<()>>,
    /// The gate was open when it was last looked at: the next cut holds the whole snapshot.
    pub open: bool,
    /// An epoch with such a cut has been published.
    pub readable: bool,
    pub failed: Option<String>,
    pub epoch: u64,
    pub metrics: JobMetrics,
    released: u64,
    applied: u64,
}

impl Base {
    /// `wake` is told of every change of the gate.
    pub fn open(
        env: &log::Env,
        cluster: &dyn log::Cluster,
        config: &EngineConfig,
        def: TableDef,
        wake: &Arc<Notify>,
    ) -> Result<Self, log::Error> {
        let table = Table::open(cluster, def.topic, def.schema, def.key, def.decode, config.slice_bytes_max)?;
        let watcher = def.gate.clone().map(|gate| env.spawn("gate", watch_gate(gate, Arc::clone(wake))));
        Ok(Self {
            name: def.name,
            table,
            gate: def.gate,
            watcher,
            open: false,
            readable: false,
            failed: None,
            epoch: 0,
            metrics: JobMetrics::default(),
            released: 0,
            applied: 0,
        })
    }

    /// Looks at the gate. What it lets through lies below every cut taken from now on.
    pub fn sample_gate(&mut self) {
        self.open = self.open || self.gate.as_ref().is_none_or(|gate| *gate.borrow() == Gate::Open);
    }

    /// It becomes readable with the next epoch.
    pub fn opens(&self) -> bool {
        self.open && !self.readable && self.failed.is_none()
    }

    pub fn progress(&self) -> String {
        match self.gate.as_ref().map(|gate| gate.borrow().clone()) {
            Some(Gate::Closed { progress }) if !self.open => {
                format!("the snapshot of {} is under way: {progress}", self.name)
            }
            _ => format!("{} waits for the next epoch", self.name),
        }
    }

    pub fn state(&self) -> JobState {
        match &self.failed {
            Some(reason) => JobState::Failed { reason: reason.clone() },
            None if self.readable => JobState::Running,
            None => JobState::Waiting { progress: self.progress() },
        }
    }

    /// Its store shows a change as of `epoch`.
    pub fn applied(&mut self, epoch: u64) {
        self.applied = epoch;
    }

    /// Lets go of versions that nobody reads any more.
    pub fn release(&mut self, epoch: u64) {
        if self.released < self.applied
            && let Some(store) = self.table.store()
        {
            store.release(epoch);
            self.released = epoch;
        }
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        if let Some(watcher) = &self.watcher {
            watcher.abort();
        }
    }
}

async fn watch_gate(mut gate: watch::Receiver<Gate>, wake: Arc<Notify>) {
    loop {
        let open = *gate.borrow_and_update() == Gate::Open;
        wake.notify_one();
        if open || gate.changed().await.is_err() {
            return;
        }
    }
}
