//! The topics of the cluster as a [`Machine`] over the quorum: names, ids, partitions, configuration; and the two
//! counters that must never repeat, starts of the node and producer ids.
//!
//! A record is one JSON object with the field `type`; unknown types and fields are refused, for a newer binary wrote them.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::access::{ConfigChanges, NewTopic, Topic, TopicConfig};
use super::config;
use super::names::{check_name, collides};
use crate::Error;
use crate::machine::{Decision, Machine};
use crate::record::{LeaderEpoch, NewRecord, RecordView, TopicId};

/// Partitions a topic may have. Each takes memory and a place in every cut; 10,000 are more than one node serves well.
pub(crate) const PARTITIONS_MAX: i32 = 10_000;
/// Producer ids taken from the quorum at once: one append for so many producers.
pub(crate) const PRODUCER_ID_BLOCK: i64 = 1000;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Topics {
    by_name: BTreeMap<String, Topic>,
    starts: i32,
    producer_id_next: i64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum TopicRecord {
    Topic { name: String, id: TopicId, partitions: i32, config: TopicConfig },
    TopicRemoved { name: String },
    Started { epoch: LeaderEpoch },
    ProducerIds { next: i64 },
}

/// What can be asked of the topics.
#[derive(Debug)]
pub(crate) enum Command {
    /// The id is drawn by the caller: machines know no randomness.
    Create {
        topic: NewTopic,
        id: TopicId,
    },
    Configure {
        name: String,
        changes: ConfigChanges,
    },
    Delete {
        name: String,
    },
    /// A start of the node: its partitions get this epoch.
    Start {
        epoch: LeaderEpoch,
    },
    ProducerIds,
}

/// Answers, one for each kind of command; the error is the caller's.
#[derive(Debug)]
pub(crate) enum Reply {
    Created(Result<Topic, Error>),
    Configured(Result<Topic, Error>),
    Deleted(Result<Topic, Error>),
    /// All topics that stand.
    Started(Vec<Topic>),
    /// The first of [`PRODUCER_ID_BLOCK`] ids.
    ProducerIds(i64),
}

/// What follows from a decision.
#[derive(Debug)]
pub(crate) enum Effect {
    Opened(Topic),
    Changed(Topic),
    Closed(Topic),
}

impl Topics {
    pub fn names(&self) -> BTreeMap<TopicId, String> {
        self.by_name.values().map(|topic| (topic.id, topic.name.clone())).collect()
    }

    fn create(&self, topic: &NewTopic) -> Result<(), Error> {
        check_name(&topic.name)?;
        if self.by_name.contains_key(&topic.name) {
            return Err(Error::TopicExists(topic.name.clone()));
        }
        if let Some(other) = self.by_name.keys().find(|other| collides(other, &topic.name)) {
            return Err(Error::InvalidTopic {
                name: topic.name.clone(),
                reason: if other.contains('_') {
                    "another topic has this name with _ where it has ."
                } else {
                    "another topic has this name with . where it has _"
                },
            });
        }
        if !(1..=PARTITIONS_MAX).contains(&topic.partitions) {
            return Err(Error::InvalidPartitions {
                topic: topic.name.clone(),
                asked: topic.partitions,
                limit: PARTITIONS_MAX,
            });
        }
        config::check(&topic.config)
    }

    /// The topic as it will be.
    fn configure(&self, name: &str, changes: ConfigChanges) -> Result<Topic, Error> {
        let mut topic = self.by_name.get(name).cloned().ok_or_else(|| Error::UnknownTopic(name.to_owned()))?;
        for (name, value) in changes {
            if !config::CHANGEABLE.contains(&name.as_str()) {
                let (value, reason) = (value.unwrap_or_default(), "it cannot change while the topic stands");
                return Err(Error::InvalidConfig { name, value, reason });
            }
            match value {
                Some(value) => topic.config.insert(name, value),
                None => topic.config.remove(&name),
            };
        }
        config::check(&topic.config)?;
        Ok(topic)
    }
}

fn record(key: &str, record: &TopicRecord) -> NewRecord {
    let value = serde_json::to_vec(record).expect("a record of topics can be written as JSON");
    NewRecord { key: Some(Bytes::copy_from_slice(key.as_bytes())), value: Some(value.into()), ..NewRecord::default() }
}

fn topic_record(topic: &Topic) -> NewRecord {
    let Topic { name, id, partitions, config } = topic.clone();
    record(&format!("topic {name}"), &TopicRecord::Topic { name, id, partitions, config })
}

impl Machine for Topics {
    type Command = Command;
    type Reply = Reply;
    type Effect = Effect;

    fn loaded(&mut self, _now_ms: i64) -> Decision<Self> {
        Decision::default()
    }

    fn decide(&mut self, _now_ms: i64, command: Command) -> (Reply, Decision<Self>) {
        let mut decision = Decision::default();
        let reply = match command {
            Command::Create { topic, id } => Reply::Created(self.create(&topic).map(|()| {
                let NewTopic { name, partitions, config } = topic;
                let topic = Topic { name, id, partitions, config };
                decision.records.push(topic_record(&topic));
                decision.effects.push(Effect::Opened(topic.clone()));
                topic
            })),
            Command::Configure { name, changes } => {
                Reply::Configured(self.configure(&name, changes).inspect(|topic| {
                    decision.records.push(topic_record(topic));
                    decision.effects.push(Effect::Changed(topic.clone()));
                }))
            }
            Command::Delete { name } => match self.by_name.get(&name) {
                None => Reply::Deleted(Err(Error::UnknownTopic(name))),
                Some(topic) => {
                    decision.records.push(record(&format!("topic {name}"), &TopicRecord::TopicRemoved { name }));
                    decision.effects.push(Effect::Closed(topic.clone()));
                    Reply::Deleted(Ok(topic.clone()))
                }
            },
            Command::Start { epoch } => {
                assert!(epoch.0 > self.starts, "every start raises the epoch");
                decision.records.push(record("started", &TopicRecord::Started { epoch }));
                Reply::Started(self.by_name.values().cloned().collect())
            }
            Command::ProducerIds => {
                let first = self.producer_id_next;
                let next = first + PRODUCER_ID_BLOCK;
                decision.records.push(record("producer ids", &TopicRecord::ProducerIds { next }));
                Reply::ProducerIds(first)
            }
        };
        (reply, decision)
    }

    fn apply(&mut self, record: &RecordView) -> Result<(), Error> {
        let corrupt = |detail: String| Error::Corrupt {
            place: format!("the topics' journal at offset {}", record.offset.0),
            detail,
        };
        let value = record.value.as_deref().ok_or_else(|| corrupt("a record without a value".to_owned()))?;
        match serde_json::from_slice(value).map_err(|error| corrupt(error.to_string()))? {
            TopicRecord::Topic { name, id, partitions, config } => {
                self.by_name.insert(name.clone(), Topic { name, id, partitions, config });
            }
            TopicRecord::TopicRemoved { name } => drop(self.by_name.remove(&name)),
            TopicRecord::Started { epoch } => self.starts = epoch.0,
            TopicRecord::ProducerIds { next } => self.producer_id_next = next,
        }
        Ok(())
    }

    fn snapshot(&self) -> Vec<NewRecord> {
        let mut records: Vec<NewRecord> = self.by_name.values().map(topic_record).collect();
        records.push(record("started", &TopicRecord::Started { epoch: LeaderEpoch(self.starts) }));
        records.push(record("producer ids", &TopicRecord::ProducerIds { next: self.producer_id_next }));
        records
    }
}
