//! Finding records by time.

use std::sync::Arc;

use super::handles::Name;
use super::layout::Suffix;
use super::partition::Partition;
use super::{Store, cold};
use crate::Error;
use crate::record::{Batch, Offset};

/// Bytes looked through at once.
const CHUNK: usize = 1024 * 1024;

impl Store {
    /// The first batch that ends behind `from`, begins below `end` and holds a timestamp at or above this.
    pub async fn find_timestamp(
        &self,
        partition: &Arc<Partition>,
        at_ms: i64,
        from: Offset,
        end: Offset,
    ) -> Result<Option<Batch>, Error> {
        let mut at = from;
        while at < end {
            // Segments without such a timestamp are passed over, and the beginning of the first with one by its index.
            let (name, start) = {
                let view = partition.read_view();
                let Some((segment, start)) = view.search(at_ms, at) else { return Ok(None) };
                let (segment, generation) = (segment.base, segment.generation);
                (Name { partition: partition.id, segment, generation, suffix: Suffix::Log }, start)
            };
            let start = match start {
                Some(start) => start,
                None => self.start_in_file(partition, name, at_ms, at).await?,
            };
            at = at.max(start);
            let read = self.read(partition, at, end, CHUNK).await?;
            let found = read.batches.into_iter().find(|batch| batch.max_timestamp_ms() >= at_ms);
            if found.is_some() {
                return Ok(found);
            }
            if read.next <= at {
                return Ok(None);
            }
            at = read.next;
        }
        Ok(None)
    }

    /// Behind which offset a timestamp at or above this can lie, not below `from`.
    async fn start_in_file(
        &self,
        partition: &Arc<Partition>,
        name: Name,
        at_ms: i64,
        from: Offset,
    ) -> Result<Offset, Error> {
        let (shared, disk) = (Arc::clone(&self.shared), self.env.disk());
        let find = move || cold::time_in_file(&*disk, &shared.handles, name, at_ms);
        let entry = self.shared.history.read(&self.env, CHUNK, find).await?;
        let Some(entry) = entry else { return Ok(from) };
        let last = Offset(name.segment.0 + i64::from(entry.relative_offset));
        if last < from || last >= partition.bounds().high_watermark {
            return Ok(from);
        }
        // No checksum protects an index: it is believed where its batch says the same.
        let read = self.read(partition, last, Offset(last.0 + 1), 1).await?;
        let told = |batch: &Batch| batch.last_offset() == last && batch.max_timestamp_ms() == entry.timestamp_ms;
        Ok(if read.batches.first().is_some_and(told) { Offset(last.0 + 1) } else { from })
    }

    /// The largest timestamp among the batches below `end`.
    pub async fn timestamp_max(&self, partition: &Arc<Partition>, end: Offset) -> Result<Option<i64>, Error> {
        let (mut max, mut at) = partition.read_view().timestamp_max_below(end);
        while at < end {
            let read = self.read(partition, at, end, CHUNK).await?;
            let with_records = read.batches.iter().filter(|batch| batch.record_count() > 0);
            max = with_records.map(Batch::max_timestamp_ms).chain(max).max();
            if read.next <= at {
                break;
            }
            at = read.next;
        }
        Ok(max)
    }
}
