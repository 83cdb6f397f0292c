//! CreateTopics, DeleteTopics and CreatePartitions.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use super::refusal::Refusal;
use super::settings::of_topic;
use super::{Broker, time_of};
use crate::cluster::access::{Error, NewTopic, Topic, TopicConfig};
use crate::cluster::config;
use crate::cluster::names::check_name;
use crate::cluster::topics::check_growth;
use crate::record::TopicId;
use crate::wire::error_code::ErrorCode;
use crate::wire::primitive::{Str, Uuid};
use crate::wire::topics::{
    CreatableTopic, CreatableTopicConfigs, CreatableTopicResult, CreatePartitionsRequest, CreatePartitionsResponse,
    CreatePartitionsTopic, CreatePartitionsTopicResult, CreateTopicsRequest, CreateTopicsResponse,
    DeletableTopicResult, DeleteTopicState, DeleteTopicsRequest, DeleteTopicsResponse,
};

/// Topics that consumers leave out of a pattern.
pub(super) fn is_internal(name: &str) -> bool {
    name.starts_with("__")
}

/// Topics that only this program writes, creates and deletes: ours, and those in which Kafka keeps its state.
pub(super) fn is_own(name: &str) -> bool {
    let kafkas = ["__consumer_offsets", "__transaction_state", "__share_group_state", "__cluster_metadata"];
    name.starts_with("__riverrun_") || kafkas.contains(&name)
}

/// Whether a client may write, alter and delete the topic.
pub(super) fn check_not_taken(topic: &Topic) -> Result<(), Refusal> {
    if is_own(&topic.name) {
        return Err(Refusal::new(ErrorCode::InvalidTopic, "this topic belongs to the cluster itself"));
    }
    match config::writer(&topic.config) {
        Some(writer) => {
            let message = format!("this topic is written by {writer} alone and goes with it");
            Err(Refusal::new(ErrorCode::TopicAuthorizationFailed, message))
        }
        None => Ok(()),
    }
}

/// Whether a client may delete the topic.
fn check_not_used(topic: &Topic) -> Result<(), Refusal> {
    match config::used_by(&topic.config) {
        Some(user) => {
            let message = format!("this topic is read by {user}: drop that first");
            Err(Refusal::new(ErrorCode::TopicAuthorizationFailed, message))
        }
        None => Ok(()),
    }
}

impl Broker {
    pub(super) async fn create_topics(&self, request: CreateTopicsRequest) -> CreateTopicsResponse {
        let twice = named_twice(request.topics.iter().map(|topic| &topic.name));
        let time = time_of(request.timeout_ms);
        let mut topics = Vec::with_capacity(request.topics.len());
        for asked in &request.topics {
            let result = if twice.contains(&asked.name.0) {
                Err(Refusal::new(ErrorCode::InvalidRequest, "the request names this topic more than once"))
            } else {
                self.create_topic(asked, request.validate_only, time).await
            };
            topics.push(match result {
                Ok(topic) => created(&topic),
                Err(refusal) => CreatableTopicResult {
                    name: asked.name.clone(),
                    error_code: refusal.code.code(),
                    error_message: refusal.text(),
                    ..CreatableTopicResult::default()
                },
            });
        }
        CreateTopicsResponse { topics, ..CreateTopicsResponse::default() }
    }

    async fn create_topic(&self, asked: &CreatableTopic, validate: bool, time: Duration) -> Result<Topic, Refusal> {
        let name = asked.name.text().into_owned();
        if is_own(&name) {
            return Err(Refusal::new(ErrorCode::InvalidTopic, "this name is taken by the cluster itself"));
        }
        let partitions = self.partitions(asked)?;
        let pairs = asked.configs.iter().filter_map(|option| {
            let value = option.value.as_ref()?;
            Some((option.name.text().into_owned(), value.text().into_owned()))
        });
        let config: TopicConfig = pairs.collect();
        config::check(&config)?;
        for name in [config::WRITER, config::USED_BY] {
            if let Some(value) = config.get(name) {
                let (name, value) = (name.to_owned(), value.clone());
                return Err(Error::InvalidConfig { name, value, reason: "no client sets it".to_owned() }.into());
            }
        }
        if validate {
            check_name(&name)?;
            if self.backend.topic(&name).is_some() {
                return Err(Error::TopicExists(name).into());
            }
            return Ok(Topic { name, id: TopicId::default(), partitions, config });
        }
        let create = self.backend.create_topic(NewTopic { name, partitions, config });
        match self.env.timeout(time, create).await {
            Some(created) => Ok(created?),
            None => Err(Refusal::new(ErrorCode::RequestTimedOut, "not created within the time of the request")),
        }
    }

    /// How many partitions are asked for, by number or by assignment to brokers. There is one broker.
    fn partitions(&self, asked: &CreatableTopic) -> Result<i32, Refusal> {
        let refused = |code, message: &str| Err(Refusal::new(code, message));
        if !asked.assignments.is_empty() {
            if asked.num_partitions != -1 || asked.replication_factor != -1 {
                return refused(ErrorCode::InvalidRequest, "either numbers or an assignment, not both");
            }
            let mut indices: Vec<_> = asked.assignments.iter().map(|one| one.partition_index).collect();
            indices.sort_unstable();
            let node = self.backend.node_id();
            if !indices.iter().copied().eq(0..indices.len() as i32)
                || asked.assignments.iter().any(|one| one.broker_ids != [node])
            {
                return refused(ErrorCode::InvalidReplicaAssignment, "each partition from 0 on, once, to this broker");
            }
            return Ok(indices.len() as i32);
        }
        match (asked.replication_factor, asked.num_partitions) {
            (-1 | 1, -1) => Ok(self.config.partitions_default),
            (-1 | 1, 1..) => Ok(asked.num_partitions),
            (-1 | 1, _) => refused(ErrorCode::InvalidPartitions, "a topic has at least one partition"),
            _ => refused(ErrorCode::InvalidReplicationFactor, "there is one broker, so one replica"),
        }
    }

