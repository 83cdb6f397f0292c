//! [`History`]: what clients were told while the program was killed again and again, and [`check`]: whether the log that
//! is there at the end can be the one they were told of.

use std::collections::{BTreeMap, BTreeSet};

use super::compacted::{self, Pass};
use super::deletions::{self, Deletion};
use super::lives::{self, Life};

/// A topic and a partition.
pub type At = (String, i32);

/// What may be missing at the end although it was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    Everything,
    /// Everything from the first offset on: retention takes from the front.
    FromTheStart,
    /// The same, and only as far as somebody has asked for: records are deleted by request alone.
    FromWhereAsked,
    /// The last record of each key, a tombstone for a while. Values name their key, see [`key_of`].
    LastOfEachKey {
        /// Retention and requests take from the front besides.
        trimmed: bool,
    },
}

/// A record as a client was told of it. Values, see [`brief`], are unlike each other in all of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub at: At,
    pub offset: i64,
    pub value: String,
}

/// Rows written in one log transaction.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// To topics that keep everything.
    pub values: Vec<String>,
    /// To a compacted one.
    pub row: Option<String>,
    /// Whether its writer was told so.
    pub committed: bool,
}

#[derive(Clone, Debug, Default)]
pub struct History {
    /// What writers have tried to write, in their order, whether anybody was told or not.
    pub tried: BTreeMap<At, Vec<String>>,
    /// What writers were told is there.
    pub acknowledged: Vec<Told>,
    /// What readers were given.
    pub read: Vec<Told>,
    /// First offset and end of a partition, as somebody asked for them, one after the other.
    pub bounds: Vec<(At, Vec<(i64, i64)>)>,
    pub transactions: Vec<Transaction>,
    /// What was deleted of a partition by request, in order.
    pub deletions: Vec<Deletion>,
    /// Readings of compacted partitions from their beginning to their end, in order.
    pub passes: BTreeMap<At, Vec<Pass>>,
    /// Topics that were deleted and created again, in order.
    pub lives: Vec<Life>,
}

/// A partition as it is at the end.
#[derive(Clone, Debug, Default)]
pub struct Log {
    pub start: i64,
    pub end: i64,
    /// By offset, control records left out.
    pub records: BTreeMap<i64, String>,
}

pub type Logs = BTreeMap<At, Log>;

/// What [`check`] has looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Checked {
    pub records: usize,
    pub acknowledged: usize,
    pub read: usize,
    pub bounds: usize,
    pub transactions: usize,
    pub deletions: usize,
    pub compacted: compacted::Checked,
    pub lives: lives::Checked,
}

/// Offset identity, no loss, no phantom, no duplicate, order, monotone bounds, whole transactions; of compacted topics
/// that the last of each key stays and nothing comes back; of deleted records and topics that they are gone.
pub fn check(history: &History, logs: &Logs, kept: impl Fn(&str) -> Kept) -> Result<Checked, String> {
    let mut checked = Checked { bounds: bounds_only_grow(history, logs)?, ..Checked::default() };
    for (at, log) in logs {
        let kept = kept(&at.0);
        if matches!(kept, Kept::Everything | Kept::LastOfEachKey { trimmed: false }) && log.start != 0 {
            return Err(format!("{at:?} starts at {}", log.start));
        }
        checked.records += nothing_else_is_there(at, log, history.tried.get(at).map_or(&[], Vec::as_slice))?;
        if matches!(kept, Kept::LastOfEachKey { .. }) {
            checked.compacted += compacted::check(at, history, log)?;
        }
    }
    for (what, all) in [("acknowledged", &history.acknowledged), ("read", &history.read)] {
        for told in all {
            let superseded = matches!(kept(&told.at.0), Kept::LastOfEachKey { .. });
            stands_where_it_was(what, told, logs, superseded)?;
        }
    }
    checked.acknowledged = history.acknowledged.len();
    checked.read = history.read.len();
    checked.transactions = transactions_are_whole(history, logs)?;
    checked.deletions = deletions::check(&history.deletions, logs, kept)?;
    checked.lives = lives::check(&history.lives)?;
    Ok(checked)
}

