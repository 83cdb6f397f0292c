//! [`History`]: what clients were told while the program was killed again and again, and [`check`]: whether the log that
//! is there at the end can be the one they were told of.

use std::collections::{BTreeMap, BTreeSet};

/// A topic and a partition.
pub type At = (String, i32);

/// What may be missing at the end although it was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    Everything,
    /// Everything from the first offset on: retention and deletion of records take from the front.
    FromTheStart,
}

/// A record as a client was told of it. Values are unlike each other in all of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub at: At,
    pub offset: i64,
    pub value: String,
}

#[derive(Clone, Debug, Default)]
pub struct History {
    /// What writers have tried to write, in their order, whether anybody was told or not.
    pub tried: BTreeMap<At, Vec<String>>,
    /// What writers were told is there.
    pub acknowledged: Vec<Told>,
    /// What readers were given.
    pub read: Vec<Told>,
    /// First offset and end of a partition, as they were asked for one after the other.
    pub bounds: BTreeMap<At, Vec<(i64, i64)>>,
    /// Values written in one transaction, and whether its writer was told that it is committed.
    pub transactions: Vec<(Vec<String>, bool)>,
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
}

/// Offset identity, no loss, no phantom, no duplicate, order, monotone bounds, whole transactions.
pub fn check(history: &History, logs: &Logs, kept: impl Fn(&str) -> Kept) -> Result<Checked, String> {
    let mut checked = Checked { bounds: bounds_only_grow(history, logs)?, ..Checked::default() };
    for (at, log) in logs {
        if kept(&at.0) == Kept::Everything && log.start != 0 {
            return Err(format!("{at:?} starts at {}", log.start));
        }
        checked.records += nothing_else_is_there(at, log, history.tried.get(at).map_or(&[], Vec::as_slice))?;
    }
    for (what, all) in [("acknowledged", &history.acknowledged), ("read", &history.read)] {
        for told in all {
            stands_where_it_was(what, told, logs)?;
        }
    }
    checked.acknowledged = history.acknowledged.len();
    checked.read = history.read.len();
    let values: BTreeSet<&String> = logs.values().flat_map(|log| log.records.values()).collect();
    for (written, committed) in &history.transactions {
        let there = written.iter().filter(|value| values.contains(value)).count();
        if there != written.len() && (there > 0 || *committed) {
            return Err(format!("a transaction (committed: {committed}) has {there} of its records: {written:?}"));
        }
    }
    checked.transactions = history.transactions.len();
    Ok(checked)
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

fn stands_where_it_was(what: &str, told: &Told, logs: &Logs) -> Result<(), String> {
    let Told { at, offset, value } = told;
    let log = logs.get(at).ok_or_else(|| format!("{at:?} is gone"))?;
    if *offset < log.start {
        return Ok(());
    }
    match log.records.get(offset) {
        Some(there) if there == value => Ok(()),
        Some(there) => Err(format!("{at:?} has {there:?} at {offset}, {what} was {value:?}")),
        None => Err(format!("{at:?} has lost what was {what} at {offset}: {value:?}")),
    }
}

type Damage<'a> = &'a dyn Fn(&mut Log);

/// Each way in which a log can be wrong is found: what [`check`] says of a sound one, it must not say of these.
pub fn check_that_damage_is_seen(history: &History, logs: &Logs, kept: impl Fn(&str) -> Kept) {
    let told =
        history.acknowledged.iter().rfind(|told| told.offset > logs[&told.at].start).expect("an acknowledgement");
    let record = |logs: &mut Logs, change: Damage<'_>| change(logs.get_mut(&told.at).expect("its partition"));
    let lose = |log: &mut Log| drop(log.records.remove(&told.offset));
    let cut = |log: &mut Log| {
        log.records.split_off(&told.offset);
        log.end = told.offset;
    };
    let alter = |log: &mut Log| drop(log.records.insert(told.offset, format!("{}!", told.value)));
    let double = |log: &mut Log| {
        log.records.insert(log.end, told.value.clone());
        log.end += 1;
    };
    let swap = |log: &mut Log| {
        let (at, value) =
            log.records.range(..told.offset).next_back().map(|(at, v)| (*at, v.clone())).expect("another");
        let was = log.records.insert(told.offset, value).expect("the record");
        log.records.insert(at, was);
    };
    let shift = |log: &mut Log| {
        log.records = std::mem::take(&mut log.records).into_iter().map(|(at, value)| (at + 1, value)).collect();
        log.end += 1;
    };
    let damages: [(&str, Damage<'_>); 6] = [
        ("lost", &lose),
        ("cut off", &cut),
        ("altered", &alter),
        ("doubled", &double),
        ("swapped", &swap),
        ("shifted", &shift),
    ];
    for (name, damage) in damages {
        let mut damaged = logs.clone();
        record(&mut damaged, damage);
        assert!(check(history, &damaged, &kept).is_err(), "a record that is {name} is as good");
    }
    let mut torn = history.clone();
    let whole = torn.transactions.iter_mut().find(|(_, committed)| *committed).expect("a transaction");
    whole.0.push("never written".to_owned());
    assert!(check(&torn, logs, &kept).is_err(), "a torn transaction is as good");
    let mut back = history.clone();
    back.bounds.get_mut(&told.at).expect("bounds").push((0, i64::MAX));
    assert!(check(&back, logs, &kept).is_err(), "an end that goes back is as good");
}
