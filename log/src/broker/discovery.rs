//! ApiVersions and Metadata.

use super::Broker;
use super::connection::Peer;
use super::refusal::Refusal;
use super::topics::{is_internal, is_own};
use crate::cluster::access::{Error, NewTopic, Topic, TopicConfig};
use crate::cluster::names::check_name;
use crate::record::{TopicId, TopicPartition};
use crate::wire::api::Api;
use crate::wire::discovery::{
    ApiVersion, ApiVersionsRequest, ApiVersionsResponse, MetadataRequest, MetadataRequestTopic, MetadataResponse,
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use crate::wire::error_code::ErrorCode;
use crate::wire::primitive::{Str, Uuid};

/// Operations on a topic as bits of Kafka's AclOperation: read 3, write 4, create 5, delete 6, alter 7, describe 8,
/// describe configs 10, alter configs 11. Everybody may do everything.
const TOPIC_OPERATIONS: i32 = 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 11;
/// On the cluster: create 5, alter 7, describe 8, cluster action 9, describe configs 10, alter configs 11, idempotent
/// write 12.
const CLUSTER_OPERATIONS: i32 = 1 << 5 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12;
/// What is said where nobody asked.
const OPERATIONS_UNASKED: i32 = i32::MIN;

fn served() -> Vec<ApiVersion> {
    let version = |&api: &Api| {
        let (min_version, max_version) = api.advertised();
        ApiVersion { api_key: api as i16, min_version, max_version }
    };
    Api::ALL.iter().map(version).collect()
}

/// The answer, in version 0, to a version of ApiVersions that is not known yet (KIP-511).
pub(super) fn unsupported_api_versions() -> ApiVersionsResponse {
    ApiVersionsResponse {
        error_code: ErrorCode::UnsupportedVersion.code(),
        api_keys: served().into_iter().filter(|version| version.api_key == Api::ApiVersions as i16).collect(),
        ..ApiVersionsResponse::default()
    }
}

/// `[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?`
fn is_software_name(name: &Str) -> bool {
    let name = &name.0;
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    ends(name.first())
        && ends(name.last())
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(byte))
}

impl Broker {
    pub(super) fn api_versions(&self, version: i16, request: &ApiVersionsRequest) -> ApiVersionsResponse {
        let named =
            || is_software_name(&request.client_software_name) && is_software_name(&request.client_software_version);
        if version >= 3 && !named() {
            let error_code = ErrorCode::InvalidRequest.code();
            return ApiVersionsResponse { error_code, ..ApiVersionsResponse::default() };
        }
        ApiVersionsResponse { api_keys: served(), ..ApiVersionsResponse::default() }
    }

    pub(super) async fn metadata(&self, peer: &Peer, version: i16, request: MetadataRequest) -> MetadataResponse {
        let mut answers = Vec::new();
        let operations = |asked, all| if asked { all } else { OPERATIONS_UNASKED };
        let topic_operations = operations(request.include_topic_authorized_operations, TOPIC_OPERATIONS);
        match request.topics {
            Some(asked) if version > 0 || !asked.is_empty() => {
                let create = self.config.auto_create_topics && (version < 4 || request.allow_auto_topic_creation);
                for asked in asked {
                    answers.push(self.topic_metadata(version, asked, create).await);
                }
            }
            _ => answers.extend(self.backend.topics().iter().map(|topic| self.describe(topic))),
        }
        for answer in &mut answers {
            answer.topic_authorized_operations = topic_operations;
        }
        MetadataResponse {
            brokers: vec![MetadataResponseBroker {
                node_id: self.backend.node_id(),
                host: Str::from(peer.host.as_str()),
                port: i32::from(peer.port),
                rack: None,
            }],
            cluster_id: Some(Str::from(self.backend.cluster_id())),
            controller_id: self.backend.node_id(),
            topics: answers,
            cluster_authorized_operations: operations(
                request.include_cluster_authorized_operations,
                CLUSTER_OPERATIONS,
            ),
            ..MetadataResponse::default()
        }
    }

    /// Versions 10 and 11 carry an id that clients leave unset or wrong: only from 12 on it is looked at.
    async fn topic_metadata(&self, version: i16, asked: MetadataRequestTopic, create: bool) -> MetadataResponseTopic {
        let refused = |code: ErrorCode, name, topic_id| MetadataResponseTopic {
            error_code: code.code(),
            name,
            topic_id,
            ..MetadataResponseTopic::default()
        };
        let Some(name) = asked.name else {
            if version < 12 || asked.topic_id == Uuid::default() {
                return refused(ErrorCode::InvalidRequest, (version < 12).then(Str::default), asked.topic_id);
            }
            return match self.backend.topic_by_id(TopicId(asked.topic_id.0)) {
                Some(topic) => self.describe(&topic),
                None => refused(ErrorCode::UnknownTopicId, None, asked.topic_id),
            };
        };
        let text = name.text();
        if let Some(topic) = self.backend.topic(&text) {
            return self.describe(&topic);
        }
        let code = if check_name(&text).is_err() || is_own(&text) {
            ErrorCode::InvalidTopic
        } else if create {
            match self.auto_create(&text).await {
                Ok(topic) => return self.describe(&topic),
                Err(error) => Refusal::from(error).code,
            }
        } else {
            ErrorCode::UnknownTopicOrPartition
        };
        refused(code, Some(name.clone()), Uuid::default())
    }

    async fn auto_create(&self, name: &str) -> Result<Topic, Error> {
        let partitions = self.config.partitions_default;
        let topic = NewTopic { name: name.to_owned(), partitions, config: TopicConfig::new() };
        match self.backend.create_topic(topic).await {
            Err(Error::TopicExists(name)) => self.backend.topic(&name).ok_or(Error::UnknownTopic(name)),
            result => result,
        }
    }

    fn describe(&self, topic: &Topic) -> MetadataResponseTopic {
        let node = self.backend.node_id();
        let partition = |partition| {
            let bounds = self.backend.bounds(TopicPartition { topic: topic.id, partition });
            let found = MetadataResponsePartition {
                partition_index: partition,
                replica_nodes: vec![node],
                isr_nodes: vec![node],
                ..MetadataResponsePartition::default()
            };
            match bounds {
                Ok(bounds) => MetadataResponsePartition { leader_id: node, leader_epoch: bounds.epoch.0, ..found },
                Err(_) => MetadataResponsePartition {
                    error_code: ErrorCode::LeaderNotAvailable.code(),
                    leader_id: -1,
                    ..found
                },
            }
        };
        MetadataResponseTopic {
            name: Some(Str::from(topic.name.as_str())),
            topic_id: Uuid(topic.id.0),
            is_internal: is_internal(&topic.name),
            partitions: (0..topic.partitions).map(partition).collect(),
            ..MetadataResponseTopic::default()
        }
    }
}
