//! What of a partition is durable, and where it lies: in memory or in its segments' files.

use std::collections::VecDeque;

use super::Aborted;
use crate::Error;
use crate::record::{Batch, LeaderEpoch, Offset};
use crate::store::compact::swap::Outgoing;
use crate::store::segment::{Index, Segment};

/// What is durable.
#[derive(Debug, Default)]
pub(in crate::store) struct View {
    pub start: Offset,
    pub high_watermark: Offset,
    /// By offset. Empty while nothing was written.
    pub segments: Vec<Segment>,
    /// Segments that readers still see in the place of those among `segments` that took theirs. By offset.
    pub outgoing: Vec<Outgoing>,
    /// The newest batches, in memory; all that are not in their segment's file yet are among them.
    pub hot: VecDeque<Batch>,
    /// Batches below are in the files.
    pub flushed: Offset,
    /// By first offset.
    pub aborted: Vec<Aborted>,
    /// Where each leader epoch with records begins.
    pub epochs: Vec<(LeaderEpoch, Offset)>,
    pub compaction: Compaction,
}

/// How far compaction has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Compaction {
    /// Segments below were written anew: what the write-ahead log holds of them is not theirs any more.
    pub swapped: Offset,
    /// Of the records below the newest of each key are known: here the dirty part begins.
    pub cleaned: Offset,
    /// When a tombstone or a marker may go next.
    pub next_ms: Option<i64>,
}

/// Batches that have left the memory without the tail, which is to hear of it.
#[must_use]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Forgotten {
    pub batches: usize,
    pub bytes: usize,
}

/// How to come by the batches from some offset on.
#[derive(Debug)]
pub(in crate::store) enum Plan {
    /// They are in memory, or there are none.
    Hot(Vec<Batch>),
    Cold(Cold),
}

/// Batches to be read from a segment's file.
#[derive(Debug)]
pub(in crate::store) struct Cold {
    pub segment: Offset,
    pub generation: u32,
    /// Where to begin to look; `None`: the index in the file knows.
    pub position: Option<u32>,
    /// Where the bytes in the file end.
    pub end: u32,
    /// Where the offsets behind the segment begin.
    pub next: Offset,
    /// Every offset of it is there.
    pub whole: bool,
}

impl View {
    /// Takes note of a durable batch and its place.
    pub fn push(&mut self, batch: &Batch, place: &BatchPlace) {
        let new = self.segments.last().is_none_or(|last| last.base < place.segment);
        if new {
            self.segments.push(Segment::new(place.segment, place.created_ms, place.index_interval));
        }
        let at = self.segments.partition_point(|segment| segment.base <= place.segment);
        let segment = at.checked_sub(1).map(|at| &mut self.segments[at]).filter(|found| found.base == place.segment);
        let Some(segment) = segment else { return };
        segment.push(batch, place.position, place.wal_file);
        let epoch = batch.leader_epoch();
        if self.epochs.last().is_none_or(|(last, _)| *last < epoch) {
            self.epochs.push((epoch, batch.base_offset()));
        }
        self.high_watermark = self.high_watermark.max(batch.next_offset());
    }

    /// How to read the batches from the one that holds `from` on, those that begin below `up_to`, about `bytes_max`
    /// bytes, at least one where there is one.
    pub fn plan(&self, from: Offset, up_to: Offset, bytes_max: usize) -> Result<Plan, Error> {
        if from < self.start || from > self.high_watermark {
            return Err(Error::OutOfRange { offset: from, start: self.start, end: self.high_watermark });
        }
        let hot_begins = self.hot.front().map_or(self.high_watermark, Batch::base_offset);
        if from >= hot_begins {
            return Ok(Plan::Hot(self.hot_from(from, up_to, bytes_max)));
        }
        let Some(segment) = self.first_shown(from, |_| true) else { return Ok(Plan::Hot(Vec::new())) };
        let relative = (from.0 - segment.base.0).max(0) as u32;
        let position = segment.index.as_ref().map(|index| index.position(relative));
        let Segment { base, generation, flushed, next, .. } = *segment;
        // Compaction leaves gaps.
        let whole = generation == 0 && from >= base;
        Ok(Plan::Cold(Cold { segment: base, generation, position, end: flushed, next, whole }))
    }

