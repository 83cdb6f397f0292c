//! The newest batches of all partitions in memory, under one budget, forgotten in the order they were written and not
//! before they are in their segment's file.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

use super::partition::{Forgotten, Partition};
use crate::record::{Batch, Offset};

/// What a batch in memory costs beside its bytes: header, handle, queue entries.
const OVERHEAD: usize = 160;
/// Entries of batches that are in memory no more, beyond as many as there are of the others.
const STALE_MAX: usize = 1024;

/// See the module. Its lock is taken before a partition's view, never the other way round.
pub(super) struct Tail {
    budget: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Of what is in memory. Below 0 for a moment when it goes before it was counted.
    bytes: isize,
    batches: isize,
    /// Some may have left the memory already.
    order: VecDeque<Entry>,
}

struct Entry {
    partition: Weak<Partition>,
    /// The offset behind the batch.
    next: Offset,
    size: usize,
}

impl Entry {
    fn is_stale(&self) -> bool {
        let Some(partition) = self.partition.upgrade() else { return true };
        let oldest = partition.read_view().hot.front().map(Batch::next_offset);
        oldest.is_none_or(|oldest| oldest > self.next)
    }
}

impl Inner {
    fn count(&mut self, batches: isize, bytes: isize) {
        self.batches += batches;
        self.bytes += bytes + batches * OVERHEAD as isize;
    }
}

