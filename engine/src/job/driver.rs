//! The driver: one task that owns all tables and views, answers requests between epochs and takes the next epoch when
//! an input has moved.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc};

use super::base::Base;
use super::handle::{Relation, Request, Shared};
use super::status::{JobMetrics, JobState, JobStatus};
use super::view::{Phase, View};
use super::{EngineConfig, Error, TableDef, ViewDef, commit};
use crate::graph::RelationId;
use crate::run::{self, internal_topic};
use crate::state::ViewStore;
use crate::timeline::{self, Timeline};

/// Under which id the timeline is written: a second engine over the same log fences the first.
const TIMELINE_ID: &str = "timeline";

pub(super) struct Driver {
    pub env: log::Env,
    pub cluster: Arc<dyn log::Cluster>,
    pub config: EngineConfig,
    pub shared: Arc<Shared>,
    pub timeline: Timeline,
    /// Writes the timeline; away while a record is being written.
    pub recorder: Option<Box<dyn log::Producer>>,
    pub timeline_at: log::TopicPartition,
    pub jobs_at: log::TopicPartition,
    pub tables: BTreeMap<RelationId, Base>,
    pub views: BTreeMap<RelationId, View>,
    /// The views in the order they were added: each stands behind what it reads.
    pub order: Vec<RelationId>,
    wake: Arc<Notify>,
    /// Recovery is done.
    resumed: bool,
    /// Statuses have changed since they were last shown.
    pub stale: bool,
    /// When the state was last measured.
    pub measured: std::time::Duration,
}

/// Why the driver ends.
#[derive(Debug)]
pub(super) enum Ended {
    Shutdown,
    /// The log has failed; only a restart helps.
    Fatal(String),
}

impl Driver {
    pub async fn open(
        env: log::Env,
        cluster: Arc<dyn log::Cluster>,
        config: EngineConfig,
        shared: Arc<Shared>,
    ) -> Result<Self, Error> {
        let timeline_at = internal_topic(&*cluster, timeline::TOPIC, "delete").await?;
        let jobs_at = internal_topic(&*cluster, commit::TOPIC, "compact").await?;
        let recorder = cluster.producer(TIMELINE_ID).await?;
        Ok(Self {
            env,
            cluster,
            config,
            shared,
            timeline: Timeline::default(),
            recorder: Some(recorder),
            timeline_at,
            jobs_at,
            tables: BTreeMap::new(),
            views: BTreeMap::new(),
            order: Vec::new(),
            wake: Arc::new(Notify::new()),
            resumed: false,
            stale: false,
            measured: std::time::Duration::ZERO,
        })
    }

