//! What of a partition may be compacted, and whether it should be.
//!
//! ```text
//!  log start       first dirty                 end
//!     ├── clean ───────┼────────── dirty ───────┼── young, held, unstable or not in files ──┬── active ──
//! ```
//!
//! Whole segments only. The active one never counts, whatever lies in it.

use crate::record::Offset;
use crate::store::config::PartitionConfig;
use crate::store::partition::View;
use crate::store::segment::Segment;

/// What limits a pass beside the segments themselves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub now_ms: i64,
    pub last_stable: Offset,
    /// Somebody claims what is not below.
    pub held_from: Offset,
    /// Segments count that would be in their files if everything were written now.
    pub as_if_flushed: bool,
    /// Whether tombstones and markers that are due are reason enough.
    pub expiry: bool,
}

/// A partition that should be compacted. The most urgent is the largest.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    /// What may be replaced, from the log start on.
    pub(in crate::store) segments: Vec<Segment>,
    pub first_dirty: Offset,
    pub end: Offset,
    /// Dirty bytes of all, from 0 to 1; above that what has waited too long.
    pub urgency: f64,
}

/// Beyond every ratio.
const OVERDUE: f64 = 2.0;

/// What may be compacted of a partition.
struct Dirt<'a> {
    segments: &'a [Segment],
    first_dirty: Offset,
    end: Offset,
    /// Those behind the first so many are dirty.
    clean: usize,
    dirty_bytes: u64,
    /// Dirty bytes of all.
    ratio: f64,
}

impl View {
    /// None when nothing may be.
    fn dirt(&self, config: &PartitionConfig, limits: &Limits) -> Option<Dirt<'_>> {
        if !config.compact {
            return None;
        }
        let first = self.segments.partition_point(|segment| segment.next <= self.start);
        let sealed = self.segments.get(first..self.segments.len().saturating_sub(1))?;
        let first_dirty = self.compaction.cleaned.max(self.start);
        let count = sealed.iter().take_while(|segment| is_cleanable(segment, first_dirty, config, limits)).count();
        let segments = &sealed[..count];
        let end = segments.last()?.next;
        if end < first_dirty {
            return None;
        }
        let clean = segments.partition_point(|segment| segment.next <= first_dirty);
        let bytes = |segments: &[Segment]| segments.iter().map(|segment| u64::from(segment.size)).sum::<u64>();
        let (clean_bytes, dirty_bytes) = (bytes(&segments[..clean]), bytes(&segments[clean..]));
        let ratio = dirty_bytes as f64 / (clean_bytes + dirty_bytes).max(1) as f64;
        Some(Dirt { segments, first_dirty, end, clean, dirty_bytes, ratio })
    }

    /// Dirty bytes of all that may be compacted, from 0 to 1.
    pub(in crate::store) fn dirty_ratio(&self, config: &PartitionConfig, limits: &Limits) -> f64 {
        self.dirt(config, limits).map_or(0.0, |dirt| dirt.ratio)
    }

    /// None when there is nothing to do, or not enough.
    pub(in crate::store) fn compactable(&self, config: &PartitionConfig, limits: &Limits) -> Option<Work> {
        let Dirt { segments, first_dirty, end, clean, dirty_bytes, ratio } = self.dirt(config, limits)?;
        let since_ms = limits.now_ms.saturating_sub(config.max_compaction_lag_ms);
        let overdue = segments[clean..].iter().any(|segment| segment.created_ms < since_ms);
        let dirty_enough = dirty_bytes > 0 && ratio >= config.min_cleanable_dirty_ratio;
        let expired = limits.expiry && self.compaction.next_ms.is_some_and(|next_ms| next_ms <= limits.now_ms);
        if !overdue && !dirty_enough && !expired {
            return None;
        }
        let urgency = if overdue { OVERDUE + ratio } else { ratio };
        Some(Work { segments: segments.to_vec(), first_dirty, end, urgency })
    }
}

fn is_cleanable(segment: &Segment, first_dirty: Offset, config: &PartitionConfig, limits: &Limits) -> bool {
    let young_ms = limits.now_ms.saturating_sub(config.min_compaction_lag_ms);
    let young = config.min_compaction_lag_ms > 0 && segment.next > first_dirty && segment.max_timestamp_ms > young_ms;
    // Its files are whole: nobody writes to them any more.
    let in_files = limits.as_if_flushed || (segment.flushed == segment.size && segment.indexed);
    !young && in_files && segment.next <= limits.last_stable.min(limits.held_from)
}

