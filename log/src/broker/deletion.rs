//! DeleteRecords: the first offset that is kept moves up.

use std::time::Duration;

use tracing::info;

use super::refusal::Refusal;
use super::topics::check_not_taken;
use super::{Broker, time_of};
use crate::cluster::access::{Error, Topic};
use crate::cluster::config;
use crate::record::{Offset, TopicPartition};
use crate::wire::error_code::ErrorCode;
use crate::wire::offsets::{
    DeleteRecordsPartition, DeleteRecordsPartitionResult, DeleteRecordsRequest, DeleteRecordsResponse,
    DeleteRecordsTopicResult,
};

/// In the place of an offset: all there is.
const UP_TO_HIGH_WATERMARK: i64 = -1;

impl Broker {
    pub(super) async fn delete_records(&self, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
        let deadline = self.env.monotonic() + time_of(request.timeout_ms);
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in request.topics {
            let found = self.deletable(&topic.name.text());
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for asked in &topic.partitions {
                let result = match &found {
                    Ok(found) => self.delete_before(found, asked, deadline).await,
                    Err(refusal) => Err(refusal.clone()),
                };
                partitions.push(match result {
                    Ok(start) => DeleteRecordsPartitionResult {
                        partition_index: asked.partition_index,
                        low_watermark: start.0,
                        error_code: ErrorCode::None.code(),
                    },
                    Err(refusal) => DeleteRecordsPartitionResult {
                        partition_index: asked.partition_index,
                        low_watermark: -1,
                        error_code: refusal.code.code(),
                    },
                });
            }
            topics.push(DeleteRecordsTopicResult { name: topic.name, partitions });
        }
        DeleteRecordsResponse { topics, ..DeleteRecordsResponse::default() }
    }

    fn deletable(&self, name: &str) -> Result<Topic, Refusal> {
        let topic = self.backend.topic(name).ok_or_else(|| Error::UnknownTopic(name.to_owned()))?;
        check_not_taken(&topic)?;
        if config::is_compacted(&topic.config) && !config::is_deleted(&topic.config) {
            let message = "the topic's cleanup.policy is compact alone: its records go by their keys";
            return Err(Refusal::new(ErrorCode::PolicyViolation, message));
        }
        Ok(topic)
    }

    /// The first offset kept: the one asked for, or the last stable one where that is lower, for the records of open
    /// transactions stay. Where somebody in this process still needs what lies below, as much goes as may, and that not
    /// all did is an error.
    async fn delete_before(
        &self,
        topic: &Topic,
        asked: &DeleteRecordsPartition,
        deadline: Duration,
    ) -> Result<Offset, Refusal> {
        let log = self.backend.log(TopicPartition { topic: topic.id, partition: asked.partition_index })?;
        let bounds = log.bounds();
        let (start, end) = (bounds.start, bounds.high_watermark);
        let before = match asked.offset {
            UP_TO_HIGH_WATERMARK => end,
            offset => Offset(offset),
        };
        if before < Offset(0) || before > end {
            return Err(Error::OutOfRange { offset: before, start, end }.into());
        }
        let rest = deadline.saturating_sub(self.env.monotonic());
        match self.env.timeout(rest, log.trim(before)).await {
            Some(trimmed) => {
                let start = trimmed?;
                if start < before.min(bounds.last_stable) {
                    let (partition, asked) = (asked.partition_index, before.0);
                    info!(topic = topic.name, partition, asked, start = start.0, "not all records may be deleted yet");
                    return Err(Refusal::new(ErrorCode::PolicyViolation, "a view or sink still needs the records"));
                }
                Ok(start)
            }
            None => Err(Refusal::new(ErrorCode::RequestTimedOut, "not deleted within the time of the request")),
        }
    }
}
