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

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Topics {
    by_name: BTreeMap<String, Topic>,
    /// Deleted topics of which the store may still hold records, with the name they had.
    removed: BTreeMap<TopicId, String>,
    starts: i32,
    producer_id_next: i64,
}

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
            Command::Start { epoch } => {
                assert!(epoch.0 > self.starts, "every start raises the epoch");
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
                self.by_name.insert(name.clone(), Topic { name, id, partitions, config });
            }
            TopicRecord::TopicRemoved { name, id } => {
                let named = self.by_name.get(&name).map(|topic| topic.id);
                if id.is_none() || id == named {
                    self.by_name.remove(&name);
                }
                self.removed.extend(id.or(named).map(|id| (id, name)));
            }
            TopicRecord::TopicForgotten { id } => drop(self.removed.remove(&id)),
            TopicRecord::Started { epoch } => self.starts = epoch.0,
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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cluster::alter::{AlterConfigOp, AlterKind};
    use crate::record::Offset;

    /// The machine with all records it has decided, as its host keeps them.
    #[derive(Default)]
    struct Run {
        topics: Topics,
        journal: Vec<NewRecord>,
    }

    fn apply(topics: &mut Topics, records: &[NewRecord]) {
        for record in records {
            let (key, value) = (record.key.clone(), record.value.clone());
            let view = RecordView { offset: Offset(0), timestamp_ms: 0, key, value, headers: Bytes::from_static(&[0]) };
            topics.apply(&view).unwrap();
        }
    }

    impl Run {
        fn ask(&mut self, command: Command) -> (Reply, Vec<Effect>) {
            let (reply, decision) = self.topics.decide(0, command);
            apply(&mut self.topics, &decision.records);
            self.journal.extend(decision.records);
            (reply, decision.effects)
        }

        /// Rebuilds the machine; from the last record of each key, as compaction leaves them, or from a snapshot.
        fn rebuild(&mut self, snapshot: bool) {
            if snapshot {
                self.journal = self.topics.snapshot();
            } else {
                let journal = std::mem::take(&mut self.journal);
                let last =
                    |at: usize, record: &NewRecord| journal[at + 1..].iter().all(|later| later.key != record.key);
                let kept = journal.iter().enumerate().filter(|(at, record)| last(*at, record));
                self.journal = kept.map(|(_, record)| record.clone()).collect();
            }
            self.topics = Topics::default();
            apply(&mut self.topics, &self.journal);
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Create { name: usize, partitions: i32 },
        Delete { name: usize },
        Configure { name: usize, alter: AlterConfig },
        AddPartitions { name: usize, partitions: i32 },
        Forgotten { every: usize },
        Start,
        Rebuild { snapshot: bool },
    }

    fn alter() -> impl Strategy<Value = AlterConfig> {
        let name = prop_oneof![Just("retention.ms"), Just("cleanup.policy"), Just("segment.ms"), Just("no.such")];
        let value = prop_oneof![Just("compact"), Just("delete"), Just("7"), Just("-1"), Just("x")];
        let pair = (name, value).prop_map(|(name, value)| (name.to_owned(), value.to_owned()));
        let op = (pair.clone(), 0..4).prop_map(|((name, value), kind)| {
            let kind = match kind {
                0 => AlterKind::Set(value),
                1 => AlterKind::Delete,
                2 => AlterKind::Append(value),
                _ => AlterKind::Subtract(value),
            };
            AlterConfigOp { name, kind }
        });
        prop_oneof![
            3 => proptest::collection::vec(op, 0..3).prop_map(AlterConfig::Incremental),
            1 => proptest::collection::btree_map(pair.clone().prop_map(|p| p.0), pair.prop_map(|p| p.1), 0..3)
                .prop_map(AlterConfig::Replace),
        ]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..4usize, -1..4i32).prop_map(|(name, partitions)| Step::Create { name, partitions }),
            2 => (0..4usize).prop_map(|name| Step::Delete { name }),
            4 => (0..4usize, alter()).prop_map(|(name, alter)| Step::Configure { name, alter }),
            2 => (0..4usize, -1..6i32).prop_map(|(name, partitions)| Step::AddPartitions { name, partitions }),
            1 => (1..3usize).prop_map(|every| Step::Forgotten { every }),
            1 => Just(Step::Start),
            2 => any::<bool>().prop_map(|snapshot| Step::Rebuild { snapshot }),
        ]
    }

    /// What the topics must be, kept the simple way.
    #[derive(Default)]
    struct Model {
        topics: BTreeMap<String, Topic>,
        removed: Vec<TopicId>,
        ids: u8,
    }

    impl Model {
        /// Whether the outcome is right; `changed` is what an effect must carry.
        fn check(&mut self, run: &mut Run, name: &str, step: Step) {
            let there = self.topics.get(name).cloned();
            match step {
                Step::Create { partitions, .. } => {
                    self.ids += 1;
                    let id = TopicId([self.ids; 16]);
                    let topic = NewTopic { name: name.to_owned(), partitions, config: TopicConfig::new() };
                    let (reply, effects) = run.ask(Command::Create { topic, id });
                    let Reply::Created(created) = reply else { panic!("{reply:?}") };
                    assert_eq!(created.is_ok(), there.is_none() && partitions > 0);
                    self.outcome(created, &effects);
                }
                Step::Delete { .. } => {
                    let (reply, effects) = run.ask(Command::Delete { name: name.to_owned() });
                    assert!(matches!(reply, Reply::Deleted(Ok(_))) == there.is_some());
                    assert!(matches!(&effects[..], [Effect::Closed(_)]) == there.is_some());
                    self.removed.extend(self.topics.remove(name).map(|topic| topic.id));
                }
                Step::Configure { alter, .. } => {
                    let expect = there.as_ref().and_then(|topic| alter.apply(&topic.config).ok());
                    let (reply, effects) = run.ask(Command::Configure { name: name.to_owned(), alter });
                    let Reply::Configured(configured) = reply else { panic!("{reply:?}") };
                    assert_eq!(configured.as_ref().ok().map(|topic| &topic.config), expect.as_ref());
                    let same = expect.is_none_or(|config| there.is_some_and(|topic| topic.config == config));
                    assert_eq!(effects.is_empty(), same, "what changes nothing has no effect");
                    if !same {
                        self.outcome(configured, &effects);
                    }
                }
                Step::AddPartitions { partitions, .. } => {
                    let (reply, effects) = run.ask(Command::AddPartitions { name: name.to_owned(), partitions });
                    let Reply::PartitionsAdded(grown) = reply else { panic!("{reply:?}") };
                    assert_eq!(grown.is_ok(), there.is_some_and(|topic| partitions > topic.partitions));
                    self.outcome(grown, &effects);
                }
                Step::Forgotten { every } => {
                    let ids: Vec<TopicId> = self.removed.iter().copied().step_by(every).collect();
                    let asked = ids.iter().copied().chain([TopicId([0xff; 16])]).collect();
                    run.ask(Command::Forgotten { ids: asked });
                    self.removed.retain(|id| !ids.contains(id));
                }
                Step::Start => {
                    let epoch = LeaderEpoch(run.topics.starts + 1);
                    let (reply, _) = run.ask(Command::Start { epoch });
                    let Reply::Started { topics, removed } = reply else { panic!("{reply:?}") };
                    assert!(topics.iter().eq(self.topics.values()));
                    assert_eq!(removed.len(), self.removed.len());
                    assert!(removed.iter().all(|id| self.removed.contains(id)));
                }
                Step::Rebuild { snapshot } => run.rebuild(snapshot),
            }
        }

        fn outcome(&mut self, topic: Result<Topic, Error>, effects: &[Effect]) {
            let Ok(topic) = topic else { return assert!(effects.is_empty()) };
            let [Effect::Opened(told) | Effect::Configured(told) | Effect::Grown(told)] = effects else {
                panic!("{effects:?}")
            };
            assert_eq!(*told, topic);
            self.topics.insert(topic.name.clone(), topic);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn topics_are_what_was_decided_however_they_are_rebuilt(steps in proptest::collection::vec(step(), 1..60)) {
            let (mut run, mut model) = (Run::default(), Model::default());
            for step in steps {
                let name = match &step {
                    Step::Create { name, .. } | Step::Delete { name } | Step::Configure { name, .. }
                    | Step::AddPartitions { name, .. } => format!("t{name}"),
                    _ => String::new(),
                };
                model.check(&mut run, &name, step);
                prop_assert_eq!(&run.topics.by_name, &model.topics);
                prop_assert!(run.topics.removed.keys().all(|id| model.removed.contains(id)));
                prop_assert_eq!(run.topics.removed.len(), model.removed.len());
            }
        }
    }

    #[test]
    fn a_topic_grows_within_the_limit_and_never_shrinks() {
        let topic = Topic { name: "t".to_owned(), id: TopicId([1; 16]), partitions: 3, config: TopicConfig::new() };
        for (partitions, good) in [(3, false), (2, false), (-1, false), (4, true), (10_000, true), (10_001, false)] {
            assert_eq!(check_growth(&topic, partitions).is_ok(), good, "{partitions}");
        }
        for used in [config::USED_BY, config::WRITER] {
            let topic = Topic { config: [(used.to_owned(), "table t".to_owned())].into(), ..topic.clone() };
            let refused = check_growth(&topic, 4);
            assert!(matches!(&refused, Err(Error::TopicInUse { user, .. }) if user == "table t"), "{refused:?}");
        }
    }
}
