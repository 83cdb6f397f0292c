//! Topics coming, going and growing: CreateTopics, DeleteTopics and CreatePartitions.

use super::primitive::{Str, Uuid};

messages! {
    CreateTopicsRequest {
        topics: Vec<CreatableTopic> [0..];
        timeout_ms: i32 [0..] = 60_000;
        validate_only: bool [1..];
    }
    CreatableTopic {
        name: Str [0..];
        /// -1: the broker's default (version 4), or as many as are assigned.
        num_partitions: i32 [0..];
        /// -1: the broker's default (version 4), or as assigned.
        replication_factor: i16 [0..];
        assignments: Vec<CreatableReplicaAssignment> [0..];
        configs: Vec<CreatableTopicConfig> [0..];
    }
    CreatableReplicaAssignment {
        partition_index: i32 [0..];
        broker_ids: Vec<i32> [0..];
    }
    CreatableTopicConfig {
        name: Str [0..];
        value: Option<Str> [0..];
    }
    CreateTopicsResponse {
        throttle_time_ms: i32 [2..];
        topics: Vec<CreatableTopicResult> [0..];
    }
    CreatableTopicResult {
        name: Str [0..];
        topic_id: Uuid [7..];
        error_code: i16 [0..];
        error_message: Option<Str> [1..];
        topic_config_error_code: i16 [5..] tag 0;
        num_partitions: i32 [5..] = -1;
        replication_factor: i16 [5..] = -1;
        configs: Option<Vec<CreatableTopicConfigs>> [5..];
    }
    CreatableTopicConfigs {
        name: Str [5..];
        value: Option<Str> [5..];
        read_only: bool [5..];
        /// 1: of the topic, 5: default.
        config_source: i8 [5..] = -1;
        is_sensitive: bool [5..];
    }

    DeleteTopicsRequest {
        topics: Vec<DeleteTopicState> [6..];
        topic_names: Vec<Str> [0..=5];
        timeout_ms: i32 [0..];
    }
    DeleteTopicState {
        name: Option<Str> [6..];
        topic_id: Uuid [6..];
    }
    DeleteTopicsResponse {
        throttle_time_ms: i32 [1..];
        responses: Vec<DeletableTopicResult> [0..];
    }
    DeletableTopicResult {
        name: Option<Str> [0..] nullable [6..];
        topic_id: Uuid [6..];
        error_code: i16 [0..];
        error_message: Option<Str> [5..];
    }

    CreatePartitionsRequest {
        topics: Vec<CreatePartitionsTopic> [0..];
        timeout_ms: i32 [0..];
        validate_only: bool [0..];
    }
    CreatePartitionsTopic {
        name: Str [0..];
        /// How many there shall be in all.
        count: i32 [0..];
        /// One for each new partition; null leaves the choice to the broker.
        assignments: Option<Vec<CreatePartitionsAssignment>> [0..];
    }
    CreatePartitionsAssignment {
        broker_ids: Vec<i32> [0..];
    }
    CreatePartitionsResponse {
        throttle_time_ms: i32 [0..];
        results: Vec<CreatePartitionsTopicResult> [0..];
    }
    CreatePartitionsTopicResult {
        name: Str [0..];
        error_code: i16 [0..];
        error_message: Option<Str> [0..];
    }
}
