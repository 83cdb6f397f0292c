//! The newest batches of all partitions in memory, under one budget, forgotten in the order they were written and not
//! before they are in their segment's file.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::partition::Partition;

/// What a batch in memory costs beside its bytes: header, handle, queue entries.
const OVERHEAD: usize = 160;

/// See the module.
pub(super) struct Tail {
    budget: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    bytes: usize,
    order: VecDeque<(Weak<Partition>, usize)>,
}

impl Tail {
    pub fn new(budget: usize) -> Tail {
        Tail { budget, inner: Mutex::default() }
    }

    /// These batches, in the order given, have become the newest in memory; the oldest go over the budget.
    pub fn added(&self, batches: impl Iterator<Item = (Weak<Partition>, usize)>) {
        {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            for (partition, size) in batches {
                inner.bytes += size + OVERHEAD;
                inner.order.push_back((partition, size + OVERHEAD));
            }
        }
        self.evict();
    }

    /// Forgets what is over the budget and in its file. To be called when something was written to files, too.
    pub fn evict(&self) {
        loop {
            let Some((partition, size)) = self.oldest() else { return };
            if let Some(partition) = partition.upgrade() {
                let mut view = partition.write_view();
                let flushed = view.flushed;
                match view.hot.front() {
                    // It is not in its file yet: everything stays until it is.
                    Some(oldest) if oldest.next_offset() > flushed => return self.put_back(&partition, size),
                    Some(_) => drop(view.hot.pop_front()),
                    // A trim or a deletion has taken it already.
                    None => {}
                }
            }
        }
    }

    /// Takes the oldest out of the order, when there is more than the budget.
    fn oldest(&self) -> Option<(Weak<Partition>, usize)> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.bytes <= self.budget {
            return None;
        }
        let oldest = inner.order.pop_front()?;
        inner.bytes -= oldest.1;
        Some(oldest)
    }

    fn put_back(&self, partition: &Arc<Partition>, size: usize) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.bytes += size;
        inner.order.push_front((Arc::downgrade(partition), size));
    }

    pub fn bytes(&self) -> usize {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }
}
