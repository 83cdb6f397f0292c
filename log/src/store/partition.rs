//! A partition as its readers see it: where its batches lie, what of it is visible, which ranges were aborted.
//!
//! One shard writes it ([`super::shard`]); anybody reads. Nothing becomes visible here before it is durable.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::Notify;

use crate::record::{Batch, LeaderEpoch, Offset, TopicPartition};
use crate::{Bounds, Error};

/// Where the bytes of a batch lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub file: u32,
    /// Of the batch's first byte in the file.
    pub position: u32,
    pub len: u32,
}

/// One batch of a partition, 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub base: i64,
    pub max_timestamp_ms: i64,
    pub place: Place,
    /// Last offset minus base.
    pub delta: u32,
}

impl Entry {
    pub fn of(batch: &Batch, place: Place) -> Entry {
        let delta = u32::try_from(batch.last_offset().0 - batch.base_offset().0).expect("a checked batch counts up");
        Entry { base: batch.base_offset().0, max_timestamp_ms: batch.max_timestamp_ms(), place, delta }
    }

    /// The offset behind its last record.
    pub fn next(&self) -> i64 {
        self.base + i64::from(self.delta) + 1
    }
}

/// Records of `producer_id` in `first..=last` are void; `last` is the marker's offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Aborted {
    pub producer_id: i64,
    pub first: Offset,
    pub last: Offset,
}

/// See the module.
pub(crate) struct Partition {
    pub id: TopicPartition,
    pub epoch: LeaderEpoch,
    view: RwLock<View>,
    last_stable: AtomicI64,
    /// Where the next record goes; ahead of the high watermark while batches are on their way to the disk.
    end: AtomicI64,
    closed: AtomicBool,
    moved: Notify,
    holds: Mutex<BTreeMap<u64, HeldFrom>>,
    hold_next: AtomicU64,
}

struct HeldFrom {
    owner: String,
    from: Offset,
}

/// What is durable.
#[derive(Default)]
pub(super) struct View {
    pub start: Offset,
    pub high_watermark: Offset,
    /// By offset, without gaps from one to the next.
    pub index: VecDeque<Entry>,
    /// The batches of the last entries of the index, in memory.
    pub hot: VecDeque<Batch>,
    /// By first offset.
    pub aborted: Vec<Aborted>,
}

/// A batch to be read: in memory or where it lies.
#[derive(Clone, Debug)]
pub(super) enum Piece {
    Hot(Batch),
    Cold(Entry),
}

impl Piece {
    pub fn cold(&self) -> Option<Entry> {
        match self {
            Piece::Hot(_) => None,
            Piece::Cold(entry) => Some(*entry),
        }
    }
}

impl Partition {
    pub(super) fn new(id: TopicPartition, epoch: LeaderEpoch, view: View) -> Partition {
        Partition {
            id,
            epoch,
            last_stable: AtomicI64::new(view.high_watermark.0),
            end: AtomicI64::new(view.high_watermark.0),
            view: RwLock::new(view),
            closed: AtomicBool::new(false),
            moved: Notify::new(),
            holds: Mutex::new(BTreeMap::new()),
            hold_next: AtomicU64::new(0),
        }
    }

    pub(super) fn read_view(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write_view(&self) -> RwLockWriteGuard<'_, View> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn last_stable(&self) -> Offset {
        Offset(self.last_stable.load(Ordering::Acquire))
    }

    /// Only [`super::stable`] moves it.
    pub(super) fn set_last_stable(&self, offset: Offset) {
        self.last_stable.store(offset.0, Ordering::Release);
    }

    pub(super) fn set_end(&self, offset: Offset) {
        self.end.store(offset.0, Ordering::Release);
    }

    pub fn bounds(&self) -> Bounds {
        // The last stable offset before the view, so that it is never above the high watermark read after it.
        let last_stable = self.last_stable();
        let view = self.read_view();
        Bounds {
            start: view.start,
            last_stable: last_stable.max(view.start),
            high_watermark: view.high_watermark,
            end: Offset(self.end.load(Ordering::Acquire)).max(view.high_watermark),
            epoch: self.epoch,
        }
    }

