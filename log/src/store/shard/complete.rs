//! What a shard does when the log says how far its items have come: batches become visible and are acknowledged.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use tokio::sync::oneshot;

use super::{Pending, Shard, When};
use crate::record::{Batch, Offset, TopicPartition};
use crate::store::checkpoint::Captured;
use crate::store::flush::Unflushed;
use crate::store::owned::Slot;
use crate::store::partition::{BatchPlace, Partition};
use crate::store::wal::{Run, Stage};
use crate::{Appended, Error};

impl Shard {
    pub(super) fn complete(&mut self, runs: &[Run]) {
        // One after the other: a capture that the first lets go must not see what the next shows and is not durable.
        for run in runs {
            match run.stage {
                Stage::Written => self.written(*run),
                Stage::Durable => self.durable(*run),
            }
        }
    }

    /// The oldest pending items are written: those that need no more are shown and acknowledged.
    fn written(&mut self, run: Run) {
        let mut moved: BTreeMap<TopicPartition, Offset> = BTreeMap::new();
        let mut hot = Vec::new();
        let mut answers = Vec::new();
        for pending in self.pending.iter_mut().take(run.items) {
            let Pending::Batch { partition, batch, slot, append_time_ms, durable, when, .. } = pending else {
                continue;
            };
            if *when != When::Written || partition.read_view().high_watermark != batch.base_offset() {
                continue;
            }
            let (base_offset, Some(next)) = show(partition, batch, slot.place(run.file)) else { continue };
            *when = When::Shown;
            moved.insert(partition.id, next);
            hot.push((Arc::downgrade(partition), next, batch.size()));
            answers.extend(durable.take().map(|done| (done, Arc::clone(partition), base_offset, *append_time_ms)));
        }
        self.publish(moved, hot, answers);
    }

    /// The oldest pending items are durable.
    fn durable(&mut self, run: Run) {
        let mut moved: BTreeMap<TopicPartition, Offset> = BTreeMap::new();
        let mut hot = Vec::new();
        let mut unflushed = Vec::new();
        let mut answers = Vec::new();
        for _ in 0..run.items {
            self.completed += 1;
            match self.pending.pop_front().expect("the log completes what was queued") {
                Pending::Batch { partition, batch, slot, append_time_ms, permit, durable, when } => {
                    let (base_offset, next) = match when {
                        When::Shown => (batch.base_offset(), Some(batch.next_offset())),
                        When::Durable | When::Written => show(&partition, &batch, slot.place(run.file)),
                    };
                    if let Some(next) = next {
                        if when != When::Shown {
                            moved.insert(partition.id, next);
                            hot.push((Arc::downgrade(&partition), next, batch.size()));
                        }
                        let Slot { segment, position, producers, .. } = slot;
                        let partition = Arc::clone(&partition);
                        unflushed.push(Unflushed { partition, batch, segment, position, producers });
                    }
                    drop(permit);
                    answers.extend(durable.map(|durable| (durable, partition, base_offset, append_time_ms)));
                }
                Pending::Trim { partition, start, done } => {
                    let mut view = partition.write_view();
                    view.trim(start);
                    let start = view.start;
                    drop(view);
                    partition.wake_readers();
                    drop(done.send(Ok(start)));
                }
                Pending::Deleted { partition } => self.shared.flush.remove(partition),
                Pending::Copied { partition, segment, done } => {
                    if let Some(owned) = self.owned.get(&partition) {
                        owned.partition.write_view().set_wal_file(segment, run.file);
                    }
                    let _ = done.map(|done| done.send(()));
                }
            }
        }
        self.shared.flush.push(unflushed);
        self.publish(moved, hot, answers);
        self.answer_repeated();
        self.answer_captures();
    }

    /// Readers see what has moved, and then writers hear of it.
    fn publish(
        &self,
        moved: BTreeMap<TopicPartition, Offset>,
        hot: Vec<(Weak<Partition>, Offset, usize)>,
        answers: Vec<Answer>,
    ) {
        let moved: Vec<(TopicPartition, Offset)> = moved.into_iter().collect();
        self.shared.stable.advance(&moved);
        self.shared.tail.added(hot.into_iter());
        for (done, partition, base_offset, log_append_time_ms) in answers {
            let log_start = partition.read_view().start;
            drop(done.send(Ok(Appended { base_offset, log_append_time_ms, log_start })));
        }
    }

    pub(super) fn answer_captures(&mut self) {
        while let Some(capture) = self.capturing.pop_front_if(|capture| capture.after <= self.completed) {
            let records = capture.standing.iter().map(|standing| (standing.partition.id, standing.encode())).collect();
            // Whoever asked may be gone: the log has stopped.
            let _ = capture.done.send(Captured { records, removed: capture.removed });
        }
    }

    /// What stands before a repeated batch may all be able to wait: now somebody needs it.
    pub(super) fn need_queued(&mut self) {
        if self.repeated.is_empty() {
            return;
        }
        if self.outgoing.is_empty() {
            self.shared.wal.wake();
        } else {
            self.lazy = false;
        }
    }

    pub(super) fn answer_repeated(&mut self) {
        while let Some(repeated) = self.repeated.pop_front_if(|repeated| repeated.after <= self.completed) {
            let log_start = repeated.partition.read_view().start;
            let base_offset = repeated.base_offset;
            drop(repeated.durable.send(Ok(Appended { base_offset, log_append_time_ms: None, log_start })));
        }
    }
}

/// Who waits, for what place, and when the broker says it was appended.
type Answer = (oneshot::Sender<Result<Appended, Error>>, Arc<Partition>, Offset, Option<i64>);

/// Makes a batch visible; returns its offset and the one behind it, none when the partition is gone.
fn show(partition: &Arc<Partition>, batch: &Batch, place: BatchPlace) -> (Offset, Option<Offset>) {
    let (base, next) = (batch.base_offset(), batch.next_offset());
    let mut view = partition.write_view();
    if partition.is_closed() {
        // Its topic was deleted meanwhile; whoever closes takes away what is in the view, under this lock.
        return (base, None);
    }
    assert_eq!(view.high_watermark, base, "batches become durable in the order of their offsets");
    view.push(batch, &place);
    view.hot.push_back(batch.clone());
    (base, Some(next))
}
