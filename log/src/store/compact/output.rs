//! The segment that takes the place of others: its files, in a directory of their own, synced before anybody is told.

use std::io::IoSlice;
use std::sync::Arc;

use super::task::Halt;
use crate::env::{Disk, File, Open};
use crate::record::Batch;
use crate::store::cold;
use crate::store::handles::{Handles, Name};
use crate::store::layout::Suffix;
use crate::store::partition::{Aborted, Partition};
use crate::store::seal;
use crate::store::segment::Segment;

/// See the module. One that is dropped before it is finished leaves its files behind.
pub(super) struct Output {
    name: Name,
    log: Arc<dyn File>,
    segment: Segment,
    /// Every batch was handed on as it came.
    same: bool,
    /// What is on its way to the disk: where it begins, and its bytes.
    under_way: (u64, u64),
}

impl Output {
    /// Begins the segment that takes the place of `group`; none when the partition is deleted.
    pub fn begin(
        disk: &dyn Disk,
        handles: &Handles,
        partition: &Partition,
        group: &[Segment],
        generation: u32,
        index_interval: u32,
    ) -> Result<Option<Output>, Halt> {
        let first = &group[0];
        let segment = Segment { generation, ..Segment::new(first.base, first.created_ms, index_interval) };
        let name = Name { partition: partition.id, segment: segment.base, generation, suffix: Suffix::Log };
        let log = {
            // With the partition its directory goes, and must not come back.
            let _shape = handles.shape();
            if partition.is_closed() {
                return Ok(None);
            }
            disk.create_dir(&handles.generation(name.partition, generation)).map_err(Halt::of_call)?;
            disk.open(&handles.path(name), Open::Create).map_err(Halt::of_call)?
        };
        Ok(Some(Output { name, log, segment, same: group.len() == 1, under_way: (0, 0) }))
    }

    /// Writes what is left of some batches, all at once. It is brought to the disk as it comes: producers would wait behind
    /// the sync of a whole segment.
    pub fn write(&mut self, batches: &[Batch]) -> Result<(), Halt> {
        let from = self.segment.size;
        let bytes = batches.iter().map(Batch::size).sum::<usize>();
        if bytes > (i32::MAX as u32 - from) as usize {
            // Packed anew it may have grown; an index cannot tell of more.
            return Err(Halt::TooLarge);
        }
        for batch in batches {
            self.segment.push(batch, self.segment.size, 0);
        }
        let slices: Vec<IoSlice<'_>> =
            batches.iter().flat_map(|batch| [IoSlice::new(batch.header()), IoSlice::new(batch.body())]).collect();
        if slices.is_empty() {
            return Ok(());
        }
        self.log.write_at(u64::from(from), &slices).map_err(Halt::of_write)?;
        let written = (u64::from(from), bytes as u64);
        self.log.start_writeback(written.0, written.1).map_err(Halt::of_sync)?;
        let (from, bytes) = std::mem::replace(&mut self.under_way, written);
        self.log.await_writeback(from, bytes).map_err(Halt::of_sync)
    }

    /// Something is left out or different.
    pub fn changed(&mut self) {
        self.same = false;
    }

    /// Whether it would only stand for itself.
    pub fn is_same(&self) -> bool {
        self.same
    }

    /// Writes the files beside and makes all of it durable; none when nothing is left. Also returns how many bytes are
    /// beside. `before`: what the snapshot of producers is taken from. `aborted`: the partition's, as they are when this
    /// one is in its place.
    pub fn finish(
        mut self,
        disk: &dyn Disk,
        handles: &Handles,
        partition: &Partition,
        before: &Segment,
        aborted: &[Aborted],
    ) -> Result<Option<(Segment, usize)>, Halt> {
        if self.segment.size == 0 {
            return Ok(None);
        }
        self.log.sync_data().map_err(Halt::of_sync)?;
        let mut beside = seal::indexes(&self.segment, aborted);
        let Name { partition: id, segment: base, .. } = self.name;
        let snapshot = Name { partition: id, segment: base, generation: before.generation, suffix: Suffix::Snapshot };
        beside.extend(cold::beside(disk, handles, snapshot)?.map(|bytes| (Suffix::Snapshot, bytes)));
        let beside_bytes = beside.iter().map(|(_, bytes)| bytes.len()).sum();
        for (suffix, bytes) in beside {
            let path = handles.path(Name { suffix, ..self.name });
            let file = {
                let _shape = handles.shape();
                if partition.is_closed() {
                    return Ok(None);
                }
                disk.open(&path, Open::Create).map_err(Halt::of_call)?
            };
            file.write_at(0, &[IoSlice::new(&bytes)]).map_err(Halt::of_write)?;
            file.sync_data().map_err(Halt::of_sync)?;
        }
        disk.sync_dir(&handles.generation(id, self.name.generation)).map_err(Halt::of_sync)?;
        disk.sync_dir(&handles.directory(id)).map_err(Halt::of_sync)?;
        self.segment.flushed = self.segment.size;
        (self.segment.index, self.segment.indexed) = (None, true);
        Ok(Some((self.segment, beside_bytes)))
    }
}