    /// The aborted ranges that touch `from..end`, by first offset.
    pub fn read_aborted(&self, from: Offset, end: Offset) -> Vec<Aborted> {
        self.read_view().aborted_in(from, end)
    }

    /// The largest timestamp among the batches below `end`.
    pub fn timestamp_max(&self, end: Offset) -> Option<i64> {
        let view = self.read_view();
        view.index.iter().take_while(|entry| entry.base < end.0).map(|entry| entry.max_timestamp_ms).max()
    }

    /// Where the first batch lies that ends behind `from`, begins below `end` and holds a timestamp at or above this:
    /// its base offset and the offset behind it.
    pub fn find_timestamp(&self, at_ms: i64, from: Offset, end: Offset) -> Option<(Offset, Offset)> {
        let view = self.read_view();
        let first = view.index.partition_point(|entry| entry.next() <= from.0);
        let mut below = view.index.iter().skip(first).take_while(|entry| entry.base < end.0);
        below.find(|entry| entry.max_timestamp_ms >= at_ms).map(|entry| (Offset(entry.base), Offset(entry.next())))
    }

    /// Wakes when a bound has moved or the partition is gone.
    pub fn moved(&self) -> &Notify {
        &self.moved
    }

    pub(super) fn wake_readers(&self) {
        self.moved.notify_waiters();
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.wake_readers();
    }

    /// A claim on the records from `from` on; the id is for [`Partition::move_hold`].
    pub fn hold(&self, owner: &str, from: Offset) -> u64 {
        let id = self.hold_next.fetch_add(1, Ordering::Relaxed);
        self.lock_holds().insert(id, HeldFrom { owner: owner.to_owned(), from });
        id
    }

    /// Moves a claim forward, or ends it.
    pub fn move_hold(&self, id: u64, to: Option<Offset>) {
        let mut holds = self.lock_holds();
        match (to, holds.get_mut(&id)) {
            (Some(to), Some(hold)) => hold.from = hold.from.max(to),
            (None, _) => drop(holds.remove(&id)),
            (Some(_), None) => {}
        }
    }

    /// How far the start may move: no hold and no open transaction stands below. With the owner that stops it.
    pub fn trim_limit(&self) -> (Offset, Option<String>) {
        let holds = self.lock_holds();
        let lowest = holds.values().min_by_key(|hold| hold.from);
        let stable = self.last_stable();
        match lowest {
            Some(hold) if hold.from < stable => (hold.from, Some(hold.owner.clone())),
            _ => (stable, None),
        }
    }

    fn lock_holds(&self) -> MutexGuard<'_, BTreeMap<u64, HeldFrom>> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl View {
    /// The batches from the one that holds `from` on, those that begin below `up_to`, about `bytes_max` bytes, at least
    /// one where there is one.
    pub fn pieces(&self, from: Offset, up_to: Offset, bytes_max: usize) -> Result<Vec<Piece>, Error> {
        if from < self.start || from > self.high_watermark {
            return Err(Error::OutOfRange { offset: from, start: self.start, end: self.high_watermark });
        }
        let first = self.index.partition_point(|entry| entry.next() <= from.0);
        let cold_end = self.index.len() - self.hot.len();
        let mut pieces = Vec::new();
        let mut bytes = 0usize;
        for (at, entry) in self.index.iter().enumerate().skip(first) {
            let size = entry.place.len as usize;
            if entry.base >= up_to.0 || (!pieces.is_empty() && bytes.saturating_add(size) > bytes_max) {
                break;
            }
            bytes = bytes.saturating_add(size);
            pieces.push(match at.checked_sub(cold_end) {
                Some(hot) => Piece::Hot(self.hot[hot].clone()),
                None => Piece::Cold(*entry),
            });
        }
        Ok(pieces)
    }

