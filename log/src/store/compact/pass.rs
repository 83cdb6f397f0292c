//! One pass over one partition: its dirty segments are read for their keys, then all of them are written anew, a group of
//! neighbours at a time, each of which takes its place as soon as it is durable.

use std::io;
use std::sync::Arc;

use super::Unreadable;
use super::clean::{Cleaner, Retain, Stats};
use super::due::{Work, grouped};
use super::map::{OffsetMap, SLOT_BYTES};
use super::mapping::{Mapped, Mapping};
use super::output::Output;
use super::swap::{Refused, Replaced, Swap};
use super::task::{Compactor, Halt};
use crate::Error;
use crate::record::{Batch, Offset};
use crate::store::cold::Sequential;
use crate::store::config::PartitionConfig;
use crate::store::handles::Name;
use crate::store::layout::Suffix;
use crate::store::partition::{Aborted, Partition};
use crate::store::segment::Segment;

/// Bytes read at once, or one batch where that is larger.
const CHUNK: usize = 1024 * 1024;

/// What a pass did.
pub(super) struct Done {
    pub stats: Stats,
    /// There were more keys than the map holds: another pass is due at once.
    pub full: bool,
}

impl Compactor {
    pub(super) async fn pass(&mut self, partition: &Arc<Partition>, work: &Work) -> Result<Done, Halt> {
        let config = partition.config();
        let now_ms = self.env.now_ms();
        // All that have a record below the end, for that is below the last stable offset.
        let aborted = partition.read_view().aborted.clone();
        let last_batches = self.last_batches(partition.id).await?;
        let mapped = Arc::new(self.map(partition, work, &aborted).await?);
        let retain = Retain {
            mapped: Arc::clone(&mapped),
            last_batches,
            high_watermark: partition.bounds().high_watermark,
            delete_retention_ms: config.delete_retention_ms,
            now_ms,
        };
        let mut cleaner = Cleaner::new(retain, &aborted);
        let below = work.segments.partition_point(|segment| segment.base < mapped.end);
        for group in grouped(&work.segments[..below], config.segment_bytes) {
            cleaner = self.replace(partition, &config, group, cleaner).await?;
        }
        let stats = cleaner.finish().stats;
        partition.set_cleaned(mapped.end, stats.next_ms);
        Ok(Done { stats, full: mapped.full })
    }

    /// The last offset of each key in the dirty part, as far as memory goes.
    async fn map(&self, partition: &Arc<Partition>, work: &Work, aborted: &[Aborted]) -> Result<Mapped, Halt> {
        // No more slots than there can be keys: memory that is not needed is not touched.
        let offsets = usize::try_from(work.end.0 - work.first_dirty.0).unwrap_or(usize::MAX);
        let slots = offsets.saturating_add(offsets / 8).saturating_add(2);
        let bytes = slots.saturating_mul(SLOT_BYTES).min(self.config.map_bytes.max(2 * SLOT_BYTES));
        let map = OffsetMap::new(bytes, self.env.random_u64());
        let mut mapping = Mapping::new(map, work.first_dirty, work.end, aborted);
        for segment in work.segments.iter().filter(|segment| segment.next > work.first_dirty) {
            let mut source = self.source(partition, segment).await?;
            loop {
                self.goes_on()?;
                let shared = Arc::clone(&self.shared);
                let read = move || -> Result<_, Halt> {
                    let batches = source.next(&shared.handles, CHUNK)?;
                    let mut flow = std::ops::ControlFlow::Continue(());
                    for batch in &batches {
                        flow = mapping.add(batch)?;
                        if flow.is_break() {
                            break;
                        }
                    }
                    let read = source.bytes_read;
                    Ok((source, mapping, flow, read))
                };
                let (flow, bytes);
                (source, mapping, flow, bytes) = self.env.offload(read).await?;
                if bytes == 0 {
                    break;
                }
                self.shared.compaction.read(bytes);
                // The last bytes are paid for like all others.
                self.pause(bytes).await?;
                if flow.is_break() {
                    return Ok(mapping.finish());
                }
            }
        }
        Ok(mapping.finish())
    }

    async fn source(&self, partition: &Arc<Partition>, segment: &Segment) -> Result<Sequential, Halt> {
        let Segment { base, generation, size, next, .. } = *segment;
        let name = Name { partition: partition.id, segment: base, generation, suffix: Suffix::Log };
        let (shared, disk) = (Arc::clone(&self.shared), self.env.disk());
        match self.env.offload(move || Sequential::open(&*disk, &shared.handles, name, size, next)).await {
            Err(Error::Io(error))
                if error.kind() == io::ErrorKind::NotFound
                    && !partition.is_closed()
                    && partition.read_view().has((base, generation)) =>
            {
                let place = self.shared.handles.path(name).display().to_string();
                Err(Halt::Aside(Error::Corrupt { place, detail: "the file of a segment is missing".to_owned() }))
            }
            source => Ok(source?),
        }
    }

