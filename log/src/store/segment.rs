//! A partition's segments as they are known in memory: which offsets and bytes each holds, and a sparse index of it.
//!
//! The files are Kafka's: `topics/<topic-id>/<partition>/<base offset>.log` holds the batches one behind the other.

use std::path::{Path, PathBuf};

use super::layout;
use crate::record::{Batch, Offset, TopicPartition};

/// Entries of an index in memory; beyond, every second one goes and the interval doubles. 24 KiB, and at most 2 MiB of a
/// segment of 1 GiB to look through behind an entry.
const ENTRIES_MAX: usize = 1024;

/// One segment. All but the last of a partition are sealed: nothing is appended to them any more.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    /// Names the file; no record in it is below.
    pub base: Offset,
    /// 0, or which of the partition's compacted segments it is: these have a directory of their own.
    pub generation: u32,
    /// The offset behind its last record.
    pub next: Offset,
    /// Bytes of whole batches.
    pub size: u32,
    /// Of these, how many are in the file.
    pub flushed: u32,
    pub max_timestamp_ms: i64,
    /// The last offset of the first batch with that timestamp, counted from the base.
    pub max_timestamp_relative: u32,
    /// When its first batch was appended, by the log's clock.
    pub created_ms: i64,
    /// The newest file of the write-ahead log with something of it.
    pub wal_file: u32,
    /// None: it lies in the files beside the segment.
    pub index: Option<Index>,
    /// Those files are written, if not synced.
    pub indexed: bool,
}

/// Sparse: an entry for about every `interval` bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Index {
    pub interval: u32,
    pub entries: Vec<IndexEntry>,
}

/// Where a batch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IndexEntry {
    /// Offset of the batch, counted from the segment's base.
    pub relative: u32,
    /// The last offset of the batch, counted likewise.
    pub last_relative: u32,
    pub position: u32,
    /// The largest timestamp in front of the batch, and the last offset of the first batch that has it, counted likewise.
    pub before_ms: i64,
    pub before_relative: u32,
}

impl Segment {
    pub fn new(base: Offset, created_ms: i64, interval: u32) -> Segment {
        Segment {
            base,
            generation: 0,
            next: base,
            size: 0,
            flushed: 0,
            max_timestamp_ms: -1,
            max_timestamp_relative: 0,
            created_ms,
            wal_file: 0,
            index: Some(Index { interval: interval.max(1), entries: Vec::new() }),
            indexed: false,
        }
    }

    /// Takes note of a batch at the end; of one that is known already nothing changes.
    pub fn push(&mut self, batch: &Batch, position: u32, wal_file: u32) {
        self.wal_file = self.wal_file.max(wal_file);
        if position < self.size {
            return;
        }
        assert_eq!(position, self.size, "batches lie one behind the other");
        assert!(batch.base_offset() >= self.next, "offsets go up");
        let relative = (batch.base_offset().0 - self.base.0) as u32;
        if let Some(index) = &mut self.index {
            let (before_ms, before_relative) = (self.max_timestamp_ms, self.max_timestamp_relative);
            let last_relative = (batch.last_offset().0 - self.base.0) as u32;
            index.push(IndexEntry { relative, last_relative, position, before_ms, before_relative });
        }
        // Of a batch that compaction has emptied only the producer counts.
        if batch.record_count() > 0 && batch.max_timestamp_ms() > self.max_timestamp_ms {
            self.max_timestamp_ms = batch.max_timestamp_ms();
            self.max_timestamp_relative = (batch.last_offset().0 - self.base.0) as u32;
        }
        self.size = position + batch.size() as u32;
        self.next = batch.next_offset();
    }
}

impl Index {
    fn push(&mut self, entry: IndexEntry) {
        let due = self.entries.last().is_none_or(|last| entry.position - last.position >= self.interval);
        if !due {
            return;
        }
        self.entries.push(entry);
        if self.entries.len() > ENTRIES_MAX {
            let mut keep = false;
            self.entries.retain(|_| {
                keep = !keep;
                keep
            });
            let spread = self.entries.last().map_or(0, |last| last.position / self.entries.len() as u32);
            self.interval = self.interval.saturating_mul(2).max(spread);
        }
    }

    /// Where to begin to look for the batch that holds `relative`: not behind it.
    pub fn position(&self, relative: u32) -> u32 {
        let at = self.entries.partition_point(|entry| entry.relative <= relative);
        at.checked_sub(1).map_or(0, |at| self.entries[at].position)
    }

    /// The offset, counted from the base, where to begin to look for a timestamp at or above this: every batch in front
    /// is below.
    pub fn offset_of_time(&self, timestamp_ms: i64) -> u32 {
        let at = self.entries.partition_point(|entry| entry.before_ms < timestamp_ms);
        at.checked_sub(1).map_or(0, |at| self.entries[at].relative)
    }
}

/// Where the files of a data directory's partitions lie.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub topics: PathBuf,
}

impl Place {
    pub fn new(data_dir: &Path) -> Place {
        Place { topics: data_dir.join("topics") }
    }

    pub fn topic(&self, partition: TopicPartition) -> PathBuf {
        self.topics.join(layout::topic_dir(partition.topic))
    }

    pub fn partition(&self, partition: TopicPartition) -> PathBuf {
        self.topic(partition).join(layout::partition_dir(partition.partition))
    }

    /// Where the files of a segment of this generation lie.
    pub fn generation(&self, partition: TopicPartition, generation: u32) -> PathBuf {
        let directory = self.partition(partition);
        if generation == 0 { directory } else { directory.join(layout::compacted_dir(generation)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_thins_out_and_still_finds() {
        let mut index = Index { interval: 1, entries: Vec::new() };
        for i in 0..5000u32 {
            let before_ms = i64::from(i) - 1;
            let (relative, last_relative, position) = (i * 10, i * 10 + 9, i * 100);
            index.push(IndexEntry { relative, last_relative, position, before_ms, before_relative: i });
        }
        assert!(index.entries.len() <= ENTRIES_MAX + 1, "{}", index.entries.len());
        for i in 0..5000u32 {
            let position = index.position(i * 10 + 3);
            assert!(position <= i * 100 && i * 100 - position <= 900, "{i}: {position}");
            let relative = index.offset_of_time(i64::from(i));
            assert!(relative <= i * 10 && i * 10 - relative <= 160, "{i}: {relative}");
        }
    }
}
