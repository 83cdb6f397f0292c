//! One epoch: views that are new catch up with the epoch before, tables are fed up to the cut, views end the epoch in
//! dependency order, every job commits, the epoch is published.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use super::commit::{Committer, Output};
use super::driver::{Driver, Ended, describe};
use super::status::JobState;
use super::view::{Phase, micros};
use crate::delta::Delta;
use crate::graph::RelationId;
use crate::operator::CHUNK_ROWS_MAX;
use crate::run;
use crate::state::ViewStore;
use crate::state::versioned::Versioned;
use crate::time::Epoch;
use crate::timeline;

/// The timeline's record on its way into the log.
pub(super) type Recording = log::env::Task<(Box<dyn log::Producer>, Result<(), log::Error>)>;

/// State is measured this often.
const MEASURE_EVERY: Duration = Duration::from_secs(1);

impl Driver {
    /// Takes the next epoch, if an input has moved or something becomes readable.
    pub async fn advance(&mut self) -> Result<bool, Ended> {
        // Gates first: what they let through is below the cut.
        self.tables.values_mut().for_each(|table| table.sample_gate());
        let starting = self.starting();
        let Some(cut) = self.cut()? else { return Ok(false) };
        let newest = self.timeline.newest().clone();
        let opens = !starting.is_empty() || self.tables.values().any(|table| table.opens());
        match timeline::moved(&newest.cut, &cut) {
            Some(moved) if moved || opens => {}
            // Nothing new, or a cut older than the last: it will come.
            Some(_) | None => return Ok(false),
        }
        let (epoch, value) = self.timeline.next(cut, self.env.now_us());
        let recording = self.record(timeline::record(epoch.number, value.clone()));
        self.start_views(&starting, newest.number).await?;
        self.epoch(&epoch, Some((recording, value))).await?;
        self.publish(&epoch);
        Ok(true)
    }

    /// The views that wait and whose inputs all take part in the coming epoch.
    fn starting(&self) -> BTreeSet<RelationId> {
        let mut starting = BTreeSet::new();
        for id in &self.order {
            let view = &self.views[id];
            let ready = |input: &RelationId| match (self.tables.get(input), self.views.get(input)) {
                (Some(table), _) => table.open && table.failed.is_none(),
                (None, Some(view)) => view.is_running() || starting.contains(input),
                (None, None) => false,
            };
            if matches!(view.phase, Phase::Waiting { .. }) && view.inputs.iter().all(ready) {
                starting.insert(*id);
            }
        }
        starting
    }

    /// Where all inputs end now; `None` when that cannot be told at the moment.
    fn cut(&mut self) -> Result<Option<log::Cut>, Ended> {
        loop {
            let live = self.tables.values().filter(|table| table.failed.is_none());
            let inputs: BTreeSet<_> = live.flat_map(|table| table.table.partitions()).collect();
            if inputs.is_empty() {
                return Ok(Some(log::Cut::default()));
            }
            let inputs: Vec<_> = inputs.into_iter().collect();
            let error = match self.cluster.cut(&inputs) {
                Ok(cut) => return Ok(Some(cut)),
                Err(error) => error,
            };
            let gone = |table: &run::Table| match &error {
                log::Error::UnknownPartition(at) => table.partitions().any(|partition| partition == *at),
                log::Error::UnknownTopic(topic) => *topic == table.topic().name,
                _ => false,
            };
            let lost = self.tables.iter().find(|(_, base)| base.failed.is_none() && gone(&base.table));
            match (lost.map(|(id, _)| *id), error) {
                (Some(id), error) => self.fail(id, error.into())?,
                (None, log::Error::Busy(_) | log::Error::NotLeader(_)) => return Ok(None),
                (None, error) => return Err(Ended::Fatal(describe(&error))),
            }
        }
    }

    /// Writes the timeline's record beside the work on its epoch.
    pub fn record(&mut self, record: log::NewRecord) -> Recording {
        let mut recorder = self.recorder.take().expect("the record before is written");
        let at = self.timeline_at;
        self.env.spawn("timeline-record", async move {
            let result = async {
                recorder.append(at, vec![record]).await?;
                recorder.commit().await.map(drop)
            };
            let result = result.await;
            (recorder, result)
        })
    }

