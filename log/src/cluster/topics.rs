//! The topics of the cluster as a [`Machine`] over the quorum: names, ids, partitions, configuration; and the two
//! counters that must never repeat, starts of the node and producer ids.
//!
//! A record is one JSON object with the field `type`; unknown types and fields are refused, for a newer binary wrote them.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::access::{NewTopic, Topic, TopicConfig};
use super::alter::AlterConfig;
use super::config;
use super::names::{check_name, collides};
use crate::Error;
use crate::machine::{Decision, Machine};
use crate::record::{LeaderEpoch, NewRecord, RecordView, TopicId};

/// Partitions a topic may have. Each takes memory and a place in every cut; 10,000 are more than one node serves well.
pub(crate) const PARTITIONS_MAX: i32 = 10_000;
/// Producer ids taken from the quorum at once: one append for so many producers.
pub(crate) const PRODUCER_ID_BLOCK: i64 = 1000;

/// No producer id is larger: a million a second get there after 146,000 years.
const PRODUCER_ID_MAX: i64 = i64::MAX / 2;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Topics {
    by_name: BTreeMap<String, Topic>,
    /// Their names by id: no two have the same.
    ids: BTreeMap<TopicId, String>,
    /// Deleted topics of which the store may still hold records, with the name they had.
    removed: BTreeMap<TopicId, String>,
    starts: i32,
    producer_id_next: i64,
}

/// A record of the journal. Its key says whose word it is the last on, for people: machines go by the value.
///
/// ```text
/// key                        value
/// topic 0102…10              {"type":"topic","name":"orders","id":[1,2,…,16],"partitions":3,"config":{"retention.ms":"-1"}}
/// topic 0102…10              {"type":"topic_removed","name":"orders","id":[1,2,…,16]}
/// topic 0102…10              {"type":"topic_forgotten","id":[1,2,…,16]}
/// started                    {"type":"started","epoch":5}
/// producer ids               {"type":"producer_ids","next":3000}
/// ```
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum TopicRecord {
    /// The whole topic, new or changed.
    Topic {
        name: String,
        id: TopicId,
        partitions: i32,
        config: TopicConfig,
    },
    TopicRemoved {
        name: String,
        /// The first logs do not say it: then it is the topic of that name.
        #[serde(default)]
        id: Option<TopicId>,
    },
    /// Nothing is left of a removed topic.
    TopicForgotten {
        id: TopicId,
    },
    Started {
        epoch: LeaderEpoch,
    },
    ProducerIds {
        next: i64,
    },
}

/// What can be asked of the topics.
#[derive(Debug)]
pub(crate) enum Command {
    /// The id is drawn by the caller: machines know no randomness.
    Create {
        topic: NewTopic,
        id: TopicId,
    },
    Delete {
        name: String,
    },
    Configure {
        name: String,
        alter: AlterConfig,
    },
    /// `partitions`: how many there shall be in all.
    AddPartitions {
        name: String,
        partitions: i32,
    },
    /// The store holds nothing any more of these removed topics.
    Forgotten {
        ids: Vec<TopicId>,
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
    Deleted(Result<Topic, Error>),
    Configured(Result<Topic, Error>),
    PartitionsAdded(Result<Topic, Error>),
    Forgotten,
    /// All topics that stand, and those removed that are not forgotten. Records of any other topic belong to nobody.
    Started {
        topics: Vec<Topic>,
        removed: Vec<TopicId>,
    },
    /// There was a start with this epoch, or a higher one, before.
    NotRaised(LeaderEpoch),
    /// The first of [`PRODUCER_ID_BLOCK`] ids.
    ProducerIds(i64),
}

/// What follows from a decision.
#[derive(Debug)]
pub(crate) enum Effect {
    Opened(Topic),
    Closed(Topic),
    /// The topic as it is now, with another configuration.
    Configured(Topic),
    /// The topic as it is now, with more partitions.
    Grown(Topic),
}

/// Whether a topic can be given so many partitions in all: not one whose writer or reader counts on those it has.
pub(crate) fn check_growth(topic: &Topic, partitions: i32) -> Result<(), Error> {
    if let Some(user) = config::writer(&topic.config).or_else(|| config::used_by(&topic.config)) {
        return Err(Error::TopicInUse { topic: topic.name.clone(), user: user.to_owned() });
    }
    let (least, limit) = (topic.partitions + 1, PARTITIONS_MAX);
    if (least..=limit).contains(&partitions) {
        return Ok(());
    }
    Err(Error::InvalidPartitions { topic: topic.name.clone(), asked: partitions, least, limit })
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
                least: 1,
                limit: PARTITIONS_MAX,
            });
        }
        config::check(&topic.config)
    }

    /// The topic altered, and whether that changes anything.
    fn configure(&self, name: &str, alter: &AlterConfig) -> Result<(Topic, bool), Error> {
        let topic = self.by_name(name)?;
        let config = alter.apply(&topic.config)?;
        let changes = config != topic.config;
        Ok((Topic { config, ..topic.clone() }, changes))
    }

    fn grow(&self, name: &str, partitions: i32) -> Result<Topic, Error> {
        let topic = self.by_name(name)?;
        check_growth(topic, partitions)?;
        Ok(Topic { partitions, ..topic.clone() })
    }

    /// What is wrong with a topic that the journal tells of: everybody counts on it.
    fn check(&self, topic: &Topic) -> Result<(), String> {
        let Topic { name, id, partitions, config } = topic;
        check_name(name).map_err(|error| error.to_string())?;
        if !(1..=PARTITIONS_MAX).contains(partitions) {
            return Err(format!("topic {name} with {partitions} partitions"));
        }
        if id.is_reserved() || self.ids.get(id).is_some_and(|other| other != name) {
            return Err(format!("topic {name} with the id {id}, which is another's"));
        }
        if self.removed.contains_key(id) {
            return Err(format!("topic {name} with the id {id}, of which something is still to be removed"));
        }
        config::check_values(config).map_err(|error| error.to_string())
    }

    fn by_name(&self, name: &str) -> Result<&Topic, Error> {
        self.by_name.get(name).ok_or_else(|| Error::UnknownTopic(name.to_owned()))
    }
}

