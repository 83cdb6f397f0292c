//! What a job writes: its output records and, in the same log transaction, its commit record in `__riverrun_jobs`.
//!
//! ```text
//! key    job id, decimal digits
//! value  {"job":7,"epoch":17,"plan_version":1,"digest":"<32 hex digits>","ranges":[["<topic id>",0,100,160],…],
//!         "timeline":{…}}
//!        null when the job has been removed
//! ```
//!
//! The topic is compacted: the newest record of a job counts. `digest` sums up everything the job has put out since it
//! began; `ranges` (partition, first offset, end) is what it put out in this epoch. An epoch in which a job puts out
//! nothing has no commit record, except for its first. `timeline` is the epoch's record of the timeline: the jobs commit
//! while that is on its way to the disk, and recovery takes it from here where it was lost.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::Int64Array;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::codec::Encode;
use crate::delta::Delta;
use crate::graph::RelationId;
use crate::operator::{self, CHUNK_ROWS_MAX};
use crate::run::{self, partition};
use crate::state::digest::Digest;
use crate::timeline::{from_hex, hex};

/// The topic of commit records.
pub(super) const TOPIC: &str = "__riverrun_jobs";

/// A job's newest commit, as recovery needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CommitRecord {
    pub job: RelationId,
    pub epoch: u64,
    pub plan_version: u64,
    pub digest: Digest,
    pub ranges: Vec<(log::TopicPartition, log::Offset, log::Offset)>,
    /// The epoch's record of the timeline, JSON; none when it was in the log before.
    pub timeline: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Value {
    job: u64,
    epoch: u64,
    plan_version: u64,
    digest: String,
    ranges: Vec<(String, i32, i64, i64)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeline: Option<Box<RawValue>>,
}

impl CommitRecord {
    fn record(&self) -> log::NewRecord {
        let range = |(at, first, end): &(log::TopicPartition, log::Offset, log::Offset)| {
            (hex(&at.topic.0), at.partition, first.0, end.0)
        };
        let value = Value {
            job: self.job.0,
            epoch: self.epoch,
            plan_version: self.plan_version,
            digest: hex(&self.digest.0.to_be_bytes()),
            ranges: self.ranges.iter().map(range).collect(),
            timeline: self.timeline.clone().and_then(|record| RawValue::from_string(record).ok()),
        };
        let value = serde_json::to_vec(&value).expect("numbers and strings are JSON");
        log::NewRecord { value: Some(Bytes::from(value)), ..tombstone(self.job) }
    }

    fn parse(value: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(value).map_err(|error| error.to_string())?;
        let id = |text: &str| from_hex(text).ok_or_else(|| format!("{text:?} is not 32 hex digits"));
        let range = |(topic, partition, first, end): &(String, i32, i64, i64)| {
            let partition = log::TopicPartition { topic: log::TopicId(id(topic)?), partition: *partition };
            Ok((partition, log::Offset(*first), log::Offset(*end)))
        };
        Ok(Self {
            job: RelationId(value.job),
            epoch: value.epoch,
            plan_version: value.plan_version,
            digest: Digest(u128::from_be_bytes(id(&value.digest)?)),
            ranges: value.ranges.iter().map(range).collect::<Result<_, String>>()?,
            timeline: value.timeline.map(|record| record.get().to_owned()),
        })
    }
}

/// Closes a job's records for good.
fn tombstone(job: RelationId) -> log::NewRecord {
    log::NewRecord { key: Some(Bytes::from(job.0.to_string())), ..log::NewRecord::default() }
}

/// Follows the topic: the newest commit of every job that has not been removed.
#[derive(Debug, Default)]
pub(super) struct Commits(pub BTreeMap<RelationId, CommitRecord>);

impl Commits {
    pub fn apply(&mut self, record: &log::RecordView) -> Result<(), String> {
        let Some(value) = &record.value else {
            let key = record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok()?.parse().ok());
            let job = RelationId(key.ok_or("the key is not a job id")?);
            self.0.remove(&job);
            return Ok(());
        };
        let commit = CommitRecord::parse(value)?;
        self.0.insert(commit.job, commit);
        Ok(())
    }
}

/// What a job puts out in one epoch.
pub(super) struct Output {
    pub epoch: u64,
    /// Consolidated.
    pub delta: Delta,
    /// How often each row of `delta` stands in the view afterwards, where the encoding needs it.
    pub totals: Option<Int64Array>,
    /// Of everything put out so far, this epoch included.
    pub digest: Digest,
}

/// One job's fenced hand on the log.
pub(super) struct Committer {
    job: RelationId,
    plan_version: u64,
    producer: Box<dyn log::Producer>,
    jobs: log::TopicPartition,
    encode: Arc<dyn Encode>,
    /// The partitions of the output topic.
    outputs: Vec<Arc<dyn log::Log>>,
}

/// The id under which a job writes.
fn transactional_id(job: RelationId) -> String {
    format!("job:{}", job.0)
}