    /// The first such segment that readers see, of the one that holds `from` and those behind.
    fn first_shown(&self, from: Offset, is_wanted: impl Fn(&Segment) -> bool) -> Option<&Segment> {
        let is_shown = |segment: &&Segment| !self.outgoing.iter().any(|outgoing| outgoing.covers(segment.base));
        let first = self.segments.partition_point(|segment| segment.next <= from);
        let new = self.segments[first..].iter().filter(is_shown).find(|segment| is_wanted(segment));
        let old = self.outgoing.iter().flat_map(|outgoing| &outgoing.old);
        let old = old.filter(|segment| segment.next > from).find(|segment| is_wanted(segment));
        new.into_iter().chain(old).min_by_key(|segment| segment.base)
    }

    fn hot_from(&self, from: Offset, up_to: Offset, bytes_max: usize) -> Vec<Batch> {
        let first = self.hot.partition_point(|batch| batch.next_offset() <= from);
        let mut bytes = 0usize;
        let mut found = Vec::new();
        for batch in self.hot.iter().skip(first) {
            if batch.base_offset() >= up_to || (!found.is_empty() && bytes.saturating_add(batch.size()) > bytes_max) {
                break;
            }
            bytes = bytes.saturating_add(batch.size());
            found.push(batch.clone());
        }
        found
    }

    /// The batches below `next` are in the file of `segment`, up to `position`.
    pub fn set_flushed(&mut self, segment: Offset, position: u32, next: Offset) {
        self.flushed = self.flushed.max(next);
        if let Some(found) = self.segments.iter_mut().rev().find(|found| found.base == segment) {
            found.flushed = found.flushed.max(position);
        }
    }

    /// The places of all batches from this segment and position on, each of which is so large; none when one is not known.
    pub fn places_from(
        &self,
        from: (Offset, u32),
        size_at: impl Fn((Offset, u32)) -> Option<usize>,
    ) -> Option<Vec<(Offset, u32)>> {
        let mut places = Vec::new();
        for segment in self.segments.iter().filter(|segment| segment.base >= from.0) {
            let mut position = if segment.base == from.0 { from.1 } else { 0 };
            while position < segment.size {
                let place = (segment.base, position);
                places.push(place);
                position += u32::try_from(size_at(place)?).ok()?;
            }
        }
        Some(places)
    }

    /// Everything is in the files but for what lies from this segment and position on, which is in memory.
    pub fn set_unflushed(&mut self, from: (Offset, u32), batches: Vec<Batch>) {
        self.flushed = batches.first().map_or(self.high_watermark, Batch::base_offset);
        for segment in &mut self.segments {
            segment.flushed = match segment.base.cmp(&from.0) {
                std::cmp::Ordering::Less => segment.size,
                std::cmp::Ordering::Equal => segment.size.min(from.1),
                std::cmp::Ordering::Greater => 0,
            };
        }
        self.hot = batches.into();
    }

    /// Everything is in the files.
    pub fn all_flushed(&mut self) {
        self.flushed = self.high_watermark;
        self.segments.iter_mut().for_each(|segment| segment.flushed = segment.size);
    }

    /// Sealed segments whose index is to be written beside them, all of whose bytes are in their files.
    pub fn unindexed(&self) -> Vec<Segment> {
        let sealed = self.segments.len().saturating_sub(1);
        let due = |segment: &&Segment| !segment.indexed && segment.flushed == segment.size;
        self.segments[..sealed].iter().filter(due).cloned().collect()
    }

    /// The files beside a segment are written.
    pub fn set_indexed(&mut self, segment: Offset) {
        if let Some(found) = self.segments.iter_mut().rev().find(|found| found.base == segment) {
            found.indexed = true;
        }
    }

    /// The files beside a segment are synced; whether that makes a difference.
    pub fn forget_index(&mut self, segment: Offset, generation: u32) -> bool {
        let mut segments = self.segments.iter_mut().rev();
        let found = segments.find(|found| (found.base, found.generation) == (segment, generation) && found.indexed);
        found.is_some_and(|found| found.index.take().is_some())
    }

    /// How many segments there are and entries of indexes in memory.
    pub fn index_entries(&self) -> usize {
        let entries = |segment: &Segment| segment.index.as_ref().map_or(0, |index| index.entries.len());
        self.segments.iter().map(|segment| 1 + entries(segment)).sum()
    }

    /// The log holds something of a segment in this file.
    pub fn set_wal_file(&mut self, segment: Offset, wal_file: u32) {
        if let Some(found) = self.segments.iter_mut().rev().find(|found| found.base == segment) {
            found.wal_file = found.wal_file.max(wal_file);
        }
    }

