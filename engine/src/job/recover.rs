//! Recovery: rebuilds all state by replaying the inputs from their start, as a function of the timeline.
//!
//! Replay stops at the epochs in which some job has committed last, in between it coalesces. At its own such epoch a
//! job's accumulated digest must be that of its commit record; up to there its output is suppressed, from there on it is
//! committed as usual. Because epoch `n + 1` is recorded only when everybody is through with epoch `n`, only the newest
//! epoch can be half committed: what a crash left out is committed now, in the epoch it belongs to. Its record may be
//! missing in the timeline: then it is taken from a commit record.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::oneshot;

use super::commit::{self, CommitRecord, Commits, Committer};
use super::driver::{Driver, Ended, describe};
use super::view::Phase;
use super::{Error, status::JobState};
use crate::graph::RelationId;
use crate::run::{self, Reader};
use crate::time::Epoch;
use crate::timeline::{self, Timeline};

impl Driver {
    /// Replays up to the newest epoch. Answers when the records are read and replay begins.
    pub async fn recover(&mut self, reply: oneshot::Sender<Result<(), Error>>) -> Result<(), Ended> {
        let begun = async {
            let commits = self.read_commits().await?;
            let epochs = self.read_timeline(&commits).await?;
            Ok((commits, epochs))
        };
        let (commits, (epochs, missing)) = match begun.await {
            Ok(found) => found,
            Err(error) => {
                let reason = describe(&error);
                drop(reply.send(Err(error)));
                return Err(Ended::Fatal(reason));
            }
        };
        if let Some(record) = missing {
            let recording = self.record(record);
            self.recorded(recording).await?;
        }
        drop(reply.send(Ok(())));
        self.take_over(commits, &epochs).await?;
        let newest = self.timeline.newest().number;
        for epoch in epochs.values() {
            self.replaying(epoch.number, newest);
            self.epoch(epoch, None).await?;
        }
        self.tables.values_mut().for_each(|table| table.sample_gate());
        if newest > 0 {
            let newest = self.timeline.newest().clone();
            self.publish(&newest);
        }
        Ok(())
    }

    async fn read_commits(&mut self) -> Result<Commits, Error> {
        let mut commits = Commits::default();
        self.read_all(self.jobs_at, commit::TOPIC, |record| commits.apply(record)).await?;
        Ok(commits)
    }

    /// Follows the timeline to its end. Returns the newest epoch and those in which the jobs have committed, and the
    /// newest one's record if it is missing in the topic.
    async fn read_timeline(
        &mut self,
        commits: &Commits,
    ) -> Result<(BTreeMap<u64, Epoch>, Option<log::NewRecord>), Error> {
        let mut timeline = Timeline::default();
        let mut found = BTreeMap::new();
        let views = commits.0.iter().filter(|(id, _)| self.views.contains_key(id));
        let wanted: BTreeSet<u64> = views.map(|(_, commit)| commit.epoch).collect();
        self.read_all(self.timeline_at, timeline::TOPIC, |record| {
            let value = record.value.as_deref().ok_or("the value is null")?;
            let epoch = timeline.apply(value).map_err(|error| describe(&error))?;
            if wanted.contains(&epoch.number) {
                found.insert(epoch.number, epoch.clone());
            }
            Ok(())
        })
        .await?;
        let next = timeline.newest().number + 1;
        let lost = commits.0.values().find(|commit| commit.epoch == next).and_then(|commit| commit.timeline.clone());
        if let Some(value) = &lost {
            let corrupt = |error: timeline::Error| Error::Corrupt {
                topic: commit::TOPIC.to_owned(),
                offset: -1,
                detail: describe(&error),
            };
            timeline.apply(value.as_bytes()).map_err(corrupt)?;
        }
        let newest = timeline.newest().clone();
        if newest.number > 0 {
            found.insert(newest.number, newest);
        }
        self.timeline = timeline;
        Ok((found, lost.map(|value| timeline::record(next, value))))
    }

    async fn read_all(
        &mut self,
        at: log::TopicPartition,
        topic: &str,
        mut each: impl FnMut(&log::RecordView) -> Result<(), String>,
    ) -> Result<(), Error> {
        let log = self.cluster.log(at)?;
        let bounds = log.bounds();
        let mut reader = Reader::new(topic, self.config.slice_bytes_max);
        reader.add(log, bounds.start, bounds.last_stable);
        let mut bad = None;
        let read = reader.for_each(|record| {
            if bad.is_none()
                && let Err(detail) = each(&record)
            {
                bad = Some(Error::Corrupt { topic: topic.to_owned(), offset: record.offset.0, detail });
            }
            Ok(())
        });
        match (read.await, bad) {
            (_, Some(bad)) => Err(bad),
            (Ok(()), None) => Ok(()),
            (Err(run::Error::Log(error)), None) => Err(error.into()),
            (Err(run::Error::Corrupt { topic, offset, detail, .. }), None) => {
                Err(Error::Corrupt { topic, offset, detail })
            }
            (Err(error), None) => Err(Error::Closed(describe(&error))),
        }
    }

    /// Fences whoever wrote for the jobs that have committed, and makes them take part from the start. So do the views
    /// they read, though a crash may have come before those had committed anything.
    async fn take_over(&mut self, mut commits: Commits, epochs: &BTreeMap<u64, Epoch>) -> Result<(), Ended> {
        let mut part = BTreeSet::new();
        for id in self.order.iter().rev() {
            if commits.0.contains_key(id) || part.contains(id) {
                part.insert(*id);
                part.extend(self.views[id].inputs.iter().copied());
            }
        }
        part.retain(|id| self.views.contains_key(id));
        for (id, committer) in self.open_committers(&part).await {
            let result = match committer {
                Ok(committer) => self.take_part(id, committer, commits.0.remove(&id), epochs),
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                self.fail(id, error)?;
            }
        }
        Ok(())
    }

    fn take_part(
        &mut self,
        id: RelationId,
        committer: Committer,
        commit: Option<CommitRecord>,
        epochs: &BTreeMap<u64, Epoch>,
    ) -> Result<(), run::Error> {
        let Some(view) = self.views.get_mut(&id).filter(|view| matches!(view.phase, Phase::Waiting { .. })) else {
            // What it reads has been refused.
            return Ok(());
        };
        if let Some(commit) = &commit {
            view.epoch = commit.epoch;
            let planned = view.def.plan_version;
            if commit.plan_version != planned {
                return Err(run::Error::PlanVersion { committed: commit.plan_version, planned });
            }
            if !epochs.contains_key(&commit.epoch) {
                return Err(run::Error::UnknownEpoch(commit.epoch));
            }
        }
        view.begin(&self.env, &self.config, committer, commit);
        Ok(())
    }

    fn replaying(&self, epoch: u64, newest: u64) {
        tracing::info!(epoch, newest, "replaying");
        self.shared.publish(|published| {
            for relation in published.relations.values_mut() {
                if matches!(relation.status.state, JobState::Waiting { .. }) {
                    let progress = format!("recovery replays up to epoch {epoch} of {newest}");
                    relation.status.state = JobState::Waiting { progress };
                }
            }
        });
    }
}