impl Committer {
    /// Takes the job over: whoever wrote for it before is fenced.
    pub async fn open(
        cluster: &dyn log::Cluster,
        jobs: log::TopicPartition,
        def: &super::ViewDef,
    ) -> Result<Self, run::Error> {
        let partition = |partition| log::TopicPartition { topic: def.topic.id, partition };
        let outputs = (0..def.topic.partitions).map(|at| cluster.log(partition(at))).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            job: def.id,
            plan_version: def.plan_version,
            producer: cluster.producer(&transactional_id(def.id)).await?,
            jobs,
            encode: Arc::clone(&def.encode),
            outputs,
        })
    }

    /// Commits one epoch; `timeline` is its record, where that may not be durable yet. After an error nothing of the
    /// epoch is in the log, unless the log itself has failed.
    pub async fn commit(&mut self, output: &Output, timeline: Option<&str>) -> Result<(), run::Error> {
        match self.write(output, timeline).await {
            Ok(expected) => {
                let committed = self.producer.commit().await?;
                self.check(&expected, &committed)
            }
            Err(error) => {
                // The first error counts; what is left open is also aborted when the producer goes.
                let _ = self.producer.abort().await;
                Err(error)
            }
        }
    }

    async fn write(&mut self, output: &Output, timeline: Option<&str>) -> Result<CommitRecord, run::Error> {
        let firsts: Vec<_> = self.outputs.iter().map(|output| output.bounds().end).collect();
        let mut counts = vec![0i64; firsts.len()];
        let mut records = Vec::new();
        for (chunk, totals) in chunks(output) {
            run::guarded("writing the output", || {
                let encoded = self.encode.encode(output.epoch, &chunk, totals.as_ref(), &mut records);
                encoded.map_err(at_output)
            })?;
            for (partition, records) in partition::by_key(std::mem::take(&mut records), counts.len()) {
                counts[partition] += i64::try_from(records.len()).expect("a count of records fits");
                self.producer.append(self.outputs[partition].partition(), records).await?;
            }
        }
        let written = self.outputs.iter().zip(firsts).zip(counts).filter(|(_, count)| *count > 0);
        let ranges = written.map(|((log, first), count)| (log.partition(), first, log::Offset(first.0 + count)));
        let commit = CommitRecord {
            job: self.job,
            epoch: output.epoch,
            plan_version: self.plan_version,
            digest: output.digest,
            ranges: ranges.collect(),
            timeline: timeline.map(str::to_owned),
        };
        self.producer.append(self.jobs, vec![commit.record()]).await?;
        Ok(commit)
    }

    /// Only the job writes its topic, so its records lie where they were expected.
    fn check(&self, expected: &CommitRecord, committed: &log::Committed) -> Result<(), run::Error> {
        for range in &expected.ranges {
            if !committed.ranges.contains(range) {
                let message = format!("somebody else has written to partition {} of its topic", range.0.partition);
                return Err(at_output(operator::Error::Value(message)));
            }
        }
        Ok(())
    }

    /// Closes the job's records.
    pub async fn remove(mut self) -> Result<(), log::Error> {
        self.producer.append(self.jobs, vec![tombstone(self.job)]).await?;
        self.producer.commit().await.map(drop)
    }
}

/// Closes the records of a job that does not run here.
pub(super) async fn remove(
    cluster: &dyn log::Cluster,
    jobs: log::TopicPartition,
    job: RelationId,
) -> Result<(), log::Error> {
    let mut producer = cluster.producer(&transactional_id(job)).await?;
    producer.append(jobs, vec![tombstone(job)]).await?;
    producer.commit().await.map(drop)
}

fn at_output(source: operator::Error) -> run::Error {
    run::Error::Operator { operator: "writing the output".into(), source }
}

/// The output in parts that can be encoded one by one: a row that goes must be seen together with the one that comes,
/// so only an output without retractions has several.
fn chunks(output: &Output) -> impl Iterator<Item = (Delta, Option<Int64Array>)> + '_ {
    let delta = &output.delta;
    let retracts = delta.weights.as_ref().is_some_and(|weights| weights.values().iter().any(|weight| *weight < 0));
    let size = if retracts { delta.len().max(1) } else { CHUNK_ROWS_MAX };
    (0..delta.len()).step_by(size).map(move |at| {
        let len = size.min(delta.len() - at);
        let totals = output.totals.as_ref().map(|totals| totals.slice(at, len));
        (run::slice(delta, at, len), totals)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_record_is_read_as_written() {
        let partition = log::TopicPartition { topic: log::TopicId([7; 16]), partition: 3 };
        let commit = CommitRecord {
            job: RelationId(12),
            epoch: 40,
            plan_version: 2,
            digest: Digest(u128::MAX - 5),
            ranges: vec![(partition, log::Offset(10), log::Offset(12))],
            timeline: Some(r#"{"epoch":40}"#.into()),
        };
        assert_eq!(CommitRecord::parse(&commit.record().value.unwrap()), Ok(commit));
    }
}
