//! The files beside a segment, as Kafka's tools read them: written when it begins and when it is sealed.

use std::io::{self, IoSlice};
use std::sync::Arc;

use super::handles::{Handles, Name};
use super::layout::txn_index::AbortedTxn;
use super::layout::{Suffix, epochs, offset_index, partition_metadata, producer_snapshot, time_index, txn_index};
use super::partition::{Aborted, Partition};
use super::producers::Producers;
use super::segment::Segment;
use crate::env::Disk;
use crate::record::Offset;

/// The first batches of a segment are in its file. `producers`: those known in front of it, where it is not the first.
pub(super) fn begin(
    disk: &dyn Disk,
    handles: &Handles,
    partition: &Arc<Partition>,
    segment: Offset,
    producers: Option<&Producers>,
) -> io::Result<()> {
    let Some(producers) = producers else { return Ok(()) };
    let name = Name { partition: partition.id, segment, generation: 0, suffix: Suffix::Snapshot };
    write(disk, handles, name, &producer_snapshot::encode(&producers.snapshot()))
}

/// Writes the indexes of segments that are sealed and in their files.
pub(super) fn end(disk: &dyn Disk, handles: &Handles, partition: &Arc<Partition>) -> io::Result<()> {
    let (segments, aborted) = {
        let view = partition.read_view();
        (view.unindexed(), view.aborted.clone())
    };
    for segment in segments {
        write_indexes(disk, handles, partition, &segment, &aborted)?;
        partition.write_view().set_indexed(segment.base);
    }
    Ok(())
}

fn write_indexes(
    disk: &dyn Disk,
    handles: &Handles,
    partition: &Arc<Partition>,
    segment: &Segment,
    aborted: &[Aborted],
) -> io::Result<()> {
    let Segment { base, generation, .. } = *segment;
    for (suffix, bytes) in indexes(segment, aborted) {
        write(disk, handles, Name { partition: partition.id, segment: base, generation, suffix }, &bytes)?;
    }
    Ok(())
}

/// The files beside a segment whose index is in memory; one of aborted transactions only where there are any.
pub(super) fn indexes(segment: &Segment, aborted: &[Aborted]) -> Vec<(Suffix, Vec<u8>)> {
    let mut files = vec![
        (Suffix::Index, offset_index::encode(&offsets(segment))),
        (Suffix::TimeIndex, time_index::encode(&times(segment))),
    ];
    let inside = |range: &&Aborted| range.last >= segment.base && range.last < segment.next;
    let mut transactions: Vec<AbortedTxn> =
        aborted.iter().filter(inside).map(|range| transaction(range, aborted)).collect();
    transactions.sort_by_key(|transaction| transaction.last_offset);
    if !transactions.is_empty() {
        files.push((Suffix::TxnIndex, txn_index::encode(&transactions)));
    }
    files
}

fn offsets(segment: &Segment) -> Vec<offset_index::Entry> {
    let entries = segment.index.iter().flat_map(|index| &index.entries);
    let entry =
        |e: &super::segment::IndexEntry| offset_index::Entry { relative_offset: e.last_relative, position: e.position };
    entries.map(entry).collect()
}

/// Timestamps go up, and the last entry has the segment's largest.
fn times(segment: &Segment) -> Vec<time_index::Entry> {
    let before = segment.index.iter().flat_map(|index| &index.entries).map(|e| (e.before_ms, e.before_relative));
    let mut found: Vec<time_index::Entry> = Vec::new();
    for (timestamp_ms, relative_offset) in before.chain([(segment.max_timestamp_ms, segment.max_timestamp_relative)]) {
        let rises = found.last().is_none_or(|last| last.timestamp_ms < timestamp_ms);
        if timestamp_ms >= 0 && rises {
            found.push(time_index::Entry { timestamp_ms, relative_offset });
        }
    }
    found
}

/// The last stable offset when the marker came: where the oldest of the transactions began that were open then.
fn transaction(range: &Aborted, aborted: &[Aborted]) -> AbortedTxn {
    let open = aborted.iter().filter(|other| other.first < range.last && other.last > range.last);
    let last_stable_offset = open.map(|other| other.first).min().unwrap_or(Offset(range.last.0 + 1));
    AbortedTxn {
        producer_id: range.producer_id,
        first_offset: range.first,
        last_offset: range.last,
        last_stable_offset,
    }
}

/// What Kafka's tools want to know of the whole partition; for a clean stop.
pub(super) fn describe(disk: &dyn Disk, handles: &Handles, partition: &Arc<Partition>) -> io::Result<()> {
    let starts: Vec<epochs::EpochStart> = {
        let view = partition.read_view();
        if view.segments.is_empty() {
            return Ok(());
        }
        view.epochs.iter().map(|(epoch, start)| epochs::EpochStart { epoch: *epoch, start: *start }).collect()
    };
    let directory = handles.directory(partition.id);
    let metadata = partition_metadata::encode(partition.id.topic);
    for (file, text) in [(epochs::FILE, epochs::encode(&starts)), (partition_metadata::FILE, metadata)] {
        let path = directory.join(file);
        match disk.unlink(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        disk.open(&path, crate::env::Open::Create)?.write_at(0, &[IoSlice::new(text.as_bytes())])?;
    }
    Ok(())
}

fn write(disk: &dyn Disk, handles: &Handles, name: Name, bytes: &[u8]) -> io::Result<()> {
    let file = handles.for_writing(disk, name)?;
    file.set_len(0)?;
    file.write_at(0, &[IoSlice::new(bytes)])?;
    handles.written(name, file, 0, bytes.len() as u32);
    Ok(())
}
