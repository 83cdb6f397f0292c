//! The partitions while the log's entries are applied to them, in memory alone: for recovery, and for whoever looks at a
//! data directory from outside, who must see the same.

use std::collections::BTreeMap;

use super::{Damage, INDEX_INTERVAL, Replayed};
use crate::record::{Batch, Offset, TopicPartition};
use crate::store::partition::{Aborted, BatchPlace};
use crate::store::wal::files::Files;
use crate::store::wal::scan::Entry;

/// See the module.
pub(in crate::store) struct Applied<'a> {
    pub files: &'a Files,
    pub now_ms: i64,
    pub partitions: BTreeMap<TopicPartition, Replayed>,
    /// Partitions with entries that do not follow on: the first such, and which file of the log holds it.
    pub broken: BTreeMap<TopicPartition, (u32, Damage)>,
}

impl Applied<'_> {
    /// Takes an entry's batch; whether its bytes are its segment's. Behind one that cannot stand where it says nothing
    /// of the partition counts.
    pub fn batch(&mut self, entry: &Entry) -> bool {
        match self.try_batch(entry) {
            Ok(is_there) => is_there,
            Err(why) => {
                let id = entry.header.partition;
                let place = format!("{} at byte {}", self.files.path(entry.file).display(), entry.at);
                let damage = Damage { place, detail: format!("an entry of partition {id:?}: {why}") };
                self.broken.entry(id).or_insert((entry.file, damage));
                false
            }
        }
    }

    fn try_batch(&mut self, Entry { file, header, payload, .. }: &Entry) -> Result<bool, String> {
        let id = header.partition;
        let batch = match Batch::split_from(&mut payload.clone()) {
            // Neither stands in the batch's own checksum.
            Ok(Some(batch)) if (batch.base_offset(), batch.leader_epoch()) == (header.base_offset, header.epoch) => {
                batch
            }
            Ok(_) => return Err("the batch is not the one its entry names".to_owned()),
            Err(error) => return Err(error.to_string()),
        };
        let damaged = self.partitions.get(&id).is_some_and(|partition| partition.damage.is_some());
        if damaged || self.broken.contains_key(&id) {
            return Ok(false);
        }
        let place = BatchPlace {
            segment: header.segment,
            position: header.position,
            wal_file: *file,
            created_ms: batch.max_timestamp_ms().min(self.now_ms),
            index_interval: INDEX_INTERVAL,
        };
        // Of a partition that is deleted further on the checkpoint may know nothing any more: then this does not last.
        let placed = self.partitions.entry(id).or_default().batch(&batch, &place, self.now_ms);
        placed.map_err(|why| format!("the batch cannot stand there: {why}"))
    }

    pub fn log_start(&mut self, id: TopicPartition, start: Offset) {
        let partition = self.partitions.entry(id).or_default();
        partition.touched = true;
        partition.view.trim(start);
    }

    pub fn deleted(&mut self, id: TopicPartition) {
        self.partitions.remove(&id);
        self.broken.remove(&id);
    }

    /// All entries were applied: what is broken is fenced.
    pub fn finish(mut self) -> BTreeMap<TopicPartition, Replayed> {
        for (id, (_, damage)) in self.broken {
            self.partitions.entry(id).or_default().damage = Some(damage);
        }
        self.partitions
    }
}

impl Replayed {
    /// Takes an entry's batch, and says whether its bytes are its file's: not where that was compacted. An error says why
    /// it cannot stand there.
    fn batch(&mut self, batch: &Batch, place: &BatchPlace, now_ms: i64) -> Result<bool, String> {
        let base = batch.base_offset();
        if batch.next_offset() <= self.view.compaction.swapped {
            return Ok(false);
        }
        if batch.next_offset() <= self.view.start && !self.view.segments.iter().any(|s| s.base == place.segment) {
            // Its file is gone.
            return Ok(false);
        }
        self.check_place(batch, place)?;
        if batch.next_offset() <= self.view.start {
            return Ok(true);
        }
        self.touched = true;
        if base >= self.known {
            if batch.is_control()
                && let (Some(producer), Ok(Some(marker))) = (batch.producer(), batch.marker())
                && let (Some(first), false) = (self.producers.open(producer.id), marker.commit)
            {
                // The checkpoint may know of it.
                if !self.view.aborted.iter().any(|aborted| aborted.last == base) {
                    self.view.insert_aborted(Aborted { producer_id: producer.id, first, last: base });
                }
            }
            self.producers.apply(batch, now_ms);
            self.known = batch.next_offset();
        }
        self.view.push(batch, place);
        Ok(true)
    }

    /// An error when the batch stands neither at the end of what there is nor within it.
    fn check_place(&self, batch: &Batch, place: &BatchPlace) -> Result<(), String> {
        let (base, end) = (batch.base_offset(), self.view.high_watermark);
        let segment = self.view.segments.iter().rev().find(|segment| segment.base <= place.segment);
        let size = segment.filter(|segment| segment.base == place.segment).map_or(0, |segment| segment.size);
        if place.position > size || (place.position == size && base < end) {
            return Err(format!("it begins at byte {} of a segment of {size} bytes", place.position));
        }
        let behind = u64::from(place.position) + batch.size() as u64;
        if place.position < size {
            // Written a second time.
            let inside = behind <= u64::from(size) && batch.next_offset() <= end;
            return if inside { Ok(()) } else { Err(format!("it ends behind a segment of {size} bytes")) };
        }
        if base > end {
            return Err(format!("offsets {end:?}..{base:?} are missing"));
        }
        if self.view.segments.last().is_some_and(|last| last.base > place.segment) {
            return Err("its segment is not the last one".to_owned());
        }
        if size == 0 && place.segment > base {
            return Err(format!("it would begin a segment of {:?}", place.segment));
        }
        let relative = batch.last_offset().0 - place.segment.0;
        if behind > u64::from(u32::MAX) || (size > 0 && relative > i64::from(i32::MAX)) {
            return Err("it reaches beyond the largest segment".to_owned());
        }
        Ok(())
    }
}
