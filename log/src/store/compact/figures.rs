//! What compaction has done since the start, for people to see.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Figures of compaction since the start. Times in microseconds, but for the clock's.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CompactionMetrics {
    pub passes: u64,
    /// Segments that others have taken the place of, or none.
    pub segments: u64,
    pub bytes_read: u64,
    pub bytes_written: u64,
    /// In all passes together.
    pub pass_us: u64,
    /// How long the last pass took.
    pub last_pass_us: u64,
    /// When it ended, in milliseconds since 1970; 0 where there was none.
    pub last_pass_ms: i64,
    /// The dirty part of the partition that has the most, at the last look: from 0 to 1.
    pub dirty_ratio_max: f64,
}

/// See [`CompactionMetrics`].
#[derive(Debug, Default)]
pub(in crate::store) struct Figures {
    passes: AtomicU64,
    segments: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    pass_us: AtomicU64,
    last_pass_us: AtomicU64,
    last_pass_ms: AtomicI64,
    /// The bits of a floating point number.
    dirty_ratio_max: AtomicU64,
}

impl Figures {
    pub fn read(&self, bytes: usize) {
        self.bytes_read.fetch_add(bytes as u64, Relaxed);
    }

    pub fn wrote(&self, bytes: usize) {
        self.bytes_written.fetch_add(bytes as u64, Relaxed);
    }

    pub fn replaced(&self, segments: usize) {
        self.segments.fetch_add(segments as u64, Relaxed);
    }

    pub fn passed(&self, took: Duration, now_ms: i64) {
        let us = took.as_micros() as u64;
        self.passes.fetch_add(1, Relaxed);
        self.pass_us.fetch_add(us, Relaxed);
        self.last_pass_us.store(us, Relaxed);
        self.last_pass_ms.store(now_ms, Relaxed);
    }

    pub fn found_dirty(&self, ratio_max: f64) {
        self.dirty_ratio_max.store(ratio_max.to_bits(), Relaxed);
    }

    pub fn metrics(&self) -> CompactionMetrics {
        CompactionMetrics {
            passes: self.passes.load(Relaxed),
            segments: self.segments.load(Relaxed),
            bytes_read: self.bytes_read.load(Relaxed),
            bytes_written: self.bytes_written.load(Relaxed),
            pass_us: self.pass_us.load(Relaxed),
            last_pass_us: self.last_pass_us.load(Relaxed),
            last_pass_ms: self.last_pass_ms.load(Relaxed),
            dirty_ratio_max: f64::from_bits(self.dirty_ratio_max.load(Relaxed)),
        }
    }
}
