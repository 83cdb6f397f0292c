//! The newest batches of all partitions in memory, under one budget, forgotten in the order they were written.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError, Weak};

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
        let mut victims = Vec::new();
        {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            for (partition, size) in batches {
                inner.bytes += size + OVERHEAD;
                inner.order.push_back((partition, size + OVERHEAD));
            }
            while inner.bytes > self.budget {
                let Some((partition, size)) = inner.order.pop_front() else { break };
                inner.bytes -= size;
                victims.push(partition);
            }
        }
        for partition in victims.iter().filter_map(Weak::upgrade) {
            // A trim may have taken some of its batches already: then fewer are left than were counted, and one that is
            // younger goes early.
            partition.write_view().hot.pop_front();
        }
    }

    pub fn bytes(&self) -> usize {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }
}
