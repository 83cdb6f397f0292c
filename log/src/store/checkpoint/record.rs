//! Where a partition stands, as bytes: what recovery builds on instead of the log in front of a checkpoint.
//!
//! ```text
//! u8   version, 2
//! i64  log start            i64  high watermark       i64  end: producers know of all batches below
//! u32  segments, each:      i64 base, u32 generation, i64 next, u32 size, i64 maximum timestamp, u32 its offset, i64 created,
//!                           u8 0: the index lies in files; 1: u32 interval, u32 entries, each u32 offset, u32 last offset,
//!                           u32 position, i64 timestamp before, u32 its offset (offsets counted from the base)
//! u32  aborted ranges, each i64 producer id, i64 first offset, i64 last offset
//! u32  leader epochs, each  i32 epoch, i64 start
//! …    producers, see there
//! u8   0, or 1: the partition is fenced; u32 length and text of the damage's place, the same of what it is
//! i64  compacted segments end    i64  the dirty part begins    i64  a tombstone or marker may go next, -1: none
//! ```
//!
//! All numbers are little endian. Version 1 had no generations (they are 0) and nothing of compaction. A record is taken
//! only if recovery can build on it: offsets are those a log can have, segments, their index entries and epochs lie one
//! behind the other, transactions end behind their begin.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};

use crate::env::mutant::Mutant;
use crate::record::{BATCH_HEADER, LeaderEpoch, Offset};
use crate::store::layout::GENERATION_MAX;
use crate::store::partition::{Aborted, Compaction, Partition, View};
use crate::store::producers::Producers;
use crate::store::recovery::Damage;
use crate::store::segment::{Index, IndexEntry, Segment};

const VERSION: u8 = 2;

/// What a shard knew when it was asked; the rest is what readers see when all of it is durable.
pub(in crate::store) struct Standing {
    pub partition: Arc<Partition>,
    pub end: Offset,
    pub producers: Producers,
    pub unpublished: Vec<Aborted>,
}

