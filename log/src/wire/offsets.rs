//! Offsets: finding them (ListOffsets, OffsetForLeaderEpoch) and moving the first one (DeleteRecords).

use super::primitive::Str;

messages! {
    ListOffsetsRequest {
        replica_id: i32 [0..];
        isolation_level: i8 [2..];
        topics: Vec<ListOffsetsTopic> [0..];
        timeout_ms: i32 [10..];
    }
    ListOffsetsTopic {
        name: Str [0..];
        partitions: Vec<ListOffsetsPartition> [0..];
    }
    ListOffsetsPartition {
        partition_index: i32 [0..];
        current_leader_epoch: i32 [4..] = -1;
        /// Milliseconds, or one of the [`special`] ones.
        timestamp: i64 [0..];
    }
    ListOffsetsResponse {
        throttle_time_ms: i32 [2..];
        topics: Vec<ListOffsetsTopicResponse> [0..];
    }
    ListOffsetsTopicResponse {
        name: Str [0..];
        partitions: Vec<ListOffsetsPartitionResponse> [0..];
    }
    ListOffsetsPartitionResponse {
        partition_index: i32 [0..];
        error_code: i16 [0..];
        timestamp: i64 [1..] = -1;
        offset: i64 [1..] = -1;
        leader_epoch: i32 [4..] = -1;
    }

    OffsetForLeaderEpochRequest {
        /// -1: a consumer, -2: a tool.
        replica_id: i32 [3..] = -2;
        topics: Vec<OffsetForLeaderTopic> [0..];
    }
    OffsetForLeaderTopic {
        topic: Str [0..];
        partitions: Vec<OffsetForLeaderPartition> [0..];
    }
    OffsetForLeaderPartition {
        partition: i32 [0..];
        current_leader_epoch: i32 [2..] = -1;
        /// The epoch whose end is asked for.
        leader_epoch: i32 [0..];
    }
    OffsetForLeaderEpochResponse {
        throttle_time_ms: i32 [2..];
        topics: Vec<OffsetForLeaderTopicResult> [0..];
    }
    OffsetForLeaderTopicResult {
        topic: Str [0..];
        partitions: Vec<OffsetForLeaderPartitionResult> [0..];
    }
    OffsetForLeaderPartitionResult {
        error_code: i16 [0..];
        partition: i32 [0..];
        leader_epoch: i32 [1..] = -1;
        end_offset: i64 [0..] = -1;
    }

    DeleteRecordsRequest {
        topics: Vec<DeleteRecordsTopic> [0..];
        timeout_ms: i32 [0..];
    }
    DeleteRecordsTopic {
        name: Str [0..];
        partitions: Vec<DeleteRecordsPartition> [0..];
    }
    DeleteRecordsPartition {
        partition_index: i32 [0..];
        /// The first offset to keep, or -1 for the high watermark.
        offset: i64 [0..];
    }
    DeleteRecordsResponse {
        throttle_time_ms: i32 [0..];
        topics: Vec<DeleteRecordsTopicResult> [0..];
    }
    DeleteRecordsTopicResult {
        name: Str [0..];
        partitions: Vec<DeleteRecordsPartitionResult> [0..];
    }
    DeleteRecordsPartitionResult {
        partition_index: i32 [0..];
        /// The first offset that is kept.
        low_watermark: i64 [0..];
        error_code: i16 [0..];
    }
}

/// Timestamps that mean something else.
pub mod special {
    /// The end of what the reader sees.
    pub const LATEST: i64 = -1;
    /// The first offset kept.
    pub const EARLIEST: i64 = -2;
    /// The record with the largest timestamp; version 7.
    pub const MAX_TIMESTAMP: i64 = -3;
    /// The first offset on local disk; version 8.
    pub const EARLIEST_LOCAL: i64 = -4;
    /// The last offset in tiered storage; version 9.
    pub const LATEST_TIERED: i64 = -5;
    /// The first offset not yet uploaded; version 11.
    pub const EARLIEST_PENDING_UPLOAD: i64 = -6;
}
