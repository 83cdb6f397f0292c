//! Compacted partitions: of each key the last record stays, what is gone does not come back, and what is there is what was
//! there.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::actors::{Actor, called_in_log};
use super::history::{At, History, Log, is_tombstone, key_of};
use crate::support::broker::{Broker, OFFSET_OUT_OF_RANGE};

/// One reading of a partition, from its beginning to the end it then had.
#[derive(Clone, Debug)]
pub struct Pass {
    /// The first offset, asked for afterwards.
    pub start: i64,
    /// Everything below was looked at.
    pub end: i64,
    /// By offset, values as in [`super::history::Told`].
    pub records: Vec<(i64, Arc<str>)>,
    /// It took less than tombstones stay at the least, so that none can have gone behind what it deletes.
    pub quick: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Checked {
    pub passes: usize,
    /// Records that were there in one pass and not in the next.
    pub gone: usize,
    /// Keys whose last record was a tombstone, and is not there any more.
    pub deleted: usize,
}

impl AddAssign for Checked {
    fn add_assign(&mut self, other: Checked) {
        self.passes += other.passes;
        self.gone += other.gone;
        self.deleted += other.deleted;
    }
}

/// Each pass, and what is there at the end as the last one.
pub fn check(at: &At, history: &History, log: &Log) -> Result<Checked, String> {
    let last = Pass {
        start: log.start,
        end: log.end,
        records: log.records.iter().map(|(offset, value)| (*offset, Arc::from(value.as_str()))).collect(),
        quick: true,
    };
    let passes = history.passes.get(at).map_or(&[][..], Vec::as_slice);
    let mut checked = Checked::default();
    let mut told = Told::new(at, history);
    let mut before: Option<(i64, BTreeSet<i64>)> = None;
    for pass in passes.iter().chain([&last]) {
        let there = offsets_and_values_stay(at, pass, &mut told.values)?;
        if let Some((end, before)) = &before {
            if let Some(back) = there.range(..end).find(|offset| !before.contains(offset)) {
                return Err(format!("{at:?} has a record at {back} that had gone: {:?}", told.values[back]));
            }
            checked.gone += before.len() - there.range(..end).count();
        }
        checked.deleted = told.last_of_each_key_is_there(at, pass)?;
        checked.passes += 1;
        before = Some((pass.end, there));
    }
    Ok(checked)
}

/// No offset has a second value.
fn offsets_and_values_stay(
    at: &At,
    pass: &Pass,
    values: &mut BTreeMap<i64, Arc<str>>,
) -> Result<BTreeSet<i64>, String> {
    let mut there = BTreeSet::new();
    for (offset, value) in &pass.records {
        if there.last().is_some_and(|last| last >= offset) || *offset >= pass.end {
            return Err(format!("{at:?} gives {offset} out of order"));
        }
        there.insert(*offset);
        let was = values.entry(*offset).or_insert_with(|| Arc::clone(value));
        if was != value {
            return Err(format!("{at:?} has {value:?} at {offset}, where {was:?} was"));
        }
    }
    Ok(there)
}

/// What writers and readers were told, taken in as far as passes go.
struct Told {
    /// Everything anybody has seen.
    values: BTreeMap<i64, Arc<str>>,
    told: BTreeMap<i64, String>,
    /// The newest that is told of each key, below where the last pass ended.
    newest: BTreeMap<String, (i64, bool)>,
    end: i64,
}

impl Told {
    fn new(at: &At, history: &History) -> Told {
        let all = history.acknowledged.iter().chain(&history.read).filter(|told| told.at == *at);
        let told: BTreeMap<i64, String> = all.map(|told| (told.offset, told.value.clone())).collect();
        let values = told.iter().map(|(offset, value)| (*offset, Arc::from(value.as_str()))).collect();
        Told { values, told, newest: BTreeMap::new(), end: 0 }
    }