impl Standing {
    /// To be called when everything below `end` is visible.
    pub fn encode(&self) -> Bytes {
        let view = self.partition.read_view();
        assert!(view.high_watermark >= self.end || self.partition.is_closed(), "what was assigned is durable");
        let mut out = Vec::with_capacity(128);
        out.put_u8(VERSION);
        out.put_i64_le(view.start.0);
        out.put_i64_le(view.high_watermark.0);
        out.put_i64_le(self.end.0);
        put_count(&mut out, view.segments.len());
        view.segments.iter().for_each(|segment| put_segment(&mut out, segment));
        let swapped = view.compaction.swapped;
        let more = self.unpublished.iter().filter(|a| a.last >= swapped && !view.aborted.contains(a));
        let is_void = |aborted: &&Aborted| view.outgoing.iter().any(|outgoing| outgoing.is_void(aborted));
        let aborted = view.aborted.iter().filter(|aborted| !is_void(aborted)).chain(more);
        let aborted = aborted.filter(|_| !Mutant::CheckpointForgetsAborted.is_on());
        let aborted: Vec<&Aborted> = aborted.collect();
        put_count(&mut out, aborted.len());
        for aborted in aborted {
            out.put_i64_le(aborted.producer_id);
            out.put_i64_le(aborted.first.0);
            out.put_i64_le(aborted.last.0);
        }
        put_count(&mut out, view.epochs.len());
        for (epoch, start) in &view.epochs {
            out.put_i32_le(epoch.0);
            out.put_i64_le(start.0);
        }
        self.producers.encode(&mut out);
        let damage = self.partition.damage();
        out.put_u8(u8::from(damage.is_some()));
        for text in damage.iter().flat_map(|damage| [&damage.place, &damage.detail]) {
            put_count(&mut out, text.len());
            out.put_slice(text.as_bytes());
        }
        let Compaction { swapped, cleaned, next_ms } = view.compaction;
        out.put_i64_le(swapped.0);
        out.put_i64_le(cleaned.0);
        out.put_i64_le(next_ms.unwrap_or(-1));
        out.into()
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    out.put_u32_le(u32::try_from(count).expect("fewer than four billion things are in memory"));
}

fn put_segment(out: &mut Vec<u8>, segment: &Segment) {
    out.put_i64_le(segment.base.0);
    out.put_u32_le(segment.generation);
    out.put_i64_le(segment.next.0);
    out.put_u32_le(segment.size);
    out.put_i64_le(segment.max_timestamp_ms);
    out.put_u32_le(segment.max_timestamp_relative);
    out.put_i64_le(segment.created_ms);
    out.put_u8(u8::from(segment.index.is_some()));
    if let Some(index) = &segment.index {
        out.put_u32_le(index.interval);
        put_count(out, index.entries.len());
        out.reserve(24 * index.entries.len());
        for entry in &index.entries {
            out.put_u32_le(entry.relative);
            out.put_u32_le(entry.last_relative);
            out.put_u32_le(entry.position);
            out.put_i64_le(entry.before_ms);
            out.put_u32_le(entry.before_relative);
        }
    }
}

/// A partition as a record tells it.
#[derive(Debug)]
pub(in crate::store) struct Stood {
    pub view: View,
    pub producers: Producers,
    pub end: Offset,
    pub damage: Option<Damage>,
}

/// What is wrong with the bytes of a record, in a few words.
type Wrong = &'static str;

const SHORT: Wrong = "it ends early";

/// An error when the bytes are no such record, or one that nobody has written.
pub(in crate::store) fn decode(mut bytes: &[u8]) -> Result<Stood, Wrong> {
    let from = &mut bytes;
    let version = from.try_get_u8().map_err(|_| SHORT)?;
    if !(1..=VERSION).contains(&version) {
        return Err("its version is not known");
    }
    let (start, high_watermark, end) = (get_offset(from)?, get_offset(from)?, get_offset(from)?);
    if start > high_watermark {
        return Err("the start lies behind the high watermark");
    }
    let mut view = View { start, high_watermark, flushed: high_watermark, ..View::default() };
    for _ in 0..get_u32(from)? {
        let segment = get_segment(from, version)?;
        if view.segments.last().is_some_and(|last| last.next > segment.base) {
            return Err("a segment begins before the end of the one before");
        }
        view.segments.push(segment);
    }
    if view.segments.last().is_some_and(|last| last.next != high_watermark) {
        return Err("the segments do not end at the high watermark");
    }
    // Readers may have seen more than was assigned when it was asked for.
    view.aborted = get_aborted(from, end.max(high_watermark))?;
    view.epochs = get_epochs(from, high_watermark)?;
    let producers = Producers::decode(from, end)?;
    let damage = match from.try_get_u8().map_err(|_| SHORT)? {
        0 => None,
        1 => Some(Damage { place: get_text(from)?, detail: get_text(from)? }),
        _ => return Err("the damage is neither there nor absent"),
    };
    if version > 1 {
        let (swapped, cleaned) = (get_offset(from)?, get_offset(from)?);
        if swapped.max(cleaned) > high_watermark {
            return Err("compaction is ahead of the high watermark");
        }
        let next_ms = Some(get_i64(from)?).filter(|ms| *ms >= 0);
        view.compaction = Compaction { swapped, cleaned, next_ms };
    }
    if from.is_empty() { Ok(Stood { view, producers, end, damage }) } else { Err("bytes are left over") }
}

fn get_u32(from: &mut &[u8]) -> Result<u32, Wrong> {
    from.try_get_u32_le().map_err(|_| SHORT)
}

fn get_i64(from: &mut &[u8]) -> Result<i64, Wrong> {
    from.try_get_i64_le().map_err(|_| SHORT)
}

fn get_offset(from: &mut &[u8]) -> Result<Offset, Wrong> {
    let offset = Offset(get_i64(from)?);
    if offset.is_stored() { Ok(offset) } else { Err("an offset is none that a log has") }
}

/// Transactions that a marker below `end` has aborted.
fn get_aborted(from: &mut &[u8], end: Offset) -> Result<Vec<Aborted>, Wrong> {
    let (mut aborted, mut markers) = (Vec::new(), BTreeSet::new());
    for _ in 0..get_u32(from)? {
        let range = Aborted { producer_id: get_i64(from)?, first: get_offset(from)?, last: get_offset(from)? };
        let Aborted { producer_id, first, last } = range;
        if producer_id < 0 || first >= last || last >= end || !markers.insert(last) {
            return Err("an aborted transaction is not in front of its marker");
        }
        aborted.push(range);
    }
    // Those that were not published when it was written come last.
    aborted.sort_by_key(|range| range.first);
    Ok(aborted)
}

/// Those that have written something below `end`.
fn get_epochs(from: &mut &[u8], end: Offset) -> Result<Vec<(LeaderEpoch, Offset)>, Wrong> {
    let mut epochs: Vec<(LeaderEpoch, Offset)> = Vec::new();
    for _ in 0..get_u32(from)? {
        let epoch = LeaderEpoch(from.try_get_i32_le().map_err(|_| SHORT)?);
        let start = get_offset(from)?;
        if epoch.0 < 0 || start >= end || epochs.last().is_some_and(|last| last.0 >= epoch || last.1 >= start) {
            return Err("the leader epochs do not rise");
        }
        epochs.push((epoch, start));
    }
    Ok(epochs)
}

fn get_text(from: &mut &[u8]) -> Result<String, Wrong> {
    let len = get_u32(from)? as usize;
    let (text, rest) = from.split_at_checked(len).ok_or(SHORT)?;
    *from = rest;
    String::from_utf8(text.to_vec()).map_err(|_| "the damage is not told as text")
}

fn get_segment(from: &mut &[u8], version: u8) -> Result<Segment, Wrong> {
    let base = get_offset(from)?;
    let generation = if version == 1 { 0 } else { get_u32(from)? };
    let next = get_offset(from)?;
    let size = get_u32(from)?;
    let max_timestamp_ms = get_i64(from)?;
    let max_timestamp_relative = get_u32(from)?;
    let created_ms = get_i64(from)?;
    // Offsets are counted from the base in 31 bits, see `owned`.
    let offsets = next.0 - base.0;
    if !(1..=1 << 31).contains(&offsets) || i64::from(max_timestamp_relative) >= offsets {
        return Err("the offsets of a segment are not its own");
    }
    if (size as usize) < BATCH_HEADER || generation > GENERATION_MAX || max_timestamp_ms < -1 {
        return Err("a segment is empty, or of no time or generation that there is");
    }
    let max = Largest { ms: max_timestamp_ms, relative: max_timestamp_relative };
    let index = match from.try_get_u8().map_err(|_| SHORT)? {
        0 => None,
        1 => Some(get_index(from, size, offsets, max)?),
        _ => return Err("the index of a segment is neither there nor absent"),
    };
    let (flushed, indexed) = (size, index.is_none());
    Ok(Segment {
        base,
        generation,
        next,
        size,
        flushed,
        max_timestamp_ms,
        max_timestamp_relative,
        created_ms,
        wal_file: 0,
        index,
        indexed,
    })
}

/// The largest timestamp up to some place in a segment, and the offset that has it, counted from the base; -1: none yet.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Largest {
    ms: i64,
    relative: u32,
}