    pub fn insert_aborted(&mut self, aborted: Aborted) {
        let at = self.aborted.partition_point(|other| other.first <= aborted.first);
        self.aborted.insert(at, aborted);
    }

    /// The aborted ranges that touch `from..end`, by first offset.
    pub fn aborted_in(&self, from: Offset, end: Offset) -> Vec<Aborted> {
        let below = self.aborted.partition_point(|aborted| aborted.first < end);
        self.aborted[..below].iter().filter(|aborted| aborted.last >= from).copied().collect()
    }

    /// Moves the start; returns the entries that are wholly below it and now gone.
    pub fn trim(&mut self, start: Offset) -> Vec<Entry> {
        self.start = self.start.max(start).min(self.high_watermark);
        let gone = self.index.partition_point(|entry| entry.next() <= self.start.0);
        let cold = self.index.len() - self.hot.len();
        self.hot.drain(..gone.saturating_sub(cold));
        let start = self.start;
        self.aborted.retain(|aborted| aborted.last >= start);
        self.index.drain(..gone).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(batches: &[(i64, u32)]) -> View {
        let mut view = View::default();
        for &(base, count) in batches {
            let place = Place { file: 1, position: 0, len: 100 };
            view.index.push_back(Entry { base, max_timestamp_ms: 0, place, delta: count - 1 });
            view.high_watermark = Offset(base + i64::from(count));
        }
        view
    }

    fn bases(view: &View, from: i64, up_to: i64, bytes_max: usize) -> Result<Vec<i64>, String> {
        let pieces = view.pieces(Offset(from), Offset(up_to), bytes_max).map_err(|error| error.to_string())?;
        let base = |piece: &Piece| match piece {
            Piece::Cold(entry) => entry.base,
            Piece::Hot(batch) => batch.base_offset().0,
        };
        Ok(pieces.iter().map(base).collect())
    }

    #[test]
    fn pieces_are_whole_batches_and_at_least_one() {
        let view = view(&[(0, 10), (10, 5), (15, 1)]);
        assert_eq!(bases(&view, 0, 16, 1000), Ok(vec![0, 10, 15]));
        assert_eq!(bases(&view, 9, 16, 1000), Ok(vec![0, 10, 15]));
        assert_eq!(bases(&view, 10, 15, 1000), Ok(vec![10]));
        assert_eq!(bases(&view, 3, 16, 1), Ok(vec![0]));
        assert_eq!(bases(&view, 3, 16, 200), Ok(vec![0, 10]));
        assert_eq!(bases(&view, 16, 16, 1000), Ok(vec![]));
        assert!(bases(&view, 17, 17, 1000).is_err());
    }

    #[test]
    fn trim_keeps_the_batch_that_holds_the_start() {
        let mut view = view(&[(0, 10), (10, 5), (15, 1)]);
        assert_eq!(view.trim(Offset(12)).len(), 1);
        assert_eq!(view.start, Offset(12));
        assert_eq!(bases(&view, 12, 16, 1000), Ok(vec![10, 15]));
        assert!(bases(&view, 11, 16, 1000).is_err());
        assert_eq!(view.trim(Offset(5)).len(), 0);
        assert_eq!(view.trim(Offset(99)).len(), 2);
        assert_eq!(view.start, Offset(16));
    }

    #[test]
    fn aborted_ranges_stay_sorted_by_first_offset() {
        let mut view = view(&[(0, 100)]);
        for (producer_id, first, last) in [(1, 50, 60), (2, 10, 70), (3, 30, 31)] {
            view.insert_aborted(Aborted { producer_id, first: Offset(first), last: Offset(last) });
        }
        let ids =
            |from, end| view.aborted_in(Offset(from), Offset(end)).iter().map(|a| a.producer_id).collect::<Vec<_>>();
        assert_eq!(ids(0, 100), vec![2, 3, 1]);
        assert_eq!(ids(32, 50), vec![2]);
        assert_eq!(ids(71, 100), Vec::<i64>::new());
    }
}