fn record(key: &str, record: &TopicRecord) -> NewRecord {
    let value = serde_json::to_vec(record).expect("a record of topics can be written as JSON");
    NewRecord { key: Some(Bytes::copy_from_slice(key.as_bytes())), value: Some(value.into()), ..NewRecord::default() }
}

/// The key is the id: what becomes of a topic takes the place of what it was, and never of its namesake.
fn key(id: TopicId) -> String {
    format!("topic {:032x}", u128::from_be_bytes(id.0))
}

fn topic_record(topic: &Topic) -> NewRecord {
    let Topic { name, id, partitions, config } = topic.clone();
    record(&key(id), &TopicRecord::Topic { name, id, partitions, config })
}

fn removed_record(name: &str, id: TopicId) -> NewRecord {
    record(&key(id), &TopicRecord::TopicRemoved { name: name.to_owned(), id: Some(id) })
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
            Command::Delete { name } => Reply::Deleted(self.by_name(&name).cloned().inspect(|topic| {
                decision.records.push(removed_record(&name, topic.id));
                decision.effects.push(Effect::Closed(topic.clone()));
            })),
            Command::Configure { name, alter } => {
                Reply::Configured(self.configure(&name, &alter).map(|(topic, changes)| {
                    if changes {
                        decision.records.push(topic_record(&topic));
                        decision.effects.push(Effect::Configured(topic.clone()));
                    }
                    topic
                }))
            }
            Command::AddPartitions { name, partitions } => {
                Reply::PartitionsAdded(self.grow(&name, partitions).inspect(|topic| {
                    decision.records.push(topic_record(topic));
                    decision.effects.push(Effect::Grown(topic.clone()));
                }))
            }
            Command::Forgotten { ids } => {
                let known = ids.into_iter().filter(|id| self.removed.contains_key(id));
                decision.records.extend(known.map(|id| record(&key(id), &TopicRecord::TopicForgotten { id })));
                Reply::Forgotten
            }
            Command::Start { epoch } if epoch.0 <= self.starts => Reply::NotRaised(LeaderEpoch(self.starts)),
            Command::Start { epoch } => {
                decision.records.push(record("started", &TopicRecord::Started { epoch }));
                let topics = self.by_name.values().cloned().collect();
                Reply::Started { topics, removed: self.removed.keys().copied().collect() }
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
                let topic = Topic { name: name.clone(), id, partitions, config };
                self.check(&topic).map_err(corrupt)?;
                self.ids.insert(id, name.clone());
                if let Some(before) = self.by_name.insert(name, topic).filter(|before| before.id != id) {
                    self.ids.remove(&before.id);
                }
            }
            TopicRecord::TopicRemoved { name, id }
                if id.and_then(|id| self.ids.get(&id)).is_some_and(|other| *other != name) =>
            {
                return Err(corrupt(format!("topic {name} is removed with another's id")));
            }
            TopicRecord::TopicRemoved { name, id } => {
                let named = self.by_name.get(&name).map(|topic| topic.id);
                if id.is_none() || id == named {
                    self.by_name.remove(&name);
                    named.map(|named| self.ids.remove(&named));
                }
                self.removed.extend(id.or(named).map(|id| (id, name)));
            }
            TopicRecord::TopicForgotten { id } => drop(self.removed.remove(&id)),
            TopicRecord::Started { epoch } if epoch.0 < 0 => return Err(corrupt("a negative epoch".to_owned())),
            TopicRecord::Started { epoch } => self.starts = epoch.0,
            TopicRecord::ProducerIds { next } if !(0..=PRODUCER_ID_MAX).contains(&next) => {
                return Err(corrupt(format!("producer ids from {next} on")));
            }
            TopicRecord::ProducerIds { next } => self.producer_id_next = next,
        }
        Ok(())
    }

    fn snapshot(&self) -> Vec<NewRecord> {
        let mut records: Vec<NewRecord> = self.by_name.values().map(topic_record).collect();
        records.extend(self.removed.iter().map(|(id, name)| removed_record(name, *id)));
        records.push(record("started", &TopicRecord::Started { epoch: LeaderEpoch(self.starts) }));
        records.push(record("producer ids", &TopicRecord::ProducerIds { next: self.producer_id_next }));
        records
    }
}

#[cfg(test)]
mod tests;
