//! Finding offsets: ListOffsets.

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
