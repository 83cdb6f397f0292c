//! What compaction has written takes the place of what it read, for readers in one step; and what a crash has left of a
//! pass goes.
//!
//! Nothing is renamed: each compacted segment has a directory of its own, and it is the checkpoint that names it. A crash
//! before that checkpoint finds the old segments, whose files go only afterwards; a crash behind it finds the new one.
//! Readers see the old ones until then, or a crash would bring back what they have seen to be gone.
//! Entries of the write-ahead log that lie below [`Compaction::swapped`] belong to files that are gone, and count for
//! nothing in recovery.

use std::collections::BTreeSet;
use std::io;

use super::super::partition::{Aborted, Compaction, Forgotten, Partition, View};
use super::aborted::Void;
use crate::env::Disk;
use crate::record::{Offset, TopicPartition};
use crate::store::handles::Handles;
use crate::store::layout;
use crate::store::segment::Segment;

/// A group of neighbours, and what takes their place.
#[derive(Debug)]
pub(crate) struct Swap {
    pub(in crate::store) old: Vec<Segment>,
    /// None: nothing of them is left.
    pub(in crate::store) new: Option<Segment>,
    /// Aborted transactions of which nothing is left.
    pub void: Void,
}

/// Segments that were replaced and that readers still see: no checkpoint names yet what takes their place.
#[derive(Debug)]
pub(in crate::store) struct Outgoing {
    /// By offset.
    pub old: Vec<Segment>,
    pub end: Offset,
    void: Vec<Void>,
}

impl Outgoing {
    fn first(&self) -> Offset {
        self.old[0].base
    }

    /// Whether what takes their place begins here.
    pub fn covers(&self, base: Offset) -> bool {
        (self.first()..self.end).contains(&base)
    }

    /// Whether nothing is left of the transaction once readers see that.
    pub fn is_void(&self, aborted: &Aborted) -> bool {
        self.void.iter().any(|void| void.contains(aborted))
    }
}

/// Why a swap was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Somebody has laid a claim on the records since the pass began.
    Held,
    /// The segments were trimmed away, or the partition was deleted.
    Gone,
}

impl Partition {
    /// Makes the swap, or nothing. Returns what went from memory.
    pub(in crate::store) fn swap(&self, swap: &Swap) -> Result<Forgotten, Refused> {
        let end = swap.old.last().map_or(Offset(0), |last| last.next);
        let forgotten = self
            .unless_held(end, |view| if self.is_closed() { Err(Refused::Gone) } else { view.swap(swap, end) })
            .unwrap_or(Err(Refused::Held))?;
        // Only now: a checkpoint in between would have taken note without the change.
        self.touch();
        Ok(forgotten)
    }

    /// A checkpoint names what was swapped so far: readers see it, but for what somebody has laid a claim on meanwhile.
    /// Whether that is all of it.
    pub(in crate::store) fn show_swapped(&self) -> bool {
        let ends: Vec<Offset> = self.read_view().outgoing.iter().map(|outgoing| outgoing.end).collect();
        ends.into_iter().all(|end| self.unless_held(end, |view| view.show_swapped(end)).is_some())
    }

    /// A pass has come to its end.
    pub(in crate::store) fn set_cleaned(&self, cleaned: Offset, next_ms: Option<i64>) {
        {
            let mut view = self.write_view();
            let compaction = Compaction { cleaned: view.compaction.cleaned.max(cleaned), next_ms, ..view.compaction };
            view.compaction = compaction;
        }
        self.touch();
    }
}

impl View {
    fn swap(&mut self, swap: &Swap, end: Offset) -> Result<Forgotten, Refused> {
        let Swap { old, new, void } = swap;
        let first = old.first().ok_or(Refused::Gone)?.base;
        let at = self.segments.partition_point(|segment| segment.base < first);
        let there = self.segments.get(at..at + old.len()).ok_or(Refused::Gone)?;
        let same = |(there, old): (&Segment, &Segment)| {
            (there.base, there.generation, there.size) == (old.base, old.generation, old.size)
        };
        if !there.iter().zip(old).all(same) {
            return Err(Refused::Gone);
        }
        assert!(at + old.len() < self.segments.len(), "the active segment is never replaced");
        self.segments.splice(at..at + old.len(), new.clone());
        self.keep_shown(old, end, void.clone());
        // Readers see all of it from the files, or some would see what others do not.
        let forgotten = self.forget_hot(|batch| batch.next_offset() <= end);
        self.compaction.swapped = self.compaction.swapped.max(end);
        Ok(forgotten)
    }

    /// What has replaced others before and is replaced now was never seen.
    fn keep_shown(&mut self, old: &[Segment], end: Offset, void: Void) {
        let first = self.outgoing.partition_point(|outgoing| outgoing.end <= old[0].base);
        let behind = self.outgoing.partition_point(|outgoing| outgoing.first() < end);
        let mut shown = Outgoing { old: Vec::new(), end, void: vec![void] };
        shown.old.extend(old.iter().filter(|old| !self.outgoing.iter().any(|o| o.covers(old.base))).cloned());
        for before in self.outgoing.drain(first..behind) {
            shown.old.extend(before.old);
            shown.void.extend(before.void);
        }
        shown.old.sort_by_key(|segment| segment.base);
        self.outgoing.insert(first, shown);
    }

    fn show_swapped(&mut self, end: Offset) {
        let count = self.outgoing.partition_point(|outgoing| outgoing.end <= end);
        let shown: Vec<Outgoing> = self.outgoing.drain(..count).collect();
        self.aborted.retain(|aborted| !shown.iter().any(|outgoing| outgoing.is_void(aborted)));
    }
}

/// Removes files of the partition that belong to none of its segments: of a pass that a crash has ended, or of segments
/// that were replaced before it. To be called before the first pass since the start. Returns the highest generation there is.
pub(in crate::store) fn sweep(disk: &dyn Disk, handles: &Handles, partition: &Partition) -> io::Result<u32> {
    let directory = handles.directory(partition.id);
    // The list first: whatever is begun later is in the view, or not in the list.
    let listed = disk.list(&directory)?;
    let known: BTreeSet<(Offset, u32)> =
        partition.read_view().segments.iter().map(|segment| (segment.base, segment.generation)).collect();
    let mut newest = known.iter().map(|(_, generation)| *generation).max().unwrap_or(0);
    let mut gone: BTreeSet<(Offset, u32)> = BTreeSet::new();
    for path in listed {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if let Some(generation) = layout::parse_compacted_dir(name) {
            newest = newest.max(generation);
            if !known.iter().any(|(_, known)| *known == generation) {
                gone.insert((Offset(0), generation));
            }
        } else if let Some((base, _)) = layout::parse_segment_file(name)
            && !known.contains(&(base, 0))
        {
            gone.insert((base, 0));
        }
    }
    for (base, generation) in gone {
        tracing::info!(partition = ?partition.id, base = base.0, generation, "what is left of a replaced segment is removed");
        handles.remove(disk, partition.id, base, generation)?;
    }
    Ok(newest)
}

/// A segment that was replaced, whose files go when the next checkpoint is in force.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Replaced {
    pub partition: TopicPartition,
    pub base: Offset,
    pub generation: u32,
    pub size: u32,
}
