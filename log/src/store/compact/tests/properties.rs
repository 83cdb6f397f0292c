//! What holds after every pass and every restart.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::model::Told;
use super::readers::{bytes_of, check_with_theirs, consume, consume_ranges, records, recover, same_verdicts, split};
use super::world::{Done, Pass, World};
use crate::record::codec::Codec;
use crate::record::{Batch, Offset};
use crate::store::compact::map::SLOT_BYTES;

fn failed(error: impl std::fmt::Debug) -> TestCaseError {
    TestCaseError::fail(format!("{error:?}"))
}

/// A pass, checked, and put in place.
pub(super) fn clean(world: &mut World, pass: Pass) -> Result<(), TestCaseError> {
    let end = world.cleanable_end(pass);
    let done = world.compact(pass, end, 1).map_err(failed)?;
    prop_assert!(done.mapped.map.bytes() <= pass.slots * SLOT_BYTES, "the map keeps to its budget");
    let again = world.compact(pass, end, 2).map_err(failed)?;
    prop_assert_eq!(&again.log, &done.log, "the seed decides nothing");
    prop_assert_eq!(&again.outcome, &done.outcome);
    as_modelled(world, pass, end, &done)?;
    stats_agree(world, &done)?;
    let before = world.log.clone();
    world.happened.add(&done);
    world.log = done.log.clone();
    world.aborted = done.outcome.aborted.clone();
    batches_are_sound(world, &before, done.mapped.end)?;
    readers_see_the_newest(world)?;
    same_verdicts(&world.written, &world.log)?;
    if !done.mapped.full {
        let again = world.compact(pass, end, 3).map_err(failed)?;
        prop_assert_eq!(&again.log, &world.log, "a second pass over the same part changes nothing");
    }
    world.first_dirty = done.mapped.end;
    nothing_to_do_until(world, pass, done.outcome.stats.next_ms)
}

/// The log is the model's, batch by batch and record by record.
fn as_modelled(world: &mut World, pass: Pass, end: Offset, done: &Done) -> Result<(), TestCaseError> {
    let (from, mapped_end) = (world.first_dirty.0, done.mapped.end.0);
    let fits = done.mapped.map.capacity();
    let full_at = world.model.mapped_end(from, end.0, fits);
    prop_assert_eq!(done.mapped.full, full_at < end.0);
    // It goes no further than batches were seen.
    let seen = world.log.last().map_or(0, |batch| batch.next_offset().0);
    prop_assert_eq!(mapped_end, full_at.min(seen).max(from));
    let next_ms = world.model.clean(Told {
        from,
        mapped_end,
        high_watermark: world.next,
        now_ms: world.now_ms,
        retention_ms: world.retention_ms,
        last_below: if pass.last_of_all { i64::MAX } else { mapped_end },
    });
    let mut found = Vec::new();
    for batch in &done.log {
        let offsets = records(batch)?.iter().map(|record| record.offset.0).collect();
        found.push((batch.base_offset().0, batch.next_offset().0, batch.delete_horizon_ms(), offsets));
    }
    if world.mutant.is_none() {
        prop_assert_eq!(found, world.model.expected());
        prop_assert_eq!(done.outcome.stats.next_ms, next_ms);
    }
    Ok(())
}

fn stats_agree(world: &World, done: &Done) -> Result<(), TestCaseError> {
    let data = |log: &[Batch]| {
        let batches = log.iter().filter(|batch| !batch.is_control());
        batches.map(|batch| u64::from(batch.record_count())).sum::<u64>()
    };
    let stats = done.outcome.stats;
    let (batches, bytes) = (world.log.len() - done.log.len(), bytes_of(&world.log).len());
    prop_assert_eq!(stats.batches_in - stats.batches_out, batches as u64);
    prop_assert_eq!(stats.bytes_in as i64 - stats.bytes_out as i64, bytes as i64 - bytes_of(&done.log).len() as i64);
    let dropped = stats.superseded + stats.keyless + stats.expired + stats.aborted;
    prop_assert_eq!(dropped, data(&world.log) - data(&done.log));
    Ok(())
}