    /// Works until it is told to end, every handle is gone, or the log has failed.
    pub async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let reason = match self.follow(&mut requests).await {
            Ok(never) => match never {},
            Err(Ended::Shutdown) => "it was shut down".to_owned(),
            Err(Ended::Fatal(reason)) => {
                tracing::error!(reason, "the engine has stopped");
                reason
            }
        };
        self.shared.publish(|published| published.closed = Some(reason));
        requests.close();
        while let Some(request) = requests.recv().await {
            // Who asks for the end has it; everybody else learns from the dropped reply.
            if let Request::Shutdown(reply) = request {
                let _ = reply.send(());
            }
        }
    }

    async fn follow(&mut self, requests: &mut mpsc::Receiver<Request>) -> Result<Infallible, Ended> {
        let mut stable = self.cluster.watch_stable();
        loop {
            while let Ok(request) = requests.try_recv() {
                self.answer(request).await?;
            }
            // Seen before the cut is taken: what comes later wakes again.
            stable.borrow_and_update();
            let begun = self.env.monotonic();
            if self.resumed && self.advance().await? {
                let rest = self.config.epoch_interval_min.saturating_sub(self.env.monotonic() - begun);
                if !rest.is_zero() {
                    self.env.sleep(rest).await;
                }
                continue;
            }
            self.show();
            let wake = Arc::clone(&self.wake);
            tokio::select! {
                biased;
                request = requests.recv() => match request {
                    Some(request) => self.answer(request).await?,
                    None => return Err(Ended::Shutdown),
                },
                () = wake.notified() => self.stale = true,
                changed = stable.changed() => changed.map_err(|_| Ended::Fatal("the log is closed".into()))?,
            }
        }
    }

    async fn answer(&mut self, request: Request) -> Result<(), Ended> {
        self.stale = true;
        // Whoever does not wait for an answer any more does not need one.
        match request {
            Request::AddTable(def, reply) => drop(reply.send(self.add_table(*def))),
            Request::AddView(def, reply) => drop(reply.send(self.add_view(*def))),
            Request::Remove(id, reply) => {
                let removed = self.remove(id).await;
                drop(reply.send(removed));
            }
            Request::Resume(reply) => {
                if self.resumed {
                    drop(reply.send(Ok(())));
                } else {
                    self.recover(reply).await?;
                    self.resumed = true;
                }
            }
            Request::Shutdown(reply) => {
                let _ = reply.send(());
                return Err(Ended::Shutdown);
            }
        }
        Ok(())
    }

    fn add_table(&mut self, def: TableDef) -> Result<(), Error> {
        self.check_new(def.id)?;
        let (id, name) = (def.id, def.name.clone());
        let base = Base::open(&self.env, &*self.cluster, &self.config, def, &self.wake)?;
        let store = base.table.store().map(|store| store as Arc<dyn ViewStore>);
        let partitions = base.table.partitions().collect();
        let state = JobState::Waiting { progress: base.progress() };
        let status = JobStatus { id, name, view: false, state, epoch: 0, metrics: JobMetrics::default() };
        self.introduce(Relation { status, store, partitions });
        self.tables.insert(id, base);
        Ok(())
    }

    fn add_view(&mut self, def: ViewDef) -> Result<(), Error> {
        self.check_new(def.id)?;
        let (id, name) = (def.id, def.name.clone());
        let view = View::new(def);
        for input in &view.inputs {
            let failed = match (self.tables.get(input), self.views.get(input)) {
                (Some(table), _) => table.failed.is_some(),
                (None, Some(view)) => matches!(view.phase, Phase::Failed { .. }),
                (None, None) => return Err(Error::UnknownInput { name, input: *input }),
            };
            if failed && self.resumed {
                return Err(self.stopped(*input));
            }
        }
        let state = JobState::Waiting { progress: "it waits for the next epoch".into() };
        let status = JobStatus { id, name, view: true, state, epoch: 0, metrics: JobMetrics::default() };
        self.introduce(Relation { status, store: None, partitions: Vec::new() });
        self.order.push(id);
        self.views.insert(id, view);
        Ok(())
    }

    async fn remove(&mut self, id: RelationId) -> Result<(), Error> {
        let dependents: Vec<String> =
            self.views.values().filter(|view| view.inputs.contains(&id)).map(|view| view.def.name.clone()).collect();
        if !dependents.is_empty() {
            return Err(Error::HasDependents { name: self.name(id), dependents });
        }
        let known = self.tables.remove(&id).is_some();
        let view = self.views.remove(&id);
        self.order.retain(|other| *other != id);
        self.shared.publish(|published| published.relations.remove(&id));
        match view.map(|view| view.phase) {
            Some(Phase::Running(running)) => Ok(running.committer.remove().await?),
            // A stopped job may have commit records, and so may one that this engine was never told of.
            Some(_) => Ok(commit::remove(&*self.cluster, self.jobs_at, id).await?),
            None if known => Ok(()),
            None => Err(Error::UnknownRelation(id)),
        }
    }

    fn check_new(&self, id: RelationId) -> Result<(), Error> {
        if self.tables.contains_key(&id) || self.views.contains_key(&id) {
            return Err(Error::RelationExists(id));
        }
        Ok(())
    }

    fn introduce(&self, relation: Relation) {
        self.shared.publish(|published| published.relations.insert(relation.status.id, relation));
    }

    pub fn name(&self, id: RelationId) -> String {
        let table = self.tables.get(&id).map(|table| table.name.clone());
        table.or_else(|| self.views.get(&id).map(|view| view.def.name.clone())).unwrap_or_else(|| id.0.to_string())
    }

    fn stopped(&self, id: RelationId) -> Error {
        let table = self.tables.get(&id).map(|table| (table.failed.clone(), table.epoch));
        let view = self.views.get(&id).map(|view| match &view.phase {
            Phase::Failed { reason } => (Some(reason.clone()), view.epoch),
            Phase::Waiting { .. } | Phase::Running(_) => (None, view.epoch),
        });
        let (reason, epoch) = table.or(view).unwrap_or_default();
        Error::Stopped { name: self.name(id), epoch, reason: reason.unwrap_or_default() }
    }

    /// Stops a relation and what reads it for good; ends the driver where the log itself has failed.
    pub fn fail(&mut self, id: RelationId, error: run::Error) -> Result<(), Ended> {
        let reason = match error {
            run::Error::Interrupted => return Err(Ended::Shutdown),
            // An outcome that is not known is found out by recovery alone.
            run::Error::Log(error @ (log::Error::Closed(_) | log::Error::Io(_) | log::Error::Unknown)) => {
                return Err(Ended::Fatal(describe(&error)));
            }
            error => describe(&error),
        };
        let mut stopping = vec![(id, reason)];
        while let Some((id, reason)) = stopping.pop() {
            let name = self.name(id);
            if let Some(table) = self.tables.get_mut(&id) {
                table.failed = Some(reason.clone());
            } else if let Some(view) = self.views.get_mut(&id)
                && !matches!(view.phase, Phase::Failed { .. })
            {
                view.phase = Phase::Failed { reason: reason.clone() };
                // The epoch that failed does not count.
                view.epoch = view.epoch.min(self.timeline.newest().number.saturating_sub(1));
            } else {
                continue;
            }
            tracing::error!(relation = name, reason, "stopped");
            let because = format!("it reads {name}, which has stopped: {reason}");
            let readers = self.views.iter().filter(|(_, view)| view.inputs.contains(&id));
            stopping.extend(readers.map(|(id, _)| (*id, because.clone())));
        }
        self.stale = true;
        Ok(())
    }

    /// Shows how everything stands, if that has changed.
    fn show(&mut self) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        let waiting: Vec<(RelationId, JobState)> = self.statuses().collect();
        self.shared.publish(|published| {
            for (id, state) in waiting {
                // What becomes readable does so with an epoch.
                if let Some(relation) = published.relations.get_mut(&id)
                    && state != JobState::Running
                {
                    relation.status.state = state;
                }
            }
        });
    }

    fn statuses(&self) -> impl Iterator<Item = (RelationId, JobState)> + '_ {
        let tables = self.tables.iter().map(|(id, table)| (*id, table.state()));
        tables.chain(self.views.iter().map(|(id, view)| (*id, self.view_state(view))))
    }

    /// A waiting view says what it waits for in the end.
    fn view_state(&self, view: &View) -> JobState {
        match view.state() {
            JobState::Waiting { progress } => JobState::Waiting { progress: self.waits_for(view).unwrap_or(progress) },
            state => state,
        }
    }

    fn waits_for(&self, view: &View) -> Option<String> {
        view.inputs.iter().find_map(|input| match (self.tables.get(input), self.views.get(input)) {
            (Some(table), _) => (!table.open).then(|| table.progress()),
            (None, Some(view)) => self.waits_for(view),
            (None, None) => None,
        })
    }
}

/// An error with everything behind it, for people.
pub(super) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let part = error.to_string();
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        source = error.source();
    }
    text
}