    /// Lets the views take part and feeds them what their inputs held at the epoch before.
    async fn start_views(&mut self, starting: &BTreeSet<RelationId>, before: u64) -> Result<(), Ended> {
        self.begin(starting).await?;
        for id in self.order.clone().iter().filter(|id| starting.contains(id)) {
            let inputs = match self.views.get(id) {
                Some(view) if view.is_running() => view.inputs.clone(),
                Some(_) | None => continue,
            };
            for input in inputs.iter().filter(|input| !starting.contains(input)) {
                if let Err(error) = self.backfill(*id, *input, before).await {
                    self.fail(*id, error)?;
                    break;
                }
            }
        }
        Ok(())
    }

    /// Fences whoever wrote for these jobs.
    pub async fn open_committers(
        &mut self,
        views: &BTreeSet<RelationId>,
    ) -> Vec<(RelationId, Result<Committer, run::Error>)> {
        let (cluster, jobs_at) = (Arc::clone(&self.cluster), self.jobs_at);
        let defs: Vec<_> = views.iter().map(|id| (*id, self.views[id].def.clone())).collect();
        let open = defs.iter().map(async |(id, def)| (*id, Committer::open(&*cluster, jobs_at, def).await));
        join_all(open).await
    }

    async fn begin(&mut self, starting: &BTreeSet<RelationId>) -> Result<(), Ended> {
        for (id, committer) in self.open_committers(starting).await {
            match committer {
                Ok(committer) => {
                    let view = self.views.get_mut(&id).expect("it was there a moment ago");
                    view.begin(&self.env, &self.config, committer, None);
                }
                Err(error) => self.fail(id, error)?,
            }
        }
        Ok(())
    }

    async fn backfill(&mut self, id: RelationId, input: RelationId, before: u64) -> Result<(), run::Error> {
        let store = match (self.tables.get(&input), self.views.get(&input)) {
            (Some(base), _) => base.table.store(),
            (None, Some(view)) => match view.store() {
                Some(store) => Some(store),
                None => {
                    let message = format!("{} keeps no state that a view could read", view.def.name);
                    let source = crate::operator::Error::Value(message);
                    return Err(run::Error::Operator { operator: "input".into(), source });
                }
            },
            (None, None) => None,
        };
        match store {
            Some(store) => self.backfill_rows(id, input, &store, before),
            None => self.backfill_records(id, input, before).await,
        }
    }

    fn backfill_rows(
        &mut self,
        id: RelationId,
        input: RelationId,
        store: &Versioned,
        before: u64,
    ) -> Result<(), run::Error> {
        let at_input = |source| run::Error::Operator { operator: "input".into(), source };
        let mut rows = 0;
        let mut slice = Vec::new();
        for batch in store.scan(before, None).map_err(at_input)? {
            let delta = Delta::appended(batch.map_err(at_input)?);
            rows += delta.len();
            slice.push(delta);
            // As much as keeps all workers busy.
            if slice.len() >= self.config.workers {
                self.feed_one(id, input, &std::mem::take(&mut slice))?;
                self.caught_up_with(id, rows);
            }
        }
        self.feed_one(id, input, &slice)
    }

    async fn backfill_records(&mut self, id: RelationId, input: RelationId, before: u64) -> Result<(), run::Error> {
        let Some(base) = self.tables.get(&input) else { return Ok(()) };
        let mut slices = base.table.behind(&self.env);
        let mut rows = 0;
        while let Some(slice) = slices.next().await? {
            let Some(base) = self.tables.get_mut(&input) else { return Ok(()) };
            let deltas = base.table.take_in(before, &slice)?;
            rows += slice.records;
            self.feed_one(id, input, &deltas)?;
            self.caught_up_with(id, rows);
        }
        Ok(())
    }