/// Each batch is one that was written, with records of it; it can be read by whoever reads, and what was not to be
/// touched was not.
fn batches_are_sound(world: &World, before: &[Batch], mapped_end: Offset) -> Result<(), TestCaseError> {
    prop_assert_eq!(&split(bytes_of(&world.log))?, &world.log);
    let written: BTreeMap<Offset, &Batch> = world.written.iter().map(|batch| (batch.base_offset(), batch)).collect();
    let before: BTreeMap<Offset, &Batch> = before.iter().map(|batch| (batch.base_offset(), batch)).collect();
    let mut next = Offset(0);
    for batch in &world.log {
        prop_assert!(batch.base_offset() >= next, "batches in order");
        next = batch.next_offset();
        let origin = written[&batch.base_offset()];
        let place = |batch: &Batch| (batch.last_offset(), batch.leader_epoch(), batch.producer());
        let kind = |batch: &Batch| (batch.is_transactional(), batch.is_control(), batch.is_log_append_time());
        prop_assert_eq!((place(batch), kind(batch)), (place(origin), kind(origin)));
        let codec = if batch.record_count() == 0 { Codec::None } else { origin.codec().expect("checked") };
        prop_assert_eq!(batch.codec().expect("checked"), codec);
        check_with_theirs(batch)?;
        let (found, all) = (records(batch)?, records(origin)?);
        let mut last = Offset(-1);
        for record in &found {
            prop_assert!(record.offset > last, "records in order");
            last = record.offset;
            let same = all.iter().find(|other| other.offset == record.offset).expect("a record that was written");
            prop_assert_eq!((&record.key, &record.value, &record.headers), (&same.key, &same.value, &same.headers));
            prop_assert_eq!(record.timestamp_ms, same.timestamp_ms);
        }
        let as_it_was = before[&batch.base_offset()];
        let max_timestamp_ms = found.iter().map(|record| record.timestamp_ms).max();
        prop_assert_eq!(batch.max_timestamp_ms(), max_timestamp_ms.unwrap_or(as_it_was.max_timestamp_ms()));
        let same_records = as_it_was.record_count() == batch.record_count();
        let same_horizon = as_it_was.delete_horizon_ms() == batch.delete_horizon_ms();
        if batch.base_offset() >= mapped_end || (same_records && same_horizon) {
            prop_assert_eq!(batch, as_it_was, "what loses nothing passes as it is");
        }
    }
    Ok(())
}

/// Under read_committed, the newest value of each key is there, at its offset, and no deleted key has one.
fn readers_see_the_newest(world: &World) -> Result<(), TestCaseError> {
    let stable = world.last_stable();
    let seen = consume(&world.log, &world.aborted, stable)?;
    let offsets = |seen: &[crate::RecordView]| seen.iter().map(|record| record.offset.0).collect::<Vec<_>>();
    prop_assert_eq!(offsets(&seen), offsets(&consume_ranges(&world.log, &world.aborted, stable)?));
    let committed: Vec<i64> = world.model.committed().map(|record| record.offset).collect();
    prop_assert!(offsets(&seen).iter().all(|offset| committed.contains(offset)), "only what was committed");
    let mut newest: BTreeMap<Bytes, (i64, Bytes)> = BTreeMap::new();
    for record in seen {
        match (record.key, record.value) {
            (Some(key), Some(value)) => drop(newest.insert(key, (record.offset.0, value))),
            (Some(key), None) => drop(newest.remove(&key)),
            (None, _) => {}
        }
    }
    let expected = world.model.newest().into_iter();
    let expected: BTreeMap<Bytes, (i64, Bytes)> =
        expected.map(|(key, (offset, value))| (Bytes::from(format!("key {key}")), (offset, value.into()))).collect();
    prop_assert_eq!(newest, expected, "the newest value of each key");
    Ok(())
}

/// Without new records, passes change nothing before the time named, and something at it. Last batches as this pass had
/// them.
fn nothing_to_do_until(world: &mut World, pass: Pass, next_ms: Option<i64>) -> Result<(), TestCaseError> {
    let now_ms = world.now_ms;
    world.now_ms = next_ms.map_or(i64::MAX, |next_ms| next_ms - 1);
    let idle = world.compact(pass, world.first_dirty, 4).map_err(failed)?;
    prop_assert_eq!(&idle.log, &world.log, "nothing to take yet");
    if let Some(next_ms) = next_ms {
        world.now_ms = next_ms;
        let due = world.compact(pass, world.first_dirty, 4).map_err(failed)?;
        let stats = due.outcome.stats;
        prop_assert!(stats.expired + stats.markers > 0, "what is due goes");
    }
    world.now_ms = now_ms;
    Ok(())
}

/// What is read from the bytes is what was there.
pub(super) fn restart(world: &mut World, forget: bool) -> Result<(), TestCaseError> {
    world.log = split(bytes_of(&world.log))?;
    let (_, aborted) = recover(&world.log);
    let ends = |aborted: &[crate::store::partition::Aborted]| {
        aborted.iter().map(|aborted| (aborted.last, aborted.producer_id)).collect::<Vec<_>>()
    };
    let (known, found) = (ends(&world.aborted), ends(&aborted));
    prop_assert!(found.iter().all(|end| known.contains(end)), "no aborted transaction comes up anew");
    let lost = known.iter().filter(|end| !found.contains(end));
    prop_assert!(lost.into_iter().all(|end| end.0 >= world.first_dirty), "those forgotten have nothing left");
    world.aborted = aborted;
    if forget {
        world.first_dirty = Offset(0);
    }
    readers_see_the_newest(world)
}
