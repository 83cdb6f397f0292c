//! ListOffsets: where a partition begins, ends, and reaches a time. OffsetForLeaderEpoch: where an epoch ended.

use super::Broker;
use super::fetch::{check_epoch, visible_end};
use super::refusal::Refusal;
use crate::cluster::access::{Error, Isolation};
use crate::cluster::backend::TimestampQuery;
use crate::record::{LeaderEpoch, TopicPartition};
use crate::wire::error_code::ErrorCode;
use crate::wire::offsets::{
    ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse,
    ListOffsetsTopicResponse, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, OffsetForLeaderPartition,
    OffsetForLeaderPartitionResult, OffsetForLeaderTopicResult, special,
};

impl Broker {
    pub(super) async fn list_offsets(&self, version: i16, request: ListOffsetsRequest) -> ListOffsetsResponse {
        let isolation = if request.isolation_level == 1 { Isolation::Committed } else { Isolation::Uncommitted };
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in request.topics {
            let name = topic.name.text();
            let found = self.backend.topic(&name);
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for asked in &topic.partitions {
                let result = match &found {
                    Some(found) => {
                        let partition = TopicPartition { topic: found.id, partition: asked.partition_index };
                        self.list_offset(version, partition, asked, isolation).await
                    }
                    None => Err(Error::UnknownTopic(name.to_string()).into()),
                };
                partitions.push(result.unwrap_or_else(|refusal| ListOffsetsPartitionResponse {
                    partition_index: asked.partition_index,
                    error_code: refusal.code.code(),
                    ..ListOffsetsPartitionResponse::default()
                }));
            }
            topics.push(ListOffsetsTopicResponse { name: topic.name.clone(), partitions });
        }
        ListOffsetsResponse { topics, ..ListOffsetsResponse::default() }
    }

    /// Where nothing is found, offset and timestamp are both -1.
    async fn list_offset(
        &self,
        version: i16,
        partition: TopicPartition,
        asked: &ListOffsetsPartition,
        isolation: Isolation,
    ) -> Result<ListOffsetsPartitionResponse, Refusal> {
        let bounds = self.backend.bounds(partition)?;
        check_epoch(asked.current_leader_epoch, bounds.epoch)?;
        let nothing = ListOffsetsPartitionResponse {
            partition_index: asked.partition_index,
            ..ListOffsetsPartitionResponse::default()
        };
        let query = match asked.timestamp {
            special::LATEST => {
                let offset = visible_end(&bounds, isolation).0;
                return Ok(ListOffsetsPartitionResponse { offset, leader_epoch: bounds.epoch.0, ..nothing });
            }
            special::EARLIEST => return Ok(ListOffsetsPartitionResponse { offset: bounds.start.0, ..nothing }),
            // All of the log is local.
            special::EARLIEST_LOCAL if version >= 8 => {
                return Ok(ListOffsetsPartitionResponse { offset: bounds.start.0, ..nothing });
            }
            special::LATEST_TIERED if version >= 9 => return Ok(nothing),
            special::EARLIEST_PENDING_UPLOAD if version >= 11 => return Ok(nothing),
            special::MAX_TIMESTAMP if version >= 7 => TimestampQuery::Max,
            0.. => TimestampQuery::AtOrAfter(asked.timestamp),
            _ => return Err(Refusal::new(ErrorCode::UnsupportedVersion, "no such special timestamp in this version")),
        };
        Ok(match self.backend.find_timestamp(partition, query, isolation).await? {
            Some(found) => ListOffsetsPartitionResponse {
                offset: found.offset.0,
                timestamp: found.timestamp_ms,
                leader_epoch: found.epoch.0,
                ..nothing
            },
            None => nothing,
        })
    }

    pub(super) fn offset_for_leader_epoch(&self, request: OffsetForLeaderEpochRequest) -> OffsetForLeaderEpochResponse {
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in request.topics {
            let name = topic.topic.text();
            let found = self.backend.topic(&name);
            let answer = |asked: &OffsetForLeaderPartition| {
                let result = match &found {
                    Some(found) => {
                        let partition = TopicPartition { topic: found.id, partition: asked.partition };
                        self.epoch_end(partition, asked)
                    }
                    None => Err(Error::UnknownTopic(name.to_string()).into()),
                };
                result.unwrap_or_else(|refusal| OffsetForLeaderPartitionResult {
                    partition: asked.partition,
                    error_code: refusal.code.code(),
                    ..OffsetForLeaderPartitionResult::default()
                })
            };
            let partitions = topic.partitions.iter().map(answer).collect();
            topics.push(OffsetForLeaderTopicResult { topic: topic.topic.clone(), partitions });
        }
        OffsetForLeaderEpochResponse { topics, ..OffsetForLeaderEpochResponse::default() }
    }

    /// An epoch that is not known is no error: epoch and offset are both -1.
    fn epoch_end(
        &self,
        partition: TopicPartition,
        asked: &OffsetForLeaderPartition,
    ) -> Result<OffsetForLeaderPartitionResult, Refusal> {
        check_epoch(asked.current_leader_epoch, self.backend.bounds(partition)?.epoch)?;
        let nothing =
            OffsetForLeaderPartitionResult { partition: asked.partition, ..OffsetForLeaderPartitionResult::default() };
        if asked.leader_epoch < 0 {
            return Ok(nothing);
        }
        Ok(match self.backend.epoch_end(partition, LeaderEpoch(asked.leader_epoch))? {
            Some(found) => {
                OffsetForLeaderPartitionResult { leader_epoch: found.epoch.0, end_offset: found.end.0, ..nothing }
            }
            None => nothing,
        })
    }
}
