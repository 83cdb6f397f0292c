//! Retention: records go by age or by size, a segment at a time, as far as holds and open transactions allow.

use std::sync::Arc;

use super::Store;
use super::config::PartitionConfig;
use super::partition::{Partition, View};
use crate::Error;
use crate::record::Offset;

impl Store {
    /// Moves the log starts that retention moves, and has the files of what is gone removed. Returns how many moved.
    pub async fn retain(&self, now_ms: i64) -> Result<usize, Error> {
        let mut moved = 0;
        for partition in self.shared.stable.partitions() {
            let config = partition.config();
            let due = partition.read_view().retained_from(&config, now_ms);
            let (limit, _) = partition.trim_limit();
            let start = due.min(limit);
            if start > partition.bounds().start {
                match self.trim(partition.id, start).await {
                    // It was deleted meanwhile.
                    Ok(_) | Err(Error::UnknownPartition(_)) => moved += 1,
                    Err(error) => return Err(error),
                }
            }
        }
        if self.shared.stable.partitions().iter().any(has_trimmed) {
            self.checkpoint().await?;
        }
        Ok(moved)
    }
}

fn has_trimmed(partition: &Arc<Partition>) -> bool {
    let view = partition.read_view();
    view.segments.first().is_some_and(|first| first.next <= view.start)
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
