//! A partition as its readers see it: where its batches lie, what of it is visible, which ranges were aborted.
//!
//! One shard writes it ([`super::shard`]); anybody reads. Nothing becomes visible here before it is durable.

mod view;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::Notify;

pub(super) use self::view::{BatchPlace, Cold, Compaction, Forgotten, Plan, View};
use super::config::PartitionConfig;
use super::epochs;
use super::recovery::Damage;
use crate::record::{LeaderEpoch, Offset, TopicPartition};
use crate::{Bounds, Error};

/// Records of `producer_id` in `first..=last` are void; `last` is the marker's offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Aborted {
    pub producer_id: i64,
    pub first: Offset,
    pub last: Offset,
}

/// See the module.
pub(crate) struct Partition {
    pub id: TopicPartition,
    pub epoch: LeaderEpoch,
    /// It has lost something: nothing of it is served or taken.
    damage: Option<Damage>,
    view: RwLock<View>,
    config: Mutex<PartitionConfig>,
    last_stable: AtomicI64,
    /// Where the next record goes; ahead of the high watermark while batches are on their way to the disk.
    end: AtomicI64,
    closed: AtomicBool,
    moved: Notify,
    holds: Mutex<BTreeMap<u64, HeldFrom>>,
    hold_next: AtomicU64,
    /// Something has changed that its writer does not know of, since the last checkpoint.
    touched: AtomicBool,
}

struct HeldFrom {
    owner: String,
    from: Offset,
}

impl Partition {
    pub(super) fn new(id: TopicPartition, epoch: LeaderEpoch, config: PartitionConfig, view: View) -> Partition {
        Partition {
            id,
            epoch,
            damage: None,
            last_stable: AtomicI64::new(view.high_watermark.0),
            end: AtomicI64::new(view.high_watermark.0),
            view: RwLock::new(view),
            config: Mutex::new(config),
            closed: AtomicBool::new(false),
            moved: Notify::new(),
            holds: Mutex::new(BTreeMap::new()),
            hold_next: AtomicU64::new(0),
            touched: AtomicBool::new(false),
        }
    }

    pub(super) fn read_view(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write_view(&self) -> RwLockWriteGuard<'_, View> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// As one that has lost something.
    pub(super) fn fenced(self, damage: Option<Damage>) -> Partition {
        Partition { damage, ..self }
    }

    pub(super) fn damage(&self) -> Option<&Damage> {
        self.damage.as_ref()
    }

    /// An error when it is fenced.
    pub fn check(&self) -> Result<(), Error> {
        self.damage.as_ref().map_or(Ok(()), |damage| Err(damage.error()))
    }

    pub fn config(&self) -> PartitionConfig {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn configure(&self, config: PartitionConfig) {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
    }

    /// The largest leader epoch that is not above `asked`, and where it ended, see [`epochs::end_of`]. The present one
    /// ends at the high watermark; `None` when `asked` is above it.
    pub fn epoch_end(&self, asked: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let view = self.read_view();
        match asked.cmp(&self.epoch) {
            std::cmp::Ordering::Less => Some(epochs::end_of(&view.epochs, asked, view.start, view.high_watermark)),
            std::cmp::Ordering::Equal => Some((asked, view.high_watermark)),
            std::cmp::Ordering::Greater => None,
        }
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

    /// Wakes when a bound has moved or the partition is gone.
    pub fn moved(&self) -> &Notify {
        &self.moved
    }

    pub(super) fn wake_readers(&self) {
        self.moved.notify_waiters();
    }

    /// The next checkpoint has to say anew where it stands.
    pub(super) fn touch(&self) {
        self.touched.store(true, Ordering::Release);
    }

    pub(super) fn is_touched(&self) -> bool {
        self.touched.load(Ordering::Acquire)
    }

    pub(super) fn forget_touched(&self) {
        self.touched.store(false, Ordering::Release);
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

    /// Where the lowest hold begins.
    pub(super) fn held_from(&self) -> Offset {
        self.lock_holds().values().map(|hold| hold.from).min().unwrap_or(Offset(i64::MAX))
    }

    /// Changes the view while no hold on anything below `end` can begin; none when there is one.
    pub(super) fn unless_held<T>(&self, end: Offset, change: impl FnOnce(&mut View) -> T) -> Option<T> {
        let holds = self.lock_holds();
        let free = holds.values().all(|hold| hold.from >= end);
        free.then(|| change(&mut self.write_view()))
    }

    fn lock_holds(&self) -> MutexGuard<'_, BTreeMap<u64, HeldFrom>> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