    pub(super) async fn delete_topics(&self, version: i16, request: DeleteTopicsRequest) -> DeleteTopicsResponse {
        let by_name = request.topic_names.into_iter();
        let by_name = by_name.map(|name| DeleteTopicState { name: Some(name), ..DeleteTopicState::default() });
        let time = time_of(request.timeout_ms);
        let mut responses = Vec::new();
        for asked in request.topics.into_iter().chain(by_name) {
            let (name, result) = self.delete_topic(&asked, time).await;
            let refusal = result.as_ref().err();
            responses.push(DeletableTopicResult {
                // Before version 6 the name is never null; it is what was asked for.
                name: name.or((version < 6).then(Str::default)),
                topic_id: result.as_ref().map_or(asked.topic_id, |id| Uuid(id.0)),
                error_code: refusal.map_or(ErrorCode::None, |refusal| refusal.code).code(),
                error_message: refusal.and_then(Refusal::text),
            });
        }
        DeleteTopicsResponse { responses, ..DeleteTopicsResponse::default() }
    }

    /// The name as far as it is known, and the id of what was deleted.
    async fn delete_topic(&self, asked: &DeleteTopicState, time: Duration) -> (Option<Str>, Result<TopicId, Refusal>) {
        let topic = match &asked.name {
            Some(name) => {
                let unknown = || Refusal::from(Error::UnknownTopic(name.text().into_owned()));
                self.backend.topic(&name.text()).ok_or_else(unknown)
            }
            None => {
                let unknown = || Refusal::new(ErrorCode::UnknownTopicId, "no topic has this id");
                self.backend.topic_by_id(TopicId(asked.topic_id.0)).ok_or_else(unknown)
            }
        };
        let topic = match topic {
            Ok(topic) => topic,
            Err(refusal) => return (asked.name.clone(), Err(refusal)),
        };
        let name = Some(Str::from(topic.name.as_str()));
        if let Err(refusal) = check_not_taken(&topic).and_then(|()| check_not_used(&topic)) {
            return (name, Err(refusal));
        }
        let result = match self.env.timeout(time, self.backend.delete_topic(&topic.name)).await {
            Some(deleted) => deleted.map(|()| topic.id).map_err(Refusal::from),
            None => Err(Refusal::new(ErrorCode::RequestTimedOut, "not deleted within the time of the request")),
        };
        (name, result)
    }

    /// One answer for each topic of the request.
    pub(super) async fn create_partitions(&self, request: CreatePartitionsRequest) -> CreatePartitionsResponse {
        let twice = named_twice(request.topics.iter().map(|topic| &topic.name));
        let time = time_of(request.timeout_ms);
        let mut results = Vec::with_capacity(request.topics.len());
        for asked in request.topics {
            let result = if twice.contains(&asked.name.0) {
                Err(Refusal::new(ErrorCode::InvalidRequest, "the request names this topic more than once"))
            } else {
                self.add_partitions(&asked, request.validate_only, time).await
            };
            let refusal = result.as_ref().err();
            results.push(CreatePartitionsTopicResult {
                name: asked.name,
                error_code: refusal.map_or(ErrorCode::None, |refusal| refusal.code).code(),
                error_message: refusal.and_then(Refusal::text),
            });
        }
        CreatePartitionsResponse { results, ..CreatePartitionsResponse::default() }
    }

    async fn add_partitions(
        &self,
        asked: &CreatePartitionsTopic,
        validate: bool,
        time: Duration,
    ) -> Result<(), Refusal> {
        let name = asked.name.text();
        check_name(&name)?;
        let topic = self.backend.topic(&name).ok_or_else(|| Error::UnknownTopic(name.into_owned()))?;
        check_not_taken(&topic)?;
        check_growth(&topic, asked.count)?;
        if let Some(assignments) = &asked.assignments {
            let (node, new) = (self.backend.node_id(), (asked.count - topic.partitions) as usize);
            if assignments.len() != new || assignments.iter().any(|one| one.broker_ids != [node]) {
                let message = "each new partition once, to this broker";
                return Err(Refusal::new(ErrorCode::InvalidReplicaAssignment, message));
            }
        }
        if validate {
            return Ok(());
        }
        match self.env.timeout(time, self.backend.add_partitions(&topic.name, asked.count)).await {
            Some(grown) => Ok(grown.map(drop)?),
            None => Err(Refusal::new(ErrorCode::RequestTimedOut, "not done within the time of the request")),
        }
    }
}

/// Names that stand there more than once.
fn named_twice<'a>(names: impl Iterator<Item = &'a Str>) -> BTreeSet<Bytes> {
    let mut seen = BTreeSet::new();
    names.map(|name| name.0.clone()).filter(|name| !seen.insert(name.clone())).collect()
}

fn created(topic: &Topic) -> CreatableTopicResult {
    let configs = of_topic(&topic.config).into_iter().map(|entry| CreatableTopicConfigs {
        name: Str::from(entry.name),
        value: Some(Str::from(entry.value())),
        read_only: entry.read_only,
        config_source: entry.source(),
        is_sensitive: false,
    });
    CreatableTopicResult {
        name: Str::from(topic.name.as_str()),
        topic_id: Uuid(topic.id.0),
        num_partitions: topic.partitions,
        replication_factor: 1,
        configs: Some(configs.collect()),
        ..CreatableTopicResult::default()
    }
}