/// What a value is called here: the `x` at its end are counted, so that a long history fits into memory.
pub fn brief(value: &str) -> String {
    match value.rsplit_once('.') {
        Some((head, rest)) if rest.bytes().all(|byte| byte == b'x') => format!("{head}.x{}", rest.len()),
        _ => value.to_owned(),
    }
}

/// The third part of a value, its writer and its number being the first ones.
pub fn key_of(value: &str) -> &str {
    value.split('.').nth(2).unwrap_or_default()
}

/// How a record without a value is called here.
pub fn is_tombstone(value: &str) -> bool {
    value.ends_with(".-")
}

fn bounds_only_grow(history: &History, logs: &Logs) -> Result<usize, String> {
    let mut seen = 0;
    for (at, bounds) in &history.bounds {
        let end = logs.get(at).map(|log| (log.start, log.end));
        let (mut start, mut high) = (0, 0);
        for (now_start, now_high) in bounds.iter().copied().chain(end) {
            if now_start < start || now_high < high || now_start > now_high {
                return Err(format!("{at:?} went from {start}..{high} to {now_start}..{now_high}"));
            }
            (start, high) = (now_start, now_high);
            seen += 1;
        }
    }
    Ok(seen)
}

/// Every record was written by somebody, once, and each writer's in its order.
fn nothing_else_is_there(at: &At, log: &Log, tried: &[String]) -> Result<usize, String> {
    let order: BTreeMap<&String, usize> = tried.iter().enumerate().map(|(n, value)| (value, n)).collect();
    let mut last: BTreeMap<&str, usize> = BTreeMap::new();
    for (offset, value) in &log.records {
        if *offset < log.start || *offset >= log.end {
            return Err(format!("{at:?} has a record at {offset}, outside of {}..{}", log.start, log.end));
        }
        let Some(place) = order.get(value) else {
            return Err(format!("{at:?} has a phantom at {offset}: {value:?}"));
        };
        let before = last.insert(writer_of(value), *place);
        if before.is_some_and(|before| before >= *place) {
            return Err(format!("{at:?} has at {offset} again, or too late: {value:?}"));
        }
    }
    Ok(log.records.len())
}

/// Values begin with the name of their writer.
fn writer_of(value: &str) -> &str {
    value.split('.').next().unwrap_or(value)
}

/// Nothing else ever stands there; where compaction works, nothing may.
fn stands_where_it_was(what: &str, told: &Told, logs: &Logs, superseded: bool) -> Result<(), String> {
    let Told { at, offset, value } = told;
    let log = logs.get(at).ok_or_else(|| format!("{at:?} is gone"))?;
    if *offset < log.start {
        return Ok(());
    }
    match log.records.get(offset) {
        Some(there) if there == value => Ok(()),
        Some(there) => Err(format!("{at:?} has {there:?} at {offset}, {what} was {value:?}")),
        None if superseded => Ok(()),
        None => Err(format!("{at:?} has lost what was {what} at {offset}: {value:?}")),
    }
}

/// All of its rows are there or none, and all when its writer was told so; in the compacted topic the last row of each key
/// is, or a later one.
fn transactions_are_whole(history: &History, logs: &Logs) -> Result<usize, String> {
    let values: BTreeSet<&String> = logs.values().flat_map(|log| log.records.values()).collect();
    // Of each key: the newest row that must be there, and the newest that is.
    let mut rows: BTreeMap<&str, (Option<usize>, Option<usize>)> = BTreeMap::new();
    for (n, Transaction { values: written, row, committed }) in history.transactions.iter().enumerate() {
        let there = written.iter().filter(|value| values.contains(value)).count();
        if there != written.len() && (there > 0 || *committed) {
            return Err(format!("a transaction (committed: {committed}) has {there} of its records: {written:?}"));
        }
        let Some(row) = row else { continue };
        let (must, is) = rows.entry(key_of(row)).or_default();
        *must = (there > 0).then_some(n).or(*must);
        *is = values.contains(row).then_some(n).or(*is);
    }
    match rows.iter().find(|(_, (must, is))| must != is) {
        Some((key, (must, is))) => {
            let row = |n: &Option<usize>| n.and_then(|n| history.transactions[n].row.as_ref());
            Err(format!("the last row of {key:?} is {:?} and not {:?}", row(is), row(must)))
        }
        None => Ok(history.transactions.len()),
    }
}