    /// Of each key the newest record that is told, or one behind it; a tombstone may be gone, with all that it deletes.
    /// Returns how many are.
    fn last_of_each_key_is_there(&mut self, at: &At, pass: &Pass) -> Result<usize, String> {
        for (offset, value) in self.told.range(self.end..pass.end.max(self.end)) {
            self.newest.insert(key_of(value).to_owned(), (*offset, is_tombstone(value)));
        }
        self.end = pass.end.max(self.end);
        let there: BTreeMap<&str, i64> = pass.records.iter().map(|(offset, value)| (key_of(value), *offset)).collect();
        let mut deleted = 0;
        for (key, (newest, tombstone)) in self.newest.iter().filter(|(_, (newest, _))| *newest >= pass.start) {
            match there.get(key.as_str()) {
                Some(offset) if offset >= newest => {}
                None if *tombstone => deleted += 1,
                Some(offset) if *tombstone && pass.quick => {
                    let value = &self.values[offset];
                    return Err(format!("{at:?} has {value:?} at {offset}, deleted by the tombstone at {newest}"));
                }
                Some(_) if *tombstone => {}
                there => {
                    let value = &self.told[newest];
                    return Err(format!("{at:?} has lost the last of {key:?}, {value:?} at {newest}: {there:?}"));
                }
            }
        }
        Ok(deleted)
    }
}

/// A pass is due when so many records have come since the last one.
const PASS_RECORDS: i64 = 700;
/// Half of what tombstones stay at the least.
const QUICK: Duration = Duration::from_millis(150);

/// What [`passes`] has of each partition.
#[derive(Default)]
pub struct Passes {
    pub done: BTreeMap<At, Vec<Pass>>,
    /// The values are the same in most passes.
    known: BTreeMap<At, BTreeMap<i64, Arc<str>>>,
}

/// Reads compacted partitions from their beginning to their end whenever some more has come.
pub fn passes(kafka: SocketAddr, partitions: Vec<At>) -> Actor<Passes> {
    let mut connection = None;
    Actor::start(Passes::default(), move |passes: &mut Passes| {
        let Some(broker) = connection.as_mut() else {
            connection = Broker::try_connect(kafka).ok();
            return connection.is_some();
        };
        let before: usize = passes.done.values().map(Vec::len).sum();
        let done = partitions.iter().try_for_each(|at| pass(broker, at, passes));
        if done.is_err() {
            connection = None;
        }
        done.is_ok() && passes.done.values().map(Vec::len).sum::<usize>() > before
    })
}

fn pass(broker: &mut Broker, at: &At, passes: &mut Passes) -> io::Result<()> {
    let error = |what: i16| panic!("{at:?}: error {what}");
    let done = passes.done.entry(at.clone()).or_default();
    let (start, end) = broker.bounds(&at.0, at.1)?.unwrap_or_else(error);
    if end < done.last().map_or(0, |pass| pass.end) + PASS_RECORDS {
        return Ok(());
    }
    let known = passes.known.entry(at.clone()).or_default();
    let (mut next, mut records, began) = (start, Vec::new(), Instant::now());
    loop {
        let part = match broker.read(&at.0, at.1, next)? {
            Ok(part) => part,
            // The next time.
            Err(OFFSET_OUT_OF_RANGE) => return Ok(()),
            Err(code) => panic!("{at:?}: error {code}"),
        };
        for record in part.records.iter().filter(|record| !record.control) {
            let value = called_in_log(record);
            let known = known.entry(record.offset).or_insert_with(|| Arc::from(value.as_str()));
            let value = if **known == *value { Arc::clone(known) } else { Arc::from(value) };
            records.push((record.offset, value));
        }
        next = part.next;
        if next >= part.high_watermark {
            break;
        }
    }
    let quick = began.elapsed() < QUICK;
    let start = broker.bounds(&at.0, at.1)?.unwrap_or_else(error).0;
    done.push(Pass { start, end: next, records, quick });
    Ok(())
}
