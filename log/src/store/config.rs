//! What the topic's configuration asks of one partition: [`PartitionConfig`], which may change while it is open.
//!
//! The table of options and their defaults stands in `cluster`, which makes one of these from it.

/// Times in milliseconds, sizes in bytes; a retention below 0: no limit.
#[allow(dead_code, reason = "compaction and flushing are to come; they read the rest")]
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct PartitionConfig {
    /// Batches get the broker's time instead of their producer's.
    pub log_append_time: bool,
    /// A segment ends at about this size.
    pub segment_bytes: u32,
    /// A segment ends after this time.
    pub segment_ms: i64,
    /// Or up to so much earlier, each at a time of its own.
    pub segment_jitter_ms: i64,
    pub index_interval_bytes: u32,
    pub retention_ms: i64,
    pub retention_bytes: i64,
    /// Retention and requests may delete records.
    pub delete: bool,
    /// Only the last record of each key is kept.
    pub compact: bool,
    /// Tombstones and markers are kept so long for readers to see.
    pub delete_retention_ms: i64,
    pub min_compaction_lag_ms: i64,
    pub max_compaction_lag_ms: i64,
    /// Between 0 and 1.
    pub min_cleanable_dirty_ratio: f64,
    /// Acknowledged after the write, not after the sync.
    pub flush_os: bool,
}

#[cfg(test)]
impl PartitionConfig {
    /// What a topic without options has.
    pub fn test() -> PartitionConfig {
        PartitionConfig {
            log_append_time: false,
            segment_bytes: 1 << 30,
            segment_ms: 604_800_000,
            segment_jitter_ms: 0,
            index_interval_bytes: 4096,
            retention_ms: 604_800_000,
            retention_bytes: -1,
            delete: true,
            compact: false,
            delete_retention_ms: 86_400_000,
            min_compaction_lag_ms: 0,
            max_compaction_lag_ms: i64::MAX,
            min_cleanable_dirty_ratio: 0.5,
            flush_os: false,
        }
    }
}