    fn feed_one(&mut self, id: RelationId, input: RelationId, deltas: &[Delta]) -> Result<(), run::Error> {
        if self.shared.is_stopping() {
            return Err(run::Error::Interrupted);
        }
        match self.views.get_mut(&id) {
            Some(view) => view.feed(&self.env, input, deltas),
            None => Ok(()),
        }
    }

    fn caught_up_with(&self, id: RelationId, rows: usize) {
        let progress = format!("it catches up: {rows} rows of its inputs read");
        self.shared.publish(|published| {
            if let Some(relation) = published.relations.get_mut(&id) {
                relation.status.state = JobState::Waiting { progress };
            }
        });
    }

    /// Takes everything through one epoch. `recording` is the timeline's record of it on its way, and its value: the
    /// jobs commit meanwhile. None in a replay.
    pub async fn epoch(&mut self, epoch: &Epoch, recording: Option<(Recording, String)>) -> Result<(), Ended> {
        let begun = self.env.monotonic();
        for id in self.tables.keys().copied().collect::<Vec<_>>() {
            self.feed_table(id, epoch).await?;
        }
        let outputs = self.flush_views(epoch)?;
        let computed = self.env.monotonic();
        self.commit(outputs, recording.as_ref().map(|(_, value)| value.as_str())).await?;
        if let Some((recording, _)) = recording {
            self.recorded(recording).await?;
        }
        let committed = self.env.monotonic();
        let mut published = self.shared.lock();
        published.metrics.last_compute_us = micros(computed - begun);
        published.metrics.last_commit_us = micros(committed - computed);
        published.metrics.compute_us += micros(computed - begun);
        published.metrics.commit_us += micros(committed - computed);
        Ok(())
    }

    /// Waits until the timeline's record is durable.
    pub async fn recorded(&mut self, recording: Recording) -> Result<(), Ended> {
        let stopped = |_| Ended::Fatal("the task that writes the timeline has ended".into());
        let (recorder, result) = recording.await.map_err(stopped)?;
        self.recorder = Some(recorder);
        result.map_err(|error| Ended::Fatal(format!("the timeline cannot be written: {}", describe(&error))))
    }

    async fn feed_table(&mut self, id: RelationId, epoch: &Epoch) -> Result<(), Ended> {
        // Out of its place, so that the views can be fed while it is read.
        let Some(mut base) = self.tables.remove(&id) else { return Ok(()) };
        let mut result = Ok(());
        if base.failed.is_none() && base.table.is_ahead(&epoch.cut) {
            result = self.take_in(id, &mut base, epoch).await;
        }
        if base.failed.is_none() && result.is_ok() {
            base.epoch = epoch.number;
        }
        self.tables.insert(id, base);
        match result {
            Ok(()) => Ok(()),
            Err(TakeIn::Table(error)) => self.fail(id, error),
            Err(TakeIn::Ended(ended)) => Err(ended),
        }
    }

    async fn take_in(&mut self, id: RelationId, base: &mut super::base::Base, epoch: &Epoch) -> Result<(), TakeIn> {
        let upsert = base.table.store().is_some();
        let read = upsert || self.views.values().any(|view| view.is_running() && view.inputs.contains(&id));
        if read {
            let mut slices = base.table.ahead(&self.env, &epoch.cut);
            while let Some(slice) = slices.next().await? {
                if self.shared.is_stopping() {
                    return Err(TakeIn::Ended(Ended::Shutdown));
                }
                base.metrics.rows_in += slice.records as u64;
                let deltas = base.table.take_in(epoch.number, &slice)?;
                base.metrics.rows_out += rows(&deltas);
                self.feed_views(id, &deltas)?;
            }
            let deltas = base.table.flush(epoch.number)?;
            base.metrics.rows_out += rows(&deltas);
            base.applied(epoch.number);
            self.feed_views(id, &deltas)?;
        }
        base.table.fed(&epoch.cut);
        Ok(())
    }

    /// Feeds all views over a relation; one that fails stops, the others go on.
    fn feed_views(&mut self, relation: RelationId, deltas: &[Delta]) -> Result<(), Ended> {
        let mut failed = Vec::new();
        for (id, view) in &mut self.views {
            if let Err(error) = view.feed(&self.env, relation, deltas) {
                failed.push((*id, error));
            }
        }
        failed.into_iter().try_for_each(|(id, error)| self.fail(id, error))
    }

