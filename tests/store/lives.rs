//! What became of topics that were deleted and created again under the same name, over kills: nothing of the old one shows
//! in the new one, and what is deleted stays so. [`super::recreate`] does it and keeps this record.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One life of a topic with one partition, from its creation to the time behind its deletion.
#[derive(Clone, Debug, Default)]
pub struct Life {
    pub name: String,
    /// Of the topic, asked for when it was created.
    pub id: String,
    /// First offset and end when it was created.
    pub began: Option<(i64, i64)>,
    /// What was to be written, in order.
    pub tried: Vec<Arc<str>>,
    /// By offset.
    pub acknowledged: BTreeMap<i64, Arc<str>>,
    pub seen: Vec<Seen>,
    /// The program has said that it is deleted; over this connection.
    pub deleted: Option<u64>,
    /// Over which connection somebody looked for it afterwards, and what came of it.
    pub sights: Vec<(u64, Sight)>,
}

/// All that was read of it at a time when so many records were acknowledged.
#[derive(Clone, Debug)]
pub struct Seen {
    pub acknowledged: usize,
    pub records: Vec<(i64, Arc<str>)>,
}

/// What there is of a deleted topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    Nothing,
    /// Its name is known.
    Known,
    /// It can be written.
    Written,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Checked {
    pub lives: usize,
    pub records: usize,
    /// Lives whose deletion was looked for again after a kill.
    pub deaths_survived: usize,
}

pub fn check(lives: &[Life]) -> Result<Checked, String> {
    let mut checked = Checked::default();
    let mut ids = BTreeSet::new();
    for life in lives {
        let wrong = |what: String| Err(format!("topic {} {}: {what}", life.name, life.id));
        if !ids.insert(&life.id) {
            return wrong("it has the id of another one".to_owned());
        }
        if life.began.is_some_and(|bounds| bounds != (0, 0)) {
            return wrong(format!("it began with {:?}", life.began));
        }
        for seen in &life.seen {
            if let Err(what) = is_of_this_life(life, seen) {
                return wrong(what);
            }
            checked.records += seen.records.len();
        }
        if let Some((_, sight)) = life.sights.iter().find(|(_, sight)| *sight != Sight::Nothing) {
            return wrong(format!("it was deleted, and then it was {sight:?}"));
        }
        checked.lives += 1;
        checked.deaths_survived += usize::from(life.sights.iter().any(|(over, _)| Some(*over) != life.deleted));
    }
    Ok(checked)
}

/// What was tried in this life, once and in order, from offset 0 on, each acknowledged record in its place.
fn is_of_this_life(life: &Life, seen: &Seen) -> Result<(), String> {
    let order: BTreeMap<&Arc<str>, usize> = life.tried.iter().enumerate().map(|(n, value)| (value, n)).collect();
    let mut last = None;
    for (expected, (offset, value)) in (0..).zip(&seen.records) {
        let place = order.get(value).copied();
        if *offset != expected || place.is_none() || place <= last {
            return Err(format!("{value:.30} at {offset} is not what comes there"));
        }
        last = place;
    }
    let there: BTreeMap<i64, &Arc<str>> = seen.records.iter().map(|(offset, value)| (*offset, value)).collect();
    match life.acknowledged.iter().take(seen.acknowledged).find(|(offset, value)| there.get(offset) != Some(value)) {
        Some((offset, value)) => Err(format!("{value:.30} was acknowledged at {offset} and is lost")),
        None => Ok(()),
    }
}
