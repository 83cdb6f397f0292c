//! What fuzzers call of the readers above the store, and what all of them begin with.

use bytes::Bytes;

use super::format::Format;
use crate::cluster::topics::{Command, Topics};
use crate::fixtures::{BATCHES, CHECKPOINT, DIRECTORY, FORMAT, TOPICS, TRANSACTIONS, WAL, section, sections};
use crate::machine::Machine;
use crate::record::{LeaderEpoch, Offset, RecordView};
use crate::store::config::PartitionConfig;
use crate::txn::format::{TransactionState, decode_key, encode_key};
use crate::txn::states::{self, States};

fn view(key: &[u8], value: Option<&[u8]>) -> RecordView {
    let (key, value) = (Some(Bytes::copy_from_slice(key)), value.map(Bytes::copy_from_slice));
    RecordView { offset: Offset(7), timestamp_ms: 0, key, value, headers: Bytes::from_static(&[0]) }
}

/// Records of the topics' journal, a line each: whatever they say, a start can go on from it.
pub fn topics(data: &[u8]) {
    let mut topics = Topics::default();
    for line in data.split(|byte| *byte == b'\n') {
        let value = line.iter().position(|byte| *byte == b'\t').map_or(line, |tab| &line[tab + 1..]);
        if topics.apply(&view(b"", Some(value))).is_err() {
            return;
        }
    }
    let mut again = Topics::default();
    for record in topics.snapshot() {
        again.apply(&view(b"", record.value.as_deref())).expect("what was read can be written and read");
    }
    assert_eq!(again.names(), topics.names());
    assert_eq!(again.snapshot().len(), topics.snapshot().len());
    for command in [Command::Start { epoch: LeaderEpoch(i32::MAX) }, Command::ProducerIds] {
        let (reply, _) = topics.decide(0, command);
        if let crate::cluster::topics::Reply::Started { topics, .. } = reply {
            topics.iter().for_each(|topic| assert!(PartitionConfig::of(&topic.config).segment_ms > 0));
        }
    }
}

/// The key of a transaction's state behind its length of one byte, and the value.
pub fn transactions(data: &[u8]) {
    let (len, rest) = data.split_first().unwrap_or((&0, &[]));
    let (key, value) = rest.split_at(usize::from(*len).min(rest.len()));
    if let Some(id) = decode_key(key) {
        assert_eq!(encode_key(&id), key);
    }
    if let Some(state) = TransactionState::decode(value) {
        assert_eq!(TransactionState::decode(&state.encode()), Some(state));
    }
    let mut states = States::default();
    if states.apply(&view(key, Some(value))).is_err() {
        return;
    }
    let id = decode_key(key).expect("it was applied");
    for command in states.incomplete().into_iter().chain([states::Command::Grant { id, fresh: 1 }]) {
        let (reply, decision) = states.decide(0, command);
        let granted = reply.expect("nobody is fenced");
        assert!(granted.producer_id >= 0 && granted.epoch >= 0, "{granted:?}");
        for record in decision.records {
            let (key, value) = (record.key.expect("it has one"), record.value);
            states.apply(&view(&key, value.as_deref())).expect("what was decided can be applied");
        }
    }
}

/// The data directory's `format` file.
pub fn format(data: &[u8]) {
    if let Ok(format) = Format::decode(data) {
        assert_eq!(Format::decode(&format.encode()), Ok(format));
    }
}

/// A name, and what is called with any bytes.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: &[Target] = &[
    ("batch", crate::store::fuzzing::batch),
    ("checkpoint", crate::store::fuzzing::checkpoint),
    ("format", format),
    ("index", crate::store::fuzzing::index),
    ("segment", crate::store::fuzzing::segment),
    ("snapshot", crate::store::fuzzing::snapshot),
    ("topics", topics),
    ("transactions", transactions),
    ("wal", crate::store::fuzzing::wal),
];

/// What a fuzzer begins with: the fixtures of its formats.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    let of = |text: &str| sections(text).into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>();
    let directory = |end: &str| {
        let files = sections(DIRECTORY).into_iter().filter(|(path, _)| path.contains(end));
        files.map(|(_, bytes)| bytes).collect::<Vec<_>>()
    };
    let behind_length = |bytes: &[u8], rest: &[u8]| [&(bytes.len() as u16).to_le_bytes()[..], bytes, rest].concat();
    match target {
        "batch" => [of(BATCHES), directory(".log")].concat(),
        "checkpoint" => [of(CHECKPOINT), directory("checkpoint-0")].concat(),
        "format" => vec![FORMAT.as_bytes().to_vec()],
        "index" => ["0.index", ".timeindex", ".txnindex"].map(directory).concat(),
        "segment" => {
            let logs = sections(DIRECTORY).into_iter().filter(|(path, _)| path.ends_with(".log"));
            let beside = |path: &str, end: &str| {
                let wanted = path.replace(".log", end);
                let found = sections(DIRECTORY).into_iter().find(|(path, _)| *path == wanted);
                found.map_or_else(Vec::new, |(_, bytes)| bytes)
            };
            let all = logs.map(|(path, log)| {
                behind_length(&log, &behind_length(&beside(&path, ".index"), &beside(&path, ".timeindex")))
            });
            all.collect()
        }
        "snapshot" => [".snapshot", "leader-epoch", ".metadata"].map(directory).concat(),
        "topics" => TOPICS.lines().map(|line| line.as_bytes().to_vec()).chain([TOPICS.as_bytes().to_vec()]).collect(),
        "transactions" => ["prepared", "complete"]
            .map(|value| [&[9][..], &section(TRANSACTIONS, "key"), &section(TRANSACTIONS, value)].concat())
            .to_vec(),
        "wal" => {
            let files = directory(".wal");
            let pairs = files.windows(2).map(|two| behind_length(&two[0], &two[1]));
            pairs.chain([behind_length(&section(WAL, "0000000007.wal"), &[])]).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So that what a fuzzer calls works when somebody fuzzes.
    #[test]
    fn every_target_has_seeds_and_gets_through_them() {
        for (name, target) in TARGETS {
            let seeds = seeds(name);
            assert!(!seeds.is_empty(), "{name}");
            for seed in seeds {
                target(&seed);
                (0..seed.len()).step_by(7).for_each(|end| target(&seed[..end]));
                for at in (0..seed.len()).step_by(13) {
                    let mut changed = seed.clone();
                    changed[at] ^= 0x81;
                    target(&changed);
                }
            }
        }
    }
}
