//! The recorded timeline, read from its topic as any Kafka client may, and what its cuts promise: every log transaction
//! wholly or not at all.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;

use crate::support::broker::{Broker, Record, Topic};

/// Records `{"epoch":17,"now_us":…,"full":false,"cut":[["<topic id>",0,4711],…]}`: a cut lists what has changed, or all
/// when it is full.
const TOPIC: &str = "__riverrun_timeline";

#[derive(Clone, Debug)]
pub struct Epoch {
    pub number: u64,
    pub cut: Cut,
}

/// Ends of partitions by topic id and partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cut(pub BTreeMap<(String, i32), i64>);

impl Cut {
    /// Where the partition ends; nothing of one that is not listed belongs to the cut.
    pub fn end(&self, topic: &Topic, partition: i32) -> i64 {
        self.0.get(&(topic.id.clone(), partition)).copied().unwrap_or(0)
    }

    pub fn holds(&self, topic: &Topic, record: &Record) -> bool {
        record.offset < self.end(topic, record.partition)
    }
}

/// Number of the newest epoch, 0 before the first.
pub fn newest(kafka: SocketAddr) -> u64 {
    read(&mut Broker::connect(kafka)).last().map_or(0, |epoch| epoch.number)
}

/// All epochs. They follow on by one, and neither cuts nor `now` go back.
pub fn read(broker: &mut Broker) -> Vec<Epoch> {
    let mut epochs: Vec<Epoch> = Vec::new();
    let mut now_us = i64::MIN;
    for record in broker.topic(TOPIC).records {
        let value = record.json().expect("a value");
        let before = epochs.last().map(|epoch| epoch.cut.clone()).unwrap_or_default();
        let mut cut = if value["full"] == Value::Bool(true) { Cut::default() } else { before.clone() };
        for entry in value["cut"].as_array().expect("a cut") {
            let topic = entry[0].as_str().expect("a topic id").to_owned();
            let partition = i32::try_from(entry[1].as_i64().expect("a partition")).expect("small");
            cut.0.insert((topic, partition), entry[2].as_i64().expect("an offset"));
        }
        let number = value["epoch"].as_u64().expect("a number");
        assert_eq!(record.key.as_deref(), Some(&*number.to_string()), "the key is the epoch");
        assert_eq!(number, epochs.last().map_or(0, |epoch| epoch.number) + 1, "epochs follow on");
        for (partition, end) in &before.0 {
            assert!(cut.0.get(partition).is_some_and(|now| now >= end), "epoch {number}: {partition:?} goes back");
        }
        let now = value["now_us"].as_i64().expect("a time");
        assert!(now >= now_us, "epoch {number}: now goes back from {now_us} to {now}");
        now_us = now;
        epochs.push(Epoch { number, cut });
    }
    epochs
}

/// What [`check_whole`] has looked at.
#[derive(Debug, Default)]
pub struct Whole {
    pub transactions: usize,
    /// Those with records in several partitions.
    pub spread: usize,
}

/// Every cut holds every log transaction wholly, its control record included, or nothing of it. `id` names the
/// transaction that a record tells of itself, so that the parts in several partitions are seen together.
pub fn check_whole(
    epochs: &[Epoch],
    topics: &[&Topic],
    id: impl Fn(&Record) -> Option<String>,
) -> Result<Whole, String> {
    let mut parts: BTreeMap<String, Vec<(&Topic, &Record)>> = BTreeMap::new();
    let mut whole = Whole::default();
    for topic in topics {
        for record in &topic.records {
            if let Some(id) = id(record) {
                parts.entry(id).or_default().push((topic, record));
            }
        }
        for transaction in &topic.transactions {
            for epoch in epochs {
                let end = epoch.cut.end(topic, transaction.partition);
                if transaction.first < end && end <= transaction.marker {
                    return Err(format!(
                        "epoch {} ends at {end} of {}, within {transaction:?}",
                        epoch.number, topic.name
                    ));
                }
            }
        }
    }
    for (id, records) in &parts {
        for epoch in epochs {
            let inside = records.iter().filter(|(topic, record)| epoch.cut.holds(topic, record)).count();
            if inside != 0 && inside != records.len() {
                let (number, all) = (epoch.number, records.len());
                return Err(format!("epoch {number} holds {inside} of the {all} records of transaction {id}"));
            }
        }
        let place = |(topic, record): &(&Topic, &Record)| (topic.id.clone(), record.partition);
        whole.spread += usize::from(records.iter().any(|part| place(part) != place(&records[0])));
    }
    whole.transactions = parts.len();
    Ok(whole)
}
