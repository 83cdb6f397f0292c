//! Retention: records go by age or by size, a segment at a time, as far as holds and open transactions allow.

use std::sync::Arc;

use super::Store;
use super::config::PartitionConfig;
use super::partition::{Partition, View};
use crate::Error;
use crate::record::Offset;

/// A partition of which something is to go, or has gone and is still on the disk.
struct Due {
    partition: Arc<Partition>,
    /// Where its log is to start.
    start: Offset,
    moves: bool,
    /// The newest file of the write-ahead log with something of the segments below.
    wal_file: u32,
}

impl Store {
    /// Moves the log starts that retention moves, and has the files of what is gone removed. Returns how many moved.
    ///
    /// Segments go when a checkpoint has passed all that the write-ahead log holds of them. Where nothing else is
    /// written that would be never: then the log begins another file for it.
    pub async fn retain(&self, now_ms: i64) -> Result<usize, Error> {
        let due: Vec<Due> = self.shared.stable.partitions().into_iter().filter_map(|p| due(p, now_ms)).collect();
        let Some(wal_file) = due.iter().map(|due| due.wal_file).max() else { return Ok(0) };
        let passed = wal_file < self.shared.files.newest();
        if !passed {
            self.shared.files.roll();
        }
        let moves = due.iter().filter(|due| due.moves).count();
        for due in &due {
            // The other file begins with what is written next.
            let again = moves == 0 && !passed;
            if due.moves || again {
                match self.move_start(due.partition.id, due.start, again).await {
                    // It was deleted meanwhile.
                    Ok(_) | Err(Error::UnknownPartition(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            if again {
                break;
            }
        }
        match self.checkpoint().await {
            // The next time will do.
            Err(Error::Busy(reason)) => tracing::debug!(reason, "what retention removes stays for now"),
            other => other?,
        }
        Ok(moves)
    }
}

/// None where nothing is to be done.
fn due(partition: Arc<Partition>, now_ms: i64) -> Option<Due> {
    let config = partition.config();
    let (limit, _) = partition.trim_limit();
    let (start, moves, wal_file) = {
        let view = partition.read_view();
        let start = view.retained_from(&config, now_ms).min(limit).max(view.start);
        (start, start > view.start, view.newest_wal_file_below(start))
    };
    // Without a whole segment below, nothing would go.
    wal_file.map(|wal_file| Due { partition, start, moves, wal_file })
}

impl View {
    /// Where the log starts when retention has done its work: segments whose newest record is too old go, and the oldest
    /// while the others alone are large enough.
    fn retained_from(&self, config: &PartitionConfig, now_ms: i64) -> Offset {
        let mut start = self.start;
        if !config.delete {
            return start;
        }
        let mut bytes: u64 = self.segments.iter().map(|segment| u64::from(segment.size)).sum();
        for (at, segment) in self.segments.iter().enumerate() {
            let old = config.retention_ms >= 0
                && segment.size > 0
                && segment.max_timestamp_ms < now_ms.saturating_sub(config.retention_ms);
            let active = at + 1 == self.segments.len();
            let rest = bytes - u64::from(segment.size);
            let more = config.retention_bytes >= 0 && !active && rest >= config.retention_bytes as u64;
            if !old && !more {
                break;
            }
            bytes = rest;
            start = start.max(segment.next);
        }
        start
    }

    /// The newest file of the write-ahead log with something of the segments that lie wholly below `start`; none where
    /// there are no such segments.
    fn newest_wal_file_below(&self, start: Offset) -> Option<u32> {
        self.segments.iter().take_while(|segment| segment.next <= start).map(|segment| segment.wal_file).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::segment::Segment;

    /// Segments of (offsets, bytes, newest timestamp).
    fn check(segments: &[(i64, u32, i64)], retention_ms: i64, retention_bytes: i64, expect: i64) {
        let mut view = View::default();
        for &(count, size, max_timestamp_ms) in segments {
            let base = view.high_watermark;
            let next = Offset(base.0 + count);
            view.segments.push(Segment { next, size, max_timestamp_ms, ..Segment::new(base, 0, 1) });
            view.high_watermark = next;
        }
        let config = PartitionConfig { retention_ms, retention_bytes, delete: true, ..PartitionConfig::test() };
        assert_eq!(view.retained_from(&config, 1000).0, expect, "{segments:?} {retention_ms} {retention_bytes}");
        let config = PartitionConfig { delete: false, ..config };
        assert_eq!(view.retained_from(&config, 1000).0, 0, "without the policy nothing goes");
    }

    #[test]
    fn the_old_and_the_much_go_from_the_front() {
        let three = [(10, 100, 500), (10, 100, 900), (10, 100, 990)];
        check(&three, -1, -1, 0);
        check(&three, 500, -1, 0);
        check(&three, 499, -1, 10);
        check(&three, 50, -1, 20);
        check(&three, 5, -1, 30);
        check(&three, -1, 300, 0);
        check(&three, -1, 200, 10);
        check(&three, -1, 150, 10);
        check(&three, -1, 0, 20);
        check(&three, 50, 200, 20);
        // A newer one in front keeps those behind it.
        check(&[(10, 100, 990), (10, 100, 500), (10, 100, 995)], 100, -1, 0);
    }
}
