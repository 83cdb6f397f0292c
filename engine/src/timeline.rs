//! The timeline: the durable sequence of epochs in the topic `__riverrun_timeline`, one partition, kept for ever.
//!
//! ```text
//! key    epoch, decimal digits
//! value  {"epoch":17,"now_us":1764000000000000,"full":false,"cut":[["<topic id, 32 hex digits>",0,4711],…]}
//! ```
//!
//! `cut` lists the partitions whose end differs from the epoch before; with `"full":true` all of them, so that a reader
//! may begin there. Epochs follow on by one; cuts and `now_us` never go back.
//!
//! Epoch `n + 1` is recorded only when epoch `n` is in the log and every job has committed it or had nothing to commit:
//! recovery relies on it.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::time::Epoch;

/// The topic of the timeline.
pub const TOPIC: &str = "__riverrun_timeline";

/// Every so many epochs a record is full.
const FULL_EVERY: u64 = 1024;

#[derive(Serialize, Deserialize)]
struct Value {
    epoch: u64,
    now_us: i64,
    full: bool,
    cut: Vec<(String, i32, i64)>,
}

/// Why a record of the timeline cannot follow the ones before.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("not a timeline record")]
    Malformed(#[from] serde_json::Error),
    #[error("topic id {0:?} is not 32 hex digits")]
    TopicId(String),
    #[error("epoch {found} does not follow epoch {newest}")]
    Gap { newest: u64, found: u64 },
}

/// The newest epoch, and how the next one is written down.
#[derive(Clone, Debug)]
pub struct Timeline {
    newest: Epoch,
    /// Records written since the start: the first one is full.
    written: u64,
}

impl Default for Timeline {
    fn default() -> Self {
        Self { newest: Epoch { number: 0, cut: Arc::new(log::Cut::default()), now_us: 0 }, written: 0 }
    }
}

impl Timeline {
    pub fn newest(&self) -> &Epoch {
        &self.newest
    }

    /// Follows a stored record. What came before the first one is not looked at when that one is full.
    pub fn apply(&mut self, value: &[u8]) -> Result<&Epoch, Error> {
        let value: Value = serde_json::from_slice(value)?;
        let newest = self.newest.number;
        if value.epoch != newest + 1 && !(value.full && newest == 0) {
            return Err(Error::Gap { newest, found: value.epoch });
        }
        let cut = Arc::make_mut(&mut self.newest.cut);
        if value.full {
            cut.0.clear();
        }
        for (topic, partition, end) in value.cut {
            let topic = log::TopicId(from_hex(&topic).ok_or(Error::TopicId(topic))?);
            cut.0.insert(log::TopicPartition { topic, partition }, log::Offset(end));
        }
        (self.newest.number, self.newest.now_us) = (value.epoch, value.now_us);
        Ok(&self.newest)
    }

    /// The next epoch and the value of its record. `now_us` is moved up to the newest epoch's where a clock went back.
    pub fn next(&mut self, cut: log::Cut, now_us: i64) -> (Epoch, String) {
        let number = self.newest.number + 1;
        let full = self.written == 0 || number.is_multiple_of(FULL_EVERY);
        let before = &self.newest.cut.0;
        let changed = cut.0.iter().filter(|(partition, end)| full || before.get(partition) != Some(end));
        let listed = changed.map(|(at, end)| (hex(&at.topic.0), at.partition, end.0)).collect();
        // A partition that has gone can only be told by a full record.
        let gone = before.keys().any(|partition| !cut.0.contains_key(partition));
        if gone && !full {
            self.written = 0;
            return self.next(cut, now_us);
        }
        let now_us = now_us.max(self.newest.now_us);
        let value = Value { epoch: number, now_us, full, cut: listed };
        let value = serde_json::to_string(&value).expect("numbers and strings are JSON");
        self.written += 1;
        self.newest = Epoch { number, cut: Arc::new(cut), now_us };
        (self.newest.clone(), value)
    }
}

/// The record of an epoch.
pub fn record(epoch: u64, value: String) -> log::NewRecord {
    log::NewRecord {
        key: Some(Bytes::from(epoch.to_string())),
        value: Some(Bytes::from(value)),
        ..log::NewRecord::default()
    }
}

/// Whether `to` is a step from `from`: something moved and nothing went back. A partition that is new counts as moved
/// when it has records.
pub fn moved(from: &log::Cut, to: &log::Cut) -> Option<bool> {
    let mut any = false;
    for (partition, end) in &to.0 {
        let before = from.0.get(partition).copied().unwrap_or_default();
        if *end < before {
            return None;
        }
        any |= *end > before;
    }
    Some(any)
}

/// 32 lower-case hex digits.
pub fn hex(bytes: &[u8; 16]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What [`hex`] has written.
pub fn from_hex(text: &str) -> Option<[u8; 16]> {
    let digits = text.as_bytes();
    let mut bytes = [0; 16];
    if digits.len() != 32 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: u8| char::from(at).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).expect("two hex digits are a byte");
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(ends: &[(u8, i64)]) -> log::Cut {
        let partition = |topic: u8| log::TopicPartition { topic: log::TopicId([topic; 16]), partition: 0 };
        log::Cut(ends.iter().map(|(topic, end)| (partition(*topic), log::Offset(*end))).collect())
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let mut writer = Timeline::default();
        let mut reader = Timeline::default();
        let cuts = [cut(&[(1, 5)]), cut(&[(1, 5), (0xfe, 9)]), cut(&[(1, 8), (0xfe, 9)]), cut(&[(0xfe, 10)])];
        for (at, cut) in cuts.into_iter().enumerate() {
            let now_us = [10, 7, 11, 12][at];
            let (epoch, record) = writer.next(cut, now_us);
            assert_eq!(reader.apply(record.as_bytes()).unwrap(), &epoch);
            assert_eq!(epoch.now_us, [10, 10, 11, 12][at], "now never goes back");
        }
    }

    #[test]
    fn a_gap_is_refused() {
        let mut writer = Timeline::default();
        writer.next(cut(&[(1, 1)]), 1);
        writer.next(cut(&[(1, 2)]), 2);
        let (_, third) = writer.next(cut(&[(1, 3)]), 3);
        let error = Timeline::default().apply(third.as_bytes()).unwrap_err();
        assert!(matches!(error, Error::Gap { newest: 0, found: 3 }));
    }

    #[test]
    fn a_cut_that_goes_back_is_no_step() {
        assert_eq!(moved(&cut(&[(1, 5)]), &cut(&[(1, 4), (2, 9)])), None);
        assert_eq!(moved(&cut(&[(1, 5)]), &cut(&[(1, 5), (2, 0)])), Some(false));
        assert_eq!(moved(&cut(&[(1, 5)]), &cut(&[(1, 6)])), Some(true));
    }
}
