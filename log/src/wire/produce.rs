//! Writing: Produce and InitProducerId.

use bytes::Bytes;

use super::primitive::{Str, Uuid};

messages! {
    ProduceRequest {
        transactional_id: Option<Str> [3..];
        /// 0: no answer, 1: the leader has it on disk, -1: all in-sync replicas have.
        acks: i16 [0..];
        timeout_ms: i32 [0..];
        topic_data: Vec<TopicProduceData> [0..];
    }
    TopicProduceData {
        name: Str [0..=12];
        topic_id: Uuid [13..];
        partition_data: Vec<PartitionProduceData> [0..];
    }
    PartitionProduceData {
        index: i32 [0..];
        records: Option<Bytes> [0..];
    }
    ProduceResponse {
        responses: Vec<TopicProduceResponse> [0..];
        throttle_time_ms: i32 [1..];
        node_endpoints: Vec<NodeEndpoint> [10..] tag 0;
    }
    TopicProduceResponse {
        name: Str [0..=12];
        topic_id: Uuid [13..];
        partition_responses: Vec<PartitionProduceResponse> [0..];
    }
    PartitionProduceResponse {
        index: i32 [0..];
        error_code: i16 [0..];
        base_offset: i64 [0..];
        log_append_time_ms: i64 [2..] = -1;
        log_start_offset: i64 [5..] = -1;
        record_errors: Vec<BatchIndexAndErrorMessage> [8..];
        error_message: Option<Str> [8..];
        current_leader: LeaderIdAndEpoch [10..] tag 0;
    }
    BatchIndexAndErrorMessage {
        batch_index: i32 [8..];
        batch_index_error_message: Option<Str> [8..];
    }
    /// The leader, in answers that refuse because it is another one (KIP-951).
    LeaderIdAndEpoch {
        leader_id: i32 [0..] = -1;
        leader_epoch: i32 [0..] = -1;
    }
    NodeEndpoint {
        node_id: i32 [0..];
        host: Str [0..];
        port: i32 [0..];
        rack: Option<Str> [0..];
    }

    InitProducerIdRequest {
        transactional_id: Option<Str> [0..];
        transaction_timeout_ms: i32 [0..];
        producer_id: i64 [3..] = -1;
        producer_epoch: i16 [3..] = -1;
    }
    InitProducerIdResponse {
        throttle_time_ms: i32 [0..];
        error_code: i16 [0..];
        producer_id: i64 [0..] = -1;
        producer_epoch: i16 [0..];
    }
}
