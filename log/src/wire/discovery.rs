//! What a client asks first: ApiVersions and Metadata.

use super::primitive::{Str, Uuid};

messages! {
    ApiVersionsRequest {
        client_software_name: Str [3..];
        client_software_version: Str [3..];
    }
    ApiVersionsResponse {
        error_code: i16 [0..];
        api_keys: Vec<ApiVersion> [0..];
        throttle_time_ms: i32 [1..];
        supported_features: Vec<SupportedFeatureKey> [3..] tag 0;
        finalized_features_epoch: i64 [3..] tag 1 = -1;
        finalized_features: Vec<FinalizedFeatureKey> [3..] tag 2;
        zk_migration_ready: bool [3..] tag 3;
    }
    ApiVersion {
        api_key: i16 [0..];
        min_version: i16 [0..];
        max_version: i16 [0..];
    }
    SupportedFeatureKey {
        name: Str [3..];
        min_version: i16 [3..];
        max_version: i16 [3..];
    }
    FinalizedFeatureKey {
        name: Str [3..];
        max_version_level: i16 [3..];
        min_version_level: i16 [3..];
    }

    MetadataRequest {
        /// Null asks for all topics; so does the empty list in version 0.
        topics: Option<Vec<MetadataRequestTopic>> [0..] nullable [1..];
        allow_auto_topic_creation: bool [4..] = true;
        include_cluster_authorized_operations: bool [8..=10];
        include_topic_authorized_operations: bool [8..];
    }
    MetadataRequestTopic {
        topic_id: Uuid [10..];
        name: Option<Str> [0..] nullable [10..];
    }
    MetadataResponse {
        throttle_time_ms: i32 [3..];
        brokers: Vec<MetadataResponseBroker> [0..];
        cluster_id: Option<Str> [2..];
        controller_id: i32 [1..] = -1;
        topics: Vec<MetadataResponseTopic> [0..];
        cluster_authorized_operations: i32 [8..=10] = i32::MIN;
        error_code: i16 [13..];
    }
    MetadataResponseBroker {
        node_id: i32 [0..];
        host: Str [0..];
        port: i32 [0..];
        rack: Option<Str> [1..];
    }
    MetadataResponseTopic {
        error_code: i16 [0..];
        name: Option<Str> [0..] nullable [12..];
        topic_id: Uuid [10..];
        is_internal: bool [1..];
        partitions: Vec<MetadataResponsePartition> [0..];
        topic_authorized_operations: i32 [8..] = i32::MIN;
    }
    MetadataResponsePartition {
        error_code: i16 [0..];
        partition_index: i32 [0..];
        leader_id: i32 [0..];
        leader_epoch: i32 [7..] = -1;
        replica_nodes: Vec<i32> [0..];
        isr_nodes: Vec<i32> [0..];
        offline_replicas: Vec<i32> [5..];
    }
}