/// Runs of neighbours that become one segment each: as many as fit into `segment_bytes`, at least one.
pub(in crate::store) fn grouped(segments: &[Segment], segment_bytes: u32) -> Vec<&[Segment]> {
    let mut groups = Vec::new();
    let mut rest = segments;
    while let Some(first) = rest.first() {
        let mut bytes = 0u64;
        let fits = |segment: &&Segment| {
            bytes += u64::from(segment.size);
            let relative = segment.next.0 - first.base.0;
            bytes <= u64::from(segment_bytes) && relative <= i64::from(i32::MAX)
        };
        let (group, behind) = rest.split_at(rest.iter().take_while(fits).count().max(1));
        groups.push(group);
        rest = behind;
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::partition::Compaction;

    const KIB: u32 = 1024;

    /// Segments of ten offsets each: (size, newest timestamp, created).
    fn view(segments: &[(u32, i64, i64)]) -> View {
        let mut view = View::default();
        for (at, &(size, max_timestamp_ms, created_ms)) in segments.iter().enumerate() {
            let base = Offset(at as i64 * 10);
            let (next, flushed) = (Offset(base.0 + 10), size);
            let new = Segment::new(base, created_ms, 1);
            view.segments.push(Segment { next, size, flushed, max_timestamp_ms, indexed: true, ..new });
            view.high_watermark = next;
        }
        view
    }

    fn config() -> PartitionConfig {
        PartitionConfig { compact: true, ..PartitionConfig::test() }
    }

    fn limits() -> Limits {
        let (last_stable, held_from) = (Offset(i64::MAX), Offset(i64::MAX));
        Limits { now_ms: 1000, last_stable, held_from, as_if_flushed: false, expiry: true }
    }

    /// First dirty and end.
    fn check(view: &View, config: &PartitionConfig, limits: &Limits, expect: Option<(i64, i64)>) {
        let work = view.compactable(config, limits);
        assert_eq!(work.map(|work| (work.first_dirty.0, work.end.0)), expect, "{view:?} {config:?} {limits:?}");
    }

    #[test]
    fn the_active_segment_the_held_the_unstable_and_the_young_stay() {
        let view = view(&[(KIB, 100, 0), (KIB, 200, 0), (KIB, 300, 0), (KIB, 400, 0)]);
        check(&view, &config(), &limits(), Some((0, 30)));
        check(&view, &PartitionConfig { compact: false, ..config() }, &limits(), None);
        check(&view, &config(), &Limits { held_from: Offset(29), ..limits() }, Some((0, 20)));
        check(&view, &config(), &Limits { last_stable: Offset(20), ..limits() }, Some((0, 20)));
        check(&view, &config(), &Limits { last_stable: Offset(9), ..limits() }, None);
        let lag = |min_compaction_lag_ms| PartitionConfig { min_compaction_lag_ms, ..config() };
        check(&view, &lag(800), &limits(), Some((0, 20)));
        check(&view, &lag(801), &limits(), Some((0, 10)));
        check(&view, &lag(901), &limits(), None);
    }

    #[test]
    fn what_is_not_in_files_waits() {
        let mut view = view(&[(KIB, 1, 0), (KIB, 1, 0), (KIB, 1, 0)]);
        view.segments[1].indexed = false;
        check(&view, &config(), &limits(), Some((0, 10)));
        check(&view, &config(), &Limits { as_if_flushed: true, ..limits() }, Some((0, 20)));
        view.segments[0].flushed = 1;
        check(&view, &config(), &limits(), None);
    }

    #[test]
    fn dirty_enough_or_waiting_for_too_long() {
        let mut view = view(&[(3 * KIB, 1, 0), (KIB, 1, 900), (KIB, 1, 0)]);
        view.compaction.cleaned = Offset(10);
        let with = |min_cleanable_dirty_ratio| PartitionConfig { min_cleanable_dirty_ratio, ..config() };
        check(&view, &with(0.26), &limits(), None);
        check(&view, &with(0.25), &limits(), Some((10, 20)));
        let lag = |max_compaction_lag_ms| PartitionConfig { max_compaction_lag_ms, ..config() };
        check(&view, &lag(100), &limits(), None);
        check(&view, &lag(99), &limits(), Some((10, 20)));
        // Nothing dirty is never dirty enough.
        view.compaction.cleaned = Offset(20);
        check(&view, &with(0.0), &limits(), None);
        check(&view, &lag(1), &limits(), None);
        // Trimmed away, or cleaned further than may be touched now.
        view.start = Offset(25);
        check(&view, &with(0.0), &limits(), None);
        view.start = Offset(0);
        view.compaction.next_ms = Some(1000);
        check(&view, &with(0.0), &limits(), Some((20, 20)));
        check(&view, &with(0.0), &Limits { now_ms: 999, ..limits() }, None);
        check(&view, &with(0.0), &Limits { expiry: false, ..limits() }, None);
        check(&view, &with(0.0), &Limits { held_from: Offset(10), ..limits() }, None);
    }

    #[test]
    fn segments_below_the_start_do_not_count() {
        let mut view = view(&[(KIB, 1, 0), (KIB, 1, 0), (KIB, 1, 0)]);
        view.start = Offset(12);
        view.compaction = Compaction { cleaned: Offset(3), ..Compaction::default() };
        check(&view, &config(), &limits(), Some((12, 20)));
        assert_eq!(view.compactable(&config(), &limits()).map(|work| work.segments.len()), Some(1));
    }

    #[test]
    fn neighbours_that_fit_become_one() {
        let bases = |bytes| {
            let view = view(&[(10, 1, 0), (10, 1, 0), (30, 1, 0), (5, 1, 0), (5, 1, 0)]);
            let groups = grouped(&view.segments, bytes);
            groups.iter().map(|group| group.iter().map(|segment| segment.base.0).collect()).collect::<Vec<Vec<_>>>()
        };
        assert_eq!(bases(20), [vec![0, 10], vec![20], vec![30, 40]]);
        assert_eq!(bases(9), [vec![0], vec![10], vec![20], vec![30], vec![40]]);
        assert_eq!(bases(60), [vec![0, 10, 20, 30, 40]]);
    }
}