    /// Writes a group anew and puts that into its place.
    async fn replace(
        &mut self,
        partition: &Arc<Partition>,
        config: &PartitionConfig,
        group: &[Segment],
        cleaner: Cleaner,
    ) -> Result<Cleaner, Halt> {
        let generation = self.next_generation(partition.id);
        let replaced = self.try_replace(partition, config, group, cleaner, generation).await;
        // What did not get its place is of no use to anybody.
        let unused = match &replaced {
            Ok((_, kept)) => !kept,
            Err(halt) => !matches!(halt, Halt::Stopped | Halt::Failed(_)),
        };
        if unused {
            // Where that does not work it is remembered.
            let _ = self.discard(Replaced { partition: partition.id, base: Offset(0), generation, size: 0 }).await;
        }
        Ok(replaced?.0)
    }

    /// And whether the new segment is in use.
    async fn try_replace(
        &mut self,
        partition: &Arc<Partition>,
        config: &PartitionConfig,
        group: &[Segment],
        cleaner: Cleaner,
        generation: u32,
    ) -> Result<(Cleaner, bool), Halt> {
        let begin = {
            let (shared, disk, partition) = (Arc::clone(&self.shared), self.env.disk(), Arc::clone(partition));
            let (group, interval) = (group.to_vec(), config.index_interval_bytes);
            move || Output::begin(&*disk, &shared.handles, &partition, &group, generation, interval)
        };
        let begun = self.env.offload(begin).await?;
        let output = begun.ok_or(Halt::Later("it was deleted"))?;
        let (cleaner, output) = self.write(partition, group, cleaner, output).await?;
        if output.is_same() {
            return Ok((cleaner, false));
        }
        let end = group.last().map_or(Offset(0), |last| last.next);
        let void = cleaner.void(end);
        let left = partition.read_view().aborted.iter().filter(|a| !void.contains(a)).copied().collect::<Vec<_>>();
        let finish = {
            let (shared, disk, partition) = (Arc::clone(&self.shared), self.env.disk(), Arc::clone(partition));
            let before = group[0].clone();
            move || output.finish(&*disk, &shared.handles, &partition, &before, &left)
        };
        let (new, beside) = self.env.offload(finish).await?.unzip();
        let kept = new.is_some();
        let forgotten = partition.swap(&Swap { old: group.to_vec(), new, void }).map_err(|refused| match refused {
            Refused::Held => Halt::Later("it is held"),
            Refused::Gone => Halt::Later("it was trimmed or deleted"),
        })?;
        self.shared.tail.forgotten(forgotten);
        self.shared.compaction.replaced(group.len());
        self.shared.cursors.forget(partition.id);
        self.replaced.extend(group.iter().map(|old| {
            let Segment { base, generation, size, .. } = *old;
            Replaced { partition: partition.id, base, generation, size }
        }));
        let beside = beside.unwrap_or(0);
        self.shared.compaction.wrote(beside);
        self.pause(beside).await?;
        Ok((cleaner, kept))
    }

    async fn write(
        &self,
        partition: &Arc<Partition>,
        group: &[Segment],
        mut cleaner: Cleaner,
        mut output: Output,
    ) -> Result<(Cleaner, Output), Halt> {
        for segment in group {
            let mut source = self.source(partition, segment).await?;
            loop {
                self.goes_on()?;
                let (shared, disk, room) = (Arc::clone(&self.shared), self.env.disk(), self.room.clone());
                let step = move || -> Result<_, Halt> {
                    let batches = source.next(&shared.handles, CHUNK)?;
                    let bytes = source.bytes_read;
                    let left = clean(&mut cleaner, batches, &mut output)?;
                    // The reserve is not for this.
                    room.look(&*disk, &shared.flush);
                    if shared.flush.is_full() {
                        return Err(Halt::Full);
                    }
                    output.write(&left)?;
                    Ok((source, cleaner, output, bytes, bytes_of(&left)))
                };
                let (bytes_in, bytes_out);
                (source, cleaner, output, bytes_in, bytes_out) = self.env.offload(step).await?;
                self.shared.compaction.read(bytes_in);
                self.shared.compaction.wrote(bytes_out);
                if bytes_in == 0 {
                    break;
                }
                self.pause(bytes_in + bytes_out).await?;
            }
        }
        Ok((cleaner, output))
    }
}

fn clean(cleaner: &mut Cleaner, batches: Vec<Batch>, output: &mut Output) -> Result<Vec<Batch>, Unreadable> {
    let mut left = Vec::with_capacity(batches.len());
    for batch in batches {
        // The checksum of everything behind it is in the header.
        let header = *batch.header();
        let cleaned = cleaner.clean(batch)?;
        if cleaned.as_ref().is_none_or(|cleaned| *cleaned.header() != header) {
            output.changed();
        }
        left.extend(cleaned);
    }
    Ok(left)
}

fn bytes_of(batches: &[Batch]) -> usize {
    batches.iter().map(Batch::size).sum()
}
