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
                None => self.start_in_file(name, at_ms).await?,
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

    async fn start_in_file(&self, name: Name, at_ms: i64) -> Result<Offset, Error> {
        let (shared, disk) = (Arc::clone(&self.shared), self.env.disk());
        let find = move || cold::offset_of_time(&*disk, &shared.handles, name, at_ms);
        let relative = self.shared.history.read(&self.env, CHUNK, find).await?;
        Ok(Offset(name.segment.0 + i64::from(relative)))
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
