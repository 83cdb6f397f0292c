//! How batches come into the log: admitted while there is room for them, and queued for their shard.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::Store;
use super::session::Ticket;
use super::shard::{Append, How, Message};
use crate::record::{Batch, Offset, TopicPartition};
use crate::{Appended, Error};

/// What a batch costs in admission beside its bytes, so that small ones are bounded in number.
const BATCH_COST: usize = 256;

impl Store {
    /// Waits for room for a batch; bytes count until they are durable. Cancel safe.
    pub async fn admit(&self, partition: TopicPartition, bytes: usize) -> Result<OwnedSemaphorePermit, Error> {
        let shard = self.shard(partition);
        // A batch larger than all room goes alone.
        let cost = u32::try_from((bytes + BATCH_COST).min(shard.room_bytes)).expect("room is counted in u32");
        if let Ok(permit) = Arc::clone(&shard.room).try_acquire_many_owned(cost) {
            return Ok(permit);
        }
        let _waiting = Waiting::begin(&shard.waiters);
        self.wake();
        tokio::select! {
            biased;
            permit = Arc::clone(&shard.room).acquire_many_owned(cost) => permit.map_err(|_| self.closed()),
            () = self.shared.wal.stopped() => Err(self.closed()),
        }
    }

    /// Queues a plain batch; the receiver gets the outcome when it is durable.
    pub async fn append(
        &self,
        partition: TopicPartition,
        batch: Batch,
        expect: Option<Offset>,
    ) -> Result<oneshot::Receiver<Result<Appended, Error>>, Error> {
        // What a caller expects at an offset is the cluster's own, for which there is room in memory.
        if expect.is_none() && self.shared.flush.is_full() {
            return Err(Error::Busy("the disk is full"));
        }
        let permit = Some(self.admit(partition, batch.size()).await?);
        let (durable, outcome) = oneshot::channel();
        let how = expect.map_or(How::Plain, How::Expect);
        let append = Append { partition, batch, how, permit, placed: None, durable: Some(durable) };
        self.send(partition, Message::Append(Box::new(append))).await?;
        Ok(outcome)
    }

    /// Queues a batch of a session's transaction. Its fate is the session's to tell, also when this future is dropped.
    /// Waits while the disk is full.
    pub async fn append_in(&self, partition: TopicPartition, batch: Batch, ticket: Ticket) -> Result<(), Error> {
        tokio::select! {
            biased;
            () = self.shared.flush.not_full() => {}
            () = self.shared.wal.stopped() => return Err(self.closed()),
        }
        let permit = Some(self.admit(partition, batch.size()).await?);
        let how = How::Transactional(ticket);
        let append = Append { partition, batch, how, permit, placed: None, durable: None };
        self.send(partition, Message::Append(Box::new(append))).await
    }

    /// Queues a decision or marker of the coordinator. The first receiver hears when its place in the order is taken:
    /// whatever is queued afterwards becomes durable after it. It is not written before something else is, or somebody
    /// calls [`Store::wake`].
    pub async fn append_lazy(&self, partition: TopicPartition, batch: Batch) -> Result<Queued, Error> {
        let (placed, queued) = oneshot::channel();
        let (durable, outcome) = oneshot::channel();
        let (placed, durable) = (Some(placed), Some(durable));
        let append = Append { partition, batch, how: How::Lazy, permit: None, placed, durable };
        self.send(partition, Message::Append(Box::new(append))).await?;
        Ok(Queued { place: queued, durable: outcome })
    }

    /// Has everything written that has its place.
    pub fn wake(&self) {
        self.shared.wal.wake();
    }
}

/// What [`Store::append_lazy`] queued.
pub(crate) struct Queued {
    place: oneshot::Receiver<Offset>,
    durable: oneshot::Receiver<Result<Appended, Error>>,
}

impl Queued {
    /// Returns when the batch has its place, or was refused.
    pub async fn placed(&mut self) {
        // A refusal is told by `durable`.
        let _ = (&mut self.place).await;
    }

    /// Where it is, once it is durable.
    pub async fn durable(self, store: &Store) -> Result<Appended, Error> {
        self.durable.await.map_err(|_| store.closed())?
    }
}

/// Somebody waits for room, until this is dropped.
struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    fn begin(waiters: &Arc<AtomicUsize>) -> Waiting {
        waiters.fetch_add(1, Ordering::SeqCst);
        Waiting(Arc::clone(waiters))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