    /// The largest timestamp of the segments that lie below `end`, and where the rest begins.
    pub fn timestamp_max_below(&self, end: Offset) -> (Option<i64>, Offset) {
        let whole = self.segments.partition_point(|segment| segment.next <= end);
        let below = &self.segments[..whole];
        // The one that holds the start counts with all it holds; what is below the start costs nothing but exactness.
        let first = below.iter().position(|segment| segment.base >= self.start).unwrap_or(whole);
        if first > 0 {
            return (None, self.start);
        }
        let max = below.iter().map(|segment| segment.max_timestamp_ms).filter(|max| *max >= 0).max();
        (max, below.last().map_or(self.start, |last| last.next))
    }

    /// The first segment in which a batch with a timestamp at or above this can lie, at or behind `from`, and from which
    /// offset on (none: the index in the file knows); `None`: nowhere.
    pub fn search(&self, at_ms: i64, from: Offset) -> Option<(&Segment, Option<Offset>)> {
        let found = self.first_shown(from, |segment| segment.max_timestamp_ms >= at_ms)?;
        let start = |index: &Index| Offset(found.base.0 + i64::from(index.offset_of_time(at_ms)));
        Some((found, found.index.as_ref().map(start)))
    }

    /// Whether the segment of this base and generation is still one of the log's.
    pub fn has(&self, segment: (Offset, u32)) -> bool {
        self.segments.iter().any(|found| (found.base, found.generation) == segment)
    }

    /// Whether it is, and not wholly below the log start.
    pub fn needs(&self, segment: (Offset, u32)) -> bool {
        self.segments.iter().any(|found| (found.base, found.generation) == segment && found.next > self.start)
    }

    pub fn insert_aborted(&mut self, aborted: Aborted) {
        let at = self.aborted.partition_point(|other| other.first <= aborted.first);
        self.aborted.insert(at, aborted);
    }

    /// The aborted ranges that touch `from..end`, by first offset.
    pub fn aborted_in(&self, from: Offset, end: Offset) -> Vec<Aborted> {
        let below = self.aborted.partition_point(|aborted| aborted.first < end);
        self.aborted[..below].iter().filter(|aborted| aborted.last >= from).copied().collect()
    }

    /// Moves the start.
    pub fn trim(&mut self, start: Offset) {
        self.start = self.start.max(start).min(self.high_watermark);
        let start = self.start;
        self.outgoing.retain(|outgoing| outgoing.end > start);
        self.aborted.retain(|aborted| aborted.last >= start);
        let epochs_gone = self.epochs.partition_point(|(_, begins)| *begins <= start).saturating_sub(1);
        self.epochs.drain(..epochs_gone);
    }

    /// Takes out the segments wholly below the start for which recovery needs no file of the write-ahead log any more,
    /// and what of them is in memory.
    pub fn take_trimmed(&mut self, wal_first: u32) -> (Vec<Segment>, Forgotten) {
        let below = |segment: &&Segment| segment.next <= self.start && segment.wal_file < wal_first;
        let count = self.segments.iter().take_while(below).count();
        let next = self.segments.get(count).map_or(self.start, |segment| segment.base);
        let forgotten = self.forget_hot(|batch| batch.base_offset() < next && count > 0);
        (self.segments.drain(..count).collect(), forgotten)
    }

    /// Takes the oldest batches out of memory while this is true of them.
    pub fn forget_hot(&mut self, goes: impl Fn(&Batch) -> bool) -> Forgotten {
        let mut forgotten = Forgotten::default();
        while let Some(batch) = self.hot.pop_front_if(|batch| goes(batch)) {
            forgotten.batches += 1;
            forgotten.bytes += batch.size();
        }
        forgotten
    }
}

