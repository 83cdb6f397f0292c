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
//! All numbers are little endian. Version 1 had no generations (they are 0) and nothing of compaction.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};

use crate::env::mutant::Mutant;
use crate::record::{LeaderEpoch, Offset};
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
        let aborted = view.aborted.iter().chain(more).filter(|_| !Mutant::CheckpointForgetsAborted.is_on());
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
pub(in crate::store) struct Stood {
    pub view: View,
    pub producers: Producers,
    pub end: Offset,
    pub damage: Option<Damage>,
}

/// `None` when the bytes are no such record.
pub(in crate::store) fn decode(mut bytes: &[u8]) -> Option<Stood> {
    let from = &mut bytes;
    let version = from.try_get_u8().ok().filter(|version| (1..=VERSION).contains(version))?;
    let mut offset = || Some(Offset(from.try_get_i64_le().ok()?));
    let (start, high_watermark, end) = (offset()?, offset()?, offset()?);
    let mut view = View { start, high_watermark, flushed: high_watermark, ..View::default() };
    for _ in 0..from.try_get_u32_le().ok()? {
        view.segments.push(get_segment(from, version)?);
    }
    for _ in 0..from.try_get_u32_le().ok()? {
        let producer_id = from.try_get_i64_le().ok()?;
        let (first, last) = (Offset(from.try_get_i64_le().ok()?), Offset(from.try_get_i64_le().ok()?));
        view.insert_aborted(Aborted { producer_id, first, last });
    }
    for _ in 0..from.try_get_u32_le().ok()? {
        view.epochs.push((LeaderEpoch(from.try_get_i32_le().ok()?), Offset(from.try_get_i64_le().ok()?)));
    }
    let producers = Producers::decode(from)?;
    let damage = match from.try_get_u8().ok()? {
        0 => None,
        1 => Some(Damage { place: get_text(from)?, detail: get_text(from)? }),
        _ => return None,
    };
    if version > 1 {
        let (swapped, cleaned) = (Offset(from.try_get_i64_le().ok()?), Offset(from.try_get_i64_le().ok()?));
        let next_ms = Some(from.try_get_i64_le().ok()?).filter(|ms| *ms >= 0);
        view.compaction = Compaction { swapped, cleaned, next_ms };
    }
    from.is_empty().then_some(Stood { view, producers, end, damage })
}

fn get_text(from: &mut &[u8]) -> Option<String> {
    let len = from.try_get_u32_le().ok()? as usize;
    let (text, rest) = from.split_at_checked(len)?;
    *from = rest;
    String::from_utf8(text.to_vec()).ok()
}

fn get_segment(from: &mut &[u8], version: u8) -> Option<Segment> {
    let base = Offset(from.try_get_i64_le().ok()?);
    let generation = if version == 1 { 0 } else { from.try_get_u32_le().ok()? };
    let next = Offset(from.try_get_i64_le().ok()?);
    let size = from.try_get_u32_le().ok()?;
    let max_timestamp_ms = from.try_get_i64_le().ok()?;
    let max_timestamp_relative = from.try_get_u32_le().ok()?;
    let created_ms = from.try_get_i64_le().ok()?;
    let index = match from.try_get_u8().ok()? {
        0 => None,
        1 => {
            let interval = from.try_get_u32_le().ok()?;
            let mut entries = Vec::new();
            for _ in 0..from.try_get_u32_le().ok()? {
                entries.push(IndexEntry {
                    relative: from.try_get_u32_le().ok()?,
                    last_relative: from.try_get_u32_le().ok()?,
                    position: from.try_get_u32_le().ok()?,
                    before_ms: from.try_get_i64_le().ok()?,
                    before_relative: from.try_get_u32_le().ok()?,
                });
            }
            Some(Index { interval: interval.max(1), entries })
        }
        _ => return None,
    };
    let (flushed, indexed) = (size, index.is_none());
    Some(Segment {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{TopicId, TopicPartition};
    use crate::store::config::PartitionConfig;
    use crate::store::partition::Compaction;

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
        (0..bytes.len()).for_each(|end| assert!(decode(&bytes[..end]).is_none(), "cut to {end}"));
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
            (0..bytes.len()).for_each(|end| assert!(decode(&bytes[..end]).is_none(), "cut to {end}"));
        }
    }
}