    fn flush_views(&mut self, epoch: &Epoch) -> Result<Vec<(RelationId, Output)>, Ended> {
        let mut outputs = Vec::new();
        for id in self.order.clone() {
            if self.shared.is_stopping() {
                return Err(Ended::Shutdown);
            }
            let Some(view) = self.views.get_mut(&id).filter(|view| view.is_running()) else { continue };
            match view.flush(&self.env, epoch) {
                Err(error) => self.fail(id, error)?,
                Ok((delta, output)) => {
                    outputs.extend(output.map(|output| (id, output)));
                    if let Some(delta) = delta {
                        self.feed_views(id, &chunks(&delta))?;
                    }
                }
            }
        }
        Ok(outputs)
    }

    /// All jobs commit at the same time, so that they share the log's syncs.
    async fn commit(&mut self, mut outputs: Vec<(RelationId, Output)>, timeline: Option<&str>) -> Result<(), Ended> {
        outputs.sort_by_key(|(id, _)| *id);
        let mut outputs = outputs.into_iter().peekable();
        let mut commits = Vec::new();
        for (id, view) in &mut self.views {
            let Some((_, output)) = outputs.next_if(|(of, _)| of == id) else { continue };
            if let Some(running) = view.running() {
                commits.push(async move { (*id, running.commit(&output, timeline).await) });
            }
        }
        for (id, result) in join_all(commits).await {
            if let Err(error) = result {
                self.fail(id, error)?;
            }
        }
        Ok(())
    }

    /// Every job has committed the epoch: readers see it.
    pub fn publish(&mut self, epoch: &Epoch) {
        for table in self.tables.values_mut().filter(|table| table.opens()) {
            table.readable = true;
        }
        let now = self.env.monotonic();
        let measure = now - self.measured >= MEASURE_EVERY;
        if measure {
            self.measured = now;
            self.tables.values_mut().for_each(|table| {
                table.metrics.state_bytes = table.table.store().map_or(0, |store| store.bytes());
            });
            self.views.values_mut().for_each(|view| view.measure());
        }
        self.shared.publish(|published| {
            published.epoch = epoch.clone();
            published.metrics.epochs += 1;
            (published.metrics.epoch, published.metrics.now_us) = (epoch.number, epoch.now_us);
            for (id, relation) in &mut published.relations {
                if let Some(table) = self.tables.get(id) {
                    relation.status.state = table.state();
                    (relation.status.epoch, relation.status.metrics) = (table.epoch, table.metrics.clone());
                } else if let Some(view) = self.views.get(id) {
                    relation.status.state = view.state();
                    (relation.status.epoch, relation.status.metrics) = (view.epoch, view.metrics.clone());
                    relation.store = view.store().map(|store| store as Arc<dyn ViewStore>);
                }
            }
        });
        // Waiting views say what for when statuses are next shown.
        self.stale = true;
        let oldest = self.shared.oldest_readable();
        self.tables.values_mut().for_each(|table| table.release(oldest));
        self.views.values_mut().for_each(|view| view.release(oldest));
    }
}

/// Who is to blame for a table that could not be fed.
enum TakeIn {
    Table(run::Error),
    Ended(Ended),
}

impl From<run::Error> for TakeIn {
    fn from(error: run::Error) -> Self {
        Self::Table(error)
    }
}

impl From<Ended> for TakeIn {
    fn from(ended: Ended) -> Self {
        Self::Ended(ended)
    }
}

fn rows(deltas: &[Delta]) -> u64 {
    deltas.iter().map(|delta| delta.len() as u64).sum()
}

fn chunks(delta: &Delta) -> Vec<Delta> {
    let starts = (0..delta.len()).step_by(CHUNK_ROWS_MAX);
    starts.map(|at| run::slice(delta, at, CHUNK_ROWS_MAX.min(delta.len() - at))).collect()
}