impl Largest {
    /// Whether it can be this behind that.
    fn follows(self, before: Largest) -> bool {
        self == before || (self.ms > before.ms && (before.ms < 0 || self.relative > before.relative))
    }
}

/// Of a segment of so many bytes and offsets, with this timestamp.
fn get_index(from: &mut &[u8], size: u32, offsets: i64, max: Largest) -> Result<Index, Wrong> {
    let interval = get_u32(from)?.max(1);
    let mut entries: Vec<IndexEntry> = Vec::new();
    let mut largest = Largest { ms: -1, relative: 0 };
    for _ in 0..get_u32(from)? {
        let entry = IndexEntry {
            relative: get_u32(from)?,
            last_relative: get_u32(from)?,
            position: get_u32(from)?,
            before_ms: get_i64(from)?,
            before_relative: get_u32(from)?,
        };
        let before = Largest { ms: entry.before_ms, relative: entry.before_relative };
        let inside = entry.relative <= entry.last_relative
            && i64::from(entry.last_relative) < offsets
            && entry.position < size.min(1 << 31);
        let behind = |last: &IndexEntry| last.last_relative < entry.relative && last.position < entry.position;
        if !inside || !entries.last().is_none_or(behind) || !before.follows(largest) {
            return Err("the index of a segment does not rise");
        }
        largest = before;
        entries.push(entry);
    }
    if max.follows(largest) { Ok(Index { interval, entries }) } else { Err("a timestamp is larger than the largest") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{CHECKPOINT, section};
    use crate::record::{TopicId, TopicPartition};
    use crate::store::config::PartitionConfig;
    use crate::store::forge;

    /// A segment, an aborted range, an epoch, no producers, no damage: what the first version wrote.
    fn first_version() -> Vec<u8> {
        let mut out = vec![1];
        [3i64, 10, 10].iter().for_each(|offset| out.put_i64_le(*offset));
        out.put_u32_le(1);
        [0i64, 10].iter().for_each(|offset| out.put_i64_le(*offset));
        out.put_u32_le(700);
        out.put_i64_le(55);
        out.put_u32_le(9);
        out.put_i64_le(44);
        out.put_u8(0);
        out.put_u32_le(1);
        [7i64, 4, 6].iter().for_each(|number| out.put_i64_le(*number));
        out.put_u32_le(1);
        out.put_i32_le(2);
        out.put_i64_le(0);
        Producers::default().encode(&mut out);
        out.put_u8(0);
        out
    }

    fn encode(view: View) -> Bytes {
        let id = TopicPartition { topic: TopicId([1; 16]), partition: 0 };
        let (end, unpublished) = (view.high_watermark, Vec::new());
        let partition = Arc::new(Partition::new(id, LeaderEpoch(2), PartitionConfig::test(), view));
        Standing { partition, end, producers: Producers::default(), unpublished }.encode()
    }

    #[test]
    fn a_record_of_the_first_version_is_read() {
        let stood = decode(&first_version()).expect("it is read");
        let segment = &stood.view.segments[0];
        assert_eq!((segment.base, segment.generation, segment.next, segment.size), (Offset(0), 0, Offset(10), 700));
        assert_eq!((stood.view.start, stood.view.high_watermark, stood.end), (Offset(3), Offset(10), Offset(10)));
        let aborted = Aborted { producer_id: 7, first: Offset(4), last: Offset(6) };
        assert_eq!((stood.view.aborted, stood.view.epochs), (vec![aborted], vec![(LeaderEpoch(2), Offset(0))]));
        assert_eq!(stood.view.compaction, Compaction::default());
        let bytes = first_version();
        (0..bytes.len()).for_each(|end| assert!(decode(&bytes[..end]).is_err(), "cut to {end}"));
    }

    #[test]
    fn what_compaction_knows_comes_back() {
        for next_ms in [None, Some(0), Some(77)] {
            let mut view = decode(&first_version()).expect("it is read").view;
            view.segments[0].generation = 5;
            view.compaction = Compaction { swapped: Offset(9), cleaned: Offset(8), next_ms };
            let compaction = view.compaction;
            let bytes = encode(view);
            let stood = decode(&bytes).expect("it is read");
            assert_eq!((stood.view.segments[0].generation, stood.view.compaction), (5, compaction));
            (0..bytes.len()).for_each(|end| assert!(decode(&bytes[..end]).is_err(), "cut to {end}"));
        }
    }

    const T0: i64 = 1_700_000_000_000;

    fn check_fixture(version: u8, damage: Option<Damage>, stood: &Stood) {
        let Stood { view, producers, end, damage: found } = stood;
        assert_eq!((view.start.0, view.high_watermark.0, end.0), (1_100, 1_303, 1_303));
        let [sealed, active] = &view.segments[..] else { panic!("{:?}", view.segments) };
        let numbers =
            |s: &Segment| (s.base.0, s.generation, s.next.0, s.size, s.max_timestamp_ms, s.max_timestamp_relative);
        let generation = if version == 1 { 0 } else { 6 };
        assert_eq!(numbers(sealed), (1_000, generation, 1_200, 5_000, T0 + 3, 150));
        assert_eq!((sealed.created_ms, &sealed.index, sealed.indexed, sealed.flushed), (T0, &None, true, 5_000));
        assert_eq!(numbers(active), (1_200, 0, 1_303, 700, T0 + 8, 102));
        let entry = |relative, last_relative, position, before_ms, before_relative| IndexEntry {
            relative,
            last_relative,
            position,
            before_ms,
            before_relative,
        };
        let entries = vec![entry(0, 9, 0, -1, 0), entry(100, 101, 600, T0 + 7, 99)];
        assert_eq!((active.created_ms, &active.index), (T0 + 4, &Some(Index { interval: 4_096, entries })));
        assert_eq!((active.indexed, active.flushed), (false, 700));
        assert_eq!(view.aborted, [Aborted { producer_id: 7, first: Offset(1_180), last: Offset(1_210) }]);
        assert_eq!(view.epochs, [(LeaderEpoch(4), Offset(1_000)), (LeaderEpoch(5), Offset(1_201))]);
        assert_eq!(
            producers.open_all().iter().map(|o| (o.producer_id, o.epoch, o.first.0)).collect::<Vec<_>>(),
            [(7, 4, 1_300)]
        );
        let snapshot: Vec<_> = producers
            .snapshot()
            .into_iter()
            .map(|p| {
                (
                    p.producer_id,
                    p.epoch,
                    p.last_batch.map(|b| (b.last_sequence, b.last_offset.0)),
                    p.timestamp_ms,
                    p.coordinator_epoch,
                )
            })
            .collect();
        assert_eq!(snapshot, [(7, 4, Some((2, 1_302)), T0 + 8, 12), (8, 0, None, -1, -1)]);
        assert_eq!(*found, damage);
        let swapped = Compaction { swapped: Offset(1_200), cleaned: Offset(1_150), next_ms: Some(T0 + 99) };
        assert_eq!(view.compaction, if version == 1 { Compaction::default() } else { swapped });
    }

    #[test]
    fn the_first_records_are_read_for_ever_and_the_newest_is_written_the_same_way() {
        let damage =
            Damage { place: "wal/0000000006.wal at byte 64".to_owned(), detail: "an entry is damaged".to_owned() };
        for (name, version, damage) in
            [("record 1", 1, None), ("record 2", 2, None), ("record 2, fenced", 2, Some(damage))]
        {
            let bytes = section(CHECKPOINT, name);
            let stood = decode(&bytes).unwrap();
            check_fixture(version, damage.clone(), &stood);
            (0..bytes.len()).for_each(|end| assert!(decode(&bytes[..end]).is_err(), "{name} cut to {end}"));
            let Stood { view, producers, end, damage } = stood;
            let id = TopicPartition { topic: TopicId([1; 16]), partition: 0 };
            let partition = Partition::new(id, LeaderEpoch(5), PartitionConfig::test(), view).fenced(damage);
            let written = Standing { partition: Arc::new(partition), end, producers, unpublished: Vec::new() }.encode();
            assert_eq!(written == bytes, version == VERSION, "{name}");
        }
    }

    /// A number that is not what was written is refused, or can be built on.
    #[test]
    fn whatever_a_record_says_can_be_built_on() {
        let (mut taken, mut refused) = (0, 0);
        for name in ["record 1", "record 2", "record 2, fenced"] {
            let good = section(CHECKPOINT, name);
            for at in 0..good.len() {
                for width in [1, 2, 4, 8] {
                    for worse in [0, 1, 0x7f, 0x80, 0xff] {
                        let mut bytes = good.clone();
                        let Some(number) = bytes.get_mut(at..at + width) else { continue };
                        number.fill(if worse == 0x80 || worse == 0xff { 0xff } else { 0 });
                        number[if worse == 0x80 { width - 1 } else { 0 }] = worse;
                        match decode(&bytes) {
                            Ok(stood) => {
                                forge::build_on(&stood.view, &stood.producers);
                                taken += 1;
                            }
                            Err(_) => refused += 1,
                        }
                    }
                }
            }
        }
        assert!(taken > 1_000 && refused > 10_000, "{taken} taken, {refused} refused");
    }
}
