//! The checker is awake: of each way in which a log can be wrong, what it says of a sound history it must not say.

use std::sync::Arc;

use super::history::{At, History, Kept, Log, Logs, Told, check, is_tombstone, key_of};
use super::lives::{Life, Sight};
use crate::support::broker::OFFSET_OUT_OF_RANGE;

/// What is done to a history and to what is there at the end.
type Damage<'a> = &'a dyn Fn(&mut History, &mut Logs);

/// Does it to a copy of each, and sees that [`check`] has something to say.
pub fn check_that_damage_is_seen(history: &History, logs: &Logs, kept: impl Fn(&str) -> Kept + Copy) {
    let see = |name: &str, damage: Damage<'_>| {
        let (mut history, mut logs) = (history.clone(), logs.clone());
        damage(&mut history, &mut logs);
        match check(&history, &logs, kept) {
            Ok(_) => panic!("what is {name} is as good"),
            Err(wrong) => println!("{name}: {wrong:.100}"),
        }
    };
    to_any_log(history, logs, &see);
    to_transactions(&see);
    to_compacted_logs(history, logs, kept, &see);
    by_deletions(history, logs, kept, &see);
    to_lives(&see);
}

type See<'a> = &'a dyn Fn(&str, Damage<'_>);

fn log_of<'a>(logs: &'a mut Logs, at: &At) -> &'a mut Log {
    logs.get_mut(at).expect("its partition")
}

fn to_any_log(history: &History, logs: &Logs, see: See<'_>) {
    let kept_whole = |told: &&Told| told.at.0 == "plain" && told.offset > logs[&told.at].start;
    let told = history.acknowledged.iter().rfind(kept_whole).expect("an acknowledgement");
    let (at, offset, value) = (&told.at, told.offset, &told.value);
    see("lost", &|_, logs| drop(log_of(logs, at).records.remove(&offset)));
    see("cut off", &|_, logs| {
        let log = log_of(logs, at);
        log.records.split_off(&offset);
        log.end = offset;
    });
    see("altered", &|_, logs| drop(log_of(logs, at).records.insert(offset, format!("{value}!"))));
    see("doubled", &|_, logs| {
        let log = log_of(logs, at);
        log.records.insert(log.end, value.clone());
        log.end += 1;
    });
    see("swapped", &|_, logs| {
        let log = log_of(logs, at);
        let before = log.records.range(..offset).next_back().map(|(at, value)| (*at, value.clone()));
        let (before, other) = before.expect("another");
        let was = log.records.insert(offset, other).expect("the record");
        log.records.insert(before, was);
    });
    see("shifted", &|_, logs| shift(log_of(logs, at)));
    see("shown before it was durable", &|history, _| history.bounds.push((at.clone(), vec![(0, i64::MAX)])));
}

/// Every record stands one further.
fn shift(log: &mut Log) {
    log.records = std::mem::take(&mut log.records).into_iter().map(|(at, value)| (at + 1, value)).collect();
    log.end += 1;
}

fn to_transactions(see: See<'_>) {
    see("a torn transaction", &|history, _| {
        let whole = history.transactions.iter_mut().rfind(|tried| tried.committed).expect("a transaction");
        whole.values.push("never written".to_owned());
    });
    see("a transaction without its row in the compacted topic", &|history, logs| {
        let with_row = history.transactions.iter().rfind(|tried| tried.committed && tried.row.is_some());
        let row = with_row.and_then(|tried| tried.row.as_ref()).expect("a transaction with a row");
        logs.values_mut().for_each(|log| log.records.retain(|_, value| value != row));
    });
}

