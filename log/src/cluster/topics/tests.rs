//! The topics against a simple model, and their journal as it was first written.

use proptest::prelude::*;

use super::*;
use crate::cluster::alter::{AlterConfigOp, AlterKind};
use crate::fixtures::TOPICS;
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
            let last = |at: usize, record: &NewRecord| journal[at + 1..].iter().all(|later| later.key != record.key);
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

fn view(offset: i64, key: &str, value: &str) -> RecordView {
    let bytes = |text: &str| Some(Bytes::copy_from_slice(text.as_bytes()));
    let (key, value, headers) = (bytes(key), bytes(value), Bytes::from_static(&[0]));
    RecordView { offset: Offset(offset), timestamp_ms: 0, key, value, headers }
}

fn topic(name: &str, first_byte: u8, partitions: i32, config: &[(&str, &str)]) -> Topic {
    let mut id = [0; 16];
    id.iter_mut().zip(first_byte..).for_each(|(byte, number)| *byte = number);
    let config = config.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Topic { name: name.to_owned(), id: TopicId(id), partitions, config }
}

#[test]
fn the_first_journal_is_read_for_ever_and_written_the_same_way() {
    let mut topics = Topics::default();
    for (offset, line) in TOPICS.lines().enumerate() {
        let (key, value) = line.split_once('\t').unwrap();
        topics.apply(&view(offset as i64, key, value)).unwrap();
    }
    let orders = topic("orders", 1, 3, &[("cleanup.policy", "compact"), ("retention.ms", "-1")]);
    let (old, gone, kept) = (topic("old", 33, 1, &[]), topic("gone", 65, 1, &[]), topic("kept", 97, 1, &[]));
    assert_eq!(topics.by_name, [("orders".to_owned(), orders.clone())].into());
    assert_eq!(topics.names(), [(orders.id, "orders".to_owned())].into());
    assert_eq!(topics.removed, [(old.id, "old".to_owned()), (kept.id, "kept".to_owned())].into());
    assert_eq!((topics.starts, topics.producer_id_next), (5, 3_000));

    let id = |topic: &Topic| topic.id;
    let removed = |topic: &Topic| removed_record(&topic.name, topic.id);
    let forgotten = record(&key(id(&gone)), &TopicRecord::TopicForgotten { id: id(&gone) });
    let first = record(&key(id(&old)), &TopicRecord::TopicRemoved { name: "old".to_owned(), id: None });
    let started = record("started", &TopicRecord::Started { epoch: LeaderEpoch(5) });
    let ids = record("producer ids", &TopicRecord::ProducerIds { next: 3_000 });
    let created = topic_record;
    let written = [
        created(&orders),
        created(&old),
        first,
        created(&gone),
        removed(&gone),
        forgotten,
        created(&kept),
        removed(&kept),
        started,
        ids,
    ];
    let text = |bytes: Option<Bytes>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
    for (record, line) in written.into_iter().zip(TOPICS.lines()) {
        let line_now = format!("{}\t{}", text(record.key), text(record.value));
        // The first logs did not say whose the name was.
        assert_eq!(line_now.replace(",\"id\":null", ""), line);
    }
}

#[test]
fn what_nobody_can_have_decided_is_told_with_its_offset() {
    let id = |first: u8| format!("{:?}", topic("", first, 1, &[]).id.0);
    let topic = |name: &str, id: &str, partitions: i64, config: &str| {
        format!(r#"{{"type":"topic","name":"{name}","id":{id},"partitions":{partitions},"config":{{{config}}}}}"#)
    };
    let reserved = format!("{:?}", u128::to_be_bytes(1));
    let cases = [
        (topic("a", &id(1), 0, ""), "with 0 partitions"),
        (topic("a", &id(1), 10_001, ""), "with 10001 partitions"),
        (topic("a", &id(1), i64::MAX, ""), "i32"),
        (topic("a/b", &id(1), 1, ""), "only letters"),
        (topic("a", &reserved, 1, ""), "which is another's"),
        (topic("a", &id(9), 1, ""), "which is another's"),
        (topic("a", &id(1), 1, r#""retention.ms":"x""#), "retention.ms"),
        (topic("a", &id(1), 1, r#""min.cleanable.dirty.ratio":"7""#), "min.cleanable.dirty.ratio"),
        (topic("a", &id(1), 1, r#""no.such":"7""#), "no.such"),
        (topic("gone", &id(33), 1, ""), "still to be removed"),
        (format!(r#"{{"type":"topic_removed","name":"a","id":{}}}"#, id(9)), "another's id"),
        (r#"{"type":"started","epoch":-1}"#.to_owned(), "epoch"),
        (r#"{"type":"started","epoch":2147483648}"#.to_owned(), "i32"),
        (r#"{"type":"producer_ids","next":-1}"#.to_owned(), "producer ids"),
        (r#"{"type":"producer_ids","next":9223372036854775807}"#.to_owned(), "producer ids"),
        (r#"{"type":"dreamt"}"#.to_owned(), "dreamt"),
        (format!("{{\"type\":{}", "[".repeat(10_000)), "invalid type"),
    ];
    let mut topics = Topics::default();
    topics.apply(&view(4, "", &topic("gone", &id(33), 1, ""))).unwrap();
    topics.apply(&view(5, "", r#"{"type":"topic_removed","name":"gone"}"#)).unwrap();
    topics.apply(&view(6, "", &topic("other", &id(9), 1, ""))).unwrap();
    for (value, why) in cases {
        match topics.apply(&view(7, "", &value)) {
            Err(Error::Corrupt { place, detail }) => {
                assert_eq!(place, "the topics' journal at offset 7");
                assert!(detail.contains(why), "{value}: {detail}");
            }
            other => panic!("{value}: {other:?}"),
        }
    }
    // A name that is free again may have another id, and an id of which nothing is left another name.
    topics.apply(&view(8, "", r#"{"type":"topic_removed","name":"other"}"#)).unwrap();
    let forgotten = format!(r#"{{"type":"topic_forgotten","id":{}}}"#, id(9));
    topics.apply(&view(8, "", &forgotten)).unwrap();
    topics.apply(&view(9, "", &topic("another", &id(9), 1, ""))).unwrap();
    topics.apply(&view(10, "", &topic("another", &id(17), 1, ""))).unwrap();
    topics.apply(&view(11, "", &topic("other", &id(9), 1, ""))).unwrap();
}

#[test]
fn a_start_that_does_not_raise_the_epoch_is_none() {
    let mut topics = Topics::default();
    topics.apply(&view(0, "", r#"{"type":"started","epoch":5}"#)).unwrap();
    for (epoch, raised) in [(4, false), (5, false), (6, true)] {
        let (reply, decision) = topics.decide(0, Command::Start { epoch: LeaderEpoch(epoch) });
        assert_eq!(matches!(reply, Reply::Started { .. }), raised, "{reply:?}");
        assert_eq!(matches!(reply, Reply::NotRaised(LeaderEpoch(5))), !raised, "{reply:?}");
        assert_eq!(decision.records.is_empty(), !raised);
    }
}