/// Where a batch lies.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct BatchPlace {
    pub segment: Offset,
    pub position: u32,
    pub wal_file: u32,
    /// For a new segment.
    pub created_ms: i64,
    pub index_interval: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::NewRecord;
    use crate::record::build::Frame;

    /// Batches of so many records from offset 0 on, each of one epoch, in segments that begin at these offsets.
    fn view(counts: &[usize], segments: &[i64]) -> View {
        let mut view = View::default();
        let (mut base, mut segment, mut position) = (0, 0, 0);
        for (epoch, &count) in counts.iter().enumerate() {
            let frame = Frame { now_ms: base, producer: None, transactional: false, batch_bytes_max: 1 << 20 };
            let mut batch = Batch::build(&vec![NewRecord::default(); count], &frame).unwrap();
            batch.place(Offset(base), LeaderEpoch(epoch as i32));
            if segments.contains(&base) {
                (segment, position) = (base, 0);
            }
            let place =
                BatchPlace { segment: Offset(segment), position, wal_file: 1, created_ms: 0, index_interval: 1 };
            view.push(&batch, &place);
            position += batch.size() as u32;
            base += count as i64;
            view.hot.push_back(batch);
        }
        view
    }

    fn plan(view: &View, from: i64, up_to: i64, bytes_max: usize) -> String {
        match view.plan(Offset(from), Offset(up_to), bytes_max) {
            Ok(Plan::Hot(batches)) => {
                format!("hot {:?}", batches.iter().map(|b| b.base_offset().0).collect::<Vec<_>>())
            }
            Ok(Plan::Cold(cold)) => format!("cold {} at {:?} to {}", cold.segment.0, cold.position, cold.end),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn whole_batches_and_at_least_one_from_memory_and_from_files() {
        let mut view = view(&[10, 5, 1], &[0, 10]);
        assert_eq!(plan(&view, 0, 16, 1000), "hot [0, 10, 15]");
        assert_eq!(plan(&view, 9, 16, 1000), "hot [0, 10, 15]");
        assert_eq!(plan(&view, 10, 15, 1000), "hot [10]");
        assert_eq!(plan(&view, 3, 16, 1), "hot [0]");
        assert_eq!(plan(&view, 16, 16, 1000), "hot []");
        assert!(plan(&view, 17, 17, 1000).contains("outside"));
        let sizes: Vec<u32> = view.hot.iter().map(|batch| batch.size() as u32).collect();
        view.hot.drain(..2);
        view.set_flushed(Offset(0), sizes[0], Offset(10));
        view.set_flushed(Offset(10), sizes[1], Offset(15));
        assert_eq!(plan(&view, 3, 16, 1000), format!("cold 0 at Some(0) to {}", sizes[0]));
        assert_eq!(plan(&view, 12, 16, 1000), format!("cold 10 at Some(0) to {}", sizes[1]));
        assert_eq!(plan(&view, 15, 16, 1000), "hot [15]");
    }

    #[test]
    fn a_trim_moves_the_start_and_segments_go_behind_the_checkpoint() {
        let mut view = view(&[10, 5, 1], &[0, 10, 15]);
        view.trim(Offset(12));
        assert_eq!(view.take_trimmed(1).0.len(), 0);
        let in_memory = view.hot[0].size();
        let (gone, forgotten) = view.take_trimmed(2);
        assert_eq!(gone.iter().map(|s| s.base).collect::<Vec<_>>(), vec![Offset(0)]);
        assert_eq!(forgotten, Forgotten { batches: 1, bytes: in_memory });
        assert_eq!(view.hot.front().map(Batch::base_offset), Some(Offset(10)));
        assert!(plan(&view, 11, 16, 1000).contains("outside"));
        view.trim(Offset(5));
        assert_eq!(view.start, Offset(12));
        view.trim(Offset(99));
        assert_eq!(view.start, Offset(16));
        assert_eq!(view.take_trimmed(2).0.len(), 2);
    }

    #[test]
    fn epochs_below_the_start_go() {
        let mut view = view(&[10, 5, 1], &[0]);
        assert_eq!(view.epochs.len(), 3);
        view.trim(Offset(12));
        assert_eq!(view.epochs, vec![(LeaderEpoch(1), Offset(10)), (LeaderEpoch(2), Offset(15))]);
    }

    #[test]
    fn aborted_ranges_stay_sorted_by_first_offset() {
        let mut view = view(&[100], &[0]);
        for (producer_id, first, last) in [(1, 50, 60), (2, 10, 70), (3, 30, 31)] {
            view.insert_aborted(Aborted { producer_id, first: Offset(first), last: Offset(last) });
        }
        let ids =
            |from, end| view.aborted_in(Offset(from), Offset(end)).iter().map(|a| a.producer_id).collect::<Vec<_>>();
        assert_eq!(ids(0, 100), vec![2, 3, 1]);
        assert_eq!(ids(32, 50), vec![2]);
        assert_eq!(ids(71, 100), Vec::<i64>::new());
    }
}