fn to_compacted_logs(history: &History, logs: &Logs, kept: impl Fn(&str) -> Kept + Copy, see: See<'_>) {
    let compacted = |at: &At| matches!(kept(&at.0), Kept::LastOfEachKey { .. });
    let mut told: Vec<&Told> = history.acknowledged.iter().filter(|told| compacted(&told.at)).collect();
    told.sort_by_key(|told| (&told.at, told.offset));
    let there = |told: &&&Told| logs[&told.at].records.contains_key(&told.offset);
    let last_of_its_key = |told: &&&Told| {
        let same = |value: &&String| key_of(value) == key_of(&told.value);
        logs[&told.at].records.values().rfind(same) == Some(&told.value)
    };
    // The last value of a key that is not written any more.
    let settled = told.iter().filter(there).filter(last_of_its_key).find(|told| !is_tombstone(&told.value));
    let Told { at, offset, value } = settled.expect("a value that stays");
    see("the last of its key and lost", &|_, logs| drop(log_of(logs, at).records.remove(offset)));
    see("the last of its key and altered", &|_, logs| {
        drop(log_of(logs, at).records.insert(*offset, format!("{value}!")))
    });
    see("a compacted log that is shifted", &|_, logs| shift(log_of(logs, at)));
    see("a compacted log that starts later", &|_, logs| {
        let log = logs.iter_mut().find(|(at, _)| kept(&at.0) == Kept::LastOfEachKey { trimmed: false });
        log.expect("a compacted topic").1.start = 1;
    });
    see("the end of a compacted log and earlier than it was", &|history, _| {
        history.bounds.push((at.clone(), vec![(0, i64::MAX)]));
    });
    // A record that a pass has found gone.
    let gone = told.iter().rfind(|told| {
        let passes = history.passes.get(&told.at).into_iter().flatten();
        let missed = |pass: &super::compacted::Pass| {
            pass.start <= told.offset && pass.end > told.offset && pass.records.iter().all(|(at, _)| *at != told.offset)
        };
        told.offset >= logs[&told.at].start && passes.clone().any(missed)
    });
    let gone = gone.expect("a record that was compacted away");
    see("compacted away and back", &|_, logs| {
        log_of(logs, &gone.at).records.insert(gone.offset, gone.value.clone());
    });
    // A key that was deleted, tombstone and all, one of whose values stands there as if it had never been.
    let deleted = |told: &&&Told| {
        let same = |value: &String| key_of(value) == key_of(&told.value);
        is_tombstone(&told.value) && !logs[&told.at].records.values().any(same)
    };
    let before = |tombstone: &&Told| {
        let same = |told: &&&Told| told.at == tombstone.at && key_of(&told.value) == key_of(&tombstone.value);
        let range = logs[&tombstone.at].start..tombstone.offset;
        told.iter().filter(same).rfind(|told| range.contains(&told.offset) && !is_tombstone(&told.value)).copied()
    };
    let value = told.iter().filter(deleted).find_map(before).expect("a key that was deleted");
    see("left by a tombstone that is gone before it", &|history, logs| {
        // Without the passes, which would tell by the offset alone.
        history.passes.clear();
        log_of(logs, &value.at).records.insert(value.offset, value.value.clone());
    });
}

fn by_deletions(history: &History, logs: &Logs, kept: impl Fn(&str) -> Kept + Copy, see: See<'_>) {
    let by_request = |at: &At| kept(&at.0) == Kept::FromWhereAsked;
    let told = history.acknowledged.iter().rfind(|told| by_request(&told.at)).expect("an acknowledgement");
    see("above the deleted records and lost", &|_, logs| drop(log_of(logs, &told.at).records.remove(&told.offset)));
    see("deleted though nobody has asked", &|_, logs| {
        let log = log_of(logs, &told.at);
        log.start = told.offset;
        log.records = log.records.split_off(&told.offset);
    });
    let last = history.deletions.iter().rfind(|deletion| deletion.start.is_some_and(|start| start > 0));
    let start = last.expect("a deletion").start.expect("an answer");
    let at = &last.expect("a deletion").at;
    assert!(logs[at].start >= start);
    see("deleted and at the end back", &|history, logs| {
        history.bounds.clear();
        log_of(logs, at).start = start - 1;
    });
    type Look = (i64, Result<(), i16>);
    let seen = |change: &dyn Fn(&mut Look)| {
        let mut history = history.clone();
        change(history.deletions.iter_mut().rev().find_map(|deletion| deletion.after.as_mut()).expect("a look"));
        history.deletions
    };
    let back = seen(&|after| after.0 = 0);
    see("deleted and soon back", &|history, _| history.deletions.clone_from(&back));
    let readable = seen(&|after| after.1 = Ok(()));
    see("deleted and readable", &|history, _| history.deletions.clone_from(&readable));
    let gone = seen(&|after| after.1 = Err(OFFSET_OUT_OF_RANGE + 1));
    see("deleted and unknown", &|history, _| history.deletions.clone_from(&gone));
    see("kept though it was said to be deleted", &|history, _| {
        let deletion = history.deletions.iter_mut().rfind(|deletion| deletion.start.is_some()).expect("a deletion");
        deletion.start = Some(deletion.asked - 1);
    });
}

fn to_lives(see: See<'_>) {
    /// The second life of a name, the one before it, and what to do to it.
    fn second(history: &mut History, change: impl FnOnce(&Life, &mut Life)) {
        let written = |life: &&Life| life.deleted.is_some() && life.acknowledged.len() > 1;
        let lives = history.lives.clone();
        let last = lives.iter().rfind(written).expect("a life");
        let before = lives.iter().find(|life| written(life) && life.name == last.name && life.id != last.id);
        let life = history.lives.iter_mut().rfind(|life| life.id == last.id).expect("the same");
        change(before.expect("another life"), life);
    }
    see("a new topic under the old id", &|history, _| second(history, |old, new| new.id.clone_from(&old.id)));
    see("a new topic with an old end", &|history, _| second(history, |_, new| new.began = Some((0, 1))));
    see("a new topic with an old record", &|history, _| {
        second(history, |old, new| {
            let seen = new.seen.last_mut().expect("it was read");
            seen.records.push((seen.records.len() as i64, Arc::clone(&old.tried[0])));
        });
    });
    see("a topic that has lost its end", &|history, _| {
        second(history, |_, new| new.seen.last_mut().expect("it was read").records.truncate(1));
    });
    for (name, sight) in [("deleted and known", Sight::Known), ("deleted and written", Sight::Written)] {
        see(name, &|history, _| second(history, |_, new| new.sights.push((u64::MAX, sight))));
    }
}
