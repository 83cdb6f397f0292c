//! A partition with what only its writer knows: the next offset, the producers, and the place of the next batch.

use std::sync::Arc;

use super::checkpoint::Standing;
use super::config::PartitionConfig;
use super::partition::{Aborted, BatchPlace, Partition};
use super::producers::Producers;
use crate::record::{Batch, Offset, TopicPartition};

/// See the module.
pub(super) struct Owned {
    pub partition: Arc<Partition>,
    pub producers: Producers,
    pub end: Offset,
    pub config: PartitionConfig,
    pub active: Option<Active>,
    /// Aborted by a marker that has its place, and not published yet.
    pub aborted: Vec<Aborted>,
    /// Something has changed since the last checkpoint.
    pub touched: bool,
    /// How many entries its shard had queued with the last of this partition.
    pub queued: u64,
}

/// The segment that is being written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Active {
    pub base: Offset,
    pub size: u32,
    pub created_ms: i64,
}

/// Where a batch goes.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub segment: Offset,
    pub position: u32,
    pub created_ms: i64,
    pub index_interval: u32,
    /// Of the first batch of a segment: what was known of producers in front of it.
    pub producers: Option<Box<Producers>>,
}

impl Slot {
    pub fn place(&self, wal_file: u32) -> BatchPlace {
        BatchPlace {
            segment: self.segment,
            position: self.position,
            wal_file,
            created_ms: self.created_ms,
            index_interval: self.index_interval,
        }
    }
}

impl Owned {
    /// Takes a batch that has its offset: everything that follows builds on it. Returns its place.
    pub fn take(&mut self, batch: &Batch, now_ms: i64) -> Slot {
        let size = u32::try_from(batch.size()).expect("batches are smaller than a segment can be");
        let active = match self.active {
            Some(active) if !self.is_full(&active, batch, size, now_ms) => active,
            _ => Active { base: batch.base_offset(), size: 0, created_ms: now_ms },
        };
        let rolled = active.size == 0 && self.active.is_some();
        let producers = rolled.then(|| Box::new(self.producers.clone()));
        self.active = Some(Active { size: active.size + size, ..active });
        self.note_abort(batch);
        self.producers.apply(batch, now_ms);
        self.end = batch.next_offset();
        self.touched = true;
        Slot {
            segment: active.base,
            position: active.size,
            created_ms: active.created_ms,
            index_interval: self.config.index_interval_bytes,
            producers,
        }
    }

    fn is_full(&self, active: &Active, batch: &Batch, size: u32, now_ms: i64) -> bool {
        let bytes = u64::from(active.size) + u64::from(size);
        active.size > 0
            && (bytes > u64::from(self.config.segment_bytes)
                || batch.last_offset().0 - active.base.0 > i64::from(i32::MAX)
                || now_ms.saturating_sub(active.created_ms) >= age_ms_max(&self.config, self.partition.id, active.base))
    }

    /// The marker is published some time after it has its place; a checkpoint in between must know of it.
    fn note_abort(&mut self, batch: &Batch) {
        if batch.is_control()
            && let (Some(producer), Ok(Some(marker))) = (batch.producer(), batch.marker())
            && let (Some(first), false) = (self.producers.open(producer.id), marker.commit)
        {
            self.aborted.push(Aborted { producer_id: producer.id, first, last: batch.base_offset() });
        }
    }

    /// Whether the next checkpoint has to say anew where it stands.
    pub fn is_touched(&self) -> bool {
        self.touched || self.partition.is_touched()
    }

    /// Where the partition stands, but for what its readers know.
    pub fn standing(&mut self) -> Standing {
        let view = self.partition.read_view();
        // Those of which compaction has left nothing were published before.
        let from = view.start.max(view.compaction.swapped);
        self.aborted.retain(|aborted| aborted.last >= from && !view.aborted.contains(aborted));
        drop(view);
        Standing {
            partition: Arc::clone(&self.partition),
            end: self.end,
            producers: self.producers.clone(),
            unpublished: self.aborted.clone(),
        }
    }
}

/// How old the active segment may become: while it is one, nothing of it is compacted. The jitter of a segment is always
/// the same, and is spread as if it were drawn.
fn age_ms_max(config: &PartitionConfig, partition: TopicPartition, base: Offset) -> i64 {
    let PartitionConfig { segment_ms, segment_jitter_ms, compact, max_compaction_lag_ms, .. } = *config;
    let age_ms = if compact { segment_ms.min(max_compaction_lag_ms) } else { segment_ms };
    let jitter_ms = segment_jitter_ms.min(age_ms);
    if jitter_ms <= 0 {
        return age_ms;
    }
    let TopicPartition { topic, partition } = partition;
    let parts: [&[u8]; 3] = [&topic.0, &partition.to_le_bytes(), &base.0.to_le_bytes()];
    let drawn = xxhash_rust::xxh3::xxh3_64(&parts.concat());
    age_ms - (drawn % jitter_ms as u64) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::TopicId;

    /// The ages at which a thousand segments end.
    fn ages(config: PartitionConfig) -> Vec<i64> {
        let at = |number| TopicPartition { topic: TopicId([3; 16]), partition: number % 10 };
        (0..1000).map(|number| age_ms_max(&config, at(number), Offset(i64::from(number / 10)))).collect()
    }

    #[test]
    fn segments_end_each_at_a_time_of_its_own() {
        let config = |segment_ms, segment_jitter_ms| PartitionConfig {
            segment_ms,
            segment_jitter_ms,
            ..PartitionConfig::test()
        };
        assert!(ages(config(5000, 0)).iter().all(|age| *age == 5000));
        let spread = ages(config(5000, 1000));
        assert!(spread.iter().all(|age| (4001..=5000).contains(age)), "{spread:?}");
        for from in (4000..5000).step_by(100) {
            let count = spread.iter().filter(|age| (from + 1..=from + 100).contains(*age)).count();
            assert!((60..150).contains(&count), "{count} of 1000 end in the tenth from {from} on");
        }
        // Never before they begin.
        for config in [config(5000, i64::MAX), config(i64::MAX, i64::MAX), config(1, 1)] {
            assert!(ages(config).iter().all(|age| *age >= 1), "{config:?}");
        }
        let lag = PartitionConfig { compact: true, max_compaction_lag_ms: 50, ..config(5000, 1000) };
        assert!(ages(lag).iter().all(|age| (1..=50).contains(age)));
    }
}