impl Tail {
    pub fn new(budget: usize) -> Tail {
        Tail { budget, inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These batches, by the offset behind each and its size and in the order given, have become the newest in memory;
    /// the oldest go over the budget.
    pub fn added(&self, batches: impl Iterator<Item = (Weak<Partition>, Offset, usize)>) {
        {
            let mut inner = self.lock();
            for (partition, next, size) in batches {
                inner.count(1, size as isize);
                inner.order.push_back(Entry { partition, next, size });
            }
        }
        self.evict();
    }

    /// Batches have left the memory by a trim, a deletion or compaction. Not to be called under a view's lock.
    pub fn forgotten(&self, Forgotten { batches, bytes }: Forgotten) {
        let mut inner = self.lock();
        inner.count(-(batches as isize), -(bytes as isize));
        // As many are looked at as have gone since the last time.
        if inner.order.len() > 2 * inner.batches.max(0) as usize + STALE_MAX {
            inner.order.retain(|entry| !entry.is_stale());
        }
        drop(inner);
        // What kept the others may be among them.
        self.evict();
    }

    /// Forgets what is over the budget and in its file. To be called when something was written to files, too.
    pub fn evict(&self) {
        let mut inner = self.lock();
        while inner.bytes > self.budget as isize {
            let Some(Entry { partition, next, size }) = inner.order.front() else { return };
            let (next, size) = (*next, *size as isize);
            if let Some(partition) = partition.upgrade() {
                let mut view = partition.write_view();
                let oldest = view.hot.front().map(Batch::next_offset);
                // Else it has left the memory already.
                if oldest == Some(next) {
                    if next > view.flushed {
                        // It is not in its file yet: everything stays until it is.
                        return;
                    }
                    view.hot.pop_front();
                    drop(view);
                    inner.count(-1, -size);
                }
            }
            inner.order.pop_front();
        }
    }

    pub fn bytes(&self) -> usize {
        self.lock().bytes.max(0) as usize
    }
}

/// What all partitions have in memory, counted one by one.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct InMemory {
    /// As the tail counts them.
    pub bytes: usize,
    /// Batches that are not in their files.
    pub unflushed: usize,
}

#[cfg(test)]
impl super::Store {
    pub fn in_memory(&self) -> InMemory {
        let mut all = InMemory::default();
        for partition in self.shared.stable.partitions() {
            let view = partition.read_view();
            all.bytes += view.hot.iter().map(cost).sum::<usize>();
            all.unflushed += view.hot.iter().filter(|batch| batch.next_offset() > view.flushed).count();
        }
        all
    }
}

#[cfg(test)]
fn cost(batch: &Batch) -> usize {
    batch.size() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::record::build::Frame;
    use crate::record::{LeaderEpoch, NewRecord, TopicId, TopicPartition};
    use crate::store::config::PartitionConfig;
    use crate::store::partition::View;

    const PARTITIONS: usize = 3;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Add {
            partition: usize,
            bytes: usize,
        },
        /// What is in memory is in its file.
        Flush {
            partition: usize,
        },
        /// The oldest so many leave the memory: trimmed, compacted or deleted.
        Forget {
            partition: usize,
            count: usize,
        },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            5 => (0..PARTITIONS, 0..300usize).prop_map(|(partition, bytes)| Step::Add { partition, bytes }),
            2 => (0..PARTITIONS).prop_map(|partition| Step::Flush { partition }),
            2 => (0..PARTITIONS, 1..6usize).prop_map(|(partition, count)| Step::Forget { partition, count }),
        ]
    }

    fn batch(base: i64, bytes: usize) -> Batch {
        let frame = Frame { now_ms: 0, producer: None, transactional: false, batch_bytes_max: 1 << 20 };
        let record = NewRecord { value: Some(vec![0; bytes].into()), ..NewRecord::default() };
        let mut batch = Batch::build(&[record], &frame).unwrap();
        batch.place(Offset(base), LeaderEpoch(1));
        batch
    }

    fn partition(number: usize) -> Arc<Partition> {
        let id = TopicPartition { topic: TopicId([7; 16]), partition: number as i32 };
        Arc::new(Partition::new(id, LeaderEpoch(1), PartitionConfig::test(), View::default()))
    }

    /// In the naive model, too: the batches of all partitions in the order they came.
    type Model = Vec<(usize, i64, usize)>;

    fn check(partitions: &[Arc<Partition>], tail: &Tail, model: &Model) -> Result<(), TestCaseError> {
        let mut bytes = 0;
        for (number, partition) in partitions.iter().enumerate() {
            let there: Vec<i64> = partition.read_view().hot.iter().map(|batch| batch.next_offset().0).collect();
            let expect: Vec<i64> = model.iter().filter(|(of, ..)| *of == number).map(|(_, next, _)| *next).collect();
            prop_assert_eq!(there, expect, "partition {}", number);
            bytes += partition.read_view().hot.iter().map(cost).sum::<usize>();
        }
        prop_assert_eq!(tail.bytes(), bytes);
        let (order, batches) = (tail.lock().order.len(), model.len());
        prop_assert!(order <= 2 * batches + STALE_MAX + PARTITIONS * 6, "{} entries of {} batches", order, batches);
        Ok(())
    }

    fn run(steps: &[Step], budget: usize) -> Result<(), TestCaseError> {
        let partitions: Vec<_> = (0..PARTITIONS).map(partition).collect();
        let tail = Tail::new(budget);
        let (mut model, mut next, mut flushed) = (Model::new(), [0; PARTITIONS], [0; PARTITIONS]);
        for step in steps {
            match *step {
                Step::Add { partition, bytes } => {
                    let batch = batch(next[partition], bytes);
                    next[partition] += 1;
                    model.push((partition, next[partition], cost(&batch)));
                    let weak = Arc::downgrade(&partitions[partition]);
                    let entry = (weak, batch.next_offset(), batch.size());
                    partitions[partition].write_view().hot.push_back(batch);
                    tail.added([entry].into_iter());
                }
                Step::Flush { partition } => {
                    flushed[partition] = next[partition];
                    partitions[partition].write_view().flushed = Offset(flushed[partition]);
                    tail.evict();
                }
                Step::Forget { partition, count } => {
                    let of = |entry: &(usize, i64, usize)| entry.0 == partition;
                    let end = model.iter().filter(|entry| of(entry)).nth(count - 1).map_or(i64::MAX, |entry| entry.1);
                    model.retain(|entry| !of(entry) || entry.1 > end);
                    let goes = |batch: &Batch| batch.next_offset().0 <= end;
                    let forgotten = partitions[partition].write_view().forget_hot(goes);
                    tail.forgotten(forgotten);
                }
            }
            // The oldest go over the budget, up to the first that is not in its file.
            while model.iter().map(|entry| entry.2).sum::<usize>() > budget && model[0].1 <= flushed[model[0].0] {
                model.remove(0);
            }
            check(&partitions, &tail, &model)?;
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_counts_what_is_in_memory_and_forgets_the_oldest(
            steps in prop::collection::vec(step(), 1..150),
            budget in 0usize..6000,
        ) {
            run(&steps, budget)?;
        }
    }

    #[test]
    fn what_has_left_the_memory_leaves_the_order() {
        let steps = |count: usize| {
            let add = Step::Add { partition: 1, bytes: 0 };
            [add, Step::Forget { partition: 1, count: 1 }].into_iter().cycle().take(2 * count)
        };
        let one = Step::Add { partition: 0, bytes: 0 };
        let all: Vec<Step> = [one].into_iter().chain(steps(10 * STALE_MAX)).collect();
        run(&all, usize::MAX / 4).unwrap();
    }
}
